"""What the learners share: collect, pay, estimate advantages, update, and say how it goes.

Everything stays on the world's device. The noise of iteration k depends only on the seed and k, so
a learner that is restored goes on as if it had never stopped.
"""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents.actions import within_bounds
from rlgen.agents.evaluation import Episodes, evaluate
from rlgen.agents.flat_world import flattened
from rlgen.agents.learners.earnings import Batch, Earnings, Models
from rlgen.agents.learners.guard import Guard, first_not_finite
from rlgen.agents.learners.saving import SavedLearner, moved
from rlgen.agents.policy import ActorCritic, Policy
from rlgen.agents.progress import live_line
from rlgen.agents.rollout import Collector, Rollout
from rlgen.agents.transitions import flat
from rlgen.checkpoint import Configurable, Stateful, arguments_of, load_module_state
from rlgen.envs.world import World
from rlgen.generative import NonFiniteLoss
from rlgen.runs import Run
from rlgen.seeding import drawing_from, mix

Callback = Callable[[int, dict[str, float]], bool | None]


class Learner(Configurable, ABC):
    """Collects with its policy, and updates it.

    Args:
        world: what it lives in; observations in parts are made `flat`.
        model: policy and critic; None makes them for the world's spaces.
        reward_models: name -> a reward model, (model, weight), or a `Stream`.
        steps: of each copy in one iteration.
        discount: of the world's rewards.
        trace: lambda of generalised advantage estimation.
        world_weight: of the world's own rewards; 0 leaves them out.
        temperature: of the entropy that counts as a reward beside the world's; see `Earnings`.
        seed: of everything random here; the world has its own.
        normalise: divide the world's rewards by the running standard deviation of their returns.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        world: World,
        *,
        model: ActorCritic | None,
        reward_models: Models | None,
        steps: int,
        discount: float,
        trace: float,
        world_weight: float,
        temperature: float,
        seed: int,
        normalise: bool = False,
    ) -> None:
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        self.given_world, self.world = world, flattened(world)
        self.steps, self.seed = steps, seed
        self.earnings = Earnings(
            reward_models or {},
            discount=discount,
            trace=trace,
            world_weight=world_weight,
            temperature=temperature,
            normalise=normalise,
        )
        self.model = _model_for(self.world, model, 1 + len(self.earnings.streams), seed)
        self.model.to(world.device)
        self.guard = Guard(self.model)
        self.collector = Collector(self.world)
        self.episodes = Episodes(world.num_envs, world.device)
        self.iteration = 0
        self.total_steps = 0

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, float]:
        """Improve policy and critic on one batch."""

    def learn(
        self,
        total_timesteps: int,
        *,
        callback: Callback | None = None,
        progress: bool = True,
        run: Run | None = None,
        save_every: int | None = None,
    ) -> Self:
        """Go on for at least so many steps of the world, over all its copies.

        With a run directory it begins from the run's last checkpoint, if there is one, and ends
        where it would have ended: a program that makes the learner and calls this once may be
        killed at any moment and started again, with the same weights in the end.

        Args:
            total_timesteps: more steps, counted over all copies.
            callback: called as callback(total_steps, metrics) after each iteration; a true result
                stops.
            progress: show a live line on a terminal.
            run: where metrics and checkpoints go.
            save_every: steps between two checkpoints; None makes about twenty.
        """
        goal = self.total_steps + total_timesteps
        every = max(1, total_timesteps // 20) if save_every is None else save_every
        if every < 1:
            raise ValueError(f"'save_every' must be positive, got {save_every}")
        saved = 0 if run is None else run.resume(self)
        with live_line(goal, progress) as show:
            stop = False
            while self.total_steps < goal and not stop:
                metrics = self.iterate()
                show(self.total_steps, metrics)
                if run is not None:
                    run.log(self.total_steps, metrics)
                stop = callback is not None and bool(callback(self.total_steps, metrics))
                last = stop or self.total_steps >= goal
                if run is not None and (last or self.total_steps - saved >= every):
                    run.save(self.total_steps, self)
                    saved = self.total_steps
        return self

    def iterate(self) -> dict[str, float]:
        """Collect once and update once.

        Raises:
            NonFiniteLoss: the world, a reward model or the update gave a number that is not finite.
                Policy and critic have the weights from before; the optimiser begins afresh.
        """
        try:
            with drawing_from(mix(self.seed, self.iteration)):
                rollout = self.collector.collect(self.model, self.steps)
                _check(rollout)
                batch, paid = self.earnings.batch(rollout)
                metrics = self._update(batch)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{type(self).__name__} stopped after {self.total_steps} steps: {error}. Policy "
                "and critic have the weights from before that"
            ) from error
        self.iteration += 1
        self.total_steps += rollout.reward.numel()
        self.episodes.note(rollout)
        return {**self.episodes.metrics(), **paid, **metrics}

    def predict(self, obs: Tensor | Mapping[str, Any], *, deterministic: bool = True) -> Tensor:
        """Actions for observations, each the first of its episode."""
        return self.act(obs, deterministic=deterministic)[0]

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | Mapping[str, Any],
        state: Tensor | None = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Actions along episodes, for policies with a memory.

        Args:
            obs: a batch of observations.
            state: what `act` gave with the observations before these; None for the first ones.
            episode_start: which of `obs` begin an episode, as booleans with shape (B,).
            deterministic: the mode of the policy instead of a sample.

        Returns:
            The actions, and the state for the next call.
        """
        obs = flat(obs).to(self.world.device)
        state = self.model.initial_state(len(obs)) if state is None else state
        if episode_start is not None:
            state = state * ~episode_start.to(state.device)[:, None]
        pi, _, state = self.model.act(obs, state)
        action = pi.mode if deterministic else pi.sample()
        return within_bounds(action, self.world.action_space), state

    def evaluate(
        self,
        episodes: int = 100,
        *,
        world: World | None = None,
        deterministic: bool = True,
        seed: int = 2**20,
    ) -> dict[str, float]:
        """Means over whole episodes; learning goes on afterwards as if nothing had been.

        Args:
            episodes: how many; see `rlgen.agents.evaluation.evaluate` for what is returned.
            world: where; it is reset, so not the one that is learnt in. None takes a copy of that
                one, if it has a `state_dict`.
            deterministic: act by the mode of the policy instead of by a sample.
            seed: of the world and of the actions; copy i of a world draws from seed + i.
        """
        if world is None and isinstance(self.world, Stateful):
            world = copy.deepcopy(self.world)
        if world is None or world is self.given_world:
            raise ValueError(
                "give another 'world' to evaluate in: this learner's own is in use, and only one "
                "with a state_dict can be copied"
            )
        world = flattened(world)
        return evaluate(self.model, world, episodes, deterministic=deterministic, seed=seed)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything to a checkpoint in `folder`: a config.json and a safetensors file.

        The world and the reward models are there with their states, but not how to make them.

        Example:
            >>> import tempfile
            >>> from rlgen.agents import PPO
            >>> from rlgen.envs import FourRooms
            >>> agent = PPO(FourRooms(8, seed=0), steps=4).learn(64, progress=False)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     agent.save(folder)
            ...     again = PPO.load(folder, FourRooms(8, seed=0))
            >>> again.total_steps
            64
        """
        saved = SavedLearner.of(type(self).__name__, arguments_of(self), **self._uses)
        saved.state = self.state_dict()
        checkpoint.save(saved, folder)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        world: World,
        *,
        reward_models: Models | None = None,
    ) -> Self:
        """The learner that `save` wrote; it goes on as if it had never stopped.

        Args:
            folder: of the checkpoint.
            world: made with the same arguments; it takes on the state of the saved one. A world
                without a `state_dict` begins anew.
            reward_models: under the same names, made with the same arguments.
        """
        saved = checkpoint.load(folder)
        if not isinstance(saved, SavedLearner):
            raise ValueError(f"{str(folder)!r} holds a {type(saved).__name__}, not a learner")
        saved.check(cls.__name__, world.num_envs, tuple(reward_models or {}))
        made = cls(world, reward_models=reward_models, **saved.arguments)
        made.load_state_dict(saved.state)
        return made

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future, the world and the reward models included."""
        state = {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "earnings": self.earnings.state_dict(),
            "episodes": self.episodes.state_dict(),
        }
        return {**state, "iteration": self.iteration, "total_steps": self.total_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in a learner made with the same arguments."""
        load_module_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.collector.load_state_dict(state["collector"])
        # models place themselves; what is only counted goes where the world is
        rest = moved({k: state[k] for k in ("earnings", "episodes")}, self.world.device)
        self.earnings.load_state_dict(rest["earnings"])
        self.episodes.load_state_dict(rest["episodes"])
        self.iteration, self.total_steps = state["iteration"], state["total_steps"]

    @property
    def _uses(self) -> dict[str, Any]:
        """What has to be there again, by which a checkpoint knows that it fits."""
        return {"copies": self.world.num_envs, "streams": tuple(self.earnings.streams)}

    def _update(self, batch: Batch) -> dict[str, float]:
        self.guard.keep()
        metrics = self.update(batch)
        name = self.guard.wrong(metrics)
        if name is not None:
            self.guard.put_back()
            self.optimizer.state.clear()
            raise NonFiniteLoss(f"{name!r} is not finite; a lower lr may help")
        return metrics


def _check(rollout: Rollout) -> None:
    """What was earned, done and expected is finite; asked once, and more only if it is not."""
    seen = {
        "the world's reward": rollout.reward,
        "the log-probability of an action": rollout.log_prob,
        "the critic's value": rollout.values,
    }
    if first_not_finite(seen) is not None:
        name = first_not_finite({"the world's observation": rollout.obs, **seen})
        raise NonFiniteLoss(f"{name} is not finite")


def _model_for(world: World, model: ActorCritic | None, streams: int, seed: int) -> ActorCritic:
    """The one that was given, if it fits, or else two small networks."""
    if model is None:
        with drawing_from(mix(seed, 0, 1)):
            policy = Policy.of(world.observation_space, world.action_space)
            return ActorCritic(policy, streams=streams)
    outputs = model.critic.mlp[-1].out_features
    if outputs != streams:
        raise ValueError(
            f"'model' must have a value for the world and each reward model, {streams}, "
            f"got {outputs}"
        )
    return model

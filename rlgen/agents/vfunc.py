"""VFunc: a distribution over whole policies, that earn much and differ much.

Notation: z, the code of a policy, fixed for an episode; f, what the policy pi_z does at m states
S_H: its action probabilities there, under noise of a fixed amount.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rlgen.agents.anneal import Anneal
from rlgen.agents.evaluation import evaluate
from rlgen.agents.latent import Bare, Latent, LatentPolicy, drawn, for_each
from rlgen.agents.learners.earnings import Batch, Models
from rlgen.agents.learners.learner import Learner
from rlgen.agents.learners.ppo import PPO
from rlgen.agents.learners.reinforce import REINFORCE
from rlgen.agents.policies import Policies
from rlgen.agents.policy import ActorCritic
from rlgen.agents.reward_model import as_streams
from rlgen.agents.transitions import flat
from rlgen.agents.variety import (
    Between,
    Bound,
    Encoder,
    PolicyFunction,
    Replay,
    Variety,
)
from rlgen.envs.tabular import TabularGrid, check_choice
from rlgen.envs.world import World
from rlgen.generative.functions import Prior, StandardNormal
from rlgen.seeding import drawing_from, mix

Task = Literal["ppo", "reinforce"]
States = Literal["replay", "all"]
_TASKS: dict[str, type[PPO] | type[REINFORCE]] = {"ppo": PPO, "reinforce": REINFORCE}


class VFunc(Learner):
    """Policies pi_z for codes z ~ p(z): each gradient step is for the task and for their variety.

        maximise E over z of [return of pi_z] + entropy_weight (a lower bound of I(f; z))

    The gradient for the task is that of PPO or REINFORCE, in a world that shows z beside what is
    seen; z is drawn anew for each episode. Beside it, fresh z_1, ..., z_k ~ p(z) are asked what
    they do at m states of a replay buffer: f = pi_z(S_H) + noise. The bound of their information is

        discretise:  log k + E log softmax over z_1..z_k of score(f, z_j), at the z that made f
        maxent:      H(z) + E log q(z | f)

    and its gradient flows through f into the policy, and into the encoder. As the noise has a fixed
    amount, H(f|z) is a constant, and the same gradient ascends a bound of H(f).
    With an `entropy_weight` of 0 this is the learner of the task, and nothing else.

    It explores as Thompson sampling does: an episode, in training and by `act`, has one z from its
    first step to its last, and so follows one way to the end instead of wavering between several.

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106

    Args:
        world: what it lives in, with discrete or continuous actions.
        task: whose gradient earns the return, "ppo" or "reinforce".
        settings: arguments of that learner, such as {"lr": 1e-3, "discount": 0.95}.
        latent: numbers of z, where no `prior` is given.
        prior: p(z); StandardNormal(latent) unless given.
        entropy_weight: of the bound.
        bound: "discretise" or "maxent".
        encoder: how functions are compared: "likelihood", the exact one of the noise, or
            "similarity", learnt, which only score candidates; "difference" or "direct", which
            give a distribution over z. None takes the first, which over a prior of symbols gives
            the exact posterior, and else for maxent "difference".
        comparison: at which states: "replay" draws `points` of them from what was visited lately,
            "all" takes every cell of a world with a handful but for its goal, where nobody acts.
        points: m, for "replay".
        candidates: k, how many z at each gradient step.
        noise: standard deviation of the noise on f. A large one asks first for policies that differ
            in much, so an `Anneal` from large to small keeps more kinds of them.
        action_entropy: the task's own `entropy_weight`, of the policy's entropy at each step, if it
            is to change, instead of what `settings` say; an `Anneal` to 0 lets all ways be seen
            before any is settled on.
        capacity: of the replay buffer, in observations.
        hidden: widths of the policy's hidden layers.
        reward_models: name -> a reward model, (model, weight), or a `Stream`; they see the world's
            observations, flat and scaled, without z. A bonus for what is new lets all ways to a
            goal be found, where the first one would be the only one.
        seed: of everything random here; the world has its own.

    Example:
        >>> from rlgen.agents import VFunc
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(16, size=4, start=(0, 0), seed=0)
        >>> agent = VFunc(world, settings={"steps": 16}, seed=0).learn(256, progress=False)
        >>> agent.predict(world.reset(), z=agent.sample_policies(16).z).shape
        torch.Size([16])
        >>> agent.sample_policies(5).table(world).shape
        torch.Size([5, 16, 4])
    """

    def __init__(
        self,
        world: World,
        *,
        task: Task = "ppo",
        settings: Mapping[str, Any] | None = None,
        latent: int = 16,
        prior: Prior | None = None,
        entropy_weight: float = 0.02,
        bound: Bound = "discretise",
        encoder: Encoder | None = None,
        comparison: States = "replay",
        points: int = 16,
        candidates: int = 128,
        noise: float | Anneal = 0.4,
        action_entropy: Anneal | None = None,
        capacity: int = 8192,
        hidden: Sequence[int] = (64, 64),
        reward_models: Models | None = None,
        seed: int = 0,
    ) -> None:
        _check(task, comparison, entropy_weight)
        self.prior = StandardNormal(latent) if prior is None else prior
        self.latent_world = Latent(world, self.prior, seed=seed)
        with drawing_from(mix(seed, 0, 1)):
            policy = LatentPolicy.beside(self.latent_world, hidden=hidden)
            model = ActorCritic(policy, streams=1 + len(reward_models or {}))
            always = _views(world, self.latent_world) if comparison == "all" else None
            self.variety = Variety(
                PolicyFunction(policy, self.prior, world.action_space),
                bound=bound,
                encoder=encoder,
                points=points,
                candidates=candidates,
                noise=noise,
                replay=Replay(capacity, always),
            )
        model.encoder = self.variety.encoder  # learns, is kept and is saved with the policy
        streams = _without_z(reward_models, self.prior)
        shared: dict[str, Any] = {"model": model, "reward_models": streams, "seed": seed}
        self.task = _task(task, self.latent_world, settings or {}, shared)
        super().__init__(self.latent_world, **shared, **_rules(self.task))
        self.given_world, self.earnings = world, self.task.earnings
        self.optimizer = self.task.optimizer
        self.variety.functions.to(world.device)
        self.entropy_weight, self.action_entropy = entropy_weight, action_entropy
        self.known: list[Tensor] = []
        if entropy_weight > 0.0:
            self.task.beside = self._descended
        self._anneal()

    def iterate(self) -> dict[str, float]:
        metrics = super().iterate()
        self._anneal()
        return metrics

    def update(self, batch: Batch) -> dict[str, float]:
        seen = batch.rollout.obs.flatten(0, 1)
        self.variety.replay.note(seen[:, : -self.prior.width])
        self.known = []
        metrics = self.task.update(batch)
        if self.known:
            metrics["vfunc/information"] = float(torch.stack(self.known).mean())
        return metrics

    def predict(
        self,
        obs: Tensor | Mapping[str, Any],
        *,
        deterministic: bool = True,
        z: Tensor | None = None,
    ) -> Tensor:
        """Actions for observations, by the policies of these z, or of one drawn for each.

        Args:
            obs: a batch of observations of the world, without z.
            deterministic: the mode of each policy instead of a sample.
            z: with shape (B, *shape of z), or one for all.
        """
        if z is not None:
            z = for_each(z, len(flat(obs)), self.prior).to(self.world.device)
        return self.act(obs, z, deterministic=deterministic)[0]

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | Mapping[str, Any],
        state: Tensor | None = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Actions along episodes; the state is z, which an episode's start draws anew.

        Args:
            obs: a batch of observations of the world, without z.
            state: what `act` gave with the observations before these; None for the first ones.
            episode_start: which of `obs` begin an episode, as booleans with shape (B,).
            deterministic: the mode of each policy instead of a sample.

        Returns:
            The actions, and z for the next call.
        """
        obs = flat(obs).to(self.world.device)
        fresh = drawn(self.prior, len(obs), None)
        if state is None:
            state = fresh
        elif episode_start is not None:
            starts = episode_start.to(state.device).reshape(-1, *[1] * (state.ndim - 1))
            state = torch.where(starts, fresh, state)
        seen = self.latent_world.beside(obs, state)
        return super().act(seen, deterministic=deterministic)[0], state

    def evaluate(
        self,
        episodes: int = 100,
        *,
        world: World | None = None,
        deterministic: bool = True,
        seed: int = 2**20,
    ) -> dict[str, float]:
        """Means over whole episodes, with a z drawn for each; see `Learner.evaluate`."""
        if any(world is one for one in (self.world, self.latent_world.world)):
            world = self.given_world  # what is in use is refused, by whichever name
        if world is None or world is self.given_world:
            return super().evaluate(episodes, world=world, deterministic=deterministic, seed=seed)
        latent = Latent(world, self.prior, seed=seed)
        return evaluate(self.model, latent, episodes, deterministic=deterministic, seed=seed)

    def sample_policies(
        self, n: int, *, generator: int | torch.Generator | None = None
    ) -> Policies:
        """`n` policies, each a z, to be asked anything; `generator` may be a seed."""
        if n < 1:
            raise ValueError(f"'n' must be positive, got {n}")
        return Policies(self.latent_world, self.policy, drawn(self.prior, n, generator))

    def policies_of(self, z: Tensor) -> Policies:
        """The policies of these z, with shape (n, *shape of z)."""
        if not z.ndim or z.shape[1:] != torch.Size(self.prior.shape):
            wanted = ", ".join(["n", *map(str, self.prior.shape)])
            raise ValueError(f"'z' must have shape ({wanted}), got {tuple(z.shape)}")
        return Policies(self.latent_world, self.policy, z.to(self.world.device))

    @property
    def policy(self) -> LatentPolicy:
        return cast(LatentPolicy, self.model.policy)

    @torch.no_grad()
    def information_bound(self, draws: int = 64, *, seed: int = 2**20) -> float:
        """The lower bound of I(f; z) in nats, on fresh sets of states.

        It is at most log `candidates` for "discretise". Bounds for another number of states, or
        another noise, are bounds of something else.

        Args:
            draws: sets of states.
            seed: of states, z and noise.
        """
        known = []
        for k in range(draws):
            with drawing_from(mix(seed, 4, k)):
                known.append(self.variety.information().mean())
        return float(torch.stack(known).mean())

    def information_between(
        self, candidates: int = 4096, draws: int = 16, *, seed: int = 2**20
    ) -> Between:
        """Bounds of I(f; z) from both sides, by the exact likelihood of the noise; see `squeezed`.

        Args:
            candidates: K; with more of them the bounds are closer.
            draws: sets of states, each for 128 functions; `information_bound` has the same ones.
            seed: of states, z and noise.
        """
        found = []
        for k in range(draws):
            with drawing_from(mix(seed, 4, k)):
                found.append(self.variety.between(candidates, min(candidates, 128)))
        return Between(*torch.tensor(found).mean(0).tolist())

    def entropy_bound(self, draws: int = 64, *, seed: int = 2**20) -> float:
        """The lower bound of H(f): that of the information, and the entropy of the noise."""
        return self.information_bound(draws, seed=seed) + self.variety.functions.noise_entropy

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "replay": self.variety.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._anneal()
        self.variety.replay.load_state_dict(state["replay"], self.world.device)

    def _anneal(self) -> None:
        """What changes with the steps that were taken; it depends on nothing else."""
        self.variety.anneal(self.total_steps)
        if self.action_entropy is not None:
            self.task.entropy_weight = self.action_entropy(self.total_steps)

    def _descended(self) -> Tensor:
        """What each gradient step of the task descends beside its own loss."""
        known = self.variety.information().mean()
        self.known.append(known.detach())
        return -self.entropy_weight * known


def _check(task: str, comparison: str, entropy_weight: float) -> None:
    check_choice("task", task, Task)
    check_choice("comparison", comparison, States)
    if not 0.0 <= entropy_weight < math.inf:
        raise ValueError(f"'entropy_weight' must be at least 0 and finite, got {entropy_weight}")


def _without_z(models: Models | None, prior: Prior) -> Models:
    return {
        name: dataclasses.replace(one, model=Bare(one.model, prior.width))
        for name, one in as_streams(models or {}).items()
    }


def _rules(task: Learner) -> dict[str, Any]:
    """By which it collects and counts."""
    same = ("discount", "trace", "world_weight", "temperature")
    return {"steps": task.steps, **{name: getattr(task.earnings, name) for name in same}}


def _task(
    name: Task, world: Latent, settings: Mapping[str, Any], shared: dict[str, Any]
) -> PPO | REINFORCE:
    """The learner whose gradient earns the return."""
    taken = sorted(set(settings) & set(shared))
    if taken:
        raise ValueError(f"'settings' must not hold {', '.join(taken)}: VFunc has its own")
    return _TASKS[name](world, **shared, **settings)


def _views(world: World, beside: Latent) -> Tensor:
    """What is seen in each cell that is acted in, flat."""
    if not isinstance(world, TabularGrid):
        raise ValueError(
            f"'comparison' can be \"all\" in a TabularGrid, not in {type(world).__name__}"
        )
    views = beside.features.scaled(world.views()).flatten(1)
    return views[~world.mdp().terminal.to(views.device)]

"""Behavioural cloning: a policy fitted to the expert's actions, and nothing more."""

import os
from collections.abc import Mapping
from typing import Any, Self

import gymnasium
import torch
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents.actions import within_bounds
from rlgen.agents.evaluation import evaluate
from rlgen.agents.flat_world import flattened
from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.policy import ActorCritic, Policy
from rlgen.agents.transitions import flat, flat_space
from rlgen.envs.world import World
from rlgen.generative import Trainer, fit
from rlgen.seeding import drawing_from, mix


class BC:
    """Maximum likelihood of the expert's actions given what it saw, log pi(a|s).

    It needs no world and few seconds. What it never saw it does not know: where small errors lead
    it off the expert's ways they add up, and few demonstrations are then not enough.

    References:
        Dean Pomerleau. Efficient Training of Artificial Neural Networks for Autonomous Navigation,
        1991. https://doi.org/10.1162/neco.1991.3.1.88

    Attributes:
        policy: what is learnt; `ActorCritic(bc.policy)` makes it the start of a learner.

    Args:
        demonstrations: of the expert.
        observation_space: of the world, a Box or a Dict.
        action_space: of the world, Discrete or a Box.
        policy: yours, or None for a small network.
        lr: of Adam.
        batch_size: steps of the expert in each gradient step.
        seed: of everything random.

    Example:
        >>> from rlgen.agents.imitation import BC, record, shortest_paths_expert
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, goal=(11, 11), seed=0)
        >>> demonstrations = record(world, shortest_paths_expert(world), episodes=16)
        >>> bc = BC(demonstrations, world.observation_space, world.action_space)
        >>> bc = bc.learn(100, progress=False)
        >>> bc.predict(world.reset()).shape
        torch.Size([64])
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        policy: Policy | None = None,
        lr: float = 1e-3,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        demonstrations.check(observation_space, action_space)
        if policy is None:
            with drawing_from(mix(seed, 0)):
                policy = Policy.of(flat_space(observation_space), action_space)
        _check_policy(policy, observation_space, action_space)
        if batch_size < 1:
            raise ValueError(f"'batch_size' must be positive, got {batch_size}")
        self.demonstrations, self.policy, self.batch_size = demonstrations, policy, batch_size
        self.action_space = action_space
        self.trainer = Trainer(policy, lr=lr, seed=seed)

    def learn(self, steps: int = 1000, *, progress: bool | None = None) -> Self:
        """So many more gradient steps; nothing is learnt of what follows an episode's end."""
        t = self.demonstrations.to(next(self.policy.parameters()).device).transitions()
        fit(
            self.policy,
            t.action.to(self.policy.dtype) if t.action.is_floating_point() else t.action,
            t.obs,
            steps=steps,
            batch_size=self.batch_size,
            trainer=self.trainer,
            progress=progress,
        )
        return self

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | Mapping[str, Any],
        state: Tensor | None = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Actions, as those of a learner; there is no memory."""
        del episode_start
        pi = self.policy.distribution(flat(obs).to(next(self.policy.parameters()).device))
        action = pi.mode if deterministic else pi.sample()
        return within_bounds(action, self.action_space), state

    def predict(self, obs: Tensor | Mapping[str, Any], *, deterministic: bool = True) -> Tensor:
        """Actions for observations."""
        return self.act(obs, deterministic=deterministic)[0]

    def evaluate(
        self,
        world: World,
        episodes: int = 100,
        *,
        deterministic: bool = True,
        seed: int = 2**20,
    ) -> dict[str, float]:
        """Means over whole episodes; see `rlgen.agents.evaluation.evaluate`."""
        with drawing_from(0):  # its critic is not asked
            model = ActorCritic(self.policy)
        return evaluate(model, flattened(world), episodes, deterministic=deterministic, seed=seed)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the policy and its optimiser to a checkpoint in `folder`."""
        checkpoint.save(self.trainer, folder)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        demonstrations: Demonstrations,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        batch_size: int = 256,
    ) -> Self:
        """What `save` wrote, to go on with these demonstrations."""
        trainer = checkpoint.load(folder)
        if not isinstance(trainer, Trainer) or not isinstance(trainer.model, Policy):
            raise ValueError(
                f"{str(folder)!r} holds a {type(trainer).__name__}, not a cloned policy"
            )
        spaces = observation_space, action_space
        made = cls(demonstrations, *spaces, policy=trainer.model, batch_size=batch_size)
        made.trainer = trainer
        return made


def _check_policy(
    policy: Policy, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
) -> None:
    if policy.net.memory:
        raise ValueError("'policy' must have no memory: steps are learnt one by one")
    with drawing_from(0):
        fitting = Policy.of(flat_space(observation_space), action_space)
    wanted, given = [
        (tuple(p.context_shape or ()), p.obs_dtype, tuple(p.event_shape), p.support)
        for p in (fitting, policy)
    ]
    if given != wanted:
        raise ValueError(
            f"'policy' must take observations {wanted[0]} of {wanted[1]} and give actions "
            f"{wanted[2]} of {wanted[3]}, got {given[0]} of {given[1]} and {given[2]} of {given[3]}"
        )

"""Demonstrations made by hand, with known frequencies, and steps to set against them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlgen.agents import Transitions
from rlgen.agents.imitation import Demonstrations, Trajectory
from rlgen.agents.planning import value_iteration
from rlgen.envs.tabular import TabularGrid


def single_steps(
    obs: Tensor, action: Tensor, *, terminated: bool = False, after: Tensor | None = None
) -> Demonstrations:
    """Each step an episode of its own, so that no discount can weigh one against another."""
    after = obs if after is None else after
    return Demonstrations(
        tuple(
            Trajectory(
                torch.stack([o, n]), a[None], terminated=terminated, truncated=not terminated
            )
            for o, a, n in zip(obs, action, after, strict=True)
        )
    )


def steps(
    obs: Tensor, action: Tensor, *, terminated: bool = False, after: Tensor | None = None
) -> Transitions:
    """The same as what a policy did; they go on unless they terminate."""
    no = torch.zeros(len(obs), dtype=torch.bool)
    after = obs if after is None else after
    return Transitions(obs, action, torch.zeros(len(obs)), after, no | terminated, no)


def by_counts(counts: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """One-hot cells and actions, as often as `counts` (cells, actions) says."""
    cells, actions = counts.nonzero(as_tuple=True)
    times = counts[cells, actions]
    cell, action = cells.repeat_interleave(times), actions.repeat_interleave(times)
    return torch.eye(width or len(counts))[cell], action


def onehot_spaces(cells: int, actions: int) -> tuple[spaces.Box, spaces.Discrete]:
    return spaces.Box(0.0, 1.0, (cells,), np.float32), spaces.Discrete(actions)


def walks_of_expert(
    world: TabularGrid, episodes: int, seed: int = 0, discount: float = 0.95
) -> Demonstrations:
    """Shortest paths, all of one length being equally likely at each step; in one copy."""
    assert world.num_envs == 1
    policy = value_iteration(world.mdp(), discount=discount).policy
    generator = torch.Generator().manual_seed(seed)
    found, obs = [], world.reset(seed)
    while len(found) < episodes:
        seen, done, rewards = [obs[0]], [], []
        while True:
            cell = world.state.cell
            action = torch.multinomial(policy[cell], 1, generator=generator).squeeze(1)
            step = world.step(action)
            seen.append(step.final_obs[0])
            done.append(action[0])
            rewards.append(step.reward[0])
            obs = step.obs
            if step.done[0]:
                break
        ends = bool(step.terminated[0])
        found.append(
            Trajectory(
                torch.stack(seen),
                torch.stack(done),
                terminated=ends,
                truncated=not ends,
                reward=torch.stack(rewards),
            )
        )
    return Demonstrations(tuple(found))


def at_end(t: Transitions, terminated: bool) -> Transitions:
    """The same steps, each the last of its episode."""
    yes, no = torch.ones(len(t), dtype=torch.bool), torch.zeros(len(t), dtype=torch.bool)
    ends = (yes, no) if terminated else (no, yes)
    return replace(t, terminated=ends[0], truncated=ends[1])


@dataclass(frozen=True)
class Kind:
    """A form of observations and actions, and what an expert and a novice look like in it."""

    name: str
    spaces: tuple[gymnasium.Space[Any], gymnasium.Space[Any]]
    expert: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    novice: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

    def shown(self, count: int = 64) -> Demonstrations:
        return single_steps(*self.expert(count, torch.Generator().manual_seed(0)))

    def done(self, count: int = 64, seed: int = 1) -> Transitions:
        return steps(*self.novice(count, torch.Generator().manual_seed(seed)))


def _discrete(n: int, g: torch.Generator) -> Tensor:
    return torch.randint(4, (n,), generator=g)


def _bytes(low: int, high: int, shape: Sequence[int]) -> Any:
    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        obs = torch.randint(low, high, (n, *shape), generator=g).to(torch.uint8)
        return obs, _discrete(n, g)

    return draw


def _normal(shift: float, dtype: torch.dtype, actions: int = 0) -> Any:
    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        obs = (torch.randn(n, 5, generator=g) + shift).to(dtype)
        if actions:
            return obs, (torch.rand(n, actions, generator=g) - 0.5)
        return obs, _discrete(n, g)

    return draw


def _onehot(low: int, high: int) -> Any:
    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.eye(12)[torch.randint(low, high, (n,), generator=g)], _discrete(n, g)

    return draw


def _same_places(sign: float) -> Any:
    """Only what is done tells the two apart."""

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        obs = torch.randn(n, 5, generator=g)
        return obs, sign * (0.2 + 0.3 * torch.rand(n, 2, generator=g))

    return draw


_FOUR = spaces.Discrete(4)
_BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
_ANY = spaces.Box(-np.inf, np.inf, (2,), np.float32)
_REAL = spaces.Box(-np.inf, np.inf, (5,), np.float32)
KINDS = [
    Kind("onehot", (onehot_spaces(12, 4)[0], _FOUR), _onehot(0, 6), _onehot(6, 12)),
    Kind("vector", (_REAL, _FOUR), _normal(1.5, torch.float32), _normal(-1.5, torch.float32)),
    Kind(
        "doubles",
        (spaces.Box(-np.inf, np.inf, (5,), np.float64), _FOUR),
        _normal(1.5, torch.float64),
        _normal(-1.5, torch.float64),
    ),
    Kind(
        "symbols",
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), _FOUR),
        _bytes(0, 3, (7, 7, 3)),
        _bytes(1, 4, (7, 7, 3)),
    ),
    Kind(
        "pictures",
        (spaces.Box(0, 255, (3, 13, 13), np.uint8), _FOUR),
        _bytes(0, 120, (3, 13, 13)),
        _bytes(130, 256, (3, 13, 13)),
    ),
    Kind("box", (_REAL, _BOX), _same_places(1.0), _same_places(-1.0)),
    Kind("unbounded", (_REAL, _ANY), _same_places(1.0), _same_places(-1.0)),
]

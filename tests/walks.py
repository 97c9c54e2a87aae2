"""Random walkers in the four rooms, and how counts are compared with their visits."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from rlgen.agents import Transitions
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from

T = TypeVar("T")

PLACES = FourRooms(1).free.nonzero()  # row and column of each of the 104 cells


def arriving_at(obs: Tensor) -> Transitions:
    """Steps that say only where they led."""
    nothing = torch.zeros(len(obs))
    return Transitions(obs, nothing.long(), nothing, obs, nothing.bool(), nothing.bool())


def walk(steps: int, seed: int = 0) -> Tensor:
    """Where 64 random walkers are who restart in the corner now and then, (steps, 64, 104)."""
    world = FourRooms(64, start=(1, 1), goal="none", max_steps=10**6, seed=seed)
    world.reset()
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        seen.append(world.step(torch.randint(4, (64,), generator=generator)).obs)
        world.restart(torch.rand(64, generator=generator) < 0.01)
    return torch.stack(seen)


def wander(steps: int, seed: int = 0) -> list[Transitions]:
    """The same walkers' steps: a list of 64 transitions at a time."""
    world = FourRooms(64, start=(1, 1), goal="none", max_steps=10**6, seed=seed)
    obs = world.reset()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(steps):
        action = torch.randint(4, (64,), generator=generator)
        step = world.step(action)
        parts.append(
            Transitions(obs, action, step.reward, step.final_obs, step.terminated, step.truncated)
        )
        world.restart(torch.rand(64, generator=generator) < 0.01)
        obs = world.observe()
    return parts


def cell_of(obs: Tensor) -> Tensor:
    """One-hot observations -> the number of the cell, (B, 1)."""
    return obs.argmax(-1, keepdim=True)


def agreement(counts: Tensor, visits: Tensor) -> tuple[float, float, float]:
    """Rank correlation, slope of the logarithms, and the median ratio, where there were visits."""
    n, v = counts[visits > 0].double().numpy(), visits[visits > 0].double().numpy()
    slope = np.polyfit(np.log(v), np.log(n), 1)[0]
    return float(stats.spearmanr(n, v).statistic), float(slope), float(np.median(n / v))


def divergence(visits: Tensor, log_rho: Tensor) -> float:
    """KL(empirical || rho) in nats, from log rho of every cell."""
    seen = visits > 0
    p = visits[seen].double() / visits.sum()
    return float((p * (p.log() - log_rho[seen].double())).sum())


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """What `make` gives, the same every time."""
    with drawing_from(seed):
        return make()


def same(one: Any, other: Any) -> bool:
    """Equality of nested states, bit by bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def copied(state: Any) -> Any:
    """A state that later changes in place leave alone."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(copied, state))
    return state

"""Counting visits: exactly, or by random projections.

    bonus(o') = 1 / sqrt(N(o'))

N counts where steps led, this step included, so that what is new pays 1. Within a batch the visits
before a step count too: thousands of copies that find a thing at once are not all its discoverers.
Reading never counts. Both turn an observation into
a 64-bit key and differ in which observations share one.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable


class KeyTable:
    """How often each key was seen; keys are kept in order, so finding one is a binary search."""

    def __init__(self) -> None:
        self.keys = torch.empty(0, dtype=torch.int64)
        self.counts = torch.empty(0, dtype=torch.int64)

    def count(self, keys: Tensor) -> Tensor:
        """Visits of each key, 0 for those never seen."""
        if len(self.keys) == 0:
            return torch.zeros_like(keys)
        at = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[at] == keys, self.counts[at], 0)

    def add(self, keys: Tensor) -> None:
        """One more visit for each key, as often as it occurs."""
        if len(self.keys) == 0:
            self.keys, self.counts = self.keys.to(keys.device), self.counts.to(keys.device)
        fresh, visits = keys.unique(return_counts=True)
        both = torch.cat([self.keys, fresh])
        self.keys, where = both.unique(return_inverse=True)
        counts = torch.zeros_like(self.keys)
        self.counts = counts.index_add_(0, where, torch.cat([self.counts, visits]))


class Counts(Configurable, ABC):
    """Pays for rarely visited observations; subclasses say which ones are the same."""

    def __init__(self) -> None:
        self.table = KeyTable()

    @abstractmethod
    def keys(self, obs: Tensor) -> Tensor:
        """int64 keys with shape (B,) of observations (B, *observation)."""

    def count(self, obs: Tensor) -> Tensor:
        """How often each observation, or one like it, was visited, with shape (B,)."""
        return self.table.count(self.keys(obs))

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        keys = self.keys(t.next_obs)
        return (self.table.count(keys) + occurrence(keys)).rsqrt()

    @torch.no_grad()
    def update(self, t: Transitions) -> dict[str, float]:
        self.table.add(self.keys(t.next_obs))
        return {"distinct": float(len(self.table.keys))}

    def state_dict(self) -> dict[str, Any]:
        return {"keys": self.table.keys, "counts": self.table.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.keys, self.table.counts = state["keys"], state["counts"]


class TableCounts(Counts):
    """Exact counts: two observations are the same if all of their bytes are.

    Distinct observations share a key with a probability of about 2^-64 for each pair.

    References:
        Alexander Strehl and Michael Littman. An analysis of model-based Interval Estimation for
        Markov Decision Processes, 2008. https://doi.org/10.1016/j.jcss.2007.08.009

    Example:
        >>> import torch
        >>> from rlgen.agents.exploration import TableCounts
        >>> counts = TableCounts()
        >>> counts.table.add(counts.keys(torch.eye(3)[[0, 0, 2]]))
        >>> counts.count(torch.eye(3)).tolist()
        [2, 0, 1]
    """

    def keys(self, obs: Tensor) -> Tensor:
        rows = obs.flatten(1)
        if rows.is_floating_point():
            rows = rows + 0.0  # there are two zeros
        rows = rows.contiguous().view(torch.uint8)
        words = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)
        return mixed(words)


class HashCounts(Counts):
    """Counts of random hyperplanes' signs: similar observations share a key.

        key = sign(A g(o)),  A a fixed Gaussian matrix with `bits` rows

    References:
        Haoran Tang et al. #Exploration: A Study of Count-Based Exploration for Deep Reinforcement
        Learning, 2017. https://arxiv.org/abs/1611.04717

    Args:
        bits: fewer lump more together, at most 63.
        seed: of the hyperplanes.

    Example:
        >>> import torch
        >>> from rlgen.agents.exploration import HashCounts
        >>> counts = HashCounts(bits=32)
        >>> counts.table.add(counts.keys(torch.eye(3)[[0, 0, 2]]))
        >>> counts.count(torch.eye(3)).tolist()
        [2, 0, 1]
    """

    def __init__(self, *, bits: int = 32, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= bits <= 63:
            raise ValueError(f"'bits' must be from 1 to 63, got {bits}")
        self.bits, self.seed = bits, seed

    def keys(self, obs: Tensor) -> Tensor:
        rows = obs.flatten(1).float()
        generator = torch.Generator().manual_seed(self.seed)
        planes = torch.randn(rows.shape[1], self.bits, generator=generator).to(rows.device)
        signs = (rows @ planes > 0).long()
        return (signs << torch.arange(self.bits, device=rows.device)).sum(1)


def occurrence(keys: Tensor) -> Tensor:
    """1 where a key comes for the first time, 2 for the second, and so on."""
    ordered, order = keys.sort(stable=True)
    place = torch.arange(len(keys), device=keys.device)
    begins = torch.ones_like(place, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    begin = torch.where(begins, place, 0).cummax(0).values
    return torch.empty_like(place).scatter_(0, order, place - begin + 1)


def mixed(rows: Tensor) -> Tensor:
    """One 64-bit key for each row of integers, by multiplication with fixed random odd numbers."""
    generator = torch.Generator().manual_seed(rows.shape[1])
    low, high = -(2**63), 2**63 - 1
    factors = torch.randint(low, high, (2, rows.shape[1]), generator=generator) | 1
    factors = factors.to(rows.device)
    # products wrap around; the high half of one sum stirs the other, as low bits mix poorly
    one, other = (rows * factors[0]).sum(1), (rows * factors[1]).sum(1)
    return one ^ (other >> 32) ^ (other << 31)

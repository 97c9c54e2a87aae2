"""Paths of densities from one that is known to one that is not, for annealed importance sampling.

Notation: t from 0 to 1, and p_t(x) = exp(log_density(x, t)) / Z_t with Z_0 = 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlgen.generative.energy.samplers import hamiltonian

# acceptance rate that is best for Hamiltonian Monte Carlo in many dimensions (Beskos et al., 2013)
_WANTED = 0.65
# how fast the pilot run's sizes follow what is accepted, and where they begin: in a unit normal
_RATE, _FIRST_SIZE = 0.3, 0.3
_PILOTS, _PILOT_MOVES = 8, 100


class Annealed(ABC):
    """Densities p_t that can be drawn from exactly at t = 0, and moved in at any t."""

    groups: int = 1

    @abstractmethod
    def start(self, n: int) -> Tensor:
        """Exact samples of p_0: n of each group, with leading dimension n * groups."""

    @abstractmethod
    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x) + log Z_t, with shape (n * groups,)."""

    @abstractmethod
    def move(self, x: Tensor, t: float) -> Tensor:
        """Where chains at x are after a step that leaves p_t as it is."""

    def tune(self, schedule: Sequence[float]) -> None:
        """Fit `move` to the t of a schedule, by chains of its own; by default nothing is."""
        del schedule


class GeometricPath(Annealed):
    """log p_t = log base + t log ratio, moved in by Hamiltonian Monte Carlo.

    The sizes of its leapfrog steps come from a pilot run, one for each group and a few t, so that
    the run that counts moves by steps that do not depend on its own past, as it must.

    Args:
        draw: n -> samples of the base, with shape (n * groups, *event).
        log_base: the normalised log density of the base.
        log_ratio: of the target, which is not normalised, to the base.
        groups: how many targets there are; rows take turns: 0, ..., groups - 1, 0, ...
        leapfrogs: in one move.
    """

    def __init__(
        self,
        draw: Callable[[int], Tensor],
        log_base: Callable[[Tensor], Tensor],
        log_ratio: Callable[[Tensor], Tensor],
        *,
        groups: int = 1,
        leapfrogs: int = 10,
    ) -> None:
        self.draw, self.log_base, self.log_ratio = draw, log_base, log_ratio
        self.groups, self.leapfrogs = groups, leapfrogs
        self.sizes: dict[float, Tensor] = {}

    def start(self, n: int) -> Tensor:
        return self.draw(n)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        return self.log_base(x) + t * self.log_ratio(x)

    def move(self, x: Tensor, t: float) -> Tensor:
        nearest = min(self.sizes, key=lambda other: abs(other - t))
        return self._move(x, t, self.sizes[nearest])[0]

    def tune(self, schedule: Sequence[float]) -> None:
        self.sizes = {}
        x = self.start(_PILOTS)
        size = x.new_full((self.groups,), _FIRST_SIZE)
        for t in schedule[:: max(1, len(schedule) // _PILOT_MOVES)]:
            self.sizes[t] = size
            x, accepted = self._move(x, t, size)
            rate = accepted.reshape(_PILOTS, self.groups).mean(0)
            size = size * torch.exp(_RATE * (rate - _WANTED))

    def _move(self, x: Tensor, t: float, size: Tensor) -> tuple[Tensor, Tensor]:
        # of random length, since a path of one period ends where it began
        each = size.repeat(len(x) // self.groups) * torch.rand(len(x), device=x.device).to(x.dtype)
        return hamiltonian(
            lambda x: -self.log_density(x, t), x, size=each, leapfrogs=self.leapfrogs
        )

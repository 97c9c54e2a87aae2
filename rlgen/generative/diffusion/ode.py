"""Flows along ordinary differential equations, and the log-determinants that densities need.

Notation: dx/dc = f(c, x) from c = start to c = end, and d log|det| / dc = div f = tr df/dx.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.checkpoint import Configurable

Field = Callable[[Tensor, Tensor], Tensor]
State = tuple[Tensor, ...]
StateField = Callable[[Tensor, State], State]


class Solver(Configurable, ABC):
    """Solves an initial value problem for a whole batch at once."""

    @abstractmethod
    def solve(self, f: StateField, state: State, start: float, end: float) -> State:
        """The state at `end`, given that at `start`: tensors of one dtype and device."""


@dataclass(frozen=True)
class RungeKutta(Solver):
    """The classical method of order 4, in equal steps.

    It never looks at values: an example's result is the same in any batch.

    Args:
        steps: each takes four evaluations.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"'steps' must be positive, got {self.steps}")

    def solve(self, f: StateField, state: State, start: float, end: float) -> State:
        h = (end - start) / self.steps
        for k in range(self.steps):
            c = state[0].new_full((), start + k * h)
            k1 = f(c, state)
            k2 = f(c + 0.5 * h, _moved(state, 0.5 * h, k1))
            k3 = f(c + 0.5 * h, _moved(state, 0.5 * h, k2))
            k4 = f(c + h, _moved(state, h, k3))
            slopes = zip(k1, k2, k3, k4, strict=True)
            state = _moved(state, h / 6, tuple(a + 2 * b + 2 * c + d for a, b, c, d in slopes))
        return state


@dataclass(frozen=True)
class Adaptive(Solver):
    """Dormand and Prince's method of order 5, with steps as small as the error demands.

    All examples of a batch share their steps, so that an example's result depends on its company
    as far as the tolerance lets it. It needs torchdiffeq.

    Args:
        tolerance: of each step's error, absolute and relative.
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"'tolerance' must be positive, got {self.tolerance}")

    def solve(self, f: StateField, state: State, start: float, end: float) -> State:
        if state[0].is_meta:  # no values, so no errors to adapt to: the shapes alone
            return RungeKutta(1).solve(f, state, start, end)
        from torchdiffeq import odeint

        ends = state[0].new_tensor([start, end])
        tolerance = self.tolerance
        solution = odeint(f, state, ends, rtol=tolerance, atol=tolerance, method="dopri5")
        return tuple(part[-1] for part in solution)


def flow(solver: Solver, f: Field, x: Tensor, start: float, end: float) -> Tensor:
    """Where x, with shape (B, *event_shape), flows to."""
    return solver.solve(lambda c, state: (f(c, state[0]),), (x,), start, end)[0]


def flow_with_log_det(
    solver: Solver, f: Field, x: Tensor, start: float, end: float, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where x flows to, and log |det| of that map, with shape (B,).

    Args:
        solver: of x and the log-determinant together.
        f: (c, x) -> dx/dc.
        x: with shape (B, *event_shape).
        start, end: of c.
        probe: as for `divergence`; the same one all the way.
    """

    def both(c: Tensor, state: State) -> State:
        return divergence(lambda at: f(c, at), state[0], probe)

    end_x, log_det = solver.solve(both, (x, x.new_zeros(x.shape[0])), start, end)
    return end_x, log_det


def divergence(
    f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """f(x) and its divergence, the trace of df/dx.

    Exactly, tr J = sum over i of J_ii, by one backward pass for each number in x; or by
    Hutchinson's estimate v' J v, whose mean is the trace where v has the identity for covariance,
    by one backward pass in all.

    References:
        | FFJORD: free-form continuous dynamics for scalable reversible generative models
        | (Grathwohl et al., 2019), https://arxiv.org/abs/1810.01367

    Args:
        f: a function of each example by itself, (B, *event_shape) -> the same shape.
        x: with shape (B, *event_shape).
        probe: v, with the shape of x, for the estimate; None for the exact trace.

    Returns:
        f(x), and the divergence with shape (B,).
    """
    out, pull, *_ = torch.func.vjp(f, x)
    if probe is not None:
        return out, (pull(probe)[0] * probe).reshape(len(x), -1).sum(1)
    each = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
    rows = [
        (pull(direction.reshape(x.shape[1:]).expand_as(x))[0].reshape(len(x), -1) @ direction)
        for direction in each
    ]
    return out, torch.stack(rows).sum(0)


def random_probe(x: Tensor) -> Tensor:
    """Independent signs with the shape of x: of all v, those with the least varying estimates."""
    return 2.0 * torch.randint_like(x, 2) - 1.0


def _moved(state: State, by: float, slope: State) -> State:
    return tuple(part + by * each for part, each in zip(state, slope, strict=True))

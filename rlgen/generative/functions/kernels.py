"""Covariances of functions: how alike f(x) and f(x') are, for points x and x'.

Add and multiply kernels with `+` and `*`. Their standard deviations and lengths are learnt.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.checkpoint import Configurable


class Positive(nn.Module):
    """A positive number, or several, to learn: start * exp(log_ratio).

    What it starts at is kept apart, so that it is exact in float64 whatever the dtype of the model.

    Args:
        name: what the user calls it, for messages.
        start: its value before training.
    """

    def __init__(self, name: str, start: float | Sequence[float]) -> None:
        super().__init__()
        numbers = torch.tensor(start, dtype=torch.float64)
        if not (numbers > 0).all():
            raise ValueError(f"{name!r} must be positive, got {start}")
        self.start = start
        self.log_ratio = nn.Parameter(torch.zeros(numbers.shape))

    def forward(self) -> Tensor:
        """Its value, in float64."""
        ratio = self.log_ratio.double().exp()
        return torch.tensor(self.start, dtype=ratio.dtype, device=ratio.device) * ratio


class Kernel(Configurable, nn.Module, ABC):
    """A positive semi-definite function k(x, x'), which works in float64.

    Call its parts to see what it has learnt, as in `kernel.length()`.
    """

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The covariances of all pairs of points.

        Args:
            x: points with shape (*, n, inputs).
            y: points with shape (*, m, inputs).

        Returns:
            k(x_i, y_j) with shape (*, n, m).
        """

    def __add__(self, other: "Kernel") -> "Kernel":
        return Sum(self, other)

    def __mul__(self, other: "Kernel") -> "Kernel":
        return Product(self, other)


class RBF(Kernel):
    """k(x, x') = scale^2 exp(-|(x - x') / length|^2 / 2): functions with all derivatives.

    Args:
        scale: the standard deviation of f(x).
        length: how far f keeps its value: one for all inputs, or one for each.
    """

    def __init__(self, *, scale: float = 1.0, length: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        self.scale = Positive("scale", scale)
        self.length = Positive("length", length)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        square = _differences(x, y, self.length()).square().sum(-1)
        return _square(self.scale) * torch.exp(-0.5 * square)


class Matern(Kernel):
    """Rougher than `RBF`: functions with p derivatives, and with r = |(x - x') / length|

    p = 0: k = scale^2 exp(-r)
    p = 1: k = scale^2 (1 + sqrt(3) r) exp(-sqrt(3) r)
    p = 2: k = scale^2 (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)

    Args:
        derivatives: p, that is 0, 1 or 2; elsewhere called nu = p + 1/2.
        scale: the standard deviation of f(x).
        length: how far f keeps its value: one for all inputs, or one for each.
    """

    def __init__(
        self,
        *,
        derivatives: int = 2,
        scale: float = 1.0,
        length: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        if derivatives not in (0, 1, 2):
            raise ValueError(f"'derivatives' must be 0, 1 or 2, got {derivatives}")
        self.derivatives = derivatives
        self.scale = Positive("scale", scale)
        self.length = Positive("length", length)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        square = _differences(x, y, self.length()).square().sum(-1)
        # the square root has no gradient at 0, and clamping gives it the right one, 0
        r = math.sqrt(2 * self.derivatives + 1) * square.clamp_min(1e-30).sqrt()
        polynomial = (1.0, 1.0 + r, 1.0 + r + r.square() / 3.0)[self.derivatives]
        return _square(self.scale) * polynomial * torch.exp(-r)


class Periodic(Kernel):
    """k(x, x') = scale^2 exp(-2 sum over inputs of sin^2(pi (x - x') / period) / length^2).

    Args:
        scale: the standard deviation of f(x).
        length: how far f keeps its value, in units of the sine.
        period: of f in each input.
    """

    def __init__(self, *, scale: float = 1.0, length: float = 1.0, period: float = 1.0) -> None:
        super().__init__()
        self.scale = Positive("scale", scale)
        self.length = Positive("length", length)
        self.period = Positive("period", period)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sine = torch.sin(math.pi * _differences(x, y, self.period())) / self.length()
        return _square(self.scale) * torch.exp(-2.0 * sine.square().sum(-1))


class Linear(Kernel):
    """k(x, x') = offset^2 + scale^2 x . x': straight lines, as Bayesian linear regression has.

    Args:
        scale: the standard deviation of each slope.
        offset: the standard deviation of f(0).
    """

    def __init__(self, *, scale: float = 1.0, offset: float = 1.0) -> None:
        super().__init__()
        self.scale = Positive("scale", scale)
        self.offset = Positive("offset", offset)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return _square(self.offset) + _square(self.scale) * (x @ y.mT)


class Sum(Kernel):
    """k(x, x') = one(x, x') + other(x, x'): a sum of independent functions."""

    def __init__(self, one: Kernel, other: Kernel) -> None:
        super().__init__()
        self.one = one
        self.other = other

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total: Tensor = self.one(x, y) + self.other(x, y)
        return total


class Product(Kernel):
    """k(x, x') = one(x, x') other(x, x')."""

    def __init__(self, one: Kernel, other: Kernel) -> None:
        super().__init__()
        self.one = one
        self.other = other

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        product: Tensor = self.one(x, y) * self.other(x, y)
        return product


def _square(number: Positive) -> Tensor:
    square: Tensor = number().square()
    return square


def _differences(x: Tensor, y: Tensor, length: Tensor) -> Tensor:
    """(x_i - y_j) / length of all pairs, exact where points are near each other."""
    return (x[..., :, None, :] - y[..., None, :, :]) / length

"""Covariances of functions: how alike f(x) and f(x') are, for points x and x'.

Add and multiply kernels with `+` and `*`. Their standard deviations and lengths are learnt.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.checkpoint import Configurable


class Kernel(Configurable, nn.Module, ABC):
    """A positive semi-definite function k(x, x')."""

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
        self.log_scale = _log_parameter("scale", scale)
        self.log_length = _log_parameter("length", length)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        square = _differences(x, y, self.log_length).square().sum(-1)
        return torch.exp(2.0 * self.log_scale - 0.5 * square)


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
        self.log_scale = _log_parameter("scale", scale)
        self.log_length = _log_parameter("length", length)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        square = _differences(x, y, self.log_length).square().sum(-1)
        # the square root has no gradient at 0, and clamping gives it the right one, 0
        r = math.sqrt(2 * self.derivatives + 1) * square.clamp_min(1e-30).sqrt()
        polynomial = (1.0, 1.0 + r, 1.0 + r + r.square() / 3.0)[self.derivatives]
        return polynomial * torch.exp(2.0 * self.log_scale - r)


class Periodic(Kernel):
    """k(x, x') = scale^2 exp(-2 sum over inputs of sin^2(pi (x - x') / period) / length^2).

    Args:
        scale: the standard deviation of f(x).
        length: how far f keeps its value, in units of the sine.
        period: of f in each input.
    """

    def __init__(self, *, scale: float = 1.0, length: float = 1.0, period: float = 1.0) -> None:
        super().__init__()
        self.log_scale = _log_parameter("scale", scale)
        self.log_length = _log_parameter("length", length)
        self.log_period = _log_parameter("period", period)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sine = torch.sin(math.pi * _differences(x, y, self.log_period)) / self.log_length.exp()
        return torch.exp(2.0 * self.log_scale - 2.0 * sine.square().sum(-1))


class Linear(Kernel):
    """k(x, x') = offset^2 + scale^2 x . x': straight lines, as Bayesian linear regression has.

    Args:
        scale: the standard deviation of each slope.
        offset: the standard deviation of f(0).
    """

    def __init__(self, *, scale: float = 1.0, offset: float = 1.0) -> None:
        super().__init__()
        self.log_scale = _log_parameter("scale", scale)
        self.log_offset = _log_parameter("offset", offset)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(2.0 * self.log_offset) + torch.exp(2.0 * self.log_scale) * (x @ y.mT)


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


def _differences(x: Tensor, y: Tensor, log_length: Tensor) -> Tensor:
    """(x_i - y_j) / length of all pairs, exact where points are near each other."""
    return (x[..., :, None, :] - y[..., None, :, :]) / log_length.exp()


def _log_parameter(name: str, value: float | Sequence[float]) -> nn.Parameter:
    number = torch.tensor(value, dtype=torch.float64)
    if not (number > 0).all():
        raise ValueError(f"{name!r} must be positive, got {value}")
    return nn.Parameter(number.log().to(torch.get_default_dtype()))

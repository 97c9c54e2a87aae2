"""Stochastic differential equations that turn data into noise, in continuous time.

Notation: t from the cutoff to 1; x_t = a x_0 + s eps, where a (signal) falls and s (noise) rises;
c = log(s / a), the log ratio, which rises with t and is the natural variable to integrate over:

    dx/dt = f(t) x - 1/2 g(t)^2 score(x, t)      the probability-flow ODE
    dx/dc = (d log a / dc) x - s^2 score(x, t)   the same, as g(t)^2 dt = 2 s^2 dc
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlgen.checkpoint import Configurable


class SDE(Configurable, ABC):
    """dx = f(t) x dt + g(t) dw, known through its marginals alone.

    Attributes:
        prior_scale: the standard deviation of the Gaussian taken for x_1.
        cutoff: the smallest t; data is taken for x at that t.
    """

    cutoff: float = 0.0

    @property
    @abstractmethod
    def prior_scale(self) -> float: ...

    @abstractmethod
    def log_ratio(self, t: Tensor) -> Tensor:
        """c at t."""

    @abstractmethod
    def time(self, c: Tensor) -> Tensor:
        """t at c."""

    @abstractmethod
    def levels(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """a and s at c."""

    @abstractmethod
    def pull(self, c: Tensor) -> Tensor:
        """d log a / dc at c."""

    @property
    def span(self) -> tuple[float, float]:
        """c at the cutoff and at t = 1."""
        ends = self.log_ratio(torch.tensor([self.cutoff, 1.0], dtype=torch.float64, device="cpu"))
        return float(ends[0]), float(ends[1])


@dataclass(frozen=True)
class VP(SDE):
    """Variance preserving: f(t) = -beta(t) / 2 and g(t)^2 = beta(t), which rises linearly.

    a^2 = exp(-integral of beta) and s^2 = 1 - a^2; x_1 is nearly N(0, I). It is the limit of
    `DDPM` with `Linear` variances and many steps.

    References:
        | Score-based generative modeling through stochastic differential equations
        | (Song et al., 2021), https://arxiv.org/abs/2011.13456

    Args:
        beta_min: beta(0).
        beta_max: beta(1).
        cutoff: the smallest t; 1e-5 is noise of scale 1e-3 on the data.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    cutoff: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                "'beta_min' and 'beta_max' must be positive and rise, "
                f"got {self.beta_min} and {self.beta_max}"
            )
        if not 0 < self.cutoff < 1:
            raise ValueError(f"'cutoff' must lie between 0 and 1, got {self.cutoff}")

    @property
    def prior_scale(self) -> float:
        return 1.0

    def log_ratio(self, t: Tensor) -> Tensor:
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()
        # log(expm1(integral)), which must not overflow
        return 0.5 * (integral + (-torch.expm1(-integral)).log())

    def time(self, c: Tensor) -> Tensor:
        integral = F.softplus(2.0 * c, threshold=40.0)
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2.0 * slope * integral).sqrt()
        return 2.0 * integral / (self.beta_min + root)

    def levels(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return (-2.0 * c).sigmoid().sqrt(), (2.0 * c).sigmoid().sqrt()

    def pull(self, c: Tensor) -> Tensor:
        return -(2.0 * c).sigmoid()


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: f = 0, a = 1 and s = low (high / low)^t; the data is taken for x_0.

    x_1 is nearly N(0, high^2 I) where `high` is large beside the data: about the largest distance
    between two examples is advised.

    References:
        | Score-based generative modeling through stochastic differential equations
        | (Song et al., 2021), https://arxiv.org/abs/2011.13456
        | Improved techniques for training score-based generative models (Song and Ermon, 2020)
        | https://arxiv.org/abs/2006.09011

    Args:
        low: s at t = 0, which is noise on the data.
        high: s at t = 1.
    """

    low: float = 0.01
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(
                f"'low' and 'high' must be positive and rise, got {self.low} and {self.high}"
            )

    @property
    def prior_scale(self) -> float:
        return self.high

    def log_ratio(self, t: Tensor) -> Tensor:
        return math.log(self.low) + t * math.log(self.high / self.low)

    def time(self, c: Tensor) -> Tensor:
        return (c - math.log(self.low)) / math.log(self.high / self.low)

    def levels(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(c), c.exp()

    def pull(self, c: Tensor) -> Tensor:
        return torch.zeros_like(c)

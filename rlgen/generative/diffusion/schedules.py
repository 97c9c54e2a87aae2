"""How much noise is added at each step of a discrete diffusion, and all that follows from it.

Notation, here and in `ddpm.py`: steps t = 1, ..., T with variances beta_t; alpha_t = 1 - beta_t;
alpha-bar_t = product of alpha_1, ..., alpha_t; then x_t = signal_t x_0 + noise_t eps with
signal_t = sqrt(alpha-bar_t) and noise_t = sqrt(1 - alpha-bar_t).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rlgen.checkpoint import Configurable

Variance = Literal["beta", "posterior"]

# the most noise that one step may add: alpha-bar must not reach zero
_LARGEST_BETA = 0.999


class Schedule(Configurable, ABC):
    """The variances beta_t of T steps."""

    @abstractmethod
    def betas(self, steps: int) -> Tensor:
        """beta_1, ..., beta_T in float64, with shape (T,)."""


@dataclass(frozen=True)
class Linear(Schedule):
    """Evenly spaced variances, from `first` to `last` where there are 1000 steps.

    Other numbers of steps scale them, so that x_T has lost as much of x_0.

    References:
        | Denoising diffusion probabilistic models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Args:
        first: beta_1 of 1000 steps.
        last: beta_1000 of 1000 steps.
    """

    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.last < 1:
            raise ValueError(
                f"'first' and 'last' must rise within (0, 1), got {self.first} and {self.last}"
            )

    def betas(self, steps: int) -> Tensor:
        betas = torch.linspace(self.first, self.last, steps, dtype=torch.float64)
        return (betas * (1000 / steps)).clamp(max=_LARGEST_BETA)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha-bar_t = cos^2(pi/2 (t/T + offset) / (1 + offset)), relative to t = 0.

    References:
        | Improved denoising diffusion probabilistic models (Nichol and Dhariwal, 2021)
        | https://arxiv.org/abs/2102.09672

    Args:
        offset: keeps the first variances from being too small to matter.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if self.offset <= 0:
            raise ValueError(f"'offset' must be positive, got {self.offset}")

    def betas(self, steps: int) -> Tensor:
        t = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
        alpha_bar = (0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)).cos().square()
        return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=_LARGEST_BETA)


class Steps(nn.Module):
    """The constants of every step, looked up at t = 0, ..., T.

    Entries at t = 0 stand for the data itself, where signal is 1 and noise 0. They stay in float64
    until the model is converted, so that none is lost on the way to a float64 model.

    Args:
        betas: beta_1, ..., beta_T in float64.
        variance: sigma_t^2 of p(x_{t-1} | x_t): "beta" is beta_t; "posterior" is that of
            q(x_{t-1} | x_t, x_0), beta-tilde_t = beta_t (1 - alpha-bar_{t-1}) / (1 - alpha-bar_t),
            save for t = 1, where that is zero, and beta_1 takes its place.

    Attributes:
        signal, noise: of x_t given x_0.
        beta: beta_t.
        scale: sigma_t.
        weight: the term of step t in the bound is weight_t |eps - eps(x_t, t)|^2 + D constant_t.
        constant: see weight; at t = 1 that of a Gaussian density, else that of a KL divergence.
    """

    signal: Tensor
    noise: Tensor
    beta: Tensor
    scale: Tensor
    weight: Tensor
    constant: Tensor

    def __init__(self, betas: Tensor, variance: Variance) -> None:
        super().__init__()
        alphas = 1.0 - betas
        alpha_bar = alphas.cumprod(0)
        left = -alphas.log().cumsum(0).expm1()  # 1 - alpha-bar, precise where it is small
        left_before = torch.cat([left.new_zeros(1), left[:-1]])
        posterior = betas * left_before / left
        sigma2 = betas.clone() if variance == "beta" else posterior.clone()
        sigma2[0] = betas[0]
        ratio = posterior[1:] / sigma2[1:]
        density = 0.5 * (2.0 * math.pi * sigma2[:1]).log()
        table = {
            "signal": alpha_bar.sqrt(),
            "noise": left.sqrt(),
            "beta": betas,
            "scale": sigma2.sqrt(),
            "weight": betas.square() / (2.0 * sigma2 * alphas * left),
            "constant": torch.cat([density, 0.5 * (ratio - 1.0 - ratio.log())]),
        }
        for name, values in table.items():
            start = values.new_full((1,), 1.0 if name == "signal" else 0.0)
            self.register_buffer(name, torch.cat([start, values]))

    def marginal(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """signal_t and noise_t for steps t with shape (B,), to multiply `like` with."""
        shape = (-1, *[1] * (like.ndim - 1))
        signal, noise = self.signal[t].to(like.dtype), self.noise[t].to(like.dtype)
        return signal.reshape(shape), noise.reshape(shape)

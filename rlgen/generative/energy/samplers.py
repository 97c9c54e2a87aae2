"""Markov chains whose samples follow exp(-E(x)), as functions of an energy E.

An energy is a function from x with shape (B, *event) to (B,). Chains are rows of x, and draw from
torch's global generator, so `rlgen.seeding.drawing_from` makes them repeatable. What they return
has no gradient: a chain is where it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlgen.checkpoint import Configurable

EnergyFunction = Callable[[Tensor], Tensor]


def langevin(energy: EnergyFunction, x: Tensor, *, step: float | Tensor, steps: int = 1) -> Tensor:
    """Unadjusted Langevin dynamics: downhill, with noise, and never turned back.

    x' = x - step / 2 grad E(x) + sqrt(step) noise,  noise ~ N(0, I)

    Its samples follow exp(-E) only as `step` goes to 0: for E = x^2 / 2 they have variance
    1 / (1 - step / 4).

    References:
        | Bayesian learning via stochastic gradient Langevin dynamics (Welling and Teh, 2011)
        | https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf

    Args:
        energy: E.
        x: where the chains are, with shape (B, *event).
        step: the variance of the noise in one step, one for all chains.
        steps: how many.

    Returns:
        Where they are then, with the shape of x.

    Example:
        >>> import torch
        >>> from rlgen.generative.energy import langevin
        >>> x = langevin(lambda x: x.square().sum(1) / 2, torch.zeros(8, 3), step=0.1, steps=50)
        >>> x.shape
        torch.Size([8, 3])
    """
    _check_positive(step=step, steps=steps)
    step = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    for _ in range(steps):
        _, gradient = value_and_gradient(energy, x)
        x = x.detach() - 0.5 * step * gradient + step.sqrt() * torch.randn_like(x)
    return x


def mala(energy: EnergyFunction, x: Tensor, *, step: float | Tensor, steps: int = 1) -> Tensor:
    """Metropolis-adjusted Langevin: `langevin` whose steps are accepted or turned back.

    accept x' with probability min(1, exp(E(x) - E(x')) q(x | x') / q(x' | x)),
    q(x' | x) = N(x'; x - step / 2 grad E(x), step I)

    so that exp(-E) is kept exactly, whatever the step. A proposal whose energy is +infinity or
    NaN is turned back. It is Hamiltonian Monte Carlo with one leapfrog step of size sqrt(step).

    References:
        | Exponential convergence of Langevin distributions and their discrete approximations
        | (Roberts and Tweedie, 1996), https://projecteuclid.org/euclid.bj/1178291835

    Args:
        energy: E.
        x: where the chains are, with shape (B, *event).
        step: the variance of the noise in one step, one for all chains.
        steps: how many.

    Returns:
        Where they are then, with the shape of x.

    Example:
        >>> import torch
        >>> from rlgen.generative.energy import mala
        >>> x = mala(lambda x: x.square().sum(1) / 2, torch.zeros(8, 3), step=0.5, steps=50)
        >>> x.shape
        torch.Size([8, 3])
    """
    _check_positive(step=step)
    size = torch.as_tensor(step, dtype=x.dtype, device=x.device).sqrt()
    return hamiltonian(energy, x, size=size, leapfrogs=1, steps=steps)[0]


def hamiltonian(
    energy: EnergyFunction,
    x: Tensor,
    *,
    size: float | Tensor,
    leapfrogs: int = 10,
    steps: int = 1,
) -> tuple[Tensor, Tensor]:
    """Hamiltonian Monte Carlo: each step follows the forces for a while from a fresh momentum.

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901

    Args:
        energy: E.
        x: where the chains are, with shape (B, *event).
        size: of one leapfrog step: one for all chains, or one for each, with shape (B,).
        leapfrogs: in one step.
        steps: how many, each accepted or turned back.

    Returns:
        Where the chains are then, and how likely their steps were to be accepted, the mean over
        the steps, with shape (B,).
    """
    _check_positive(size=size, leapfrogs=leapfrogs, steps=steps)
    size = torch.as_tensor(size, dtype=x.dtype, device=x.device)
    size = size.reshape(-1, *[1] * (x.ndim - 1)) if size.ndim else size
    x = x.detach()
    value, gradient = value_and_gradient(energy, x)
    total = torch.zeros_like(value)
    for _ in range(steps):
        momentum = torch.randn_like(x)
        kinetic = half_square(momentum)
        proposed, slope = x, gradient
        for _ in range(leapfrogs):
            momentum = momentum - 0.5 * size * slope
            proposed = proposed + size * momentum
            new_value, slope = value_and_gradient(energy, proposed)
            momentum = momentum - 0.5 * size * slope
        chance = (value - new_value + kinetic - half_square(momentum)).clamp(max=0.0).exp()
        chance = chance.nan_to_num(nan=0.0)  # no finite energy there
        accepted = torch.rand_like(chance) < chance
        total = total + chance
        wide = accepted.reshape(-1, *[1] * (x.ndim - 1))
        x = torch.where(wide, proposed, x)
        value = torch.where(accepted, new_value, value)
        gradient = torch.where(wide, slope, gradient)
    return x, total / steps


def value_and_gradient(energy: EnergyFunction, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x), with shape (B,), and its gradient, with the shape of x; neither has one itself."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = energy(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def half_square(x: Tensor) -> Tensor:
    """|x|^2 / 2, the energy of a standard normal, with shape (B,)."""
    return 0.5 * x.square().reshape(len(x), -1).sum(1)


def _check_positive(**values: float | Tensor) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor) and not value > 0:  # a tensor may be on a device
            raise ValueError(f"{name!r} must be positive, got {value}")


@dataclass(frozen=True)
class Sampler(Configurable, ABC):
    """How a model moves its chains.

    Attributes:
        step: the variance of the noise in one step, in units of the data's own scale.
        steps: between two updates of the model.
        wanted: the acceptance rate that the step is tuned to while the model trains, or None.
    """

    step: float
    steps: int
    wanted: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"'step' must be positive, got {self.step}")
        if self.steps < 1:
            raise ValueError(f"'steps' must be positive, got {self.steps}")

    @abstractmethod
    def move(self, energy: EnergyFunction, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Chains after `self.steps` steps from x, and their acceptance rates with shape (B,)."""


@dataclass(frozen=True)
class Langevin(Sampler):
    """`langevin`: it accepts all steps, and is biased by their length."""

    step: float = 0.01
    steps: int = 20

    def move(self, energy: EnergyFunction, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        return langevin(energy, x, step=step, steps=self.steps), x.new_ones(len(x))


@dataclass(frozen=True)
class MALA(Sampler):
    """`mala`, whose step is tuned to the acceptance rate that is best in many dimensions.

    References:
        | Optimal scaling of discrete approximations to Langevin diffusions
        | (Roberts and Rosenthal, 1998), https://doi.org/10.1111/1467-9868.00123
    """

    step: float = 0.05
    steps: int = 5
    wanted: ClassVar[float | None] = 0.574

    def move(self, energy: EnergyFunction, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        return hamiltonian(energy, x, size=step.sqrt(), leapfrogs=1, steps=self.steps)

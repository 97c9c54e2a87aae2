"""Annealed importance sampling: estimates of normalisers, and so of likelihoods.

Chains begin at exact samples of a known p_0 and move through p_t as t grows to 1. Their weights
    log w = sum over k of [log p~_{t_k}(x_k) - log p~_{t_{k-1}}(x_k)]
where x_k is what the chain was before it moved at t_k, have E[w] = Z exactly, so
    E[log of the mean w]  <=  log Z.

What the estimate errs towards depends on what Z is for:
    An energy or an RBM, log p(x) = -E(x) - log Z: log Z is underestimated on average, so the log
        likelihood comes out too HIGH. A poor run flatters the model.
    A decoder, Z = p(x) = integral of p(z) p(x | z): the log likelihood comes out too LOW, as a
        lower bound does, and a poor run does the model no favour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.generative.energy.paths import Annealed, GeometricPath
from rlgen.generative.model import GenerativeModel, evaluating
from rlgen.generative.support import unchecked
from rlgen.seeding import drawing_from

# of k / K, for a posterior: near the prior t must grow slowly (Friel and Pettitt, 2008)
_POWER = 3.0


@dataclass(frozen=True)
class AnnealedEstimate:
    """log Z by the weights of independent chains; see the module for what it errs towards.

    Attributes:
        log_weights: of each chain, with shape (chains, *).
    """

    log_weights: Tensor

    @property
    def log_z(self) -> Tensor:
        """log of the mean weight, with shape (*)."""
        return self.log_weights.logsumexp(0) - math.log(len(self.log_weights))

    @property
    def standard_error(self) -> Tensor:
        """Of `log_z`, with shape (*), from the spread of the weights.

        It is far too small where a few chains carry all the weight; see `effective_chains`.
        """
        weights = self.log_weights.softmax(0) * len(self.log_weights)
        return weights.std(0) / math.sqrt(len(self.log_weights))

    @property
    def effective_chains(self) -> Tensor:
        """1 / sum of the squared normalised weights: from 1 to the number of chains."""
        return 1.0 / self.log_weights.softmax(0).square().sum(0)


@runtime_checkable
class Annealable(Protocol):
    """A model that brings its path, such as an `RBM`."""

    def annealed(self) -> Annealed: ...


@runtime_checkable
class Directed(Protocol):
    """p(x) = integral of p(z) p(x | z)."""

    @property
    def prior(self) -> Distribution: ...
    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution: ...


@torch.no_grad()
def ais(
    model: Annealable | Annealed,
    *,
    temperatures: int | Sequence[float] = 1000,
    chains: int = 500,
    generator: int | torch.Generator | None = None,
) -> AnnealedEstimate:
    """The log partition function of an undirected model, underestimated on average.

    Since log p(x) = -E(x) - log Z, log likelihoods by this estimate come out too high on average,
    the more so the poorer it is: compare with more temperatures.

    References:
        | Annealed importance sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008
        | On the quantitative analysis of deep belief networks (Salakhutdinov and Murray, 2008)
        | https://doi.org/10.1145/1390156.1390266

    Args:
        model: an `RBM` or an `EnergyModel`, or a path such as `EnergyModel.annealed(context)`.
        temperatures: steps from t = 0 to t = 1, or the values of t themselves.
        chains: how many.
        generator: a seed or a `torch.Generator`.

    Example:
        >>> from rlgen.generative import RBM, metrics
        >>> model = RBM(20, hidden=10)
        >>> estimate = metrics.ais(model, temperatures=100, chains=100, generator=0)
        >>> abs(float(estimate.log_z - model.log_partition())) < 0.1
        True
    """
    path = model.annealed() if isinstance(model, Annealable) else model
    schedule = _schedule(temperatures)
    if chains < 1:
        raise ValueError(f"'chains' must be positive, got {chains}")
    with drawing_from(generator):
        return AnnealedEstimate(_log_weights(path, schedule, chains)[:, 0])


@torch.no_grad()
def ais_log_likelihood(
    model: Directed,
    x: Tensor,
    context: Tensor | None = None,
    *,
    temperatures: int | Sequence[float] = 500,
    chains: int = 512,
    leapfrogs: int = 5,
    generator: int | torch.Generator | None = None,
) -> AnnealedEstimate:
    """log p(x) of a model with a latent variable: a lower bound on average, and often a tight one.

    Chains go from the prior p(z) to the posterior by way of p(z) p(x | z)^t, moved by Hamiltonian
    Monte Carlo, so z must be continuous and log p(x | z) smooth.

    References:
        | On the quantitative analysis of decoder-based generative models (Wu et al., 2017)
        | https://arxiv.org/abs/1611.04273

    Args:
        model: has `prior` and `decode`, such as a `VAE`.
        x: with shape (B, *event_shape).
        context: one for each x, or None.
        temperatures: steps from t = 0 to t = 1, closer near 0; or the values of t themselves.
        chains: for each x.
        leapfrogs: in one move.
        generator: a seed or a `torch.Generator`.

    Returns:
        An estimate whose `log_z`, with shape (B,), is log p(x).

    Example:
        >>> import torch
        >>> from rlgen.generative import VAE, metrics
        >>> model, x = VAE(3, latent=2, hidden=(8,)), torch.randn(4, 3)
        >>> estimate = metrics.ais_log_likelihood(model, x, temperatures=20, generator=0)
        >>> estimate.log_z.shape
        torch.Size([4])
    """
    if not isinstance(model, Directed):
        raise TypeError(f"{type(model).__name__} has no prior and decode to anneal between")
    if chains < 1 or leapfrogs < 1:
        raise ValueError(f"'chains' and 'leapfrogs' must be positive, got {chains} and {leapfrogs}")
    if isinstance(model, GenerativeModel):
        x, context = model.check(x, context)
    schedule = _schedule(temperatures, _POWER)
    path = _posterior_path(model, x, context, leapfrogs)
    part = model if isinstance(model, nn.Module) else nn.Module()
    # a move that leads to infinity is turned back, not refused
    with evaluating(part), unchecked(), drawing_from(generator):
        return AnnealedEstimate(_log_weights(path, schedule, chains))


def _posterior_path(
    model: Directed, x: Tensor, context: Tensor | None, leapfrogs: int
) -> GeometricPath:
    """From p(z) to p(z) p(x | z), for each x; rows of z take turns over the rows of x."""

    def draw(n: int) -> Tensor:
        return model.prior.sample(torch.Size([n * len(x)]))

    def log_prior(z: Tensor) -> Tensor:
        log_prob: Tensor = model.prior.log_prob(z)
        return log_prob

    def log_likelihood(z: Tensor) -> Tensor:
        n = len(z) // len(x)
        given = None if context is None else context.repeat(n, *[1] * (context.ndim - 1))
        log_prob: Tensor = model.decode(z, given).log_prob(x.repeat(n, *[1] * (x.ndim - 1)))
        return log_prob

    return GeometricPath(draw, log_prior, log_likelihood, groups=len(x), leapfrogs=leapfrogs)


def _log_weights(path: Annealed, schedule: Sequence[float], chains: int) -> Tensor:
    """With shape (chains, groups), in float64."""
    path.tune(schedule[1:-1])
    x = path.start(chains)
    log_weights = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for before, t in pairwise(schedule):
        # the ratio at where the chain is, and only then the move
        log_weights += (path.log_density(x, t) - path.log_density(x, before)).double()
        if t < 1.0:
            x = path.move(x, t)
    return log_weights.reshape(chains, path.groups)


def _schedule(temperatures: int | Sequence[float], power: float = 1.0) -> list[float]:
    if not isinstance(temperatures, int):
        ts = [float(t) for t in temperatures]
        if len(ts) < 2 or ts[0] != 0.0 or ts[-1] != 1.0 or ts != sorted(set(ts)):
            raise ValueError("'temperatures' must increase from 0 to 1")
        return ts
    if temperatures < 1:
        raise ValueError(f"'temperatures' must be positive, got {temperatures}")
    return [(k / temperatures) ** power for k in range(temperatures + 1)]

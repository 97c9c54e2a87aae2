"""Priors over the code z of a function, and the kinds of posterior that go with them."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution
from torch.types import _size

from rlgen.checkpoint import Configurable
from rlgen.generative.heads import positive
from rlgen.generative.support import Real, Support, Symbols


class Prior(Configurable, nn.Module, ABC):
    """p(z): what is fixed before any function is seen.

    Attributes:
        shape: of one z.
        support: the values of z.
        entropy: H(z) in nats.
        width: numbers in `features`.
        posterior_size: numbers that `posterior` needs.
    """

    shape: torch.Size
    support: Support
    entropy: float
    width: int
    posterior_size: int

    @abstractmethod
    def distribution(self) -> Distribution:
        """p(z), with event shape `shape`, on the device of the module."""

    @abstractmethod
    def posterior(self, raw: Tensor) -> Distribution:
        """Outputs of a network with shape (B, posterior_size) -> q(z) for each."""

    @abstractmethod
    def kl(self, q: Distribution) -> Tensor:
        """KL(q || p) in nats, with the batch shape of q."""

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """(*, *shape) -> numbers that a network can take, with shape (*, width)."""

    @property
    @abstractmethod
    def symbols(self) -> Tensor | None:
        """All values of z if they can be listed, with shape (k,), or None."""


class StandardNormal(Prior):
    """N(0, I) over vectors; posteriors are Gaussians with full covariances.

    Args:
        latent: L, numbers in one z.

    Example:
        >>> from rlgen.generative import functions
        >>> functions.StandardNormal(3).distribution().sample().shape
        torch.Size([3])
    """

    origin: Tensor

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        if latent < 1:
            raise ValueError(f"'latent' must be positive, got {latent}")
        self.shape = torch.Size([latent])
        self.support = Real()
        self.entropy = 0.5 * latent * math.log(2.0 * math.pi * math.e)
        self.width = latent
        self.posterior_size = latent + latent * (latent + 1) // 2
        self.register_buffer("origin", torch.zeros(latent))

    def distribution(self) -> Distribution:
        normal = D.Normal(self.origin, torch.ones_like(self.origin), validate_args=False)
        return D.Independent(normal, 1, validate_args=False)

    def posterior(self, raw: Tensor) -> Distribution:
        (dims,) = self.shape
        mean, scale, below = raw.split([dims, dims, dims * (dims - 1) // 2], dim=-1)
        rows, columns = torch.tril_indices(dims, dims, offset=-1, device=raw.device)
        index = rows * dims + columns
        lower = below.new_zeros((*below.shape[:-1], dims * dims)).index_add(-1, index, below)
        lower = lower.unflatten(-1, (dims, dims)) + torch.diag_embed(positive(scale))
        return CorrelatedNormal(mean, lower)

    def kl(self, q: Distribution) -> Tensor:
        energy = 0.5 * (q.mean.square() + q.variance + math.log(2.0 * math.pi)).sum(-1)
        return energy - q.entropy()

    def features(self, z: Tensor) -> Tensor:
        return z

    @property
    def symbols(self) -> Tensor | None:
        return None


class UniformSymbols(Prior):
    """The integers 0, ..., k - 1, equally likely; a posterior is a table of k probabilities.

    Args:
        count: k.

    Example:
        >>> from rlgen.generative import functions
        >>> functions.UniformSymbols(16).distribution().sample().shape
        torch.Size([])
    """

    logits: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 2:
            raise ValueError(f"'count' must be at least 2, got {count}")
        self.count = count
        self.shape = torch.Size()
        self.support = Symbols(count)
        self.entropy = math.log(count)
        self.width = count
        self.posterior_size = count
        self.register_buffer("logits", torch.full((count,), -math.log(count)))

    def distribution(self) -> Distribution:
        return self.posterior(self.logits)

    def posterior(self, raw: Tensor) -> Distribution:
        return D.Categorical(logits=raw, validate_args=False)

    def kl(self, q: Distribution) -> Tensor:
        return math.log(self.count) - q.entropy()

    def features(self, z: Tensor) -> Tensor:
        return one_hot(z, self.count, self.logits.dtype)

    @property
    def symbols(self) -> Tensor | None:
        return torch.arange(self.count, device=self.logits.device)


class CorrelatedNormal(D.MultivariateNormal):
    """A Gaussian with a full covariance, whose noise `torch.func` can vectorise.

    Args:
        mean: with shape (*, L).
        lower: lower triangular with positive diagonal, covariance = lower lower', (*, L, L).
    """

    def __init__(self, mean: Tensor, lower: Tensor) -> None:
        super().__init__(mean, scale_tril=lower, validate_args=False)

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z: Tensor = self.loc + (self.scale_tril @ noise[..., None]).squeeze(-1)
        return z


def one_hot(z: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Symbols with shape (*,) -> (*, count)."""
    return (z[..., None] == torch.arange(count, device=z.device)).to(dtype)

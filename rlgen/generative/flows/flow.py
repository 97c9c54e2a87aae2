"""Change of variables: a density as an invertible map between data and Gaussian noise.

Notation, here and in all flows:
    x, z       data and noise, with shape (B, *shape)
    forward    data to noise, z = f(x), with log |det dz/dx|
    inverse    noise to data, x = f^-1(z), with log |det dx/dz|
Every log-determinant is that of the map just applied, with shape (B,).
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Size, Tensor, nn

from rlgen.checkpoint import Configurable
from rlgen.generative.model import DensityModel, Shape
from rlgen.generative.support import Real, Support
from rlgen.seeding import drawing_from


class Transform(Configurable, nn.Module, ABC):
    """An invertible map from data to noise. A family gives both directions.

    Attributes:
        support: the x that it can map.
        context_shape: of the context that it needs, or None: then it ignores any that is given.
    """

    support: Support = Real()
    context_shape: Size | None = None

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx|."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x = f^-1(z) and log |det dx/dz|."""

    def noise_shape(self, shape: Size) -> Size:
        """The shape of z where x has `shape`; ValueError where no such x fits."""
        return shape


class Inverse(Transform):
    """A transform the other way round: what was slow becomes fast, and the reverse.

    Args:
        transform: one that keeps the shape of its input.

    Example:
        >>> import torch
        >>> from rlgen.generative import flows
        >>> transform = flows.AffineCoupling(3)
        >>> x = torch.randn(5, 3)
        >>> z, log_det = flows.Inverse(transform)(x)
        >>> torch.allclose(transform(z)[0], x, atol=1e-5)
        True
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.context_shape = transform.context_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.forward(z, context)

    def noise_shape(self, shape: Size) -> Size:
        if self.transform.noise_shape(shape) != shape:
            raise ValueError("'transform' must keep the shape of its input to be inverted")
        return shape


class Flow(DensityModel):
    r"""A density by change of variables through a chain of transforms.

    log p(x) = log N(z; 0, I) + log |det dz/dx|,  z = f_K(... f_1(x))

    Fixed transforms may come first: the density stays that of x as given, in its own units.

    References:
        | Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        | https://arxiv.org/abs/1505.05770

    Args:
        event_shape: of one x.
        transforms: from data to noise: the first one sees the data.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import Flow, RealNVP, flows
        >>> x = 5.0 + 0.1 * torch.randn(1000, 2)
        >>> model = Flow(2, [flows.Standardise.of(x), *RealNVP(2).transforms])
        >>> model.log_prob(x).shape
        torch.Size([1000])
    """

    def __init__(
        self,
        event_shape: Shape,
        transforms: Sequence[Transform],
        *,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        shape = self.event_shape
        for transform in transforms:
            wanted = transform.context_shape
            if wanted is not None and wanted != self.context_shape:
                raise ValueError(
                    f"'transforms' holds a {type(transform).__name__} that needs a context of "
                    f"shape {tuple(wanted)}"
                )
            shape = transform.noise_shape(shape)
        if transforms:
            self.support = transforms[0].support
        self.transforms = nn.ModuleList(transforms)
        self.register_buffer("origin", torch.zeros(shape))

    origin: Tensor

    def transform(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise.

        Returns:
            z with the shape of the noise, and log |det dz/dx| with shape (B,).
        """
        x, context = self.check(x, context)
        return self._forward(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data.

        Returns:
            x with shape (B, *event_shape), and log |det dx/dz| with shape (B,).
        """
        z = Real().check("z", z, self.origin.shape, self.dtype)
        return self._inverse(z, self.check_context(z.shape[0], context))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        z, log_det = self._forward(x, context)
        return _log_normal(z) + log_det

    def rsample_and_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        generator: int | torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `sample_and_log_prob`, with gradients: x is a differentiable function of noise."""
        context = self.check_sampling(n, context)
        with drawing_from(generator):
            return self._sample_and_log_prob(n, context)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self._sample_and_log_prob(n, context)[0]

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, *self.origin.shape, dtype=self.origin.dtype, device=self.origin.device)
        x, log_det = self._inverse(z, context)
        return x, _log_normal(z) - log_det

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for transform in self._chain():
            x, log_det = transform(x, context)
            total = total + log_det
        return x, total

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[0])
        for transform in reversed(self._chain()):
            z, log_det = transform.inverse(z, context)
            total = total + log_det
        return z, total

    def _chain(self) -> list[Transform]:
        return cast(list[Transform], list(self.transforms))


def flat(x: Tensor) -> Tensor:
    """(B, *shape) -> (B, D), for a scalar shape too."""
    return x if x.ndim == 2 else x.reshape(x.shape[0], -1)


def bounded(raw: Tensor, limit: float) -> Tensor:
    """limit tanh(raw / limit): near raw where it is small, and never beyond +-limit.

    Written with the logistic function, of which torch's CPU kernel is twice as fast.
    """
    return torch.sigmoid(raw * (2.0 / limit)) * (2.0 * limit) - limit


def shuffled(dims: int, seed: int) -> tuple[int, ...]:
    """The numbers 0, ..., D - 1 in an order that depends on the seed alone."""
    return tuple(random.Random(seed).sample(range(dims), dims))


def check_count(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name!r} must be positive, got {count}")


def _log_normal(z: Tensor) -> Tensor:
    z = flat(z)
    return -0.5 * (z * z).sum(1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)

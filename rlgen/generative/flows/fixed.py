"""Transforms without parameters: they bring data into a form that is easier to model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor
from torch.nn import functional as F

from rlgen.generative.flows.flow import Transform, flat
from rlgen.generative.support import Real, Support


class Permutation(Transform):
    """The numbers of x in another order: z_k = x_order[k], both as vectors; log |det| = 0.

    Args:
        order: a permutation of 0, ..., D - 1.

    Example:
        >>> import torch
        >>> from rlgen.generative import flows
        >>> flows.Permutation((2, 0, 1))(torch.tensor([[5.0, 6.0, 7.0]]))[0]
        tensor([[7., 5., 6.]])
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"'order' must be a permutation of 0, ..., D - 1, got {tuple(order)}")
        index = torch.tensor(tuple(order))
        self.register_buffer("order", index, persistent=False)
        self.register_buffer("back", index.argsort(), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return flat(x).index_select(1, self.order).reshape(x.shape), _zero(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return flat(z).index_select(1, self.back).reshape(z.shape), _zero(z)

    def noise_shape(self, shape: Size) -> Size:
        if math.prod(shape) != len(self.order):
            raise ValueError(
                f"this Permutation takes {len(self.order)} numbers, not a shape of {tuple(shape)}"
            )
        return shape


class Reverse(Transform):
    """The numbers of x, as a vector, in reverse order; log |det| = 0."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return flat(x).flip(1).reshape(x.shape), _zero(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(z, context)


class Squeeze(Transform):
    """Trade space for channels: (C, H, W) -> (C f^2, H / f, W / f); log |det| = 0.

    Args:
        factor: f, the side of the blocks that become channels.

    Example:
        >>> import torch
        >>> from rlgen.generative import flows
        >>> flows.Squeeze()(torch.randn(5, 3, 4, 4))[0].shape
        torch.Size([5, 12, 2, 2])
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"'factor' must be positive, got {factor}")
        self.factor = factor

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return F.pixel_unshuffle(x, self.factor), _zero(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return F.pixel_shuffle(z, self.factor), _zero(z)

    def noise_shape(self, shape: Size) -> Size:
        if len(shape) != 3 or shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(
                f"Squeeze needs a shape (channels, height, width) with sides divisible by "
                f"{self.factor}, got {tuple(shape)}"
            )
        channels, height, width = shape
        factor = self.factor
        return Size([channels * factor**2, height // factor, width // factor])


class Standardise(Transform):
    """z = (x - mean) / scale, number by number; log |det dz/dx| = - sum of log scale.

    Args:
        mean: with a shape that broadcasts to that of x.
        scale: positive, with a shape that broadcasts to that of x.

    Example:
        >>> import torch
        >>> from rlgen.generative import flows
        >>> x = 5.0 + 0.1 * torch.randn(1000, 2)
        >>> z, _ = flows.Standardise.of(x)(x)
        >>> torch.allclose(z.std(0), torch.ones(2), atol=1e-3)
        True
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not (scale > 0).all():
            raise ValueError("'scale' must be positive everywhere")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    @classmethod
    def of(cls, x: Tensor) -> "Standardise":
        """What gives the data `x`, with shape (B, *), mean 0 and scale 1 in every number.

        Raises:
            ValueError: a number is the same in all of `x`, so that it has no density.
        """
        scale = x.std(0, correction=0)
        if not (scale > 0).all():
            raise ValueError("'x' holds a number that is the same in every example")
        return cls(x.mean(0), scale)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return (x - self.mean) / self.scale, -self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return self.mean + self.scale * z, self._log_det(z)

    def noise_shape(self, shape: Size) -> Size:
        for part in (self.mean, self.scale):
            if torch.broadcast_shapes(part.shape, shape) != shape:
                raise ValueError(
                    f"a mean or scale of shape {tuple(part.shape)} does not fit x of shape "
                    f"{tuple(shape)}"
                )
        return shape

    def _log_det(self, x: Tensor) -> Tensor:
        return self.scale.log().expand(x.shape[1:]).sum().expand(x.shape[0])


@dataclass(frozen=True)
class Interval(Support):
    """The open interval (low, high), in the dtype of the model."""

    low: float
    high: float

    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        real: Support = Real()
        return real._check_dtype(name, x, dtype)

    def _check_values(self, name: str, x: Tensor) -> None:
        if not ((x > self.low) & (x < self.high)).all():
            raise ValueError(f"{name!r} must lie strictly between {self.low} and {self.high}")


class Logit(Transform):
    """From the unit interval to the real line: z = logit u,  u = alpha + (1 - 2 alpha) x.

    log |det dz/dx| = sum of log (1 - 2 alpha) - log u - log (1 - u)

    With a positive alpha, 0 and 1 are ordinary values of x, and samples may lie beyond them by up
    to alpha / (1 - 2 alpha).

    References:
        | Density estimation using Real NVP (Dinh et al., 2017), section 4.1
        | https://arxiv.org/abs/1605.08803

    Args:
        alpha: how far to keep from the ends, at least 0 and below one half.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0.0 <= alpha < 0.5:
            raise ValueError(f"'alpha' must be at least 0 and below 0.5, got {alpha}")
        self.alpha = alpha
        self.width = 1.0 - 2.0 * alpha
        self.support = Interval((0.0 - alpha) / self.width, (1.0 - alpha) / self.width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        u = self.alpha + self.width * x
        log_u, log_rest = u.log(), torch.log1p(-u)
        log_det = math.log(self.width) - log_u - log_rest
        return log_u - log_rest, flat(log_det).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        # far out the logistic function rounds to 0 or 1, which `forward` cannot take back
        inside = 4.0 * torch.finfo(z.dtype).eps
        u = torch.sigmoid(z).clamp(inside, 1.0 - inside)
        log_det = u.log() + torch.log1p(-u) - math.log(self.width)
        return (u - self.alpha) / self.width, flat(log_det).sum(1)


def _zero(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0])

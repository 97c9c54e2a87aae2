"""Masked autoregressive transforms: every number is rescaled and shifted given those before it.

One direction is a single parallel pass and the other takes the D numbers one after another. Which
of them leads from data to noise is the whole difference between the two flows:
    MAF        data -> noise in one pass: fast densities, for density estimation
    IAF        noise -> data in one pass: fast samples and their densities, for posteriors
"""

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from rlgen.generative.autoregressive.base import as_order
from rlgen.generative.autoregressive.masked import MaskedMLP
from rlgen.generative.flows.flow import (
    Flow,
    Inverse,
    Transform,
    bounded,
    check_count,
    flat,
    shuffled,
)
from rlgen.generative.model import Shape, as_shape


class MaskedAffine(Transform):
    """Rescale and shift every number, given those before it in an order.

    z_i = (x_i - m_i) exp(-s_i),  m_i, s_i = net(x_<i, context),  log |det dz/dx| = - sum of s

    Forward is one parallel pass. Inverse takes the numbers one after another, and evaluates each
    unit of the network once. Each log scale lies within +-`limit`.

    References:
        | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017)
        | https://arxiv.org/abs/1705.07057

    Args:
        event_shape: of one x, which is treated as a vector.
        order: `order[k]` is the number that comes k-th; by default 0, ..., D - 1.
        hidden: widths of the network's hidden layers.
        context_shape: of the context, or None.
        limit: of the log scales.

    Example:
        >>> import torch
        >>> from rlgen.generative import flows
        >>> transform = flows.MaskedAffine(3, order=(2, 0, 1))
        >>> x = torch.randn(8, 3)
        >>> z, log_det = transform(x)
        >>> torch.allclose(transform.inverse(z)[0], x, atol=1e-5)
        True
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        order: Sequence[int] | None = None,
        hidden: Sequence[int] = (64, 64),
        context_shape: Shape | None = None,
        limit: float = 3.0,
    ) -> None:
        super().__init__()
        self.dims = math.prod(as_shape("event_shape", event_shape))
        if limit <= 0:
            raise ValueError(f"'limit' must be positive, got {limit}")
        if context_shape is not None:
            self.context_shape = as_shape("context_shape", context_shape)
        self.limit = limit
        features = 0 if self.context_shape is None else math.prod(self.context_shape)
        self.net = MaskedMLP(self.dims, 2, hidden=hidden, order=order, context_features=features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(flat(x), self._own(context)).mT.unbind(1)
        log_scale = bounded(raw, self.limit)
        z = (flat(x) - mean) * (-log_scale).exp()
        return z.reshape(x.shape), -log_scale.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        noise = flat(z).T.contiguous()  # the numbers are taken one row after another

        def choose(outputs: Tensor, dim: int) -> Tensor:
            mean, raw = outputs.unbind(1)
            return torch.addcmul(mean, noise[dim], bounded(raw, self.limit).exp())[:, None]

        x, outputs = self.net.unroll(choose, z.shape[0], self._own(context))
        log_scale = bounded(outputs[..., 1], self.limit)
        return x.reshape(z.shape), log_scale.sum(1)

    def noise_shape(self, shape: Size) -> Size:
        if math.prod(shape) != self.dims:
            raise ValueError(
                f"this MaskedAffine takes {self.dims} numbers, not a shape of {tuple(shape)}"
            )
        return shape

    def _own(self, context: Tensor | None) -> Tensor | None:
        return None if self.context_shape is None else context


class MAF(Flow):
    """Masked autoregressive flow: densities in one pass, samples one number after another.

    The first transform takes the numbers in the given order and the second in its reverse; so do
    the following pairs, each with an order of its own.

    References:
        | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017)
        | https://arxiv.org/abs/1705.07057

    Args:
        event_shape: of one x.
        transforms: how many.
        hidden: widths of each transform's hidden layers.
        order: of the first transform: `order[k]` is the number that comes k-th.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import MAF
        >>> MAF(3).log_prob(torch.randn(8, 3)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        transforms: int = 5,
        hidden: Sequence[int] = (64, 64),
        order: Sequence[int] | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        layers = _alternating(event_shape, transforms, hidden, order, context_shape)
        super().__init__(event_shape, layers, context_shape=context_shape)


class IAF(Flow):
    """Inverse autoregressive flow: samples and their densities in one pass.

    The transforms of `MAF`, inverted. The density of data that it did not draw itself is exact too,
    but takes the numbers one after another, which makes it slow to train on data.

    References:
        | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934

    Args:
        event_shape: of one x.
        transforms: how many.
        hidden: widths of each transform's hidden layers.
        order: of the first transform: `order[k]` is the number that comes k-th.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import IAF
        >>> x, log_prob = IAF(3).rsample_and_log_prob(8)
        >>> x.shape, log_prob.shape
        (torch.Size([8, 3]), torch.Size([8]))
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        transforms: int = 5,
        hidden: Sequence[int] = (64, 64),
        order: Sequence[int] | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        layers = _alternating(event_shape, transforms, hidden, order, context_shape)
        inverted = [Inverse(layer) for layer in layers]
        super().__init__(event_shape, inverted, context_shape=context_shape)


def _alternating(
    event_shape: Shape,
    transforms: int,
    hidden: Sequence[int],
    order: Sequence[int] | None,
    context_shape: Shape | None,
) -> list[MaskedAffine]:
    """Two transforms in an order and its reverse, two in a shuffled order and its reverse, ..."""
    check_count("transforms", transforms)
    dims = math.prod(as_shape("event_shape", event_shape))
    orders = [as_order(order, dims)]
    orders += [shuffled(dims, seed) for seed in range(2, transforms, 2)]
    return [
        MaskedAffine(
            event_shape,
            order=orders[i // 2][:: -1 if i % 2 else 1],
            hidden=hidden,
            context_shape=context_shape,
        )
        for i in range(transforms)
    ]

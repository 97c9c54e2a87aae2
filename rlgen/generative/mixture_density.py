"""Conditional density estimation: a network turns a context into a distribution."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from rlgen.generative import heads
from rlgen.generative.heads import Head
from rlgen.generative.model import DensityModel, Shape
from rlgen.generative.nets import MLP


class MixtureDensityNetwork(DensityModel):
    """A mixture whose weights, means and scales a network reads off a context.

    p(x | context) = sum over c of weight_c(context) N(x; mean_c(context), scale_c(context)^2)

    References:
        | Mixture density networks (Bishop, 1994), https://publications.aston.ac.uk/id/eprint/373

    Args:
        event_shape: of one x.
        context_shape: of the context.
        components: of the default head.
        hidden: widths of the network's hidden layers.
        head: what the network's outputs mean; a mixture of diagonal Gaussians unless given.

    Example:
        >>> import torch
        >>> from rlgen.generative import MixtureDensityNetwork
        >>> model = MixtureDensityNetwork(2, context_shape=3)
        >>> model.log_prob(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        context_shape: Shape,
        components: int = 5,
        hidden: Sequence[int] = (64, 64),
        head: Head | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        assert self.context_shape is not None
        self.head = heads.MixtureOfNormals(components) if head is None else head
        self.support = self.head.support
        inputs = math.prod(self.context_shape)
        self.net = MLP(inputs, self.head.size(self.event_shape), hidden)

    def distribution(self, context: Tensor) -> Distribution:
        """p(x | context): batch shape (B,), event shape `event_shape`."""
        checked = self.check_context(len(context), context)
        assert checked is not None
        return self._distribution(checked)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        assert context is not None
        return self._distribution(context).log_prob(x)

    def _distribution(self, context: Tensor) -> Distribution:
        return self.head(self.net(context.reshape(context.shape[0], -1)), self.event_shape)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del n
        assert context is not None
        return self._distribution(context).sample()

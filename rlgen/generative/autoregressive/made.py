"""MADE: one masked network gives all conditionals in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import Autoregressive, as_inputs, input_width
from rlgen.generative.autoregressive.masked import MaskedMLP
from rlgen.generative.model import Shape


class MADE(Autoregressive):
    """A masked autoencoder for distribution estimation.

    log p(x | c) = sum over i of log p(x_i | x_<i, c), where a masked MLP gives the parameters of
    all conditionals at once. Sampling goes through the dimensions one by one, but evaluates each
    unit of the network once.

    Real numbers go into the network as they are: bring them to a scale of about 1.

    References:
        | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
        | https://arxiv.org/abs/1502.03509

    Args:
        event_shape: of one x.
        head: what the outputs for one scalar mean; by default `heads.Bernoulli()`.
        hidden: widths of the hidden layers.
        order: `order[k]` is the dimension of the flattened x that comes k-th.
        direct: connect earlier dimensions to the outputs directly, too.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import MADE, heads
        >>> model = MADE(8, head=heads.Categorical(3))
        >>> x = model.sample(5)
        >>> model.log_prob(x).shape
        torch.Size([5])
        >>> model.conditionals(x).probs.shape
        torch.Size([5, 8, 3])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: heads.Head | None = None,
        hidden: Sequence[int] = (64, 64),
        order: Sequence[int] | None = None,
        direct: bool = False,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, head or heads.Bernoulli(), context_shape)
        self.net = MaskedMLP(
            self.event_shape.numel(),
            self.head.size(),
            width=input_width(self.head),
            hidden=hidden,
            order=order,
            context_features=0 if self.context_shape is None else self.context_shape.numel(),
            direct=direct,
        )

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Distribution:
        inputs = as_inputs(self.head, x, self.dtype).reshape(len(x), -1)
        return self._distribution(self.net(inputs, context))

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        if self.event_shape.numel() > 1 or context is None:
            return super()._sample(n, context)
        nothing = context.new_zeros(1, *self.event_shape)  # comes before a single number
        x: Tensor = self._conditionals(nothing, context).sample()
        return x

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        drawn: dict[int, Tensor] = {}

        def draw(outputs: Tensor, dim: int) -> Tensor:
            drawn[dim] = self.head(outputs).sample()
            return as_inputs(self.head, drawn[dim], outputs.dtype)

        _, outputs = self.net.unroll(draw, n, context)
        x = torch.stack([drawn[dim] for dim in range(len(drawn))], dim=1)
        x = x.reshape(n, *self.event_shape)
        return x, self._distribution(outputs).log_prob(x).reshape(n, -1).sum(1)

    def _distribution(self, outputs: Tensor) -> Distribution:
        """Outputs (B, D, size) -> distributions of scalars, batch shape (B, *event_shape)."""
        return self.head(outputs.reshape(len(outputs), *self.event_shape, -1))

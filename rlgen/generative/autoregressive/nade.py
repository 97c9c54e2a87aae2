"""NADE: conditionals with hidden layers of their own that share their weights."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import Autoregressive, as_inputs, as_order, input_width
from rlgen.generative.model import Shape
from rlgen.generative.nets import check_widths
from rlgen.generative.support import Real, Unit


class NADE(Autoregressive):
    """A neural autoregressive distribution estimator.

    With positions k = 0, ..., D - 1 in the order,
        h_k = sigmoid(c + sum over j < k of W_j x_j),  outputs_k = b_k + V_k h_k,
    and the head turns outputs_k into p(x_k | x_<k). What goes into the sigmoid is a running sum,
    so all D hidden layers of H units cost O(D H). A context shifts c and b linearly.

    Real numbers go into the network as they are: bring them to a scale of about 1.

    References:
        | The Neural Autoregressive Distribution Estimator (Larochelle and Murray, 2011)
        | https://proceedings.mlr.press/v15/larochelle11a.html

    Args:
        event_shape: of one x.
        head: what the outputs for one scalar mean; by default `heads.Bernoulli()`.
        hidden: H, how many hidden units each conditional has.
        order: `order[k]` is the dimension of the flattened x at position k.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import NADE
        >>> model = NADE(8, hidden=16)
        >>> x, log_prob = model.sample_and_log_prob(5)
        >>> bool(torch.isclose(log_prob, model.log_prob(x)).all())
        True
    """

    _activation: Callable[[Tensor], Tensor] = staticmethod(torch.sigmoid)
    _order: Tensor
    _position: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: heads.Head | None = None,
        hidden: int = 64,
        order: Sequence[int] | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, head or heads.Bernoulli(), context_shape)
        check_widths("hidden", (hidden,))
        dims, outputs = self.event_shape.numel(), self.head.size()
        self.order = as_order(order, dims)
        by_position = torch.tensor(self.order)
        self.register_buffer("_order", by_position, persistent=False)
        self.register_buffer("_position", by_position.argsort(), persistent=False)
        # all parameters are stored by position
        width = input_width(self.head)
        self.W = nn.Parameter(_uniform(dims, width, hidden, fan_in=dims * width))
        self.c = nn.Parameter(_uniform(hidden, fan_in=dims * width))
        self.V = nn.Parameter(_uniform(dims, outputs, hidden, fan_in=hidden))
        self.b = nn.Parameter(torch.zeros(dims, outputs))
        self.context_c = self.context_b = None
        if self.context_shape is not None:
            given = self.context_shape.numel()
            self.context_c = nn.Linear(given, hidden, bias=False)
            self.context_b = nn.Linear(given, dims * outputs, bias=False)

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Distribution:
        x = x.reshape(len(x), -1).index_select(1, self._order)
        inputs = as_inputs(self.head, x, self.dtype)
        first, b = self._biases(len(x), context)
        steps = torch.einsum("bki,kih->bkh", inputs[:, :-1], self.W[:-1])
        before = torch.cat([first[:, None], steps], dim=1).cumsum(1)
        outputs = b + torch.einsum("bkh,koh->bko", self._activation(before), self.V)
        return self._distribution(outputs)

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        before, b = self._biases(n, context)
        drawn, outputs = [], []
        for k in range(len(self.order)):
            outputs.append(b[:, k] + self._activation(before) @ self.V[k].T)
            drawn.append(self.head(outputs[-1]).sample())
            before = before + as_inputs(self.head, drawn[-1], before.dtype) @ self.W[k]
        x = torch.stack(drawn, dim=1).index_select(1, self._position)
        x = x.reshape(n, *self.event_shape)
        log_prob = self._distribution(torch.stack(outputs, dim=1)).log_prob(x)
        return x, log_prob.reshape(n, -1).sum(1)

    def _biases(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """c with shape (n, H), and b with shape (n, D, outputs)."""
        c, b = self.c.expand(n, -1), self.b.expand(n, -1, -1)
        if context is None or self.context_c is None or self.context_b is None:
            return c, b
        flat = context.reshape(n, -1)
        return c + self.context_c(flat), b + self.context_b(flat).reshape(b.shape)

    def _distribution(self, outputs: Tensor) -> Distribution:
        """Outputs (B, D, size) by position -> distributions, batch shape (B, *event_shape)."""
        outputs = outputs.index_select(1, self._position)
        return self.head(outputs.reshape(len(outputs), *self.event_shape, -1))


class RNADE(NADE):
    """A real-valued NADE: each conditional is a mixture of Gaussians, and h_k has a ReLU.

    Real numbers go into the network as they are: bring them to a scale of about 1.

    References:
        | RNADE: The real-valued neural autoregressive density-estimator (Uria et al., 2013)
        | https://arxiv.org/abs/1306.0186

    Args:
        event_shape: of one x.
        head: a head of real numbers; by default `heads.MixtureOfNormals(5)`.
        hidden: how many hidden units each conditional has.
        order: `order[k]` is the dimension of the flattened x at position k.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import RNADE
        >>> RNADE(3).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    _activation = staticmethod(F.relu)

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: heads.Head | None = None,
        hidden: int = 64,
        order: Sequence[int] | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        head = head or heads.MixtureOfNormals(5)
        if not isinstance(head.support, Real | Unit):
            raise ValueError(f"'head' must be one of real numbers, got {head}")
        super().__init__(
            event_shape, head=head, hidden=hidden, order=order, context_shape=context_shape
        )


def _uniform(*shape: int, fan_in: int) -> Tensor:
    bound = 1.0 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound)

"""The chain rule: p(x) = product over i of p(x_i | x_<i), for any conditionals.

Notation: D numbers in one x, taken one after another in an order; each conditional is a head's
distribution of one scalar.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from rlgen.generative import heads
from rlgen.generative.heads import Head
from rlgen.generative.model import DensityModel, Shape
from rlgen.generative.support import Symbols


class Autoregressive(DensityModel):
    """A density by the chain rule. A family gives the conditionals, all at once and one by one.

    It implements `_conditionals` and `_sample_and_log_prob`, which get verified data.

    Args:
        event_shape: of one x.
        head: what the outputs for one scalar mean.
        context_shape: of the context, or None.
    """

    def __init__(self, event_shape: Shape, head: Head, context_shape: Shape | None = None) -> None:
        super().__init__(event_shape, context_shape)
        self.head = head
        self.support = head.support

    @abstractmethod
    def _conditionals(self, x: Tensor, context: Tensor | None) -> Distribution:
        """`conditionals` of verified data: those of all dimensions in one parallel pass."""

    @abstractmethod
    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ancestral sampling, adding up the log probabilities of what was drawn."""

    def conditionals(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """All p(x_i | x_<i) at once: a distribution of scalars, batch shape (B, *event_shape)."""
        return self._conditionals(*self.check(x, context))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self._conditionals(x, context).log_prob(x).reshape(len(x), -1).sum(1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self._sample_and_log_prob(n, context)[0]


def input_width(head: Head) -> int:
    """How many numbers tell a network the value of one scalar: see `as_inputs`."""
    return head.categories if isinstance(head, heads.Categorical) else 1


def as_inputs(head: Head, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as network inputs: categories one-hot, ordered symbols on [-1, 1], numbers as given.

    Args:
        head: of the scalars in x.
        x: values with shape (*,).
        dtype: of the network.

    Returns:
        Inputs with shape (*, input_width(head)).
    """
    if isinstance(head, heads.Categorical):
        symbols = torch.arange(head.categories, device=x.device)
        return (x[..., None] == symbols).to(dtype)
    if isinstance(head.support, Symbols):
        return 2.0 * x[..., None].to(dtype) / (head.support.count - 1) - 1.0
    return x[..., None]


def as_order(order: Sequence[int] | None, dims: int) -> tuple[int, ...]:
    """A permutation of the D dimensions: `order[k]` is the one that comes k-th."""
    given = tuple(range(dims)) if order is None else tuple(order)
    if sorted(given) != list(range(dims)):
        raise ValueError(f"'order' must be a permutation of 0 to {dims - 1}, got {given}")
    return given

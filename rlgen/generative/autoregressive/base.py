"""The chain rule: p(x) = product over i of p(x_i | x_<i), for any conditionals.

Notation: D numbers in one x, taken one after another in an order; each conditional is a head's
distribution of one scalar.
"""

from abc import abstractmethod

from torch import Tensor
from torch.distributions import Distribution

from rlgen.generative.heads import Head
from rlgen.generative.model import DensityModel, Shape


class Autoregressive(DensityModel):
    """A density by the chain rule. A family gives the conditionals, all at once and one by one.

    Args:
        event_shape: of one x.
        head: what the outputs for one scalar mean.
        context_shape: of the context, or None.
    """

    def __init__(
        self, event_shape: Shape, head: Head, context_shape: Shape | None = None
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.head = head
        self.support = head.support

    @abstractmethod
    def conditionals(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """All p(x_i | x_<i) in one parallel pass: batch shape (B, *event_shape)."""

    @abstractmethod
    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ancestral sampling, adding up the log probabilities of what was drawn."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self.conditionals(x, context).log_prob(x).flatten(1).sum(1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self._sample_and_log_prob(n, context)[0]


def as_order(order: object, dims: int) -> tuple[int, ...]:
    """A permutation of the D dimensions: `order[k]` is the one that comes k-th."""
    given = tuple(range(dims)) if order is None else tuple(order)  # type: ignore[call-overload]
    if sorted(given) != list(range(dims)):
        raise ValueError(f"'order' must be a permutation of 0 to {dims - 1}, got {given}")
    return given

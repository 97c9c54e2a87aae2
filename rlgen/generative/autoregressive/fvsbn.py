"""The fully visible sigmoid belief network: logistic regression of each bit on those before it."""

from collections.abc import Sequence

from rlgen.generative.autoregressive.made import MADE
from rlgen.generative.model import Shape


class FVSBN(MADE):
    """A fully visible sigmoid belief network: a MADE without hidden layers.

    p(x_i = 1 | x_<i) = sigmoid(b_i + sum over j < i of w_ij x_j), with D (D + 1) / 2 parameters
    that count. No conditional can depend on an interaction of bits, such as their exclusive or.

    References:
        | Connectionist learning of belief networks (Neal, 1992)
        | https://doi.org/10.1016/0004-3702(92)90065-6
        | Graphical Models for Machine Learning and Digital Communication (Frey, 1998)

    Args:
        event_shape: of one x.
        order: `order[k]` is the dimension of the flattened x that comes k-th.
        context_shape: of the context, or None.

    Example:
        >>> from rlgen.generative import FVSBN
        >>> model = FVSBN((2, 3))
        >>> model.sample(5).shape
        torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        order: Sequence[int] | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, hidden=(), order=order, context_shape=context_shape)

"""Noise of a fixed amount around a function's values.

H(f) = I(f; z) + H(f | z), and H(f | z) is the entropy of the noise. If that could be trained, the
largest H(f) would be nothing but noise: so it is fixed, and so known.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution
from torch.types import _size

from rlgen.generative.heads import EventShape, FixedNormal, Head
from rlgen.generative.support import Binary, Support


@dataclass(frozen=True)
class BitFlip(Head):
    """Bits: 1 where the output is positive and 0 elsewhere, each flipped with one probability.

    Gradients pass the threshold as if it were a logistic curve, and a sample as if it were its
    probability.

    References:
        | Estimating or propagating gradients through stochastic neurons for conditional computation
        | (Bengio et al., 2013), https://arxiv.org/abs/1308.3432

    Args:
        probability: that a bit is flipped, between 0 and 1/2.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> head = functions.BitFlip(0.05)
        >>> head(torch.tensor([[3.0, -0.1]]), (2,)).base_dist.probs
        tensor([[0.9500, 0.0500]])
    """

    probability: float = 0.05
    support: ClassVar[Support] = Binary()

    def __post_init__(self) -> None:
        if not 0 < self.probability < 0.5:
            raise ValueError(f"'probability' must lie in (0, 1/2), got {self.probability}")

    def size(self, event_shape: EventShape = ()) -> int:
        return math.prod(event_shape)

    def __call__(self, outputs: Tensor, event_shape: EventShape = ()) -> Distribution:
        outputs = outputs.unflatten(-1, (*event_shape, 1)).squeeze(-1)
        smooth = outputs.sigmoid()
        bits = smooth + ((outputs > 0).to(outputs.dtype) - smooth).detach()
        flipped = self.probability + (1.0 - 2.0 * self.probability) * bits
        return D.Independent(_Bits(flipped), len(event_shape), validate_args=False)


def noise_entropy(head: Head, event_shape: EventShape) -> float:
    """H(f | z) in nats: the same for every z and every function.

    Raises:
        ValueError: the noise of the head depends on its outputs, so training would change it.
    """
    values = math.prod(event_shape)
    if isinstance(head, FixedNormal):
        return 0.5 * values * math.log(2.0 * math.pi * math.e * head.scale**2)
    if isinstance(head, BitFlip):
        p = head.probability
        return -values * (p * math.log(p) + (1.0 - p) * math.log1p(-p))
    raise ValueError(
        "'head' must have noise of a fixed amount, FixedNormal or BitFlip: the outputs of "
        f"{type(head).__name__} also set its noise, and the entropy of functions would be "
        "raised by noise alone, telling nothing about z"
    )


class _Bits(D.Bernoulli):
    """Bits whose samples pass gradients on to their probabilities, unchanged."""

    has_rsample = True

    def __init__(self, probs: Tensor) -> None:
        super().__init__(probs=probs, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Any = None) -> "_Bits":
        return _Bits(self.probs.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        probs = self.probs.expand(self._extended_shape(sample_shape))
        return (torch.rand_like(probs) < probs).to(probs.dtype) + (probs - probs.detach())

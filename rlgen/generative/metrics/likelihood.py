"""How likely held-out data are, and whether that number is exact or a bound."""

import math
from dataclasses import dataclass

import torch

from rlgen.generative.data import length, take
from rlgen.generative.model import Batch, Bound, Density, GenerativeModel, evaluating
from rlgen.seeding import drawing_from


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Mean nats per example on held-out data, and whether that is exact or an upper bound.

    Attributes:
        nats: the mean.
        standard_error: of the mean over examples.
        kind: "exact", or "bound" (the truth is at most this).
        dims: numbers in one example.
    """

    nats: float
    standard_error: float
    kind: str
    dims: int

    @property
    def bits_per_dim(self) -> float:
        return bits_per_dim(self.nats, self.dims)

    def __str__(self) -> str:
        sign = "" if self.kind == "exact" else "<= "
        return f"{sign}{self.nats:.4f} +- {self.standard_error:.4f} nats"


@torch.no_grad()
def held_out(
    model: GenerativeModel,
    x: Batch,
    context: Batch | None = None,
    *,
    samples: int = 1,
    batch_size: int = 1024,
    seed: int = 0,
) -> NegativeLogLikelihood:
    """The negative log likelihood of held-out data: exact where the model has a density.

    Args:
        model: any `Density` or `Bound`.
        x: held-out data.
        context: one for each x.
        samples: of the importance-weighted bound; a density has no use for them.
        batch_size: examples at a time.
        seed: of a bound's noise.
    """
    if not isinstance(model, Density | Bound):
        raise TypeError(f"{type(model).__name__} has neither a density nor a bound")
    parts = []
    with evaluating(model), drawing_from(seed):
        for start in range(0, length(x), batch_size):
            part = slice(start, start + batch_size)
            given = (take(x, part), None if context is None else take(context, part))
            if isinstance(model, Density):
                parts.append(model.log_prob(*given))
            else:
                parts.append(model.elbo(*given, samples=samples))
    nats = -torch.cat(parts).double()
    kind = "exact" if isinstance(model, Density) else "bound"
    error = float(nats.std()) / math.sqrt(len(nats)) if len(nats) > 1 else float("nan")
    return NegativeLogLikelihood(float(nats.mean()), error, kind, math.prod(model.event_shape))


def bits_per_dim(nats: float, dims: int) -> float:
    """Nats per example -> bits per dimension."""
    return nats / (dims * math.log(2))

"""A codebook that learns by moving averages, and never leaves a code unused for long."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# a code is dead if it is chosen less often than this share of the average
_DEAD = 0.05
# a revived code starts with this share of the average count, so it soon follows its outputs
_REVIVED = 0.2
# places that are tried for one revived code
_TRIES = 16
# share of the uniform distribution in the prior
_UNIFORM = 0.01


class Codebook(nn.Module):
    """K vectors, and how often each is chosen.

    References:
        | Neural discrete representation learning (van den Oord et al., 2017), appendix A.1
        | https://arxiv.org/abs/1711.00937
        | k-means++: the advantages of careful seeding (Arthur and Vassilvitskii, 2007)
        | https://theory.stanford.edu/~sergei/papers/kMeansPP-soda.pdf

    Args:
        codes: K.
        features: L, numbers in one vector.
        positions: where codes stand in one x.
        decay: of the moving averages.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    usage: Tensor
    started: Tensor

    def __init__(
        self, codes: int, features: int, positions: torch.Size, *, decay: float = 0.99
    ) -> None:
        super().__init__()
        if codes < 2:
            raise ValueError(f"'codes' must be at least 2, got {codes}")
        if not 0 <= decay < 1:
            raise ValueError(f"'decay' must lie in [0, 1), got {decay}")
        self.decay = decay
        vectors = torch.randn(codes, features)
        self.register_buffer("vectors", vectors)  # (K, L)
        self.register_buffer("counts", torch.ones(codes))  # how often chosen in a minibatch
        self.register_buffer("sums", vectors.clone())  # of the outputs that chose each
        self.register_buffer("usage", torch.full((*positions, codes), 1.0 / codes))
        self.register_buffer("started", torch.tensor(False))

    @property
    def probs(self) -> Tensor:
        """How often each code stands at each position, smoothed, with shape (*positions, K)."""
        return (1.0 - _UNIFORM) * self.usage + _UNIFORM / self.usage.shape[-1]

    def nearest(self, z: Tensor) -> Tensor:
        """(*, L) -> the nearest code of each, with shape (*,)."""
        # about their centre, so that no precision is lost to a common offset
        centre = self.vectors.mean(0)
        vectors = self.vectors - centre
        return ((z - centre) @ vectors.T - 0.5 * vectors.square().sum(1)).argmax(-1)

    def embed(self, codes: Tensor) -> Tensor:
        """(*,) -> their vectors, with shape (*, L)."""
        return F.embedding(codes, self.vectors)

    @torch.no_grad()
    def set(self, vectors: Tensor) -> None:
        """Begin at `vectors` with shape (K, L) instead of at encoder outputs."""
        if vectors.shape != self.vectors.shape:
            wanted, got = tuple(self.vectors.shape), tuple(vectors.shape)
            raise ValueError(f"'vectors' must have shape {wanted}, got {got}")
        self.vectors.copy_(vectors)
        self.sums.copy_(vectors)
        self.counts.fill_(1.0)
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, outputs: Tensor, chosen: Tensor) -> None:
        """Move each code towards the mean of the outputs that chose it, and dead ones elsewhere.

        Args:
            outputs: of the encoder for one minibatch, with shape (B, *positions, L).
            chosen: the code of each, with shape (B, *positions).
        """
        z = outputs.flatten(0, -2)
        table = torch.zeros_like(self.usage.flatten(0, -2))
        at_positions = chosen.flatten(1).T
        table.scatter_add_(1, at_positions, torch.ones_like(at_positions, dtype=z.dtype))
        counts = table.sum(0)
        rate = (1.0 - self.decay) * self.started.to(z.dtype)
        self.usage.lerp_(table.view_as(self.usage) / len(outputs), rate)
        self.counts.lerp_(counts, rate)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, chosen.flatten(), z), rate)
        used = self.counts > 0
        means = self.sums / torch.where(used, self.counts, 1.0)[:, None]
        self.vectors.copy_(torch.where(used[:, None], means, self.vectors))
        average = len(z) / len(counts)
        unused = (counts == 0) & (self.counts < _DEAD * average)
        self._revive(z, unused | ~self.started, _REVIVED * average)
        self.started.fill_(True)

    def _revive(self, z: Tensor, dead: Tensor, count: float) -> None:
        """Move dead codes to outputs that are far from all others, as k-means++ does.

        A place is drawn in proportion to the squared distance to its nearest code; of a few, the
        one is taken that leaves the smallest sum of them.
        """
        rows = dead.nonzero().flatten().tolist()
        if not rows:
            return
        alive = self.vectors[~dead]
        nearest = _squared(z, alive).amin(1) if len(alive) else z.new_full((len(z),), torch.inf)
        for row in rows:
            weight = torch.where(nearest.isinf(), 1.0, nearest).cumsum(0)
            uniform = torch.rand(_TRIES, dtype=z.dtype, device=z.device)
            drawn = torch.searchsorted(weight, uniform * weight[-1]).clamp(max=len(z) - 1)
            left = torch.minimum(nearest, _squared(z[drawn], z))
            best = left.sum(1).argmin()
            nearest = left[best]
            self.vectors[row] = z[drawn[best]]
        self.counts.masked_fill_(dead, count)
        self.sums.copy_(torch.where(dead[:, None], count * self.vectors, self.sums))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances with shape (len(a), len(b))."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()

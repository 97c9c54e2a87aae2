"""How many of the modes of the data a model's samples reach."""

import torch
from torch import Tensor

from rlgen.generative.model import GenerativeModel


class ModesCovered:
    """Counts the modes with samples near them, where the modes are known.

    A sample belongs to the nearest centre, if that is within `radius`. A mode is covered when its
    samples are at least `least` times an even share of all, n / M.

    Args:
        centres: of the M modes, with shape (M, *event_shape).
        radius: Euclidean; for round Gaussian modes, three standard deviations is usual.
        least: the part of an even share that a covered mode has; 1 sample at the least.
        samples: drawn from a model.
        context: for a model that needs one, with shape (samples, *context_shape), or
            context_shape.
        seed: of the draws, the same at every call.

    Example:
        >>> import torch
        >>> from rlgen.generative import Gaussian, metrics
        >>> modes = metrics.ModesCovered(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), radius=3.0)
        >>> modes.count(torch.randn(100, 2))
        1
        >>> modes(Gaussian(2))
        1.0
    """

    def __init__(
        self,
        centres: Tensor,
        radius: float,
        *,
        least: float = 0.1,
        samples: int = 2000,
        context: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        if centres.ndim < 1 or centres.numel() == 0:
            raise ValueError(f"'centres' must hold at least one, got {tuple(centres.shape)}")
        if radius <= 0:
            raise ValueError(f"'radius' must be positive, got {radius}")
        if not 0 <= least <= 1:
            raise ValueError(f"'least' must be from 0 to 1, got {least}")
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        self.centres = centres
        self.radius = radius
        self.least = least
        self.samples = samples
        self.context = context
        self.seed = seed

    def __call__(self, model: GenerativeModel) -> float:
        """The modes that a model covers: a measure for `fit(measures=...)`."""
        return float(self.count(self.draw(model)))

    def draw(self, model: GenerativeModel) -> Tensor:
        """The samples that a model is measured by."""
        return model.sample(self.samples, self.context, generator=self.seed)

    def count(self, samples: Tensor) -> int:
        """How many modes have samples enough near them, of samples (n, *event_shape)."""
        shares = self.shares(samples)
        enough = max(self.least / len(shares), 1.0 / len(samples))
        return int((shares >= enough * (1.0 - 1e-6)).sum())

    def fraction(self, samples: Tensor) -> float:
        """The part of the samples that lies within the radius of a centre."""
        return float(self.shares(samples).sum())

    @torch.no_grad()
    def shares(self, samples: Tensor) -> Tensor:
        """The part of the samples at each mode, with shape (M,)."""
        if samples.shape[1:] != self.centres.shape[1:] or len(samples) == 0:
            wanted = ", ".join(["n", *map(str, self.centres.shape[1:])])
            raise ValueError(f"'samples' must have shape ({wanted}), got {tuple(samples.shape)}")
        rows = samples.reshape(len(samples), -1).double()
        centres = self.centres.to(rows).reshape(len(self.centres), -1)
        distances, nearest = torch.cdist(rows, centres).min(1)
        near = nearest[distances <= self.radius]
        return torch.bincount(near, minlength=len(centres)).double() / len(samples)

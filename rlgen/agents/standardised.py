"""Observations as numbers of about unit variance."""

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from rlgen.agents.observations import Features
from rlgen.agents.transitions import flat_space

_FARTHEST = 5.0  # deviations


class Standardised(nn.Module):
    """Features of observations, by the mean and deviation of all that were noted.

    A network is slow to tell one-hot vectors apart unless their entries have about unit variance.
    Before any were noted, a batch is measured by itself.

    Args:
        space: of observations, a Box or a Dict.
        pictures: keep the form of pictures, pixel by pixel, so that what never changes in them is
            zero and what is small and moves is large; else they go through a fixed random
            network.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, space: gymnasium.Space[Any], *, pictures: bool = False) -> None:
        super().__init__()
        self.features = features_of(space).requires_grad_(False)
        self.picture = pictures and self.features.picture
        if self.picture:
            self.features.convolutions = None
        self.shape = torch.Size(self.features.shape if self.picture else (self.features.width,))
        self.width = self.shape.numel()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("variance", torch.ones(self.shape))

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *observation) -> (B, *shape), none beyond five deviations."""
        x = self._seen(obs)
        mean, variance, noted = self.mean, self.variance, self.count > 0
        # an accelerator would be waited for
        if x.device.type != "cpu" or not bool(noted):
            mean = torch.where(noted, mean, x.mean(0))
            variance = torch.where(noted, variance, x.var(0, unbiased=False))
        scaled: Tensor = (x - mean) / (variance + 1e-6).sqrt()
        return scaled.clamp(-_FARTHEST, _FARTHEST)

    @torch.no_grad()
    def note(self, obs: Tensor) -> None:
        """Chan's update of count, mean and variance."""
        x = self._seen(obs)
        self.count += len(x)
        share = (len(x) / self.count).to(x.dtype)
        gap = x.mean(0) - self.mean
        spread = x.var(0, unbiased=False) + (1 - share) * gap.square()
        self.variance.lerp_(spread, share)
        self.mean += share * gap

    def _seen(self, obs: Tensor) -> Tensor:
        x: Tensor = self.features.scaled(obs) if self.picture else self.features(obs)
        return x


def features_of(space: gymnasium.Space[Any]) -> Features:
    """The features of observations: of a Box, or of a Dict, which transitions hold flattened."""
    box = flat_space(space)
    return Features(box.shape, getattr(torch, str(box.dtype)))

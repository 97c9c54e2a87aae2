"""Dequantisation: symbols under a density of real numbers."""

import math

import torch
from torch import Tensor

from rlgen.generative.model import DensityModel, GenerativeModel
from rlgen.generative.support import Symbols


class Dequantised(GenerativeModel):
    """Ordered symbols 0, ..., L - 1 with uniform noise, under a density on the unit interval.

    log P(x) >= E log p(u) - D log L,  u = (x + noise) / L,  noise uniform on [0, 1)^D

    The bound is on the log mass of the rounded density: P(x) is the integral of p over the cube of
    side 1 / L that x stands for. Mass of p outside the unit interval goes to the nearest symbol.

    References:
        | A note on the evaluation of generative models (Theis et al., 2016), section 3.1
        | https://arxiv.org/abs/1511.01844

    Args:
        density: of u, with the same event shape. Numbers near 0 and 1 must be in its support.
        levels: L, how many symbols there are.

    Example:
        >>> import torch
        >>> from rlgen.generative import Dequantised, Flow, RealNVP, flows
        >>> model = Dequantised(Flow(2, [flows.Logit(), *RealNVP(2).transforms]), levels=4)
        >>> model.elbo(torch.tensor([[0, 3], [2, 1]])).shape
        torch.Size([2])
        >>> model.sample(5).dtype
        torch.int64
    """

    def __init__(self, density: DensityModel, *, levels: int) -> None:
        super().__init__(density.event_shape, density.context_shape)
        self.density = density
        self.levels = levels
        self.support = Symbols(levels)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """A lower bound of the log mass in nats, in expectation over the noise.

        Args:
            x: symbols with shape (B, *event_shape).
            context: one for each x.
            samples: draws of the noise for each x. The bound is the logarithm of their mean
                density, which rises with their number towards the log mass.

        Returns:
            The bound for each example, with shape (B,).
        """
        x, context = self.check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        batch = x.shape[0]
        if samples > 1:
            x = x.repeat_interleave(samples, dim=0)
            context = None if context is None else context.repeat_interleave(samples, dim=0)
        log_density = self.density.log_prob(self._dequantise(x), context)
        cube = math.prod(self.event_shape) * math.log(self.levels)
        bounds = log_density.reshape(batch, samples) - cube
        return torch.logsumexp(bounds, dim=1) - math.log(samples)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.elbo(x, context)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        u = self.density.sample(n, context)
        return (u * self.levels).floor().clamp(0, self.levels - 1).long()

    def _dequantise(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, dtype=self.dtype, device=x.device)
        # rounding may give exactly 0 or 1, where a density on the open interval is not finite
        ends = torch.finfo(noise.dtype)
        return ((x + noise) / self.levels).clamp(ends.tiny, 1.0 - ends.eps)

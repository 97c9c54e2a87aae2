"""Distributions that torch lacks."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F


class DiscretisedLogistic(Distribution):
    """Integers 0, ..., bins - 1: a logistic variable on [-1, 1], integrated over each bin.

    Bin k is centred at c_k = 2 k / (bins - 1) - 1 and has half-width h = 1 / (bins - 1):
        P(k) = sigmoid(b) - sigmoid(a),  a = (c_k - h - mean) / scale,  b = (c_k + h - mean) / scale
    The first and the last bin also take the tails, so the masses sum to 1.

    References:
        | PixelCNN++ (Salimans et al., 2017), https://arxiv.org/abs/1701.05517
    """

    arg_constraints = {"mean": constraints.real, "scale": constraints.positive}

    def __init__(self, mean: Tensor, scale: Tensor, bins: int) -> None:
        self._mean, self.scale = torch.broadcast_tensors(mean, scale)
        self.bins = bins
        super().__init__(batch_shape=self._mean.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.bins - 1)

    @property
    def mean(self) -> Tensor:
        """Sum of P(x >= k) over k = 1, ..., bins - 1."""
        k = torch.arange(1, self.bins, device=self._mean.device, dtype=self._mean.dtype)
        edge = (2 * k - 1) / (self.bins - 1) - 1
        return torch.sigmoid((self._mean[..., None] - edge) / self.scale[..., None]).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)): no difference of
        # nearly equal numbers, so it holds in the far tails. An edge bin loses one factor.
        half = 1.0 / (self.bins - 1)
        centred = 2.0 * half * value.to(self._mean.dtype) - 1.0 - self._mean
        upper = F.logsigmoid((centred + half) / self.scale)
        lower = F.logsigmoid(-(centred - half) / self.scale)
        inner = upper + lower + torch.log(-torch.expm1(-2.0 * half / self.scale))
        edges = torch.where(value == 0, upper, torch.where(value == self.bins - 1, lower, inner))
        return edges

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            tiny = torch.finfo(self._mean.dtype).tiny
            uniform = torch.rand(shape, dtype=self._mean.dtype, device=self._mean.device)
            uniform = uniform.clamp(tiny, 1.0 - torch.finfo(self._mean.dtype).eps)
            x = self._mean + self.scale * torch.logit(uniform)
            return ((x + 1.0) * (self.bins - 1) / 2.0).round().clamp(0, self.bins - 1).long()


class LogitNormal(Distribution):
    """x in (0, 1) whose logit is Gaussian: log p(x) = log N(logit x; loc, scale) - log x (1 - x).

    References:
        | Logistic-normal distributions: some properties and uses (Atchison and Shen, 1980)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(batch_shape=self.loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """By Gauss-Hermite quadrature: it has no closed form."""
        node, weight = np.polynomial.hermite_e.hermegauss(64)
        nodes = torch.as_tensor(node, dtype=self.loc.dtype, device=self.loc.device)
        weights = torch.as_tensor(weight / weight.sum(), dtype=nodes.dtype, device=nodes.device)
        return torch.sigmoid(self.loc[..., None] + self.scale[..., None] * nodes) @ weights

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (torch.logit(value) - self.loc) / self.scale
        gaussian = -0.5 * standard**2 - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return gaussian - value.log() - torch.log1p(-value)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        inside = torch.finfo(self.loc.dtype).eps  # sigmoid rounds to 0 or 1 in the far tails
        return torch.sigmoid(self.loc + self.scale * noise).clamp(inside, 1.0 - inside)

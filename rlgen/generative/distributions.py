"""Distributions that torch lacks."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F
from torch.types import _size

from rlgen.seeding import normal, uniform

_Shape = torch.Size | list[int] | tuple[int, ...]
_NONE = torch.Size()


class Categorical(torch.distributions.Categorical):
    """Torch's, drawn with one uniform number for each variable instead of one for each symbol.

    For few symbols this and the sums below are several times faster than torch's kernels.

    Args:
        logits: of the symbols, with shape (*batch, symbols).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()  # torch keeps them normalised

    def sample(self, sample_shape: _size = _NONE) -> Tensor:
        below = self.probs.detach().cumsum(-1)
        whole = below[..., -1]
        draw = uniform((*sample_shape, *whole.shape), whole)
        # strictly less than the whole after rounding: a symbol of no probability is never drawn
        draw = draw.clamp_max(1.0 - torch.finfo(whole.dtype).eps) * whole
        return (below <= draw[..., None]).sum(-1)

    def expand(self, batch_shape: _Shape, _instance: object = None) -> "Categorical":
        return Categorical(self.logits.expand(*batch_shape, -1))

    def entropy(self) -> Tensor:
        floor = torch.finfo(self.logits.dtype).min
        return -(self.probs * self.logits.clamp_min(floor)).sum(-1)


class Normal(torch.distributions.Normal):
    """Torch's, drawn with `seeding.normal`, whose noise groups of rows can share.

    Args:
        mean: with any shape.
        scale: positive, with the shape of `mean`.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__(mean, scale, validate_args=False)

    def sample(self, sample_shape: _size = _NONE) -> Tensor:
        shape = (*sample_shape, *self.batch_shape)
        return (self.loc + self.scale * normal(shape, self.loc)).detach()

    def expand(self, batch_shape: _Shape, _instance: object = None) -> "Normal":
        return Normal(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class MixtureOfNormals(torch.distributions.MixtureSameFamily):
    """Torch's, of diagonal normals, drawn from the one component that was chosen.

    Args:
        logits: of the components, with shape (*batch, K).
        mean: with shape (*batch, K, *event).
        scale: with shape (*batch, K, *event).
    """

    def __init__(self, logits: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.mean_of_each, self.scale_of_each = mean, scale
        normals: Distribution = Normal(mean, scale)
        dims = mean.ndim - logits.ndim
        if dims:
            normals = torch.distributions.Independent(normals, dims, validate_args=False)
        super().__init__(Categorical(logits), normals, validate_args=False)

    def sample(self, sample_shape: _size = _NONE) -> Tensor:
        chosen = self.mixture_distribution.sample(sample_shape)
        dims = len(self.event_shape)
        index = chosen.reshape(*chosen.shape, 1, *[1] * dims)
        shape = (*sample_shape, *self.mean_of_each.shape)
        index = index.expand(*index.shape[: chosen.ndim + 1], *self.event_shape)
        at = -1 - dims
        mean = self.mean_of_each.expand(shape).gather(at, index).squeeze(at)
        scale = self.scale_of_each.expand(shape).gather(at, index).squeeze(at)
        return (mean + scale * normal(mean.shape, mean)).detach()


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

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            tiny = torch.finfo(self._mean.dtype).tiny
            uniform = torch.rand(shape, dtype=self._mean.dtype, device=self._mean.device)
            uniform = uniform.clamp(tiny, 1.0 - torch.finfo(self._mean.dtype).eps)
            x = self._mean + self.scale * torch.logit(uniform)
            bins: Tensor = ((x + 1.0) * (self.bins - 1) / 2.0).round()
            return bins.clamp(0, self.bins - 1).long()


class Kumaraswamy(Distribution):
    """x in (0, 1) with log p(x) = log a b + (a - 1) log x + (b - 1) log(1 - x^a).

    Unlike torch's, it never rounds a power to 0 or 1, nor samples them.

    References:
        | A generalized probability density function for double-bounded random processes
        | (Kumaraswamy, 1980), https://doi.org/10.1016/0022-1694(80)90036-0
    """

    arg_constraints = {"a": constraints.positive, "b": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a: Tensor
        self.b: Tensor
        self.a, self.b = torch.broadcast_tensors(a, b)
        super().__init__(batch_shape=self.a.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """b B(1 + 1 / a, b), with the Beta function B."""
        one_more = 1.0 + 1.0 / self.a
        log_beta = one_more.lgamma() + self.b.lgamma() - (one_more + self.b).lgamma()
        return self.b * log_beta.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        log_value = value.log()
        rest = (self.b - 1.0) * _log1mexp(self.a * log_value)
        return self.a.log() + self.b.log() + (self.a - 1.0) * log_value + rest

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        # 1 - x^a = u^(1 / b) with u uniform, so -log u is exponential
        noise = torch.empty_like(self.a.expand(self._extended_shape(sample_shape))).exponential_()
        return _inside(torch.exp(_log1mexp(-noise / self.b) / self.a))


class LogitNormal(Distribution):
    """x in (0, 1) whose logit is Gaussian: log p(x) = log N(logit x; loc, scale) - log x (1 - x).

    References:
        | Logistic-normal distributions: some properties and uses (Atchison and Shen, 1980)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc: Tensor
        self.scale: Tensor
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(batch_shape=self.loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """By the trapezoidal rule over the noise: it has no closed form."""
        nodes = torch.linspace(-6.5, 6.5, 256, dtype=self.loc.dtype, device=self.loc.device)
        weights = torch.softmax(-0.5 * nodes**2, 0)
        values = torch.sigmoid(self.loc[..., None] + self.scale[..., None] * nodes)
        return (values * weights).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (torch.logit(value) - self.loc) / self.scale
        gaussian = -0.5 * standard**2 - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return gaussian - value.log() - torch.log1p(-value)

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return _inside(torch.sigmoid(self.loc + self.scale * noise))


class Point(Distribution):
    """All of the probability on one value; the first dimension is the batch.

    Args:
        value: with shape (B, *event_shape).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self._value = value
        super().__init__(value.shape[:1], value.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self._value)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self._value.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at the value and minus infinity elsewhere: a mass, not a density."""
        same = (value == self._value).flatten(value.ndim - len(self.event_shape)).all(-1)
        return torch.zeros_like(same, dtype=value.dtype).masked_fill(~same, -torch.inf)


def _inside(x: Tensor) -> Tensor:
    """Numbers that rounding took to 0 or 1 go to the nearest ones in between."""
    info = torch.finfo(x.dtype)
    return x.clamp(info.tiny, 1.0 - 0.5 * info.eps)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) of negative numbers."""
    return torch.log((-torch.expm1(x)).clamp_min(torch.finfo(x.dtype).tiny))

"""Heads: what a network's outputs mean, as a `torch.distributions` object.

A head says how many numbers it needs for one event (`size`) and, called with them, gives a
distribution. Models that treat the parts of x one after another use heads of event shape ().

Any finite outputs are valid. Scales are softplus(.) plus a floor, shifted so that an output of 0
means a scale of 1; nothing is exp(.) of a raw output, which overflows.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution
from torch.nn import functional as F

from rlgen.checkpoint import Configurable
from rlgen.generative import distributions as extra
from rlgen.generative.support import Binary, Real, Support, Symbols, Unit

EventShape = tuple[int, ...]


class Head(Configurable, ABC):
    """Network outputs -> a distribution over an event.

    Example:
        >>> import torch
        >>> from rlgen.generative import heads
        >>> head = heads.Normal()
        >>> head.size((3,))
        6
        >>> head(torch.zeros(5, 6), (3,)).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    @property
    @abstractmethod
    def support(self) -> Support:
        """The values that the distribution is over."""

    @abstractmethod
    def size(self, event_shape: EventShape = ()) -> int:
        """How many outputs one event needs."""

    @abstractmethod
    def __call__(self, outputs: Tensor, event_shape: EventShape = ()) -> Distribution:
        """The distribution of an event given `outputs`.

        Args:
            outputs: with shape (*, size(event_shape)).
            event_shape: of the variable.

        Returns:
            A distribution with batch shape (*,) and the given event shape.
        """


class _Elementwise(Head):
    """Every number of the event has `width` outputs of its own, and is independent."""

    @property
    @abstractmethod
    def width(self) -> int: ...

    @abstractmethod
    def elements(self, outputs: Tensor) -> Distribution:
        """(*, width) -> a distribution of scalars with batch shape (*,)."""

    def size(self, event_shape: EventShape = ()) -> int:
        return math.prod(event_shape) * self.width

    def __call__(self, outputs: Tensor, event_shape: EventShape = ()) -> Distribution:
        outputs = outputs.unflatten(-1, (*event_shape, self.width))
        return _as_event(self.elements(outputs), len(event_shape))


@dataclass(frozen=True)
class Normal(_Elementwise):
    """Independent Gaussians; a temperature multiplies their variances."""

    min_scale: float = 1e-3
    temperature: float = 1.0
    width: ClassVar[int] = 2
    support: ClassVar[Support] = Real()

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def elements(self, outputs: Tensor) -> Distribution:
        mean, raw = outputs.unbind(-1)
        scale = math.sqrt(self.temperature) * positive(raw, self.min_scale)
        return extra.Normal(mean, scale)


@dataclass(frozen=True)
class FixedNormal(_Elementwise):
    """Independent Gaussians of one fixed scale: a squared error with its constants."""

    scale: float = 1.0
    width: ClassVar[int] = 1
    support: ClassVar[Support] = Real()

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"'scale' must be positive, got {self.scale}")

    def elements(self, outputs: Tensor) -> Distribution:
        mean = outputs.squeeze(-1)
        return extra.Normal(mean, torch.full_like(mean, self.scale))


@dataclass(frozen=True)
class FullNormal(Head):
    """One Gaussian with a full covariance over a scalar or a vector."""

    min_scale: float = 1e-3
    support: ClassVar[Support] = Real()

    def size(self, event_shape: EventShape = ()) -> int:
        if len(event_shape) > 1:
            raise ValueError(f"a full covariance needs a vector, got event shape {event_shape}")
        dims = math.prod(event_shape)
        return dims + dims * (dims + 1) // 2

    def __call__(self, outputs: Tensor, event_shape: EventShape = ()) -> Distribution:
        if not event_shape:
            return Normal(self.min_scale)(outputs)
        dims = event_shape[0]
        mean, raw_scale, below = outputs.split([dims, dims, dims * (dims - 1) // 2], dim=-1)
        lower = torch.diag_embed(positive(raw_scale, self.min_scale))
        rows, columns = torch.tril_indices(dims, dims, offset=-1, device=outputs.device)
        lower[..., rows, columns] = below
        return D.MultivariateNormal(mean, scale_tril=lower, validate_args=False)


@dataclass(frozen=True)
class Bernoulli(_Elementwise):
    """Independent bits."""

    width: ClassVar[int] = 1
    support: ClassVar[Support] = Binary()

    def elements(self, outputs: Tensor) -> Distribution:
        return D.Bernoulli(logits=outputs.squeeze(-1), validate_args=False)


@dataclass(frozen=True)
class Categorical(_Elementwise):
    """Independent symbols from 0 to `categories` - 1; a temperature divides their logits."""

    categories: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if self.categories < 2:
            raise ValueError(f"'categories' must be at least 2, got {self.categories}")

    @property
    def width(self) -> int:
        return self.categories

    @property
    def support(self) -> Support:
        return Symbols(self.categories)

    def elements(self, outputs: Tensor) -> Distribution:
        return extra.Categorical(outputs / self.temperature)


@dataclass(frozen=True)
class MixtureOfNormals(Head):
    """A mixture of diagonal Gaussians over the whole event: one component for all its parts.

    A temperature divides the logits of the components and multiplies their variances.
    """

    components: int = 5
    min_scale: float = 1e-3
    temperature: float = 1.0
    support: ClassVar[Support] = Real()

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_components(self.components)

    def size(self, event_shape: EventShape = ()) -> int:
        return self.components * (1 + 2 * math.prod(event_shape))

    def __call__(self, outputs: Tensor, event_shape: EventShape = ()) -> Distribution:
        logits, rest = outputs.tensor_split([self.components], dim=-1)
        parts = rest.unflatten(-1, (2, self.components, *event_shape))
        raw_mean, raw_scale = parts.unbind(-2 - len(event_shape))
        shift = _spread(self.components, outputs).reshape(-1, *[1] * len(event_shape))
        scale = math.sqrt(self.temperature) * positive(raw_scale, self.min_scale)
        return extra.MixtureOfNormals(logits / self.temperature, raw_mean + shift, scale)


@dataclass(frozen=True)
class DiscretisedLogisticMixture(_Elementwise):
    """Ordered symbols, such as grey levels: mixtures of logistics, integrated over each bin."""

    bins: int = 256
    components: int = 5

    def __post_init__(self) -> None:
        _check_components(self.components)
        if self.bins < 2:
            raise ValueError(f"'bins' must be at least 2, got {self.bins}")

    @property
    def width(self) -> int:
        return 3 * self.components

    @property
    def support(self) -> Support:
        return Symbols(self.bins)

    def elements(self, outputs: Tensor) -> Distribution:
        logits, raw_mean, raw_scale = outputs.chunk(3, dim=-1)
        mean = raw_mean + _spread(self.components, outputs)
        scale = 0.2 * positive(raw_scale, 1e-3)  # the bins fill [-1, 1]: begin with a tenth of it
        return _mixture(logits, extra.DiscretisedLogistic(mean, scale, self.bins))


@dataclass(frozen=True)
class Beta(_Elementwise):
    """Independent Beta variables on (0, 1)."""

    width: ClassVar[int] = 2
    support: ClassVar[Support] = Unit()

    def elements(self, outputs: Tensor) -> Distribution:
        a, b = positive(outputs).unbind(-1)
        return D.Beta(a, b, validate_args=False)


@dataclass(frozen=True)
class Kumaraswamy(_Elementwise):
    """Independent variables on (0, 1) with density a b x^(a-1) (1 - x^a)^(b-1)."""

    width: ClassVar[int] = 2
    support: ClassVar[Support] = Unit()

    def elements(self, outputs: Tensor) -> Distribution:
        a, b = positive(outputs).unbind(-1)
        return extra.Kumaraswamy(a, b)


@dataclass(frozen=True)
class LogitNormal(_Elementwise):
    """Independent variables on (0, 1) whose logits are Gaussian."""

    min_scale: float = 1e-3
    width: ClassVar[int] = 2
    support: ClassVar[Support] = Unit()

    def elements(self, outputs: Tensor) -> Distribution:
        mean, raw = outputs.unbind(-1)
        return extra.LogitNormal(mean, positive(raw, self.min_scale))


def positive(raw: Tensor, floor: float = 1e-3) -> Tensor:
    """Any real number -> a positive one, at least `floor`; 0 -> 1 + floor."""
    return F.softplus(raw + math.log(math.e - 1)) + floor


def _as_event(elements: Distribution, dims: int) -> Distribution:
    """The last `dims` batch dimensions become the event."""
    return D.Independent(elements, dims, validate_args=False) if dims else elements


def _mixture(logits: Tensor, components: Distribution) -> Distribution:
    weights = D.Categorical(logits=logits, validate_args=False)
    return D.MixtureSameFamily(weights, components, validate_args=False)


def _spread(components: int, like: Tensor) -> Tensor:
    """Where components begin: equal ones would get equal gradients and stay one component."""
    if components == 1:
        return like.new_zeros(1)
    return torch.linspace(-1, 1, components, dtype=like.dtype, device=like.device)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"'temperature' must be positive and finite, got {temperature}")


def _check_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"'components' must be positive, got {components}")

"""Peers of the generative core, dressed as its models so that one loop trains them all."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rlgen.generative import DensityModel, support


class Foreign(DensityModel):
    """A peer's network with a log density."""

    def __init__(self, dims: int, flow: torch.nn.Module) -> None:
        super().__init__(dims)
        self.flow = flow

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        out: Tensor = self.flow().log_prob(x)
        return out

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        out: Tensor = self.flow().sample((n,))
        return out


class ForeignMixture(DensityModel):
    """scikit-learn's Gaussian mixture, fitted by itself."""

    def __init__(self, dims: int, components: int, seed: int) -> None:
        super().__init__(dims)
        from sklearn.mixture import GaussianMixture

        self.mixture: Any = GaussianMixture(components, random_state=seed)
        self.fitted = False

    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        if not self.fitted:
            self.mixture.fit(x.numpy())
            self.fitted = True

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        return torch.as_tensor(self.mixture.score_samples(x.numpy()), dtype=x.dtype)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return torch.as_tensor(self.mixture.sample(n)[0])


class Preprocessed(DensityModel):
    """A density of y = f(x), seen as a density of x."""

    def __init__(
        self, inner: DensityModel, f: Callable[[Tensor], tuple[Tensor, Tensor]], unit: bool = False
    ) -> None:
        super().__init__(inner.event_shape)
        self.inner = inner
        self.f = f
        if unit:
            self.support = support.Unit()

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y, log_det = self.f(x)
        return self.inner.log_prob(y) + log_det

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        raise RuntimeError("a benchmark does not sample")


class PreprocessedMixture(Preprocessed):
    """The same for a mixture that fits itself."""

    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        self.inner.maximise(self.f(x)[0])  # type: ignore[operator]


def standardise(data: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Columns to mean 0 and variance 1 on `data`, with the log-determinant."""
    mean, scale = data.mean(0), data.std(0)

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - mean) / scale, -scale.log().sum().expand(len(x))

    return f


def logit_standardise(data: Tensor, alpha: float = 0.05) -> Callable[..., tuple[Tensor, Tensor]]:
    """(0, 1) -> logit of (alpha, 1 - alpha) -> standardised, with the log-determinant."""

    def logit(x: Tensor) -> tuple[Tensor, Tensor]:
        inner = alpha + (1 - 2 * alpha) * x
        slope = math.log(1 - 2 * alpha) - inner.log() - torch.log1p(-inner)
        return torch.logit(inner), slope.sum(1)

    rescale = standardise(logit(data)[0])

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y, first = logit(x)
        z, second = rescale(y)
        return z, first + second

    return f


def have(package: str) -> bool:
    return find_spec(package) is not None

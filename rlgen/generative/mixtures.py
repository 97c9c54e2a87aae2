"""Mixtures: a hidden component c is drawn first, then x given c.

    p(x) = sum over c of weight_c p(x | c)

They learn by expectation maximisation (EM), and can also be trained by gradients; call `initialise`
first, as EM does by itself.

Notation: K components, D numbers in one x, C categories of a symbol.

References:
    | Maximum likelihood from incomplete data via the EM algorithm (Dempster et al., 1977)
"""

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.generative.basic import check_probabilities, check_smoothing, log_frequencies
from rlgen.generative.clustering import ROUNDS, k_means, nearest_seed
from rlgen.generative.model import DensityModel, Objective, Shape
from rlgen.generative.support import Symbols

# EM takes the rows of its data in parts that need about this many numbers, which fit in a cache
_PART = 1 << 18


class Mixture(DensityModel):
    """A mixture that learns by EM. A family gives log p(x | c) and the maximisation step.

    Args:
        event_shape: of one x.
        components: K.
    """

    initialised: Tensor

    def __init__(self, event_shape: Shape, components: int) -> None:
        super().__init__(event_shape)
        if components < 1:
            raise ValueError(f"'components' must be positive, got {components}")
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.register_buffer("initialised", torch.tensor(False))

    @abstractmethod
    def _log_conditional(self, x: Tensor) -> Tensor:
        """log p(x | c), with shape (B, K)."""

    @abstractmethod
    def _cluster(self, x: Tensor) -> Tensor:
        """A first guess at the component of each x, with shape (B,)."""

    @abstractmethod
    def _maximise_given(self, x: Tensor, posterior: Tensor) -> None:
        """All parameters but the weights, given how probable each component is for each x."""

    @property
    def weights(self) -> Tensor:
        """The probabilities of the components, with shape (K,)."""
        return self.logits.softmax(-1)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        joint = self._log_joint(x)
        largest = joint.detach().amax(-1, keepdim=True)
        finite = largest.clamp_min(torch.finfo(joint.dtype).min)
        # exp is slow where it underflows, and so small a share of the sum is lost in rounding
        log_prob = joint.clamp_min(finite - 80.0).logsumexp(-1)
        # -inf where p(x) is 0, which would have had a gradient of NaN
        return log_prob + (largest - finite).squeeze(-1)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, c) for each component c, with shape (B, K)."""
        x, _ = self.check(x)
        return self._log_joint(x)

    def posterior(self, x: Tensor) -> Tensor:
        """p(c | x) with shape (B, K); the weights, where p(x) is 0."""
        x, _ = self.check(x)
        return self._posterior(x)

    def objectives(self) -> tuple[Objective, ...]:
        (objective,) = super().objectives()
        return (objective._replace(after_step=self._set_initialised),)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Parameters to start from: those of clusters of the data, found at random."""
        x, _ = self.check(x)
        self._maximise(x, F.one_hot(self._cluster(x), self.components).to(self.dtype))

    @torch.no_grad()
    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        """One EM iteration; the first one calls `initialise`, unless there are parameters."""
        x, context = self.check(x, context)
        if not self.initialised:
            self.initialise(x)
        rows = max(1, _PART // (self.components * math.prod(self.event_shape)))
        self._maximise(x, torch.cat([self._posterior(part) for part in torch.split(x, rows)]))

    def _maximise(self, x: Tensor, posterior: Tensor) -> None:
        self._maximise_given(x, posterior)
        self.logits.copy_((expected_counts(posterior) / len(x)).log())
        self._set_initialised()

    def _log_joint(self, x: Tensor) -> Tensor:
        return self.logits.log_softmax(-1) + self._log_conditional(x)

    def _posterior(self, x: Tensor) -> Tensor:
        joint = self._log_joint(x)
        impossible = joint.isneginf().all(-1, keepdim=True)
        return torch.where(impossible, self.logits, joint).softmax(-1)

    def _set_initialised(self) -> None:
        self.initialised.fill_(True)

    def _check_weights(self, weights: Tensor) -> None:
        if weights.shape != (self.components,):
            raise ValueError(
                f"'weights' must have shape ({self.components},), got {tuple(weights.shape)}"
            )
        check_probabilities("weights", weights)

    def _sample_component(self, n: int) -> Tensor:
        return torch.multinomial(self.weights, n, replacement=True)


class GaussianMixture(Mixture):
    """A mixture of Gaussians.

    p(x) = sum over c of weight_c N(x; mean_c, covariance_c)

    The parameters are the logarithms of the weights, the means, and the Cholesky factors of the
    covariances, whose diagonals are sqrt(ridge) + exp(log_scale): neither EM nor gradients can
    shrink a component onto a single point.

    Args:
        event_shape: of one x; a full covariance is over all its D numbers.
        components: K.
        covariance: "full", or "diagonal" for components whose numbers are independent.
        ridge: added to the diagonal of every covariance that EM finds.

    Example:
        >>> import torch
        >>> from rlgen.generative import GaussianMixture, data, fit
        >>> x = data.two_moons(500, generator=torch.Generator().manual_seed(0))
        >>> model = GaussianMixture(2, components=8)
        >>> history = fit(model, x)
        >>> model.posterior(x).shape
        torch.Size([500, 8])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        components: int = 10,
        covariance: Literal["full", "diagonal"] = "full",
        ridge: float = 1e-6,
    ) -> None:
        super().__init__(event_shape, components)
        if covariance not in ("full", "diagonal"):
            raise ValueError(f"'covariance' must be 'full' or 'diagonal', got {covariance!r}")
        if not 0.0 <= ridge < math.inf:
            raise ValueError(f"'ridge' must be at least 0, got {ridge}")
        dims = math.prod(self.event_shape)
        self.covariance = covariance
        self.ridge = ridge
        self.means = nn.Parameter(torch.randn(components, *self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(components, dims))
        full = covariance == "full"
        self.below = (
            nn.Parameter(torch.zeros(components, dims, dims)) if full and dims > 1 else None
        )

    @property
    def covariances(self) -> Tensor:
        """With shape (K, D, D), or the variances, with shape (K, D)."""
        if self.covariance == "diagonal":
            return self._scale() ** 2
        factor = self._factor()
        return factor @ factor.mT

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Replace all parameters.

        Args:
            weights: with shape (K,).
            means: with shape (K, *event_shape).
            covariances: with shape (K, D, D), or the variances, with shape (K, D). They cannot be
                smaller than `ridge` makes those that EM finds.
        """
        if means.shape != self.means.shape:
            wanted = tuple(self.means.shape)
            raise ValueError(f"'means' must have shape {wanted}, got {tuple(means.shape)}")
        if covariances.shape != self.covariances.shape:
            wanted = tuple(self.covariances.shape)
            raise ValueError(
                f"'covariances' must have shape {wanted}, got {tuple(covariances.shape)}"
            )
        self._check_weights(weights)
        self._set_covariances(covariances.double())
        self.logits.copy_(weights.double().log())
        self.means.copy_(means)
        self._set_initialised()

    def _log_conditional(self, x: Tensor) -> Tensor:
        means = self.means.reshape(self.components, -1, 1)
        centred = x.reshape(x.shape[0], -1).mT.contiguous() - means  # (K, D, B)
        scale = self._scale()
        if self.covariance == "full":
            factor = self._factor()
            # to invert K small matrices once is several times faster than to solve for each x
            eye = torch.eye(means.shape[1], dtype=x.dtype, device=x.device)
            inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
            noise: Tensor = inverse @ centred
        else:
            noise = centred / scale.unsqueeze(-1)
        constant = scale.log().sum(-1) + 0.5 * means.shape[1] * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(1).mT - constant

    def _cluster(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], -1)
        spread, mean = torch.std_mean(flat, 0, correction=0)
        return k_means((flat - mean) / torch.where(spread > 0, spread, 1.0), self.components)

    def _maximise_given(self, x: Tensor, posterior: Tensor) -> None:
        flat = x.reshape(x.shape[0], -1).double()
        posterior = posterior.double()
        counts = expected_counts(posterior)
        means = posterior.mT @ flat / counts.unsqueeze(-1)
        rows = max(1, _PART // means.numel())
        parts = zip(torch.split(flat, rows), torch.split(posterior, rows), strict=True)
        covariances = torch.zeros_like(self.covariances, dtype=torch.float64)
        for part, given in parts:
            covariances += self._scatter(part, given, means)
        covariances /= counts.reshape(-1, *[1] * (covariances.ndim - 1))
        if self.covariance == "full":
            covariances.diagonal(dim1=-2, dim2=-1).add_(self.ridge)
        else:
            covariances += self.ridge
        self._set_covariances(covariances)
        self.means.copy_(means.reshape(self.means.shape))

    def _scatter(self, flat: Tensor, posterior: Tensor, means: Tensor) -> Tensor:
        """Weighted sums of squares (K, D) or of outer products (K, D, D) about the means."""
        centred = flat.mT.contiguous() - means.unsqueeze(-1)  # (K, D, B)
        weighted = centred * posterior.mT.unsqueeze(1)
        if self.covariance == "full":
            return weighted @ centred.mT
        return (weighted * centred).sum(-1)

    def _set_covariances(self, covariances: Tensor) -> None:
        if self.covariance == "full":
            factor, failed = torch.linalg.cholesky_ex(covariances)
            scale = factor.diagonal(dim1=-2, dim2=-1)
        else:
            scale, failed = covariances.sqrt(), ~(covariances > 0)
        floor = math.sqrt(self.ridge)
        if failed.any() or (scale < (1.0 - 1e-6) * floor).any():
            raise ValueError(
                "a covariance is singular, or smaller than 'ridge' allows; "
                f"the ridge is {self.ridge}"
            )
        above = (scale - floor).clamp_min(torch.finfo(self.dtype).tiny)
        self.log_scale.copy_(above.log())
        if self.below is not None:
            self.below.copy_(factor.tril(-1))

    def _scale(self) -> Tensor:
        """The diagonals of the Cholesky factors, with shape (K, D)."""
        return self.log_scale.exp() + math.sqrt(self.ridge)

    def _factor(self) -> Tensor:
        """The Cholesky factors of the covariances, with shape (K, D, D)."""
        diagonal = torch.diag_embed(self._scale())
        return diagonal if self.below is None else diagonal + self.below.tril(-1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        component = self._sample_component(n)
        means = self.means.reshape(self.components, -1)
        noise = torch.randn(n, means.shape[1], dtype=means.dtype, device=means.device)
        if self.covariance == "diagonal":
            x = noise * self._scale()[component]
        else:
            x = torch.zeros_like(noise)
            # by component: a factor for each sample would take D times the memory
            for c, factor in enumerate(self._factor()):
                x = torch.where((component == c).unsqueeze(-1), noise @ factor.mT, x)
        return (means[component] + x).reshape(n, *self.event_shape)


class CategoricalMixture(Mixture):
    """A mixture of independent symbols: the clusters of naive Bayes.

    p(x) = sum over c of weight_c product over i of probs[c, i, x_i]

    For a single symbol this is nothing but another table; it takes several to need components.

    Args:
        event_shape: of one x.
        components: K.
        categories: C; the symbols are 0, ..., C - 1.
        smoothing: added to each expected count by `maximise`. Without it probabilities become 0
            where a component never meets a symbol, as in `Categorical`; with it, EM climbs the
            likelihood times a Dirichlet prior, not the likelihood alone.

    Example:
        >>> import torch
        >>> from rlgen.generative import CategoricalMixture
        >>> model = CategoricalMixture(4, components=2, categories=3)
        >>> model.maximise(torch.randint(3, (100, 4)))
        >>> model.probs.shape
        torch.Size([2, 4, 3])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        components: int = 10,
        categories: int = 2,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(event_shape, components)
        self.support = Symbols(categories)
        self.categories = categories
        self.smoothing = check_smoothing(smoothing)
        self.tables = nn.Parameter(torch.randn(components, *self.event_shape, categories))

    @property
    def probs(self) -> Tensor:
        """The tables, with shape (K, *event_shape, C)."""
        return self.tables.softmax(-1)

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, probs: Tensor) -> None:
        """Replace all parameters: weights (K,) and tables (K, *event_shape, C)."""
        if probs.shape != self.tables.shape:
            wanted = tuple(self.tables.shape)
            raise ValueError(f"'probs' must have shape {wanted}, got {tuple(probs.shape)}")
        check_probabilities("probs", probs)
        self._check_weights(weights)
        self.logits.copy_(weights.double().log())
        self.tables.copy_(probs.double().log())
        self._set_initialised()

    def _log_conditional(self, x: Tensor) -> Tensor:
        cells = self.tables.log_softmax(-1).reshape(self.components, -1).mT
        return F.embedding(self._cells(x), cells).sum(1)

    def _cells(self, x: Tensor) -> Tensor:
        """For each symbol its cell in one component's flattened tables, with shape (B, D)."""
        flat = x.reshape(x.shape[0], -1)
        return flat + self.categories * torch.arange(flat.shape[1], device=x.device)

    def _cluster(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], -1).to(self.dtype)
        # p = 0 counts the symbols that differ
        cluster = nearest_seed(flat, self.components, lambda x, seeds: torch.cdist(x, seeds, p=0))
        for _ in range(ROUNDS):
            # one more of each symbol: a symbol that a small cluster lacks must not rule it out
            members = F.one_hot(cluster, self.components).to(self.dtype)
            self.tables.copy_(self._tables_given(x, members, self.smoothing + 1.0))
            cluster = self._log_conditional(x).argmax(-1)
        return cluster

    def _maximise_given(self, x: Tensor, posterior: Tensor) -> None:
        self.tables.copy_(self._tables_given(x, posterior, self.smoothing))

    def _tables_given(self, x: Tensor, posterior: Tensor, smoothing: float) -> Tensor:
        """The tables of expected frequencies, as logarithms."""
        flat = x.reshape(x.shape[0], -1)
        counts = [
            posterior.mT @ (flat == symbol).to(posterior.dtype) for symbol in range(self.categories)
        ]
        tables = log_frequencies(torch.stack(counts, -1), smoothing)
        return tables.reshape(self.tables.shape)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        cells = self.probs.reshape(self.components, -1, self.categories)
        chosen = cells[self._sample_component(n)].reshape(-1, self.categories)
        return torch.multinomial(chosen, 1).reshape(n, *self.event_shape)


def expected_counts(posterior: Tensor) -> Tensor:
    """How many examples each component explains, never quite 0, with shape (K,)."""
    return posterior.sum(0, dtype=torch.float64) + 10 * torch.finfo(torch.float64).eps

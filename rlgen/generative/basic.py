"""The simplest densities: one Gaussian, tables of symbols, and networks of such tables.

All of them fit themselves in closed form, and can also be trained by gradients.

Notation: D numbers in one x, C categories of a symbol.
"""

import math
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution

from rlgen.generative.model import DensityModel, Shape
from rlgen.generative.support import Symbols


class Gaussian(DensityModel):
    """A normal distribution, with independent numbers or with a full covariance.

    log p(x) = -1/2 (x - mean)' covariance^-1 (x - mean) - 1/2 log det(2 pi covariance)

    Its parameters are the mean, the logarithms of the diagonal of the Cholesky factor L of the
    covariance, and for a full covariance what lies below that diagonal.

    Args:
        event_shape: of one x; a full covariance is over all its D numbers.
        full: whether the numbers may be correlated.

    Example:
        >>> import torch
        >>> from rlgen.generative import Gaussian
        >>> model = Gaussian(2, full=True)
        >>> model.maximise(torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0], [2.0, 0.0]]))
        >>> model.covariance.round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, event_shape: Shape, *, full: bool = False) -> None:
        super().__init__(event_shape)
        dims = math.prod(self.event_shape)
        self.full = full
        self.mean = nn.Parameter(torch.zeros(self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(dims))
        self.below = nn.Parameter(torch.zeros(dims, dims)) if full and dims > 1 else None

    @property
    def covariance(self) -> Tensor:
        """The covariance of the flattened x, with shape (D, D), full or not."""
        factor = self._factor()
        return factor @ factor.mT

    def distribution(self) -> Distribution:
        """The distribution of the flattened x, with event shape (D,)."""
        mean = self.mean.reshape(-1)
        if self.full:
            return D.MultivariateNormal(mean, scale_tril=self._factor(), validate_args=False)
        normals = D.Normal(mean, self.log_scale.exp(), validate_args=False)
        return D.Independent(normals, 1, validate_args=False)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self.distribution().log_prob(x.reshape(x.shape[0], -1))

    @torch.no_grad()
    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        """The maximum of the likelihood: the mean and the covariance (with 1/n) of the data.

        Raises:
            ValueError: the data lie in fewer than D dimensions, where the likelihood has no
                maximum.
        """
        x, context = self.check(x, context)
        flat = x.reshape(x.shape[0], -1).double()
        mean = flat.mean(0)
        centred = flat - mean
        covariance = centred.mT @ centred / len(flat)
        if not self.full:
            covariance = torch.diag(covariance.diagonal())
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # a pivot is the variance of one number that those before it leave unexplained
        pivots, variances = factor.diagonal() ** 2, covariance.diagonal()
        rounding = len(mean) * torch.finfo(torch.float64).eps
        if failed or (pivots <= rounding * variances).any():
            raise ValueError("'x' is degenerate: its numbers are constant or linearly dependent")
        self.mean.copy_(mean.reshape(self.event_shape))
        self.log_scale.copy_(factor.diagonal().log())
        if self.below is not None:
            self.below.copy_(factor.tril(-1))

    def _factor(self) -> Tensor:
        """The Cholesky factor L of the covariance."""
        diagonal = torch.diag(self.log_scale.exp())
        return diagonal if self.below is None else diagonal + self.below.tril(-1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        return self.distribution().sample(torch.Size([n])).reshape(n, *self.event_shape)


class Categorical(DensityModel):
    """Independent symbols, each with a table of its own.

    p(x) = product over i of probs[i, x_i]

    Args:
        event_shape: of one x.
        categories: C; the symbols are 0, ..., C - 1.
        smoothing: added to each count by `maximise`. Without it, a symbol that is not in the data
            gets probability 0: its log probability is -inf, and gradients cannot bring it back.

    Example:
        >>> import torch
        >>> from rlgen.generative import Categorical
        >>> model = Categorical((), categories=3)
        >>> model.maximise(torch.tensor([0, 0, 1, 2]))
        >>> [round(p, 4) for p in model.probs.tolist()]
        [0.5, 0.25, 0.25]
    """

    def __init__(self, event_shape: Shape, *, categories: int = 2, smoothing: float = 0.0) -> None:
        super().__init__(event_shape)
        self.support = Symbols(categories)
        self.categories = categories
        self.smoothing = check_smoothing(smoothing)
        self.logits = nn.Parameter(torch.zeros(*self.event_shape, categories))

    @property
    def probs(self) -> Tensor:
        """The tables, with shape (*event_shape, C)."""
        return self.logits.softmax(-1)

    def distribution(self) -> Distribution:
        """The distribution of x, with event shape `event_shape`."""
        symbols = D.Categorical(logits=self.logits, validate_args=False)
        return D.Independent(symbols, len(self.event_shape), validate_args=False)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self.distribution().log_prob(x)

    @torch.no_grad()
    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        """The maximum of the likelihood: the frequencies of the symbols."""
        x, context = self.check(x, context)
        flat = x.reshape(x.shape[0], -1)
        cells = flat + self.categories * torch.arange(flat.shape[1], device=x.device)
        counts = torch.bincount(cells.reshape(-1), minlength=self.logits.numel())
        self.logits.copy_(log_frequencies(counts.reshape(self.logits.shape), self.smoothing))

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        return self.distribution().sample(torch.Size([n]))


class BayesNet(DensityModel):
    """Symbols that depend on one another along the arrows of a directed acyclic graph.

    p(x) = product over i of p(x_i | the parents of x_i), each conditional a table

    References:
        | Probabilistic Reasoning in Intelligent Systems (Pearl, 1988)

    Args:
        event_shape: D, the number of variables.
        parents: for each variable, the indices of its parents.
        categories: C; the symbols are 0, ..., C - 1.
        smoothing: added to each count by `maximise`. Without it, a symbol that never follows a
            configuration of the parents in the data gets probability 0, as in `Categorical`.

    Example:
        >>> import torch
        >>> from rlgen.generative import BayesNet
        >>> model = BayesNet(3, parents=[(), (0,), (0, 1)])
        >>> model.table(2).shape
        torch.Size([2, 2, 2])
        >>> model.parameter_count()
        7
    """

    offset: Tensor
    parent: Tensor
    stride: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        parents: Sequence[Sequence[int]],
        categories: int = 2,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 1:
            raise ValueError(f"'event_shape' must be a vector, got {tuple(self.event_shape)}")
        self.support = Symbols(categories)
        self.categories = categories
        self.smoothing = check_smoothing(smoothing)
        self.parents = tuple(tuple(given) for given in parents)
        self.order = _topological_order(self.parents, self.event_shape[0])
        # all tables lie below one another: variable i has one row for each configuration of its
        # parents, numbered with the last parent changing fastest
        heights = [categories ** len(given) for given in self.parents]
        width = max(1, *map(len, self.parents), 0)
        padded = [(*given, *[0] * (width - len(given))) for given in self.parents]
        strides = [
            [categories ** (len(given) - 1 - k) if k < len(given) else 0 for k in range(width)]
            for given in self.parents
        ]
        offsets = [sum(heights[:i]) for i in range(len(heights))]
        self.logits = nn.Parameter(torch.zeros(sum(heights), categories))
        self.register_buffer("offset", torch.tensor(offsets), persistent=False)
        self.register_buffer("parent", torch.tensor(padded), persistent=False)
        self.register_buffer("stride", torch.tensor(strides), persistent=False)

    def table(self, i: int) -> Tensor:
        """p(x_i | parents) with shape (C, ..., C): one dimension for each parent, x_i last."""
        if not 0 <= i < len(self.parents):
            raise ValueError(f"'i' must be from 0 to {len(self.parents) - 1}, got {i}")
        heights = [self.categories ** len(given) for given in self.parents]
        rows = torch.split(self.logits, heights)[i]
        return rows.softmax(-1).reshape([self.categories] * (len(self.parents[i]) + 1))

    def parameter_count(self) -> int:
        """The free parameters: C - 1 for each configuration of each variable's parents."""
        return len(self.logits) * (self.categories - 1)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self.logits.log_softmax(-1).reshape(-1)[self._cells(x)].sum(-1)

    @torch.no_grad()
    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        """The maximum of the likelihood: the frequencies of each symbol given its parents.

        A configuration of the parents that is not in the data gets a uniform table.
        """
        x, context = self.check(x, context)
        counts = torch.bincount(self._cells(x).reshape(-1), minlength=self.logits.numel())
        self.logits.copy_(log_frequencies(counts.reshape(self.logits.shape), self.smoothing))

    def _cells(self, x: Tensor) -> Tensor:
        """For each variable its cell in the flattened tables, with shape (B, D)."""
        rows = self.offset + (x[:, self.parent] * self.stride).sum(-1)
        return rows * self.categories + x

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        x = self.offset.new_zeros(n, len(self.parents))
        probs = self.logits.softmax(-1)
        for i in self.order:
            row = self.offset[i] + (x[:, self.parent[i]] * self.stride[i]).sum(-1)
            x[:, i] = torch.multinomial(probs[row], 1).squeeze(-1)
        return x


def log_frequencies(counts: Tensor, smoothing: float = 0.0) -> Tensor:
    """Counts of C symbols -> log probabilities; no counts at all mean a uniform table.

    Args:
        counts: with shape (*, C).
        smoothing: added to each count (Laplace).
    """
    counts = counts.double() + smoothing
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total, 1.0 / counts.shape[-1]).log()


def check_smoothing(smoothing: float) -> float:
    if not 0.0 <= smoothing < math.inf:
        raise ValueError(f"'smoothing' must be at least 0, got {smoothing}")
    return smoothing


def check_probabilities(name: str, probs: Tensor) -> None:
    total = probs.double().sum(-1)
    if not ((probs >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-4)):
        raise ValueError(f"{name!r} must be probabilities that sum to 1 over the last dimension")


def _topological_order(parents: tuple[tuple[int, ...], ...], dims: int) -> tuple[int, ...]:
    """An order in which every variable comes after its parents."""
    if len(parents) != dims:
        raise ValueError(f"'parents' must be given for {dims} variables, got {len(parents)}")
    for i, given in enumerate(parents):
        if len(set(given)) != len(given) or any(not 0 <= j < dims for j in given):
            raise ValueError(
                f"'parents' of variable {i} must be different indices from 0 to {dims - 1}, "
                f"got {given}"
            )
    try:
        return tuple(TopologicalSorter(dict(enumerate(parents))).static_order())
    except CycleError as error:
        raise ValueError(f"'parents' must have no cycle, got one: {error.args[1]}") from error

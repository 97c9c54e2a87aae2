"""What the conformance tests run over: small instances, data for them, and truths to hold them to.

Nothing here knows a family: truths follow from the contract (`support`, `log_prob`, `prior` and
`decode`, ...) by enumeration and quadrature.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from rlgen.generative import Density, DensityModel, Family, GenerativeModel, catalogue
from rlgen.generative.support import Binary, Real, Symbols, Unit
from rlgen.seeding import drawing_from
from tests.truth import randomise, symbols

Score = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Case:
    """One way to make a model."""

    name: str
    make: Callable[[], GenerativeModel]
    compares: bool = False  # as in `Family`

    def fresh(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> GenerativeModel:
        """As it comes from its constructor, the same for the same seed."""
        with drawing_from(seed):
            return self.make().to(dtype)

    def scrambled(
        self, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 0.3
    ) -> GenerativeModel:
        """With noise on all parameters, in evaluation mode: what starts as the identity is not."""
        model = self.fresh(seed, dtype)
        randomise(model, scale, seed)
        return model.eval()


def cases(families: tuple[Family, ...] | None = None) -> Iterator[Case]:
    """All small instances of the catalogue, with a context and without where both can be."""
    for family in catalogue() if families is None else families:
        for i, make in enumerate(family.small):
            name = f"{family.name}-{i}"
            yield Case(name, make, family.compares)
            if family.context == "optional":
                given = partial(make, context_shape=(2,))
                yield Case(f"{name}-given", given, family.compares)


def values(model: GenerativeModel, n: int, seed: int = 0) -> Tensor:
    """Ordinary data that the model's support allows, with shape (n, *event_shape)."""
    generator = torch.Generator().manual_seed(seed)
    shape, support = (n, *model.event_shape), model.support
    if isinstance(support, Real):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(model.dtype)
    if isinstance(support, Unit):
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (0.02 + 0.96 * uniform).to(model.dtype)
    if isinstance(support, Binary):
        return torch.randint(2, shape, generator=generator).to(model.dtype)
    assert isinstance(support, Symbols), f"no data for {support}"
    return torch.randint(support.count, shape, generator=generator)


def contexts(model: GenerativeModel, n: int, seed: int = 0) -> Tensor | None:
    if model.context_shape is None:
        return None
    generator = torch.Generator().manual_seed(1000 + seed)
    shape = (n, *model.context_shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(model.dtype)


def batch(model: GenerativeModel, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    return values(model, n, seed), contexts(model, n, seed)


def single_contexts(model: GenerativeModel) -> list[Tensor | None]:
    """Two contexts with shape (1, *context_shape), or no context, once."""
    both = contexts(model, 2, seed=7)
    return [None] if both is None else [both[:1], both[1:]]


def repeated(context: Tensor | None, n: int) -> Tensor | None:
    return None if context is None else context.expand(n, *context.shape[1:])


def scores(model: GenerativeModel) -> dict[str, Score]:
    """Whatever gives one number for each example."""
    found: dict[str, Score] = {"loss": model.loss}
    found |= {f"objective {o.name}": o.loss for o in model.objectives()}
    for name in ("log_prob", "elbo", "energy"):
        if callable(getattr(model, name, None)):
            found[name] = getattr(model, name)
    return found


def is_noisy(score: Score, x: Tensor, context: Tensor | None) -> bool:
    """Whether a score draws random numbers."""
    results = []
    for seed in (0, 1):
        with torch.no_grad(), drawing_from(seed):
            results.append(score(x, context))
    return not torch.equal(*results)


def is_discrete(model: GenerativeModel) -> bool:
    return isinstance(model.support, Binary | Symbols)


def everything(model: GenerativeModel) -> Tensor:
    """Every value of a discrete x, with shape (count ** dims, *event_shape)."""
    count = model.support.count if isinstance(model.support, Symbols) else 2
    dims = model.event_shape.numel()
    assert count**dims <= 2**13, "small instances must be small enough to enumerate"
    x = symbols(dims, count).reshape(-1, *model.event_shape)
    return x.to(model.dtype) if isinstance(model.support, Binary) else x


@dataclass(frozen=True)
class Grid:
    """Nodes and weights such that sum of weight f(x) is the integral of f.

    Attributes:
        x: with shape (G, *event_shape).
        log_weight: with shape (G,).
        error: of the integral of the density, where the nodes are random.
    """

    x: Tensor
    log_weight: Tensor
    error: float = 0.0


def grid(model: DensityModel, context: Tensor | None, nodes: int) -> Grid:
    """The trapezoidal rule after a stretch: fine where samples lie, and far out into the tails."""
    dims = model.event_shape.numel()
    samples = model.sample(4000, repeated(context, 4000), generator=0).reshape(-1, dims)
    unit = isinstance(model.support, Unit)
    t = torch.linspace(-5.0, 5.0, nodes, dtype=torch.float64)
    axes, weights = [], []
    for sample in samples.double().T:
        y = torch.logit(sample) if unit else sample
        low, centre, high = y.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=y.dtype))
        scale = (high - low) / 2.5
        axis = centre + scale * t.sinh()
        log_weight = torch.log(scale * t.cosh() * (t[1] - t[0]))
        if unit:
            axis = axis.clamp(-34.0, 34.0)  # beyond, float64 rounds to the ends of the interval
            log_weight = log_weight + (axis.sigmoid() * (-axis).sigmoid()).log()
            axis = axis.sigmoid()
        axes.append(axis)
        weights.append(log_weight)
    x = torch.cartesian_prod(*axes).reshape(-1, *model.event_shape)
    log_weight = torch.cartesian_prod(*weights).reshape(len(x), -1).sum(1)
    return Grid(x, log_weight)


@torch.no_grad()
def in_parts(score: Score, x: Tensor, context: Tensor | None, part: int = 50_000) -> Tensor:
    """A score of many x with one context for all."""
    return torch.cat([score(p, repeated(context, len(p))) for p in x.split(part)])


def log_mass(model: DensityModel, context: Tensor | None) -> tuple[float, float, Grid | None]:
    """Log of the sum or integral of the density, how exact that is, and a grid where there is one.

    Sums are exact; integrals in one or two dimensions are by quadrature, refined where it seems
    coarse; those in more dimensions by importance sampling.
    """
    if is_discrete(model):
        return float(in_parts(model.log_prob, everything(model), context).logsumexp(0)), 1e-8, None
    dims = model.event_shape.numel()
    if dims > 2:
        return _sampled_log_mass(model, context)
    for nodes in (1001, 4001) if dims == 1 else (251, 1001):
        g = grid(model, context, nodes)
        total = float((in_parts(model.log_prob, g.x, context) + g.log_weight).logsumexp(0))
        if abs(total) < 1e-3:
            break
    return total, 0.01, g


def _sampled_log_mass(model: DensityModel, context: Tensor | None) -> tuple[float, float, Grid]:
    """By importance sampling from a smooth and wide version of the model's own samples.

    Half of it are broad normals, so that no region is missed; half are small ones, each around one
    of the model's samples, which follow the shape of the density.
    """
    dims, n = model.event_shape.numel(), 12_000
    own = model.sample(150, repeated(context, 150), generator=0).reshape(-1, dims).double()
    factor = torch.linalg.cholesky(own.T.cov())
    normals = [(width, own.mean(0, keepdim=True)) for width in (1.0, 2.0, 4.0)]
    normals += [(0.2, own), (0.5, own)]
    generator = torch.Generator().manual_seed(0)
    parts = []
    for width, centres in normals:
        noise = torch.randn(n, dims, generator=generator, dtype=own.dtype)
        centre = centres[torch.randint(len(centres), (n,), generator=generator)]
        parts.append(centre + width * noise @ factor.T)
    x = torch.cat(parts)
    log_q = torch.stack([_log_mixture(x, w, c, factor) for w, c in normals]).logsumexp(0)
    x, log_weight = x.reshape(-1, *model.event_shape), math.log(len(normals) / len(x)) - log_q
    mass = (in_parts(model.log_prob, x, context) + log_weight).exp()
    error = float(mass.std()) * math.sqrt(len(x))
    assert error < 0.04, f"importance sampling cannot tell: its standard error is {error}"
    return math.log(float(mass.sum())), 0.01 + 4 * error, Grid(x, log_weight, error)


def _log_mixture(x: Tensor, width: float, centres: Tensor, factor: Tensor) -> Tensor:
    """log density at x of equally weighted normals of covariance width^2 factor factor'."""
    dims = x.shape[1]
    white = torch.linalg.solve_triangular(factor, torch.cat([x, centres]).T, upper=False).T / width
    square = torch.cdist(white[: len(x)], white[len(x) :]).square()
    log_scale = dims * math.log(width * math.sqrt(2 * math.pi)) + factor.diagonal().log().sum()
    return (-0.5 * square).logsumexp(1) - math.log(len(centres)) - log_scale


@runtime_checkable
class Latent(Protocol):
    """p(x) = integral of p(z) p(x | z)."""

    @property
    def prior(self) -> Distribution: ...
    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution: ...


@runtime_checkable
class Rounded(Protocol):
    """Integers whose mass is that of a density over a cube of side 1 / levels."""

    density: DensityModel
    levels: int


@runtime_checkable
class Coded(Protocol):
    """p(x) = sum over codes of P(codes) p(x | codes)."""

    @property
    def codebook(self) -> Tensor: ...
    @property
    def code_prior(self) -> Distribution: ...
    def embed(self, codes: Tensor) -> Tensor: ...
    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution: ...


@torch.no_grad()
def true_log_prob(model: object, x: Tensor, context: Tensor | None) -> Tensor | None:
    """The exact log probability of what has a bound alone, if it is known how; context for all."""
    if isinstance(model, Rounded):
        return _rounded_log_prob(model, x, context)
    if isinstance(model, Latent) and len(model.prior.event_shape) == 1:
        return _marginal_log_prob(model, x, context)
    if isinstance(model, Coded) and model.code_prior.event_shape.numel() <= 3:
        return _coded_log_prob(model, x, context)
    return None


def _rounded_log_prob(model: Rounded, x: Tensor, context: Tensor | None) -> Tensor:
    """The midpoint rule over the cube of each x."""
    dims = model.density.event_shape.numel()
    nodes = 4000 if dims == 1 else 64
    inside = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    cube = torch.cartesian_prod(*[inside] * dims).reshape(-1, *model.density.event_shape)
    assert dims <= 2 and isinstance(model.density, Density)
    logs = [
        in_parts(model.density.log_prob, (row + cube) / model.levels, context).logsumexp(0)
        for row in x
    ]
    return torch.stack(logs) - math.log(len(cube)) - dims * math.log(model.levels)


def _marginal_log_prob(model: Latent, x: Tensor, context: Tensor | None) -> Tensor:
    """The trapezoidal rule over one or two latent numbers; samples of the prior for more."""
    dims = model.prior.event_shape[0]
    if dims <= 2:
        axis = torch.linspace(-8.0, 8.0, 4001 if dims == 1 else 241, dtype=torch.float64)
        z = torch.tensor(list(itertools.product(axis.tolist(), repeat=dims)), dtype=axis.dtype)
        log_weight = model.prior.log_prob(z) + dims * math.log(float(axis[1] - axis[0]))
    else:
        with drawing_from(0):
            z = model.prior.sample(torch.Size([100_000]))
        log_weight = torch.full((len(z),), -math.log(len(z)), dtype=z.dtype)
    given = model.decode(z, repeated(context, len(z)))
    rows = [row.expand(len(z), *row.shape) for row in x]
    return torch.stack([(given.log_prob(row) + log_weight).logsumexp(0) for row in rows])


def _coded_log_prob(model: Coded, x: Tensor, context: Tensor | None) -> Tensor:
    """The sum over all codes."""
    positions = model.code_prior.event_shape
    codes = symbols(positions.numel(), len(model.codebook)).reshape(-1, *positions)
    given = model.decode(model.embed(codes), repeated(context, len(codes)))
    prior = model.code_prior.log_prob(codes)
    rows = [row.expand(len(codes), *row.shape) for row in x]
    return torch.stack([(given.log_prob(row) + prior).logsumexp(0) for row in rows])

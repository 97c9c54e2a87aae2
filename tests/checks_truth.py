"""That a density is one, and a bound is below it: the checks against enumeration and quadrature."""

import math

import torch
from torch import Tensor

from rlgen.generative import Bound, Density, DensityModel
from rlgen.generative.support import Symbols
from rlgen.seeding import drawing_from
from tests import helpers
from tests.helpers import Case


def check_capabilities_are_exclusive(case: Case) -> None:
    model = case.fresh()
    assert not (isinstance(model, Density) and isinstance(model, Bound)), "exact, or a bound?"
    assert isinstance(model, DensityModel) == isinstance(model, Density)


def check_density_is_normalised(case: Case) -> None:
    """The density sums or integrates to 1, and samples follow it."""
    for seed in (0, 1):
        model = case.scrambled(seed)
        if not isinstance(model, DensityModel):
            return
        for context in helpers.single_contexts(model):
            total, tolerance, grid = helpers.log_mass(model, context)
            assert abs(total) <= tolerance, f"log of the total mass is {total}"
            if helpers.is_discrete(model):
                _check_frequencies(model, context)
            elif grid is not None:
                _check_moments(model, context, grid)


def _check_frequencies(model: DensityModel, context: Tensor | None, n: int = 8_000) -> None:
    x = helpers.everything(model)
    p = helpers.in_parts(model.log_prob, x, context).exp()
    samples = model.sample(n, helpers.repeated(context, n), generator=1)
    count = model.support.count if isinstance(model.support, Symbols) else 2
    digits = count ** torch.arange(model.event_shape.numel() - 1, -1, -1)
    index = (samples.reshape(n, -1).long() * digits).sum(1)
    drawn = torch.bincount(index, minlength=len(x)) / n
    error = 5.0 * (p * (1 - p) / n).sqrt() + 5.0 / n
    worst = ((drawn - p).abs() / error).max()
    assert worst <= 1, "samples do not follow log_prob"


def _check_moments(
    model: DensityModel, context: Tensor | None, grid: helpers.Grid, n: int = 8_000
) -> None:
    """Means of bounded functions, waves, over samples and by quadrature."""
    samples = model.sample(n, helpers.repeated(context, n), generator=1).reshape(n, -1)
    centre, scale = samples.median(0).values, samples.std(0)
    frequency = 2.0 * torch.randn(
        samples.shape[1], 16, generator=torch.Generator().manual_seed(0), dtype=samples.dtype
    )
    weight = (helpers.in_parts(model.log_prob, grid.x, context) + grid.log_weight).exp()
    nodes = grid.x.reshape(len(grid.x), -1)
    for wave in (torch.sin, torch.cos):
        drawn = wave((samples - centre) / scale @ frequency)
        exact = weight @ wave((nodes - centre) / scale @ frequency)
        error = 5.0 * (drawn.std(0) / math.sqrt(n) + grid.error) + 0.01
        assert ((drawn.mean(0) - exact).abs() <= error).all(), "samples do not follow log_prob"


def check_bound_is_below(case: Case) -> None:
    """In expectation the bound is at most the log probability, and rises towards it."""
    model = case.scrambled()
    if not isinstance(model, Bound):
        return
    for context in helpers.single_contexts(model):
        if helpers.is_discrete(model):
            mean, error = _bound(model, helpers.everything(model), context, draws=256)
            mass = mean.exp()
            slack = 4.0 * float((mass * error).square().sum().sqrt())
            assert mass.sum() <= 1 + 1e-6 + slack, f"the bounds sum to {float(mass.sum())}"
        x = helpers.values(model, 5)
        mean, error = _bound(model, x, context, draws=1000)
        many, many_error = _bound(model, x, context, draws=100, samples=64)
        slack = 3.0 * (error.square() + many_error.square()).sqrt() + 1e-9
        assert (many.mean() >= (mean - slack).mean()).all(), "more samples loosen the bound"
        exact = helpers.true_log_prob(model, x, context)
        if exact is not None:
            assert (mean <= exact + 3.0 * error + 1e-6).all(), "the bound exceeds log p(x)"
            assert (many <= exact + 3.0 * many_error + 1e-6).all(), "the bound exceeds log p(x)"
            limit, limit_error = _bound(model, x, context, draws=4, samples=4000)
            if error.max() > 1e-9:  # its noise, if it has any, covers all of q
                assert ((exact - limit).abs() < 0.1 + 4.0 * limit_error).all(), (
                    "the bound does not reach log p(x)"
                )


@torch.no_grad()
def _bound(
    model: Bound, x: Tensor, context: Tensor | None, draws: int, samples: int = 1
) -> tuple[Tensor, Tensor]:
    """The mean bound for each x over `draws`, and its standard error; one context for all."""
    many = x.repeat_interleave(draws, dim=0)
    with drawing_from(0):
        each = model.elbo(many, helpers.repeated(context, len(many)), samples=samples)
    each = each.reshape(len(x), draws)
    return each.mean(1), each.std(1) / math.sqrt(draws)

"""P01 maximum likelihood is divergence, EV1 held-out likelihood, and the measures themselves."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from rlgen.generative import (
    FVSBN,
    MADE,
    NADE,
    VAE,
    VQVAE,
    BayesNet,
    Categorical,
    CategoricalMixture,
    CausalTransformer,
    Dequantised,
    Gaussian,
    PixelCNN,
    evaluate,
    heads,
    metrics,
)
from rlgen.generative.data import digits, two_moons, two_moons_log_prob
from rlgen.generative.model import DensityModel
from tests import truth

TRACTABLE: dict[str, tuple[Callable[[], DensityModel], int]] = {
    "Categorical": (partial(Categorical, 6), 2),
    "Categorical-3": (partial(Categorical, (2, 2), categories=3), 3),
    "BayesNet": (partial(BayesNet, 5, parents=[(), (0,), (0, 1), (1,), (3, 0)]), 2),
    "CategoricalMixture": (partial(CategoricalMixture, 6, components=3), 2),
    "FVSBN": (partial(FVSBN, 6), 2),
    "NADE": (partial(NADE, 6), 2),
    "NADE-3": (partial(NADE, 4, head=heads.Categorical(3)), 3),
    "MADE": (partial(MADE, 6), 2),
    "MADE-3": (partial(MADE, (2, 2), head=heads.DiscretisedLogisticMixture(3)), 3),
    "PixelCNN": (partial(PixelCNN, (1, 2, 3), channels=8, dropout=0.5), 2),
    "CausalTransformer": (partial(CausalTransformer, 4, symbols=3, width=16), 3),
}


@pytest.mark.parametrize("name", list(TRACTABLE))
def test_p01_nll_minus_entropy_is_divergence(name: str) -> None:
    """NLL - H(p*) = KL(p* || p) within 1e-5, p* being the frequencies of a data set.

    In training mode, in batches that do not divide the data, and per example, not per number:
    each of these would show.
    """
    torch.manual_seed(0)
    make, count = TRACTABLE[name]
    model = make().double()
    truth.randomise(model, 0.5)
    dims = math.prod(model.event_shape)
    every = truth.symbols(dims, count)
    counts = np.random.default_rng(0).integers(0, 40, size=len(every))
    x = every.repeat_interleave(torch.tensor(counts), dim=0)
    x = x[torch.randperm(len(x))].reshape(-1, *model.event_shape)
    p_star = counts / counts.sum()
    with torch.no_grad():
        table = truth.array(model.eval().log_prob(every.reshape(-1, *model.event_shape)).exp())
    assert abs(table.sum() - 1) <= 1e-9
    divergence = truth.kl(p_star, table)
    assert divergence > 0.01
    model.train()
    found = metrics.held_out(model, x, batch_size=97)
    assert found.kind == "exact" and found.dims == dims
    assert abs(found.nats - truth.entropy(p_star) - divergence) <= 1e-5
    assert abs(evaluate(model, x, batch_size=97) - found.nats) <= 1e-9
    assert found.bits_per_dim == pytest.approx(found.nats / (dims * math.log(2)), abs=1e-12)
    terms = -np.log(np.repeat(table, counts))
    error = terms.std(ddof=1) / math.sqrt(len(terms))
    assert found.standard_error == pytest.approx(error, rel=1e-6)
    assert model.training  # and it was put back


def test_p01_the_best_fit_is_the_closest() -> None:
    """A complete graph reaches KL = 0; independent symbols are left with the multi-information."""
    counts = np.random.default_rng(0).integers(1, 40, size=27)
    x = truth.symbols(3, 3).repeat_interleave(torch.tensor(counts), dim=0)
    p = (counts / counts.sum()).reshape(3, 3, 3)
    complete = BayesNet(3, parents=[(), (0,), (0, 1)], categories=3).double()
    complete.maximise(x)
    assert abs(metrics.held_out(complete, x).nats - truth.entropy(p.ravel())) <= 1e-10
    independent = Categorical(3, categories=3).double()
    independent.maximise(x)
    sums = [
        truth.entropy(p.sum((1, 2))),
        truth.entropy(p.sum((0, 2))),
        truth.entropy(p.sum((0, 1))),
    ]
    assert abs(metrics.held_out(independent, x).nats - sum(sums)) <= 1e-10


class Dropped(DensityModel):
    """One bit whose logit passes through dropout: 1 in evaluation, 0 or 10 in training."""

    def __init__(self) -> None:
        super().__init__(1)
        self.logit = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        logit: Tensor = self.dropout(self.logit)
        log_prob: Tensor = x[:, 0] * -nn.functional.softplus(-logit)
        return log_prob

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return (self.dropout(self.logit.expand(n, 1)) == 1).float()


def test_p01_evaluates_in_evaluation_mode() -> None:
    model = Dropped().train()
    exact = math.log1p(math.exp(-1))
    x = torch.ones(10, 1)
    assert evaluate(model, x) == pytest.approx(exact, abs=1e-6)
    assert metrics.held_out(model, x).nats == pytest.approx(exact, abs=1e-6)
    assert (model.sample(10) == 1).all()
    assert model.training and model.dropout.training


def test_ev1_digits_pipeline_gives_log2_of_17_for_uniform() -> None:
    split = digits()
    assert [len(part) for part in split] == [1293, 144, 360] * 2
    assert split.test.shape == (360, 1, 8, 8) and int(split.train.max()) == 16
    model = Categorical((1, 8, 8), categories=17)
    model.maximise(torch.arange(17)[:, None, None, None].expand(17, 1, 8, 8))
    found = metrics.held_out(model, split.test)
    assert found.kind == "exact"
    assert found.bits_per_dim == pytest.approx(math.log2(17), abs=1e-5)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_ev1_dequantised_uniform_gives_the_same_bits_as_a_bound(levels: int) -> None:
    """A density much wider than its bins: bits are those of the bins, dequantised or not."""
    density = Gaussian(2).double()
    with torch.no_grad():
        density.maximise(0.5 + 50 * torch.randn(4000, 2, dtype=torch.float64))
    model = Dequantised(density, levels=levels)
    x = torch.randint(levels, (500, 2))
    found = metrics.held_out(model, x)
    mean = truth.array(density.mean)
    scale = np.sqrt(np.diag(truth.array(density.covariance)))
    edge = x.numpy() / levels
    exact = np.log(
        stats.norm.cdf(edge + 1 / levels, mean, scale) - stats.norm.cdf(edge, mean, scale)
    )
    assert found.kind == "bound"
    assert found.nats == pytest.approx(-exact.sum(1).mean(), abs=1e-3)
    assert str(found).startswith("<= ")  # a table must not mix bounds with exact numbers


def test_ev1_bounds_and_exact_numbers_are_labelled() -> None:
    x = torch.randint(2, (50, 4)).float()
    for model, kind in (
        (MADE(4), "exact"),
        (VAE(4, latent=2, head=heads.Bernoulli()), "bound"),
        (VQVAE(4, codes=4, head=heads.Bernoulli()), "bound"),
    ):
        found = metrics.held_out(model, x)
        assert found.kind == kind
        assert str(found).startswith("<=") == (kind == "bound")
        assert found == metrics.held_out(model, x)  # the same noise each time
    more = metrics.held_out(VAE(4, latent=2, head=heads.Bernoulli()), x, samples=20)
    assert more.kind == "bound"
    with pytest.raises(TypeError):
        metrics.held_out(nn.Linear(1, 1), x)  # type: ignore[arg-type]


def test_ev1_digits_nll_of_independent_pixels() -> None:
    """The whole pipeline against counting: smoothed tables of 17 levels, in bits per pixel."""
    split = digits()
    model = Categorical((1, 8, 8), categories=17, smoothing=0.5)
    model.maximise(split.train)
    train, test = split.train.reshape(-1, 64).numpy(), split.test.reshape(-1, 64).numpy()
    tables = np.stack([np.bincount(column, minlength=17) + 0.5 for column in train.T])
    tables = tables / tables.sum(1, keepdims=True)
    bits = -np.log2(tables[np.arange(64), test]).mean()
    assert metrics.held_out(model, split.test).bits_per_dim == pytest.approx(bits, abs=1e-4)
    assert 1.5 < bits < math.log2(17)


def test_ev1_divergences_equal_scipy() -> None:
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(6), size=(2, 9))
    p[:, 0] = 0
    p /= p.sum(1, keepdims=True)
    a, b = truth.as_float(p), truth.as_float(q)
    np.testing.assert_allclose(metrics.kl_divergence(a, b), stats.entropy(p, q, axis=1), 1e-10)
    assert np.isinf(truth.array(metrics.kl_divergence(b, a))).all()
    exact = jensenshannon(p, q, axis=1) ** 2
    np.testing.assert_allclose(metrics.js_divergence(a, b), exact, rtol=1e-9)
    np.testing.assert_allclose(metrics.total_variation(a, b), np.abs(p - q).sum(1) / 2, rtol=1e-12)
    one = torch.eye(2, dtype=torch.float64)
    assert metrics.js_divergence(one[0], one[1]) == pytest.approx(math.log(2))
    # JSD(N(0, 1), N(2, 1)) = 0.33683, on a grid
    x = np.linspace(-9, 11, 200_001)
    densities = [truth.as_float(stats.norm.pdf(x, m) * (x[1] - x[0])) for m in (0, 2)]
    assert float(metrics.js_divergence(*densities)) == pytest.approx(0.33683, abs=1e-4)


def test_ev1_bits_per_dim() -> None:
    assert metrics.bits_per_dim(8 * math.log(2), 8) == pytest.approx(1)
    assert metrics.bits_per_dim(3072 * math.log(256), 3072) == pytest.approx(8)


def test_ev1_true_density_of_the_moons() -> None:
    """It integrates to 1, and its samples have its entropy."""
    step = 4 / 140
    axis = -2 + step * (np.arange(140) + 0.5)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) + np.array([0.5, 0.25])
    log_p = truth.array(two_moons_log_prob(truth.as_float(grid), nodes=512))
    assert np.exp(log_p).sum() * step**2 == pytest.approx(1, abs=1e-6)
    entropy = -float((np.exp(log_p) * log_p).sum()) * step**2
    x = two_moons(2000, generator=torch.Generator().manual_seed(0))
    assert truth.within(-truth.array(two_moons_log_prob(x)), entropy, 4)

"""F09: uniform dequantisation of a density, against quadrature and exact masses."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from rlgen.generative import Dequantised, Flow, Gaussian, MixtureDensityNetwork, RealNVP, flows
from rlgen.generative.metrics import held_out
from rlgen.generative.model import DensityModel
from tests import truth


class Uniform(DensityModel):
    """The uniform density on the unit cube."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf).to(x.dtype)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return torch.rand(n, *self.event_shape)


def one_number(seed: int) -> Flow:
    model = Flow(1, [flows.Logit(), *RealNVP(1, transforms=2).transforms]).double()
    truth.randomise(model, 0.15, seed)
    return model


def per_bin(density: DensityModel, levels: int) -> tuple[truth.Array, truth.Array]:
    """The exact log mass of each bin and the expectation of its bound, by quadrature."""

    def log_p(u: float) -> float:
        return truth.number(density.log_prob(truth.as_float([[u]])))

    edges = np.linspace(0, 1, levels + 1)
    mass = [integrate.quad(lambda u: math.exp(log_p(u)), a, b)[0] for a, b in pairwise(edges)]
    mean = [integrate.quad(log_p, a, b)[0] * levels for a, b in pairwise(edges)]
    return np.log(mass), np.array(mean) - math.log(levels)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [2, 5])
def test_f09_bound_is_below_the_log_mass(seed: int, levels: int) -> None:
    """Never above the exact log mass, and what Jensen's inequality says it is."""
    density = one_number(seed)
    exact, expected = per_bin(density, levels)
    model = Dequantised(density, levels=levels)
    assert (expected <= exact).all() and (exact - expected).max() > 1e-4
    for symbol in range(levels):
        x = torch.full((20_000, 1), symbol)
        with torch.no_grad():
            bound = truth.array(model.elbo(x))
            tight = truth.array(model.elbo(x[:4000], samples=20))
        assert truth.within(bound, float(expected[symbol]), 4)
        assert bound.mean() <= exact[symbol] + 4 * bound.std() / math.sqrt(len(bound))
        error = 4 * tight.std() / math.sqrt(len(tight))
        assert bound.mean() - error - 1e-4 <= tight.mean() <= exact[symbol] + error
        assert exact[symbol] - tight.mean() <= 0.3 * (exact[symbol] - bound.mean()) + error


def test_f09_scaling_counts_once_for_each_number() -> None:
    """log P(x) of independent Gaussians over a (2, 3) event: the Jacobian is - D log levels."""
    density = Gaussian((2, 3)).double()
    truth.randomise(density, 0.3)
    mean, scale = truth.array(density.mean), np.sqrt(np.diag(truth.array(density.covariance)))
    scale = scale.reshape(2, 3)
    levels = 256
    x = torch.randint(levels, (50, 2, 3), generator=torch.Generator().manual_seed(0))
    edge = x.numpy() / levels
    exact = np.log(
        stats.norm.cdf(edge + 1 / levels, mean, scale) - stats.norm.cdf(edge, mean, scale)
    ).sum((1, 2))
    with torch.no_grad():
        bound = truth.array(Dequantised(density, levels=levels).elbo(x, samples=50))
    assert np.abs(bound - exact).max() < 0.01  # bins so narrow that the density is flat there


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("shape", [(1,), (3, 4)])
def test_f09_uniform_density_costs_log2_levels_bits(levels: int, shape: tuple[int, ...]) -> None:
    """The offset of bits per dimension is log2(levels): 8 bits for 256."""
    model = Dequantised(Uniform(shape), levels=levels)
    x = torch.randint(levels, (100, *shape), generator=torch.Generator().manual_seed(0))
    found = held_out(model, x)
    assert found.kind == "bound"
    assert found.bits_per_dim == pytest.approx(math.log2(levels), abs=1e-6)
    assert held_out(model, x, samples=7).bits_per_dim == pytest.approx(math.log2(levels), abs=1e-6)


def test_f09_noise_is_fresh_and_stays_in_its_bin() -> None:
    """Trap: noise added once for the whole data set, or reaching the next symbol."""
    seen = []

    class Spy(Uniform):
        def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            seen.append(x.detach().clone())
            return super().log_prob(x, context)

    model = Dequantised(Spy((2,)), levels=4)
    x = torch.tensor([[0, 3], [1, 2]]).repeat(5000, 1)
    model.elbo(x)
    model.loss(x)
    first, second = seen
    assert not torch.equal(first, second)
    for u in seen:
        noise = 4 * u - x
        assert noise.min() >= 0 and noise.max() <= 1
        assert ((u * 4).floor().clamp(max=3) == x).all()
        assert stats.kstest(truth.array(noise).ravel(), "uniform").pvalue > 1e-3
    assert torch.allclose(model.loss(x), -model.elbo(x))  # constant here


def test_f09_samples_are_symbols_with_the_masses_of_their_bins() -> None:
    """What falls outside the unit interval goes to the nearest symbol."""
    density = Gaussian(1).double()
    with torch.no_grad():
        density.maximise(0.2 + 0.4 * torch.randn(1000, 1, dtype=torch.float64))
    mean, scale = truth.number(density.mean), math.sqrt(truth.number(density.covariance))
    model = Dequantised(density, levels=5)
    x = model.sample(50_000, generator=0)
    assert x.dtype == torch.int64 and x.shape == (50_000, 1)
    edges = np.concatenate([[-np.inf], np.arange(1, 5) / 5, [np.inf]])
    exact = np.diff(stats.norm.cdf(edges, mean, scale))
    counts = np.bincount(x[:, 0].numpy(), minlength=5)
    assert len(counts) == 5
    assert stats.chisquare(counts, 50_000 * exact).pvalue > 1e-3


def test_f09_symbols_and_contexts_are_checked() -> None:
    model = Dequantised(Uniform((2,)), levels=4)
    for wrong in (torch.tensor([[0, 4]]), torch.tensor([[-1, 0]]), torch.zeros(1, 2)):
        with pytest.raises(ValueError):
            model.elbo(wrong)
    given = MixtureDensityNetwork(2, context_shape=3)
    conditional = Dequantised(given, levels=4)
    assert conditional.context_shape == (3,)
    x, context = torch.tensor([[0, 3]]), torch.ones(1, 3)
    assert conditional.elbo(x, context, samples=3).shape == (1,)
    with pytest.raises(ValueError):
        conditional.elbo(x)

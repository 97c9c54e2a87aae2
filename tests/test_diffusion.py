"""S01 diffusion, S02 score matching, S03 annealed Langevin, S04 flows of scores."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rlgen.generative import DDPM, ScoreSDE, cosine, diffusion, fit
from rlgen.generative.diffusion import score_matching
from rlgen.generative.energy import samplers
from tests import truth
from tests.truth import Array

# ---------------------------------------------------------------- known densities, noised


@dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussians in D dimensions, whose noised versions are of the same kind.

    alpha x + sigma noise has means alpha m_k and variances alpha^2 s_k^2 + sigma^2.
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]

    def parts(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (K,), means (B, K, D) and variances (B, K) at noise levels (B,)."""
        make = {"dtype": alpha.dtype, "device": alpha.device}
        means = alpha[:, None, None] * torch.tensor(self.means, **make)  # type: ignore[arg-type]
        scales = torch.tensor(self.scales, **make)  # type: ignore[arg-type]
        variances = (alpha[:, None] * scales).square() + sigma[:, None].square()
        return torch.tensor(self.weights, **make).log(), means, variances  # type: ignore[arg-type]

    def components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log w_k N(x; ...) with shape (B, K)."""
        logs, means, variances = self.parts(alpha, sigma)
        square = (x[:, None] - means).square().sum(-1) / variances
        return logs - 0.5 * (square + x.shape[1] * (2 * math.pi * variances).log())

    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        whole = x.new_full((len(x),), 1.0)
        return self.components(x, alpha * whole, sigma * whole).logsumexp(1)

    def score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, means, variances = self.parts(alpha, sigma)
        which = self.components(x, alpha, sigma).softmax(1)
        return -(which[:, :, None] * (x[:, None] - means) / variances[:, :, None]).sum(1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = np.random.default_rng(seed)
        which = generator.choice(len(self.weights), size=n, p=self.weights)
        means, scales = np.array(self.means)[which], np.array(self.scales)[which]
        noise = generator.normal(size=means.shape)
        return torch.tensor(means + scales[:, None] * noise, dtype=torch.float32)

    def cdf(self, x: Array) -> Array:
        """In one dimension."""
        parts = [
            w * stats.norm.cdf(x, m[0], s)
            for w, m, s in zip(self.weights, self.means, self.scales, strict=True)
        ]
        return np.asarray(sum(parts))


LINE = Mixture((0.3, 0.7), ((-1.0,), (2.0,)), (0.5, 0.3))
SQUARE = Mixture((0.25,) * 4, ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)), (0.25,) * 4)


def mmd2(x: Array, y: Array, bandwidth: float) -> float:
    """The unbiased estimate with an RBF kernel."""

    def kernel(a: Array, b: Array) -> Array:
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.asarray(np.exp(-square / (2 * bandwidth**2)))

    n, m = len(x), len(y)
    within_x = (kernel(x, x).sum() - n) / (n * (n - 1))
    within_y = (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


def two_sample_p(x: Array, y: Array, bandwidth: float = 0.5, permutations: int = 200) -> float:
    """The permutation test of MMD."""
    pooled, n = np.concatenate([x, y]), len(x)
    kernel = np.exp(-((pooled[:, None] - pooled[None]) ** 2).sum(-1) / (2 * bandwidth**2))
    generator = np.random.default_rng(0)

    def statistic(sign: Array) -> float:
        return float(sign @ kernel @ sign)

    sign = np.where(np.arange(len(pooled)) < n, 1 / n, -1 / (len(pooled) - n))
    here = statistic(sign)
    beaten = sum(statistic(generator.permutation(sign)) >= here for _ in range(permutations))
    return (1 + beaten) / (1 + permutations)


# ---------------------------------------------------------------- S01


class Optimal(nn.Module):
    """The best prediction of the noise where x_0 ~ N(centre, spread^2); counts its calls."""

    def __init__(self, model_steps: int, spread: float, centre: float = 0.0) -> None:
        super().__init__()
        scale = 1000 / model_steps
        betas = scale * np.linspace(1e-4, 0.02, model_steps)
        self.register_buffer("alpha_bar", torch.tensor(np.cumprod(1 - betas)))
        self.unused = nn.Parameter(torch.zeros(()))
        self.spread, self.centre, self.steps, self.calls = spread, centre, model_steps, 0

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        self.calls += 1
        index = (t.double() * self.steps).round().long()
        assert ((index >= 1) & (index <= self.steps)).all()
        bar = self.alpha_bar[index - 1].reshape(-1, *[1] * (x.ndim - 1))  # type: ignore[index]
        gap = x.double() - bar.sqrt() * self.centre
        eps: Tensor = (1 - bar).sqrt() * gap / (bar * self.spread**2 + 1 - bar)
        return eps.to(x.dtype)


def analytic(
    spread: float, *, steps: int = 1000, centre: float = 0.0, dims: int = 1, **more: Any
) -> tuple[DDPM, Optimal]:
    network = Optimal(steps, spread, centre)
    model = DDPM(dims, steps=steps, network=network, **more).double()
    return model.eval(), network


@contextmanager
def constant_noise(value: float) -> Iterator[None]:
    """Every normal number that torch draws is `value`."""

    def randn(*size: Any, generator: Any = None, **more: Any) -> Tensor:
        return torch.full_like(torch.empty(*size, **more), value)

    def randn_like(x: Tensor, **more: Any) -> Tensor:
        return torch.full_like(x, value, **more)

    with (
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "randn_like", randn_like),
    ):
        yield


def expected_elbo(model: DDPM, spread: float, nodes: int = 3) -> float:
    """E elbo(x_0) over x_0 ~ N(0, spread^2) and all noise, by Gauss-Hermite quadrature.

    Each term is a quadratic of x_0 and of its own noise, so three nodes of either are exact.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    x = truth.as_float(spread * points)[:, None]
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        with constant_noise(point), torch.no_grad():
            total += weight * float((truth.as_float(weights) * model.elbo(x)).sum())
    return total


@pytest.mark.parametrize(
    "variance, spread, nats",
    [("beta", 1.0, 1.41894), ("beta", 0.5, 0.72688), ("posterior", 1.0, 1.88383),
     ("posterior", 0.5, 1.18214)],
)  # fmt: skip
def test_s01_bound_of_the_best_predictor(variance: Any, spread: float, nats: float) -> None:
    """The anchors within 1e-3; entropies are 1.41894 and 0.72579."""
    model, network = analytic(spread, variance=variance)
    assert -expected_elbo(model, spread) == pytest.approx(nats, abs=2e-5)
    assert network.calls >= 3  # trap: the plugged predictor is really used
    entropy = 0.5 * math.log(2 * math.pi * math.e * spread**2)
    assert -expected_elbo(model, spread) >= entropy - 1e-9


@pytest.mark.parametrize("steps", [25, 100])
def test_s01_bound_is_exact_on_standard_normal_data_at_any_length(steps: int) -> None:
    model, _ = analytic(1.0, steps=steps)
    exact = 0.5 * math.log(2 * math.pi * math.e)
    assert -expected_elbo(model, 1.0) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("schedule", [diffusion.Linear(), diffusion.Cosine()])
@pytest.mark.parametrize("steps", [1, 2, 10, 300])
def test_s01_variances_are_variances_at_any_length(schedule: Any, steps: int) -> None:
    """Ten times as few steps add as much noise in all, and none adds more than there can be."""
    betas = schedule.betas(steps)
    assert betas.shape == (steps,) and (betas > 0).all() and (betas < 1).all()
    model = DDPM(2, steps=steps, schedule=schedule).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    assert torch.isfinite(model.elbo(x)).all() and torch.isfinite(model.sample(3)).all()
    if steps >= 100:
        assert (1 - betas).prod() <= 1e-3


def test_s01_bound_by_its_own_noise_agrees_with_quadrature() -> None:
    """Guards the quadrature: the noise that it replaced is all the noise there is."""
    model, _ = analytic(0.5, steps=50)
    exact = -expected_elbo(model, 0.5)
    x = 0.5 * torch.randn(20_000, 1, dtype=torch.float64)
    with torch.no_grad():
        own = truth.array(-model.elbo(x))
        assert truth.within(own, exact)
        assert truth.within(truth.array(-model.elbo(x[:5000], samples=4)), exact)
        simple = truth.array(model.loss(x))
    assert abs(simple.mean() - exact) > 0.05, "L_simple is not the bound"


def test_s01_bound_of_a_bad_predictor_is_lower() -> None:
    """Any other predictor: the bound stays below the entropy, and pays for its error."""
    right, _ = analytic(0.5, steps=100)
    wrong, _ = analytic(1.0, steps=100)
    assert expected_elbo(wrong, 0.5) < expected_elbo(right, 0.5) - 0.05


def test_s01_bound_adds_over_dimensions() -> None:
    one, _ = analytic(0.5, steps=20)
    two, _ = analytic(0.5, steps=20, dims=2)
    x = torch.tensor([[0.3], [-0.8]], dtype=torch.float64)
    with constant_noise(0.7), torch.no_grad():
        single, pair = one.elbo(x), two.elbo(x.T)
    assert float(pair) == pytest.approx(float(single.sum()), abs=1e-10)


@pytest.mark.parametrize("steps", [1000, 40])
def test_s01_iterated_noise_is_the_closed_form(steps: int) -> None:
    """q(x_t | x_{t-1}) step by step gives `q_sample`, at every t."""
    model = DDPM(1, steps=steps).double()
    betas = 1000 / steps * np.linspace(1e-4, 0.02, steps)
    signal, variance = 1.0, 0.0
    t = torch.arange(1, steps + 1)
    one, zero = torch.ones(steps, 1).double(), torch.zeros(steps, 1).double()
    signals = truth.array(model.q_sample(one, t, zero)).ravel()
    noises = truth.array(model.q_sample(zero, t, one)).ravel()
    both = truth.array(model.q_sample(one, t, one)).ravel()
    for k, beta in enumerate(betas):
        signal *= math.sqrt(1 - beta)
        variance = (1 - beta) * variance + beta
        assert signals[k] == pytest.approx(signal, abs=1e-9)
        assert noises[k] == pytest.approx(math.sqrt(variance), abs=1e-9)
    np.testing.assert_allclose(both, signals + noises, atol=1e-12)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("steps", [30, 1000])
def test_s01_no_noise_at_the_last_step(variance: Any, steps: int) -> None:
    """Data at one point: the predictor knows it, and the last step lands on it exactly."""
    model, network = analytic(0.0, steps=steps, centre=0.7, variance=variance)
    drawn = model.sample(50, generator=0)
    assert (drawn - 0.7).abs().max() <= 1e-9
    assert network.calls == steps
    strided = model.sample_strided(50, steps=7, generator=0)
    assert (strided - 0.7).abs().max() <= 1e-9


@pytest.mark.parametrize("variance, spread", [("beta", 1.0), ("posterior", 0.01)])
def test_s01_samples_of_the_best_predictor(variance: Any, spread: float) -> None:
    """Where each variance is the right one, samples follow the data."""
    model, _ = analytic(spread, steps=100, variance=variance)
    drawn = truth.array(model.sample(4000, generator=0)).ravel()
    if variance == "beta":  # exact, but for the noise that the last step leaves out
        last = math.sqrt(1 - 1e-3)
        assert stats.kstest(drawn / last, "norm").pvalue > 1e-3
    else:
        assert abs(drawn.mean()) <= 1e-3 and drawn.std() <= 3 * spread


def test_s01_strided_samples_follow_the_data() -> None:
    """Fewer calls of the network, nearly the same distribution, and all of it at every step."""
    model, network = analytic(0.5)
    for steps, eta in ((50, 0.0), (50, 1.0), (200, 0.0)):
        network.calls = 0
        drawn = model.sample_strided(4000, steps=steps, eta=eta, generator=0)
        assert network.calls == steps
        assert drawn.shape == (4000, 1)
        assert float(drawn.std()) == pytest.approx(0.5, rel=0.1 if steps == 50 else 0.06)
        assert abs(float(drawn.mean())) <= 0.03
    again = model.sample_strided(4000, steps=200, generator=0)
    assert torch.equal(drawn, again)


def test_s01_score_is_that_of_the_noised_data() -> None:
    model, network = analytic(0.5, steps=200, centre=0.4)
    x = torch.randn(30, 1, dtype=torch.float64)
    t = torch.randint(1, 201, (30,))
    bar = network.alpha_bar[t - 1][:, None]  # type: ignore[index]
    exact = -(x - bar.sqrt() * 0.4) / (bar * 0.25 + 1 - bar)
    assert (model.score(x, t) - exact).abs().max() <= 1e-9


@pytest.mark.slow
def test_s01_learns_a_plane() -> None:
    """MMD^2 of samples against fresh data below 0.01; the bound lies below the entropy, closely."""
    model = DDPM(2, steps=200)
    fit(model, SQUARE.sample(20_000), steps=1500, schedule=cosine, progress=False)
    fresh = SQUARE.sample(2000, seed=1)
    for drawn in (model.sample(2000, generator=0), model.sample_strided(2000, generator=0)):
        for bandwidth in (0.3, 1.0):
            assert mmd2(truth.array(drawn), truth.array(fresh), bandwidth) < 0.01
    test = SQUARE.sample(4000, seed=2)
    entropy = -float(SQUARE.log_prob(test.double()).mean())
    with torch.no_grad():
        gap = truth.array(-model.eval().elbo(test)) + truth.array(SQUARE.log_prob(test.double()))
    error = gap.std() / math.sqrt(len(gap))
    assert -3 * error <= gap.mean() <= 0.3, (entropy, gap.mean())


# ---------------------------------------------------------------- S02

COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


class LinearScore(nn.Module):
    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(dims, dims).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


def minimise(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """A convex problem with frozen noise, to convergence."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        torch.manual_seed(1)
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def gaussian_data(n: int) -> Tensor:
    """With exactly the mean and covariance that it should have."""
    x = torch.randn(n, 2, dtype=torch.float64)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return MEAN + x @ torch.linalg.cholesky(COVARIANCE).T


@pytest.mark.parametrize(
    "objective, n", [(score_matching.implicit, 1000), (score_matching.sliced, 20_000)]
)
def test_s02_linear_score_of_gaussian_data(objective: Callable[..., Tensor], n: int) -> None:
    """The optimum is -(x - mean) / covariance, coefficients within 2 %."""
    x, model = gaussian_data(n), LinearScore()
    minimise(model, lambda: objective(model, x).mean())
    precision = COVARIANCE.inverse()
    limit = 0.02 * float(precision.abs().max())
    assert (model.linear.weight + precision).abs().max() <= limit
    assert (model.linear.bias - precision @ MEAN).abs().max() <= limit


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_s02_denoising_learns_the_noised_score(sigma: float) -> None:
    """Trap: the score of the data itself. On N(0, 1) the optimum is -x / (1 + sigma^2)."""
    x = torch.randn(100_000, 1, dtype=torch.float64)
    x = (x - x.mean()) / x.std()
    model = LinearScore(1)
    minimise(model, lambda: score_matching.denoising(model, x, sigma).mean())
    assert truth.number(model.linear.weight) == pytest.approx(-1 / (1 + sigma**2), rel=0.02)
    assert abs(truth.number(model.linear.bias)) <= 0.02


def test_s02_implicit_is_the_fisher_divergence_up_to_a_constant() -> None:
    """E 1/2 |s - score|^2 = E implicit + E 1/2 |score|^2, by quadrature on a mixture."""
    torch.manual_seed(0)
    axis = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    density = LINE.log_prob(axis).exp() * (12 / 4000)
    ones, zeros = axis.new_ones(4001), axis.new_zeros(4001)
    exact = LINE.score(axis, ones, zeros)
    for _ in range(3):
        model = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1)).double()
        rows = score_matching.implicit(model, axis).detach()
        assert rows.shape == (4001,)
        fisher = 0.5 * (density * (model(axis).detach() - exact).square()[:, 0]).sum()
        constant = 0.5 * (density * exact.square()[:, 0]).sum()
        assert float(fisher) == pytest.approx(float((density * rows).sum() + constant), abs=1e-6)


def test_s02_sliced_is_unbiased() -> None:
    """Against 1/2 |s|^2 + the exact trace of each row's Jacobian, within 3 standard errors."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    truth.randomise(model, 0.5)
    for row in torch.randn(3, 3, dtype=torch.float64):
        trace = truth.jacobian(lambda x: model(x), row).trace()
        exact = truth.number(0.5 * model(row).square().sum() + trace)
        assert truth.number(score_matching.implicit(model, row[None])) == pytest.approx(
            exact, abs=1e-9
        )
        many = score_matching.sliced(model, row.expand(20_000, 3))
        assert truth.within(truth.array(many), exact)


def test_s02_denoising_is_unbiased_for_the_noised_fisher_divergence() -> None:
    """Two scores differ by as much as their Fisher divergences from the noised density do."""
    sigma, n = 0.7, 400_000
    generator = torch.Generator().manual_seed(0)
    x = LINE.sample(n).double()

    def rows(slope: float) -> Array:
        torch.manual_seed(1)
        return truth.array(score_matching.denoising(lambda y: slope * y, x, sigma))

    noised = x + sigma * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    ones = x.new_ones(n)
    exact = LINE.score(noised, ones, sigma * ones)
    fisher = [0.5 * (s * noised - exact).square().mean() for s in (-1.0, -0.2)]
    found = float((rows(-1.0) - rows(-0.2)).mean())
    ratio = found / float(fisher[0] - fisher[1])
    assert any(abs(ratio / w - 1) <= 0.02 for w in (1.0, 2.0, sigma**2, 2 * sigma**2)), ratio


# ---------------------------------------------------------------- S03


def noise_levels(sde: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of x_t = alpha x_0 + sigma noise, from the equations of either SDE."""
    if isinstance(sde, diffusion.VE):
        low, high = sde.low, sde.high
        return torch.ones_like(t), low * (high / low) ** t
    log_alpha = -0.5 * (0.1 * t + 0.5 * (20 - 0.1) * t**2)
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


class Known(nn.Module):
    """The exact score of a noised mixture, as a network that predicts the noise."""

    def __init__(self, mixture: Mixture, sde: Any) -> None:
        super().__init__()
        self.mixture, self.sde = mixture, sde
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        alpha, sigma = noise_levels(self.sde, t)
        return -sigma[:, None] * self.mixture.score(x, alpha, sigma)


FAR = Mixture((0.2, 0.8), ((-5.0, -5.0), (5.0, 5.0)), (1.0, 1.0))


@pytest.mark.slow
def test_s03_annealing_finds_the_weights() -> None:
    """0.8 / 0.2 within 0.04, where plain Langevin from uniform noise keeps the basins' volumes."""
    sde = diffusion.VE(low=0.05, high=20.0)
    model = ScoreSDE(2, sde=sde, network=Known(FAR, sde)).double().eval()
    drawn = model.sample_annealed(3000, generator=0)
    right = drawn.sum(1) > 0
    assert float(right.double().mean()) == pytest.approx(0.8, abs=0.04)
    centred = drawn[right] - 5.0
    assert float(centred.mean().abs()) <= 0.1 and float(centred.std()) == pytest.approx(1, abs=0.1)

    def energy(x: Tensor) -> Tensor:
        return -FAR.log_prob(x)

    start = 16 * torch.rand(3000, 2, dtype=torch.float64) - 8
    plain = samplers.langevin(energy, start, step=0.1, steps=500)
    volume = float((start.sum(1) > 0).double().mean())
    kept = float((plain.sum(1) > 0).double().mean())
    assert abs(kept - 0.8) > 0.15 and abs(kept - volume) <= 0.1


def test_s03_last_denoising_step() -> None:
    """Trap: noise of the smallest level is left on the samples. Data at two points shows it."""
    points = Mixture((0.5, 0.5), ((-1.0,), (1.0,)), (1e-4, 1e-4))
    sde = diffusion.VE(low=0.1, high=5.0)
    model = ScoreSDE(1, sde=sde, network=Known(points, sde)).double().eval()
    drawn = model.sample_annealed(500, generator=0)
    assert (drawn.abs() - 1).abs().quantile(0.9) <= 0.02


# ---------------------------------------------------------------- S04


def flow_of(mixture: Mixture, **more: Any) -> ScoreSDE:
    sde = diffusion.VP()
    dims = len(mixture.means[0])
    return ScoreSDE(dims, sde=sde, network=Known(mixture, sde), **more).double().eval()


def test_s04_density_of_the_flow() -> None:
    """Errata 14: within 0.02 of the mixture's, for the terminal prior is N(0, 1); nearly one."""
    model = flow_of(LINE)
    axis = torch.linspace(-4, 5, 181, dtype=torch.float64)[:, None]
    with torch.no_grad():
        found = model.log_prob(axis).exp()
    exact = LINE.log_prob(axis).exp()
    error = (found - exact).abs().max()
    assert error <= 0.02
    assert float(found.sum() * 0.05) == pytest.approx(1.0, abs=0.005)


def test_s04_only_the_terminal_prior_is_off() -> None:
    """With the true p_T in place of N(0, 1) the error is at most 2e-5."""
    model = flow_of(LINE)
    axis = torch.linspace(-3, 4, 71, dtype=torch.float64)[:, None]
    with torch.no_grad():
        end, log_det = model.to_noise(axis)
    one = torch.ones(1, dtype=torch.float64)
    alpha, sigma = noise_levels(model.sde, one)
    true_end = LINE.log_prob(end, float(alpha), float(sigma))
    exact = LINE.log_prob(axis).exp()
    assert ((true_end + log_det).exp() - exact).abs().max() <= 2e-5


def test_s04_density_of_correlated_gaussians() -> None:
    """In three dimensions, where the trace has off-diagonal terms to leave out."""
    factor = torch.tensor([[1.0, 0, 0], [0.7, 0.5, 0], [-0.4, 0.3, 0.9]], dtype=torch.float64)
    covariance, mean = factor @ factor.T, torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)

    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
            alpha, sigma = noise_levels(None, t)
            noised = alpha[:, None, None] ** 2 * covariance
            noised = noised + sigma[:, None, None] ** 2 * torch.eye(3, dtype=x.dtype)
            return sigma[:, None] * torch.linalg.solve(noised, x - alpha[:, None] * mean)

    x = mean + torch.randn(20, 3, dtype=torch.float64) @ factor.T
    exact = stats.multivariate_normal.logpdf(x.numpy(), mean.numpy(), covariance.numpy())
    model = ScoreSDE(3, sde=diffusion.VP(), network=Score()).double().eval()
    with torch.no_grad():
        found = truth.array(model.log_prob(x))
        np.testing.assert_allclose(found, exact, atol=0.03)
        guess = ScoreSDE(3, sde=diffusion.VP(), network=Score(), exact_trace=False).double().eval()
        repeats = guess.log_prob(x[:2].repeat(300, 1)).reshape(300, 2)
    for i in range(2):  # the random trace is unbiased for the exact one
        assert repeats[:, i].std() > 1e-3
        assert truth.within(truth.array(repeats[:, i]), found[i])


@pytest.mark.slow
def test_s04_samples_of_both_equations() -> None:
    """ODE and SDE samples pass the MMD test and that of Kolmogorov and Smirnov."""
    model = flow_of(LINE)
    ode, sde = model.sample(1500, generator=0), model.sample_sde(1500, generator=0)
    fresh = truth.array(LINE.sample(500, seed=3))
    for drawn in (ode, sde):
        assert drawn.shape == (1500, 1)
        assert two_sample_p(truth.array(drawn[:500]), fresh) > 0.01
        assert stats.kstest(truth.array(drawn).ravel(), LINE.cdf).pvalue > 1e-3
    shifted = truth.array(ode[:500]) + 0.25
    assert two_sample_p(shifted, fresh) <= 0.01, "the test has no power"


def test_s04_samples_know_their_density() -> None:
    model = flow_of(LINE)
    x, log_prob = model.sample_and_log_prob(20, generator=0)
    with torch.no_grad():
        assert (model.log_prob(x) - log_prob).abs().max() <= 1e-3
    assert torch.equal(x, model.sample(20, generator=0))


@pytest.mark.slow
@pytest.mark.parametrize("sde", ["VP", "VE"])
def test_s04_learns_a_line(sde: str) -> None:
    """The flow's own NLL is near the entropy; both kinds of samples follow the data."""
    model = ScoreSDE(1, sde=getattr(diffusion, sde)())
    fit(model, LINE.sample(20_000), steps=1500, schedule=cosine, progress=False)
    model.eval()
    test = LINE.sample(2000, seed=1)
    with torch.no_grad():
        gap = truth.array(LINE.log_prob(test)) - truth.array(model.log_prob(test))
    error = gap.std() / math.sqrt(len(gap))
    assert -3 * error <= gap.mean() <= 0.05
    fresh = truth.array(LINE.sample(500, seed=2))
    for drawn in (model.sample(500, generator=0), model.sample_sde(500, generator=0)):
        assert mmd2(truth.array(drawn), fresh, 0.5) < 0.01

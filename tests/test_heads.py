"""Output heads: A10 (discretised logistics), A15 (bounded and 256-way heads), L07 (gradients)."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from rlgen.generative import MixtureDensityNetwork, fit, heads
from rlgen.generative.distributions import DiscretisedLogistic, LogitNormal
from tests import truth

BOUNDED = [heads.Beta(), heads.Kumaraswamy(), heads.LogitNormal()]


def inverse_positive(value: float) -> float:
    """The raw output that a head turns into `value`."""
    return truth.inverse(heads.positive, value)


def raw(*values: float) -> Tensor:
    return torch.tensor([[inverse_positive(v) for v in values]], dtype=torch.float64)


def log_masses(mean: float, scale: float, bins: int) -> truth.Array:
    """Discretised logistics in units of one bin, by a difference that cannot underflow.

    Errata 13: sigmoid((k + 1/2 - m) / s) - sigmoid((k - 1/2 - m) / s), tails in the edge bins.
    """
    half = (bins - 1) / 2
    m, s, k = (mean + 1) * half, scale * half, np.arange(bins)
    upper, lower = (k + 0.5 - m) / s, (k - 0.5 - m) / s
    log_upper, log_lower = -np.logaddexp(0, -upper), -np.logaddexp(0, lower)
    inside = log_upper + log_lower + np.log(-np.expm1(-1 / s))
    inside[0], inside[-1] = log_upper[0], log_lower[-1]
    out: truth.Array = inside
    return out


@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("bins", [2, 17, 256])
def test_a10_bins_sum_to_one(bins: int, spread: float) -> None:
    head = heads.DiscretisedLogisticMixture(bins=bins, components=3)
    outputs = spread * torch.randn(200, head.size(), generator=torch.Generator().manual_seed(0))
    values = torch.arange(bins)[:, None].expand(bins, 200)
    masses = head(outputs).log_prob(values).exp()
    assert masses.shape == (bins, 200)
    assert (masses.double().sum(0) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("mean", [-30.0, -1.2, -1.0, 0.0, 0.303, 1.0, 5.0])
@pytest.mark.parametrize("scale", [2e-3, 0.05, 1.0, 50.0])
@pytest.mark.parametrize("bins", [2, 17, 256])
def test_a10_masses_of_bins_and_tails(mean: float, scale: float, bins: int) -> None:
    """Half a bin to each side, tails in the edge bins, no underflow of a log of a difference."""
    exact = log_masses(mean, scale, bins)
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-3)):
        made = DiscretisedLogistic(
            torch.tensor(mean, dtype=dtype), torch.tensor(scale, dtype=dtype), bins
        )
        found = truth.array(made.log_prob(torch.arange(bins)))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance)


def test_a10_gradients_stay_finite_in_the_tails() -> None:
    head = heads.DiscretisedLogisticMixture(bins=256, components=3)
    outputs = 100 * torch.randn(500, head.size(), generator=torch.Generator().manual_seed(1))
    outputs.requires_grad_()
    value = torch.randint(256, (500,), generator=torch.Generator().manual_seed(2))
    log_prob = head(outputs).log_prob(value)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("centre, width", [(100.0, 15.0), (3.0, 20.0)])
def test_a10_nll_of_a_quantised_gaussian(centre: float, width: float) -> None:
    """NLL within 0.01 of the exact entropy, the second time with a tail in bin 0."""
    edges = np.concatenate([[-np.inf], np.arange(255) + 0.5, [np.inf]])
    target = np.diff(stats.norm.cdf(edges, centre, width))
    head = heads.DiscretisedLogisticMixture(bins=256, components=5)
    outputs = torch.zeros(1, head.size(), requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    weights = truth.as_float(target, torch.float32)
    for _ in range(800):
        optimizer.zero_grad()
        loss = -(weights * head(outputs).log_prob(torch.arange(256)[:, None])[:, 0]).sum()
        loss.backward()
        optimizer.step()
    final = truth.array(head(outputs.double()).log_prob(torch.arange(256)[:, None])[:, 0])
    nll = -float(target @ final)
    assert 0 <= nll - truth.entropy(target) <= 0.01


def test_a10_samples_follow_the_masses() -> None:
    exact = np.exp(log_masses(-0.9, 0.15, 17))
    made = DiscretisedLogistic(torch.tensor(-0.9), torch.tensor(0.15), 17)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = made.sample(torch.Size([50_000]))
    found = np.bincount(drawn.numpy(), minlength=17)
    assert stats.chisquare(found, 50_000 * exact / exact.sum()).pvalue > 0.01
    assert float(made.mean) == pytest.approx(float(np.arange(17) @ exact), abs=1e-3)


@pytest.mark.parametrize("head", BOUNDED, ids=repr)
def test_a15_integrates_to_one(head: heads.Head) -> None:
    outputs = 1.5 * torch.randn(20, head.size(), generator=torch.Generator().manual_seed(0))
    # flatter ends than these would leave mass between 1 and the number before it
    for row in outputs.double().clamp(min=-0.7):
        made = head(row)

        def density(t: float, made: torch.distributions.Distribution = made) -> float:
            x = special.expit(t)  # steps close to 0 and 1, where the density may be infinite
            value = made.log_prob(torch.tensor(x, dtype=torch.float64))
            return float(math.exp(float(value)) * x * (1 - x))

        total, _ = integrate.quad(density, -33, 33, limit=500, points=[-8, -2, 0, 2, 8])
        assert abs(total - 1) <= 1e-4


def test_a15_beta_equals_scipy() -> None:
    x = truth.as_float(np.linspace(0.001, 0.999, 101))
    for a, b in [(2.0, 5.0), (0.5, 0.7), (30.0, 4.0)]:
        made = heads.Beta()(raw(a, b))
        expected = stats.beta.logpdf(x.numpy(), a, b)
        np.testing.assert_allclose(truth.array(made.log_prob(x)), expected, rtol=1e-9)


def test_a15_kumaraswamy_density_and_mean() -> None:
    """f = a b x^(a-1) (1 - x^a)^(b-1), with mean b B(1 + 1/a, b): 0.36941 at (2, 5)."""
    made = heads.Kumaraswamy()(raw(2.0, 5.0))
    x = np.linspace(0.001, 0.999, 101)
    expected = np.log(10 * x * (1 - x**2) ** 4)
    np.testing.assert_allclose(truth.array(made.log_prob(truth.as_float(x))), expected, rtol=1e-8)
    mean = 5 * special.beta(1.5, 5)
    assert mean == pytest.approx(0.36941, abs=1e-5)
    assert float(made.mean) == pytest.approx(mean, abs=1e-6)


def test_a15_logit_normal_density_and_mean() -> None:
    """log p = log N(logit x) - log x (1 - x)."""
    x = np.linspace(0.001, 0.999, 101)
    for loc, scale in [(0.0, 1.0), (-1.5, 0.3), (0.7, 2.5)]:
        made = LogitNormal(truth.as_float(loc), truth.as_float(scale))
        expected = stats.norm.logpdf(special.logit(x), loc, scale) - np.log(x * (1 - x))
        np.testing.assert_allclose(truth.array(made.log_prob(truth.as_float(x))), expected, 1e-9)
        mean, _ = integrate.quad(
            lambda t, m=loc, s=scale: special.expit(t) * stats.norm.pdf(t, m, s), -40, 40, limit=500
        )
        assert float(made.mean) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("a, b", [(2.0, 5.0), (0.6, 0.8), (8.0, 1.5)])
def test_a15_kolmogorov_smirnov(a: float, b: float) -> None:
    """20 000 samples of each head against its distribution function."""
    outputs = raw(a, b).float()
    loc, scale = 0.5 * (a - b), b
    references = [
        (heads.Beta()(outputs), stats.beta(a, b).cdf),
        (heads.Kumaraswamy()(outputs), lambda x: 1 - (1 - x**a) ** b),
        (
            LogitNormal(torch.tensor([loc]), torch.tensor([scale])),
            lambda x: stats.norm.cdf(special.logit(x), loc, scale),
        ),
    ]
    for made, cdf in references:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            x = truth.array(made.sample(torch.Size([20_000]))[:, 0])
        assert stats.kstest(x, cdf).pvalue > 0.01


@pytest.mark.parametrize("head", BOUNDED, ids=repr)
def test_a15_samples_keep_away_from_the_ends(head: heads.Head) -> None:
    """Trap: the density at exactly 0 or 1 is infinite. Nothing may draw or accept them."""
    outputs = 6 * torch.randn(2000, head.size(), generator=torch.Generator().manual_seed(0))
    made = head(outputs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = made.sample(torch.Size([50]))
    assert ((x > 0) & (x < 1)).all()
    assert torch.isfinite(made.log_prob(x)).all()
    model = MixtureDensityNetwork(1, context_shape=1, head=head)
    for end in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.log_prob(torch.full((1, 1), end), torch.zeros(1, 1))


def test_a15_256_way_beats_a_gaussian_on_bimodal_pixels() -> None:
    """Both in nats of discrete mass: the Gaussian is integrated over bins, tails included."""
    edges = np.concatenate([[-np.inf], np.arange(255) + 0.5, [np.inf]])
    target = 0.5 * np.diff(stats.norm.cdf(edges, 40, 6)) + 0.5 * np.diff(
        stats.norm.cdf(edges, 200, 10)
    )
    mean = float(np.arange(256) @ target)
    width = math.sqrt(float((np.arange(256) - mean) ** 2 @ target))
    gaussian = -float(target @ np.log(np.diff(stats.norm.cdf(edges, mean, width))))
    pixels = torch.tensor(truth.draw(target, 5000))[:, None]
    model = MixtureDensityNetwork(
        1, context_shape=1, head=heads.Categorical(256), hidden=()
    ).double()
    context = torch.ones(5000, 1, dtype=torch.float64)
    fit(model, pixels, context, steps=400, batch_size=500, lr=0.05, progress=False)
    with torch.no_grad():
        log_prob = model.log_prob(torch.arange(256)[:, None], context[:256])
    assert abs(truth.number(log_prob.exp().sum()) - 1) < 1e-9
    nll = -float(target @ truth.array(log_prob))
    assert truth.entropy(target) <= nll < gaussian - 0.5


def test_l07_gradients_through_samples() -> None:
    """d/d(mean, sd) of E[z^2] is (2 mean, 2 sd), with a tenth of the score function's variance.

    Batches of 1e5 samples, ten of them, so that 1 % is well beyond the noise.
    """
    mean, sd, n = 2.0, 1.0, 100_000
    outputs = torch.tensor([[mean, inverse_positive(sd - 1e-3)]], dtype=torch.float64)
    batches = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(10):
            leaf = outputs.expand(n, 2).clone().requires_grad_()
            z = heads.Normal()(leaf).rsample()
            (gradient,) = torch.autograd.grad((z**2).sum(), leaf)
            batches.append(gradient)
        again = heads.Normal()(outputs.expand(n, 2)).rsample()
    assert not torch.equal(z, again)  # trap: the noise is drawn once and reused
    through = torch.cat(batches)
    leaf = outputs.expand(n, 2).clone().requires_grad_()
    made = heads.Normal()(leaf)
    fixed = z.detach()
    (score,) = torch.autograd.grad((made.log_prob(fixed) * fixed**2).sum(), leaf)
    raw_scale = outputs[0, 1].clone().requires_grad_()
    probe = torch.stack([outputs[0, 0], raw_scale])
    (chain,) = torch.autograd.grad(heads.Normal()(probe).stddev, raw_scale)
    exact = torch.tensor([2 * mean, 2 * sd * float(chain)], dtype=torch.float64)
    assert ((through.mean(0) - exact).abs() <= 0.01 * exact.abs()).all()
    assert (score.var(0) >= 10 * through[:n].var(0)).all()

"""L06 the VAE's bound, L07 its gradients, L10 importance weights, L15 beta, L16 classes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rlgen.generative import VAE, cosine, fit, heads
from rlgen.generative.data import digits, two_moons
from tests import truth

D, K = 8, 3


def first(part: Any) -> Any:
    """The only layer of a linear encoder or decoder."""
    return part.net[0]


def factors(n: int, seed: int = 0) -> truth.Array:
    generator = np.random.default_rng(seed)
    loadings = np.linalg.qr(generator.normal(size=(D, K)))[0] * np.array([2.0, 1.5, 1.0])
    noise = 0.5 * generator.normal(size=(n, D))
    out: truth.Array = 1 + generator.normal(size=(n, K)) @ loadings.T + noise
    return out


def linear(
    loadings: truth.Array,
    mean: truth.Array,
    variance: float,
    gain: truth.Array,
    scales: truth.Array,
    **options: float,
) -> VAE:
    """x = mean + W z + noise, q(z | x) = N(gain (x - mean), diag(scales^2))."""
    dims, latent = loadings.shape
    model = VAE(dims, latent=latent, hidden=(), shared_scale=True, **options).double()  # type: ignore[arg-type]
    raw = np.array([truth.inverse(heads.positive, s) for s in scales])
    with torch.no_grad():
        decoder, encoder = first(model.decoder), first(model.encoder)
        decoder.weight.copy_(truth.as_float(loadings))
        decoder.bias.copy_(truth.as_float(mean))
        encoder.weight.copy_(truth.as_float(np.vstack([gain, np.zeros((latent, dims))])))
        encoder.bias.copy_(truth.as_float(np.concatenate([-gain @ mean, raw])))
        assert model.raw_scale is not None
        model.raw_scale.fill_(truth.inverse(heads.positive, math.sqrt(variance)))
    return model


def posterior(loadings: truth.Array, variance: float) -> tuple[truth.Array, truth.Array]:
    """Gain and covariance of p(z | x), exactly."""
    precision = np.eye(loadings.shape[1]) + loadings.T @ loadings / variance
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return covariance @ loadings.T / variance, covariance


def expected_bound(model: VAE, x: Tensor) -> truth.Array:
    """E_q log p(x | z) - KL without noise: a quadratic's mean over q by points on its axes."""
    with torch.no_grad():
        q = model.encode(x)
        latent = q.mean.shape[1]
        total = torch.zeros(len(x), dtype=x.dtype)
        for axis in torch.eye(latent, dtype=x.dtype):
            for sign in (-1, 1):
                z = q.mean + sign * math.sqrt(latent) * q.stddev * axis
                total += model.decode(z).log_prob(x) / (2 * latent)
        return truth.array(total - model.kl(x))


def noise_variance(model: VAE) -> float:
    assert model.raw_scale is not None
    return truth.number(heads.positive(model.raw_scale)) ** 2


def weights_bound(model: VAE, x: truth.Array) -> truth.Array:
    """The same from the weights of a linear model alone, in numpy."""
    w, b = (truth.array(p) for p in (first(model.decoder).weight, first(model.decoder).bias))
    variance = noise_variance(model)
    v, c = (truth.array(p) for p in (first(model.encoder).weight, first(model.encoder).bias))
    out = x @ v.T + c
    m, s = out[:, : w.shape[1]], truth.array(heads.positive(truth.as_float(out[:, w.shape[1] :])))
    error = (x - b - m @ w.T) ** 2 + s**2 @ (w**2).T
    fit_term = -0.5 * (np.log(2 * np.pi * variance) + error / variance).sum(1)
    out = fit_term - (0.5 * (m**2 + s**2 - 1) - np.log(s)).sum(1)
    return np.asarray(out, dtype=np.float64)


def decoder_log_prob(model: VAE, x: truth.Array) -> truth.Array:
    return truth.linear_gaussian_log_prob(
        x,
        truth.array(first(model.decoder).bias),
        truth.array(first(model.decoder).weight),
        noise_variance(model),
    )


def test_l06_bound_is_below_the_exact_likelihood_at_every_checkpoint() -> None:
    x = factors(500)
    data, model = truth.as_float(x), VAE(D, latent=K, hidden=(), shared_scale=True).double()
    truth.randomise(model, 0.1)
    for _ in range(6):
        exact, expected = decoder_log_prob(model, x), weights_bound(model, x)
        np.testing.assert_allclose(expected_bound(model, data), expected, atol=1e-8)
        assert (expected <= exact + 1e-9).all()
        with torch.no_grad():
            draws = np.stack([truth.array(model.elbo(data)) for _ in range(100)])
            tighter = np.stack([truth.array(model.elbo(data, samples=10)) for _ in range(30)])
        assert truth.within(draws.mean(1), float(expected.mean()), 4)
        error = tighter.mean(1).std() / math.sqrt(30)
        assert expected.mean() - 4 * error <= tighter.mean() <= exact.mean() + 4 * error
        fit(model, data, steps=100, lr=5e-3, progress=False)


def test_l06_bound_is_the_likelihood_at_the_ppca_optimum() -> None:
    """Equal within 1e-6: there the posterior is a diagonal Gaussian, and the encoder's."""
    x = factors(1000)
    mean, loadings, variance = truth.ppca(x, K)
    gain, covariance = posterior(loadings, variance)
    model = linear(loadings, mean, variance, gain, np.sqrt(np.diag(covariance)))
    data = truth.as_float(x)
    exact = truth.linear_gaussian_log_prob(x, mean, loadings, variance)
    np.testing.assert_allclose(expected_bound(model, data), exact, atol=1e-6)
    with torch.no_grad():
        for samples in (2, 10):  # every importance weight is p(x)
            np.testing.assert_allclose(
                truth.array(model.elbo(data, samples=samples)), exact, atol=1e-6
            )
        draws = np.stack([truth.array(model.elbo(data)).mean() for _ in range(100)])
    assert truth.within(draws, float(exact.mean()), 4)


def test_l06_rotated_basis_leaves_a_gap() -> None:
    """A diagonal q cannot be the posterior: the gap is KL(q || posterior), and positive."""
    x = factors(300)
    mean, loadings, variance = truth.ppca(x, K)
    rotated = loadings @ np.linalg.qr(np.random.default_rng(0).normal(size=(K, K)))[0]
    gain, covariance = posterior(rotated, variance)
    scales = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))  # the best diagonal one
    model = linear(rotated, mean, variance, gain, scales)
    exact = truth.linear_gaussian_log_prob(x, mean, rotated, variance)
    gap = exact - expected_bound(model, truth.as_float(x))
    wanted = truth.gaussian_kl(np.zeros(K), np.diag(scales**2), np.zeros(K), covariance)
    assert wanted > 0.01
    np.testing.assert_allclose(gap, wanted, atol=1e-6)


def test_l06_from_scratch_comes_within_005_nats_of_ppca() -> None:
    x = factors(2000)
    mean, loadings, variance = truth.ppca(x, K)
    best = truth.linear_gaussian_log_prob(x, mean, loadings, variance).mean()
    model = VAE(D, latent=K, hidden=(), shared_scale=True)
    data = truth.as_float(x, torch.float32)
    fit(model, data, steps=1500, batch_size=200, lr=1e-2, schedule=cosine, progress=False)
    reached = decoder_log_prob(model, x).mean()
    assert best - 0.05 <= reached <= best + 1e-6
    assert best - 0.05 <= weights_bound(model, x).mean() <= reached + 1e-6


@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_l06_analytic_kl_equals_sampled_kl(context_shape: tuple[int, ...] | None) -> None:
    model = VAE(5, latent=3, hidden=(16,), context_shape=context_shape).double()
    truth.randomise(model, 0.3)
    x = torch.randn(6, 5, dtype=torch.float64)
    context = None if context_shape is None else torch.randn(6, 2, dtype=torch.float64)
    q = model.encode(x, context)
    assert torch.equal(q.mean, model.encode(x, context).mean)  # no noise in the representation
    means, scales = truth.array(q.mean), truth.array(q.stddev)
    z = truth.array(q.sample(torch.Size([20_000])))
    terms = stats.norm.logpdf(z, means, scales).sum(2) - stats.norm.logpdf(z).sum(2)
    found = truth.array(model.kl(x, context))
    for i in range(6):
        assert truth.within(terms[:, i], float(found[i]), 3)
        exact = truth.gaussian_kl(means[i], np.diag(scales[i] ** 2), np.zeros(3), np.eye(3))
        assert found[i] == pytest.approx(exact, abs=1e-9)
    prior = model.prior.log_prob(torch.zeros(1, 3, dtype=torch.float64))
    assert truth.number(prior) == pytest.approx(-1.5 * math.log(2 * math.pi), abs=1e-6)


def test_l06_quadrature_is_above_the_bound() -> None:
    """A nonlinear decoder in 2-D: log p(x) by quadrature over z, at all of 200 test points."""
    model = VAE(2, latent=2, hidden=(32,))
    generator = torch.Generator().manual_seed(0)
    fit(model, two_moons(4000, generator=generator), steps=500, lr=5e-3, progress=False)
    model.double()
    x = two_moons(200, generator=generator).double()
    axis = np.linspace(-6, 6, 301)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    with torch.no_grad():
        made = model.decode(truth.as_float(z))
        means, scales = truth.array(made.mean), truth.array(made.stddev)
        draws = np.stack([truth.array(model.elbo(x)) for _ in range(400)])
        tight = truth.array(model.elbo(x, samples=1000))
    log_prior = stats.norm.logpdf(z).sum(1) + 2 * math.log(axis[1] - axis[0])
    exact = np.array(
        [logsumexp(log_prior + stats.norm.logpdf(p, means, scales).sum(1)) for p in x.numpy()]
    )
    error = draws.std(0) / math.sqrt(len(draws))
    assert (draws.mean(0) <= exact + 4 * error).all()
    assert (exact - draws.mean(0)).mean() > 0.02  # the posterior is no diagonal Gaussian
    assert np.abs(tight - exact).mean() < 0.05  # and importance weights close the gap


@pytest.mark.parametrize("head", [heads.Normal(), heads.Bernoulli(), heads.Categorical(3)])
@pytest.mark.parametrize("shape", [(4,), (1, 8, 8)])
def test_l06_reconstruction_is_a_summed_log_likelihood(
    head: heads.Head, shape: tuple[int, ...]
) -> None:
    """Trap: a mean instead of a sum (an implicit beta), lost constants, log sd for sd."""
    model = VAE(shape, latent=2, head=head).double()
    truth.randomise(model, 0.1)
    z = torch.randn(5, 2, dtype=torch.float64)
    made = model.decode(z)
    axes = tuple(range(1, len(shape) + 1))
    if isinstance(head, heads.Normal):
        x = torch.randn(5, *shape, dtype=torch.float64)
        exact = stats.norm.logpdf(x.numpy(), truth.array(made.mean), truth.array(made.stddev))
    elif isinstance(head, heads.Bernoulli):
        x = torch.randint(2, (5, *shape)).double()
        exact = stats.bernoulli.logpmf(x.numpy(), truth.array(made.mean))
    else:
        x = torch.randint(3, (5, *shape))
        steps = [truth.array(made.log_prob(torch.full_like(x, k))) for k in range(3)]
        assert all(step.shape == (5,) for step in steps)
        probs = truth.array(made.base_dist.probs)  # type: ignore[attr-defined]
        exact = np.log(np.take_along_axis(probs, x.numpy()[..., None], -1)[..., 0])
    np.testing.assert_allclose(truth.array(made.log_prob(x)), exact.sum(axes), rtol=1e-8)
    assert model.elbo(x).shape == model.loss(x).shape == model.elbo(x, samples=3).shape == (5,)


def seeded(call: Callable[[], Tensor], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return call()


def test_l07_gradient_of_the_loss_is_that_of_the_expected_bound() -> None:
    """Trap: a detached sample, or noise that is drawn once and used again."""
    x = truth.as_float(factors(20))
    model = VAE(D, latent=K, hidden=(), shared_scale=True).double()
    truth.randomise(model, 0.2)
    parameters = list(model.parameters())
    many = x.repeat(50, 1)
    draws = [torch.autograd.grad(model.loss(many).mean(), parameters) for _ in range(200)]
    assert not torch.equal(model.loss(x), model.loss(x))
    q = model.encode(x)
    total = model.kl(x).mean()
    for axis in torch.eye(K, dtype=x.dtype):
        for sign in (-1, 1):
            z = q.mean + sign * math.sqrt(K) * q.stddev * axis
            total = total - model.decode(z).log_prob(x).mean() / (2 * K)
    exact = torch.autograd.grad(total, parameters)
    for i in range(len(parameters)):
        sample = torch.stack([draw[i] for draw in draws])
        error = sample.std(0) / math.sqrt(len(draws))
        assert ((sample.mean(0) - exact[i]).abs() <= 5 * error + 1e-9).all()
        assert exact[i].abs().max() > 1e-3


def toy(gain: float, offset: float, scale: float) -> VAE:
    """z ~ N(0, 1), x | z ~ N(z, 1), q(z | x) = N(gain x + offset, scale^2)."""
    one = np.ones((1, 1))
    model = linear(one, np.zeros(1), 1.0, gain * one, np.array([scale]))
    with torch.no_grad():
        first(model.encoder).bias[0] = offset
    return model


def test_l10_importance_weighted_bounds_of_the_toy() -> None:
    """log p = -1.51551; L_1 = -1.6689, L_5 = -1.5306, L_50 = -1.5169, and rising."""
    model, evidence = toy(0.0, 0.5, 1.0), stats.norm.logpdf(1, 0, math.sqrt(2))
    assert evidence == pytest.approx(-1.51551, abs=1e-5)
    generator = np.random.default_rng(0)
    means = []
    for samples, anchor in ((1, -1.6689), (2, None), (5, -1.5306), (50, -1.5169)):
        n = 400_000 // samples
        x = torch.ones(n, 1, dtype=torch.float64)
        with torch.no_grad():
            bound = truth.array(model.elbo(x, samples=samples))
        z = 0.5 + generator.normal(size=(n, samples))
        log_w = stats.norm.logpdf(z) + stats.norm.logpdf(1, z) - stats.norm.logpdf(z, 0.5)
        reference = logsumexp(log_w, axis=1) - math.log(samples)
        error = math.hypot(bound.std(), reference.std()) / math.sqrt(n)
        assert abs(bound.mean() - reference.mean()) <= 4 * error
        assert anchor is None or bound.mean() == pytest.approx(anchor, abs=4 * error + 1e-4)
        means.append(bound.mean())
    assert (np.diff([*means, evidence]) > 0).all()


def test_l10_exact_posterior_gives_equality_for_every_k() -> None:
    model = toy(0.5, 0.0, math.sqrt(0.5))
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    exact = stats.norm.logpdf(x.numpy()[:, 0], 0, math.sqrt(2))
    for samples in (2, 5, 50):
        with torch.no_grad():
            bound = truth.array(model.elbo(x, samples=samples))
        np.testing.assert_allclose(bound, exact, atol=1e-6)
    with torch.no_grad():
        single = truth.array(model.elbo(torch.ones(100_000, 1, dtype=torch.float64)))
    assert truth.within(single, -1.515512, 4)


def test_l10_signal_of_the_encoder_falls_and_of_the_decoder_rises() -> None:
    """Rainforth et al. 2018: the encoder's signal to noise falls with k, the decoder's rises."""
    model = toy(0.0, -0.5, 1.0)
    x = torch.ones(1, 1, dtype=torch.float64)
    encoder, decoder = first(model.encoder).bias, first(model.decoder).bias
    ratios = []
    for samples in (4, 16, 64):
        draws = [
            torch.autograd.grad(model.elbo(x, samples=samples).sum(), (encoder, decoder))
            for _ in range(1000)
        ]
        pairs = torch.stack([torch.stack([e[0], d[0]]) for e, d in draws])
        ratios.append((pairs.mean(0).abs() / pairs.std(0)).tolist())
    encoders, decoders = zip(*ratios, strict=True)
    assert encoders[0] > 1.5 * encoders[1] > 1.5**2 * encoders[2]
    assert decoders[2] > 1.25 * decoders[1] > 1.25**2 * decoders[0]


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_l15_beta_changes_the_loss_and_never_the_bound(beta: float) -> None:
    """loss = -(log p(x | z) - beta KL): for beta < 1 it is no bound, and `elbo` must not be it."""
    x = factors(100)
    mean, loadings, variance = truth.ppca(x, K)
    gain, covariance = posterior(loadings, variance)
    model = linear(loadings, mean, variance, gain, np.sqrt(np.diag(covariance)), beta=beta)
    data = truth.as_float(x)
    loss, bound = seeded(lambda: model.loss(data)), seeded(lambda: model.elbo(data))
    expected = (beta - 1) * model.kl(data)
    np.testing.assert_allclose(truth.array(loss + bound), truth.array(expected), atol=1e-9)
    exact = truth.linear_gaussian_log_prob(x, mean, loadings, variance)
    np.testing.assert_allclose(expected_bound(model, data), exact, atol=1e-6)


def test_l15_beta_scales_the_posterior_variance() -> None:
    """With the decoder held, the best q is the posterior under noise beta * variance (2 %)."""
    x = factors(500)
    mean, loadings, variance = truth.ppca(x, K)
    data, rates = truth.as_float(x), []
    for beta in (0.5, 1.0, 4.0):
        gain, covariance = posterior(loadings, variance * beta)
        start = np.random.default_rng(0).normal(size=(K, D)) / D
        model = linear(loadings, mean, variance, start, np.full(K, 0.4), beta=beta)
        model.decoder.requires_grad_(False)
        assert model.raw_scale is not None
        model.raw_scale.requires_grad_(False)
        fit(model, data, steps=1000, batch_size=500, lr=2e-2, schedule=cosine, progress=False)
        found = truth.array(model.encode(data).variance).mean(0)
        np.testing.assert_allclose(found, np.diag(covariance), rtol=0.02)
        means = truth.array(model.encode(data).mean)
        assert np.abs(means - (x - mean) @ gain.T).max() < 0.1
        rates.append(truth.number(model.kl(data).mean()))
    assert (np.diff(rates) < 0).all()  # the rate falls with beta


@pytest.mark.slow
def test_l16_class_conditional_digits() -> None:
    """Samples are of their class (85 %), z knows little of it (35 %), analogies keep the class."""
    split = digits()
    classes = torch.eye(10)
    x, y = (split.train >= 8).float(), split.train_labels
    test, test_y = (split.test >= 8).float(), split.test_labels
    judge = LogisticRegression(max_iter=2000).fit(x.flatten(1).numpy(), y.numpy())
    assert judge.score(test.flatten(1).numpy(), test_y.numpy()) > 0.9

    def trained(**options: tuple[int, ...]) -> VAE:
        model = VAE((1, 8, 8), latent=8, head=heads.Bernoulli(), hidden=(256, 256), **options)  # type: ignore[arg-type]
        given = classes[y] if options else None
        fit(model, x, given, steps=2500, batch_size=128, schedule=cosine, progress=False)
        return model.eval()

    def probe(model: VAE, conditional: bool) -> float:
        with torch.no_grad():
            train = model.encode(x, classes[y] if conditional else None).mean.numpy()
            held = model.encode(test, classes[test_y] if conditional else None).mean.numpy()
        return float(LogisticRegression(max_iter=2000).fit(train, y).score(held, test_y))

    given = trained(context_shape=(10,))
    wanted = torch.arange(1000) % 10
    drawn = given.sample(1000, classes[wanted], generator=0)
    read = judge.predict(drawn.flatten(1).numpy())
    with torch.no_grad():
        z = given.encode(test, classes[test_y]).mean
        other = (test_y + 1 + torch.arange(len(test_y)) % 9) % 10
        moved = judge.predict(given.decode(z, classes[other]).mean.flatten(1).numpy())
    assert (moved == other.numpy()).mean() >= 0.85
    assert (read == wanted.numpy()).mean() >= 0.85
    assert probe(given, True) <= 0.35
    assert probe(trained(), False) >= 0.70

"""D03 Gaussian mixtures, D04 mixtures of tables, D07 mixture density networks, P07 the EM view."""

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as Reference
from torch import Tensor

from rlgen.generative import (
    CategoricalMixture,
    ExactTrainer,
    GaussianMixture,
    MixtureDensityNetwork,
    Trainer,
    cosine,
    fit,
    heads,
)
from tests import truth

BRANCH_ENTROPY = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.01)  # -0.1905
KINDS = [("full", "full"), ("diagonal", "diag")]


def clustered(n: int = 400, dims: int = 3, seed: int = 0) -> truth.Array:
    """Overlapping clusters, so that EM takes long."""
    generator = np.random.default_rng(seed)
    centres = 1.5 * generator.normal(size=(4, dims))
    mixing = generator.normal(size=(4, dims, dims))
    label = generator.integers(0, 4, size=n)
    noise = generator.normal(size=(n, dims))
    out: truth.Array = centres[label] + np.einsum("nij,nj->ni", mixing[label], noise)
    return out


def start(x: truth.Array, components: int, full: bool) -> tuple[truth.Array, ...]:
    generator = np.random.default_rng(1)
    weights = generator.dirichlet(np.full(components, 5.0))
    means = x[generator.choice(len(x), components, replace=False)]
    spread = np.stack([(0.5 + 0.3 * c) * np.cov(x.T) for c in range(components)])
    return weights, means, spread if full else np.stack([np.diag(s) for s in spread])


def mixture_log_joint(
    x: truth.Array, weights: truth.Array, means: truth.Array, covariances: truth.Array
) -> truth.Array:
    columns = [
        math.log(w)
        + np.atleast_1d(stats.multivariate_normal.logpdf(x, m, c if c.ndim == 2 else np.diag(c)))
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.stack(columns, axis=1)


def gaussian_mixture(kind: str, components: int = 4, ridge: float = 1e-6) -> GaussianMixture:
    x = clustered()
    model = GaussianMixture(
        3, components=components, covariance="full" if kind == "full" else "diagonal", ridge=ridge
    ).double()
    model.set_parameters(*map(truth.as_float, start(x, components, kind == "full")))
    return model


@pytest.mark.parametrize("kind, name", KINDS)
@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_d03_em_equals_scikit_learn(kind: str, name: str, ridge: float) -> None:
    """The same start, and then the same likelihood and parameters after each of 50 iterations."""
    x = clustered()
    weights, means, covariances = start(x, 4, kind == "full")
    precisions = np.linalg.inv(covariances) if kind == "full" else 1 / covariances
    reference = Reference(
        4,
        covariance_type=name,
        reg_covar=ridge,
        max_iter=1,
        warm_start=True,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
    )
    model = gaussian_mixture(kind, ridge=ridge)
    data = truth.as_float(x)
    scores = []
    for _ in range(50):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has not converged
            reference.fit(x)
        model.maximise(data)
        scores.append(float(model.log_prob(data).detach().mean()))
        assert abs(scores[-1] - reference.score(x)) <= 1e-4
    assert scores[-1] - scores[0] > 0.05  # there was something to learn
    # no permutation to undo: the components began in the same places
    np.testing.assert_allclose(truth.array(model.weights), reference.weights_, atol=1e-6)
    np.testing.assert_allclose(truth.array(model.means), reference.means_, atol=1e-5)
    np.testing.assert_allclose(truth.array(model.covariances), reference.covariances_, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.parametrize("seed", range(3))
def test_d03_em_is_monotone(kind: str, seed: int) -> None:
    """From the model's own start too. Without a ridge, which is a pull away from the maximum."""
    x = truth.as_float(clustered(seed=seed))
    own = GaussianMixture(
        3, components=4, covariance="full" if kind == "full" else "diagonal", ridge=0.0
    ).double()
    for model in (gaussian_mixture(kind, ridge=0.0), own):
        scores = []
        for _ in range(50):
            model.maximise(x)
            scores.append(truth.number(model.log_prob(x).mean()))
        assert np.diff(scores).min() >= -1e-9


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_d03_density_and_posterior_equal_scipy(kind: str) -> None:
    """Errata 1 and 2: the 1/sd of each component counts. Far points stay finite (logsumexp)."""
    model = gaussian_mixture(kind)
    truth.randomise(model, 0.2)
    x = np.concatenate([clustered(50, seed=3), 1e4 * np.eye(3)])
    joint = mixture_log_joint(x, *map(truth.array, (model.weights, model.means, model.covariances)))
    data = truth.as_float(x)
    np.testing.assert_allclose(truth.array(model.log_joint(data)), joint, rtol=1e-9)
    exact = logsumexp(joint, axis=1)
    np.testing.assert_allclose(truth.array(model.log_prob(data)), exact, rtol=1e-9)
    posterior = truth.array(model.posterior(data))
    assert np.isfinite(posterior).all()
    np.testing.assert_allclose(posterior.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(posterior, np.exp(joint - exact[:, None]), atol=1e-8)


def test_d03_density_integrates_to_one() -> None:
    model = GaussianMixture(2, components=3).double()
    model.maximise(truth.as_float(clustered(200, 2)))
    assert abs(truth.plane_integral(model.log_prob, torch.zeros(2), 25.0, 800) - 1) < 1e-3


def test_d03_components_do_not_collapse() -> None:
    """Trap: sd -> 0 on a point that occurs many times, or is alone."""
    x = torch.cat([torch.zeros(30, 2), torch.randn(30, 2), torch.full((1, 2), 50.0)])
    model = GaussianMixture(2, components=6)
    fit(model, x, steps=100, progress=False)
    assert torch.isfinite(model.log_prob(x)).all()
    assert torch.linalg.eigvalsh(model.covariances.detach()).min() >= 0.9e-6
    assert torch.isfinite(model.sample(100)).all()


def test_d03_samples_follow_the_density() -> None:
    model = gaussian_mixture("full")
    drawn = truth.array(model.sample(50_000, generator=0))
    weights, means, covariances = map(truth.array, (model.weights, model.means, model.covariances))
    mean = weights @ means
    outer = np.einsum("ki,kj->kij", means, means) + covariances
    second = np.einsum("k,kij->ij", weights, outer)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), second, rtol=0.05, atol=0.15)


def planted(n: int, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Three classes of 12 bits whose likely words differ in 6 places or more."""
    generator = np.random.default_rng(seed)
    words = np.array([[0] * 12, [1] * 6 + [0] * 6, [0] * 3 + [1] * 9])
    words = (words ^ generator.integers(0, 2, size=12))[:, generator.permutation(12)]
    label = generator.choice(3, size=n, p=[0.5, 0.3, 0.2])
    return torch.tensor(words[label] ^ (generator.random((n, 12)) < 0.08)), label


@pytest.mark.parametrize("seed", range(5))
def test_d04_recovers_planted_classes(seed: int) -> None:
    """Adjusted Rand index >= 0.95 with n = 3000, D = 12; EM monotone; sums to 1 over 2^12."""
    x, label = planted(3000, seed)
    model = CategoricalMixture(12, components=3).double()
    trainer = ExactTrainer(model, seed=seed)
    scores = [-float(trainer.step(x)["loss"]) for _ in range(60)]
    assert np.diff(scores).min() >= -1e-9
    assert adjusted_rand_score(label, model.posterior(x).argmax(1).numpy()) >= 0.95
    log_prob = model.log_prob(truth.symbols(12))
    assert truth.number(log_prob.exp().sum()) == pytest.approx(1, abs=1e-10)


def test_d04_density_is_the_mixture_of_products() -> None:
    model = CategoricalMixture((2, 2), components=3, categories=3).double()
    truth.randomise(model, 1.0)
    weights, probs = truth.array(model.weights), truth.array(model.probs).reshape(3, 4, 3)
    x = truth.symbols(4, 3)
    joint = (
        weights * np.prod([[probs[c, d, x[:, d]] for c in range(3)] for d in range(4)], axis=0).T
    )
    grid = x.reshape(-1, 2, 2)
    np.testing.assert_allclose(truth.array(model.log_joint(grid).exp()), joint, atol=1e-12)
    np.testing.assert_allclose(truth.array(model.log_prob(grid).exp()), joint.sum(1), atol=1e-12)
    np.testing.assert_allclose(
        truth.array(model.posterior(grid)), joint / joint.sum(1, keepdims=True), atol=1e-10
    )
    assert abs(joint.sum() - 1) < 1e-9
    with_many = truth.frequencies(model.sample(100_000, generator=0), 3)
    table = joint.sum(1)
    assert truth.total_variation(with_many, table) < truth.sampling_floor(table, 100_000) + 0.02


def test_d04_one_draw_is_one_table() -> None:
    """Errata 3: for a single symbol the mixture is nothing but another table."""
    model = CategoricalMixture(1, components=4, categories=5).double()
    x = torch.tensor(np.random.default_rng(0).integers(0, 5, size=(200, 1)))
    fit(model, x, steps=20, progress=False)
    found = truth.array(model.log_prob(torch.arange(5)[:, None]).exp())
    np.testing.assert_allclose(found, np.bincount(x[:, 0].numpy()) / 200, atol=1e-9)


@pytest.mark.parametrize("components", [2, 5])
@pytest.mark.parametrize("discrete", [False, True])
def test_p07_bound_plus_divergence_is_log_evidence(components: int, discrete: bool) -> None:
    """log p(x) = ELBO(q) + KL(q || p(c | x)) for any q; coordinate ascent climbs the ELBO."""
    x = planted(200, 0)[0] if discrete else truth.as_float(clustered(200))
    model = (
        CategoricalMixture(12, components=components).double()
        if discrete
        else GaussianMixture(3, components=components, ridge=0.0).double()
    )
    generator = np.random.default_rng(0)
    if isinstance(model, CategoricalMixture):
        weights = generator.dirichlet(np.ones(components))
        tables = generator.dirichlet(np.ones(2), size=(components, 12))
        model.set_parameters(truth.as_float(weights), truth.as_float(tables))
        x_np = x.numpy()
        likelihood = np.prod(
            np.where(x_np[:, None] == 1, tables[None, :, :, 1], tables[None, :, :, 0]), axis=2
        )
        evidence = np.log(likelihood @ weights)
    else:
        parameters = start(truth.array(x), components, True)
        model.set_parameters(*map(truth.as_float, parameters))
        evidence = logsumexp(mixture_log_joint(truth.array(x), *parameters), axis=1)
    posterior, joint = truth.array(model.posterior(x)), truth.array(model.log_joint(x))
    q = generator.dirichlet(np.ones(components), size=len(x))
    bound = (q * (joint - np.log(q))).sum(1)
    gap = stats.entropy(q, np.maximum(posterior, 1e-300), axis=1)
    np.testing.assert_allclose(bound + gap, evidence, atol=1e-8)
    assert (gap > 0).all()  # errata 5: minus the divergence, so a bound from below
    trace = []
    for _ in range(20):
        q = truth.array(model.posterior(x))
        for update in (False, True):
            if update:
                model.maximise(x)
            joint = truth.array(model.log_joint(x))
            terms = np.where(q > 0, q * (joint - np.log(np.where(q > 0, q, 1))), 0)
            trace.append(float(terms.sum(1).mean()))
            if not update:
                assert trace[-1] == pytest.approx(truth.number(model.log_prob(x).mean()), abs=1e-9)
    assert np.diff(trace).min() >= -1e-9


def branches(n: int, seed: int, conditional: bool) -> tuple[Tensor, Tensor]:
    """y = +-m(c) + 0.1 noise: m = 1, or 1 + sin(3 c) / 2 for contexts c in [-1, 1]."""
    generator = np.random.default_rng(seed)
    c = generator.uniform(-1, 1, size=(n, 1))
    middle = 1 + 0.5 * np.sin(3 * c) if conditional else np.ones((n, 1))
    y = generator.choice([-1, 1], size=(n, 1)) * middle + 0.1 * generator.normal(size=(n, 1))
    return truth.as_float(y, torch.float32), truth.as_float(c, torch.float32)


def branch_nll(model: MixtureDensityNetwork, conditional: bool) -> float:
    """The expected NLL by quadrature over y, averaged over 40 contexts."""
    y, step = np.linspace(-10, 10, 10_001), 2e-3
    total = []
    for c in np.linspace(-0.975, 0.975, 40):
        m = 1 + 0.5 * math.sin(3 * c) if conditional else 1.0
        density = 0.5 * (stats.norm.pdf(y, m, 0.1) + stats.norm.pdf(y, -m, 0.1))
        context = torch.full((len(y), 1), float(c))
        with torch.no_grad():
            modelled = model.log_prob(truth.as_float(y, torch.float32)[:, None], context)
        assert np.exp(truth.array(modelled)).sum() * step == pytest.approx(1, abs=0.01)
        total.append(-float((density * truth.array(modelled)).sum()) * step)
    return float(np.mean(total))


@pytest.mark.parametrize("conditional", [False, True])
def test_d07_finds_both_branches(conditional: bool) -> None:
    """NLL <= -0.1905 + 0.03, where one Gaussian can do no better than 1.4239."""
    y, c = branches(5000, 0, conditional)
    model = MixtureDensityNetwork(1, context_shape=1)
    fit(model, y, c, steps=1200, batch_size=256, lr=5e-3, schedule=cosine, progress=False)
    assert BRANCH_ENTROPY - 1e-3 <= branch_nll(model, conditional) <= -0.1905 + 0.03
    # trap: the mean of the mixture, 0, is not a sample
    drawn = model.sample(4000, torch.zeros(1), generator=0)
    assert (drawn.abs() < 0.5).float().mean() < 0.02
    assert 0.4 < (drawn > 0).float().mean() < 0.6


def test_d07_one_gaussian_cannot() -> None:
    y, c = branches(5000, 0, False)
    model = MixtureDensityNetwork(1, context_shape=1, components=1)
    fit(model, y, c, steps=300, batch_size=256, lr=5e-3, progress=False)
    assert branch_nll(model, False) >= 0.5 * math.log(2 * math.pi * math.e * 1.01) - 1e-3


@pytest.mark.parametrize("head", [None, heads.MixtureOfNormals(3), heads.FullNormal()], ids=repr)
def test_d07_density_of_vectors_integrates_to_one(head: heads.Head | None) -> None:
    """Trap: logsumexp over the wrong axis. One component holds for the whole vector."""
    model = MixtureDensityNetwork(2, context_shape=3, head=head).double()
    truth.randomise(model, 0.2)
    for context in torch.randn(3, 3, dtype=torch.float64):

        def log_prob(x: Tensor, context: Tensor = context) -> Tensor:
            return model.log_prob(x, context.expand(len(x), 3))

        assert abs(truth.plane_integral(log_prob, torch.zeros(2), 12.0, 300) - 1) < 0.01
        made = model.distribution(context[None])
        x = torch.randn(1, 2, dtype=torch.float64)
        assert truth.number(made.log_prob(x)) == pytest.approx(truth.number(log_prob(x)), abs=1e-9)
        if isinstance(made, torch.distributions.MixtureSameFamily):
            parts = made.component_distribution
            joint = mixture_log_joint(
                truth.array(x),
                truth.array(made.mixture_distribution.probs)[0],
                truth.array(parts.mean)[0],
                truth.array(parts.variance)[0],
            )
            assert truth.number(made.log_prob(x)) == pytest.approx(
                float(logsumexp(joint)), abs=1e-9
            )


def test_d03_gradients_also_train_a_mixture() -> None:
    x = truth.as_float(clustered(300))
    model = GaussianMixture(3, components=3).double()
    history = fit(model, x, steps=60, progress=False)
    assert isinstance(history.trainer, ExactTrainer)
    before = truth.number(model.log_prob(x).mean())
    fit(model, x, steps=100, batch_size=300, trainer=Trainer(model, lr=1e-3), progress=False)
    assert truth.number(model.log_prob(x).mean()) >= before - 1e-3

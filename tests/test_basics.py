"""D01 Gaussians, D02 tables, D06 Bayes nets, against scipy and counting."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from rlgen.generative import BayesNet, Categorical, Gaussian, Trainer, fit, heads
from tests import truth

CHAIN = [(), (0,), (1,), (2,)]
COLLIDER = [(), (0,), (0, 1), (2,)]  # errata 18: the lecture's other graph


def correlated(n: int, dims: int, seed: int = 0) -> truth.Array:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(dims, dims))
    return generator.normal(size=(n, dims)) @ mixing.T + 3 * generator.normal(size=dims)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
def test_d01_log_prob_and_entropy_equal_scipy(shape: tuple[int, ...], full: bool) -> None:
    model = Gaussian(shape, full=full).double()
    truth.randomise(model, 0.8)
    dims = max(1, int(np.prod(shape)))
    covariance = truth.array(model.covariance)
    assert covariance.shape == (dims, dims)
    if full and dims > 1:
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.05
    reference = stats.multivariate_normal(truth.array(model.mean).ravel(), covariance)
    x = 2 * np.random.default_rng(0).normal(size=(50, dims))
    found = truth.array(model.log_prob(truth.as_float(x).reshape(50, *shape)))
    assert np.abs(found - reference.logpdf(x)).max() <= 1e-6
    entropy = truth.number(model.distribution().entropy())
    assert entropy == pytest.approx(reference.entropy(), abs=1e-6)


@pytest.mark.parametrize("head", [heads.Normal(), heads.FixedNormal(0.3), heads.FullNormal()])
def test_d01_heads_equal_scipy(head: heads.Head) -> None:
    """Trap: variance or logarithm taken for the standard deviation; a lost D/2 log 2 pi."""
    outputs = torch.randn(2, head.size((3,)), dtype=torch.float64)
    made: Any = head(outputs, (3,))
    covariances = [
        truth.array(made.covariance_matrix[i])
        if isinstance(head, heads.FullNormal)
        else np.diag(truth.array(made.stddev[i]) ** 2)
        for i in range(2)
    ]
    means = truth.array(made.mean)
    x = np.random.default_rng(0).normal(size=(40, 2, 3))
    for i in range(2):
        reference = stats.multivariate_normal(means[i], covariances[i])
        found = truth.array(made.log_prob(truth.as_float(x)))[:, i]
        assert np.abs(found - reference.logpdf(x[:, i])).max() <= 1e-6
        assert float(made.entropy()[i]) == pytest.approx(reference.entropy(), abs=1e-6)
    other = head(outputs.flip(0), (3,))
    exact = truth.gaussian_kl(means[0], covariances[0], means[1], covariances[1])
    assert float(kl_divergence(made, other)[0]) == pytest.approx(exact, abs=1e-6)


def test_d01_scales_are_bounded_below() -> None:
    """Trap: an unbounded log scale collapses to 0 or overflows."""
    for extreme in (-1e4, -50.0, 0.0, 1e4):
        made = heads.Normal()(torch.tensor([[0.0, extreme]]))
        assert 1e-3 <= float(made.stddev) < float("inf")
        assert torch.isfinite(made.log_prob(torch.tensor(1.0)))


@pytest.mark.parametrize("full", [False, True])
def test_d01_mle_is_mean_and_covariance(full: bool) -> None:
    x = correlated(37, 3)  # few enough that 1/n and 1/(n - 1) differ
    model = Gaussian(3, full=full).double()
    model.maximise(truth.as_float(x))
    covariance = np.cov(x.T, bias=True)
    expected = covariance if full else np.diag(np.diag(covariance))
    np.testing.assert_allclose(truth.array(model.mean), x.mean(0), atol=1e-10)
    np.testing.assert_allclose(truth.array(model.covariance), expected, atol=1e-10)


def test_d01_gradients_find_the_closed_form() -> None:
    x = correlated(200, 2, seed=1)
    model = Gaussian(2, full=True).double()
    trainer = Trainer(model, lr=0.05, clip_norm=None)
    fit(model, truth.as_float(x), steps=800, batch_size=200, trainer=trainer, progress=False)
    np.testing.assert_allclose(truth.array(model.mean), x.mean(0), atol=1e-2)
    np.testing.assert_allclose(truth.array(model.covariance), np.cov(x.T, bias=True), rtol=2e-2)


def test_d01_samples_have_the_moments() -> None:
    model = Gaussian(3, full=True).double()
    x = correlated(500, 3, seed=2)
    model.maximise(truth.as_float(x))
    drawn = truth.array(model.sample(100_000, generator=0))
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T, bias=True), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 0.3])
def test_d02_mle_is_the_empirical_table(smoothing: float) -> None:
    x = np.random.default_rng(0).integers(0, 3, size=(50, 2))
    x[:, 1] = np.minimum(x[:, 1], 1)  # the last symbol never comes second
    model = Categorical(2, categories=3, smoothing=smoothing).double()
    model.maximise(torch.tensor(x))
    counts = np.stack([np.bincount(column, minlength=3) for column in x.T])
    expected = (counts + smoothing) / (50 + 3 * smoothing)
    np.testing.assert_allclose(truth.array(model.probs), expected, atol=1e-12)
    table = truth.array(model.log_prob(truth.symbols(2, 3)).exp())
    np.testing.assert_allclose(table, np.outer(*expected).ravel(), atol=1e-12)
    # trap: log 0. An impossible symbol has log probability -inf, or tiny, and never NaN
    assert not torch.isnan(model.log_prob(truth.symbols(2, 3))).any()


def test_d02_logits_and_probs_agree() -> None:
    outputs = 4 * torch.randn(7, 5, dtype=torch.float64)
    exact = np.exp(outputs.numpy()) / np.exp(outputs.numpy()).sum(1, keepdims=True)
    made: Any = heads.Categorical(5)(outputs)
    np.testing.assert_allclose(truth.array(made.probs), exact, atol=1e-6)
    values = torch.arange(5)[:, None].expand(5, 7)
    np.testing.assert_allclose(truth.array(made.log_prob(values).exp()).T, exact, atol=1e-6)
    np.testing.assert_allclose(truth.array(made.entropy()), stats.entropy(exact, axis=1), atol=1e-6)
    divergence = kl_divergence(
        heads.Categorical(5)(outputs[:3]), heads.Categorical(5)(outputs[3:6])
    )
    np.testing.assert_allclose(
        truth.array(divergence), stats.entropy(exact[:3], exact[3:6], axis=1), atol=1e-6
    )
    bits: Any = heads.Bernoulli()(outputs[:, :1])
    on = 1 / (1 + np.exp(-outputs.numpy()[:, 0]))
    np.testing.assert_allclose(truth.array(bits.probs), on, atol=1e-6)
    both = np.stack([on, 1 - on])
    np.testing.assert_allclose(truth.array(bits.entropy()), stats.entropy(both), atol=1e-6)
    assert torch.isfinite(heads.Bernoulli()(torch.tensor([[200.0]])).log_prob(torch.zeros(1)))


def test_d02_samples_are_drawn_not_the_likeliest() -> None:
    model = Categorical(2, categories=4)
    truth.randomise(model, 1.0)
    table = truth.array(model.log_prob(truth.symbols(2, 4)).exp())
    counts = 20_000 * truth.frequencies(model.sample(20_000, generator=0), 4)
    assert stats.chisquare(counts, 20_000 * table / table.sum()).pvalue > 0.01


def test_d02_symbols_are_indices() -> None:
    """Trap: one-hot taken for an index."""
    model = Categorical(3, categories=3)
    with pytest.raises(ValueError):
        model.log_prob(torch.eye(3)[None].expand(2, 3, 3))
    with pytest.raises(ValueError):
        model.log_prob(torch.tensor([[0, 1, 3]]))
    with pytest.raises(ValueError):
        model.log_prob(torch.tensor([[0.0, 1.0, 2.0]]))


def empirical(p: truth.Array, keep: tuple[int, ...]) -> truth.Array:
    out: truth.Array = p.sum(axis=tuple(set(range(p.ndim)) - set(keep)), keepdims=True)
    return out


@pytest.mark.parametrize("parents", [CHAIN, COLLIDER, [(2,), (0, 3), (), (2, 0)]], ids=str)
@pytest.mark.parametrize("categories", [2, 3])
def test_d06_mle_equals_empirical_conditionals(
    parents: list[tuple[int, ...]], categories: int
) -> None:
    """Any graph, also where arrows run against the numbering."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, categories, size=(300, 4))
    x[:, 2] = (x[:, 0] + x[:, 1] * (generator.random(300) < 0.7)) % categories
    model = BayesNet(4, parents=parents, categories=categories).double()
    model.maximise(torch.tensor(x))
    expected = np.ones((categories,) * 4)
    joint = truth.frequencies(torch.tensor(x), categories).reshape(expected.shape)
    for i, above in enumerate(parents):
        with np.errstate(invalid="ignore"):
            expected = expected * empirical(joint, (*above, i)) / empirical(joint, above)
        for setting in itertools.product(range(categories), repeat=len(above)):
            rows = x[(x[:, above] == setting).all(1), i]
            if len(rows):
                wanted = np.bincount(rows, minlength=categories) / len(rows)
                np.testing.assert_allclose(
                    truth.array(model.table(i)[setting]), wanted, rtol=0, atol=1e-12
                )
    found = truth.array(model.log_prob(truth.symbols(4, categories)).exp())
    np.testing.assert_allclose(found, np.nan_to_num(expected).ravel(), atol=1e-12)


def test_d06_chain_divergence_is_conditional_information() -> None:
    """KL(p || chain) = I(x1; x3 | x2) + I(x1, x2; x4 | x3)."""
    counts = np.random.default_rng(1).integers(1, 60, size=16)
    x = truth.symbols(4).repeat_interleave(torch.tensor(counts), dim=0)
    model = BayesNet(4, parents=CHAIN).double()
    model.maximise(x)
    p = (counts / counts.sum()).reshape(2, 2, 2, 2)

    def information(a: tuple[int, ...], b: tuple[int, ...], given: tuple[int, ...]) -> float:
        ratio = (
            empirical(p, (*a, *b, *given))
            * empirical(p, given)
            / (empirical(p, (*a, *given)) * empirical(p, (*b, *given)))
        )
        return float((p * np.log(ratio)).sum())

    exact = information((0,), (2,), (1,)) + information((0, 1), (3,), (2,))
    divergence = float((p.ravel() * -truth.array(model.log_prob(truth.symbols(4)))).sum())
    assert exact > 0.01
    assert abs(divergence - truth.entropy(p.ravel()) - exact) <= 1e-10


@pytest.mark.parametrize("parents", [CHAIN, COLLIDER, [(2,), (0, 3), (), (2, 0)]], ids=str)
def test_d06_ancestral_samples(parents: list[tuple[int, ...]]) -> None:
    model = BayesNet(4, parents=parents)
    truth.randomise(model, 1.5)
    table = truth.array(model.log_prob(truth.symbols(4)).exp())
    assert abs(table.sum() - 1) < 1e-5
    found = truth.frequencies(model.sample(100_000, generator=0))
    assert np.abs(found - table).max() < 0.01
    assert table.max() > 0.1  # far from uniform, or anything would pass


def test_d06_parameter_counts() -> None:
    assert BayesNet(3, parents=[(), (0,), (0, 1)]).parameter_count() == 7
    assert BayesNet(4, parents=CHAIN).parameter_count() == 7
    assert BayesNet(4, parents=COLLIDER).parameter_count() == 9
    assert BayesNet(3, parents=[(), (0,), (0, 1)], categories=3).parameter_count() == 2 + 6 + 18


def test_d06_unseen_parents_give_uniform_not_nan() -> None:
    x = torch.tensor([[0, 0], [0, 1], [0, 1]])
    for smoothing in (0.0, 0.5):
        model = BayesNet(2, parents=[(), (0,)], categories=3, smoothing=smoothing).double()
        model.maximise(x)
        np.testing.assert_allclose(truth.array(model.table(1)[1]), np.full(3, 1 / 3), atol=1e-12)
        log_prob = model.log_prob(truth.symbols(2, 3))
        assert not torch.isnan(log_prob).any()
        assert truth.number(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
        expected = (np.array([1, 2, 0]) + smoothing) / (3 + 3 * smoothing)
        np.testing.assert_allclose(truth.array(model.table(1)[0]), expected, atol=1e-12)


@pytest.mark.parametrize("parents", [[(1,), (0,)], [(0,), ()], [(1,), (2,), (0,)]], ids=str)
def test_d06_cycles_are_refused(parents: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="parents"):
        BayesNet(len(parents), parents=parents)

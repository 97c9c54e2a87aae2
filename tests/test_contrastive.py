"""R25 contrastive coding: a bound on information that keeps below log N, and no collapse."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor, nn

from rlgen.envs import FourRooms
from rlgen.generative import CPC, cosine, fit
from tests import truth
from tests.truth import Array

RHO = 0.5
EXACT = -5 * math.log(1 - RHO**2)  # of ten pairs of numbers: 1.4384 nats


def correlated(n: int, dims: int = 10, rho: float = RHO, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and its context, each standard normal, with correlation rho."""
    generator = torch.Generator().manual_seed(seed)
    c, noise = torch.randn(2, n, dims, generator=generator)
    return rho * c + math.sqrt(1 - rho**2) * noise, c


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
def test_r25_no_pair_is_above_log_n(scale: float, temperature: float) -> None:
    """Trap: claims above log N. Whatever the data, weights and temperature, in any batch."""
    for dtype in (torch.float32, torch.float64):
        model = CPC(3, context_shape=3, temperature=temperature).to(dtype)
        for spread in (0.0, 1.0, 10.0):
            truth.randomise(model, spread)
            for n in (1, 2, 64):
                x = scale * torch.randn(n, 3, dtype=dtype)
                for context in (x, -x, x.flip(0), torch.zeros_like(x)):
                    with torch.no_grad():
                        rows = model.information(x, context)
                    assert rows.shape == (n,) and torch.isfinite(rows).all()
                    assert rows.max() <= math.log(n) + 1e-5


def test_r25_log_n_is_included() -> None:
    """Batches in which all x are alike tell exactly nothing: 0, and neither log N nor -log N."""
    model = CPC(3, context_shape=2).double()
    for n in (2, 50):
        x = torch.ones(n, 3, dtype=torch.float64)
        context = torch.randn(n, 2, dtype=torch.float64)
        with torch.no_grad():
            assert model.information(x, context).abs().max() <= 1e-9
            assert (model.loss(x, context) - math.log(n)).abs().max() <= 1e-9


def test_r25_loss_is_the_softmax_over_the_batch() -> None:
    """-log of the share of the own pair among all x, for each context, from `ratio` alone."""
    model = CPC(3, context_shape=3).double()
    truth.randomise(model, 0.3)
    x, c = correlated(8, 3)
    x, c = x.double(), c.double()
    with torch.no_grad():
        rows = [model.ratio(x, c[i : i + 1].expand(8, 3)) for i in range(8)]
        share = torch.stack(rows).log_softmax(1).diagonal()
        assert (model.loss(x, c) + share).abs().max() <= 1e-9
        assert (model.information(x, c) - math.log(8) - share).abs().max() <= 1e-9


def test_r25_independent_pairs_tell_nothing() -> None:
    """On fresh data no model can be above I = 0, save by chance."""
    model = CPC(4, context_shape=4)
    for spread in (0.0, 0.5):
        truth.randomise(model, spread)
        means = []
        with torch.no_grad():
            for seed in range(50):
                x, c = correlated(64, 4, rho=0.0, seed=seed)
                means.append(float(model.information(x, c).mean()))
        error = np.std(means) / math.sqrt(len(means))
        assert np.mean(means) <= 3 * error


@pytest.mark.slow
def test_r25_gaussian_anchor() -> None:
    """Ten correlated pairs: between 1.25 and 1.46 of the true 1.4384, with N = 256."""
    model = CPC(10, context_shape=10, features=32, hidden=(256, 256))
    x, c = correlated(100_000)
    fit(model, x, c, steps=2000, batch_size=256, schedule=cosine, progress=False)
    model.eval()
    estimates: list[float] = []
    with torch.no_grad():
        for seed in range(1, 81):
            fresh = model.information(*correlated(256, seed=seed))
            assert fresh.max() <= math.log(256) + 1e-5
            estimates.append(float(fresh.mean()))
    assert 1.25 <= np.mean(estimates) <= 1.46, np.mean(estimates)
    x, c = correlated(2000, seed=100)
    with torch.no_grad():  # s(x, c) of many x for one c is log p(x | c) / p(x) and a constant
        found = truth.array(model.ratio(x, c[:1].expand(2000, 10)))
    given = stats.norm.logpdf(x, RHO * c[:1], math.sqrt(1 - RHO**2))
    assert np.corrcoef(found, (given - stats.norm.logpdf(x)).sum(1))[0, 1] >= 0.9


@pytest.mark.slow
def test_r25_information_saturates_at_log_n() -> None:
    """x is its own context: infinite information, of which a batch shows log N."""
    model = CPC(10, context_shape=10)
    x = torch.randn(20_000, 10)
    fit(model, x, x, steps=600, batch_size=64, progress=False)
    with torch.no_grad():
        for n in (4, 64):
            rows = model.information(x[:n], x[:n])
            assert 0.9 * math.log(n) <= rows.mean() <= math.log(n)


@pytest.mark.slow
def test_r25_samples_lean_towards_their_context() -> None:
    """Drawn from the values seen lately, by the learnt ratio: their mean given c is rho c."""
    x, c = correlated(50_000, 1, rho=0.8)
    model = CPC(1, context_shape=1, bank=1024)
    fit(model, x, c, steps=1500, progress=False)
    for value in (-1.5, 0.0, 1.5):
        drawn = model.sample(2000, torch.tensor([value]), generator=0)
        assert drawn.shape == (2000, 1)
        assert float(drawn.mean()) == pytest.approx(0.8 * value, abs=0.2)
        assert float(drawn.std()) == pytest.approx(0.6, abs=0.15)
        assert torch.isin(drawn, x).all()  # values that were seen, and no others


# ---------------------------------------------------------------- Four-Rooms


def walks(copies: int = 64, steps: int = 400, gap: int = 5) -> tuple[Tensor, Tensor]:
    """(what is seen `gap` steps later, what is seen now) of random walks, in random order."""
    world = FourRooms(copies, goal="none", max_steps=10_000, seed=0)
    generator = torch.Generator().manual_seed(0)
    seen = [world.reset()]
    for _ in range(steps):
        seen.append(world.step(torch.randint(4, (copies,), generator=generator)).obs)
    path = torch.stack(seen)
    later, now = path[gap:].flatten(0, 1), path[:-gap].flatten(0, 1)
    order = torch.randperm(len(now), generator=generator)
    return later[order].float(), now[order].float()


def effective_rank(values: Array) -> float:
    """exp of the entropy of non-negative numbers, normalised."""
    return math.exp(truth.entropy(values / values.sum()))


def spread(features: Array) -> tuple[float, float]:
    """The smallest standard deviation of a feature, and the effective rank of all.

    That is of the singular values, as it was defined: The effective rank: a measure of effective
    dimensionality (Roy and Vetterli, 2007). Of variances, their squares, it is far smaller.
    """
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    return float(features.std(0).min()), effective_rank(values)


@pytest.mark.slow
def test_r25_features_of_four_rooms_know_where_one_is() -> None:
    """Five steps ahead: a linear probe finds the cell (>= 0.9), and features have not collapsed."""
    later, now = walks()
    model = CPC(104, context_shape=104, features=16)
    fit(model, later, now, steps=2000, schedule=cosine, progress=False)
    model.eval()
    cells = torch.eye(104)
    with torch.no_grad():
        table = truth.array(model.encode(cells).mean)
        features = truth.array(model.encode(later).mean)
    where = later.argmax(1).numpy()
    train, test = slice(0, 6000), slice(6000, 10_000)
    probe = LogisticRegression(max_iter=2000, C=1e3).fit(features[train], where[train])
    assert probe.score(features[test], where[test]) >= 0.9
    smallest, rank = spread(features)
    assert smallest >= 0.1 and rank >= 0.5 * 16
    told = model.diagnose(later[:1000], now[:1000])
    variances = np.linalg.eigvalsh(np.cov(features[:1000].T)).clip(0)
    assert told["feature_std"] == pytest.approx(features[:1000].std(0).min(), rel=0.02)
    assert told["effective_rank"] == pytest.approx(effective_rank(variances), rel=0.02)
    # neighbours in space are neighbours in features: a random table of 16 numbers has no map
    places = positions()
    known = LinearRegression().fit(table[::2], places[::2]).score(table[1::2], places[1::2])
    noise = np.random.default_rng(0).normal(size=table.shape)
    chance = LinearRegression().fit(noise[::2], places[::2]).score(noise[1::2], places[1::2])
    assert known >= 0.5 > chance


def positions() -> Array:
    """(row, column) of the 104 cells, in the order of the one-hot code."""
    ours, theirs = (FourRooms(400, observation=o, goal="none", seed=0) for o in ("onehot", "xy"))
    codes, places = ours.reset().argmax(1), theirs.reset()
    table = np.full((104, places.shape[1]), np.nan)
    for _ in range(20):
        table[codes.numpy()] = places.numpy()
        codes, places = ours.reset().argmax(1), theirs.reset()
    assert not np.isnan(table).any()
    return table


@pytest.mark.slow
def test_r25_without_negatives_features_collapse() -> None:
    """The ablation: nets that only pull pairs together, both sides learning, end at a point."""
    later, now = walks(copies=32, steps=200)
    nets = [nn.Sequential(nn.Linear(104, 64), nn.SiLU(), nn.Linear(64, 16)) for _ in range(2)]
    parameters = [p for net in nets for p in net.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    start, _ = spread(truth.array(nets[0](later[:2000])))
    for step in range(1500):
        rows = torch.randint(len(now), (256,), generator=torch.Generator().manual_seed(step))
        loss = (nets[0](later[rows]) - nets[1](now[rows])).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    final = truth.array(nets[0](later[:2000])).std(0)
    assert final.max() < 1e-2 < start
    with_negatives = CPC(104, context_shape=104, features=16)
    fit(with_negatives, later, now, steps=500, progress=False)
    with torch.no_grad():
        features = truth.array(with_negatives.encode(later[:2000]).mean)
    assert spread(features)[0] >= 0.1


def test_r25_diagnose_shows_a_collapse() -> None:
    """One vector for all x: no spread, and the loss at its worst."""
    model = CPC(3, context_shape=3, features=8)
    x, c = correlated(200, 3)
    healthy = model.diagnose(x, c)
    assert healthy["feature_std"] > 0.01 and healthy["effective_rank"] > 1.5
    assert 1 <= healthy["effective_rank"] <= 8
    told = model.diagnose(torch.ones(200, 3), c)
    assert told["feature_std"] <= 1e-5 and told["effective_rank"] <= 8
    with torch.no_grad():
        loss = model.loss(torch.ones(200, 3), c)
    assert (loss - math.log(200)).abs().max() <= 1e-4

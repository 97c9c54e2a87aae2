"""Counts and pseudo-counts against the visits themselves."""

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from rlgen import generative
from rlgen.agents.exploration import HashCounts, PseudoCounts, Surprise, TableCounts
from rlgen.agents.exploration.memory import Reservoir
from tests.walks import agreement, arriving_at, cell_of, walk


def table() -> generative.Categorical:
    return generative.Categorical(1, categories=104)


@pytest.fixture(scope="module")
def visited() -> Tensor:
    return walk(400)


@pytest.mark.parametrize("counts", [TableCounts(), HashCounts(bits=32)], ids=["table", "hash"])
def test_counts_are_visits(counts: TableCounts | HashCounts, visited: Tensor) -> None:
    """R15: exactly, and by 32 hyperplanes too, which tell 104 observations apart."""
    for part in visited.split(50):
        counts.update(arriving_at(part.flatten(0, 1)))
    assert torch.equal(counts.count(torch.eye(104)), visited.flatten(0, 1).sum(0).long())
    bonus = counts.reward(arriving_at(torch.eye(104)))
    assert bonus[0] < bonus[-1] and torch.equal(bonus, counts.reward(arriving_at(torch.eye(104))))


def test_few_hyperplanes_lump_but_keep_the_order() -> None:
    visits = walk(200, seed=1).flatten(0, 1)
    correlations = []
    for bits in (8, 12, 20):
        counts = HashCounts(bits=bits)
        counts.update(arriving_at(visits))
        found = counts.count(torch.eye(104)).double()
        correlations.append(stats.spearmanr(found, visits.sum(0)).statistic)
        assert (found >= visits.sum(0)).all()
    assert correlations[-1] >= 0.8 and correlations == sorted(correlations)


def test_floats_are_counted_by_value() -> None:
    counts = TableCounts()
    counts.update(arriving_at(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0000001]])))
    assert counts.count(torch.tensor([[0.0, 1.0], [0.5, 1.0]])).tolist() == [2, 0]


def test_recoding_a_table_gives_back_the_visits(visited: Tensor) -> None:
    """R14, in rank and in scale."""
    bonus = PseudoCounts(table(), estimator="recoding", features=cell_of, lr=3e-3)
    for part in visited.split(4):
        bonus.update(arriving_at(part.flatten(0, 1)))
    rank, slope, ratio = agreement(bonus.count(torch.eye(104)), visited.flatten(0, 1).sum(0))
    assert rank >= 0.99 and abs(slope - 1) <= 0.05 and 0.95 <= ratio <= 1.05, (rank, slope, ratio)


@pytest.mark.parametrize(
    ("family", "estimator"),
    [
        *itertools.product(["MADE", "RealNVP"], ["recoding", "gain", "frequency"]),
        ("VAE", "frequency"),
    ],
)
def test_bonuses_are_pure_finite_and_fall_with_visits(family: str, estimator: Any) -> None:
    torch.manual_seed(0)
    models = {
        "MADE": lambda: generative.MADE(6, hidden=(16,)),
        "RealNVP": lambda: generative.RealNVP(6, transforms=2, hidden=(16,)),
        "VAE": lambda: generative.VAE(6, latent=2, head=generative.heads.Bernoulli(), hidden=(16,)),
    }
    bonus = PseudoCounts(models[family](), estimator=estimator, lr=1e-2, batch_size=64)
    often, never = torch.eye(6)[:1], torch.eye(6)[5:]
    seen = arriving_at(
        often.expand(64, 6) + (0.05 * torch.randn(64, 6) if family == "RealNVP" else 0)
    )
    for _ in range(20):
        bonus.update(seen)
    weights = {name: tensor.clone() for name, tensor in bonus.model.state_dict().items()}
    both = arriving_at(torch.cat([often, never]))
    state = torch.get_rng_state()
    first, second = bonus.reward(both), bonus.reward(both)
    assert torch.equal(first, second) and torch.isfinite(first).all() and (first > 0).all()
    assert torch.equal(state, torch.get_rng_state()), "asking draws from the global stream"
    assert first[1] > first[0], "what was never seen pays more"
    for name, tensor in bonus.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), "a trial leaves a trace"


def test_surprise_falls_with_visits() -> None:
    bonus = Surprise(generative.MADE(6, hidden=(16,)), lr=1e-2, batch_size=64)
    often = arriving_at(torch.eye(6)[:1].expand(64, 6))
    before = float(bonus.reward(often)[0])
    for _ in range(10):
        bonus.update(often)
    assert float(bonus.reward(often)[0]) < 0.2 * before


def test_models_without_a_density_are_refused() -> None:
    with pytest.raises(TypeError, match=r"PseudoCounts needs a density \(log_prob\) or a bound"):
        PseudoCounts(generative.GAN(6))
    with pytest.raises(ValueError, match="without a context"):
        PseudoCounts(generative.MADE(6, context_shape=2))
    with pytest.raises(ValueError, match="give 'features'"):
        PseudoCounts(generative.MADE(6)).update(arriving_at(torch.eye(7)))
    with pytest.raises(ValueError, match="'estimator'"):
        PseudoCounts(generative.MADE(6), estimator="magic")  # type: ignore[arg-type]


def test_a_reservoir_is_a_uniform_sample() -> None:
    kept = torch.zeros(100)
    for seed in range(400):
        memory = Reservoir(10, seed)
        for part in torch.arange(100).split(7):
            memory.add(part)
        assert memory.kept is not None and len(memory.kept.unique()) == 10
        kept[memory.kept] += 1
    # each of 100 is kept with a probability of 0.1
    assert float(((kept - 40) ** 2 / 36).sum()) < stats.chi2.ppf(0.999, 99)
    assert math.isclose(float(kept.sum()), 4000)

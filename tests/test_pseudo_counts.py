"""Pseudo-counts against visits: 64 walkers, 25 600 steps, and every way to get it wrong.

Where a bar says what it would catch, the defect was tried or can be tried by hand.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rlgen import generative as g
from rlgen.agents.exploration import PseudoCounts
from tests.walks import PLACES, agreement, arriving_at, cell_of, divergence, same, walk

EYE = torch.eye(104)


def row_and_column(obs: Tensor) -> Tensor:
    return PLACES[obs.argmax(-1)]


def between_minus_one_and_one(obs: Tensor) -> Tensor:
    return 2 * PLACES[obs.argmax(-1)] / 12 - 1


def picture(obs: Tensor) -> Tensor:
    """One white pixel in the 11 x 11 that the outer walls leave."""
    place = PLACES[obs.argmax(-1)] - 1
    flat = torch.zeros(len(obs), 121).scatter(1, (11 * place[:, :1] + place[:, 1:]), 1.0)
    return flat.reshape(-1, 1, 11, 11)


def table() -> g.Categorical:
    return g.Categorical(1, categories=104)


def made() -> g.MADE:
    return g.MADE(104, hidden=(128,))


def vae() -> g.VAE:
    return g.VAE(1, latent=4, head=g.heads.Categorical(104), hidden=(128,))


def row_then_column() -> g.BayesNet:
    return g.BayesNet(2, parents=[(), (0,)], categories=13)


def flow() -> g.RealNVP:
    return g.RealNVP(2)


def dequantised_flow() -> g.Dequantised:
    return g.Dequantised(g.Flow(2, [g.flows.Logit(), *g.RealNVP(2).transforms]), levels=13)


def pixelcnn() -> g.PixelCNN:
    return g.PixelCNN((1, 11, 11), channels=8, layers=4, kernel=7)


def fed(
    model: g.GenerativeModel, seen: Tensor, per: int = 256, estimator: Any = "frequency", **how: Any
) -> PseudoCounts:
    """A bonus that saw all of `seen`, with shape (n, 104), a rollout of `per` at a time."""
    bonus = PseudoCounts(model, estimator=estimator, **how)
    for part in seen.split(per):
        bonus.update(arriving_at(part))
    return bonus


@pytest.fixture(scope="module")
def visited() -> Tensor:
    return walk(400).flatten(0, 1)


@pytest.fixture(scope="module")
def in_one_room() -> Tensor:
    """Those of the walk's steps that stayed in the room of the corner, 25 cells."""
    seen = walk(400).flatten(0, 1)
    inside = (PLACES < 6).all(1)
    return seen[inside[seen.argmax(-1)]]


@torch.no_grad()
def log_rho(bonus: PseudoCounts, obs: Tensor = EYE, samples: int = 16) -> Tensor:
    """Asked of the model itself: for a bound, the importance-weighted one."""
    x = bonus.data(obs)
    model = bonus.model.eval()
    if isinstance(model, g.Density):
        return model.log_prob(x)
    assert isinstance(model, g.Bound)
    return model.elbo(x, None, samples=samples)


# --- exact tables


def test_frequencies_of_a_fitted_table_are_the_visits_exactly() -> None:
    """Catches n counted in batches, off by one, or rounded to float32."""
    x = torch.arange(104).repeat_interleave(torch.arange(1, 105))[:, None]
    model = table().double()
    model.maximise(x)
    bonus = PseudoCounts(model, updates=0)
    for part in x.split(1000):
        bonus.update(arriving_at(part))
    counts = bonus.count(torch.arange(104)[:, None])
    torch.testing.assert_close(counts, torch.arange(1.0, 105.0).double(), rtol=0, atol=1e-9)
    paid = bonus.reward(arriving_at(torch.arange(104)[:, None]))
    torch.testing.assert_close(paid, (counts + 1.0).rsqrt().to(paid.dtype), rtol=1e-6, atol=0)


def test_dirichlet_tables_count_their_prior_too() -> None:
    """rho = (N + alpha) / (n + alpha K), so n rho is N + alpha up to the prior's share of n.

    With rho' after one more visit, rho (1 - rho') / (rho' - rho) is N + alpha itself.
    """
    alpha, visits = 0.5, torch.arange(104)
    x = torch.arange(104).repeat_interleave(visits)[:, None]
    n, prior = len(x), alpha * 104
    model = g.Categorical(1, categories=104, smoothing=alpha).double()
    model.maximise(x)
    bonus = PseudoCounts(model, updates=0)
    bonus.update(arriving_at(x))
    symbols = torch.arange(104)[:, None]
    counts = bonus.count(symbols)
    expected = (visits.double() + alpha) * n / (n + prior)
    torch.testing.assert_close(counts, expected, rtol=0, atol=1e-9)
    rho = log_rho(bonus, symbols).exp()
    for k in (0, 1, 50, 103):
        model.maximise(torch.cat([x, symbols[k : k + 1]]))
        after = log_rho(bonus, symbols[k : k + 1]).exp()
        recoded = rho[k] * (1 - after) / (after - rho[k])
        assert math.isclose(float(recoded), k + alpha, abs_tol=1e-9)


def test_recoding_a_softmax_table_gives_visits(visited: Tensor) -> None:
    """Rank, slope and scale: a wrong Fisher (a root, a decaying mean) loses the last two."""
    bonus = fed(table(), visited, estimator="recoding", features=cell_of, lr=3e-3)
    rank, slope, ratio = agreement(bonus.count(EYE), visited.sum(0))
    assert rank >= 0.99 and abs(slope - 1) <= 0.05 and 0.95 <= ratio <= 1.05, (rank, slope, ratio)


def test_gain_of_a_softmax_table_ranks_and_scales_with_visits(visited: Tensor) -> None:
    """N / (c sqrt(n)), as published: right in slope, and in scale up to that known factor."""
    bonus = fed(table(), visited, estimator="gain", features=cell_of, lr=3e-3)
    rank, slope, ratio = agreement(bonus.count(EYE), visited.sum(0))
    assert rank >= 0.99 and abs(slope - 1) <= 0.1, (rank, slope)
    assert math.isclose(ratio * 0.1 * math.sqrt(len(visited)), 1.0, rel_tol=0.1), ratio


# --- n rho of densities that learn


class Learner(NamedTuple):
    """A density, how it learns, and what is asked of it."""

    make: Callable[[], g.GenerativeModel]
    how: dict[str, Any]
    rank: float
    slope: tuple[float, float]
    mass: bool = True  # whether it is one, which can be compared with the visits'


# slopes over three seeds: MADE 0.99 to 1.04, row then column 1.01 to 1.02, VAE 0.99 to 1.02,
# RealNVP 1.17 to 1.31 (walls break a smooth density), Dequantised 0.87 to 1.15, PixelCNN 1.04 to
# 1.16
FREQUENCIES = {
    "MADE": Learner(made, {"lr": 3e-3, "updates": 16}, 0.95, (0.85, 1.15)),
    "row then column": Learner(
        row_then_column, {"features": row_and_column, "lr": 3e-2}, 0.95, (0.9, 1.1)
    ),
    "VAE": Learner(vae, {"features": cell_of, "lr": 3e-3, "updates": 16}, 0.95, (0.85, 1.15)),
    "RealNVP": Learner(
        flow, {"features": between_minus_one_and_one, "lr": 3e-3}, 0.85, (0.7, 1.45), False
    ),
    "Dequantised": Learner(
        dequantised_flow, {"features": row_and_column, "lr": 3e-3}, 0.85, (0.7, 1.3), False
    ),
    "PixelCNN": Learner(
        pixelcnn,
        {"features": picture, "lr": 5e-3, "updates": 24, "batch_size": 32, "per": 512},
        0.9,
        (0.7, 1.3),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FREQUENCIES)
def test_frequencies_are_visits(name: str, visited: Tensor) -> None:
    """In rank and in slope: a density that lags or smears fails the first, one that saturates the
    second. Bounds are to be evaluated with 16 weighted samples; one sample's noise costs 0.1 of
    rank.
    """
    learner = FREQUENCIES[name]
    bonus = fed(learner.make(), visited, **learner.how)
    visits = visited.sum(0)
    rank, slope, ratio = agreement(bonus.count(EYE), visits)
    lag = divergence(visits, log_rho(bonus)) if learner.mass else 0.0
    figures = f"rank {rank:.3f}, slope {slope:.3f}, ratio {ratio:.3f}, KL {lag:.3f}"
    low, high = learner.slope
    assert rank >= learner.rank and low <= slope <= high and lag <= 0.1, figures
    assert not learner.mass or 0.5 <= ratio <= 2.0, figures


@pytest.mark.slow
def test_a_bound_itself_is_good_enough_for_counting(visited: Tensor) -> None:
    """The VAE's own weighted bound, asked with fresh noise, so that a failure above is known to
    be one of the bonus and not of the model."""
    bonus = fed(vae(), visited, features=cell_of, lr=3e-3, updates=16)
    visits = visited.sum(0)
    log_p = log_rho(bonus)
    rank, slope, ratio = agreement(log_p.exp() * len(visited), visits)
    assert rank >= 0.95 and 0.7 <= slope <= 1.3 and 0.8 <= ratio <= 1.25, (rank, slope, ratio)
    assert abs(divergence(visits, log_p)) <= 0.1


@pytest.mark.slow
def test_recoding_with_an_autoregressive_network_ranks(visited: Tensor) -> None:
    """The aim is .95 and a slope of 1 with the right scale; nobody has it, and neither have we:
    .88 and 1.4, at 3 % of the count. This keeps what there is."""
    bonus = fed(made(), visited, estimator="recoding", lr=3e-3, updates=16)
    rank, slope, ratio = agreement(bonus.count(EYE), visited.sum(0))
    assert rank >= 0.85 and 0.7 <= slope <= 1.6, (
        f"rank {rank:.3f}, slope {slope:.3f}, ratio {ratio:.4f}"
    )


# --- traps


def test_a_trial_of_plain_gradient_ascent_only_looks_right(visited: Tensor) -> None:
    """Why slopes are asserted: by hand, theta + alpha g ranks well and counts nothing."""
    visits = visited.sum(0).double()
    p = visits / visits.sum()
    trial: list[Tensor] = []
    natural: list[Tensor] = []
    for k, n in enumerate(visits):
        g_k = torch.nn.functional.one_hot(torch.tensor(k), 104) - p
        fisher = p * (1 - p)  # the mean of squared gradients over all that was seen
        for found, step in ((trial, 0.01 * g_k), (natural, g_k / (visits.sum() * fisher + g_k**2))):
            after = (p.log() + step).log_softmax(0).exp()[k]
            found.append(p[k] * (1 - after) / (after - p[k]))
        assert n > 0
    rank, slope, _ = agreement(torch.stack(trial), visits)
    assert rank >= 0.9 and abs(slope) <= 0.1, (rank, slope)
    rank, slope, ratio = agreement(torch.stack(natural), visits)
    assert rank >= 0.99 and abs(slope - 1) <= 0.05 and abs(ratio - 1) <= 0.05, (rank, slope, ratio)


@pytest.mark.parametrize("estimator", ["recoding", "gain", "frequency"])
def test_asking_touches_neither_model_nor_optimiser(estimator: Any, visited: Tensor) -> None:
    """And so learning goes on as if nothing had been asked."""
    bonuses = []
    for asked in (True, False):
        torch.manual_seed(0)
        bonus = PseudoCounts(g.VQVAE(104, codes=8, latent=2, hidden=(16,)), estimator=estimator)
        for part in visited[:1280].split(256):
            bonus.update(arriving_at(part))
            if asked:
                mode = bonus.model.training
                bonus.reward(arriving_at(part[:32]))
                assert bonus.model.training == mode
                assert all(p.requires_grad for p in bonus.model.parameters())
        bonuses.append(bonus)
    assert same(bonuses[0].state_dict(), bonuses[1].state_dict())


def test_gains_too_small_for_float32_are_measured_all_the_same() -> None:
    """After 4 million visits a trial gains 1e-6 or less, of which rho' - rho loses all digits."""
    # many symbols: a diagonal Fisher matrix counts those of a large share too rarely
    parts = [torch.arange(64), torch.arange(32), torch.arange(8)]
    seen = torch.cat(parts).repeat(40_000)[:, None]
    counts = []
    for dtype in (torch.float32, torch.float64):
        bonus = PseudoCounts(
            g.Categorical(1, categories=64).to(dtype), estimator="recoding", lr=1e-2, updates=32
        )
        for part in seen.chunk(20):
            bonus.update(arriving_at(part))
        counts.append(bonus.count(torch.tensor([0, 20, 50])[:, None]).double())
    torch.testing.assert_close(counts[0], counts[1], rtol=0.05, atol=0)
    truth = torch.tensor([1.2e5, 0.8e5, 0.4e5]).double()
    torch.testing.assert_close(counts[1], truth, rtol=0.25, atol=0)


@pytest.mark.parametrize("estimator", ["recoding", "gain", "frequency"])
def test_densities_above_one_still_count(estimator: Any) -> None:
    """rho is about e^8 here, so 1 - rho' is far below zero."""
    bonus = PseudoCounts(g.Gaussian(2), estimator=estimator, lr=3e-2, updates=32)
    near, medians = 0.3 + 0.003 * torch.randn(20, 64, 2), []
    for part in near:
        bonus.update(arriving_at(part))
        counts = bonus.count(near[:, 0])
        assert torch.isfinite(counts).all() and (counts > 0).all()
        medians.append(float(counts.median()))
    assert float(bonus.log_prob(bonus.data(near[0, :1]))) > 2.0, "the density is above one"
    assert medians[-1] > medians[2]
    assert float(bonus.count(torch.tensor([[0.5, 0.1]]))) < 0.1 * medians[-1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [vae, dequantised_flow], ids=["VAE", "Dequantised"])
def test_bounds_train_on_fresh_noise_and_count_with_common_noise(
    make: Callable[[], g.GenerativeModel], visited: Tensor
) -> None:
    """A fixed bank of noise would be learnt by heart, and its bound would flatter. Noise that
    differs from row to row would pay one observation many prices at once.
    """
    features = cell_of if make is vae else row_and_column
    bonus = fed(make(), visited[:10_240], features=features, lr=3e-3)
    own = bonus.log_prob(bonus.data(visited[:2048]))
    model = bonus.model
    assert isinstance(model, g.Bound)
    with torch.no_grad():
        fresh = model.elbo(bonus.data(visited[:2048]), None, samples=64)
    assert float((own - fresh).mean()) <= 0.05, "the bound is above what fresh noise gives"
    again = bonus.count(visited[:1].expand(64, 104))
    assert float(again.log().std()) <= 0.15, "the same observation is counted in many ways"


@pytest.mark.slow
def test_trials_of_a_bound_gain_something(visited: Tensor) -> None:
    """rho and rho' under different noise would differ by half a nat either way, where a trial
    gains 1/N; and a trial that goes too far loses. Both make counts of nothing or of everything.
    """
    bonus = fed(vae(), visited[:10_240], estimator="recoding", features=cell_of, lr=3e-3)
    counts = bonus.count(EYE)
    plausible = (counts > 1e-3) & (counts < 0.9 * 10_240)
    assert float(plausible.float().mean()) >= 0.9, f"{int(plausible.sum())} of 104 are plausible"


def test_frequencies_overcount_the_unseen_until_fitted(in_one_room: Tensor) -> None:
    """n rho starts at n / 104 for what nobody saw: known, bounded, and gone once it is fitted.

    Recoding has no such trouble, as long as it knows that the unseen has had no gradients yet.
    """
    bonus, visits = PseudoCounts(table(), features=cell_of, lr=3e-2), torch.zeros(104)
    for i, part in enumerate(in_one_room.split(256)):
        bonus.update(arriving_at(part))
        visits += part.sum(0)
        if i == 3:
            early = bonus.count(EYE)[visits == 0].max()
    unseen, seen = bonus.count(EYE)[visits == 0], bonus.count(EYE)[visits > 0]
    assert early > 2.0, "if this no longer holds, say so in the documentation"
    assert unseen.max() < 0.02 * seen.min(), (unseen.max(), seen.min())
    recoding = fed(table(), in_one_room, estimator="recoding", features=cell_of, lr=3e-2)
    assert float(recoding.count(EYE)[visits == 0].max()) <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["recoding", "gain", "frequency"])
def test_the_unseen_is_worth_most_to_a_network(estimator: Any, in_one_room: Tensor) -> None:
    """One cell that a trial overshoots for would be held known for good: not one may be."""
    bonus = PseudoCounts(made(), estimator=estimator, lr=3e-3, updates=16)
    visits = torch.zeros(104)
    for i, part in enumerate(in_one_room.split(256)):
        bonus.update(arriving_at(part))
        visits += part.sum(0)
        if i >= 20:
            counts = bonus.count(EYE)
            assert counts[visits == 0].max() < counts[visits > 0].min(), f"after {256 * (i + 1)}"


def test_the_density_keeps_up_with_the_walk() -> None:
    """The KL to all that was seen stays small all along, and the reservoir forgets nothing."""
    bonus = PseudoCounts(table(), features=cell_of, lr=3e-2)
    visits, lags = torch.zeros(104), []
    for part in walk(400).split(4):
        bonus.update(arriving_at(part.flatten(0, 1)))
        visits += part.flatten(0, 1).sum(0)
        lags.append(divergence(visits, log_rho(bonus)))
    assert max(lags[20:]) <= 0.1, [round(lag, 3) for lag in lags[::10]]


def test_what_a_bonus_keeps_does_not_grow_with_experience(visited: Tensor) -> None:
    bonus = PseudoCounts(table(), features=cell_of, memory=512, batch_size=64)
    sizes = []
    for part in visited[:5120].split(256):
        bonus.update(arriving_at(part))
        sizes.append(size_of(bonus.state_dict()))
    assert sizes[-1] == sizes[4]


def size_of(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, dict):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if isinstance(state, list | tuple) else 1

"""P04 maximum mean discrepancy, P05 optimal transport, G02 the count of modes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from rlgen.generative import Gaussian, MMDGenerator, fit, metrics
from tests import truth


def normal(n: int, mean: float = 0.0, seed: int = 0, dims: int = 1) -> Tensor:
    return truth.as_float(np.random.default_rng(seed).normal(mean, 1.0, size=(n, dims)))


def shifted_mmd2(shift: float) -> float:
    """MMD^2 of N(0, 1) and N(shift, 1) with the kernel exp(-(x - y)^2 / 2), in closed form.

    A difference of two draws is N(m, 2), and E exp(-u^2 / 2) = exp(-m^2 / 6) / sqrt(3).
    """
    return 2 / math.sqrt(3) * (1 - math.exp(-(shift**2) / 6))


def slow_mmd2(x: truth.Array, y: truth.Array, lengths: list[float]) -> float:
    """The U-statistic, pair by pair."""

    def k(a: truth.Array, b: truth.Array) -> float:
        square = float(((a - b) ** 2).sum())
        return sum(math.exp(-square / (2 * length**2)) for length in lengths) / len(lengths)

    within_x = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    within_y = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    across = sum(k(a, b) for a in x for b in y)
    n, m = len(x), len(y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


@pytest.mark.parametrize(("shift", "anchor"), [(0.5, 0.047124), (1.0, 0.177267)])
def test_p04_mmd_has_its_closed_form(shift: float, anchor: float) -> None:
    """The mean of many U-statistics is exact, whatever their size, within 3 standard errors."""
    assert shifted_mmd2(shift) == pytest.approx(anchor, abs=1e-6)
    large = [
        truth.number(metrics.mmd2(normal(300, 0, i), normal(300, shift, 1000 + i), bandwidth=1.0))
        for i in range(25)
    ]
    assert truth.within(np.array(large), anchor)
    one = np.array(large)
    assert abs(one[0] - anchor) <= 3 * one.std(ddof=1)
    small = [
        truth.number(metrics.mmd2(normal(5, 0, i), normal(7, shift, 10_000 + i), bandwidth=1.0))
        for i in range(800)
    ]
    assert truth.within(np.array(small), anchor)


def test_p04_no_difference_gives_zero_on_average_and_is_negative_half_of_the_time() -> None:
    """Trap: the diagonal kept, which adds 2 (1 - 1 / sqrt 3) / n; or the statistic clamped."""
    null = np.array(
        [
            truth.number(metrics.mmd2(normal(10, 0, i), normal(10, 0, 5000 + i), bandwidth=1.0))
            for i in range(800)
        ]
    )
    assert truth.within(null, 0.0)
    assert abs(null.mean()) < 0.05 * 2 * (1 - 1 / math.sqrt(3)) / 10
    assert 0.4 < (null < 0).mean() < 0.75


@pytest.mark.parametrize("lengths", [[1.0], [0.3], [0.5, 1.0, 4.0]])
def test_p04_mmd_is_the_u_statistic(lengths: list[float]) -> None:
    x, y = normal(9, 0, 0, dims=3), normal(6, 0.5, 1, dims=3)
    exact = slow_mmd2(truth.array(x), truth.array(y), lengths)
    bandwidth = lengths[0] if len(lengths) == 1 else lengths
    assert truth.number(metrics.mmd2(x, y, bandwidth=bandwidth)) == pytest.approx(exact, abs=1e-12)
    image = metrics.mmd2(x.reshape(9, 3, 1), y.reshape(6, 3, 1), bandwidth=bandwidth)
    assert truth.number(image) == pytest.approx(exact, abs=1e-12)
    single = metrics.mmd2(x.float(), y.float(), bandwidth=bandwidth)
    assert single.dtype == torch.float32
    assert truth.number(single) == pytest.approx(exact, abs=1e-5)


def test_p04_far_from_the_origin_nothing_changes() -> None:
    """Trap: |x|^2 + |y|^2 - 2 x.y in float32, which cancels."""
    x, y = normal(50, 0, 0, 2).float(), normal(50, 1, 1, 2).float()
    here = truth.number(metrics.mmd2(x, y, bandwidth=1.0))
    there = truth.number(metrics.mmd2(x + 1000, y + 1000, bandwidth=1.0))
    assert there == pytest.approx(here, abs=2e-3)


def test_p04_the_median_is_that_of_the_pooled_sample_and_has_no_gradient() -> None:
    x, y = normal(31, 0, 0, 2), 2 + 3 * normal(20, 0, 1, 2)
    median = float(np.median(pdist(np.concatenate([truth.array(x), truth.array(y)]))))
    exact = slow_mmd2(truth.array(x), truth.array(y), [median])
    assert truth.number(metrics.mmd2(x, y)) == pytest.approx(exact, rel=0.02)
    assert truth.number(metrics.mmd2(7 * x, 7 * y)) == pytest.approx(
        truth.number(metrics.mmd2(x, y)), abs=1e-10
    )
    assert truth.number(metrics.mmd2(y, x)) == pytest.approx(
        truth.number(metrics.mmd2(x, y)), abs=1e-12
    )
    gradients = []
    for bandwidth in (None, median):
        wanted = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(metrics.mmd2(x, wanted, bandwidth=bandwidth), wanted)
        gradients.append(gradient)
    # were the median differentiated, two rows would have gradients of another kind
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.05, atol=1e-4)


def test_p04_gradients_are_those_of_the_statistic() -> None:
    x, y = normal(8, 0, 0, 2), normal(6, 1, 1, 2)

    def statistic(wanted: Tensor) -> Tensor:
        return metrics.mmd2(x, wanted, bandwidth=[0.5, 2.0])

    assert torch.autograd.gradcheck(statistic, y.clone().requires_grad_())
    twice = torch.cat([y, y[:1]]).requires_grad_()  # no NaN at distance zero
    (gradient,) = torch.autograd.grad(metrics.mmd2(x, twice), twice)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_p04_what_cannot_be_compared_is_refused() -> None:
    x = normal(10, dims=2)
    for bad in (normal(10, dims=3), x[:1]):
        with pytest.raises(ValueError):
            metrics.mmd2(x, bad, bandwidth=1.0)
    for bandwidth in (0.0, -1.0):
        with pytest.raises(ValueError, match="bandwidth"):
            metrics.mmd2(x, x + 1, bandwidth=bandwidth)


def test_p04_missing_numbers_are_no_evidence() -> None:
    """No division has a larger MMD than NaN, which must not make the p-value tiny."""
    x, y = normal(30, seed=0), normal(30, seed=1)
    y[3] = math.nan
    for bandwidth in (None, 1.0):
        with pytest.raises(ValueError):
            metrics.mmd_test(x, y, bandwidth=bandwidth)


def test_p04_equal_points_have_a_bandwidth() -> None:
    """Data most of whose distances are zero still gives a finite number."""
    x, y = torch.zeros(20, 2), torch.zeros(20, 2)
    y[0] = 1.0
    assert torch.isfinite(metrics.mmd2(x, y))
    assert torch.isfinite(metrics.mmd2(x, x))


def test_p04_permutations_find_the_exact_p_value() -> None:
    """Of all 126 (or 70) ways to split nine (eight) points, and the statistic of each."""
    for n, m, shift in ((4, 4, 1.0), (5, 4, 0.3), (4, 5, 2.0)):
        x, y = normal(n, 0, 3), normal(m, shift, 4)
        pooled = truth.array(torch.cat([x, y]))
        length = float(np.median(pdist(pooled)))
        for bandwidth in (length, None):
            observed = truth.number(metrics.mmd2(x, y, bandwidth=bandwidth))
            given = length if bandwidth is None else bandwidth
            splits = []
            for chosen in itertools.combinations(range(n + m), n):
                rest = [i for i in range(n + m) if i not in chosen]
                splits.append(slow_mmd2(pooled[list(chosen)], pooled[rest], [given]))
            exact = float(np.mean(np.array(splits) >= slow_mmd2(pooled[:n], pooled[n:], [given])))
            test = metrics.mmd_test(x, y, permutations=4000, bandwidth=bandwidth, seed=1)
            assert float(test.statistic) == pytest.approx(observed, abs=1e-12)
            error = math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000
            ties = 1e-9  # the same split, added up in another order
            assert abs(float(test.p_value) - exact) <= 4 * error + ties, (n, m, bandwidth)


def test_p04_a_test_is_repeatable_and_never_says_zero() -> None:
    x, y = normal(40, 0, 0), normal(40, 5, 1)
    state = torch.get_rng_state()
    tests = [metrics.mmd_test(x, y, permutations=99, seed=s) for s in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert float(tests[0].p_value) == float(tests[1].p_value) == pytest.approx(1 / 100)
    near = [metrics.mmd_test(x, x + 0.1, permutations=99, seed=s) for s in range(5)]
    assert len({float(test.p_value) for test in near}) > 1
    assert all(0 < float(test.p_value) <= 1 for test in near)


@pytest.mark.slow
def test_p04_the_test_has_its_size_and_its_power() -> None:
    """n = 250: rejects 5 +- 2 % of 300 true nulls, and > 95 % at a shift of 0.5."""

    def p_value(shift: float, trial: int) -> float:
        x, y = normal(250, 0, 2 * trial), normal(250, shift, 2 * trial + 1)
        return float(metrics.mmd_test(x, y, permutations=500, seed=trial).p_value)

    null = np.array([p_value(0.0, trial) for trial in range(300)])
    assert 0.03 <= (null <= 0.05).mean() <= 0.07
    assert stats.kstest(null, "uniform").pvalue > 0.01
    shifted = np.array([p_value(0.5, 1000 + trial) for trial in range(100)])
    assert (shifted <= 0.05).mean() > 0.95


def ring(n: int, seed: int = 0, radius: float = 2.0, scale: float = 0.1) -> Tensor:
    """Eight Gaussians on a circle."""
    generator = np.random.default_rng(seed)
    angle = 2 * np.pi * generator.integers(8, size=n) / 8
    centres = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = centres + scale * generator.normal(size=(n, 2))
    return truth.as_float(x, torch.float32)


@pytest.mark.slow
def test_p04_a_generator_matches_the_moments_of_the_ring() -> None:
    """Mean and covariance within 5 % of the exact (R^2 / 2 + s^2) I; the median of three seeds."""
    exact = 2.0 + 0.01
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = MMDGenerator(2)
        fit(model, ring(10_000, seed), steps=1500, lr=2e-3, batch_size=256, seed=seed)
        x = truth.array(model.sample(50_000, generator=seed))
        mean = np.linalg.norm(x.mean(0)) / math.sqrt(exact)
        covariance = np.linalg.norm(np.cov(x.T) - exact * np.eye(2)) / np.linalg.norm(
            exact * np.eye(2)
        )
        errors.append((mean, covariance))
    assert np.median([mean for mean, _ in errors]) <= 0.05, errors
    assert np.median([covariance for _, covariance in errors]) <= 0.05, errors


def test_p04_a_generators_loss_is_a_statistic_of_two_samples() -> None:
    """It is near zero for its own samples, larger for others, and pulls samples to the data."""
    torch.manual_seed(0)
    model = MMDGenerator(2).double()
    own = model.sample(800, generator=1)
    with torch.no_grad():
        at_home = truth.number(model.loss(own).mean())
        away = truth.number(model.loss(own + 1.0).mean())
    assert model.loss(own).shape == (800,)
    assert abs(at_home) < 0.02 < 0.1 < away
    target = normal(500, 0, 2, 2).float() + 3.0
    fit(model.float(), target, steps=100, lr=1e-2, batch_size=128)
    assert (model.sample(2000).mean(0) - 3).abs().max() < 0.5


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 31), (7, 100), (1, 9), (1, 1), (64, 128)])
def test_p05_the_distance_on_a_line_is_scipys(n: int, m: int) -> None:
    generator = np.random.default_rng(n + m)
    pairs = [
        (generator.normal(size=n), generator.exponential(3.0, size=m)),
        (generator.integers(4, size=n) / 1.0, generator.integers(5, size=m) / 1.0),  # ties
        (generator.normal(size=n) - 100, generator.normal(size=m) * 1e-3),
    ]
    for x, y in pairs:
        exact = stats.wasserstein_distance(x, y)
        found = metrics.wasserstein1(truth.as_float(x), truth.as_float(y))
        assert float(found) == pytest.approx(exact, abs=1e-6)
        other = metrics.wasserstein1(truth.as_float(y), truth.as_float(x))
        assert float(other) == pytest.approx(exact, abs=1e-6)


def test_p05_a_shift_costs_what_it_is_long() -> None:
    """W1, neither W2^2 nor W2: both ends of a stretch by two add up."""
    x = normal(1001)[:, 0]
    assert float(metrics.wasserstein1(x, x)) == 0
    for shift in (-3.0, 0.5, 2.0):
        assert float(metrics.wasserstein1(x, x + shift)) == pytest.approx(abs(shift), abs=1e-9)
    assert float(metrics.wasserstein1(x, 3 * x)) == pytest.approx(
        2 * float(x.abs().mean()), abs=1e-9
    )
    for bad in (torch.zeros(0), torch.zeros(3, 2)):
        with pytest.raises(ValueError):
            metrics.wasserstein1(x, bad)


def linear_programme(cost: truth.Array, a: truth.Array, b: truth.Array) -> float:
    """min <P, C> over plans with marginals a and b."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solved = optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), method="highs"
    )
    assert solved.status == 0
    return float(solved.fun)


@pytest.mark.parametrize("seed", range(4))
def test_p05_sinkhorn_is_near_the_linear_programme(seed: int) -> None:
    """Within 1 % on random 30 x 30 costs, marginals within 1e-4 (in total)."""
    generator = np.random.default_rng(seed)
    cost = generator.random((30, 30))
    if seed % 2:
        a, b = generator.dirichlet(np.ones(30)), generator.dirichlet(np.ones(30))
        found = metrics.sinkhorn(
            truth.as_float(cost), truth.as_float(a), truth.as_float(b), epsilon=1e-3
        )
    else:
        a = b = np.full(30, 1 / 30)
        found = metrics.sinkhorn(truth.as_float(cost), epsilon=1e-3)
        rows, columns = optimize.linear_sum_assignment(cost)
        assert linear_programme(cost, a, b) == pytest.approx(cost[rows, columns].mean(), abs=1e-9)
    exact = linear_programme(cost, a, b)
    plan = truth.array(found.plan)
    assert found.converged and found.iterations >= 1
    assert (plan >= 0).all()
    assert np.abs(plan.sum(1) - a).sum() < 1e-4 and np.abs(plan.sum(0) - b).sum() < 1e-4
    assert float(found.cost) == pytest.approx(float((plan * cost).sum()), rel=1e-6)
    assert exact - 1e-4 <= float(found.cost) <= 1.01 * exact


def regularised(cost: truth.Array, a: truth.Array, b: truth.Array, epsilon: float) -> truth.Array:
    """The plan u exp(-C / epsilon) v with marginals a and b, where nothing underflows."""
    kernel = np.exp(-cost / epsilon)
    v = np.ones(len(b))
    for _ in range(20_000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    out: truth.Array = u[:, None] * kernel * v
    return out


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 100.0])
def test_p05_the_cost_has_no_entropy_in_it(epsilon: float) -> None:
    """It is <P, C>; of all plans the most random one, a b', as epsilon grows."""
    generator = np.random.default_rng(0)
    cost = generator.random((6, 9))
    a, b = generator.dirichlet(np.ones(6)), generator.dirichlet(np.ones(9))
    found = metrics.sinkhorn(
        truth.as_float(cost), truth.as_float(a), truth.as_float(b), epsilon=epsilon
    )
    plan = truth.array(found.plan)
    assert float(found.cost) == pytest.approx(float((plan * cost).sum()), abs=1e-9)
    assert float(found.cost) >= linear_programme(cost, a, b) - 1e-4
    if epsilon == 100.0:
        np.testing.assert_allclose(plan, np.outer(a, b), rtol=0.02)
        assert float(found.cost) == pytest.approx(float(a @ cost @ b), rel=0.02)
    np.testing.assert_allclose(plan, regularised(cost, a, b, epsilon), atol=2e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_p05_nothing_underflows(scale: float) -> None:
    """Trap: exp(-C / epsilon) is zero in float32, and also in float64 where costs are large."""
    generator = np.random.default_rng(1)
    cost = scale * (5.0 + generator.random((20, 20)))
    for dtype in (torch.float32, torch.float64):
        found = metrics.sinkhorn(truth.as_float(cost, dtype), epsilon=1e-2 * scale)
        assert torch.isfinite(found.plan).all() and math.isfinite(float(found.cost))
        assert np.abs(truth.array(found.plan).sum(1) - 1 / 20).max() < 1e-4
        rows, columns = optimize.linear_sum_assignment(cost)
        assert float(found.cost) == pytest.approx(cost[rows, columns].mean(), rel=0.01)


def test_p05_on_a_line_both_agree() -> None:
    x, y = normal(25, 0, 0), normal(40, 1, 1)
    cost = (x - y.T).abs()
    found = metrics.sinkhorn(cost, epsilon=1e-3)
    assert float(found.cost) == pytest.approx(
        float(metrics.wasserstein1(x[:, 0], y[:, 0])), rel=0.01
    )


def test_p05_mass_that_is_zero_stays_zero() -> None:
    a = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    cost = truth.as_float(cdist(np.arange(3.0)[:, None], np.arange(2.0)[:, None]))
    found = metrics.sinkhorn(cost, a, epsilon=1e-2)
    assert torch.isfinite(found.plan).all()
    assert float(found.plan[1].sum()) == pytest.approx(0, abs=1e-9)
    assert float(found.cost) == pytest.approx(0.5, abs=1e-3)  # 0 stays, 2 goes to 1


def test_p05_too_few_iterations_are_confessed() -> None:
    cost = truth.as_float(np.random.default_rng(0).random((30, 30)))
    found = metrics.sinkhorn(cost, epsilon=1e-3, iterations=2)
    assert not found.converged and found.iterations <= 2
    for bad in ({"epsilon": 0.0}, {"epsilon": -1.0}):
        with pytest.raises(ValueError, match="epsilon"):
            metrics.sinkhorn(cost, **bad)
    with pytest.raises(ValueError):
        metrics.sinkhorn(cost, torch.full((29,), 1 / 29, dtype=torch.float64))
    with pytest.raises(ValueError):
        metrics.sinkhorn(cost, torch.full((30,), 1.0, dtype=torch.float64))


def centres() -> Tensor:
    angle = 2 * math.pi * torch.arange(8) / 8
    return 2 * torch.stack([angle.cos(), angle.sin()], dim=1)


def planted(counts: list[int], outside: int = 0, scale: float = 0.02, seed: int = 0) -> Tensor:
    """So many samples in each mode, and so many in the middle of the ring."""
    generator = np.random.default_rng(seed)
    where = np.repeat(truth.array(centres()), counts, axis=0)
    x = np.concatenate([where, np.zeros((outside, 2))])
    noise = np.clip(scale * generator.normal(size=x.shape), -0.04, 0.04)
    return truth.as_float(generator.permutation(x + noise), torch.float32)


@pytest.mark.parametrize(
    ("counts", "outside", "modes"),
    [
        ([100] * 8, 0, 8),
        ([100] * 8, 800, 8),
        ([200, 0, 200, 0, 200, 0, 200, 0], 0, 4),
        ([800, 0, 0, 0, 0, 0, 0, 0], 0, 1),
        ([0, 0, 0, 0, 0, 0, 0, 100], 700, 1),
        ([0] * 8, 500, 0),
        ([130, 120, 110, 140, 100, 90, 110, 0], 100, 7),
    ],
)
def test_g02_modes_are_counted_on_planted_samples(
    counts: list[int], outside: int, modes: int
) -> None:
    covered = metrics.ModesCovered(centres(), radius=0.06)
    x = planted(counts, outside)
    assert covered.count(x) == modes
    assert covered.fraction(x) == pytest.approx(sum(counts) / len(x))
    np.testing.assert_allclose(truth.array(covered.shares(x)), np.array(counts) / len(x), atol=1e-6)


def test_g02_a_few_strays_cover_no_mode() -> None:
    """`least` is the part of an even share that a mode must have."""
    x = planted([994, 0, 0, 1, 0, 0, 5, 0])
    for least, modes in ((0.0, 3), (0.01, 2), (0.1, 1)):
        assert metrics.ModesCovered(centres(), 0.06, least=least).count(x) == modes


def test_g02_modes_of_a_model_are_those_of_its_samples() -> None:
    """A tight Gaussian on one centre covers it alone; a wide one is nowhere near enough often."""
    model = Gaussian(2)
    model.maximise(planted([1000, 0, 0, 0, 0, 0, 0, 0]))
    covered = metrics.ModesCovered(centres(), radius=0.1)
    assert covered(model) == 1
    model.maximise(planted([0, 0, 0, 0, 0, 0, 0, 0], outside=1000))
    assert covered(model) == 0
    with pytest.raises(ValueError, match="radius"):
        metrics.ModesCovered(centres(), radius=0.0)

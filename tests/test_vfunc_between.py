"""The information of functions and their codes, between two bounds: against exact answers."""

import math

import pytest
import torch
from torch import Tensor, nn

from rlgen.agents import VFunc as Agent
from rlgen.agents.variety import squeezed
from rlgen.envs import OpenWorld
from rlgen.generative import VFunc, functions, heads
from rlgen.seeding import drawing_from

POINTS, LATENT, NOISE = 6, 3, 0.6


class Linear(nn.Module):
    """f = A z."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.randn(POINTS, LATENT))

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        out: Tensor = (z @ self.slopes.T)[..., None]  # type: ignore[operator]
        return out


class Table(nn.Module):
    """A few functions, one for each symbol."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", torch.randn(symbols, POINTS))

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        return self.values[z][..., None]


def model_of(function: nn.Module, prior: functions.Prior) -> VFunc:
    head = heads.FixedNormal(NOISE)
    return VFunc((POINTS, 1), function, prior=prior, head=head).double()


def bounds(model: VFunc, candidates: int, repeats: int) -> Tensor:
    """Means of both and their standard errors, with shape (2, 2)."""
    points = torch.zeros(POINTS, 1, dtype=torch.float64)
    with drawing_from(1):
        found = torch.tensor(
            [squeezed(model, points, candidates, min(candidates, 256)) for _ in range(repeats)]
        )
    return torch.stack([found.mean(0), found.std(0) / math.sqrt(repeats)])


def assert_between(model: VFunc, exact: float) -> None:
    widths = []
    for candidates, repeats in ((4, 2000), (64, 200), (8192, 20)):
        (lower, upper), (below, above) = bounds(model, candidates, repeats).tolist()
        assert lower <= exact + 4.0 * below and upper >= exact - 4.0 * above
        assert lower <= math.log(candidates)
        widths.append(upper - lower)
    assert widths[0] > widths[1] > widths[2] and widths[2] < 0.1
    assert lower == pytest.approx(exact, abs=0.1) and upper == pytest.approx(exact, abs=0.1)


def test_linear_functions_have_their_information_between() -> None:
    torch.manual_seed(0)
    function = Linear().double()
    model = model_of(function, functions.StandardNormal(LATENT))
    slopes = function.slopes
    assert isinstance(slopes, Tensor)
    spread = torch.eye(POINTS, dtype=torch.float64) + slopes @ slopes.T / NOISE**2
    assert_between(model, 0.5 * float(spread.logdet()))


def test_two_candidates_are_one_difference_of_likelihoods() -> None:
    """Of f = A z1 + noise, log p(f|z1) - log p(f|z2) is |A (z1 - z2)|^2 / 2 s^2 on average.

    The upper bound is that mean, tr(A A') / s^2, and the lower one that of a softplus.
    """
    torch.manual_seed(0)
    function = Linear().double()
    assert isinstance(function.slopes, Tensor)
    slopes = function.slopes.mul_(0.2)
    model = model_of(function, functions.StandardNormal(LATENT))
    (lower, upper), (below, above) = bounds(model, 2, 4000).tolist()
    exact = float(slopes.square().sum()) / NOISE**2
    assert upper == pytest.approx(exact, abs=4.0 * above) and above < 0.05
    # given the distance d of both means, the difference is normal with mean d / 2 and variance d
    apart = math.sqrt(2.0) * torch.randn(200_000, LATENT, dtype=torch.float64) @ slopes.T / NOISE
    square = apart.square().sum(1)
    odds = 0.5 * square + square.sqrt() * torch.randn(len(square), dtype=torch.float64)
    nats = math.log(2.0) - float(torch.nn.functional.softplus(-odds).mean())
    assert lower == pytest.approx(nats, abs=4.0 * below + 0.005) and below < 0.02


def test_functions_of_symbols_have_their_information_between() -> None:
    """By the exact mixture of all symbols, with many draws of the noise."""
    torch.manual_seed(0)
    function, symbols = Table(12).double(), functions.UniformSymbols(12)
    function.values.mul_(0.6)
    model = model_of(function, symbols)
    z = torch.arange(12).repeat(20_000)
    f = function.values[z] + NOISE * torch.randn(len(z), POINTS, dtype=torch.float64)
    logs = torch.stack(
        [torch.distributions.Normal(one, NOISE).log_prob(f).sum(1) for one in function.values], 1
    )
    own = logs.gather(1, z[:, None]).squeeze(1)
    assert_between(model, float((own - logs.logsumexp(1)).mean()) + math.log(12))


def test_policies_have_theirs_above_the_bound_they_learn_by() -> None:
    world = OpenWorld(16, size=3, start=(0, 0), max_steps=9, seed=0)
    settings = {"steps": 8, "lr": 1e-2}
    agent = Agent(world, settings=settings, entropy_weight=0.5, candidates=16, latent=3)
    agent.learn(20 * 128, progress=False)
    lower, upper = agent.information_between(2048, draws=16)
    assert agent.information_between(2048, draws=16) == (lower, upper)
    assert agent.information_bound(16) < lower < upper < lower + 0.3
    with pytest.raises(ValueError, match="at least 'draws', got 1 and 1"):
        agent.information_between(1)


def test_all_bounds_are_taken_at_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    world = OpenWorld(16, size=3, start=(0, 0), max_steps=9, seed=0)
    agent = Agent(world, settings={"steps": 8}, candidates=16, latent=3)
    agent.learn(128, progress=False)
    seen, draw = list[Tensor](), agent.variety.replay.draw

    def watched(n: int) -> Tensor:
        seen.append(draw(n))
        return seen[-1]

    monkeypatch.setattr(agent.variety.replay, "draw", watched)
    agent.information_bound(3)
    agent.information_between(32, 3)
    assert len(seen) == 6 and torch.equal(torch.stack(seen[:3]), torch.stack(seen[3:]))
    assert not torch.equal(seen[0], seen[1])
    agent.information_bound(1, seed=1)
    assert not torch.equal(seen[6], seen[0])

"""C: CMA-ES on known functions, and candidates that are compared fairly."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents.imitation.recording import record
from rlgen.agents.world_model import (
    Controller,
    Dream,
    Memory,
    Watched,
    WorldModel,
    evolve,
    maximise,
)
from rlgen.agents.world_model.controller import returns_of
from rlgen.envs import FourRooms, OpenWorld, TensorWorld
from tests.exact_models import ExactMemory, cell_starts, everywhere, exact_vision
from tests.walks import copied, same, seeded


def sphere(x: Tensor) -> Tensor:
    """At most 0, at (1, 2, ..., n)."""
    return -(x - torch.arange(1.0, x.shape[1] + 1)).square().sum(1)


def rosenbrock(x: Tensor) -> Tensor:
    """At most 0, at (1, ..., 1), at the end of a bent ridge."""
    return -(100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


@pytest.mark.parametrize("diagonal", [None, True])
def test_r22_the_top_of_a_sphere_is_found(diagonal: bool | None) -> None:
    """It maximises."""
    mean, best, history = maximise(
        sphere, torch.zeros(5), population=16, generations=120, diagonal=diagonal, progress=False
    )
    target = torch.arange(1.0, 6.0)
    torch.testing.assert_close(mean, target, rtol=0, atol=1e-3)
    torch.testing.assert_close(best, target, rtol=0, atol=1e-3)
    assert len(history) == 120 and history[-1][0] > history[0][0]
    assert all(top >= middle for top, middle in history)
    assert history[-1][0] <= 0.0 and history[0][1] < -10.0


def test_r22_the_end_of_rosenbrocks_ridge_is_found() -> None:
    mean, best, history = maximise(
        rosenbrock, torch.zeros(4), population=24, generations=250, diagonal=False, progress=False
    )
    torch.testing.assert_close(best, torch.ones(4), rtol=0, atol=1e-2)
    torch.testing.assert_close(mean, torch.ones(4), rtol=0, atol=1e-2)
    assert max(top for top, _ in history) == pytest.approx(float(rosenbrock(best[None])), abs=1e-6)


def test_a_search_asks_for_what_it_says_and_repeats_itself() -> None:
    asked: list[Tensor] = []

    def fitness(x: Tensor) -> Tensor:
        asked.append(x)
        return sphere(x)

    settings: dict[str, Any] = {"population": 10, "generations": 7, "progress": False}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    one = maximise(fitness, torch.zeros(3), **settings)
    assert [tuple(x.shape) for x in asked] == [(10, 3)] * 7
    assert all(x.dtype == torch.float32 for x in asked)
    spread = torch.cat([maximise_first(s) for s in (0.1, 2.0)]).unflatten(0, (2, -1)).std((1, 2))
    assert 10 < float(spread[1] / spread[0]) < 40
    other = maximise(sphere, torch.zeros(3), **settings)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]
    different = maximise(sphere, torch.zeros(3), seed=1, **settings)
    assert not torch.equal(different[1], other[1])
    assert torch.equal(torch.get_rng_state(), before[0])
    maximise(sphere, torch.zeros(3), diagonal=True, **settings)
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


def maximise_first(sigma: float) -> Tensor:
    """The first generation's candidates."""
    asked: list[Tensor] = []
    maximise(
        lambda x: (asked.append(x), sphere(x))[1],  # type: ignore[func-returns-value]
        torch.zeros(3), population=50, generations=1, sigma=sigma, progress=False,
    )  # fmt: skip
    return asked[0]


def test_the_best_of_all_generations_is_kept_where_the_mean_goes_on() -> None:
    """A lucky draw of the first generation counts, whatever comes after."""
    calls = iter(range(100))

    def fitness(x: Tensor) -> Tensor:
        return sphere(x) + (1e6 if next(calls) == 0 else 0.0)

    first: list[Tensor] = []
    _, best, history = maximise(
        lambda x: (first.append(x), fitness(x))[1],  # type: ignore[func-returns-value]
        torch.zeros(3), population=12, generations=30, progress=False,
    )  # fmt: skip
    assert any(torch.equal(best, row) for row in first[0])
    assert history[0][0] > 9e5 > history[1][0]


@pytest.mark.parametrize(("features", "actions"), [(1, 2), (32 + 256, 3), (16 + 128, 4)])
def test_r22_the_controller_has_as_many_parameters_as_the_paper_says(
    features: int, actions: int
) -> None:
    """(|z| + |h| + 1) |A|; 867 in the paper's races, of three actions."""
    controller = Controller(features, actions=actions)
    assert controller.parameters_count == (features + 1) * actions
    assert sum(p.numel() for p in controller.parameters()) == (features + 1) * actions
    if features == 288:
        assert controller.parameters_count == 867


def test_a_controller_is_a_linear_map_and_an_argmax(tmp_path: Path) -> None:
    controller = Controller(3, actions=2)
    vector = torch.tensor([1.0, 2.0, 3.0, -1.0, 0.0, 1.0, 0.5, -0.5])
    assert controller.set(vector) is controller
    obs = torch.randn(50, 3)
    scores = obs @ torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]]).T + torch.tensor([0.5, -0.5])
    action, state = controller.act(obs)
    assert torch.equal(action, scores.argmax(1)) and state is None
    checkpoint.save(controller, tmp_path / "c")
    again = checkpoint.load(tmp_path / "c")
    assert torch.equal(again.act(obs)[0], action)
    with pytest.raises(ValueError):
        controller.set(vector[:-1])


def test_draws_of_a_controller_are_of_the_softmax() -> None:
    controller = Controller(1, actions=3).set(torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, -1.0]))
    drawn, _ = controller.act(torch.zeros(20_000, 1), deterministic=False)
    exact = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    assert (drawn.bincount(minlength=3) / 20_000 - exact).abs().max() < 0.012


def test_a_controller_acts_where_learners_do() -> None:
    world = FourRooms(8, max_steps=9)
    controller = Controller.of(world).set(torch.randn(4 * 105))
    walks = record(world, controller, 16, deterministic=True)
    for walk in walks:
        assert torch.equal(controller.act(walk.obs[:-1])[0], walk.action)


def by_hand(candidates: Tensor, world: TensorWorld[Any], discount: float, seed: int) -> Tensor:
    """One candidate and one copy at a time, in worlds of one copy."""
    copies = world.num_envs // len(candidates)
    found = []
    for vector in candidates:
        returns = []
        for i in range(copies):
            alone = FourRooms(1, slip=world.slip, max_steps=world.max_steps)  # type: ignore[attr-defined]
            controller = Controller.of(alone).set(vector)
            obs, total, weight = alone.reset(seed + i), 0.0, 1.0
            for _ in range(world.max_steps):
                step = alone.step(controller.act(obs)[0])
                total, weight, obs = (
                    total + weight * float(step.reward),
                    weight * discount,
                    step.obs,
                )
                if bool(step.done):
                    break
            returns.append(total)
        found.append(sum(returns) / copies)
    return torch.tensor(found)


def cell_policies(count: int, seed: int = 0) -> Tensor:
    """Candidates whose weights are the exact policy's, some of them spoiled by noise."""
    world = FourRooms(1)
    generator = torch.Generator().manual_seed(seed)
    weights = world.optimal_actions().float().T.flatten()
    noise = torch.randn(count, 416, generator=generator) * torch.linspace(0, 2, count)[:, None]
    return torch.cat([weights + noise, torch.zeros(count, 4)], 1)


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_returns_are_those_of_a_loop_by_hand(slip: float) -> None:
    world = FourRooms(5 * 6, slip=slip, max_steps=25)
    candidates = cell_policies(5)
    found = returns_of(candidates, world, discount=0.9, deterministic=True, seed=11)
    torch.testing.assert_close(found, by_hand(candidates, world, 0.9, 11), rtol=0, atol=1e-5)
    assert len(found.unique()) > 2


def true_dream(groups: int, copies: int, slip: float) -> Dream:
    world = FourRooms(1, slip=slip)
    memory: Any = ExactMemory(world)
    return Dream(
        exact_vision(everywhere()), memory, cell_starts(world), num_envs=groups * copies,
        groups=groups, max_steps=25, remembering=False,
    )  # fmt: skip


@pytest.mark.parametrize("make", [
    lambda: FourRooms(48, slip=0.0, max_steps=25),
    lambda: FourRooms(48, slip=0.5, max_steps=25),
    lambda: true_dream(8, 6, 0.0),
    lambda: true_dream(8, 6, 0.5),
])  # fmt: skip
def test_equal_candidates_have_equal_fitness(make: Any) -> None:
    """Trap: other episodes, or other noise, for each candidate."""
    world = make()
    good, poor = cell_policies(2)
    candidates = torch.stack([good, poor, good, good, poor, good, poor, poor])
    for seed in (0, 1):
        found = returns_of(candidates, world, discount=0.95, seed=seed)
        like = (candidates == good).all(1)
        assert len(found[like].unique()) == 1 and len(found[~like].unique()) == 1
        assert found[0] > found[1]
    assert torch.equal(found, returns_of(candidates, world, discount=0.95, seed=1))


def test_other_seeds_are_other_episodes() -> None:
    world = true_dream(2, 6, 0.5)
    candidates = cell_policies(2)[:1].expand(2, -1)
    found = [float(returns_of(candidates, world, discount=0.95, seed=s)[0]) for s in range(6)]
    assert len(set(found)) == 6


def test_a_true_dream_judges_candidates_as_the_world_does() -> None:
    """Also after copies have come to their ends, which others still wait for."""
    candidates = cell_policies(4)
    copies = 1500
    world = FourRooms(4 * copies, slip=0.3, max_steps=25)
    dreamt, real = (
        returns_of(candidates, w, discount=0.95, deterministic=True, seed=0)
        for w in (true_dream(4, copies, 0.3), world)
    )
    assert (dreamt - real).abs().max() <= 3 * (2 * 0.12 / copies) ** 0.5


class Lottery(OpenWorld):
    """One step, and a reward that has nothing to do with what is done."""

    def _transition(self, state: Any, action: Tensor, time: Tensor, draws: Any) -> Any:
        after, _, terminated = super()._transition(state, action, time, draws)
        return after, draws.uniform(99), torch.ones_like(terminated)


def test_the_mean_and_the_best_are_tried_on_episodes_that_chose_neither() -> None:
    """Trap: the luckiest is kept with the luck that it had; or all generations share their luck."""
    world = Lottery(10 * 400, size=3)
    found = evolve(Controller.of(world), world, population=10, generations=40, progress=False)
    assert max(top for top, _ in found.history) > 0.52
    assert min(top for top, _ in found.history) < 0.48
    for value in (found.mean_fitness, found.best_fitness, found.fitness):
        assert value == pytest.approx(0.5, abs=0.02)
    assert found.fitness not in (found.mean_fitness, found.best_fitness)


@pytest.mark.parametrize("lucky", [0, 1])
def test_the_better_of_the_mean_and_the_luckiest_is_kept(
    lucky: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poor = cell_policies(2)
    mean, best = (good, poor) if lucky == 0 else (poor, good)
    place = "rlgen.agents.world_model.controller.maximise"
    monkeypatch.setattr(place, lambda *_, **__: (mean, best, []))
    world = FourRooms(64, max_steps=25)
    controller = Controller.of(world)
    found = evolve(controller, world, population=2, progress=False)
    kept = torch.nn.utils.parameters_to_vector(controller.parameters())
    assert torch.equal(found.vector, good) and torch.equal(kept, good)
    assert (found.mean_fitness > found.best_fitness) == (lucky == 0)
    assert found.fitness > min(found.mean_fitness, found.best_fitness) + 0.1


def test_evolution_keeps_what_it_says_and_gets_better() -> None:
    world = OpenWorld(16 * 8, size=4, start=(0, 0), goal=(3, 3), max_steps=12)
    controller = Controller.of(world)
    found = evolve(controller, world, population=16, generations=30, discount=0.95, progress=False)
    kept = torch.nn.utils.parameters_to_vector(controller.parameters()).detach()
    assert torch.equal(kept, found.vector)
    assert 0.6 * 0.95**5 < found.fitness < 0.95**5  # the shortest way has six steps
    again = returns_of(kept[None], world, discount=0.95, seed=123)
    assert float(again) == pytest.approx(found.fitness, abs=0.05)
    sure = returns_of(kept[None], world, discount=0.95, deterministic=True)
    assert float(sure) == pytest.approx(0.95**5)
    assert len(found.history) == 30
    other = Controller.of(world)
    repeated = evolve(other, world, population=16, generations=30, discount=0.95, progress=False)
    assert torch.equal(repeated.vector, found.vector) and repeated.history == found.history


def test_evolution_begins_at_the_controller() -> None:
    world = FourRooms(16 * 4, max_steps=25)
    controller = Controller.of(world).set(20 * cell_policies(1)[0])
    found = evolve(controller, world, population=16, generations=1, sigma=1e-6, progress=False)
    assert found.history[0][1] > 0.5


def test_evolution_in_a_dream_acts_in_the_world() -> None:
    """V and M exact: what is best in the dream is best outside."""
    world = OpenWorld(1, size=3, start=(0, 0), goal=(2, 2), max_steps=12)
    vision = exact_vision(torch.eye(9))
    memory: Any = ExactMemory(world)
    starts = torch.zeros(1, 1).long(), torch.zeros(1, 2)
    dream = Dream(
        vision, memory, starts, num_envs=16 * 2, groups=16, max_steps=12, remembering=False
    )
    found = evolve(Controller.of(dream), dream, population=16, generations=20, progress=False)
    real = OpenWorld(16, size=3, start=(0, 0), goal=(2, 2), max_steps=12)
    watched = Watched(real, vision, memory, remembering=False)
    walks = record(watched, Controller.of(dream).set(found.vector), 16, deterministic=True)
    assert all(len(walk) == 4 and walk.terminated for walk in walks)


@pytest.mark.slow
def test_evolution_in_a_learnt_dream_is_a_success_in_a_small_world() -> None:
    """64 candidates of 16 episodes each, in an M that was learnt from 100 episodes of chance."""
    vision = exact_vision(torch.eye(25))
    memory = seeded(lambda: Memory.of(1, actions=4, symbols=25, width=32))
    model = WorldModel(vision, memory)
    model.collect(OpenWorld(100, size=5, goal=(4, 4), max_steps=40), 100)
    model.fit(vision_steps=0, memory_steps=500, lr=6e-3)
    dream = model.dream(64 * 16, groups=64, seed=0, max_steps=20)
    found = evolve(Controller.of(dream), dream, population=64, generations=50, progress=False)
    world = model.watched(OpenWorld(100, size=5, goal=(4, 4), max_steps=20))
    walks = record(world, Controller.of(dream).set(found.vector), 300, deterministic=True)
    assert float((walks.returns() > 0).double().mean()) >= 0.90


def test_errors_are_clear() -> None:
    world = OpenWorld(12, size=3)
    for wrong in (8, 3, 1, 0):  # 12 copies are not 8 shares, and an odd number has no halves
        with pytest.raises(ValueError, match="population"):
            evolve(Controller.of(world), world, population=wrong, generations=1)
    dream = true_dream(4, 3, 0.0)
    for count in (12, 3, 6):  # noise is shared by four groups, and these would meet other noise
        with pytest.raises(ValueError, match="groups=population"):
            returns_of(torch.zeros(count, 420), dream)
    with pytest.raises(ValueError, match="groups=population"):
        evolve(Controller.of(dream), dream, population=12, generations=1, progress=False)
    for count in (1, 2, 4):
        assert returns_of(torch.zeros(count, 420), dream).shape == (count,)
    with pytest.raises(ValueError, match="features"):
        Controller(0, actions=2)
    with pytest.raises(ValueError, match="actions"):
        Controller(2, actions=0)

    class Continuous:
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

    with pytest.raises(ValueError, match="Discrete"):
        Controller.of(Continuous())
    with pytest.raises(ValueError):
        Controller.of(FourRooms(1, observation="image"))
    with pytest.raises(ValueError):
        returns_of(torch.zeros(3, 5), world)
    state = copied(Controller(2, actions=2).state_dict())
    assert same(state, Controller(2, actions=2).state_dict())  # nothing is drawn to begin with

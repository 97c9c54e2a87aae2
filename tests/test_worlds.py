"""Four-Rooms and open worlds against the figures known of them, and the contract of all worlds."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from rlgen.envs import FourRooms, MiniGrid, OpenWorld, Step, TensorWorld, World, planner
from rlgen.envs import world as world_module
from rlgen.envs.draws import Draws, combine, copy_keys

MAKERS = {
    "FourRooms": lambda n, **kw: FourRooms(n, slip=0.3, **kw),
    "FourRooms-random-goal": lambda n, **kw: FourRooms(n, goal="random", observation="xy", **kw),
    "OpenWorld": lambda n, **kw: OpenWorld(n, size=6, obstacles=0.2, observation="image", **kw),
    "MiniGrid-FourRooms": lambda n, **kw: MiniGrid("MiniGrid-FourRooms-v0", n, **kw),
    "MiniGrid-DoorKey": lambda n, **kw: MiniGrid("MiniGrid-DoorKey-5x5-v0", n, **kw),
    "MiniGrid-LavaGap": lambda n, **kw: MiniGrid("MiniGrid-LavaGapS5-v0", n, layouts=8, **kw),
}


def actions(world: World, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(int(world.action_space.n), (steps, world.num_envs), generator=generator)


def test_r01_four_rooms_has_104_cells_and_known_paths() -> None:
    world = FourRooms(1, start=(1, 1))
    assert world.cells == 104
    assert [world.next_cell[i].eq(torch.arange(104)[i]).sum() for i in (25, 51, 62, 88)] == [2] * 4
    assert world.shortest_paths() == 2000 and int(world.distances()[world.start]) == 20
    assert world.shortest_paths((1, 11), (11, 1)) == 1380
    assert world.shortest_paths((1, 1), (9, 9)) == 150
    steps = torch.stack([planner.distances(world.next_cell, g) for g in range(104)]).double()
    assert int(steps.max()) == 20
    assert float(steps.sum() / (104 * 103)) == pytest.approx(8.58, abs=0.1)


def test_r01_the_uniform_walk_is_doubly_stochastic() -> None:
    """Bumping is staying, so the stationary distribution is uniform: its entropy is ln 104."""
    transition = FourRooms(1, goal="none").mdp().transition.mean(1)
    torch.testing.assert_close(transition.sum(0), torch.ones(104, dtype=torch.float64))
    stationary = torch.linalg.matrix_power(transition, 20_000)[0]
    entropy = -(stationary * stationary.log()).sum()
    assert float(entropy) == pytest.approx(math.log(104), abs=1e-6)


def test_r01_cover_time_of_the_random_walk() -> None:
    world = FourRooms(200, start=(1, 1), goal="none", max_steps=10**9, seed=0)
    seen = world.reset() > 0
    cover = torch.zeros(200)
    for step in actions(world, 12_000):
        obs = world.step(step).obs
        cover += (~seen.all(1)).float()
        seen |= obs > 0
    assert 2000 <= float(cover.mean()) <= 3300


def test_r01_a_batch_is_its_copies_one_by_one() -> None:
    """10^4 random actions: 8 copies together and alone, equal to the last bit."""
    batch = FourRooms(8, slip=0.2, max_steps=60)
    single = [FourRooms(1, slip=0.2, max_steps=60) for _ in range(8)]
    first = batch.reset(seed=0)
    assert torch.equal(first, torch.cat([world.reset(seed=i) for i, world in enumerate(single)]))
    ends = 0
    for step in actions(batch, 1250):
        together = batch.step(step)
        alone = [world.step(step[i : i + 1]) for i, world in enumerate(single)]
        for name in ("obs", "reward", "terminated", "truncated", "final_obs"):
            rows = torch.cat([getattr(one, name) for one in alone])
            assert torch.equal(getattr(together, name), rows), name
        ends += int(together.done.sum())
    assert ends > 100


def test_r02_opposite_corners_of_ten_by_ten_are_18_steps_apart() -> None:
    world = OpenWorld(1, size=10, start=(0, 0))
    assert int(world.distances()[world.start]) == 18


@pytest.mark.parametrize("size, paths", [(5, 70), (8, 3432), (10, 48620), (20, math.comb(38, 19))])
def test_r02_open_worlds_have_binomially_many_paths(size: int, paths: int) -> None:
    assert OpenWorld(1, size=size, start=(0, 0)).shortest_paths() == paths


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_r02_obstacles_leave_every_goal_in_reach(share: float) -> None:
    for map_seed in range(5):
        world = OpenWorld(1, size=8, obstacles=share, map_seed=map_seed)
        assert int((~world.free).sum()) == round(share * 64)
        assert (world.distances() >= 0).all()


@pytest.mark.parametrize("rule", ["paper", "option-critic"])
def test_r01_steps_follow_the_exact_process(rule: str) -> None:
    """Empirical transitions against P, by chi-square, in every cell and action."""
    world = FourRooms(104 * 4 * 400, slip=1 / 3, slip_rule=rule, seed=3, max_steps=1)
    mdp = world.mdp()
    torch.testing.assert_close(mdp.transition.sum(-1), torch.ones(104, 4, dtype=torch.float64))
    torch.testing.assert_close(mdp.reward, torch.where(
        mdp.terminal[:, None], 0.0, mdp.transition[:, :, world.goal]
    ))  # fmt: skip
    world.reset()
    before = world.state.cell
    action = torch.arange(world.num_envs) % 4
    step = world.step(action)
    after = step.final_obs.argmax(1)
    counts = torch.zeros(104, 4, 104, dtype=torch.float64)
    counts.index_put_((before, action, after), torch.ones_like(before).double(), accumulate=True)
    expected = counts.sum(-1, keepdim=True) * mdp.transition
    assert (counts[expected == 0] == 0).all()
    live = expected > 0
    statistic = ((counts - expected) ** 2)[live] / expected[live]
    freedom = int(live.sum()) - int((counts.sum(-1) > 0).sum())
    assert stats.chi2.sf(float(statistic.sum()), freedom) > 1e-3
    assert torch.equal(step.reward > 0, after == world.goal)


def test_paper_slips_are_a_ninth_each_and_option_critic_ones_need_a_free_way() -> None:
    paper = FourRooms(1, slip=1 / 3, goal="none").mdp().transition
    cell = 12  # (2, 2), in the open
    np.testing.assert_allclose(sorted(paper[cell, 0][paper[cell, 0] > 0]), [1 / 9] * 3 + [2 / 3])
    other = FourRooms(1, slip=1 / 3, goal="none", slip_rule="option-critic").mdp().transition
    assert other[0, 0, 0] == 1  # into the wall of the corner: nothing slips
    assert float(other[cell, 0].max()) == pytest.approx(2 / 3 + 1 / 12)


@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_does_not_depend_on_how_many_there_are(name: str) -> None:
    many, few = MAKERS[name](9, seed=4), MAKERS[name](3, seed=4)
    assert torch.equal(many.reset()[:3], few.reset())
    for step in actions(many, 150):
        a, b = many.step(step), few.step(step[:3])
        for x, y in zip(
            (a.obs, a.reward, a.terminated, a.truncated, a.final_obs),
            (b.obs, b.reward, b.terminated, b.truncated, b.final_obs),
            strict=True,
        ):
            assert torch.equal(x[:3], y)  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_copy_i_of_seed_s_is_copy_0_of_seed_s_plus_i(name: str) -> None:
    many = MAKERS[name](4)
    first = many.reset(seed=10)
    for i in range(4):
        assert torch.equal(MAKERS[name](1).reset(seed=10 + i)[0], first[i])


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_world_goes_on_exactly(name: str) -> None:
    world = MAKERS[name](5, seed=1)
    world.reset()
    for step in actions(world, 37):
        world.step(step)
    saved = {key: value.clone() for key, value in world.state_dict().items()}
    other = MAKERS[name](5, seed=99)
    other.load_state_dict(saved)
    for step in actions(world, 120, seed=1):
        assert torch.equal(world.step(step).obs, other.step(step).obs)


@pytest.mark.parametrize("name", MAKERS)
def test_final_observations_are_those_of_the_ended_episode(name: str) -> None:
    world, halves = MAKERS[name](16, seed=2), MAKERS[name](16, seed=2)
    world.reset(), halves.reset()
    ends = 0
    for step in actions(world, 300):
        got = world.step(step)
        reward, terminated, truncated = halves.advance(step)
        seen = halves.observe()
        halves.restart(terminated | truncated)
        assert torch.equal(got.final_obs, seen)
        assert torch.equal(got.obs, halves.observe())
        assert torch.equal(got.reward, reward) and torch.equal(got.truncated, truncated)
        ends += int(got.done.sum())
        assert torch.equal(got.final_obs[~got.done], got.obs[~got.done])
    assert ends > 0


def test_both_flags_can_be_true_and_time_restarts() -> None:
    world = FourRooms(1, start=(11, 10), max_steps=1, seed=0)
    world.reset()
    step = world.step(torch.tensor([3]))
    assert bool(step.terminated) and bool(step.truncated) and float(step.reward) == 1.0
    assert int(world.time) == 0


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_asks_nothing_of_an_accelerator(name: str) -> None:
    """Meta tensors have no values: any wait for one raises."""
    world: TensorWorld = MAKERS[name](4, device="meta")
    world.reset(seed=0)
    step = world.step(torch.zeros(4, dtype=torch.int64, device="meta"))
    assert step.obs.shape == step.final_obs.shape


@pytest.mark.parametrize("observation", ["full", "rgb"])
@pytest.mark.parametrize("name", ["FourRooms-v0", "DoorKey-5x5-v0", "UnlockPickup-v0"])
def test_pictures_ask_nothing_of_an_accelerator(name: str, observation: str) -> None:
    world = MiniGrid(
        f"MiniGrid-{name}", 2, device="meta", observation=observation,
        layouts=2 if name == "UnlockPickup-v0" else None,
    )  # fmt: skip
    assert world.reset(seed=0).shape == (2, *world.observation_space.shape)
    step = world.step(torch.zeros(2, dtype=torch.int64, device="meta"))
    assert step.obs.shape == (2, *world.observation_space.shape)


def lived(name: str) -> list[Step]:
    world = MAKERS[name](8, seed=2)
    world.reset()
    return [world.step(step) for step in actions(world, 260)]


@pytest.mark.parametrize("name", MAKERS)
def test_accelerators_restart_masked_rows_to_the_same_effect(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = lived(name)
    monkeypatch.setattr(world_module, "_on_host", lambda device: False)
    for a, b in zip(sparse, lived(name), strict=True):
        for part in ("obs", "reward", "terminated", "truncated", "final_obs"):
            assert torch.equal(getattr(a, part), getattr(b, part)), part
    assert sum(int(step.done.sum()) for step in sparse) > 0


def test_accelerators_report_bad_actions_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "_on_host", lambda device: False)
    world, good = FourRooms(2, seed=0), torch.tensor([0, 1])
    world.reset()
    for ask in (world.reset, world.state_dict):
        world.step(torch.tensor([0, 4]))
        world.step(good)
        with pytest.raises(ValueError, match="'action' must be from 0 to 3"):
            ask()
        ask()
    world = FourRooms(2, seed=0)
    world.reset()
    world.step(torch.tensor([-1, 0]))
    for _ in range(1022):
        world.step(good)
    with pytest.raises(ValueError, match="'action' must be from 0 to 3"):
        world.step(good)
    world.step(good)


def test_loading_draws_nothing_from_the_global_generator() -> None:
    world = FourRooms(2, seed=0)
    world.reset()
    saved, before = world.state_dict(), torch.get_rng_state()
    FourRooms(2).load_state_dict(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_world_that_was_not_reset_says_so() -> None:
    world = FourRooms(2)
    for use in (lambda: world.time, lambda: world.restart(torch.ones(2, dtype=torch.bool))):
        with pytest.raises(ValueError, match="call 'reset' first"):
            use()


def test_bad_input_is_refused_with_a_clear_sentence() -> None:
    world = FourRooms(3)
    with pytest.raises(ValueError, match="call 'reset' first"):
        world.step(torch.zeros(3, dtype=torch.int64))
    world.reset()
    for action, message in (
        (torch.tensor([0, 1, 4]), "from 0 to 3"),
        (torch.tensor([0, -1, 3]), "from 0 to 3"),
        (torch.zeros(3), "integers"),
        (torch.zeros(2, dtype=torch.int64), r"shape \(3,\)"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "must be on cpu, got meta"),
    ):
        with pytest.raises(ValueError, match=message):
            world.step(action)
    bad = (
        ({"num_envs": 0}, "'num_envs' must be positive"),
        ({"num_envs": 1, "start": (0, 0)}, "'start' must be a free cell"),
        ({"num_envs": 1, "start": 200}, "'start' must be a cell from 0 to 103"),
        ({"num_envs": 1, "start": (1, 2, 3)}, r"'start' must be a number or \(row, column\)"),
        ({"num_envs": 1, "start": 1.5}, r"'start' must be a number or \(row, column\)"),
        (
            {"num_envs": 1, "goal": "rndom"},
            "'goal' must be a cell, 'random' or 'none', got 'rndom'",
        ),
        ({"num_envs": 1, "start": (11, 11)}, "'start' and 'goal' must differ"),
        ({"num_envs": 1, "slip": 1.5}, "'slip' must be a probability"),
        ({"num_envs": 1, "slip_rule": "none"}, "'slip_rule' must be one of"),
        ({"num_envs": 1, "observation": "pixels"}, "'observation' must be one of"),
        ({"num_envs": 1, "max_steps": 0}, "'max_steps' must be positive"),
    )
    for kwargs, message in bad:
        with pytest.raises(ValueError, match=message):
            FourRooms(**kwargs)
    assert FourRooms(1, start=np.int64(3)).start == 3
    with pytest.raises(ValueError, match="no connected map"):
        OpenWorld(1, size=4, obstacles=0.9)
    with pytest.raises(ValueError, match="needs a goal that stays"):
        FourRooms(1, goal="random").mdp()


def test_draws_are_uniform_and_unrelated() -> None:
    draws = Draws(lambda: combine(copy_keys(0, 100_000, torch.device("cpu")), 5))
    for high in (2, 7, 104, 4096):
        counts = draws.integers(0, high).bincount(minlength=high).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3
    a, b = draws.uniform(1).numpy(), draws.uniform(2).numpy()
    assert stats.kstest(a, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.015
    neighbours = draws.uniform(1).numpy()
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.015


def test_a_blocked_cell_is_never_entered_and_nothing_else_changes() -> None:
    world = OpenWorld(64, size=4, start=(0, 0), slip=0.2, max_steps=20, seed=0)
    shut = world.blocked((0, 1), (2, 2))
    closed = torch.tensor([1, 10])
    assert shut.shortest_paths() == world.blocked((2, 2), (0, 1)).shortest_paths() == 4
    assert (shut.mdp().transition[0, :, closed] == 0.0).all()
    torch.testing.assert_close(shut.mdp().transition.sum(2), torch.ones(16, 4).double())
    assert torch.equal(shut.views(), world.views())
    shut.reset(0)
    for _ in range(100):
        shut.step(torch.randint(4, (64,)))
        assert not torch.isin(shut.state.cell, closed).any()
    with pytest.raises(ValueError, match="neither the start nor the goal"):
        world.blocked((0, 0))
    with pytest.raises(ValueError, match="cannot be reached"):
        world.blocked((0, 1), (1, 0))
    with pytest.raises(ValueError, match="drawn anew"):
        OpenWorld(1).blocked((0, 1))


def test_a_blocked_world_begins_where_the_world_began() -> None:
    """With the same slips, whatever has happened since."""
    settings = {"size": 4, "start": (0, 0), "slip": 0.4, "max_steps": 20}
    world, other = (OpenWorld(64, seed=3, **settings) for _ in range(2))  # type: ignore[arg-type]
    other.reset()
    actions = torch.randint(4, (30, 64), generator=torch.Generator().manual_seed(0))
    for action in actions:
        other.step(action)
    other.reset()
    one, two = world.blocked((1, 1)), other.blocked((1, 1))
    for action in actions:
        assert torch.equal(one.step(action).obs, two.step(action).obs)

"""Planned experts: what they do is known exactly, and they do it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents.imitation import measures
from rlgen.agents.imitation.experts import (
    Expert,
    first_expert,
    routes_expert,
    shortest_paths_expert,
)
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from

FORMS = ("onehot", "xy", "image")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with drawing_from(0):
        yield


def walk(
    world: TabularGrid, expert: Expert, steps: int, *, deterministic: bool = False
) -> tuple[list[Tensor], list[int], int]:
    """Cells of whole episodes, the mode of each, and how many of them reached the goal."""
    obs, state, start = world.reset(0), None, None
    present: list[list[int]] = [[int(cell)] for cell in world.state.cell]
    paths, modes, reached = [], [], 0
    for _ in range(steps):
        before = world.state.cell
        action, state = expert.act(obs, state, start, deterministic=deterministic)
        step = world.step(action)
        ended = measures.cells(step.final_obs, world).tolist()
        for i, path in enumerate(present):
            assert path[-1] == int(before[i])
            path.append(ended[i])
            if step.done[i]:
                paths.append(torch.tensor(path))
                modes.append(int(state[i]))
                reached += int(step.terminated[i])
                present[i] = [int(world.state.cell[i])]
        obs, start = step.obs, step.done
    return paths, modes, reached


@pytest.mark.parametrize("observation", FORMS)
def test_shortest_paths_are_all_shortest_whatever_is_seen(observation: str) -> None:
    world = FourRooms(20, start=(1, 1), observation=observation)
    paths, _, reached = walk(world, shortest_paths_expert(world), 60)
    assert len(paths) == reached == 60  # three episodes of 20 steps in each copy
    assert {len(path) for path in paths} == {21}


def test_shortest_paths_expert_takes_exactly_the_planner_s_actions() -> None:
    world = FourRooms(1)
    policy = shortest_paths_expert(world).policy
    optimal = world.optimal_actions()
    going = ~world.mdp().terminal
    assert torch.equal((policy > 0)[going], optimal[going])
    torch.testing.assert_close(policy[going].amax(1), 1.0 / optimal[going].sum(1).double())


def test_the_expert_is_optimal_under_slips_too() -> None:
    world = FourRooms(1, slip=1 / 3)
    mdp = world.mdp()
    value = planning.evaluate_policy(mdp, shortest_paths_expert(world).policy, discount=0.99)
    best = planning.value_iteration(mdp, discount=0.99).value
    torch.testing.assert_close(value, best, atol=1e-7, rtol=0)


@pytest.mark.parametrize("cells", [((1, 1), (11, 11)), ((11, 11), (1, 1)), ((2, 5), (8, 8))])
def test_each_mode_takes_its_route_and_no_step_too_many(
    cells: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    world = FourRooms(30, start=cells[0], goal=cells[1])
    expert = routes_expert(world)
    paths, modes, reached = walk(world, expert, 100)
    assert reached == len(paths) > 50
    assert measures.routes(paths, world).tolist() == modes
    assert set(modes) == {0, 1}
    if cells == ((1, 1), (11, 11)):
        assert {len(path) for path in paths} == {21}


def test_modes_together_are_all_shortest_paths() -> None:
    world = FourRooms(1, start=(1, 1))
    expert = routes_expert(world)
    union = expert.occupancy(0.97) > 0
    assert torch.equal(union, shortest_paths_expert(world).occupancy(0.97) > 0)
    single = [measures.occupancy(world.mdp(), pi, discount=0.97) for pi in expert.policies]
    torch.testing.assert_close(expert.occupancy(0.97), (single[0] + single[1]) / 2)


def test_weights_are_those_of_episodes() -> None:
    world = FourRooms(100, start=(1, 1))
    _, modes, _ = walk(world, routes_expert(world, (0.8, 0.2)), 100)
    assert len(modes) == 500
    assert sum(modes) / 500 == pytest.approx(0.2, abs=0.06)  # more than three standard errors
    _, modes, _ = walk(world, routes_expert(world, (1.0, 0.0)), 20)
    assert not any(modes)


def test_routes_are_optimal_among_their_kind_under_slips() -> None:
    """Wherever a slip leads, each mode finds to the goal, and from the start by its own way."""
    world = FourRooms(1, start=(1, 1), slip=0.2)
    mdp = world.mdp()
    for mode, policy in enumerate(routes_expert(world).policies):
        value = planning.evaluate_policy(mdp, policy, discount=0.99)
        assert float(value[~mdp.terminal].min()) > 0.6
        door = torch.tensor([[3, 6], [6, 2]])[1 - mode]
        cell = int((world.free.nonzero() == door).all(1).nonzero())
        entering = world.next_cell == cell
        entering[cell] = False
        assert not (policy > 0)[entering].any()


def test_first_expert_goes_along_row_or_column() -> None:
    world = OpenWorld(20, size=5, start=(0, 0))
    expert = first_expert(world)
    paths, modes, reached = walk(world, expert, 40)
    assert reached == len(paths) == 100
    expected = ([0, 1, 2, 3, 4, 9, 14, 19, 24], [0, 5, 10, 15, 20, 21, 22, 23, 24])
    assert all(path.tolist() == expected[mode] for path, mode in zip(paths, modes, strict=True))
    assert measures.routes(paths, world).tolist() == modes


def test_first_expert_stays_optimal_among_obstacles() -> None:
    world = OpenWorld(1, size=8, obstacles=0.25, map_seed=3)
    mdp = world.mdp()
    best = planning.value_iteration(mdp, discount=0.99).value
    for policy in first_expert(world).policies:
        value = planning.evaluate_policy(mdp, policy, discount=0.99)
        torch.testing.assert_close(value, best, atol=1e-7, rtol=0)


def test_a_mode_is_kept_within_an_episode_and_drawn_anew_with_the_next() -> None:
    world = FourRooms(200, start=(1, 1))
    expert = routes_expert(world)
    obs, state = world.reset(0), None
    seen = []
    for _ in range(40):
        action, state = expert.act(obs, state)
        seen.append(state)
        obs = world.step(action).obs
    modes = torch.stack(seen)
    assert (modes[:20] == modes[0]).all()
    assert (modes[20:] == modes[20]).all()
    assert 0.3 < float((modes[20] != modes[0]).double().mean()) < 0.7


def test_a_lost_state_is_noticed_within_an_episode() -> None:
    world = FourRooms(4, start=(1, 1))
    expert = routes_expert(world)
    obs = world.step(expert.act(world.reset(0))[0]).obs
    with pytest.raises(ValueError, match="'state' is needed"):
        expert.act(obs)


def test_deterministic_modes_are_drawn_but_not_their_actions() -> None:
    world = FourRooms(50, start=(1, 1))
    paths, modes, _ = walk(world, routes_expert(world), 20, deterministic=True)
    assert len({tuple(path.tolist()) for path in paths}) == 2
    assert set(modes) == {0, 1}


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="random"):
        shortest_paths_expert(FourRooms(1, goal="random"))
    with pytest.raises(ValueError, match="'none'"):
        shortest_paths_expert(FourRooms(1, goal="none"))
    for start, goal in (
        (None, (11, 11)),
        ((1, 1), (1, 11)),
        ((1, 1), "random"),
        ((3, 6), (11, 11)),
    ):
        with pytest.raises(ValueError, match="north-western"):
            routes_expert(FourRooms(1, start=start, goal=goal))
    with pytest.raises(ValueError, match="must be FourRooms"):
        routes_expert(OpenWorld(1))  # type: ignore[arg-type]


def test_bad_tables_are_refused() -> None:
    world = OpenWorld(2, size=3)
    even = torch.full((9, 4), 0.25)
    with pytest.raises(ValueError, match="shape"):
        Expert(world, even[:5])
    with pytest.raises(ValueError, match="sum to 1"):
        Expert(world, even * 2)
    with pytest.raises(ValueError, match="'weights'"):
        Expert(world, even, (0.5, 0.5))
    with pytest.raises(ValueError, match="'weights'"):
        Expert(world, torch.stack([even, even]), (0.9, 0.9))
    with pytest.raises(ValueError, match="2 modes"):
        _ = Expert(world, torch.stack([even, even])).policy
    with pytest.raises(ValueError, match="2 copies"):
        Expert(world, even).act(world.reset(0)[:1])

"""Plans for MiniGrid worlds: they succeed, and nothing is shorter."""

import warnings
from collections import deque
from collections.abc import Iterator

import gymnasium
import minigrid
import pytest
import torch

from rlgen.envs import MiniGrid
from rlgen.envs.minigrid import planner

WORLDS = (
    "FourRooms-v0", "Empty-8x8-v0", "SimpleCrossingS9N2-v0", "LavaCrossingS9N2-v0", "LavaGapS7-v0",
    "DoorKey-8x8-v0", "MultiRoom-N4-S5-v1", "MultiRoom-N6-v0", "Unlock-v0", "UnlockPickup-v0",
    "KeyCorridorS3R1-v0", "KeyCorridorS3R2-v0", "KeyCorridorS3R3-v0", "BlockedUnlockPickup-v0",
)  # fmt: skip
STATIC = ("FourRooms-v0", "SimpleCrossingS9N2-v0", "LavaCrossingS9N2-v0", "LavaGapS7-v0")
DONE = 6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # minigrid's own ids are deprecated one by another
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def make(name: str, num_envs: int, layouts: int | None = 4, seed: int = 0) -> MiniGrid:
    world = MiniGrid(f"MiniGrid-{name}", num_envs, layouts=layouts, seed=seed)
    world.reset()
    return world


def original(name: str, seed: int) -> gymnasium.Env:
    env = gymnasium.make(f"MiniGrid-{name}", disable_env_checker=True).unwrapped
    env.reset(seed=seed)
    return env


def steps_in_plain_python(env: gymnasium.Env) -> int:
    """The length of a shortest plan in a world of walls, lava and a goal, from minigrid's grid."""
    start = (*map(int, env.agent_pos), int(env.agent_dir))
    steps, queue = {start: 0}, deque([start])
    while queue:
        x, y, heading = now = queue.popleft()
        ahead = x + (1, 0, -1, 0)[heading], y + (0, 1, 0, -1)[heading]
        thing = env.grid.get(*ahead)
        if thing is not None and thing.type == "goal":
            return steps[now] + 1
        following = [(x, y, (heading - 1) % 4), (x, y, (heading + 1) % 4)]
        following += [(*ahead, heading)] if thing is None else []
        for state in following:
            if state not in steps:
                steps[state] = steps[now] + 1
                queue.append(state)
    raise AssertionError("no way")


@pytest.mark.parametrize("name", WORLDS)
def test_a_plan_succeeds_in_exactly_its_length(name: str) -> None:
    world = make(name, 2)
    plan = planner.solve(world, 1)
    for k, action in enumerate(plan, start=1):
        reward, terminated, _ = world.advance(torch.tensor([DONE, action]))
        assert bool(terminated[1]) == (k == len(plan))
    assert float(reward[1]) == pytest.approx(1 - 0.9 * len(plan) / world.max_steps)


@pytest.mark.parametrize("name", ["DoorKey-8x8-v0", "KeyCorridorS3R2-v0", "UnlockPickup-v0"])
def test_a_plan_succeeds_in_minigrid_itself(name: str) -> None:
    for seed in range(3):
        env = original(name, seed)
        plan = planner.solve(MiniGrid.from_envs([env]))
        for k, action in enumerate(plan, start=1):
            _, reward, terminated, _, _ = env.step(action)
            assert terminated == (k == len(plan))
        assert reward > 0


@pytest.mark.parametrize("name", STATIC)
def test_a_plan_is_as_short_as_a_search_in_plain_python_says(name: str) -> None:
    envs = [original(name, seed) for seed in range(12)]
    world = MiniGrid.from_envs(envs)
    scene = world.scene
    lengths = planner.distances(world)[torch.arange(12), scene.heading, scene.place]
    assert lengths.tolist() == [steps_in_plain_python(env) for env in envs]
    assert [len(planner.solve(world, k)) for k in range(4)] == lengths[:4].tolist()


def test_door_key_by_hand() -> None:
    """A world small enough to see that nothing is shorter: key ahead, door beside it."""
    env = original("DoorKey-5x5-v0", 0)
    door = next(t for t in env.grid.grid if t is not None and t.type == "door")
    key = next(t for t in env.grid.grid if t is not None and t.type == "key")
    env.grid.set(*door.cur_pos, minigrid.core.world_object.Wall())
    env.grid.set(*key.cur_pos, None)
    env.put_obj(door, 2, 1)
    env.put_obj(key, 1, 2)
    env.agent_pos, env.agent_dir = (1, 1), 1  # looking down, at the key
    plan = planner.solve(MiniGrid.from_envs([env]))
    pickup, left, toggle, forward, right = 3, 0, 5, 2, 1
    assert plan == [pickup, left, toggle, forward, forward, right, forward, forward]


def test_optimal_length_and_return_of_four_rooms() -> None:
    """16.63 steps and a return of 0.850 were measured on 1500 layouts: within 3 standard errors."""
    world = make("FourRooms-v0", 2000, layouts=None)
    scene = world.scene
    steps = planner.distances(world)[torch.arange(2000), scene.heading, scene.place].double()
    error = float(steps.std()) * (1 / 1500 + 1 / 2000) ** 0.5
    assert (steps > 0).all()
    assert abs(float(steps.mean()) - 16.63) < 3 * error
    assert abs(float((1 - 0.9 * steps / 100).mean()) - 0.850) < 3 * error * 0.9 / 100


def test_optimal_actions_lead_to_the_goal_on_a_shortest_way() -> None:
    for name in ("FourRooms-v0", "LavaCrossingS9N2-v0"):
        world = make(name, 32)
        distances = planner.distances(world)
        scene = world.scene
        left = distances[torch.arange(32), scene.heading, scene.place]
        while left.any():
            best = planner.optimal_actions(world, distances)
            assert torch.equal(best.any(1), left > 0)
            choice = torch.multinomial(best.float() + (left == 0)[:, None], 1).squeeze(1)
            over = left == 0
            reward, terminated, _ = world.advance(choice, frozen=over)
            left = (left - 1).clamp(min=0)
            assert torch.equal(terminated, (left == 0) & ~over)
            assert torch.equal(reward > 0, terminated)


def test_worlds_that_change_have_no_distances() -> None:
    with pytest.raises(ValueError, match="use 'solve'"):
        planner.distances(make("DoorKey-5x5-v0", 1))
    with pytest.raises(ValueError, match="use 'solve'"):
        planner.distances(make("MultiRoom-N2-S4-v0", 1))


def test_what_cannot_be_solved_is_said() -> None:
    env = original("Empty-5x5-v0", 0)
    env.grid.set(3, 3, None)
    env.grid.set(2, 2, minigrid.core.world_object.Ball())
    with pytest.raises(ValueError, match="nothing that copy 0 can do leads to success"):
        planner.solve(MiniGrid.from_envs([env]))
    with pytest.raises(ValueError, match="more than 20 states: raise 'max_states'"):
        planner.solve(make("FourRooms-v0", 1), max_states=20)
    with pytest.raises(ValueError, match="'copy' must be from 0 to 0, got 1"):
        planner.solve(make("FourRooms-v0", 1), 1)

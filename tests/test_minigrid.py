"""MiniGrid on tensors against minigrid itself, step by step."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
import torch
from minigrid.core.world_object import Box
from minigrid.envs import EmptyEnv
from scipy import stats

from rlgen.envs import MiniGrid, NoisyTV
from rlgen.envs.minigrid import planner
from rlgen.envs.minigrid.cells import DONE, EMPTY, GOAL
from rlgen.envs.minigrid.layouts import BORDER

WORLDS = (
    "FourRooms-v0", "Empty-8x8-v0", "Empty-Random-6x6-v0", "DoorKey-5x5-v0", "DoorKey-8x8-v0",
    "MultiRoom-N2-S4-v0", "MultiRoom-N4-S5-v1", "MultiRoom-N6-v0", "SimpleCrossingS9N2-v0",
    "LavaCrossingS9N2-v0", "LavaGapS7-v0", "LockedRoom-v0", "KeyCorridorS3R1-v0",
    "KeyCorridorS3R3-v0", "Unlock-v0", "UnlockPickup-v0", "BlockedUnlockPickup-v0",
    "ObstructedMaze-1Dlhb-v0", "ObstructedMaze-2Dlhb-v1", "ObstructedMaze-Full-v1", "DistShift1-v0",
)  # fmt: skip
PLANNED = (
    "DoorKey-6x6-v0", "KeyCorridorS3R1-v0", "UnlockPickup-v0", "BlockedUnlockPickup-v0",
    "Unlock-v0", "MultiRoom-N2-S4-v0", "FourRooms-v0", "LavaGapS7-v0", "ObstructedMaze-1Dlh-v0",
)  # fmt: skip
COPIES = 8
STEPS = 80
COMPARED = 1000  # steps at least, in each world
ACTIONS = [0.15, 0.15, 0.34, 0.13, 0.08, 0.13, 0.02]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # minigrid's own ids are deprecated one by another
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def originals(name: str, count: int, first_seed: int) -> list:
    envs = []
    for k in range(count):
        env = gymnasium.make(f"MiniGrid-{name}", disable_env_checker=True).unwrapped
        env.reset(seed=first_seed + k)
        envs.append(env)
    return envs


def compare(env: Any, action: int, *ours: Any) -> bool:
    """Step the original; are all five equal? Returns whether its episode is over."""
    seen, heading, reward, terminated, truncated = ours
    obs, theirs, ended, timeout, _ = env.step(action)
    np.testing.assert_array_equal(obs["image"], seen)
    assert obs["direction"] == heading
    assert np.float32(theirs) == np.float32(reward)
    assert (ended, timeout) == (terminated, truncated)
    return ended or timeout


@pytest.mark.parametrize("name", WORLDS)
def test_lockstep_with_minigrid_under_random_actions(name: str) -> None:
    assert len(WORLDS) * COMPARED >= 20_000
    rng = np.random.default_rng(0)
    envs = originals(name, COPIES, 0)
    compared = episode = 0
    while compared < COMPARED:
        for k, env in enumerate(envs):
            env.reset(seed=100 * episode + k)
        episode += 1
        world = MiniGrid.from_envs(envs)
        for env, seen in zip(envs, world.observe().numpy(), strict=True):
            np.testing.assert_array_equal(env.gen_obs()["image"], seen)
        alive = [True] * COPIES
        for _ in range(STEPS):
            actions = rng.choice(7, COPIES, p=ACTIONS)
            reward, terminated, truncated = world.advance(torch.as_tensor(actions))
            columns = (world.observe(), world.direction, reward, terminated, truncated)
            rows = zip(*(column.numpy() for column in columns), strict=True)
            for i, row in enumerate(rows):
                if alive[i]:
                    alive[i] = not compare(envs[i], actions[i], *row)
                    compared += 1
            if not any(alive):
                break


@pytest.mark.parametrize("name", PLANNED)
def test_lockstep_with_minigrid_on_the_way_to_success(name: str) -> None:
    """Keys, doors and boxes are used as they should be, which random actions seldom do."""
    envs = originals(name, 3, 40)
    world = MiniGrid.from_envs(envs)
    plans = [planner.solve(world, i) for i in range(len(envs))]
    for k in range(max(map(len, plans))):
        actions = [plan[k] if k < len(plan) else DONE for plan in plans]
        reward, terminated, truncated = world.advance(torch.tensor(actions))
        columns = (world.observe(), world.direction, reward, terminated, truncated)
        for i, row in enumerate(zip(*(column.numpy() for column in columns), strict=True)):
            if k < len(plans[i]):
                over = compare(envs[i], actions[i], *row)
                assert over == (k == len(plans[i]) - 1)
                assert bool(terminated[i]) == over and bool(reward[i] > 0) == over


@pytest.mark.parametrize("name", ["FourRooms-v0", "DoorKey-6x6-v0"])
def test_a_reset_goes_back_to_the_copied_scenes_and_later_episodes_to_any(name: str) -> None:
    envs = originals(name, 4, 0)
    for k, env in enumerate(envs):
        env.step_count = 10 * k
    world = MiniGrid.from_envs(envs, seed=3)
    first = world.observe()
    for seed in (None, 5):
        world.step(torch.tensor([0, 1, 2, 2]))
        assert torch.equal(world.reset(seed), first)
        assert world.time.tolist() == [0, 10, 20, 30]
    screened = NoisyTV(MiniGrid.from_envs(envs, seed=3), kind="action")
    assert torch.equal(screened.reset()[..., :3], first)
    assert screened.time.tolist() == [0, 10, 20, 30]
    grids = {bytes(grid) for grid in world.scene.grid.numpy()}
    met = set()
    for _ in range(10):
        world.restart(torch.ones(4, dtype=torch.bool))
        assert not world.time.any()
        met |= {bytes(grid) for grid in world.scene.grid.numpy()}
    assert met == grids and len(grids) == 4


def test_long_maps_are_no_words() -> None:
    env = EmptyEnv(size=60)
    env.reset(seed=0)
    env.agent_pos = (57, 57)
    world = MiniGrid.from_envs([env])
    np.testing.assert_array_equal(world.observe()[0].numpy(), env.gen_obs()["image"])
    for action in (2, 1, 2):
        world.advance(torch.tensor([action]))
        obs, *_ = env.step(action)
        np.testing.assert_array_equal(world.observe()[0].numpy(), obs["image"])


class Generous(EmptyEnv):
    def _reward(self) -> float:
        return 2.0


def test_what_has_no_rule_here_is_refused() -> None:
    generous = Generous()
    generous.reset()
    with pytest.raises(ValueError, match="Generous has rules of its own"):
        MiniGrid.from_envs([generous])
    with pytest.raises(ValueError, match="was not reset"):
        MiniGrid.from_envs([EmptyEnv()])
    with pytest.raises(ValueError, match="'layouts' must be seeds from 0"):
        MiniGrid("MiniGrid-LavaGapS5-v0", 1, layouts=range(-2, 2))
    (env,) = originals("UnlockPickup-v0", 1, 0)
    env.grid.set(1, 1, Box("red", contains=Box("blue")))
    with pytest.raises(ValueError, match="no rule for a red box that holds a blue box"):
        MiniGrid.from_envs([env])
    env.grid.set(1, 1, Box("red", contains=env.obj))
    with pytest.raises(ValueError, match=f"the wanted {env.obj.color} box in a box"):
        MiniGrid.from_envs([env])


@pytest.mark.parametrize("name", ["FourRooms-v0", "DoorKey-6x6-v0", "KeyCorridorS3R2-v0"])
def test_time_limits_and_rewards_in_lockstep_to_the_end(name: str) -> None:
    """Present states are copied in mid-episode, clocks included."""
    envs = originals(name, 2, 7)
    for env in envs:
        env.step_count = env.max_steps - 5
    world = MiniGrid.from_envs(envs)
    for k in range(5):
        reward, terminated, truncated = world.advance(torch.tensor([0, 1]))
        for i, env in enumerate(envs):
            row = (world.observe()[i], world.direction[i], reward[i], terminated[i], truncated[i])
            over = compare(env, [0, 1][i], *(part.numpy() for part in row))
            assert over == (k == 4)


def test_a_carried_thing_is_copied_and_seen() -> None:
    (env,) = originals("KeyCorridorS3R1-v0", 1, 0)
    rng = np.random.default_rng(1)
    while env.carrying is None:
        env.step(rng.choice([0, 1, 2, 3, 5]))
        if env.step_count >= env.max_steps:
            env.reset()
    world = MiniGrid.from_envs([env])
    np.testing.assert_array_equal(world.observe()[0].numpy(), env.gen_obs()["image"])


@pytest.mark.parametrize("see_through", [False, True])
def test_every_pose_of_four_rooms_is_seen_as_minigrid_shows_it(see_through: bool) -> None:
    for seed in (0, 1):
        (env,) = originals("FourRooms-v0", 1, seed)
        env.see_through_walls = see_through
        world = MiniGrid.from_envs([env])
        free = [
            (x, y) for x in range(19) for y in range(19)
            if env.grid.get(x, y) is None or env.grid.get(x, y).type == "goal"
        ]  # fmt: skip
        assert len(free) == 260
        poses = [(x, y, heading) for x, y in free for heading in range(4)]
        state = world.state.take(torch.zeros(len(poses), dtype=torch.int64))
        place = torch.tensor([(y + BORDER) * 29 + x + BORDER for x, y, _ in poses])
        heading = torch.tensor([h for _, _, h in poses])
        views = world.game.look(type(state)(state.layout, place, heading, state.goal)).numpy()
        for (x, y, h), view in zip(poses, views, strict=True):
            env.agent_pos, env.agent_dir = (x, y), h
            np.testing.assert_array_equal(env.gen_obs()["image"], view)


@pytest.mark.parametrize("name", ["FourRooms-v0", "DoorKey-8x8-v0", "ObstructedMaze-2Dlhb-v1"])
def test_pictures_and_symbols_are_minigrids_own(name: str) -> None:
    from minigrid.wrappers import FullyObsWrapper

    envs = originals(name, 2, 3)
    for env in envs:
        for action in (2, 0, 3, 2, 5):
            env.step(action)
    full = MiniGrid.from_envs(envs, observation="full").observe().numpy()
    rgb = MiniGrid.from_envs(envs, observation="rgb").observe().numpy()
    rendered = MiniGrid.from_envs(envs).render().numpy()
    for i, env in enumerate(envs):
        whole = FullyObsWrapper(env).observation(env.gen_obs())["image"]
        np.testing.assert_array_equal(full[i], whole)
        np.testing.assert_array_equal(rgb[i], env.get_frame(highlight=True, tile_size=8))
        np.testing.assert_array_equal(rendered[i], env.get_frame(highlight=True, tile_size=32))


def unbordered(grid: torch.Tensor, size: int) -> torch.Tensor:
    side = size + 2 * BORDER
    return grid.unflatten(1, (side, side))[:, BORDER:-BORDER, BORDER:-BORDER]


def chi_square(ours: np.ndarray, theirs: np.ndarray) -> float:
    """p-value that two histograms are of one distribution."""
    keep = (ours + theirs) > 0
    return float(stats.chi2_contingency(np.stack([ours[keep], theirs[keep]])).pvalue)


def test_four_rooms_layouts_are_distributed_as_minigrids() -> None:
    count = 4000
    env = gymnasium.make("MiniGrid-FourRooms-v0", disable_env_checker=True).unwrapped
    names = ("north", "south", "west", "east", "agent x", "agent y", "heading")
    theirs = {name: [] for name in (*names, "goal x", "goal y")}
    for seed in range(count):
        env.reset(seed=seed)
        cells = [env.grid.get(x, y) for y in range(19) for x in range(19)]
        is_wall = np.array([c is not None and c.type == "wall" for c in cells]).reshape(19, 19)
        theirs["north"].append(int(np.argmin(is_wall[1:9, 9])))
        theirs["south"].append(int(np.argmin(is_wall[10:18, 9])))
        theirs["west"].append(int(np.argmin(is_wall[9, 1:9])))
        theirs["east"].append(int(np.argmin(is_wall[9, 10:18])))
        theirs["agent x"].append(int(env.agent_pos[0]))
        theirs["agent y"].append(int(env.agent_pos[1]))
        theirs["heading"].append(env.agent_dir)
        goal = next(i for i, c in enumerate(cells) if c and c.type == "goal")
        theirs["goal x"].append(goal % 19)
        theirs["goal y"].append(goal // 19)
    world = MiniGrid("MiniGrid-FourRooms-v0", 40_000, seed=0)
    world.reset()
    scene = world.scene
    grid = unbordered(scene.grid, 19)
    passable = (grid == EMPTY) | (grid == GOAL)
    goal = (grid == GOAL).flatten(1).int().argmax(1)
    ours = {
        "north": passable[:, 1:9, 9].int().argmax(1),
        "south": passable[:, 10:18, 9].int().argmax(1),
        "west": passable[:, 9, 1:9].int().argmax(1),
        "east": passable[:, 9, 10:18].int().argmax(1),
        "agent x": scene.place % 29 - BORDER,
        "agent y": scene.place // 29 - BORDER,
        "heading": scene.heading,
        "goal x": goal % 19,
        "goal y": goal // 19,
    }
    assert (passable.flatten(1).sum(1) == 260).all()
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        a = np.bincount(values.numpy(), minlength=20)
        b = np.bincount(theirs[key], minlength=20)
        assert chi_square(a, b) > 1e-3, key
    assert (scene.place != world.state.goal).all()
    # openings, agent and goal are independent of one another
    pairs = np.histogram2d(ours["north"], ours["east"], bins=8)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_door_key_layouts_are_distributed_as_minigrids() -> None:
    size, count = 6, 3000
    env = gymnasium.make("MiniGrid-DoorKey-6x6-v0", disable_env_checker=True).unwrapped
    theirs = np.zeros((4, size * size), int)
    for seed in range(count):
        env.reset(seed=seed)
        for index, thing in enumerate(env.grid.grid):
            if thing is not None and thing.type in ("door", "key"):
                theirs[0 if thing.type == "door" else 1, index] += 1
        theirs[2, env.agent_pos[1] * size + env.agent_pos[0]] += 1
        theirs[3, env.agent_dir] += 1
    world = MiniGrid("MiniGrid-DoorKey-6x6-v0", 30_000, seed=1)
    image = unbordered(world_grid(world), size).flatten(1)
    door, key = world.game.layouts.things
    side = size + 2 * BORDER
    x, y = world.scene.place % side - BORDER, world.scene.place // side - BORDER
    ours = [
        (image == door).sum(0),
        (image == key).sum(0),
        torch.bincount(y * size + x, minlength=36),
        torch.bincount(world.scene.heading, minlength=36),
    ]
    for mine, original in zip(ours, theirs, strict=True):
        assert chi_square(mine.numpy(), original) > 1e-3
    assert ((image == door).sum(1) == 1).all() and ((image == key).sum(1) == 1).all()


def world_grid(world: MiniGrid) -> torch.Tensor:
    world.reset()
    return world.scene.grid


@pytest.mark.parametrize(
    "name", ["Fetch-5x5-N2-v0", "Dynamic-Obstacles-5x5-v0", "PutNear-6x6-N2-v0"]
)
def test_a_world_with_another_rule_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="needs a rule that is not here"):
        MiniGrid(f"MiniGrid-{name}", 1)
    with pytest.raises(ValueError, match="gymnasium knows no"):
        MiniGrid("MiniGrid-Nonsense-v0", 1)


def test_layouts_can_be_held_out() -> None:
    train = MiniGrid("MiniGrid-MultiRoom-N2-S4-v0", 200, layouts=range(4), seed=0)
    test = MiniGrid("MiniGrid-MultiRoom-N2-S4-v0", 200, layouts=range(4, 8), seed=0)
    seen = [set(map(bytes, world_grid(w).numpy())) for w in (train, test)]
    assert len(seen[0]) == len(seen[1]) == 4 and not seen[0] & seen[1]


def test_memory_of_many_copies() -> None:
    """65,536 copies of FourRooms, tables and one observation included, fit in 200 MB."""
    world = MiniGrid("MiniGrid-FourRooms-v0", 65_536, seed=0)
    obs = world.reset()
    held = {id(t): t.untyped_storage().nbytes() for t in tensors_in(world)} | {
        id(obs): obs.untyped_storage().nbytes()
    }
    assert sum(held.values()) <= 200e6


def tensors_in(value: object, depth: int = 5) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, tuple):
        for part in value:
            yield from tensors_in(part, depth - 1)
    elif depth:
        for part in getattr(value, "__dict__", {}).values():
            yield from tensors_in(part, depth - 1)

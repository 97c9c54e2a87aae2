"""Ways in and out of worlds, held to gymnasium's own checker and its own vector environment."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

import rlgen
from rlgen.envs import FourRooms, MiniGrid, OpenWorld, adapters, registration, render
from rlgen.envs.world import TensorWorld
from tests.short_worlds import SHORT

DISABLED = AutoresetMode.DISABLED
IDS = [id for id, _ in registration.ids()]
# one of each kind, and whatever has rules of its own
SOME = [
    "rlgen/FourRooms-v0",
    "rlgen/OpenWorld-v0",
    "rlgen/NoisyTV-v0",
    "rlgen/Plains-v0",
    "rlgen/MiniGrid-FourRooms-v0",
    "rlgen/MiniGrid-DoorKey-5x5-v0",
    "rlgen/MiniGrid-UnlockPickup-v0",
]


def options_of(id: str) -> dict[str, Any]:
    """What makes it fast to make."""
    return {"layouts": 3} if "MiniGrid" in id else {"maps": 3} if "Plains" in id else {}


# -- gymnasium: one environment


@pytest.mark.parametrize("id", SOME)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_a_single_environment_passes_gymnasiums_checker(id: str, render_mode: str | None) -> None:
    env = gymnasium.make(id, render_mode=render_mode, **options_of(id))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.reset(seed=0)
    picture: Any = env.render() if render_mode is not None else None
    if render_mode is not None:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    env.close()


def test_every_id_is_registered_on_import_of_rlgen() -> None:
    registered = {id for id in gymnasium.registry if id.startswith("rlgen/")}
    assert registered == set(IDS) and len(IDS) == len(set(IDS))
    assert {"rlgen/FourRooms-v0", "rlgen/OpenWorld-v0", "rlgen/NoisyTV-v0"} <= registered
    assert rlgen.__version__
    for id in registered:
        assert isinstance(gymnasium.spec(id).to_json(), str)


@pytest.mark.parametrize("id", [id for id in IDS if "MiniGrid" in id])
def test_every_minigrid_id_makes_the_world_of_that_name(id: str) -> None:
    with warnings.catch_warnings():  # there are newer versions of some
        warnings.filterwarnings("ignore", message=".*is out of date")
        env = gymnasium.make(id, layouts=1)
        theirs = gymnasium.make(id.removeprefix("rlgen/")).unwrapped
    world = env.unwrapped.world
    assert isinstance(world, MiniGrid)
    assert world.max_steps == theirs.max_steps
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space


def test_options_go_to_the_world() -> None:
    env = gymnasium.make("rlgen/OpenWorld-v0", size=4, observation="xy", start=(0, 0))
    obs, _ = env.reset()
    assert obs.tolist() == [-1.0, -1.0]


def test_rows_are_the_worlds_own_numbers() -> None:
    world = FourRooms(1, observation="xy", slip=0.5)
    env = gymnasium.make("rlgen/FourRooms-v0", observation="xy", slip=0.5)
    assert np.array_equal(env.reset(seed=5)[0], world.reset(5)[0].numpy())
    for action in [0, 3, 1, 2] * 5:
        obs, reward, terminated, truncated, _ = env.step(action)
        step = world.step(torch.tensor([action]))
        assert np.array_equal(obs, step.final_obs[0].numpy())
        assert (reward, terminated, truncated) == (float(step.reward), False, False)


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("FourRooms", {"colour": 1}, "no option 'colour'"),
        ("FourRooms", {"num_envs": 2}, "no option 'num_envs'"),
        ("NoisyTV", {"colour": 1}, "no option 'colour'"),
        ("FourRooms", {"start": (0, 0)}, "'start'"),
        ("FourRooms", {"render_mode": "ascii"}, "'render_mode'"),
        ("OpenWorld", {"observation": "rgb"}, "'observation'"),
    ],
)
def test_a_bad_option_is_refused_in_words(id: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make(f"rlgen/{id}-v0", **options)


def test_a_bad_world_or_mode_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="'world' must be"):
        registration.make_world("Atlantis", 1)
    with pytest.raises(ValueError, match="one copy, got 2"):
        adapters.SingleEnv(FourRooms(2))
    with pytest.raises(ValueError, match="'autoreset_mode' must be one of"):
        adapters.NativeVectorEnv(FourRooms(2), autoreset_mode="never")
    with pytest.raises(ValueError, match="'num_envs'"):
        gymnasium.make_vec("rlgen/FourRooms-v0", 0)
    with pytest.raises(ValueError, match="from 0 to 3"):
        env = gymnasium.make("rlgen/FourRooms-v0", disable_env_checker=True)
        env.reset()
        env.step(4)


# -- gymnasium: many environments


def lockstep(
    make: Callable[[int], TensorWorld[Any]], mode: AutoresetMode, count: int = 5, steps: int = 60
) -> int:
    """Steps a native vector environment beside gymnasium's own; how many episodes ended."""
    ours = adapters.NativeVectorEnv(make(count), autoreset_mode=mode)
    theirs = SyncVectorEnv(
        [lambda: adapters.SingleEnv(make(1)) for _ in range(count)], autoreset_mode=mode
    )
    assert ours.metadata["autoreset_mode"] is mode
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    ended = 0
    np.testing.assert_array_equal(ours.reset(seed=11)[0], theirs.reset(seed=11)[0])
    for _ in range(steps):
        actions = rng.integers(ours.single_action_space.n, size=count)
        mine, yours = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:4], yours[:4], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        done = mine[2] | mine[3]
        ended += int(done.sum())
        assert ("final_obs" in mine[4]) == ("final_obs" in yours[4])
        if "final_obs" in mine[4]:
            assert np.array_equal(mine[4]["_final_obs"], yours[4]["_final_obs"])
            for i in done.nonzero()[0]:
                np.testing.assert_array_equal(mine[4]["final_obs"][i], yours[4]["final_obs"][i])
        if mode is DISABLED and done.any():
            mask = {"reset_mask": done}
            np.testing.assert_array_equal(
                ours.reset(options=dict(mask))[0], theirs.reset(options=dict(mask))[0]
            )
    return ended


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("make", SHORT, ids=["FourRooms", "OpenWorld", "MiniGrid"])
def test_the_native_vector_environment_is_gymnasiums_own_in_every_mode(
    make: Callable[[int], TensorWorld[Any]], mode: AutoresetMode
) -> None:
    assert lockstep(make, mode) > 10


@pytest.mark.parametrize("id", SOME)
def test_make_vec_gives_the_native_one(id: str) -> None:
    venv = gymnasium.make_vec(
        id, num_envs=3, vectorization_mode="vector_entry_point", render_mode="rgb_array",
        **options_of(id),
    )  # fmt: skip
    assert isinstance(venv, adapters.NativeVectorEnv) and venv.num_envs == 3
    obs, _ = venv.reset(seed=0)
    assert obs in venv.observation_space
    obs, *_ = venv.step(venv.action_space.sample())
    assert obs in venv.observation_space
    frames = venv.render()
    assert frames is not None and len(frames) == 3 and frames[0].dtype == np.uint8
    venv.close()


def test_make_vec_can_also_loop_over_single_ones_with_the_same_numbers() -> None:
    native = gymnasium.make_vec("rlgen/FourRooms-v0", 3)
    loop = gymnasium.make_vec("rlgen/FourRooms-v0", 3, vectorization_mode="sync")
    assert isinstance(loop, SyncVectorEnv)
    np.testing.assert_array_equal(native.reset(seed=3)[0], loop.reset(seed=3)[0])


def test_gymnasiums_vector_wrappers_work() -> None:
    venv = gymnasium.make_vec("rlgen/OpenWorld-v0", 4, size=3, max_steps=5, start=(0, 0))
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(venv)
    recorded.reset(seed=0)
    for _ in range(20):
        recorded.step(recorded.action_space.sample())
    assert len(recorded.length_queue) > 0 and max(recorded.length_queue) <= 5


def test_a_masked_reset_moves_only_the_chosen() -> None:
    venv = adapters.NativeVectorEnv(FourRooms(4), autoreset_mode="Disabled")
    with pytest.raises(ValueError, match="call 'reset' first"):
        venv.reset(options={"reset_mask": np.ones(4, bool)})
    before, _ = venv.reset(seed=0)
    mask = np.array([True, False, True, False])
    after, _ = venv.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(before[~mask], after[~mask])
    for bad in (np.zeros(4, bool), np.ones(3, bool), np.ones(4, int)):
        with pytest.raises(ValueError, match="'reset_mask' must be 4 booleans"):
            venv.reset(options={"reset_mask": bad})
    with pytest.raises(ValueError, match="'seed' must be one integer"):
        venv.reset(seed=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="without 'reset_mask'"):
        venv.reset(seed=1, options={"reset_mask": mask})


def test_an_ended_episode_is_not_stepped_on_where_nobody_restarts_it() -> None:
    venv = adapters.NativeVectorEnv(FourRooms(2, max_steps=1), autoreset_mode="Disabled")
    venv.reset(seed=0)
    venv.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="an episode has ended"):
        venv.step(np.array([0, 0]))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_arrays_are_a_users_own_to_keep_and_to_write_to(mode: AutoresetMode) -> None:
    untouched, abused = (adapters.NativeVectorEnv(SHORT[0](3), mode) for _ in range(2))
    kept: list[Any] = [untouched.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    abused.reset(seed=0)[0].fill(7)
    for _ in range(12):
        out, same = untouched.step(np.array([1, 3, 3])), abused.step(np.array([1, 3, 3]))
        arrays, theirs = (
            [*o[:4], *map(o[4].get, {"final_obs"} & o[4].keys())] for o in (out, same)
        )
        done = out[2] | out[3]
        for a, b in zip(arrays, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
            b.fill(1)
        kept += arrays
        copies += [a.copy() for a in arrays]
        if mode is DISABLED and done.any():
            kept.append(untouched.reset(options={"reset_mask": done})[0])
            copies.append(kept[-1].copy())
            abused.reset(options={"reset_mask": done})[0].fill(7)
    for a, b in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_action_of_a_copy_that_restarts_is_not_looked_at() -> None:
    venv = adapters.NativeVectorEnv(FourRooms(2, start=(11, 10), max_steps=9))
    venv.reset(seed=0)
    assert venv.step(np.array([3, 0]))[2].tolist() == [True, False]
    venv.step(np.array([-1, 0]))
    with pytest.raises(ValueError, match="must be from 0 to 3"):
        venv.step(np.array([-1, 0]))


# -- pictures


def test_a_picture_shows_walls_goal_and_agent() -> None:
    world = FourRooms(2, start=(1, 1), goal=(3, 2), seed=0)
    world.reset()
    world.step(torch.tensor([1, 3]))  # one down, one right
    picture = world.render()
    assert picture.shape == (2, 13 * 16, 13 * 16, 3) and picture.dtype == torch.uint8
    middle = picture[:, 8::16, 8::16]  # (2, 13, 13, 3)

    def where(color: render.Color) -> Tensor:
        return (middle == torch.tensor(color, dtype=torch.uint8)).all(-1)

    assert where(render.AGENT_COLOR).nonzero().tolist() == [[0, 2, 1], [1, 1, 2]]
    assert where(render.GOAL_COLOR).nonzero().tolist() == [[0, 3, 2], [1, 3, 2]]
    assert torch.equal(where(render.WALL_COLOR), (~world.free).expand(2, -1, -1))


def test_a_world_without_a_goal_shows_none_and_an_agent_stands_on_its_goal() -> None:
    world = OpenWorld(1, size=3, goal="none", start=(1, 1))
    world.reset()
    green = torch.tensor(render.GOAL_COLOR, dtype=torch.uint8)
    assert not (world.render() == green).all(-1).any()
    env: Any = gymnasium.make("rlgen/OpenWorld-v0", size=2, start=(0, 1), render_mode="rgb_array")
    env.reset()
    assert env.step(1)[2]  # down, onto the goal
    tile = env.render()[16:, 16:]
    assert (tile[8, 8] == render.AGENT_COLOR).all() and (tile[2, 2] == render.GOAL_COLOR).all()


def test_minigrid_worlds_have_minigrids_pixels() -> None:
    world = MiniGrid("MiniGrid-Empty-5x5-v0", 1, layouts=1)
    world.reset(0)
    theirs = gymnasium.make("MiniGrid-Empty-5x5-v0", render_mode="rgb_array")
    theirs.reset(seed=0)
    np.testing.assert_array_equal(world.render()[0].numpy(), theirs.unwrapped.get_frame(True, 32))

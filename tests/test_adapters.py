"""Ways in and out of worlds, held to gymnasium's own checker and its own vector environment."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor

import rlgen
from rlgen.envs import FourRooms, MiniGrid, OpenWorld, World, adapters, registration, render
from rlgen.envs.world import TensorWorld

SAME_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
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
# short episodes of both endings, in step with one another or not
SHORT: list[Callable[[int], TensorWorld[Any]]] = [
    lambda n: FourRooms(n, start=(9, 10), goal=(11, 11), slip=0.3, max_steps=7),
    lambda n: OpenWorld(n, size=3, goal="random", observation="image", max_steps=9),
    lambda n: MiniGrid("MiniGrid-Empty-Random-5x5-v0", n, max_steps=15),
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


# -- from gymnasium


def vector(
    id: str, mode: AutoresetMode, count: int = 3, **options: Any
) -> VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec(
        id, count, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode, "copy": False}, **options,
    )  # fmt: skip


class Counter(gymnasium.Env[Any, Any]):
    """Sees how many steps it is old; ends after `length` of them, or in time, or both."""

    observation_space = spaces.Box(0.0, 1e6, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length: int, limit: int) -> None:
        self.length, self.limit, self.episode = length, limit, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        self.episode += 1
        return np.array([self.age, self.episode], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        seen = np.array([self.age, self.episode], np.float32)
        return seen, float(action[0]), self.age >= self.length, self.age >= self.limit, {}


def counters(mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
    lengths = [(3, 9), (9, 4), (5, 5)]  # by its task, by time, by both
    return SyncVectorEnv(
        [lambda pair=pair: Counter(*pair) for pair in lengths],
        copy=False,
        autoreset_mode=mode,
    )


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED], ids=lambda mode: mode.value)
def test_final_observations_come_through_and_are_not_the_reset_ones(mode: AutoresetMode) -> None:
    world = adapters.from_gymnasium(counters(mode))
    assert isinstance(world, World)
    assert world.reset(0).tolist() == [[0.0, 1.0]] * 3
    ages, ends = torch.zeros(3), torch.tensor([3.0, 4.0, 5.0])
    kept = []
    for _ in range(23):
        step = world.step(torch.full((3, 2), 0.5))
        ages += 1
        done = ages == ends
        assert torch.equal(step.final_obs[:, 0], ages)
        ages[done] = 0
        assert torch.equal(step.obs[:, 0], ages)
        assert torch.equal(step.done, done)
        assert step.terminated.tolist() == [bool(done[0]), False, bool(done[2])]
        assert step.truncated.tolist() == [False, bool(done[1]), bool(done[2])]
        assert step.reward.tolist() == [0.5] * 3 and step.reward.dtype == torch.float32
        kept.append((step, step.obs.clone(), step.final_obs.clone()))
    for step, obs, final in kept:  # gymnasium reuses its arrays (copy=False); these are not they
        assert torch.equal(step.obs, obs) and torch.equal(step.final_obs, final)


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED], ids=lambda mode: mode.value)
def test_cartpole_as_a_world(mode: AutoresetMode) -> None:
    world = adapters.from_gymnasium(vector("CartPole-v1", mode))
    alone = [gymnasium.make("CartPole-v1") for _ in range(3)]
    seen = world.reset(7)
    expected = np.stack([env.reset(seed=7 + i)[0] for i, env in enumerate(alone)])
    np.testing.assert_array_equal(seen.numpy(), expected)
    ended = 0
    for _ in range(40):
        action = torch.ones(3, dtype=torch.int64)
        step = world.step(action)
        for i, env in enumerate(alone):
            obs, reward, terminated, truncated, _ = env.step(1)
            np.testing.assert_array_equal(step.final_obs[i].numpy(), obs)
            assert float(step.reward[i]) == reward
            assert (bool(step.terminated[i]), bool(step.truncated[i])) == (terminated, truncated)
            if terminated or truncated:
                obs, ended = env.reset()[0], ended + 1
            np.testing.assert_array_equal(step.obs[i].numpy(), obs)
    assert ended > 5


def test_the_wrong_autoreset_mode_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"AutoresetMode\.SAME_STEP.*NEXT_STEP"):
        adapters.from_gymnasium(gymnasium.make_vec("CartPole-v1", 2))


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED], ids=lambda mode: mode.value)
def test_minigrid_itself_as_a_world(mode: AutoresetMode) -> None:
    id = "MiniGrid-Empty-Random-5x5-v0"
    import minigrid  # noqa: F401  (registers its ids)

    world: Any = adapters.from_gymnasium(vector(id, mode, max_steps=6))
    assert isinstance(world, World)
    assert set(world.observation_space.spaces) == {"image", "direction"}
    obs = world.reset(0)
    assert obs.keys() == {"image", "direction"}
    alone = [gymnasium.make(id, max_steps=6) for _ in range(3)]
    for i, env in enumerate(alone):
        np.testing.assert_array_equal(env.reset(seed=i)[0]["image"], obs["image"][i].numpy())
    ended = 0
    for action in [0, 2, 1, 2, 2, 2, 1] * 3:
        step = world.step(torch.full((3,), action))
        assert step.obs["image"].dtype == torch.uint8 and step.obs["image"].shape == (3, 7, 7, 3)
        for i, env in enumerate(alone):
            seen, _, terminated, truncated, _ = env.step(action)
            for name in ("image", "direction"):
                np.testing.assert_array_equal(step.final_obs[name][i].numpy(), seen[name])
            if terminated or truncated:
                seen, ended = env.reset()[0], ended + 1
            for name in ("image", "direction"):
                np.testing.assert_array_equal(step.obs[name][i].numpy(), seen[name])
    assert ended >= 9
    world.close()


def test_box_actions_keep_their_numbers() -> None:
    world = adapters.from_gymnasium(vector("Pendulum-v1", SAME_STEP))
    alone = gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(world.reset(2)[0].numpy(), alone.reset(seed=2)[0])
    for push in (0.5, -1.25, 2.0):
        step = world.step(torch.full((3, 1), push))
        obs, reward, *_ = alone.step(np.array([push], np.float32))
        np.testing.assert_array_equal(step.obs[0].numpy(), obs)
        assert float(step.reward[0]) == pytest.approx(float(reward), rel=1e-6)
    with pytest.raises(ValueError, match="'action' must have shape"):
        world.step(torch.zeros(3))


def test_what_is_no_array_is_refused() -> None:
    cartpole = adapters.from_gymnasium(vector("CartPole-v1", SAME_STEP))
    cartpole.reset(0)
    for bad in (torch.full((3,), 2), torch.zeros(3), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="'action' must be in"):
            cartpole.step(bad)

    class Talker(Counter):
        observation_space = spaces.Text(5)

    with pytest.raises(ValueError, match="observations must be arrays"):
        venv = SyncVectorEnv([lambda: Talker(3, 3)], autoreset_mode=SAME_STEP)
        adapters.from_gymnasium(venv)


def test_a_world_goes_out_to_gymnasium_and_comes_back() -> None:
    there = adapters.NativeVectorEnv(SHORT[0](4), autoreset_mode=SAME_STEP)
    back = adapters.from_gymnasium(there)
    world = SHORT[0](4)
    assert torch.equal(back.reset(9), world.reset(9))
    for action in [1, 3, 0, 2, 3, 1, 1, 3] * 4:
        given = torch.full((4,), action)
        a, b = back.step(given), world.step(given)
        for x, y in ((a.obs, b.obs), (a.final_obs, b.final_obs), (a.reward, b.reward)):
            assert torch.equal(x, y)
        assert torch.equal(a.terminated, b.terminated) and torch.equal(a.truncated, b.truncated)


# -- to Stable-Baselines3


def test_sb3_sees_the_last_observation_and_which_end_it_was() -> None:
    venv = adapters.to_sb3(adapters.from_gymnasium(counters(SAME_STEP)))
    venv.reset()
    seen = set()
    for _ in range(20):
        obs, _, done, infos = venv.step(np.zeros((3, 2), np.float32))
        for i, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(done[i])
            if done[i]:
                assert info["terminal_observation"][0] == [3, 4, 5][i]
                assert obs[i, 0] == 0
                seen.add((i, info["TimeLimit.truncated"]))
    # both at once is a termination: nothing is to be bootstrapped there
    assert seen == {(0, False), (1, True), (2, False)}


@pytest.mark.parametrize("make", SHORT, ids=["FourRooms", "OpenWorld", "MiniGrid"])
def test_sb3_sees_the_worlds_own_numbers(make: Callable[[int], TensorWorld[Any]]) -> None:
    venv, world = adapters.to_sb3(make(4)), make(4)
    venv.seed(3)
    np.testing.assert_array_equal(venv.reset(), world.reset(3).numpy())
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(venv.action_space.n, size=4)
        obs, reward, done, infos = venv.step(actions)
        step = world.step(torch.as_tensor(actions))
        np.testing.assert_array_equal(obs, step.obs.numpy())
        np.testing.assert_array_equal(reward, step.reward.numpy())
        np.testing.assert_array_equal(done, step.done.numpy())
        for i in done.nonzero()[0]:
            np.testing.assert_array_equal(infos[i]["terminal_observation"], step.final_obs[i])
    assert isinstance(venv, VecEnv)
    picture = venv.render("rgb_array")
    assert picture is not None and picture.dtype == np.uint8


def test_sb3_asks_after_attributes_and_is_refused_what_copies_share() -> None:
    venv = adapters.to_sb3(FourRooms(3, slip=0.25))
    assert venv.get_attr("slip") == [0.25] * 3 and venv.get_attr("slip", 1) == [0.25]
    assert not venv.has_attr("nothing")
    assert venv.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    with pytest.raises(ValueError, match="share their attributes"):
        venv.set_attr("slip", 0.0)
    with pytest.raises(ValueError, match="share their methods"):
        venv.env_method("reset")
    venv.close()


def test_sb3_trains_on_a_world() -> None:
    venv = VecMonitor(adapters.to_sb3(FourRooms(8, seed=0, max_steps=50)))
    agent = PPO("MlpPolicy", venv, n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(2000)
    assert agent.num_timesteps >= 2000
    assert any(
        not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True)
    )
    assert len(agent.ep_info_buffer or ()) > 0


def test_sb3_trains_on_dictionaries_that_came_through_a_world() -> None:
    class Clock(Counter):
        observation_space = spaces.Dict(
            {"age": spaces.Box(0.0, 1.0, (1,), np.float32), "odd": spaces.Discrete(2)}
        )

        def reset(self, **options: Any) -> Any:
            return self._named(super().reset(**options)[0]), {}

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return self._named(obs), *rest

        def _named(self, obs: Any) -> dict[str, Any]:
            return {"age": obs[:1] / 10, "odd": np.int64(obs[0] % 2)}

    clocks = SyncVectorEnv([lambda: Clock(3, 9), lambda: Clock(9, 4)], autoreset_mode=SAME_STEP)
    venv = adapters.to_sb3(adapters.from_gymnasium(clocks))
    obs: Any = venv.reset()
    assert obs["age"].shape == (2, 1) and obs["odd"].shape == (2,)
    for _ in range(3):
        _, _, _, infos = venv.step(np.zeros((2, 2), np.float32))
    assert infos[0]["terminal_observation"]["age"] == pytest.approx(0.3)
    assert infos[0]["terminal_observation"]["odd"] == 1
    agent = PPO("MultiInputPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, device="cpu")
    agent.learn(128)


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

"""Foreign environments as worlds, and worlds in Stable-Baselines3."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from rlgen.envs import FourRooms, World, adapters
from rlgen.envs.world import TensorWorld
from tests.short_worlds import SHORT

SAME_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


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

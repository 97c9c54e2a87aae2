"""Reward models and encoders in Stable-Baselines3, against what really happened."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from rlgen.agents import RewardModel, Transitions
from rlgen.agents.exploration import RND, HashCounts, PseudoCounts, TableCounts
from rlgen.agents.exploration.memory import as_data
from rlgen.agents.sb3 import GenerativeFeatures, RewardModelVecEnv
from rlgen.agents.transitions import flat
from rlgen.envs import FourRooms, MiniGrid, adapters
from rlgen.generative import CPC, MADE, VAE, VQVAE, GenerativeModel, heads

torch.set_num_threads(1)
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (8, 10, 3), np.uint8)
SYMBOLS = spaces.Box(0, 255, (7, 7, 3), np.uint8)
MAPPING = spaces.Dict({"image": SYMBOLS, "direction": spaces.Discrete(4)})


class Logged(gymnasium.Env[Any, Any]):
    """Random observations; it writes down what it showed, was given, and led to."""

    def __init__(
        self,
        observation_space: spaces.Space[Any] = VECTOR,
        action_space: spaces.Space[Any] = spaces.Discrete(4),  # noqa: B008
        length: int = 5,
        limit: int = 99,
        seed: int = 0,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(seed)
        self.length, self.limit = length, limit
        self.log: list[tuple[Any, ...]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.age, self.seen = 0, self.observation_space.sample()
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        obs, self.seen = self.seen, self.observation_space.sample()
        done, out = self.age >= self.length, self.age >= self.limit
        reward = float(self.age)
        self.log.append((obs, np.array(action), reward, self.seen, done, out and not done))
        return self.seen, reward, done, out, {}


class Recorder:
    """Pays a known function of the step, and remembers what it was given and when."""

    def __init__(self) -> None:
        self.read: list[Transitions] = []
        self.learnt: list[Transitions] = []
        self.calls = ""

    def reward(self, t: Transitions) -> Tensor:
        self.read.append(t)
        self.calls += "r"
        return self.pay(t)

    def pay(self, t: Transitions) -> Tensor:
        both = t.obs.float().flatten(1).mean(1) + 2 * t.next_obs.float().flatten(1).mean(1)
        return both + t.action.float().flatten(1).sum(1) if t.action.ndim > 1 else both + t.action

    def update(self, t: Transitions) -> dict[str, float]:
        self.learnt.append(t)
        self.calls += "u"
        return {"learnt": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def logged(*spaces_: Any, count: int = 3, **options: Any) -> DummyVecEnv:
    """Environments of several lengths, of which one runs out of time."""
    lengths = [(5, 99), (99, 4), (3, 3)][:count]
    makers = [
        partial(Logged, *spaces_, length=length, limit=limit, seed=i, **options)
        for i, (length, limit) in enumerate(lengths)
    ]
    return DummyVecEnv(makers)


def drive(venv: Any, steps: int, seed: int = 0) -> list[Any]:
    """Random actions; what each step gave."""
    venv.action_space.seed(seed)
    return [
        venv.step(np.array([venv.action_space.sample() for _ in range(venv.num_envs)]))
        for _ in range(steps)
    ]


def stacked(values: Any) -> Tensor:
    if isinstance(values[0], dict):
        return flat({name: stacked([v[name] for v in values]) for name in values[0]})
    tensor = torch.tensor(np.stack([np.asarray(v) for v in values]))
    return tensor[:, None] if tensor.ndim == 1 else tensor


def truth(venv: Any, step: int) -> Transitions:
    """What the environments themselves say happened."""
    rows = [env.log[step] for env in venv.unwrapped.envs]
    obs, action, reward, next_obs, done, out = zip(*rows, strict=True)
    return Transitions(
        stacked(obs), torch.tensor(np.stack(action)), torch.tensor(reward), stacked(next_obs),
        torch.tensor(done), torch.tensor(out),
    )  # fmt: skip


def assert_same(one: Transitions, other: Transitions) -> None:
    for name, part in vars(one).items():
        torch.testing.assert_close(part, getattr(other, name), rtol=0, atol=0, msg=name)


# -- the steps


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (VECTOR, spaces.Discrete(4)),
        (VECTOR, spaces.Box(-1.0, 1.0, (2,), np.float32)),
        (VECTOR, spaces.MultiBinary(3)),
        (VECTOR, spaces.MultiDiscrete([2, 3])),
        (SYMBOLS, spaces.Discrete(4)),
        (PICTURE, spaces.Discrete(4)),
        (spaces.Discrete(6), spaces.Discrete(4)),
        (MAPPING, spaces.Discrete(4)),
    ],
    ids=["vector", "box", "binary", "multi", "symbols", "picture", "discrete", "dict"],
)
def test_the_model_is_paid_for_what_really_happened(
    observation_space: Any, action_space: Any
) -> None:
    inner, model = logged(observation_space, action_space), Recorder()
    venv = RewardModelVecEnv(inner, model, weight=0.5, steps=4, normalise=False)
    venv.reset()
    for step, (_, rewards, dones, infos) in enumerate(drive(venv, 12)):
        happened = truth(inner, step)
        assert_same(model.read[step], happened)
        assert (happened.done.numpy() == dones).all()
        bonus = 0.5 * model.pay(happened)
        np.testing.assert_allclose(rewards, happened.reward + bonus, rtol=1e-6)
        assert [info["rlgen/reward"] for info in infos] == happened.reward.tolist()
        np.testing.assert_allclose([info["rlgen/bonus"] for info in infos], bonus, rtol=1e-6)
    assert model.calls == "rrrru" * 3
    assert sum(int(t.terminated.sum()) for t in model.read) == 6  # and 3 by time alone
    for part, learnt in enumerate(model.learnt):
        whole = [truth(inner, step) for step in range(4 * part, 4 * part + 4)]
        torch.testing.assert_close(learnt.next_obs, torch.cat([t.next_obs for t in whole]))
    assert venv.metrics.keys() == {"learnt", "task_reward", "bonus"}


@pytest.mark.parametrize(
    ("wrap", "change"),
    [
        (VecTransposeImage, lambda obs: obs.permute(0, 3, 1, 2)),
        (partial(VecFrameStack, n_stack=1), lambda obs: obs),
        (VecMonitor, lambda obs: obs),
    ],
    ids=["transposed", "stacked", "monitored"],
)
def test_inner_wrappers_are_respected_at_the_ends_of_episodes(
    wrap: Callable[..., Any], change: Callable[[Tensor], Tensor]
) -> None:
    inner, model = logged(PICTURE), Recorder()
    venv = RewardModelVecEnv(wrap(inner), model, steps=4)
    venv.reset()
    drive(venv, 9)
    for step, read in enumerate(model.read):
        happened = truth(inner, step)
        assert torch.equal(read.obs, change(happened.obs))
        assert torch.equal(read.next_obs, change(happened.next_obs))


def test_a_density_that_learns_is_read_before_it_learns() -> None:
    make = partial(PseudoCounts, lr=1e-2, updates=2, batch_size=16)
    torch.manual_seed(0)
    model = MADE(3, hidden=(8,))
    twin = MADE(3, hidden=(8,))
    twin.load_state_dict(model.state_dict())
    inner, alone = logged(), make(twin)
    venv = RewardModelVecEnv(inner, make(model), steps=4, normalise=False)
    venv.reset()
    history: list[Transitions] = []
    for step, (_, rewards, _, _) in enumerate(drive(venv, 13)):
        happened = truth(inner, step)
        expected = happened.reward + alone.reward(happened)
        np.testing.assert_allclose(rewards, expected.numpy(), rtol=1e-6)
        history.append(happened)
        if len(history) == 4:
            fields = vars(happened)
            alone.update(
                Transitions(*(torch.cat([getattr(t, f) for t in history]) for f in fields))
            )
            history = []


def test_bonuses_are_divided_by_the_deviation_of_their_returns() -> None:
    inner, model = logged(), Recorder()
    venv = RewardModelVecEnv(inner, model, weight=0.3, steps=5, discount=0.9)
    venv.reset()
    returns, now = [np.zeros(3)], np.zeros(3)
    for step, (_, rewards, dones, _) in enumerate(drive(venv, 12)):
        paid = model.pay(model.read[step]).numpy()
        now = 0.9 * now + paid
        returns.append(now)
        bonus = 0.3 * paid / np.std(returns)
        np.testing.assert_allclose(rewards - truth(inner, step).reward.numpy(), bonus, atol=1e-5)
        assert np.abs(bonus).max() < 2  # also that of the first step
        now = now * ~dones


def test_two_models_add_up_and_evaluation_is_of_the_task() -> None:
    first, second = Recorder(), Recorder()
    inner = logged()
    one = RewardModelVecEnv(inner, first, normalise=False)
    both = RewardModelVecEnv(one, second, weight=2.0, normalise=False)
    both.reset()
    for step, (_, rewards, _, infos) in enumerate(drive(both, 6)):
        task = truth(inner, step).reward
        bonus = 3.0 * first.pay(first.read[step])
        np.testing.assert_allclose(rewards, task + bonus, rtol=1e-5)
        np.testing.assert_allclose([info["rlgen/bonus"] for info in infos], bonus, rtol=1e-5)
        assert [info["rlgen/reward"] for info in infos] == task.tolist()
        assert_same(first.read[step], second.read[step])
    one.training = both.training = False
    ((_, rewards, _, _),) = drive(both, 1)
    assert rewards.tolist() == truth(inner, 6).reward.tolist()
    assert len(first.read) == 6


def test_going_on_from_a_file_is_never_having_stopped(tmp_path: Path) -> None:
    def start() -> RewardModelVecEnv:
        torch.manual_seed(0)
        model = PseudoCounts(MADE(104, hidden=(8,)), updates=2, batch_size=16)
        return RewardModelVecEnv(adapters.to_sb3(FourRooms(2)), model, steps=5)

    def go_on(venv: RewardModelVecEnv) -> list[Any]:
        venv.seed(3)
        venv.reset()
        return [rewards for _, rewards, _, _ in drive(venv, 14)]

    whole = start()
    whole.reset()
    drive(whole, 7)
    whole.save(tmp_path / "bonus")
    again = start()
    again.load(tmp_path / "bonus")
    with pytest.raises(ValueError, match="reset"):
        drive(again, 1)
    np.testing.assert_array_equal(go_on(whole), go_on(again))
    assert whole.metrics == again.metrics
    other = RewardModelVecEnv(adapters.to_sb3(FourRooms(2)), TableCounts(), normalise=False)
    with pytest.raises(ValueError, match="normalise"):
        other.load(tmp_path / "bonus")


# -- the algorithms


class Watch(BaseCallback):
    """Keeps the rollouts of an on-policy algorithm as it is about to learn from them."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[dict[str, Any]] = []
        self.ends: list[Any] = []

    def _on_step(self) -> bool:
        self.ends.append(self.locals["dones"])
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        kept = {name: getattr(buffer, name).copy() for name in ("rewards", "values", "advantages")}
        last = self.model.policy.predict_values(torch.tensor(self.locals["new_obs"]))
        self.rollouts.append({**kept, "last": last.detach().numpy().squeeze(1)})


def bonuses() -> list[Callable[[], RewardModel]]:
    return [
        TableCounts,
        lambda: PseudoCounts(MADE(3, hidden=(8,)), updates=1, batch_size=16),
        lambda: RND(VECTOR, updates=1, batch_size=16),
    ]


@pytest.mark.parametrize("make", bonuses(), ids=["table", "pseudo", "rnd"])
@pytest.mark.parametrize("algorithm", [PPO, A2C], ids=["ppo", "a2c"])
def test_rollouts_hold_the_bonus_before_advantages(
    algorithm: Any, make: Callable[[], RewardModel]
) -> None:
    inner = DummyVecEnv([partial(Logged, length=5), partial(Logged, length=7, seed=1)])
    venv = RewardModelVecEnv(VecMonitor(inner), make(), weight=0.1, steps=16, normalise=False)
    paid = []
    pay = venv.reward_model.reward
    venv.reward_model.reward = lambda t: paid.append(pay(t)) or paid[-1]  # type: ignore
    watch = Watch()
    options = {"n_epochs": 1, "batch_size": 8} if algorithm is PPO else {}
    agent = algorithm("MlpPolicy", venv, n_steps=16, gamma=0.9, gae_lambda=0.8, seed=0, **options)
    agent.learn(64, callback=watch)
    assert len(watch.rollouts) == 2
    assert [e["r"] for e in agent.ep_info_buffer][:2] == [15.0, 28.0]  # of the task alone
    bonus = torch.stack(paid).numpy()
    task = np.array([[env.log[t][2] for env in inner.envs] for t in range(32)])
    for k, kept in enumerate(watch.rollouts):
        span = slice(16 * k, 16 * k + 16)
        expected = task[span] + 0.1 * bonus[span]
        np.testing.assert_allclose(kept["rewards"], expected, rtol=1e-5)
        after, value = np.zeros(2), kept["last"]
        for t in reversed(range(16)):
            goes_on = ~watch.ends[16 * k + t]
            error = expected[t] + 0.9 * goes_on * value - kept["values"][t]
            after, value = error + 0.9 * 0.8 * goes_on * after, kept["values"][t]
            np.testing.assert_allclose(kept["advantages"][t], after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", bonuses(), ids=["table", "pseudo", "rnd"])
def test_replay_buffers_hold_the_bonus(make: Callable[[], RewardModel]) -> None:
    inner = DummyVecEnv([Logged])
    venv = RewardModelVecEnv(inner, make(), steps=8, weight=0.1)
    agent = DQN("MlpPolicy", venv, learning_starts=10, batch_size=8, buffer_size=100, seed=0)
    seen: list[Any] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append(local["rewards"][0])
        return True

    agent.learn(40, callback=watch)
    kept = agent.replay_buffer.rewards[:40, 0]
    np.testing.assert_allclose(kept, seen, rtol=1e-6)
    task = np.array([step[2] for step in inner.envs[0].log])
    assert (kept > task).all()


def test_off_policy_with_real_actions_and_normalised_observations() -> None:
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    inner, model = DummyVecEnv([partial(Logged, VECTOR, action_space)]), Recorder()
    venv = RewardModelVecEnv(inner, model, normalise=False)
    agent = SAC("MlpPolicy", VecNormalize(venv), learning_starts=5, batch_size=4, buffer_size=50)
    agent.learn(12)
    expected = [truth(inner, t).reward + model.pay(truth(inner, t)) for t in range(12)]
    np.testing.assert_allclose(agent.replay_buffer.rewards[:12, 0], torch.cat(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="VecNormalize around"):
        RewardModelVecEnv(VecNormalize(inner), model)


def test_what_does_not_fit_is_refused() -> None:
    venv = logged()
    for wrong in (object(), TableCounts):
        with pytest.raises(TypeError, match="needs reward, update, state_dict"):
            RewardModelVecEnv(venv, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="VecEnv"):
        RewardModelVecEnv(gymnasium.make("CartPole-v1"), TableCounts())  # type: ignore[arg-type]
    for options in ({"weight": -1.0}, {"weight": float("nan")}, {"steps": 0}, {"steps": 2.5},
                    {"discount": 1.5}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            RewardModelVecEnv(venv, TableCounts(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reset"):
        drive(RewardModelVecEnv(venv, TableCounts()), 1)

    class Wrong(Recorder):
        def pay(self, t: Transitions) -> Tensor:
            return torch.full((3,), float("nan"))

    broken = RewardModelVecEnv(venv, Wrong())
    broken.reset()
    with pytest.raises(ValueError, match="Wrong paid what is not finite"):
        drive(broken, 1)


# -- encoders


def unlike(one: Any, other: Any) -> list[str]:
    """The names of tensors that differ."""
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


def symbol_vae() -> VAE:
    torch.manual_seed(1)
    return VAE((7, 7, 3), head=heads.Categorical(11), latent=5, hidden=(16,))


@pytest.mark.parametrize("train", [False, True], ids=["frozen", "trained"])
def test_features_are_the_means_of_codes_and_stay_so(train: bool, tmp_path: Path) -> None:
    """Symbols in MiniGrid's order, which Stable-Baselines3 turns and divides by 255."""
    vae = symbol_vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    venv = adapters.to_sb3(MiniGrid("MiniGrid-Empty-5x5-v0", num_envs=4))
    kwargs = {
        "features_extractor_class": GenerativeFeatures,
        "features_extractor_kwargs": {"encoder": vae, "train": train},
    }
    agent = PPO("MlpPolicy", venv, policy_kwargs=kwargs, n_steps=16, batch_size=32, seed=0)
    extractor = agent.policy.features_extractor
    assert not unlike(before, extractor.encoder.state_dict())  # not initialised anew
    turned = torch.tensor(agent.get_env().reset())
    assert turned.shape == (4, 3, 7, 7)
    expected = vae.encode(as_data(turned.movedim(1, -1), vae)).mean
    torch.testing.assert_close(agent.policy.extract_features(turned), expected)
    agent.learn(128)
    assert agent.policy.training and extractor.encoder.training == train
    assert not unlike(before, vae.state_dict())
    assert bool(unlike(before, extractor.encoder.state_dict())) == train
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent")
    assert not unlike(agent.policy.state_dict(), again.policy.state_dict())
    old, new = agent.policy.extract_features(turned), again.policy.extract_features(turned)
    assert torch.equal(old, new)
    agent.policy.save(tmp_path / "policy")
    policy = type(agent.policy).load(tmp_path / "policy")
    assert torch.equal(policy.extract_features(turned), old)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: VAE(3, latent=2),
        lambda: VQVAE(3, codes=8, latent=2).double(),
        lambda: CPC(3, context_shape=2, features=4),
    ],
    ids=["vae", "vqvae", "cpc"],
)
def test_any_encoder_serves_both_networks_of_dqn(encoder: Callable[[], GenerativeModel]) -> None:
    model: Any = encoder()
    kwargs = {
        "features_extractor_class": GenerativeFeatures,
        "features_extractor_kwargs": {"encoder": model},
    }
    agent = DQN("MlpPolicy", DummyVecEnv([Logged]), policy_kwargs=kwargs, learning_starts=4,
                batch_size=4, buffer_size=50, target_update_interval=8, train_freq=2, seed=0,
    )  # fmt: skip
    agent.learn(20)
    obs = torch.rand(6, 3)
    expected = model.encode(obs.to(model.dtype)).mean.flatten(1).float()
    for net in (agent.policy.q_net, agent.policy.q_net_target):
        torch.testing.assert_close(net.extract_features(obs, net.features_extractor), expected)
        assert not any(p.requires_grad for p in net.features_extractor.parameters())


def test_minigrid_itself_with_its_dictionaries(tmp_path: Path) -> None:
    def only_numbers(env: Any) -> Any:
        return gymnasium.wrappers.FilterObservation(env, ["image", "direction"])

    inner = make_vec_env("MiniGrid-Empty-5x5-v0", 2, wrapper_class=only_numbers, seed=0)
    venv = RewardModelVecEnv(inner, HashCounts(), weight=0.01, steps=16)
    kwargs = {
        "features_extractor_class": GenerativeFeatures,
        "features_extractor_kwargs": {
            "encoder": symbol_vae(),
            "features": lambda obs: obs["image"].movedim(1, -1),
        },
    }
    agent = PPO("MultiInputPolicy", venv, policy_kwargs=kwargs, n_steps=16, batch_size=16, seed=0)
    agent.learn(64)
    agent.save(tmp_path / "agent")
    PPO.load(tmp_path / "agent")
    assert 2 < venv.metrics["distinct"] <= 64


def test_what_the_policy_sees_is_undone() -> None:
    torch.manual_seed(0)
    space = spaces.Dict({"state": spaces.Discrete(3), "pair": spaces.MultiDiscrete([2, 3]),
                         "place": VECTOR})  # fmt: skip
    encoder = VAE(6, latent=2)
    seen: Any = {name: stacked([space.sample()[name] for _ in range(5)]) for name in space}
    extractor = GenerativeFeatures(space, encoder)
    given = {**seen, "state": seen["state"].squeeze(1)}
    means = extractor(preprocess_obs(given, space))
    torch.testing.assert_close(means, encoder.encode(flat(seen)).mean)


def test_encoders_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match="GenerativeFeatures needs an encoder"):
        GenerativeFeatures(VECTOR, MADE(3))
    with pytest.raises(ValueError, match="context"):
        GenerativeFeatures(VECTOR, VAE(3, context_shape=2))
    with pytest.raises(ValueError, match="events of shape"):
        GenerativeFeatures(VECTOR, VAE(4))
    turned = spaces.Box(0, 255, (3, 7, 7), np.uint8)
    for space in (turned, spaces.Dict({"image": turned})):
        with pytest.raises(ValueError, match="channels"):
            GenerativeFeatures(space, VAE(147))
    with pytest.raises(ValueError, match="normalize_images"):
        GenerativeFeatures(turned, symbol_vae())(torch.full((1, 3, 7, 7), 8.0))


@pytest.mark.gpu
def test_models_on_an_accelerator_get_their_steps_there() -> None:
    model = PseudoCounts(MADE(3, hidden=(8,)).to("cuda"), updates=1, batch_size=16)
    venv = RewardModelVecEnv(logged(), model, steps=4)
    assert venv.device.type == "cuda"
    venv.reset()
    assert all(np.isfinite(rewards).all() for _, rewards, _, _ in drive(venv, 9))

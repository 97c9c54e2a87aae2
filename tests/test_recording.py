"""Recording against hand-written loops: nothing is lost at the end of an episode, or favoured."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents import PPO, ActorCritic, Policy
from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.imitation.recording import record
from rlgen.agents.transitions import flat
from rlgen.envs import FourRooms, OpenWorld, adapters
from rlgen.envs.world import World
from rlgen.seeding import drawing_from, mix
from tests.short_worlds import SHORT

ROOT = Path(__file__).resolve().parent.parent
Call = Callable[..., tuple[int, str, str]]
SCRIPT = "record_demonstrations"  # that `call` calls


def gym_world(id: str, copies: int) -> World:
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    venv = gymnasium.make_vec(id, copies, vectorization_mode="sync", vector_kwargs=same_step)
    return adapters.from_gymnasium(venv)


def random_actions(count: int) -> Any:
    def act(obs: Tensor) -> Tensor:
        return torch.randint(count, (len(obs),))

    return act


def by_hand(world: World, act: Any, shares: list[int], seed: int) -> list[list[Trajectory]]:
    """One copy after the other, step by step, from one log of everything."""
    log: list[Any] = []
    with drawing_from(mix(seed, 3)):
        obs = world.reset(seed)
        counts = [0] * world.num_envs
        while any(c < s for c, s in zip(counts, shares, strict=True)):
            action = act(obs)
            step = world.step(action)
            log.append((flat(obs), action, step, flat(step.final_obs)))
            counts = [c + int(step.done[i]) for i, c in enumerate(counts)]
            obs = step.obs
    found: list[list[Trajectory]] = []
    for i, share in enumerate(shares):
        mine: list[Trajectory] = []
        seen, did, paid = [], [], []
        for before, action, step, final in log:
            seen.append(before[i])
            did.append(action[i])
            paid.append(step.reward[i])
            if step.done[i] and len(mine) < share:
                mine.append(
                    Trajectory(
                        torch.stack([*seen, final[i]]),
                        torch.stack(did),
                        bool(step.terminated[i]),
                        bool(step.truncated[i]),
                        torch.stack(paid),
                    )
                )
            if step.done[i]:
                seen, did, paid = [], [], []
        found.append(mine)
    return found


def same(a: Trajectory, b: Trajectory) -> bool:
    assert a.reward is not None and b.reward is not None
    pairs = ((a.obs, b.obs), (a.action, b.action), (a.reward, b.reward))
    flags = (a.terminated, a.truncated) == (b.terminated, b.truncated)
    return flags and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def rounds(found: list[list[Trajectory]]) -> list[Trajectory]:
    most = max(map(len, found))
    return [mine[k] for k in range(most) for mine in found if k < len(mine)]


@pytest.mark.parametrize("make", SHORT)
@pytest.mark.parametrize(("episodes", "shares"), [(7, [2, 2, 3]), (2, [0, 1, 1]), (1, [0, 0, 1])])
def test_it_is_in_lockstep_with_a_loop_by_hand(make: Any, episodes: int, shares: Any) -> None:
    act = random_actions(3)
    recorded = record(make(3), act, episodes, seed=4)
    expected = rounds(by_hand(make(3), act, shares, 4))
    assert len(recorded) == episodes
    assert all(map(same, recorded, expected))
    world = make(3)
    recorded.check(world.observation_space, world.action_space)


@pytest.mark.parametrize("id", ["CartPole-v1", "MiniGrid-Empty-5x5-v0"])
def test_gymnasium_worlds_too(id: str) -> None:
    recorded = record(gym_world(id, 2), random_actions(2), 3, seed=1)
    expected = rounds(by_hand(gym_world(id, 2), random_actions(2), [1, 2], 1))
    assert all(map(same, recorded, expected))
    world = gym_world(id, 2)
    recorded.check(world.observation_space, world.action_space)


def test_the_last_observation_is_the_goal_and_not_the_next_start() -> None:
    world = OpenWorld(3, size=4, start=(0, 0), goal=(0, 3), observation="xy")
    recorded = record(world, lambda obs: torch.full((3,), 3), 6)
    for one in recorded:
        assert (one.terminated, one.truncated, len(one)) == (True, False, 3)
        assert one.obs[:, 1].tolist() == pytest.approx([-1.0, -1 / 3, 1 / 3, 1.0])
    assert recorded.returns().tolist() == [1.0] * 6


def test_time_that_ran_out_is_truncated_and_both_can_be() -> None:
    world = OpenWorld(2, size=4, start=(0, 0), goal=(0, 3), max_steps=3)
    up = record(world, lambda obs: torch.zeros(2, dtype=torch.int64), 2)
    assert [(one.terminated, one.truncated, len(one)) for one in up] == [(False, True, 3)] * 2
    right = record(world, lambda obs: torch.full((2,), 3), 2)
    assert [(one.terminated, one.truncated) for one in right] == [(True, True)] * 2


class Uneven:
    """Copy i has episodes of i + 1 steps, which are paid i."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    device = torch.device("cpu")

    def __init__(self, copies: int) -> None:
        self.num_envs = copies

    def reset(self, seed: int | None = None) -> Tensor:
        self.time = torch.zeros(self.num_envs)
        return self.time[:, None].clone()

    def step(self, action: Tensor) -> Any:
        from rlgen.envs.world import Step

        time = self.time + 1
        number = torch.arange(self.num_envs)
        done = time == number + 1
        self.time = time * ~done
        seen = self.time[:, None].clone()
        return Step(seen, number.float(), done, torch.zeros_like(done), lambda: time[:, None])


def test_short_episodes_are_not_favoured_and_come_in_rounds() -> None:
    recorded = record(Uneven(4), lambda obs: torch.zeros(4, dtype=torch.int64), 10)
    assert [len(one) for one in recorded] == [1, 2, 3, 4, 1, 2, 3, 4, 3, 4]
    for one in recorded:
        assert one.obs.flatten().tolist() == list(range(len(one) + 1))


def test_each_episode_is_handed_over_when_it_ends() -> None:
    given: list[Demonstrations] = []
    act = random_actions(4)
    made = record(FourRooms(2, max_steps=5), act, 5, seed=2, on_episode=given.append)
    assert [len(one) for one in given] == [2, 4, 5]
    assert all(map(same, given[-1], made))


def test_the_same_seed_gives_the_same_and_leaves_torch_alone() -> None:
    policy = Policy.of(*spaces_of(FourRooms(2)))
    before = torch.get_rng_state()
    first, again = (record(FourRooms(2, max_steps=9), policy, 4, seed=3) for _ in range(2))
    other = record(FourRooms(2, max_steps=9), policy, 4, seed=4)
    assert all(map(same, first, again)) and not all(map(same, first, other))
    assert torch.equal(torch.get_rng_state(), before)


def spaces_of(world: World) -> tuple[Any, Any]:
    return world.observation_space, world.action_space


def test_all_that_act_do_the_same() -> None:
    agent = PPO(FourRooms(3, max_steps=8, seed=0), steps=4).learn(24, progress=False)
    world = FourRooms(3, max_steps=8)
    wanted = record(world, agent, 5, deterministic=True)
    others = (agent.model, agent.model.policy, agent.predict)
    for other in others:
        assert all(map(same, wanted, record(world, other, 5, deterministic=True)))


def test_a_memory_goes_along_and_begins_anew_with_each_episode() -> None:
    class Counts:
        def act(
            self, obs: Any, state: Any, episode_start: Any, *, deterministic: bool
        ) -> tuple[Tensor, Any]:
            zero = torch.zeros(len(obs), dtype=torch.int64)
            state = zero if state is None else state * ~episode_start
            return state % 4, state + 1

    recorded = record(FourRooms(2, max_steps=6, slip=0.1), Counts(), 6)
    for one in recorded:
        assert one.action.tolist() == [t % 4 for t in range(len(one))]

    world = FourRooms(2, max_steps=6)
    model = ActorCritic(Policy.of(*spaces_of(world), memory=3))
    recorded = record(world, model, 2, deterministic=True)
    state = model.initial_state(1)
    for seen, did in zip(
        recorded.trajectories[0].obs, recorded.trajectories[0].action, strict=False
    ):
        pi, _, state = model.act(seen[None], state)
        assert int(pi.mode) == int(did)


def test_stable_baselines_models_are_asked_in_their_way() -> None:
    asked: list[Any] = []

    class Model:
        def predict(
            self,
            obs: Any,
            state: Any = None,
            episode_start: Any = None,
            deterministic: bool = False,
        ) -> tuple[Any, Any]:
            asked.append((type(obs), state, episode_start.tolist(), deterministic))
            return np.full(len(obs), 3), (len(asked),)

    world = OpenWorld(2, size=3, start=(0, 0), goal=(0, 2))
    recorded = record(world, Model(), 2, deterministic=True)
    assert [one.action.tolist() for one in recorded] == [[3, 3]] * 2
    assert asked == [
        (np.ndarray, None, [True, True], True),
        (np.ndarray, (1,), [False, False], True),
    ]


@pytest.mark.slow
def test_a_real_model_of_stable_baselines() -> None:
    from stable_baselines3 import PPO as Theirs

    world = FourRooms(2, max_steps=10)
    venv = adapters.to_sb3(FourRooms(2, max_steps=10, seed=0))
    model = Theirs("MlpPolicy", venv, n_steps=8, batch_size=16, device="cpu", seed=0)
    recorded = record(world, model, 3, deterministic=True)
    for one in recorded:
        wanted = model.predict(one.obs[:-1].numpy(), deterministic=True)[0]
        assert one.action.tolist() == wanted.tolist()


def test_actions_of_a_box_are_kept_within_it() -> None:
    world = gym_world("Pendulum-v1", 1)
    recorded = record(world, lambda obs: torch.full((1, 1), 9.0), 1)
    assert recorded.trajectories[0].action.unique().tolist() == [2.0]
    recorded.check(world.observation_space, world.action_space)


def test_what_cannot_act_is_refused() -> None:
    policy: Any = 3
    with pytest.raises(ValueError, match=r"'policy' must have act or predict.*int"):
        record(FourRooms(1), policy, 1)
    with pytest.raises(ValueError, match="'episodes' must be positive, got 0"):
        record(FourRooms(1), random_actions(4), 0)


def test_help_shows_every_option(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for option in ("world", "by", "episodes", "copies", "observation", "start", "goal", "slip"):
        assert f"--{option}" in out
    for option in ("max-steps", "deterministic", "seed", "add", "out", "minari"):
        assert f"--{option}" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--world", "Nowhere-v0"), "'Nowhere-v0'"),
        (("--world", "CartPole-v1"), "--by shortest"),
        (("--world", "CartPole-v1", "--by", "keyboard"), "--by keyboard"),
        (("--world", "MiniGrid-Empty-5x5-v0", "--goal", "3", "3", "--by", "keyboard"), "keyboard"),
        (("--world", "CartPole-v1", "--observation", "xy"), "--observation"),
        (("--by", "luck"), "'luck'"),
        (("--by", "first"), "OpenWorld"),
        (("--by", "routes"), "(1, 1) and (11, 11)"),
        (("--by", "keyboard"), "terminal"),
        (("--observation", "smell"), "smell"),
        (("--start", "0", "0"), "'start'"),
        (("--goal", "3"), "--goal"),
        (("--slip", "2"), "--slip"),
        (("--episodes", "0"), "--episodes"),
        (("--copies", "many"), "many"),
        (("--seed", "-1"), "--seed"),
        (("--max-steps", "-1"), "--max-steps"),
        (("--epsiodes", "3"), "--epsiodes"),
        (("--out", "there/walks.txt"), ".npz"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert named in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_files_that_cannot_be_are_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("something else")
    (tmp_path / "folder").mkdir()
    for arguments, named in (
        (("--out", str(tmp_path / "a.npz")), "--add"),
        (("--out", str(tmp_path / "a.npz"), "--add"), "no whole .npz file"),
        (("--out", str(tmp_path / "a.npz" / "b.npz")), "cannot be written"),
        (("--out", str(tmp_path / "b.npz"), "--minari", str(tmp_path / "folder")), "--minari"),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert named in err
    assert (tmp_path / "a.npz").read_text() == "something else"
    assert not (tmp_path / "b.npz").exists()


def test_a_planned_expert_is_recorded_and_added_to(call: Call, tmp_path: Path) -> None:
    where = ("--out", str(tmp_path / "a.npz"), "--world", "OpenWorld", "--start", "0", "0")
    code, out, err = call(*where, "--episodes", "5", "--copies", "2", "--by", "first")
    assert (code, err) == (0, "")
    first = Demonstrations.load(tmp_path / "a.npz")
    assert [len(one) for one in first] == [18] * 5
    code, out, err = call(*where, "--episodes", "3", "--slip", "0.5", "--add")
    assert (code, err) == (0, "") and "before" in out
    both = Demonstrations.load(tmp_path / "a.npz")
    assert len(both) == 8 and all(map(same, first, both[:5]))
    code, _, err = call(*where, "--episodes", "3", "--observation", "xy", "--add")
    assert (code, err.count("\n")) == (2, 1) and "trajectory 0, step 0: 'obs'" in err
    assert len(Demonstrations.load(tmp_path / "a.npz")) == 8


def test_what_is_added_is_new_though_the_seed_is_the_same(call: Call, tmp_path: Path) -> None:
    where = ("--out", str(tmp_path / "a.npz"), "--slip", "0.3", "--copies", "1", "--episodes", "2")
    assert call(*where)[0] == call(*where, "--add")[0] == 0
    made = Demonstrations.load(tmp_path / "a.npz")
    keys = {tuple(one.obs.argmax(1).tolist()) for one in made}
    assert len(made) == len(keys) == 4


def test_the_same_in_minaris_format(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    code, _, err = call("--out", str(tmp_path / "a.npz"), "--minari", str(tmp_path / "walk-v0"))
    assert (code, err) == (0, "")
    files = (Demonstrations.load(tmp_path / name) for name in ("a.npz", "walk-v0"))
    assert all(map(same, *files))


def test_a_saved_learner_and_its_policy_are_recorded(call: Call, tmp_path: Path) -> None:
    agent = PPO(FourRooms(4, seed=0), steps=4).learn(16, progress=False)
    agent.save(tmp_path / "agent")
    checkpoint.save(agent.model.policy, tmp_path / "policy")
    wanted = record(FourRooms(3, max_steps=20), agent, 4, deterministic=True, seed=6)
    common = ("--copies", "3", "--max-steps", "20", "--seed", "6", "--episodes", "4")
    for name in ("agent", "policy"):
        file = tmp_path / f"{name}.npz"
        by = ("--by", str(tmp_path / name), "--out", str(file))
        code, _, err = call(*common, *by, "--deterministic")
        assert (code, err) == (0, "")
        assert all(map(same, wanted, Demonstrations.load(file)))
    for world in ("OpenWorld", "CartPole-v1"):
        code, out, err = call("--world", world, "--by", str(tmp_path / "agent"))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "did not learn in a world like" in err
    checkpoint.save(torch_gaussian(), tmp_path / "other")
    code, out, err = call("--by", str(tmp_path / "other"))
    assert (code, out, err.count("\n")) == (2, "", 1) and "does not act" in err


def torch_gaussian() -> Any:
    from rlgen.generative import Gaussian

    return Gaussian(2)


class Terminal:
    """The script in a terminal of its own, whose keys are typed when it waits for them."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self.process, self.file = pty.fork()
        if self.process == 0:
            os.chdir(ROOT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which jobs in the background ignore
            script = str(ROOT / "scripts" / "record_demonstrations.py")
            os.execv(sys.executable, [sys.executable, script, *arguments])

    def until(self, text: str, seconds: float = 60.0) -> None:
        """Read on until `text` is seen in what was not seen before."""
        new, end = "", time.monotonic() + seconds
        while text not in new:
            assert time.monotonic() < end, f"{text!r} was not seen in {self.shown[-2000:]}"
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    part = os.read(self.file, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    part = ""
                assert part, f"{text!r} was not seen in {self.shown[-2000:]}"
                new += part
                self.shown += part

    def type(self, keys: bytes) -> None:
        os.write(self.file, keys)

    def ended(self, seconds: float = 60.0) -> int:
        """The exit code, once all that was written is read."""
        while True:
            if not select.select([self.file], [], [], seconds)[0]:
                os.kill(self.process, signal.SIGKILL)
            try:
                if not os.read(self.file, 65536):
                    break
            except OSError:
                break
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.file)
        return code


WALK = ("--by", "keyboard", "--world", "OpenWorld", "--start", "0", "0", "--goal", "0", "2")


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_by_hand_every_episode_is_saved_when_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "hand.npz"
    terminal = Terminal(*WALK, "--episodes", "3", "--out", str(file))
    terminal.until("Episode 1 of 3, step 0.")
    terminal.type(b"\x1b[Cx")  # right, and a key that means nothing
    terminal.until("step 1.")
    terminal.type(b"\x1bOC")  # right, as other terminals send it
    terminal.until("Episode 2 of 3, step 0.  The last one: return 1 in 2 steps.")
    assert [one.action.tolist() for one in Demonstrations.load(file)] == [[3, 3]]
    terminal.type(b"\x1b[B\x1b[C\x1b[A\x1b[D\x1b[C\x1b[C")
    terminal.until("Episode 3 of 3, step 0.")
    terminal.type(b"\x1b[Cq")  # the third is not finished
    terminal.until("recorded")
    assert terminal.ended() == 0
    found = Demonstrations.load(file)
    assert [one.action.tolist() for one in found] == [[3, 3], [1, 3, 0, 2, 3, 3]]
    assert [one.obs.argmax(1).tolist() for one in found] == [
        [0, 1, 2],
        [0, 10, 11, 1, 0, 1, 2],
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_what_was_finished_by_hand_outlives_any_end(tmp_path: Path, end: str) -> None:
    file = tmp_path / "hand.npz"
    terminal = Terminal(*WALK, "--out", str(file))
    terminal.until("Episode 1 of 10, step 0.")
    terminal.type(b"\x1b[C\x1b[C\x1b[C")
    terminal.until("Episode 2 of 10, step 1.")
    if end == "killed":
        os.kill(terminal.process, signal.SIGKILL)
    else:
        terminal.type(b"\x03")
    assert terminal.ended() == (-signal.SIGKILL if end == "killed" else 0)
    assert [one.action.tolist() for one in Demonstrations.load(file)] == [[3, 3]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_minigrid_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "hand.npz"
    world = ("--world", "MiniGrid-Empty-5x5-v0", "--by", "keyboard")
    terminal = Terminal(*world, "--episodes", "1", "--out", str(file))
    terminal.until("Left and right turn")
    terminal.type(b"\x1b[A\x1b[A\x1b[C\x1b[A\x1b[A")  # on, on, right, on, on
    terminal.until("recorded")
    assert terminal.ended() == 0
    one = Demonstrations.load(file).trajectories[0]
    assert one.action.tolist() == [2, 2, 1, 2, 2]
    assert one.terminated and float(one.reward.sum()) > 0.0  # type: ignore[union-attr]

"""Demonstrations come back bit for bit, and what is wrong with a file is said where it is."""

import dataclasses
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.transitions import flat

Arrays = dict[str, Any]


def made(
    *lengths: int,
    obs: Callable[[int], torch.Tensor] | None = None,
    action: Callable[[int], torch.Tensor] | None = None,
    reward: bool = True,
) -> Demonstrations:
    """Random episodes, every other one out of time."""
    obs = obs or (lambda n: torch.randn(n, 3))
    action = action or (lambda n: torch.randint(4, (n,)))
    return Demonstrations(
        tuple(
            Trajectory(
                obs(n + 1),
                action(n),
                terminated=i % 2 == 0,
                truncated=i % 2 == 1,
                reward=torch.randn(n) if reward else None,
            )
            for i, n in enumerate(lengths)
        )
    )


def same(a: Demonstrations, b: Demonstrations) -> bool:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
        for name in ("obs", "action", "reward"):
            x, y = getattr(one, name), getattr(other, name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and torch.equal(x, y))
    return True


KINDS: dict[str, Arrays] = {
    "floats": {},
    "float64": {"obs": lambda n: torch.randn(n, 2, dtype=torch.float64)},
    "pictures": {"obs": lambda n: torch.randint(256, (n, 3, 5, 4)).to(torch.uint8)},
    "numbers": {"obs": lambda n: torch.randint(9, (n,))},
    "vectors": {"action": lambda n: torch.rand(n, 2)},
    "small": {"action": lambda n: torch.randint(2, (n,)).to(torch.int32)},
    "unpaid": {"reward": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_every_bit(tmp_path: Path, kind: str) -> None:
    before = made(3, 1, 6, **KINDS[kind])
    before.save(tmp_path / "a.npz")
    assert same(before, Demonstrations.load(tmp_path / "a.npz"))
    assert [f.name for f in tmp_path.iterdir()] == ["a.npz"]


def test_rewards_may_be_known_of_some(tmp_path: Path) -> None:
    paid, unpaid = made(2, 3), made(4, reward=False)
    before = Demonstrations((paid.trajectories[0], unpaid.trajectories[0], paid.trajectories[1]))
    before.save(tmp_path / "a.npz")
    again = Demonstrations.load(tmp_path / "a.npz")
    assert same(before, again)
    with pytest.raises(ValueError, match="trajectory 1 has no 'reward'"):
        again.returns()
    assert again.transitions().reward[2:6].tolist() == [0.0] * 4


def test_the_parts_of_a_file_do_not_share_memory(tmp_path: Path) -> None:
    made(2, 2).save(tmp_path / "a.npz")
    first, second = Demonstrations.load(tmp_path / "a.npz").trajectories
    sizes = [one.obs.untyped_storage().nbytes() for one in (first, second)]
    assert sizes == [9 * 4, 9 * 4]


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(3)
    before.save(tmp_path / "a.npz")

    def fails(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fails)
    with pytest.raises(OSError, match="no space"):
        made(5).save(tmp_path / "a.npz")
    assert same(before, Demonstrations.load(tmp_path / "a.npz"))
    assert [f.name for f in tmp_path.iterdir()] == ["a.npz"]


def test_steps_returns_and_transitions() -> None:
    one = Trajectory(
        torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([5, 6]), True, False, torch.ones(2)
    )
    two = Trajectory(torch.tensor([[7.0], [8.0]]), torch.tensor([4]), False, True, -torch.ones(1))
    both = Demonstrations((one, two))
    assert (len(both), both.steps, both.returns().tolist()) == (2, 3, [2.0, -1.0])
    assert both.returns().dtype == torch.float64
    steps = both.transitions()
    assert steps.obs.flatten().tolist() == [0.0, 1.0, 7.0]
    assert steps.next_obs.flatten().tolist() == [1.0, 2.0, 8.0]
    assert steps.action.tolist() == [5, 6, 4]
    assert steps.reward.tolist() == [1.0, 1.0, -1.0]
    assert steps.terminated.tolist() == [False, True, False]
    assert steps.truncated.tolist() == [False, False, True]


def test_some_of_them() -> None:
    all_of = made(1, 2, 3, 4)
    assert [len(one) for one in all_of[1:3]] == [2, 3]
    assert [len(one) for one in all_of[[3, 0]]] == [4, 1]
    assert [len(one) for one in all_of[torch.tensor([2])]] == [3]  # type: ignore[index]
    assert all_of[:1].trajectories[0] is all_of.trajectories[0]
    with pytest.raises(ValueError, match="must not be empty"):
        all_of[4:]
    with pytest.raises(TypeError, match=r"\.trajectories\[2\]"):
        all_of[2]  # type: ignore[index]


def test_they_are_frozen_and_move() -> None:
    one = made(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.trajectories = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.trajectories[0].terminated = False  # type: ignore[misc]
    assert same(one.to("cpu"), one)


def test_dictionaries_are_made_flat() -> None:
    parts: Any = {"b": torch.rand(3, 2), "a": torch.randint(4, (3,))}
    one = Trajectory(parts, torch.tensor([0, 1]), True, False)
    assert torch.equal(one.obs, flat(parts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": torch.zeros(3, 1)}, "'obs' must hold 3 observations"),
        ({"action": torch.zeros(0)}, "'action' must hold a step or more"),
        ({"reward": torch.zeros(3)}, r"'reward' must have shape \(2,\), got \(3,\)"),
        ({"reward": torch.zeros(2).long()}, "'reward' must hold floats"),
        ({"terminated": False}, "must be truncated, got neither"),
        ({"terminated": 1}, "'terminated' must be True or False, got 1"),
        ({"obs": np.zeros((3, 1))}, "'obs' must be a tensor, got ndarray"),
        ({"obs": torch.tensor([[0.0], [0.0], [torch.nan]])}, "step 2: 'obs' must be finite"),
        ({"action": torch.tensor([[0.0], [torch.inf]])}, "step 1: 'action' must be finite"),
        ({"reward": torch.tensor([torch.nan, 0.0])}, "step 0: 'reward' must be finite, got nan"),
    ],
)
def test_a_trajectory_is_checked_when_it_is_made(change: Arrays, message: str) -> None:
    right = {"obs": torch.zeros(3, 1), "action": torch.zeros(2), "reward": torch.zeros(2)}
    ends = {"terminated": True, "truncated": False}
    if "obs" in change and message.startswith("'obs' must hold"):
        change = {"obs": torch.zeros(4, 1)}
    with pytest.raises(ValueError, match=message):
        Trajectory(**{**right, **ends, **change})


def test_all_must_be_of_one_kind() -> None:
    for other in (made(2, obs=lambda n: torch.randn(n, 4)), made(2, **KINDS["vectors"])):
        with pytest.raises(ValueError, match=r"trajectory 1: '(obs|action)' must be torch"):
            Demonstrations((*made(3).trajectories, *other.trajectories))
    with pytest.raises(ValueError, match="'trajectories' must not be empty"):
        Demonstrations(())


def changed(where: int, step: int, name: str, value: Any) -> Demonstrations:
    parts = list(made(3, 3, 3, obs=lambda n: torch.rand(n, 3)))
    tensor = getattr(parts[where], name).clone()
    tensor[step] = value
    parts[where] = dataclasses.replace(parts[where], **{name: tensor})
    return Demonstrations(tuple(parts))


SEEN = spaces.Box(0.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("demonstrations", "seen", "done", "message"),
    [
        (changed(1, 2, "obs", 1.5), SEEN, 4, r"trajectory 1, step 2: 'obs'.*got 1\.5 at \(0,\)"),
        (changed(2, 3, "obs", -0.5), SEEN, 4, "trajectory 2, step 3: 'obs'"),
        (changed(1, 2, "action", 4), SEEN, 4, "trajectory 1, step 2: 'action'.*Discrete.*got 4"),
        (changed(0, 1, "action", -1), SEEN, 4, "trajectory 0, step 1: 'action'.*got -1"),
        (made(2), spaces.Box(0, 1, (4,)), 4, r"trajectory 0, step 0: 'obs' must have shape \(4,"),
        (made(2), spaces.Box(-9, 9, (3,), np.float64), 4, "'obs' must be torch.float64"),
        (made(2, **KINDS["vectors"]), spaces.Box(-9, 9, (3,)), 4, "'action' must have shape"),
        (made(2, action=torch.rand), spaces.Box(-9, 9, (3,)), 4, "'action' must be torch.int64"),
    ],
)
def test_what_lies_outside_a_space_is_named(
    demonstrations: Demonstrations, seen: spaces.Box, done: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        demonstrations.check(seen, spaces.Discrete(done))


def test_what_lies_within_is_fine() -> None:
    inside = changed(0, 0, "obs", 1.0)
    assert inside.check(SEEN, spaces.Discrete(4)) is inside
    small = made(2, obs=lambda n: torch.rand(n, 3), **KINDS["small"])
    small.check(SEEN, spaces.Discrete(2))
    shifted = made(2, obs=lambda n: torch.rand(n, 3), action=lambda n: torch.full((n,), 5))
    shifted.check(SEEN, spaces.Discrete(1, start=5))
    many = made(2, obs=lambda n: torch.rand(n, 3), action=lambda n: torch.ones(n, 2).long())
    many.check(SEEN, spaces.MultiDiscrete([2, 3]))
    with pytest.raises(ValueError, match="trajectory 0, step 0: 'action'"):
        many.check(SEEN, spaces.MultiDiscrete([2, 1]))


def ours() -> Arrays:
    """What a file of ours with trajectories of 2, 3 and 1 steps holds."""
    return {
        "format": np.array(1),
        "length": np.array([2, 3, 1]),
        "obs": np.zeros((9, 2), np.float32),
        "action": np.zeros(6, np.int64),
        "terminated": np.array([True, True, False]),
        "truncated": np.array([False, False, True]),
        "rewarded": np.array([True, True, True]),
        "reward": np.zeros(6, np.float32),
    }


def with_nan(shape: tuple[int, ...], *where: int) -> Any:
    array = np.zeros(shape, np.float32)
    array[where] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": None}, "there is no 'obs', only action, format"),
        ({"reward": None}, "there is no 'reward'"),
        ({"length": None}, "there is no 'length'"),
        ({"format": np.array(2)}, "'format' must be 1 or less"),
        ({"length": np.array([2, 0, 4])}, "'length' must hold positive"),
        ({"length": np.array([2.0, 3.0, 1.0])}, "'length' must hold positive"),
        ({"action": np.zeros(4, np.int64)}, r"trajectory 1, step 2: 'action' has only 2 of 3"),
        ({"obs": np.zeros((3, 2), np.float32)}, r"trajectory 1, step 0: 'obs' has only 0 of 4"),
        ({"obs": np.zeros((10, 2), np.float32)}, "trajectory 2, step 2: 'obs' goes on for 1 more"),
        ({"obs": np.zeros((), np.float32)}, "trajectory 0, step 0: 'obs'"),
        ({"terminated": np.array([True])}, "'terminated' must be 3 booleans"),
        ({"truncated": np.array([1, 1, 1])}, "'truncated' must be 3 booleans.*int64"),
        ({"truncated": np.array([False] * 3)}, "trajectory 2, .*must be truncated, got neither"),
        ({"obs": with_nan((9, 2), 5, 1)}, "trajectory 1, step 2: 'obs' must be finite, got nan"),
        ({"reward": with_nan((6,), 5)}, "trajectory 2, step 0: 'reward' must be finite"),
        ({"reward": np.zeros((6, 2), np.float32)}, r"trajectory 0, 'reward' must have shape \(2,"),
        ({"obs": np.array([["a", "b"]] * 9)}, "trajectory 0, 'obs' must hold numbers"),
        ({"action": np.array([{}] * 6)}, "'action' is pickled, and nothing is ever unpickled"),
    ],
)
def test_a_wrong_file_is_refused_as_a_whole(tmp_path: Path, change: Arrays, message: str) -> None:
    arrays = {name: v for name, v in {**ours(), **change}.items() if v is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as refused:
        Demonstrations.load(tmp_path / "a.npz")
    assert "a.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_right_file_is_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ours())
    assert [len(one) for one in Demonstrations.load(tmp_path / "a.npz")] == [2, 3, 1]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    made(4, 7).save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in {*range(0, len(whole), 97), len(whole) - 1}:
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.npz"):
            Demonstrations.load(tmp_path / "cut.npz")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    made(40).save(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        info = file.getinfo("obs.npy")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[info.header_offset + 200] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="'obs' cannot be read"):
        Demonstrations.load(tmp_path / "a.npz")


class Trap:
    """Whoever unpickles it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([Trap(trap)]))
    with pytest.raises(ValueError, match=r"no whole \.npz file"):
        Demonstrations.load(tmp_path / "a.pkl")
    np.savez(tmp_path / "b.npz", **{**ours(), "obs": np.array([Trap(trap)] * 9)})
    with pytest.raises(ValueError, match="'obs' is pickled"):
        Demonstrations.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **theirs(), infos=np.array([Trap(trap)] * 6))
    Demonstrations.load(tmp_path / "c.npz")  # imitation's infos are pickled, and left alone
    assert not trap.exists()


def theirs(**change: Any) -> Arrays:
    """What imitation's old files hold: `indices` are where all but the first begin."""
    arrays = {
        "obs": np.arange(18, dtype=np.float32).reshape(9, 2),
        "acts": np.arange(6),
        "indices": np.array([2, 5]),
        "terminal": np.array([True, False, True]),
        "rews": np.arange(6, dtype=np.float32),
    }
    return {name: v for name, v in {**arrays, **change}.items() if v is not None}


def test_old_files_of_imitation(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **theirs())
    found = Demonstrations.load(tmp_path / "a.npz")
    assert [one.action.tolist() for one in found] == [[0, 1], [2, 3, 4], [5]]
    assert [one.obs[:, 0].tolist() for one in found] == [[0, 2, 4], [6, 8, 10, 12], [14, 16]]
    assert [(one.terminated, one.truncated) for one in found] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert found.returns().tolist() == [1.0, 9.0, 5.0]
    np.savez(tmp_path / "b.npz", **theirs(rews=None))
    assert Demonstrations.load(tmp_path / "b.npz").trajectories[0].reward is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminal": None}, "there is no 'terminal', only acts"),
        ({"indices": None}, "there is no 'indices'"),
        ({"indices": np.array([2])}, "'indices' must tell 3 trajectories apart"),
        ({"indices": np.array([5, 2])}, "trajectory 1, 'indices' and 'acts' leave it no steps"),
        ({"obs": np.zeros((7, 2))}, "trajectory 2, step 0: 'obs' has only 0 of 2 rows"),
        ({"rews": np.zeros(5)}, "trajectory 2, step 0: 'rews' has only 0 of 1 rows"),
    ],
)
def test_wrong_files_of_imitation(tmp_path: Path, change: Arrays, message: str) -> None:
    np.savez(tmp_path / "a.npz", **theirs(**change))
    with pytest.raises(ValueError, match=message):
        Demonstrations.load(tmp_path / "a.npz")


def test_what_is_not_there_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.npz.*there is nothing there"):
        Demonstrations.load(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match="neither a folder of Minari's"):
        Demonstrations.load(tmp_path)
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"no whole \.npz file"):
        Demonstrations.load(tmp_path / "a.npz")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("h5py", "pyarrow"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="pip install h5py"):
        Demonstrations.load(tmp_path / "m")
    with pytest.raises(ValueError, match="pip install h5py"):
        made(2, obs=lambda n: torch.rand(n, 3)).save_minari(
            tmp_path / "out", SEEN, spaces.Discrete(4)
        )
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "state.json").write_text(json.dumps({"_data_files": []}))
    with pytest.raises(ValueError, match="pip install pyarrow"):
        Demonstrations.load(tmp_path / "h")
    (tmp_path / "m" / "metadata.json").write_text('{"data_format": "arrow"}')
    with pytest.raises(ValueError, match="only its hdf5 is read"):
        Demonstrations.load(tmp_path / "m")


def minari_arrays(steps: int, number: int) -> Arrays:
    """One episode as Minari lays it out, without its infos."""
    ends = np.zeros((2, steps), bool)
    ends[number % 2, -1] = True
    return {
        "observations": np.random.default_rng(number).random((steps + 1, 3)).astype(np.float32),
        "actions": np.arange(steps) % 4,
        "rewards": np.arange(steps, dtype=np.float64),
        "terminations": ends[0],
        "truncations": ends[1],
    }


def write_group(group: Any, arrays: Arrays) -> None:
    for name, array in arrays.items():
        if isinstance(array, dict):
            write_group(group.create_group(name), array)
        elif array is not None:
            group.create_dataset(name, data=array)


def minari_folder(folder: Path, episodes: list[Arrays], seen: Any = None, **more: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, arrays in enumerate(episodes):
            write_group(file.create_group(f"episode_{i}"), arrays)
    metadata = {"total_episodes": len(episodes), "data_format": "hdf5", **more}
    if seen is not None:
        metadata["observation_space"] = json.dumps(seen)
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_minari_folders_are_read(tmp_path: Path) -> None:
    episodes = [minari_arrays(n, i) for i, n in enumerate(range(1, 13))]
    folder = minari_folder(tmp_path / "walk-v0", episodes)
    for place in (folder, folder / "data"):
        found = Demonstrations.load(place)
        assert [len(one) for one in found] == list(range(1, 13))  # 10 after 9, not after 1
        for i, (one, arrays) in enumerate(zip(found, episodes, strict=True)):
            assert np.array_equal(one.obs.numpy(), arrays["observations"])
            assert np.array_equal(one.action.numpy(), arrays["actions"])
            assert one.reward is not None and np.array_equal(one.reward, arrays["rewards"])
            assert (one.terminated, one.truncated) == (i % 2 == 0, i % 2 == 1)


def test_an_episode_of_minari_that_just_stops_is_truncated(tmp_path: Path) -> None:
    stops = {**minari_arrays(3, 0), "terminations": np.zeros(3, bool)}
    found = Demonstrations.load(minari_folder(tmp_path / "a", [stops]))
    assert (found.trajectories[0].terminated, found.trajectories[0].truncated) == (False, True)


def test_parts_of_minari_are_made_flat_and_text_is_left_out(tmp_path: Path) -> None:
    parts: Arrays = {
        "image": np.random.default_rng(0).integers(0, 6, (4, 7, 7, 3)).astype(np.uint8),
        "direction": np.array([0, 1, 2, 3]),
        "mission": np.array([b"go"] * 4, dtype=object),
    }
    import h5py

    parts["mission"] = parts["mission"].astype(h5py.string_dtype())
    folder = minari_folder(tmp_path / "a", [{**minari_arrays(3, 0), "observations": parts}])
    wanted = flat({name: torch.from_numpy(parts[name]) for name in ("image", "direction")})
    assert torch.equal(Demonstrations.load(folder).trajectories[0].obs, wanted)


def test_pictures_of_minari_may_be_compressed(tmp_path: Path) -> None:
    import io

    from PIL import Image

    pictures = [np.full((32, 40, 3), 60 * i, np.uint8) for i in range(4)]
    rows = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="JPEG")
        rows.append(np.frombuffer(file.getvalue(), np.uint8))
    width = max(map(len, rows))
    padded = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    seen = {"type": "Box", "dtype": "uint8", "shape": [32, 40, 3]}
    folder = minari_folder(tmp_path / "a", [{**minari_arrays(3, 0), "observations": padded}], seen)
    obs = Demonstrations.load(folder).trajectories[0].obs
    assert (obs.shape, obs.dtype) == ((4, 32, 40, 3), torch.uint8)
    assert (obs.long() - torch.from_numpy(np.stack(pictures)).long()).abs().max() <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": None}, "trajectory 1, there is no 'observations', only actions"),
        ({"actions": None}, "trajectory 1, there is no 'actions'"),
        ({"rewards": None}, "trajectory 1, there is no 'rewards'"),
        ({"terminations": None}, "trajectory 1, there is no 'terminations'"),
        ({"observations": np.zeros((3, 3))}, "trajectory 1, 'obs' must hold 4 observations"),
        ({"observations": with_nan((4, 3), 2, 0)}, "trajectory 1, step 2: 'obs' must be finite"),
        ({"observations": np.zeros((4, 5), np.float32)}, r"trajectory 1.*\(5,\)"),
        ({"truncations": np.zeros(2, bool)}, r"trajectory 1, 'truncations' must have shape \(3,"),
        ({"terminations": np.array([1, 0, 0], bool)}, "trajectory 1, step 0: it ended there"),
        ({"actions": {"a": np.zeros(3)}}, "trajectory 1, 'actions' must be one array, got parts a"),
        ({"rewards": np.zeros(2)}, r"trajectory 1, 'reward' must have shape \(3,\), got \(2,\)"),
    ],
)
def test_wrong_folders_of_minari(tmp_path: Path, change: Arrays, message: str) -> None:
    episodes = [minari_arrays(3, 0), {**minari_arrays(3, 1), **change}]
    with pytest.raises(ValueError, match=message) as refused:
        Demonstrations.load(minari_folder(tmp_path / "walk-v0", episodes))
    assert "walk-v0" in str(refused.value)


def test_folders_of_minari_that_are_not_whole(tmp_path: Path) -> None:
    fewer = minari_folder(tmp_path / "a", [minari_arrays(3, 0)], total_episodes=2)
    with pytest.raises(ValueError, match="1 trajectories, and there should be 2"):
        Demonstrations.load(fewer)
    whole = minari_folder(tmp_path / "b", [minari_arrays(3, i) for i in range(5)])
    file = whole / "data" / "main_data.hdf5"
    data = file.read_bytes()
    for size in (0, 50, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"'/.*/b'"):
            Demonstrations.load(whole)
    file.unlink()
    with pytest.raises(ValueError, match=r"'/.*/b'"):
        Demonstrations.load(whole)


@pytest.mark.parametrize("kind", ["floats", "pictures", "numbers", "vectors", "unpaid"])
def test_minari_folders_give_back_every_bit(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("h5py")
    seen: dict[str, spaces.Space[Any]] = {
        "pictures": spaces.Box(0, 255, (3, 5, 4), np.uint8),
        "numbers": spaces.Discrete(9),
    }
    done = spaces.Box(0, 1, (2,)) if kind == "vectors" else spaces.Discrete(4)
    before = made(3, 1, 6, **KINDS[kind])
    where = seen.get(kind, spaces.Box(-np.inf, np.inf, (3,)))
    before.save_minari(tmp_path / "walk-v0", where, done)
    assert same(before, Demonstrations.load(tmp_path / "walk-v0"))
    assert [f.name for f in tmp_path.iterdir()] == ["walk-v0"]


def test_a_minari_folder_has_minaris_layout(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    before = made(2, 3, obs=lambda n: torch.rand(n, 3))
    before.save_minari(tmp_path / "walk", SEEN, spaces.Discrete(4), id="grids/walk-v3")
    metadata = json.loads((tmp_path / "walk" / "data" / "metadata.json").read_text())
    assert json.loads(metadata.pop("observation_space"))["high"] == [1.0] * 3
    assert json.loads(metadata.pop("action_space")) == {
        "type": "Discrete",
        "dtype": "int64",
        "start": 0,
        "n": 4,
    }
    assert metadata == {
        "total_episodes": 2,
        "total_steps": 5,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "dataset_id": "grids/walk-v3",
        "minari_version": "0.5.4",
    }
    with h5py.File(tmp_path / "walk" / "data" / "main_data.hdf5") as file:
        assert list(file) == ["episode_0", "episode_1"]
        episode = file["episode_1"]
        assert dict(episode.attrs) == {"id": 1, "total_steps": 3}
        shapes = {name: episode[name].shape for name in episode if name != "infos"}
        assert shapes == {
            "observations": (4, 3),
            "actions": (3,),
            "rewards": (3,),
            "terminations": (3,),
            "truncations": (3,),
        }
        assert episode["truncations"][()].tolist() == [False, False, True]
        assert not episode["terminations"][()].any()


def test_a_flipped_bit_in_a_minari_folder_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    before = made(40, obs=lambda n: torch.rand(n, 3))
    before.save_minari(tmp_path / "walk-v0", SEEN, spaces.Discrete(4))
    file = tmp_path / "walk-v0" / "data" / "main_data.hdf5"
    data = bytearray(file.read_bytes())
    data[data.index(before.trajectories[0].obs[20].numpy().tobytes())] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="trajectory 0"):
        Demonstrations.load(tmp_path / "walk-v0")


def test_minari_reads_what_is_written(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    before = made(2, 3, obs=lambda n: torch.rand(n, 3))
    before.save_minari(tmp_path / "walk-v0", SEEN, spaces.Discrete(4))
    data = minari.MinariDataset(tmp_path / "walk-v0" / "data")
    assert (data.total_episodes, data.total_steps) == (2, 5)
    assert (data.observation_space, data.action_space) == (SEEN, spaces.Discrete(4))
    for one, other in zip(before, data, strict=True):
        assert np.array_equal(one.obs.numpy(), other.observations)
        assert np.array_equal(one.action.numpy(), other.actions)
        assert bool(other.terminations[-1]) == one.terminated


def test_minari_folders_are_written_once_and_only_if_right(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    right = made(2, obs=lambda n: torch.rand(n, 3))
    with pytest.raises(ValueError, match="trajectory 0, step 0: 'obs'"):
        (changed(0, 0, "obs", 2.0)).save_minari(tmp_path / "a", SEEN, spaces.Discrete(4))
    with pytest.raises(ValueError, match="'id' must be such as"):
        right.save_minari(tmp_path / "a", SEEN, spaces.Discrete(4), id="../a")
    assert not list(tmp_path.iterdir())
    right.save_minari(tmp_path / "a", SEEN, spaces.Discrete(4))
    with pytest.raises(ValueError, match="exists already"):
        right.save_minari(tmp_path / "a", SEEN, spaces.Discrete(4))


def datasets_folder(folder: Path, **columns: Any) -> Path:
    """As Hugging Face's datasets writes one: a stream of batches, and a list of its files."""
    arrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    table = arrow.table({name: rows for name, rows in columns.items() if rows is not None})
    with (
        arrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        arrow.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    return folder


def rows_of_imitation() -> Arrays:
    arrow = pytest.importorskip("pyarrow")
    floats = arrow.list_(arrow.list_(arrow.float32()))
    return {
        "obs": arrow.array([[[0.1, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]]], type=floats),
        "acts": [[0, 1], [2]],
        "infos": [["{}", '{"TimeLimit.truncated": true}'], ['{"py/object": "os.system"}']],
        "terminal": [True, True],
        "rews": [[0.5, 1.0], [2.0]],
    }


def test_folders_of_imitation(tmp_path: Path) -> None:
    columns = rows_of_imitation()
    found = Demonstrations.load(datasets_folder(tmp_path / "a", **columns))
    assert torch.equal(found.trajectories[0].obs, torch.tensor([[0.1, 1], [2, 3], [4, 5]]))
    assert [one.action.tolist() for one in found] == [[0, 1], [2]]
    assert [(one.terminated, one.truncated) for one in found] == [(False, True), (True, False)]
    assert found.returns().tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acts": None}, "there is no 'acts', only obs"),
        ({"acts": [[0, 1], [2, 3]]}, "trajectory 1, 'obs' must hold 3 observations"),
        ({"acts": [[0, 1], [None]]}, "trajectory 1,"),
        ({"rews": [[0.5, 1.0], [float("nan")]]}, "trajectory 1, step 0: 'reward' must be finite"),
        ({"obs": [[[0.0], [1.0], [2.0, 3.0]], [[0.0], [0.0]]]}, "trajectory 0, .*inhomogeneous"),
    ],
)
def test_wrong_folders_of_imitation(tmp_path: Path, change: Arrays, message: str) -> None:
    folder = datasets_folder(tmp_path / "a", **{**rows_of_imitation(), **change})
    with pytest.raises(ValueError, match=message):
        Demonstrations.load(folder)


def test_cut_folders_of_imitation(tmp_path: Path) -> None:
    folder = datasets_folder(tmp_path / "a", **rows_of_imitation())
    file = folder / "data-00000-of-00001.arrow"
    data = file.read_bytes()
    for size in (0, 10, len(data) // 2):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"'/.*/a'"):
            Demonstrations.load(folder)

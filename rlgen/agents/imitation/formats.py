"""Files of demonstrations: our .npz, Minari's folders, and what `imitation` saves.

Nothing is ever unpickled. A reader gives all trajectories or raises a ValueError.
"""

import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

FORMAT = 1
Array = np.ndarray[Any, Any]

_MINARI = "0.5.4"  # the version whose layout `write_minari` writes
_MINARI_FILES = ("metadata.json", "main_data.hdf5")
_MINARI_ID = r"([-\w][-\w/]*[-\w]+/)?[-\w]+?-v\d+"
_BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError),
    *(zlib.error, zipfile.BadZipFile),
)


@contextmanager
def numbered(trajectory: int) -> Iterator[None]:
    """Errors within say which trajectory they are of."""
    try:
        yield
    except (*_BROKEN, TypeError) as error:
        raise ValueError(f"trajectory {trajectory}, {error}") from error


class Stored(NamedTuple):
    """A trajectory as it lies in a file; `obs` may be a dictionary of arrays."""

    obs: Any
    action: Any
    reward: Array | None
    terminated: bool
    truncated: bool


def read(path: Path) -> list[Stored]:
    """The trajectories of a file or folder, whichever of the formats it is in."""
    try:
        return _reader(path)(path)
    except (*_BROKEN, TypeError, AttributeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _reader(path: Path) -> Callable[[Path], list[Stored]]:
    if path.is_file():
        return _read_npz
    if not path.is_dir():
        raise ValueError("there is nothing there")
    if (path / "state.json").exists():
        return _read_datasets
    if any((path / name).exists() for name in ("data", *_MINARI_FILES)):
        return _read_minari
    raise ValueError(
        "this is neither a folder of Minari's, with a metadata.json, nor one of Hugging Face's "
        "datasets, with a state.json"
    )


def write_npz(path: Path, trajectories: Sequence[Stored]) -> None:
    """All steps one after the other, and how many there are of each trajectory."""
    rewarded = [one.reward is not None for one in trajectories]
    arrays = {
        "format": np.array(FORMAT),
        "length": np.array([len(one.action) for one in trajectories]),
        "obs": np.concatenate([one.obs for one in trajectories]),
        "action": np.concatenate([one.action for one in trajectories]),
        "terminated": np.array([one.terminated for one in trajectories]),
        "truncated": np.array([one.truncated for one in trajectories]),
        "rewarded": np.array(rewarded),
    }
    if any(rewarded):
        rewards = [one.reward for one in trajectories if one.reward is not None]
        arrays["reward"] = np.concatenate(rewards)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".new-{secrets.token_hex(8)}"
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _read_npz(path: Path) -> list[Stored]:
    if not zipfile.is_zipfile(path):
        raise ValueError("this is no whole .npz file: it is truncated, or something else")
    arrays: dict[str, Array] = {}
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        for key in file.files:
            if key != "infos":  # of imitation, pickled, and not needed
                arrays[key] = _array_of(file, key)
    return _of_imitation(arrays) if "acts" in arrays else _of_ours(arrays)


def _array_of(file: Any, key: str) -> Array:
    try:
        array: Array = file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(f"{key!r} is pickled, and nothing is ever unpickled here") from error
    except _BROKEN as error:
        raise ValueError(f"{key!r} cannot be read: {error}") from error
    return array


def _of_ours(arrays: dict[str, Array]) -> list[Stored]:
    version = _of(arrays, "format")
    if version.shape != () or version.dtype.kind not in "iu" or int(version) > FORMAT:
        raise ValueError(f"'format' must be {FORMAT} or less, got {version}; is this rlgen older?")
    lengths = _of(arrays, "length")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not (lengths > 0).all():
        raise ValueError(f"'length' must hold positive numbers of steps, got {lengths}")
    flags = [_flags(arrays, k, len(lengths)) for k in ("terminated", "truncated", "rewarded")]
    obs = _cut("obs", _of(arrays, "obs"), lengths + 1)
    action = _cut("action", _of(arrays, "action"), lengths)
    rewards: list[Array | None] = [None] * len(lengths)
    if flags[2].any():
        pieces = iter(_cut("reward", _of(arrays, "reward"), lengths[flags[2]]))
        rewards = [next(pieces) if known else None for known in flags[2]]
    ends = ([bool(end) for end in flag] for flag in flags[:2])
    return [Stored(*parts) for parts in zip(obs, action, rewards, *ends, strict=True)]


def _of_imitation(arrays: dict[str, Array]) -> list[Stored]:
    """Its old archive: `indices` are where each trajectory but the first begins."""
    acts, terminal = _of(arrays, "acts"), _of(arrays, "terminal")
    terminal = _flags(arrays, "terminal", len(np.atleast_1d(terminal)))
    indices = _of(arrays, "indices").astype(np.int64, casting="same_kind")
    starts = np.concatenate([[0], indices[: len(terminal) - 1]])
    if indices.ndim != 1 or len(starts) != len(terminal):
        raise ValueError(f"'indices' must tell {len(terminal)} trajectories apart, got {indices}")
    lengths = np.diff(np.concatenate([starts, [len(acts)]]))
    if not (lengths > 0).all():
        first = int((lengths <= 0).argmax())
        raise ValueError(f"trajectory {first}, 'indices' and 'acts' leave it no steps")
    obs = _cut("obs", _of(arrays, "obs"), lengths + 1)
    action = _cut("acts", acts, lengths)
    known = "rews" in arrays
    reward = _cut("rews", arrays["rews"], lengths) if known else [None] * len(lengths)
    parts = zip(obs, action, reward, terminal.tolist(), strict=True)
    return [Stored(o, a, r, end, not end) for o, a, r, end in parts]


def _of(arrays: dict[str, Array], key: str) -> Array:
    if key not in arrays:
        raise ValueError(f"there is no {key!r}, only {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[key]


def _flags(arrays: dict[str, Array], key: str, count: int) -> Array:
    flags = _of(arrays, key)
    if flags.shape != (count,) or flags.dtype != np.bool_ or count == 0:
        raise ValueError(
            f"{key!r} must be {max(count, 1)} booleans, one for each trajectory, "
            f"got {flags.dtype} of shape {flags.shape}"
        )
    return flags


def _cut(name: str, array: Array, lengths: Array) -> list[Array]:
    """The part of each trajectory; they are copies, so that one does not keep all."""
    ends = lengths.cumsum()
    count = len(array) if array.ndim else 0
    if count < ends[-1]:
        first = int((ends > count).argmax())
        step = count - int(ends[first] - lengths[first])
        raise ValueError(
            f"trajectory {first}, step {step}: {name!r} has only {step} of {lengths[first]} rows"
        )
    if count > ends[-1]:
        raise ValueError(
            f"trajectory {len(ends) - 1}, step {lengths[-1]}: {name!r} goes on for "
            f"{count - ends[-1]} more rows, after the last trajectory"
        )
    return [part.copy() for part in np.split(array, ends[:-1])]


def _read_minari(path: Path) -> list[Stored]:
    folder = path / "data" if (path / "data").is_dir() else path
    metadata = _json(folder / "metadata.json") if (folder / "metadata.json").exists() else {}
    kind = metadata.get("data_format", "hdf5")
    if kind != "hdf5":
        raise ValueError(f"this is Minari's {kind}, and only its hdf5 is read")
    h5py = _needed("h5py", "Minari's data sets need h5py: pip install h5py")
    seen = json.loads(metadata.get("observation_space", "{}"))
    found = []
    with h5py.File(folder / "main_data.hdf5", "r") as file:
        for i in sorted(int(key.removeprefix("episode_")) for key in file):
            with numbered(i):
                found.append(_episode(file[f"episode_{i}"], seen))
    wanted = metadata.get("total_episodes", len(found))
    if wanted != len(found) or not found:
        raise ValueError(f"there are {len(found)} trajectories, and there should be {wanted}")
    return found


def _episode(group: Any, seen: dict[str, Any]) -> Stored:
    for key in ("observations", "actions", "rewards", "terminations", "truncations"):
        if key not in group:
            raise ValueError(f"there is no {key!r}, only {', '.join(sorted(group))}")
    action = _leaves(group["actions"], {})
    if isinstance(action, dict):
        raise ValueError(f"'actions' must be one array, got parts {', '.join(sorted(action))}")
    reward = group["rewards"][()]
    if len(reward) and np.isnan(reward).all():
        reward = None
    ends = {key: np.asarray(group[key][()], bool) for key in ("terminations", "truncations")}
    for key, flags in ends.items():
        if flags.shape != (len(action),):
            raise ValueError(f"{key!r} must have shape ({len(action)},), got {flags.shape}")
        if flags[:-1].any():
            raise ValueError(f"step {int(flags.argmax())}: it ended there, and goes on")
    terminated, truncated = (bool(flags[-1:].any()) for flags in ends.values())
    obs = _leaves(group["observations"], seen)
    return Stored(obs, action, reward, terminated, truncated or not terminated)


def _leaves(node: Any, space: dict[str, Any]) -> Any:
    """An array, or a dictionary of arrays for a group; text is left out later."""
    shape = getattr(node, "shape", None)
    if shape is None:
        parts = space.get("subspaces", {})
        if isinstance(parts, list):
            parts = {f"_index_{i}": part for i, part in enumerate(parts)}
        return {key: _leaves(node[key], parts.get(key, {})) for key in node}
    wanted = tuple(space.get("shape", shape[1:]))
    array = node[()]
    if wanted != shape[1:] and (array.dtype == object or array.dtype == np.uint8):
        return _pictures(array, wanted)
    return array


def _pictures(rows: Array, shape: tuple[int, ...]) -> Array:
    """Minari may keep pictures as JPEG."""
    import io

    image = _needed("PIL.Image", "Minari's pictures need pillow: pip install pillow")
    pictures = np.stack([np.asarray(image.open(io.BytesIO(row.tobytes()))) for row in rows])
    if pictures.shape[1:] != shape:
        raise ValueError(f"'observations' must have shape {shape}, got {pictures.shape[1:]}")
    return pictures


def write_minari(
    folder: Path,
    trajectories: Sequence[Stored],
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    id: str | None,
) -> None:
    """A whole folder or none; rewards that are not known are NaN, which Minari has no word for."""
    h5py = _needed("h5py", "Minari's data sets need h5py: pip install h5py")
    id = f"{folder.name.removesuffix('-v0')}-v0" if id is None else id
    if not re.fullmatch(_MINARI_ID, id):
        raise ValueError(f"'id' must be such as rooms/expert-v0, got {id!r}")
    if folder.exists():
        raise ValueError(f"{str(folder)!r} exists already")
    metadata = {
        "total_episodes": len(trajectories),
        "total_steps": sum(len(one.action) for one in trajectories),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(_space(observation_space)),
        "action_space": json.dumps(_space(action_space)),
        "dataset_id": id,
        "minari_version": _MINARI,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".new-{secrets.token_hex(8)}"
    try:
        (beside / "data").mkdir(parents=True)
        with h5py.File(beside / "data" / "main_data.hdf5", "w", track_order=True) as file:
            for i, one in enumerate(trajectories):
                _write_episode(file.create_group(f"episode_{i}"), i, one)
        (beside / "data" / "metadata.json").write_text(json.dumps(metadata))
        os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_episode(group: Any, number: int, one: Stored) -> None:
    steps = len(one.action)
    group.attrs["id"], group.attrs["total_steps"] = number, steps
    ends = np.zeros((2, steps), bool)
    ends[:, -1] = one.terminated, one.truncated
    arrays = {
        "observations": one.obs,
        "actions": one.action,
        "rewards": np.full(steps, np.nan) if one.reward is None else one.reward,
        "terminations": ends[0],
        "truncations": ends[1],
    }
    for key, array in arrays.items():  # able to grow, as Minari expects; and with a checksum
        grown = (None, *array.shape[1:])
        group.create_dataset(key, data=array, chunks=True, maxshape=grown, fletcher32=True)
    group.create_group("infos")


def _space(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """A space as Minari writes it."""
    if isinstance(space, spaces.Box):
        ends = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **ends}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        sizes = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **sizes}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n}
    raise ValueError(f"Minari has no arrays of {space}")


def _read_datasets(folder: Path) -> list[Stored]:
    """A folder of Hugging Face's datasets, as `imitation` saves trajectories; pyarrow reads it."""
    arrow = _needed("pyarrow", "imitation's folders need pyarrow: pip install pyarrow")
    found: list[Stored] = []
    for file in _json(folder / "state.json")["_data_files"]:
        with arrow.OSFile(str(folder / Path(file["filename"]).name)) as source:
            table = arrow.ipc.open_stream(source).read_all()
            table.validate(full=True)  # a wrong length would end the process, not the call
        for key in ("obs", "acts", "terminal"):
            if key not in table.column_names:
                raise ValueError(f"there is no {key!r}, only {', '.join(table.column_names)}")
        for row in range(table.num_rows):
            with numbered(len(found)):
                found.append(_row(table, row))
    return found


def _row(table: Any, row: int) -> Stored:
    def array(key: str) -> Array:
        column = table.column(key)
        kind = column.type
        while getattr(kind, "value_type", None) is not None:
            kind = kind.value_type
        return np.array(column[row].as_py(), dtype=kind.to_pandas_dtype())

    reward = array("rews") if "rews" in table.column_names else None
    done = bool(table.column("terminal")[row].as_py())
    infos = table.column("infos")[row].as_py() if "infos" in table.column_names else None
    late = done and infos is not None and len(infos) > 0 and _ran_out(infos[-1])
    return Stored(array("obs"), array("acts"), reward, done and not late, late or not done)


def _ran_out(info: str) -> bool:
    """Whether the last info, as plain JSON, says that time ran out."""
    found = json.loads(info)
    return isinstance(found, dict) and found.get("TimeLimit.truncated") is True


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(file)!r} must hold an object")
    return found


def _needed(module: str, message: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(message) from error

"""Save and load anything of rlgen: a readable `config.json` beside a safetensors file.

A checkpoint is a directory. `config.json` holds the class, the arguments it was made with and the
structure of its state; the tensors lie in one safetensors file, named by its digest. Loading
rebuilds the object from its constructor and fills in the state: nothing is unpickled, and no
module outside rlgen is imported because a file names it.

The new tensors are written beside the old ones, and the rename of `config.json` is the moment at
which the new checkpoint replaces the previous one, so a crash leaves one of the two, whole.
"""

import functools
import hashlib
import importlib
import inspect
import json
import os
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlgen import __version__
from rlgen.seeding import drawing_from

FORMAT = 1

_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


class Configurable:
    """Remembers the arguments it was made with, so that a checkpoint can make it again.

    Arguments may be plain values, tensors, tuples, lists and dicts of them, and other
    `Configurable` objects.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        object.__setattr__(made, "_arguments", (args, kwargs))
        return made


@runtime_checkable
class Stateful(Protocol):
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


def arguments_of(made: Configurable) -> dict[str, Any]:
    """The constructor arguments of `made`, by name."""
    args, kwargs = made._arguments
    bound = inspect.signature(type(made)).bind(*args, **kwargs)
    named = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name in named:
            raise ValueError(f"{type(made).__name__} takes *{name}, which cannot be saved by name")
    return named


def save(made: Configurable, path: str | os.PathLike[str]) -> None:
    """Write `made` to the directory `path`, replacing a checkpoint that is already there.

    Raises:
        ValueError: `made` holds something that cannot be loaded again, or `path` is not a
            directory, or has a `config.json` that is no checkpoint. Nothing was written.

    Example:
        >>> import tempfile
        >>> from rlgen import checkpoint
        >>> from rlgen.generative import Gaussian
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint.save(Gaussian(2), folder + "/model")
        ...     again = checkpoint.load(folder + "/model")
        >>> again.event_shape
        torch.Size([2])
    """
    from safetensors.torch import save_file

    if not isinstance(made, Configurable):
        raise ValueError(f"only objects of rlgen can be saved, not a {type(made).__name__}")
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {"format": FORMAT, "rlgen": __version__, "git": _git_sha()}
    config["made"] = _encode(made, tensors, "arguments")
    if isinstance(made, Stateful):
        config["state"] = _encode(dict(made.state_dict()), tensors, "state")

    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"a checkpoint is a directory, and {str(folder)!r} is a file")
    if (folder / "config.json").exists():
        _read_config(folder)  # refuses to replace what is not ours
    folder.mkdir(parents=True, exist_ok=True)
    written = _write_beside(folder, lambda file: save_file(tensors, file))
    config["sha256"] = _digest(written)
    config["tensors"] = f"tensors-{config['sha256'][:16]}.safetensors"
    config["seal"] = _seal(config)
    os.replace(written, folder / config["tensors"])
    _sync(folder)
    text = json.dumps(config, indent=1).encode()
    os.replace(_write_beside(folder, lambda file: file.write_bytes(text)), folder / "config.json")
    _sync(folder)
    tensor_files = folder.glob(f"tensors-{'[0-9a-f]' * 16}.safetensors")
    for old in [*tensor_files, *folder.glob(".new-*")]:
        if old.name != config["tensors"]:
            old.unlink()


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Any:
    """The object that `save` wrote to `path`, with its state, on `device`.

    Raises:
        ValueError: there is no checkpoint at `path`, or it is truncated, edited, foreign, or
            written by a newer version. The message says which.
    """
    folder = Path(path)
    torch.empty(0, device=device)  # a device that is not there is not the checkpoint's fault
    config = _read_config(folder)
    tensors = _read_tensors(folder, config)
    try:
        with drawing_from(0):  # initial weights, soon replaced: not from the caller's stream
            made = _decode(config["made"], tensors, device)
        if not isinstance(made, Configurable) or isinstance(made, Stateful) != ("state" in config):
            raise _Unreadable(f"{str(folder)!r} does not describe an object of rlgen and its state")
        if isinstance(made, Stateful):
            state = _decode(config["state"], tensors, device)
            if isinstance(made, nn.Module):
                load_module_state(made, state)
            else:
                made.load_state_dict(state)
    except _Unreadable:
        raise
    except Exception as error:  # whatever a constructor does with edited arguments
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(folder)!r} does not fit its class ({reason})") from error
    if config.get("seal") != _seal(config):  # last: what is wrong with an edit says more
        raise _Unreadable(f"{str(folder / 'config.json')!r} was changed after it was written")
    return made


def load_module_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load `state` exactly: the module takes on the dtype that each tensor was saved with."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)
    module.load_state_dict(state)


class _Unreadable(ValueError):
    """The file itself is at fault, not what it describes."""


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise _Unreadable(f"no checkpoint at {str(folder)!r}: it has no config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"{str(file)!r} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise _Unreadable(f"{str(file)!r} was not written by rlgen: it names no format")
    if config["format"] > FORMAT:
        raise _Unreadable(
            f"{str(file)!r} has format {config['format']}, written by rlgen "
            f"{config.get('rlgen')}; this is rlgen {__version__}, which reads up to {FORMAT}"
        )
    for key in ("made", "tensors", "sha256"):
        if key not in config:
            raise _Unreadable(f"{str(file)!r} has no entry {key!r}")
    return config


def _read_tensors(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / str(config["tensors"])
    if file.parent != folder or file.name == "..":
        raise _Unreadable(f"{str(folder)!r} names tensors outside of it, {config['tensors']!r}")
    if not file.is_file():
        raise _Unreadable(f"{str(folder)!r} lacks its tensors, {file.name!r}")
    if _digest(file) != config["sha256"]:
        raise _Unreadable(f"{str(file)!r} is truncated or was changed: its digest differs")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise _Unreadable(f"{str(file)!r} is not a safetensors file: {error}") from error
    return tensors


def _encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` as JSON; tensors go to `tensors` under their path, and JSON keeps the path."""

    def inner(part: Any, key: Any) -> Any:
        return _encode(part, tensors, f"{name}.{key}")

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        while name in tensors:  # a key may itself contain a dot
            name += "'"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list):
        return [inner(part, i) for i, part in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [inner(part, i) for i, part in enumerate(value)]}
    if isinstance(value, dict):
        return {"dict": [[inner(k, "key"), inner(part, k)] for k, part in value.items()]}
    if isinstance(value, Configurable):
        cls = type(value)
        full_name = f"{cls.__module__}.{cls.__qualname__}"
        if not cls.__module__.startswith("rlgen.") or "." in cls.__qualname__:
            raise ValueError(f"only a class in a module of rlgen can be loaded again: {full_name}")
        arguments = {k: inner(part, k) for k, part in arguments_of(value).items()}
        encoded = {"class": full_name, "arguments": arguments}
        if isinstance(value, nn.Module):
            frozen = [name for name, p in value.named_parameters() if not p.requires_grad]
            return {**encoded, "frozen": frozen} if frozen else encoded
        return encoded
    raise ValueError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _decode(value: Any, tensors: dict[str, Tensor], device: str | torch.device) -> Any:
    """What `_encode` was given; modules are on `device` before anything is made from them."""

    def inner(part: Any) -> Any:
        return _decode(part, tensors, device)

    if isinstance(value, list):
        return [inner(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dtype" in value:
        return _DTYPES[value["dtype"]]
    if "tuple" in value:
        return tuple(inner(part) for part in value["tuple"])
    if "dict" in value:
        return {inner(key): inner(part) for key, part in value["dict"]}
    if "class" in value:
        arguments = {name: inner(part) for name, part in value["arguments"].items()}
        made = _find_class(value["class"])(**arguments)
        if not isinstance(made, nn.Module):
            return made
        for name in value.get("frozen", []):
            made.get_parameter(name).requires_grad_(False)
        return made.to(device)
    raise _Unreadable(f"the checkpoint holds something unknown: {sorted(value)}")


def _find_class(name: object) -> type[Configurable]:
    """The class of rlgen called `name`; nothing else is ever looked up, let alone imported."""
    module, _, qualname = str(name).rpartition(".")
    if not module.startswith("rlgen."):
        raise _Unreadable(f"the checkpoint asks for {name!r}, which is not a class of rlgen")
    try:
        found = getattr(importlib.import_module(module), qualname, None)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("rlgen"):
            raise  # a library that this part of rlgen needs
        found = None
    if not (isinstance(found, type) and issubclass(found, Configurable)):
        raise _Unreadable(f"this version of rlgen has no class {name!r}")
    return found


def _write_beside(folder: Path, write: Callable[[Path], object]) -> Path:
    """A new file in `folder`, filled by `write` and flushed to the disk."""
    file = folder / f".new-{secrets.token_hex(8)}"
    try:
        file.touch()
        mode = file.stat().st_mode
        write(file)
        file.chmod(mode)  # safetensors keeps its files from all but their owner
        _sync(file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(config: dict[str, Any]) -> str:
    """A digest of what decides the object, so that an edit is not taken for what was saved."""
    decisive = [config.get(key) for key in ("made", "state", "tensors", "sha256")]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def _git_sha() -> str | None:
    """The commit of rlgen's own checkout, or None for an installed copy."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

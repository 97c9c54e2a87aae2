"""The gymnasium ids of rlgen's worlds, registered when rlgen is imported.

    gymnasium.make("rlgen/FourRooms-v0")
    gymnasium.make_vec("rlgen/FourRooms-v0", 1024, vectorization_mode="vector_entry_point")

Keyword arguments go to the world. "rlgen/NoisyTV-v0" is FourRooms with a TV, and takes the options
of both; "rlgen/MiniGrid-..." is the world that minigrid calls "MiniGrid-...".
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from rlgen.envs.adapters import NativeVectorEnv, SingleEnv
from rlgen.envs.four_rooms import FourRooms
from rlgen.envs.minigrid.world import MiniGrid
from rlgen.envs.noisy_tv import NoisyTV
from rlgen.envs.open_world import OpenWorld
from rlgen.envs.plains import Plains
from rlgen.envs.world import TensorWorld

_MINIGRID = (
    "FourRooms-v0", "Empty-5x5-v0", "Empty-6x6-v0", "Empty-8x8-v0", "Empty-16x16-v0",
    "Empty-Random-5x5-v0", "Empty-Random-6x6-v0", "DoorKey-5x5-v0", "DoorKey-6x6-v0",
    "DoorKey-8x8-v0", "DoorKey-16x16-v0", "MultiRoom-N2-S4-v0", "MultiRoom-N4-S5-v0",
    "MultiRoom-N4-S5-v1", "MultiRoom-N6-v0", "SimpleCrossingS9N1-v0", "SimpleCrossingS9N2-v0",
    "SimpleCrossingS9N3-v0", "SimpleCrossingS11N5-v0", "LavaCrossingS9N1-v0",
    "LavaCrossingS9N2-v0", "LavaCrossingS9N3-v0", "LavaCrossingS11N5-v0", "LavaGapS5-v0",
    "LavaGapS6-v0", "LavaGapS7-v0", "LockedRoom-v0", "KeyCorridorS3R1-v0", "KeyCorridorS3R2-v0",
    "KeyCorridorS3R3-v0", "KeyCorridorS4R3-v0", "KeyCorridorS5R3-v0", "KeyCorridorS6R3-v0",
    "Unlock-v0", "UnlockPickup-v0", "BlockedUnlockPickup-v0", "ObstructedMaze-1Dl-v0",
    "ObstructedMaze-1Dlh-v0", "ObstructedMaze-1Dlhb-v0", "ObstructedMaze-2Dl-v0",
    "ObstructedMaze-2Dlh-v0", "ObstructedMaze-2Dlhb-v0", "ObstructedMaze-2Dlhb-v1",
    "ObstructedMaze-1Q-v0", "ObstructedMaze-1Q-v1", "ObstructedMaze-2Q-v0", "ObstructedMaze-2Q-v1",
    "ObstructedMaze-Full-v0", "ObstructedMaze-Full-v1", "DistShift1-v0", "DistShift2-v0",
)  # fmt: skip


def ids() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every id, with the arguments of `make_world` that it stands for."""
    for name in ("FourRooms", "OpenWorld", "NoisyTV", "Plains"):
        yield f"rlgen/{name}-v0", {"world": name}
    for name in _MINIGRID:
        yield f"rlgen/MiniGrid-{name}", {"world": "MiniGrid", "id": f"MiniGrid-{name}"}


def register() -> None:
    """Make the ids known to `gymnasium.make` and `gymnasium.make_vec`."""
    for id, kwargs in ids():
        if id not in gymnasium.registry:
            gymnasium.register(
                id,
                entry_point="rlgen.envs.registration:single_env",
                vector_entry_point="rlgen.envs.registration:vector_env",
                kwargs=kwargs,
            )


def single_env(*, world: str, render_mode: str | None = None, **options: Any) -> SingleEnv:
    """What `gymnasium.make` calls.

    Args:
        world: its class, such as "FourRooms".
        render_mode: None or "rgb_array".
        options: of the world.
    """
    return SingleEnv(make_world(world, 1, **options), render_mode)


def vector_env(
    num_envs: int,
    *,
    world: str,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **options: Any,
) -> NativeVectorEnv:
    """What `gymnasium.make_vec` calls; see `single_env` and `NativeVectorEnv`."""
    return NativeVectorEnv(make_world(world, num_envs, **options), autoreset_mode, render_mode)


def make_world(world: str, num_envs: int, /, **options: Any) -> TensorWorld[Any]:
    """A world by the name of its class.

    Example:
        >>> from rlgen.envs import registration
        >>> registration.make_world("OpenWorld", 2, size=5).reset().shape
        torch.Size([2, 25])
    """
    if world == "NoisyTV":
        screen = {name: options.pop(name) for name in _options(NoisyTV) if name in options}
        _check_options(world, options, _options(NoisyTV) + _options(FourRooms))
        return NoisyTV(FourRooms(num_envs, **options), **screen)
    classes: dict[str, Callable[..., TensorWorld[Any]]] = {
        "FourRooms": FourRooms,
        "OpenWorld": OpenWorld,
        "Plains": Plains,
        "MiniGrid": MiniGrid,
    }
    if world not in classes:
        raise ValueError(f"'world' must be NoisyTV, {', '.join(classes)}, got {world!r}")
    _check_options(world, options, _options(classes[world]))
    return classes[world](num_envs=num_envs, **options)


def _options(make: Callable[..., Any]) -> list[str]:
    taken = ("num_envs", "world")  # not a user's to give
    return [name for name in inspect.signature(make).parameters if name not in taken]


def _check_options(world: str, options: dict[str, Any], allowed: list[str]) -> None:
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise ValueError(f"{world} has no option {unknown[0]!r}, only {', '.join(allowed)}")

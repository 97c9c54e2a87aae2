"""Where MiniGrid's layouts come from: read off minigrid's own environments, or drawn natively.

Maps get a border of walls around them, so that a view never leaves them. All places in this
package are on the bordered map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.envs.minigrid.cells import CODES, COLORS, EMPTY, GOAL, LOCKED, WALL, Thing
from rlgen.envs.minigrid.rules import Scene

BORDER = 5  # a view reaches six cells beyond the agent, which is inside the map's own walls

# environments whose rules differ from the common ones in a way that is not here
_MISSING = {
    "DynamicObstaclesEnv": "obstacles that move by themselves",
    "FetchEnv": "failing by picking up another object than the mission's",
    "GoToDoorEnv": "succeeding by the action 'done' beside the mission's door",
    "GoToObjectEnv": "succeeding by the action 'done' beside the mission's object",
    "MemoryEnv": "succeeding or failing by the place where one stands",
    "PutNearEnv": "succeeding by dropping one object near another",
    "RedBlueDoorEnv": "opening two doors in order",
}
_KNOWN = (
    "FourRoomsEnv", "EmptyEnv", "DoorKeyEnv", "MultiRoomEnv", "CrossingEnv", "LavaGapEnv",
    "LockedRoomEnv", "KeyCorridorEnv", "UnlockEnv", "UnlockPickupEnv", "BlockedUnlockPickupEnv",
    "ObstructedMazeEnv", "DistShiftEnv",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What is the same in all episodes of one MiniGrid id.

    Attributes:
        width, height: of the bordered map.
        max_steps: when an episode is truncated.
        see_through_walls: whether walls hide nothing.
        name: the class of the environment, without "Env".
    """

    width: int
    height: int
    max_steps: int
    see_through_walls: bool
    name: str


def make(id: str) -> Any:
    """minigrid's environment `id`, if all of its rules are here."""
    import minigrid  # noqa: F401  (registers its ids)

    try:
        env = gymnasium.make(id, disable_env_checker=True).unwrapped
    except gymnasium.error.Error as error:
        raise ValueError(f"gymnasium knows no {id!r}: {error}") from error
    check_rules(env)
    return env


def check_rules(env: Any) -> None:
    """Refuse an environment that has a rule which is not here, and say which."""
    names = [cls.__name__ for cls in type(env).__mro__]
    missing = next((_MISSING[name] for name in names if name in _MISSING), None)
    if missing is not None:
        raise ValueError(f"{names[0]} needs a rule that is not here: {missing}")
    if not any(name in _KNOWN for name in names):
        raise ValueError(f"{names[0]} is not among the worlds whose rules are known to be all here")
    for cls in type(env).__mro__:
        foreign = cls is not gymnasium.Env and not cls.__module__.startswith("minigrid.")
        if foreign and not {"step", "_reward"}.isdisjoint(vars(cls)):
            raise ValueError(f"{cls.__name__} has rules of its own: its 'step' or '_reward'")
    if env.agent_view_size != 7:
        raise ValueError(f"a view of 7 cells is all there is, got {env.agent_view_size}")


def config_of(env: Any, see_through_walls: bool | None, max_steps: int | None) -> Config:
    """That of a live environment, with a user's changes."""
    known = next(cls.__name__ for cls in type(env).__mro__ if cls.__name__ in _KNOWN)
    return Config(
        env.width + 2 * BORDER,
        env.height + 2 * BORDER,
        env.max_steps if max_steps is None else max_steps,
        env.see_through_walls if see_through_walls is None else see_through_walls,
        known.removesuffix("Env"),
    )


def read(envs: Sequence[Any]) -> Scene:
    """The present state of live minigrid environments of one size, objects and all."""
    rows = [_read_one(env) for env in envs]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return Scene(*map(torch.as_tensor, columns))


def _read_one(env: Any) -> tuple[Any, ...]:
    wanted = getattr(env, "obj", None)

    if env.agent_pos is None:
        raise ValueError("an environment was not reset: call its 'reset' first")
    grid = np.full((env.height + 2 * BORDER, env.width + 2 * BORDER), WALL, dtype=np.uint8)
    inner = [_code(thing, wanted) for thing in env.grid.grid]
    grid[BORDER:-BORDER, BORDER:-BORDER] = np.reshape(inner, (env.height, env.width))
    x, y = env.agent_pos
    door = getattr(env, "door", None)
    door_x, door_y = (-BORDER, -BORDER) if door is None else door.cur_pos  # place 0: a wall
    return (
        grid.flatten(),
        np.int64(place(x, y, env.width + 2 * BORDER)),
        np.int64(env.agent_dir),
        np.uint8(_code(env.carrying, wanted)),
        np.int64(place(door_x, door_y, env.width + 2 * BORDER)),
    )


def _code(thing: Any, wanted: Any) -> int:
    if thing is None:
        return EMPTY
    found = _as_thing(thing, wanted)
    if found not in CODES:
        held = getattr(thing, "contains", None)
        holding = "" if held is None else f" that holds a {held.color} {held.type}"
        raise ValueError(f"there is no rule for a {thing.color} {thing.type}{holding}")
    return CODES[found]


def _as_thing(thing: Any, wanted: Any) -> Thing:
    inside = getattr(thing, "contains", None)
    if inside is not None and inside is wanted:
        raise ValueError(f"there is no rule for the wanted {inside.color} {inside.type} in a box")
    door = thing.encode()[2] if thing.type == "door" else 0
    held = None if inside is None else (inside.type, COLORS.index(inside.color))
    return Thing(thing.type, COLORS.index(thing.color), door, held, thing is wanted)


def place(x: int, y: int, width: int) -> int:
    """The place of minigrid's (x, y) on a bordered map of the given width."""
    return (y + BORDER) * width + x + BORDER


def draw_bank(env: Any, seeds: range) -> Scene:
    """The first scenes of minigrid's own episodes with these seeds."""
    if len(seeds) == 0:
        raise ValueError(f"'layouts' must hold at least one layout, got {seeds}")
    if min(seeds) < 0:
        raise ValueError(f"'layouts' must be seeds from 0, got {seeds}")
    rows = []
    for seed in seeds:
        env.reset(seed=seed)
        rows.append(read([env]))
    parts = [(s.grid, s.place, s.heading, s.carried, s.door) for s in rows]
    return Scene(*(torch.cat(column) for column in zip(*parts, strict=True)))


def room(width: int, height: int) -> Tensor:
    """An empty room of a given unbordered size, as codes with shape (rows, columns), bordered."""
    grid = torch.full((height + 2 * BORDER, width + 2 * BORDER), WALL, dtype=torch.uint8)
    grid[BORDER + 1 : BORDER + height - 1, BORDER + 1 : BORDER + width - 1] = EMPTY
    return grid


def four_rooms_maps() -> Tensor:
    """All 8^4 maps of FourRooms, with shape (4096, cells).

    Map number ((a * 8 + b) * 8 + c) * 8 + d has its openings at `four_rooms_openings`.
    """
    maps = four_rooms_closed().flatten().repeat(8**4, 1)
    return maps.scatter_(1, four_rooms_openings(), EMPTY)


def four_rooms_closed() -> Tensor:
    """FourRooms without openings, with shape (29, 29)."""
    grid = room(19, 19)
    grid[BORDER + 9] = WALL
    grid[:, BORDER + 9] = WALL
    return grid


def four_rooms_openings() -> Tensor:
    """The places of the four openings of each map, with shape (4096, 4).

    In the vertical wall at y in 1..8 and 10..17, in the horizontal wall at x in 1..8 and 10..17.
    """
    width = 19 + 2 * BORDER
    number = torch.arange(8**4)
    a, b, c, d = (number >> 9) & 7, (number >> 6) & 7, (number >> 3) & 7, number & 7
    middle = BORDER + 9

    def at(x: Tensor | int, y: Tensor | int) -> Tensor:
        return torch.as_tensor(y * width + x)

    north, south = at(middle, a + BORDER + 1), at(middle, b + BORDER + 10)
    west, east = at(c + BORDER + 1, middle), at(d + BORDER + 10, middle)
    return torch.stack([north, south, west, east], dim=1)


def door_key_rooms(size: int) -> Tensor:
    """DoorKey without door and key, for each place of its wall, with shape (size - 4, cells)."""
    rooms = []
    for x in range(2, size - 2):
        grid = room(size, size)
        grid[BORDER + size - 2, BORDER + size - 2] = GOAL
        grid[:, BORDER + x] = WALL
        rooms.append(grid.flatten())
    return torch.stack(rooms)


def door_key_codes() -> tuple[int, int]:
    """The codes of DoorKey's yellow door and key."""
    yellow = COLORS.index("yellow")
    return CODES[Thing("door", yellow, LOCKED)], CODES[Thing("key", yellow)]

"""What a cell of a MiniGrid world can hold: every kind of thing has one code, a byte.

The rules are tables over these codes: what one sees, what blocks the view or the way, what can be
lifted, and what becomes of a thing that is toggled. Two things that look alike but differ (a box
with a key in it, the very ball that must be fetched) have two codes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

OBJECTS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava")
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
OPEN, CLOSED, LOCKED = range(3)
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)


class Thing(NamedTuple):
    """One kind of thing.

    Attributes:
        kind: one of OBJECTS.
        color: its index in COLORS.
        door: OPEN, CLOSED or LOCKED, for doors.
        inside: what a box holds, as (kind, color), or None.
        wanted: whether it is the thing that the mission names.
    """

    kind: str
    color: int = 0
    door: int = 0
    inside: tuple[str, int] | None = None
    wanted: bool = False


def _all_things() -> tuple[Thing, ...]:
    colors = range(len(COLORS))
    things = [Thing("empty"), Thing("wall", COLORS.index("grey")), Thing("goal", 1), Thing("lava")]
    things += [Thing("wall", c) for c in colors if COLORS[c] != "grey"]
    things += [Thing("floor", c) for c in colors]
    things += [Thing("goal", c) for c in colors if c != 1]
    things += [Thing("door", c, door) for c in colors for door in (OPEN, CLOSED, LOCKED)]
    for wanted in (False, True):
        things += [Thing(kind, c, wanted=wanted) for kind in ("key", "ball") for c in colors]
        insides = [None, *((kind, c) for kind in ("key", "ball") for c in colors)]
        things += [Thing("box", c, 0, inside, wanted) for c in colors for inside in insides]
    return tuple(things)


THINGS = _all_things()
CODES = {thing: code for code, thing in enumerate(THINGS)}
EMPTY, WALL, GOAL = CODES[Thing("empty")], CODES[Thing("wall", 5)], CODES[Thing("goal", 1)]
assert EMPTY == 0 and len(THINGS) <= 256


@dataclass(frozen=True)
class Tables:
    """The rules as tables over codes, all with shape (256, ...).

    Attributes:
        seen: the three bytes that stand for a thing in an observation.
        clear: whether one can see past it.
        enterable: whether one can walk onto it.
        liftable: whether one can carry it.
        toggled: what it becomes when toggled with empty hands.
        unlocked: what it becomes when toggled with the key of its color.
        lock: the color of a locked door, else -1.
        key: the color of a key, else -2.
        goal, lava, wanted, open_door: what their names say.
    """

    seen: Tensor
    clear: Tensor
    enterable: Tensor
    liftable: Tensor
    toggled: Tensor
    unlocked: Tensor
    lock: Tensor
    key: Tensor
    goal: Tensor
    lava: Tensor
    wanted: Tensor
    open_door: Tensor


def tables(device: torch.device) -> Tables:
    """The tables, on a device."""
    things = [*THINGS, *[Thing("empty")] * (256 - len(THINGS))]

    def flags(values: list[bool]) -> Tensor:
        return torch.tensor(values, device=device)

    def codes(values: list[int], dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def is_open(thing: Thing) -> bool:
        return thing.kind != "door" or thing.door == OPEN

    solid = ("wall", "key", "ball", "box")
    return Tables(
        seen=torch.tensor([_bytes(t) for t in things], dtype=torch.uint8, device=device),
        clear=flags([t.kind != "wall" and is_open(t) for t in things]),
        enterable=flags([t.kind not in solid and is_open(t) for t in things]),
        liftable=flags([t.kind in ("key", "ball", "box") for t in things]),
        toggled=codes([CODES[_toggled(t)] for t in things]),
        unlocked=codes([CODES[_unlocked(t)] for t in things]),
        lock=codes([t.color if _locked(t) else -1 for t in things], torch.int8),
        key=codes([t.color if t.kind == "key" else -2 for t in things], torch.int8),
        goal=flags([t.kind == "goal" for t in things]),
        lava=flags([t.kind == "lava" for t in things]),
        wanted=flags([t.wanted for t in things]),
        open_door=flags([t.kind == "door" and t.door == OPEN for t in things]),
    )


def _bytes(thing: Thing) -> tuple[int, int, int]:
    return OBJECTS.index(thing.kind), thing.color, thing.door


def _locked(thing: Thing) -> bool:
    return thing.kind == "door" and thing.door == LOCKED


def _toggled(thing: Thing) -> Thing:
    if thing.kind == "box":
        return Thing("empty") if thing.inside is None else Thing(*thing.inside)
    if thing.kind == "door" and thing.door != LOCKED:
        return thing._replace(door=CLOSED if thing.door == OPEN else OPEN)
    return thing


def _unlocked(thing: Thing) -> Thing:
    return thing._replace(door=OPEN) if _locked(thing) else _toggled(thing)

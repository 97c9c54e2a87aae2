"""The rules of MiniGrid as pure functions on tensors.

A copy's grid is one byte for each cell (see `cells.py`), row-major and with y downwards; a place
is the index y * width + x. Headings are 0 right, 1 down, 2 left, 3 up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.envs.minigrid.cells import (
    DROP,
    EMPTY,
    FORWARD,
    LEFT,
    PICKUP,
    RIGHT,
    TOGGLE,
    Tables,
)
from rlgen.envs.world import State


@dataclass(frozen=True)
class Scene(State):
    """What there is in each of n copies.

    Attributes:
        grid: codes with shape (n, height * width), in uint8.
        place: where the agent is, as int64 with shape (n,).
        heading: where it looks, as int64 with shape (n,).
        carried: the code of what it carries, EMPTY for nothing, in uint8 with shape (n,).
        door: the place of the door that the mission names, or 0, as int64 with shape (n,).
    """

    grid: Tensor
    place: Tensor
    heading: Tensor
    carried: Tensor
    door: Tensor


def advance(
    scene: Scene, action: Tensor, ahead: Tensor, tables: Tables
) -> tuple[Scene, Tensor, Tensor]:
    """One action of every copy.

    Args:
        scene: before the action.
        action: with shape (n,).
        ahead: how far the place in front is, for each heading, with shape (4,).
        tables: the rules of the cells.

    Returns:
        The scene after it, who succeeded, and whose episode ended.
    """
    front = scene.place + ahead[scene.heading]
    was = scene.grid.gather(1, front[:, None]).squeeze(1)
    code, carried = was.int(), scene.carried.int()

    forward = action == FORWARD
    place = torch.where(forward & tables.enterable[code], front, scene.place)
    turn = (action == RIGHT).long() - (action == LEFT).long()
    heading = (scene.heading + turn) & 3

    lift = (action == PICKUP) & tables.liftable[code] & (carried == EMPTY)
    drop = (action == DROP) & (code == EMPTY) & (carried != EMPTY)
    toggle = action == TOGGLE
    has_key = tables.lock[code] == tables.key[carried]
    becomes = torch.where(has_key, tables.unlocked[code], tables.toggled[code])
    left = torch.where(toggle, becomes, was)
    left = torch.where(lift, EMPTY, torch.where(drop, scene.carried, left))
    grid = scene.grid.scatter(1, front[:, None], left[:, None])
    hands = torch.where(lift, was, torch.where(drop, EMPTY, scene.carried))

    door = grid.gather(1, scene.door[:, None]).squeeze(1).int()
    fetched = (action == PICKUP) & tables.wanted[hands.int()]
    success = (forward & tables.goal[code]) | fetched | (toggle & tables.open_door[door])
    ended = success | (forward & tables.lava[code])
    return Scene(grid, place, heading, hands, scene.door), success, ended

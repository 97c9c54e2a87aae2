"""Clear pictures of maps, put together from tiles; pure tensor operations on whole batches."""

import torch
from torch import Tensor

PIXELS = 16  # in the side of a tile

Color = tuple[int, int, int]

FREE_COLOR: Color = (245, 245, 240)
WALL_COLOR: Color = (70, 74, 82)
GOAL_COLOR: Color = (96, 182, 104)
AGENT_COLOR: Color = (208, 60, 52)

FREE, WALL, GOAL = range(3)
AGENT = 3  # added to what the agent stands on


def tile(ground: Color, disc: Color | None = None) -> Tensor:
    """One tile: uint8 with shape (16, 16, 3), a grid line on its upper and left sides.

    Args:
        ground: its color.
        disc: the color of what stands on it, if anything does.
    """
    picture = torch.tensor(ground, dtype=torch.uint8).repeat(PIXELS, PIXELS, 1)
    picture[0] = picture[:, 0] = torch.tensor(ground, dtype=torch.uint8) // 8 * 7
    if disc is not None:
        across = torch.arange(PIXELS) - PIXELS / 2
        inside = across[:, None] ** 2 + across**2 < (0.36 * PIXELS) ** 2
        picture[inside] = torch.tensor(disc, dtype=torch.uint8)
    return picture


def map_tiles() -> Tensor:
    """The tiles FREE, WALL and GOAL, then the same with the agent on them: (6, 16, 16, 3)."""
    grounds = (FREE_COLOR, WALL_COLOR, GOAL_COLOR)
    discs = (None, AGENT_COLOR)
    return torch.stack([tile(ground, disc) for disc in discs for ground in grounds])


def assemble(kinds: Tensor, tiles: Tensor) -> Tensor:
    """Pictures of maps.

    Args:
        kinds: which tile is where, as int64 with shape (n, rows, columns).
        tiles: with shape (kinds, height, width, 3).

    Returns:
        The pictures, with shape (n, rows * height, columns * width, 3).

    Example:
        >>> import torch
        >>> from rlgen.envs import render
        >>> kinds = torch.zeros(2, 3, 4, dtype=torch.int64)
        >>> render.assemble(kinds, render.map_tiles()).shape
        torch.Size([2, 48, 64, 3])
    """
    placed = tiles[kinds]  # (n, rows, columns, height, width, 3)
    return placed.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def walk(free: Tensor, place: Tensor, goal: Tensor | None = None) -> Tensor:
    """An agent on a map: white cells, dark walls, a green goal, a red agent.

    Args:
        free: the map, True where one can stand, with shape (rows, columns).
        place: of the agent, as row * columns + column, with shape (n,).
        goal: its place, likewise; None if there is none.

    Returns:
        uint8 with shape (n, rows * 16, columns * 16, 3).
    """
    kinds = (~free.to(place.device)).long().flatten().repeat(len(place), 1)
    if goal is not None:
        kinds.scatter_(1, goal[:, None], GOAL)
    kinds.scatter_add_(1, place[:, None], torch.full_like(place[:, None], AGENT))
    return assemble(kinds.unflatten(1, free.shape), map_tiles().to(place.device))

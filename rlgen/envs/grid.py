"""Rules of grids: pure functions on maps, moves and distances.

A map is a boolean tensor with shape (rows, columns), True where one can stand. A cell is known by
its number among the free cells, in row-major order. Moves are 0 up, 1 down, 2 left, 3 right.
"""

import operator

import torch
from torch import Tensor

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
Cell = int | tuple[int, int]


def parse(text: str) -> Tensor:
    """A map drawn in characters, where a space is free and anything else is a wall."""
    rows = text.strip("\n").split("\n")
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the rows of a map must have equal lengths")
    return torch.tensor([[char == " " for char in row] for row in rows])


def cell_numbers(free: Tensor) -> Tensor:
    """The number of each free cell, and -1 for walls, with shape (rows, columns)."""
    numbers = free.flatten().long().cumsum(0) - 1
    return torch.where(free.flatten(), numbers, -1).reshape(free.shape)


def coordinates(free: Tensor) -> Tensor:
    """(row, column) of each cell, with shape (cells, 2)."""
    return free.nonzero()


def moves(free: Tensor) -> Tensor:
    """Where each move leads from each cell, with shape (cells, 4); into a wall, one stays."""
    padded = torch.nn.functional.pad(cell_numbers(free), (1, 1, 1, 1), value=-1)
    here = coordinates(free) + 1
    targets = []
    for down, right in MOVES:
        there = padded[here[:, 0] + down, here[:, 1] + right]
        targets.append(torch.where(there < 0, torch.arange(len(here)), there))
    return torch.stack(targets, dim=1)


def as_cell(name: str, cell: Cell, free: Tensor) -> int:
    """The number of a free cell, given as such or as (row, column)."""
    count = int(free.sum())
    given = as_integers(name, cell)
    if len(given) == 1:
        if not 0 <= given[0] < count:
            raise ValueError(f"{name!r} must be a cell from 0 to {count - 1}, got {cell}")
        return given[0]
    row, column = given
    inside = 0 <= row < free.shape[0] and 0 <= column < free.shape[1]
    if not inside or not free[row, column]:
        raise ValueError(f"{name!r} must be a free cell, and {(row, column)} is not")
    return int(cell_numbers(free)[row, column])


def as_integers(name: str, cell: Cell) -> tuple[int, ...]:
    """A cell as one or two of python's integers, given as any type of integers."""
    parts = cell if isinstance(cell, tuple | list) else (cell,)
    try:
        given = tuple(operator.index(part) for part in parts)
    except TypeError as error:
        raise ValueError(f"{name!r} must be a number or (row, column), got {cell!r}") from error
    if isinstance(cell, tuple | list) and len(given) != 2:
        raise ValueError(f"{name!r} must be a number or (row, column), got {cell!r}")
    return given

"""What a MiniGrid agent sees: the 7 x 7 cells before it, less those that walls hide.

View cell (i, j) is the i-th from the left and the j-th from the far side; the agent stands at
(3, 6) and looks towards j = 0. MiniGrid's visibility is not a line of sight: light enters at the
agent's row and spreads sideways and forwards, row by row. What a row lets through depends only on
what reached it (7 bits) and on which of its cells are clear (7 bits), so a row is one look-up in a
table of 2^14 entries, and the whole view is seven of them, each fed by the one before.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

SIZE = 7
HALF = SIZE // 2
BITS = 1 << SIZE


def spread_light(lit: int, clear: int) -> tuple[int, int]:
    """One row: (what is visible in it, what reaches the next row), as bits; bit i is column i.

    Args:
        lit: the columns that light reaches from below.
        clear: the columns that one can see past.
    """
    seen, onward = lit, 0
    for i in range(SIZE - 1):  # rightwards
        if seen >> i & 1 and clear >> i & 1:
            seen |= 1 << (i + 1)
            onward |= 0b11 << i
    for i in reversed(range(1, SIZE)):  # leftwards
        if seen >> i & 1 and clear >> i & 1:
            seen |= 1 << (i - 1)
            onward |= 0b11 << (i - 1)
    return seen, onward


class Light(NamedTuple):
    """[lit * 128 + clear] of a row -> what is visible in it, and 128 * what lights the next one."""

    seen: Tensor
    onward: Tensor

    def to(self, device: torch.device) -> "Light":
        return Light(self.seen.to(device), self.onward.to(device))


@cache
def light_tables() -> Light:
    """The rows of all views, as int64 with shape (2^14,), on the CPU."""
    rows = [spread_light(lit, clear) for lit in range(BITS) for clear in range(BITS)]
    seen, onward = torch.tensor(rows).unbind(1)
    return Light(seen.contiguous(), onward * BITS)


def view_offsets(width: int, device: torch.device) -> Tensor:
    """How far each view cell is from the agent's place, for each heading: (4, 49), [j * 7 + i]."""
    offsets = []
    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        for j in range(SIZE):
            for i in range(SIZE):
                ahead, aside = SIZE - 1 - j, i - HALF
                x, y = ahead * dx - aside * dy, ahead * dy + aside * dx
                offsets.append(y * width + x)
    return torch.tensor(offsets, device=device).reshape(4, SIZE * SIZE)


def light_up(clear: Tensor, light: Light) -> Tensor:
    """Send light through the rows.

    Args:
        clear: which columns of each row one can see past, as bits with shape (7, n), from the
            agent's row to the far one.
        light: the tables.

    Returns:
        lit * 128 + clear of each row, with shape (7, n): what all tables of rows are indexed by.
    """
    rows = [clear[0] + (BITS << HALF)]
    for row in clear[1:]:
        rows.append(light.onward.index_select(0, rows[-1]) + row)
    return torch.stack(rows)

"""Worlds of walls and one goal, in which nothing ever changes but the agent: fast.

A map is a handful of integers: each row and each column is a word whose bits are its walls. A view
row is then one word, shifted; two tables turn its seven bits into what is visible and into the
finished bytes. A copy keeps only which map it is on, so maps are shared by all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.envs.minigrid import view
from rlgen.envs.minigrid.cells import FORWARD, GOAL, LEFT, RIGHT, WALL
from rlgen.envs.world import State

LONGEST = 62  # cells in a line, which are the bits of a signed word
_CELLS = view.SIZE**2
_OWN = _CELLS - 1 - view.HALF  # the agent's own cell in a view
_WALL_BYTES, _EMPTY_BYTES, _GOAL_BYTES = (2, 5, 0), (1, 0, 0), (8, 1, 0)


@dataclass(frozen=True)
class Spot(State):
    """Where each of n copies is; all are int64 with shape (n,).

    Attributes:
        layout: which map.
        place: of the agent, on the bordered map.
        heading: 0 right, 1 down, 2 left, 3 up.
        goal: its place.
    """

    layout: Tensor
    place: Tensor
    heading: Tensor
    goal: Tensor


class Maps:
    """Shared maps, packed for walking and for looking.

    Args:
        grids: codes of bordered square or oblong maps, with shape (maps, height, width); all that
            is not a wall counts as empty.
        see_through_walls: whether walls hide nothing.
        device: where the tables go.
    """

    def __init__(self, grids: Tensor, *, see_through_walls: bool, device: torch.device) -> None:
        count, self.height, self.width = grids.shape
        assert max(self.height, self.width) <= LONGEST
        walls = grids == WALL
        self.walls = walls.flatten().to(device)
        rows, columns = _pack(walls), _pack(walls.mT)
        self.longest = max(self.height, self.width)
        lines = torch.zeros(count, 2, self.longest, dtype=torch.int64)
        lines[:, 0, : self.height], lines[:, 1, : self.width] = rows, columns
        self.lines = lines.flatten().to(device)
        self.ahead = torch.tensor([1, self.width, -1, -self.width], device=device)
        self.light = view.light_tables().to(device)
        self.finished = _finished_rows(view.light_tables().seen, see_through_walls).to(device)
        self.in_view = _places_in_view(self.height, self.width).to(device)
        turned = [*range(view.BITS), *map(_reversed, range(view.BITS))]
        self.turned = torch.tensor(turned, device=device)
        # for headings right, down, left, up: along columns or rows, which way, mirrored or not
        self.upright = torch.tensor([True, False, True, False], device=device)
        self.sign = torch.tensor([1, 1, -1, -1], device=device)
        self.mirror = torch.tensor([0, view.BITS, view.BITS, 0], device=device)
        # far rows last: light spreads from the agent's row
        self.distance = torch.arange(view.SIZE, device=device)[:, None]
        self.goal_bytes = torch.tensor(_GOAL_BYTES, dtype=torch.uint8, device=device)

    def move(self, spot: Spot, action: Tensor) -> tuple[Spot, Tensor]:
        """One action of every copy; also who reached the goal."""
        front = spot.place + self.ahead[spot.heading]
        blocked = self.walls[spot.layout * (self.height * self.width) + front]
        walks = (action == FORWARD) & ~blocked
        place = torch.where(walks, front, spot.place)
        turn = (action == RIGHT).long() - (action == LEFT).long()
        heading = (spot.heading + turn) & 3
        return Spot(spot.layout, place, heading, spot.goal), walks & (place == spot.goal)

    def look(self, spot: Spot) -> Tensor:
        """MiniGrid's view of every copy: uint8 with shape (n, 7, 7, 3), x first."""
        y, x = spot.place // self.width, spot.place % self.width
        rows = self._rows(spot, x, y).flip(0).T  # (n, 7): the far row first
        # index_select copies whole rows, and is eight times faster here than indexing with []
        cells = self.finished.index_select(0, rows.reshape(-1)).view(-1, 3)
        self._show_goal(cells, spot, x, y)
        return cells.view(-1, view.SIZE, view.SIZE, 3).transpose(1, 2)

    def _rows(self, spot: Spot, x: Tensor, y: Tensor) -> Tensor:
        """The rows of each view as `view.light_up` gives them, with shape (7, n)."""
        upright = self.upright.index_select(0, spot.heading)
        along, across = torch.where(upright, x, y), torch.where(upright, y, x)
        ahead = along + self.sign.index_select(0, spot.heading) * self.distance
        line = (spot.layout * 2 + upright) * self.longest + ahead
        words = self.lines.index_select(0, line.view(-1)).view_as(line)
        bits = (words >> (across - view.HALF)) & (view.BITS - 1)
        turned = bits + self.mirror.index_select(0, spot.heading)
        clear = self.turned.index_select(0, turned.view(-1)).view_as(bits)
        return view.light_up(clear, self.light)

    def _show_goal(self, cells: Tensor, spot: Spot, x: Tensor, y: Tensor) -> None:
        """Put the goal into `cells` (n * 49, 3) where it is in view and visible.

        Elsewhere the bytes of the agent's own cell, which is always shown empty, are written back.
        """
        down = spot.goal // self.width - y + self.height
        right = spot.goal % self.width - x + self.width
        relative = (spot.heading * 2 * self.height + down) * 2 * self.width + right
        cell = self.in_view.index_select(0, relative)
        index = cell + torch.arange(0, len(cells), _CELLS, device=cell.device)
        bytes_now = cells.index_select(0, index)
        shown = (cell != _OWN)[:, None] & (bytes_now[:, :1] > 0)
        cells.index_copy_(0, index, torch.where(shown, self.goal_bytes, bytes_now))

    def codes(self, spot: Spot) -> Tensor:
        """What is in every cell, as codes with shape (n, height * width)."""
        walls: Tensor = self.walls.unflatten(0, (-1, self.height * self.width))[spot.layout]
        return (walls.to(torch.uint8) * WALL).scatter(1, spot.goal[:, None], GOAL)


def _pack(walls: Tensor) -> Tensor:
    """The clear cells of each line as the bits of a word: (maps, lines, cells) -> (maps, lines)."""
    weights = 2 ** torch.arange(walls.shape[2])
    return ((~walls).long() * weights).sum(2)


def _reversed(bits: int) -> int:
    return sum(1 << (view.SIZE - 1 - i) for i in range(view.SIZE) if bits >> i & 1)


def _finished_rows(seen: Tensor, see_through_walls: bool) -> Tensor:
    """[lit * 128 + clear] -> the 21 bytes of a view row, with shape (2^14, 21)."""
    columns = torch.arange(view.SIZE)
    clear = torch.arange(view.BITS).repeat(view.BITS)[:, None] >> columns & 1
    visible = torch.ones_like(clear) if see_through_walls else seen[:, None] >> columns & 1
    kinds = torch.tensor([_WALL_BYTES, _EMPTY_BYTES], dtype=torch.uint8)[clear]
    return (visible.to(torch.uint8)[..., None] * kinds).flatten(1)


def _places_in_view(height: int, width: int) -> Tensor:
    """[heading, dy + height, dx + width] -> the view cell j * 7 + i there, else the agent's own."""
    table = torch.full((4, 2 * height, 2 * width), _OWN)
    for heading, (dx, dy) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
        for cell in range(_CELLS):
            ahead, aside = view.SIZE - 1 - cell // view.SIZE, cell % view.SIZE - view.HALF
            right, down = ahead * dx - aside * dy, ahead * dy + aside * dx
            table[heading, down + height, right + width] = cell
    return table.flatten()

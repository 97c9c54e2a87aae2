"""A large open world, of which one sees little: where exploration and memory matter."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.envs import grid, render
from rlgen.envs.draws import Draws
from rlgen.envs.terrain import (
    CODES,
    DOOR,
    FREE,
    GOAL,
    KEY,
    KINDS,
    LAVA,
    MOST_KEYS,
    WALL,
    WATER,
    draw_maps,
)
from rlgen.envs.world import State, TensorWorld

_HANDS = 2**MOST_KEYS  # the sets of keys that one can hold
_COLORS: dict[int, render.Color] = {
    FREE: (228, 226, 200),
    WALL: render.WALL_COLOR,
    WATER: (92, 148, 208),
    LAVA: (232, 112, 40),
    GOAL: render.GOAL_COLOR,
}
_KEY_COLORS: tuple[render.Color, ...] = ((214, 180, 40), (150, 82, 190), (60, 170, 170))


@dataclass(frozen=True)
class Trek(State):
    """Where each of n copies is; all are int64 with shape (n,).

    Attributes:
        layout: which map.
        place: of the agent: row * width + column on the map with its border.
        held: the keys that it holds: bit k is key k.
    """

    layout: Tensor
    place: Tensor
    held: Tensor


class Plains(TensorWorld[Trek]):
    """Walk from one corner of a wild land to the other, where the one reward of 1 is.

    Water and walls are in the way, and lava ends the episode for nothing. The goal is in a vault
    behind a door; its key is in another vault, and so on; the last key lies in the open. Keys are
    picked up by walking onto them and kept, and a door lets pass who holds the key of its color.
    Every map has a way to its goal.

    The agent sees the `view` x `view` cells around itself, north up, in two channels. The first is
    0 free, 1 wall, 2 water, 3 lava, 4 goal, 5 key or 6 door, and the second is the color (1 to 3)
    of a key or a door; in the agent's own cell, in the middle, it is the set of keys held, as bits.
    Moves are 0 up, 1 down, 2 left, 3 right.

    Args:
        num_envs: how many copies.
        size: rows and columns of the map, at least 32.
        view: rows and columns of what is seen, an odd number.
        keys: how many keys, and doors, from 0 to 3.
        maps: how many maps there are, of which each episode draws one; or a range of them, to keep
            some for evaluation. Map k is the same in all worlds of one size and number of keys.
        device: where the copies live.
        max_steps: when an episode is truncated; None is 16 times the size.
        seed: of the first reset.

    Example:
        >>> import torch
        >>> from rlgen.envs import Plains
        >>> world = Plains(8, maps=4, seed=0)
        >>> world.reset().shape
        torch.Size([8, 9, 9, 2])
        >>> step = world.step(torch.full((8,), 3))
        >>> world.shortest(0)  # steps from the start of the first map to its goal
        215
    """

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 64,
        view: int = 9,
        keys: int = 2,
        maps: int | range = 256,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        if view < 3 or view % 2 == 0:
            raise ValueError(f"'view' must be an odd number from 3, got {view}")
        numbers = range(maps) if isinstance(maps, int) else maps
        codes, starts = draw_maps(size, keys, numbers)
        super().__init__(
            num_envs,
            device=device,
            observation_space=gymnasium.spaces.Box(0, _HANDS - 1, (view, view, 2), np.uint8),
            action_space=gymnasium.spaces.Discrete(4),
            max_steps=16 * size if max_steps is None else max_steps,
            seed=seed,
        )
        self.size, self.view, self.maps, self._border = size, view, numbers, view // 2
        width = size + 2 * self._border
        bordered = torch.nn.functional.pad(codes, (self._border,) * 4, value=WALL)
        self._width, self._cells = width, width**2
        self._codes = bordered.flatten().to(self.device)
        inner = (starts // size + self._border) * width + starts % size + self._border
        self._starts = inner.to(self.device)
        self._ahead = torch.tensor([down * width + right for down, right in grid.MOVES]).to(
            self.device
        )
        around = torch.arange(view) - self._border
        self._around = (around[:, None] * width + around).flatten().to(self.device)
        seen, open_to, after = _tables()
        self._seen, self._open_to = seen.to(self.device), open_to.to(self.device)
        self._after = after.to(self.device)

    def shortest(self, layout: int) -> int:
        """How many steps the shortest way through one of this world's maps takes, lava avoided.

        Args:
            layout: which map, as `state.layout` counts them.
        """
        if not 0 <= layout < len(self.maps):
            raise ValueError(f"'layout' must be from 0 to {len(self.maps) - 1}, got {layout}")
        cells = self._cells
        codes = self._codes[layout * cells : (layout + 1) * cells].cpu()
        # states are held * cells + place; lava is left out, and a wall keeps one where one is
        place = torch.arange(cells).repeat(_HANDS)[:, None]
        held = torch.arange(_HANDS).repeat_interleave(cells)[:, None]
        there = (place + self._ahead.cpu()) % cells
        entry = held * CODES + codes.long()[there]
        goes = self._open_to.cpu()[entry] & (codes[there] != LAVA)
        following = torch.where(
            goes, self._after.cpu()[entry] * cells + there, held * cells + place
        )
        met = torch.zeros(len(following), dtype=torch.bool)
        frontier = self._starts[layout].cpu()[None]
        steps = 0
        while not (codes[frontier % cells] == GOAL).any():
            met[frontier] = True
            frontier = following[frontier].unique()
            frontier = frontier[~met[frontier]]
            assert len(frontier), "a map without a way to its goal"
            steps += 1
        return steps

    def render(self) -> Tensor:
        """The whole map, 8 pixels a cell: uint8 with shape (num_envs, height, width, 3)."""
        state, border, size = self.state, self._border, self.size
        shape = (-1, self._width, self._width)
        codes = self._codes.view(-1, self._cells)[state.layout].long()
        taken = self._after[CODES * state.held[:, None] + codes] == state.held[:, None]
        kinds = torch.where((codes >= KEY) & (codes < DOOR) & taken, FREE, codes)
        kinds = kinds.scatter_add(1, state.place[:, None], torch.full_like(kinds, CODES))
        inside = kinds.view(shape)[:, border : border + size, border : border + size]
        return render.assemble(inside, _tiles().to(self.device))

    def _initial(self, draws: Draws) -> Trek:
        layout = draws.integers(0, len(self.maps))
        return Trek(layout, self._starts[layout], torch.zeros_like(layout))

    def _transition(
        self, state: Trek, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[Trek, Tensor, Tensor]:
        del time, draws
        front = state.place + self._ahead[action]
        code = self._codes[state.layout * self._cells + front].long()
        entry = state.held * CODES + code
        place = torch.where(self._open_to[entry], front, state.place)
        reached = code == GOAL
        after = Trek(state.layout, place, self._after[entry])
        return after, reached.float(), reached | (code == LAVA)

    def _observe(self, state: Trek) -> Tensor:
        corner = state.layout * self._cells + state.place
        index = corner[:, None] + self._around
        codes = self._codes.index_select(0, index.view(-1)).view_as(index)
        entry = (state.held * CODES)[:, None] + codes
        # both bytes of a cell at once
        pairs = self._seen.index_select(0, entry.view(-1)).view(torch.uint8)
        seen = pairs.view(-1, self.view, self.view, 2)
        seen[:, self._border, self._border, 1] = state.held.to(torch.uint8)
        return seen


def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """For each [held * CODES + code]: what is seen, whether one can enter, what one holds then.

    All have the shape (sets of keys * CODES,); the two bytes of what is seen are one int16.
    """
    held, code = torch.arange(_HANDS)[:, None], torch.arange(CODES)
    key, door = (code >= KEY) & (code < DOOR), code >= DOOR
    color = torch.where(key, code - KEY, torch.where(door, code - DOOR, 0))
    has = (held >> color & 1).bool()
    kind = torch.where(key, KINDS.index("key"), torch.where(door, KINDS.index("door"), code))
    kind = torch.where(key & has, FREE, kind)
    shade = torch.where((key & ~has) | door, color + 1, 0)
    open_to = (code != WALL) & (code != WATER) & (~door | has)
    after = torch.where(key, held | (1 << color), held)
    seen = torch.stack([kind, shade], dim=2).to(torch.uint8)
    return seen.view(torch.int16).flatten(), open_to.flatten(), after.flatten()


def _tiles() -> Tensor:
    """One tile for each code, then the same with the agent on it: (2 * CODES, 8, 8, 3)."""
    ground = _COLORS[FREE]
    bare = [render.tile(_COLORS[code]) for code in sorted(_COLORS)]
    bare += [render.tile(ground, color) for color in _KEY_COLORS]
    bare += [render.tile(color) for color in _KEY_COLORS]
    agent = render.tile(ground, render.AGENT_COLOR)
    return torch.stack([*bare, *[agent] * len(bare)])[:, ::2, ::2]

"""The two ways of keeping a MiniGrid world: with all its things, or as shared maps.

Both are the same rules. `WalledGame` serves worlds of walls and one goal, several times faster;
`ThingsGame` serves all.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from rlgen.envs.draws import Draws
from rlgen.envs.minigrid import rules, view
from rlgen.envs.minigrid.cells import EMPTY, GOAL, WALL, tables
from rlgen.envs.minigrid.layouts import Config
from rlgen.envs.minigrid.rules import Scene
from rlgen.envs.minigrid.walled import Maps, Spot

_UNSEEN = 255  # a code that no thing has


class Layouts(Protocol):
    """Draws the first scenes of episodes: a bank, or a native generator."""

    def draw(self, draws: Draws) -> Scene: ...

    def codes(self) -> set[int]:
        """Of the things in these scenes."""


class ThingsGame:
    """Every copy has a grid of its own: doors, keys, balls and boxes.

    Args:
        layouts: draws first scenes.
        config: what all episodes share.
        device: where it runs.
    """

    def __init__(self, layouts: Layouts, config: Config, device: torch.device) -> None:
        self.layouts, self.config = layouts, config
        self.tables = tables(device)
        width = config.width
        self.ahead = torch.tensor([1, width, -1, -width], device=device)
        self.offsets = view.view_offsets(width, device)
        self.light = view.light_tables().to(device)
        self.columns = torch.arange(view.SIZE, device=device)
        self.weights = (2.0**self.columns).to(torch.float32)
        self.clear = self.tables.clear.float()
        self.seen = self.tables.seen.clone()
        self.seen[_UNSEEN] = 0

    def initial(self, draws: Draws) -> Scene:
        return self.layouts.draw(draws)

    def move(self, scene: Scene, action: Tensor) -> tuple[Scene, Tensor, Tensor]:
        return rules.advance(scene, action, self.ahead, self.tables)

    def look(self, scene: Scene) -> Tensor:
        """MiniGrid's view of every copy: uint8 with shape (n, 7, 7, 3), x first."""
        index = scene.place[:, None] + self.offsets.index_select(0, scene.heading)
        codes = scene.grid.gather(1, index).int()  # (n, 49): far row first
        if not self.config.see_through_walls:
            codes = torch.where(self._visible(codes), codes, _UNSEEN)
        codes[:, view.SIZE * (view.SIZE - 1) + view.HALF] = scene.carried.int()
        image = self.seen.index_select(0, codes.view(-1))
        return image.view(-1, view.SIZE, view.SIZE, 3).transpose(1, 2)

    def _visible(self, codes: Tensor) -> Tensor:
        clear = self.clear.index_select(0, codes.view(-1)).view(-1, view.SIZE) @ self.weights
        rows = clear.long().view(-1, view.SIZE).T.flip(0)  # the agent's row first
        seen = self.light.seen[view.light_up(rows, self.light)].flip(0).T
        return ((seen[:, :, None] >> self.columns) & 1).bool().flatten(1)

    def scene(self, scene: Scene) -> Scene:
        return scene

    def from_scene(self, scene: Scene) -> Scene:
        return scene

    def codes(self) -> set[int]:
        """Of all things that can be met: those of the layouts, and what becomes of them."""
        met: set[int] = set()
        new = {EMPTY, *self.layouts.codes()}
        rules_of = tables(torch.device("cpu"))  # a device may have no values to read
        while new:
            met |= new
            becomes = (rules_of.toggled, rules_of.unlocked)
            new = {int(table[code]) for table in becomes for code in new} - met
        return met


class WalledGame:
    """Copies share maps of walls; each has its goal.

    Args:
        layouts: draws first spots.
        maps: the maps that they name.
    """

    def __init__(self, layouts: Any, maps: Maps) -> None:
        self.layouts, self.maps = layouts, maps

    def initial(self, draws: Draws) -> Spot:
        spot: Spot = self.layouts.draw(draws)
        return spot

    def move(self, spot: Spot, action: Tensor) -> tuple[Spot, Tensor, Tensor]:
        after, success = self.maps.move(spot, action)
        return after, success, success

    def look(self, spot: Spot) -> Tensor:
        return self.maps.look(spot)

    def scene(self, spot: Spot) -> Scene:
        """The same with a grid for each copy, for pictures and planning."""
        nothing = torch.zeros_like(spot.place)
        grid = self.maps.codes(spot)
        return Scene(grid, spot.place, spot.heading, nothing.to(torch.uint8), nothing)

    def codes(self) -> set[int]:
        return {EMPTY, WALL, GOAL}

    def from_scene(self, scene: Scene) -> Spot:
        """Scenes in the order of the bank: copy k is on map k."""
        assert isinstance(self.layouts, SpotBank)
        return self.layouts.spots


class SceneBank:
    """First scenes drawn uniformly from a list of them.

    Args:
        scenes: on the CPU, where they can be looked at.
        device: where they go.
    """

    def __init__(self, scenes: Scene, device: torch.device) -> None:
        self.scenes = scenes.to(device)
        self._codes = {*scenes.grid.unique().tolist(), *scenes.carried.unique().tolist()}

    def draw(self, draws: Draws) -> Scene:
        scene: Scene = self.scenes.take(draws.integers(0, len(self.scenes.place)))
        return scene

    def codes(self) -> set[int]:
        return self._codes


class SpotBank:
    """The same for worlds of walls: bank row k is map k."""

    def __init__(self, spots: Spot) -> None:
        self.spots = spots

    def draw(self, draws: Draws) -> Spot:
        spot: Spot = self.spots.take(draws.integers(0, len(self.spots.place)))
        return spot


class FourRoomsLayouts:
    """MiniGrid's FourRooms: four openings, then the agent, then the goal, all uniform.

    minigrid draws places until one is free, which is uniform over the free ones: here the k-th
    free place is picked at once.

    Args:
        free: the free places of each map, with shape (maps, 260).
    """

    def __init__(self, free: Tensor) -> None:
        self.count, self.each = free.shape
        self.free = free.to(torch.int16).flatten()  # 2 MB in place of 8

    def draw(self, draws: Draws) -> Spot:
        layout, agent, goal, heading = draws.several(self.count, self.each, self.each - 1, 4)
        goal = goal + (goal >= agent)  # any other place
        return Spot(layout, self._place(layout, agent), heading, self._place(layout, goal))

    def _place(self, layout: Tensor, k: Tensor) -> Tensor:
        return self.free.index_select(0, layout * self.each + k).long()


class EmptyLayouts:
    """MiniGrid's Empty: the goal in the corner; the agent in the other one, or anywhere.

    Args:
        goal: its place.
        starts: the places where the agent may be.
        heading: its heading, or None for any.
    """

    def __init__(self, goal: int, starts: Tensor, heading: int | None) -> None:
        self.goal, self.starts, self.heading = goal, starts, heading

    def draw(self, draws: Draws) -> Spot:
        k, any_heading = draws.several(len(self.starts), 4)
        fixed = self.heading is not None
        heading = torch.full_like(k, self.heading or 0) if fixed else any_heading
        zero = torch.zeros_like(k)
        return Spot(zero, self.starts.index_select(0, k), heading, zero + self.goal)


class DoorKeyLayouts:
    """MiniGrid's DoorKey: a wall with a locked door; agent and key on its left, goal on its right.

    Args:
        rooms: grids with the goal and the wall at x = 2, 3, ..., with shape (walls, cells).
        size: of the world.
        width: of the bordered map.
        origin: the place of minigrid's (0, 0).
        things: the codes of the door and the key.
    """

    def __init__(
        self, rooms: Tensor, *, size: int, width: int, origin: int, things: tuple[int, int]
    ) -> None:
        self.rooms, self.size, self.width = rooms, size, width
        self.origin, self.things = origin, things

    def draw(self, draws: Draws) -> Scene:
        wall = draws.integers(0, self.size - 4)
        across = wall + 1  # free columns on the left
        count = across * (self.size - 2)
        agent, key = draws.integers(1, count), draws.integers(2, count - 1)
        key = key + (key >= agent)
        heading = draws.integers(3, 4)
        door_y = 1 + draws.integers(4, self.size - 3)
        door = self._place(wall + 2, door_y)
        grid = self.rooms.index_select(0, wall)
        grid = grid.scatter(1, door[:, None], self.things[0])
        grid = grid.scatter(1, self._left(key, across)[:, None], self.things[1])
        nothing = torch.zeros_like(wall)
        place = self._left(agent, across)
        return Scene(grid, place, heading, nothing.to(torch.uint8), nothing)

    def codes(self) -> set[int]:
        return {EMPTY, WALL, GOAL, *self.things}

    def _left(self, k: Tensor, across: Tensor) -> Tensor:
        return self._place(1 + k % across, 1 + k // across)

    def _place(self, x: Tensor, y: Tensor) -> Tensor:
        return self.origin + y * self.width + x

"""Whole maps as symbols or pixels: MiniGrid's own encoding, and tiles drawn by minigrid itself."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlgen.envs.minigrid import view
from rlgen.envs.minigrid.cells import COLORS, OBJECTS, THINGS, Thing, tables
from rlgen.envs.minigrid.layouts import BORDER, Config
from rlgen.envs.minigrid.rules import Scene

_AGENT = 10  # MiniGrid's number for the agent, which is red


class Pictures:
    """Draws scenes.

    Args:
        config: of the world.
        pixels: in the side of a tile; 0 for symbols alone.
        codes: of all things that can be met, unless `pixels` is 0; minigrid draws each of them
            slowly, once.
        device: where the tables go.
    """

    def __init__(self, config: Config, pixels: int, codes: set[int], device: torch.device) -> None:
        self.config, self.pixels = config, pixels
        self.seen = tables(device).seen
        self.offsets = view.view_offsets(config.width, device)
        if pixels:
            self.tiles = torch.as_tensor(_tiles(pixels, codes), device=device)

    def symbols(self, scene: Scene) -> Tensor:
        """The whole map, with the agent: uint8 with shape (n, width, height, 3)."""
        cells = self.seen[scene.grid.int()]
        agent = torch.stack(
            [
                torch.full_like(scene.heading, _AGENT),
                torch.zeros_like(scene.heading),
                scene.heading,
            ],
            dim=1,
        )
        index = scene.place[:, None, None].expand(-1, 1, 3)
        cells = cells.scatter(1, index, agent[:, None].to(torch.uint8))
        return self._inside(cells).transpose(1, 2)

    def __call__(self, scene: Scene, image: Tensor) -> Tensor:
        """Pixels with what the agent sees lit up: (n, rows * pixels, columns * pixels, 3).

        Args:
            scene: what there is.
            image: what the agents see, with shape (n, 7, 7, 3).
        """
        # tile number: (code, nobody or heading, lit or not)
        lit = image[..., 0].transpose(1, 2).flatten(1) > 0
        where = scene.place[:, None] + self.offsets[scene.heading]
        lights = torch.zeros_like(scene.grid).scatter(1, where, lit.to(torch.uint8))
        somebody = torch.zeros_like(scene.grid)
        heading = (scene.heading + 1).to(torch.uint8)
        somebody = somebody.scatter(1, scene.place[:, None], heading[:, None])
        number = (scene.grid.long() * 5 + somebody) * 2 + lights
        tiles = self.tiles[self._inside(number)]  # (n, rows, columns, pixels, pixels, 3)
        return tiles.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)

    def _inside(self, cells: Tensor) -> Tensor:
        """Bordered places (n, height * width, ...) -> the map itself (n, rows, columns, ...)."""
        shaped: Tensor = cells.unflatten(1, (self.config.height, self.config.width))
        return shaped[:, BORDER:-BORDER, BORDER:-BORDER]


def _tiles(pixels: int, codes: set[int]) -> Any:
    """[(code * 5 + agent) * 2 + lit] -> a tile drawn by minigrid; agent 0 is nobody."""
    from minigrid.core.grid import Grid

    # uint8, as minigrid casts a tile when it puts it in place
    tiles = np.zeros((len(THINGS), 5, 2, pixels, pixels, 3), dtype=np.uint8)
    for code in codes:
        thing = _drawable(THINGS[code])
        headings = (None, 0, 1, 2, 3) if thing is None or thing.can_overlap() else (None,)
        for agent, heading in enumerate(headings):
            for lit in (False, True):
                tiles[code, agent, int(lit)] = Grid.render_tile(thing, heading, lit, pixels)
    return tiles.reshape(-1, pixels, pixels, 3)


def _drawable(thing: Thing) -> Any:
    from minigrid.core.world_object import Goal, WorldObj

    if thing.kind == "goal":  # minigrid decodes goals of any color to green ones
        return Goal(COLORS[thing.color])
    return WorldObj.decode(OBJECTS.index(thing.kind), thing.color, thing.door)

"""An open grid where many shortest paths are optimal."""

import torch
from torch import Tensor

from rlgen.envs import grid, planner
from rlgen.envs.tabular import Goal, Observation, SlipRule, TabularGrid


class OpenWorld(TabularGrid):
    """Pathfinding on an open square: from corner to corner there are C(2 (n - 1), n - 1) ways.

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106

    Args:
        num_envs: how many copies.
        size: rows and columns.
        obstacles: the share of cells that are walls. The map is the same for all copies and
            episodes, and every free cell can be reached from every other.
        map_seed: of the obstacles.
        device, observation, slip, slip_rule, max_steps, seed: see `TabularGrid`.
        start: a cell, or None for any, drawn for each episode.
        goal: a cell, "random" or "none"; None is the last corner.

    Example:
        >>> from rlgen.envs import OpenWorld
        >>> OpenWorld(1, size=10, start=(0, 0)).shortest_paths()
        48620
    """

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 10,
        obstacles: float = 0.0,
        map_seed: int = 0,
        device: str | torch.device = "cpu",
        observation: Observation = "onehot",
        slip: float = 0.0,
        slip_rule: SlipRule = "paper",
        start: grid.Cell | None = None,
        goal: Goal | None = None,
        max_steps: int = 100,
        seed: int | None = None,
    ) -> None:
        if size < 2:
            raise ValueError(f"'size' must be at least 2, got {size}")
        if not 0.0 <= obstacles < 1.0:
            raise ValueError(f"'obstacles' must be a share from 0 to below 1, got {obstacles}")
        super().__init__(
            num_envs,
            open_map(size, obstacles, map_seed),
            device=device,
            observation=observation,
            slip=slip,
            slip_rule=slip_rule,
            start=start,
            goal=(size - 1, size - 1) if goal is None else goal,
            max_steps=max_steps,
            seed=seed,
        )


def open_map(size: int, obstacles: float, seed: int) -> Tensor:
    """A square map with the corners free, in which every free cell can reach every other.

    Walls are placed one by one in random order; one that would cut the map in two is left out.
    """
    free = torch.ones(size, size, dtype=torch.bool)
    wanted = round(obstacles * size * size)
    order = torch.randperm(size * size, generator=torch.Generator().manual_seed(seed))
    for place in order.tolist():
        if wanted == 0:
            break
        row, column = divmod(place, size)
        if row in (0, size - 1) and column in (0, size - 1):
            continue
        free[row, column] = False
        if (planner.distances(grid.moves(free), 0) < 0).any():
            free[row, column] = True
        else:
            wanted -= 1
    if wanted:
        raise ValueError(f"no connected map of size {size} has a share of {obstacles} obstacles")
    return free

"""Exact answers on known maps: distances, optimal moves, and how many shortest paths there are."""

import torch
from torch import Tensor


def distances(next_cell: Tensor, goal: int) -> Tensor:
    """Steps from each cell to `goal`, breadth first; -1 where it cannot be reached.

    Args:
        next_cell: where each action leads, with shape (cells, actions).
        goal: a cell.

    Returns:
        int64 with shape (cells,).
    """
    steps = torch.full((len(next_cell),), -1)
    steps[goal] = 0
    for distance in range(1, len(next_cell)):
        near = (steps[next_cell] == distance - 1).any(1) & (steps < 0)
        if not near.any():
            break
        steps[near] = distance
    return steps


def optimal_actions(next_cell: Tensor, goal: int) -> Tensor:
    """Which actions lie on a shortest path, with shape (cells, actions); none at the goal."""
    steps = distances(next_cell, goal)
    return (steps[next_cell] == steps[:, None] - 1) & (steps[:, None] > 0)


def shortest_paths(next_cell: Tensor, start: int, goal: int) -> int:
    """How many shortest paths lead from `start` to `goal`, as an exact integer."""
    steps = distances(next_cell, goal).tolist()
    if steps[start] < 0:
        return 0
    best = optimal_actions(next_cell, goal)
    ways = {goal: 1}
    for cell in sorted((c for c in range(len(steps)) if steps[c] > 0), key=lambda c: steps[c]):
        # two actions to the same cell are one step of a path
        ahead = set(next_cell[cell][best[cell]].tolist())
        ways[cell] = sum(ways[c] for c in ahead)
    return ways[start]

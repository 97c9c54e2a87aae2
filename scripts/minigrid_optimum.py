"""The best return of MiniGrid's worlds of rooms, keys and doors, by breadth-first search.

The agent knows the map here, so this is a bound for one that has to find its way by what it sees.
"""

import statistics
from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium

# reached, or picked up, which takes one action as well; that hands must be free is left out
_GOALS = ("goal", "ball")
_AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))

# where one stands, which way one looks, whether one has the key, and which doors are open
State = tuple[tuple[int, int], int, bool, frozenset[tuple[int, int]]]


def optimal_return(world_id: str, layouts: int = 100) -> float:
    """The mean over layouts of 1 - 0.9 * (fewest actions) / (the most that are allowed)."""
    import minigrid  # noqa: F401  (registers its ids)

    env: Any = gymnasium.make(world_id, disable_env_checker=True).unwrapped
    returns = []
    for seed in range(layouts):
        env.reset(seed=seed)
        returns.append(1.0 - 0.9 * fewest_actions(env) / env.max_steps)
    return statistics.fmean(returns)


def fewest_actions(env: Any) -> int:
    """Turns, steps, picking up the key and opening doors, until the goal is reached."""
    x, y = (int(i) for i in env.agent_pos)
    start: State = ((x, y), int(env.agent_dir), False, frozenset())
    frontier, seen = deque([(start, 0)]), {start}
    while frontier:
        state, length = frontier.popleft()
        cell = env.grid.get(*state[0])
        if cell is not None and cell.type in _GOALS:
            return length
        for following in successors(env.grid, state):
            if following not in seen:
                seen.add(following)
                frontier.append((following, length + 1))
    raise ValueError("the goal cannot be reached")


def successors(grid: Any, state: State) -> Iterator[State]:
    (x, y), facing, key, opened = state
    yield (x, y), (facing + 1) % 4, key, opened
    yield (x, y), (facing - 1) % 4, key, opened
    ahead = (x + _AHEAD[facing][0], y + _AHEAD[facing][1])
    cell = grid.get(*ahead)
    if cell is None or cell.type in _GOALS or (cell.type == "key" and key) or ahead in opened:
        yield ahead, facing, key, opened
    elif cell.type == "key":
        yield (x, y), facing, True, opened
    elif cell.type == "door" and (key or not cell.is_locked):
        yield (x, y), facing, key, opened | {ahead}

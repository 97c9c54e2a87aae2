"""Exact plans for MiniGrid worlds of which everything is known.

`solve` searches all states of one copy, doors and carried things included. Where nothing but the
agent ever changes, `distances` and `optimal_actions` serve all copies and poses at once.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rlgen.envs.minigrid import rules
from rlgen.envs.minigrid.cells import DONE, DROP, FORWARD, LEFT, PICKUP, RIGHT, TOGGLE, tables
from rlgen.envs.minigrid.rules import Scene
from rlgen.envs.minigrid.world import MiniGrid

_CPU = torch.device("cpu")
_FAR = 30_000  # more than there are poses, and small: memory is what takes time here
_USEFUL = (LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE)


class _Frontier(NamedTuple):
    """States at one distance: their scenes, hashes of the grids alone, and of all."""

    scene: Scene
    grids: Tensor
    keys: Tensor


class _Search:
    """The successors of whole frontiers of states, and a hash that tells states apart."""

    def __init__(self, world: MiniGrid) -> None:
        width = world.config.width
        self.ahead = torch.tensor([1, width, -1, -width])
        self.tables = tables(_CPU)
        # a grid's hash is the sum of its codes, weighted: one changed cell is one addition
        generator = torch.Generator().manual_seed(0)
        count = world.config.height * width
        self.weights = torch.randint(-(2**62), 2**62, (count,), generator=generator)
        self.pose = torch.randint(-(2**62), 2**62, (3,), generator=generator)

    def begin(self, scene: Scene) -> _Frontier:
        grids = (scene.grid.long() * self.weights).sum(1)
        return _Frontier(scene, grids, self._keys(scene, grids))

    def follow(self, frontier: _Frontier, action: int) -> tuple[_Frontier, Tensor, Tensor]:
        """What an action leads to, who succeeds by it, and for whom it could matter."""
        scene = frontier.scene
        actions = torch.full_like(scene.place, action)
        after, success, ended = rules.advance(scene, actions, self.ahead, self.tables)
        front = (scene.place + self.ahead[scene.heading])[:, None]
        was, left = scene.grid.gather(1, front), after.grid.gather(1, front)
        change = (left.long() - was.long()).squeeze(1) * self.weights[front.squeeze(1)]
        grids = frontier.grids + change
        keys = self._keys(after, grids)
        # to close a door never helps: an open one is in nobody's way
        closes = (action == TOGGLE) & self.tables.open_door[was.squeeze(1).int()]
        matters = success | ((keys != frontier.keys) & ~ended & ~closes)
        return _Frontier(after, grids, keys), success, matters

    def _keys(self, scene: Scene, grids: Tensor) -> Tensor:
        place, heading, carried = self.pose
        keys: Tensor = grids + scene.place * place + scene.heading * heading
        keys = keys + scene.carried * carried
        return keys


def solve(world: MiniGrid, copy: int = 0, *, max_states: int = 500_000) -> list[int]:
    """A shortest sequence of actions by which one copy succeeds from where it is now.

    Breadth first over all that a state holds: pose, carried thing and grid. The time limit is not
    looked at.

    Args:
        world: after its reset.
        copy: which one.
        max_states: give up when more states than this have been met.

    Returns:
        The actions; among equally short plans always the same one.

    Example:
        >>> from rlgen.envs import MiniGrid
        >>> from rlgen.envs.minigrid import planner
        >>> world = MiniGrid("MiniGrid-Empty-5x5-v0", 1, seed=0)
        >>> observation = world.reset()
        >>> planner.solve(world)
        [2, 2, 1, 2, 2]
    """
    if not 0 <= copy < world.num_envs:
        raise ValueError(f"'copy' must be from 0 to {world.num_envs - 1}, got {copy}")
    search = _Search(world)
    frontier = search.begin(_on_cpu(world.scene, copy))
    first = int(frontier.keys)
    came: dict[int, tuple[int, int]] = {first: (first, DONE)}  # from which state, by which action
    while len(frontier.keys):
        found = []
        before = frontier.keys.tolist()
        for action in _USEFUL:
            after, success, matters = search.follow(frontier, action)
            if success.any():
                return [*_path(came, before[int(success.long().argmax())]), action]
            fresh = []
            keys = after.keys.tolist()
            for i in matters.nonzero().squeeze(1).tolist():
                if keys[i] not in came:
                    came[keys[i]] = (before[i], action)
                    fresh.append(i)
            index = torch.tensor(fresh, dtype=torch.int64)
            found.append(_Frontier(after.scene.take(index), after.grids[index], after.keys[index]))
        if len(came) > max_states:
            raise ValueError(f"more than {max_states} states: raise 'max_states'")
        frontier = _join(found)
    raise ValueError(f"nothing that copy {copy} can do leads to success")


def distances(world: MiniGrid) -> Tensor:
    """How many actions every pose is away from success, in worlds where nothing else changes.

    Args:
        world: after its reset; without doors and without things to carry.

    Returns:
        int64 with shape (num_envs, 4, height * width) over headings and the places of
        `world.scene`; 0 at the goal, and -1 from where it cannot be reached.
    """
    scene = world.scene
    codes = scene.grid.int()
    table = tables(scene.grid.device)
    if bool((table.liftable[codes] | (table.toggled[codes] != scene.grid)).any()) or bool(
        (table.lock[codes] >= 0).any()
    ):
        raise ValueError("this world has doors or things to carry: use 'solve'")
    width = world.config.width
    solid = ~table.enterable[codes] | table.lava[codes]
    goal = table.goal[codes]
    steps = torch.where(goal, 0, _FAR).to(torch.int16)[:, None].repeat(1, 4, 1)
    while True:
        ahead = [steps[:, h].roll(-d, 1) for h, d in enumerate((1, width, -1, -width))]
        walls = [solid.roll(-d, 1) for d in (1, width, -1, -width)]
        forward = torch.stack(ahead, 1).masked_fill(torch.stack(walls, 1), _FAR)
        turned = torch.minimum(steps.roll(1, 1), steps.roll(-1, 1))
        nearer = torch.minimum(steps, torch.minimum(turned, forward) + 1)
        nearer = nearer.masked_fill(solid[:, None], _FAR).clamp(max=_FAR)
        if torch.equal(nearer, steps):
            return steps.masked_fill(steps == _FAR, -1).long()
        steps = nearer


def optimal_actions(world: MiniGrid, steps: Tensor | None = None) -> Tensor:
    """Which actions lie on a shortest way to success now, as booleans (num_envs, 7).

    Args:
        world: as for `distances`.
        steps: its `distances`, which hold until the next episode; None works them out.
    """
    steps = distances(world) if steps is None else steps
    scene = world.scene
    width = world.config.width
    ahead = torch.tensor([1, width, -1, -width], device=steps.device)[scene.heading]
    copies = torch.arange(len(steps), device=steps.device)
    now = steps[copies, scene.heading, scene.place]
    best = torch.zeros(len(steps), DONE + 1, dtype=torch.bool, device=steps.device)
    for action, turn in ((LEFT, -1), (RIGHT, 1)):
        best[:, action] = steps[copies, (scene.heading + turn) & 3, scene.place] == now - 1
    best[:, FORWARD] = steps[copies, scene.heading, scene.place + ahead] == now - 1
    return best & (now > 0)[:, None]


def _on_cpu(scene: Scene, copy: int) -> Scene:
    row: Scene = scene.take(torch.tensor([copy], device=scene.place.device))
    return replace(row, **{name: part.cpu() for name, part in vars(row).items()})


def _join(parts: list[_Frontier]) -> _Frontier:
    scenes = [vars(part.scene) for part in parts]
    scene = Scene(**{name: torch.cat([row[name] for row in scenes]) for name in scenes[0]})
    grids, keys = [part.grids for part in parts], [part.keys for part in parts]
    return _Frontier(scene, torch.cat(grids), torch.cat(keys))


def _path(came: dict[int, tuple[int, int]], key: int) -> list[int]:
    """The actions from the first state to this one."""
    actions = []
    while came[key][0] != key:
        key, action = came[key]
        actions.append(action)
    return actions[::-1]

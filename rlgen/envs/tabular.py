"""Worlds with a handful of cells: an agent walks on a known map towards a goal.

The state of a copy is its cell and its goal; where a move leads is a table.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.envs import grid, planner, render
from rlgen.envs.draws import Draws
from rlgen.envs.world import State, TensorWorld

Observation = Literal["onehot", "xy", "image"]
SlipRule = Literal["paper", "option-critic"]
Goal = grid.Cell | Literal["random", "none"]

_START, _GOAL, _SLIP, _SIDE = range(4)  # streams of randomness


class MDP(NamedTuple):
    """The exact Markov decision process of a world, in float64.

    Attributes:
        transition: P[s, a, s'], with shape (cells, actions, cells); the goal leads to itself.
        reward: R[s, a], expected, with shape (cells, actions); nothing is earned at the goal.
        start: p(s_0), with shape (cells,).
        terminal: whether an episode is over, with shape (cells,).
    """

    transition: Tensor
    reward: Tensor
    start: Tensor
    terminal: Tensor


@dataclass(frozen=True)
class Walk(State):
    """Where each copy is and where it wants to be, as cell numbers with shape (n,)."""

    cell: Tensor
    goal: Tensor


class TabularGrid(TensorWorld[Walk]):
    """A walk on a map: 1 for reaching the goal, which ends the episode, and 0 otherwise.

    Args:
        num_envs: how many copies.
        free: the map, True where one can stand, with shape (rows, columns).
        device: where the copies live.
        observation: "onehot" of the cell, "xy" (row and column on [-1, 1]), or "image" (uint8 with
            shape (3, rows, columns): walls, goal and agent). A goal that changes between episodes
            is seen too, in the same form.
        slip: the probability that a move goes wrong.
        slip_rule: "paper": a wrong move is one of the other three. "option-critic": it leads to a
            free neighbour, whichever, and only happens if the move was possible.
        start: a cell, as a number or (row, column); None draws one for each episode.
        goal: a cell; "random" draws one for each episode, other than the start; "none" for a world
            without a task.
        max_steps: when an episode is truncated.
        seed: of the first reset.
    """

    def __init__(
        self,
        num_envs: int,
        free: Tensor,
        *,
        device: str | torch.device,
        observation: Observation,
        slip: float,
        slip_rule: SlipRule,
        start: grid.Cell | None,
        goal: Goal,
        max_steps: int,
        seed: int | None,
    ) -> None:
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"'slip' must be a probability, got {slip}")
        check_choice("slip_rule", slip_rule, SlipRule)
        check_choice("observation", observation, Observation)
        self.free = free.cpu()
        self.slip, self.slip_rule, self.observation = slip, slip_rule, observation
        self.next_cell = grid.moves(self.free)
        self.cells = len(self.next_cell)
        self.start = None if start is None else grid.as_cell("start", start, self.free)
        self.goal = goal if isinstance(goal, str) else grid.as_cell("goal", goal, self.free)
        self._check_task()
        super().__init__(
            num_envs,
            device=device,
            observation_space=self._space(),
            action_space=gymnasium.spaces.Discrete(4),
            max_steps=max_steps,
            seed=seed,
        )
        self._place_moves()
        places = grid.coordinates(self.free)
        extent = torch.tensor(self.free.shape) - 1
        self._positions = (2.0 * places / extent - 1.0).to(self.device)
        self._places = (places[:, 0] * self.free.shape[1] + places[:, 1]).to(self.device)
        self._walls = (255 * ~self.free).to(torch.uint8).to(self.device)

    def mdp(self) -> MDP:
        """The exact process; the goal must not change between episodes."""
        if self.goal == "random":
            raise ValueError("'mdp' needs a goal that stays, and this world's is \"random\"")
        cells = torch.arange(self.cells)
        chosen = torch.nn.functional.one_hot(self.next_cell, self.cells).double()
        wrong, counts = self._slips()
        slips = torch.nn.functional.one_hot(wrong, self.cells).double()
        real = torch.arange(wrong.shape[-1]) < counts[..., None]
        slips = (slips * real[..., None]).sum(2) / counts[..., None]
        transition = (1.0 - self.slip) * chosen + self.slip * slips
        terminal = torch.zeros(self.cells, dtype=torch.bool)
        reward = torch.zeros(self.cells, 4, dtype=torch.float64)
        if isinstance(self.goal, int):
            terminal[self.goal] = True
            transition[self.goal] = 0.0
            transition[self.goal, :, self.goal] = 1.0
            reward = transition[:, :, self.goal].clone()
            reward[self.goal] = 0.0
        start = (~terminal).double() if self.start is None else (cells == self.start).double()
        return MDP(transition, reward, start / start.sum(), terminal)

    def optimal_actions(self) -> Tensor:
        """Which moves lie on a shortest path to the goal, with shape (cells, 4)."""
        return planner.optimal_actions(self.next_cell, self._fixed_goal())

    def distances(self) -> Tensor:
        """Steps from each cell to the goal, with shape (cells,)."""
        return planner.distances(self.next_cell, self._fixed_goal())

    def shortest_paths(self, start: grid.Cell | None = None, goal: grid.Cell | None = None) -> int:
        """How many shortest paths lead from `start` to `goal`, by default those of this world."""
        source = self.start if start is None else grid.as_cell("start", start, self.free)
        if source is None:
            raise ValueError("'start' is drawn anew for each episode: say from where to count")
        target = self._fixed_goal() if goal is None else grid.as_cell("goal", goal, self.free)
        return planner.shortest_paths(self.next_cell, source, target)

    def blocked(self, *cells: grid.Cell) -> Self:
        """This world from its beginning with some cells closed: to move there is to stay.

        Everything looks as before, so whoever learnt here can act there.

        Example:
            >>> from rlgen.envs import OpenWorld
            >>> world = OpenWorld(1, size=3, start=(0, 0))
            >>> world.shortest_paths(), world.blocked((1, 1)).shortest_paths()
            (6, 2)
        """
        closed = torch.tensor([grid.as_cell("cells", cell, self.free) for cell in cells])
        stay = torch.arange(self.cells)[:, None]
        into = torch.isin(self.next_cell, closed.long())
        made = copy.deepcopy(self)
        made.next_cell = torch.where(into, stay, self.next_cell)
        if self.start is None:
            raise ValueError("'start' is drawn anew for each episode, and could be a closed cell")
        if bool(torch.isin(torch.tensor([self.start, made._fixed_goal()]), closed).any()):
            raise ValueError("'cells' must be neither the start nor the goal")
        made._check_task()
        made._place_moves()
        if made._keys is not None:  # its streams of randomness begin anew, too
            made._episode = torch.full_like(made._episode, -1)
        made.reset()
        return made

    def views(self) -> Tensor:
        """What is seen in each cell, with shape (cells, *observation); the goal must stay."""
        if self.goal == "random":
            raise ValueError("'views' needs a goal that stays, and this world's is \"random\"")
        cell = torch.arange(self.cells, device=self.device)
        goal = torch.full_like(cell, self.goal if isinstance(self.goal, int) else -1)
        return self._observe(Walk(cell, goal))

    def render(self) -> Tensor:
        """Map, goal and agent, 16 pixels a cell: uint8 with shape (num_envs, height, width, 3)."""
        goal = None if self.goal == "none" else self._places[self.state.goal]
        return render.walk(self.free, self._places[self.state.cell], goal)

    def _initial(self, draws: Draws) -> Walk:
        like = draws.key
        goal = torch.full_like(like, self.goal if isinstance(self.goal, int) else -1)
        if self.start is not None:
            cell = torch.full_like(like, self.start)
        else:
            cell = draws.integers(_START, self.cells - isinstance(self.goal, int))
            if isinstance(self.goal, int):  # taken: the cells from there on move up by one
                cell = cell + (cell >= self.goal)
        if self.goal == "random":
            goal = draws.integers(_GOAL, self.cells - 1)
            goal = goal + (goal >= cell)
        return Walk(cell, goal)

    def _transition(
        self, state: Walk, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[Walk, Tensor, Tensor]:
        del time
        choice = 4 * state.cell + action
        cell = self._next_cell[choice]
        if self.slip > 0.0:
            slips = draws.uniform(_SLIP) < self.slip
            side = draws.integers(_SIDE, self._wrong_counts[choice])
            wrong = self._wrong[choice].gather(1, side[:, None]).squeeze(1)
            cell = torch.where(slips, wrong, cell)
        reached = cell == state.goal
        return Walk(cell, state.goal), reached.float(), reached

    def _observe(self, state: Walk) -> Tensor:
        seen = self._show(state.cell)
        if self.observation == "image":
            goal = self._show(state.goal) if self.goal != "none" else torch.zeros_like(seen)
            return torch.stack([self._walls.expand_as(seen), goal, seen], dim=1)
        if self.goal == "random":
            return torch.cat([seen, self._show(state.goal)], dim=1)
        return seen

    def _show(self, cell: Tensor) -> Tensor:
        """One cell of each copy in the form of the observation; an image is (n, rows, columns)."""
        if self.observation == "xy":
            return self._positions[cell]
        size = self.cells if self.observation == "onehot" else self.free.numel()
        place = cell if self.observation == "onehot" else self._places[cell]
        dtype, full = (torch.float32, 1.0) if self.observation == "onehot" else (torch.uint8, 255)
        blank = torch.zeros(len(cell), size, dtype=dtype, device=cell.device)
        shown = blank.scatter_(1, place[:, None], full)
        return shown if self.observation == "onehot" else shown.unflatten(1, self.free.shape)

    def _space(self) -> gymnasium.spaces.Box:
        if self.observation == "image":
            return gymnasium.spaces.Box(0, 255, (3, *self.free.shape), np.uint8)
        numbers = self.cells if self.observation == "onehot" else 2
        low = 0.0 if self.observation == "onehot" else -1.0
        shape = (2 * numbers if self.goal == "random" else numbers,)
        return gymnasium.spaces.Box(low, 1.0, shape, np.float32)

    def _place_moves(self) -> None:
        """Where moves lead, flat and on the device."""
        self._next_cell = self.next_cell.flatten().to(self.device)
        wrong, counts = self._slips()
        self._wrong = wrong.flatten(0, 1).to(self.device)
        self._wrong_counts = counts.flatten().to(self.device)

    def _slips(self) -> tuple[Tensor, Tensor]:
        """Where a wrong move may lead: cells (cells, 4, k), and how many of the k are real."""
        stay = torch.arange(self.cells)
        if self.slip_rule == "paper":
            others = [[b for b in range(4) if b != a] for a in range(4)]
            return self.next_cell[:, others], torch.full((self.cells, 4), 3)
        free = self.next_cell != stay[:, None]
        # free neighbours first, in a stable order; a blocked move cannot go wrong, so it stays
        order = (~free).int().argsort(dim=1, stable=True)
        neighbours = self.next_cell.gather(1, order)[:, None].expand(-1, 4, -1)
        wrong = torch.where(free[..., None], neighbours, stay[:, None, None])
        counts = torch.where(free, free.sum(1, keepdim=True), 1)
        return wrong, counts

    def _fixed_goal(self) -> int:
        if isinstance(self.goal, str):
            raise ValueError(f"this world's goal is {self.goal!r}: there is no one way to it")
        return self.goal

    def _check_task(self) -> None:
        """Wherever an episode may start, its goal must be elsewhere and within reach."""
        if isinstance(self.goal, str) and self.goal not in ("random", "none"):
            raise ValueError(f"'goal' must be a cell, 'random' or 'none', got {self.goal!r}")
        if self.goal == "none":
            return
        if self.start is not None and self.start == self.goal:
            raise ValueError(f"'start' and 'goal' must differ, got cell {self.start} for both")
        goal = self.goal if isinstance(self.goal, int) else 0
        steps = planner.distances(self.next_cell, goal)
        everywhere = self.start is None or self.goal == "random"
        if (steps < 0).any() if everywhere else steps[self.start] < 0:
            raise ValueError("'goal' cannot be reached from everywhere that an episode may start")


def check_choice(name: str, value: object, choices: Any) -> None:
    """`choices` is the Literal of what the value may be."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name!r} must be one of {', '.join(allowed)}, got {value!r}")

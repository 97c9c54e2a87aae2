"""Experts that are planned, not learnt: known to the last digit, and with modes if asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents.imitation.measures import HALLWAYS, occupancy
from rlgen.envs import grid
from rlgen.envs.four_rooms import FourRooms
from rlgen.envs.open_world import OpenWorld
from rlgen.envs.tabular import TabularGrid

_DISCOUNT = 0.99  # any below 1 gives the same paths


class Expert:
    """Acts by tables in a world of cells.

    It looks at the state of the world instead of at observations, so it acts alike whatever their
    form. With several modes it draws one for each copy where an episode begins, and keeps it.

    Args:
        world: where it acts; the very world that is stepped.
        policies: pi(a|s), with shape (S, A) or (modes, S, A).
        weights: probabilities of the modes; None for equal ones.

    Example:
        >>> from rlgen.agents.imitation.experts import routes_expert
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(3, start=(1, 1), seed=0)
        >>> expert = routes_expert(world)
        >>> action, state = expert.act(world.reset())
        >>> step = world.step(action)
        >>> action, state = expert.act(step.obs, state, step.done)
    """

    def __init__(
        self, world: TabularGrid, policies: Tensor, weights: Tensor | Sequence[float] | None = None
    ) -> None:
        policies = policies.detach().double()
        if policies.ndim == 2:
            policies = policies[None]
        shape = tuple(world.next_cell.shape)
        if policies.ndim != 3 or tuple(policies.shape[1:]) != shape:
            raise ValueError(
                f"'policies' must have shape {shape} or (modes, *{shape}), "
                f"got {tuple(policies.shape)}"
            )
        if not _are_probabilities(policies):
            raise ValueError("'policies' must hold probabilities that sum to 1 over actions")
        if weights is None:
            weights = torch.full((len(policies),), 1.0 / len(policies))
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (len(policies),) or not _are_probabilities(weights):
            raise ValueError(
                f"'weights' must hold {len(policies)} probabilities that sum to 1, "
                f"got {weights.tolist()}"
            )
        self.world = world
        self.policies = policies.to(world.device)
        self.weights = weights.to(world.device)

    @property
    def modes(self) -> int:
        """How many there are."""
        return len(self.policies)

    @property
    def policy(self) -> Tensor:
        """pi(a|s) with shape (S, A), of an expert with one mode."""
        if self.modes > 1:
            raise ValueError(f"an expert with {self.modes} modes is no single policy: 'policies'")
        return self.policies[0]

    def occupancy(self, discount: float) -> Tensor:
        """The exact discounted share of time in each (s, a), over all modes; see `measures`."""
        mdp = self.world.mdp()
        return occupancy(mdp, self.policies, discount=discount, weights=self.weights)

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        state: Tensor | None = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Actions of all copies, drawn from torch's global generator.

        Args:
            obs: not looked at, but for how many there are.
            state: what `act` gave one step before; None for the first step.
            episode_start: which copies begin an episode, as booleans with shape (num_envs,). Those
                whose clock is at zero do so in any case.
            deterministic: the first of the best actions; modes are drawn all the same.

        Returns:
            The actions, and the mode of each copy.
        """
        cell, start = self.world.state.cell, self.world.time == 0
        if len(obs) != len(cell):
            raise ValueError(
                f"'obs' must be of all {len(cell)} copies of the world, got {len(obs)}"
            )
        if episode_start is not None:
            start = start | torch.as_tensor(episode_start, device=start.device)
        mode = torch.zeros_like(cell) if state is None else state
        if self.modes > 1:
            if state is None and not bool(start.all()):
                raise ValueError("within an episode 'state' is needed: it says which mode to keep")
            drawn = torch.multinomial(self.weights, len(cell), replacement=True)
            mode = torch.where(start, drawn, mode)
        chosen = self.policies[mode, cell]
        if deterministic:
            return chosen.argmax(1), mode
        return torch.multinomial(chosen, 1).squeeze(1), mode


def shortest_paths_expert(world: TabularGrid) -> Expert:
    """Takes any of the best actions, each with the same probability.

    Without slips that is every shortest path; with them, what reaches the goal soonest.

    Example:
        >>> from rlgen.agents.imitation.experts import shortest_paths_expert
        >>> from rlgen.envs import FourRooms
        >>> shortest_paths_expert(FourRooms(1)).policy[0].tolist()
        [0.0, 0.5, 0.0, 0.5]
    """
    return Expert(world, _best(world))


def routes_expert(world: FourRooms, weights: Sequence[float] = (0.5, 0.5)) -> Expert:
    """Two ways through Four-Rooms: mode 0 by the north-east, mode 1 by the south-west.

    Each takes all of the shortest paths of its way. From a corner to the opposite one both ways are
    equally long.

    Args:
        world: with a fixed start in the north-western room and a fixed goal in the south-eastern
            one, or the other way round.
        weights: probabilities of the two ways.
    """
    if not isinstance(world, FourRooms):
        raise ValueError(f"'world' must be FourRooms, got {type(world).__name__}")
    start, goal = _room(world, world.start), _room(world, world.goal)
    if {start, goal} != {"north-west", "south-east"}:
        raise ValueError(
            "'world' must have a fixed start and a fixed goal, in its north-western and its "
            f"south-eastern room such as (1, 1) and (11, 11), got {start} and {goal}"
        )
    first = 0 if start == "north-west" else 1  # which hallway of a way comes first
    doors = [grid.as_cell("door", way[first], world.free) for way in HALLWAYS]
    # whoever must not enter the other way's first hallway goes by his own
    return Expert(
        world, torch.stack([_best(world, avoid=door) for door in reversed(doors)]), weights
    )


def first_expert(world: OpenWorld, weights: Sequence[float] = (0.5, 0.5)) -> Expert:
    """Two ways over an open world: mode 0 goes along its row first, mode 1 along its column.

    Both choose among the best actions only; around obstacles they prefer left and right, or up and
    down, where they can.

    Args:
        world: with a goal that stays.
        weights: probabilities of the two ways.

    Example:
        >>> from rlgen.agents.imitation.experts import first_expert
        >>> from rlgen.envs import OpenWorld
        >>> first_expert(OpenWorld(1)).policies[:, 0].tolist()
        [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]
    """
    best = _best(world)
    along_row = torch.tensor([float(move[0] == 0) for move in grid.MOVES])
    modes = []
    for preferred in (along_row, 1.0 - along_row):
        liked = best * preferred
        chosen = torch.where(liked.sum(1, keepdim=True) > 0.0, liked, best)
        modes.append(chosen / chosen.sum(1, keepdim=True))
    # at the end nothing is preferred
    policies = torch.where(world.mdp().terminal[:, None], best, torch.stack(modes))
    return Expert(world, policies, weights)


def _best(world: TabularGrid, avoid: int | None = None) -> Tensor:
    """Uniform over the best actions, of those that do not choose to enter the cell `avoid`."""
    if isinstance(world.goal, str):
        raise ValueError(f"this world's goal is {world.goal!r}: nothing can be planned")
    mdp = world.mdp()
    if avoid is not None:
        entering = world.next_cell == avoid
        entering[avoid] = False
        # more than any return: never worth it
        mdp = mdp._replace(reward=mdp.reward - 10.0 * entering.double())
    return planning.value_iteration(mdp, discount=_DISCOUNT).policy


def _room(world: FourRooms, cell: int | str | None) -> str:
    if not isinstance(cell, int):
        return "none"
    row, column = grid.coordinates(world.free)[cell].tolist()
    if column < 6:
        return "north-west" if row < 6 else "south-west" if row > 6 else "a hallway"
    if column == 6:
        return "a hallway"
    return "north-east" if row < 7 else "south-east" if row > 7 else "a hallway"


def _are_probabilities(given: Tensor) -> bool:
    return bool((given >= 0.0).all()) and bool(((given.sum(-1) - 1.0).abs() < 1e-6).all())

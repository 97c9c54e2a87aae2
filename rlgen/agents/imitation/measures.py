"""How close an imitation is: occupancies, the routes that are taken, and what codes say of them.

Everything that is measured on trajectories has an exact counterpart in `rlgen.agents.planning`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.envs import grid
from rlgen.envs.four_rooms import FourRooms
from rlgen.envs.open_world import OpenWorld
from rlgen.envs.tabular import MDP, TabularGrid

if TYPE_CHECKING:
    from rlgen.agents.imitation.demonstrations import Demonstrations

Paths = Union["Demonstrations", Sequence[Tensor]]

# the hallways of Four-Rooms on the way between its north-western and its south-eastern room
HALLWAYS = (((3, 6), (7, 9)), ((6, 2), (10, 6)))


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of all differences of two distributions: 0 if equal, 1 if disjoint.

    TV(p, q) = 1/2 sum over x of |p(x) - q(x)|

    Args:
        p: probabilities, of any shape, summing to one.
        q: probabilities, with the same shape.

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.measures import total_variation
        >>> total_variation(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5]))
        0.5
    """
    if p.shape != q.shape:
        raise ValueError(f"'q' must have shape {tuple(p.shape)}, got {tuple(q.shape)}")
    for name, given in (("p", p), ("q", q)):
        total = float(given.double().sum())
        if not abs(total - 1.0) < 1e-3 or bool((given < -1e-6).any()):
            raise ValueError(f"{name!r} must be probabilities, got numbers that sum to {total:.4g}")
    return float((p.double().cpu() - q.double().cpu()).abs().sum()) / 2.0


def occupancy(
    mdp: MDP, policies: Tensor, *, discount: float, weights: Tensor | None = None
) -> Tensor:
    """The exact discounted share of time in each (s, a), of a policy or of a mixture.

    It is `planning.occupancy`, but for two things. Of several policies one is drawn for each
    episode, so that their occupancies mix, not their choices at each step. And what a policy would
    do after the end makes no difference: that share is spread evenly over actions.

    Args:
        mdp: the process.
        policies: pi(a|s), with shape (S, A) or (modes, S, A).
        discount: of time.
        weights: probabilities of the modes; None for equal ones.

    Returns:
        float64 with shape (S, A), summing to one.
    """
    policies = policies.detach().double().cpu()
    several = policies[None] if policies.ndim == 2 else policies
    if weights is None:
        weights = torch.full((len(several),), 1.0 / len(several))
    if len(weights) != len(several):
        raise ValueError(f"'weights' must hold {len(several)} numbers, got {len(weights)}")
    total = torch.zeros(several.shape[1:], dtype=torch.float64)
    for weight, policy in zip(weights.double().cpu(), several, strict=True):
        total = total + weight * planning.occupancy(mdp, policy, discount=discount)
    even = total.mean(1, keepdim=True).expand_as(total)
    return torch.where(mdp.terminal[:, None], even, total)


def empirical_occupancy(
    demonstrations: "Demonstrations", world: TabularGrid, discount: float
) -> Tensor:
    """The discounted share of time that demonstrations spend in each (s, a).

    rho(s, a) = (1 - discount) mean over trajectories of sum over t of discount^t 1[(s_t, a_t)]

    A terminated trajectory stays in its last state, evenly over actions, as `occupancy` has it.
    What a truncated one would have done is not known: the shares are then scaled to sum to one,
    which favours early steps.

    Args:
        demonstrations: recorded in `world`, or in one with the same map and form of observations.
        world: what tells cells from observations.
        discount: of time.

    Returns:
        float64 with shape (S, A), summing to one.
    """
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"'discount' must be at least 0 and below 1, got {discount}")
    shape = tuple(world.next_cell.shape)
    total = torch.zeros(shape, dtype=torch.float64)
    for trajectory in demonstrations.trajectories:
        path, length = cells(trajectory.obs, world), len(trajectory.action)
        share = (1.0 - discount) * discount ** torch.arange(length, dtype=torch.float64)
        total.index_put_((path[:-1], trajectory.action.long().cpu()), share, accumulate=True)
        if trajectory.terminated:
            total[path[-1]] += discount**length / shape[1]
    return total / total.sum()


def cells(obs: Tensor, world: TabularGrid) -> Tensor:
    """Which cell the agent is in, told from observations; codes after them are passed over.

    Args:
        obs: with shape (B, *observation) in the form of `world.observation`.
        world: whose map it is.

    Returns:
        int64 with shape (B,), on the CPU.

    Example:
        >>> from rlgen.agents.imitation.measures import cells
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(2, start=(1, 1), observation="image")
        >>> cells(world.reset(), world)
        tensor([0, 0])
    """
    obs = obs.cpu()
    if world.observation == "onehot":
        return obs[:, : world.cells].argmax(1)
    places = grid.coordinates(world.free)
    if world.observation == "xy":
        extent = torch.tensor(world.free.shape) - 1
        found = ((obs[:, :2].double() + 1.0) / 2.0 * extent).round().long()
        return grid.cell_numbers(world.free)[found[:, 0], found[:, 1]]
    shown = obs[:, 2, places[:, 0], places[:, 1]]
    return shown.argmax(1)


def routes(paths: Paths, world: TabularGrid) -> Tensor:
    """By which way each trajectory goes: 0, 1, or -1 for neither of them, or both.

    In Four-Rooms 0 is the way through both hallways of the north-eastern room, and 1 through both
    of the south-western one. In the open world 0 goes along the row of its start up to the column
    of the goal, and 1 along the column of its start down to the row of the goal.

    Args:
        paths: demonstrations, or the cells of each trajectory with shape (T + 1,).
        world: Four-Rooms, or an open world whose goal stays.

    Returns:
        int64 with shape (trajectories,).

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.measures import routes
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(1, size=2, start=(0, 0))
        >>> routes([torch.tensor([0, 1, 3]), torch.tensor([0, 2, 3]), torch.tensor([0, 0])], world)
        tensor([ 0,  1, -1])
    """
    walked = [path.long().cpu() for path in as_paths(paths, world)]
    taken = []
    for path in walked:
        ways = waypoints(world, int(path[0]))
        gone = [all(bool((path == place).any()) for place in way) for way in ways]
        taken.append(-1 if gone[0] == gone[1] else gone.index(True))
    return torch.tensor(taken)


def as_paths(paths: Paths, world: TabularGrid) -> list[Tensor]:
    """The cells of each trajectory, of demonstrations or as they are."""
    if isinstance(paths, Sequence):
        return list(paths)
    return [cells(trajectory.obs, world) for trajectory in paths.trajectories]


def purity(codes: Tensor, routes: Tensor) -> float:
    """The share of trajectories whose code says their route, codes and routes matched one to one.

    The matching is the best there is. Two codes for one route do not both count, and a route of -1
    is always wrong.

    Args:
        codes: int64 with shape (trajectories,), from 0 on.
        routes: with the same shape; -1 for none.

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.measures import purity
        >>> purity(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 1, 0, 0]))
        0.75
    """
    counts = _together(codes, routes)
    known = counts[:, torch.unique(routes.cpu()) >= 0]
    return _best_matching(known.tolist()) / len(codes) if known.numel() else 0.0


def information(codes: Tensor, routes: Tensor) -> float:
    """What codes tell of routes, in nats: the mutual information of the empirical pairs.

    I(c; r) = sum over c, r of p(c, r) log(p(c, r) / (p(c) p(r)))

    Two codes that always say which of two equally likely routes is taken: log 2 = 0.693. A route of
    -1 counts as one more.

    Args:
        codes: integers with shape (trajectories,).
        routes: with the same shape.
    """
    joint = _together(codes, routes).double() / len(codes)
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return max(0.0, float(torch.special.xlogy(joint, joint / product).sum()))


def coverage(routes: Tensor, count: int = 2) -> float:
    """The share of `count` routes that at least one trajectory takes."""
    if count < 1:
        raise ValueError(f"'count' must be positive, got {count}")
    found = torch.unique(routes)
    return int(((found >= 0) & (found < count)).sum()) / count


def path_entropy(paths: Paths, world: TabularGrid) -> float:
    """The entropy of whole paths in nats, as they were counted; few paths show too little of it.

    H = - sum over paths of p(path) log p(path)
    """
    found = Counter(tuple(path.tolist()) for path in as_paths(paths, world))
    shares = torch.tensor(list(found.values()), dtype=torch.float64) / found.total()
    return float(torch.special.entr(shares).sum())


def waypoints(world: TabularGrid, first: int) -> list[list[int]]:
    """The cells that each of the two routes passes, of a trajectory that begins in `first`."""
    if isinstance(world, FourRooms):
        return [[grid.as_cell("way", cell, world.free) for cell in way] for way in HALLWAYS]
    if not isinstance(world, OpenWorld) or isinstance(world.goal, str):
        raise ValueError("'world' must be FourRooms, or an OpenWorld whose goal stays")
    places = grid.coordinates(world.free)
    (row, column), (goal_row, goal_column) = places[first].tolist(), places[world.goal].tolist()
    numbers = grid.cell_numbers(world.free)
    return [[int(numbers[row, goal_column])], [int(numbers[goal_row, column])]]


def _together(codes: Tensor, routes: Tensor) -> Tensor:
    """How often each code goes with each route, with shape (distinct codes, distinct routes)."""
    if codes.ndim != 1 or codes.shape != routes.shape or not len(codes):
        raise ValueError(
            "'codes' and 'routes' must hold one number for each trajectory, got shapes "
            f"{tuple(codes.shape)} and {tuple(routes.shape)}"
        )
    row, column = (torch.unique(given.cpu(), return_inverse=True)[1] for given in (codes, routes))
    counts = torch.zeros(int(row.max()) + 1, int(column.max()) + 1, dtype=torch.int64)
    return counts.index_put_((row, column), torch.ones_like(row), accumulate=True)


def _best_matching(gain: list[list[int]]) -> int:
    """The largest sum of entries of which no two share a row or a column.

    Row by row: the best for each set of columns that are taken. So one of the sides must be short.
    """
    if len(gain[0]) > len(gain):
        gain = [list(column) for column in zip(*gain, strict=True)]
    if len(gain[0]) > 16:
        raise ValueError(f"at most 16 codes or 16 routes can be matched, got {len(gain[0])}")
    best = {0: 0}
    for row in gain:
        for taken, total in list(best.items()):
            for column, more in enumerate(row):
                with_it = taken | 1 << column
                if with_it != taken:
                    best[with_it] = max(best.get(with_it, 0), total + more)
    return max(best.values())

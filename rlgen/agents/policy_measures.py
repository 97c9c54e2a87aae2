"""What a distribution over policies does, exactly, on worlds with a handful of cells.

Everything takes the table pi_z(a|s) of n policies, with shape (n, S, A), and looks at all of them
in one program. Paths are sequences of cells.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlgen.agents.imitation.measures import waypoints
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from


class Walks(NamedTuple):
    """The greedy path of each of n policies.

    Attributes:
        path: cells, with shape (n, steps + 1); after the goal it stays there.
        length: steps to the goal, or the number of steps where it is not reached, (n,).
        reached: whether the goal is, with shape (n,).
        agree: the probability that a sampled episode follows this path, with shape (n,).
    """

    path: Tensor
    length: Tensor
    reached: Tensor
    agree: Tensor


class Behaviour(NamedTuple):
    """What sampled paths tell of which of n policies took them.

    Attributes:
        information: of path and policy in nats, at most log n.
        recovered: share of paths that no other policy makes likelier than their own; so equal
            policies, which the same draw gives twice, count as found.
    """

    information: float
    recovered: float


class Variety(NamedTuple):
    """What many draws of greedy paths show.

    Attributes:
        success: share that reach the goal.
        length: mean length of those, over the shortest one.
        distinct: different shortest paths among the draws.
        most: share of the draws with the most frequent path.
        entropy: of the path as it was counted, in nats; few draws show too little of it.
        agree: mean probability that a sampled episode follows the greedy path of its own z.
        given: H(path|z), mean entropy of a sampled episode's path once z is known, in nats.
        routes: shares of the two routes among all draws; none where the world has no two.
    """

    success: float
    length: float
    distinct: int
    most: float
    entropy: float
    agree: float
    given: float
    routes: tuple[float, ...]


def greedy(world: TabularGrid, table: Tensor, steps: int | None = None) -> Walks:
    """Follow the likeliest action of each policy, from a start that is always the same.

    Args:
        world: without slips.
        table: pi_z(a|s), with shape (n, S, A).
        steps: when to give up; None takes the world's limit.
    """
    start, goal = _ends(world)
    table = table.detach().double().cpu()
    if world.slip > 0.0:
        raise ValueError(f"greedy paths need a world without slips, got 'slip' {world.slip}")
    best = table.argmax(2)
    onward = world.next_cell.expand(len(table), -1, -1).gather(2, best[..., None]).squeeze(2)
    # all actions to the same cell are one step of a path
    same = (world.next_cell[None] == onward[..., None]).double()
    follows = (same * table).sum(2)
    onward[:, goal], follows[:, goal] = goal, 1.0
    cell = torch.full((len(table),), start)
    path, agree = [cell], torch.ones(len(table), dtype=torch.float64)
    for _ in range(world.max_steps if steps is None else steps):
        agree = agree * follows.gather(1, cell[:, None]).squeeze(1)
        cell = onward.gather(1, cell[:, None]).squeeze(1)
        path.append(cell)
    whole = torch.stack(path, dim=1)
    return Walks(whole, (whole[:, :-1] != goal).sum(1), cell == goal, agree)


def variety(world: TabularGrid, table: Tensor) -> Variety:
    """The columns of a comparison of distributions over policies; see `Variety`."""
    walks = greedy(world, table)
    shortest = int(world.distances()[_ends(world)[0]])
    reached = walks.reached.double()
    _, counts = walks.path.unique(dim=0, return_counts=True)
    shares = counts.double() / len(walks.path)
    lengths = walks.length[walks.reached].double()
    return Variety(
        success=float(reached.mean()),
        length=float(lengths.mean()) / shortest,
        distinct=distinct_shortest(world, walks),
        most=float(shares.max()),
        entropy=float(torch.special.entr(shares).sum()),
        agree=float(walks.agree.mean()),
        given=float(path_entropy_given(world, table).mean()),
        routes=route_shares(world, walks.path),
    )


def distinct_shortest(world: TabularGrid, walks: Walks) -> int:
    """How many different shortest paths there are among these."""
    shortest = int(world.distances()[_ends(world)[0]])
    return len(walks.path[walks.reached & (walks.length == shortest)].unique(dim=0))


def returns(
    world: TabularGrid, table: Tensor, *, discount: float = 1.0, horizon: int | None = None
) -> Tensor:
    """The exact expected return of each policy, acting by samples, with shape (n,).

    J(pi_z) = E[sum over t < horizon of discount^t R(s_t, a_t)]

    Args:
        world: with a goal that stays; slips and starts of all kinds are averaged over.
        table: pi_z(a|s), with shape (n, S, A).
        discount: of rewards.
        horizon: steps of an episode; None takes the world's limit.
    """
    mdp = world.mdp()
    table = table.detach().double().cpu()
    leads = mdp.transition.flatten(0, 1)
    state = mdp.start.expand(len(table), -1)
    total = torch.zeros(len(table), dtype=torch.float64)
    for t in range(world.max_steps if horizon is None else horizon):
        acting = state[..., None] * table
        total = total + discount**t * (acting * mdp.reward).sum((1, 2))
        state = acting.flatten(1) @ leads
    return total


def path_entropy_given(world: TabularGrid, table: Tensor, horizon: int | None = None) -> Tensor:
    """H(path|z) of each policy, acting by samples, in nats, with shape (n,).

    A path is a chain, so its entropy is that of its start and of all its steps:

        H = H(s_0) + sum over t < horizon of E[H(s_{t+1} | s_t)]
    """
    mdp = world.mdp()
    table = table.detach().double().cpu()
    chain = torch.einsum("nsa,saz->nsz", table, mdp.transition)
    each = torch.special.entr(chain).sum(2).masked_fill(mdp.terminal, 0.0)
    state = mdp.start.expand(len(table), 1, -1)
    total: Tensor = torch.special.entr(mdp.start).sum().expand(len(table))
    for _ in range(world.max_steps if horizon is None else horizon):
        total = total + (state.squeeze(1) * each).sum(1)
        state = state @ chain
    return total


def behaviour(world: TabularGrid, table: Tensor, *, episodes: int = 1, seed: int = 0) -> Behaviour:
    """Sample paths of each policy, and ask for each how likely every policy makes it.

    I(path; z) = mean of log p(path|z_i) - log (1/n) sum over j of p(path|z_j), path ~ p(.|z_i)

    Likelihoods are exact; only the paths are drawn. With few policies it is near log n whatever
    they are, as long as they differ at all.

    Args:
        world: with a goal that stays.
        table: pi_z(a|s), with shape (n, S, A).
        episodes: paths of each policy.
        seed: of the paths.
    """
    mdp, n = world.mdp(), len(table)
    chain = torch.einsum("nsa,saz->nsz", table.detach().double().cpu(), mdp.transition)
    own = torch.arange(n).repeat(episodes)
    known = torch.zeros(len(own), n, dtype=torch.float64)
    with drawing_from(seed):
        cell = torch.multinomial(mdp.start, len(own), replacement=True)
        for _ in range(world.max_steps):
            onward = torch.multinomial(chain[own, cell], 1).squeeze(1)
            going = ~mdp.terminal[cell]
            known += (chain[:, cell, onward].log() * going).T
            cell = onward
    mine = known.gather(1, own[:, None]).squeeze(1)
    information = (mine - known.logsumexp(1)).mean() + math.log(n)
    found = mine >= known.amax(1) - 1e-9  # sums of many steps differ by rounding
    return Behaviour(float(information), float(found.double().mean()))


def route_shares(world: TabularGrid, path: Tensor) -> tuple[float, ...]:
    """How many of these paths (n, T) go by each of the two routes of `measures.routes`.

    Other worlds have no two.
    """
    if not isinstance(world, FourRooms | OpenWorld):
        return ()
    ways = waypoints(world, int(path[0, 0]))
    gone = torch.stack(
        [torch.stack([(path == place).any(1) for place in way]).all(0) for way in ways]
    )
    only = gone & ~gone.flip(0)  # both is neither
    return tuple(only.double().mean(1).tolist())


def _ends(world: TabularGrid) -> tuple[int, int]:
    if world.start is None or isinstance(world.goal, str):
        raise ValueError("'world' must have a start and a goal that stay")
    return world.start, world.goal

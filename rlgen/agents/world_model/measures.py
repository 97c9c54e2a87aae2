"""How close dreams are to the truth, on worlds of cells, where the truth is exact.

A dream is judged by the cells that its decoded frames show. What can happen is known from `mdp()`:
which steps are possible, where episodes end, and how the walk is spread after so many steps.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents.imitation.measures import cells, total_variation
from rlgen.envs.tabular import MDP, TabularGrid
from rlgen.seeding import drawing_from

if TYPE_CHECKING:
    from rlgen.agents.world_model.memory import Foreseen

_AT_ONCE = 2**16  # latents that are decoded together
_LEAST = 1e-6  # of a probability, so that what M takes for impossible costs 13.8 nats and no more


class Seeing(Protocol):
    """What `Vision` does for measures."""

    @property
    def symbols(self) -> int | None: ...
    @property
    def latent_shape(self) -> Any: ...

    def encode(self, obs: Tensor) -> Tensor: ...
    def decode(self, latent: Tensor) -> Tensor: ...


class Foreseeing(Protocol):
    """What `Memory` does for measures."""

    def initial_state(self, count: int) -> Tensor: ...
    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor: ...
    def summary(self, state: Tensor) -> Tensor: ...
    def foresee(self, state: Tensor) -> "Foreseen": ...
    @property
    def density(self) -> Any: ...


class Walks(NamedTuple):
    """B walks side by side, of T steps; time comes first.

    Attributes:
        cell: where each was, with shape (T + 1, B); after its end a walk stays where it ended.
        action: what was done, with shape (T, B).
        ended: whether the step ended the episode, with shape (T, B); once for each walk at most.
    """

    cell: Tensor
    action: Tensor
    ended: Tensor

    @property
    def going(self) -> Tensor:
        """Whether the episode had not ended before each step, (T, B)."""
        return self.ended.cumsum(0) - self.ended.long() == 0


def pictures(world: TabularGrid) -> Tensor:
    """What is seen in each cell of a world whose goal stays, with shape (cells, *observation).

    The world itself stays as it is.

    Example:
        >>> from rlgen.agents.world_model.measures import pictures
        >>> from rlgen.envs import OpenWorld
        >>> pictures(OpenWorld(2, size=3, observation="image")).shape
        torch.Size([9, 3, 3, 3])
    """
    if world.goal == "random":
        raise ValueError("'world' must have a goal that stays, got one with \"random\" goals")
    world = copy.copy(world)
    world.reset(0)
    before, seen = world.state_dict(), []
    for part in torch.arange(world.cells, device=world.device).split(world.num_envs):
        filled = torch.cat([part, part.new_zeros(world.num_envs - len(part))])
        world.load_state_dict({**before, "cell": filled})
        seen.append(world.observe()[: len(part)])
    return torch.cat(seen)


def walks(mdp: MDP, start: Tensor, action: Tensor) -> Walks:
    """Exact walks, from cells (B,) with actions (T, B)."""
    cell, going = [start], torch.ones_like(start, dtype=torch.bool)
    ended = []
    for now in action:
        drawn = torch.multinomial(mdp.transition[cell[-1], now], 1).squeeze(1)
        cell.append(torch.where(going, drawn, cell[-1]))
        ended.append(going & mdp.terminal[cell[-1]])
        going = going & ~ended[-1]
    return Walks(torch.stack(cell), action, torch.stack(ended))


@torch.no_grad()
def dreams(
    vision: Seeing,
    memory: Foreseeing,
    world: TabularGrid,
    start: Tensor,
    action: Tensor,
    *,
    again: bool = False,
    seed: int = 0,
) -> Walks:
    """Dreamed walks from what is really seen in cells (B,), with actions (T, B).

    Args:
        vision: V.
        memory: M, as hot as it shall be.
        world: whose map tells cells from frames; it has pictures.
        start: cells.
        action: what is done.
        again: encode each decoded frame anew, which brings the dream back to latents that V knows.
        seed: of M's draws.

    Returns:
        Walks on the CPU.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Memory, Vision, measures
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(1, size=4, observation="image")
        >>> vision = Vision.of(world.observation_space, symbols=16)
        >>> memory = Memory.of(1, symbols=16, actions=4, width=16)
        >>> start, action = torch.zeros(100).long(), torch.randint(4, (5, 100))
        >>> dreamt = measures.dreams(vision, memory, world, start, action)
        >>> dreamt.cell.shape, measures.illegal(dreamt, world.mdp()).shape  # it knows nothing yet
        (torch.Size([6, 100]), torch.Size([5]))
    """
    obs = pictures(world)[start.to(world.device)]
    z = vision.encode(obs)
    state = memory.initial_state(len(z))
    cell, going, ended = [start.cpu()], torch.ones(len(start), dtype=torch.bool), []
    shown = _shown(vision, world)
    with drawing_from(seed):
        for now in action:
            state = memory.step(z, now.to(z.device), state)
            z, _, terminated = memory.foresee(state)
            cell.append(torch.where(going, shown(z), cell[-1]))
            ended.append(going & terminated.cpu())
            going = going & ~ended[-1]
            z = vision.encode(vision.decode(z)) if again else z
    return Walks(torch.stack(cell), action.cpu(), torch.stack(ended))


def accuracy(dreamt: Walks, mdp: MDP) -> Tensor:
    """The share of dreams that are where they would really be, by horizon, (T,).

    Of all walks that are really still going before the step; a dream that has ended by then is
    wrong. The world must leave nothing to chance.
    """
    if bool((mdp.transition.amax(-1) < 1.0).any()):
        raise ValueError("'mdp' must leave nothing to chance: there is no one right cell")
    truth = walks(mdp, dreamt.cell[0], dreamt.action)
    right = (dreamt.cell[1:] == truth.cell[1:]) & dreamt.going
    return _share(right, truth.going)


def illegal(dreamt: Walks, mdp: MDP) -> Tensor:
    """The share of dreamed steps that could not happen, by horizon, (T,); see `impossible`."""
    return _share(*impossible(dreamt, mdp))


def impossible(dreamt: Walks, mdp: MDP) -> tuple[Tensor, Tensor]:
    """Which dreamed steps could not happen, and which steps count, each (T, B).

    P(s' | s, a) = 0 for the dreamed cells s and s'. Steps on from where an episode should have
    ended do not count: they are missed goals.
    """
    here, there = dreamt.cell[:-1], dreamt.cell[1:]
    counted = dreamt.going & ~mdp.terminal[here]
    return counted & (mdp.transition[here, dreamt.action, there] == 0.0), counted


def goals(dreamt: Walks, mdp: MDP) -> dict[str, Tensor]:
    """Where ends and goals disagree, as counts by horizon, each (T,).

    Returns:
        "ends": dreams that ended; "false": those of them that were not at a goal; "arrivals":
        dreams that came to a goal, for the first time; "missed": those of them that did not end
        with that step.
    """
    there = mdp.terminal[dreamt.cell[1:]] & dreamt.going
    arrived = there & (there.cumsum(0) == 1)
    return {
        "ends": dreamt.ended.sum(1),
        "false": (dreamt.ended & ~there).sum(1),
        "arrivals": arrived.sum(1),
        "missed": (arrived & ~dreamt.ended).sum(1),
    }


def ended(dreamt: Walks) -> Tensor:
    """The share of dreams that have ended by each horizon, (T,)."""
    return dreamt.ended.double().cumsum(0).mean(1)


def marginal(dreamt: Walks, time: int, states: int) -> Tensor:
    """The share of walks in each cell after `time` steps, (states,)."""
    return torch.bincount(dreamt.cell[time], minlength=states).double() / dreamt.cell.shape[1]


def exact_marginals(mdp: MDP, start: Tensor, horizon: int) -> Tensor:
    """p(s_t) with actions at random, from p(s_0), with shape (horizon + 1, states)."""
    even = torch.full(mdp.reward.shape, 1.0 / mdp.reward.shape[1], dtype=torch.float64)
    return planning.visits(mdp._replace(start=start), even, horizon=horizon)


def exact_ended(mdp: MDP, horizon: int) -> Tensor:
    """The exact share of random walks that have ended by each horizon, (horizon,)."""
    return exact_marginals(mdp, mdp.start, horizon)[1:, mdp.terminal].sum(1)


def spread(walked: Walks, mdp: MDP, time: int) -> float:
    """Total variation of where walks are after `time` steps from the exact P^time.

    All walks begin in one cell and do random actions. The same number of `walks` gives the floor.
    """
    first = int(walked.cell[0, 0])
    if bool((walked.cell[0] != first).any()):
        raise ValueError("'walked' must all begin in one cell")
    states = len(mdp.start)
    start = torch.zeros(states, dtype=torch.float64)
    start[first] = 1.0
    exact = exact_marginals(mdp, start, time)[-1]
    return total_variation(marginal(walked, time, states), exact)


class Told(NamedTuple):
    """What M says of the next cell after real walks, in nats.

    Attributes:
        nats: cross-entropy of the exact next cell and M's, the mean over walks.
        entropy: of the exact next cell, the least that is possible.
    """

    nats: float
    entropy: float


@torch.no_grad()
def told(
    vision: Seeing,
    memory: Foreseeing,
    world: TabularGrid,
    walked: Walks,
    *,
    samples: int = 256,
    seed: int = 0,
) -> Told:
    """What M says of the cell after the last step of real walks, all of which it has seen.

        mean over walks of -sum over s' of P(s' | s, a) log q(s' | h)

    One token has a probability in M, and so has each cell: the sum of its tokens'. Of numbers, or
    several tokens, `samples` draws are decoded; a cell that none shows counts as 1 / cells of one.

    Args:
        vision: V.
        memory: M.
        world: with pictures.
        walked: real walks, such as `walks` makes; those that ended before their last step are
            left out.
        samples: draws for each walk.
        seed: of the draws.
    """
    mdp, seen = world.mdp(), pictures(world)
    alive = walked.going[-1]
    cell, action = walked.cell[:, alive], walked.action[:, alive]
    state = memory.initial_state(cell.shape[1])
    for here, now in zip(cell[:-1], action, strict=True):
        state = memory.step(vision.encode(seen[here.to(seen.device)]), now.to(seen.device), state)
    with drawing_from(seed):
        q = _next_cells(vision, memory, world, state, samples)
    exact = mdp.transition[cell[-2], action[-1]]
    nats = -torch.special.xlogy(exact, q.clamp_min(_LEAST)).sum(1).mean()
    return Told(float(nats), float(torch.special.entr(exact).sum(1).mean()))


def _next_cells(
    vision: Seeing, memory: Foreseeing, world: TabularGrid, state: Tensor, samples: int
) -> Tensor:
    """q(s' | h) for each row of `state`, with shape (B, cells)."""
    shown, tokens = _shown(vision, world), _tokens(vision, state.device)
    if tokens is not None:
        context = memory.summary(state).repeat_interleave(len(tokens), 0)
        likely = memory.density.log_prob(tokens.repeat(len(state), 1), context).exp().double()
        q = torch.zeros(len(state), world.cells, dtype=torch.float64)
        return q.index_add_(1, shown(tokens), likely.unflatten(0, (-1, len(tokens))).cpu())
    counts = torch.full((len(state), world.cells), 1.0 / world.cells, dtype=torch.float64)
    for rows in torch.arange(len(state)).split(max(1, _AT_ONCE // samples)):
        z = memory.foresee(state[rows.to(state.device)].repeat_interleave(samples, 0)).z
        of, one = rows.repeat_interleave(samples), torch.ones(1, dtype=torch.float64)
        counts.index_put_((of, shown(z)), one.expand(len(of)), accumulate=True)
    return counts / (samples + 1)


def _tokens(vision: Seeing, device: torch.device) -> Tensor | None:
    """Every latent that there is, (symbols, 1), where a latent is one token."""
    if vision.symbols is None or vision.latent_shape.numel() != 1:
        return None
    return torch.arange(vision.symbols, device=device)[:, None]


def _shown(vision: Seeing, world: TabularGrid) -> Callable[[Tensor], Tensor]:
    """The cells that latents show, on the CPU; of tokens they are looked up."""
    tokens = _tokens(vision, world.device)
    if tokens is None:
        return lambda z: cells(vision.decode(z), world)
    known = cells(vision.decode(tokens), world)
    return lambda z: known[z.squeeze(1).cpu()]


def _share(what: Tensor, among: Tensor) -> Tensor:
    """By horizon; nan where there are none."""
    return (what & among).sum(1).double() / among.sum(1)

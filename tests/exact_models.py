"""V and M that are right by construction: a world's own observations and dynamics, tabulated."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from rlgen.agents.world_model import Vision
from rlgen.agents.world_model.memory import Foreseen
from rlgen.envs import FourRooms
from rlgen.envs.tabular import TabularGrid
from rlgen.generative import GenerativeModel
from rlgen.seeding import uniform


class Lookup(GenerativeModel):
    """Symbol k stands for row k of a table of observations. Nothing is learnt."""

    codebook: Tensor
    table: Tensor

    def __init__(self, event_shape: tuple[int, ...], *, symbols: int) -> None:
        super().__init__(event_shape)
        self.register_buffer("codebook", torch.eye(symbols))
        self.register_buffer("table", torch.zeros(symbols, *event_shape))

    def codes(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.cdist(x.flatten(1), self.table.flatten(1)).argmin(1, keepdim=True)

    def embed(self, codes: Tensor) -> Tensor:
        return nn.functional.embedding(codes, self.codebook)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.embed(self.codes(x)), 1e-6), 2)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        seen = self.table[z.flatten(1).argmax(1)]
        return Independent(Normal(seen, 1.0), seen.ndim - 1)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return (x - self.decode(self.encode(x).mean).mean).flatten(1).square().sum(1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self.table[torch.randint(len(self.table), (n,))]


def everywhere(**options: Any) -> Tensor:
    """What is seen from each of the cells of the four rooms, in their order."""
    world = FourRooms(104, **options)
    world.reset(0)
    world.load_state_dict({**world.state_dict(), "cell": torch.arange(104)})
    return world.observe()


def exact_vision(seen: Tensor) -> Vision:
    """Row k of `seen` is symbol k."""
    model = Lookup(tuple(seen.shape[1:]), symbols=len(seen))
    vision = Vision(seen.shape[1:], model=model, dtype=str(seen.dtype).removeprefix("torch."))
    vision.measure(seen)
    model.table.copy_(vision.standard(seen))
    return vision


class ExactMemory(nn.Module):
    """The process of a world whose goal stays, as M. Its state: last cell and action, plus one."""

    actions = 4
    summary_size = 2
    state_size = 2

    def __init__(self, world: TabularGrid) -> None:
        super().__init__()
        mdp = world.mdp()
        self.transition, self.terminal = mdp.transition, mdp.terminal

    def initial_state(self, count: int) -> Tensor:
        return torch.zeros(count, 2)

    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor:
        assert z.shape == (len(action), 1) and state.shape == (len(action), 2)
        return torch.stack([z[:, 0] + 1, action + 1], 1).float()

    def summary(self, state: Tensor) -> Tensor:
        return state

    def foresee(self, state: Tensor) -> Foreseen:
        cell, action = state.long().sub(1).unbind(1)
        assert (cell >= 0).all()
        up_to = self.transition[cell, action].cumsum(1)
        drawn = (uniform((len(cell), 1), up_to) >= up_to).sum(1).clamp(max=up_to.shape[1] - 1)
        reached = self.terminal[drawn]
        return Foreseen(drawn[:, None], reached.float(), reached)

    def at_temperature(self, temperature: float) -> "ExactMemory":
        assert temperature == 1.0
        return self


def cell_starts(world: TabularGrid) -> tuple[Tensor, Tensor]:
    """Each cell where an episode can begin, once, with nothing remembered."""
    cells = world.mdp().start.nonzero()
    return cells, torch.zeros(len(cells), 2)

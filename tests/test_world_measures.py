"""Measures of dreams: perfect for the exact process in M's place, and not for broken ones."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.agents.imitation.measures import cells
from rlgen.agents.world_model import Memory, Vision, measures
from rlgen.agents.world_model.measures import Walks
from rlgen.agents.world_model.memory import Foreseen
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from
from tests.walks import copied, same

COUNT, HORIZON = 2000, 30


def rooms(slip: float = 0.0) -> FourRooms:
    return FourRooms(64, observation="image", slip=slip)


class Eyes:
    """One symbol for each cell."""

    latent_shape = torch.Size([1])

    def __init__(self, world: TabularGrid) -> None:
        self.world, self.seen = world, measures.pictures(world)
        self.symbols: int | None = world.cells

    def encode(self, obs: Tensor) -> Tensor:
        return cells(obs, self.world)[:, None]

    def decode(self, latent: Tensor) -> Tensor:
        return self.seen[latent.squeeze(1)]


class Exact:
    """M as the world is: its state is the last cell and action."""

    def __init__(self, world: TabularGrid) -> None:
        mdp = world.mdp()
        self.transition, self.terminal = mdp.transition.clone(), mdp.terminal
        self.density: Any = self

    def initial_state(self, count: int) -> Tensor:
        return torch.zeros(count, 1).long()

    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor:
        return 4 * z + action[:, None]

    def summary(self, state: Tensor) -> Tensor:
        return state

    def likely(self, state: Tensor) -> Tensor:
        return self.transition.flatten(0, 1)[state.squeeze(1)]

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        return self.likely(context).gather(1, x).squeeze(1).log()

    def foresee(self, state: Tensor) -> Foreseen:
        z = torch.multinomial(self.likely(state), 1)
        over = self.ends(z.squeeze(1))
        return Foreseen(z, over.float(), over)

    def ends(self, cell: Tensor) -> Tensor:
        return self.terminal[cell]


class Endless(Exact):
    """Never ends."""

    def ends(self, cell: Tensor) -> Tensor:
        return torch.zeros_like(cell, dtype=torch.bool)


class Eager(Exact):
    """Ends at once, anywhere."""

    def ends(self, cell: Tensor) -> Tensor:
        return torch.ones_like(cell, dtype=torch.bool)


class Lost(Exact):
    """Is anywhere with a probability of 1/5."""

    def __init__(self, world: TabularGrid) -> None:
        super().__init__(world)
        self.transition = 0.8 * self.transition + 0.2 / world.cells


def dreamt(
    memory: Any, world: TabularGrid, *, again: bool = False, first: int | None = None
) -> Walks:
    source = torch.Generator().manual_seed(0)
    start = torch.multinomial(world.mdp().start, COUNT, replacement=True, generator=source)
    start = start if first is None else torch.full_like(start, first)
    action = torch.randint(4, (HORIZON, COUNT), generator=source)
    return measures.dreams(Eyes(world), memory, world, start, action, again=again)


@pytest.mark.parametrize("again", [False, True])
def test_the_exact_model_is_perfect(again: bool) -> None:
    world = rooms()
    found, mdp = dreamt(Exact(world), world, again=again), world.mdp()
    assert torch.equal(measures.accuracy(found, mdp), torch.ones(HORIZON).double())
    assert not measures.illegal(found, mdp).any()
    goals = {name: int(count.sum()) for name, count in measures.goals(found, mdp).items()}
    assert goals["false"] == goals["missed"] == 0
    assert goals["ends"] == goals["arrivals"] > 0
    truth = measures.walks(mdp, found.cell[0], found.action)
    assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("slip", [0.0, 0.1])
def test_the_exact_model_ends_as_often_as_it_must(slip: float) -> None:
    world = rooms(slip)
    share = measures.ended(dreamt(Exact(world), world))
    exact = measures.exact_ended(world.mdp(), HORIZON)
    error = (exact * (1.0 - exact) / COUNT).sqrt()
    assert ((share - exact).abs() < 4.0 * error + 1e-9).all()
    assert (exact.diff() > 0.0).all()


def test_the_exact_model_is_spread_as_the_truth_is() -> None:
    world = rooms(0.1)
    found, mdp = dreamt(Exact(world), world, first=0), world.mdp()
    with drawing_from(1):
        floor = measures.spread(measures.walks(mdp, found.cell[0], found.action), mdp, 15)
    assert measures.spread(found, mdp, 15) == pytest.approx(floor, abs=0.02)
    assert measures.spread(dreamt(Lost(world), world, first=0), mdp, 15) > floor + 0.3
    assert measures.spread(found, mdp, 0) == 0.0
    with pytest.raises(ValueError, match="begin in one cell"):
        measures.spread(dreamt(Exact(world), world), mdp, 15)


def test_marginals_by_hand() -> None:
    mdp = OpenWorld(1, size=2, start=(0, 0)).mdp()  # the goal is cell 3
    exact = measures.exact_marginals(mdp, mdp.start, 2)
    assert exact[1].tolist() == [0.5, 0.25, 0.25, 0.0]
    assert exact[2].tolist() == [0.375, 0.25, 0.25, 0.125]
    assert measures.exact_ended(mdp, 2).tolist() == [0.0, 0.125]
    walked = Walks(torch.tensor([[0, 0, 0, 1]]), torch.zeros(0, 4), torch.zeros(0, 4).bool())
    assert measures.marginal(walked, 0, 4).tolist() == [0.75, 0.25, 0.0, 0.0]


def test_a_model_that_is_lost_is_caught() -> None:
    world = rooms()
    found, mdp = dreamt(Lost(world), world), world.mdp()
    accuracy, illegal = measures.accuracy(found, mdp), measures.illegal(found, mdp)
    right = 0.8 + 0.2 / world.cells
    assert float(accuracy[0]) == pytest.approx(right, abs=0.03)
    assert float(accuracy[-1]) < 0.2
    # four actions lead to at most five cells: of all others, none is possible
    assert 0.2 * 98 / 104 < float(illegal.nanmean()) + 0.02 < 0.24


def test_ends_in_the_wrong_places_are_counted() -> None:
    world = rooms()
    mdp = world.mdp()
    never = measures.goals(dreamt(Endless(world), world), mdp)
    assert not never["ends"].any() and not never["false"].any()
    assert torch.equal(never["missed"], never["arrivals"]) and never["missed"].any()
    really = dreamt(Exact(world), world).ended.sum(1)
    assert torch.equal(never["arrivals"], really), "whoever stays at the goal has come to it once"
    # the goal leads to itself, and what follows a missed one is not called illegal
    assert not measures.illegal(dreamt(Endless(world), world), mdp).any()
    found = dreamt(Eager(world), world)
    eager = measures.goals(found, mdp)
    assert int(eager["ends"].sum()) == int(eager["ends"][0]) == COUNT
    assert int(eager["false"][0]) + int(eager["arrivals"][0]) == COUNT
    assert not eager["missed"].any()
    assert measures.ended(found).tolist() == [1.0] * HORIZON
    # ended dreams stay where they are, and later steps are nobody's
    assert torch.equal(found.cell[1], found.cell[-1])
    assert measures.illegal(found, mdp)[1:].isnan().all()
    assert float(measures.accuracy(found, mdp)[1:].max()) == 0.0


def test_of_chance_there_is_no_right_cell() -> None:
    world = rooms(0.1)
    with pytest.raises(ValueError, match="leave nothing to chance"):
        measures.accuracy(dreamt(Exact(world), world), world.mdp())


def walked(world: TabularGrid, steps: int = 5, count: int = 300) -> Walks:
    mdp = world.mdp()
    with drawing_from(2):
        start = torch.multinomial(mdp.start, count, replacement=True)
        return measures.walks(mdp, start, torch.randint(4, (steps, count)))


def test_the_exact_model_tells_the_next_cell_as_well_as_can_be() -> None:
    world = rooms(0.1)
    eyes, walks = Eyes(world), walked(world)
    found = measures.told(eyes, Exact(world), world, walks)
    assert found.nats == pytest.approx(found.entropy, abs=1e-6)
    assert 0.38 < found.entropy < 0.44
    lost = measures.told(eyes, Lost(world), world, walks)
    assert found.nats + 0.15 < lost.nats < found.nats - math.log(0.8) + 1e-6
    eyes.symbols = None  # then it draws
    drawn = measures.told(eyes, Exact(world), world, walks, samples=1024)
    assert found.nats - 0.01 < drawn.nats < found.nats + 0.02


def test_walks_that_have_ended_are_left_out_of_what_is_told() -> None:
    """At the goal nothing is left to chance, so they would make it look easier."""
    world = rooms(0.1)
    walks = walked(world, steps=40)
    going = walks.going[-1]
    assert 0.5 < float(going.double().mean()) < 0.95
    found = measures.told(Eyes(world), Lost(world), world, walks)
    alone = Walks(*(part[:, going] for part in walks))
    assert found == measures.told(Eyes(world), Lost(world), world, alone)


def test_what_a_model_takes_for_impossible_costs_no_infinity() -> None:
    world = rooms()
    other = Exact(world)
    other.transition = other.transition.roll(1, dims=2)
    found = measures.told(Eyes(world), other, world, walked(world))
    assert found.entropy == 0.0
    assert found.nats == pytest.approx(-math.log(1e-6), abs=1e-3)


@pytest.mark.parametrize("latent", ["tokens", "numbers"])
def test_real_models_are_measured(latent: Any) -> None:
    world = OpenWorld(7, size=4, observation="image", slip=0.1)
    vision = Vision.of(world.observation_space, latent=latent, symbols=16, size=2, hidden=(16,))
    size = vision.latent_shape.numel()
    memory = Memory.of(size, actions=4, symbols=vision.symbols, width=16)
    some = walked(world, count=20)
    found = measures.dreams(vision, memory, world, some.cell[0], some.action, seed=3)
    again = measures.dreams(vision, memory, world, some.cell[0], some.action, seed=3)
    assert torch.equal(found.cell, again.cell) and torch.equal(found.ended, again.ended)
    assert found.cell.shape == (6, 20) and int(found.cell.max()) < world.cells
    told = measures.told(vision, memory, world, some, samples=8)
    assert told.nats > told.entropy > 0.0


def test_pictures_are_what_is_seen() -> None:
    world = OpenWorld(5, size=3, observation="image")
    seen = measures.pictures(world)
    assert torch.equal(cells(seen, world), torch.arange(9))
    at_goal = seen[8]
    assert torch.equal(at_goal[1], at_goal[2])
    world.reset(7)
    world.step(torch.ones(5).long())
    before = copied(world.state_dict())
    assert torch.equal(measures.pictures(world), seen)
    assert same(world.state_dict(), before), "looking leaves the world as it is"
    with pytest.raises(ValueError, match="goal that stays"):
        measures.pictures(OpenWorld(1, size=3, goal="random"))

"""Acting by a search in M: what plans are worth, what is remembered, and what is found."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.agents.planning import cross_entropy
from rlgen.agents.world_model import Attention, Memory, Planner
from rlgen.agents.world_model.memory import Foreseen
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from
from tests.exact_models import ExactMemory, everywhere, exact_vision
from tests.walks import seeded


def test_a_search_without_noise_has_the_best_plan_that_it_drew() -> None:
    table, seen = torch.randn(3, 4**3, generator=torch.Generator().manual_seed(0)), []

    def worth(plans: Tensor) -> Tensor:
        value = table.gather(1, (plans * torch.tensor([16, 4, 1])).sum(-1))
        seen.append(value.max(1).values)
        return value

    few: dict[str, Any] = {"horizon": 3, "actions": 4, "candidates": 9, "elites": 2, "rounds": 3}
    with drawing_from(0):
        found = cross_entropy(worth, 3, **few)
    best = torch.stack(seen).max(0).values
    assert len(seen) == 4 and (best < table.max(1).values).any()
    assert torch.equal(worth(found[:, None])[:, 0], best)


def test_a_search_with_noise_has_a_plan_that_does_well_and_not_a_lucky_one() -> None:
    """Trap: an action that pays half of the time has paid once, like one that always pays."""
    often = torch.tensor([0.5, 0.95, 0.5, 0.5])

    def worth(plans: Tensor) -> Tensor:
        return torch.bernoulli(often[plans[..., 0]])

    with drawing_from(0):
        found = cross_entropy(worth, 500, horizon=2, actions=4)
    assert float((found[:, 0] == 1).double().mean()) >= 0.95


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_a_planner_sets_out_on_a_shortest_way(slip: float) -> None:
    """With the truth as V and M, from all cells within four steps of the goal."""
    world, memory = FourRooms(1, slip=slip), ExactMemory(FourRooms(1, slip=slip))
    distance, shortest = world.distances(), world.optimal_actions()
    near = ((distance >= 1) & (distance <= 4)).nonzero()[:, 0].repeat(10)
    planner = Planner(exact_vision(everywhere()), memory, horizon=10, seed=1)  # type: ignore[arg-type]
    action, _ = planner.act(everywhere()[near])
    right = shortest[near, action].double()
    assert float(right[distance[near] == 1].mean()) == 1.0
    assert float(right.mean()) >= (0.93 if slip else 1.0)


class Paying:
    """M of a made-up world: step k pays k, and the action 3 ends the episode."""

    actions = 4

    def initial_state(self, count: int) -> Tensor:
        return torch.zeros(count, 2)

    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor:
        return torch.stack([state[:, 0] + 1, action.float()], 1)

    def foresee(self, state: Tensor) -> Foreseen:
        time, action = state.unbind(1)
        return Foreseen(torch.zeros(len(state), 1).long(), time, action == 3)


def test_a_plan_is_worth_what_it_brings_up_to_the_end() -> None:
    """The step that ends the episode counts, and none after it, whatever M says is paid there."""
    memory: Any = Paying()
    planner = Planner(exact_vision(torch.eye(2)), memory, discount=0.5)
    plans = torch.tensor([[[0, 1, 2], [3, 0, 0], [0, 3, 0], [0, 0, 3]]] * 2)
    later = torch.tensor([[0.0, 0.0], [5.0, 0.0]])  # five steps of the second episode are over
    found = planner._worth(torch.zeros(2, 1).long(), later, plans)
    first = [1 + 2 / 2 + 3 / 4, 1.0, 1 + 2 / 2, 1 + 2 / 2 + 3 / 4]
    second = [6 + 7 / 2 + 8 / 4, 6.0, 6 + 7 / 2, 6 + 7 / 2 + 8 / 4]
    assert found.tolist() == [first, second]


def test_a_planner_remembers_its_episode_and_no_other() -> None:
    """Its state is the memory of all that was seen and done, as M steps by hand."""
    vision = exact_vision(torch.eye(9))
    recurrence = Attention(8, attention_heads=2, window=3)
    memory = seeded(lambda: Memory.of(1, actions=4, symbols=9, recurrence=recurrence))
    planner = Planner(vision, memory, horizon=2, candidates=8, elites=2, rounds=1)
    generator = torch.Generator().manual_seed(0)
    state, by_hand, first = None, memory.initial_state(5), torch.ones(5, dtype=torch.bool)
    for t in range(8):
        z = torch.randint(9, (5,), generator=generator)
        action, state = planner.act(torch.eye(9)[z], state, first)
        torch.testing.assert_close(state[0], by_hand)
        by_hand = memory.step(z[:, None], action, by_hand).detach()
        first = torch.arange(5) == t  # another episode begins
        by_hand[first] = 0.0
    assert (by_hand[4] != 0).any()


class Alternating(Paying):
    """What pays is to do something else than in the step before; its state is the last two."""

    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor:
        return torch.stack([state[:, 1], action + 1.0], 1)

    def foresee(self, state: Tensor) -> Foreseen:
        paid = (state[:, 0] != state[:, 1]).float()
        return Foreseen(torch.zeros(len(state), 1).long(), paid, torch.zeros(len(state)).bool())


def test_plans_are_judged_from_what_is_remembered() -> None:
    memory: Any = Alternating()
    planner = Planner(exact_vision(torch.eye(2)), memory, horizon=2)
    obs = torch.eye(2)[:1].expand(50, -1)
    before, state = planner.act(obs)
    for _ in range(3):
        action, state = planner.act(obs, state, torch.zeros(50, dtype=torch.bool))
        assert (action != before).all()
        before = action

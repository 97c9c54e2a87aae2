"""What policies do on tabular worlds, against walking every path there is."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents import policy_measures as pm
from rlgen.agents.imitation import measures
from rlgen.agents.imitation.experts import first_expert, routes_expert
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid

HORIZON = 5


def world_of(**kwargs: object) -> OpenWorld:
    return OpenWorld(1, size=3, start=(0, 0), max_steps=HORIZON, **kwargs)  # type: ignore[arg-type]


def tables(n: int, cells: int = 9, sharp: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (sharp * torch.randn(n, cells, 4, generator=generator).double()).softmax(2)


def every_path(world: OpenWorld, table: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each path of cells under one policy, by all sequences of actions."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for actions in itertools.product(range(4), repeat=HORIZON):
        path, chance = [0], 1.0
        for action in actions:
            cell = path[-1]
            # at the end, one of the four stands for all
            chance *= float(table[cell, action]) if cell != world.goal else float(action == 0)
            path.append(int(world.next_cell[cell, action]) if cell != world.goal else cell)
        found[tuple(path)] += chance
    return found


def test_walks_agree_with_all_paths_one_by_one() -> None:
    world, table = world_of(), tables(6)
    walks = pm.greedy(world, table)
    entropies = pm.path_entropy_given(world, table)
    for i in range(6):
        paths = every_path(world, table[i])
        assert sum(paths.values()) == pytest.approx(1.0, abs=1e-9)
        mine = tuple(walks.path[i].tolist())
        assert float(walks.agree[i]) == pytest.approx(paths[mine], abs=1e-9)
        entropy = -sum(p * math.log(p) for p in paths.values() if p > 0.0)
        assert float(entropies[i]) == pytest.approx(entropy, abs=1e-9)
        greedy = [0]
        for _ in range(HORIZON):
            cell = greedy[-1]
            best = int(table[i, cell].argmax())
            greedy.append(cell if cell == world.goal else int(world.next_cell[cell, best]))
        assert mine == tuple(greedy)


@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_returns_are_those_of_planning(slip: float) -> None:
    world, table = world_of(slip=slip), tables(4)
    ours = pm.returns(world, table, discount=0.9)
    each = [
        planning.expected_return(world.mdp(), one, discount=0.9, horizon=HORIZON) for one in table
    ]
    torch.testing.assert_close(ours, torch.stack(each))


def test_a_policy_for_each_shortest_path_shows_them_all() -> None:
    world = OpenWorld(1, size=3, start=(0, 0), max_steps=9)
    orders = sorted(set(itertools.permutations((1, 1, 3, 3))))
    table = torch.zeros(len(orders), 9, 4, dtype=torch.float64)
    table[:, :, 1] = 1.0
    for i, order in enumerate(orders):
        cell = 0
        for action in order:
            table[i, cell] = torch.nn.functional.one_hot(torch.tensor(action), 4)
            cell = int(world.next_cell[cell, action])
    found = pm.variety(world, table)
    assert found.distinct == world.shortest_paths() == 6
    assert found.entropy == pytest.approx(math.log(6))
    assert found.most == pytest.approx(1 / 6)
    assert (found.success, found.length, found.agree) == (1.0, 1.0, 1.0)
    assert found.given == pytest.approx(0.0, abs=1e-9)
    assert found.routes == pytest.approx((1 / 6, 1 / 6))


def test_detours_and_failures_are_no_shortest_paths() -> None:
    world = OpenWorld(1, size=3, start=(0, 0), max_steps=9)
    table = torch.zeros(2, 9, 4, dtype=torch.float64)
    table[0, :, 0] = 1.0  # up for ever
    table[1] = first_expert(world).policies[0]
    table[1, 0] = torch.tensor([0.0, 0.4, 0.0, 0.6])
    assert pm.greedy(world, table).length.tolist() == [9, 4]  # 9 steps, and no end
    found = pm.variety(world, table)
    assert (found.success, found.distinct) == (0.5, 1)
    assert found.entropy == pytest.approx(math.log(2))
    assert found.agree == pytest.approx((1.0 + 0.6) / 2)


@pytest.mark.parametrize("kind", ["rooms", "open"])
def test_routes_are_those_of_the_measures_of_imitation(kind: str) -> None:
    rooms = kind == "rooms"
    world = FourRooms(1, start=(1, 1)) if rooms else OpenWorld(1, size=5, start=(0, 0))
    expert = routes_expert(world) if rooms else first_expert(world)
    noise = torch.rand(60, *expert.policies.shape[1:], dtype=torch.float64)
    table = expert.policies[torch.arange(60) % 2].double() * (1.0 + noise) + 0.01
    walks = pm.greedy(world, table / table.sum(2, keepdim=True))
    known = measures.routes(list(walks.path), world)
    shares = pm.route_shares(world, walks.path)
    assert shares == tuple(float((known == way).double().mean()) for way in (0, 1))
    assert min(shares) > 0.0


def test_a_world_without_two_routes_has_no_shares_of_them() -> None:
    world = TabularGrid(
        1, torch.ones(3, 3).bool(), device="cpu", observation="onehot", slip=0.0,
        slip_rule="paper", start=(0, 0), goal=(2, 2), max_steps=9, seed=0,
    )  # fmt: skip
    assert pm.variety(world, tables(5, world.cells)).routes == ()


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="without slips"):
        pm.greedy(world_of(slip=0.1), tables(1))
    with pytest.raises(ValueError, match="a start and a goal that stay"):
        pm.greedy(OpenWorld(1, size=3), tables(1))


def test_what_paths_tell_of_their_policies_is_as_enumerated() -> None:
    world, table = world_of(), tables(4)
    paths = [every_path(world, one) for one in table]
    exact = 0.0
    for mine in paths:
        for path, chance in mine.items():
            if chance > 0.0:
                mixture = sum(other.get(path, 0.0) for other in paths) / 4
                exact += chance / 4 * math.log(chance / mixture)
    found = pm.behaviour(world, table, episodes=4000)
    assert found.information == pytest.approx(exact, abs=0.03)
    every = {path for mine in paths for path in mine}
    best = sum(max(mine.get(path, 0.0) for mine in paths) for path in every) / 4
    assert found.recovered == pytest.approx(best, abs=0.03)
    assert 0.25 < found.recovered < 1.0


def test_equal_policies_are_found_by_any_of_their_paths() -> None:
    world, table = world_of(), tables(2)
    once = pm.behaviour(world, table, episodes=4000)
    twice = pm.behaviour(world, table[[0, 0, 1, 1]], episodes=2000)
    assert 0.5 < once.recovered < 1.0
    assert twice.recovered == pytest.approx(once.recovered, abs=0.03)
    same = pm.behaviour(world, table[:1].expand(4, -1, -1))
    assert same.information == pytest.approx(0.0, abs=1e-9) and same.recovered == 1.0

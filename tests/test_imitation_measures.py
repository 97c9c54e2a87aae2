"""Measures of imitation against hand cases, other libraries and exact occupancies."""

import itertools
import math

import pytest
import scipy.optimize
import sklearn.metrics
import torch

from rlgen.agents import planning
from rlgen.agents.imitation import measures
from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.imitation.experts import first_expert, routes_expert, shortest_paths_expert
from rlgen.agents.imitation.recording import record
from rlgen.envs import FourRooms, OpenWorld

DISCOUNT = 0.97


# total variation


def test_total_variation_of_hand_cases() -> None:
    p = torch.tensor([[0.5, 0.0], [0.25, 0.25]])
    assert measures.total_variation(p, p) == 0.0
    assert measures.total_variation(p, torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == 1.0
    assert measures.total_variation(p, torch.full((2, 2), 0.25)) == 0.25
    # the largest difference of any event
    q = torch.tensor([0.1, 0.2, 0.3, 0.4])
    events = itertools.chain(*(itertools.combinations(range(4), k) for k in range(5)))
    largest = max(abs(float((p.flatten() - q)[list(event)].sum())) for event in events)
    assert measures.total_variation(p.flatten(), q) == pytest.approx(largest)


def test_what_is_no_distribution_has_no_total_variation() -> None:
    p = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="'q' must have shape"):
        measures.total_variation(p, torch.full((2, 1), 0.5))
    with pytest.raises(ValueError, match="'q' must be probabilities"):
        measures.total_variation(p, 2 * p)
    with pytest.raises(ValueError, match="'p' must be probabilities"):
        measures.total_variation(torch.tensor([1.5, -0.5]), p)


# cells


@pytest.mark.parametrize("observation", ["onehot", "xy", "image"])
@pytest.mark.parametrize("goal", [(11, 11), "random"])
@pytest.mark.parametrize("codes", [0, 3])
def test_cells_are_told_from_every_observation(
    observation: str, goal: tuple[int, int] | str, codes: int
) -> None:
    world = FourRooms(200, observation=observation, goal=goal)
    obs = world.reset(0)
    if codes and observation == "image":  # as planes, and as numbers, behind what is seen
        planes = torch.full((200, codes, 13, 13), 255, dtype=torch.uint8)
        obs = torch.cat([obs, planes], dim=1)
    elif codes:
        obs = torch.cat([obs, 9 * torch.ones(200, codes)], dim=1)
    assert torch.equal(measures.cells(obs, world), world.state.cell)
    assert len(world.state.cell.unique()) > 50


# occupancies


def test_occupancy_is_that_of_planning_but_for_choices_after_the_end() -> None:
    world = FourRooms(1, slip=0.1)
    mdp = world.mdp()
    even = torch.full((104, 4), 0.25, dtype=torch.float64)
    exact = planning.occupancy(mdp, even, discount=DISCOUNT)
    torch.testing.assert_close(measures.occupancy(mdp, even, discount=DISCOUNT), exact)
    odd = even.clone()
    odd[mdp.terminal] = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    torch.testing.assert_close(measures.occupancy(mdp, odd, discount=DISCOUNT), exact)
    assert measures.total_variation(planning.occupancy(mdp, odd, discount=DISCOUNT), exact) > 0.01


def test_modes_mix_by_episode_and_not_by_step() -> None:
    world = FourRooms(1, start=(1, 1))
    expert, mdp = routes_expert(world, (0.25, 0.75)), world.mdp()
    mixed = measures.occupancy(
        mdp, expert.policies, discount=DISCOUNT, weights=torch.tensor([0.25, 0.75])
    )
    parts = [measures.occupancy(mdp, pi, discount=DISCOUNT) for pi in expert.policies]
    torch.testing.assert_close(mixed, 0.25 * parts[0] + 0.75 * parts[1])
    by_step = 0.25 * expert.policies[0] + 0.75 * expert.policies[1]
    assert (
        measures.total_variation(measures.occupancy(mdp, by_step, discount=DISCOUNT), mixed) > 0.1
    )
    with pytest.raises(ValueError, match="'weights'"):
        measures.occupancy(mdp, expert.policies, discount=DISCOUNT, weights=torch.ones(3))


def test_empirical_occupancy_of_a_hand_case() -> None:
    """Two steps along the top of a square of four, then the end."""
    world = OpenWorld(1, size=2, start=(0, 0))
    seen = torch.eye(4)
    walk = Trajectory(seen[[0, 1, 3]], torch.tensor([3, 1]), terminated=True, truncated=False)
    share = measures.empirical_occupancy(Demonstrations((walk,)), world, 0.5)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 3], expected[1, 1], expected[3] = 0.5, 0.25, 0.25 / 4
    torch.testing.assert_close(share, expected)

    cut = Trajectory(seen[[0, 1]], torch.tensor([3]), terminated=False, truncated=True)
    share = measures.empirical_occupancy(Demonstrations((walk, cut)), world, 0.5)
    expected[0, 3] += 0.5
    torch.testing.assert_close(share, expected / 1.5)


@pytest.mark.parametrize("observation", ["onehot", "xy", "image"])
def test_empirical_occupancy_tends_to_the_exact_one(observation: str) -> None:
    world = FourRooms(500, slip=0.1, observation=observation, max_steps=400)
    expert = shortest_paths_expert(world)
    exact = expert.occupancy(DISCOUNT)
    demonstrations = record(world, expert, 1000)
    off = [
        measures.total_variation(
            measures.empirical_occupancy(demonstrations[:count], world, DISCOUNT), exact
        )
        for count in (10, 100, 1000)
    ]
    # the error falls as 1 / sqrt(count)
    assert off[2] < 0.05
    assert off[0] > 2 * off[1] > 4 * off[2]


def test_steps_that_are_not_discounted_are_another_occupancy() -> None:
    world = FourRooms(200, start=(1, 1))
    expert = shortest_paths_expert(world)
    demonstrations = record(world, expert, 200)
    exact = expert.occupancy(DISCOUNT)
    steps = demonstrations.transitions()
    plain = torch.zeros(104, 4, dtype=torch.float64)
    plain.index_put_(
        (measures.cells(steps.obs, world), steps.action),
        torch.full((len(steps),), 1 / len(steps), dtype=torch.float64),
        accumulate=True,
    )
    right = measures.empirical_occupancy(demonstrations, world, DISCOUNT)
    assert measures.total_variation(right, exact) < 0.07
    assert measures.total_variation(plain, exact) > 0.3
    with pytest.raises(ValueError, match="'discount'"):
        measures.empirical_occupancy(demonstrations, world, 1.0)


# routes


@pytest.mark.parametrize("observation", ["onehot", "image"])
def test_routes_of_recorded_modes(observation: str) -> None:
    world = FourRooms(20, start=(1, 1), observation=observation)
    for mode in (0, 1):
        weights = (1.0 - mode, float(mode))
        recorded = record(world, routes_expert(world, weights), 40)
        assert measures.routes(recorded, world).tolist() == [mode] * 40
    both = record(world, routes_expert(world), 100)
    taken = measures.routes(both, world)
    assert set(taken.tolist()) == {0, 1}
    assert measures.coverage(taken) == 1.0
    assert measures.coverage(taken[taken == 0]) == 0.5


def test_a_route_is_a_whole_one_and_one_alone() -> None:
    world = FourRooms(1, start=(1, 1))
    number = torch.full((13, 13), -1)
    number[world.free] = torch.arange(104)
    first, second, third, fourth = (int(number[cell]) for cell in ((3, 6), (7, 9), (6, 2), (10, 6)))
    paths = [[0, first], [0, first, second], [0, third, fourth], [0, first, fourth], [0]]
    paths.append([0, first, third, first, second])  # a look into the other door
    paths.append([0, first, second, fourth, third])  # round and back
    found = measures.routes([torch.tensor(path) for path in paths], world)
    assert found.tolist() == [-1, 0, 1, -1, -1, 0, -1]


def test_routes_of_the_open_world_from_anywhere() -> None:
    world = OpenWorld(50, size=6)
    recorded = record(world, first_expert(world, (1.0, 0.0)), 100)
    taken = measures.routes(recorded, world)
    for route, walk in zip(taken.tolist(), recorded.trajectories, strict=True):
        row, column = divmod(int(measures.cells(walk.obs[:1], world)), 6)
        assert route == (-1 if row == 5 or column == 5 else 0)  # straight on is no choice
    with pytest.raises(ValueError, match="'world'"):
        measures.routes(recorded, OpenWorld(1, size=6, goal="random"))


# codes


def test_purity_of_planted_labels_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    routes = torch.randint(0, 2, (1000,), generator=generator)
    assert measures.purity(1 - routes, routes) == 1.0  # names do not matter
    codes = routes.clone()
    codes[:130] = 1 - codes[:130]
    assert measures.purity(codes, routes) == 0.87
    assert measures.purity(torch.zeros(4).long(), torch.tensor([0, 0, 0, 1])) == 0.75


def test_more_codes_than_routes_do_not_make_it_pure() -> None:
    """A code for each trajectory says all of it to a measure that matches many to one."""
    routes = torch.tensor([0, 1] * 8)
    assert measures.purity(torch.arange(16), routes) == 2 / 16
    assert measures.purity(torch.tensor([0, 1, 2, 1] * 4), routes) == 0.75
    # nor do fewer
    assert measures.purity(torch.zeros(16).long(), routes) == 0.5


def test_unknown_routes_are_wrong() -> None:
    codes = torch.tensor([0, 0, 1, 1])
    assert measures.purity(codes, torch.tensor([0, -1, 1, -1])) == 0.5
    assert measures.purity(codes, torch.full((4,), -1)) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_purity_is_the_best_assignment_of_scipy(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(1, 7, (2,), generator=generator).tolist()
    codes = torch.randint(0, kinds[0], (60,), generator=generator)
    routes = torch.randint(-1, kinds[1], (60,), generator=generator)
    counts = torch.zeros(7, 7)
    for code, route in zip(codes.tolist(), routes.tolist(), strict=True):
        if route >= 0:
            counts[code, route] += 1
    rows, columns = scipy.optimize.linear_sum_assignment(counts.numpy(), maximize=True)
    best = float(counts[rows, columns].sum()) / 60
    assert measures.purity(codes, routes) == pytest.approx(best)


def test_matching_has_a_limit_and_says_so() -> None:
    with pytest.raises(ValueError, match="16"):
        measures.purity(torch.arange(40), torch.arange(40))


@pytest.mark.parametrize("seed", range(5))
def test_information_is_that_of_scikit_learn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 3, (80,), generator=generator)
    routes = (codes + torch.randint(0, 2, (80,), generator=generator)) % 4 - 1
    expected = sklearn.metrics.mutual_info_score(codes.numpy(), routes.numpy())
    assert measures.information(codes, routes) == pytest.approx(expected, abs=1e-12)


def test_information_at_its_ends() -> None:
    routes = torch.tensor([0, 1] * 50)
    assert measures.information(1 - routes, routes) == pytest.approx(math.log(2))
    assert measures.information(torch.zeros(100).long(), routes) == 0.0
    independent = torch.tensor([0, 0, 1, 1] * 25)
    assert measures.information(independent, routes) == pytest.approx(0.0, abs=1e-15)


def test_labels_must_go_together() -> None:
    for measure in (measures.purity, measures.information):
        with pytest.raises(ValueError, match="'codes' and 'routes'"):
            measure(torch.zeros(3).long(), torch.zeros(4).long())
        with pytest.raises(ValueError, match="'codes' and 'routes'"):
            measure(torch.zeros(0).long(), torch.zeros(0).long())
    with pytest.raises(ValueError, match="'count'"):
        measures.coverage(torch.zeros(3), 0)


# paths


def test_path_entropy_of_hand_cases_and_of_a_world_with_six_ways() -> None:
    world = OpenWorld(500, size=3, start=(0, 0))
    paths = [torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 3, 6])]
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert measures.path_entropy(paths, world) == pytest.approx(expected)
    expert = shortest_paths_expert(world)
    free = world.mdp()._replace(reward=torch.zeros(9, 4, dtype=torch.float64))
    exact = planning.expected_return(free, expert.policy, horizon=4, temperature=1.0)
    found = measures.path_entropy(record(world, expert, 5000), world)
    assert found == pytest.approx(float(exact), abs=0.01)
    one = first_expert(world, (1.0, 0.0))
    assert measures.path_entropy(record(world, one, 50), world) == 0.0

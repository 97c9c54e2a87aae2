"""Inverse and apprenticeship learning against finite differences and exact occupancies."""

import math
from collections.abc import Iterator

import pytest
import scipy.optimize
import torch
from torch import Tensor

from rlgen.agents import RewardModel, planning
from rlgen.agents.imitation import measures
from rlgen.agents.imitation.apprenticeship import Apprenticeship, nearest
from rlgen.agents.imitation.experts import routes_expert, shortest_paths_expert
from rlgen.agents.imitation.inverse import MaxEntIRL
from rlgen.agents.imitation.recording import record
from rlgen.agents.transitions import Transitions
from rlgen.envs import FourRooms, OpenWorld
from rlgen.seeding import drawing_from

DISCOUNT = 0.97


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with drawing_from(0):
        yield


# the soft plan itself


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
def test_the_stationary_soft_plan_is_a_fixed_point_and_the_limit_of_long_horizons(
    discount: float,
) -> None:
    world = FourRooms(1, slip=0.1)
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(world.cells, 4, generator=generator, dtype=torch.float64)
    mdp = world.mdp()._replace(reward=reward)
    plan = planning.soft_value_iteration(mdp, discount=discount, temperature=0.5)
    q = (reward + discount * mdp.transition @ plan.value).masked_fill(mdp.terminal[:, None], 0.0)
    value = (0.5 * (q / 0.5).logsumexp(1)).masked_fill(mdp.terminal, 0.0)
    torch.testing.assert_close(value, plan.value, atol=1e-8, rtol=1e-9)
    if discount == 0.9:
        long = planning.soft_values(mdp, horizon=300, temperature=0.5, discount=0.9)
        torch.testing.assert_close(long.value[0], plan.value)
        torch.testing.assert_close(long.policy[0], plan.policy)


def test_bad_temperatures_and_discounts_are_refused() -> None:
    mdp = OpenWorld(1, size=2).mdp()
    with pytest.raises(ValueError, match="'temperature'"):
        planning.soft_value_iteration(mdp, discount=0.9, temperature=0.0)
    with pytest.raises(ValueError, match="'discount'"):
        planning.soft_value_iteration(mdp, discount=1.0)


# maximum entropy


@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_the_gradient_is_the_difference_of_features_and_that_of_the_objective(slip: float) -> None:
    world = FourRooms(1, slip=slip)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(world.cells, 4, 5, generator=generator, dtype=torch.float64)
    expert = shortest_paths_expert(world).occupancy(DISCOUNT)
    irl = MaxEntIRL(expert, world, features=features, discount=DISCOUNT, decay=0.0)
    weights = 0.3 * torch.randn(5, generator=generator, dtype=torch.float64)
    _, slope = irl.objective(weights)

    # by hand: discounted sums of visits while episodes last
    irl.weights = weights
    mdp, policy = world.mdp(), irl.policy()
    state, share = mdp.start, torch.zeros(world.cells, dtype=torch.float64)
    for t in range(1500):
        share = share + (1 - DISCOUNT) * DISCOUNT**t * state
        state = torch.einsum("s,sa,saz->z", state, policy, mdp.transition)
    gap = (expert - share[:, None] * policy)[~mdp.terminal]
    by_hand = torch.einsum("sa,sak->k", gap, features[~mdp.terminal])
    torch.testing.assert_close(slope, by_hand, atol=1e-9, rtol=1e-9)

    for k, step in enumerate(1e-5 * torch.eye(5, dtype=torch.float64)):
        up, down = irl.objective(weights + step)[0], irl.objective(weights - step)[0]
        assert float((up - down) / 2e-5) == pytest.approx(float(slope[k]), abs=1e-5)


def test_the_objective_is_the_likelihood_of_the_choices() -> None:
    """sum of discounted log pi(a|s): with the expert's own dynamics both are the same number."""
    world = FourRooms(1, start=(1, 1), slip=0.1)
    expert = shortest_paths_expert(world).occupancy(DISCOUNT)
    irl = MaxEntIRL(expert, world, discount=DISCOUNT, decay=0.0).fit(5)
    going = ~world.mdp().terminal
    likelihood = (expert * irl.policy().log())[going].sum()
    assert float(irl.objective(irl.weights)[0]) == pytest.approx(float(likelihood), abs=1e-9)


@pytest.mark.parametrize("start", [(1, 1), None])
@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_the_recovered_reward_makes_one_do_what_the_expert_did(
    start: tuple[int, int] | None, slip: float
) -> None:
    world = FourRooms(1, start=start, slip=slip)
    expert = shortest_paths_expert(world).occupancy(DISCOUNT)
    irl = MaxEntIRL(expert, world, discount=DISCOUNT).fit()
    # the bar is 0.02, and the seen 0.002
    assert measures.total_variation(irl.occupancy(), expert) < 0.005
    assert irl.table().isfinite().all()


def test_a_plan_for_the_recovered_reward_is_as_good_as_the_expert_s() -> None:
    """Also from where no episode began: the reward is more than a copy of the policy."""
    world = FourRooms(1, slip=0.2)
    irl = MaxEntIRL(
        shortest_paths_expert(world).occupancy(DISCOUNT), world, discount=DISCOUNT
    ).fit()
    plan = planning.value_iteration(world.mdp()._replace(reward=irl.table()), discount=DISCOUNT)
    value = planning.evaluate_policy(world.mdp(), plan.policy, discount=DISCOUNT)
    best = planning.value_iteration(world.mdp(), discount=DISCOUNT).value
    assert float(world.mdp().start @ value) > 0.98 * float(world.mdp().start @ best)


def test_shaping_changes_the_reward_and_not_its_soft_policy() -> None:
    world = FourRooms(1, start=(1, 1))
    irl = MaxEntIRL(shortest_paths_expert(world).occupancy(0.9), world, discount=0.9).fit(20)
    mdp = world.mdp()
    potential = torch.randn(world.cells, dtype=torch.float64).masked_fill(mdp.terminal, 0.0)
    shaped = irl.table() + 0.9 * mdp.transition @ potential - potential[:, None]
    plan = planning.soft_value_iteration(mdp._replace(reward=shaped), discount=0.9)
    going = ~mdp.terminal
    torch.testing.assert_close(plan.policy[going], irl.policy()[going], atol=1e-7, rtol=1e-6)


def test_an_occupancy_from_another_start_discount_or_of_undiscounted_steps_is_refused() -> None:
    world = FourRooms(1, start=(1, 1))
    elsewhere = shortest_paths_expert(FourRooms(1)).occupancy(DISCOUNT)
    later = shortest_paths_expert(world).occupancy(0.9)
    policy = shortest_paths_expert(world).policy
    steps = planning.visits(world.mdp(), policy, horizon=19).mean(0)[:, None] * policy
    for wrong in (elsewhere, later, steps):
        with pytest.raises(ValueError, match="discounted occupancy"):
            MaxEntIRL(wrong, world, discount=DISCOUNT)
        with pytest.raises(ValueError, match="discounted occupancy"):
            Apprenticeship(wrong, world, discount=DISCOUNT)


def test_demonstrations_are_compared_from_where_they_begin() -> None:
    """Few starts of many possible: a policy from all starts could never match them."""
    world = FourRooms(3, seed=1)
    demonstrations = record(world, shortest_paths_expert(world), world.num_envs, seed=1)
    irl = MaxEntIRL(demonstrations, world, discount=DISCOUNT).fit()
    starts = measures.cells(torch.stack([t.obs[0] for t in demonstrations]), world)
    assert torch.equal(irl.mdp.start, torch.bincount(starts, minlength=104).double() / 3)
    matched = measures.occupancy(irl.mdp, irl.policy(), discount=DISCOUNT)
    seen = measures.empirical_occupancy(demonstrations, world, DISCOUNT)
    assert measures.total_variation(matched, seen) < 0.005
    assert measures.total_variation(irl.occupancy(), seen) > 0.3


def test_more_demonstrations_recover_the_expert_better() -> None:
    world = FourRooms(256, start=(1, 1), seed=0)
    expert = shortest_paths_expert(world)
    demonstrations = record(world, expert, 256)
    off = []
    for count in (1, 256):
        irl = MaxEntIRL(demonstrations[:count], world, discount=DISCOUNT).fit()
        off.append(measures.total_variation(irl.occupancy(), expert.occupancy(DISCOUNT)))
    assert off[0] > 0.2 > 0.06 > off[1]


def test_features_of_states_alone_match_their_visits() -> None:
    world = FourRooms(1, slip=0.1)
    mdp = world.mdp()
    expert = shortest_paths_expert(world).occupancy(DISCOUNT)
    features = torch.eye(world.cells, dtype=torch.float64)
    irl = MaxEntIRL(expert, world, features=features, discount=DISCOUNT).fit(300)
    assert irl.weights.shape == (104,)
    gap = (irl.occupancy() - expert).sum(1)[~mdp.terminal]
    assert float(gap.abs().max()) < 1e-3


def test_it_pays_learners_and_comes_back() -> None:
    world = FourRooms(2, start=(1, 1), observation="xy")
    irl = MaxEntIRL(shortest_paths_expert(world).occupancy(0.9), world, discount=0.9).fit(10)
    assert isinstance(irl, RewardModel)
    obs = world.reset(0)
    no = torch.zeros(2, dtype=torch.bool)
    steps = Transitions(obs, torch.tensor([3, 0]), torch.zeros(2), obs, no, no)
    torch.testing.assert_close(irl.reward(steps), irl.table()[0, [3, 0]].float())
    assert irl.update(steps) == {}
    again = MaxEntIRL(shortest_paths_expert(world).occupancy(0.9), world, discount=0.9)
    again.load_state_dict(irl.state_dict())
    assert torch.equal(again.table(), irl.table())
    with pytest.raises(ValueError, match="'weights'"):
        again.load_state_dict({"weights": torch.zeros(3)})


def test_what_makes_no_sense_is_refused() -> None:
    world = OpenWorld(1, size=3)
    expert = shortest_paths_expert(world).occupancy(0.9)
    with pytest.raises(ValueError, match="'decay'"):
        MaxEntIRL(expert, world, discount=0.9, decay=-1.0)
    with pytest.raises(ValueError, match="'features'"):
        MaxEntIRL(expert, world, discount=0.9, features=torch.ones(5, 4, 2))
    with pytest.raises(ValueError, match="'expert'"):
        MaxEntIRL(expert[:4], world, discount=0.9)
    with pytest.raises(ValueError, match="'steps'"):
        MaxEntIRL(expert, world, discount=0.9).fit(0)
    with pytest.raises(ValueError, match="random"):
        MaxEntIRL(expert, OpenWorld(1, size=3, goal="random"), discount=0.9)


# apprenticeship


@pytest.mark.parametrize("start", [(1, 1), None])
@pytest.mark.parametrize("per_action", [True, False])
def test_features_match_in_thirty_iterations_with_falling_margins(
    start: tuple[int, int] | None, per_action: bool
) -> None:
    world = FourRooms(1, start=start)
    expert = shortest_paths_expert(world)
    features = None if per_action else torch.eye(104, dtype=torch.float64)
    learner = Apprenticeship(
        expert.occupancy(DISCOUNT), world, features=features, discount=DISCOUNT
    ).fit(30)
    # in discounted sums: in shares of time it is 33 times less
    assert learner.margin <= 0.05
    assert len(learner.margins) <= 31
    assert all(b < a for a, b in zip(learner.margins, learner.margins[1:], strict=False))
    assert learner.margins[-1] == learner.margin


def test_no_reward_makes_the_mixture_worse_than_the_margin() -> None:
    world = FourRooms(1, start=(1, 1), slip=0.1)
    expert = shortest_paths_expert(world).occupancy(DISCOUNT)
    learner = Apprenticeship(expert, world, discount=DISCOUNT).fit(15, tolerance=0.0)
    share = learner.mixture().occupancy(DISCOUNT)
    generator = torch.Generator().manual_seed(0)
    worst = learner.direction().view(104, 4)
    drawn = torch.randn(200, 104, 4, generator=generator, dtype=torch.float64)
    drawn = drawn / drawn.flatten(1).norm(dim=1)[:, None, None]
    behind = [float((w * (expert - share)).sum()) / (1 - DISCOUNT) for w in [worst, *drawn]]
    assert max(behind) <= learner.margin + 1e-9
    assert behind[0] == pytest.approx(learner.margin, abs=1e-9)  # the bound is reached


def test_the_mixture_is_drawn_for_episodes_and_not_for_steps() -> None:
    """Played, it has the features that were promised; mixed at each step it has not."""
    world = FourRooms(1000, start=(1, 1), seed=0)
    expert = routes_expert(world, (0.3, 0.7)).occupancy(DISCOUNT)
    learner = Apprenticeship(expert, world, discount=DISCOUNT).fit(30)
    mixture = learner.mixture()
    exact = mixture.occupancy(DISCOUNT)
    torch.testing.assert_close(
        exact[~world.mdp().terminal].flatten() / (1 - DISCOUNT),
        learner.feature_expectations.view(104, 4)[~world.mdp().terminal].flatten(),
    )
    obs, state = world.reset(0), None
    played = torch.zeros(104, 4, dtype=torch.float64)
    for t in range(100):  # what comes after that is 0.05 of the whole
        cell = world.state.cell
        action, state = mixture.act(obs, state)
        fresh = world.time == t
        played.index_put_(
            (cell[fresh], action[fresh]),
            torch.full((int(fresh.sum()),), (1 - DISCOUNT) * DISCOUNT**t / 1000).double(),
            accumulate=True,
        )
        obs = world.step(action).obs
    going = ~world.mdp().terminal
    assert float((played - exact)[going].abs().sum()) / 2 < 0.06
    per_step = torch.einsum("m,msa->sa", mixture.weights, mixture.policies)
    blurred = measures.occupancy(world.mdp(), per_step, discount=DISCOUNT)
    assert measures.total_variation(blurred, expert) > 0.1
    assert measures.total_variation(exact, expert) < 0.01


def test_it_stops_where_demonstrations_cannot_be_matched() -> None:
    """One episode in a world that slips is what no policy does on average."""
    world = OpenWorld(1, size=3, start=(0, 0), slip=0.5, seed=0)
    demonstrations = record(world, shortest_paths_expert(world), world.num_envs, seed=1)
    learner = Apprenticeship(demonstrations, world, discount=0.9).fit(60, tolerance=0.0)
    assert learner.margin > 0.01
    assert not learner.iterate()
    assert all(b < a for a, b in zip(learner.margins, learner.margins[1:], strict=False))


def test_an_expert_who_wanders_is_matched_too() -> None:
    """Where the end is worth nothing or less, episodes need not end: no sign is built in."""
    world = OpenWorld(1, size=3, start=(0, 0))
    even = torch.full((9, 4), 0.25, dtype=torch.float64)
    even[4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    expert = measures.occupancy(world.mdp(), even, discount=0.9)
    learner = Apprenticeship(expert, world, discount=0.9).fit(60)
    assert learner.margin <= 0.05


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_mixture_is_that_of_a_general_solver(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(12, 6, generator=generator, dtype=torch.float64) + seed / 4
    points = torch.cat([points, points[:2]])  # some twice
    weights = nearest(points)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert bool((weights >= 0).all())

    def square(x: Tensor) -> float:
        return float((torch.as_tensor(x, dtype=torch.float64) @ points).square().sum())

    found = scipy.optimize.minimize(
        square,
        [1 / 14] * 14,
        bounds=[(0, 1)] * 14,
        constraints={"type": "eq", "fun": lambda x: sum(x) - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert math.sqrt(square(weights)) <= math.sqrt(found.fun) + 1e-6
    inside = weights @ points  # no point lies further towards the origin
    assert float((points @ inside).min()) >= float(inside @ inside) - 1e-9

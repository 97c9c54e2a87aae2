"""Exact planning against enumeration of all trajectories, and closed forms."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.envs import FourRooms
from rlgen.envs.tabular import MDP


def random_mdp(
    states: int = 4, actions: int = 2, seed: int = 0, *, deterministic: bool = False
) -> MDP:
    generator = torch.Generator().manual_seed(seed)
    shape = (states, actions, states)
    transition = torch.rand(shape, generator=generator, dtype=torch.float64)
    if deterministic:
        transition = torch.nn.functional.one_hot(transition.argmax(-1), states).double()
    transition = transition / transition.sum(-1, keepdim=True)
    reward = torch.randn(states, actions, generator=generator, dtype=torch.float64)
    terminal = torch.zeros(states, dtype=torch.bool)
    terminal[-1] = True
    transition[-1] = torch.nn.functional.one_hot(torch.tensor(states - 1), states).double()
    reward[-1] = 0.0
    start = torch.rand(states, generator=generator, dtype=torch.float64)
    return MDP(transition, reward, start / start.sum(), terminal)


def random_policy(mdp: MDP, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(mdp.reward.shape, generator=generator, dtype=torch.float64).softmax(1)


def trajectories(mdp: MDP, horizon: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All (states, actions) of a horizon, whether possible or not."""
    states, actions = mdp.reward.shape
    return [
        (s, a)
        for s in itertools.product(range(states), repeat=horizon + 1)
        for a in itertools.product(range(actions), repeat=horizon)
    ]


def probability(mdp: MDP, policy: Tensor, s: tuple[int, ...], a: tuple[int, ...]) -> float:
    p = float(mdp.start[s[0]])
    for t, action in enumerate(a):
        p *= float(policy[s[t], action] * mdp.transition[s[t], action, s[t + 1]])
    return p


def test_expected_return_is_the_sum_over_all_trajectories() -> None:
    mdp = random_mdp()
    policy = random_policy(mdp)
    total = 0.0
    for s, a in trajectories(mdp, 3):
        earned = sum(0.9**t * float(mdp.reward[s[t], a[t]]) for t in range(3))
        total += probability(mdp, policy, s, a) * earned
    exact = planning.expected_return(mdp, policy, discount=0.9, horizon=3)
    assert float(exact) == pytest.approx(total, abs=1e-12)


def test_visits_are_the_marginals_of_all_trajectories() -> None:
    mdp = random_mdp(seed=1)
    policy = random_policy(mdp)
    counted = torch.zeros(4, 4, dtype=torch.float64)
    for s, a in trajectories(mdp, 3):
        p = probability(mdp, policy, s, a)
        for t, state in enumerate(s):
            counted[t, state] += p
    torch.testing.assert_close(planning.visits(mdp, policy, horizon=3), counted)


def test_values_and_occupancy_agree_with_long_sums() -> None:
    mdp = random_mdp(seed=2)
    policy = random_policy(mdp)
    visits = planning.visits(mdp, policy, horizon=2000)[:-1]
    weights = 0.95 ** torch.arange(2000, dtype=torch.float64)
    occupancy = 0.05 * (weights[:, None] * visits).sum(0)[:, None] * policy
    torch.testing.assert_close(planning.occupancy(mdp, policy, discount=0.95), occupancy)
    value = planning.evaluate_policy(mdp, policy, discount=0.95)
    earned = (occupancy * mdp.reward).sum() / 0.05
    torch.testing.assert_close(mdp.start @ value, earned)


def test_value_iteration_is_the_best_of_all_deterministic_policies() -> None:
    mdp = random_mdp(seed=3)
    plan = planning.value_iteration(mdp, discount=0.9)
    best = torch.full((4,), -torch.inf, dtype=torch.float64)
    for choice in itertools.product(range(2), repeat=4):
        policy = torch.nn.functional.one_hot(torch.tensor(choice), 2).double()
        best = torch.maximum(best, planning.evaluate_policy(mdp, policy, discount=0.9))
    torch.testing.assert_close(plan.value, best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("deterministic", [False, True])
def test_soft_values_are_the_bound_at_its_optimum(deterministic: bool) -> None:
    """R05: E[R] + H(pi) with the true dynamics; log p(O) only where nothing is left to chance."""
    mdp = random_mdp(3, seed=4, deterministic=deterministic)
    # the theorem is about processes that go on: here no state is an end
    mdp = mdp._replace(terminal=torch.zeros(3, dtype=torch.bool))
    plan = planning.soft_values(mdp, horizon=3)
    bound = evidence = 0.0
    for s, a in trajectories(mdp, 3):
        p = q = float(mdp.start[s[0]])
        log_policy = earned = 0.0
        for t in range(3):
            step = float(mdp.transition[s[t], a[t], s[t + 1]])
            p, earned = p * step, earned + float(mdp.reward[s[t], a[t]])
            q *= step * float(plan.policy[t, s[t], a[t]])
            log_policy += math.log(float(plan.policy[t, s[t], a[t]]))
        bound += q * (earned - log_policy)
        evidence += p * math.exp(earned)
    soft = float(mdp.start @ plan.value[0])
    assert soft == pytest.approx(bound, abs=1e-8)
    if deterministic:
        # with several starts, the posterior also chooses among them: compare state by state
        for state in range(3):
            alone = mdp._replace(start=torch.eye(3, dtype=torch.float64)[state])
            total = sum(
                math.exp(sum(float(mdp.reward[s[t], a[t]]) for t in range(3)))
                for s, a in trajectories(alone, 3)
                if probability(alone, torch.ones(3, 2, dtype=torch.float64), s, a) > 0
            )
            assert float(plan.value[0, state]) == pytest.approx(math.log(total), abs=1e-8)
    else:
        assert soft < math.log(evidence) - 1e-3


def test_cold_soft_values_are_greedy() -> None:
    mdp = random_mdp(seed=5)
    plan = planning.soft_values(mdp, horizon=4, temperature=1e-4)
    value = torch.zeros(4, dtype=torch.float64)
    for _ in range(4):
        value = (mdp.reward + mdp.transition @ value).max(1).values
        value[mdp.terminal] = 0.0
    torch.testing.assert_close(plan.value[0], value, rtol=0, atol=1e-3)
    assert (plan.policy[0][~mdp.terminal].max(1).values > 0.999).all()


def test_soft_values_are_the_expected_return_with_entropy() -> None:
    """And no other policy has more; nothing is counted after an end."""
    mdp = random_mdp(seed=6)
    how: dict[str, Any] = {"horizon": 5, "temperature": 0.7, "discount": 0.9}
    plan = planning.soft_values(mdp, **how)
    best = planning.expected_return(mdp, plan.policy, **how)
    torch.testing.assert_close(best, mdp.start @ plan.value[0], rtol=0, atol=1e-12)
    for seed in range(5):
        assert planning.expected_return(mdp, random_policy(mdp, seed), **how) < best


def test_discounted_soft_values_become_stationary_and_when_cold_those_of_value_iteration() -> None:
    mdp = random_mdp(seed=7)
    plan = planning.soft_values(mdp, horizon=400, temperature=0.2, discount=0.9)
    torch.testing.assert_close(plan.policy[0], plan.policy[50], rtol=0, atol=1e-12)
    cold = planning.soft_values(mdp, horizon=400, temperature=1e-4, discount=0.9)
    sharp = planning.value_iteration(mdp, discount=0.9)
    torch.testing.assert_close(cold.value[0], sharp.value, rtol=0, atol=1e-3)
    going = ~mdp.terminal
    torch.testing.assert_close(cold.policy[0][going], sharp.policy[going], rtol=0, atol=1e-3)


def test_returns_of_deterministic_policies_have_gradients() -> None:
    mdp = random_mdp(seed=8)
    policy = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]].requires_grad_()
    planning.expected_return(mdp, policy, horizon=3).backward()
    assert policy.grad is not None and policy.grad.isfinite().all()


def test_a_uniform_walk_in_four_rooms_is_nearly_everywhere() -> None:
    world = FourRooms(1, goal="none")
    uniform = torch.full((104, 4), 0.25, dtype=torch.float64)
    share = planning.stationary(world.mdp(), uniform)
    entropy = -(share * share.log()).sum()
    assert float(entropy) == pytest.approx(math.log(104), abs=1e-6)


def test_discounts_are_checked() -> None:
    mdp = random_mdp()
    with pytest.raises(ValueError, match="'discount'"):
        planning.value_iteration(mdp, discount=1.0)
    with pytest.raises(ValueError, match="'horizon'"):
        planning.soft_values(mdp, horizon=0)

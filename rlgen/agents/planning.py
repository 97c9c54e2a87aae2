"""Exact answers on tabular worlds, values, soft values, occupancies; and a search for plans.

Everything takes an `MDP` (`world.mdp()`: P[s, a, s'], R[s, a], p(s_0), terminal) and is exact up to
float64. A terminal state earns nothing and leads to itself. With a horizon, quantities are lists
over time; without one, they are stationary and need a discount below 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlgen.envs.tabular import MDP


class Plan(NamedTuple):
    """A policy and what it is worth.

    Attributes:
        policy: pi(a|s), with shape (S, A), or (H, S, A) where there is a horizon.
        q: action values, with the same shape.
        value: with shape (S,) or (H, S).
    """

    policy: Tensor
    q: Tensor
    value: Tensor


def value_iteration(mdp: MDP, *, discount: float, tolerance: float = 1e-12) -> Plan:
    """The optimal policy; actions of equal value share the probability.

    V(s) = max over a of R(s, a) + discount sum over s' of P(s'|s, a) V(s')
    """
    _check_discount(discount)
    value = torch.zeros_like(mdp.start)
    while True:
        q = _backup(mdp, value, discount)
        better = q.max(1).values
        change = float((better - value).abs().max())
        value = better
        if change <= tolerance * (1.0 - discount):
            break
    best = (q >= q.max(1, keepdim=True).values - 1e-9).double()
    return Plan(best / best.sum(1, keepdim=True), q, value)


def soft_values(mdp: MDP, *, horizon: int, temperature: float = 1.0, discount: float = 1.0) -> Plan:
    """The best policy where entropy counts too, over a fixed horizon and with known dynamics.

    It maximises E[sum over t of discount^t (R(s_t, a_t) + temperature H(pi(.|s_t)))], which is
    reinforcement learning as inference with the true dynamics kept:

        Q_t(s, a) = R(s, a) + discount sum over s' of P(s'|s, a) V_{t+1}(s')
        V_t(s)    = temperature log sum over a of exp(Q_t(s, a) / temperature)

    An episode that is over has no more entropy: a terminal state is worth 0.

    References:
        Sergey Levine. Reinforcement Learning and Control as Probabilistic Inference, 2018.
        https://arxiv.org/abs/1805.00909

    Args:
        mdp: the process.
        horizon: how many steps an episode has.
        temperature: the weight of the entropy; towards 0 the policy becomes greedy.
        discount: below 1, the first of many steps has the stationary policy.
    """
    if horizon < 1 or temperature <= 0:
        raise ValueError(
            f"'horizon' and 'temperature' must be positive, got {horizon} and {temperature}"
        )
    value, plans = torch.zeros_like(mdp.start), []
    for _ in range(horizon):
        q = _backup(mdp, value, discount)
        value = temperature * (q / temperature).logsumexp(1)
        value = value.masked_fill(mdp.terminal, 0.0)
        plans.append(Plan((q / temperature).softmax(1), q, value))
    return Plan(*(torch.stack(parts) for parts in zip(*reversed(plans), strict=True)))


def soft_value_iteration(
    mdp: MDP, *, discount: float, temperature: float = 1.0, tolerance: float = 1e-10
) -> Plan:
    """The best stationary policy where entropy counts too, for ever.

    V(s) = temperature log sum over a of exp(Q(s, a) / temperature),
    Q(s, a) = R(s, a) + discount sum over s' of P(s'|s, a) V(s'), and pi(a|s) is proportional to
    exp(Q(s, a) / temperature). As in `soft_values`, a terminal state is worth 0.

    Each round solves for the value of the present policy, which is a step of Newton's: a handful of
    rounds does for any discount.

    Args:
        mdp: the process.
        discount: at least 0 and below 1.
        temperature: the weight of the entropy.
        tolerance: of the value, beside the largest one.
    """
    _check_discount(discount)
    if temperature <= 0:
        raise ValueError(f"'temperature' must be positive, got {temperature}")
    value = torch.zeros_like(mdp.start)
    while True:
        q = _backup(mdp, value, discount)
        better = temperature * (q / temperature).logsumexp(1).masked_fill(mdp.terminal, 0.0)
        policy = (q / temperature).softmax(1)
        change = float((better - value).abs().max())
        if not math.isfinite(change):
            raise ValueError("rewards must be finite, and so must be their sums")
        if change <= tolerance * max(1.0, float(value.abs().max())):
            return Plan(policy, q, better)
        entropy = torch.special.entr(policy).sum(1, keepdim=True)
        paid = mdp._replace(reward=mdp.reward + temperature * entropy)
        value = evaluate_policy(paid, policy, discount=discount)


def evaluate_policy(mdp: MDP, policy: Tensor, *, discount: float) -> Tensor:
    """V of a stationary policy (S, A), by solving the linear system, with shape (S,)."""
    _check_discount(discount)
    chain = (policy[..., None] * mdp.transition).sum(1)
    chain = chain.masked_fill(mdp.terminal[:, None], 0.0)  # nothing is earned after the end
    earned = (policy * mdp.reward).sum(1).masked_fill(mdp.terminal, 0.0)
    eye = torch.eye(len(chain), dtype=chain.dtype)
    value: Tensor = torch.linalg.solve(eye - discount * chain, earned)
    return value


def expected_return(
    mdp: MDP, policy: Tensor, *, discount: float = 1.0, horizon: int, temperature: float = 0.0
) -> Tensor:
    """The sum of rewards, and of entropies if they count; differentiable in `policy`.

    J(pi) = E[sum over t < horizon of discount^t (R(s_t, a_t) + temperature H(pi(.|s_t)))]

    An episode that is over has no more entropy.

    Args:
        mdp: the process.
        policy: with shape (S, A), or (horizon, S, A) where it depends on time.
        discount: of the rewards.
        horizon: steps of an episode.
        temperature: of the entropy.
    """
    going = (~mdp.terminal).to(mdp.start.dtype)
    state, total = mdp.start, torch.zeros((), dtype=mdp.start.dtype)
    for t in range(horizon):
        pi = policy if policy.ndim == 2 else policy[t]
        acting = state[:, None] * pi
        earned = (acting * mdp.reward).sum()
        if temperature > 0.0:  # the slope of an entropy at a probability of 0 is infinite
            earned = earned + temperature * (state * going) @ torch.special.entr(pi).sum(1)
        total = total + discount**t * earned
        state = torch.einsum("sa,saz->z", acting, mdp.transition)
    return total


def visits(mdp: MDP, policy: Tensor, *, horizon: int) -> Tensor:
    """p(s_t = s), with shape (horizon + 1, S), ended episodes in their terminal state."""
    states = [mdp.start]
    for t in range(horizon):
        acting = states[-1][:, None] * (policy if policy.ndim == 2 else policy[t])
        states.append(torch.einsum("sa,saz->z", acting, mdp.transition))
    return torch.stack(states)


def occupancy(mdp: MDP, policy: Tensor, *, discount: float) -> Tensor:
    """The discounted share of time in each (s, a), with shape (S, A), summing to one.

    rho(s, a) = (1 - discount) sum over t of discount^t p(s_t = s) pi(a|s); an ended episode stays
    in its terminal state.
    """
    _check_discount(discount)
    chain = (policy[..., None] * mdp.transition).sum(1)
    eye = torch.eye(len(chain), dtype=chain.dtype)
    states: Tensor = torch.linalg.solve(eye - discount * chain.T, (1.0 - discount) * mdp.start)
    return states[:, None] * policy


def stationary(mdp: MDP, policy: Tensor, *, restart: float = 0.0) -> Tensor:
    """The long-run share of time in each state, where each step restarts with a probability."""
    chain = (policy[..., None] * mdp.transition).sum(1)
    chain = (1.0 - restart) * chain + restart * mdp.start[None]
    eye = torch.eye(len(chain), dtype=chain.dtype)
    system = torch.cat([eye - chain.T, torch.ones_like(mdp.start)[None]])
    target = torch.cat([torch.zeros_like(mdp.start), torch.ones(1, dtype=chain.dtype)])
    share: Tensor = torch.linalg.lstsq(system, target[:, None]).solution.squeeze(1)
    return share


def _backup(mdp: MDP, value: Tensor, discount: float) -> Tensor:
    q = mdp.reward + discount * mdp.transition @ value
    return q.masked_fill(mdp.terminal[:, None], 0.0)


def _check_discount(discount: float) -> None:
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"'discount' must be at least 0 and below 1, got {discount}")


@torch.no_grad()
def cross_entropy(
    worth: Callable[[Tensor], Tensor],
    count: int,
    *,
    horizon: int,
    actions: int,
    candidates: int = 128,
    elites: int = 16,
    rounds: int = 4,
    smoothing: float = 0.1,
) -> Tensor:
    """The cross-entropy method over sequences of discrete actions, for several problems at once.

    Each time of each problem has a distribution over actions. A round draws plans, keeps the best,
    and takes the actions' shares among them, so a step whose action makes no difference stays
    undecided. In the end the last elites and the best plan so far are tried again, each as often as
    a round has room for: where worth is left to chance, the best of many was mostly lucky.

    References:
        Reuven Rubinstein. The Cross-Entropy Method for Combinatorial and Continuous Optimization,
        1999. https://doi.org/10.1023/A:1010091220143

    Args:
        worth: plans (count, n, horizon) -> what each is worth, (count, n); may be noisy.
        count: of problems.
        horizon: actions in a plan.
        actions: how many there are.
        candidates: plans in a round.
        elites: how many are kept.
        rounds: of drawing and choosing.
        smoothing: share of the uniform distribution in what the next round draws from.

    Returns:
        For each problem the plan that did best when tried again, (count, horizon); without noise
        it is the best that was drawn.

    Example:
        >>> import torch
        >>> from rlgen.agents.planning import cross_entropy
        >>> ones = lambda plans: (plans == 1).sum(-1).float()
        >>> cross_entropy(ones, 2, horizon=3, actions=2)
        tensor([[1, 1, 1],
                [1, 1, 1]])
    """
    if not 1 <= elites <= candidates:
        raise ValueError(f"'elites' must be from 1 to {candidates}, got {elites}")
    if horizon < 1 or rounds < 1:
        raise ValueError(f"'horizon' and 'rounds' must be positive, got {horizon} and {rounds}")
    shares = torch.full((count, horizon, actions), 1.0 / actions)
    best, record = torch.zeros(count, horizon, dtype=torch.long), torch.full((count,), -math.inf)
    for _ in range(rounds):
        drawn = torch.multinomial(shares.flatten(0, 1), candidates, replacement=True)
        plans = drawn.unflatten(0, (count, horizon)).mT
        value = worth(plans).to(record)
        top = value.topk(elites, dim=1)
        better = top.values[:, 0] > record
        record = torch.where(better, top.values[:, 0], record)
        best[better] = plans[torch.arange(count), top.indices[:, 0]][better]
        kept = plans.gather(1, top.indices[..., None].expand(-1, -1, horizon))
        counted = torch.nn.functional.one_hot(kept, actions).float().mean(1)
        shares = (1.0 - smoothing) * counted + smoothing / actions
    kept[:, -1] = best
    tries = candidates // elites
    again = worth(kept.repeat(1, tries, 1)).unflatten(1, (tries, elites)).mean(1)
    plan: Tensor = kept[torch.arange(count), again.to(kept.device).argmax(1)]
    return plan

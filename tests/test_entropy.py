"""Learning with entropy as a reward: exact gradients by enumeration, and the softly best policy."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.agents import PPO, REINFORCE, TRPO, ActorCritic, Policy, planning
from rlgen.agents.learners.trpo import flat, set_flat
from rlgen.agents.rollout import Rollout
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import MDP
from rlgen.seeding import drawing_from

HORIZON = 3


def slippery() -> OpenWorld:
    """Four cells; the goal is in the corner opposite of the start."""
    return OpenWorld(1, size=2, start=(0, 0), goal=(1, 1), slip=0.3, max_steps=HORIZON, seed=0)


def double_model(world: OpenWorld) -> Any:
    with drawing_from(0):
        policy = Policy.of(world.observation_space, world.action_space, hidden=(8,))
        model = ActorCritic(policy, hidden=(8,))
        for parameter in model.parameters():
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    return model.double()


def everything(model: Any, mdp: MDP) -> tuple[Rollout, Tensor]:
    """Every trajectory of the horizon as a copy of one rollout, and each step's probability.

    The steps after an end have none: they would be of a new episode.
    """
    cells, actions = mdp.reward.shape
    paths = itertools.product(range(cells), repeat=HORIZON)
    plans = itertools.product(range(actions), repeat=HORIZON)
    rows = torch.tensor([(0, *s, *a) for s, a in itertools.product(paths, plans)])
    s, a = rows[:, : HORIZON + 1].T, rows[:, HORIZON + 1 :].T
    eye, first = torch.eye(cells, dtype=torch.float64), torch.zeros(s[:-1].shape, dtype=torch.bool)
    with torch.no_grad():
        pi, values = model.unroll(eye[s[:-1]], torch.zeros(len(rows), 0), first)
        worth = model.critic.unroll(eye[s[1:]], torch.zeros(len(rows), 0), first)
        log_prob = pi.log_prob(a)
    goal = mdp.terminal.long().argmax()
    ended, late = s[1:] == goal, torch.zeros_like(first)
    late[-1] = True
    probability = (log_prob.exp() * mdp.transition[s[:-1], a, s[1:]]).prod(0)
    chances = probability * (s[:-1] != goal)
    reward = (ended & (s[:-1] != goal)).double()
    rollout = Rollout(
        eye[s[:-1]], a, log_prob, values, reward, eye[s[1:]], worth, worth,
        terminated=ended, truncated=late, first=first, state=torch.zeros(len(rows), 0),
    )  # fmt: skip
    return rollout, chances


def expected_estimate(model: Any, world: OpenWorld, temperature: float) -> Tensor:
    """The mean of REINFORCE's gradient over all trajectories, as its step of plain ascent."""
    agent = REINFORCE(
        world, model=model, steps=HORIZON, entropy_weight=0.0, value_weight=0.0, normalise=False,
        discount=1.0, temperature=temperature,
    )  # fmt: skip
    parameters = list(model.policy.parameters())
    agent.optimizer = torch.optim.SGD(parameters, lr=1.0)
    rollout, chances = everything(model, world.mdp())
    batch, _ = agent.earnings.batch(rollout)
    start = flat(parameters).detach().clone()
    # its objective is a mean over steps and copies
    agent.update(replace(batch, advantage=batch.advantage * chances * chances.numel()))
    found = flat(parameters).detach() - start
    set_flat(parameters, start)
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_the_mean_of_all_trajectories_is_the_exact_gradient(temperature: float) -> None:
    """R05: entropies of the future count, that of the present once, and none after an end."""
    world = slippery()
    model, mdp, eye = double_model(world), world.mdp(), torch.eye(4, dtype=torch.float64)
    found = expected_estimate(model, world, temperature)
    pi = model.policy.distribution(eye).probs
    worth = model.critic.unroll(eye[None], torch.zeros(4, 0), torch.ones(1, 4).bool())[0, :, 0]
    left = planning.visits(mdp, pi, horizon=HORIZON)[-1] @ (worth * ~mdp.terminal).detach()
    parameters = list(model.policy.parameters())

    def gradient(objective: Tensor) -> Tensor:
        return flat(torch.autograd.grad(objective, parameters, retain_graph=True))

    plain = planning.expected_return(mdp, pi, horizon=HORIZON)
    soft = planning.expected_return(mdp, pi, horizon=HORIZON, temperature=temperature)
    torch.testing.assert_close(found, gradient(soft + left), rtol=0, atol=1e-9)
    # a bonus for the entropy of the states that happen to be visited is another gradient
    visits = planning.visits(mdp, pi.detach(), horizon=HORIZON)[:-1].sum(0) * ~mdp.terminal
    greedy = plain + temperature * visits @ torch.special.entr(pi).sum(1)
    apart = (found - gradient(greedy + left)).abs().max()
    assert apart < 1e-9 if temperature == 0.0 else apart > 1e-2


LONG, GOAL = 10, 8


def moves(slip: float) -> Tensor:
    """P(s'|s, a) of nine cells in a square: a wrong move is one of the other three."""
    chances = torch.zeros(9, 4, 9, dtype=torch.float64)
    for cell, action, move in itertools.product(range(9), range(4), range(4)):
        row, column = divmod(cell, 3)
        row = min(max(row + (-1, 1, 0, 0)[move], 0), 2)
        column = min(max(column + (0, 0, -1, 1)[move], 0), 2)
        chances[cell, action, 3 * row + column] += 1.0 - slip if move == action else slip / 3
    chances[GOAL] = 0.0  # what ended is nowhere
    return chances


def backwards(
    chances: Tensor, temperature: float, policy: Tensor | None = None, *, future: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """pi_t(a|s), what each action is worth with its own surprise, and V_t(s), first to last.

    None takes the best policy: in proportion to exp(Q / temperature). Without the future, Q holds
    rewards alone, and entropy counts at the present step only.
    """
    reward, ahead = chances[..., GOAL], torch.zeros(9, dtype=torch.float64)
    found = []
    for _ in range(LONG):
        q = reward + chances @ ahead
        pi = (q / temperature).softmax(1) if policy is None else policy
        with_surprise = q - temperature * pi.log()
        value = (pi * with_surprise).sum(1)
        ahead = value if future else (pi * q).sum(1)
        ahead = ahead * (torch.arange(9) != GOAL)
        found.append((pi, with_surprise, value))
    pis, worths, values = map(torch.stack, zip(*reversed(found), strict=True))
    return pis, worths, values


def forwards(chances: Tensor, policies: Tensor) -> Tensor:
    """p(s_t = s) while nothing has ended, with shape (horizon, 9)."""
    state = torch.eye(9, dtype=torch.float64)[0]
    states = []
    for pi in policies:
        states.append(state)
        state = torch.einsum("s,sa,saz->z", state, pi, chances) * (torch.arange(9) != GOAL)
    return torch.stack(states)


def worth_of(chances: Tensor, policies: Tensor, temperature: float) -> float:
    """E[sum of rewards and of entropies], counted from the first step to the last."""
    states = forwards(chances, policies)
    earned = (policies * chances[..., GOAL]).sum(2)
    surprise = -(policies * policies.log()).sum(2)
    return float((states * (earned + temperature * surprise)).sum())


@pytest.mark.parametrize("slip", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_soft_values_of_an_open_world_are_those_of_its_moves(
    slip: float, temperature: float
) -> None:
    """R05: below log p(O) where moves go wrong, and that without slips.

    A policy that leaves out the future's entropy has less.
    """
    world = OpenWorld(1, size=3, start=(0, 0), goal=(2, 2), slip=slip, max_steps=LONG)
    plan = planning.soft_values(world.mdp(), horizon=LONG, temperature=temperature)
    chances, going = moves(slip), torch.arange(9) != GOAL
    policies, _, values = backwards(chances, temperature)
    torch.testing.assert_close(plan.policy[:, going], policies[:, going], rtol=0, atol=1e-9)
    torch.testing.assert_close(plan.value[:, going], values[:, going], rtol=0, atol=1e-9)
    soft = float(plan.value[0, 0])
    assert worth_of(chances, plan.policy, temperature) == pytest.approx(soft, abs=1e-9)
    weight = torch.ones(9, dtype=torch.float64)  # of all that may follow
    for _ in range(LONG):
        optimal = (chances[..., GOAL] / temperature).exp()
        onward = chances @ weight + 1.0 - chances.sum(2)
        weight = torch.where(going, (optimal * onward).sum(1), 1.0)
    evidence = temperature * float(weight[0].log())
    assert soft == pytest.approx(evidence, abs=1e-9) if slip == 0.0 else soft < evidence - 1e-3
    short, _, _ = backwards(chances, temperature, future=False)
    assert 0.5 * (short - policies)[:, going].abs().sum(2).amax() > 0.1
    assert worth_of(chances, short, temperature) < soft - 0.03


def softly(seed: int, temperature: float) -> tuple[Any, Tensor]:
    """A policy with a number for each state and action, and a step of REINFORCE's ascent."""
    world = OpenWorld(4000, size=3, start=(0, 0), goal=(2, 2), slip=0.1, max_steps=LONG, seed=seed)
    with drawing_from(0):
        policy = Policy.of(world.observation_space, world.action_space, hidden=())
        for weight in policy.parameters():
            torch.nn.init.normal_(weight, std=0.7)
    model: Any = ActorCritic(policy, hidden=())
    for weight in model.critic.parameters():
        weight.data.zero_()
    agent = REINFORCE(
        world, model=model, steps=LONG, entropy_weight=0.0, value_weight=0.0, normalise=False,
        discount=1.0, temperature=temperature,
    )  # fmt: skip
    weights = list(policy.parameters())
    agent.optimizer = torch.optim.SGD(weights, lr=float(LONG))  # its objective is a mean
    before = flat(weights).detach().clone()
    with drawing_from(seed), torch.no_grad():
        rollout = agent.collector.collect(model, LONG)
    batch, _ = agent.earnings.batch(rollout)
    first = rollout.first.long().cumsum(0) == 1  # a second episode would be cut short
    agent.update(replace(batch, advantage=batch.advantage * first))
    step = flat(weights).detach() - before
    set_flat(weights, before)
    return policy, step


def test_the_gradient_with_the_future_s_entropy_is_that_worked_out_backwards() -> None:
    """R05, over many steps: of the exact objective, and of REINFORCE on average."""
    temperature, chances = 0.3, moves(0.1)
    policies, steps = zip(*(softly(seed, temperature) for seed in range(20)), strict=True)
    log_pi = policies[0].distribution(torch.eye(9)).logits
    logits = log_pi.detach().double().requires_grad_()
    pi, both = logits.softmax(1).detach(), []
    for future in (True, False):
        each, worths, values = backwards(chances, temperature, pi, future=future)
        states = forwards(chances, each)
        both.append((states[..., None] * each * (worths - values[..., None])).sum(0))
    mdp = OpenWorld(1, size=3, start=(0, 0), goal=(2, 2), slip=0.1).mdp()
    soft = planning.expected_return(mdp, logits.softmax(1), horizon=LONG, temperature=temperature)
    torch.testing.assert_close(torch.autograd.grad(soft, logits)[0], both[0], rtol=0, atol=1e-10)
    weights = list(policies[0].parameters())
    exact, without = (
        flat(torch.autograd.grad(log_pi, weights, one.float(), retain_graph=True)) for one in both
    )
    found = torch.stack(steps)
    mean, error = found.mean(0), found.std(0) / len(found) ** 0.5
    assert torch.cosine_similarity(mean, exact, dim=0) > 0.99
    assert ((mean - exact).abs() <= 4.5 * error + 1e-5).all()
    assert ((mean - without).abs() > 10.0 * error + 1e-3).any()


def learnt(kind: Any, temperature: float, **options: Any) -> tuple[Tensor, OpenWorld]:
    """What a learner without layers between makes of a world, as pi(a|s) of its cells."""
    world = OpenWorld(128, size=3, goal=(2, 2), slip=0.1, max_steps=50, seed=0)
    with drawing_from(0):
        policy = Policy.of(world.observation_space, world.action_space, hidden=())
        model: Any = ActorCritic(policy, hidden=())
    agent = kind(
        world, model=model, steps=16, discount=0.9, temperature=temperature, seed=0, **options
    )
    for _ in range(_ROUNDS[kind]):
        agent.iterate()
    return model.policy.distribution(torch.eye(9)).probs.detach().double(), world


_ROUNDS = {REINFORCE: 60, PPO: 50, TRPO: 150}
_OPTIONS: dict[Any, dict[str, Any]] = {
    REINFORCE: {"lr": 0.03, "normalise": False, "entropy_weight": 0.0, "trace": 0.9},
    PPO: {"lr": 0.01, "entropy_weight": 0.0},
    TRPO: {},
}


@pytest.mark.parametrize("kind", [REINFORCE, PPO, pytest.param(TRPO, marks=pytest.mark.slow)])
def test_learners_approach_the_softly_best_policy(kind: Any) -> None:
    found, world = learnt(kind, 0.05, **_OPTIONS[kind])
    plan = planning.soft_values(world.mdp(), horizon=300, temperature=0.05, discount=0.9)
    going = ~world.mdp().terminal
    distance = 0.5 * (found - plan.policy[0])[going].abs().sum(1)
    away = 0.5 * (plan.policy[0] - 0.25)[going].abs().sum(1)
    assert away.mean() > 0.2  # it is not that nothing had to be learnt
    assert distance.mean() < 0.05 and distance.max() < 0.1


def test_temperatures_are_checked() -> None:
    with pytest.raises(ValueError, match="'temperature' must be at least 0"):
        PPO(FourRooms(1), temperature=-0.1)

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

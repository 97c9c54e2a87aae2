"""L08: the learners' estimator of gradients, for six bits, against the sum over all 64 of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.agents import REINFORCE, ActorCritic, Policy
from rlgen.agents.learners.earnings import Batch
from rlgen.agents.learners.trpo import flat, set_flat
from rlgen.envs.world import Step
from rlgen.generative import heads
from rlgen.seeding import drawing_from
from tests.truth import symbols

COPIES, BATCHES = 1200, 150
Advantage = Callable[[Batch], Tensor]


def score(bits: Tensor) -> Tensor:
    """Ten, and a little that depends on the bits."""
    weights = torch.tensor([0.5, -0.3, 0.2, 0.4, -0.1, 0.3])
    return 10.0 + bits @ weights + bits[..., 0] * bits[..., 1] - 0.5 * bits[..., 2] * bits[..., 5]


class Bits:
    """Episodes of one step: six bits are chosen, and scored."""

    num_envs, device = COPIES, torch.device("cpu")
    observation_space = gymnasium.spaces.Box(1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.MultiBinary(6)

    def reset(self, seed: int | None = None) -> Tensor:
        return torch.ones(COPIES, 1)

    def step(self, action: Tensor) -> Step:
        no, obs = torch.zeros(COPIES, dtype=torch.bool), self.reset()
        return Step(obs, score(action), ~no, no, lambda: obs)


def agent() -> Any:
    """With a critic that expects nothing."""
    with drawing_from(0):
        policy = Policy((6,), head=heads.Bernoulli(), context_shape=(1,), hidden=())
        model: Any = ActorCritic(policy, hidden=())
        torch.nn.init.normal_(policy.net.mlp[0].bias)  # type: ignore[arg-type]
    for parameter in model.critic.parameters():
        parameter.data.zero_()
    return REINFORCE(
        Bits(), model=model, steps=1, entropy_weight=0.0, value_weight=0.0, normalise=False, seed=0
    )


def probabilities(learner: Any) -> tuple[Tensor, Tensor]:
    """All 64 choices, and the policy's probability of each."""
    bits = symbols(6, 2).float()
    return bits, learner.model.policy.log_prob(bits, torch.ones(64, 1)).exp()


def exact(learner: Any) -> Tensor:
    bits, chances = probabilities(learner)
    parameters = list(learner.model.policy.parameters())
    return flat(torch.autograd.grad(chances @ score(bits), parameters))


def best_constant(learner: Any) -> float:
    """E[|g|^2 f] / E[|g|^2], with g the gradient of the log-probability."""
    bits, chances = probabilities(learner)
    parameters = list(learner.model.policy.parameters())
    norms = [flat(torch.autograd.grad(p.log(), parameters, retain_graph=True)) for p in chances]
    weight = chances.detach() * torch.stack(norms).square().sum(1)
    return float((weight * score(bits)).sum() / weight.sum())


def estimates(learner: Any, advantage: Advantage = lambda batch: batch.advantage) -> Tensor:
    """The estimates of as many batches, as REINFORCE's steps of plain gradient ascent."""
    parameters = list(learner.model.policy.parameters())
    learner.optimizer = torch.optim.SGD(parameters, lr=1.0)
    start, found = flat(parameters).detach().clone(), []
    for _ in range(BATCHES):
        batch, _ = learner.earnings.batch(learner.collector.collect(learner.model, 1))
        learner.update(replace(batch, advantage=advantage(batch)))
        found.append(flat(parameters).detach() - start)
        set_flat(parameters, start)
    return torch.stack(found)


def errors(found: Tensor, truth: Tensor) -> Tensor:
    """How many standard errors each coordinate's mean is away."""
    error = found.std(0) / math.sqrt(len(found))
    return (found.mean(0) - truth).abs() / error


def none() -> tuple[Any, Tensor]:
    learner = agent()
    return learner, estimates(learner)


def constant() -> tuple[Any, Tensor]:
    learner = agent()
    learner.model.critic.mlp[0].bias.data.fill_(best_constant(learner))
    return learner, estimates(learner)


def learnt() -> tuple[Any, Tensor]:
    """The critic learns from batches before those that are measured."""
    learner = agent()
    learner.value_weight = 1.0
    learner.optimizer = torch.optim.Adam(learner.model.critic.parameters(), lr=0.3)
    for _ in range(100):
        learner.iterate()
    assert float(learner.model.values(torch.ones(1, 1), torch.zeros(1, 0))[0].detach()) > 9.0
    learner.value_weight = 0.0
    return learner, estimates(learner)


def leave_one_out() -> tuple[Any, Tensor]:
    """Each of eight samples is compared with the mean of the other seven."""

    def advantage(batch: Batch) -> Tensor:
        groups = batch.rollout.reward.reshape(1, -1, 8)
        others = (groups.sum(-1, keepdim=True) - groups) / 7
        return torch.flatten(groups - others)[None]

    learner = agent()
    return learner, estimates(learner, advantage)


@pytest.mark.parametrize("baseline", [none, constant, learnt, leave_one_out])
def test_baselines_leave_the_mean_as_it_is(baseline: Callable[[], tuple[Any, Tensor]]) -> None:
    learner, found = baseline()
    truth = exact(learner)
    assert truth.abs().max() > 0.05
    assert errors(found, truth).max() < 3.0


def test_the_best_constant_cuts_the_variance_by_more_than_five() -> None:
    plain, based = none()[1].var(0).sum(), constant()[1].var(0).sum()
    assert plain > 5.0 * based


def test_a_baseline_that_knows_the_sample_is_found_out() -> None:
    """What must not be done, so that the test of the others is known to tell."""

    def knowing(batch: Batch) -> Tensor:
        knows: Tensor = 10.0 + 0.5 * batch.rollout.action[..., 0]
        return batch.advantage - knows

    learner = agent()
    assert errors(estimates(learner, knowing), exact(learner)).max() > 10.0

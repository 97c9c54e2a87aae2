"""Numbers that are not finite stop a learner, which keeps its weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.agents import PPO, REINFORCE, TRPO, Transitions
from rlgen.agents.exploration import Surprise, TableCounts
from rlgen.envs import FourRooms
from rlgen.generative import Gaussian, NonFiniteLoss
from rlgen.runs import Run

LEARNERS = [REINFORCE, PPO, TRPO]


class Fails(FourRooms):
    """From some step on, its rewards or observations hold one number that is none."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(8, seed=0)
        self.what, self.value, self.left = what, value, 2 * 8

    def step(self, action: Tensor) -> Any:
        step = super().step(action)
        self.left -= 1
        if self.left < 0:
            getattr(step, self.what)[3] = self.value
        return step


class Pays(TableCounts):
    """Counts, and from the third time on pays one step with infinity."""

    times = 0

    def reward(self, t: Transitions) -> Tensor:
        self.times += 1
        reward = super().reward(t)
        reward[5] = math.inf if self.times > 2 else reward[5]
        return reward


def weights(agent: Any) -> list[Tensor]:
    return [tensor.clone() for tensor in agent.model.state_dict().values()]


def assert_stops(agent: Any, reason: str) -> None:
    """Two iterations go well, and the third one leaves no trace in the weights."""
    agent.iterate()
    agent.iterate()
    before = weights(agent)
    name = type(agent).__name__
    with pytest.raises(NonFiniteLoss, match=f"^{name} stopped after 128 steps: {reason}"):
        agent.iterate()
    for ours, theirs in zip(weights(agent), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_stops_the_update(kind: Any, value: float) -> None:
    agent = kind(FourRooms(8, seed=0), steps=8, seed=0)

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * value if agent.iteration == 2 else gradient

    hook = next(agent.model.policy.parameters()).register_hook(spoil)
    assert_stops(agent, "'.*' is not finite")
    hook.remove()
    agent.iterate()
    assert agent.total_steps == 192


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("reward", math.nan, "the world's reward is not finite"),
        ("reward", -math.inf, "the world's reward is not finite"),
        ("obs", math.nan, "the world's observation is not finite"),
    ],
)
def test_a_world_stops_the_update(kind: Any, what: str, value: float, reason: str) -> None:
    assert_stops(kind(Fails(what, value), steps=8, seed=0), reason)


def test_a_reward_model_stops_the_update() -> None:
    agent = PPO(FourRooms(8, seed=0), reward_models={"new": Pays()}, steps=8, seed=0)
    assert_stops(agent, "what the reward model 'new' pays is not finite")


def test_a_reward_model_that_diverges_is_named() -> None:
    model = Gaussian(104)
    agent = PPO(FourRooms(8, seed=0), reward_models={"odd": Surprise(model)}, steps=8, seed=0)
    agent.iterate()
    agent.iterate()
    before = weights(agent)
    next(model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteLoss, match=r"the reward model 'odd': step .* is not finite"):
        agent.iterate()
    assert all(torch.equal(a, b) for a, b in zip(weights(agent), before, strict=True))


def test_a_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, tensorboard=False)
    agent = PPO(Fails("reward", math.nan), steps=8, seed=0)
    with pytest.raises(NonFiniteLoss):
        agent.learn(640, run=run, save_every=1, progress=False)
    again = PPO(FourRooms(8, seed=0), steps=8, seed=0)
    assert run.resume(again) == 128
    assert all(torch.equal(a, b) for a, b in zip(weights(agent), weights(again), strict=True))
    assert again.iterate()["ppo/kl"] < 1.0

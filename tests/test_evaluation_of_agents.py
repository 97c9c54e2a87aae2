"""Evaluation against exact returns, policies with memories in a caller's hands, and checkpoints."""

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rlgen import checkpoint
from rlgen.agents import PPO, REINFORCE, TRPO, ActorCritic, Policy, planning
from rlgen.agents.evaluation import evaluate
from rlgen.agents.exploration import PseudoCounts, TableCounts
from rlgen.agents.rollout import Collector
from rlgen.envs import FourRooms, MiniGrid, OpenWorld, adapters
from rlgen.generative import MADE, Gaussian
from rlgen.seeding import drawing_from

LEARNERS = [REINFORCE, PPO, TRPO]


def walker(world: Any) -> Any:
    """A policy with preferences, mostly down and to the right."""
    with drawing_from(0):
        policy: Any = Policy.of(world.observation_space, world.action_space, hidden=())
        torch.nn.init.normal_(policy.net.mlp[0].weight, std=0.5)
        policy.net.mlp[0].bias.data[[1, 3]] = 0.5
        return ActorCritic(policy, hidden=())


def test_evaluated_returns_are_those_of_the_exact_occupancy() -> None:
    """R03, with episodes of all lengths: those that end soon are not counted more often."""
    world = OpenWorld(400, size=4, start=(1, 0), goal=(3, 3), slip=0.2, max_steps=30)
    model, mdp = walker(world), world.mdp()
    pi = model.policy.distribution(torch.eye(16)).probs.double().detach()
    exact = float(planning.expected_return(mdp, pi, horizon=30))
    length = float((planning.visits(mdp, pi, horizon=30)[:-1] * ~mdp.terminal).sum())
    assert 0.2 < exact < 0.9
    found = evaluate(model, world, 4000, deterministic=False, seed=3)
    assert found["return_error"] == pytest.approx((exact * (1 - exact) / 4000) ** 0.5, rel=0.1)
    assert abs(found["return"] - exact) < 3 * found["return_error"]
    assert found["length"] == pytest.approx(length, rel=0.03)
    assert found["success"] == pytest.approx(found["return"])


def test_discounted_returns_are_those_of_the_exact_occupancy() -> None:
    """R03: J = sum of occupancy times reward / (1 - discount)."""
    world = OpenWorld(4000, size=4, start=(1, 0), goal=(3, 3), slip=0.2, max_steps=200, seed=0)
    model, mdp = walker(world), world.mdp()
    pi = model.policy.distribution(torch.eye(16)).probs.double().detach()
    exact = float((planning.occupancy(mdp, pi, discount=0.9) * mdp.reward).sum() / 0.1)
    rollout = Collector(world).collect(model, 100)
    first = rollout.done.cumsum(0) - rollout.done.long() == 0
    weight = 0.9 ** torch.arange(100.0)[:, None]
    returns = (weight * rollout.reward * first).sum(0)
    assert abs(float(returns.mean()) - exact) < 3 * float(returns.std()) / 4000**0.5


def test_episodes_are_settled_beforehand() -> None:
    """Three copies of an episode that always lasts five steps, one of them played twice."""
    world = OpenWorld(3, size=4, start=(0, 0), goal=(3, 3), max_steps=5)
    found = evaluate(walker(world), world, 4)
    assert found["length"] == 5.0 and found["success"] == 0.0
    assert evaluate(walker(world), world, 1)["length"] == 5.0
    with pytest.raises(ValueError, match="'episodes' must be positive"):
        evaluate(walker(world), world, 0)


@pytest.mark.parametrize("kind", LEARNERS)
def test_evaluation_disturbs_nothing(kind: Any) -> None:
    def agent() -> Any:
        return kind(FourRooms(8, max_steps=9, seed=0), steps=8, seed=0)

    quiet, asked = agent(), agent()
    first = asked.evaluate(3)
    for learner in (quiet, asked):
        learner.learn(64, progress=False)
    here = asked.evaluate(20, deterministic=False)
    torch.rand(1)
    assert asked.evaluate(20, deterministic=False) == here and first["length"] > 0
    other = asked.evaluate(10, world=FourRooms(2, max_steps=20), seed=1)
    assert other["length"] <= 20
    for learner in (quiet, asked):
        learner.learn(128, progress=False)
    for ours, theirs in zip(quiet.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_world_that_is_learnt_in_is_left_alone() -> None:
    def cart_pole() -> Any:
        same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
        venv = gymnasium.make_vec(
            "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=same_step
        )
        return adapters.from_gymnasium(venv)

    world = cart_pole()
    agent = REINFORCE(world, steps=4, seed=0)
    for given in (None, world):
        with pytest.raises(ValueError, match="give another 'world' to evaluate in"):
            agent.evaluate(2, world=given)
    assert agent.evaluate(2, world=cart_pole())["return"] > 5.0


def test_a_caller_keeps_a_policys_memory() -> None:
    world = MiniGrid("MiniGrid-Empty-5x5-v0", 8, max_steps=6, seed=0)
    policy = Policy.of(world.observation_space, world.action_space, hidden=(), memory=8)
    agent = REINFORCE(world, model=ActorCritic(policy), steps=15, seed=0)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rollout = Collector(world).collect(agent.model, 15)
    pi: Any = agent.model.unroll(rollout.obs, rollout.state, rollout.first)[0]
    state = None
    for obs, first, best in zip(rollout.obs, rollout.first, pi.mode, strict=True):
        action, state = agent.act(obs, state, first)
        assert torch.equal(action, best)
    forgetful = agent.predict(rollout.obs.flatten(0, 1))
    assert not torch.equal(forgetful, pi.mode.flatten())


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_saved_learner_goes_on_as_if_it_had_never_stopped(kind: Any, tmp_path: Path) -> None:
    def parts() -> tuple[Any, Any]:
        world = OpenWorld(8, size=4, start=(0, 0), goal=(3, 3), max_steps=9, seed=0)
        with drawing_from(0):
            model = MADE(16, hidden=(8,))
        bonus = PseudoCounts(model, updates=2, batch_size=16, memory=64)
        return world, {"new": (TableCounts(), 0.1), "rare": bonus}

    world, models = parts()
    half = kind(world, reward_models=models, steps=8, discount=0.9, seed=1)
    half.learn(128, progress=False)
    half.save(tmp_path)
    half.learn(192, progress=False)
    torch.rand(1)
    world, models = parts()
    again = kind.load(tmp_path, world, reward_models=models)
    assert again.earnings.discount == 0.9 and again.total_steps == 128
    again.learn(192, progress=False)
    for ours, theirs in zip(half.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert models["rare"].memory.seen == 320


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    world = FourRooms(4, seed=0)
    model = ActorCritic(Policy.of(world.observation_space, world.action_space, hidden=(4,)))
    PPO(world, model=model, steps=4, seed=0).save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", FourRooms(4)).model.policy.net.mlp[0].out_features == 4
    with pytest.raises(ValueError, match="holds a PPO, not a TRPO"):
        TRPO.load(tmp_path / "agent", world)
    with pytest.raises(ValueError, match="must have 4 copies"):
        PPO.load(tmp_path / "agent", FourRooms(5))
    with pytest.raises(ValueError, match="those it was saved with, none, got new"):
        PPO.load(tmp_path / "agent", FourRooms(4), reward_models={"new": TableCounts()})
    checkpoint.save(Gaussian(2), tmp_path / "model")
    with pytest.raises(ValueError, match="holds a Gaussian, not a learner"):
        PPO.load(tmp_path / "model", world)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", LEARNERS)
def test_learners_are_saved_from_and_loaded_to_an_accelerator(kind: Any, tmp_path: Path) -> None:
    def parts() -> tuple[Any, Any]:
        world = OpenWorld(8, size=4, start=(0, 0), goal=(3, 3), max_steps=9, seed=0, device="cuda")
        with drawing_from(0):
            model = MADE(16, hidden=(8,)).cuda()
        bonus = PseudoCounts(model, updates=2, batch_size=16, memory=64)
        return world, {"new": (TableCounts(), 0.1), "rare": bonus}

    world, models = parts()
    half = kind(world, reward_models=models, steps=8, seed=1).learn(128, progress=False)
    half.save(tmp_path)
    assert half.evaluate(10)["length"] <= 9
    half.learn(128, progress=False)
    world, models = parts()
    again = kind.load(tmp_path, world, reward_models=models).learn(128, progress=False)
    for ours, theirs in zip(half.model.parameters(), again.model.parameters(), strict=True):
        assert ours.is_cuda and torch.equal(ours, theirs)

"""VFunc's policies: the task beside the bound, and what is kept, drawn anew and refused."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlgen.agents import PPO, REINFORCE, ActorCritic, VFunc, planning
from rlgen.agents import policy_measures as pm
from rlgen.agents.anneal import Anneal
from rlgen.agents.exploration import TableCounts
from rlgen.agents.latent import Latent, LatentPolicy
from rlgen.agents.learners.earnings import Batch
from rlgen.agents.variety import Replay, SquaredDistance
from rlgen.envs import OpenWorld
from rlgen.generative import NonFiniteLoss, heads
from rlgen.generative.functions import StandardNormal, UniformSymbols
from rlgen.runs import Run
from rlgen.seeding import drawing_from, mix
from tests.vfuncs import open_world, small


@pytest.mark.parametrize("task", [PPO, REINFORCE])
def test_without_weight_it_is_the_learner_of_the_task_to_the_last_bit(task: Any) -> None:
    agent = small(task=task.__name__.lower(), entropy_weight=0.0, seed=3)
    latent = Latent(open_world(), StandardNormal(3), seed=3)
    with drawing_from(mix(3, 0, 1)):
        model = ActorCritic(LatentPolicy.beside(latent, hidden=(16,)))
    settings = {"minibatch": 32} if task is PPO else {}
    plain = task(latent, model=model, steps=8, seed=3, **settings)
    for learner in (agent, plain):
        learner.learn(4 * 64, progress=False)
    ours, theirs = agent.model.state_dict(), model.state_dict()
    assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("which", [None, 0, 1, 2])
def test_the_gradient_for_the_task_is_that_of_the_return_of_each_z(which: int | None) -> None:
    """R30: each policy's is its own, without bias, as z stays through the episode; so the mean's.

    That of one z is from the episodes with it among those of all.
    """
    world = OpenWorld(4000, size=3, start=(0, 0), max_steps=4, seed=0)
    settings = {"steps": 4, "entropy_weight": 0.0, "value_weight": 0.0, "normalise": False}
    settings |= {"discount": 1.0}
    agent = VFunc(
        world, task="reinforce", prior=UniformSymbols(3), entropy_weight=0.0, hidden=(8,),
        settings=settings,
    )  # fmt: skip
    torch.nn.init.normal_(agent.policy.net.mlp[-1].weight)
    for parameter in agent.model.critic.parameters():
        parameter.data.zero_()
    weights = list(agent.policy.parameters())
    start = [weight.detach().clone() for weight in weights]
    table = agent.policy.given(world.views(), torch.eye(3)).probs.double()
    returns = [planning.expected_return(world.mdp(), one, horizon=4) for one in table]
    aim = sum(returns) / 3 if which is None else returns[which]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(aim, weights)])
    update = agent.task.update

    def of_one(batch: Batch) -> dict[str, float]:
        mine = batch.rollout.obs[..., 9 + (which or 0)]  # a third of all, on average
        return update(dataclasses.replace(batch, advantage=3.0 * mine * batch.advantage))

    if which is not None:
        agent.task.update = of_one  # type: ignore[method-assign]
    agent.task.optimizer = torch.optim.SGD(agent.model.parameters(), lr=1.0)
    found = []
    for _ in range(20):
        agent.iterate()
        step = [w.detach() - s for w, s in zip(weights, start, strict=True)]
        # a mean over four steps, where the return is a sum
        found.append(4.0 * torch.cat([s.flatten() for s in step]))
        for weight, before in zip(weights, start, strict=True):
            weight.data.copy_(before)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(20)
    assert float(torch.cosine_similarity(mean, exact, dim=0)) > 0.99
    assert ((mean - exact).abs() <= 4.0 * error + 1e-6).double().mean() > 0.97


def test_with_weight_the_policies_differ_more() -> None:
    bounds = {}
    for weight in (0.0, 0.5):
        settings = {"lr": 1e-2}
        agent = small(entropy_weight=weight, settings=settings).learn(30 * 64, progress=False)
        bounds[weight] = agent.information_bound()
    assert bounds[0.5] > bounds[0.0] + 0.5
    assert bounds[0.5] <= math.log(8)


def test_z_stays_through_an_episode_and_is_drawn_anew_for_the_next() -> None:
    world = Latent(open_world(64), StandardNormal(3), seed=0)
    obs, ends = world.reset(), 0
    for _ in range(30):
        before = obs[:, -3:].clone()
        step = world.step(torch.randint(4, (64,)))
        assert torch.equal(step.final_obs[:, -3:], before)
        same = (step.obs[:, -3:] == before).all(1)
        assert torch.equal(same, ~step.done)
        obs, ends = step.obs, ends + int(step.done.sum())
    assert ends > 64
    assert float(obs[:, -3:].std()) == pytest.approx(1.0, abs=0.2)


def test_z_of_a_rollout_is_drawn_from_the_prior_and_not_the_same_in_all_copies() -> None:
    world = Latent(open_world(4000), StandardNormal(2), seed=1)
    z = world.reset()[:, -2:]
    assert z.mean(0).abs().max() < 0.06 and (z.T.cov() - torch.eye(2)).abs().max() < 0.1
    assert not torch.equal(world.reset()[:, -2:], z)
    assert torch.equal(world.reset(1)[:, -2:], world.reset(1)[:, -2:])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"encoder": "similarity"},
        {"bound": "maxent"},
        {"bound": "maxent", "encoder": "direct"},
        {"comparison": "all"},
        {"prior": UniformSymbols(5)},
        {"prior": UniformSymbols(5), "bound": "maxent"},
        {"task": "reinforce"},
        {"noise": Anneal(1.0, 0.1, steps=200, geometric=True)},
        {"action_entropy": Anneal(0.1, 0.0, steps=200)},
    ],
    ids=str,
)
def test_it_learns_saves_and_goes_on_the_same(kwargs: dict[str, Any], tmp_path: Path) -> None:
    agent = small(**kwargs).learn(2 * 64, progress=False)
    agent.save(tmp_path / "agent")
    again = VFunc.load(tmp_path / "agent", open_world())
    assert noise_of(agent) == noise_of(again)
    assert agent.information_bound(2) == again.information_bound(2)
    for one in (agent, again):
        metrics = one.iterate()
        assert math.isfinite(metrics["vfunc/information"])
    ours, theirs = agent.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert agent.information_bound(4) == again.information_bound(4)


def noise_of(agent: VFunc) -> tuple[float, ...]:
    """All that may change along training, as numbers."""
    functions, encoder = agent.variety.functions, agent.variety.encoder
    assert isinstance(functions.head, heads.FixedNormal)
    scale = encoder.scale if isinstance(encoder, SquaredDistance) else 0.0
    return functions.head.scale, scale, functions.noise_entropy, agent.task.entropy_weight


def test_what_is_annealed_follows_the_steps_that_were_taken() -> None:
    """From the first step to the last, everywhere that it is used."""
    fall = Anneal(1.0, 0.25, steps=256, geometric=True)
    agent = small(noise=fall, action_entropy=Anneal(0.2, 0.0, steps=128))
    numbers = math.prod(agent.variety.functions.event_shape)
    for steps, scale, weight in ((0, 1.0, 0.2), (64, 0.5**0.5, 0.1), (256, 0.25, 0.0)):
        while agent.total_steps < steps:
            agent.iterate()
        entropy = numbers * (0.5 * math.log(2.0 * math.pi * math.e) + math.log(scale))
        assert agent.total_steps == steps
        assert noise_of(agent) == pytest.approx((scale, scale, entropy, weight))


def test_z_owes_nothing_to_the_noise_of_the_learner() -> None:
    """Of whom each iteration draws with a seed of the agent's seed and its number."""
    for seed in range(3):
        world = Latent(open_world(), StandardNormal(3), seed=seed)
        drawn = [world.z, *(world.reset()[:, -3:] for _ in range(8))]
        for iteration in range(12):
            with drawing_from(mix(seed, iteration)):
                noise = torch.randn(8, 3)
            assert all(not torch.equal(z, noise) for z in drawn)


def test_an_encoder_that_learns_does_so_with_the_policy() -> None:
    agent = small(encoder="similarity", entropy_weight=0.5)
    before = copy.deepcopy(agent.variety.encoder.state_dict())
    agent.learn(64, progress=False)
    after = agent.variety.encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_stopped_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    whole = small().learn(6 * 64, progress=False)
    for _ in range(2):
        agent = small()
        stop = (lambda steps, _: steps >= 3 * 64) if not (tmp_path / "run").exists() else None
        agent.learn(6 * 64, progress=False, run=Run(tmp_path / "run", {}), callback=stop)
    ours, theirs = whole.model.state_dict(), agent.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_replay_buffer_keeps_the_latest() -> None:
    replay = Replay(5)
    for first in (0, 3, 6):
        replay.note(torch.arange(first, first + 3).float()[:, None])
    assert replay.kept is not None
    assert sorted(replay.kept.flatten().tolist()) == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert replay.draw(100).unique().tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]


def test_the_entropy_bound_adds_the_entropy_of_the_noise() -> None:
    agent = small(noise=0.5).learn(64, progress=False)
    noise = 4 * 4 * 0.5 * math.log(2 * math.pi * math.e * 0.25)  # points times actions
    assert agent.entropy_bound(4) == pytest.approx(agent.information_bound(4) + noise, abs=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "trpo"}, "'task' must be one of ppo, reinforce, got 'trpo'"),
        ({"bound": "x"}, "'bound' must be one of"),
        ({"encoder": "x"}, "'encoder' must be one of"),
        ({"comparison": "x"}, "'comparison' must be one of"),
        ({"bound": "maxent", "encoder": "likelihood"}, "must give a distribution over z"),
        ({"entropy_weight": -1.0}, "'entropy_weight' must be at least 0"),
        (
            {"prior": UniformSymbols(3), "encoder": "difference"},
            "needs a StandardNormal, got UniformSymbols",
        ),
        ({"candidates": 1}, "'candidates' must be at least 2, got 1"),
        ({"points": 0}, "'points' must be positive, got 0"),
        *(
            ({"noise": noise}, "'noise' must be positive and finite, got")
            for noise in (0.0, math.nan, math.inf, Anneal(0.5, 0.0, steps=9))
        ),
        ({"capacity": 0}, "'capacity' must be positive, got 0"),
        ({"settings": {"seed": 1}}, "'settings' must not hold seed"),
    ],
)
def test_mistakes_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_it_stops_where_the_bound_is_not_finite() -> None:
    agent = small()
    agent.task.beside = lambda: agent.policy.net.mlp[0].weight.sum() * math.nan
    with pytest.raises(NonFiniteLoss):
        agent.learn(64, progress=False)


def test_all_states_are_those_that_are_acted_in() -> None:
    agent = small(comparison="all")
    assert agent.variety.points == 8  # of nine cells, one is the goal
    always = agent.variety.replay.always
    assert always is not None and torch.equal(always, open_world().views()[:8])
    nowhere = VFunc(OpenWorld(4, size=3, goal="none", seed=0), comparison="all", latent=2)
    assert nowhere.variety.points == 9


@pytest.mark.slow
def test_it_learns_most_of_the_shortest_paths_of_an_open_world() -> None:
    world = OpenWorld(128, size=5, start=(0, 0), max_steps=50, seed=0)
    settings = {"steps": 16, "entropy_weight": 0.0, "discount": 0.95, "lr": 5e-3}
    agent = VFunc(world, settings=settings, entropy_weight=0.05, seed=0)
    agent.learn(160_000, progress=False)
    one = OpenWorld(1, size=5, start=(0, 0), max_steps=50)
    found = pm.variety(one, agent.sample_policies(500, generator=1).table(one))
    assert found.success >= 0.98 and found.length <= 1.02
    assert found.distinct >= 50 and found.entropy >= 3.5 and found.agree >= 0.6
    assert found.given < 1.5
    assert 1.0 < agent.information_bound() < math.log(128)


def test_a_bonus_counts_what_the_world_shows_whoever_was_there(tmp_path: Path) -> None:
    """With z behind an observation, each would be new."""

    def bonus() -> dict[str, Any]:
        return {"new": (TableCounts(), 0.1)}

    world = OpenWorld(8, size=3, start=(0, 0), max_steps=9, seed=0)
    models = bonus()
    agent = VFunc(world, settings={"steps": 8}, latent=3, reward_models=models, seed=1)
    agent.learn(8 * 8 * 4, progress=False)
    assert 2 <= len(models["new"][0].table.keys) <= 9
    agent.save(tmp_path)
    again = VFunc.load(tmp_path, world, reward_models=bonus())
    assert torch.equal(
        again.earnings.streams["new"].model.state_dict()["counts"], models["new"][0].table.counts
    )

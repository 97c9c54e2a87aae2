"""Policies drawn from VFunc, one by one and all together: what they do and what they earn."""

import math

import pytest
import torch

from rlgen.agents import VFunc
from rlgen.agents import policy_measures as pm
from rlgen.envs import FourRooms
from tests.vfuncs import open_world, small


def test_predictions_are_of_the_policies_that_are_asked_for() -> None:
    world = open_world(9)
    agent = small(world)
    torch.nn.init.normal_(agent.policy.net.mlp[-1].weight)
    z, obs = torch.randn(9, 3), world.views()
    chosen = agent.policies_of(z)(obs).probs  # (9 policies, 9 states, 4)
    each = agent.predict(obs, z=z)
    assert torch.equal(each, chosen.argmax(2).diagonal())
    assert torch.equal(agent.predict(obs, z=z[2]), chosen[2].argmax(1))
    action, state = agent.act(obs, z)
    assert torch.equal(action, each) and torch.equal(state, z)
    _, state = agent.act(obs, z, torch.arange(9) < 4)
    assert torch.equal(state[4:], z[4:]) and not (state[:4] == z[:4]).any()
    assert len(state[:4].unique(dim=0)) == 4


def divided() -> VFunc:
    """Where the first number of z is above 0.5 a policy goes up for ever; else it arrives."""
    agent = small()
    for layer in (first := agent.policy.net.mlp[0], last := agent.policy.net.mlp[-1]):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    first.weight.data[0, 9] = 2.0  # of z
    first.weight.data[1, 6:9] = 1.0  # in the last row
    last.weight.data[0, 0], last.bias.data[1] = 3.0, 3.0  # up, down
    last.weight.data[[1, 3], 1] = torch.tensor([-3.0, 3.0])  # right instead
    return agent


SHARE = 0.5 * (1.0 + math.erf(0.5 / math.sqrt(2.0)))  # of z below 0.5


def test_who_names_no_z_is_given_one_of_its_own() -> None:
    agent, obs = divided(), open_world().views()[:1].expand(2000, -1)
    action, state = agent.act(obs)
    assert len(state.unique(dim=0)) == 2000
    assert torch.equal(action, (state[:, 0] < 0.5).long())
    for actions in (action, agent.predict(obs)):
        assert float(actions.double().mean()) == pytest.approx(SHARE, abs=4 * 0.5 / 2000**0.5)


def test_evaluation_is_over_all_policies() -> None:
    """One policy alone would arrive always, as that of z = 0 does, or never."""
    agent = divided()
    assert agent.policies_of(torch.zeros(8, 3)).played(open_world()).all()
    for world in (None, open_world(4)):
        found = agent.evaluate(800, world=world)["success"]
        assert found == pytest.approx(SHARE, abs=4 * 0.5 / 800**0.5)


def test_drawn_policies_are_repeatable_and_lie_on_lines() -> None:
    agent = small()
    assert torch.equal(
        agent.sample_policies(4, generator=1).z, agent.sample_policies(4, generator=1).z
    )
    line = agent.sample_policies(2, generator=1).between(3)
    torch.testing.assert_close(line.z[1], (line.z[0] + line.z[2]) / 2)
    table = line.table(open_world())
    torch.testing.assert_close(table.sum(2), torch.ones(3, 9))


def test_evaluation_takes_any_world_and_leaves_the_learner_as_it_is() -> None:
    agent, other = small(), small()
    agent.learn(64, progress=False), other.learn(64, progress=False)
    assert 0.0 <= agent.evaluate(20)["success"] <= 1.0
    assert 0.0 <= agent.evaluate(20, world=open_world(4))["success"] <= 1.0
    agent.iterate(), other.iterate()
    ours, theirs = agent.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_pictures_are_seen_flat() -> None:
    world = FourRooms(4, start=(1, 1), observation="image", seed=0)
    agent = VFunc(world, settings={"steps": 4}, points=4, candidates=4)
    agent.learn(16, progress=False)
    assert agent.predict(world.reset()).shape == (4,)


def test_policies_that_still_arrive_are_found_by_playing() -> None:
    """Returns are those of a walk through the blocked world, policy by policy."""
    agent = small(entropy_weight=0.2, settings={"lr": 1e-2, "entropy_weight": 0.0})
    agent.learn(60 * 64, progress=False)
    policies = agent.sample_policies(64, generator=0)
    one = open_world(1).blocked((1, 1))
    played = policies.played(open_world(64).blocked((1, 1)), 2)
    arrive = pm.greedy(one, policies.table(one)).reached
    assert torch.equal(played > 0, arrive[:, None].expand(-1, 2))
    fit = policies.arriving(open_world(64).blocked((1, 1)), 2)
    assert 0 < len(fit) < 64 and torch.equal(fit.z, policies.z[arrive])
    assert bool((fit.played(open_world(len(fit)).blocked((1, 1))) > 0).all())
    assert len(policies.arriving(open_world(64), least=1.0)) == 0
    with pytest.raises(ValueError, match="'episodes' must be positive"):
        policies.played(open_world(64), 0)
    with pytest.raises(ValueError, match="must have 64 copies, got 8"):
        policies.played(open_world())


def test_a_policy_that_is_undecided_plays_by_its_mode_or_by_samples() -> None:
    """The mode of one earns the same each time; its samples earn what is expected."""
    agent = small()
    torch.nn.init.normal_(agent.policy.net.mlp[-1].weight, std=0.1)
    policies = agent.policies_of(torch.zeros(1, 3).expand(400, 3))
    certain = policies.played(open_world(400), 2)
    assert torch.equal(certain, certain[:1, :1].expand_as(certain))
    sampled = policies.played(open_world(400), 2, deterministic=False)
    one = open_world(1)
    expected = float(pm.returns(one, policies.table(one)[:1]))
    assert 0.1 < expected < 0.9
    assert float(sampled.mean()) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(800))
    lucky = policies.arriving(open_world(400), deterministic=False)
    assert len(lucky) == int((policies.played(open_world(400), deterministic=False) > 0).sum())


def test_those_that_arrive_more_often_come_first() -> None:
    policies = divided().sample_policies(60, generator=0)
    earned = policies.played(open_world(60), 4, deterministic=False).mean(1).tolist()
    assert len(set(earned)) == 5  # from never to four times
    ranked = policies.arriving(open_world(60), 4, least=-1.0, deterministic=False)
    order = sorted(range(60), key=lambda i: -earned[i])
    assert torch.equal(ranked.z, policies.z[order])


def test_a_world_in_use_is_not_judged_in_and_z_has_one_shape() -> None:
    agent = small()
    agent.learn(64, progress=False)
    for world in (agent.world, agent.given_world, agent.latent_world.world):
        with pytest.raises(ValueError, match="own is in use"):
            agent.evaluate(8, world=world)
    agent.learn(64, progress=False)
    obs = open_world().views()
    for z in (torch.zeros(2), torch.zeros(9, 2), torch.zeros(1, 3), torch.zeros(())):
        with pytest.raises(ValueError, match=r"'z' must have shape \(3,\) or \(9, 3\)"):
            agent.predict(obs, z=z)
    for z in (torch.zeros(3), torch.zeros(4, 2), torch.zeros(()), torch.zeros(3, 3, 3)):
        with pytest.raises(ValueError, match=r"'z' must have shape \(n, 3\)"):
            agent.policies_of(z)

"""AIRL: the logit's form, shaping that changes nothing, and the reward that is left."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlgen.agents import PPO, Policy, RewardModel, Transitions
from rlgen.agents.imitation import AIRL, Demonstrations
from rlgen.envs import OpenWorld
from tests.shown import (
    KINDS,
    Kind,
    at_end,
    by_counts,
    onehot_spaces,
    single_steps,
    steps,
    walks_of_expert,
)
from tests.walks import copied, same

LogProb = Callable[[Tensor, Tensor], Tensor]
DISCOUNT = 0.9
CELLS = 6


def uniform(action: Tensor, obs: Tensor) -> Tensor:
    return torch.full((len(obs),), -1.3863, dtype=torch.float32)


def uneven(action: Tensor, obs: Tensor) -> Tensor:
    """Of four actions, of which the later ones are likelier, the more so the later the cell."""
    cell = obs.flatten(1).argmax(1)
    table = torch.log_softmax(torch.arange(4.0) * (1 + cell[:, None]) / 4, 1)
    return table.gather(1, action[:, None]).squeeze(1)


def shown() -> Demonstrations:
    g = torch.Generator().manual_seed(0)
    obs, after = (torch.eye(CELLS)[torch.randint(CELLS, (64,), generator=g)] for _ in range(2))
    return single_steps(obs, torch.randint(4, (64,), generator=g), after=after)


def airl_of(log_prob: LogProb = uniform, **options: Any) -> AIRL:
    given = {"discount": DISCOUNT, "lr": 1e-3, "updates": 4, "batch_size": 64, **options}
    return AIRL(shown(), *onehot_spaces(CELLS, 4), log_prob=log_prob, **given)


def every_step(action: int = 0) -> Transitions:
    """From each cell to each cell, (CELLS * CELLS) steps."""
    cells = torch.eye(CELLS)
    obs, after = cells.repeat_interleave(CELLS, 0), cells.repeat(CELLS, 1)
    return steps(obs, torch.full((len(obs),), action), after=after)


def some_steps(seed: int = 1) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    obs, after = (torch.eye(CELLS)[torch.randint(3, (64,), generator=g)] for _ in range(2))
    return steps(obs, torch.randint(4, (64,), generator=g), after=after)


def trained(log_prob: LogProb = uniform, **options: Any) -> AIRL:
    airl = airl_of(log_prob, **options)
    for seed in range(10):
        airl.update(some_steps(seed))
    return airl


def test_pay_is_f_less_the_policys_log_probability() -> None:
    """With one f and two policies, pay differs by just what the policies do."""
    one, other = airl_of(uniform), airl_of(uneven)
    assert isinstance(one, RewardModel)
    for seed in range(3):
        t = some_steps(seed)
        f = one.reward(t) + uniform(t.action, t.obs)
        torch.testing.assert_close(other.reward(t) + uneven(t.action, t.obs), f)
    first = trained(uneven)
    again = airl_of(lambda action, obs: torch.zeros(len(obs)))
    again.load_state_dict(copied(first.state_dict()))
    t = every_step(2)
    torch.testing.assert_close(first.reward(t) + uneven(t.action, t.obs), again.reward(t))


def test_f_is_a_reward_of_the_state_and_a_shaping() -> None:
    """f(s, s') = g(s') + discount h(s') - h(s), with h found where a step leads nowhere.

    On a closed loop the discounted sum of f is then that of g, but for (discount^T - 1) h of
    where it begins, whatever lies between.
    """
    airl = trained(uneven)
    g = airl.learnt().reward(every_step()).reshape(CELLS, CELLS)
    assert torch.equal(g, g[:1].expand(CELLS, CELLS)) and g[0].std() > 0
    tables = []
    for action in range(4):
        t = every_step(action)
        tables.append((airl.reward(t) + uneven(t.action, t.obs)).reshape(CELLS, CELLS))
    for table in tables[1:]:  # what was done does not matter
        torch.testing.assert_close(table, tables[0], rtol=1e-4, atol=1e-4)
    shaping = tables[0] - g
    h = shaping.diagonal() / (DISCOUNT - 1)
    assert h.std() > 1e-3
    expected = DISCOUNT * h[None] - h[:, None]
    torch.testing.assert_close(shaping, expected, rtol=1e-3, atol=1e-3)
    for loop in ([0, 3, 1, 0], [0, 5, 0], [0, 0], [0, 1, 2, 3, 4, 5, 0]):
        pairs = list(itertools.pairwise(loop))
        ours = sum(DISCOUNT**k * float(shaping[a, b]) for k, (a, b) in enumerate(pairs))
        assert ours == pytest.approx(float((DISCOUNT ** len(pairs) - 1) * h[0]), abs=2e-3)


def test_shaping_changes_no_preference_between_ways_to_end() -> None:
    """A terminated step has no h of what follows, or ends of one kind would be favoured."""
    airl = trained(uniform)
    going, ended = every_step(), at_end(every_step(), terminated=True)

    def shaping(t: Transitions) -> Tensor:
        f = airl.reward(t) + uniform(t.action, t.obs)
        return (f - airl.learnt().reward(t)).reshape(CELLS, CELLS)

    h = shaping(going).diagonal() / (DISCOUNT - 1)
    left = shaping(ended) + h[:, None]
    torch.testing.assert_close(left, left[:1, :1].expand(CELLS, CELLS), rtol=1e-3, atol=1e-3)


def test_the_trained_logit_is_the_log_ratio() -> None:
    """Where f can be it: rho_E / rho_pi is a product of parts for s and s', and a = s'."""
    expert = torch.tensor([[56, 14], [24, 6]])  # (.7, .3) of the places times (.8, .2)
    novice = torch.tensor([[250, 250], [250, 250]])
    obs, action = by_counts(expert)
    airl = AIRL(
        single_steps(obs, action, after=torch.eye(2)[action]),
        *onehot_spaces(2, 2),
        log_prob=lambda action, obs: torch.full((len(obs),), -0.6931),
        discount=DISCOUNT,
        penalty=0.0,
        lr=2e-3,
        updates=50,
        batch_size=500,
    )
    obs, action = by_counts(novice)
    t = steps(obs, action, after=torch.eye(2)[action])
    for _ in range(30):
        airl.update(t)
    found = torch.zeros(4)
    action = torch.tensor([0, 1, 0, 1])
    probe = steps(torch.eye(2).repeat_interleave(2, 0), action, after=torch.eye(2)[action])
    for _ in range(5):
        airl.update(t)
        found += airl.reward(probe) / 5
    exact = (expert / 100 * 4).log().flatten()
    torch.testing.assert_close(found, exact, rtol=0, atol=0.25)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_learns_to_tell_whatever_the_form(kind: Kind) -> None:
    """By what is seen alone; what is done is the policy's part."""
    if kind.name in ("box", "unbounded"):
        kind = replace(kind, expert=shifted(kind.expert, 1.5), novice=shifted(kind.novice, -1.5))
    airl = AIRL(
        kind.shown(),
        *kind.spaces,
        log_prob=lambda action, obs: torch.zeros(len(obs)),
        discount=DISCOUNT,
        lr=1e-3,
        updates=10,
        batch_size=64,
    )
    for _ in range(15):
        metrics = airl.update(kind.done())
    assert metrics["accuracy"] > 0.9
    high = airl.reward(kind.shown().transitions())
    low = airl.reward(kind.done(seed=2))
    assert torch.isfinite(high).all() and high.shape == (64,) and high.dtype == torch.float32
    assert high.mean() > low.mean() + 0.3
    paid = airl.learnt().reward(kind.done())
    assert paid.shape == (64,) and torch.isfinite(paid).all()


def shifted(draw: Any, shift: float) -> Any:
    def moved(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        obs, action = draw(n, g)
        return obs + shift, action

    return moved


def test_what_was_learnt_stays() -> None:
    airl, t = trained(), some_steps()
    learnt = airl.learnt()
    assert isinstance(learnt, RewardModel)
    before, held = learnt.reward(t), copied(learnt.state_dict())
    assert not before.requires_grad
    for seed in range(3):
        airl.update(some_steps(seed))
    assert torch.equal(before, learnt.reward(t)), "it goes on learning with AIRL"
    assert not torch.equal(before, airl.learnt().reward(t))
    state = copied(airl.state_dict())
    learnt.update(t)
    assert torch.equal(before, learnt.reward(t)) and same(held, learnt.state_dict())
    assert same(state, airl.state_dict())
    other = airl_of(seed=5).learnt()
    other.load_state_dict(held)
    assert torch.equal(before, other.reward(t))
    moved = replace(t, obs=t.obs.roll(1, 0), action=(t.action + 1) % 4)
    assert torch.equal(before, learnt.reward(moved))
    elsewhere = replace(t, next_obs=torch.eye(CELLS)[[5]].expand(64, -1))
    assert not torch.equal(before, learnt.reward(elsewhere))


def test_pay_is_pure_and_learning_leaves_the_policy_alone() -> None:
    policy = Policy.of(*onehot_spaces(CELLS, 4))
    airl = airl_of(policy.log_prob)
    t = some_steps()
    weights, stream = copied(dict(policy.state_dict())), torch.get_rng_state()
    airl.update(t)
    held = copied(airl.state_dict())
    first = airl.reward(t)
    assert torch.equal(first, airl.reward(t)) and not first.requires_grad
    assert same(held, airl.state_dict()) and torch.equal(stream, torch.get_rng_state())
    assert same(weights, dict(policy.state_dict()))
    assert all(p.grad is None for p in policy.parameters())
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(airl.reward(t[order]), first[order])
    torch.testing.assert_close(airl.reward(t[:3]), first[:3])


def test_a_restart_goes_on_as_if_it_had_never_stopped() -> None:
    whole = trained(uneven)
    held, again = copied(whole.state_dict()), airl_of(uneven)
    again.load_state_dict(whole.state_dict())
    assert whole.update(some_steps(20)) == again.update(some_steps(20))
    assert same(whole.state_dict(), again.state_dict()) and not same(held, again.state_dict())
    t = some_steps()
    assert torch.equal(whole.reward(t), again.reward(t))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=rf"(?s)(?=.*\b{CELLS}\b)(?=.*\b9\b)"):
        AIRL(shown(), *onehot_spaces(9, 4), log_prob=uniform, discount=DISCOUNT)
    with pytest.raises(ValueError, match="action"):
        AIRL(shown(), *onehot_spaces(CELLS, 2), log_prob=uniform, discount=DISCOUNT)
    with pytest.raises(ValueError, match="'discount'"):
        airl_of(discount=1.5)
    wide = spaces.Box(0, 255, (CELLS,), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        AIRL(shown(), wide, spaces.Discrete(4), log_prob=uniform, discount=DISCOUNT)


@pytest.mark.slow
def test_the_reward_that_is_left_teaches_again() -> None:
    """Learnt with one policy, it brings another one, which never saw the expert, to the goal."""
    demonstrations = walks_of_expert(OpenWorld(1, size=5, seed=0), 32)
    world = OpenWorld(64, size=5, max_steps=40, seed=0)
    made: list[PPO] = []

    def log_prob(action: Tensor, obs: Tensor) -> Tensor:
        return made[0].model.policy.log_prob(action, obs)

    airl = AIRL(
        demonstrations,
        world.observation_space,
        world.action_space,
        log_prob=log_prob,
        discount=0.95,
    )
    made.append(PPO(world, steps=32, discount=0.95, reward_models={"airl": airl}, world_weight=0.0))
    made[0].learn(60 * 64 * 32, progress=False)
    there = OpenWorld(64, size=5, max_steps=40)
    found = made[0].evaluate(400, world=there, deterministic=False)
    assert found["success"] >= 0.95, found
    fresh = OpenWorld(64, size=5, max_steps=40, seed=1)
    again = PPO(
        fresh,
        steps=32,
        discount=0.95,
        reward_models={"learnt": airl.learnt()},
        world_weight=0.0,
        seed=1,
    ).learn(60 * 64 * 32, progress=False)
    found = again.evaluate(400, world=there, deterministic=False)
    assert found["success"] >= 0.9, found

"""Cloning: maximum likelihood of what an expert did, and nothing else."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlgen.agents import PPO, ActorCritic, Policy, Transitions
from rlgen.agents.imitation import BC, Demonstrations, Trajectory
from rlgen.envs import FourRooms, OpenWorld
from tests.shown import KINDS, Kind, by_counts, onehot_spaces, single_steps, walks_of_expert
from tests.walks import copied, same

# what an expert does in five places, of 40 times each: sure, torn, and all between
COUNTS = torch.tensor([[40, 0, 0], [20, 20, 0], [10, 10, 20], [4, 32, 4], [13, 13, 14]])


def chances(bc: BC, obs: Tensor) -> Tensor:
    return bc.policy.distribution(obs).probs.detach()


def weights(bc: BC) -> dict[str, Any]:
    return copied(dict(bc.policy.state_dict()))


def test_with_all_that_can_be_known_the_policy_is_the_experts() -> None:
    """R07: from exact frequencies, TV(pi, pi_E) < 0.01."""
    bc = BC(single_steps(*by_counts(COUNTS)), *onehot_spaces(5, 3), lr=3e-3)
    assert bc.learn(1500) is bc
    found = torch.zeros(5, 3)
    for _ in range(10):  # the mean over late steps, which differ by the batches drawn
        bc.learn(20)
        found += chances(bc, torch.eye(5)) / 10
    distance = 0.5 * (found - COUNTS / 40).abs().sum(1)
    assert float(distance.mean()) < 0.01 and float(distance.max()) < 0.025, distance


def test_what_an_episode_ends_with_teaches_nothing() -> None:
    """There is nothing that was done in the last observation; it must not matter at all."""
    obs, action = by_counts(COUNTS)
    for terminated in (True, False):
        one = BC(single_steps(obs, action, terminated=terminated), *onehot_spaces(5, 3), seed=0)
        after = torch.eye(5)[torch.arange(len(obs)) % 5]
        other = single_steps(obs, action, terminated=terminated, after=after)
        two = BC(other, *onehot_spaces(5, 3), seed=0)
        assert same(weights(one.learn(30)), weights(two.learn(30)))


def test_every_step_is_learnt_once_and_none_beyond() -> None:
    """Long trajectories and single steps of the same content are the same data."""
    place = torch.tensor([0, 1, 2, 3])
    action = torch.tensor([0, 1, 2, 1])
    seen = torch.eye(5)[torch.cat([place, torch.tensor([4])])]
    long = Demonstrations((Trajectory(seen, action, terminated=True, truncated=False),))
    short = single_steps(torch.eye(5)[place], action)
    one, two = BC(long, *onehot_spaces(5, 3), seed=0), BC(short, *onehot_spaces(5, 3), seed=0)
    assert same(weights(one.learn(30)), weights(two.learn(30)))
    one.learn(300)
    assert torch.equal(one.predict(torch.eye(5)[place]), action)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_clones_whatever_the_form(kind: Kind) -> None:
    shown = kind.shown()
    bc = BC(shown, *kind.spaces, lr=3e-3)
    data = shown.transitions()
    before = bc.policy.log_prob(data.action, data.obs).mean()
    bc.learn(200)
    after = bc.policy.log_prob(data.action, data.obs).mean()
    assert after > before + 0.1
    for deterministic in (True, False):
        action = bc.predict(data.obs, deterministic=deterministic)
        assert action.shape == data.action.shape and torch.isfinite(action.float()).all()
        space = kind.spaces[1]
        if isinstance(space, spaces.Box) and np.isfinite(space.high).all():
            assert float(action.abs().max()) <= 1.0, "within the bounds of the space"
        if isinstance(space, spaces.Discrete):
            assert set(action.tolist()) <= {0, 1, 2, 3}


def test_numbers_that_are_functions_of_what_is_seen_are_found() -> None:
    obs = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    action = torch.stack([obs[:, 0].tanh() / 2, obs[:, 1].sin() / 2], 1)
    real = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    bc = BC(single_steps(obs, action), real, box, lr=3e-3).learn(1000)
    assert float((bc.predict(obs) - action).abs().mean()) < 0.06


def test_actions_stay_within_their_bounds() -> None:
    real, box = spaces.Box(-9.0, 9.0, (3,), np.float32), spaces.Box(-0.5, 2.0, (2,), np.float32)
    obs = torch.randn(64, 3)
    action = torch.tensor([-0.5, 2.0]).expand(64, 2)
    bc = BC(single_steps(obs, action), real, box, lr=3e-3).learn(20)
    for deterministic in (True, False):
        done = bc.predict(obs.repeat(10, 1), deterministic=deterministic)
        assert all(box.contains(row.numpy()) for row in done)
        done, _ = bc.act(obs.repeat(10, 1), deterministic=deterministic)
        assert all(box.contains(row.numpy()) for row in done)


def test_one_pixel_that_moves_is_seen_from_the_start() -> None:
    """Of 507 pixels only the agent's tells what to do, and a clone must not wait on a plateau."""
    world = FourRooms(104, goal="none", observation="image", seed=0)
    world.reset()
    world.load_state_dict({**world.state_dict(), "cell": torch.arange(104)})
    policy = Policy.of(world.observation_space, world.action_space)
    features = policy.net.features(world.observe()).detach()
    assert float((features[1:] - features[:1]).norm(dim=1).min()) > 0.25


def test_dictionaries_of_observations() -> None:
    space = spaces.Dict(
        {"view": spaces.Box(0, 255, (7, 7, 3), np.uint8), "side": spaces.Discrete(4)}
    )
    side = torch.randint(4, (64,))
    seen: Mapping[str, Tensor] = {
        "view": torch.randint(0, 3, (64, 7, 7, 3)).to(torch.uint8),
        "side": side,
    }
    no = torch.zeros(64, dtype=torch.bool)
    flat = Transitions(seen, side, torch.zeros(64), seen, no, no)  # type: ignore[arg-type]
    bc = BC(single_steps(flat.obs, side), space, spaces.Discrete(4), lr=3e-3).learn(300)
    assert torch.equal(bc.predict(seen), side)  # type: ignore[arg-type]
    assert torch.equal(bc.predict(flat.obs), side)


def test_the_mode_and_samples() -> None:
    bc = BC(single_steps(*by_counts(COUNTS)), *onehot_spaces(5, 3), lr=3e-3).learn(1000)
    assert bc.predict(torch.eye(5)[[0, 3]]).tolist() == [0, 1]
    many = torch.eye(5)[[2]].expand(4000, -1)
    assert len(bc.predict(many).unique()) == 1
    sampled = bc.predict(many, deterministic=False)
    share = torch.bincount(sampled, minlength=3) / 4000
    torch.testing.assert_close(share, chances(bc, many[:1])[0], rtol=0, atol=0.04)
    action, state = bc.act(many[:3], None, torch.ones(3, dtype=torch.bool), deterministic=True)
    assert torch.equal(action, bc.predict(many[:3]))
    again, _ = bc.act(many[:3], state, torch.zeros(3, dtype=torch.bool), deterministic=True)
    assert torch.equal(action, again)


def test_seeds_decide_everything_and_the_global_stream_is_left_alone() -> None:
    shown, stream = single_steps(*by_counts(COUNTS)), torch.get_rng_state()

    def learnt(seed: int) -> dict[str, Any]:
        return weights(BC(shown, *onehot_spaces(5, 3), seed=seed).learn(20))

    first = learnt(0)
    assert torch.equal(stream, torch.get_rng_state())
    torch.rand(3)
    assert same(first, learnt(0)) and not same(first, learnt(1))


def test_a_policy_of_ones_own_is_the_one_that_learns() -> None:
    policy = Policy.of(*onehot_spaces(5, 3), hidden=(8,))
    before = copied(dict(policy.state_dict()))
    bc = BC(single_steps(*by_counts(COUNTS)), *onehot_spaces(5, 3), policy=policy)
    assert bc.policy is policy
    bc.learn(10)
    assert not same(before, dict(policy.state_dict()))
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b5\b)(?=.*\b7\b)"):
        BC(
            single_steps(*by_counts(COUNTS)),
            *onehot_spaces(5, 3),
            policy=Policy.of(*onehot_spaces(7, 3)),
        )


@pytest.mark.parametrize("name", ["onehot", "pictures", "box"])
def test_what_is_saved_acts_the_same(name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    bc = BC(kind.shown(), *kind.spaces).learn(20)
    bc.save(tmp_path / "clone")
    stream = torch.get_rng_state()
    again = BC.load(tmp_path / "clone", kind.shown(), *kind.spaces)
    assert torch.equal(stream, torch.get_rng_state())
    obs = kind.done().obs
    assert same(weights(bc), weights(again))
    assert torch.equal(bc.predict(obs), again.predict(obs))
    for one in (bc, again):
        one.learn(20)
    assert same(weights(bc), weights(again)), "it goes on as if it had never stopped"
    with pytest.raises(ValueError, match="no checkpoint"):
        BC.load(tmp_path / "nothing", kind.shown(), *kind.spaces)


def test_it_does_what_the_expert_did_and_warms_up_a_learner() -> None:
    """Shortest ways from anywhere; a learner that begins with the clone has nothing to learn."""
    shown = walks_of_expert(OpenWorld(1, size=5, max_steps=40, seed=0), 60)
    world = OpenWorld(32, size=5, max_steps=40, seed=1)
    bc = BC(shown, world.observation_space, world.action_space, lr=3e-3).learn(600)
    best = float(world.distances().sum()) / 24
    stream = torch.get_rng_state()
    found = bc.evaluate(world, 200)
    assert torch.equal(stream, torch.get_rng_state())
    assert found["success"] == 1.0 and found["length"] == pytest.approx(best, rel=0.15)
    assert found == bc.evaluate(world, 200), "the same episodes again"
    before = weights(bc)
    fresh = OpenWorld(32, size=5, max_steps=40, seed=0)
    agent = PPO(fresh, model=ActorCritic(copy.deepcopy(bc.policy)), steps=16, seed=0)
    assert agent.evaluate(200)["success"] == 1.0
    agent.iterate()
    assert same(before, weights(bc)), "the copy learns, not the clone"
    direct = PPO(fresh, model=ActorCritic(bc.policy), steps=16, seed=0)
    assert direct.evaluate(200, world=world)["success"] == 1.0


def test_what_does_not_fit_is_refused() -> None:
    shown = single_steps(*by_counts(COUNTS))
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b5\b)(?=.*\b6\b)"):
        BC(shown, *onehot_spaces(6, 3))
    with pytest.raises(ValueError, match=r"(?s)(?=.*[Tt]rajectory)(?=.*step)(?=.*action)"):
        BC(shown, *onehot_spaces(5, 2))
    with pytest.raises(ValueError, match=r"(?s)(?=.*uint8)(?=.*float32)"):
        BC(shown, spaces.Box(0, 255, (5,), np.uint8), spaces.Discrete(3))
    obs, action = by_counts(COUNTS)
    obs[7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"(?i)nan|finite|outside"):
        BC(single_steps(obs, action), *onehot_spaces(5, 3))
    for lr in (0.0, -1.0):
        with pytest.raises(ValueError, match="'lr'"):
            BC(shown, *onehot_spaces(5, 3), lr=lr)
    with pytest.raises(ValueError, match="'steps'"):
        BC(shown, *onehot_spaces(5, 3)).learn(-1)

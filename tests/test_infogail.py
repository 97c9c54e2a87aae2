"""Codes of episodes, the posterior that reads them, and what reading them pays."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from rlgen.agents import PPO, Policy, RewardModel, Transitions
from rlgen.agents.imitation import (
    GAIL,
    Coded,
    Demonstrations,
    Expert,
    InfoGAIL,
    Trajectory,
    record,
)
from rlgen.envs import FourRooms, MiniGrid, OpenWorld
from rlgen.envs.world import TensorWorld, World
from rlgen.generative import Wasserstein
from tests.shown import KINDS, by_counts, onehot_spaces, single_steps, steps, walks_of_expert
from tests.walks import copied, same

# --- worlds with codes


def vectors(copies: int = 16, **options: Any) -> TensorWorld[Any]:
    """Ends of both kinds, soon."""
    given = {"size": 3, "max_steps": 5, "seed": 0, **options}
    return OpenWorld(copies, **given)


def pictures(copies: int = 16, **options: Any) -> TensorWorld[Any]:
    given = {"start": (1, 1), "goal": (2, 2), "max_steps": 4, "seed": 0, **options}
    return FourRooms(copies, observation="image", **given)


def read(obs: Tensor, codes: int) -> Tensor:
    """The code that an observation carries: ones in a vector, or constant planes."""
    if obs.ndim == 2:
        part = obs[:, -codes:]
        assert torch.equal(part.sum(1), torch.ones(len(obs)))
        assert torch.equal(part.max(1).values, torch.ones(len(obs)))
        return part.argmax(1)
    planes = obs[:, -codes:].flatten(2)
    assert torch.equal(planes, planes[..., :1].expand_as(planes)), "planes are constant"
    lit = planes[..., 0] > 0
    assert torch.equal(lit.sum(1), torch.ones(len(obs)).long()), "one plane is lit"
    return lit.long().argmax(1)


def played(world: Any, length: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Observations, ends, final observations and codes of random steps."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(length):
        action = torch.randint(4, (world.num_envs,), generator=generator)
        step = world.step(action)
        rows.append((step.obs, step.done, step.final_obs, world.code.clone(), step.reward))
    return rows


@pytest.mark.parametrize("make", [vectors, pictures], ids=["vectors", "pictures"])
@pytest.mark.parametrize("codes", [2, 5])
def test_a_code_lasts_as_long_as_its_episode(make: Any, codes: int) -> None:
    world = Coded(make(), codes, seed=0)
    assert isinstance(world, World)
    obs = world.reset()
    before, changed, kept = world.code.clone(), 0, 0
    assert before.shape == (16,) and torch.equal(read(obs, codes), before)
    for seen, done, final, code, _ in played(world, 60):
        assert torch.equal(read(seen, codes), code)
        assert torch.equal(read(final, codes), before), "an end belongs to the ended episode"
        assert torch.equal(code[~done], before[~done]), "within an episode it stays"
        torch.testing.assert_close(final[~done], seen[~done], rtol=0, atol=0)
        changed += int((code != before)[done].sum())
        kept += int((code == before)[done].sum())
        before = code
    share = changed / (changed + kept)
    assert share == pytest.approx(1 - 1 / codes, abs=4 * 0.5 / math.sqrt(changed + kept))


def test_what_is_seen_late_still_carries_the_old_code() -> None:
    """`final_obs` is worked out when asked for, by then the next steps may have been made."""
    world = Coded(vectors(max_steps=1), 3, seed=0)
    old = read(world.reset(), 3)
    action = torch.zeros(16, dtype=torch.long)
    step = world.step(action)
    for _ in range(5):
        world.step(action)
    assert torch.equal(read(step.final_obs, 3), old)


@pytest.mark.parametrize("make", [vectors, pictures], ids=["vectors", "pictures"])
def test_the_world_beneath_lives_the_same_life(make: Any) -> None:
    world, plain = Coded(make(), 3, seed=7), make()
    assert torch.equal(world.reset()[:, :-3], plain.reset())
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        action = torch.randint(4, (16,), generator=generator)
        ours, theirs = world.step(action), plain.step(action)
        assert torch.equal(ours.obs[:, :-3], theirs.obs)
        assert torch.equal(ours.final_obs[:, :-3], theirs.final_obs)
        assert torch.equal(ours.reward, theirs.reward)
        assert torch.equal(ours.terminated, theirs.terminated)
        assert torch.equal(ours.truncated, theirs.truncated)


def test_spaces_tell_of_the_code() -> None:
    for make in (vectors, pictures):
        plain = make()
        world = Coded(make(), 4, seed=0)
        space = world.observation_space
        assert space.shape == (
            plain.observation_space.shape[0] + 4,
            *plain.observation_space.shape[1:],
        )
        assert space.dtype == plain.observation_space.dtype
        assert world.action_space == plain.action_space
        assert world.num_envs == 16 and world.device == plain.device
        assert all(space.contains(row.numpy()) for row in world.reset())
        assert world.reset().dtype == plain.reset().dtype


def test_pictures_keep_their_convolutions() -> None:
    world = Coded(pictures(), 2, seed=0)
    policy = Policy.of(world.observation_space, world.action_space)
    assert world.observation_space.shape == (5, 13, 13)
    assert policy.net.features.picture
    obs = world.reset()
    other = obs.clone()
    other[:, -2:] = obs[:, -2:].flip(1)
    first, second = policy.distribution(obs).logits, policy.distribution(other).logits
    assert not torch.equal(first, second), "the policy sees the code"


@pytest.mark.parametrize("codes", [2, 5])
def test_codes_are_uniform_and_independent(codes: int) -> None:
    """Of successive episodes and of neighbouring copies."""
    world = Coded(vectors(64, max_steps=1), codes, seed=0)
    world.reset()
    rows = [world.code.clone()]
    action = torch.zeros(64, dtype=torch.long)
    for _ in range(200):
        world.step(action)
        rows.append(world.code.clone())
    code = torch.stack(rows)
    counts = torch.bincount(code.flatten(), minlength=codes)
    assert len(counts) == codes and stats.chisquare(counts).pvalue > 1e-3
    pairs = (code[1:] + codes * code[:-1], code[:, 1:] + codes * code[:, :-1])
    for pair in pairs:
        assert stats.chisquare(torch.bincount(pair.flatten(), minlength=codes**2)).pvalue > 1e-3
    for copy_of in code.T:  # no copy has a code of its own
        assert len(copy_of.unique()) == codes


def test_a_code_may_be_fixed() -> None:
    for code in range(3):
        world = Coded(vectors(), 3, code=code)
        seen = [read(world.reset(), 3)] + [row[3] for row in played(world, 20)]
        assert all(torch.equal(row, torch.full((16,), code)) for row in seen)
    for code in (-1, 3):
        with pytest.raises(ValueError, match="'code'"):
            Coded(vectors(), 3, code=code)
    for codes in (0, -2):
        with pytest.raises(ValueError, match="'codes'"):
            Coded(vectors(), codes)


def test_seeds_decide_the_codes() -> None:
    def codes(seed: int, reset: int | None = None) -> Tensor:
        world = Coded(vectors(), 4, seed=seed)
        world.reset(reset)
        first = world.code.clone()
        return torch.stack([first, *(row[3] for row in played(world, 20))])

    stream = torch.get_rng_state()
    assert torch.equal(codes(0), codes(0)) and not torch.equal(codes(0), codes(1))
    assert torch.equal(codes(0, 3), codes(0, 3)) and not torch.equal(codes(0, 3), codes(0, 4))
    assert torch.equal(stream, torch.get_rng_state())
    world = Coded(vectors(), 4, seed=0)
    first, again = world.reset(5), world.reset(5)  # whatever happened before
    assert torch.equal(first, again)


@pytest.mark.parametrize("make", [vectors, pictures], ids=["vectors", "pictures"])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy"])
def test_coded_worlds_resume_exactly(make: Any, how: str) -> None:
    world: Any = Coded(make(), 3, seed=0)
    world.reset()
    played(world, 7)
    if how == "deepcopy":
        again = copy.deepcopy(world)
    else:
        again = Coded(make(), 3, seed=0)
        again.load_state_dict(copied(world.state_dict()))
    assert torch.equal(again.code, world.code)
    for ours, theirs in zip(played(world, 25, seed=1), played(again, 25, seed=1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_learner_in_a_coded_world_resumes_and_evaluates() -> None:
    def agent() -> PPO:
        return PPO(Coded(vectors(8), 2, seed=0), steps=8, seed=0)

    whole, again = agent().learn(64, progress=False), agent()
    again.load_state_dict(copied(whole.state_dict()))
    assert whole.evaluate(20) == again.evaluate(20)
    for one in (whole, again):
        one.learn(64, progress=False)
    assert same(dict(whole.model.state_dict()), dict(again.model.state_dict()))


def test_symbols_have_no_plane_for_a_code_unless_they_carry_it() -> None:
    """Either they are refused with a reason, or the code can be told from what is seen."""
    plain = MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0)
    try:
        world = Coded(plain, 2, seed=0)
    except ValueError as error:
        assert "7, 7, 3" in str(error) or "Dict" in str(error)
        return
    obs = world.reset()
    assert isinstance(obs, Tensor)
    one = Coded(MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0), 2, code=0).reset()
    two = Coded(MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0), 2, code=1).reset()
    assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- the posterior and its pay

PLACES = 4


def gail_of(**options: Any) -> GAIL:
    counts = torch.full((PLACES, 2), 8)
    given: dict[str, Any] = {"updates": 2, "batch_size": 64, "lr": 1e-3, **options}
    return GAIL(single_steps(*by_counts(counts)), *onehot_spaces(PLACES, 2), **given)


def info_of(gail: GAIL, codes: int = 2, **options: Any) -> InfoGAIL:
    return InfoGAIL(gail, codes=codes, **{"weight": 1.0, **options})


def with_codes(place: Tensor, action: Tensor, code: Tensor, codes: int) -> Transitions:
    obs = torch.cat([torch.eye(PLACES)[place], torch.eye(codes)[code]], 1)
    return steps(obs, action)


def plain(t: Transitions) -> Transitions:
    return steps(t.obs[:, :PLACES], t.action)


def drawn(codes: int, told_by: str, count: int = 2048) -> Transitions:
    """Random steps; places, deeds or nothing tells the code, which is the same at all times."""
    g = torch.Generator().manual_seed(0)
    place = torch.randint(PLACES, (count,), generator=g)
    action = torch.randint(2, (count,), generator=g)
    told = {
        "place": place % codes,
        "action": action % codes,
        "nothing": torch.arange(count) % codes,
    }
    if told_by == "nothing":  # exactly as often in each place with each deed
        rows = torch.arange(count)
        place, action = (rows // codes) % PLACES, (rows // (codes * PLACES)) % 2
    return with_codes(place, action, told[told_by], codes)


@pytest.mark.parametrize(
    ("codes", "told_by", "expected"),
    [
        (2, "place", math.log(2)),
        (4, "place", math.log(4)),
        (2, "action", math.log(2)),
        (2, "nothing", 0.0),
        (3, "nothing", 0.0),
    ],
)
def test_reading_the_code_pays_what_it_tells(codes: int, told_by: str, expected: float) -> None:
    """G12: log Q(c|s, a) + log codes, at convergence log codes, or 0 where nothing can be told."""
    gail = gail_of()
    info = info_of(gail, codes, lr=3e-3)
    assert isinstance(info, RewardModel)
    t = drawn(codes, told_by)
    for _ in range(100):
        metrics = info.update(t)
    assert metrics and all(isinstance(value, float) for value in metrics.values())
    bonus = info.reward(t) - gail.reward(plain(t))
    assert float(bonus.mean()) == pytest.approx(expected, abs=0.05)
    assert (bonus <= math.log(codes) + 1e-4).all()
    if expected:  # a wrong code costs
        wrong = torch.cat([t.obs[:, :PLACES], t.obs[:, PLACES:].roll(1, 1)], 1)
        loss = info.reward(steps(wrong, t.action)) - gail.reward(plain(t))
        assert float(loss.mean()) < -1.0


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_bonus_is_weighed(weight: float) -> None:
    t = drawn(2, "place", 64)
    gail, other = gail_of(), gail_of()
    one, weighed = info_of(gail), info_of(other, weight=weight)
    for _ in range(5):
        one.update(t)
        weighed.update(t)
    expected = weight * (one.reward(t) - gail.reward(plain(t)))
    torch.testing.assert_close(
        weighed.reward(t) - other.reward(plain(t)), expected, rtol=1e-3, atol=1e-4
    )


def test_the_posterior_is_normalised() -> None:
    """The mean over codes of exp(bonus) is one, in every place, before and after learning."""
    gail = gail_of()
    info, t = info_of(gail, 3), drawn(3, "place", 90)
    for _ in range(5):
        total = torch.zeros(90)
        for code in range(3):
            obs = torch.cat([t.obs[:, :PLACES], torch.eye(3)[[code]].expand(90, -1)], 1)
            total += (info.reward(steps(obs, t.action)) - gail.reward(plain(t))).exp()
        torch.testing.assert_close(total / 3, torch.ones(90), rtol=1e-3, atol=1e-3)
        info.update(t)


def test_the_code_does_not_reach_the_critic() -> None:
    """Without weight, codes change no pay; and the critic learns as if there were none."""
    t = drawn(2, "place", 64)
    gail, alone = gail_of(), gail_of()
    info = info_of(gail, weight=0.0)
    for _ in range(4):
        info.update(t)
        alone.update(plain(t))
    assert same(gail.state_dict(), alone.state_dict())
    other = with_codes(t.obs[:, :PLACES].argmax(1), t.action, 1 - t.obs[:, PLACES:].argmax(1), 2)
    assert torch.equal(info.reward(t), info.reward(other))
    torch.testing.assert_close(info.reward(t), alone.reward(plain(t)))
    assert torch.equal(gail.critic(*critic_inputs(gail)), alone.critic(*critic_inputs(alone)))


def critic_inputs(gail: GAIL) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    assert gail.critic.context_shape is not None
    return (
        torch.rand(8, *gail.critic.event_shape, generator=g),
        torch.rand(8, *gail.critic.context_shape, generator=g),
    )


def test_ends_are_paid_as_gail_pays_them() -> None:
    t = drawn(2, "place", 64)
    gail = gail_of()
    info = info_of(gail)
    info.update(t)
    ended = Transitions(
        t.obs, t.action, t.reward, t.next_obs, torch.ones(64, dtype=torch.bool), t.truncated
    )
    bare = plain(t)
    bare_end = Transitions(
        bare.obs, bare.action, bare.reward, bare.next_obs, ended.terminated, ended.truncated
    )
    torch.testing.assert_close(
        info.reward(ended) - info.reward(t), gail.reward(bare_end) - gail.reward(bare)
    )


@pytest.mark.parametrize("options", [{}, {"game": Wasserstein(), "reward": "logit", "clip": 0.01}])
def test_pay_is_pure_and_a_restart_goes_on(options: dict[str, Any]) -> None:
    t = drawn(2, "place", 64)
    whole, again = info_of(gail_of(**options)), info_of(gail_of(**options))
    stream = torch.get_rng_state()
    for _ in range(3):
        whole.update(t)
    held = copied(whole.state_dict())
    first = whole.reward(t)
    assert torch.equal(first, whole.reward(t)) and torch.isfinite(first).all()
    assert first.shape == (64,) and not first.requires_grad
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole.reward(t[order]), first[order])
    assert same(held, whole.state_dict()) and torch.equal(stream, torch.get_rng_state())
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again.reward(t), first), "the state is that of the critic, too"
    assert whole.update(t) == again.update(t)
    assert same(whole.state_dict(), again.state_dict()) and not same(held, whole.state_dict())


def test_pictures_with_planes() -> None:
    kind = next(kind for kind in KINDS if kind.name == "pictures")
    gail = GAIL(kind.shown(), *kind.spaces, updates=1, batch_size=64)
    info = InfoGAIL(gail, codes=2, weight=1.0, lr=3e-3, updates=8, batch_size=64)
    t = kind.done(128)
    code = (torch.arange(128) % 2)[:, None, None]
    planes = torch.stack([255 * (code == k).expand(128, 13, 13) for k in range(2)], 1)
    left = t.obs.clone()
    left[1::2, :, :, 6:] = 0  # what is seen tells the code
    seen = torch.cat([left, planes.to(torch.uint8)], 1)
    for _ in range(30):
        info.update(steps(seen, t.action))
    bonus = info.reward(steps(seen, t.action)) - gail.reward(steps(left, t.action))
    assert float(bonus.mean()) == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("options", [{}, {"game": Wasserstein(), "reward": "logit", "clip": 0.05}])
def test_each_term_pulls_the_policy_its_own_way(options: dict[str, Any]) -> None:
    """Critic, posterior and the world's own reward, from pictures; none is another's shadow."""
    bare = FourRooms(64, start=(1, 1), goal=(2, 2), max_steps=4, observation="image", seed=0)
    expert = Expert(bare, torch.eye(4, dtype=torch.float64)[3].expand(104, -1))  # not to the goal
    shown = record(bare, expert, 16, seed=0)
    few: dict[str, Any] = {"updates": 4, "batch_size": 64, "seed": 0}
    given: dict[str, Any] = {"absorbing": False, "penalty": 0.0, **few, **options}
    gail = GAIL(shown, bare.observation_space, bare.action_space, **given)
    info, t = InfoGAIL(gail, codes=2, weight=1.0, **few), _preferring(12)
    for _ in range(10):
        info.update(t)
    judged = gail.reward(dataclasses.replace(t, obs=t.obs[:, :-2], next_obs=t.next_obs[:, :-2]))
    terms = {"critic": judged, "posterior": info.reward(t) - judged, "world": t.reward}
    policy = Policy.of(Coded(bare, 2).observation_space, bare.action_space)
    likely = policy.log_prob(t.action, t.obs)
    pulls = []
    for name, paid in terms.items():
        assert float(paid.std()) > 1e-3, name
        worth = (paid - paid.mean()) / paid.std()
        parts = torch.autograd.grad(
            (likely * worth).mean(), list(policy.parameters()), retain_graph=True
        )
        pull = torch.cat([part.flatten() for part in parts])
        assert float(pull.norm()) > 1e-3, name
        pulls.append(pull / pull.norm())
    between = torch.stack(pulls) @ torch.stack(pulls).T - torch.eye(3)
    assert float(between.abs().max()) < 0.9, between


def _preferring(length: int) -> Transitions:
    """Steps of one who does more often what has the number of its code."""
    world, generator = Coded(pictures(64), 2, seed=0), torch.Generator().manual_seed(0)
    obs, rows = world.reset(), []
    for _ in range(length):
        other = torch.randint(4, (64,), generator=generator)
        action = torch.where(torch.rand(64, generator=generator) < 0.5, world.code, other)
        step = world.step(action)
        rows.append((obs, action, step.reward, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    return Transitions(*(torch.cat(part) for part in zip(*rows, strict=True)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="'codes'"):
        InfoGAIL(gail_of(), codes=0)
    with pytest.raises(ValueError, match="'weight'"):
        info_of(gail_of(), weight=-1.0)
    coded = drawn(2, "place", 8)
    for t in (coded, plain(coded)):  # two codes, or none, where three were expected
        with pytest.raises(ValueError, match=r"code|shape"):
            info_of(gail_of(), 3).reward(t)
        with pytest.raises(ValueError, match=r"code|shape"):
            info_of(gail_of(), 3).update(t)


@pytest.mark.slow
def test_codes_choose_between_two_ways() -> None:
    """An expert goes to either side of a corridor; each code takes one, and both are taken."""
    rows = []
    for goal_first in (0, 1):
        rows += list(_walks(goal_first, 16))
    shown = Demonstrations(tuple(rows))
    world = OpenWorld(64, size=5, start=(0, 0), goal=(4, 4), max_steps=24, seed=0)
    coded = Coded(world, 2, seed=0)
    gail = GAIL(shown, world.observation_space, world.action_space, discount=0.95)
    info = InfoGAIL(gail, codes=2, weight=1.0)
    agent = PPO(
        coded, steps=32, discount=0.95, reward_models={"info": info}, world_weight=0.0, seed=0
    ).learn(80 * 64 * 32, progress=False)
    sides = []
    for code in range(2):
        there = Coded(
            OpenWorld(64, size=5, start=(0, 0), goal=(4, 4), max_steps=24, seed=1), 2, code=code
        )
        obs = there.reset()
        corner = torch.zeros(64)
        for _ in range(24):
            step = there.step(agent.predict(obs, deterministic=False))
            cell = step.final_obs[:, :25].argmax(1)
            corner += ((cell == 4).float() - (cell == 20).float()) * (corner == 0)
            obs = step.obs
        sides.append(float(corner.sign().mean()))
    assert abs(sides[0] - sides[1]) > 1.5, sides


def _walks(first: int, count: int) -> Any:
    """Along the first row and then down, or down and then along the last row."""
    one = OpenWorld(1, size=5, start=(0, 0), goal=(4, 4))
    moves = {int(one.next_cell[0, a]): a for a in range(4)}
    right, down = moves[1], moves[5]
    order = [right] * 4 + [down] * 4 if first == 0 else [down] * 4 + [right] * 4
    for _ in range(count):
        seen = [one.reset()[0]]
        for action in order:
            seen.append(one.step(torch.tensor([action])).final_obs[0])
        yield Trajectory(torch.stack(seen), torch.tensor(order), terminated=True, truncated=False)


def test_the_walks_of_the_test_above_end_at_the_goal() -> None:
    for first in (0, 1):
        walk = next(iter(_walks(first, 1)))
        cells = walk.obs.argmax(1)
        assert int(cells[-1]) == 24 and int(cells[4]) == (4 if first == 0 else 20)
    assert len(walks_of_expert(OpenWorld(1, size=3), 2)) == 2

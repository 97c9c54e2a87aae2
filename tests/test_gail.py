"""GAIL against exact games, its pay, its guard against survival bias, and what it teaches."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from rlgen.agents import PPO, REINFORCE, TRPO, RewardModel, Stream, Transitions
from rlgen.agents.imitation import GAIL, Demonstrations, Trajectory
from rlgen.agents.learners.learner import Learner
from rlgen.envs import OpenWorld
from rlgen.envs.world import Step
from rlgen.generative import Critic, Minimax, Wasserstein
from rlgen.generative.adversarial.games import gradient_norm
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

BY_NAME = {kind.name: kind for kind in KINDS}
LEARNERS = [REINFORCE, PPO, TRPO]
FORMS = {
    "positive": F.softplus,
    "negative": lambda logit: -F.softplus(-logit),
    "logit": lambda logit: logit,
}


def gail_of(kind: Kind, count: int = 64, **options: Any) -> GAIL:
    given: dict[str, Any] = {"lr": 1e-3, "updates": 4, "batch_size": 64, "seed": 0, **options}
    return GAIL(kind.shown(count), *kind.spaces, **given)


def taught(gail: GAIL, t: Transitions, times: int) -> dict[str, float]:
    metrics = dict[str, float]()
    for _ in range(times):
        metrics = gail.update(t)
    return metrics


def constant(gail: GAIL, logit: float) -> GAIL:
    """Its critic says the same of everything."""
    parameters = dict(gail.critic.named_parameters())
    bias = [name for name, p in parameters.items() if p.shape == (1,)][-1]
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.fill_(logit if name == bias else 0.0)
    return gail


# --- the game

# how often each of 2 x 2 places and deeds is seen, of ten; and again, ten times as many steps
EXPERT = torch.tensor([[40, 10], [20, 30]])
NOVICE = torch.tensor([[100, 400], [200, 300]])


@pytest.mark.parametrize("game", [None, Minimax()])
def test_the_trained_critic_is_the_log_ratio_and_its_value_is_the_divergence(game: Any) -> None:
    """R10, P06: max over D of E_E log D + E_pi log(1 - D) = -ln 4 + 2 JSD(rho_E, rho_pi).

    What a critic lacks to that value is sum of (p + q) KL(D* || D), about (p + q) D* (1 - D*)
    error^2 / 2 for an error of its logit, by which the tolerance of the logits is set.
    """
    p, q = EXPERT / EXPERT.sum(), NOVICE / NOVICE.sum()
    best, middle = (p / q).log(), (p + q) / 2
    jsd = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    options = {} if game is None else {"game": game}
    gail = GAIL(
        single_steps(*by_counts(EXPERT)),
        *onehot_spaces(2, 2),
        penalty=0.0,
        absorbing=False,
        lr=2e-3,
        updates=50,
        batch_size=500,
        **options,
    )
    t = steps(*by_counts(NOVICE))
    taught(gail, t, 30)
    cells, actions = torch.eye(2).repeat_interleave(2, 0), torch.tensor([0, 1, 0, 1])
    found = torch.zeros(4)
    for _ in range(5):  # the mean over late updates, as the steps of one differ a little
        taught(gail, t, 1)
        found += gail.logits(cells, actions).detach() / 5
    found = found.reshape(2, 2)
    value = (p * F.logsigmoid(found)).sum() + (q * F.logsigmoid(-found)).sum()
    exact = -math.log(4) + 2 * jsd
    lacking = 2e-3
    assert value <= exact + 1e-6 and value >= exact - lacking
    tolerance = (2 * lacking / ((p + q) * best.sigmoid() * (-best).sigmoid())).sqrt()
    assert ((found - best).abs() < tolerance).all(), (found, best)


def test_a_critic_of_equals_cannot_tell_and_says_so() -> None:
    expert = by_counts(EXPERT)
    gail = GAIL(single_steps(*expert), *onehot_spaces(2, 2), lr=1e-3, updates=20, batch_size=200)
    metrics = taught(gail, steps(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in expert)), 20)
    assert set(metrics) >= {"accuracy", "logit_gap", "loss"}
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert metrics["logit_gap"] == pytest.approx(0.0, abs=0.2)
    assert metrics["loss"] == pytest.approx(2 * math.log(2), abs=0.15)


# --- all forms of observations and actions


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_learns_to_tell_whatever_the_form(kind: Kind) -> None:
    gail, t = gail_of(kind, updates=10, penalty=0.1), kind.done()
    before = gail.logits(t.obs, t.action)
    assert before.shape == (64,) and torch.isfinite(before).all()
    assert isinstance(gail, RewardModel) and isinstance(gail.critic, Critic)
    metrics = taught(gail, t, 15)
    assert metrics["accuracy"] > 0.95 and metrics["logit_gap"] > 1.0
    shown = kind.shown().transitions()
    high, low = gail.reward(shown), gail.reward(kind.done(seed=2))
    assert high.shape == (64,) and high.dtype == torch.float32 and not high.requires_grad
    assert torch.isfinite(high).all() and torch.isfinite(low).all()
    assert high.mean() > low.mean() + 0.5
    assert (gail.logits(shown.obs, shown.action) > 0).float().mean() > 0.9


def test_dictionaries_of_observations() -> None:
    """Demonstrations hold them flat, as `Transitions` do."""
    space = spaces.Dict(
        {"view": spaces.Box(0, 255, (7, 7, 3), np.uint8), "side": spaces.Discrete(4)}
    )

    def obs(low: int) -> dict[str, Tensor]:
        view = torch.randint(low, low + 3, (64, 7, 7, 3)).to(torch.uint8)
        return {"view": view, "side": torch.randint(4, (64,))}

    action, no = torch.randint(4, (64,)), torch.zeros(64, dtype=torch.bool)
    shown = Transitions(obs(0), action, torch.zeros(64), obs(0), no, no)  # type: ignore[arg-type]
    t = Transitions(obs(1), action, torch.zeros(64), obs(1), no, no)  # type: ignore[arg-type]
    gail = GAIL(single_steps(shown.obs, action), space, spaces.Discrete(4), lr=1e-3, updates=10)
    assert taught(gail, t, 20)["accuracy"] > 0.9


# --- pay


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["onehot", "box"])
def test_the_forms_of_pay_are_functions_of_the_logit(form: Any, name: str) -> None:
    kind = BY_NAME[name]
    gail, t = gail_of(kind, reward=form, absorbing=False), kind.done()
    taught(gail, t, 3)
    expected = FORMS[form](gail.logits(t.obs, t.action))
    torch.testing.assert_close(gail.reward(t), expected.detach())
    assert gail.logits(t.obs, t.action).std() > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pay_is_pure(kind: Kind) -> None:
    """Asked twice, in another order, in part: the same, and no trace of it is left."""
    gail, t = gail_of(kind), kind.done()
    t = replace(t, terminated=torch.arange(64) % 3 == 0)
    taught(gail, t, 2)
    held, stream = copied(gail.state_dict()), torch.get_rng_state()
    first, second = gail.reward(t), gail.reward(t)
    assert torch.equal(first, second)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gail.reward(t[order]), first[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gail.reward(t[:5]), first[:5], rtol=1e-4, atol=1e-5)
    assert torch.equal(stream, torch.get_rng_state())
    assert same(held, gail.state_dict())


def test_pay_does_not_look_at_the_worlds_reward_or_at_what_followed() -> None:
    kind = BY_NAME["vector"]
    gail, t = gail_of(kind), kind.done()
    taught(gail, t, 2)
    other = replace(t, reward=torch.randn(64), next_obs=torch.randn_like(t.next_obs))
    other = replace(other, truncated=torch.arange(64) % 2 == 0)
    assert torch.equal(gail.reward(t), gail.reward(other))


@pytest.mark.parametrize("name", ["onehot", "pictures", "box"])
def test_learning_changes_nothing_but_the_critic(name: str) -> None:
    kind = BY_NAME[name]
    shown, t = kind.shown(), kind.done()
    gail = GAIL(shown, *kind.spaces, lr=1e-3, updates=3, batch_size=32)
    kept = copied([[x.obs, x.action] for x in shown.trajectories])
    steps_kept = copied([t.obs, t.action, t.reward, t.next_obs, t.terminated, t.truncated])
    critic, stream = copied(dict(gail.critic.state_dict())), torch.get_rng_state()
    before = gail.logits(t.obs, t.action)
    gail.update(t)
    assert torch.equal(stream, torch.get_rng_state()), "it draws from the global stream"
    assert same(kept, [[x.obs, x.action] for x in shown.trajectories])
    assert same(steps_kept, [t.obs, t.action, t.reward, t.next_obs, t.terminated, t.truncated])
    assert not same(critic, dict(gail.critic.state_dict()))
    assert not torch.equal(before, gail.logits(t.obs, t.action))


def test_seeds_decide_everything() -> None:
    kind = BY_NAME["vector"]

    def paid(seed: int) -> Tensor:
        torch.rand(3)
        gail = gail_of(kind, seed=seed)
        taught(gail, kind.done(), 2)
        return gail.reward(kind.done(seed=3))

    assert torch.equal(paid(0), paid(0)) and not torch.equal(paid(0), paid(1))


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("name", ["onehot", "pictures", "box"])
def test_a_restart_goes_on_as_if_it_had_never_stopped(name: str, spectral: bool) -> None:
    kind = BY_NAME[name]
    whole, other = gail_of(kind, spectral=spectral), gail_of(kind, spectral=spectral)
    for seed in range(3):
        whole.update(kind.done(seed=seed))
    held = copied(whole.state_dict())
    other.load_state_dict(whole.state_dict())
    for seed in range(3, 5):
        ours, theirs = whole.update(kind.done(seed=seed)), other.update(kind.done(seed=seed))
        assert ours == theirs
    assert same(whole.state_dict(), other.state_dict())
    assert torch.equal(whole.reward(kind.done()), other.reward(kind.done()))
    again = gail_of(kind, spectral=spectral)
    again.load_state_dict(held)
    again.update(kind.done(seed=3))
    assert not same(held, again.state_dict())
    again.update(kind.done(seed=4))
    assert same(whole.state_dict(), again.state_dict())


def test_learners_save_it(tmp_path: Path) -> None:
    shown = walks_of_expert(OpenWorld(1, size=4), 4)

    def parts() -> tuple[OpenWorld, dict[str, Any]]:
        world = OpenWorld(8, size=4, max_steps=20, seed=0)
        return world, {"gail": GAIL(shown, world.observation_space, world.action_space, updates=2)}

    world, models = parts()
    whole = PPO(world, reward_models=models, steps=8, world_weight=0.0).learn(128, progress=False)
    whole.save(tmp_path / "agent")
    world, models = parts()
    again = PPO.load(tmp_path / "agent", world, reward_models=models)
    whole.learn(128, progress=False)
    again.learn(128, progress=False)
    assert same(dict(whole.model.state_dict()), dict(again.model.state_dict()))


# --- ends


def end_pay(gail: GAIL, t: Transitions) -> Tensor:
    """What a step earns more where it terminates."""
    return gail.reward(at_end(t, terminated=True)) - gail.reward(t)


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_a_terminated_step_is_paid_for_all_that_would_follow(discount: float) -> None:
    """r + discount / (1 - discount) r_abs, with the same absorbing logit whatever the form.

    From each a level is taken off, which is one number for all steps and ends. All steps lead to
    one state here, in which the episodes that end there stay.
    """
    kind = BY_NAME["onehot"]
    t, factor = kind.done(), discount / (1 - discount)
    t = replace(t, next_obs=t.next_obs[:1].expand(64, -1))
    paid = {}
    for form in FORMS:
        gail = gail_of(kind, reward=form, discount=discount)
        for _ in range(3):
            gail.update(replace(t, terminated=torch.arange(64) % 3 == 0))
        assert torch.equal(gail.reward(at_end(t, terminated=False)), gail.reward(t))
        more = end_pay(gail, t)
        torch.testing.assert_close(more, more[:1].expand(64), rtol=1e-4, atol=1e-4)
        both = replace(at_end(t, terminated=True), truncated=torch.ones(64, dtype=torch.bool))
        assert torch.equal(gail.reward(both), gail.reward(at_end(t, terminated=True)))
        pay = FORMS[form](gail.logits(t.obs, t.action)).detach()
        level = (pay - gail.reward(t)).mean()
        torch.testing.assert_close(gail.reward(t), pay - level)
        paid[form] = more.mean() / factor + level
    logit = paid["logit"]
    assert logit.abs() > 1e-3
    for form in FORMS:
        torch.testing.assert_close(paid[form], FORMS[form](logit), rtol=1e-3, atol=1e-4)


def test_without_absorbing_an_end_earns_nothing() -> None:
    kind = BY_NAME["onehot"]
    gail, t = gail_of(kind, absorbing=False), kind.done()
    taught(gail, at_end(t, terminated=True), 3)
    for terminated in (True, False):
        assert torch.equal(gail.reward(at_end(t, terminated)), gail.reward(t))


@pytest.mark.parametrize(
    ("shown_ends", "done_ends", "sign"),
    [(True, False, 1), (False, True, -1), (True, True, 0)],
    ids=["only-the-expert", "only-the-novice", "both"],
)
def test_the_critic_judges_the_state_after_the_end(
    shown_ends: bool, done_ends: bool, sign: int
) -> None:
    """It looks like whoever gets there; where both do, it tells nothing."""
    expert = by_counts(EXPERT)
    gail = GAIL(
        single_steps(*expert, terminated=shown_ends),
        *onehot_spaces(2, 2),
        reward="logit",
        penalty=0.0,
        discount=0.9,
        lr=1e-3,
        updates=20,
        batch_size=200,
    )
    t = steps(*expert, terminated=done_ends)
    taught(gail, t, 30)
    going = replace(t, terminated=torch.zeros_like(t.terminated))
    logit = float(end_pay(gail, going).mean()) / 9
    assert abs(logit) < 0.2 if sign == 0 else sign * logit > 1.5


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("form", FORMS)
def test_a_constant_critic_teaches_nothing(form: Any, logit: float) -> None:
    """All steps and all ends earn nothing, or else whoever has yet to learn values would care."""
    kind, discount = BY_NAME["onehot"], 0.9
    t = kind.done()

    def returns(gail: GAIL) -> Tensor:
        going = gail.reward(t)
        assert torch.equal(going, going[:1].expand(64))
        last = gail.reward(at_end(t, terminated=True))
        return torch.stack(
            [
                (discount ** torch.arange(n) * going[:n]).sum() + discount**n * last[n]
                for n in range(40)
            ]
        )

    price = float(FORMS[form](torch.tensor(logit)))
    guarded = constant(gail_of(kind, reward=form, discount=discount), logit)
    torch.testing.assert_close(returns(guarded), torch.zeros(40), rtol=0, atol=1e-4)
    unguarded = constant(gail_of(kind, reward=form, discount=discount, absorbing=False), logit)
    found = returns(unguarded)  # this is the bias: what is positive prefers long lives
    assert float(found[-1] - found[0]) == pytest.approx(
        price * (discount - discount**40) / (1 - discount), abs=1e-4
    )


# --- keeping the critic in bounds


@pytest.mark.parametrize("clip", [0.01, 0.1])
def test_weights_are_clipped(clip: float) -> None:
    """G05: all |w| <= c after each step of the critic."""
    kind = BY_NAME["vector"]
    gail, t = gail_of(kind, game=Wasserstein(), reward="logit", clip=clip, penalty=0.0), kind.done()
    for _ in range(4):
        gail.update(t)
        largest = max(float(p.detach().abs().max()) for p in gail.critic.parameters())
        assert 0 < largest <= clip * (1 + 1e-6)
    shown = kind.shown().transitions()
    assert gail.reward(shown).mean() > gail.reward(t).mean()


def slope(gail: GAIL) -> float:
    """The steepest of the critic, in what it sees of observations."""
    generator = torch.Generator().manual_seed(0)
    x = 2.0 * torch.randn(500, *gail.critic.event_shape, generator=generator)
    context = None
    if gail.critic.context_shape is not None:
        context = torch.rand(500, *gail.critic.context_shape, generator=generator)
    return float(gradient_norm(gail.critic, x, context).detach().max())


def test_a_penalty_and_a_spectral_norm_make_the_critic_less_steep() -> None:
    kind = BY_NAME["vector"]

    def gap(**options: Any) -> tuple[GAIL, float]:
        gail, t = gail_of(kind, updates=20, lr=3e-3, **options), kind.done()
        taught(gail, t, 30)
        shown = kind.shown().transitions()
        high, low = gail.logits(shown.obs, shown.action), gail.logits(t.obs, t.action)
        return gail, float((high.mean() - low.mean()).detach())

    free, free_gap = gap(penalty=0.0)
    held, held_gap = gap(penalty=100.0)
    bound, bound_gap = gap(penalty=0.0, spectral=True)
    assert held_gap < free_gap / 2 and slope(held) < slope(free) / 2
    assert slope(free) > 1.5
    assert slope(bound) <= 1.02 and 0.2 < bound_gap < free_gap


# --- what is refused


def refused(*parts: str) -> str:
    return "(?is)" + "".join(f"(?=.*{part})" for part in parts)


def test_demonstrations_that_do_not_fit_are_refused() -> None:
    shown = BY_NAME["onehot"].shown(8)
    with pytest.raises(ValueError, match=refused("12", r"\b11\b")):
        GAIL(shown, *onehot_spaces(11, 4))
    with pytest.raises(ValueError, match=refused("uint8", "float32")):
        GAIL(shown, spaces.Box(0, 255, (12,), np.uint8), spaces.Discrete(4))
    with pytest.raises(ValueError, match=refused("trajectory", "step", "action")):
        GAIL(shown, *onehot_spaces(12, 2))
    with pytest.raises(ValueError, match=refused("action")):
        GAIL(shown, onehot_spaces(12, 4)[0], spaces.Box(-1.0, 1.0, (2,), np.float32))
    with pytest.raises(ValueError, match=refused("action")):
        GAIL(shown, onehot_spaces(12, 4)[0], spaces.MultiBinary(4))


@pytest.mark.parametrize("where", ["obs", "action"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(where: str, value: float) -> None:
    kind = BY_NAME["box"]
    obs, action = kind.expert(6, torch.Generator().manual_seed(0))
    (obs if where == "obs" else action)[4, 1] = value
    with pytest.raises(ValueError, match=refused("nan|finite|inf|outside")):
        GAIL(
            Demonstrations(
                (Trajectory(torch.cat([obs, obs[:1]]), action, terminated=True, truncated=False),)
            ),
            *kind.spaces,
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward", "high"),
        ("penalty", -1.0),
        ("clip", 0.0),
        ("clip", -0.1),
        ("discount", 1.0),
        ("discount", -0.1),
        ("lr", 0.0),
        ("updates", -1),
        ("batch_size", 0),
    ],
)
def test_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        gail_of(BY_NAME["onehot"], **{name: value})


# --- learners without the world's rewards


class Repriced:
    """A world that pays otherwise."""

    def __init__(self, world: OpenWorld, factor: float) -> None:
        self.world, self.factor = world, factor
        self.num_envs, self.device = world.num_envs, world.device
        self.observation_space, self.action_space = world.observation_space, world.action_space

    def reset(self, seed: int | None = None) -> Tensor:
        return self.world.reset(seed)

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        reward = self.factor * step.reward
        return Step(step.obs, reward, step.terminated, step.truncated, lambda: step.final_obs)


@pytest.mark.parametrize("kind", LEARNERS)
def test_without_weight_the_worlds_rewards_change_nothing(kind: type[Learner]) -> None:
    shown = walks_of_expert(OpenWorld(1, size=3), 4)

    def weights(factor: float, weight: float, **options: Any) -> dict[str, Tensor]:
        world = Repriced(OpenWorld(16, size=3, max_steps=10, seed=0), factor)
        gail = GAIL(shown, world.observation_space, world.action_space, updates=2)
        options = {"steps": 16, "seed": 0, "world_weight": weight, **options}
        agent: Any = kind(world, reward_models={"gail": gail}, **options)
        agent.learn(3 * 16 * 16, progress=False)
        return dict(agent.model.state_dict())

    assert same(weights(1.0, 0.0), weights(-1000.0, 0.0))
    assert not same(weights(1.0, 0.0), weights(1.0, 1.0))
    assert not same(weights(1.0, 0.5), weights(1.0, 1.0))
    as_they_are = {"normalise": False} if kind is PPO else {}
    assert same(weights(1.0, 0.5, **as_they_are), weights(0.5, 1.0, **as_they_are))
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'world_weight'"):
            kind(OpenWorld(2, size=3, seed=0), world_weight=value)  # type: ignore[call-arg]


# --- what it teaches


def imitated(shown: Demonstrations, seed: int = 0, rounds: int = 100, **options: Any) -> Any:
    world = OpenWorld(64, size=5, max_steps=40, seed=seed)
    gail = GAIL(
        shown, world.observation_space, world.action_space, discount=0.95, seed=seed, **options
    )
    stream = Stream(gail, normalise=False) if options.get("absorbing") is False else Stream(gail)
    agent = PPO(
        world,
        steps=32,
        discount=0.95,
        reward_models={"gail": stream},
        world_weight=0.0,
        seed=seed,
    )
    return agent.learn(rounds * 64 * 32, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_it_teaches_to_cross_an_open_world(form: Any) -> None:
    """From any start to the corner, and no longer than a fifth more than the expert's ways."""
    shown = walks_of_expert(OpenWorld(1, size=5, seed=0), 16)
    agent = imitated(shown, reward=form)
    world = OpenWorld(64, size=5, max_steps=40)
    found = agent.evaluate(400, world=world, deterministic=False)
    wanted = float(world.distances().sum()) / 24
    assert found["success"] >= 0.97 and found["length"] <= 1.2 * wanted, found


@pytest.mark.slow
def test_without_absorbing_states_positive_pay_teaches_to_stay_alive() -> None:
    """R10's negative control: the same critic, and a learner that avoids the goal."""
    shown = walks_of_expert(OpenWorld(1, size=5, seed=0), 16)
    world = OpenWorld(64, size=5, max_steps=40)
    guarded = imitated(shown, reward="positive", rounds=40)
    biased = imitated(shown, rounds=40, absorbing=False)
    good = guarded.evaluate(400, world=world, deterministic=False)
    bad = biased.evaluate(400, world=world, deterministic=False)
    assert bad["length"] > 3 * good["length"], (good, bad)

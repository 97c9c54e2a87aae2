"""Surprise, curiosity, disagreement, distillation and counts of codes, against what they claim."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlgen import generative as g
from rlgen.agents import REINFORCE, RewardModel, Transitions
from rlgen.agents.exploration import (
    ICM,
    RND,
    CodeCounts,
    Disagreement,
    DynamicsCuriosity,
    HashCounts,
    PseudoCounts,
    Surprise,
    TableCounts,
)
from rlgen.agents.transitions import flat, joined
from rlgen.envs import FourRooms, MiniGrid
from tests.walks import PLACES, arriving_at, copied, same, seeded, walk, wander

EYE = torch.eye(104)
NEXT = FourRooms(1).next_cell  # where each of four moves leads from each of 104 cells


def all_moves() -> Transitions:
    """Every move from every cell, 416 steps."""
    cell, action = torch.cartesian_prod(torch.arange(104), torch.arange(4)).T
    return moves(EYE[cell], action, EYE[NEXT[cell, action]])


def moves(obs: Tensor, action: Tensor, next_obs: Tensor) -> Transitions:
    nothing = torch.zeros(len(obs))
    return Transitions(obs, action, nothing, next_obs, nothing.bool(), nothing.bool())


def box(*shape: int, dtype: Any = np.float32) -> gymnasium.spaces.Box:
    if dtype == np.uint8:
        return gymnasium.spaces.Box(0, 255, shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, dtype)


FOUR = gymnasium.spaces.Discrete(4)


# --- what all of them promise, on whatever is seen


def observations(kind: str, n: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, generator=generator)
    if kind == "symbols":  # 7x7x3: objects, colours and states, as in MiniGrid
        return torch.stack([draw(high, (n, 7, 7)) for high in (11, 6, 4)], -1).to(torch.uint8)
    if kind == "onehot":
        return torch.nn.functional.one_hot(draw(9, (n,)), 9).float()
    vector = torch.randn(n, 5, generator=generator)
    if kind == "vector":
        return vector
    return {"seen": vector, "heading": draw(4, (n, 1)).float()}


SPACES = {
    "symbols": box(7, 7, 3, dtype=np.uint8),
    "onehot": box(9),
    "vector": box(5),
    "dict": box(6),
}
WIDTHS = {"symbols": 147, "onehot": 9, "vector": 5, "dict": 6}
QUICK: dict[str, Any] = {"updates": 2, "batch_size": 32}


def as_floats(obs: Tensor) -> Tensor:
    return obs.flatten(1).float()


def dynamics(kind: str) -> g.MixtureDensityNetwork:
    width = WIDTHS[kind]
    return g.MixtureDensityNetwork(
        width, context_shape=width + 4, hidden=(16,), head=g.heads.Normal()
    )


MODELS: dict[str, Callable[[str], RewardModel]] = {
    "TableCounts": lambda kind: TableCounts(),
    "HashCounts": lambda kind: HashCounts(),
    "CodeCounts": lambda kind: CodeCounts(
        g.VQVAE(WIDTHS[kind], codes=8, latent=2, hidden=(16,)), **QUICK
    ),
    "PseudoCounts": lambda kind: PseudoCounts(
        g.MADE(WIDTHS[kind], head=g.heads.Normal(), hidden=(16,)), **QUICK
    ),
    "PseudoCounts of a VAE": lambda kind: PseudoCounts(
        g.VAE(WIDTHS[kind], latent=2, hidden=(16,)), **QUICK
    ),
    "recoding": lambda kind: PseudoCounts(
        g.MADE(WIDTHS[kind], head=g.heads.Normal(), hidden=(16,)), estimator="recoding", **QUICK
    ),
    "Surprise": lambda kind: Surprise(g.VAE(WIDTHS[kind], latent=2, hidden=(16,)), **QUICK),
    "excess": lambda kind: DynamicsCuriosity(dynamics(kind), form="excess", **QUICK),
    "surprise": lambda kind: DynamicsCuriosity(dynamics(kind), form="surprise", **QUICK),
    "error": lambda kind: DynamicsCuriosity(dynamics(kind), form="error", **QUICK),
    "ICM": lambda kind: ICM(SPACES[kind], FOUR, latent=4, **QUICK),
    "Disagreement": lambda kind: Disagreement(SPACES[kind], FOUR, members=2, **QUICK),
    "RND": lambda kind: RND(SPACES[kind], latent=4, **QUICK),
}
OF_BOUNDS = ("PseudoCounts of a VAE", "Surprise")  # which know log p up to some noise
KINDS = ("symbols", "onehot", "vector", "dict")


def steps_of(kind: str, n: int = 48, seed: int = 0) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(n)
    return Transitions(
        observations(kind, n, seed),
        torch.randint(4, (n,), generator=generator),
        nothing,
        observations(kind, n, seed + 100),
        nothing.bool(),
        nothing.bool(),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_pays_purely_and_restarts_exactly(name: str, kind: str) -> None:
    """Catches state that asking changes, draws from the global stream, and states that lack a
    part: a model that goes on after loading must be one that was never stopped."""
    make = partial(seeded, partial(MODELS[name], kind))
    model, asked = make(), steps_of(kind, 16, seed=50)
    assert isinstance(model, RewardModel)
    for seed in range(3):
        model.update(steps_of(kind, seed=seed))
    held, stream = copied(model.state_dict()), torch.get_rng_state()
    first = model.reward(asked)
    assert torch.equal(first, model.reward(asked))
    assert first.shape == (16,) and first.is_floating_point() and not first.requires_grad
    assert torch.isfinite(first).all()
    assert same(held, model.state_dict()), "asking leaves a trace"
    assert torch.equal(stream, torch.get_rng_state()), "asking draws from the global stream"
    other = MODELS[name](kind)  # whose first weights are others
    other.load_state_dict(held)
    assert torch.equal(other.reward(asked), first)
    for seed in range(3, 5):
        torch.manual_seed(seed)
        said = model.update(steps_of(kind, seed=seed))
        torch.manual_seed(1000 + seed)
        assert other.update(steps_of(kind, seed=seed)) == said
    assert torch.equal(other.reward(asked), model.reward(asked)), "it went on otherwise"
    assert same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_paid_for_itself_alone(name: str) -> None:
    """Neither its row, nor its neighbours, nor the first observation of the next episode count,
    as they would if next_obs were read off obs one row on."""
    model, t = seeded(partial(MODELS[name], "vector")), steps_of("vector", 32)
    for seed in range(3):
        model.update(steps_of("vector", seed=seed))
    ask = model.reward
    if name == "CodeCounts":  # whose codes lump neighbours, of which the later ones are paid less
        ask = lambda t: model.count(t.next_obs).double()  # noqa: E731
    paid = ask(t)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    rtol, atol = (0.1, 1e-4) if name in OF_BOUNDS else (1e-3, 1e-5)
    torch.testing.assert_close(ask(t[order]), paid[order], rtol=rtol, atol=atol)
    torch.testing.assert_close(ask(t[3:4]), paid[3:4], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_paid_for_where_it_leads(name: str) -> None:
    """The last observation of an episode, which only next_obs has, must be learnt and paid."""
    model = seeded(partial(MODELS[name], "onehot"))
    if name == "CodeCounts":  # which needs codes that tell these apart
        model = CodeCounts(seeded(codes_of_nine), updates=0)
    hub, ends = EYE[:1, :9].expand(64, 9), torch.eye(9)[[7, 8]]
    t = moves(hub, torch.zeros(64).long(), ends[:1].expand(64, 9))
    for _ in range(150):
        model.update(t)
    often, never = model.reward(moves(hub[:2], torch.zeros(2).long(), ends))
    if name == "Disagreement":  # which asks what may come, and not what came
        torch.testing.assert_close(often, never)
    else:
        assert never > often
    turned = moves(ends, torch.zeros(2).long(), hub[:2])
    if name.endswith("Counts"):  # nobody was led to where all came from
        assert (model.reward(turned) > often).all()


def codes_of_nine() -> g.VQVAE:
    model = g.VQVAE(9, codes=16, latent=4, hidden=(32,))
    g.fit(model, torch.eye(9).repeat(20, 1), steps=300, progress=False)
    return model


def test_dicts_of_observations_are_one_tensor() -> None:
    """In an order of its own, whatever order the dict has, and with all of its numbers."""
    obs = observations("dict", 7)
    assert flat(obs).shape == (7, 6) and flat(obs).is_floating_point()
    assert torch.equal(flat(obs), flat(dict(reversed(obs.items()))))
    assert {float(v) for v in flat(obs)[0]} == {float(v) for v in torch.cat([*obs.values()], 1)[0]}
    t = steps_of("dict", 7)
    assert torch.equal(t.obs, flat(observations("dict", 7))) and len(t[:3]) == 3


def test_rewards_are_read_before_they_are_learnt_from() -> None:
    """A learner that updates first would pay for what is known by then."""

    class Spy:
        def __init__(self) -> None:
            self.said: list[tuple[str, Tensor]] = []

        def reward(self, t: Transitions) -> Tensor:
            self.said.append(("reward", t.next_obs.clone()))
            return torch.zeros(len(t))

        def update(self, t: Transitions) -> dict[str, float]:
            self.said.append(("update", t.next_obs.clone()))
            return {}

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    spy, world = Spy(), FourRooms(4, start=(1, 1), goal="none", max_steps=5, seed=0)
    agent = REINFORCE(world, reward_models={"spy": spy})
    agent.learn(400, progress=False)
    asked, learnt = None, 0
    for what, seen in spy.said:
        if what == "update":
            assert asked is not None and torch.equal(torch.cat([asked]), seen)
            asked, learnt = None, learnt + 1
        else:
            asked = seen if asked is None else torch.cat([asked, seen])
    assert learnt > 0


@pytest.mark.parametrize("name", ["ICM", "Disagreement", "RND"])
@pytest.mark.parametrize("kind", ["world", "box actions"])
def test_networks_take_the_spaces_of_worlds(name: str, kind: str) -> None:
    world = MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0)
    boxed = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    spaces = (world.observation_space, world.action_space) if kind == "world" else (box(5), boxed)
    makers: dict[str, Callable[[Any, Any], RewardModel]] = {
        "ICM": lambda seen, done: ICM(seen, done, **QUICK),
        "Disagreement": lambda seen, done: Disagreement(seen, done, **QUICK),
        "RND": lambda seen, done: RND(seen, **QUICK),
    }
    model = makers[name](*spaces)
    if kind == "world":
        obs = world.reset()
        action = torch.tensor([0, 1, 2, 2])
        t = moves(obs, action, world.step(action).final_obs)
    else:
        t = moves(torch.randn(4, 5), torch.rand(4, 2), torch.randn(4, 5))
    before = model.reward(t)
    model.update(t)
    after = model.reward(t)
    assert before.shape == after.shape == (4,) and torch.isfinite(after).all()
    assert (after >= 0).all() and not torch.equal(before, after)


# --- R15: counts of codes


def quick_codes() -> CodeCounts:
    model = g.VQVAE(104, codes=128, head=g.heads.Bernoulli(), hidden=(64,), decay=0.9)
    return CodeCounts(model, lr=3e-3)


def ordinary_codes() -> CodeCounts:
    return CodeCounts(g.VQVAE(104, codes=128, head=g.heads.Bernoulli()))


@pytest.mark.slow
@pytest.mark.parametrize("make", [quick_codes, ordinary_codes])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counts_of_codes_follow_visits(seed: int, make: Callable[[], CodeCounts]) -> None:
    """A codebook that merges most cells, or counts under codes that have moved, loses the rank."""
    torch.manual_seed(seed)
    counts = make()
    visited = walk(400, seed=seed).flatten(0, 1)
    for part in visited.split(256):
        counts.update(arriving_at(part))
    found, visits = counts.count(EYE).double(), visited.sum(0)
    rank = float(stats.spearmanr(found, visits).statistic)
    assert rank >= 0.8, rank


def test_counts_of_codes_that_stay_are_exact() -> None:
    model = codes_of_nine()
    counts = CodeCounts(model, updates=0, memory=64)
    visits = torch.arange(1, 10)
    seen = torch.eye(9).repeat_interleave(visits, 0).repeat(10, 1)
    for part in seen.split(50):
        counts.update(arriving_at(part))
    codes = model.codes(torch.eye(9)).flatten(1)
    lumped = (codes[:, None] == codes[None]).all(-1)
    expected = (lumped * 10 * visits).sum(1).double()
    assert torch.equal(counts.count(torch.eye(9)).double(), expected)
    paid = torch.cat([counts.reward(arriving_at(row[None])) for row in torch.eye(9)])
    torch.testing.assert_close(paid.double(), (expected + 1.0).rsqrt(), rtol=1e-6, atol=0)


def test_counts_survive_a_codebook_that_moves() -> None:
    """Visits belong to what was seen, not to the number of a code: all add up at any time."""
    counts = CodeCounts(g.VQVAE(9, codes=16, latent=4, hidden=(32,)), lr=1e-2, memory=4096)
    generator = torch.Generator().manual_seed(0)
    visits = torch.zeros(9)
    for _ in range(40):
        cell = torch.multinomial(torch.arange(1.0, 10.0), 64, True, generator=generator)
        counts.update(arriving_at(torch.eye(9)[cell]))
        visits += torch.bincount(cell, minlength=9)
    found = counts.count(torch.eye(9))
    keys = counts.keys(torch.eye(9))
    for key in keys.unique():
        group = keys == key
        assert (found[group] == found[group][0]).all()
        ratio = float(found[group][0] / visits[group].sum())
        assert 0.9 <= ratio <= 1.1, f"{ratio} of the visits of cells {group.nonzero().flatten()}"


# --- R16: surprise


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_room_that_was_held_out_is_surprising(seed: int) -> None:
    """The area under the ROC curve, from ranks: a density that smears or overfits falls short."""
    torch.manual_seed(seed)
    visited = walk(400, seed=seed).flatten(0, 1)
    held_out = (PLACES > 6).all(1)
    seen = visited[~held_out[visited.argmax(-1)]]
    bonus = Surprise(g.MADE(104), seed=seed)
    for part in seen.split(256):
        bonus.update(arriving_at(part))
    paid = bonus.reward(arriving_at(EYE))
    outside, inside = paid[held_out].numpy(), paid[~held_out].numpy()
    area = stats.mannwhitneyu(outside, inside).statistic / (len(outside) * len(inside))
    assert area >= 0.95, area
    assert float(paid[held_out].min()) > float(paid[~held_out].median())


def test_surprise_is_minus_the_log_density_and_falls_with_repeats() -> None:
    bonus = Surprise(g.MADE(104, hidden=(32,)), lr=1e-2)
    seen = arriving_at(EYE[:1].expand(64, 104))
    paid = []
    for _ in range(12):
        paid.append(float(bonus.reward(seen)[0]))
        bonus.update(seen)
    with torch.no_grad():
        exact = -bonus.model.log_prob(EYE)  # type: ignore[operator]
    torch.testing.assert_close(bonus.reward(arriving_at(EYE)), exact)
    assert paid == sorted(paid, reverse=True) and paid[-1] < 0.1 * paid[0], paid


# --- R17: curiosity about the dynamics


def gaussian_dynamics(features: int = 104) -> g.MixtureDensityNetwork:
    return g.MixtureDensityNetwork(features, context_shape=features + 4, head=g.heads.Normal())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["error", "surprise", "excess"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_deterministic_dynamics_bore_after_twenty_visits(form: Any, seed: int) -> None:
    """To less than 5 % of what they paid at first, when each of 416 moves was seen 20 times; and
    to less than 5 % of what the best constant prediction would be paid, as a first prediction can
    be bad enough to make 5 % of it easy: dynamics that see no action keep 3 % of the former and
    40 % of the latter.

    The excess of a model that knows nothing is about nothing, so it is held to 5 % of surprise.
    """
    torch.manual_seed(seed)
    dynamics = g.MixtureDensityNetwork(104, context_shape=108, head=g.heads.Bernoulli())
    bonus = DynamicsCuriosity(dynamics, form=form, lr=1e-2, updates=64, seed=seed)
    t = all_moves()
    often = t.next_obs.mean(0)
    entropy = float(torch.distributions.Bernoulli(often).entropy().sum())
    constant = float((often * (1 - often)).mean()) if form == "error" else entropy
    begins = DynamicsCuriosity(dynamics, form="surprise") if form == "excess" else bonus
    first = float(begins.reward(t).mean())
    for _ in range(20):
        bonus.update(t)
    last = float(bonus.reward(t).abs().mean())
    assert last < 0.05 * min(first, constant), (first, constant, last)


def silent(features: int) -> g.MixtureDensityNetwork:
    """A density that is the same normal whatever the context, N(0, s^2) in every feature."""
    model = gaussian_dynamics(features)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def test_forms_are_what_they_are_called() -> None:
    """In closed form, for a density that is known; a mean over features, not a sum."""
    features, n = 6, 50
    generator = torch.Generator().manual_seed(0)
    t = moves(
        torch.randn(n, features, generator=generator),
        torch.randint(4, (n,), generator=generator),
        2.0 * torch.randn(n, features, generator=generator),
    )
    scale = float(silent(features).distribution(torch.zeros(1, 10)).stddev.flatten()[0].detach())
    square = t.next_obs.square()
    log_p = -0.5 * square / scale**2 - math.log(scale * math.sqrt(2 * math.pi))
    entropy = features * (0.5 + math.log(scale * math.sqrt(2 * math.pi)))
    paid = {
        form: DynamicsCuriosity(silent(features), form=form).reward(t)
        for form in ("error", "surprise", "excess")
    }
    torch.testing.assert_close(paid["error"], square.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(paid["surprise"], -log_p.sum(1), rtol=1e-4, atol=1e-4)
    # the expectation may be by Monte Carlo, but with the same noise for all
    shift = paid["excess"] - (-log_p.sum(1) - entropy)
    assert float(shift.std()) < 0.2 and abs(float(shift.mean())) < 0.7, (shift.std(), shift.mean())


def test_actions_are_one_hot_beside_the_features() -> None:
    """The density sees (features, action), so that unlike actions may lead to unlike places."""
    x, context = DynamicsCuriosity(gaussian_dynamics(3)).data(
        torch.arange(6.0).reshape(2, 3), torch.tensor([2, 0]), torch.zeros(2, 3)
    )
    assert x.shape == (2, 3) and context.tolist() == [
        [0, 1, 2, 0, 0, 1, 0],
        [3, 4, 5, 1, 0, 0, 0],
    ]
    boxes = DynamicsCuriosity(gaussian_dynamics(3)).data(
        torch.zeros(2, 3), torch.full((2, 4), 0.5), torch.zeros(2, 3)
    )[1]
    assert boxes.tolist() == [[0, 0, 0, 0.5, 0.5, 0.5, 0.5]] * 2


@pytest.mark.slow
def test_a_noisy_screen_keeps_errors_and_surprise_but_not_the_excess() -> None:
    """Action 0 leads to a known place, action 1 to noise: the excess ends up paying neither."""
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(256, 4)

    def both() -> Transitions:
        action = torch.arange(256) % 2
        noise = torch.randn(256, 4, generator=generator)
        return moves(start, action, torch.where(action[:, None] == 1, noise, 0.5 + 0.05 * noise))

    last = {}
    for form in ("error", "surprise", "excess"):
        torch.manual_seed(0)
        bonus = DynamicsCuriosity(gaussian_dynamics(4), form=form, lr=3e-3)
        for _ in range(150):
            bonus.update(both())
        t = both()
        paid = bonus.reward(t)
        last[form] = (float(paid[t.action == 1].mean()), float(paid[t.action == 0].mean()))
    assert last["error"][0] > 0.8 > 0.02 > last["error"][1], last
    assert last["surprise"][0] > last["surprise"][1] + 5.0, last
    assert abs(last["excess"][0]) < 0.4 and abs(last["excess"][1]) < 0.8, last


# --- R18: curiosity in features that actions can be read from


@pytest.fixture(scope="module")
def distracted() -> tuple[ICM, list[Transitions]]:
    """An ICM that has wandered through the rooms past 16 bits of noise on every observation."""
    torch.manual_seed(0)
    world = FourRooms(1)
    icm = ICM(box(120), world.action_space)
    generator = torch.Generator().manual_seed(1)

    def noised(obs: Tensor) -> Tensor:
        return torch.cat([obs, torch.randint(2, (len(obs), 16), generator=generator).float()], 1)

    parts = [moves(noised(t.obs), t.action, noised(t.next_obs)) for t in uniform_moves(150)]
    for part in parts:
        icm.update(part)
    return icm, parts


def uniform_moves(parts: int) -> list[Transitions]:
    """Moves from cells drawn evenly, 256 at a time."""
    generator = torch.Generator().manual_seed(0)
    t, made = all_moves(), []
    for _ in range(parts):
        made.append(t[torch.randint(len(t), (256,), generator=generator)])
    return made


@pytest.mark.slow
def test_actions_are_read_off_features(distracted: tuple[ICM, list[Transitions]]) -> None:
    """Of moves that moved; those against a wall show nothing."""
    icm, parts = distracted
    t = joined(parts[-10:])
    moved = (t.obs[:, :104] != t.next_obs[:, :104]).any(1)
    with torch.no_grad():
        guessed = icm.predict_action(t.obs[moved], t.next_obs[moved]).argmax(-1)
    right = float((guessed == t.action[moved]).float().mean())
    assert right >= 0.9, right


@pytest.mark.slow
def test_a_linear_probe_finds_the_position(distracted: tuple[ICM, list[Transitions]]) -> None:
    """Which of 104 cells, by a classifier trained on half of the steps."""
    from sklearn.linear_model import LogisticRegression

    icm, parts = distracted
    t = joined(parts[-40:])
    with torch.no_grad():
        phi = icm.encode(t.obs).numpy()
    phi = (phi - phi.mean(0)) / (phi.std(0) + 1e-6)
    cells, half = t.obs[:, :104].argmax(1).numpy(), len(phi) // 2
    probe = LogisticRegression(C=100.0, max_iter=500).fit(phi[:half], cells[:half])
    accuracy = float(probe.score(phi[half:], cells[half:]))
    assert accuracy >= 0.9, accuracy


@pytest.mark.slow
def test_noise_explains_little_of_the_features(distracted: tuple[ICM, list[Transitions]]) -> None:
    """At most 5 % of the variance of phi, by least squares on the 16 bits."""
    icm, parts = distracted
    t = joined(parts[-40:])
    with torch.no_grad():
        phi = icm.encode(t.obs).double()
    bits = torch.cat([t.obs[:, 104:].double(), torch.ones(len(phi), 1)], 1)
    fitted = bits @ torch.linalg.lstsq(bits, phi).solution
    share = float(fitted.var(0).sum() / phi.var(0).sum())
    assert share <= 0.05, share


def test_the_forward_loss_does_not_collapse_the_features() -> None:
    """A forward loss that reaches phi wins at once by making it constant: within ten updates its
    variance falls from 16 to 0.01, where inverse dynamics alone double it.
    """
    torch.manual_seed(0)
    icm = ICM(box(104), FOUR, lr=3e-3)

    def spread() -> float:
        with torch.no_grad():
            return float(icm.encode(EYE).var(0).sum())

    before = spread()
    for _ in range(10):
        icm.update(all_moves())
    assert spread() >= 0.5 * before, (before, spread())


@pytest.mark.slow
def test_icm_tires_of_what_it_knows() -> None:
    torch.manual_seed(0)
    icm = ICM(box(104), FOUR)
    corner = (PLACES < 6).all(1)
    t = all_moves()
    seen = t[corner[t.obs.argmax(1)] & corner[t.next_obs.argmax(1)]]
    elsewhere = t[~corner[t.obs.argmax(1)]]
    for _ in range(60):
        icm.update(seen)
    paid, known = float(icm.reward(elsewhere).mean()), float(icm.reward(seen).mean())
    assert paid > 2.0 * known, (paid, known)


# --- ensembles and distillation


@pytest.mark.slow
def test_members_agree_where_they_have_been_even_about_noise() -> None:
    """Their variance must fall for noise as well: a member that learnt single draws would not."""
    torch.manual_seed(0)
    bonus = Disagreement(box(6), FOUR, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    obs = torch.eye(6)[:2].repeat(128, 1)
    action = torch.arange(256) // 2 % 2
    for _ in range(100):
        t = moves(obs, action, torch.randn(256, 6, generator=generator))
        bonus.update(t)
    known = float(bonus.reward(t).mean())
    assert known < 0.02, f"they disagree by {known} on the mean of unit noise"


@pytest.mark.slow
def test_members_disagree_where_nobody_has_been() -> None:
    corner = (PLACES < 6).all(1)
    t = all_moves()
    seen = t[corner[t.obs.argmax(1)] & corner[t.next_obs.argmax(1)]]
    bonus = Disagreement(box(104), FOUR, lr=3e-3, updates=16)
    for _ in range(60):
        bonus.update(seen)
    known = float(bonus.reward(seen).mean())
    unknown = float(bonus.reward(t[~corner[t.obs.argmax(1)]]).mean())
    assert unknown > 3.0 * known, (unknown, known)


def test_members_differ_and_each_is_a_model_of_its_own() -> None:
    """One batched program must equal its members one by one; clones would never disagree."""
    bonus = Disagreement(box(6), FOUR, members=4, **QUICK)
    t = moves(torch.randn(32, 6), torch.randint(4, (32,)), torch.randn(32, 6))
    for _ in range(20):
        bonus.update(t)
    means = bonus.predictions(t.obs, t.action).detach()
    assert means.shape == (4, 32, 6)
    assert all((means[i] - means[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))
    paid = bonus.reward(t)
    biased = means.var(0, unbiased=False).mean(1)
    unbiased = means.var(0, unbiased=True).mean(1)
    torch.testing.assert_close(paid / paid.mean(), biased / biased.mean(), rtol=1e-4, atol=1e-5)
    assert float(paid.mean() / biased.mean()) <= float(unbiased.mean() / biased.mean()) + 1e-4


@pytest.mark.slow
def test_members_see_bootstraps_of_their_own() -> None:
    """Trained for long on two contradicting draws, members that all saw both would agree."""
    torch.manual_seed(0)
    bonus = Disagreement(box(1), FOUR, members=8, lr=1e-2, updates=64)
    obs = torch.zeros(5, 1)
    t = moves(obs, torch.zeros(5).long(), torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]]))
    bonus.update(t)
    for _ in range(8):  # nothing new, so that the bootstrap is still that of five draws
        bonus.update(t)
    means = bonus.predictions(obs[:1], torch.zeros(1).long()).detach().flatten()
    assert float(means.std()) > 0.02, means


def test_distillation_looks_at_standardised_observations() -> None:
    """Units must not matter; statistics are part of the state, and only learning moves them."""
    generator = torch.Generator().manual_seed(0)
    seen = [torch.randn(64, 5, generator=generator) for _ in range(12)]
    paid = []
    for scale, shift in ((1.0, 0.0), (100.0, 7.0)):
        bonus = RND(box(5), lr=1e-3)
        for x in seen:
            bonus.update(arriving_at(scale * x + shift))
        paid.append(bonus.reward(arriving_at(scale * seen[0] + shift)))
    torch.testing.assert_close(paid[0], paid[1], rtol=0.02, atol=1e-4)


@pytest.mark.slow
def test_distillation_tires_of_what_it_has_seen() -> None:
    torch.manual_seed(0)
    bonus = RND(box(104))
    corner = (PLACES < 6).all(1)
    seen = joined(wander(200)).next_obs
    seen = seen[corner[seen.argmax(1)]]
    for part in seen.split(256):
        bonus.update(arriving_at(part))
    paid = bonus.reward(arriving_at(EYE))
    assert (paid >= 0).all()
    assert float(paid[~corner].min()) > float(paid[corner].median())
    assert float(paid[~corner].mean()) > 3.0 * float(paid[corner].mean())

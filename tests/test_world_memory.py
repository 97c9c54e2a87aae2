"""M: its chain rule by hand, its loss and its temperature."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import one_hot

from rlgen.agents.world_model import GRU, Attention, Memory
from rlgen.agents.world_model.memory import Windows
from rlgen.agents.world_model.recurrence import Recurrence
from rlgen.generative import MADE, NADE, DensityModel, MixtureDensityNetwork, RealNVP, heads
from rlgen.generative.support import unchecked
from tests.truth import randomise

RECURRENCES: dict[str, Callable[[], Recurrence]] = {
    "GRU": lambda: GRU(8),
    "Attention": lambda: Attention(8, layers=2, attention_heads=2, window=4),
}
DENSITIES: dict[str, Callable[[], DensityModel]] = {
    "MADE": lambda: MADE(2, head=heads.Categorical(3), hidden=(16,), context_shape=8),
    "NADE": lambda: NADE(2, head=heads.Categorical(3), hidden=8, context_shape=8),
    "MDN": lambda: MixtureDensityNetwork(2, context_shape=8, components=3, hidden=(16,)),
    "Gaussian": lambda: MixtureDensityNetwork(
        2, context_shape=8, hidden=(16,), head=heads.Normal()
    ),
    "RealNVP": lambda: RealNVP(2, transforms=2, hidden=(8,), context_shape=8),
}
TOKENS = ("MADE", "NADE")


def memory_of(density: str = "MADE", recurrence: str = "GRU") -> Memory:
    memory = Memory(
        DENSITIES[density](), actions=3, recurrence=RECURRENCES[recurrence](), hidden=8, noise=0.3
    ).double()
    randomise(memory, 0.3, 0)
    return memory.eval()


def latents(density: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if density in TOKENS:
        return torch.randint(3, (*shape, 2), generator=generator)
    return torch.randn(*shape, 2, generator=generator, dtype=torch.float64)


def windows(density: str, batch: int = 4, steps: int = 6, seed: int = 0) -> Windows:
    generator = torch.Generator().manual_seed(100 + seed)
    return Windows(
        latents(density, batch, steps + 1, seed=seed),
        torch.randint(3, (batch, steps), generator=generator),
        torch.randn(batch, steps, generator=generator, dtype=torch.float64),
        torch.rand(batch, steps, generator=generator) < 0.3,
        *torch.ones(2, batch, steps, dtype=torch.float64),
    )


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("recurrence", ["GRU", "Attention"])
def test_log_probs_are_the_chain_rule_by_hand(density: str, recurrence: str) -> None:
    """The t-th step: z_t and a_t go in, and z_{t+1} is told: a memory stepped by hand says so."""
    memory = memory_of(density, recurrence)
    w = windows(density, steps=9)
    z_next, reward, end = memory.log_probs(*w.pair())
    assert z_next.shape == reward.shape == end.shape == (4, 9)
    state = memory.initial_state(4).double()
    for t in range(9):
        state = memory.step(w.z[:, t], w.action[:, t], state)
        h = memory.summary(state)
        after = w.z[:, t + 1]
        direct = memory.density.log_prob(after, h)
        torch.testing.assert_close(z_next[:, t], direct, rtol=1e-6, atol=1e-8)
        seen = one_hot(after, 3).flatten(1).double() if density in TOKENS else after
        mean, scale, logit = memory.outcome(torch.cat([h, memory.embedding(seen)], 1)).unbind(1)
        told = Normal(mean, heads.positive(scale, 0.05)).log_prob(w.reward[:, t])
        torch.testing.assert_close(reward[:, t], told, rtol=1e-6, atol=1e-8)
        over = torch.where(w.terminated[:, t], logit.sigmoid(), 1.0 - logit.sigmoid()).log()
        torch.testing.assert_close(end[:, t], over, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_all_futures_of_a_tiny_memory_have_the_probability_one() -> None:
    """Two tokens of three symbols, two steps, both ends, and rewards by quadrature."""
    memory = memory_of("MADE")
    pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))
    futures = torch.stack([torch.stack([a, b]) for a in pairs for b in pairs])  # (81, 2, 2)
    first = torch.tensor([[1, 2]]).expand(81, 1, 2)
    z = torch.cat([first, futures], 1)
    action = torch.tensor([[2, 0]]).expand(81, 2)
    rewards = torch.linspace(-20.0, 20.0, 4001, dtype=torch.float64)
    joint = torch.zeros(81, dtype=torch.float64)
    for ends in itertools.product([False, True], repeat=2):
        end = torch.tensor([ends]).expand(81, 2)
        told = (z[:, 1:], torch.zeros(81, 2, dtype=torch.float64), end)
        log_z, _, log_end = memory.log_probs(told, (z[:, :-1], action, torch.ones(81, 2).double()))
        joint += (log_z + log_end).sum(1).exp()
    assert float(joint.sum()) == pytest.approx(1.0, abs=1e-9)
    many = z[:1].expand(4001, -1, -1)
    told = (many[:, 1:], rewards[:, None].expand(-1, 2), torch.zeros(4001, 2).bool())
    given = (many[:, :-1], action[:1].expand(4001, -1), torch.ones(4001, 2).double())
    density = memory.log_probs(told, given)[1].exp()
    mass = torch.trapezoid(density, rewards, dim=0)
    torch.testing.assert_close(mass, torch.ones(2).double(), rtol=0, atol=1e-6)
    mean = torch.trapezoid(density * rewards[:, None], rewards, dim=0)
    spread = torch.trapezoid(density * (rewards[:, None] - mean).square(), rewards, dim=0).sqrt()
    assert (spread > 0.05).all(), "rewards are never surer than that"


def test_rewards_and_ends_hang_on_where_a_step_leads_and_on_nothing_later() -> None:
    memory = memory_of("MDN")
    w = windows("MDN")

    def of(k: int) -> Callable[[Tensor], Tensor]:
        def told(z: Tensor) -> Tensor:
            (_, reward, end), given = w._replace(z=z).pair()
            return memory.log_probs((z[:, 1:], reward, end), given)[k].sum(0)

        return told

    for k, ahead in ((0, 1), (1, 1), (2, 1)):
        reach = torch.autograd.functional.jacobian(of(k), w.z).abs().amax((1, 3))  # (T, T + 1)
        assert (reach.triu(ahead + 1) == 0).all()
        assert (reach.diagonal(ahead) > 0).all() and (reach.diagonal(0) > 0).all()


@pytest.mark.parametrize("density", ["MADE", "MDN"])
@torch.no_grad()
def test_what_is_foreseen_is_what_log_probs_say(density: str) -> None:
    memory = memory_of(density)
    n = 40_000
    state = memory.step(latents(density, 1), torch.tensor([1]), memory.initial_state(1).double())
    seen = memory.foresee(state.expand(n, -1))
    assert seen.z.shape == (n, 2) and seen.reward.shape == seen.terminated.shape == (n,)
    assert seen.terminated.dtype == torch.bool
    given = (
        latents(density, 1)[:, None].expand(n, 1, 2),
        torch.ones(n, 1).long(),
        torch.ones(n, 1).double(),
    )
    one = torch.ones(n, 1, dtype=torch.bool)
    told = (seen.z[:, None], seen.reward[:, None].double(), one)
    log_z, log_r, log_end = memory.log_probs(told, given)
    beside = [
        memory.log_probs((told[0], told[1] + gap, one), given)[1] for gap in (-0.1, 0.1)
    ]  # the reward is the mean of its density, which is symmetric and nowhere higher
    known = seen.reward != 0.0  # what M cannot tell from nothing counts as nothing
    assert (seen.reward[known].abs() > 0.05).all() and known.any()
    torch.testing.assert_close(*(part[known] for part in beside), rtol=1e-4, atol=1e-4)
    assert (log_r > beside[0])[known].all()
    rate = log_end.exp().mean()
    assert float(seen.terminated.double().mean() - rate) == pytest.approx(0.0, abs=0.012)
    if density == "MADE":
        number = 3 * seen.z[:, 0] + seen.z[:, 1]
        share = number.bincount(minlength=9).double() / n
        exact = torch.zeros(9).double().index_copy(0, number, log_z[:, 0].exp())
        assert (share - exact).abs().max() < 0.012
    else:  # entropy two ways: the mean of -log p over draws, and p integrated on a grid
        axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        log_p = memory.density.log_prob(grid, memory.summary(state).expand(len(grid), -1))
        entropy = -(log_p.exp() * log_p).sum() * 0.1**2
        assert float(-log_z.mean()) == pytest.approx(float(entropy), abs=0.05)


@pytest.mark.parametrize("density", ["MADE", "MDN"])
def test_the_loss_is_nats_a_step_and_padding_has_no_weight(density: str) -> None:
    memory = memory_of(density)
    w = windows(density)
    parts = sum(memory.log_probs(*w.pair()))
    torch.testing.assert_close(memory.loss(*w.pair()), -parts.mean(1))  # type: ignore[union-attr]
    weight = w.weight.clone()
    weight[1, 4:] = 0
    weight[2, 1:] = 0
    padded = w._replace(weight=weight, fair=weight)
    other = windows(density, seed=5)
    kept = weight.bool()
    z = w.z.clone()
    z[:, 1:] = torch.where(kept[..., None], w.z[:, 1:], other.z[:, 1:])
    garbage = Windows(
        z,
        torch.where(kept, w.action, other.action),
        torch.where(kept, w.reward, 1e3),
        torch.where(kept, w.terminated, ~w.terminated),
        weight,
        weight,
    )
    loss = memory.loss(*padded.pair())
    torch.testing.assert_close(loss, memory.loss(*garbage.pair()))
    counted = -(parts * weight).sum() / weight.sum()
    torch.testing.assert_close(loss.mean(), counted)  # each step of a batch counts the same


def test_latents_have_weights_of_their_own_and_rewards_and_ends_the_plain_ones() -> None:
    memory, w = memory_of(), windows("MADE")
    weight, fair = torch.rand(2, *w.weight.shape, dtype=torch.float64)
    latent, reward, end = memory.log_probs(*w.pair())
    by_hand = -(fair * latent + weight * (reward + end)).sum() / weight.sum()
    loss = memory.loss(*w._replace(weight=weight, fair=fair).pair())
    torch.testing.assert_close(loss.mean(), by_hand)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@torch.no_grad()
def test_noise_is_on_the_summary_while_it_is_learnt_and_at_no_other_time(
    recurrence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of("MDN", recurrence)
    w = windows("MDN", batch=64, steps=10)
    exact = memory.recurrence.unroll(memory._inputs(w.z[:, :-1], w.action)).flatten(0, 1)
    read: list[Tensor] = []
    density, outcome = memory.density.log_prob, memory.outcome.forward
    monkeypatch.setattr(
        memory.density, "log_prob", lambda x, context: read.append(context) or density(x, context)
    )
    monkeypatch.setattr(memory.outcome, "forward", lambda x: read.append(x[:, :8]) or outcome(x))

    for call in (
        lambda: memory.eval().loss(*w.pair()),
        lambda: memory.train().log_probs(*w.pair()),
    ):
        call()
        assert all(torch.equal(read.pop(), exact) for _ in range(2))
    state = memory.initial_state(64).double()
    for t in range(10):  # nor is it in what is remembered
        state = memory.train().step(w.z[:, t], w.action[:, t], state)
    torch.testing.assert_close(memory.summary(state), exact.view(64, 10, 8)[:, -1])

    memory.train().loss(*w.pair())
    told, foreseen = read
    assert torch.equal(told, foreseen), "latent, reward and end are read off one summary"
    noise = (told - exact).flatten()  # 5,120 draws
    assert float(noise.mean()) == pytest.approx(0.0, abs=4 * 0.3 / math.sqrt(len(noise)))
    assert float(noise.std()) == pytest.approx(0.3, abs=4 * 0.3 / math.sqrt(2 * len(noise)))
    assert len(noise.unique()) == len(noise), "each number of each step has its own"


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 1.7, 5.0])
def test_temperature_is_one_convention_for_symbols_and_mixtures(temperature: float) -> None:
    """p^(1/t) of symbols and of components; variances times t."""
    outputs = torch.randn(6, 4, dtype=torch.float64)
    cold = heads.Categorical(4, temperature)(outputs).probs
    power = outputs.softmax(1) ** (1 / temperature)
    torch.testing.assert_close(cold, power / power.sum(1, keepdim=True))
    outputs = torch.randn(6, 3 * (1 + 2 * 2), dtype=torch.float64)
    warm = heads.MixtureOfNormals(3)(outputs, (2,))
    told = heads.MixtureOfNormals(3, temperature=temperature)(outputs, (2,))
    x = torch.randn(6, 2, dtype=torch.float64)
    normal = torch.distributions.Normal(
        warm.component_distribution.mean, warm.component_distribution.stddev * temperature**0.5
    )
    inside = normal.log_prob(x[:, None]).flatten(2).sum(2)
    weights = warm.mixture_distribution.probs ** (1 / temperature)
    by_hand = (inside + (weights / weights.sum(1, keepdim=True)).log()).logsumexp(1)
    torch.testing.assert_close(told.log_prob(x), by_hand)
    outputs = torch.randn(6, 4, dtype=torch.float64)
    one, two = heads.Normal()(outputs, (2,)), heads.Normal(temperature=temperature)(outputs, (2,))
    torch.testing.assert_close(two.variance, one.variance * temperature)
    torch.testing.assert_close(two.mean, one.mean)


def drawn_at(memory: Memory, temperature: float, n: int = 20_000) -> Tensor:
    z = latents("MADE" if memory.density.support != heads.Normal.support else "MDN", 1)
    state = memory.step(z, torch.tensor([1]), memory.initial_state(1).double())
    return memory.at_temperature(temperature).foresee(state.expand(n, -1)).z


@pytest.mark.parametrize("density", TOKENS)
def test_tokens_are_drawn_at_their_temperature(density: str) -> None:
    """Each conditional of the chain is sharpened: by enumeration at t, and in both limits."""
    memory = memory_of(density)
    z = latents("MADE", 1)
    h = memory.summary(memory.step(z, torch.tensor([1]), memory.initial_state(1).double()))
    pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))
    p = memory.density.log_prob(pairs, h.expand(9, -1)).exp().reshape(3, 3)
    first, second = p.sum(1), p / p.sum(1, keepdim=True)

    def sharp(q: Tensor, t: float) -> Tensor:
        q = q ** (1 / t)
        return q / q.sum(-1, keepdim=True)

    for t in (0.5, 1.0, 2.0):
        z = drawn_at(memory, t)
        share = (3 * z[:, 0] + z[:, 1]).bincount(minlength=9).double() / len(z)
        exact = (sharp(first, t)[:, None] * sharp(second, t)).flatten()
        assert (share - exact).abs().max() < 0.015, t
    frozen = drawn_at(memory, 1e-4, 100)
    best = int(first.argmax())
    assert (frozen == torch.tensor([best, int(second[best].argmax())])).all()
    hot = drawn_at(memory, 1e4)
    share = (3 * hot[:, 0] + hot[:, 1]).bincount(minlength=9).double() / len(hot)
    assert (share - 1 / 9).abs().max() < 0.015


def test_mixtures_and_normals_are_drawn_at_their_temperature() -> None:
    memory = memory_of("Gaussian")
    plain = drawn_at(memory, 1.0)
    for t in (0.25, 4.0):
        told = drawn_at(memory, t)
        torch.testing.assert_close(
            told.var(0) / plain.var(0), torch.full((2,), t).double(), rtol=0.06, atol=0
        )
        assert (told.mean(0) - plain.mean(0)).abs().max() < 0.08 * max(1, t)
    memory = memory_of("MDN")
    assert drawn_at(memory, 1e-6, 200).std(0).max() < 0.01  # one component, and its mean


def test_a_memory_at_another_temperature_shares_its_weights_and_leaves_it_alone() -> None:
    memory = memory_of("MADE")
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    w = windows("MADE")
    loss = memory.loss(*w.pair())
    cold = memory.at_temperature(0.1)
    torch.testing.assert_close(memory.loss(*w.pair()), loss)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.1)
    state = memory.initial_state(4).double()
    torch.testing.assert_close(
        cold.step(w.z[:, 0], w.action[:, 0], state), memory.step(w.z[:, 0], w.action[:, 0], state)
    )
    assert before.keys() == memory.state_dict().keys()
    assert torch.equal(drawn_at(cold, 1e-4, 9), drawn_at(memory, 1e-4, 9))


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("recurrence", [None, "GRU", "Attention"])
def test_any_density_with_any_recurrence(density: str, recurrence: str | None) -> None:
    made = None if recurrence is None else RECURRENCES[recurrence]()
    memory = Memory(DENSITIES[density](), actions=3, recurrence=made)
    w = Windows(*(p.float() if p.is_floating_point() else p for p in windows(density)))
    loss = memory.loss(*w.pair())
    assert loss.shape == (4,) and loss.isfinite().all()
    loss.mean().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    state = memory.step(w.z[:, 0], w.action[:, 0], memory.initial_state(4))
    assert memory.summary(state).shape == (4, memory.summary_size)
    torch.testing.assert_close(
        memory.states(w.z[:, :-1], w.action)[:, 0], state, rtol=1e-4, atol=1e-5
    )
    seen = memory.foresee(state)
    assert seen.z.shape == (4, 2) and seen.z.dtype == w.z.dtype
    meta = memory.to("meta")
    with unchecked():
        state = meta.step(w.z[:, 0].to("meta"), w.action[:, 0].to("meta"), state.to("meta"))
        assert meta.foresee(state).reward.shape == (4,)


def test_a_temperature_needs_a_head_that_has_one() -> None:
    memory = memory_of("RealNVP")
    assert memory.at_temperature(1.0).foresee(memory.initial_state(3).double()).z.shape == (3, 2)
    with pytest.raises(TypeError, match=r"temperature.*RealNVP"):
        memory.at_temperature(0.5)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            memory_of("MADE").at_temperature(wrong)


def test_errors_are_clear() -> None:
    with pytest.raises((ValueError, TypeError), match="context"):
        Memory(MADE(2, head=heads.Categorical(3)), actions=3)
    with pytest.raises(ValueError, match=r"recurrence|width"):
        Memory(DENSITIES["MADE"](), actions=3, recurrence=GRU(9))
    with pytest.raises(ValueError, match="actions"):
        Memory(DENSITIES["MADE"](), actions=0)
    with pytest.raises(ValueError, match="scale"):
        Memory(DENSITIES["MADE"](), actions=3, reward_scale=0.0)
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="noise"):
            Memory(DENSITIES["MADE"](), actions=3, noise=wrong)
    memory, w = memory_of("MADE"), windows("MADE")
    (z_next, reward, end), (z, action, *weights) = w.pair()
    for told, given in [
        ((z_next[..., :1], reward, end), (z, action)),
        ((z_next, reward[:, 1:], end), (z, action)),
        ((z_next, reward, end), (z, action[:, 1:])),
        ((z_next, reward, end), (z[:2], action)),
        ((z_next, reward.T, end), (z, action)),
    ]:
        with pytest.raises(ValueError, match="of the same steps"):
            memory.loss(told, (*given, *weights))
    for few in range(2):
        with pytest.raises(ValueError, match=r"got [23] parts"):
            memory.loss((z_next, reward, end), (z, action, *weights[:few]))

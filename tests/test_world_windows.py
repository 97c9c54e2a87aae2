"""The pieces of episodes that M learns from, and what it learns from them on a known process."""

import pytest
import torch
from torch import Tensor

from rlgen.agents.imitation import Demonstrations, Trajectory
from rlgen.agents.world_model import Memory, WorldModel
from rlgen.agents.world_model.episodes import Latents
from rlgen.agents.world_model.memory import Windows
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from
from tests.exact_models import ExactMemory, everywhere, exact_vision
from tests.walks import seeded

LENGTHS = [1, 2, 3, 5, 9, 20, 40, 7]
ENDING = [True, False, True, True, False, False, False, True]


def of_step(k: Tensor) -> tuple[Tensor, Tensor]:
    """The action and the reward of the k-th latent of the stream: all differ from the next ones."""
    return (k * 7 + k // 3) % 5, 0.5 * k - 3.0


def stream() -> tuple[Demonstrations, Tensor]:
    """Episodes whose k-th observation is k; and for each k the number of its episode."""
    walks, owner, begin = [], [], 0
    for i, (length, terminated) in enumerate(zip(LENGTHS, ENDING, strict=True)):
        k = torch.arange(begin, begin + length + 1)
        action, reward = of_step(k[:-1])
        walks.append(Trajectory(k.float()[:, None], action, terminated, not terminated, reward))
        owner += [i] * (length + 1)
        begin += length + 1
    return Demonstrations(tuple(walks)), torch.tensor(owner)


def known() -> tuple[Latents, Tensor]:
    data, owner = stream()
    vision = exact_vision(torch.arange(float(len(owner)))[:, None])
    return Latents.of(data, vision), owner


def check(w: Windows, owner: Tensor) -> None:
    """Each step that has weight is one step of the stream, and follows the one before it."""
    live = w.weight.bool()
    assert w.z.shape == (len(live), live.shape[1] + 1, 1)
    assert live[:, 0].all() and (live[:, 1:] <= live[:, :-1]).all()
    assert ((w.weight == 0) | (w.weight == 1)).all()
    k = w.z[..., 0]
    action, reward = of_step(k[:, :-1])
    assert torch.equal(k[:, 1:][live], k[:, :-1][live] + 1)
    assert torch.equal(w.action[live], action[live])
    assert torch.equal(w.reward[live], reward[live])
    assert torch.equal(owner[k[:, 1:]][live], owner[k[:, :-1]][live])
    last = torch.cat([owner[1:] != owner[:-1], torch.tensor([True])])
    ends = last[k[:, 1:]] & torch.tensor(ENDING)[owner[k[:, 1:]]]
    assert torch.equal(w.terminated[live].bool(), ends[live])


@pytest.mark.parametrize("length", [1, 4, 16, 64])
@pytest.mark.parametrize("ends", [0.0, 0.25, 0.99])
def test_the_action_at_a_time_leads_from_its_latent_to_the_next_one(
    length: int, ends: float
) -> None:
    """No window crosses an episode, whatever its length; nothing is off by one."""
    latents, owner = known()
    w = latents.windows(500, length, ends=ends)
    check(w, owner)
    (z_next, reward, end), (z, action, weight, _) = w.pair()
    assert torch.equal(z_next, w.z[:, 1:]) and torch.equal(z, w.z[:, :-1])
    for pair, part in zip(
        (reward, end, action, weight), (*w[2:4], w.action, w.weight), strict=True
    ):
        assert torch.equal(pair, part)


def test_padded_rows_are_the_whole_episodes() -> None:
    latents, owner = known()
    w = latents.padded()
    check(w, owner)
    assert w.weight.sum(1).tolist() == LENGTHS
    assert w.weight.shape == (len(LENGTHS), max(LENGTHS))
    assert torch.equal(w.z[:, 0, 0], (owner[:, None] < torch.arange(8)).sum(0))


@pytest.mark.parametrize("ends", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("length", [1, 4, 16])
def test_every_step_counts_the_same_for_what_comes_next(length: int, ends: float) -> None:
    """The first and the last steps of an episode too, and those that are met more often."""
    latents, owner = known()
    w = latents.windows(80_000, length, ends=ends)
    step = w.z[:, :-1, 0]
    counted = torch.zeros(len(owner)).index_add_(0, step.flatten(), w.fair.flatten())
    goes_on = torch.cat([owner[1:] == owner[:-1], torch.tensor([False])])
    assert (counted[~goes_on] == 0).all()
    counted = counted[goes_on] / counted[goes_on].mean()
    torch.testing.assert_close(counted, torch.ones_like(counted), rtol=0, atol=0.2)
    assert float(w.fair.sum() / w.weight.sum()) == pytest.approx(1.0, abs=0.02)
    if not ends:
        torch.testing.assert_close(w.fair, w.weight)


@pytest.mark.parametrize("repeated", [0, 1, 9])
@pytest.mark.parametrize("length", [1, 4, 16, 64])
def test_over_all_windows_that_there_can_be_every_step_has_the_same_weight(
    length: int, repeated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly: each place once, and each end so many times, in place of draws."""
    latents, owner = known()
    spans, ended = latents.steps + length - 1, torch.tensor(ENDING).nonzero()[:, 0]
    some = repeated * len(ended)
    episode = torch.arange(len(spans)).repeat_interleave(spans)
    last = torch.cat([torch.arange(span) for span in spans.tolist()])
    filled = torch.zeros(some).long()  # in their place the ends come
    rows = torch.cat([filled, episode])
    place = (torch.cat([filled, last]) + 0.5) / spans[rows]
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: rows.clone())
    monkeypatch.setattr(torch, "rand", lambda *_, **__: place)
    monkeypatch.setattr(
        torch, "randint", lambda *_, **__: torch.arange(len(ended)).repeat(repeated)
    )
    w = latents.windows(len(rows), length, ends=some / len(rows))
    check(w, owner)
    counted = torch.zeros(len(owner)).index_add_(0, w.z[:, :-1].flatten(), w.fair.flatten())
    steps = torch.cat([owner[1:] == owner[:-1], torch.tensor([False])])
    even = steps * w.weight.sum() / steps.sum()
    torch.testing.assert_close(counted, even, rtol=1e-4, atol=0)
    if repeated:  # by the plain weight they differ
        counted = torch.zeros(len(owner)).index_add_(0, w.z[:, :-1].flatten(), w.weight.flatten())
        assert counted[steps].max() > counted[steps].min()


def test_what_fit_is_told_reaches_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []
    cut = Latents.windows

    def noted(latents: Latents, count: int, length: int, ends: float) -> Windows:
        asked.append((count, length, ends))
        return cut(latents, count, length, ends)

    monkeypatch.setattr(Latents, "windows", noted)
    data, owner = stream()
    model = WorldModel(
        exact_vision(torch.arange(float(len(owner)))[:, None]),
        Memory.of(1, actions=5, symbols=len(owner), width=8),
    )
    model.data = data
    for ends in (0.0, 0.4):
        model.fit(vision_steps=0, memory_steps=2, batch_size=6, window=3, ends=ends)
    assert asked == [(6, 3, 0.0)] * 2 + [(6, 3, 0.4)] * 2


def test_luck_is_as_rare_as_it_is() -> None:
    """Where chance decides what ends an episode, a memory of one step foresees no more of it."""
    coin = torch.tensor([0.0, 1.0, 2.0])[:, None]  # nothing yet, no luck, luck, which ends it
    lucky, unlucky = (
        Trajectory(coin[[0, k]], torch.zeros(1).long(), k == 2, k == 1, torch.zeros(1))
        for k in (2, 1)
    )
    data = Demonstrations((*[lucky] * 2, *[unlucky] * 18))
    w = Latents.of(data, exact_vision(coin)).windows(20_000, 1, ends=0.5)
    met = (w.z[:, 1, 0] == 2).double()
    assert float(met.mean()) == pytest.approx(0.55, abs=0.02)
    assert float((met * w.fair[:, 0]).mean()) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("ends", [0.0, 0.25, 0.6, 0.99])
def test_a_share_of_the_windows_ends_where_an_episode_terminated(ends: float) -> None:
    """In one long stream with a rare end the rest hardly ever does."""
    k = torch.arange(2001)
    action, reward = of_step(k[:-1])
    one = [Trajectory(k.float()[:, None], action, flag, not flag, reward) for flag in (True, False)]
    latents = Latents.of(Demonstrations((*one,)), exact_vision(k.float()[:, None]))
    w = latents.windows(1000, 8, ends=ends)
    closing = w.terminated[:, -1].bool()
    assert float(closing.double().mean()) == pytest.approx(ends, abs=0.01)
    assert (w.z[closing, -1, 0] == 2000).all() and (w.weight[closing] == 1).all()


@pytest.mark.parametrize(("count", "ends"), [(64, 1.0), (64, 0.995), (1, 0.6), (8, -0.1), (8, 1.5)])
def test_a_share_of_ends_leaves_something_to_the_other_steps(count: int, ends: float) -> None:
    """Steps that are far from an end are in no window otherwise."""
    with pytest.raises(ValueError, match="ends"):
        known()[0].windows(count, 4, ends=ends)


def test_without_an_end_there_is_none_to_prefer() -> None:
    data, owner = stream()
    going = [Trajectory(d.obs, d.action, False, True, d.reward) for d in data]
    vision = exact_vision(torch.arange(float(len(owner)))[:, None])
    w = Latents.of(Demonstrations((*going,)), vision).windows(100, 4, ends=0.5)
    assert not w.terminated.any() and w.weight[:, 0].all()


def numbers(noise: float = 0.5) -> Latents:
    latents, _ = known()
    mean = latents.mean.double() / 10.0
    return Latents(
        mean, torch.full_like(mean, noise), latents.action, latents.reward,
        latents.terminated, latents.first, latents.steps,
    )  # fmt: skip


def test_the_encoders_noise_is_drawn_afresh_each_time() -> None:
    """Trap: one draw of z for all epochs, which a memory learns by heart."""
    latents = numbers()
    index = torch.full((20_000,), 17)
    drawn = latents.draw(index)
    assert float(drawn.mean() - 1.7) == pytest.approx(0.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)
    assert len(drawn.unique()) > 19_990
    with drawing_from(0):
        one = latents.windows(50, 4)
        other = latents.windows(50, 4)
    assert not torch.equal(one.z, other.z)
    error = one.z[..., 0] - (one.z[..., 0] * 10).round() / 10
    assert error.std() > 0.02
    begin = int(latents.first[6])
    exact = latents.mean[begin : begin + 41, 0]
    assert torch.equal(latents.padded().z[6, :, 0], exact)  # without noise
    w = one.pair()
    assert torch.equal(w[0][0][:, :-1], w[1][0][:, 1:])  # what is told is what is given next


@pytest.mark.parametrize("resets", [False, True])
def test_dreams_can_begin_anywhere_but_at_an_end_and_remember_what_came_before(
    resets: bool,
) -> None:
    latents, owner = known()
    memory = Memory.of(1, actions=5, symbols=len(owner), width=8)
    z, state = latents.starts(memory, 3000, resets=resets)
    last = torch.cat([owner[1:] != owner[:-1], torch.tensor([True])])
    first = torch.cat([torch.tensor([True]), owner[1:] != owner[:-1]])
    allowed = first if resets else ~last
    assert torch.equal(z[:, 0].sort().values.unique(), allowed.nonzero()[:, 0])
    for k in z[:, 0].unique().tolist():
        by_hand = memory.initial_state(1)
        begin = int((owner < owner[k]).sum())
        for past in range(begin, k):
            action = of_step(torch.tensor([past]))[0]
            by_hand = memory.step(torch.tensor([[past]]), action, by_hand)
        same = state[z[:, 0] == k]
        torch.testing.assert_close(same, by_hand.detach().expand_as(same), rtol=0, atol=1e-5)
    few, states = latents.starts(memory, 5, resets=resets)
    assert few.shape == (5, 1) and states.shape == (5, 8)


def test_bug_2_actions_one_step_off_would_be_seen() -> None:
    """z' = z + a mod 5 with fair coins for actions: any other pairing knows nothing of z'.

    Rewards and pictures would not tell on a grid, where neighbours look alike.
    """
    generator = torch.Generator().manual_seed(0)
    walks = []
    for _ in range(40):
        action = torch.randint(2, (25,), generator=generator)
        z = torch.cat([torch.zeros(1).long(), action.cumsum(0) + torch.arange(1, 26)]) % 5
        walks.append(Trajectory(z.float()[:, None], action, False, True, torch.zeros(25)))
    vision = exact_vision(torch.arange(5.0)[:, None])
    memory = seeded(lambda: Memory.of(1, actions=2, symbols=5, width=16))
    model = WorldModel(vision, memory)
    model.data = Demonstrations((*walks,))
    model.fit(vision_steps=0, memory_steps=300, batch_size=32, window=8, lr=1e-2)
    z, action = torch.cartesian_prod(torch.arange(5), torch.arange(2)).unbind(1)
    state = memory.step(z[:, None], action, memory.initial_state(10))
    every = torch.arange(5).repeat(10)[:, None]
    mass = memory.density.log_prob(every, memory.summary(state).repeat_interleave(5, 0))
    foretold = mass.exp().unflatten(0, (10, 5))[torch.arange(10), (z + action + 1) % 5]
    assert (foretold > 0.75).all(), foretold  # with actions one step off it is half at most


def test_rewards_must_be_known() -> None:
    data, owner = stream()
    silent = Demonstrations(
        tuple(Trajectory(d.obs, d.action, d.terminated, d.truncated) for d in data)
    )
    with pytest.raises(ValueError, match="reward"):
        Latents.of(silent, exact_vision(torch.arange(float(len(owner)))[:, None]))


@torch.enable_grad()
def walked(slip: float, episodes: int, steps: int, width: int = 64) -> WorldModel:
    """M alone is learnt: V is the table of the 104 cells."""
    vision = exact_vision(everywhere())
    memory = seeded(lambda: Memory.of(1, actions=4, symbols=104, width=width))
    model = WorldModel(vision, memory)
    model.collect(FourRooms(100, slip=slip), episodes)
    model.fit(vision_steps=0, memory_steps=steps, lr=6e-3)
    return model


@pytest.mark.slow
@torch.no_grad()
def test_r21_tokens_are_right_for_thirty_steps() -> None:
    """27k real steps without a slip: cells, illegal moves, false and missed goals."""
    model = walked(0.0, 300, 4000)
    assert 24_000 <= model.data.steps <= 30_000
    world = FourRooms(1)
    n, horizon, goal = 4000, 30, int(world.goal)
    generator = torch.Generator().manual_seed(1)
    cells = (~world.mdp().terminal).nonzero()[:, 0]
    begin = cells[torch.randint(103, (n,), generator=generator)]
    actions = torch.randint(4, (horizon, n), generator=generator)
    dreamt = model.imagine(everywhere()[begin], actions, generator=2)
    z = dreamt.z[..., 0]
    true = [begin]
    for action in actions:
        true.append(world.next_cell[true[-1], action])
    ended = torch.stack(true).eq(goal).any(0)
    right = (z[-1] == true[-1])[~ended]
    assert len(right) > 1000 and float(right.double().mean()) >= 0.95
    before = torch.cat([torch.zeros(1, n), dreamt.terminated.cumsum(0)[:-1]]) == 0
    illegal = (z[1:] != world.next_cell[z[:-1], actions])[before]
    assert float(illegal.double().mean()) <= 1e-3
    at_goal = z[1:] == goal
    assert int((dreamt.terminated & ~at_goal & before).sum()) == 0
    assert int((~dreamt.terminated & at_goal & before).sum()) == 0
    assert int((at_goal & before).sum()) > 100
    torch.testing.assert_close(dreamt.reward[before], at_goal[before].float(), rtol=0, atol=0.2)


@pytest.mark.slow
@torch.no_grad()
def test_r21_nats_a_step_are_those_of_the_process() -> None:
    """100k steps, slip 0.1: on fresh episodes, and 15 steps ahead against P^15."""
    model = walked(0.1, 1150, 1200)
    assert 90_000 <= model.data.steps <= 115_000
    fresh = WorldModel(model.vision, model.memory).collect(FourRooms(100, slip=0.1), 100, seed=7)
    w = Latents.of(fresh.data, model.vision).padded()
    log_p = model.memory.log_probs(*w.pair())[0]
    live = w.weight.bool()
    mdp = FourRooms(1, slip=0.1).mdp()
    entropy = torch.special.entr(mdp.transition).sum(-1)
    exact = float(entropy[w.z[:, :-1, 0][live], w.action[live]].mean())
    assert exact == pytest.approx(0.418, abs=0.01)
    assert -float(log_p[live].double().mean()) <= exact + 0.05
    n, far = 20_000, 15
    actions = torch.randint(4, (far, n), generator=torch.Generator().manual_seed(3))
    marginal = torch.linalg.matrix_power(mdp.transition.mean(1), far)[0]  # of chance, from a corner
    seen = everywhere()[0].expand(n, -1)
    share = model.imagine(seen, actions, generator=0).z[-1, :, 0].bincount(minlength=104) / n
    assert 0.5 * float((share - marginal).abs().sum()) <= 0.08


@torch.no_grad()
def test_the_exact_memory_passes_its_own_bars() -> None:
    """A check of what stands in for the truth elsewhere."""
    world = FourRooms(1, slip=0.3)
    memory = ExactMemory(world)
    cells = torch.arange(103).repeat_interleave(300)
    cells = cells + (cells >= int(world.goal))
    action = torch.arange(len(cells)) % 4
    state = memory.step(cells[:, None], action, memory.initial_state(len(cells)))
    seen = memory.foresee(state)
    counts = torch.zeros(104, 4, 104).double()
    one = torch.ones(len(cells)).double()
    counts.index_put_((cells, action, seen.z[:, 0]), one, accumulate=True)
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    error = (share - world.mdp().transition)[counts.sum(-1) > 0].abs()
    assert float(error.max()) < 0.25 and float(error.sum(-1).mean()) < 0.2

"""Dreams: worlds like any other; and true ones, where M is the truth."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rlgen.agents import PPO, ActorCritic, Policy, planning
from rlgen.agents.evaluation import evaluate
from rlgen.agents.learners.learner import Learner
from rlgen.agents.rollout import Collector, gae
from rlgen.agents.world_model import Attention, Dream, Memory, Vision, Watched, WorldModel
from rlgen.envs import FourRooms, OpenWorld, World, adapters
from rlgen.generative import VAE, MixtureDensityNetwork, heads
from rlgen.seeding import drawing_from
from tests.exact_models import ExactMemory, cell_starts, everywhere, exact_vision
from tests.walks import copied, same, seeded

CAP = 40


def rooms(n: int = 1, slip: float = 0.1, **options: Any) -> FourRooms:
    return FourRooms(n, slip=slip, max_steps=CAP, **options)


def true_dream(n: int, slip: float = 0.1, **options: Any) -> Dream:
    """A dream whose V and M are the world's own tables."""
    world = rooms(slip=slip)
    memory: Any = ExactMemory(world)
    settings = {"max_steps": CAP, "seed": 0, "remembering": False, **options}
    return Dream(exact_vision(everywhere()), memory, cell_starts(world), num_envs=n, **settings)


def scrambled(kind: str = "tokens", ends: float = -3.0) -> tuple[Vision, Memory]:
    """An M with random weights, whose dreams end now and then."""

    def make() -> tuple[Vision, Memory]:
        memory: Memory
        if kind == "numbers":
            vision = Vision((6,), model=VAE(6, latent=3, hidden=(8,)))
            memory = Memory.of(3, actions=4, width=8)
        elif kind == "gaussian":
            vision = Vision((6,), model=VAE(6, latent=3, hidden=(8,)))
            density = MixtureDensityNetwork(3, context_shape=8, head=heads.Normal())
            memory = Memory(density, actions=4)
        else:
            vision = exact_vision(torch.eye(6))
            recurrence = Attention(8, attention_heads=2, window=4) if kind == "attention" else None
            memory = Memory.of(1, actions=4, symbols=6, width=8, recurrence=recurrence)
        for parameter in memory.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        memory.outcome(torch.zeros(1, 16))
        last = [m for m in memory.outcome.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.bias.data[2] = ends
        return vision, memory

    return seeded(make)


KINDS = ["tokens", "attention", "numbers", "gaussian"]


def dream_of(kind: str = "tokens", n: int = 6, **options: Any) -> Dream:
    vision, memory = scrambled(kind)
    if kind in ("numbers", "gaussian"):
        z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    else:
        z = torch.arange(6)[:, None]
    starts = z, memory.initial_state(len(z))
    return Dream(vision, memory, starts, num_envs=n, **{"max_steps": 12, "seed": 0, **options})


def actions(dream: Any, steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, (steps, dream.num_envs), generator=generator)


def greedy(world: FourRooms, share: float = 0.7) -> Tensor:
    """Mostly along shortest paths, and else anything: pi(a | cell), (104, 4)."""
    best = planning.value_iteration(world.mdp(), discount=0.95).policy
    return share * best + (1 - share) / 4


def discounted(world: World, pi: Tensor, discount: float, seed: int) -> Tensor:
    """Returns of the first episode of each copy."""
    generator = torch.Generator().manual_seed(seed)
    obs = world.reset(seed)
    total, left, weight = torch.zeros(len(obs)), torch.ones(len(obs)), 1.0
    for _ in range(CAP):
        cell = obs[:, :104].argmax(1)
        action = torch.multinomial(pi[cell], 1, generator=generator)[:, 0]
        step = world.step(action)
        total += left * weight * step.reward
        left, weight, obs = left * ~step.done, weight * discount, step.obs
    assert (left == 0).all()
    return total.double()


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_r23_with_the_exact_model_a_dream_is_worth_what_the_world_is(share: float) -> None:
    """Both against the exact value too: within three standard errors."""
    n, discount = 6000, 0.95
    world = rooms(n)
    pi = greedy(world, share)
    found = [discounted(w, pi, discount, 5) for w in (true_dream(n), world)]
    errors = [float(r.std()) / n**0.5 for r in found]
    dreamt, real = (float(r.mean()) for r in found)
    assert abs(dreamt - real) <= 3 * float(np.hypot(*errors))
    exact = planning.expected_return(world.mdp(), pi, discount=discount, horizon=CAP)
    assert abs(dreamt - float(exact)) <= 3 * errors[0]


def test_true_dreams_step_as_the_world_does() -> None:
    """Without slips nothing is left to chance: cells, rewards, ends and pictures in step."""
    dream, world = true_dream(64, slip=0.0), rooms(64, slip=0.0, seed=3)
    world.reset()
    dream.reset()
    for action in actions(dream, 200):
        dreamt = dream.state.z[:, 0]
        world.load_state_dict({**world.state_dict(), "cell": dreamt, "time": dream.time})
        one, other = dream.step(action), world.step(action)
        assert torch.equal(one.final_obs[:, :104].argmax(1), other.final_obs.argmax(1))
        for name in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(dream.frames(), torch.eye(104)[dream.state.z[:, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_dream_keeps_the_contract_of_worlds(kind: str) -> None:
    """Restart in the step that ends; `final_obs` is the ended episode's; the flags stay apart."""
    dream, halves = dream_of(kind), dream_of(kind)
    assert isinstance(dream, World)
    obs = dream.reset()
    assert torch.equal(halves.reset(), obs)
    assert dream.observation_space.shape == obs.shape[1:] and obs.dtype == torch.float32
    assert int(dream.action_space.n) == 4  # type: ignore[attr-defined]
    ends = times = 0
    for action in actions(dream, 160):
        step = dream.step(action)
        reward, terminated, truncated = halves.advance(action)
        assert torch.equal(truncated, halves.time >= 12)
        seen = halves.observe()
        halves.restart(terminated | truncated)
        assert torch.equal(step.final_obs, seen) and torch.equal(step.obs, halves.observe())
        assert torch.equal(step.reward, reward) and step.reward.dtype == torch.float32
        assert torch.equal(step.terminated, terminated)
        assert torch.equal(step.truncated, truncated)
        assert torch.equal(step.final_obs[~step.done], step.obs[~step.done])
        assert step.obs.isfinite().all() and not step.obs.requires_grad
        assert (dream.time[step.done] == 0).all()
        ends, times = ends + int(terminated.sum()), times + int(truncated.sum())
    assert ends > 5 and times > 5
    assert dream.frames().shape == (6, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_settles_a_dream_and_the_global_numbers_stay(kind: str) -> None:
    before = torch.get_rng_state()
    dreams = [dream_of(kind, seed=4), dream_of(kind, seed=4), dream_of(kind, seed=5)]
    runs = []
    for dream in dreams:
        first = dream.reset()
        runs.append(torch.stack([first, *(dream.step(a).obs for a in actions(dream, 30))]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    again = dreams[2].reset(seed=4)
    assert torch.equal(again, runs[0][0])
    assert torch.equal(dreams[2].step(actions(dreams[2], 1)[0]).obs, runs[0][1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_dream_goes_on_exactly(kind: str) -> None:
    dream = dream_of(kind)
    dream.reset()
    for action in actions(dream, 17):
        dream.step(action)
    saved = copied(dream.state_dict())
    other = dream_of(kind, seed=99)
    other.load_state_dict(saved)
    for action in actions(dream, 40, seed=1):
        one, two = dream.step(action), other.step(action)
        assert torch.equal(one.obs, two.obs) and torch.equal(one.reward, two.reward)


def test_a_learner_that_was_saved_in_a_dream_goes_on_exactly(tmp_path: Any) -> None:
    def learner() -> Learner:
        return PPO(dream_of(n=8, max_steps=7), steps=6, minibatch=16, seed=1)

    whole = learner().learn(192, progress=False)
    first = learner().learn(96, progress=False)
    first.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", dream_of(n=8, max_steps=7, seed=50))
    again.learn(96, progress=False)
    assert same(whole.model.state_dict(), again.model.state_dict())


def test_bug_1_values_bootstrap_across_time_limits_and_never_across_a_dreamed_end() -> None:
    """Advantages by hand: no step late, and with the ended dream's own last observation."""
    dream = dream_of(n=16, max_steps=7)
    model = ActorCritic(Policy.of(dream.observation_space, dream.action_space))
    torch.nn.init.normal_(model.critic.mlp[-1].weight)
    rollout = Collector(dream).collect(model, 30)
    assert rollout.terminated.any() and (rollout.truncated & ~rollout.terminated).any()
    values, after = rollout.values[..., 0], rollout.next_values[..., 0]
    args = (rollout.reward, values, after, rollout.terminated, rollout.done)
    found = gae(*args, discount=0.9, trace=1.0)
    for b in range(16):
        worth = None
        for t in reversed(range(30)):
            if rollout.terminated[t, b]:
                worth = torch.zeros(())
            elif rollout.done[t, b] or worth is None:
                seen = rollout.next_obs[t, b][None]
                worth = model.values(seen, torch.zeros(1, 0))[0][0, 0]
            worth = rollout.reward[t, b] + 0.9 * worth
            torch.testing.assert_close(found[t, b], worth - values[t, b], rtol=1e-4, atol=1e-4)


def test_bugs_4_and_5_the_step_to_a_dreamed_goal_is_paid_and_has_the_credit() -> None:
    """The reward belongs to the action that reached the goal, and that action is reinforced.

    One step before the goal, with the truth as M, one action pays and all others do not.
    """
    dream = true_dream(512, slip=0.0)
    dream.reset()
    near = int(rooms().distances().eq(1).nonzero()[0, 0])
    paying = rooms().next_cell[near].eq(int(rooms().goal)).nonzero()[0, 0]
    begin = torch.full((512, 1), near)
    dream.load_state_dict({**dream.state_dict(), "z": begin})
    action = torch.arange(512) % 4
    step = dream.step(action)
    assert torch.equal(step.reward == 1.0, action == paying)
    assert torch.equal(step.terminated, action == paying)
    memory: Any = ExactMemory(rooms(slip=0.0))
    world = Dream(
        exact_vision(everywhere()), memory, (begin[:1], torch.zeros(1, 2)), num_envs=64,
        max_steps=3, remembering=False, seed=0,
    )  # fmt: skip
    agent = PPO(world, steps=4, lr=1e-2, minibatch=256).learn(64 * 4 * 15, progress=False)
    assert int(agent.predict(world.reset())[0]) == int(paying)


def test_bug_4_a_learnt_memory_pays_for_the_step_to_the_goal_and_for_no_other() -> None:
    world = OpenWorld(64, size=3, max_steps=20, seed=0)
    memory = seeded(lambda: Memory.of(1, actions=4, symbols=9, width=16))
    model = WorldModel(exact_vision(torch.eye(9)), memory).collect(world, 128)
    model.fit(vision_steps=0, memory_steps=250, lr=2e-2, window=4, progress=False)
    cell, action = torch.arange(8).repeat_interleave(4)[:, None], torch.arange(4).repeat(8)
    state = memory.step(cell, action, memory.initial_state(32))
    with drawing_from(0):
        ahead = memory.at_temperature(1e-3).foresee(state)
    reached = ahead.z[:, 0] == 8
    assert torch.equal(reached, world.next_cell[:8].flatten() == 8) and int(reached.sum()) == 2
    torch.testing.assert_close(ahead.reward, reached.float(), rtol=0, atol=0.1)
    assert torch.equal(ahead.terminated, reached)


def test_bug_7_a_learner_of_discrete_actions_improves_in_a_true_dream() -> None:
    """The score function needs no gradient through the dream: nothing of it asks for one."""
    dream = true_dream(64, slip=0.0)
    agent = PPO(dream, steps=16, minibatch=256)
    world = seen_as_cells(64)
    before = evaluate(agent.model, world, 200)["return"]
    agent.learn(64 * 16 * 25, progress=False)
    assert evaluate(agent.model, world, 200)["return"] >= max(0.7, before + 0.2)


def seen_as_cells(n: int) -> Any:
    """The real four rooms, as the table of cells shows them."""
    world = rooms(n, slip=0.0)
    memory: Any = ExactMemory(world)
    return Watched(world, exact_vision(everywhere()), memory, remembering=False)


def test_noise_goes_on_while_the_first_copy_waits() -> None:
    """Trap: a stream that hangs on one copy repeats itself when that one has come to its end."""
    dream = dream_of(n=8, temperature=1e6, max_steps=1000)
    dream.reset()
    frozen = torch.arange(8) == 0
    seen = []
    for action in actions(dream, 30):
        dream.advance(action, frozen=frozen)
        seen.append(dream.state.z[1:, 0])
    varied = torch.stack(seen)
    assert all(len(varied[:, i].unique()) == 6 for i in range(7))


def alike(dream: Dream, groups: int) -> Tensor:
    """All groups begin in the state of the first."""
    dream.reset()
    size = dream.num_envs // groups
    state = {
        name: t[:size].repeat(groups, *[1] * (t.ndim - 1)) for name, t in dream.state_dict().items()
    }
    dream.load_state_dict(state)
    return dream.observe()


@pytest.mark.parametrize("kind", KINDS)
def test_groups_meet_the_same_noise(kind: str) -> None:
    """Trap: other noise for each candidate. Equal actions then give equal lives."""
    dream = dream_of(kind, n=12, groups=3, temperature=1.5)
    alone = dream_of(kind, n=12, temperature=1.5)
    obs = alike(dream, 3).unflatten(0, (3, 4))
    alike(alone, 3)
    assert len(obs[0].unique(dim=0)) > 1
    differs = False
    for action in actions(dream, 30):
        step = dream.step(action[:4].repeat(3))
        for part in (step.obs, step.reward, step.terminated, step.final_obs):
            rows = part.unflatten(0, (3, 4)).float()
            for other in rows[1:]:  # to the last bit but for the order of sums
                torch.testing.assert_close(rows[0], other, rtol=1e-4, atol=1e-4)
        rows = alone.step(action[:4].repeat(3)).obs.unflatten(0, (3, 4))
        differs = differs or float((rows[0] - rows[1]).abs().max()) > 0.1
    assert differs


def test_temperature_reaches_the_dream() -> None:
    """A cold dream of one start is one line; a hot one is spread over all symbols."""
    vision, memory = scrambled(ends=-9.0)
    starts = torch.zeros(1, 1).long(), memory.initial_state(1)
    seen = []
    for temperature in (1e-3, 1.0, 1e3):
        dream = Dream(vision, memory, starts, num_envs=600, temperature=temperature, seed=0)
        dream.reset()
        dream.step(torch.zeros(600).long())
        seen.append(dream.state.z[:, 0].bincount(minlength=6) / 600)
    assert float(seen[0].max()) == 1.0
    assert seen[1].max() < 1.0 and (seen[2] - 1 / 6).abs().max() < 0.07


def test_gymnasium_steps_a_dream() -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        venv = adapters.NativeVectorEnv(dream_of(), autoreset_mode=mode)
        obs, _ = venv.reset(seed=0)
        assert venv.observation_space.contains(obs)
        for action in actions(dream_of(), 30):
            obs, reward, *_ = venv.step(action.numpy())
            assert venv.observation_space.contains(obs) and reward.shape == (6,)
    back = adapters.from_gymnasium(adapters.NativeVectorEnv(dream_of(), "SameStep"))
    dream = dream_of()
    assert torch.equal(back.reset(seed=3), dream.reset(seed=3))
    for action in actions(dream, 30):
        one, two = back.step(action), dream.step(action)
        assert torch.equal(one.obs, two.obs) and torch.equal(one.final_obs, two.final_obs)


def test_stable_baselines3_learns_in_a_dream() -> None:
    """One action pays and ends the episode, and it comes to be the one that is done."""
    sb3 = pytest.importorskip("stable_baselines3")
    world = OpenWorld(1, size=2, start=(0, 1), goal=(1, 1))
    memory: Any = ExactMemory(world)
    starts = torch.ones(1, 1).long(), torch.zeros(1, 2)
    dream = Dream(
        exact_vision(torch.eye(4)), memory, starts, num_envs=16, max_steps=2, remembering=False,
        seed=0,
    )  # fmt: skip
    agent = sb3.PPO(
        "MlpPolicy", adapters.to_sb3(dream), n_steps=16, batch_size=64, learning_rate=3e-3,
        device="cpu", seed=0,
    )  # fmt: skip
    agent.learn(16 * 16 * 8)
    action, _ = agent.predict(dream.reset().numpy(), deterministic=True)
    assert (torch.as_tensor(action) == world.next_cell[1].eq(3).nonzero()[0, 0]).all()


def test_errors_are_clear() -> None:
    vision, memory = scrambled()
    z, state = torch.arange(6)[:, None], memory.initial_state(6)
    for wrong in ((z[:, 0], state), (z, state[:3]), (z, state[:, :4]), (z[:0], state[:0])):
        with pytest.raises(ValueError, match="starts"):
            Dream(vision, memory, wrong)
    with pytest.raises(ValueError, match="groups"):
        Dream(vision, memory, (z, state), num_envs=5, groups=2)
    with pytest.raises(ValueError, match="temperature"):
        Dream(vision, memory, (z, state), temperature=0.0)
    numbers, _ = scrambled("numbers")
    with pytest.raises(ValueError):
        Dream(numbers, memory, (z, state))
    with pytest.raises(ValueError, match="num_envs"):
        Dream(vision, memory, (z, state), num_envs=0)
    with pytest.raises(ValueError, match="max_steps"):
        Dream(vision, memory, (z, state), max_steps=0)
    dream = dream_of()
    dream.reset()
    with pytest.raises(ValueError, match="action"):
        dream.step(torch.full((6,), 4))

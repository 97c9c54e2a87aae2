"""Learners against hand recursions, enumerated gradients and dense Hessians."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from rlgen.agents import PPO, REINFORCE, TRPO, ActorCritic, Policy, Transitions, planning
from rlgen.agents.exploration.counts import TableCounts
from rlgen.agents.exploration.memory import Reservoir
from rlgen.agents.learners.learner import Learner
from rlgen.agents.learners.trpo import conjugate_gradient, fisher_product, flat, set_flat
from rlgen.agents.reward_model import ReturnScale, Stream, as_streams
from rlgen.agents.rollout import Collector, gae
from rlgen.envs import FourRooms, MiniGrid, OpenWorld
from rlgen.generative import fit
from rlgen.runs import Run

LEARNERS = [REINFORCE, PPO, TRPO]
_ROUNDS = {REINFORCE: 120, PPO: 60, TRPO: 40}


def by_hand(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """The advantage of each step as its sum of discounted errors up to the episode's end."""
    out = torch.zeros_like(reward)
    steps, copies = reward.shape
    for b in range(copies):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                future = 0.0 if terminated[k, b] else discount * float(next_values[k, b])
                out[t, b] += weight * (float(reward[k, b]) + future - float(values[k, b]))
                if done[k, b]:
                    break
                weight *= discount * trace
    return out


@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_those_of_a_hand_recursion(discount: float, trace: float) -> None:
    torch.manual_seed(0)
    reward, values, following = torch.randn(3, 12, 5, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 12, 5) < 0.15
    done = terminated | truncated
    ours = gae(reward, values, following, terminated, done, discount=discount, trace=trace)
    hand = by_hand(reward, values, following, terminated, done, discount, trace)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-9)


def test_time_limits_are_bootstrapped_from_what_was_really_seen() -> None:
    """A rollout's next values at ends are those of the final observation, not of the restart."""
    world = OpenWorld(16, size=4, start=(0, 0), goal=(3, 3), max_steps=5, seed=0)
    model = ActorCritic(Policy.of(world.observation_space, world.action_space))
    torch.nn.init.normal_(model.critic.mlp[-1].weight)
    rollout = Collector(world).collect(model, 24)
    assert rollout.truncated.any() and rollout.done.any()
    direct = model.critic.unroll(rollout.next_obs, rollout.state, rollout.first)
    torch.testing.assert_close(rollout.next_values, direct)
    ends = rollout.done[:-1]
    following = rollout.obs[1:]
    assert not torch.equal(rollout.next_obs[:-1][ends], following[ends])
    assert torch.equal(rollout.next_obs[:-1][~ends], following[~ends])
    torch.testing.assert_close(rollout.following[:-1], rollout.values[1:])


def nine_states(copies: int, seed: int = 0) -> OpenWorld:
    """The goal is four moves away and time is up after four, so no episode ends sooner."""
    return OpenWorld(copies, size=3, start=(0, 0), goal=(2, 2), max_steps=4, seed=seed)


def small_model(world: OpenWorld, seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    policy = Policy.of(world.observation_space, world.action_space, hidden=(8,))
    model = ActorCritic(policy, hidden=(8,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def exact_gradient(model: ActorCritic, world: OpenWorld) -> Tensor:
    """Of E[return + what the critic thinks of a state where time ran out], over four steps."""
    mdp = world.mdp()
    pi = model.policy.distribution(torch.eye(9)).probs.double()
    worth = model.critic.unroll(torch.eye(9)[None], torch.zeros(9, 0), torch.ones(1, 9).bool())
    left = (worth[0, :, 0].double() * ~mdp.terminal).detach()
    objective = planning.expected_return(mdp, pi, horizon=4)
    objective = objective + planning.visits(mdp, pi, horizon=4)[-1] @ left
    return flat(torch.autograd.grad(objective, list(model.policy.parameters())))


def estimates(baseline: bool, batches: int = 25, copies: int = 4000) -> tuple[Tensor, Tensor]:
    """REINFORCE's gradients of as many fresh batches, and the exact one."""
    world = nine_states(copies)
    model = small_model(world)
    if not baseline:
        for parameter in model.critic.parameters():
            parameter.data.zero_()
    return gradients_of(world, model, batches), exact_gradient(model, world)


def gradients_of(world: OpenWorld, model: ActorCritic, batches: int) -> Tensor:
    """Estimates by REINFORCE, whose step of plain gradient ascent is its gradient."""
    agent = REINFORCE(
        world, model=model, steps=4, entropy_weight=0.0, value_weight=0.0, normalise=False,
        discount=1.0,
    )  # fmt: skip
    parameters = list(model.policy.parameters())
    agent.optimizer = torch.optim.SGD(parameters, lr=1.0)
    start = flat(parameters).detach().clone()
    found = []
    for _ in range(batches):
        set_flat(parameters, start)
        agent.iterate()
        found.append(4 * (flat(parameters).detach() - start))  # its objective is a mean over time
    set_flat(parameters, start)
    return torch.stack(found)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_estimates_the_exact_gradient(baseline: bool) -> None:
    """R04, over 100,000 episodes."""
    found, exact = estimates(baseline)
    mean, error = found.mean(0), found.std(0) / len(found) ** 0.5
    # 25 batches make heavy tails, and there are more than a hundred coordinates
    assert ((mean - exact).abs() <= 6.0 * error + 1e-6).all()
    cosine = torch.nn.functional.cosine_similarity(mean, exact, dim=0)
    assert cosine > 0.99


def test_a_baseline_halves_the_variance() -> None:
    """R04: a policy that mostly arrives is mostly told so, unless that was expected."""
    world = nine_states(2000)
    policy = Policy.of(world.observation_space, world.action_space, hidden=())
    model = ActorCritic(policy, hidden=())
    towards = world.optimal_actions().any(0).float()
    with torch.no_grad():
        policy.net.mlp[0].bias.copy_(4.0 * towards)
        for parameter in model.critic.parameters():
            parameter.zero_()
    plain = gradients_of(world, model, batches=20).var(0).sum()
    mdp, pi = world.mdp(), policy.distribution(torch.eye(9)).probs.double().detach()
    for cell in range(9):
        left = int(world.distances()[cell])  # nobody who can still arrive has more time
        alone = mdp._replace(start=torch.eye(9, dtype=torch.float64)[cell])
        chance = planning.expected_return(alone, pi, horizon=max(left, 1))
        model.critic.mlp[0].weight.data[0, cell] = float(chance)
    based = gradients_of(world, model, batches=20).var(0).sum()
    assert based < 0.5 * plain


def test_fisher_products_are_those_of_the_dense_hessian() -> None:
    """R06, on a net of about 50 parameters in float64."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    parameters = list(net.parameters())
    sizes = [p.shape for p in parameters]
    names = [name for name, _ in net.named_parameters()]
    old = Categorical(logits=net(x).detach())

    def kl(vector: Tensor) -> Tensor:
        parts = vector.split([size.numel() for size in sizes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, sizes, strict=True)}
        logits = torch.func.functional_call(net, weights, (x,))
        return kl_divergence(old, Categorical(logits=logits)).mean()

    dense = torch.autograd.functional.hessian(kl, flat(parameters).detach())
    product = fisher_product(kl_divergence(old, Categorical(logits=net(x))).mean(), parameters)
    eye = torch.eye(len(dense), dtype=torch.float64)
    ours = torch.stack([product(row) for row in eye])
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-6)
    assert dense.abs().max() > 1e-3


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns() -> None:
    torch.manual_seed(0)
    root = torch.randn(20, 20, dtype=torch.float64)
    matrix = root @ root.T / 20 + torch.eye(20, dtype=torch.float64)
    target = torch.randn(20, dtype=torch.float64)
    x = conjugate_gradient(lambda v: matrix @ v, target, 20, tolerance=1e-20)
    assert (matrix @ x - target).norm() < 1e-6


def test_trpo_steps_on_a_bandit_are_natural_gradients() -> None:
    """For a softmax over arms, F = diag(p) - p p'; the direction is the advantage, centred."""
    logits = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 0.0, -1.0, 2.0], dtype=torch.float64)
    p = logits.softmax(0)
    gradient = torch.autograd.grad((p * value).sum(), logits)[0]
    old = Categorical(logits=logits.detach())
    product = fisher_product(kl_divergence(old, Categorical(logits=logits)), [logits])
    direction = conjugate_gradient(lambda v: product(v) + 1e-9 * v, gradient, 10, tolerance=1e-24)
    centred = value - value.mean()
    torch.testing.assert_close(direction - direction.mean(), centred, rtol=0.01, atol=1e-6)


def test_trpo_keeps_its_word_for_a_hundred_steps() -> None:
    """Every accepted step obeys the bound and improves the surrogate, and nearly all are taken."""
    world = FourRooms(32, max_steps=50, seed=0)
    agent = TRPO(world, steps=16, value_steps=1, max_kl=0.01, seed=0)
    taken = 0
    for _ in range(100):
        metrics = agent.iterate()
        assert metrics["trpo/kl"] <= 0.01 and metrics["trpo/gain"] >= 0.0
        taken += metrics["trpo/shrink"] > 0
    assert taken >= 95


@pytest.mark.parametrize("kind", LEARNERS)
def test_learners_reach_a_corner(kind: type[Learner]) -> None:
    world = OpenWorld(64, size=4, start=(0, 0), goal=(3, 3), max_steps=20, seed=0)
    agent = kind(world, steps=20, seed=0).learn(64 * 20 * _ROUNDS[kind], progress=False)
    assert agent.iterate()["episode/length"] <= 1.2 * 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reinforce_crosses_four_rooms(seed: int) -> None:
    """R04, within three minutes: the shortest way has 20 steps."""
    world = FourRooms(64, start=(1, 1), goal=(11, 11), max_steps=200, seed=seed)
    agent = REINFORCE(world, steps=64, trace=0.95, seed=seed)
    agent.learn(100 * 64 * 64, progress=False)
    for deterministic in (True, False):
        found = agent.evaluate(200, deterministic=deterministic)
        assert found["length"] <= 1.2 * 20 and found["success"] == 1.0


def test_what_is_kept_to_learn_from_and_what_is_drawn_of_it_are_uniform() -> None:
    """R03: how often each of 100 rows is among the 40 kept, and each of those drawn."""
    kept, drawn = torch.zeros(100), torch.zeros(40)
    for seed in range(30):
        memory = Reservoir(40, seed)
        for part in torch.arange(100).split(7):
            memory.add(part)
        assert memory.kept is not None
        kept += torch.bincount(memory.kept, minlength=100)
        rank = torch.searchsorted(memory.kept.sort().values, memory.draw(80, seed))
        drawn += torch.bincount(rank, minlength=40)
    # a row is kept or not, so these counts vary less than those of draws with replacement
    variance = 30 * 0.4 * 0.6 * 100 / 99
    assert stats.chi2.sf(float((kept - 12).square().sum()) / variance, 99) > 0.01
    assert stats.chi2.sf(float((drawn - 60).square().sum()) / 60, 39) > 0.01


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("memory", [0, 8])
def test_a_resumed_run_ends_with_the_same_weights(
    kind: type[Learner], memory: int, tmp_path: Path
) -> None:
    def agent() -> Any:
        world = MiniGrid("MiniGrid-Empty-5x5-v0", 8, seed=0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = Policy.of(
                world.observation_space, world.action_space, hidden=(8,), memory=memory
            )
            model = ActorCritic(policy, streams=2, hidden=(8,))
        return kind(
            world, model=model, steps=8, reward_models={"new": (TableCounts(), 0.1)}, seed=1
        )

    whole = agent().learn(5 * 64, progress=False)
    half = agent()
    run = Run(tmp_path, {"seed": 1}, tensorboard=False)
    half.learn(2 * 64, callback=lambda step, m: run.log(step, m), progress=False)
    run.save(half.total_steps, half)
    half.learn(2 * 64, callback=lambda step, m: run.log(step, m), progress=False)  # then killed
    again = agent()
    torch.rand(3)  # the global stream is not where it was
    run = Run(tmp_path, {"seed": 1}, tensorboard=False)
    assert run.resume(again) == 2 * 64
    assert [line["step"] for line in run.metrics()] == [64, 128]
    again.learn(3 * 64, progress=False)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_memory_is_unrolled_as_it_was_lived() -> None:
    """Log-probabilities and values of a recurrent policy, again and along the rollout."""
    world = MiniGrid("MiniGrid-Empty-5x5-v0", 8, seed=0)
    policy = Policy.of(world.observation_space, world.action_space, memory=16)
    model = ActorCritic(policy)
    torch.nn.init.normal_(policy.net.mlp[-1].weight, std=0.5)
    collector = Collector(world)
    collector.collect(model, 17)
    rollout = collector.collect(model, 150)
    assert rollout.done.any()
    pi, values = model.unroll(rollout.obs, rollout.state, rollout.first)
    torch.testing.assert_close(pi.log_prob(rollout.action), rollout.log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, rollout.values, rtol=1e-4, atol=1e-5)


def test_streams_are_read_in_three_forms() -> None:
    model = TableCounts()
    streams = as_streams({"a": model, "b": (model, 0.5), "c": Stream(model, episodic=False)})
    assert [s.weight for s in streams.values()] == [1.0, 0.5, 1.0]
    with pytest.raises(TypeError, match="'d' needs reward, update"):
        as_streams({"d": object()})  # type: ignore[dict-item]


def test_returns_are_scaled_by_their_standard_deviation() -> None:
    torch.manual_seed(0)
    reward = 5.0 * torch.rand(400, 16) + 3.0
    scale = ReturnScale(0.9)
    scaled = [scale.scale(part) for part in reward.split(100)]
    now = torch.zeros(16)
    returns = [now]  # what had been earned before the first step counts too
    for row in reward:
        now = 0.9 * now + row
        returns.append(now)
    deviation = torch.stack(returns).double().std(correction=0)
    assert float(reward[-1, 0] / scaled[-1][-1, 0]) == pytest.approx(float(deviation), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_the_worlds_rewards_are_weighed_after_they_are_scaled(temperature: float) -> None:
    """Or else the scale would take the weight out again."""
    paid = []
    for weight in (1.0, 0.5, 0.0):
        agent = PPO(OpenWorld(8, size=3, seed=0), temperature=temperature, world_weight=weight)
        torch.manual_seed(0)
        rollout = agent.collector.collect(agent.model, 32)
        rollout = replace(rollout, log_prob=torch.full_like(rollout.log_prob, -1.0))
        paid.append(agent.earnings._pay(rollout)[0][0])
    whole, half, none = paid
    torch.testing.assert_close(none, torch.full_like(none, temperature))  # as it is
    scale = 2.0 * (whole - half).max()  # of a reward of 1
    assert float(scale) > 0.0
    surprise = temperature * scale
    torch.testing.assert_close(half - surprise, (whole - surprise) / 2)


def test_transitions_are_checked() -> None:
    zeros, no = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    obs = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="'reward' must hold 4 steps"):
        Transitions(obs, zeros, zeros[:3], obs, no, no)
    with pytest.raises(ValueError, match="'next_obs' must have shape"):
        Transitions(obs, zeros, zeros, obs[:, :1], no, no)
    with pytest.raises(ValueError, match="'terminated' must be booleans"):
        Transitions(obs, zeros, zeros, obs, zeros, no)


def test_spaces_that_no_policy_fits_are_refused() -> None:
    box = gymnasium.spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match="observations must be arrays"):
        Policy.of(gymnasium.spaces.Discrete(3), box)
    with pytest.raises(ValueError, match="actions must be Discrete or Box"):
        Policy.of(box, gymnasium.spaces.MultiBinary(3))


def test_a_policy_clones_a_behaviour_by_fit() -> None:
    """Behavioural cloning is nothing more than maximum likelihood."""
    world = FourRooms(1, start=(1, 1), goal=(11, 11))
    best = world.optimal_actions()
    cells = torch.arange(104)[best.any(1)].repeat(20)
    actions = torch.stack([row.nonzero()[0, 0] for row in best[cells]])
    policy = Policy.of(world.observation_space, world.action_space)
    fit(policy, actions, torch.eye(104)[cells], steps=300, lr=1e-2)
    chosen = policy.distribution(torch.eye(104)[cells]).probs.argmax(1)
    assert (chosen == actions).float().mean() > 0.99

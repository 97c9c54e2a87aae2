"""VFunc's policies against enumeration: the bound, its gradient, and the task beside it."""

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from rlgen.agents import PPO, REINFORCE, ActorCritic, VFunc, planning
from rlgen.agents import policy_measures as pm
from rlgen.agents.anneal import Anneal
from rlgen.agents.exploration import TableCounts
from rlgen.agents.latent import Latent, LatentPolicy
from rlgen.agents.variety import PolicyFunction, Replay, SquaredDistance, Variety
from rlgen.envs import FourRooms, OpenWorld
from rlgen.generative import NonFiniteLoss, functions, heads
from rlgen.generative.functions import StandardNormal, UniformSymbols
from rlgen.runs import Run
from rlgen.seeding import drawing_from, mix

SYMBOLS, NOISE = 4, 0.3


def open_world(copies: int = 8, **kwargs: Any) -> OpenWorld:
    return OpenWorld(copies, size=3, start=(0, 0), max_steps=9, seed=0, **kwargs)


def small(world: OpenWorld | None = None, **kwargs: Any) -> VFunc:
    settings = {"steps": 8, "minibatch": 32, **kwargs.pop("settings", {})}
    if kwargs.get("task") == "reinforce":
        del settings["minibatch"]
    kwargs = {"latent": 3, "points": 4, "candidates": 8, "hidden": (16,), **kwargs}
    return VFunc(open_world() if world is None else world, settings=settings, **kwargs)


def toy(**kwargs: Any) -> tuple[Variety, LatentPolicy]:
    """Three states, two actions and four policies, each of them equally likely."""
    prior = UniformSymbols(SYMBOLS)
    policy = LatentPolicy(
        (), head=heads.Categorical(2), context_shape=(3 + SYMBOLS,), width=SYMBOLS, hidden=(8,)
    )
    torch.nn.init.normal_(policy.net.mlp[-1].weight, std=0.5)
    kwargs = {"bound": "discretise", "encoder": None, "points": 1, "noise": NOISE, **kwargs}
    function = PolicyFunction(policy, prior, gymnasium.spaces.Discrete(2))
    return Variety(function, replay=Replay(3, torch.eye(3)), **kwargs), policy


def exact_information(policy: LatentPolicy) -> Tensor:
    """I(f; z) by quadrature over the noise.

    With two actions all that differs between policies lies along (1, -1) in each state: there it is
    sqrt(2) times a probability, under noise of the same amount.
    """
    nodes, weights = map(torch.tensor, _hermite(20))
    noise = NOISE * torch.cartesian_prod(nodes, nodes, nodes)
    share = torch.cartesian_prod(weights, weights, weights).prod(1)
    table = policy.head(policy.outputs(torch.eye(3)[None], torch.eye(SYMBOLS)), ()).probs
    mean = math.sqrt(2.0) * table[..., 0].double()  # (symbols, states)
    apart = mean[:, None] - mean[None]
    square = (noise[:, None, None] + apart).square().sum(-1) - noise.square().sum(-1)[:, None, None]
    log_odds = (-square / (2 * NOISE**2)).logsumexp(2)  # (nodes, symbols)
    return math.log(SYMBOLS) - (share[:, None] * log_odds).sum(0).mean()


def _hermite(n: int) -> tuple[Any, Any]:
    """Nodes and weights for a standard normal."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


def gradient(value: Tensor, policy: LatentPolicy) -> Tensor:
    parts = torch.autograd.grad(value, list(policy.parameters()))
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("bound", ["maxent", "discretise"])
def test_the_gradient_of_variety_is_that_of_the_exact_information(bound: str) -> None:
    """With the exact posterior over symbols without bias; with many candidates nearly so."""
    variety, policy = toy(bound=bound, encoder="likelihood", candidates=2000)
    exact = gradient(exact_information(policy), policy)
    with drawing_from(0):
        found = torch.stack([gradient(variety.information().mean(), policy) for _ in range(25)])
    assert float(torch.cosine_similarity(found.mean(0), exact, dim=0)) > 0.99
    assert float(found.mean(0).norm() / exact.norm()) == pytest.approx(1.0, abs=0.05)
    if bound == "maxent":
        error = found.std(0) / math.sqrt(len(found))
        inside = (found.mean(0) - exact).abs() <= 3.5 * error + 1e-6
        assert inside.double().mean() > 0.97


@pytest.mark.parametrize("candidates", [2, 8, 64])
def test_the_bound_is_below_the_exact_information_and_below_log_k(candidates: int) -> None:
    variety, policy = toy(candidates=candidates)
    policy.net.mlp[-1].weight.data.mul_(4.0)
    exact = float(exact_information(policy).detach())
    with drawing_from(0), torch.no_grad():
        means = torch.stack([variety.information().mean() for _ in range(4000 // candidates)])
    error = float(means.std()) / math.sqrt(len(means))
    assert float(means.mean()) <= exact + 3.0 * error
    assert float(means.max()) <= math.log(candidates) + 1e-5
    assert 0.3 < exact < math.log(SYMBOLS)
    if candidates == 64:
        assert float(means.mean()) > exact - 0.1


def test_more_candidates_tell_more_and_the_exact_posterior_tells_all() -> None:
    means = []
    for choices in (*({"candidates": k} for k in (2, 8, 64)), {"bound": "maxent"}):
        torch.manual_seed(0)
        variety, policy = toy(**{"encoder": "likelihood", "candidates": 64, **choices})
        policy.net.mlp[-1].weight.data.mul_(4.0)
        with drawing_from(0), torch.no_grad():
            calls = min(1000, 16_000 // variety.draws)
            found = torch.cat([variety.information() for _ in range(calls)])
        means.append(float(found.mean()))
    exact, error = float(exact_information(policy).detach()), float(found.std()) / math.sqrt(16_000)
    assert means[0] < means[1] < means[2] < exact + 3.0 * error
    assert means[3] == pytest.approx(exact, abs=4.0 * error)


def test_squared_distances_score_as_the_likelihood_does_but_for_a_constant() -> None:
    torch.manual_seed(0)
    function = functions.FunctionMLP(2, outputs=3)
    f, z = torch.randn(5, 4, 3), torch.randn(1, 6, 2)
    likelihood = functions.Likelihood(heads.FixedNormal(0.7))
    for points, candidates in (
        (torch.randn(1, 4, 1), z),
        (torch.randn(5, 4, 1), z.repeat(5, 1, 1)),
    ):
        ours = SquaredDistance(0.7)(f, points, function, candidates)
        known = likelihood(f, points, function, candidates)
        apart = (ours - known).detach()
        torch.testing.assert_close(apart, apart[:1, :1].expand_as(apart), rtol=1e-4, atol=1e-4)


def test_what_differs_beyond_the_bounds_of_actions_tells_nothing() -> None:
    prior = StandardNormal(2)
    policy = LatentPolicy((2,), head=heads.Normal(), context_shape=(5,), width=2, hidden=(8,))
    last = policy.net.mlp[-1]
    torch.nn.init.normal_(last.weight)
    function = PolicyFunction(policy, prior, gymnasium.spaces.Box(-1.0, 1.0, (2,)))
    variety = Variety(
        function, bound="discretise", encoder=None, points=1, candidates=16, noise=0.1,
        replay=Replay(3, torch.eye(3)),
    )  # fmt: skip
    torch.manual_seed(0)
    z, points = prior.distribution().sample(torch.Size([16])), torch.eye(3).expand(16, 3, 3)
    assert float(function(z, points).detach().std(0).min()) > 0.0
    assert float(variety.information().detach().mean()) > 1.0
    last.bias.data.fill_(100.0)
    means = policy.head(policy.outputs(points, prior.features(z)), (2,)).mean
    assert float(means.detach().std(0).min()) > 0.0 and float(means.detach().min()) > 1.0
    assert torch.equal(function(z, points), torch.ones(16, 3, 2))
    assert float(variety.information().detach().abs().max()) < 1e-5


@pytest.mark.parametrize("task", [PPO, REINFORCE])
def test_without_weight_it_is_the_learner_of_the_task_to_the_last_bit(task: Any) -> None:
    agent = small(task=task.__name__.lower(), entropy_weight=0.0, seed=3)
    latent = Latent(open_world(), StandardNormal(3), seed=3)
    with drawing_from(mix(3, 0, 1)):
        model = ActorCritic(LatentPolicy.beside(latent, hidden=(16,)))
    settings = {"minibatch": 32} if task is PPO else {}
    plain = task(latent, model=model, steps=8, seed=3, **settings)
    for learner in (agent, plain):
        learner.learn(4 * 64, progress=False)
    ours, theirs = agent.model.state_dict(), model.state_dict()
    assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_gradient_for_the_task_is_that_of_the_mean_return_over_z() -> None:
    """Each policy's gradient is its own, without bias, as z stays through the episode."""
    world = OpenWorld(4000, size=3, start=(0, 0), max_steps=4, seed=0)
    settings = {"steps": 4, "entropy_weight": 0.0, "value_weight": 0.0, "normalise": False}
    settings |= {"discount": 1.0}
    agent = VFunc(
        world, task="reinforce", prior=UniformSymbols(3), entropy_weight=0.0, hidden=(8,),
        settings=settings,
    )  # fmt: skip
    torch.nn.init.normal_(agent.policy.net.mlp[-1].weight)
    for parameter in agent.model.critic.parameters():
        parameter.data.zero_()
    weights = list(agent.policy.parameters())
    start = [weight.detach().clone() for weight in weights]
    table = agent.policy.given(world.views(), torch.eye(3)).probs.double()
    returns = [planning.expected_return(world.mdp(), one, horizon=4) for one in table]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(sum(returns) / 3, weights)])
    agent.task.optimizer = torch.optim.SGD(agent.model.parameters(), lr=1.0)
    found = []
    for _ in range(20):
        agent.iterate()
        step = [w.detach() - s for w, s in zip(weights, start, strict=True)]
        # a mean over four steps, where the return is a sum
        found.append(4.0 * torch.cat([s.flatten() for s in step]))
        for weight, before in zip(weights, start, strict=True):
            weight.data.copy_(before)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(20)
    assert float(torch.cosine_similarity(mean, exact, dim=0)) > 0.99
    assert ((mean - exact).abs() <= 4.0 * error + 1e-6).double().mean() > 0.97


def test_with_weight_the_policies_differ_more() -> None:
    bounds = {}
    for weight in (0.0, 0.5):
        settings = {"lr": 1e-2}
        agent = small(entropy_weight=weight, settings=settings).learn(30 * 64, progress=False)
        bounds[weight] = agent.information_bound()
    assert bounds[0.5] > bounds[0.0] + 0.5
    assert bounds[0.5] <= math.log(8)


def test_z_stays_through_an_episode_and_is_drawn_anew_for_the_next() -> None:
    world = Latent(open_world(64), StandardNormal(3), seed=0)
    obs, ends = world.reset(), 0
    for _ in range(30):
        before = obs[:, -3:].clone()
        step = world.step(torch.randint(4, (64,)))
        assert torch.equal(step.final_obs[:, -3:], before)
        same = (step.obs[:, -3:] == before).all(1)
        assert torch.equal(same, ~step.done)
        obs, ends = step.obs, ends + int(step.done.sum())
    assert ends > 64
    assert float(obs[:, -3:].std()) == pytest.approx(1.0, abs=0.2)


def test_z_of_a_rollout_is_drawn_from_the_prior_and_not_the_same_in_all_copies() -> None:
    world = Latent(open_world(4000), StandardNormal(2), seed=1)
    z = world.reset()[:, -2:]
    assert z.mean(0).abs().max() < 0.06 and (z.T.cov() - torch.eye(2)).abs().max() < 0.1
    assert not torch.equal(world.reset()[:, -2:], z)
    assert torch.equal(world.reset(1)[:, -2:], world.reset(1)[:, -2:])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"encoder": "similarity"},
        {"bound": "maxent"},
        {"bound": "maxent", "encoder": "direct"},
        {"comparison": "all"},
        {"prior": UniformSymbols(5)},
        {"prior": UniformSymbols(5), "bound": "maxent"},
        {"task": "reinforce"},
        {"noise": Anneal(1.0, 0.1, steps=200, geometric=True)},
        {"action_entropy": Anneal(0.1, 0.0, steps=200)},
    ],
    ids=str,
)
def test_it_learns_saves_and_goes_on_the_same(kwargs: dict[str, Any], tmp_path: Path) -> None:
    agent = small(**kwargs).learn(2 * 64, progress=False)
    agent.save(tmp_path / "agent")
    again = VFunc.load(tmp_path / "agent", open_world())
    assert noise_of(agent) == noise_of(again)
    assert agent.information_bound(2) == again.information_bound(2)
    for one in (agent, again):
        metrics = one.iterate()
        assert math.isfinite(metrics["vfunc/information"])
    ours, theirs = agent.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert agent.information_bound(4) == again.information_bound(4)


def noise_of(agent: VFunc) -> tuple[float, ...]:
    """All that may change along training, as numbers."""
    functions, encoder = agent.variety.functions, agent.variety.encoder
    assert isinstance(functions.head, heads.FixedNormal)
    scale = encoder.scale if isinstance(encoder, SquaredDistance) else 0.0
    return functions.head.scale, scale, functions.noise_entropy, agent.task.entropy_weight


def test_what_is_annealed_follows_the_steps_that_were_taken() -> None:
    """From the first step to the last, everywhere that it is used."""
    fall = Anneal(1.0, 0.25, steps=256, geometric=True)
    agent = small(noise=fall, action_entropy=Anneal(0.2, 0.0, steps=128))
    numbers = math.prod(agent.variety.functions.event_shape)
    for steps, scale, weight in ((0, 1.0, 0.2), (64, 0.5**0.5, 0.1), (256, 0.25, 0.0)):
        while agent.total_steps < steps:
            agent.iterate()
        entropy = numbers * (0.5 * math.log(2.0 * math.pi * math.e) + math.log(scale))
        assert agent.total_steps == steps
        assert noise_of(agent) == pytest.approx((scale, scale, entropy, weight))


def test_z_owes_nothing_to_the_noise_of_the_learner() -> None:
    """Of whom each iteration draws with a seed of the agent's seed and its number."""
    for seed in range(3):
        world = Latent(open_world(), StandardNormal(3), seed=seed)
        drawn = [world.z, *(world.reset()[:, -3:] for _ in range(8))]
        for iteration in range(12):
            with drawing_from(mix(seed, iteration)):
                noise = torch.randn(8, 3)
            assert all(not torch.equal(z, noise) for z in drawn)


def test_an_encoder_that_learns_does_so_with_the_policy() -> None:
    agent = small(encoder="similarity", entropy_weight=0.5)
    before = copy.deepcopy(agent.variety.encoder.state_dict())
    agent.learn(64, progress=False)
    after = agent.variety.encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_stopped_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    whole = small().learn(6 * 64, progress=False)
    for _ in range(2):
        agent = small()
        stop = (lambda steps, _: steps >= 3 * 64) if not (tmp_path / "run").exists() else None
        agent.learn(6 * 64, progress=False, run=Run(tmp_path / "run", {}), callback=stop)
    ours, theirs = whole.model.state_dict(), agent.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


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


def test_the_replay_buffer_keeps_the_latest() -> None:
    replay = Replay(5)
    for first in (0, 3, 6):
        replay.note(torch.arange(first, first + 3).float()[:, None])
    assert replay.kept is not None
    assert sorted(replay.kept.flatten().tolist()) == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert replay.draw(100).unique().tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]


def test_the_entropy_bound_adds_the_entropy_of_the_noise() -> None:
    agent = small(noise=0.5).learn(64, progress=False)
    noise = 4 * 4 * 0.5 * math.log(2 * math.pi * math.e * 0.25)  # points times actions
    assert agent.entropy_bound(4) == pytest.approx(agent.information_bound(4) + noise, abs=1e-4)


def test_pictures_are_seen_flat() -> None:
    world = FourRooms(4, start=(1, 1), observation="image", seed=0)
    agent = VFunc(world, settings={"steps": 4}, points=4, candidates=4)
    agent.learn(16, progress=False)
    assert agent.predict(world.reset()).shape == (4,)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "trpo"}, "'task' must be one of ppo, reinforce, got 'trpo'"),
        ({"bound": "x"}, "'bound' must be one of"),
        ({"encoder": "x"}, "'encoder' must be one of"),
        ({"comparison": "x"}, "'comparison' must be one of"),
        ({"bound": "maxent", "encoder": "likelihood"}, "must give a distribution over z"),
        ({"entropy_weight": -1.0}, "'entropy_weight' must be at least 0"),
        (
            {"prior": UniformSymbols(3), "encoder": "difference"},
            "needs a StandardNormal, got UniformSymbols",
        ),
        ({"candidates": 1}, "'candidates' must be at least 2, got 1"),
        ({"points": 0}, "'points' must be positive, got 0"),
        *(
            ({"noise": noise}, "'noise' must be positive and finite, got")
            for noise in (0.0, math.nan, math.inf, Anneal(0.5, 0.0, steps=9))
        ),
        ({"capacity": 0}, "'capacity' must be positive, got 0"),
        ({"settings": {"seed": 1}}, "'settings' must not hold seed"),
    ],
)
def test_mistakes_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_it_stops_where_the_bound_is_not_finite() -> None:
    agent = small()
    agent.task.beside = lambda: agent.policy.net.mlp[0].weight.sum() * math.nan
    with pytest.raises(NonFiniteLoss):
        agent.learn(64, progress=False)


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


def test_all_states_are_those_that_are_acted_in() -> None:
    agent = small(comparison="all")
    assert agent.variety.points == 8  # of nine cells, one is the goal
    always = agent.variety.replay.always
    assert always is not None and torch.equal(always, open_world().views()[:8])
    nowhere = VFunc(OpenWorld(4, size=3, goal="none", seed=0), comparison="all", latent=2)
    assert nowhere.variety.points == 9


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


@pytest.mark.slow
def test_it_learns_most_of_the_shortest_paths_of_an_open_world() -> None:
    world = OpenWorld(128, size=5, start=(0, 0), max_steps=50, seed=0)
    settings = {"steps": 16, "entropy_weight": 0.0, "discount": 0.95, "lr": 5e-3}
    agent = VFunc(world, settings=settings, entropy_weight=0.05, seed=0)
    agent.learn(160_000, progress=False)
    one = OpenWorld(1, size=5, start=(0, 0), max_steps=50)
    found = pm.variety(one, agent.sample_policies(500, generator=1).table(one))
    assert found.success >= 0.98 and found.length <= 1.02
    assert found.distinct >= 50 and found.entropy >= 3.5 and found.agree >= 0.6
    assert found.given < 1.5
    assert 1.0 < agent.information_bound() < math.log(128)


def test_a_bonus_counts_what_the_world_shows_whoever_was_there(tmp_path: Path) -> None:
    """With z behind an observation, each would be new."""

    def bonus() -> dict[str, Any]:
        return {"new": (TableCounts(), 0.1)}

    world = OpenWorld(8, size=3, start=(0, 0), max_steps=9, seed=0)
    models = bonus()
    agent = VFunc(world, settings={"steps": 8}, latent=3, reward_models=models, seed=1)
    agent.learn(8 * 8 * 4, progress=False)
    assert 2 <= len(models["new"][0].table.keys) <= 9
    agent.save(tmp_path)
    again = VFunc.load(tmp_path, world, reward_models=bonus())
    assert torch.equal(
        again.earnings.streams["new"].model.state_dict()["counts"], models["new"][0].table.counts
    )

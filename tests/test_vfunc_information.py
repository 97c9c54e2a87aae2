"""The information of policies and their z against quadrature: the bound and its gradient."""

import math
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from rlgen.agents.latent import LatentPolicy
from rlgen.agents.variety import PolicyFunction, Replay, SquaredDistance, Variety
from rlgen.generative import functions, heads
from rlgen.generative.functions import StandardNormal, UniformSymbols
from rlgen.seeding import drawing_from

SYMBOLS, NOISE = 4, 0.3


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

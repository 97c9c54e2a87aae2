"""VFunc's parts: the exactness of differences, the ways to compare, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rlgen import checkpoint
from rlgen.generative import FunctionRegression, GaussianProcess, VFunc, functions, heads
from rlgen.generative.functions import comparisons
from tests import checks
from tests.checks import CHECKS, Check
from tests.helpers import Case

LATENT = 3


def over_symbols() -> VFunc:
    return VFunc(
        4,
        functions.FunctionMLP(5, hidden=(8,)),
        prior=functions.UniformSymbols(5),
        head=heads.FixedNormal(1.0),
    )


# a symbol has no mean that could be decoded
@pytest.mark.parametrize("check", [c for c in CHECKS if c is not checks.check_codes])
def test_symbols_conform(check: Check) -> None:
    check(Case("symbols", over_symbols))


def test_symbols_have_an_exact_posterior_and_evidence() -> None:
    """The elbo sums over all symbols; under the exact posterior it is the evidence."""
    head = heads.FixedNormal(0.5)
    model = VFunc(
        4,
        functions.FunctionMLP(5),
        prior=functions.UniformSymbols(5),
        comparison=functions.Likelihood(head),
        head=head,
    ).double()
    points = torch.randn(6, 4, 1, dtype=torch.float64)
    f = model.decode(torch.arange(6) % 5, points).sample()
    logs = [model.decode(torch.full((6,), k), points).log_prob(f) for k in range(5)]
    evidence = torch.stack(logs).logsumexp(0) - math.log(5.0)
    assert_close(model.elbo(f, points), evidence, rtol=1e-9, atol=1e-9)
    assert_close(model.elbo(f, points, samples=7), evidence, rtol=1e-9, atol=1e-9)
    posterior = torch.stack(logs, 1).softmax(1)
    q = model.encode(f, points)
    found = [q.log_prob(torch.full((6,), k)).exp() for k in range(5)]
    assert_close(torch.stack(found, 1), posterior)


class Curved(nn.Module):
    """Smooth functions of z, three numbers at each point."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT + 1, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        each = z[:, None].expand(-1, points.shape[1], -1)
        out: Tensor = self.net(torch.cat([each, points], dim=2))
        return out


def test_differences_linearise_exactly() -> None:
    torch.manual_seed(0)
    function, z = Curved().double(), torch.randn(4, LATENT).double()
    points = torch.randn(4, 5, 1, dtype=torch.float64)
    there, slopes = comparisons._linearise(lambda z: function(z, points).flatten(1), z)
    assert_close(there, function(z, points).flatten(1))
    for i in range(4):
        row = slice(i, i + 1)

        def values(one: Tensor, row: slice = row) -> Tensor:
            out: Tensor = function(one[None], points[row]).flatten()
            return out

        jacobian = torch.autograd.functional.jacobian(values, z[i])
        assert_close(slopes[i], jacobian)


def test_least_squares_are_the_normal_equations() -> None:
    torch.manual_seed(0)
    slopes, difference = torch.randn(4, 5, LATENT).double(), torch.randn(4, 5).double()
    z, scale = torch.randn(4, LATENT).double(), torch.tensor(0.3).double()
    mean, lower = comparisons._least_squares(difference, slopes, z, scale)
    identity = torch.eye(LATENT, dtype=torch.float64)
    covariance = torch.linalg.inv(identity + slopes.mT @ slopes / scale**2)
    pulled = (slopes.mT @ difference[..., None]).squeeze(-1) / scale**2 - z
    assert_close(mean, z + (covariance @ pulled[..., None]).squeeze(-1))
    assert_close(lower @ lower.mT, covariance)
    assert (lower.diagonal(dim1=1, dim2=2) > 0).all() and (lower.triu(1) == 0).all()


def test_more_steps_come_closer_to_a_curved_function() -> None:
    torch.manual_seed(0)
    function = Curved().double()
    points = torch.linspace(-2, 2, 8).double()[:, None].expand(64, 8, 1)
    z = torch.randn(64, LATENT).double()
    f = function(z, points)
    errors = []
    for steps in (1, 2, 6):
        torch.manual_seed(1)
        compare = functions.Difference(LATENT, outputs=2, steps=steps, scale=0.01).double()
        found = function(compare(f, points, function).mean, points)
        errors.append(float((found - f).detach().square().mean().sqrt()))
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.02


def test_differences_need_a_value_for_each_output() -> None:
    function = functions.FunctionMLP(2, outputs=3)
    with pytest.raises(ValueError, match="as many outputs as values"):
        functions.Difference(2)(torch.randn(4, 5), torch.randn(4, 5, 1), function)


def similar(prior: functions.Prior) -> VFunc:
    comparison = functions.Similarity(prior, hidden=(16,), features=8)
    function = functions.FunctionMLP(prior.width, hidden=(16,))
    return VFunc(6, function, prior=prior, comparison=comparison)


def test_scores_serve_candidates_alone_unless_z_is_a_symbol() -> None:
    points = torch.linspace(-1, 1, 6)[:, None]
    model = similar(functions.StandardNormal(2))
    assert model.information(points, 16, candidates=8).shape == (16,)
    with pytest.raises(ValueError, match="Similarity only scores"):
        model.information(points, 16)
    with pytest.raises(ValueError, match="Similarity only scores"):
        model.loss(torch.randn(3, 6), points.expand(3, 6, 1))
    model = similar(functions.UniformSymbols(4))
    assert model.information(points, 16).shape == (16,)
    assert model.loss(torch.randn(3, 6), points.expand(3, 6, 1)).shape == (3,)


@pytest.mark.parametrize("candidates", [2, 16, 40])
def test_candidates_of_one_set_of_points_are_those_of_many(candidates: int) -> None:
    """One bound, whether the draws share their candidates or each has its own."""
    torch.manual_seed(0)
    model = VFunc(
        6,
        functions.FunctionMLP(2),
        prior=functions.StandardNormal(2),
        comparison=functions.Likelihood(heads.FixedNormal(0.5)),
        head=heads.FixedNormal(0.5),
    ).double()
    points = torch.linspace(-1, 1, 6).double()[:, None]
    with torch.no_grad():
        own = model.information(points.expand(4000, 6, 1), candidates=candidates)
        shared = [model.information(points, 16, candidates=candidates) for _ in range(250)]
    means = torch.stack([each.mean() for each in shared])
    error = (own.var() / 4000 + means.var() / 250).sqrt()
    assert abs(own.mean() - means.mean()) < 4 * error
    assert own.max() <= math.log(candidates) + 1e-9


def test_what_was_drawn_elsewhere_tells_as_much() -> None:
    torch.manual_seed(0)
    model = over_symbols().double()
    points = torch.randn(7, 4, 1, dtype=torch.float64)
    z = model.prior.sample(torch.Size([7]))
    f = model.decode(z, points).sample()
    told = model.information_of(z, f, points)
    assert_close(told, model.encode(f, points).log_prob(z) + model.latents.entropy)
    assert model.information_of(z, f, points[0], candidates=3).shape == (7,)
    with pytest.raises(ValueError, match="must hold 7 draws"):
        model.information_of(z[:6], f[:6], points)
    with pytest.raises(ValueError, match="'z'"):
        model.information_of(z + 5, f, points)
    for sets, n in ((points, 3), (points[0], None), (points[0], 0)):
        with pytest.raises(ValueError, match="'n'"):
            model.information(sets, n)
    with pytest.raises(ValueError, match="'candidates'"):
        model.information(points, candidates=1)


class Chances(nn.Module):
    """Values that are probabilities of three outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.of_point, self.of_z = nn.Embedding(9, 32), nn.Linear(LATENT, 32, bias=False)
        self.out = nn.Linear(32, 3)

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        features = self.of_point(points.squeeze(-1).long()) + self.of_z(z)[:, None]
        chances: Tensor = self.out(features.relu()).softmax(-1)
        return chances


# a likelihood has no posterior over numbers
@pytest.mark.parametrize(
    ("kind", "candidates"),
    [
        ("difference", None),
        ("difference", 16),
        ("direct", None),
        ("direct", 16),
        ("likelihood", 16),
    ],
)
def test_any_module_is_a_function(kind: str, candidates: int | None) -> None:
    """Tables of probabilities under fixed noise become diverse, with any comparison."""
    torch.manual_seed(0)
    prior, head = functions.StandardNormal(LATENT), heads.FixedNormal(0.3)
    kinds: dict[str, nn.Module] = {
        "difference": functions.Difference(LATENT, outputs=3, scale=0.3),
        "direct": functions.Direct(prior, outputs=3),
        "likelihood": functions.Likelihood(head),
    }
    model = VFunc((9, 3), Chances(), prior=prior, comparison=kinds[kind], head=head)
    points = torch.arange(9.0)[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bounds = []
    for _ in range(60):
        bound = model.information(points, 32, candidates=candidates).mean()
        optimizer.zero_grad()
        (-bound).backward()
        assert all(p.grad is not None for p in model.function.parameters())
        optimizer.step()
        bounds.append(float(bound.detach()))
    assert sum(bounds[-10:]) / 10 > sum(bounds[:10]) / 10 + 0.5


def test_a_table_knows_its_points() -> None:
    table = functions.FunctionTable(4, 3, 2)
    z = torch.tensor([2, 2, 0])
    assert torch.equal(table(z, torch.zeros(3, 3, 1)), table.values[z])
    with pytest.raises(ValueError, match="'points'"):
        table(z, torch.zeros(3, 2, 1))


def test_functions_stay_as_they_were_drawn() -> None:
    model = VFunc((5, 2), functions.FunctionMLP(3, outputs=2), prior=functions.StandardNormal(3))
    drawn = model.functions(4, generator=0)
    points = torch.linspace(-3, 3, 20)[:, None]
    assert drawn(points).shape == (4, 20, 2)
    assert torch.equal(drawn(points), drawn(points))
    assert torch.equal(drawn.z, model.functions(4, generator=0).z)
    line = drawn.between(5)
    assert_close(line(points)[[0, -1]], drawn(points)[[0, -1]])
    with pytest.raises(ValueError, match="'steps'"):
        drawn.between(1)
    with pytest.raises(ValueError, match="nothing between"):
        over_symbols().functions(3).between(4)
    with pytest.raises(ValueError, match="'n'"):
        model.functions(0)


def test_all_parts_are_saved(tmp_path: Path) -> None:
    points = torch.linspace(-1, 1, 6).double()[:, None].expand(5, 6, 1)
    for prior in (functions.UniformSymbols(4), functions.StandardNormal(2)):
        model = similar(prior).double()
        checkpoint.save(model, tmp_path / "model")
        again = checkpoint.load(tmp_path / "model")
        bounds = []
        for one in (model, again):
            torch.manual_seed(0)
            bounds.append(one.information(points, candidates=3))
        assert torch.equal(*bounds)


def test_wrong_parts_are_refused() -> None:
    family = VFunc(4, functions.FunctionMLP(2), prior=functions.StandardNormal(2))
    process = GaussianProcess(4)
    for wrong, message in (
        ({"examples": 0}, "'examples'"),
        ({"draws": 0}, "'draws'"),
        ({"low": 1.0}, "'low'"),
        ({"noise": 0.0}, "'noise'"),
        ({"process": GaussianProcess(5)}, "'process'"),
    ):
        arguments = {"process": process, "examples": 6, **wrong}
        with pytest.raises(ValueError, match=message):
            FunctionRegression(family, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'functions'"):
        FunctionRegression(VFunc((4, 1), functions.FunctionMLP(8)), process=process, examples=6)
    with pytest.raises(ValueError, match="'event_shape'"):
        VFunc((), functions.FunctionMLP(8))
    with pytest.raises(ValueError, match="'function' must give"):
        VFunc(4, functions.FunctionMLP(8, outputs=2)).sample(3, torch.zeros(4, 1))
    for make, message in (
        (lambda: functions.BitFlip(0.5), "'probability'"),
        (lambda: functions.StandardNormal(0), "'latent'"),
        (lambda: functions.UniformSymbols(1), "'count'"),
        (lambda: functions.FunctionMLP(0), "'latent'"),
        (lambda: functions.FunctionMLP(2, hidden=()), "'hidden'"),
        (lambda: functions.FunctionMLP(2, frequency=0.0), "'frequency'"),
        (lambda: functions.Difference(2, steps=0), "'steps'"),
        (lambda: functions.Difference(2, scale=0.0), "'scale'"),
        (lambda: functions.Direct(functions.StandardNormal(2), outputs=0), "'outputs'"),
        (lambda: functions.Similarity(functions.StandardNormal(2), features=0), "'features'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

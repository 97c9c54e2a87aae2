"""E01 restricted Boltzmann machine, E02 energies and their samplers, E03 annealed importance."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from rlgen.generative import (
    RBM,
    VAE,
    EnergyModel,
    GenerativeModel,
    Trainer,
    cosine,
    energy,
    fit,
    metrics,
)
from rlgen.generative.energy import samplers
from tests import helpers, truth
from tests.truth import Array

EnergyOf = Callable[[Tensor], Tensor]


def weights_of(model: RBM) -> tuple[Tensor, Tensor, Tensor]:
    """W (visible, hidden) and both biases, told apart by their shapes alone."""
    visible = model.event_shape.numel()
    (matrix,) = (p for p in model.parameters() if p.ndim == 2)
    matrix = matrix if matrix.shape[0] == visible else matrix.T
    vectors = {p.numel(): p for p in model.parameters() if p.ndim == 1}
    assert len(vectors) == 2, "as many hidden units as visible ones cannot be told apart"
    return matrix, vectors[visible], vectors[matrix.shape[1]]


def random_rbm(visible: int, hidden: int, scale: float = 0.5, seed: int = 0, **more: int) -> RBM:
    """In float64, with weights and biases of the given scale."""
    model = RBM(visible, hidden=hidden, **more).double()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for part in weights_of(model):
            part.copy_(truth.as_float(scale * generator.normal(size=tuple(part.shape))))
    return model


def joint_table(model: RBM) -> Array:
    """b'v + c'h + v'W h of all pairs, with shape (2^visible, 2^hidden)."""
    w, b, c = map(truth.array, weights_of(model))
    v, h = truth.symbols(len(b)).numpy(), truth.symbols(len(c)).numpy()
    return np.asarray((v @ b)[:, None] + h @ c + v @ w @ h.T)


def exact_table(model: RBM) -> Array:
    """The probability of every v, with the hidden units summed out one by one."""
    logs = logsumexp(joint_table(model), axis=1)
    return np.asarray(np.exp(logs - logsumexp(logs)))


def exact_log_z(model: RBM) -> float:
    """By enumerating the hidden units: the visible ones factorise."""
    w, b, c = map(truth.array, weights_of(model))
    h = truth.symbols(len(c)).numpy()
    return float(logsumexp(h @ c + np.logaddexp(0, b + h @ w.T).sum(1)))


@pytest.mark.parametrize("visible, hidden", [(4, 10), (7, 3), (1, 2)])
def test_e01_energy_is_that_of_enumerated_hidden_units(visible: int, hidden: int) -> None:
    model = random_rbm(visible, hidden)
    v = truth.symbols(visible).double()
    exact = -logsumexp(joint_table(model), axis=1)
    np.testing.assert_allclose(truth.array(model.energy(v)), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("visible, hidden", [(4, 9), (9, 4), (30, 3), (3, 30)])
def test_e01_partition_and_log_prob_are_exact(visible: int, hidden: int) -> None:
    """From either side, whichever is smaller; differences of energies are exact log-ratios."""
    model = random_rbm(visible, hidden)
    small = random_rbm(visible, hidden) if hidden <= 20 else None
    w, b, c = map(truth.array, weights_of(model))
    if small is None:
        v = truth.symbols(visible).numpy()
        exact = float(logsumexp(v @ b + np.logaddexp(0, c + v @ w).sum(1)))
    else:
        exact = exact_log_z(model)
    assert float(model.log_partition()) == pytest.approx(exact, abs=1e-9)
    x = torch.randint(2, (50, visible)).double()
    free = truth.array(x) @ b + np.logaddexp(0, c + truth.array(x) @ w).sum(1)
    np.testing.assert_allclose(truth.array(model.log_prob(x)), free - exact, rtol=0, atol=1e-9)
    ratio = truth.array(model.log_prob(x[:1]) - model.log_prob(x[1:2]))
    gap = truth.array(model.energy(x[1:2]) - model.energy(x[:1]))
    assert abs(ratio - gap).max() <= 1e-5


def test_e01_a_partition_that_cannot_be_summed_is_refused() -> None:
    """min(visible, hidden) > 20: the message names the estimate to take."""
    model = RBM(21, hidden=25)
    for call in (model.log_partition, lambda: model.log_prob(torch.zeros(1, 21))):
        with pytest.raises(ValueError, match="ais"):
            call()
    assert torch.isfinite(model.energy(torch.zeros(2, 21))).all()
    assert model.sample(3, generator=0).shape == (3, 21)


def test_e01_one_gibbs_step_has_the_exact_transition() -> None:
    """p(v' | v) = sum over h of p(h | v) p(v' | h), by enumeration; bits and no probabilities."""
    model = random_rbm(4, 3, scale=1.0)
    joint = joint_table(model)
    given_v = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    given_h = np.exp(joint - logsumexp(joint, axis=0, keepdims=True))
    n = 20_000
    for start in (0, 6):
        v = truth.symbols(4)[start].double().expand(n, 4)
        after = model.gibbs(v, 1)
        assert ((after == 0) | (after == 1)).all()
        exact = given_v[start] @ given_h.T
        counts = truth.frequencies(after) * n
        assert stats.chisquare(counts, exact * n).pvalue > 1e-4


def test_e01_long_chains_and_samples_follow_the_exact_table() -> None:
    model = random_rbm(6, 5, scale=0.7)
    table, n = exact_table(model), 20_000
    floor = truth.sampling_floor(table, n)
    chains = model.gibbs(torch.ones(n, 6, dtype=torch.float64), 60)
    assert truth.total_variation(table, truth.frequencies(chains)) <= 1.5 * floor
    drawn = model.sample(n, generator=0)
    assert truth.total_variation(table, truth.frequencies(drawn)) <= 1.5 * floor
    drawn_too = model.sample(n, generator=1)
    assert not torch.equal(drawn, drawn_too)


def exact_gradient(model: RBM, x: Tensor) -> Tensor:
    """Of the mean NLL, from the formula over all v, W flattened before both biases."""
    parts = [p.detach().clone().requires_grad_() for p in weights_of(model)]

    def free(v: Tensor) -> Tensor:
        w, b, c = parts
        return -(v @ b) - torch.nn.functional.softplus(c + v @ w).sum(1)

    everything = truth.symbols(x.shape[1]).to(x.dtype)
    nll = free(x).mean() + torch.logsumexp(-free(everything), 0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(nll, parts)])


def own_gradient(model: RBM, x: Tensor) -> Tensor:
    """Of the training objective, in the same order."""
    (objective,) = model.objectives()
    for parameter in model.parameters():
        parameter.grad = None
    objective.loss(x, None).mean().backward()  # type: ignore[no-untyped-call]
    parts = {id(p): p for p in model.parameters()}
    assert all(p.grad is not None for p in parts.values())
    w, b, c = weights_of(model)
    matrix = next(p for p in model.parameters() if p.ndim == 2)
    assert matrix.grad is not None and b.grad is not None and c.grad is not None
    gradient = matrix.grad if matrix.shape == w.shape else matrix.grad.T
    return torch.cat([gradient.flatten(), b.grad, c.grad])


@pytest.mark.parametrize("kind", ["persistent", "persistent, far data", "contrastive"])
def test_e01_long_chains_give_the_exact_gradient(kind: str) -> None:
    """cos > 0.99, and length; persistent chains forget where the data is (trap: PCD -> CD)."""
    if kind == "contrastive":
        model = random_rbm(8, 10, persistent=False, steps=40)
    else:
        model = random_rbm(8, 10, persistent=True, steps=2, chains=4000)
    x = torch.randint(2, (4000, 8)).double()
    if kind == "persistent, far data":
        x = torch.ones(50, 8, dtype=torch.float64)
    trainer = Trainer(model, lr=1e-12)
    for _ in range(40):
        trainer.step(x[:64])
    with torch.random.fork_rng():
        own = own_gradient(model, x)
    exact = exact_gradient(model, x)
    assert float(torch.cosine_similarity(own, exact, dim=0)) > 0.99
    assert float(own.norm() / exact.norm()) == pytest.approx(1.0, abs=0.1)


def test_e01_one_step_of_contrastive_divergence_points_downhill() -> None:
    """Trap: the sign of the update. CD-1 is biased, but towards the data."""
    model = random_rbm(8, 10, persistent=False, steps=1)
    x = (torch.rand(4000, 8) < 0.85).double()
    own, exact = own_gradient(model, x), exact_gradient(model, x)
    assert float(torch.cosine_similarity(own, exact, dim=0)) > 0.7


def test_e01_chains_are_kept_and_move() -> None:
    """Persistent chains live in buffers, so that a checkpoint has them; each update moves them."""
    model = random_rbm(6, 9, persistent=True)
    chains = {n: b.clone() for n, b in model.named_buffers() if b.ndim == 2 and b.shape[1] == 6}
    assert len(chains) == 1 and set(chains) <= set(model.state_dict())
    trainer = Trainer(model, lr=1e-3)
    trainer.step(torch.ones(16, 6))
    for name, before in chains.items():
        after = model.get_buffer(name)
        assert not torch.equal(before, after)
        assert ((after == 0) | (after == 1)).all()


def bars_and_stripes() -> Tensor:
    """The 30 patterns of 4 x 4 whose rows are all equal, or whose columns are."""
    rows = truth.symbols(4).float()
    stripes = rows[:, :, None].expand(-1, 4, 4)
    patterns = torch.cat([stripes, stripes.mT]).flatten(1)
    return torch.unique(patterns, dim=0)


def enumerated_nll(model: RBM, x: Tensor) -> float:
    w, b, c = map(truth.array, weights_of(model))

    def unnormalised(v: Array) -> Array:
        return np.asarray(v @ b + np.logaddexp(0, c + v @ w).sum(1))

    log_z = logsumexp(unnormalised(truth.symbols(len(b)).numpy()))
    return float(log_z - unnormalised(truth.array(x)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_e01_persistent_chains_learn_bars_and_stripes(seed: int) -> None:
    """Exact mean NLL <= 5.0: the data has 3.401, independent pixels 11.09."""
    torch.manual_seed(seed)
    x = bars_and_stripes()
    assert len(x) == 30
    model = RBM(16, hidden=32, persistent=True)
    fit(model, x.repeat(8, 1), steps=2500, lr=1e-2, schedule=cosine, seed=seed, progress=False)
    nll = enumerated_nll(model, x)
    assert math.log(30) - 1e-3 <= nll <= 5.0
    with torch.no_grad():
        assert -float(model.log_prob(x).mean()) == pytest.approx(nll, abs=1e-3)


def test_e02_gradient_of_a_normalised_energy() -> None:
    """-dF(x) + E_p dF against finite differences of the exact log-likelihood, within 1e-5."""
    model = random_rbm(5, 4, scale=0.8)
    x, everything = torch.randint(2, (20, 5)).double(), truth.symbols(5).double()
    table = truth.as_float(exact_table(model))
    parameters = list(model.parameters())
    identity = -model.energy(x).mean() + (table * model.energy(everything)).sum()
    own = torch.autograd.grad(model.log_prob(x).mean(), parameters)
    found = torch.autograd.grad(identity, parameters)
    for parameter, gradient, other in zip(parameters, own, found, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, flat.numel(), 3):
            ends = []
            for shift in (1e-5, -2e-5):
                flat[i] += shift
                ends.append(-enumerated_nll(model, x))
            flat[i] += 1e-5
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(gradient.reshape(-1)[i]) == pytest.approx(slope, abs=1e-5)
            assert float(other.reshape(-1)[i]) == pytest.approx(slope, abs=1e-5)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * x.square().flatten(1).sum(1)


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_e02_langevin_has_its_known_bias(step: float) -> None:
    """x' = (1 - step / 2) x + sqrt(step) noise is stationary at variance 1 / (1 - step / 4)."""
    exact = 1 / (1 - step / 4)
    x = math.sqrt(exact) * torch.randn(60_000, 1)
    x = samplers.langevin(quadratic, x, step=step, steps=int(20 / step))
    assert float(x.var()) == pytest.approx(exact, rel=0.02)
    assert abs(float(x.mean())) <= 0.02


def test_e02_one_langevin_step() -> None:
    """Trap: the drift step / 2 with the noise sqrt(step), and no other pairing."""

    def energy(x: Tensor) -> Tensor:
        return (x[:, 0] - x[:, 1] ** 2) ** 2 + x[:, 1].sin()

    start = torch.tensor([0.7, -0.4], dtype=torch.float64)
    gradient = truth.as_float([2 * (0.7 - 0.16), -2 * (0.7 - 0.16) * 2 * -0.4 + math.cos(-0.4)])
    n, step = 40_000, 0.3
    after = samplers.langevin(energy, start.expand(n, 2), step=step, steps=1)
    noise = after - start + 0.5 * step * gradient
    assert noise.mean(0).abs().max() <= 4 * math.sqrt(step / n)
    np.testing.assert_allclose(noise.T.cov(), step * np.eye(2), atol=0.02 * step)
    for column in truth.array(noise / math.sqrt(step)).T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_e02_mala_has_no_bias(step: float) -> None:
    """Variance 1 within 2 % at steps that bias plain Langevin by 14 and 33 %."""
    x = torch.randn(60_000, 1)
    x = samplers.mala(quadratic, x, step=step, steps=int(20 / step))
    assert float(x.var()) == pytest.approx(1.0, rel=0.02)


def test_e02_mala_keeps_what_is_not_gaussian() -> None:
    """A skewed double well: reached with a fair step, and kept with one that is far too large."""

    def energy(x: Tensor) -> Tensor:
        return (x.square() - 1.0).square().sum(1) + 0.5 * x.sum(1)

    axis = np.linspace(-4, 4, 20_001)
    density = np.exp(-((axis**2 - 1) ** 2) - 0.5 * axis)
    cdf = np.cumsum(density) / density.sum()
    exact = truth.as_float(np.interp(np.random.default_rng(0).random(8000), cdf, axis))[:, None]
    for start, step, steps in ((torch.randn(8000, 1), 0.3, 300), (exact, 2.0, 30)):
        x = samplers.mala(energy, start, step=step, steps=steps)
        assert (x != start).double().mean() > 0.5, "nothing moved"
        found = stats.kstest(truth.array(x[:, 0]), lambda v: np.interp(v, axis, cdf))
        assert found.pvalue > 1e-4, f"step {step}: {found.statistic}"


def test_e02_samplers_are_not_differentiated_through() -> None:
    """Trap: gradients of the sampler itself. Neither x nor the energy's weights get any."""
    weight = torch.nn.Parameter(torch.ones(()))

    def energy(x: Tensor) -> Tensor:
        return weight * quadratic(x)

    for sampler in (samplers.langevin, samplers.mala):
        with torch.no_grad():
            assert not sampler(energy, torch.randn(8, 2), step=0.1, steps=3).requires_grad
        x = torch.randn(8, 2)
        before = x.clone()
        out = sampler(energy, x, step=0.1, steps=3)
        assert not out.requires_grad and weight.grad is None
        assert torch.equal(x, before), "the start was overwritten"


MODES = 1.5 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
WIDTH = 0.4


def four_modes(n: int) -> Tensor:
    return MODES[torch.randint(4, (n,))] + WIDTH * torch.randn(n, 2)


def four_modes_log_prob(x: Tensor) -> Tensor:
    square = (x.double()[:, None] - MODES.double()).square().sum(-1) / WIDTH**2
    return (-0.5 * square).logsumexp(1) - math.log(4 * 2 * math.pi * WIDTH**2)


def grid_log_z(energy: EnergyOf, half_width: float, nodes: int = 400) -> float:
    """The midpoint rule over a square around 0."""
    step = 2 * half_width / nodes
    axis = -half_width + step * (torch.arange(nodes) + 0.5)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logs = torch.cat([-energy(part).double() for part in points.split(20_000)])
    return float(logs.logsumexp(0)) + 2 * math.log(step)


def test_e02_loss_has_the_gradient_of_the_likelihood() -> None:
    """dE(x) - mean of dE over the chains, nothing through the sampler, and no change of state."""
    model = EnergyModel(2, hidden=(8,), alpha=0.0)
    x = four_modes(64)
    Trainer(model, lr=1e-3).step(x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())
    chains = model.centre + model.scale * model.chains
    identity = model.energy(x).mean() - model.energy(chains).mean()
    (objective,) = model.objectives()
    own = torch.autograd.grad(objective.loss(x, None).mean(), parameters, allow_unused=True)
    found = torch.autograd.grad(identity, parameters, allow_unused=True)
    for gradient, other in zip(own, found, strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (gradient, other))
        assert (a - b).abs().max() <= 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_e02_chains_begin_afresh() -> None:
    """Trap: a replay buffer that is never started again. Stranded chains come back."""
    sampler = energy.Langevin(step=1e-10, steps=1)
    model = EnergyModel(2, hidden=(8,), sampler=sampler, buffer=1000, reinit=0.1)
    trainer = Trainer(model, lr=1e-12)
    trainer.step(four_modes(64))
    assert torch.isfinite(model.chains).all() and model.chains.abs().max() < 10
    model.chains.fill_(1e4)
    for _ in range(60):
        trainer.step(four_modes(64))
    assert float((model.chains.abs().amax(1) < 10).float().mean()) >= 0.98


def test_e02_far_points_have_high_energy() -> None:
    """Whatever the weights: Z is finite, as the energy grows in all directions."""
    model = EnergyModel(2, hidden=(16,))
    model.initialise(four_modes(1000))
    truth.randomise(model, 1.0)
    angle = torch.linspace(0, 2 * math.pi, 50)[:, None]
    ring = torch.cat([angle.cos(), angle.sin()], 1)
    with torch.no_grad():
        energies = torch.stack([model.energy(r * ring) for r in (1e2, 1e3, 1e4)])
    assert torch.isfinite(energies).all() and (energies.diff(dim=0) > 0).all()
    assert (energies[-1] > 1e4).all()


@pytest.mark.slow
def test_e02_learns_four_modes() -> None:
    """NLL <= entropy + 0.15 with Z by quadrature over a square that holds all of the mass."""
    model = EnergyModel(2)
    fit(model, four_modes(20_000), steps=1500, schedule=cosine, progress=False)
    model.eval()
    test = four_modes(50_000)
    entropy = -float(four_modes_log_prob(test).mean())
    log_z = grid_log_z(model.energy, 5.0)
    assert grid_log_z(model.energy, 20.0, 1000) - log_z <= 0.01, "mass lies far away"
    with torch.no_grad():
        energy = model.energy(test)
        nll = float(energy.double().mean()) + log_z
    assert entropy - 0.01 <= nll <= entropy + 0.15
    assert energy.abs().mean() <= 20, "energies run away"
    drawn = model.sample(4000, generator=0)
    nearest = torch.cdist(drawn, MODES).min(1)
    assert (nearest.values <= 4 * WIDTH).float().mean() >= 0.95
    assert torch.bincount(nearest.indices, minlength=4).min() >= 400  # 1000 each


@pytest.mark.parametrize("temperatures, chains, error", [(100, 100, 0.15), (1000, 500, 0.03)])
def test_e03_log_z_of_an_rbm(temperatures: int, chains: int, error: float) -> None:
    """A random RBM of 20 x 10; Z by 2^10 terms."""
    model = random_rbm(20, 10, scale=0.5)
    found = metrics.ais(model, temperatures=temperatures, chains=chains, generator=0)
    exact = exact_log_z(model)
    logs = truth.array(found.log_weights)
    assert abs(float(found.log_z) - exact) < error
    assert logs.shape == (chains,)
    assert float(found.log_z) == pytest.approx(logsumexp(logs) - math.log(chains), abs=1e-6)
    assert logs.mean() <= exact + 3 * logs.std() / math.sqrt(chains)


def test_e03_weights_are_unbiased_at_few_temperatures() -> None:
    """E w = Z however few; E log w < log Z. Trap: a ratio taken after its transition is biased."""
    model = random_rbm(5, 3, scale=1.0)
    exact = exact_log_z(model)
    for temperatures in (3, 6):
        found = metrics.ais(model, temperatures=temperatures, chains=40_000, generator=0)
        relative = np.exp(truth.array(found.log_weights) - exact)
        assert truth.within(relative, 1.0), (relative.mean(), relative.std())
        assert np.log(relative).mean() < -0.01


def test_e03_z_is_underestimated_on_average() -> None:
    """Errata 24: so an RBM's log p is overestimated."""
    model = random_rbm(12, 6, scale=1.0)
    exact = exact_log_z(model)
    runs = [
        float(metrics.ais(model, temperatures=5, chains=4, generator=seed).log_z)
        for seed in range(200)
    ]
    gap = np.array(runs) - exact
    assert gap.mean() < -3 * gap.std() / math.sqrt(len(gap))
    assert metrics.ais.__doc__ is not None and "underestimate" in metrics.ais.__doc__.lower()


def test_e03_independent_bits_need_no_annealing() -> None:
    """The constant of the base, (visible + hidden) log 2, is there."""
    model = random_rbm(7, 4, scale=0.0)
    found = metrics.ais(model, temperatures=5, chains=10, generator=0)
    np.testing.assert_allclose(truth.array(found.log_weights), 11 * math.log(2), atol=1e-6)
    assert float(found.standard_error) <= 1e-6


def test_e03_error_bar_is_honest() -> None:
    """Its own standard error agrees with the spread over repetitions, within a factor of 2."""
    model = random_rbm(12, 6, scale=0.5)
    runs = [metrics.ais(model, temperatures=50, chains=100, generator=s) for s in range(15)]
    spread = np.std([float(run.log_z) for run in runs], ddof=1)
    claimed = np.mean([float(run.standard_error) for run in runs])
    assert 0.5 <= claimed / spread <= 2
    again = metrics.ais(model, temperatures=50, chains=100, generator=0)
    assert float(again.log_z) == float(runs[0].log_z)


class LinearGaussian(GenerativeModel):
    """z ~ N(0, I), x | z ~ N(mean + W z, scale^2 I), with the prior for a proposal."""

    def __init__(self, dims: int = 5, latent: int = 2, scale: float = 0.5, seed: int = 0) -> None:
        super().__init__(dims)
        generator = np.random.default_rng(seed)
        self.loadings = torch.nn.Parameter(truth.as_float(generator.normal(size=(dims, latent))))
        self.shift = torch.nn.Parameter(truth.as_float(generator.normal(size=dims)))
        self.scale = scale

    @property
    def prior(self) -> Distribution:
        zero = self.loadings.new_zeros(self.loadings.shape[1])
        return Independent(Normal(zero, zero + 1, validate_args=False), 1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        mean = self.shift + z @ self.loadings.T
        return Independent(Normal(mean, self.scale, validate_args=False), 1)

    def exact(self, x: Tensor) -> Array:
        shift, loadings = truth.array(self.shift), truth.array(self.loadings)
        return truth.linear_gaussian_log_prob(truth.array(x), shift, loadings, self.scale**2)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.decode(self.prior.sample(torch.Size([len(x)]))).log_prob(x)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return torch.as_tensor(self.decode(self.prior.sample(torch.Size([n]))).sample())


@pytest.mark.slow
def test_e03_directed_model_has_its_closed_form() -> None:
    """log p(x) within 0.05 of the Gaussian's, and no lower than the bound of the best q."""
    model = LinearGaussian()
    x = model.sample(12, generator=0)
    exact = model.exact(x)
    found = truth.array(metrics.ais_log_likelihood(model, x, generator=0).log_z)
    assert found.shape == (12,)
    assert abs(found - exact).max() < 0.05
    w = truth.array(model.loadings)
    precision = np.eye(2) + w.T @ w / model.scale**2
    covariance = np.linalg.inv(precision)  # the posterior, of which q keeps the diagonal alone
    variances = 1 / np.diag(precision)
    gap = truth.gaussian_kl(np.zeros(2), np.diag(variances), np.zeros(2), covariance)
    assert gap > 0.1 and (found >= exact - gap).all()


@pytest.mark.slow
def test_e03_evaluates_a_decoder() -> None:
    """A VAE's log p(x) by quadrature over its two codes; the bound lies below."""
    model = VAE(4, latent=2, hidden=(16,)).double()
    truth.randomise(model, 0.3)
    x = model.sample(8, generator=0)
    exact = helpers.true_log_prob(model, x, None)
    assert exact is not None
    found = metrics.ais_log_likelihood(model, x, generator=0).log_z
    assert (found - exact).abs().max() < 0.05
    bound = torch.stack([model.elbo(x) for _ in range(200)]).mean(0)
    assert (found >= bound - 0.05).all() and (found - bound).mean() > 0.05

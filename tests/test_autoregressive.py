"""A01 the chain rule, A02 FVSBN, A03 NADE, A04 RNADE, A06 MADE, against enumeration."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rlgen.generative import (
    FVSBN,
    MADE,
    NADE,
    RNADE,
    CausalTransformer,
    PixelCNN,
    cosine,
    fit,
    heads,
)
from rlgen.generative.autoregressive.base import Autoregressive
from tests import truth

Make = Callable[..., Autoregressive]
D = 10
SHUFFLED = (3, 7, 0, 9, 1, 5, 8, 2, 6, 4)
REVERSED = tuple(range(D - 1, -1, -1))
BINARY: dict[str, tuple[Make, tuple[int, ...]]] = {
    "FVSBN": (partial(FVSBN, D), tuple(range(D))),
    "FVSBN-shuffled": (partial(FVSBN, D, order=SHUFFLED), SHUFFLED),
    "NADE": (partial(NADE, D), tuple(range(D))),
    "NADE-shuffled": (partial(NADE, D, order=SHUFFLED), SHUFFLED),
    "MADE": (partial(MADE, D), tuple(range(D))),
    "MADE-reversed": (partial(MADE, D, order=REVERSED), REVERSED),
    "MADE-shuffled-direct": (partial(MADE, D, order=SHUFFLED, direct=True), SHUFFLED),
    "MADE-deep": (partial(MADE, (2, 5), hidden=(40, 30, 40)), tuple(range(D))),
    "MADE-linear": (partial(MADE, D, hidden=()), tuple(range(D))),
    "Transformer": (partial(CausalTransformer, D, width=16), tuple(range(D))),
    "PixelCNN": (partial(PixelCNN, (1, 2, 5), channels=8), tuple(range(D))),
    "PixelCNN-plain": (
        partial(PixelCNN, (2, 1, 5), channels=8, gated=False),
        (0, 5, 1, 6, 2, 7, 3, 8, 4, 9),  # all channels of a pixel, then the next pixel
    ),
}
every = pytest.mark.parametrize("name", list(BINARY))


def scrambled(name: str, seed: int = 0, **options: Any) -> Autoregressive:
    torch.manual_seed(seed)
    model = BINARY[name][0](**options)
    truth.randomise(model, 0.5, seed)
    return model.eval()


def as_data(model: Autoregressive, x: Tensor) -> Tensor:
    """In the model's shape, and in the dtype that its conditionals take."""
    bits = isinstance(model.head, heads.Bernoulli)
    return (x.to(model.dtype) if bits else x.long()).reshape(-1, *model.event_shape)


def some_x(model: Autoregressive, n: int) -> Tensor:
    return as_data(model, torch.randint(2, (n, D), generator=torch.Generator().manual_seed(1)))


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_a01_sums_to_one(name: str, seed: int) -> None:
    """Over all 2^10: within 1e-5 in float32, 1e-10 in float64, also for each context."""
    model = scrambled(name, seed)
    x = truth.symbols(D).reshape(-1, *model.event_shape)
    with torch.no_grad():
        single = model.log_prob(x).double().exp()
        exact = model.double().log_prob(x).exp()
    assert abs(float(single.sum()) - 1) <= 1e-5
    assert abs(float(exact.sum()) - 1) <= 1e-10
    assert truth.entropy(truth.array(exact)) < D * math.log(2) - 0.1  # far from uniform
    given = scrambled(name, seed, context_shape=(3,)).double()
    tables = []
    for context in torch.randn(2, 3, dtype=torch.float64):
        with torch.no_grad():
            tables.append(given.log_prob(x, context.expand(len(x), 3)).exp())
        assert abs(float(tables[-1].sum()) - 1) <= 1e-10
    assert truth.total_variation(*map(truth.array, tables)) > 0.01  # the context matters


@every
def test_a01_samples_follow_the_table(name: str) -> None:
    """50 000 samples: total variation below that of perfect samples + 0.02."""
    model = scrambled(name)
    with torch.no_grad():
        table = truth.array(model.log_prob(as_data(model, truth.symbols(D))).exp())
    found = truth.frequencies(model.sample(50_000, generator=0))
    assert truth.total_variation(found, table) < truth.sampling_floor(table, 50_000) + 0.02


@every
def test_a01_sampled_log_prob_is_log_prob(name: str) -> None:
    for context_shape in (None, (3,)):
        model = scrambled(name, context_shape=context_shape)
        context = None if context_shape is None else torch.randn(500, 3)
        x, log_prob = model.sample_and_log_prob(500, context, generator=0)
        with torch.no_grad():
            assert (model.log_prob(x, context) - log_prob).abs().max() <= 1e-5


def test_a01_samples_without_dropout() -> None:
    model = PixelCNN((1, 2, 5), channels=8, dropout=0.5)
    truth.randomise(model, 0.5)
    x, log_prob = model.train().sample_and_log_prob(50, generator=0)
    assert torch.equal(x, model.eval().sample(50, generator=0))
    with torch.no_grad():
        assert (model.log_prob(x) - log_prob).abs().max() <= 1e-5


@every
def test_a01_parallel_equals_sequential(name: str) -> None:
    """Each conditional from its prefix alone, all later numbers being noise: off by one shows."""
    model = scrambled(name).double()
    x = some_x(model, 64)
    flat, total = x.flatten(1), torch.zeros(64, dtype=torch.float64)
    with torch.no_grad():
        parallel = model.conditionals(x).log_prob(x).flatten(1)
        for k, i in enumerate(BINARY[name][1]):
            later = torch.tensor(BINARY[name][1][k:])
            junk = flat.clone()
            junk[:, later] = torch.randint(2, (64, D - k)).to(junk.dtype)
            made = model.conditionals(junk.reshape(x.shape))
            alone = made.log_prob(x).flatten(1)[:, i]
            assert (alone - parallel[:, i]).abs().max() <= 1e-10
            total += alone
        assert (model.log_prob(x) - total).abs().max() <= 1e-10


@every
def test_a01_a06_each_conditional_sees_the_past_and_all_of_it(name: str) -> None:
    model = scrambled(name).double()
    order = list(BINARY[name][1])
    x = some_x(model, 32)
    seen = truth.influence(model.conditionals, x, [1 - x])[order][:, order]
    assert (torch.triu(seen) == 0).all(), "a number reaches its own conditional or an earlier one"
    below = seen[tuple(torch.tril_indices(D, D, -1))]
    assert (below > 1e-9).all(), "a number does not reach a later conditional"


@pytest.mark.parametrize("name", [n for n in BINARY if n[0] in "FNM"])
def test_a02_a06_jacobian_is_strictly_triangular(name: str) -> None:
    """d out_i / d x_j = 0 exactly where j does not come before i; the first is constant."""
    model = scrambled(name).double()
    order = list(BINARY[name][1])
    x = torch.randint(2, model.event_shape, generator=torch.Generator().manual_seed(3)).double()
    entries = truth.jacobian(lambda row: model.conditionals(row).mean, x)[order][:, order]
    assert (torch.triu(entries) == 0).all()
    assert (entries[tuple(torch.tril_indices(D, D, -1))] != 0).all()


@pytest.mark.parametrize(
    "make",
    [
        partial(NADE, 256),
        partial(MADE, 256, hidden=(128, 128)),
        partial(MADE, 256, hidden=(128,), direct=True),
        partial(CausalTransformer, 256, width=32, layers=2),
    ],
)
def test_a01_sampling_does_not_recompute_the_past(make: Make) -> None:
    """Trap: D full passes for one sample. Counted in multiplications, which no load disturbs."""
    model = make()
    x = torch.zeros(8, 256, dtype=torch.long)
    with FlopCounterMode(display=False) as parallel, torch.no_grad():
        model.log_prob(x)
    with FlopCounterMode(display=False) as sequential:
        model.sample(8, generator=0)
    assert 0 < sequential.get_total_flops() <= 3 * parallel.get_total_flops()


def test_a02_fvsbn_is_logistic_regression_on_the_past() -> None:
    """The strictly lower triangle and a bias (errata 19): 4 numbers for the fourth bit."""
    model = FVSBN(6).double()
    truth.randomise(model, 1.0)
    x = truth.symbols(6)
    logits = np.log(truth.array(model.conditionals(x).mean))
    logits = logits - np.log1p(-np.exp(logits))
    design = np.hstack([np.ones((64, 1)), x.numpy()])
    weights, *_ = np.linalg.lstsq(design, logits, rcond=None)
    assert np.abs(design @ weights - logits).max() < 1e-8  # linear in x, with a bias
    assert np.abs(np.triu(weights[1:].T)).max() < 1e-8  # row i: what x_j does to bit i
    assert np.abs(weights[0]).min() > 1e-3


XOR = torch.tensor([[a, b, a ^ b] for a in (0, 1) for b in (0, 1)])


def xor_nll(model: Autoregressive) -> float:
    """The expected NLL under the uniform distribution of the four words, from the whole table."""
    fit(model, XOR, steps=600, lr=0.03, progress=False)
    table = truth.array(model.log_prob(truth.symbols(3)).exp())
    assert abs(table.sum() - 1) < 1e-5
    index = (XOR @ torch.tensor([4, 2, 1])).numpy()
    return float(-np.log(table[index]).mean())


def test_a02_fvsbn_cannot_do_xor() -> None:
    assert xor_nll(FVSBN(3)) == pytest.approx(3 * math.log(2), abs=0.01)
    assert xor_nll(MADE(3, hidden=())) >= 3 * math.log(2) - 1e-4


@pytest.mark.parametrize("make", [partial(NADE, 3), partial(MADE, 3)], ids=["NADE", "MADE"])
@pytest.mark.parametrize("seed", range(3))
def test_a02_a03_hidden_units_can_do_xor(make: Make, seed: int) -> None:
    torch.manual_seed(seed)
    assert xor_nll(make()) <= 2 * math.log(2) + 0.02


@pytest.mark.parametrize("seed", range(3))
def test_a03_recurrence_equals_naive_masks(seed: int) -> None:
    """h_i = sigmoid(c + W_<i x_<i), p(x_i = 1) = sigmoid(b_i + V_i h_i), one bit at a time."""
    model = NADE(7, hidden=5).double()
    truth.randomise(model, 1.0, seed)
    state = {name: truth.array(value) for name, value in model.state_dict().items()}
    w, v, b = state["W"][:, 0], state["V"][:, 0], state["b"][:, 0]
    x = np.random.default_rng(seed).integers(0, 2, size=(50, 7))
    naive = np.empty((50, 7))
    for i in range(7):
        visible = x * (np.arange(7) < i)
        hidden = expit(state["c"] + visible @ w)
        naive[:, i] = expit(hidden @ v[i] + b[i])
    found = truth.array(model.conditionals(torch.tensor(x)).mean)
    assert np.abs(found - naive).max() <= 1e-6
    log_mass = np.log(np.where(x == 1, naive, 1 - naive)).sum(1)
    assert np.abs(truth.array(model.log_prob(torch.tensor(x))) - log_mass).max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("make", [partial(NADE, D), partial(MADE, D)], ids=["NADE", "MADE"])
@pytest.mark.parametrize("seed", range(2))
def test_a03_a06_divergence_from_a_boltzmann_machine(make: Make, seed: int) -> None:
    """KL(RBM || model) <= 0.05 nats by enumeration, from 20 000 samples."""
    table = truth.rbm_table(D, seed=seed)
    x = truth.symbols(D)[truth.draw(table, 20_000, seed)]
    model = make()
    fit(model, x, steps=1500, batch_size=256, lr=5e-3, schedule=cosine, progress=False)
    modelled = truth.array(model.log_prob(truth.symbols(D)).exp())
    assert truth.kl(table, modelled) <= 0.05
    bits = truth.symbols(D).numpy()
    independent = np.prod(np.where(bits == 1, table @ bits, 1 - table @ bits), axis=1)
    assert truth.kl(table, independent) > 0.3  # the target is not nearly independent


@pytest.mark.slow
def test_a04_rnade_fits_the_banana() -> None:
    """NLL <= 2.1447 + 0.03."""
    model = RNADE(2)
    fit(model, truth.banana(20_000), steps=3000, lr=2e-2, schedule=cosine, progress=False)
    assert truth.BANANA_ENTROPY - 1e-3 <= truth.banana_nll(model.log_prob) <= 2.1447 + 0.03
    mass = truth.plane_integral(
        model.log_prob, torch.tensor([0.0, 5.0]), 12.0, 800, dtype=torch.float32
    )
    assert abs(mass - 1) < 0.01
    drawn = model.sample(50_000, generator=0)
    assert abs(float(drawn[:, 1].mean()) - 1) < 0.1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a04_rnade_density_is_in_the_units_of_the_data(order: tuple[int, int]) -> None:
    """Errata 21, and the trap of a data scaling without its Jacobian."""
    model = RNADE(2, order=order).double()
    truth.randomise(model, 0.3)
    x = 3 + 5 * torch.randn(20, 2, dtype=torch.float64)
    made = model.conditionals(x)
    assert (made.log_prob(x).sum(1) - model.log_prob(x)).abs().max() < 1e-9
    assert abs(truth.plane_integral(model.log_prob, torch.zeros(2), 40.0, 1000) - 1) < 0.01


@pytest.mark.parametrize("head", [heads.Categorical(3), heads.DiscretisedLogisticMixture(3, 2)])
@pytest.mark.parametrize("family", [NADE, MADE], ids=["NADE", "MADE"])
def test_a06_symbols_sum_to_one(family: Make, head: heads.Head) -> None:
    model = family(5, head=head).double()
    truth.randomise(model, 0.5)
    x = truth.symbols(5, 3)
    with torch.no_grad():
        table = model.log_prob(x).exp()
    assert abs(float(table.sum()) - 1) <= 1e-10
    seen = truth.influence(model.conditionals, x[::7], [(x[::7] + 1) % 3])
    assert (torch.triu(seen) == 0).all() and (seen[tuple(torch.tril_indices(5, 5, -1))] > 0).all()


def test_a06_masks_survive_copies_and_casts() -> None:
    """Trap: masks lost on .to(...), in a state_dict, or by training."""
    model = MADE(D, order=SHUFFLED, direct=True)
    fit(model, torch.randint(2, (256, D)), steps=20, lr=0.1, progress=False)
    truth.randomise(model)
    other = MADE(D, order=SHUFFLED, direct=True).double()
    other.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model).half().double()
    x = truth.symbols(D)
    with torch.no_grad():
        for made in (other, twin):
            assert abs(float(made.log_prob(x).exp().sum()) - 1) <= 1e-10
        torch.testing.assert_close(other.log_prob(x).float(), model.log_prob(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", [FVSBN, NADE, MADE], ids=["FVSBN", "NADE", "MADE"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a06_few_dimensions(family: Make, dims: int) -> None:
    """Where masks and degrees easily degenerate."""
    model = family(dims).double()
    truth.randomise(model, 1.0)
    x = truth.symbols(dims)
    table = truth.array(model.log_prob(x).exp())
    assert abs(table.sum() - 1) <= 1e-10
    found = truth.frequencies(model.sample(50_000, generator=0).reshape(50_000, dims))
    assert truth.total_variation(found, table) < 0.02

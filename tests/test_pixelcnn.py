"""A09: plain and gated PixelCNN, with and without a class."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.generative import PixelCNN, cosine, fit, heads
from rlgen.generative.data import digits
from tests import truth


def scrambled(shape: tuple[int, ...], seed: int = 0, **options: Any) -> PixelCNN:
    torch.manual_seed(seed)
    model = PixelCNN(shape, **options).double()
    truth.randomise(model, 0.3, seed)
    return model.eval()


def bits(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    drawn = torch.randint(2, (n, *shape), generator=torch.Generator().manual_seed(seed))
    return drawn.double()


def raster(channels: int, height: int, width: int) -> list[int]:
    """Positions in the flattened (C, H, W) in order of modelling: all channels of each pixel."""
    grid = torch.arange(channels * height * width).reshape(channels, height, width)
    order: list[int] = grid.permute(1, 2, 0).flatten().tolist()
    return order


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 4, 3), (3, 2, 4)])
def test_a09_jacobian_is_causal(shape: tuple[int, ...], kernel: int, gated: bool) -> None:
    """Exactly 0 for the number itself and all that come later, also across channels."""
    model = scrambled(shape, channels=6, layers=4, kernel=kernel, gated=gated)
    order = raster(*shape)
    for x in bits(2, shape):
        entries = truth.jacobian(lambda row: model.conditionals(row).mean, x)[order][:, order]
        assert (torch.triu(entries) == 0).all()
        row = torch.tensor(order) % (shape[1] * shape[2]) // shape[2]
        before = torch.diagonal(entries, -1)[row[1:] == row[:-1]]
        assert (before != 0).all()  # each number sees the one before it in its row


def reach(gated: bool, side: int, **options: Any) -> Tensor:
    """(pixel, pixel): whether the first ever depends on the second."""
    model = scrambled((1, side, side), channels=8, gated=gated, **options)
    total = torch.zeros(side**2, side**2, dtype=torch.float64)
    for x in bits(3, (1, side, side)):
        total += truth.jacobian(lambda row: model.conditionals(row).mean, x).abs()
    return total > 0


def test_a09_gated_has_no_blind_spot() -> None:
    """Every past pixel counts, where the field is as large as the image."""
    seen = reach(True, 6, layers=8, kernel=3)
    assert torch.equal(seen, torch.tril(torch.ones(36, 36), -1).bool())


def test_a09_plain_has_the_blind_spot_of_its_kernel() -> None:
    """A 3x3 kernel climbs one row for each column to the right: beyond that it is blind."""
    seen = reach(False, 6, layers=12, kernel=3)
    row, column = torch.arange(36) // 6, torch.arange(36) % 6
    up = row[:, None] - row[None]
    right = column[None] - column[:, None]
    past = (up > 0) | ((up == 0) & (right < 0))
    assert torch.equal(seen, past & (right <= up))
    assert (past & (right > up)).any()  # there is a blind spot to find


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("layers, kernel", [(1, 3), (2, 3), (2, 5)])
def test_a09_field_grows_with_layers_and_kernel(layers: int, kernel: int, gated: bool) -> None:
    """A first layer without the pixel itself, and no hole in the field (type A, then B)."""
    side = 7
    seen = reach(gated, side, layers=layers, kernel=kernel)[side * 5 + 3].reshape(side, side)
    assert not seen[5, 3:].any() and not seen[6].any()
    left = seen[5, :3].flip(0)
    assert left[0] and (left.long().diff() <= 0).all()  # contiguous to the left
    above = seen[:5].flip(0)
    assert above[0, 3] and (above[:, 3].long().diff() <= 0).all()
    assert int(left.sum()) >= min(3, layers * (kernel // 2))
    assert int(above[:, 3].sum()) >= min(5, layers * (kernel // 2))
    if gated:
        far = min(3, layers * (kernel // 2))
        box = above[: int(above[:, 3].sum()), 3 - far : 4 + far]
        assert box.all()  # as wide in the row above as in the uppermost one


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_a09_sums_to_one_on_3x3(gated: bool, context_shape: tuple[int, ...] | None) -> None:
    model = scrambled((1, 3, 3), channels=6, gated=gated, context_shape=context_shape)
    x = truth.symbols(9).reshape(-1, 1, 3, 3)
    context = None if context_shape is None else torch.ones(512, 2, dtype=torch.float64)
    with torch.no_grad():
        table = truth.array(model.log_prob(x, context).exp())
    assert abs(table.sum() - 1) <= 1e-10
    assert truth.entropy(table) < 9 * math.log(2) - 0.01
    found = truth.frequencies(
        model.sample(20_000, None if context is None else context[0], generator=0)
    )
    assert truth.total_variation(found, table) < truth.sampling_floor(table, 20_000) + 0.02


@pytest.mark.parametrize("head", [heads.Categorical(3), heads.DiscretisedLogisticMixture(3, 2)])
@pytest.mark.parametrize("gated", [True, False])
def test_a09_symbols_and_channels_sum_to_one(head: heads.Head, gated: bool) -> None:
    model = scrambled((2, 1, 3), channels=6, head=head, gated=gated)
    with torch.no_grad():
        total = model.log_prob(truth.symbols(6, 3).reshape(-1, 2, 1, 3)).exp().sum()
    assert abs(float(total) - 1) <= 1e-10


def test_a09_stays_causal_through_training() -> None:
    """Trap: a mask that multiplies the weights once, when they are made."""
    model = PixelCNN((1, 4, 4), channels=8, layers=3)
    fit(model, bits(64, (1, 4, 4)).float(), steps=20, lr=0.05, progress=False)
    model.double().eval()
    for x in bits(2, (1, 4, 4)):
        entries = truth.jacobian(lambda row: model.conditionals(row).mean, x)
        assert (torch.triu(entries) == 0).all()


@pytest.mark.parametrize("gated", [True, False])
def test_a09_context_reaches_every_pixel(gated: bool) -> None:
    model = scrambled((1, 4, 4), channels=6, gated=gated, context_shape=(3,))
    x = bits(1, (1, 4, 4))
    entries = truth.jacobian(
        lambda c: model.conditionals(x, c).mean, torch.zeros(3, dtype=torch.float64)
    )
    assert (entries != 0).any(1).all()


def binarised() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    split = digits()
    classes = torch.eye(10)
    return (
        (split.train >= 8).float(),
        (split.test >= 8).float(),
        classes[split.train_labels],
        classes[split.test_labels],
    )


def held_out(model: PixelCNN, x: Tensor, context: Tensor | None = None) -> float:
    """Nats per image, by binary cross entropy of the conditionals, in numpy."""
    with torch.no_grad():
        p = np.clip(truth.array(model.eval().conditionals(x, context).mean), 1e-12, 1 - 1e-7)
    y = truth.array(x)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).sum((1, 2, 3)).mean())


@pytest.mark.slow
def test_a09_digits_beat_independent_pixels_and_classes_help() -> None:
    """At least 20 % below independent pixels; the class-conditional model lower still."""
    train, test, train_class, test_class = binarised()
    p = (train.sum(0) + 1) / (len(train) + 2)
    independent = held_out_bits(p, test)
    run = partial(fit, steps=400, batch_size=64, lr=3e-3, schedule=cosine, progress=False)
    plain = PixelCNN((1, 8, 8), channels=24, layers=4)
    run(plain, train)
    unconditional = held_out(plain, test)
    given = PixelCNN((1, 8, 8), channels=24, layers=4, context_shape=(10,))
    run(given, train, train_class)
    conditional = held_out(given, test, test_class)
    assert unconditional <= 0.8 * independent
    assert conditional < unconditional
    shuffled = held_out(given, test, test_class.roll(1, 0))
    assert conditional < shuffled - 1  # it is the class that helps
    drawn = given.sample(200, test_class[0], generator=0)
    wanted = train[(train_class == test_class[0]).all(1)].mean(0)
    others = train.mean(0)
    found = drawn.mean(0)
    assert (found - wanted).abs().mean() < 0.5 * (others - wanted).abs().mean() + 0.05


def held_out_bits(p: Tensor, x: Tensor) -> float:
    q, y = truth.array(p), truth.array(x)
    return float(-(y * np.log(q) + (1 - y) * np.log1p(-q)).sum((1, 2, 3)).mean())

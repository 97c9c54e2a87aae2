"""Minibatches, and small data sets whose truth is known.

A batch is a tensor, or a tuple of tensors, with one leading dimension.
"""

import math
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rlgen.generative.model import Batch
from rlgen.seeding import mix


def length(batch: Batch) -> int:
    return len(batch[0]) if isinstance(batch, tuple) else len(batch)


def take(batch: Any, index: Tensor | slice) -> Any:
    """The examples of `batch` at `index`."""
    if isinstance(batch, tuple):
        return tuple(take(part, index) for part in batch)
    if isinstance(index, Tensor):
        index = index.to(batch.device)
    return batch[index]


def minibatches(
    x: Batch, context: Batch | None, batch_size: int, seed: int, start: int = 0
) -> Iterator[tuple[Batch, Batch | None]]:
    """Endless shuffled minibatches, beginning with number `start`; tensors stay on their device."""
    device = (x[0] if isinstance(x, tuple) else x).device
    for index in _orders(length(x), batch_size, seed, start, device):
        yield take(x, index), None if context is None else take(context, index)


def streamed(
    data: Dataset[Any], batch_size: int, seed: int, start: int, device: torch.device
) -> Iterator[Any]:
    """Endless shuffled minibatches of a map-style data set, collated and moved to `device`."""
    if not isinstance(data, Sized):
        raise ValueError(
            f"'x' must have a length: {type(data).__name__} is not a map-style Dataset"
        )
    for index in _orders(len(data), batch_size, seed, start):
        batch = default_collate([data[i] for i in index.tolist()])
        yield batch.to(device) if isinstance(batch, Tensor) else [p.to(device) for p in batch]


def as_pair(batch: Any, conditional: bool) -> tuple[Any, Any]:
    """A minibatch of a Dataset or an iterator, which is x, (x,) or (x, context), as a pair."""
    parts = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    if not conditional:
        return parts[0] if len(parts) == 1 else parts, None
    if len(parts) != 2:
        raise ValueError(f"'x' must give pairs (x, context), got minibatches of {len(parts)}")
    return parts[0], parts[1]


def _orders(
    count: int, batch_size: int, seed: int, start: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """The order of epoch e depends on seed and e alone, so any minibatch can be found again."""
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    epoch, skip = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(mix(seed, 1, epoch))
        order = torch.randperm(count, generator=generator).to(device)
        for i in range(skip, per_epoch):
            yield order[i * batch_size : (i + 1) * batch_size]
        epoch, skip = epoch + 1, 0


class Split(NamedTuple):
    """Images and their labels, in three parts that share no example."""

    train: Tensor
    validation: Tensor
    test: Tensor
    train_labels: Tensor
    validation_labels: Tensor
    test_labels: Tensor


def digits() -> Split:
    """scikit-learn's 8x8 digits: (1293, 144, 360) images (1, 8, 8) of the symbols 0, ..., 16.

    They come with scikit-learn, which is needed for them: `pip install rlgen[test]`.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(images, dtype=torch.long).reshape(-1, 1, 8, 8)[order]
    y = torch.as_tensor(labels, dtype=torch.long)[order]
    return Split(*x.split([1293, 144, 360]), *y.split([1293, 144, 360]))


def two_moons(n: int, *, noise: float = 0.05, generator: torch.Generator | None = None) -> Tensor:
    """Two interleaved half circles with Gaussian noise, with shape (n, 2)."""
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.rand(n, generator=generator) < 0.5
    return _moon(angle, upper) + noise * torch.randn(n, 2, generator=generator)


def two_moons_log_prob(x: Tensor, *, noise: float = 0.05, nodes: int = 4096) -> Tensor:
    """The exact log density of `two_moons` by quadrature over the angle, in float64.

    The midpoint rule over an arc is exact to rounding once its nodes lie much closer together than
    the noise is wide.
    """
    angle = math.pi * (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    arcs = [_moon(angle, torch.full((nodes,), upper)) for upper in (True, False)]
    centres = torch.cat(arcs)
    variance = noise**2
    parts = []
    for chunk in x.double().cpu().split(512):
        square = torch.cdist(chunk, centres) ** 2
        parts.append(torch.logsumexp(-square / (2 * variance), dim=1))
    return torch.cat(parts) - math.log(2 * nodes) - math.log(2 * math.pi * variance)


def _moon(angle: Tensor, upper: Tensor) -> Tensor:
    x = torch.where(upper, angle.cos(), 1.0 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], dim=1)

"""What the learning reward models share: observations as data, and a sample of all of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlgen.generative import GenerativeModel
from rlgen.generative.support import Binary, Symbols
from rlgen.seeding import mix


def as_data(obs: Tensor, model: GenerativeModel) -> Tensor:
    """Observations in the shape and dtype of a model's x.

    Raises:
        ValueError: they do not hold as many numbers as one x.
    """
    shape = model.event_shape
    if obs[0].numel() != shape.numel():
        raise ValueError(
            f"{type(model).__name__} models events of shape {tuple(shape)}, and observations have "
            f"shape {tuple(obs.shape[1:])}: give 'features' that turn one into the other"
        )
    x = obs.reshape(len(obs), *shape)
    if isinstance(model.support, Symbols):
        return x.long()
    if isinstance(model.support, Binary):
        return (x > 0).to(model.dtype)
    return x.to(model.dtype)


class Reservoir:
    """A uniform sample, of fixed size, of everything that was ever added.

    Args:
        size: how much is kept.
        seed: of what is kept.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"'memory' must be positive, got {size}")
        self.size, self.seed = size, seed
        self.kept: Tensor | None = None
        self.filled = 0
        self.seen = 0

    def add(self, x: Tensor) -> None:
        """Add a batch. Each row replaces a random one with the probability size / seen."""
        if self.kept is None:
            self.kept = x.new_empty(self.size, *x.shape[1:])
        room = min(self.size - self.filled, len(x))
        self.kept[self.filled : self.filled + room] = x[:room]
        self.filled += room
        rest = x[room:]
        order = torch.arange(self.seen + room, self.seen + len(x)) + 1
        self.seen += len(x)
        if len(rest) == 0:
            return
        generator = torch.Generator().manual_seed(mix(self.seed, self.seen))
        place = (torch.rand(len(rest), generator=generator, dtype=torch.float64) * order).long()
        # of several rows for one place the last one stays, as if they had come one by one
        for_place = torch.full((self.size,), -1)
        inside = place < self.size
        rows = torch.arange(len(rest))[inside]
        for_place.scatter_reduce_(0, place[inside], rows, "amax")
        taken = (for_place >= 0).nonzero().squeeze(1)
        chosen = for_place[taken].to(x.device)
        self.kept[taken.to(x.device)] = rest[chosen]

    def draw(self, count: int, seed: int) -> Tensor:
        """`count` rows at random, with replacement."""
        assert self.kept is not None, "nothing was added"
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(self.filled, (count,), generator=generator)
        return self.kept.index_select(0, index.to(self.kept.device))

    def state_dict(self) -> dict[str, Any]:
        kept = None if self.kept is None else self.kept[: self.filled].clone()
        return {"kept": kept, "filled": self.filled, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.filled, self.seen = state["filled"], state["seen"]
        kept = state["kept"]
        self.kept = None
        if kept is not None:
            self.kept = kept.new_empty(self.size, *kept.shape[1:])
            self.kept[: self.filled] = kept[: self.filled]


class Rehearsal:
    """Minibatches of what is fresh and of what was before: a model that learns, and forgets little.

    One half of each minibatch comes from the rows just given, the other from a uniform sample of
    all rows that were ever given.

    Args:
        updates: minibatches for each call.
        batch_size: rows in one.
        memory: rows kept.
        seed: of what is kept and drawn.
    """

    def __init__(self, *, updates: int, batch_size: int, memory: int, seed: int) -> None:
        if updates < 0:
            raise ValueError(f"'updates' must not be negative, got {updates}")
        if batch_size < 2:
            raise ValueError(f"'batch_size' must be at least 2, got {batch_size}")
        Reservoir(memory)  # refuses a wrong size
        self.updates, self.batch_size, self.size, self.seed = updates, batch_size, memory, seed
        self.parts: list[Reservoir] = []
        self.drawn = 0

    def batches(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Keep rows, given as tensors with the same first dimension, and draw minibatches."""
        if not self.parts:
            # with one seed they keep and draw the same rows
            self.parts = [Reservoir(self.size, self.seed) for _ in rows]
        for part, column in zip(self.parts, rows, strict=True):
            part.add(column)
        for _ in range(self.updates):
            seed = mix(self.seed, self.drawn)
            self.drawn += 1
            generator = torch.Generator().manual_seed(seed)
            fresh = torch.randint(len(rows[0]), (self.batch_size // 2,), generator=generator)
            fresh = fresh.to(rows[0].device)
            rest = self.batch_size - len(fresh)
            yield tuple(
                torch.cat([column.index_select(0, fresh), part.draw(rest, seed)])
                for part, column in zip(self.parts, rows, strict=True)
            )

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts], "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts = [Reservoir(self.size, self.seed) for _ in state["parts"]]
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.drawn = state["drawn"]

"""Stacks of masked convolutions: the features from which PixelCNN predicts each channel of a pixel.

A stack computes the features of all pixels at once, and gives a `Walk`, which computes them one by
one while an image is being drawn and never computes anything twice. Both use the same layers: the
parallel pass pads whole images, a walk cuts out the window that ends at the current pixel.

Notation, with `masked_conv`: C channels, and E inputs and F features in each channel's group.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.generative.autoregressive.masked_conv import (
    MaskedConv2d,
    Pointwise,
    raster_mask,
    rows_above_mask,
)


class Walk(ABC):
    """The features of one pixel after another. It begins above the first row."""

    @abstractmethod
    def next_row(self) -> None:
        """Go to the next row; all pixels of the one before are written."""

    @abstractmethod
    def features(self, column: int, channel: int) -> Tensor:
        """What the past says of this channel of this pixel, with shape (n, F, 1, 1)."""

    @abstractmethod
    def write(self, column: int, channel: int, inputs: Tensor) -> None:
        """What the channel turned out to be: `inputs` with shape (n, E)."""


class Stack(nn.Module, ABC):
    """Features (B, C * F, H, W) of inputs (B, C * E, H, W): group c of a pixel knows its past."""

    @abstractmethod
    def forward(self, inputs: Tensor, context: Tensor | None, dropout: float) -> Tensor: ...

    @abstractmethod
    def walk(self, n: int, context: Tensor | None) -> Walk: ...


class Biases(nn.Module):
    """What each layer adds to its outputs: a number for each row and column, and the context's.

    Args:
        layers: how many.
        outputs: of one layer.
        image: height and width.
        context: numbers in one context; 0 for none.
    """

    def __init__(self, layers: int, outputs: int, image: tuple[int, int], context: int) -> None:
        super().__init__()
        self.by_row = nn.Parameter(torch.zeros(layers, outputs, image[0], 1))
        self.by_column = nn.Parameter(torch.zeros(layers, outputs, 1, image[1]))
        self.by_context = nn.Linear(context, layers * outputs, bias=False) if context else None

    def of_context(self, context: Tensor | None) -> Tensor | None:
        """What the context adds at every pixel, with shape (B, layers, outputs)."""
        if self.by_context is None or context is None:
            return None
        flat = self.by_context(context.flatten(1))
        added: Tensor = flat.unflatten(1, self.by_row.shape[:2])
        return added

    def forward(self, k: int, added: Tensor | None, rows: slice = slice(None)) -> Tensor:
        """The bias of layer k in some rows, with shape (B or 1, outputs, rows, W).

        Args:
            k: the layer.
            added: from `of_context`.
            rows: all, unless given.
        """
        position = self.by_row[k][:, rows] + self.by_column[k]
        return position[None] if added is None else position + added[:, k, :, None, None]


class GatedLayer(nn.Module):
    """One layer of both stacks: rows above (vertical), and the row so far (horizontal).

    Args:
        inputs: E (or F, after the first layer).
        features: F.
        groups: C.
        kernel: the side of the square kernel that the two stacks share.
        first: whether its inputs are the data.
    """

    def __init__(self, inputs: int, features: int, groups: int, kernel: int, first: bool) -> None:
        super().__init__()
        self.features, self.first = features, first
        back = kernel // 2 + 1
        wide = groups * features
        above = rows_above_mask(groups * inputs, 2 * wide, (back, kernel), first=first)
        left = raster_mask(inputs, 2 * features, (1, back), groups=groups, first=first)
        self.vertical = MaskedConv2d(above, groups)
        self.horizontal = MaskedConv2d(left, groups)
        self.link = Pointwise(wide, 2 * wide, 1)
        self.mix = Pointwise(features, 2 * features, groups)

    def from_above(self, v: Tensor, bias: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """What is added to v, and what the horizontal stack learns of it.

        Args:
            v: padded rows, with shape (B, C * E, H + kernel // 2, W + kernel - 1).
            bias: with shape (B or 1, 4 * C * F, H, W).
            dropout: the share of gated features to drop.
        """
        for_v, for_h = bias.chunk(2, dim=1)
        gated = _drop(gate(self.vertical(v) + for_v, self.features), dropout)
        return gated, self.link(gated) + for_h

    def from_left(
        self, h: Tensor, guide: Tensor, dropout: float = 0.0, group: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is added to h, and to the sum that all layers feed.

        Args:
            h: padded columns, with shape (B, C * E, H, W + kernel // 2).
            guide: from the vertical stack, of the wanted groups.
            dropout: the share of gated features to drop.
            group: the only one wanted, or all.
        """
        gated = _drop(gate(self.horizontal(h, group) + guide, self.features), dropout)
        mixed = self.mix(gated, group).unflatten(1, (-1, 2, self.features))
        return mixed[:, :, 0].flatten(1, 2), mixed[:, :, 1].flatten(1, 2)


class GatedStack(Stack):
    """The two stacks of Gated PixelCNN: together they see every earlier pixel in reach.

    Args:
        inputs: E.
        features: F.
        image: C, height and width.
        layers: how many.
        kernel: odd.
        context: numbers in one context; 0 for none.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        image: tuple[int, int, int],
        layers: int,
        kernel: int,
        context: int,
    ) -> None:
        super().__init__()
        groups, *size = image
        self.features, self.columns, self.pad = features, size[1], kernel // 2
        made = nn.ModuleList(
            GatedLayer(features if k else inputs, features, groups, kernel, first=k == 0)
            for k in range(layers)
        )
        self.layers = cast(Sequence[GatedLayer], made)
        self.biases = Biases(layers, 4 * groups * features, (size[0], size[1]), context)

    def forward(self, inputs: Tensor, context: Tensor | None, dropout: float) -> Tensor:
        pad = self.pad
        v = h = inputs
        total = inputs.new_zeros(())
        added = self.biases.of_context(context)
        for k, layer in enumerate(self.layers):
            above = F.pad(v, (pad, pad, pad, 0))
            v_more, guide = layer.from_above(above, self.biases(k, added), dropout)
            h_more, out = layer.from_left(F.pad(h, (pad, 0)), guide, dropout)
            v, h = (v_more, h_more) if layer.first else (v + v_more, h + h_more)
            total = total + out
        return total

    def walk(self, n: int, context: Tensor | None) -> Walk:
        return _GatedWalk(self, n, self.biases.of_context(context))


class _GatedWalk(Walk):
    def __init__(self, stack: GatedStack, n: int, added: Tensor | None) -> None:
        self.stack, self.added, self.row = stack, added, -1
        pad, columns, like = stack.pad, stack.columns, stack.biases.by_row
        widths = [layer.vertical.in_channels for layer in stack.layers]
        # what each layer sees: the last rows of v, the current row of h
        self.v = [like.new_zeros(n, w, pad + 1, columns + 2 * pad) for w in widths]
        self.h = [like.new_zeros(n, w, 1, columns + pad) for w in widths]
        self.guides: list[Tensor] = []

    def next_row(self) -> None:
        self.row += 1
        pad = self.stack.pad
        self.v = [roll_up(v) for v in self.v]
        self.h = [torch.zeros_like(h) for h in self.h]
        self.guides = []
        for k, layer in enumerate(self.stack.layers):
            bias = self.stack.biases(k, self.added, slice(self.row, self.row + 1))
            more, guide = layer.from_above(self.v[k], bias)
            self.guides.append(guide)
            if k + 1 < len(self.v):
                own = 0.0 if layer.first else self.v[k][:, :, -1:, pad:-pad]
                self.v[k + 1][:, :, -1:, pad:-pad] = own + more

    def features(self, column: int, channel: int) -> Tensor:
        pad, size = self.stack.pad, self.stack.features
        mine = _rows(channel, size)
        total = self.h[0].new_zeros(())
        for k, layer in enumerate(self.stack.layers):
            window = self.h[k][..., column : column + pad + 1]
            guide = self.guides[k][:, _rows(channel, 2 * size), :, column : column + 1]
            more, out = layer.from_left(window, guide, group=channel)
            total = total + out
            if k + 1 < len(self.h):
                own = 0.0 if layer.first else window[:, mine, :, -1:]
                self.h[k + 1][:, mine, :, column + pad, None] = own + more
        return total

    def write(self, column: int, channel: int, inputs: Tensor) -> None:
        mine, at = _rows(channel, inputs.shape[1]), column + self.stack.pad
        self.v[0][:, mine, -1, at] = inputs
        self.h[0][:, mine, -1, at] = inputs


class PlainStack(Stack):
    """The one stack of PixelCNN, which cannot see some pixels above and to the right.

    Arguments as for `GatedStack`.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        image: tuple[int, int, int],
        layers: int,
        kernel: int,
        context: int,
    ) -> None:
        super().__init__()
        groups, *size = image
        self.features, self.columns, self.pad = features, size[1], kernel // 2
        window = (kernel // 2 + 1, kernel)
        made = nn.ModuleList(
            MaskedConv2d(
                raster_mask(
                    features if k else inputs, features, window, groups=groups, first=k == 0
                ),
                groups,
            )
            for k in range(layers)
        )
        self.layers = cast(Sequence[MaskedConv2d], made)
        self.biases = Biases(layers, groups * features, (size[0], size[1]), context)

    def forward(self, inputs: Tensor, context: Tensor | None, dropout: float) -> Tensor:
        pad = self.pad
        h = inputs
        added = self.biases.of_context(context)
        for k, layer in enumerate(self.layers):
            more = F.silu(layer(F.pad(h, (pad, pad, pad, 0))) + self.biases(k, added))
            more = _drop(more, dropout)
            h = h + more if k else more
        return h

    def walk(self, n: int, context: Tensor | None) -> Walk:
        return _PlainWalk(self, n, self.biases.of_context(context))


class _PlainWalk(Walk):
    def __init__(self, stack: PlainStack, n: int, added: Tensor | None) -> None:
        self.stack, self.added, self.row = stack, added, -1
        pad, columns, like = stack.pad, stack.columns, stack.biases.by_row
        self.h = [
            like.new_zeros(n, layer.in_channels, pad + 1, columns + 2 * pad)
            for layer in stack.layers
        ]
        self.row_biases: list[Tensor] = []

    def next_row(self) -> None:
        self.row += 1
        self.h = [roll_up(h) for h in self.h]
        rows = slice(self.row, self.row + 1)
        layers = range(len(self.h))
        self.row_biases = [self.stack.biases(k, self.added, rows) for k in layers]

    def features(self, column: int, channel: int) -> Tensor:
        pad = self.stack.pad
        mine = _rows(channel, self.stack.features)
        own: Tensor | None = None
        for k, layer in enumerate(self.stack.layers):
            window = self.h[k][..., column : column + 2 * pad + 1]
            bias = self.row_biases[k][:, mine, :, column : column + 1]
            more = F.silu(layer(window, channel) + bias)
            own = more if own is None else own + more
            if k + 1 < len(self.h):
                self.h[k + 1][:, mine, -1:, column + pad, None] = own
        assert own is not None
        return own

    def write(self, column: int, channel: int, inputs: Tensor) -> None:
        self.h[0][:, _rows(channel, inputs.shape[1]), -1, column + self.stack.pad] = inputs


def gate(outputs: Tensor, features: int) -> Tensor:
    """tanh(a) * sigmoid(b) for the halves a, b of each group of 2 * `features` outputs."""
    a, b = outputs.unflatten(1, (-1, 2, features)).unbind(2)
    return (torch.tanh(a) * torch.sigmoid(b)).flatten(1, 2)


def roll_up(rows: Tensor) -> Tensor:
    """Forget the top row, and begin an empty one at the bottom."""
    return F.pad(rows[:, :, 1:], (0, 0, 0, 1))


def _drop(features: Tensor, share: float) -> Tensor:
    return F.dropout(features, share) if share else features


def _rows(group: int, size: int) -> slice:
    return slice(group * size, (group + 1) * size)

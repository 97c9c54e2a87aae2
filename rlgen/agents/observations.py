"""Observations, whatever their form, as features for networks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.nets import MLP, ImageEncoder, is_image

# MiniGrid describes a cell by its object, its colour and its state, which are below these
_CELL = (11.0, 6.0, 4.0)
_LARGEST_GRID = 32


class Features(nn.Module):
    """Observations -> a vector of floats of about unit size.

    Bytes with shape (rows, columns, 3), up to 32 x 32, are MiniGrid's symbols and are scaled by
    what each can be; other bytes are intensities from 0 to 255; everything else stays as it is.
    Pictures, with shape (channels, height, width), go through a `PictureNet`, all else is
    flattened.

    Args:
        shape: of one observation.
        dtype: of observations.
    """

    scale: Tensor

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = tuple(shape)
        scale = torch.ones(())
        if dtype == torch.uint8:
            scale = torch.tensor(_CELL if is_symbolic(shape) else (255.0,)).reciprocal()
        self.register_buffer("scale", scale, persistent=False)
        self.picture = dtype == torch.uint8 and not is_symbolic(shape) and is_image(shape)
        self.convolutions = PictureNet(self.shape, 64) if self.picture else None
        self.width = 64 if self.picture else math.prod(self.shape)

    def scaled(self, obs: Tensor) -> Tensor:
        """Bytes as floats of about unit size; floats stay as they are, so twice is as once."""
        if obs.is_floating_point():
            return obs.to(self.scale.dtype)
        return obs.to(self.scale.dtype) * self.scale

    def prepared(self, obs: Tensor) -> Tensor:
        """Observations that will be looked at many times; pictures stay bytes, which are small."""
        return obs if self.picture else self.scaled(obs)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *shape) -> (B, width)."""
        x = self.scaled(obs)
        if self.convolutions is None:
            return x.flatten(1)
        features: Tensor = self.convolutions(x)
        return features


class PictureNet(nn.Module):
    """Convolutions over a picture and, added to them, a linear map of its pixels.

    Convolutions begin small, so that of one small thing which moves next to nothing comes through
    them, and learning would wait for it on a plateau. The linear map passes it on from the start.

    Args:
        shape: of one picture, (channels, height, width).
        outputs: how many.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.convolutions = ImageEncoder(shape, outputs, hidden=())
        self.pixels = nn.Linear(math.prod(shape), outputs, bias=False)
        nn.init.normal_(self.pixels.weight, std=math.prod(shape) ** -0.5)  # of about unit size

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) from 0 to 1 -> (B, outputs)."""
        out: Tensor = self.convolutions(x[..., None]) + self.pixels(x.flatten(1))
        return out


class ObservationNet(nn.Module):
    """Observations -> outputs; with a memory, outputs depend on all of the episode so far.

    Args:
        shape: of one observation.
        dtype: of observations.
        outputs: how many.
        hidden: widths of the hidden layers.
        memory: numbers in a GRU's state, or 0 for none.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        memory: int = 0,
    ) -> None:
        super().__init__()
        self.features = Features(shape, dtype)
        self.memory = memory
        self.cell = nn.GRUCell(self.features.width, memory) if memory else None
        self.mlp = MLP(memory or self.features.width, outputs, hidden)

    def forward(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) and (B, memory) -> outputs (B, outputs) and the next state."""
        x = self.features(obs)
        if self.cell is not None:
            x = state = self.cell(x, state)
        return self.mlp(x), state

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """Outputs along episodes, with shape (T, B, outputs).

        Args:
            obs: with shape (T, B, *shape).
            state: before the first observation, with shape (B, memory).
            first: which observations begin an episode, before which the state is zero, (T, B).
        """
        x = self.features(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        if self.cell is not None:
            states = []
            for features, begins in zip(x, first, strict=True):
                state = self.cell(features, state * ~begins[:, None])
                states.append(state)
            x = torch.stack(states)
        outputs: Tensor = self.mlp(x)
        return outputs


def is_symbolic(shape: Sequence[int]) -> bool:
    """Whether bytes of this shape are MiniGrid's objects, colours and states."""
    return len(shape) == 3 and shape[2] == 3 and max(shape[:2]) <= _LARGEST_GRID

"""Small networks that the families share."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# images are halved until a side is at most this long
_SMALLEST = 4


class MLP(nn.Sequential):
    """Linear layers with SiLU between them.

    Args:
        inputs: features of the input, with shape (*, inputs).
        outputs: features of the output, with shape (*, outputs).
        hidden: widths of the hidden layers; none makes it linear.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (64, 64)) -> None:
        check_widths("hidden", hidden)
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
        super().__init__(*layers[:-1])


class ContextMLP(nn.Module):
    """An MLP over x and, where there is one, a context, both flattened.

    Args:
        inputs: numbers in one x.
        outputs: features of the output.
        context_shape: of the context, or None.
        hidden: widths of the hidden layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context_shape: Sequence[int] | None = None,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        extra = 0 if context_shape is None else math.prod(context_shape)
        self.net = MLP(inputs + extra, outputs, hidden)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        flat = x.reshape(x.shape[0], -1)
        if context is not None:
            flat = torch.cat([flat, context.reshape(context.shape[0], -1)], dim=1)
        out: Tensor = self.net(flat)
        return out


class ImageEncoder(nn.Module):
    """Convolutions over an image, then an MLP over what they see and the context.

    Args:
        image_shape: (channels, height, width) of the image, of any size.
        outputs: features of the output, with shape (B, outputs).
        width: numbers for each value of the image, whose shape is (B, *image_shape, width).
        context_shape: of the context, or None.
        channels: of the first convolution; later ones have twice as many.
        hidden: widths of the MLP's hidden layers.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        width: int = 1,
        context_shape: Sequence[int] | None = None,
        channels: int = 16,
        hidden: Sequence[int] = (128,),
    ) -> None:
        super().__init__()
        sizes = image_sizes(image_shape)
        self.convolutions = downsampling(image_shape[0] * width, sizes, channels)
        inputs = 2 * channels * math.prod(sizes[-1])
        self.mlp = ContextMLP(inputs, outputs, context_shape, hidden)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = self.mlp(self.convolutions(_as_maps(x)), context)
        return out


class ImageDecoder(nn.Module):
    """An MLP over a code and the context, then transposed convolutions to an image.

    Args:
        inputs: numbers in one code.
        image_shape: (channels, height, width) of the image, of any size.
        width: outputs for each value of the image, with shape (B, values * width) in all.
        context_shape: of the context, or None.
        channels: of the last hidden convolution; earlier ones have twice as many.
        hidden: widths of the MLP's hidden layers.
    """

    def __init__(
        self,
        inputs: int,
        image_shape: Sequence[int],
        width: int = 1,
        context_shape: Sequence[int] | None = None,
        channels: int = 16,
        hidden: Sequence[int] = (128,),
    ) -> None:
        super().__init__()
        self.width = width
        sizes = image_sizes(image_shape)
        self.small = (2 * channels, *sizes[-1])
        self.mlp = ContextMLP(inputs, math.prod(self.small), context_shape, hidden)
        self.convolutions = upsampling(image_shape[0] * width, sizes, channels)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        small = F.silu(self.mlp(z, context)).unflatten(1, self.small)
        return _from_maps(self.convolutions(small), self.width)


class MapEncoder(nn.Module):
    """Convolutions from an image to a small map of vectors, with shape (B, h, w, outputs).

    Args:
        image_shape: (channels, height, width) of the image; (h, w) is `image_sizes(...)[-1]`.
        outputs: features of one vector.
        width: numbers for each value of the image, whose shape is (B, *image_shape, width).
        channels: of the first convolution; later ones have twice as many.
    """

    def __init__(
        self, image_shape: Sequence[int], outputs: int, width: int = 1, channels: int = 16
    ) -> None:
        super().__init__()
        down = downsampling(image_shape[0] * width, image_sizes(image_shape), channels)
        self.net = nn.Sequential(down, nn.Conv2d(2 * channels, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(_as_maps(x)).movedim(1, -1)
        return out


class MapDecoder(nn.Module):
    """Transposed convolutions from a small map of vectors (B, h, w, inputs) to an image.

    Args:
        inputs: features of one vector.
        image_shape: (channels, height, width) of the image.
        width: outputs for each value of the image, with shape (B, values * width) in all.
        channels: of the last hidden convolution; earlier ones have twice as many.
    """

    def __init__(
        self, inputs: int, image_shape: Sequence[int], width: int = 1, channels: int = 16
    ) -> None:
        super().__init__()
        self.width = width
        mix = nn.Conv2d(inputs, 2 * channels, 3, padding=1)
        up = upsampling(image_shape[0] * width, image_sizes(image_shape), channels)
        self.net = nn.Sequential(mix, nn.SiLU(), up)

    def forward(self, z: Tensor) -> Tensor:
        return _from_maps(self.net(z.movedim(-1, 1).contiguous()), self.width)


def image_sizes(image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of an image and of its halves, rounded up, until a side is small."""
    _, height, width = image_shape
    sizes = [(height, width)]
    while min(sizes[-1]) > _SMALLEST:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def downsampling(inputs: int, sizes: Sequence[tuple[int, int]], channels: int) -> nn.Sequential:
    """(B, inputs, *sizes[0]) -> (B, 2 * channels, *sizes[-1])."""
    first = channels if len(sizes) > 1 else 2 * channels
    layers: list[nn.Module] = [nn.Conv2d(inputs, first, 3, padding=1), nn.SiLU()]
    for stage in range(1, len(sizes)):
        fan_in = channels if stage == 1 else 2 * channels
        layers += [nn.Conv2d(fan_in, 2 * channels, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def upsampling(outputs: int, sizes: Sequence[tuple[int, int]], channels: int) -> nn.Sequential:
    """(B, 2 * channels, *sizes[-1]) -> (B, outputs, *sizes[0])."""
    layers: list[nn.Module] = []
    for stage in range(len(sizes) - 1, 0, -1):
        fan_out = channels if stage == 1 else 2 * channels
        height, width = sizes[stage - 1]
        # an even side was halved exactly, an odd one was rounded up
        even = ((height + 1) % 2, (width + 1) % 2)
        up = nn.ConvTranspose2d(2 * channels, fan_out, 3, stride=2, padding=1, output_padding=even)
        layers += [up, nn.SiLU()]
    last = channels if len(sizes) > 1 else 2 * channels
    return nn.Sequential(*layers, nn.Conv2d(last, outputs, 3, padding=1))


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether convolutions are worth it."""
    return len(event_shape) == 3 and min(event_shape[1:]) >= 2 * _SMALLEST


def check_widths(name: str, widths: Sequence[int]) -> None:
    if any(width < 1 for width in widths):
        raise ValueError(f"{name!r} must be positive, got {tuple(widths)}")


def _as_maps(numbers: Tensor) -> Tensor:
    """(B, C, H, W, width) -> (B, C * width, H, W)."""
    return numbers.movedim(-1, 2).flatten(1, 2).contiguous()


def _from_maps(maps: Tensor, width: int) -> Tensor:
    """(B, C * width, H, W) -> (B, C * H * W * width), the order in which heads read outputs."""
    outputs: Tensor = maps.unflatten(1, (-1, width)).movedim(2, -1).flatten(1)
    return outputs

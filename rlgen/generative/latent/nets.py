"""Encoders and decoders: convolutions for images of at least 8x8, an MLP for anything else.

An encoder sees numbers as `as_inputs` of a head gives them, with shape (B, *event_shape, width).
A decoder ends with the head's outputs, as many for each number of an image or as many in all.
"""

import math
from collections.abc import Sequence

from rlgen.generative.autoregressive.base import input_width
from rlgen.generative.heads import Head
from rlgen.generative.nets import ContextMLP, ImageDecoder, ImageEncoder, is_image

_HIDDEN = (256, 256)


def encoder_net(
    event_shape: Sequence[int],
    outputs: int,
    *,
    head: Head,
    hidden: Sequence[int] | None = None,
    context_shape: Sequence[int] | None = None,
) -> ImageEncoder | ContextMLP:
    """(B, *event_shape, width), and a context -> (B, outputs).

    Args:
        event_shape: of one x.
        outputs: features of the output.
        head: the head of the model, which knows what the values of x mean.
        hidden: widths of an MLP's hidden layers, () for a linear one; None chooses.
        context_shape: of the context, or None.
    """
    width = input_width(head)
    if hidden is None and is_image(event_shape):
        return ImageEncoder(event_shape, outputs, width, context_shape)
    inputs = math.prod(event_shape) * width
    return ContextMLP(inputs, outputs, context_shape, _HIDDEN if hidden is None else hidden)


def decoder_net(
    inputs: int,
    event_shape: Sequence[int],
    outputs: int,
    *,
    hidden: Sequence[int] | None = None,
    context_shape: Sequence[int] | None = None,
) -> ImageDecoder | ContextMLP:
    """(B, inputs), and a context -> (B, outputs), `outputs` being the head's size of an event."""
    if hidden is None and is_image(event_shape) and outputs % math.prod(event_shape) == 0:
        width = outputs // math.prod(event_shape)
        return ImageDecoder(inputs, event_shape, width, context_shape)
    return ContextMLP(inputs, outputs, context_shape, _HIDDEN if hidden is None else hidden)

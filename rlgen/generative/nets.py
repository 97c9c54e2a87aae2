"""Small networks that the families share."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


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
        flat = x.flatten(1)
        if context is not None:
            flat = torch.cat([flat, context.flatten(1)], dim=1)
        out: Tensor = self.net(flat)
        return out


def check_widths(name: str, widths: Sequence[int]) -> None:
    if any(width < 1 for width in widths):
        raise ValueError(f"{name!r} must be positive, got {tuple(widths)}")

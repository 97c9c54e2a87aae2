"""The networks that predict noise, and the skip connection that they work behind.

Notation: x_t = a x_0 + s eps, and c = log(s / a), the log ratio of noise to signal.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.nets import ContextMLP

# of the waves of c; the slowest has one period over all of the noise levels in use
_FREQUENCIES = (0.25, 0.5, 1.0, 2.0)


class VelocityNetwork(nn.Module):
    """An MLP F(x, c, context) for `predict_noise`; zero at first.

    Args:
        event_shape: of one x.
        hidden: widths of the hidden layers.
        context_shape: of the context, or None.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int],
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        numbers = math.prod(event_shape)
        self.net = ContextMLP(numbers + 1 + 2 * len(_FREQUENCIES), numbers, context_shape, hidden)
        with torch.no_grad():
            for parameter in self.net.net[-1].parameters():
                parameter.zero_()

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        inputs = torch.cat([x.reshape(x.shape[0], -1), level_features(c)], dim=1)
        out: Tensor = self.net(inputs, context)
        return out.reshape(x.shape)


def level_features(c: Tensor) -> Tensor:
    """Log ratios with shape (B,) -> (B, 9), a smooth code of the noise level."""
    waves = c[:, None] * c.new_tensor(_FREQUENCIES)
    return torch.cat([0.25 * c[:, None], waves.sin(), waves.cos()], dim=1)


def predict_noise(
    network: nn.Module, x: Tensor, signal: Tensor, noise: Tensor, context: Tensor | None
) -> Tensor:
    """eps = s y + a F(y, c, context), where y = x / r, a = signal / r, s = noise / r and
    r = sqrt(signal^2 + noise^2).

    For F = 0 it is right for x_0 ~ N(0, I). What F then has to learn, a eps - s x_0, is about as
    large at all noise levels; it is called the velocity.

    References:
        | Progressive distillation for fast sampling of diffusion models (Salimans and Ho, 2022)
        | https://arxiv.org/abs/2202.00512

    Args:
        network: F, with `forward(x, c, context)`.
        x: noised data with shape (B, *event_shape).
        signal, noise: of x, with shape (B, 1, ...).
        context: with shape (B, *context_shape), or None.
    """
    size = (signal.square() + noise.square()).sqrt()
    x, signal, noise = x / size, signal / size, noise / size
    c = (noise / signal).log().reshape(-1)
    out: Tensor = noise * x + signal * network(x, c, context)
    return out

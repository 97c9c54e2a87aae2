"""The networks that predict noise, and the skip connection that they work behind.

Notation: x_t = a x_0 + s eps, and c = log(s / a), the log ratio of noise to signal.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.generative.nets import check_widths

# of the waves of c; the slowest has one period over all of the noise levels in use
_FREQUENCIES = (0.25, 0.5, 1.0, 2.0)
_FEATURES = 1 + 2 * len(_FREQUENCIES)


class VelocityNetwork(nn.Module):
    """The network of `predict_noise`: an MLP with residual blocks, whose units the noise level and
    the context scale and shift. It gives zero at first.

    Args:
        event_shape: of one x.
        hidden: widths of the hidden layers, at least one; equal neighbours have a skip connection.
        context_shape: of the context, or None.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int],
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_widths("hidden", hidden)
        if not hidden:
            raise ValueError("'hidden' must hold at least one width, got none")
        self.register_buffer("frequencies", torch.tensor(_FREQUENCIES), persistent=False)
        numbers = math.prod(event_shape)
        extra = 0 if context_shape is None else math.prod(context_shape)
        self.first = nn.Linear(numbers, hidden[0])
        self.code = nn.Sequential(nn.Linear(_FEATURES + extra, hidden[0]), nn.SiLU())
        widths = [*hidden, numbers]
        self.modulations = nn.ModuleList(nn.Linear(hidden[0], 2 * width) for width in hidden)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()

    frequencies: Tensor

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        waves = c[:, None] * self.frequencies
        known = torch.cat([0.25 * c[:, None], waves.sin(), waves.cos()], dim=1)
        if context is not None:
            known = torch.cat([known, context.reshape(len(c), -1)], dim=1)
        code = self.code(known)
        h: Tensor = self.first(x.reshape(len(c), -1))
        for i, (modulation, layer) in enumerate(zip(self.modulations, self.layers, strict=True)):
            scale, shift = modulation(code).chunk(2, dim=1)
            # bounded, so that a context far away cannot multiply x over and over
            out = layer(F.silu(h * (1.0 + scale.tanh()) + shift))
            skip = i + 1 < len(self.layers) and out.shape == h.shape
            h = h + out if skip else out
        return h.reshape(x.shape)


def predict_noise(
    network: nn.Module, x: Tensor, signal: Tensor, noise: Tensor, context: Tensor | None
) -> Tensor:
    """eps = s y + a net(y, c, context), where y = x / r, a = signal / r, s = noise / r and
    r = sqrt(signal^2 + noise^2).

    Where the network gives 0, that is right for x_0 ~ N(0, I). What the network has to learn,
    a eps - s x_0, is about as large at all noise levels; it is called the velocity.

    References:
        | Progressive distillation for fast sampling of diffusion models (Salimans and Ho, 2022)
        | https://arxiv.org/abs/2202.00512

    Args:
        network: with `forward(x, c, context)`.
        x: noised data with shape (B, *event_shape).
        signal, noise: of x, with shape (B, 1, ...).
        context: with shape (B, *context_shape), or None.
    """
    size = (signal.square() + noise.square()).sqrt()
    x, signal, noise = x / size, signal / size, noise / size
    c = (noise / signal).log().reshape(-1)
    out: Tensor = noise * x + signal * network(x, c, context)
    return out


def reverse_step(
    x: Tensor,
    eps: Tensor,
    here: tuple[Tensor, Tensor],
    there: tuple[Tensor, Tensor],
    eta: float = 1.0,
) -> Tensor:
    """From x_t to x_r at an earlier r, through the x_0 that the predicted noise implies.

    x_r = a_r (x_t - s_t eps) / a_t + sqrt(s_r^2 - w^2) eps + w z,
    w   = eta s_r sqrt(1 - (a_t s_r / (a_r s_t))^2)

    With eta = 1, w^2 is the variance of q(x_r | x_t, x_0) and short steps follow the reverse SDE;
    with eta = 0 they follow the probability-flow ODE. At s_r = 0 no noise is added.

    References:
        | Denoising diffusion implicit models (Song et al., 2021), https://arxiv.org/abs/2010.02502

    Args:
        x: x_t.
        eps: the noise predicted in it.
        here: a_t and s_t.
        there: a_r and s_r.
        eta: from 0 to 1.
    """
    (signal, noise), (signal_there, noise_there) = here, there
    clean = (x - noise * eps) / signal
    shrunk = signal * noise_there / (signal_there * noise)
    fresh = eta * noise_there * (1.0 - shrunk.square()).clamp(min=0.0).sqrt()
    kept = (noise_there.square() - fresh.square()).clamp(min=0.0).sqrt()
    return signal_there * clean + kept * eps + fresh * torch.randn_like(x)

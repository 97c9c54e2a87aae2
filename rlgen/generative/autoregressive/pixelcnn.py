"""PixelCNN: images one pixel after another, each predicted by convolutions that look back."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import Autoregressive
from rlgen.generative.autoregressive.masked_conv import Pointwise
from rlgen.generative.autoregressive.pixel_stacks import GatedStack, PlainStack
from rlgen.generative.heads import Head
from rlgen.generative.model import Shape
from rlgen.generative.support import Binary, Symbols

_MOST_ONE_HOT = 32  # beyond, symbols are grey levels and enter as one number


class PixelCNN(Autoregressive):
    """p(x) = product over pixels, and over the channels of a pixel, of p(x_i | x_<i).

    Gated, it has two stacks: one looks at all rows above, the other at its own row to the left, and
    no pixel of the past is out of sight. Plain, it is a stack of masked convolutions, which cannot
    see past pixels to the right far above: the blind spot.

    References:
        | Pixel recurrent neural networks (van den Oord et al., 2016)
        | https://arxiv.org/abs/1601.06759
        | Conditional image generation with PixelCNN decoders (van den Oord et al., 2016)
        | https://arxiv.org/abs/1606.05328

    Args:
        event_shape: (C, H, W). Pixels come in raster order, the channels of one together.
        head: what the outputs for one number mean: bits, categories, binned logistics, reals.
        channels: features for each channel of a pixel.
        layers: of each stack. A pixel sees `layers * (kernel // 2)` pixels up and to each side.
        kernel: width of the convolutions, odd and at least 3.
        gated: two gated stacks, or one plain one.
        dropout: the share of features that `loss` drops in training, and `log_prob` never does; 0.3
            helps where images are few.
        context_shape: of the context, which biases every layer; or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import PixelCNN
        >>> model = PixelCNN((1, 4, 4), channels=8, layers=2)
        >>> x, log_prob = model.sample_and_log_prob(3)
        >>> bool(torch.isclose(model.log_prob(x), log_prob, atol=1e-4).all())
        True
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: Head = heads.Bernoulli(),  # noqa: B008
        channels: int = 32,
        layers: int = 4,
        kernel: int = 5,
        gated: bool = True,
        dropout: float = 0.0,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, head, context_shape)
        if len(self.event_shape) != 3:
            raise ValueError(
                f"'event_shape' must be (channels, height, width), got {tuple(self.event_shape)}"
            )
        for name, count in (("channels", channels), ("layers", layers)):
            if count < 1:
                raise ValueError(f"{name!r} must be positive, got {count}")
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"'kernel' must be odd and at least 3, got {kernel}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"'dropout' must be in [0, 1), got {dropout}")
        groups, height, width = self.event_shape
        self.dropout = dropout
        stack = GatedStack if gated else PlainStack
        self.stack = stack(
            self._inputs_per_channel(),
            channels,
            image=(groups, height, width),
            layers=layers,
            kernel=kernel,
            context=0 if self.context_shape is None else self.context_shape.numel(),
        )
        self.hidden = Pointwise(channels, channels, groups)
        self.readout = Pointwise(channels, head.size(), groups)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        conditionals = self._conditionals(x, context, self.dropout if self.training else 0.0)
        return -conditionals.log_prob(x).flatten(1).sum(1)

    def _conditionals(
        self, x: Tensor, context: Tensor | None, dropout: float = 0.0
    ) -> Distribution:
        inputs = self._encode(x).movedim(-1, 2).flatten(1, 2)
        features = self.stack(inputs, context, dropout)
        outputs = self._outputs(features).unflatten(1, (self.event_shape[0], -1))
        return self.head(outputs.movedim(2, -1))

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        groups, height, width = self.event_shape
        walk = self.stack.walk(n, context)
        values, log_probs = [], []
        for _ in range(height):
            walk.next_row()
            for column in range(width):
                for channel in range(groups):
                    outputs = self._outputs(walk.features(column, channel), channel)
                    conditional = self.head(outputs[..., 0, 0])
                    value = conditional.sample()
                    log_probs.append(conditional.log_prob(value))
                    walk.write(column, channel, self._encode(value))
                    values.append(value)
        x = torch.stack(values, 1).unflatten(1, (height, width, groups))
        return x.movedim(-1, 1).contiguous(), torch.stack(log_probs, 1).sum(1)

    def _outputs(self, features: Tensor, group: int | None = None) -> Tensor:
        out: Tensor = self.readout(F.silu(self.hidden(F.silu(features), group)), group)
        return out

    def _inputs_per_channel(self) -> int:
        if isinstance(self.head, heads.Categorical) and self.head.categories <= _MOST_ONE_HOT:
            return self.head.categories
        return 1

    def _encode(self, x: Tensor) -> Tensor:
        """What enters the network for each number: (*,) -> (*, E)."""
        symbols = self._inputs_per_channel()
        if symbols > 1:
            return (x[..., None] == torch.arange(symbols, device=x.device)).to(self.dtype)
        x = x.to(self.dtype)[..., None]
        if isinstance(self.support, Binary):
            return 2.0 * x - 1.0
        if isinstance(self.support, Symbols):
            return 2.0 / (self.support.count - 1) * x - 1.0
        return x

"""Critics: networks that tell data from samples of a model, and so estimate their density ratio."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.checkpoint import Configurable
from rlgen.generative.model import Shape, as_shape
from rlgen.generative.nets import ContextMLP, ImageEncoder, is_image
from rlgen.generative.support import Real


class Critic(Configurable, nn.Module):
    """One number for each x, its logit: high for data, low for samples of a model.

    Trained as a classifier with as many data (class 1) as samples (class 0), by the critic's loss
    of `NonSaturating` or `Minimax`, it estimates the ratio of their densities:

        probability(x) = sigmoid(logit) = p_data(x) / (p_data(x) + p_model(x)),
        log_ratio(x) = logit = log p_data(x) - log p_model(x)

    With n_data examples of one class for n_model of the other, the logits hold log(n_data /
    n_model) too, which is for the caller to subtract. After `Wasserstein` they are no log ratio.

    References:
        | Generative adversarial networks (Goodfellow et al., 2014)
        | https://arxiv.org/abs/1406.2661
        | Learning in implicit generative models (Mohamed and Lakshminarayanan, 2016)
        | https://arxiv.org/abs/1610.03483

    Args:
        event_shape: of one x.
        context_shape: of the context, or None. The network sees it beside x.
        hidden: widths of the hidden layers; for images (C, H, W) of at least 8x8, of those that
            follow the convolutions.
        network: instead of all that, a module of yours: (x, context) -> logits (B,) or (B, 1).
        offset: whether the last layer has a bias, which a difference of logits does not need.

    Example:
        >>> import torch
        >>> from rlgen.generative import Critic, NonSaturating
        >>> critic = Critic(2)
        >>> data, samples = torch.randn(64, 2), 1.0 + torch.randn(64, 2)
        >>> loss = NonSaturating().critic_loss(critic.logits(data), critic.logits(samples))
        >>> loss.shape
        torch.Size([64])
        >>> 0.0 <= critic.accuracy(data, samples) <= 1.0
        True
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        context_shape: Shape | None = None,
        hidden: Sequence[int] = (64, 64),
        network: nn.Module | None = None,
        offset: bool = True,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.context_shape = (
            None if context_shape is None else as_shape("context_shape", context_shape)
        )
        self.network = self._network(hidden, offset) if network is None else network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """As `logits`, of data that needs no check."""
        out: Tensor = self.network(x, context)
        return out.reshape(x.shape[0])

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """How much more x looks like data than like samples, with shape (B,).

        Args:
            x: with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
        """
        logits: Tensor = self(*self.check(x, context))
        return logits

    def log_ratio(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The estimate of log p_data(x) - log p_model(x) in nats, with shape (B,)."""
        return self.logits(x, context)

    def density_ratio(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The estimate of p_data(x) / p_model(x), with shape (B,)."""
        return self.logits(x, context).exp()

    def probability(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The estimate of p_data(x) / (p_data(x) + p_model(x)), with shape (B,)."""
        return self.logits(x, context).sigmoid()

    @torch.no_grad()
    def accuracy(
        self,
        real: Tensor,
        fake: Tensor,
        context: Tensor | None = None,
        fake_context: Tensor | None = None,
    ) -> float:
        """The fraction classified right, each class counting one half; 1/2 is chance.

        Args:
            real: data, with shape (B, *event_shape).
            fake: samples, with shape (N, *event_shape).
            context: of the data, with shape (B, *context_shape), or None.
            fake_context: of the samples; by default that of the data.
        """
        of_fake = context if fake_context is None else fake_context
        return accuracy(self.logits(real, context), self.logits(fake, of_fake))

    def check(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Verified data, as in `GenerativeModel.check`."""
        dtype = next((p.dtype for p in self.parameters()), x.dtype)
        x = Real().check("x", x, self.event_shape, dtype)
        if self.context_shape is None or context is None:
            if (self.context_shape is None) != (context is None):
                verb = "needs a" if context is None else "takes no"
                raise ValueError(f"this Critic {verb} context")
            return x, None
        context = Real().check("context", context, self.context_shape, dtype)
        if len(context) != len(x):
            raise ValueError(f"'context' must hold {len(x)} examples, got {len(context)}")
        return x, context

    def _network(self, hidden: Sequence[int], offset: bool) -> nn.Module:
        net: ImageEncoder | ContextMLP
        if is_image(self.event_shape):
            net = _ImageCritic(self.event_shape, 1, 1, self.context_shape, hidden=hidden)
            last = net.mlp.net[-1]
        else:
            net = ContextMLP(self.event_shape.numel(), 1, self.context_shape, hidden)
            last = net.net[-1]
        if not offset:
            last.register_parameter("bias", None)
        return _rectified(net)


class _ImageCritic(ImageEncoder):
    """An encoder of images as they are, with shape (B, C, H, W)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x.unsqueeze(-1), context)


def accuracy(real_logits: Tensor, fake_logits: Tensor) -> float:
    """The fraction of logits on the right side of 0, each class counting one half.

    A logit of 0 counts as that of a sample: a critic that knows nothing is right half of the time.
    """
    right = (real_logits > 0).double().mean() + (fake_logits <= 0).double().mean()
    return float(right) / 2


def _rectified(net: nn.Module) -> nn.Module:
    """Leaky rectifiers in place of SiLU, which is nearly linear where weights are small."""
    for part in list(net.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.SiLU):
                setattr(part, name, nn.LeakyReLU(0.2))
    return net

"""What the two players of a game minimise, as functions of the critic's logits alone.

Notation: the logit l(x) of a critic, D(x) = sigmoid(l(x)) its probability that x is data. "Real"
are data, "fake" are samples of the generator. Everything is in nats per example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlgen.checkpoint import Configurable

Logits = Callable[[Tensor, Tensor | None], Tensor]


class Game(Configurable, ABC):
    """The losses of a critic and a generator.

    Example:
        >>> import torch
        >>> from rlgen.generative import Minimax
        >>> logits = torch.zeros(3)  # of a critic that cannot tell
        >>> Minimax().critic_loss(logits, logits)  # 2 ln 2
        tensor([1.3863, 1.3863, 1.3863])
    """

    @abstractmethod
    def critic_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the critic minimises, for each pair of one real and one fake example."""

    @abstractmethod
    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """What the generator minimises, for each fake example."""


class _Classification(Game):
    """The critic minimises -log D(real) - log(1 - D(fake)), a cross-entropy.

    Its minimum over all critics is 2 ln 2 - 2 JSD(p_data, p_model), where D = p_data / (p_data +
    p_model).
    """

    def critic_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits) + F.softplus(fake_logits)


@dataclass(frozen=True)
class NonSaturating(_Classification):
    """The critic classifies; the generator minimises -log D(fake).

    Its gradient stays large while the critic is sure that a sample is fake.

    References:
        | Generative adversarial networks (Goodfellow et al., 2014), section 3
        | https://arxiv.org/abs/1406.2661
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits)


@dataclass(frozen=True)
class Minimax(_Classification):
    """The critic classifies; the generator minimises log(1 - D(fake)), minus the critic's loss.

    Its gradient vanishes while the critic is sure that a sample is fake.

    References:
        | Generative adversarial networks (Goodfellow et al., 2014), equation 1
        | https://arxiv.org/abs/1406.2661
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -F.softplus(fake_logits)


@dataclass(frozen=True)
class Wasserstein(Game):
    """The critic minimises l(fake) - l(real), the generator -l(fake).

    The negative of the critic's loss is a lower bound of K W_1(p_data, p_model) where the critic
    is K-Lipschitz, which something else must see to.

    References:
        | Wasserstein GAN (Arjovsky, Chintala and Bottou, 2017), https://arxiv.org/abs/1701.07875
    """

    def critic_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits


def gradient_norm(critic: Logits, x: Tensor, context: Tensor | None = None) -> Tensor:
    """|d l(x) / d x| of each example, with shape (B,), itself differentiable in the critic.

    Args:
        critic: (x, context) -> logits (B,), each of which depends on its own example alone.
        x: with shape (B, *event_shape).
        context: one for each x, or None.
    """
    gradient: Tensor = torch.func.grad(lambda at: critic(at, context).sum())(x)
    # at a gradient of exactly 0 the norm has a subgradient, 0
    norm: Tensor = torch.linalg.vector_norm(gradient.reshape(x.shape[0], -1), dim=1)
    return norm


def gradient_penalty(
    critic: Logits,
    real: Tensor,
    fake: Tensor,
    context: Tensor | None = None,
    target: float = 1.0,
) -> Tensor:
    """(|d l(y) / d y| - target)^2 at y = e real + (1 - e) fake, one e ~ U[0, 1] for each example.

    References:
        | Improved training of Wasserstein GANs (Gulrajani et al., 2017)
        | https://arxiv.org/abs/1704.00028

    Args:
        critic: (x, context) -> logits (B,), each of which depends on its own example alone.
        real: data, with shape (B, *event_shape).
        fake: samples, with the same shape.
        context: of both, with shape (B, *context_shape), or None.
        target: the wanted norm.

    Returns:
        Penalties with shape (B,), without a weight.
    """
    e = torch.rand(real.shape[0], dtype=real.dtype, device=real.device)
    e = e.reshape(-1, *[1] * (real.ndim - 1))
    between = e * real + (1.0 - e) * fake
    return (gradient_norm(critic, between, context) - target).square()


def r1_penalty(critic: Logits, real: Tensor, context: Tensor | None = None) -> Tensor:
    """|d l(x) / d x|^2 at data x, with shape (B,); the paper weighs it with gamma / 2.

    References:
        | Which training methods for GANs do actually converge? (Mescheder et al., 2018)
        | https://arxiv.org/abs/1801.04406

    Args:
        critic: (x, context) -> logits (B,), each of which depends on its own example alone.
        real: data, with shape (B, *event_shape).
        context: with shape (B, *context_shape), or None.
    """
    return gradient_norm(critic, real, context).square()

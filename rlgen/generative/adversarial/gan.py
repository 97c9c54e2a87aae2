"""Generative adversarial networks: the critic is a classifier."""

from collections.abc import Sequence

from torch import Tensor, nn

from rlgen.generative.adversarial.base import Adversarial, generator_net
from rlgen.generative.adversarial.critic import Critic
from rlgen.generative.adversarial.games import Game, NonSaturating, r1_penalty
from rlgen.generative.model import Shape


class GAN(Adversarial):
    """A generator x = G(z), z ~ N(0, I), against a classifier D of data and samples.

    V(D, G) = E log D(x) + E log(1 - D(G(z)))

    D maximises V; at its best V = -2 ln 2 + 2 JSD(p_data, p_model) and D's logit is the log ratio
    of their densities, which `density_ratio` and `critic` give. G minimises what the game says. It
    has no density and no likelihood, and the players' losses do not say how good it is: watch
    `diagnose` and `metrics` on samples. With a context (one-hot labels, say) both players see it.

    References:
        | Generative adversarial networks (Goodfellow et al., 2014)
        | https://arxiv.org/abs/1406.2661
        | Conditional generative adversarial nets (Mirza and Osindero, 2014)
        | https://arxiv.org/abs/1411.1784
        | Which training methods for GANs do actually converge? (Mescheder et al., 2018)
        | https://arxiv.org/abs/1801.04406

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        hidden: widths of the hidden layers of both networks; for images of at least 8x8, of those
            next to their convolutions.
        game: what the players minimise: `NonSaturating()` or `Minimax()`.
        r1: gamma, where gamma / 2 |d logit / d x|^2 at data is added to the critic's loss. A
            little, such as 0.02 for data of scale 1, keeps modes from being lost again.
        context_shape: of the context, or None.
        generator: a module of yours, (z, context) -> x. One without parameters stays as it is, and
            the critic learns its density ratio to data.
        critic: one of yours.

    Example:
        >>> import torch
        >>> from rlgen.generative import GAN, fit
        >>> x = torch.randn(512, 2)
        >>> model = GAN(2)
        >>> history = fit(model, x, steps=20)
        >>> sorted(history.measured)
        ['accuracy', 'logit_gap']
        >>> model.sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int = 8,
        hidden: Sequence[int] = (64, 64),
        game: Game = NonSaturating(),  # noqa: B008
        r1: float = 0.0,
        context_shape: Shape | None = None,
        generator: nn.Module | None = None,
        critic: Critic | None = None,
    ) -> None:
        if r1 < 0:
            raise ValueError(f"'r1' must not be negative, got {r1}")
        if generator is None:
            generator = generator_net(
                latent, event_shape, context_shape=context_shape, hidden=hidden
            )
        if critic is None:
            critic = Critic(event_shape, context_shape=context_shape, hidden=hidden)
        super().__init__(
            event_shape,
            latent=latent,
            game=game,
            generator=generator,
            critic=critic,
            context_shape=context_shape,
        )
        self.r1 = r1

    def critic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        loss = super().critic_loss(x, context)
        if self.r1 == 0:
            return loss
        penalised: Tensor = loss + 0.5 * self.r1 * r1_penalty(self.critic, x, context)
        return penalised

    def value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log D(x) + log(1 - D(G(z))) in nats with a fresh z for each x, with shape (B,)."""
        value: Tensor = -NonSaturating().critic_loss(*self._logits(x, context))
        return value

    def density_ratio(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The critic's estimate of p_data(x) / p_model(x), with shape (B,)."""
        return self.critic.density_ratio(*self.check(x, context))

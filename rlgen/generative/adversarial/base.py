"""What all games share: two players, their objectives, and how their training goes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.adversarial.critic import Critic, accuracy
from rlgen.generative.adversarial.games import Game
from rlgen.generative.model import GenerativeModel, Objective, Shape, as_shape
from rlgen.generative.nets import ContextMLP, ImageDecoder, is_image
from rlgen.generative.support import Real


class Adversarial(GenerativeModel):
    """A generator x = G(z, context) of noise z, and a critic.

    A family says what z is by overriding `noise`, and what its players minimise besides the game
    by overriding `critic_loss` or `generator_loss`.

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        game: what the players minimise.
        generator: (z, context) -> x. Where it has no parameters to train, the critic alone learns.
        critic: tells data from samples.
        context_shape: of the context, or None. Both players see it.
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int,
        game: Game,
        generator: nn.Module,
        critic: Critic,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.latent = latent
        self.game = game
        self.generator = generator
        self.critic = critic
        if critic.event_shape != self.event_shape or critic.context_shape != self.context_shape:
            raise ValueError(
                "'critic' must have the model's event_shape and context_shape, "
                f"got {critic.event_shape} and {critic.context_shape}"
            )

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The critic's, with shape (B,). It says little about the samples; see `diagnose`."""
        return self.critic_loss(x, context)

    def objectives(self) -> tuple[Objective, ...]:
        """The critic's, then the generator's: each changes its own player alone."""
        players = (
            Objective("critic", self.critic_loss, _trainable(self.critic)),
            Objective("generator", self.generator_loss, _trainable(self.generator)),
        )
        return tuple(player for player in players if player.parameters)

    def critic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the critic minimises: each x against one fresh sample with its context, (B,)."""
        x, context = self.check(x, context)
        fake = self._fakes(x.shape[0], context)
        return self.game.critic_loss(self.critic(x, context), self.critic(fake, context))

    def generator_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the generator minimises: one fresh sample for each x, with its context, (B,)."""
        x, context = self.check(x, context)
        fake = self.generate(self.noise(x.shape[0]), context)
        return self.game.generator_loss(self.critic(fake, context))

    def generate(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """G(z, context), differentiable, with shape (B, *event_shape).

        Args:
            z: with shape (B, latent).
            context: with shape (B, *context_shape), or None.
        """
        z = Real().check("z", z, torch.Size([self.latent]), self.dtype)
        context = self.check_context(z.shape[0], context)
        out: Tensor = self.generator(z, context)
        return out.reshape(z.shape[0], *self.event_shape)

    def noise(self, n: int) -> Tensor:
        """What the generator is fed, with shape (n, latent): standard normal."""
        device = next((p.device for p in self.critic.parameters()), None)
        return torch.randn(n, self.latent, dtype=self.dtype, device=device)

    @torch.no_grad()
    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """How far the critic tells `x` from as many fresh samples.

        Returns:
            "accuracy", 1/2 where it cannot, and "logit_gap", the mean logit of data minus that of
            samples.
        """
        real, fake = self._logits(x, context)
        return {"accuracy": accuracy(real, fake), "logit_gap": float(real.mean() - fake.mean())}

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self.generate(self.noise(n), context)

    @torch.no_grad()
    def _fakes(self, n: int, context: Tensor | None) -> Tensor:
        """Samples for the critic, without a way back to the generator."""
        return self.generate(self.noise(n), context)

    def _logits(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x, context = self.check(x, context)
        fake = self._fakes(x.shape[0], context)
        return self.critic(x, context), self.critic(fake, context)


def generator_net(
    latent: int,
    event_shape: Shape,
    *,
    context_shape: Shape | None = None,
    hidden: Sequence[int] = (64, 64),
) -> nn.Module:
    """(z, context) -> x, flattened or not: transposed convolutions for images of at least 8x8.

    Args:
        latent: numbers in one z.
        event_shape: of one x.
        context_shape: of the context, or None.
        hidden: widths of the hidden layers; for images, of those before the convolutions.
    """
    if latent < 1:
        raise ValueError(f"'latent' must be positive, got {latent}")
    event = as_shape("event_shape", event_shape)
    given = None if context_shape is None else as_shape("context_shape", context_shape)
    if is_image(event):
        return ImageDecoder(latent, event, 1, given, hidden=hidden)
    return ContextMLP(latent, event.numel(), given, hidden)


def _trainable(player: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(p for p in player.parameters() if p.requires_grad)

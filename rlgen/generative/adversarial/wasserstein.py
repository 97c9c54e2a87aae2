"""Wasserstein GANs: the critic measures a distance, and must not be steep.

W_1(p, q) = sup over all f with |f(x) - f(y)| <= |x - y| of E_p f - E_q f. A critic f that is
K-Lipschitz gives E_p f - E_q f <= K W_1(p, q). The two families differ in what holds K down.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.adversarial.base import Adversarial, generator_net
from rlgen.generative.adversarial.critic import Critic
from rlgen.generative.adversarial.games import Wasserstein, gradient_norm, gradient_penalty
from rlgen.generative.model import Objective, Shape


class _WassersteinGame(Adversarial):
    """A critic without a classifier's sigmoid or offset, updated several times for each generator.

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        hidden: widths of the hidden layers of both networks.
        lr: the learning rate of both players.
        critic_steps: updates of the critic for each of the generator.
        context_shape: of the context, or None.
        generator: instead of the usual network, or None.
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int,
        hidden: Sequence[int],
        lr: float,
        critic_steps: int,
        context_shape: Shape | None,
        generator: nn.Module | None,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"'lr' must be positive, got {lr}")
        if critic_steps < 1:
            raise ValueError(f"'critic_steps' must be positive, got {critic_steps}")
        if generator is None:
            generator = generator_net(
                latent, event_shape, context_shape=context_shape, hidden=hidden
            )
        super().__init__(
            event_shape,
            latent=latent,
            game=Wasserstein(),
            generator=generator,
            critic=Critic(event_shape, context_shape=context_shape, hidden=hidden, offset=False),
            context_shape=context_shape,
        )
        self.lr = lr
        self.critic_steps = critic_steps

    @abstractmethod
    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Of either player."""

    def objectives(self) -> tuple[Objective, ...]:
        """The critic's, repeated, then the generator's: each changes its own player alone."""
        players = (o._replace(optimizer=self._optimizer) for o in super().objectives())
        return tuple(
            o._replace(repeats=self.critic_steps) if o.name == "critic" else o for o in players
        )

    @torch.no_grad()
    def wasserstein_estimate(
        self, x: Tensor, context: Tensor | None = None, *, samples: int = 1
    ) -> float:
        """The mean critic of data minus that of samples, at the weights that it has now.

        This is no W_1. It is at most K W_1, in expectation over fresh x and samples, where K is
        the critic's Lipschitz constant, which training holds down but does not hold at 1: divide
        by `lipschitz`, measured where data and samples lie and between them, to compare critics.

        Args:
            x: data that the critic has not seen, with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
            samples: how many to draw for each x.
        """
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        x, context = self.check(x, context)
        many = None if context is None else context.repeat_interleave(samples, dim=0)
        fake = self._fakes(samples * x.shape[0], many)
        return float(self.critic(x, context).mean() - self.critic(fake, many).mean())

    @torch.no_grad()
    def lipschitz(self, x: Tensor, context: Tensor | None = None) -> float:
        """The largest |d f(x) / d x| over the points x: at most the critic's Lipschitz constant.

        Args:
            x: with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
        """
        x, context = self.check(x, context)
        return float(gradient_norm(self.critic, x, context).max())

    @torch.no_grad()
    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """How far the critic tells `x` from as many fresh samples.

        Returns:
            "logit_gap", as `wasserstein_estimate`; "lipschitz", the steepest slope at data and
            samples; and "distance", their quotient, which is comparable over training.
        """
        x, context = self.check(x, context)
        fake = self._fakes(x.shape[0], context)
        gap = float(self.critic(x, context).mean() - self.critic(fake, context).mean())
        steepest = max(self.lipschitz(x, context), self.lipschitz(fake, context))
        tiny = torch.finfo(torch.float32).tiny
        return {"logit_gap": gap, "lipschitz": steepest, "distance": gap / max(steepest, tiny)}


class WGAN(_WassersteinGame):
    """A critic whose weights are clipped to [-c, c] after each of its updates (Algorithm 1).

    loss(x) = f(G(z)) - f(x) for the critic, -f(G(z)) for the generator

    The defaults are those printed: RMSprop without momentum at 5e-5, c = 0.01, and 5 updates of
    the critic for each of the generator; the paper's m = 64 is `batch_size=64` of `fit`. They are
    slow: an update of RMSprop moves a weight by about lr, so a mean that is 2 off takes 40 000 of
    them. On small problems clip=0.1 and lr=5e-3 learn in seconds. The critic's values are tiny, as
    its Lipschitz constant is: compare them only as `wasserstein_estimate` says.

    The learning rate and the optimiser are the model's own: `lr` of `fit` and `Trainer` changes
    nothing, while a `schedule` does scale it. Buffers of the critic are not clipped.

    References:
        | Wasserstein GAN (Arjovsky, Chintala and Bottou, 2017), https://arxiv.org/abs/1701.07875

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        hidden: widths of the hidden layers of both networks; for images of at least 8x8, of those
            next to their convolutions.
        clip: c, the largest size of a weight or bias of the critic.
        lr: the learning rate of both players.
        critic_steps: updates of the critic for each of the generator, each on its own minibatch.
        context_shape: of the context, or None. Both players see it.
        generator: a module of yours, (z, context) -> x. One without parameters stays as it is.

    Example:
        >>> import torch
        >>> from rlgen.generative import WGAN, fit
        >>> model = WGAN(2)
        >>> history = fit(model, torch.randn(512, 2), steps=10, batch_size=64)
        >>> max(float(p.abs().max().detach()) for p in model.critic.parameters()) <= 0.01
        True
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int = 8,
        hidden: Sequence[int] = (64, 64),
        clip: float = 0.01,
        lr: float = 5e-5,
        critic_steps: int = 5,
        context_shape: Shape | None = None,
        generator: nn.Module | None = None,
    ) -> None:
        super().__init__(
            event_shape,
            latent=latent,
            hidden=hidden,
            lr=lr,
            critic_steps=critic_steps,
            context_shape=context_shape,
            generator=generator,
        )
        if clip <= 0:
            raise ValueError(f"'clip' must be positive, got {clip}")
        self.clip = clip

    def objectives(self) -> tuple[Objective, ...]:
        """The critic's, clipped after each update, then the generator's."""
        critic, *others = super().objectives()
        return (critic._replace(after_step=self._clip), *others)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=self.lr)

    @torch.no_grad()
    def _clip(self) -> None:
        for parameter in self.critic.parameters():
            parameter.clamp_(-self.clip, self.clip)


class WGANGP(_WassersteinGame):
    """A critic whose slope is drawn towards 1 between data and samples.

    loss(x) = f(G(z)) - f(x) + penalty (|d f(y) / d y| - 1)^2,  y = e x + (1 - e) G(z), e ~ U[0, 1]

    for the critic, and -f(G(z)) for the generator. The penalty is soft: where a shift by d is all
    that separates the two, the best slope is 1 + d / (2 penalty), and so the value of the best
    critic is d (1 + d / (2 penalty)), more than W_1 = d.

    The learning rate and the optimiser, Adam with the paper's betas of 0 and 0.9, are the model's
    own: `lr` of `fit` and `Trainer` changes nothing, while a `schedule` does scale it. Networks
    must not normalise over the batch: the penalty is one of each example.

    References:
        | Improved training of Wasserstein GANs (Gulrajani et al., 2017)
        | https://arxiv.org/abs/1704.00028

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        hidden: widths of the hidden layers of both networks; for images of at least 8x8, of those
            next to their convolutions.
        penalty: its weight, lambda in the paper.
        lr: the learning rate of both players.
        critic_steps: updates of the critic for each of the generator, each on its own minibatch.
        context_shape: of the context, or None. Both players see it.
        generator: a module of yours, (z, context) -> x. One without parameters stays as it is.

    Example:
        >>> import torch
        >>> from rlgen.generative import WGANGP, fit
        >>> model = WGANGP(2)
        >>> history = fit(model, torch.randn(512, 2), steps=5)
        >>> sorted(history.measured)
        ['distance', 'lipschitz', 'logit_gap']
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int = 8,
        hidden: Sequence[int] = (64, 64),
        penalty: float = 10.0,
        lr: float = 1e-4,
        critic_steps: int = 5,
        context_shape: Shape | None = None,
        generator: nn.Module | None = None,
    ) -> None:
        super().__init__(
            event_shape,
            latent=latent,
            hidden=hidden,
            lr=lr,
            critic_steps=critic_steps,
            context_shape=context_shape,
            generator=generator,
        )
        if penalty <= 0:
            raise ValueError(f"'penalty' must be positive, got {penalty}")
        self.penalty = penalty
        # the penalty would keep a critic that begins on a wrong slope there: begin on none
        *_, last = self.critic.parameters()
        nn.init.zeros_(last)

    def critic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        fake = self._fakes(x.shape[0], context)
        value = self.game.critic_loss(self.critic(x, context), self.critic(fake, context))
        return value + self.penalty * gradient_penalty(self.critic, x, fake, context)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=(0.0, 0.9))

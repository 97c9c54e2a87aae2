"""Energy-based models of real numbers: a network says how unlikely each x is, up to a constant.

Notation: a base N(m, s^2) of independent normals, u = (x - m) / s, and the tilt f(u, context),
which is a network.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.energy.paths import Annealed, GeometricPath
from rlgen.generative.energy.samplers import MALA, Sampler, half_square
from rlgen.generative.model import GenerativeModel, Objective, Shape
from rlgen.generative.nets import ContextMLP, ImageEncoder, is_image

# the base is this much wider than the data, so that it covers their tails
_WIDER = 1.5
# no dimension of the base is narrower than this share of the average one
_NARROWEST = 0.1
# how fast the sampler's step follows what is accepted
_RATE = 0.05
# the network sees u times this: what matters lies within the base, where it is nearly linear
_GAIN = 3.0
# samples are this many times as old as a chain of the training becomes on average
_OLDER = 5


class EnergyModel(GenerativeModel):
    """A normal distribution, tilted by a network, and learnt from Markov chains.

    p(x) = exp(-E(x)) / Z,  E(x) = |u|^2 / 2 + f(u, context)

    The quadratic term keeps Z finite for any weights, since a network grows linearly at most; it
    keeps chains near the data, too. The base is placed on the first minibatch (mean, and 1.5
    standard deviations) unless `initialise` was called before.

    loss(x) = E(x) - mean of E(x') + alpha (f(x)^2 + mean of f(x')^2),  x' of the replay buffer

    whose first two terms have the gradient of -log p(x); the last one keeps energies near zero,
    where their constant is free to drift. After each step of a trainer, never in `loss`, each chain
    of the buffer begins afresh at the base with probability `reinit`, and all take one jump and
    `sampler.steps` steps. A jump proposes a sample of the base, accepted with probability
    min(1, exp(f(u) - f(u'))): where there are few dimensions, it leads from mode to mode. The
    weights of modes are nonetheless what these models learn last: narrow ones far apart exchange
    few chains. No gradient flows through the chains.

    Samples are chains from the base, several times older than those of the training become.
    For log Z see `metrics.ais`, which takes the model or, with a context, its `annealed(context)`.

    References:
        | Implicit generation and modeling with energy-based models (Du and Mordatch, 2019)
        | https://arxiv.org/abs/1903.08689

    Args:
        event_shape: of one x.
        hidden: widths of the MLP's hidden layers. None, the default, takes convolutions for images
            of at least 8x8 and (64, 64) for all else.
        sampler: how chains move: `energy.MALA()` or `energy.Langevin()`. Their steps are in units
            of u; MALA's is tuned while the model trains.
        buffer: how many chains.
        reinit: how often one of them begins afresh, in (0, 1]; 1 makes all of them short.
        alpha: weight of the term that keeps energies near zero.
        context_shape: of the context, or None. Each chain has a context of the data for life.

    Example:
        >>> import torch
        >>> from rlgen.generative import EnergyModel, energy, fit
        >>> x = torch.randn(512, 2)
        >>> model = EnergyModel(2, hidden=(16,), sampler=energy.MALA(steps=2), reinit=0.2)
        >>> history = fit(model, x, steps=20)
        >>> model.energy(x).shape
        torch.Size([512])
        >>> model.sample(10).shape
        torch.Size([10, 2])
    """

    centre: Tensor
    scale: Tensor
    step: Tensor
    placed: Tensor
    filled: Tensor
    chains: Tensor
    chain_contexts: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        hidden: Sequence[int] | None = None,
        sampler: Sampler = MALA(),  # noqa: B008
        buffer: int = 256,
        reinit: float = 0.05,
        alpha: float = 1e-3,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if buffer < 1:
            raise ValueError(f"'buffer' must be positive, got {buffer}")
        if not 0 < reinit <= 1:
            raise ValueError(f"'reinit' must lie in (0, 1], got {reinit}")
        if alpha < 0:
            raise ValueError(f"'alpha' must not be negative, got {alpha}")
        self.sampler = sampler
        self.reinit = reinit
        self.alpha = alpha
        self.convolutional = hidden is None and is_image(self.event_shape)
        self.net: nn.Module
        if self.convolutional:
            self.net = ImageEncoder(self.event_shape, 1, context_shape=self.context_shape)
        else:
            widths = (64, 64) if hidden is None else hidden
            self.net = ContextMLP(self.event_shape.numel(), 1, self.context_shape, widths)
        self.register_buffer("centre", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))
        self.register_buffer("step", torch.tensor(float(sampler.step)))
        self.register_buffer("placed", torch.tensor(False))
        self.register_buffer("filled", torch.tensor(False))
        self.register_buffer("chains", torch.randn(buffer, *self.event_shape))  # u, not x
        shape = (0,) if self.context_shape is None else self.context_shape
        self.register_buffer("chain_contexts", torch.zeros(buffer, *shape))
        self._observed: tuple[Tensor, Tensor | None] | None = None

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """E(x), with shape (B,): minus the log density of x, up to a constant of the context."""
        x, context = self.check(x, context)
        return self._energy((x - self.centre) / self.scale, context)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        u, chains, contexts = (x - self.centre) / self.scale, self.chains, self._chain_contexts()
        tilt, chain_tilt = self._tilt(u, context), self._tilt(chains, contexts)
        gap = half_square(u) + tilt - (half_square(chains) + chain_tilt).mean()
        return gap + self.alpha * (tilt.square() + chain_tilt.square().mean())

    def objectives(self) -> tuple[Objective, ...]:
        """`loss`, after each step of which the chains move on."""
        (objective,) = super().objectives()
        contrast = objective._replace(loss=self._observed_loss, comparable=False)
        return (contrast._replace(after_step=self._advance),)

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> None:
        """Place the base on data with shape (N, *event_shape), instead of the first minibatch."""
        x, _ = self.check(x, context)
        self._place(x)

    def annealed(self, context: Tensor | None = None) -> Annealed:
        """From the base to exp(-E), for `metrics.ais`.

        Args:
            context: one, with shape context_shape, or None.
        """
        given = self.check_sampling(1, context)
        dims = self.event_shape.numel()
        # its chains are of u, whose densities are `log_scale` below those of x
        log_scale = self.scale.log().sum()
        log_base_z = 0.5 * dims * math.log(2.0 * math.pi)

        def draw(n: int) -> Tensor:
            return torch.randn(n, *self.event_shape, dtype=log_scale.dtype, device=log_scale.device)

        def log_ratio(u: Tensor) -> Tensor:
            each = None if given is None else given.expand(len(u), *given.shape[1:])
            return log_scale + log_base_z - self._tilt(u, each)

        return GeometricPath(draw, lambda u: -half_square(u) - log_base_z, log_ratio)

    @torch.no_grad()
    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """The acceptance rate of the chains, and by how much their energies exceed those of x."""
        x, context = self.check(x, context)
        contexts = self._chain_contexts()
        chains, accepted = self._move(self.chains, contexts)
        gap = self._energy(chains, contexts).mean() - self.energy(x, context).mean()
        return {"acceptance": float(accepted.mean()), "energy_gap": float(gap)}

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        u = torch.randn(n, *self.event_shape, dtype=self.centre.dtype, device=self.centre.device)
        for _ in range(math.ceil(_OLDER / self.reinit)):
            u, _ = self._move(u, context)
        return self.centre + self.scale * u

    def _tilt(self, u: Tensor, context: Tensor | None) -> Tensor:
        u = _GAIN * u
        out: Tensor = self.net(u[..., None] if self.convolutional else u, context)
        return out[:, 0]

    def _energy(self, u: Tensor, context: Tensor | None) -> Tensor:
        return half_square(u) + self._tilt(u, context)

    @torch.no_grad()
    def _move(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """A jump and the sampler's steps, which all keep exp(-E); and the acceptance rates."""
        proposed = torch.randn_like(u)
        chance = (self._tilt(u, context) - self._tilt(proposed, context)).exp()
        accepted = torch.rand_like(chance) < chance
        u = torch.where(accepted.reshape(-1, *[1] * (u.ndim - 1)), proposed, u)
        return self.sampler.move(lambda u: self._energy(u, context), u, self.step)

    def _chain_contexts(self) -> Tensor | None:
        return None if self.context_shape is None else self.chain_contexts

    def _observed_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`loss`, which also keeps what `_advance` needs while the model trains."""
        loss = self.loss(x, context)
        if self.training:
            self._observed = x.detach(), None if context is None else context.detach()
        return loss

    @torch.no_grad()
    def _place(self, x: Tensor) -> None:
        deviation = x.std(0, correction=0)
        average = deviation.square().mean().sqrt()
        average = torch.where(average > 0, average, 1.0)
        self.centre.copy_(x.mean(0))
        self.scale.copy_(_WIDER * torch.maximum(deviation, _NARROWEST * average))
        self.placed.fill_(True)

    @torch.no_grad()
    def _advance(self) -> None:
        assert self._observed is not None
        x, context = self._observed
        self._observed = None
        if not self.placed:
            self._place(x)
        count, events = len(self.chains), [1] * (self.chains.ndim - 1)
        fresh = (torch.rand(count, device=x.device) < self.reinit) | ~self.filled
        u = torch.where(fresh.reshape(-1, *events), torch.randn_like(self.chains), self.chains)
        if context is not None:
            drawn = context[torch.randint(len(context), (count,), device=x.device)]
            each = fresh.reshape(-1, *[1] * (context.ndim - 1))
            self.chain_contexts.copy_(torch.where(each, drawn, self.chain_contexts))
        u, accepted = self._move(u, self._chain_contexts())
        self.chains.copy_(u)
        self.filled.fill_(True)
        if self.sampler.wanted is not None:
            self.step.mul_(torch.exp(_RATE * (accepted.mean() - self.sampler.wanted)))

"""Denoising diffusion: noise added in T small steps, and a network that takes it away again.

Notation: that of `schedules.py`; D numbers in one x.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.diffusion.network import VelocityNetwork, predict_noise, reverse_step
from rlgen.generative.diffusion.schedules import Linear, Schedule, Steps, Variance
from rlgen.generative.model import GenerativeModel, Shape, evaluating
from rlgen.generative.support import check_times
from rlgen.seeding import drawing_from

# numbers of x that the bound noises at a time
_NOISED = 2**18


class DDPM(GenerativeModel):
    r"""A chain that turns noise x_T ~ N(0, I) into data x_0, learnt by predicting the noise in x_t.

    q(x_t | x_0)     = N(signal_t x_0, noise_t^2 I)
    p(x_{t-1} | x_t) = N((x_t - beta_t / noise_t eps(x_t, t)) / sqrt(alpha_t), sigma_t^2 I)
    loss             = |eps - eps(x_t, t)|^2, at one random t: L_simple, NOT in nats
    elbo             = -L_T - sum over t = 2..T of KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
                       + log p(x_0 | x_1), in nats

    Deviations from the paper: the network is an MLP behind a skip connection (`predict_noise`), and
    `log p(x_0 | x_1)` is a Gaussian density, as x is not an image of integers. `sample` gives the
    mean of the last step, as the paper does, so samples lack noise of scale sigma_1.

    The noise has a scale of one, and so should the data: standardise x (subtract its mean, divide
    by its standard deviation), or a short training will not find where it lies.

    References:
        | Denoising diffusion probabilistic models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239
        | Deep unsupervised learning using nonequilibrium thermodynamics
        | (Sohl-Dickstein et al., 2015), https://arxiv.org/abs/1503.03585
        | Denoising diffusion implicit models (Song et al., 2021), https://arxiv.org/abs/2010.02502

    Args:
        event_shape: of one x, which is to be standardised.
        steps: T.
        schedule: the beta_t.
        variance: sigma_t^2: "beta", which suits data that is itself standard normal, or
            "posterior", which suits data that is a single point; see `schedules.Steps`.
        hidden: widths of the hidden layers of the default network.
        network: predicts eps in its place: `forward(x, t, context)` gets x_t with shape
            (B, *event_shape), t / T with shape (B,), and the context or None.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import DDPM, data, fit
        >>> x = data.two_moons(1000)
        >>> model = DDPM(2, steps=50)
        >>> history = fit(model, x, steps=20)
        >>> model.elbo(x).shape
        torch.Size([1000])
        >>> model.sample_strided(5, steps=10).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        steps: int = 1000,
        schedule: Schedule = Linear(),  # noqa: B008
        variance: Variance = "beta",
        hidden: Sequence[int] = (128, 128, 128),
        network: nn.Module | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        if variance not in ("beta", "posterior"):
            raise ValueError(f"'variance' must be 'beta' or 'posterior', got {variance!r}")
        self.steps = steps
        self.register_buffer("origin", torch.zeros(self.event_shape))
        self.constants = Steps(schedule.betas(steps), variance)
        self.default = network is None
        self.network = network or VelocityNetwork(self.event_shape, hidden, self.context_shape)

    origin: Tensor

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """L_simple: the squared error of the noise at one random step; it is not in nats."""
        x, context = self.check(x, context)
        t = torch.randint(1, self.steps + 1, (x.shape[0],), device=x.device)
        noise = torch.randn_like(x)
        return self._error(x, t, noise, context)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """A lower bound of log p(x | context) in nats, with all of its terms, at all steps.

        Its noise is that of x_t, drawn afresh at each step.

        Args:
            x: with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
            samples: draws of each x_t. More make the bound less noisy, not closer.

        Returns:
            Nats with shape (B,).
        """
        x, context = self.check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        total = self._last_kl(x)
        for t in self._all_steps(x, samples):
            noise = torch.randn(len(t), *x.shape, dtype=x.dtype, device=x.device)
            total = total + self._terms(x, t, noise, context).sum(0) / samples
        return -total

    def terms(
        self, x: Tensor, context: Tensor | None = None, *, noise: Tensor | None = None
    ) -> Tensor:
        """The terms of the bound one by one: minus their sum over t is `elbo`.

        Args:
            x: with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
            noise: eps, with the shape of x, for all x_t alike; fresh for each t by default.

        Returns:
            Nats with shape (B, T + 1): -log p(x_0 | x_1), then KL(q(x_{t-1} | x_t, x_0) ||
            p(x_{t-1} | x_t)) for t = 2, ..., T, then L_T.
        """
        x, context = self.check(x, context)
        parts = []
        for t in self._all_steps(x):
            if noise is None:
                drawn = torch.randn(len(t), *x.shape, dtype=x.dtype, device=x.device)
            else:
                drawn = noise.expand(len(t), *x.shape)
            parts.append(self._terms(x, t, drawn, context))
        return torch.cat([*parts, self._last_kl(x)[None]]).T

    def q_sample(self, x0: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """x_t = signal_t x_0 + noise_t eps.

        Args:
            x0: with shape (B, *event_shape).
            t: one step for all, or one each with shape (B,): integers from 0 (x_0 itself) to T,
                or t / T as floating numbers.
            noise: eps, with the shape of x0.
        """
        x0 = self.support.check("x0", x0, self.event_shape, self.dtype)
        signal, scale = self.constants.marginal(self._as_step(t, x0, 0), x0)
        return signal * x0 + scale * noise

    def score(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """The gradient of log q(x_t), as far as the network has learnt it: -eps(x_t, t) / noise_t.

        Args:
            x: x_t, with shape (B, *event_shape).
            t: one step for all, or one each with shape (B,): integers from 1 to T, or t / T as
                floating numbers.
            context: with shape (B, *context_shape), or None.
        """
        x, context = self.check(x, context)
        t = self._as_step(t, x, 1)
        _, noise = self.constants.marginal(t, x)
        return -self._predict(x, t, context) / noise

    @torch.no_grad()
    def sample_strided(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        steps: int = 50,
        eta: float = 0.0,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """Samples in fewer steps (DDIM): the chain visits only some t, densest near the data.

        Args:
            n: how many.
            context: as for `sample`.
            steps: from 1 to T.
            eta: 0 draws x_T alone at random, and 1 adds noise as the chain with the variance
                "posterior" does.
            generator: as for `sample`.

        Returns:
            Samples with shape (n, *event_shape).
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(f"'steps' must be from 1 to {self.steps}, got {steps}")
        if not 0 <= eta <= 1:
            raise ValueError(f"'eta' must be from 0 to 1, got {eta}")
        context = self.check_sampling(n, context, generator)
        k = torch.arange(steps + 1, dtype=torch.float64)
        visited = torch.maximum(k, (self.steps * (k / steps).square()).round()).long()
        with evaluating(self), drawing_from(generator):
            x = self._start(n)
            visited = visited.to(x.device)
            for t, before in zip(visited[1:].flip(0), visited[:-1].flip(0), strict=True):
                here, there = (self.constants.marginal(s.expand(n), x) for s in (t, before))
                eps = self._predict(x, t.expand(n), context)
                x = reverse_step(x, eps, here, there, eta)
        return x

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        x = self._start(n)
        constants = self.constants
        for step in range(self.steps, 0, -1):
            t = torch.full((n,), step, device=x.device)
            eps = self._predict(x, t, context)
            beta = constants.beta[step]
            x = (x - beta / constants.noise[step] * eps) / (1.0 - beta).sqrt()
            if step > 1:
                x = x + constants.scale[step] * torch.randn_like(x)
        return x

    def _start(self, n: int) -> Tensor:
        return torch.randn_like(self.origin.expand(n, *self.event_shape))

    def _predict(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        """eps(x_t, t) for integer steps with shape (B,)."""
        if self.default:
            return predict_noise(self.network, x, *self.constants.marginal(t, x), context)
        out: Tensor = self.network(x, t.to(x.dtype) / self.steps, context)
        return out

    def _error(self, x: Tensor, t: Tensor, noise: Tensor, context: Tensor | None) -> Tensor:
        predicted = self._predict(self.q_sample(x, t, noise), t, context)
        return (noise - predicted).square().reshape(x.shape[0], -1).sum(1)

    def _all_steps(self, x: Tensor, times: int = 1) -> tuple[Tensor, ...]:
        """1, ..., T, several times over, in parts for which x fits into memory."""
        steps = torch.arange(1, self.steps + 1, device=x.device).repeat(times)
        parts: tuple[Tensor, ...] = steps.split(max(1, _NOISED // x.numel()))
        return parts

    def _terms(self, x: Tensor, t: Tensor, noise: Tensor, context: Tensor | None) -> Tensor:
        """The terms of steps t with shape (S,), for noise (S, B, *event_shape): (S, B)."""
        many = x.expand(noise.shape).flatten(0, 1)
        if context is not None:
            context = context.expand(len(t), *context.shape).flatten(0, 1)
        each = t.repeat_interleave(x.shape[0])
        error = self._error(many, each, noise.flatten(0, 1), context).reshape(noise.shape[:2])
        constants = self.constants
        weight, constant = constants.weight[t].to(x.dtype), constants.constant[t].to(x.dtype)
        return weight[:, None] * error + x[0].numel() * constant[:, None]

    def _last_kl(self, x: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) || N(0, I)), with shape (B,)."""
        mean2 = (self.constants.signal[-1] * x).square()
        variance = self.constants.noise[-1].square()
        each = 0.5 * (mean2 + variance - 1.0 - variance.log())
        return each.reshape(x.shape[0], -1).sum(1)

    def _as_step(self, t: Tensor | float, x: Tensor, first: int) -> Tensor:
        times = torch.as_tensor(t, device=x.device)
        if times.is_floating_point():
            times = (times * self.steps).round().long()
        return check_times(times, len(x), first, self.steps, x)

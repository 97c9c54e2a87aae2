"""Score models in continuous time: one network for all noise levels, and three ways to sample.

Notation: that of `sde.py`; D numbers in one x.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rlgen.generative.diffusion.network import VelocityNetwork, predict_noise, reverse_step
from rlgen.generative.diffusion.ode import (
    Field,
    RungeKutta,
    Solver,
    flow,
    flow_with_log_det,
    random_probe,
)
from rlgen.generative.diffusion.sde import SDE, VP
from rlgen.generative.model import DensityModel, Shape, evaluating
from rlgen.generative.support import check_times
from rlgen.seeding import drawing_from

# the most numbers in x for which the exact trace, a backward pass for each, is the default
_EXACT = 16


class ScoreSDE(DensityModel):
    r"""A score of noised data, learnt by denoising, and the flow that it drives noise along.

    loss     = KL(q(x_1 | x_0) || N(0, prior_scale^2 I)) - E log N(x_0; x_t / a, (s / a)^2 I)
               + integral over c of |eps - eps(x_t, t)|^2, by one random c
    log_prob = log N(x_1; 0, prior_scale^2 I) + integral of div over the probability-flow ODE
               dx/dt = f(t) x - 1/2 g(t)^2 score(x, t)

    with score(x, t) = -eps(x, t) / s. In expectation the loss is at least the negative log density
    of the reverse SDE, in nats, with a last step from the cutoff's t to the data.

    What `log_prob` is the density of: of `sample`, which follows the same ODE back. It is NOT that
    of the SDE (`sample_sde` and `sample_annealed` agree with it only as far as the score is right),
    and it is the density of data noised to the cutoff, a scale of 1e-3 for `VP` and of `low` for
    `VE`. Against the true density of the data it has four errors: the score's, the solver's, that
    of N(0, prior_scale^2 I) in place of the true x_1 (up to 0.012 in the density of a mixture in
    one dimension, with `VP` and the exact score), and the cutoff's.

    The trace in div is exact for up to 16 numbers in x, at D backward passes for each step of the
    solver. Beyond, it is Hutchinson's estimate with a random probe for each x: then `log_prob` is
    random, right on average, and takes one backward pass.

    References:
        | Score-based generative modeling through stochastic differential equations
        | (Song et al., 2021), https://arxiv.org/abs/2011.13456
        | Generative modeling by estimating gradients of the data distribution
        | (Song and Ermon, 2019), https://arxiv.org/abs/1907.05600
        | Maximum likelihood training of score-based diffusion models (Song et al., 2021)
        | https://arxiv.org/abs/2101.09258

    Args:
        event_shape: of one x, which is to be standardised: a short training does not find data
            far from standard normal numbers.
        sde: `VP` or `VE`.
        likelihood_weighting: the loss as above; else it is |eps - eps(x_t, t)|^2 at a uniform t,
            NOT in nats, which cares less for the finest detail.
        hidden: widths of the hidden layers of the default network.
        network: predicts eps = -s score in its place: `forward(x, t, context)` gets x_t with shape
            (B, *event_shape), t with shape (B,), and the context or None.
        solver: of the ODE: `RungeKutta` in equal steps or `Adaptive`.
        exact_trace: whether the trace is exact; None decides by the size of x.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import ScoreSDE, data, fit
        >>> x = data.two_moons(1000)
        >>> model = ScoreSDE(2)
        >>> history = fit(model, x, steps=20)
        >>> model.log_prob(x[:10]).shape
        torch.Size([10])
        >>> model.sample_sde(5, steps=20).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        sde: SDE = VP(),  # noqa: B008
        likelihood_weighting: bool = True,
        hidden: Sequence[int] = (128, 128, 128),
        network: nn.Module | None = None,
        solver: Solver = RungeKutta(),  # noqa: B008
        exact_trace: bool | None = None,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.sde = sde
        self.likelihood_weighting = likelihood_weighting
        self.solver = solver
        numbers = self.event_shape.numel()
        self.exact_trace = numbers <= _EXACT if exact_trace is None else exact_trace
        self.register_buffer("origin", torch.zeros(self.event_shape))
        self.default = network is None
        self.network = network or VelocityNetwork(self.event_shape, hidden, self.context_shape)

    origin: Tensor

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Denoising score matching at one random t (see the class), with shape (B,)."""
        x, context = self.check(x, context)
        low, high = self.sde.span
        u = torch.rand(x.shape[0], dtype=x.dtype, device=x.device)
        if not self.likelihood_weighting:
            t = self.sde.cutoff + (1.0 - self.sde.cutoff) * u
            return self._error(x, self.sde.log_ratio(t), context)
        error = self._error(x, low + (high - low) * u, context)
        return (high - low) * error + self._ends(x, low, high)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log density of `sample`; random where the trace is not exact (see the class)."""
        x, context = self.check(x, context)
        noise, log_det = self._to_noise(x, context)
        scale = self.sde.prior_scale
        prior = torch.distributions.Normal(0.0, scale, validate_args=False)
        log_prior: Tensor = prior.log_prob(noise).reshape(x.shape[0], -1).sum(1)
        return log_prior + log_det

    def to_noise(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Along the ODE from the data to t = 1: x_1 and log |det dx_1/dx|, with shape (B,)."""
        return self._to_noise(*self.check(x, context))

    def from_noise(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Along the ODE from x_1, which is about prior_scale times standard normal, to the data."""
        return self._from_noise(*self.check(noise, context))

    def score(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """The gradient of log p(x_t), as far as the network has learnt it: -eps(x, t) / s.

        Args:
            x: x_t, with shape (B, *event_shape).
            t: one time for all, or one each with shape (B,), from 0 to 1; below the cutoff it is
                the cutoff.
            context: with shape (B, *context_shape), or None.
        """
        x, context = self.check(x, context)
        times = check_times(t, len(x), 0.0, 1.0, x).to(x.dtype).clamp_min(self.sde.cutoff)
        c = self.sde.log_ratio(times)
        return -self._predict(x, c, context) / self._levels(c, x)[1]

    @torch.no_grad()
    def sample_sde(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        steps: int = 500,
        corrections: int = 0,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """Samples of the reverse SDE, dx = (f x - g^2 score) dt + g dw backwards in time.

        Each step is exact where the x_0 that the network sees does not change (`reverse_step`),
        which is a method of order 1 as Euler and Maruyama's is. The last result is denoised:
        x_0 = (x + s^2 score) / a.

        Args:
            n: how many.
            context: as for `sample`.
            steps: equal ones in c.
            corrections: Langevin steps after each, which make it predictor-corrector sampling.
            generator: as for `sample`.

        Returns:
            Samples with shape (n, *event_shape).
        """
        if steps < 1 or corrections < 0:
            raise ValueError(
                f"'steps' must be positive and 'corrections' not negative, "
                f"got {steps} and {corrections}"
            )
        context = self.check_sampling(n, context, generator)
        with evaluating(self), drawing_from(generator):
            x = self._start(n)
            grid = self._grid(n, steps + 1, x)
            for c, earlier in pairwise(grid):
                here, there = self._levels(c, x), self._levels(earlier, x)
                x = reverse_step(x, self._predict(x, c, context), here, there)
                for _ in range(corrections):
                    x = self._langevin(x, earlier, context, 0.1)
            return self._denoised(x, grid[-1], context)

    @torch.no_grad()
    def sample_annealed(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        levels: int = 100,
        steps: int = 20,
        step: float = 0.2,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """Samples by annealed Langevin dynamics, with the score alone and no equation of motion.

        At each level, from the noisiest to the cleanest: x + step/2 s^2 score + sqrt(step) s z,
        `steps` times, so that the size of a step is in proportion to s^2. The last result is
        denoised: x_0 = (x + s^2 score) / a.

        Args:
            n: how many.
            context: as for `sample`.
            levels: equally spaced in c.
            steps: at each level.
            step: relative to s^2.
            generator: as for `sample`.

        Returns:
            Samples with shape (n, *event_shape).
        """
        if levels < 2 or steps < 1 or step <= 0:
            raise ValueError(
                "'levels' must be at least 2, 'steps' and 'step' positive, "
                f"got {levels}, {steps} and {step}"
            )
        context = self.check_sampling(n, context, generator)
        with evaluating(self), drawing_from(generator):
            x = self._start(n)
            before = None
            for c in self._grid(n, levels, x):
                signal, _ = self._levels(c, x)
                x = x if before is None else x * signal / before
                before = signal
                for _ in range(steps):
                    x = self._langevin(x, c, context, step)
            return self._denoised(x, c, context)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self._from_noise(self._start(n), context)

    def _error(self, x: Tensor, c: Tensor, context: Tensor | None) -> Tensor:
        """|eps - eps(x_t, t)|^2 at log ratios c with shape (B,)."""
        signal, noise = self._levels(c, x)
        eps = torch.randn_like(x)
        error = eps - self._predict(signal * x + noise * eps, c, context)
        return error.square().reshape(x.shape[0], -1).sum(1)

    def _ends(self, x: Tensor, low: float, high: float) -> Tensor:
        """KL(q(x_1 | x_0) || prior) - E log N(x_0; x_t / a, (s / a)^2 I) at the cutoff's t."""
        signal, noise = self.sde.levels(x.new_full((), high))
        variance = (noise / self.sde.prior_scale).square()
        mean2 = (signal / self.sde.prior_scale * x).square()
        last = 0.5 * (mean2 + variance - 1.0 - variance.log())
        first = 0.5 * math.log(2.0 * math.pi * math.e) + low
        return (last + first).reshape(x.shape[0], -1).sum(1)

    def _start(self, n: int) -> Tensor:
        """x_1, from the prior."""
        return self.sde.prior_scale * torch.randn_like(self.origin.expand(n, *self.event_shape))

    def _to_noise(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        low, high = self.sde.span
        probe = None if self.exact_trace else random_probe(x)
        return flow_with_log_det(self.solver, self._field(context), x, low, high, probe)

    def _from_noise(self, noise: Tensor, context: Tensor | None) -> Tensor:
        low, high = self.sde.span
        return flow(self.solver, self._field(context), noise, high, low)

    def _field(self, context: Tensor | None) -> Field:
        """dx/dc of the probability-flow ODE: its half of the score is in `sde.py`."""

        def field(c: Tensor, x: Tensor) -> Tensor:
            c = c.expand(x.shape[0])
            _, noise = self._levels(c, x)
            pull = self.sde.pull(c).reshape(noise.shape)
            return pull * x + noise * self._predict(x, c, context)

        return field

    def _predict(self, x: Tensor, c: Tensor, context: Tensor | None) -> Tensor:
        """eps(x_t, t) at log ratios c with shape (B,)."""
        if self.default:
            return predict_noise(self.network, x, *self._levels(c, x), context)
        # rounding must not lead beyond the times that a network was made for
        t = self.sde.time(c).clamp(self.sde.cutoff, 1.0)
        out: Tensor = self.network(x, t, context)
        return out

    def _levels(self, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """signal and noise at log ratios c with shape (B,), to multiply x with."""
        signal, noise = self.sde.levels(c.reshape(-1, *[1] * (x.ndim - 1)))
        return signal, noise

    def _grid(self, n: int, count: int, x: Tensor) -> Tensor:
        """`count` log ratios from the noisiest to the cleanest, for n examples: (count, n)."""
        low, high = self.sde.span
        grid = torch.linspace(high, low, count, dtype=x.dtype, device=x.device)
        return grid[:, None].expand(count, n)

    def _langevin(self, x: Tensor, c: Tensor, context: Tensor | None, step: float) -> Tensor:
        """One step of size step s^2 along score(x) = -eps / s."""
        _, noise = self._levels(c, x)
        drift = -0.5 * step * noise * self._predict(x, c, context)
        return x + drift + math.sqrt(step) * noise * torch.randn_like(x)

    def _denoised(self, x: Tensor, c: Tensor, context: Tensor | None) -> Tensor:
        """The mean of x_0 given x_t."""
        signal, noise = self._levels(c, x)
        return (x - noise * self._predict(x, c, context)) / signal

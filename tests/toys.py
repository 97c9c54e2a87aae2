"""Tiny models: sound ones, and each of them broken in one way that a check must notice."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from rlgen.generative import DensityModel, GenerativeModel
from rlgen.generative.support import Binary
from rlgen.seeding import drawing_from
from tests import checks
from tests.checks import Check

Toy = Callable[[], GenerativeModel]


class Bits(DensityModel):
    """Three independent bits, given a context."""

    support = Binary()

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.linear = nn.Linear(2, 3)

    def bits(self, context: Tensor | None) -> Distribution:
        assert context is not None
        return Independent(Bernoulli(logits=self.linear(context), validate_args=False), 1)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        return self.bits(context).log_prob(x)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        x: Tensor = self.bits(context).sample()
        return x


class Line(GenerativeModel):
    """z ~ N(0, 1), x | z ~ N(w z + c, 1): two numbers, with the prior for the proposal."""

    def __init__(self) -> None:
        super().__init__(2)
        self.w = nn.Parameter(torch.tensor([0.5, -0.3]))
        self.c = nn.Parameter(torch.zeros(2))

    @property
    def prior(self) -> Distribution:
        zero = self.w.new_zeros(1)
        return Independent(Normal(zero, zero + 1, validate_args=False), 1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(z * self.w + self.c, 1.0, validate_args=False), 1)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        x, _ = self.check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        z = self.prior.sample(torch.Size([samples, len(x)]))
        return self.decode(z).log_prob(x).logsumexp(0) - math.log(samples)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.elbo(x, context)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        x: Tensor = self.decode(self.prior.sample(torch.Size([n]))).sample()
        return x


class Unnormalised(Bits):
    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().log_prob(x, context) + 1e-6


class Normals(DensityModel):
    """A standard Gaussian with a mean; its density and its sampler can be off."""

    def __init__(self, dims: int = 2, *, excess: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(dims)
        self.excess, self.scale = excess, scale
        self.mean = nn.Parameter(torch.zeros(dims))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        constant = 0.5 * len(self.mean) * math.log(2 * math.pi) - self.excess
        return -0.5 * (x - self.mean).square().sum(1) - constant

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        noise = torch.randn_like(self.mean.expand(n, -1))
        return (self.mean + self.scale * noise).detach()


class Reduced(Bits):
    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().loss(x, context).mean()


class ReducedInDisguise(Bits):
    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        loss = super().loss(x, context)
        return loss.mean().expand_as(loss)


class Whitened(Bits):
    """As batch normalisation in training mode."""

    def bits(self, context: Tensor | None) -> Distribution:
        if self.training and context is not None:
            context = context - context.mean(0)
        return super().bits(context)


class WrongSampler(Bits):
    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return 1.0 - super()._sample(n, context)


class Idle(Bits):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))

    def bits(self, context: Tensor | None) -> Distribution:
        return super().bits(None if context is None else context + 0.0 * self.scale)


class Deaf(Bits):
    def bits(self, context: Tensor | None) -> Distribution:
        return super().bits(None if context is None else torch.zeros_like(context))


class Unseeded(Bits):
    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator()

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return torch.randint(2, (n, 3), generator=self.own).to(self.dtype)


class Reseeding(Bits):
    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        with drawing_from(0):
            return super()._sample(n, context)


class Rounding(Bits):
    """A float32 inside: float64 gets no more precise."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().log_prob(x, context).float()


class Coarse(Bits):
    """Half precision inside."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        log_prob = super().log_prob(x, context)
        return log_prob.half().to(log_prob.dtype) if log_prob.dtype == torch.float32 else log_prob


class Peeking(Bits):
    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        log_prob = super().log_prob(x, context)
        return log_prob if float(x.sum()) >= 0 else -log_prob


class Trusting(Bits):
    def check(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return x, context


class Moody(Bits):
    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        self.linear.training = True
        return super()._sample(n, context)


class Explosive(Bits):
    def bits(self, context: Tensor | None) -> Distribution:
        return super().bits(None if context is None else context.exp())


class TwoMinds(Bits):
    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        return self.log_prob(x, context) - 1.0 / samples


class Boastful(Line):
    """Forgets to divide by the number of samples."""

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        return super().elbo(x, context, samples) + math.log(samples)


class Modest(Line):
    """A constant missing on the safe side: a bound, but of something else."""

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        return super().elbo(x, context, samples) - math.log(2 * math.pi)


class BitsBoundAbove(GenerativeModel):
    """A bound of three bits that is 0.02 nats above their log probability."""

    support = Binary()

    def __init__(self) -> None:
        super().__init__(3)
        self.logits = nn.Parameter(torch.zeros(3))

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        x, context = self.check(x, context)
        exact = Independent(Bernoulli(logits=self.logits, validate_args=False), 1).log_prob(x)
        noise = 0.02 * torch.randn(samples, len(x), dtype=x.dtype)
        return exact + 0.02 + noise.mean(0)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.elbo(x, context)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return torch.bernoulli(self.logits.sigmoid().expand(n, 3))


SOUND: list[Toy] = [Bits, Line, Normals, partial(Normals, 4)]
BROKEN: list[tuple[Toy, Check, str]] = [
    (Unnormalised, checks.check_density_is_normalised, "total mass"),
    (partial(Normals, 1, excess=0.02), checks.check_density_is_normalised, "total mass"),
    (partial(Normals, 2, excess=-0.02), checks.check_density_is_normalised, "total mass"),
    (partial(Normals, 4, excess=0.1), checks.check_density_is_normalised, "total mass"),
    (partial(Normals, 2, scale=1.1), checks.check_density_is_normalised, "do not follow"),
    (partial(Normals, 4, scale=1.2), checks.check_density_is_normalised, "do not follow"),
    (WrongSampler, checks.check_density_is_normalised, "do not follow"),
    (Reduced, checks.check_shapes_and_dtypes, "loss has shape"),
    (ReducedInDisguise, checks.check_examples_are_independent, "depends on other examples"),
    (Whitened, checks.check_examples_are_independent, "depends on other examples"),
    (Idle, checks.check_every_parameter_learns, "no objective moves"),
    (Deaf, checks.check_context_matters, "ignores the context"),
    (Unseeded, checks.check_same_seed_same_numbers, "same seed gives other"),
    (Reseeding, checks.check_same_seed_same_numbers, "another seed gives the same"),
    (Rounding, checks.check_shapes_and_dtypes, "float32"),
    (Coarse, checks.check_precision, "not close"),
    (Peeking, checks.check_meta_device, "meta"),
    (Peeking, checks.check_vectorised_gradients, "vmap"),
    (Trusting, checks.check_messages, "DID NOT RAISE|must match|Expected"),
    (Moody, checks.check_modes, "not what it was"),
    (Explosive, checks.check_extremes, "is"),
    (TwoMinds, checks.check_capabilities_are_exclusive, "exact, or a bound"),
    (Boastful, checks.check_bound_is_below, "exceeds"),
    (Modest, checks.check_bound_is_below, "does not reach"),
    (BitsBoundAbove, checks.check_bound_is_below, "sum to"),
]

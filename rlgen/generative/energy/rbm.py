"""Restricted Boltzmann machines: bits that depend on each other through hidden bits.

Notation: visible bits v (x, flattened, V of them), hidden bits h (H of them), weights W (V, H),
biases b of the visible and c of the hidden bits.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.generative.energy.paths import Annealed
from rlgen.generative.model import DensityModel, Objective, Shape
from rlgen.generative.support import Binary

# sums over up to 2 ** 20 states of a layer are exact
_ENUMERABLE = 20
# states of the smaller layer at a time
_PART = 2**14
# Gibbs steps from a start that is not a sample, where the model cannot be enumerated
_BURN_IN = 1000


class RBM(DensityModel):
    """A restricted Boltzmann machine, trained by contrastive divergence.

    p(v) = exp(-F(v)) / Z,  F(v) = -b'v - sum over j of softplus(c_j + (v W)_j)

    loss(v) = F(v) - mean of F over samples v' of the model

    whose gradient estimates that of -log p(v); its value says nothing of how good the model is. The
    samples come from Gibbs chains: with `persistent` (PCD) they live on from update to update in
    `chains`, which moves after each step of a trainer, never in `loss`; without (CD-k) each begins
    at the example itself and takes `steps` steps, a biased estimate that needs no memory.

    Where the smaller layer has at most 20 bits, `log_partition` and `log_prob` are exact, and so
    are samples: the smaller layer is drawn from the table of its probabilities, then the other
    layer given it. Elsewhere `log_prob` raises a ValueError (`metrics.ais` estimates log Z), and
    samples are 1000 Gibbs steps away from the chains of the training.

    References:
        | Training products of experts by minimizing contrastive divergence (Hinton, 2002)
        | https://doi.org/10.1162/089976602760128018
        | Training restricted Boltzmann machines using approximations to the likelihood gradient
        | (Tieleman, 2008), https://doi.org/10.1145/1390156.1390290

    Args:
        event_shape: of one x, which is treated as a vector.
        hidden: H.
        steps: Gibbs steps between updates (PCD), or from the example (CD-k).
        persistent: whether chains live on between updates.
        chains: how many of them.

    Example:
        >>> import torch
        >>> from rlgen.generative import RBM, fit
        >>> x = (torch.rand(512, 1) < 0.5).float().expand(-1, 6)
        >>> model = RBM(6, hidden=4)
        >>> history = fit(model, x, steps=20)
        >>> model.energy(x).shape
        torch.Size([512])
        >>> log_prob = model.log_prob(x)  # exact: 2^4 states of the hidden bits
    """

    support = Binary()
    chains: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        hidden: int = 64,
        steps: int = 5,
        persistent: bool = True,
        chains: int = 256,
    ) -> None:
        super().__init__(event_shape)
        for name, value in (("hidden", hidden), ("steps", steps), ("chains", chains)):
            if value < 1:
                raise ValueError(f"{name!r} must be positive, got {value}")
        visible = self.event_shape.numel()
        self.steps = steps
        self.persistent = persistent
        self.weight = nn.Parameter(0.1 * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        # without persistence they are only where the samples of large models begin
        self.register_buffer("chains", torch.rand(chains, *self.event_shape).round())

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The free energy F(x), with shape (B,): differences of it are exact log ratios."""
        x, _ = self.check(x, context)
        return -self._log_mass(_rows(x))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The exact log mass, with shape (B,); each call sums over the smaller layer.

        Raises:
            ValueError: both layers have more than 20 bits.
        """
        return -self.energy(x, context) - self._log_z()

    @torch.no_grad()
    def log_partition(self) -> Tensor:
        """log Z, exactly, with shape () and no gradient: a sum over states of the smaller layer.

        Raises:
            ValueError: both layers have more than 20 bits.
        """
        return self._log_z()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        v = _rows(x)
        if self.persistent:
            return self._log_mass(_rows(self.chains)).mean() - self._log_mass(v)
        return self._log_mass(self._gibbs(v, self.steps)) - self._log_mass(v)

    def objectives(self) -> tuple[Objective, ...]:
        """`loss`, after each step of which the persistent chains move on."""
        (objective,) = super().objectives()
        advance = self._advance if self.persistent else None
        return (objective._replace(after_step=advance, comparable=False),)

    def gibbs(self, x: Tensor, steps: int = 1) -> Tensor:
        """Where chains that are at `x` are after `steps` steps: h given v, then v given h."""
        x, _ = self.check(x)
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        return self._gibbs(_rows(x), steps).reshape(x.shape)

    def annealed(self) -> Annealed:
        """The machines with parameters (t W, t b, t c), from fair coins to this one."""
        return _Tempered(self)

    def _log_z(self) -> Tensor:
        if not self._enumerable:
            raise ValueError(
                f"log Z needs a layer of at most {_ENUMERABLE} bits, got {self.weight.shape[0]} "
                f"visible and {self.weight.shape[1]} hidden ones; metrics.ais estimates it"
            )
        return torch.cat([log_mass for _, log_mass in self._table()]).logsumexp(0)

    @property
    def _enumerable(self) -> bool:
        return min(self.weight.shape) <= _ENUMERABLE

    def _log_mass(self, v: Tensor) -> Tensor:
        return _log_mass(v, self.weight, self.visible_bias, self.hidden_bias)

    def _smaller(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (from the smaller layer), biases of the smaller and of the other layer."""
        if self.weight.shape[0] <= self.weight.shape[1]:
            return self.weight, self.visible_bias, self.hidden_bias
        return self.weight.T, self.hidden_bias, self.visible_bias

    def _table(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All states of the smaller layer in parts, with their unnormalised log masses."""
        parameters = self._smaller()
        bits = len(parameters[1])
        for start in range(0, 2**bits, _PART):
            index = torch.arange(start, min(start + _PART, 2**bits), device=self.weight.device)
            states = _bits(index, bits).to(self.dtype)
            yield states, _log_mass(states, *parameters)

    @torch.no_grad()
    def _gibbs(self, v: Tensor, steps: int, t: float = 1.0) -> Tensor:
        for _ in range(steps):
            h = _bernoulli(t * (v @ self.weight + self.hidden_bias))
            v = _bernoulli(t * (h @ self.weight.T + self.visible_bias))
        return v

    @torch.no_grad()
    def _advance(self) -> None:
        moved = self._gibbs(_rows(self.chains), self.steps)
        self.chains.copy_(moved.reshape(self.chains.shape))

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        return (self._exact(n) if self._enumerable else self._long(n)).reshape(n, *self.event_shape)

    def _exact(self, n: int) -> Tensor:
        weight, bias, other_bias = self._smaller()
        log_mass = torch.cat([log_mass for _, log_mass in self._table()])
        index = torch.multinomial(log_mass.softmax(0), n, replacement=True)
        smaller = _bits(index, len(bias)).to(self.dtype)
        other = _bernoulli(smaller @ weight + other_bias)
        return smaller if weight is self.weight else other

    def _long(self, n: int) -> Tensor:
        chains = _rows(self.chains)
        start = torch.randint(len(chains), (n,), device=chains.device)
        return self._gibbs(chains[start], _BURN_IN)


class _Tempered(Annealed):
    """p_t(v) of the machine whose parameters are t times those of `rbm`."""

    def __init__(self, rbm: RBM) -> None:
        self.rbm = rbm

    def start(self, n: int) -> Tensor:
        bias = self.rbm.visible_bias
        return _bernoulli(bias.new_zeros(n, len(bias)))

    def log_density(self, x: Tensor, t: float) -> Tensor:
        rbm = self.rbm
        parameters = (rbm.weight, rbm.visible_bias, rbm.hidden_bias)
        log_mass = _log_mass(x, *(t * parameter for parameter in parameters))
        # at t = 0 all 2^(V + H) states weigh the same, and must sum to 1
        return log_mass - (1.0 - t) * sum(rbm.weight.shape) * math.log(2.0)

    def move(self, x: Tensor, t: float) -> Tensor:
        return self.rbm._gibbs(x, 1, t)


def _log_mass(v: Tensor, weight: Tensor, bias: Tensor, other_bias: Tensor) -> Tensor:
    """log of the sum over the other layer's states of exp(v'b + c'h + v'W h), with shape (B,)."""
    return v @ bias + F.softplus(v @ weight + other_bias).sum(1)


def _rows(x: Tensor) -> Tensor:
    """(B, *event_shape) -> (B, V), for scalars too."""
    return x.reshape(x.shape[0], -1)


def _bernoulli(logits: Tensor) -> Tensor:
    return (torch.rand_like(logits) < logits.sigmoid()).to(logits.dtype)


def _bits(index: Tensor, bits: int) -> Tensor:
    """(N,) integers -> their digits in base 2, with shape (N, bits)."""
    return (index[:, None] >> torch.arange(bits, device=index.device)) & 1

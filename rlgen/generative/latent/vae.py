"""Variational autoencoders: p(x) = integral of p(x | z) N(z; 0, I), learnt through a bound.

Notation: q(z | x) is the encoder's diagonal Gaussian, with mean m and scale s; L numbers in one z.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import as_inputs
from rlgen.generative.heads import Head, positive
from rlgen.generative.latent.nets import decoder_net, encoder_net
from rlgen.generative.model import GenerativeModel, Shape
from rlgen.generative.support import Real

# numbers of x that the importance-weighted bound decodes at a time
_DECODED = 2**20


class VAE(GenerativeModel):
    """A code z with a standard normal prior, a decoder p(x | z) and an encoder q(z | x).

    ELBO(x) = E_q log p(x | z) - KL(q(z | x) || N(0, I))  <=  log p(x)
    loss(x) = -(E_q log p(x | z) - beta KL)

    with every constant in its place, z = m + s * noise drawn afresh at every call, and the KL
    divergence in closed form. For beta other than 1 the loss is no bound; `elbo` always is one.

    A linear decoder with one noise scale, VAE(D, latent=k, hidden=(), shared_scale=True), is
    probabilistic PCA. Its decoder is the layer `decoder.net[0]`, z -> W z + b, its encoder the
    layer `encoder.net[0]`, x -> (m, r) with s = positive(r), and its noise has the scale
    positive(raw_scale); `heads.positive` is a shifted softplus.

    References:
        | Auto-encoding variational Bayes (Kingma and Welling, 2014)
        | https://arxiv.org/abs/1312.6114
        | Importance weighted autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
        | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        | Simple and effective VAE training with calibrated decoders (Rybkin et al., 2021)
        | https://arxiv.org/abs/2006.13202

    Args:
        event_shape: of one x.
        latent: L.
        head: what the decoder's outputs mean.
        hidden: widths of the hidden layers of both MLPs, () for linear ones. None, the default,
            takes convolutions for images (C, H, W) of at least 8x8 and (256, 256) for all else.
        beta: weight of the KL divergence in the loss.
        shared_scale: learn one scale for all numbers of x, in place of one for each from the
            decoder; the head must be `heads.Normal`.
        context_shape: of the context, or None. Encoder and decoder both see it.

    Example:
        >>> import torch
        >>> from rlgen.generative import VAE, fit, heads
        >>> x = (torch.rand(512, 16) < 0.2).float()
        >>> model = VAE(16, latent=2, head=heads.Bernoulli())
        >>> history = fit(model, x, steps=20)
        >>> model.elbo(x, samples=50).shape
        torch.Size([512])
        >>> model.encode(x).mean.shape
        torch.Size([512, 2])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int = 16,
        head: Head = heads.Normal(),  # noqa: B008
        hidden: Sequence[int] | None = None,
        beta: float = 1.0,
        shared_scale: bool = False,
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if latent < 1:
            raise ValueError(f"'latent' must be positive, got {latent}")
        if beta < 0:
            raise ValueError(f"'beta' must not be negative, got {beta}")
        if shared_scale and not isinstance(head, heads.Normal):
            raise ValueError(f"'shared_scale' needs the head Normal, got {type(head).__name__}")
        self.latent = latent
        self.head = head
        self.beta = beta
        self.support = head.support
        numbers = self.event_shape.numel()
        outputs = numbers if shared_scale else head.size(tuple(self.event_shape))
        self.encoder = encoder_net(
            self.event_shape,
            2 * latent,
            head=head,
            hidden=hidden,
            context_shape=self.context_shape,
        )
        self.decoder = decoder_net(
            latent, self.event_shape, outputs, hidden=hidden, context_shape=self.context_shape
        )
        self.raw_scale = nn.Parameter(torch.zeros(())) if shared_scale else None

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        mean, scale = self._posterior(x, context)
        z = mean + scale * torch.randn_like(mean)
        return self.beta * _kl(mean, scale) - self._decode(z, context).log_prob(x)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """A lower bound of log p(x | context) in expectation over the draws of z.

        samples = 1:  log p(x | z) - KL, with one z ~ q and the KL divergence in closed form
        samples = K:  log (1/K) sum over k of p(x | z_k) p(z_k) / q(z_k | x), closer for larger K

        Args:
            x: with shape (B, *event_shape).
            context: with shape (B, *context_shape), or None.
            samples: K.

        Returns:
            Nats with shape (B,).
        """
        x, context = self.check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        mean, scale = self._posterior(x, context)
        if samples == 1:
            z = mean + scale * torch.randn_like(mean)
            return self._decode(z, context).log_prob(x) - _kl(mean, scale)
        at_once = max(1, _DECODED // x.numel())
        parts = [
            self._log_weights(x, context, mean, scale, min(at_once, samples - done))
            for done in range(0, samples, at_once)
        ]
        return torch.cat(parts).logsumexp(0) - math.log(samples)

    def kl(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """KL(q(z | x) || N(0, I)) = sum of (m^2 + s^2 - 1) / 2 - log s, with shape (B,)."""
        x, context = self.check(x, context)
        return _kl(*self._posterior(x, context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """q(z | x), with event shape (L,)."""
        x, context = self.check(x, context)
        mean, scale = self._posterior(x, context)
        return D.Independent(D.Normal(mean, scale, validate_args=False), 1, validate_args=False)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z) for codes with shape (B, L)."""
        z = Real().check("z", z, torch.Size([self.latent]), self.dtype)
        return self._decode(z, self.check_context(z.shape[0], context))

    @property
    def prior(self) -> Distribution:
        """N(0, I), with event shape (L,)."""
        zeros = next(self.parameters()).new_zeros(self.latent)
        standard = D.Normal(zeros, torch.ones_like(zeros), validate_args=False)
        return D.Independent(standard, 1, validate_args=False)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        x: Tensor = self._decode(self.prior.sample(torch.Size([n])), context).sample()
        return x

    def _posterior(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(as_inputs(self.head, x, self.dtype), context).chunk(2, dim=1)
        return mean, positive(raw)

    def _decode(self, z: Tensor, context: Tensor | None) -> Distribution:
        outputs = self.decoder(z, context)
        if self.raw_scale is not None:
            outputs = torch.stack([outputs, self.raw_scale.expand_as(outputs)], dim=-1).flatten(1)
        return self.head(outputs, tuple(self.event_shape))

    def _log_weights(
        self, x: Tensor, context: Tensor | None, mean: Tensor, scale: Tensor, samples: int
    ) -> Tensor:
        """log p(x | z) p(z) / q(z | x) for fresh z ~ q, with shape (samples, B)."""
        noise = torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        z = mean + scale * noise
        prior_to_posterior = (0.5 * (noise**2 - z**2) + scale.log()).sum(-1)
        if context is not None:
            context = context.expand(samples, *context.shape).flatten(0, 1)
        repeated = x.expand(samples, *x.shape).flatten(0, 1)
        log_likelihood: Tensor = self._decode(z.flatten(0, 1), context).log_prob(repeated)
        return log_likelihood.reshape(samples, -1) + prior_to_posterior


def _kl(mean: Tensor, scale: Tensor) -> Tensor:
    return (0.5 * (mean**2 + scale**2 - 1.0) - scale.log()).sum(-1)

"""Autoencoders with discrete codes: x becomes a few vectors out of a learnt codebook.

Notation: K vectors e_1, ..., e_K of L numbers in the codebook; an encoder output z_j and a code
c_j = argmin over k of |z_j - e_k| at each position j. For images the positions are a small map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import as_inputs, input_width
from rlgen.generative.distributions import Point
from rlgen.generative.heads import Head
from rlgen.generative.latent.codebook import Codebook
from rlgen.generative.latent.nets import decoder_net, encoder_net
from rlgen.generative.model import GenerativeModel, Objective, Shape, as_shape
from rlgen.generative.nets import MapDecoder, MapEncoder, image_sizes, is_image
from rlgen.generative.support import Real, Symbols


class VQVAE(GenerativeModel):
    """An encoder, a codebook, and a decoder that sees only the code.

    loss(x) = -log p(x | e_c) + commitment * sum over positions of |z - sg(e_c)|^2

    where sg stops gradients. The decoder's gradient passes to the encoder's output as it is (the
    straight-through estimator). The codebook learns by moving averages of the encoder outputs that
    chose each code, after each step of a trainer; `loss` never changes it. It begins at outputs for
    the first minibatch, and codes that nothing chooses move to outputs that are badly quantised.

    ELBO(x) = log p(x | e_c) + sum over j of log P_j(c_j)  <=  log p(x) = log sum over codes

    holds exactly: it is one term of the sum. The prior P_j is the usage of each code at position j,
    a moving average over training, mixed with 1 % of the uniform distribution.

    References:
        | Neural discrete representation learning (van den Oord et al., 2017)
        | https://arxiv.org/abs/1711.00937

    Args:
        event_shape: of one x.
        codes: K.
        latent: L.
        positions: how many codes describe one x, or None: one for a vector, and for an image
            (C, H, W) of at least 8x8 a map of them, with sides of about 4.
        head: what the decoder's outputs mean.
        hidden: widths of the hidden layers of both MLPs, () for linear ones. None, the default,
            takes convolutions for images of at least 8x8 and (256, 256) for all else.
        commitment: weight of the term that keeps encoder outputs near their codes.
        decay: of the moving averages; 0 makes each update a step of k-means on its minibatch.

    Example:
        >>> import torch
        >>> from rlgen.generative import VQVAE, fit, heads
        >>> x = (torch.rand(512, 16) < 0.2).float()
        >>> model = VQVAE(16, codes=8, positions=2, head=heads.Bernoulli())
        >>> history = fit(model, x, steps=20)
        >>> model.codes(x).shape
        torch.Size([512, 2])
        >>> model.encode(x).mean.shape
        torch.Size([512, 2, 16])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        codes: int = 64,
        latent: int = 16,
        positions: int | None = None,
        head: Head = heads.Normal(),  # noqa: B008
        hidden: Sequence[int] | None = None,
        commitment: float = 0.25,
        decay: float = 0.99,
    ) -> None:
        super().__init__(event_shape)
        if latent < 1:
            raise ValueError(f"'latent' must be positive, got {latent}")
        if commitment < 0:
            raise ValueError(f"'commitment' must not be negative, got {commitment}")
        numbers, outputs = self.event_shape.numel(), head.size(tuple(self.event_shape))
        convolutional = hidden is None and is_image(self.event_shape) and outputs % numbers == 0
        self.head = head
        self.latent = latent
        self.commitment = commitment
        self.support = head.support
        self.encoder: nn.Module
        self.decoder: nn.Module
        if positions is None and convolutional:
            self.positions = torch.Size(image_sizes(self.event_shape)[-1])
            self.encoder = MapEncoder(self.event_shape, latent, input_width(head))
            self.decoder = MapDecoder(latent, self.event_shape, outputs // numbers)
        else:
            self.positions = as_shape("positions", 1 if positions is None else positions)
            size = self.positions.numel() * latent
            self.encoder = encoder_net(self.event_shape, size, head=head, hidden=hidden)
            self.decoder = decoder_net(size, self.event_shape, outputs, hidden=hidden)
        self.quantiser = Codebook(codes, latent, self.positions, decay=decay)
        self._observed: tuple[Tensor, Tensor] | None = None

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.check(x, context)
        return self._loss(x, self._outputs(x))[0]

    def objectives(self) -> tuple[Objective, ...]:
        """`loss`, and after each step an update of the codebook by what its minibatch showed."""
        (objective,) = super().objectives()
        return (objective._replace(loss=self._observed_loss, after_step=self._update_codebook),)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """log p(x | e_c) + log P(c) <= log p(x), with shape (B,): nothing in it is random.

        Args:
            x: with shape (B, *event_shape).
            context: None.
            samples: makes no difference.
        """
        x, _ = self.check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        z, codes = self._quantise(self._outputs(x))
        bound: Tensor = self._decode(z).log_prob(x) + self.code_prior.log_prob(codes)
        return bound

    def codes(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The codes of each x, integers with shape (B, *positions)."""
        x, _ = self.check(x, context)
        return self.quantiser.nearest(self._outputs(x))

    def embed(self, codes: Tensor) -> Tensor:
        """Codes with shape (B, *positions) -> what `decode` takes, (B, *positions, L)."""
        support = Symbols(len(self.codebook))
        return self.quantiser.embed(support.check("codes", codes, self.positions, self.dtype))

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest vectors of the codebook; their gradient goes to `z` as if they were `z`.

        Args:
            z: encoder outputs with shape (B, *positions, L).

        Returns:
            Vectors with the shape of `z`, and their codes with shape (B, *positions).
        """
        return self._quantise(self._check_vectors(z))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """All of the probability on the vectors of x's codes, with event shape (*positions, L)."""
        x, _ = self.check(x, context)
        return Point(self._quantise(self._outputs(x))[0])

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z) for vectors with shape (B, *positions, L)."""
        z = self._check_vectors(z)
        self.check_context(z.shape[0], context)
        return self._decode(z)

    @torch.no_grad()
    def perplexity(
        self, x: Tensor, context: Tensor | None = None, *, batch_size: int = 1024
    ) -> float:
        """exp of the entropy of the codes that all of `x` uses: between 1 and K.

        Args:
            x: a whole data set, with shape (N, *event_shape).
            context: None.
            batch_size: examples at a time.
        """
        x, _ = self.check(x, context)
        counts = torch.zeros(len(self.codebook), dtype=torch.float64)
        for part in x.split(batch_size):
            codes = self.quantiser.nearest(self._outputs(part))
            counts += codes.flatten().bincount(minlength=len(counts)).cpu()
        probs = counts / counts.sum()
        return float(torch.special.entr(probs).sum().exp())

    @property
    def codebook(self) -> Tensor:
        """e_1, ..., e_K, with shape (K, L)."""
        return self.quantiser.vectors

    def set_codebook(self, vectors: Tensor) -> None:
        """Begin at these vectors, with shape (K, L), instead of at outputs for the first data."""
        self.quantiser.set(vectors)

    @property
    def code_prior(self) -> Distribution:
        """P(c), independent over positions, with event shape positions."""
        table = D.Categorical(probs=self.quantiser.probs, validate_args=False)
        return D.Independent(table, len(self.positions), validate_args=False)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del context
        z = self.quantiser.embed(self.code_prior.sample(torch.Size([n])))
        x: Tensor = self._decode(z).sample()
        return x

    def _outputs(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.encoder(as_inputs(self.head, x, self.dtype))
        return outputs.reshape(-1, *self.positions, self.latent)

    def _quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.quantiser.nearest(z)
        return self.quantiser.embed(codes) + (z - z.detach()), codes

    def _check_vectors(self, z: Tensor) -> Tensor:
        shape = torch.Size([*self.positions, self.latent])
        checked: Tensor = Real().check("z", z, shape, self.dtype)
        return checked

    def _decode(self, z: Tensor) -> Distribution:
        return self.head(self.decoder(z), tuple(self.event_shape))

    def _loss(self, x: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        z, codes = self._quantise(outputs)
        commitment = (outputs - z.detach()).square().flatten(1).sum(1)
        return self.commitment * commitment - self._decode(z).log_prob(x), codes

    def _observed_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`loss`, which also keeps what `_update_codebook` needs while the model trains."""
        x, _ = self.check(x, context)
        outputs = self._outputs(x)
        loss, codes = self._loss(x, outputs)
        if self.training:
            self._observed = outputs.detach(), codes
        return loss

    def _update_codebook(self) -> None:
        if self._observed is not None:
            self.quantiser.update(*self._observed)
            self._observed = None

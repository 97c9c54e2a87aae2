"""Contrastive coding: which x belongs to this context, out of many?

Notation: N pairs (x_i, c_i) in a batch, drawn independently of each other; f(x) and g(c) are
vectors of F features whose squares sum to F.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.generative.distributions import Point
from rlgen.generative.model import GenerativeModel, Objective, Shape
from rlgen.generative.nets import ContextMLP, ImageEncoder, is_image


class CPC(GenerativeModel):
    """Contrastive predictive coding: features of x that tell what its context tells of it.

    s(x, c) = f(x) . g(c) / (F temperature)
    loss_i = -log( exp s(x_i, c_i) / sum over j of exp s(x_j, c_i) )

    This is InfoNCE. The best possible s is log p(x | c) / p(x), up to what depends on c alone, and

    log N - loss  <=  I(x; c)   in expectation, and never more than log N

    so large information needs large batches. A context may be another view of x, or what came
    before it. Pairs of one batch must be independent draws: where negatives are neighbours of the
    positive (the same sequence a moment later), the bound is of something else.

    Features do not collapse to a point: a constant f gives s the same value for all x, and the loss
    its worst value, log N. Features of fixed length on a small temperature spread out over the
    sphere, because they must be far from those of the other rows. `diagnose` shows it.

    Samples are values of x seen in training, drawn with weights exp s(x, c) out of a bank of the
    latest ones; before any were seen it holds noise.

    References:
        | Representation learning with contrastive predictive coding (van den Oord et al., 2018)
        | https://arxiv.org/abs/1807.03748
        | Understanding contrastive representation learning through alignment and uniformity on the
        | hypersphere (Wang and Isola, 2020), https://arxiv.org/abs/2005.10242

    Args:
        event_shape: of one x.
        context_shape: of one context.
        features: F.
        hidden: widths of the hidden layers of both networks; images of at least 8x8 pass through
            convolutions first.
        temperature: at the start; it is learnt.
        bank: how many of the latest x are kept for `sample`.

    Example:
        >>> import torch
        >>> from rlgen.generative import CPC, fit
        >>> x = torch.randn(1000, 2)
        >>> model = CPC(2, context_shape=2)
        >>> history = fit(model, x, x + 0.1 * torch.randn(1000, 2), steps=20)
        >>> model.encode(x).mean.shape
        torch.Size([1000, 16])
        >>> model.sample(5, x[0]).shape
        torch.Size([5, 2])
    """

    bank: Tensor
    seen: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        context_shape: Shape,
        features: int = 16,
        hidden: Sequence[int] = (64, 64),
        temperature: float = 0.1,
        bank: int = 1024,
    ) -> None:
        super().__init__(event_shape, context_shape)
        for name, number in (("features", features), ("bank", bank), ("temperature", temperature)):
            if number <= 0:
                raise ValueError(f"{name!r} must be positive, got {number}")
        assert self.context_shape is not None
        self.features = features
        self.encoder = _network(self.event_shape, features, hidden)
        self.context_encoder = _network(self.context_shape, features, hidden)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.register_buffer("bank", torch.randn(bank, *self.event_shape))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._observed: Tensor | None = None

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """-log of the probability that each context gives to its own x among those of the batch."""
        x, context = self.check(x, context)
        assert context is not None
        scores = self._scores(self._encode(x), self._encode_context(context))
        return -scores.log_softmax(1).diagonal()

    def objectives(self) -> tuple[Objective, ...]:
        """`loss`, and after each step its minibatch goes into the bank."""
        (objective,) = super().objectives()
        return (objective._replace(loss=self._observed_loss, after_step=self._fill_bank),)

    def information(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log N - loss: in expectation at most I(x; c) nats, and at most log N in any batch.

        Args:
            x: N independent draws, with shape (N, *event_shape).
            context: of each, with shape (N, *context_shape).

        Returns:
            One term for each pair, with shape (N,); their mean is the estimate.
        """
        return math.log(len(x)) - self.loss(x, context)

    def ratio(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """s(x, c) of each pair: learns log p(x | c) / p(x), up to what depends on c alone."""
        x, context = self.check(x, context)
        assert context is not None
        products = self._encode(x) * self._encode_context(context)
        return products.sum(1) / (self.features * self.temperature)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """f(x), as a distribution with all of its mass there; the context makes no difference.

        Args:
            x: with shape (B, *event_shape).
            context: None, or one for each x.
        """
        x = self.support.check("x", x, self.event_shape, self.dtype)
        if context is not None:
            self.check_context(len(x), context)
        return Point(self._encode(x))

    def encode_context(self, context: Tensor) -> Distribution:
        """g(c), which lies near f of those x that are likely given c."""
        checked = self.check_context(len(context), context)
        assert checked is not None
        return Point(self._encode_context(checked))

    @torch.no_grad()
    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """Whether the features of a batch are still spread out.

        Returns:
            "feature_std": the smallest standard deviation of a feature. Their squares sum to F for
                features spread evenly over the sphere, and to 0 for collapsed ones.
            "effective_rank": exp of the entropy of the normalised eigenvalues of the covariance of
                the features, between 1 and F. (That of their square roots, as in some papers, is
                larger.) Where c tells only a few numbers of x, a few directions are enough.
            "information": the mean of `information`, where there is a context.
            "temperature": as learnt.
        """
        features = self.encode(x, context).mean.double()
        spectrum = torch.linalg.eigvalsh(features.T.cov(correction=0)).clamp_min(0)
        share = spectrum / spectrum.sum().clamp_min(torch.finfo(spectrum.dtype).tiny)
        figures = {
            "feature_std": float(features.std(0, correction=0).min()),
            "effective_rank": float(torch.special.entr(share).sum().exp()),
            "temperature": float(self.temperature),
        }
        if context is not None:
            figures["information"] = float(self.information(x, context).mean())
        return figures

    def _encode(self, x: Tensor) -> Tensor:
        return _on_sphere(self.encoder(x[..., None]))

    def _encode_context(self, context: Tensor) -> Tensor:
        return _on_sphere(self.context_encoder(context[..., None]))

    def _scores(self, features: Tensor, context_features: Tensor) -> Tensor:
        """s(x_j, c_i) with shape (contexts, xs)."""
        products: Tensor = context_features @ features.mT
        return products / (self.features * self.temperature)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        assert context is not None
        scores = self._scores(self._encode(self.bank), self._encode_context(context))
        noise = torch.arange(len(self.bank), device=scores.device) >= self.seen
        scores = scores.masked_fill(noise & (self.seen > 0), -math.inf)
        index = torch.multinomial(scores.softmax(1), 1)[:, 0]
        return self.bank[index]

    def _observed_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`loss`, which also keeps what `_fill_bank` needs while the model trains."""
        if self.training:
            self._observed = x.detach()
        return self.loss(x, context)

    def _fill_bank(self) -> None:
        if self._observed is None:
            return
        latest = self._observed[-len(self.bank) :]
        places = self.seen + torch.arange(len(latest), device=latest.device)
        self.bank[places % len(self.bank)] = latest
        self.seen += len(latest)
        self._observed = None


def _network(shape: torch.Size, features: int, hidden: Sequence[int]) -> nn.Module:
    if is_image(shape):
        return ImageEncoder(shape, features, hidden=hidden)
    return ContextMLP(math.prod(shape), features, hidden=hidden)


def _on_sphere(vectors: Tensor) -> Tensor:
    """The same direction, with as squared length the number of features."""
    square = vectors.square().mean(1, keepdim=True)
    return vectors * (square + torch.finfo(vectors.dtype).eps).rsqrt()

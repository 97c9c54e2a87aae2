"""Generators that learn from a two-sample statistic in place of a critic."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlgen.generative.adversarial.base import generator_net
from rlgen.generative.metrics.two_sample import rbf, squared_distances
from rlgen.generative.model import GenerativeModel, Objective, Shape

# how much of the average an update keeps: it spans some fifty of them
_KEPT = 0.98
# examples are compared with each other in blocks of at most so many
_BLOCK = 1024


class MMDGenerator(GenerativeModel):
    """A generator x = G(z), z ~ N(0, I), that minimises the squared MMD of its samples to data.

    MMD^2 = mean over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)

    with data x, fresh samples y and a sum k of Gaussian kernels, from wide to narrow. It is
    unbiased: 0 on average at the optimum, where a batch may give less. There is no second player,
    so nothing rotates or collapses, but a batch must be large enough to tell two distributions
    apart, and still moves the weights about: samples come from a running average of them. With a
    context, the pairs (x, c) and (y, c) are compared, each c with a sample of its own, by the
    product of a kernel of x and one of c.

    References:
        | Generative moment matching networks (Li, Swersky and Zemel, 2015)
        | https://arxiv.org/abs/1502.02761
        | Training generative neural networks via maximum mean discrepancy optimization
        | (Dziugaite, Roy and Ghahramani, 2015), https://arxiv.org/abs/1505.03906

    Args:
        event_shape: of one x.
        latent: numbers in one z.
        hidden: widths of the generator's hidden layers; for images of at least 8x8, of those
            before the convolutions.
        bandwidths: of the kernels, in units of the typical distance in a batch of data and samples:
            wide while the samples are far off, and narrow as they come near.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import MMDGenerator, fit
        >>> model = MMDGenerator(2)
        >>> history = fit(model, torch.randn(512, 2), steps=20)
        >>> model.sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        latent: int = 8,
        hidden: Sequence[int] = (64, 64),
        bandwidths: Sequence[float] = (0.2, 0.5, 1.0, 2.0),
        context_shape: Shape | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError(f"'bandwidths' must be positive, got {tuple(bandwidths)}")
        self.latent = latent
        self.bandwidths = tuple(bandwidths)
        self.generator = generator_net(
            latent, event_shape, context_shape=context_shape, hidden=hidden
        )
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros(()))

    def objectives(self) -> tuple[Objective, ...]:
        """`loss`, after each update of which the average follows."""
        (only,) = super().objectives()
        return (only._replace(after_step=self._average),)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Each example's part of the squared MMD, with shape (B,); it is no number of nats.

        An example is compared with the others of its block of the batch, in which there are at
        most 1024.
        """
        x, context = self.check(x, context)
        n = x.shape[0]
        samples = self._generate(self.generator, n, context).reshape(n, -1)
        parts = -(-n // _BLOCK)
        given = [None] * parts if context is None else context.reshape(n, -1).tensor_split(parts)
        blocks = zip(
            x.reshape(n, -1).tensor_split(parts), samples.tensor_split(parts), given, strict=True
        )
        return torch.cat([self._mmd2(*block) for block in blocks])

    def _mmd2(self, x: Tensor, y: Tensor, context: Tensor | None) -> Tensor:
        """The rows of the statistic of n data and samples (n, D), whose mean is unbiased."""
        squared = [squared_distances(*pair) for pair in ((x, x), (y, y), (x, y))]
        widths = self._widths(squared)
        xx, yy, xy = (rbf(each, widths) for each in squared)
        pairs = xx + yy - xy - xy.mT
        if context is not None:
            between = squared_distances(context, context)
            pairs = pairs * rbf(between, self._widths([between]))
        others = max(1, len(x) - 1)
        return (pairs.sum(1) - pairs.diagonal()) / others

    def _widths(self, squared: list[Tensor]) -> Tensor:
        """`bandwidths` times the root of the mean squared distance; no gradient flows through."""
        mean = torch.stack([each.detach().mean() for each in squared]).mean()
        scale = torch.where(mean > 0, mean, torch.ones_like(mean)).sqrt()
        return scale * torch.tensor(self.bandwidths, dtype=scale.dtype, device=scale.device)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self._generate(self.averaged, n, context)

    def _generate(self, network: nn.Module, n: int, context: Tensor | None) -> Tensor:
        parameter = next(network.parameters())
        z = torch.randn(n, self.latent, dtype=parameter.dtype, device=parameter.device)
        out: Tensor = network(z, context)
        return out.reshape(n, *self.event_shape)

    @torch.no_grad()
    def _average(self) -> None:
        """Over the last tenth of the updates, or the last fifty where those are fewer."""
        self.updates += 1.0
        new = (9.0 / (10.0 + self.updates)).clamp_min(1.0 - _KEPT)
        pairs = zip(self.averaged.parameters(), self.generator.parameters(), strict=True)
        for average, latest in pairs:
            average.lerp_(latest, new)

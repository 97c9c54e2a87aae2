"""InfoGAN: a game whose generator must let its code be read off its samples."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution, constraints
from torch.nn import functional as F
from torch.types import _size

from rlgen.generative.adversarial.base import Adversarial, generator_net
from rlgen.generative.adversarial.critic import Critic
from rlgen.generative.adversarial.games import Game, NonSaturating
from rlgen.generative.heads import Normal
from rlgen.generative.model import Objective, Shape, evaluating
from rlgen.generative.nets import ContextMLP, ImageEncoder, is_image
from rlgen.generative.support import Real
from rlgen.seeding import drawing_from


class CodePosterior(Distribution):
    """q(c | x): one of K categories and C numbers, independent of each other given x.

    A code is a one-hot vector of length K followed by C numbers, in one tensor (B, K + C).

    Args:
        logits: of the categories, with shape (B, K); K may be 0.
        numbers: the Gaussians of the numbers, with batch shape (B, C), or None.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, numbers: D.Normal | None = None) -> None:
        self.logits = logits
        self.numbers = numbers
        size = logits.shape[-1] + (0 if numbers is None else numbers.batch_shape[-1])
        super().__init__(logits.shape[:-1], torch.Size([size]), validate_args=False)

    @property
    def probs(self) -> Tensor:
        """Of the categories, with shape (B, K)."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The probabilities of the categories and the means of the numbers, (B, K + C)."""
        if self.numbers is None:
            return self.probs
        return torch.cat([self.probs, self.numbers.mean], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(category) + log q(numbers), with shape (B,)."""
        category, numbers = value.tensor_split([self.logits.shape[-1]], dim=-1)
        log_prob = (category * self.logits.log_softmax(-1)).sum(-1)
        if self.numbers is None:
            return log_prob
        of_numbers: Tensor = self.numbers.log_prob(numbers)
        return log_prob + of_numbers.sum(-1)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        count = self.logits.shape[-1]
        parts = []
        with torch.no_grad():
            if count:
                index = D.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
                parts.append(F.one_hot(index, count).to(self.logits))
            if self.numbers is not None:
                parts.append(self.numbers.sample(sample_shape))
            return torch.cat(parts, -1)


class InfoGAN(Adversarial):
    """A GAN fed with a code c and noise z, and a network q(c | x) that reads the code off x.

    I(c; x) >= E log q(c | x) + H(c),  with c ~ p(c), x = G(c, z)

    Generator and q together minimise the generator's part of the game minus `weight` times this
    bound, so the code comes to name what varies most: with four categories, four clusters. c is a
    category, drawn uniformly from K, and C numbers, uniform on [-1, 1]; H(c) = ln K + C ln 2, in
    nats. q is a network of its own and shares nothing with the critic; its numbers are Gaussian
    with a learnt scale. Codes and noise come in one tensor: c one-hot, its numbers, then z.

    References:
        | InfoGAN: interpretable representation learning by information maximizing generative
        | adversarial nets (Chen et al., 2016), https://arxiv.org/abs/1606.03657

    Args:
        event_shape: of one x.
        categories: K; 0 for none.
        continuous: C.
        latent: numbers of noise, beside the code.
        weight: of the bound; with 0 it is a GAN whose q learns nothing.
        hidden: widths of the hidden layers of all three networks; for images of at least 8x8, of
            those next to their convolutions.
        game: what the players minimise.
        context_shape: of the context, or None. All three networks see it.

    Example:
        >>> import torch
        >>> from rlgen.generative import InfoGAN, fit
        >>> model = InfoGAN(2, categories=4)
        >>> history = fit(model, torch.randn(512, 2), steps=20)
        >>> x, codes = model.sample_with_codes(5)
        >>> x.shape, codes.shape
        (torch.Size([5, 2]), torch.Size([5, 4]))
        >>> model.encode(x).log_prob(codes).shape
        torch.Size([5])
        >>> bool(model.information(100).mean() <= torch.tensor(4.0).log())
        True
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        categories: int = 4,
        continuous: int = 0,
        latent: int = 8,
        weight: float = 1.0,
        hidden: Sequence[int] = (64, 64),
        game: Game = NonSaturating(),  # noqa: B008
        context_shape: Shape | None = None,
    ) -> None:
        if categories < 0 or categories == 1:
            raise ValueError(f"'categories' must be at least 2, or 0 for none, got {categories}")
        if continuous < 0 or categories + continuous == 0:
            raise ValueError(
                f"'continuous' must not be negative, nor 0 beside no categories, got {continuous}"
            )
        if latent < 0:
            raise ValueError(f"'latent' must not be negative, got {latent}")
        if weight < 0:
            raise ValueError(f"'weight' must not be negative, got {weight}")
        inputs = categories + continuous + latent
        super().__init__(
            event_shape,
            latent=inputs,
            game=game,
            generator=generator_net(
                inputs, event_shape, context_shape=context_shape, hidden=hidden
            ),
            critic=Critic(event_shape, context_shape=context_shape, hidden=hidden),
            context_shape=context_shape,
        )
        self.categories = categories
        self.continuous = continuous
        self.weight = weight
        outputs = categories + 2 * continuous
        self.recogniser: nn.Module
        if is_image(self.event_shape):
            self.recogniser = ImageEncoder(
                self.event_shape, outputs, 1, self.context_shape, hidden=hidden
            )
        else:
            numbers = self.event_shape.numel()
            self.recogniser = ContextMLP(numbers, outputs, self.context_shape, hidden)

    def objectives(self) -> tuple[Objective, ...]:
        """The critic's, then that of the generator and q."""
        together = (*self.generator.parameters(), *self.recogniser.parameters())
        return (
            Objective("critic", self.critic_loss, tuple(self.critic.parameters())),
            Objective("generator", self.generator_loss, together),
        )

    def generator_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The game's minus `weight` times the bound, for one fresh sample for each x, (B,)."""
        x, context = self.check(x, context)
        z = self.noise(x.shape[0])
        fake = self.generate(z, context)
        bound = self._bound(fake, self._codes_of(z), context)
        return self.game.generator_loss(self.critic(fake, context)) - self.weight * bound

    def encode(self, x: Tensor, context: Tensor | None = None) -> CodePosterior:
        """q(c | x), whose mean has the probabilities of the categories, then the numbers."""
        return self._posterior(*self.check(x, context))

    def posterior(self, x: Tensor, context: Tensor | None = None) -> CodePosterior:
        """The same as `encode`, by its name in the paper."""
        return self.encode(x, context)

    @torch.no_grad()
    def information(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """log q(c | x) + H(c) of `n` fresh samples: on average a lower bound of I(c; x).

        Args:
            n: how many.
            context: as in `sample`.
            generator: as in `sample`.

        Returns:
            Nats with shape (n,), which never exceed ln K where the code is one category.
        """
        context = self.check_sampling(n, context, generator)
        with evaluating(self), drawing_from(generator):
            z = self.noise(n)
            return self._bound(self.generate(z, context), self._codes_of(z), context)

    @torch.no_grad()
    def sample_with_codes(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        codes: Tensor | None = None,
        generator: int | torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `sample`, with the codes (n, K + C) of the samples.

        Args:
            n: how many.
            context: as in `sample`.
            codes: given ones, with shape (n, K + C), or one for all with shape (K + C,).
            generator: as in `sample`.
        """
        context = self.check_sampling(n, context, generator)
        size = torch.Size([self.categories + self.continuous])
        if codes is not None:
            codes = codes.expand(n, *size) if codes.shape == size else codes
            codes = Real().check("codes", codes, size, self.dtype)
            if len(codes) != n:
                raise ValueError(f"'codes' must hold {n} codes, got {len(codes)}")
        with evaluating(self), drawing_from(generator):
            z = self.noise(n)
            if codes is not None:
                z = torch.cat([codes, z[:, size[0] :]], dim=1)
            return self.generate(z, context), self._codes_of(z)

    def generate(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """G(c, z), differentiable, with shape (B, *event_shape).

        Args:
            z: codes and noise, with shape (B, K + C + latent).
            context: with shape (B, *context_shape), or None.
        """
        z = Real().check("z", z, torch.Size([self.latent]), self.dtype)
        size = self.categories + self.continuous
        # a code as small as one of many numbers of noise ends up naming halves of two clusters
        louder = math.sqrt(max(1.0, 0.5 * (self.latent - size)))
        return super().generate(torch.cat([louder * z[:, :size], z[:, size:]], dim=1), context)

    def noise(self, n: int) -> Tensor:
        """Codes and noise with shape (n, K + C + latent): c one-hot, its numbers, then z."""
        like = next(self.critic.parameters())
        rest = self.latent - self.categories - self.continuous
        parts = [
            2.0 * torch.rand(n, self.continuous, dtype=like.dtype, device=like.device) - 1.0,
            torch.randn(n, rest, dtype=like.dtype, device=like.device),
        ]
        if self.categories:
            number = torch.randint(self.categories, (n, 1), device=like.device)
            every = torch.arange(self.categories, device=like.device)
            parts.insert(0, (number == every).to(like.dtype))
        return torch.cat(parts, dim=1)

    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """As every game's, with "information", the bound in nats."""
        n = len(x)
        told = super().diagnose(x, context)
        return told | {"information": float(self.information(n, context).mean())}

    def _codes_of(self, z: Tensor) -> Tensor:
        return z[:, : self.categories + self.continuous]

    def _bound(self, x: Tensor, codes: Tensor, context: Tensor | None) -> Tensor:
        entropy = self.continuous * math.log(2.0) + math.log(max(1, self.categories))
        return self._posterior(x, context).log_prob(codes) + entropy

    def _posterior(self, x: Tensor, context: Tensor | None) -> CodePosterior:
        outputs = self.recogniser(x.unsqueeze(-1), context)
        logits, numbers = outputs.tensor_split([self.categories], dim=1)
        if not self.continuous:
            return CodePosterior(logits)
        normal = Normal().elements(numbers.unflatten(1, (self.continuous, 2)))
        assert isinstance(normal, D.Normal)
        return CodePosterior(logits, normal)

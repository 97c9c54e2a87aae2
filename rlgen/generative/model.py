"""What a generative model is. Read this first.

A model is a distribution over x, perhaps given a context, that learns from samples of it. Every
family gives two methods: `loss`, in nats per example, and `sample`. What else it can do shows in
the capabilities it has, which are small protocols: a component that needs a density asks for
`Density` and takes any model that has `log_prob`.

Notation, here and in all families:
    B              the batch: the leading dimension of every tensor
    event_shape    the shape of one x
    context_shape  the shape of one context, or None for an unconditional model
    nats           natural logarithms everywhere; `metrics.bits_per_dim` converts
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.checkpoint import Configurable
from rlgen.generative.support import Real, Support
from rlgen.seeding import drawing_from

Shape = int | Sequence[int]
Batch = Tensor | tuple[Tensor, ...]
Loss = Callable[[Tensor, Tensor | None], Tensor]


class Objective(NamedTuple):
    """Who minimises what. Most models have one objective; a game has one for each player.

    Attributes:
        name: how metrics and messages call it.
        loss: (x, context) -> nats per example, with shape (B,).
        parameters: what this objective, and no other, changes.
        repeats: updates per training step, each on a minibatch of its own.
        optimizer: makes the optimiser from the parameters; None takes the trainer's.
        after_step: runs after each update, for what gradients cannot do (clipping, averages).
        comparable: whether a lower loss is a better model. One that is measured against the
            model's own samples only has the right gradient.
    """

    name: str
    loss: Loss
    parameters: tuple[nn.Parameter, ...]
    repeats: int = 1
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    after_step: Callable[[], None] | None = None
    comparable: bool = True


class GenerativeModel(Configurable, nn.Module, ABC):
    """A distribution over x, perhaps given a context, that learns from samples.

    Args:
        event_shape: the shape of one x; an int means a vector, () a scalar.
        context_shape: the shape of one context, or None.
    """

    support: Support = Real()

    def __init__(self, event_shape: Shape, context_shape: Shape | None = None) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.context_shape = (
            None if context_shape is None else as_shape("context_shape", context_shape)
        )

    @abstractmethod
    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What training minimises, in nats per example and never reduced, with shape (B,)."""

    @abstractmethod
    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        """`n` samples; `context` is verified and has shape (n, *context_shape) or is None."""

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """Draw from the model, in evaluation mode and without gradients.

        Args:
            n: how many.
            context: one for each sample, with shape (n, *context_shape), or one for all, with
                shape context_shape.
            generator: a seed or a `torch.Generator`, to draw the same samples again.

        Returns:
            Samples with shape (n, *event_shape).
        """
        context = self.check_sampling(n, context, generator)
        with evaluating(self), drawing_from(generator):
            return self._sample(n, context)

    def objectives(self) -> tuple[Objective, ...]:
        """By default one: `loss`, over all parameters that want a gradient."""
        wanted = tuple(p for p in self.parameters() if p.requires_grad)
        return (Objective("loss", self.loss, wanted),)

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that the model computes in."""
        for tensor in _state_of(self):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()

    def check(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The first line of every public method: verified data, in the form to compute with.

        Raises:
            ValueError: wrong shape, dtype, values, or context. The message says which.
        """
        x = self.support.check("x", x, self.event_shape, self.dtype)
        return x, self.check_context(x.shape[0], context)

    def check_context(self, batch: int, context: Tensor | None) -> Tensor | None:
        if self.context_shape is None:
            if context is not None:
                raise ValueError(f"this {type(self).__name__} takes no context, but got one")
            return None
        if context is None:
            wanted = tuple(self.context_shape)
            raise ValueError(f"this {type(self).__name__} needs a context of shape {wanted}")
        context = Real().check("context", context, self.context_shape, self.dtype)
        if context.shape[0] != batch:
            raise ValueError(f"'context' must hold {batch} examples, got {context.shape[0]}")
        return context

    def check_sampling(
        self,
        n: int,
        context: Tensor | None,
        generator: int | torch.Generator | None = None,
    ) -> Tensor | None:
        """The context of `n` samples: given for each, or once for all."""
        if n < 1:
            raise ValueError(f"'n' must be positive, got {n}")
        device = next((t.device for t in _state_of(self)), torch.device("cpu"))
        if isinstance(generator, torch.Generator) and generator.device.type != device.type:
            raise ValueError(
                f"'generator' is on {generator.device}, and this {type(self).__name__} on {device}"
            )
        if isinstance(context, Tensor) and context.shape == self.context_shape:
            context = context.expand(n, *context.shape)
        return self.check_context(n, context)


class DensityModel(GenerativeModel):
    """A model with an exact, normalised density: it learns by maximum likelihood."""

    @abstractmethod
    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The exact log density (or log mass) of each example in nats, with shape (B,)."""

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(x, context)

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        generator: int | torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `sample`, with the log density of each sample, which sampling often gives for free."""
        context = self.check_sampling(n, context, generator)
        with evaluating(self), drawing_from(generator):
            return self._sample_and_log_prob(n, context)

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self._sample(n, context)
        return x, self.log_prob(x, context)


@runtime_checkable
class Density(Protocol):
    """An exact, normalised log density in nats."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Bound(Protocol):
    """A lower bound of the log density, in expectation over its own noise."""

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor: ...


@runtime_checkable
class Energy(Protocol):
    """Minus the log density, up to a constant."""

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Encoder(Protocol):
    """A distribution over codes of x; its `.mean` is the representation."""

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution: ...


@runtime_checkable
class Decoder(Protocol):
    """A distribution over x given a code."""

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution: ...


@runtime_checkable
class Score(Protocol):
    """The gradient of the log density of noised data."""

    def score(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class Diagnosed(Protocol):
    """A model whose losses do not say how its training goes, such as a game of two players."""

    def diagnose(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """Figures that do, on a batch of data; `fit` records them as it goes."""


def as_shape(name: str, shape: Shape) -> torch.Size:
    """An int is a vector's length; every dimension must be positive."""
    size = torch.Size([shape] if isinstance(shape, int) else shape)
    if any(dim < 1 for dim in size):
        raise ValueError(f"{name!r} must be positive, got {tuple(size)}")
    return size


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the block every part of `module` is in evaluation mode; then each as it was."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _state_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()

"""V: what is seen becomes a small latent, tokens or numbers, and a latent what was seen."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium
import torch
from torch import Tensor, nn

from rlgen.agents.observations import Features
from rlgen.agents.transitions import flat_space
from rlgen.checkpoint import Configurable
from rlgen.generative import (
    VAE,
    VQVAE,
    Decoder,
    Encoder,
    GenerativeModel,
    History,
    cosine,
    fit,
    heads,
)
from rlgen.generative.fitting import Callback
from rlgen.generative.model import evaluating
from rlgen.generative.support import check_batch

_AT_ONCE = 4096  # observations that pass the networks together
_CONSTANT = 1e-10  # a number with less variance than this of its mean square never changes


@runtime_checkable
class Tokens(Protocol):
    """A model whose latents are symbols out of a codebook."""

    @property
    def codebook(self) -> Tensor: ...
    def codes(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...
    def embed(self, codes: Tensor) -> Tensor: ...


class Vision(Configurable, nn.Module):
    """Observations <-> latents, by a model of the core that has `encode` and `decode`.

    The model sees each number of an observation standardised, and those that never change as 0.
    That is not the plain likelihood of the pixels, and on grids it must not be: the place of one
    small figure costs a few nats to encode and gains hardly more, so the exact bound leaves it out.
    Where the model has a codebook the latent is its codes, and else what `encode` gives, with draws
    of unit variance.

    Args:
        event_shape: of one observation.
        model: over `event_shape` floats.
        dtype: of observations, by name.

    Example:
        >>> from rlgen.agents.world_model import Vision
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, observation="image", seed=0)
        >>> vision = Vision.of(world.observation_space, latent="tokens", symbols=32)
        >>> history = vision.fit(world.reset(), steps=10)
        >>> vision.encode(world.reset()).shape  # one of 32 symbols for each
        torch.Size([64, 1])
    """

    mean: Tensor
    deviation: Tensor
    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(
        self, event_shape: Sequence[int], *, model: GenerativeModel, dtype: str = "float32"
    ) -> None:
        super().__init__()
        shape = torch.Size(event_shape)
        if not (isinstance(model, Encoder) and isinstance(model, Decoder)):
            raise TypeError(
                f"Vision needs encode and decode; {type(model).__name__} has not both. "
                "Families with both: VAE, VQVAE"
            )
        if model.event_shape != shape:
            raise ValueError(f"'model' must be over {tuple(shape)}, got {tuple(model.event_shape)}")
        self.event_shape, self.model = shape, model
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"'dtype' must be the name of one of torch's, got {dtype!r}")
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.bytes = Features(shape, self.dtype).requires_grad_(False)
        self.bytes.convolutions = None  # for its scale of bytes alone
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))
        with torch.no_grad(), evaluating(model):
            self._code_shape = self._code(torch.zeros(1, *shape))[0].shape[1:]
        self.latent_shape = torch.Size([self._code_shape.numel()])
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape))
        self.register_buffer("latent_deviation", torch.ones(self.latent_shape))

    @classmethod
    def of(
        cls,
        space: gymnasium.Space[Any],
        *,
        latent: Literal["tokens", "numbers"] = "tokens",
        symbols: int = 256,
        positions: int = 1,
        size: int = 16,
        hidden: Sequence[int] = (256, 256),
    ) -> "Vision":
        """The vision for a world's observations.

        Args:
            space: of observations.
            latent: "tokens" of a VQ-VAE, or the "numbers" of a VAE with beta 0.1.
            symbols: in the codebook.
            positions: tokens in one latent.
            size: of one vector of the codebook, or of the VAE's latent.
            hidden: widths of the layers of encoder and decoder.
        """
        box = flat_space(space)
        shape, head = tuple(box.shape), heads.FixedNormal()
        model: GenerativeModel
        if latent == "tokens":
            model = VQVAE(
                shape, codes=symbols, latent=size, positions=positions, head=head, hidden=hidden
            )
        elif latent == "numbers":
            model = VAE(shape, latent=size, head=head, hidden=hidden, beta=0.1)
        else:
            raise ValueError(f"'latent' must be tokens or numbers, got {latent!r}")
        return cls(shape, model=model, dtype=str(box.dtype))

    @property
    def symbols(self) -> int | None:
        """How many symbols there are, or None where latents are numbers."""
        return len(self.model.codebook) if isinstance(self.model, Tokens) else None

    @property
    def features_size(self) -> int:
        """How many numbers `features` gives."""
        size = self.latent_shape.numel()
        return size * self.model.codebook.shape[1] if isinstance(self.model, Tokens) else size

    def fit(
        self,
        obs: Tensor,
        *,
        steps: int = 1500,
        batch_size: int = 256,
        lr: float = 1e-3,
        seed: int = 0,
        callback: Callback | None = None,
        progress: bool | None = None,
    ) -> History:
        """Measure the observations and learn from them, ends of episodes included.

        Args:
            obs: with shape (N, *event_shape).
            steps: gradient steps.
            batch_size: observations for each.
            lr: of the first step; it falls to nearly nothing.
            seed: of order and noise.
            callback: called as callback(step, losses); a true result stops.
            progress: show a live line; None where there is a terminal.
        """
        self.measure(obs)
        history = fit(
            self.model,
            self.standard(obs),
            steps=steps,
            batch_size=min(batch_size, len(obs)),
            lr=lr,
            seed=seed,
            schedule=cosine,
            callback=callback,
            progress=progress,
        )
        self._measure_latents(obs)
        return history

    @torch.no_grad()
    def measure(self, obs: Tensor) -> None:
        """Take mean and deviation of each number from these observations."""
        check_batch("obs", obs, self.event_shape)
        x = self.bytes.scaled(obs)
        variance, mean = torch.var_mean(x, 0, unbiased=False)
        changes = variance > _CONSTANT * (mean.square() + variance)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(changes, variance, 0.0).sqrt())

    def standard(self, obs: Tensor) -> Tensor:
        """Observations as the model sees them."""
        check_batch("obs", obs, self.event_shape)
        standard = (self.bytes.scaled(obs) - self.mean) / self.deviation
        return torch.where(self.deviation > 0, standard, 0.0)

    def encode(self, obs: Tensor) -> Tensor:
        """The latents: symbols (B, positions) as integers, or the means of `encode`, (B, n)."""
        return self.posterior(obs)[0]

    @torch.no_grad()
    def posterior(self, obs: Tensor) -> tuple[Tensor, Tensor | None]:
        """The latents, and how far the encoder's noise moves them; None for symbols."""
        parts = [self._posterior(part) for part in obs.split(_AT_ONCE)]
        means = torch.cat([mean for mean, _ in parts])
        noise = [deviation for _, deviation in parts if deviation is not None]
        return means, torch.cat(noise) if noise else None

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """The observations that latents stand for, in the dtype that the world has."""
        check_batch("latent", latent, self.latent_shape)
        return torch.cat([self._decode(part) for part in latent.split(_AT_ONCE)])

    def features(self, latent: Tensor) -> Tensor:
        """Latents as numbers of about unit size for M and C: symbols become their vectors."""
        if not isinstance(self.model, Tokens):
            return latent
        vectors = self.model.codebook
        scaled = (vectors - vectors.mean(0)) / vectors.std(0).clamp_min(1e-6)
        return nn.functional.embedding(latent, scaled).flatten(1)

    def _posterior(self, obs: Tensor) -> tuple[Tensor, Tensor | None]:
        with evaluating(self.model):
            code, noise = self._code(self.standard(obs))
        if noise is None:
            return code.flatten(1), None
        mean = (code.flatten(1) - self.latent_mean) / self.latent_deviation
        return mean, noise.flatten(1) / self.latent_deviation

    def _code(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model makes of standardised observations, in its own shape and units."""
        if isinstance(self.model, Tokens):
            return self.model.codes(x), None
        assert isinstance(self.model, Encoder)
        found = self.model.encode(x)
        return found.mean, found.stddev

    def _decode(self, latent: Tensor) -> Tensor:
        assert isinstance(self.model, Decoder)
        with evaluating(self.model):
            if isinstance(self.model, Tokens):
                code = self.model.embed(latent.unflatten(1, self._code_shape))
            else:
                code = latent * self.latent_deviation + self.latent_mean
                code = code.unflatten(1, self._code_shape)
            x = self.model.decode(code).mean * self.deviation + self.mean
        if self.dtype.is_floating_point:
            return x.to(self.dtype)
        limits = torch.iinfo(self.dtype)
        return (x / self.bytes.scale).round().clamp(limits.min, limits.max).to(self.dtype)

    @torch.no_grad()
    def _measure_latents(self, obs: Tensor) -> None:
        if isinstance(self.model, Tokens):
            return
        self.latent_mean.zero_()
        self.latent_deviation.fill_(1.0)
        means, noise = self.posterior(obs)
        assert noise is not None
        self.latent_mean.copy_(means.mean(0))
        # of draws: the mean of a number that the encoder leaves unused hardly moves
        variance = means.var(0, correction=0) + noise.square().mean(0)
        self.latent_deviation.copy_(variance.sqrt().clamp_min(1e-3))

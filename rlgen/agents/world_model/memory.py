"""M: what comes next, given all that was seen and done.

Notation: z_t a latent of V, a_t what was done there; h_t summarises z_<=t and a_<=t. Then the next
latent, the reward and the end of the episode follow one another, by the chain rule and so exactly:

    p(z', r, end | h) = p(z' | h) p(r | h, z') p(end | h, z')
"""

import copy
import dataclasses
import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from rlgen.agents.world_model.recurrence import GRU, Recurrence
from rlgen.generative import MADE, DensityModel, GenerativeModel, MixtureDensityNetwork, heads
from rlgen.generative.heads import Head
from rlgen.generative.model import evaluating
from rlgen.generative.nets import MLP
from rlgen.generative.support import Symbols, unchecked
from rlgen.seeding import uniform


class Windows(NamedTuple):
    """Pieces of episodes, as `fit` takes them: `fit(memory, windows.pair())`.

    The pair is (z', r, end), which is told, and (z, a, weight, fair), which it is told from.

    Attributes:
        z: latents from the first one to the one after the last step, (B, T + 1, *latent).
        action: with shape (B, T).
        reward: with shape (B, T).
        terminated: with shape (B, T).
        weight: 1 for a step and 0 for what only fills up the row, (B, T).
        fair: weights of the latents, which undo that some steps are met more often, (B, T). A
            batch is divided by its own weights, so in small ones they do so nearly.
    """

    z: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    weight: Tensor
    fair: Tensor

    def pair(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(x, context): what is to be told, and from what."""
        told = (self.z[:, 1:], self.reward, self.terminated)
        return told, (self.z[:, :-1], self.action, self.weight, self.fair)


class Foreseen(NamedTuple):
    """What a step led to in the model: latents (B, n), rewards (B,) and ends (B,)."""

    z: Tensor
    reward: Tensor
    terminated: Tensor


class Memory(GenerativeModel):
    """A density of sequences: a recurrence, and any conditional density of the core on top.

    The density is over the next latent given the recurrence's summary; symbols or numbers, as its
    support says. A temperature acts on its head, so the density must have one for any other
    than 1: MADE, NADE and MixtureDensityNetwork do.

    References:
        David Ha and Juergen Schmidhuber. World Models, 2018. https://arxiv.org/abs/1803.10122

    Args:
        density: of one latent, with a context of the recurrence's width.
        actions: how many there are.
        recurrence: `GRU` or `Attention`; None takes a GRU as wide as the density's context.
        reward_scale: the least deviation that rewards are taken to have; how much more is learnt.
            Dreamed rewards whose mean is smaller than it are 0, so it must lie well below the least
            reward, or cost, that counts.
        hidden: width of the layer before reward and end.
        noise: deviation of what is added to the summary, whose numbers lie between -1 and 1 in a
            GRU, while M learns. It hides small traces of the past that tell nothing, so that M
            does not learn by heart what went with them.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Memory
        >>> memory = Memory.of(1, symbols=8, actions=4, width=16)
        >>> state = memory.initial_state(5)
        >>> state = memory.step(torch.zeros(5, 1, dtype=torch.long), torch.zeros(5).long(), state)
        >>> memory.foresee(state).z.shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        density: DensityModel,
        *,
        actions: int,
        recurrence: Recurrence | None = None,
        reward_scale: float = 0.05,
        hidden: int = 64,
        noise: float = 0.2,
    ) -> None:
        super().__init__(density.event_shape, density.event_shape)  # the next latent, and the last
        if len(self.event_shape) != 1 or density.context_shape is None:
            raise ValueError(
                f"'density' must be of a vector given a context, got {type(density).__name__} of "
                f"{tuple(self.event_shape)} given {density.context_shape}"
            )
        width = density.context_shape.numel()
        self.recurrence = GRU(width) if recurrence is None else recurrence
        if self.recurrence.width != width:
            raise ValueError(
                f"'recurrence' must be {width} wide, as the density's context is, "
                f"got {self.recurrence.width}"
            )
        if actions < 1 or reward_scale <= 0:
            raise ValueError(
                f"'actions' and 'reward_scale' must be positive, got {actions} and {reward_scale}"
            )
        if not 0.0 <= noise < math.inf:
            raise ValueError(f"'noise' must be finite and not negative, got {noise}")
        self.density, self.actions, self.noise = density, actions, noise
        self.support = density.support
        self.reward_head = heads.Normal(reward_scale)
        # what follows numbers is no linear matter, and a recurrence alone is a poor table
        self.embedding: nn.Module = (
            nn.Linear(self._latent_size, width)
            if isinstance(self.support, Symbols)
            else MLP(self._latent_size, width, (2 * width,))
        )
        self.of_action = nn.Embedding(actions, width)
        self.outcome = MLP(2 * width, 3, (hidden,))

    @classmethod
    def of(
        cls,
        latent: int,
        *,
        actions: int,
        symbols: int | None = None,
        width: int = 64,
        components: int = 5,
        recurrence: Recurrence | None = None,
        reward_scale: float = 0.05,
        noise: float = 0.2,
    ) -> "Memory":
        """The memory for tokens (`symbols` of them), or the paper's mixture of normals."""
        if recurrence is not None:
            width = recurrence.width
        density: DensityModel
        if symbols is None:
            density = MixtureDensityNetwork(
                latent, context_shape=width, components=components, hidden=(2 * width, 2 * width)
            )
        else:
            head = heads.Categorical(symbols)
            density = MADE(latent, head=head, hidden=(width,), context_shape=width)
        return cls(
            density, actions=actions, recurrence=recurrence, reward_scale=reward_scale, noise=noise
        )

    @property
    def summary_size(self) -> int:
        """Numbers in `summary`."""
        return self.recurrence.width

    def initial_state(self, count: int) -> Tensor:
        """The states before anything was seen, (count, size)."""
        return self.of_action.weight.new_zeros(count, self.recurrence.state_size)

    def summary(self, state: Tensor) -> Tensor:
        """What a state says of the past, (B, width): the paper's h."""
        return self.recurrence.summary(state)

    def step(self, z: Tensor, action: Tensor, state: Tensor) -> Tensor:
        """The state after latents (B, n) in which actions (B,) were done."""
        return self.recurrence.step(self._inputs(z, action), state)[1]

    @torch.no_grad()
    def foresee(self, state: Tensor) -> Foreseen:
        """What follows: one draw for each row of `state`.

        The reward is its mean, and 0 where that is less than `reward_scale`: no mean is quite 0,
        and agents would live on the crumbs.
        """
        h = self.summary(state)
        with unchecked(), evaluating(self.density):
            z = self.density.sample(len(h), h)
        reward, end = self._outcome(h, z)
        terminated = uniform((len(h),), h) < end.sigmoid()
        earned = reward.mean
        told_apart = earned.abs() > self.reward_head.min_scale
        return Foreseen(z, torch.where(told_apart, earned, 0.0), terminated)

    def at_temperature(self, temperature: float) -> "Memory":
        """The same memory, sharing all weights, whose latents are drawn hotter or colder."""
        if temperature == 1.0:
            return self
        head = getattr(self.density, "head", None)
        if not (isinstance(head, Head) and dataclasses.is_dataclass(head)) or not any(
            field.name == "temperature" for field in dataclasses.fields(head)
        ):
            raise TypeError(
                f"a temperature needs a density with the head Categorical, Normal or "
                f"MixtureOfNormals, and {type(self.density).__name__} has none of them"
            )
        density = copy.copy(self.density)
        density.head = dataclasses.replace(head, temperature=temperature)
        hotter = copy.copy(self)
        hotter._modules = {**self._modules, "density": density}
        return hotter

    def log_probs(
        self, told: tuple[Tensor, ...], given: tuple[Tensor, ...], *, noise: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log p of each step's latent, reward and end, each (B, T).

        Args:
            told: z' (B, T, n), rewards (B, T) and ends (B, T).
            given: z (B, T, n) and actions (B, T); weights may follow, and make no difference here.
            noise: deviation of what is added to the summary.
        """
        z_next, reward, terminated = told
        steps = given[1].shape
        if given[0].shape != z_next.shape or any(
            part.shape != steps for part in (z_next[..., 0], reward, terminated)
        ):
            found = [tuple(part.shape) for part in (*told, *given[:2])]
            raise ValueError(
                f"z', rewards, ends, z and actions must be of the same steps, got {found}"
            )
        h = self.recurrence.unroll(self._inputs(given[0], given[1]))
        if noise:
            h = h + noise * torch.randn_like(h)
        rows, after = h.flatten(0, 1), z_next.flatten(0, 1)
        with unchecked():  # millions of them, checked when they were made
            latent = self.density.log_prob(after, rows)
        earned, end = self._outcome(rows, after)
        rewarded = earned.log_prob(reward.flatten())
        ended = -F.binary_cross_entropy_with_logits(
            end, terminated.flatten().to(end.dtype), reduction="none"
        )
        latent, rewarded, ended = (t.unflatten(0, reward.shape) for t in (latent, rewarded, ended))
        return latent, rewarded, ended

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Nats per step of each row: x and context are the two parts of `Windows.pair`, whole.

        Which ends are met more often changes nothing of p(z'|h), whose steps are weighted back, and
        nothing of p(r|h, z') and p(end|h, z') where the latent says what they are.
        """
        told, given = tuple(x), tuple(context or ())
        if len(given) != 4:
            raise ValueError(
                "'context' must be latents, actions, weights and the latents' own weights, "
                f"got {len(given)} parts"
            )
        noise = self.noise if self.training else 0.0
        latent, reward, end = self.log_probs(told, given, noise=noise)
        weight, fair = given[2:]
        total = fair * latent + weight * (reward + end)
        nats: Tensor = -total.sum(1) * len(weight) / weight.sum()
        return nats

    def states(self, z: Tensor, action: Tensor) -> Tensor:
        """The states after each of T steps from the beginning, (B, T, size)."""
        return self.recurrence.states(self._inputs(z, action))

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        assert context is not None
        z, action = context[0], context[1]
        return self.foresee(self.states(z, action)[:, -1]).z

    def check_context(self, batch: int, context: Tensor | None) -> Tensor | None:
        """Latents and actions of `batch` sequences, with shapes (batch, T, ...)."""
        if context is None or len(context) < 2 or any(len(part) != batch for part in context):
            raise ValueError(f"'context' must be latents and actions of {batch} sequences")
        return context

    @property
    def _latent_size(self) -> int:
        size = self.event_shape.numel()
        return size * self.support.count if isinstance(self.support, Symbols) else size

    def _embedded(self, z: Tensor) -> Tensor:
        """(*, n) -> (*, width)."""
        if isinstance(self.support, Symbols):
            offsets = torch.arange(z.shape[-1], device=z.device) * self.support.count
            table = cast(nn.Linear, self.embedding)
            return F.embedding(z + offsets, table.weight.T).sum(-2) + table.bias
        embedded: Tensor = self.embedding(z)
        return embedded

    def _inputs(self, z: Tensor, action: Tensor) -> Tensor:
        done: Tensor = self.of_action(action)
        return self._embedded(z) + done

    def _outcome(self, h: Tensor, z_next: Tensor) -> tuple[Distribution, Tensor]:
        """The reward's distribution and the logit of the end, each (B,)."""
        outputs = self.outcome(torch.cat([h, self._embedded(z_next)], dim=1))
        return self.reward_head(outputs[:, :2]), outputs[:, 2]

"""Policies with a latent code: z says in which way to act, for the whole of an episode."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.agents.observations import Features, ObservationNet
from rlgen.agents.policy import Policy, shrink_last
from rlgen.agents.reward_model import RewardModel
from rlgen.agents.told import Told
from rlgen.agents.transitions import Transitions
from rlgen.envs.world import World
from rlgen.generative.functions import Prior
from rlgen.generative.heads import Head
from rlgen.generative.model import Shape
from rlgen.generative.nets import MLP
from rlgen.seeding import drawing_from


class Latent(Told):
    """A world with z beside what is seen: drawn for each episode, and kept until its end.

    Observations are flattened, as floats of about unit size, and followed by z.

    Args:
        world: any world; observations in parts are made `flat`.
        prior: p(z).
        z: the one for all episodes, or one for each copy with shape (num_envs, *shape of z); None
            draws.
        seed: of the draws, until `reset` is given one.

    Example:
        >>> from rlgen.agents.latent import Latent
        >>> from rlgen.envs import FourRooms
        >>> from rlgen.generative.functions import StandardNormal
        >>> world = Latent(FourRooms(5, seed=0), StandardNormal(16))
        >>> world.reset().shape  # 104 cells and 16 numbers
        torch.Size([5, 120])
    """

    name = "z"

    def __init__(
        self, world: World, prior: Prior, *, z: Tensor | None = None, seed: int = 0
    ) -> None:
        self.prior = prior
        self.fixed = None if z is None else for_each(z, world.num_envs, prior).to(world.device)
        super().__init__(world, seed)

    @property
    def z(self) -> Tensor:
        """Of each copy's episode."""
        return self.told

    def beside(self, obs: Tensor, z: Tensor) -> Tensor:
        """Observations of the world with z, as an agent here sees them."""
        return torch.cat([self.features.scaled(obs).flatten(1), self.prior.features(z)], dim=1)

    def _draw(self, seed: int) -> Tensor:
        if self.fixed is not None:
            return self.fixed
        return drawn(self.prior, self.num_envs, seed).to(self.device)

    def _space(self) -> gymnasium.spaces.Box:
        shape = self.world.observation_space.shape
        assert shape is not None
        bound = np.full(math.prod(shape) + self.prior.width, np.inf, np.float32)
        return gymnasium.spaces.Box(-bound, bound)


class Bare:
    """A reward model that is asked about what the world shows, without the z behind it.

    What one way has seen is then known to all: a bonus for what is new sends none of them anew.

    Args:
        model: of the world's observations, flat and scaled.
        width: of z there.
    """

    def __init__(self, model: RewardModel, width: int) -> None:
        self.model, self.width = model, width

    def reward(self, t: Transitions) -> Tensor:
        return self.model.reward(self._bare(t))

    def update(self, t: Transitions) -> dict[str, float]:
        return self.model.update(self._bare(t))

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)

    def _bare(self, t: Transitions) -> Transitions:
        obs, onward = t.obs[:, : -self.width], t.next_obs[:, : -self.width]
        return dataclasses.replace(t, obs=obs, next_obs=onward)


def for_each(z: Tensor, n: int, prior: Prior) -> Tensor:
    """One z for each of `n`, or one for all, made one for each."""
    shape = (n, *prior.shape)
    if tuple(z.shape) not in (shape, shape[1:]):
        raise ValueError(f"'z' must have shape {shape[1:]} or {shape}, got {tuple(z.shape)}")
    return z.expand(shape)


def drawn(prior: Prior, n: int, seed: int | torch.Generator | None) -> Tensor:
    """`n` codes."""
    with torch.no_grad(), drawing_from(seed):
        return prior.distribution().sample(torch.Size([n]))


class LatentNet(ObservationNet):
    """(observation, z) -> outputs, with z added to the observation before anything is decided.

        relu(E o + U z + b) -> hidden layers -> outputs

    Of a one-hot observation E o is a vector for each state, its numbers of about unit size as those
    of U z are for a `StandardNormal` z, so that from the start each state may take z in its own
    way. One of k `UniformSymbols` has numbers of about 1 / sqrt(k) in U z. Those of E o grow with
    the number of entries of an observation that are not zero: of a picture E o is far larger than
    U z, and most of it is the same in all states.

    Args:
        inputs: numbers of an observation with its z.
        width: numbers of z, which come last.
        outputs: how many.
        hidden: widths of the hidden layers, the first of which mixes.
    """

    def __init__(self, inputs: int, width: int, outputs: int, hidden: Sequence[int]) -> None:
        nn.Module.__init__(self)
        if not hidden:
            raise ValueError("'hidden' must have at least one width")
        self.features = Features((inputs,), torch.float32)
        self.memory, self.cell = 0, None
        self.mlp = MLP(inputs, outputs, hidden)
        for i in range(1, len(self.mlp), 2):
            self.mlp[i] = nn.ReLU()
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            nn.init.normal_(first.weight)
            first.weight[:, inputs - width :] *= width**-0.5
            first.bias.zero_()


class LatentPolicy(Policy):
    """pi_z(a | o): a policy for each z, whose observations are those of a world made `Latent`.

    Args:
        event_shape: of one action; () for a discrete one.
        head: what an action is.
        context_shape: of one observation with its z.
        width: numbers of z.
        dtype: of observations, by name.
        hidden: widths of the hidden layers.

    Example:
        >>> from rlgen.agents.latent import Latent, LatentPolicy
        >>> from rlgen.envs import FourRooms
        >>> from rlgen.generative.functions import StandardNormal
        >>> world = Latent(FourRooms(5, seed=0), StandardNormal(16))
        >>> policy = LatentPolicy.beside(world)
        >>> policy.sample(5, world.reset()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: Head,
        context_shape: Shape,
        width: int,
        dtype: str = "float32",
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(event_shape, head=head, context_shape=context_shape, dtype=dtype)
        self.width = width
        assert self.context_shape is not None
        inputs, outputs = self.context_shape.numel(), self.head.size(self.event_shape)
        self.net = LatentNet(inputs, width, outputs, hidden)
        shrink_last(self.net.mlp, 0.01)

    @classmethod
    def beside(cls, world: Latent, *, hidden: Sequence[int] = (64, 64)) -> "LatentPolicy":
        """The policy for such a world."""
        plain = Policy.of(world.observation_space, world.action_space, hidden=())
        assert plain.context_shape is not None
        return cls(
            tuple(plain.event_shape),
            head=plain.head,
            context_shape=tuple(plain.context_shape),
            width=world.prior.width,
            hidden=tuple(hidden),
        )

    def given(self, obs: Tensor, features: Tensor) -> Distribution:
        """pi_z(. | o) for each z at each observation, with batch shape (n, m).

        The part of the first layer that does not depend on z is computed once for each
        observation.

        Args:
            obs: flat, with shape (m, numbers).
            features: of z, with shape (n, width).
        """
        outputs = self.outputs(obs[None], features)
        return self.head(outputs, tuple(self.event_shape))

    def outputs(self, obs: Tensor, features: Tensor) -> Tensor:
        """The network's outputs (n, m, outputs) at observations (n or 1, m, numbers)."""
        first, *rest = self.net.mlp
        assert isinstance(first, nn.Linear)
        of_obs, of_z = first.weight.split([obs.shape[-1], self.width], dim=1)
        x = obs @ of_obs.T + (features @ of_z.T + first.bias)[:, None]
        out: Tensor = nn.Sequential(*rest)(x)
        return out

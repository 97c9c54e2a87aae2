"""Policies are conditional generative models of actions; an actor-critic adds values to one."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.agents.observations import ObservationNet
from rlgen.checkpoint import Configurable
from rlgen.generative import heads
from rlgen.generative.heads import Head
from rlgen.generative.model import DensityModel, Shape
from rlgen.generative.support import check_batch


class Policy(DensityModel):
    """A distribution over actions given an observation, pi(a | o).

    It is a density like any other: `fit(policy, actions, observations)` clones a behaviour,
    `sample(n, observations)` acts, `log_prob(actions, observations)` tells how likely they are.

    Args:
        event_shape: of one action; () for a discrete one.
        head: what an action is.
        context_shape: of one observation.
        dtype: of observations, by name.
        hidden: widths of the hidden layers.
        memory: numbers of a GRU's state, for partial views; 0 for none. `log_prob` and `sample`
            then take each observation as the first of an episode.

    Example:
        >>> import torch
        >>> from rlgen.agents import Policy
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(5, seed=0)
        >>> policy = Policy.of(world.observation_space, world.action_space)
        >>> policy.sample(5, world.reset()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        head: Head,
        context_shape: Shape,
        dtype: str = "float32",
        hidden: Sequence[int] = (64, 64),
        memory: int = 0,
    ) -> None:
        super().__init__(event_shape, context_shape)
        assert self.context_shape is not None
        if memory < 0:
            raise ValueError(f"'memory' must not be negative, got {memory}")
        self.obs_dtype: torch.dtype = getattr(torch, dtype)
        self.head = head
        outputs = self.head.size(self.event_shape)
        self.net = ObservationNet(self.context_shape, self.obs_dtype, outputs, hidden, memory)
        self.support = self.head.support
        shrink_last(self.net.mlp, 0.01)

    @classmethod
    def of(
        cls,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        hidden: Sequence[int] = (64, 64),
        memory: int = 0,
    ) -> "Policy":
        """The policy for a world's spaces: Box observations; Discrete or Box actions."""
        return cls(**_form(observation_space, action_space), hidden=tuple(hidden), memory=memory)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        assert context is not None
        return self.distribution(context).log_prob(x)

    def distribution(self, context: Tensor) -> Distribution:
        """pi(. | o) of a batch of observations, each the first of its episode."""
        outputs, _ = self.net(context, self.initial_state(len(context)))
        return self.head(outputs, tuple(self.event_shape))

    def initial_state(self, count: int) -> Tensor:
        """The memory before the first observation, with shape (count, memory)."""
        return next(self.parameters()).new_zeros(count, self.net.memory)

    def check_context(self, batch: int, context: Tensor | None) -> Tensor | None:
        """Observations keep the dtype of their space."""
        assert self.context_shape is not None
        if context is None:
            wanted = tuple(self.context_shape)
            raise ValueError(f"this Policy needs observations of shape {wanted} as its context")
        check_batch("context", context, self.context_shape)
        if len(context) != batch:
            raise ValueError(f"'context' must hold {batch} examples, got {len(context)}")
        if context.dtype != self.obs_dtype:
            raise ValueError(f"'context' must be {self.obs_dtype}, got {context.dtype}")
        return context

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        assert context is not None
        return self.distribution(context).sample()


class ActorCritic(Configurable, nn.Module):
    """A policy and, beside it, the values of what it sees: one for each stream of rewards.

    Args:
        policy: what acts.
        streams: how many values; the first is the world's own reward.
        hidden: widths of the critic's hidden layers.

    Example:
        >>> from rlgen.agents import ActorCritic, Policy
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(5, seed=0)
        >>> model = ActorCritic(Policy.of(world.observation_space, world.action_space))
        >>> model.values(world.reset(), model.initial_state(5))[0].shape
        torch.Size([5, 1])
    """

    def __init__(
        self, policy: Policy, *, streams: int = 1, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if streams < 1:
            raise ValueError(f"'streams' must be positive, got {streams}")
        self.policy = policy
        assert policy.context_shape is not None
        self.critic = ObservationNet(
            policy.context_shape, policy.obs_dtype, streams, hidden, policy.net.memory
        )

    def initial_state(self, count: int) -> Tensor:
        """Memories of policy and critic, with shape (count, 2 memory)."""
        return torch.cat([self.policy.initial_state(count)] * 2, dim=1)

    def prepared(self, obs: Tensor) -> Tensor:
        """Observations scaled once, for policy and critic and for all passes over them."""
        return self.policy.net.features.prepared(obs)

    def act(self, obs: Tensor, state: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """What to do and what it is worth: (pi(. | o), values (B, streams), next state)."""
        mine, critics = state.chunk(2, dim=1)
        obs = self.prepared(obs)
        outputs, mine = self.policy.net(obs, mine)
        values, critics = self.critic(obs, critics)
        head = self.policy.head(outputs, tuple(self.policy.event_shape))
        return head, values, torch.cat([mine, critics], dim=1)

    def values(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, streams), and the critic's next memory."""
        values, state = self.critic(obs, state.chunk(2, dim=1)[1])
        return values, state

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> tuple[Distribution, Tensor]:
        """Policy and values along (T, B) steps; see `ObservationNet.unroll`."""
        mine, critics = state.chunk(2, dim=1)
        outputs = self.policy.net.unroll(obs, mine, first)
        values = self.critic.unroll(obs, critics, first)
        return self.policy.head(outputs, tuple(self.policy.event_shape)), values


def _form(
    observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
) -> dict[str, Any]:
    """Shapes, dtype and head for a pair of spaces."""
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise ValueError(f"observations must be arrays (a Box), got {observation_space}")
    form: dict[str, Any] = {
        "context_shape": tuple(observation_space.shape),
        "dtype": str(observation_space.dtype),
    }
    if isinstance(action_space, gymnasium.spaces.Discrete):
        if action_space.start != 0:
            raise ValueError(f"discrete actions must begin at 0, got {action_space}")
        return {"event_shape": (), "head": heads.Categorical(int(action_space.n)), **form}
    if isinstance(action_space, gymnasium.spaces.Box):
        return {"event_shape": tuple(action_space.shape), "head": heads.Normal(), **form}
    raise ValueError(f"actions must be Discrete or Box, got {action_space}")


@torch.no_grad()
def shrink_last(layers: nn.Sequential, factor: float) -> None:
    """Let outputs begin close to 0, and so what they decide close to uniform."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(factor)
    last.bias.zero_()

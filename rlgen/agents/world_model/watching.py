"""The real world through V and M: what an agent that learnt in dreams needs to act there."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.agents.transitions import flat, flat_space
from rlgen.agents.world_model.memory import Memory
from rlgen.agents.world_model.vision import Vision
from rlgen.envs.world import Step, World


def features(
    vision: Vision, memory: Memory, z: Tensor, state: Tensor, remembering: bool = True
) -> Tensor:
    """What an agent sees of latents (B, n) and of the memory before them, (B, features)."""
    seen = vision.features(z)
    return torch.cat([seen, memory.summary(state)], dim=1) if remembering else seen


def features_space(
    vision: Vision, memory: Memory, remembering: bool = True
) -> gymnasium.spaces.Box:
    """The space of `features`."""
    size = vision.features_size + (memory.summary_size if remembering else 0)
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def remembered(
    memory: Memory, z: Tensor, last: tuple[Tensor, ...] | None, episode_start: Tensor | None
) -> Tensor:
    """The memory before latents `z`, of who acts along episodes.

    Args:
        memory: M.
        z: the present latents, (B, n).
        last: the memory before the step that led here, its latents and its actions; None for the
            first step.
        episode_start: which of `z` begin an episode, as booleans with shape (B,).
    """
    if last is None:
        return memory.initial_state(len(z))
    before, last_z, action = last
    state = memory.step(last_z, action, before)
    if episode_start is not None:
        state = state * ~episode_start.to(state.device)[:, None]
    return state


class Watched:
    """A world whose observations are the features that a `Dream` of it has.

    Args:
        world: with the observations that V knows and the actions that M knows.
        vision: V.
        memory: M.
        remembering: show M's summary of the episode so far; without it the latent alone is seen.

    Example:
        >>> from rlgen.agents.world_model import Memory, Vision, Watched
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(8, size=4, seed=0)
        >>> vision = Vision.of(world.observation_space, symbols=16)
        >>> memory = Memory.of(1, symbols=16, actions=4, width=32)
        >>> Watched(world, vision, memory).reset().shape
        torch.Size([8, 48])
    """

    def __init__(
        self, world: World, vision: Vision, memory: Memory, *, remembering: bool = True
    ) -> None:
        seen, done = flat_space(world.observation_space).shape, world.action_space
        if seen != vision.event_shape:
            raise ValueError(
                f"'world' must show {tuple(vision.event_shape)}, as V sees, got {seen}"
            )
        if not isinstance(done, gymnasium.spaces.Discrete) or done.n != memory.actions:
            raise ValueError(f"'world' must have {memory.actions} discrete actions, got {done}")
        self.world, self.vision, self.memory = world, vision, memory
        self.num_envs, self.device = world.num_envs, world.device
        self.remembering = remembering
        self.observation_space = features_space(vision, memory, remembering)
        self.action_space = world.action_space
        self._z: Tensor
        self._state: Tensor

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes in all copies; nothing is remembered."""
        self._z = self.vision.encode(flat(self.world.reset(seed)))
        self._state = self.memory.initial_state(self.num_envs)
        return self._features(self._z, self._state)

    @torch.no_grad()
    def step(self, action: Tensor) -> Step:
        """One step of all copies."""
        step = self.world.step(action)
        state = self.memory.step(self._z, action, self._state)
        self._z = self.vision.encode(flat(step.obs))
        self._state = state * ~step.done[:, None]
        return Step(
            self._features(self._z, self._state),
            step.reward,
            step.terminated,
            step.truncated,
            lambda: self._features(self.vision.encode(flat(step.final_obs)), state),
        )

    def state_dict(self) -> dict[str, Any]:
        """The world's state, which must have one, and what is remembered."""
        return {"world": self.world.state_dict(), "z": self._z, "memory": self._state}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.world.load_state_dict(state["world"])  # type: ignore[attr-defined]
        self._z, self._state = state["z"].to(self.device), state["memory"].to(self.device)

    @torch.no_grad()
    def _features(self, z: Tensor, state: Tensor) -> Tensor:
        return features(self.vision, self.memory, z, state, self.remembering)


class Pilot:
    """An agent that sees features, acting on a world's own observations.

    It has `act` as learners do, so `record` and any loop of one's own take it. Its state carries
    the memory, the last latents and actions, and the agent's own state.

    Args:
        agent: with `act` over features, such as a `Controller` or a learner from a dream.
        vision: V.
        memory: M.
        remembering: whether the agent sees M's summary.
    """

    def __init__(
        self, agent: Any, vision: Vision, memory: Memory, *, remembering: bool = True
    ) -> None:
        self.agent, self.vision, self.memory = agent, vision, memory
        self.remembering = remembering

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Any]:
        """Actions along episodes; see `Learner.act`."""
        z = self.vision.encode(flat(obs))
        *last, inner = (None,) if state is None else state
        memory = remembered(self.memory, z, tuple(last) or None, episode_start)
        seen = features(self.vision, self.memory, z, memory, self.remembering)
        action, inner = self.agent.act(seen, inner, episode_start, deterministic=deterministic)
        return action, (memory, z, action, inner)

    def predict(self, obs: Any, *, deterministic: bool = True) -> Tensor:
        """Actions for observations, each the first of its episode."""
        return self.act(obs, deterministic=deterministic)[0]

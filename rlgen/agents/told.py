"""Worlds that tell their agent something beside what is seen, for the whole of an episode."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium
import torch
from torch import Tensor

from rlgen.agents.flat_world import flattened
from rlgen.agents.standardised import features_of
from rlgen.checkpoint import Stateful
from rlgen.envs.world import Step, World
from rlgen.seeding import drawing_from, mix


class Told(ABC):
    """A world with something beside what is seen: drawn for each episode, and kept until its end.

    What is drawn depends on the seed and on how often was drawn, and on nothing that happened.

    Attributes:
        told: what each copy is told now, with shape (num_envs, ...).
        name: of `told` among what is saved.

    Args:
        world: any world; observations in parts are made `flat`.
        seed: of the draws, until `reset` is given one.
    """

    name: ClassVar[str]

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = flattened(world), seed
        self.num_envs, self.device = world.num_envs, world.device
        with drawing_from(0):  # only the scale of what is seen is used, and no weights
            self.features = features_of(self.world.observation_space)
        self.features.convolutions = None
        self.features.to(world.device)
        self.action_space = world.action_space
        self.observation_space = self._space()
        self.draws = 0
        self.told = self._next()
        if isinstance(self.world, Stateful):  # only then is this one, too
            self.state_dict, self.load_state_dict = self._state, self._load_state

    @abstractmethod
    def beside(self, obs: Tensor, told: Tensor) -> Tensor:
        """Observations of the world with what is told, as an agent here sees them."""

    @abstractmethod
    def _draw(self, seed: int) -> Tensor:
        """Something to tell each copy."""

    @abstractmethod
    def _space(self) -> gymnasium.spaces.Box:
        """Of what `beside` gives."""

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes in all copies, each with something new to tell."""
        if seed is not None:
            self.seed, self.draws = seed, 0
        obs = self.world.reset(seed)
        self.told = self._next()
        return self.beside(obs, self.told)

    def step(self, action: Tensor) -> Step:
        """One step of all copies; what an ended episode saw last has what that one was told."""
        step, before = self.world.step(action), self.told
        ended = step.done.reshape(-1, *[1] * (before.ndim - 1))
        self.told = torch.where(ended, self._next(), before)
        return Step(
            self.beside(step.obs, self.told),
            step.reward,
            step.terminated,
            step.truncated,
            lambda: self.beside(step.final_obs, before),
        )

    def _next(self) -> Tensor:
        self.draws += 1
        # a learner of the same seed counts its iterations; this is another stream
        return self._draw(mix(self.seed, 7, self.draws))

    def _state(self) -> dict[str, Any]:
        assert isinstance(self.world, Stateful)
        drawn = {self.name: self.told.clone(), "draws": self.draws, "seed": self.seed}
        return {"world": self.world.state_dict(), **drawn}

    def _load_state(self, state: dict[str, Any]) -> None:
        assert isinstance(self.world, Stateful)
        self.world.load_state_dict(state["world"])
        self.told = state[self.name].to(self.device)
        self.draws, self.seed = state["draws"], state["seed"]

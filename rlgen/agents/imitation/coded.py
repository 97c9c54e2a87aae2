"""Worlds whose agent is told, at the start of each episode, in which of several ways to act."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlgen.agents.flat_world import flattened
from rlgen.agents.standardised import features_of
from rlgen.checkpoint import Stateful
from rlgen.envs.world import Step, World
from rlgen.seeding import mix


class Coded:
    """A world with a code beside what is seen: drawn for each episode, and kept until its end.

    Pictures (C, H, W) get one constant plane for each code, white for the present one; everything
    else is flattened, as floats of about unit size, and followed by the code as a one-hot vector.

    Args:
        world: any world; observations in parts are made `flat`.
        codes: how many there are; each is as likely.
        code: the one for all episodes, or None to draw.
        seed: of the codes, until `reset` is given one.

    Example:
        >>> from rlgen.agents.imitation import Coded
        >>> from rlgen.envs import FourRooms
        >>> world = Coded(FourRooms(5, seed=0), codes=2)
        >>> world.reset().shape  # 104 cells and 2 codes
        torch.Size([5, 106])
    """

    def __init__(self, world: World, codes: int, *, code: int | None = None, seed: int = 0) -> None:
        if codes < 1:
            raise ValueError(f"'codes' must be positive, got {codes}")
        if code is not None and not 0 <= code < codes:
            raise ValueError(f"'code' must be from 0 to {codes - 1}, got {code}")
        self.world, self.codes, self.fixed, self.seed = flattened(world), codes, code, seed
        self.features = features_of(self.world.observation_space)
        self.observation_space = self._space()
        self.action_space = world.action_space
        self.draws = 0
        self.code = self._draw()
        if isinstance(world, Stateful):  # only then is this one, too
            self.state_dict, self.load_state_dict = self._state, self._load_state

    @property
    def num_envs(self) -> int:
        return self.world.num_envs

    @property
    def device(self) -> torch.device:
        return self.world.device

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes in all copies, with new codes."""
        if seed is not None:
            self.seed, self.draws = seed, 0
        obs = self.world.reset(seed)
        self.code = self._draw()
        return self.beside(obs, self.code)

    def step(self, action: Tensor) -> Step:
        """One step of all copies; what an ended episode saw last has that episode's code."""
        step, before = self.world.step(action), self.code
        self.code = torch.where(step.done, self._draw(), before)
        return Step(
            self.beside(step.obs, self.code),
            step.reward,
            step.terminated,
            step.truncated,
            lambda: self.beside(step.final_obs, before),
        )

    def beside(self, obs: Tensor, code: Tensor) -> Tensor:
        """Observations of the world with codes (B,), as an agent here sees them."""
        known = F.one_hot(code, self.codes)
        if not self.features.picture:
            return torch.cat([self.features.scaled(obs).flatten(1), known], dim=1)
        planes = (255 * known).to(obs.dtype)[..., None, None].expand(-1, -1, *obs.shape[2:])
        return torch.cat([obs, planes], dim=1)

    def _draw(self) -> Tensor:
        """A code for each copy."""
        self.draws += 1
        if self.fixed is not None:
            return torch.full((self.num_envs,), self.fixed, device=self.device)
        generator = torch.Generator().manual_seed(mix(self.seed, self.draws))
        codes = torch.randint(self.codes, (self.num_envs,), generator=generator)
        return codes.to(self.device)

    def _space(self) -> gymnasium.spaces.Box:
        shape = self.world.observation_space.shape
        assert shape is not None
        if self.features.picture:
            return gymnasium.spaces.Box(0, 255, (shape[0] + self.codes, *shape[1:]), np.uint8)
        low, high = np.full(self.features.width, -np.inf), np.full(self.features.width, np.inf)
        low, high = np.append(low, np.zeros(self.codes)), np.append(high, np.ones(self.codes))
        return gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def _state(self) -> dict[str, Any]:
        assert isinstance(self.world, Stateful)
        drawn = {"code": self.code.clone(), "draws": self.draws, "seed": self.seed}
        return {"world": self.world.state_dict(), **drawn}

    def _load_state(self, state: dict[str, Any]) -> None:
        assert isinstance(self.world, Stateful)
        self.world.load_state_dict(state["world"])
        self.code = state["code"].to(self.device)
        self.draws, self.seed = state["draws"], state["seed"]


def without_code(obs: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """What `Coded` showed, taken apart: what the world showed, and the codes with shape (B,)."""
    if obs.ndim == 4:  # planes of a picture
        return obs[:, :-codes], obs[:, -codes:, 0, 0].argmax(1)
    return obs[:, :-codes], obs[:, -codes:].argmax(1)

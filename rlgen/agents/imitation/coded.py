"""Worlds whose agent is told, at the start of each episode, in which of several ways to act."""

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlgen.agents.told import Told
from rlgen.envs.world import World


class Coded(Told):
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

    name = "code"

    def __init__(self, world: World, codes: int, *, code: int | None = None, seed: int = 0) -> None:
        if codes < 1:
            raise ValueError(f"'codes' must be positive, got {codes}")
        if code is not None and not 0 <= code < codes:
            raise ValueError(f"'code' must be from 0 to {codes - 1}, got {code}")
        self.codes, self.fixed = codes, code
        super().__init__(world, seed)

    @property
    def code(self) -> Tensor:
        """Of each copy's episode."""
        return self.told

    def beside(self, obs: Tensor, code: Tensor) -> Tensor:
        """Observations of the world with codes (B,), as an agent here sees them."""
        known = F.one_hot(code, self.codes)
        if not self.features.picture:
            return torch.cat([self.features.scaled(obs).flatten(1), known], dim=1)
        planes = (255 * known).to(obs.dtype)[..., None, None].expand(-1, -1, *obs.shape[2:])
        return torch.cat([obs, planes], dim=1)

    def _draw(self, seed: int) -> Tensor:
        if self.fixed is not None:
            return torch.full((self.num_envs,), self.fixed, device=self.device)
        generator = torch.Generator().manual_seed(seed)
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


def without_code(obs: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """What `Coded` showed, taken apart: what the world showed, and the codes with shape (B,)."""
    if obs.ndim == 4:  # planes of a picture
        return obs[:, :-codes], obs[:, -codes:, 0, 0].argmax(1)
    return obs[:, :-codes], obs[:, -codes:].argmax(1)

"""Actions as numbers for networks."""

from typing import Any

import gymnasium
import torch
from torch import Tensor
from torch.nn import functional as F


def action_width(space: gymnasium.Space[Any]) -> int:
    """How many numbers `action_numbers` makes of an action."""
    if isinstance(space, gymnasium.spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"discrete actions must begin at 0, got {space}")
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box):
        return int(torch.Size(space.shape).numel())
    raise ValueError(f"actions must be Discrete or Box, got {space}")


def within_bounds(action: Tensor, space: gymnasium.Space[Any]) -> Tensor:
    """Within the bounds of a Box; a Gaussian policy may step outside."""
    if not isinstance(space, gymnasium.spaces.Box):
        return action
    return action.clamp(
        torch.as_tensor(space.low).to(action), torch.as_tensor(space.high).to(action)
    )


def action_numbers(action: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Actions as vectors (B, width): integers (B,) one-hot, all others flat."""
    if action.is_floating_point():
        flat = action.reshape(len(action), -1)
        if flat.shape[1] != width:
            raise ValueError(f"actions must hold {width} numbers, got {flat.shape[1]}")
        return flat.to(dtype)
    if action.numel() != len(action):
        raise ValueError(f"discrete actions must have shape (B,), got {tuple(action.shape)}")
    return F.one_hot(action.reshape(-1).long(), width).to(dtype)

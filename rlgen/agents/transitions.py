"""What was experienced: steps of worlds as tensors, checked once, when they are made."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlgen.agents.observations import Features, is_symbolic


@dataclass(frozen=True)
class Transitions:
    """Steps of worlds, with one leading dimension.

    Observations may be given as dictionaries of tensors; they are made `flat`.

    Attributes:
        obs: what was seen, with shape (B, *observation).
        action: what was done, with shape (B, *action).
        reward: what the world gave, with shape (B,).
        next_obs: what the step led to; where the episode ended, the end that was really seen.
        terminated: the episode ended in the task's own terms, as booleans with shape (B,).
        truncated: the episode ran out of time.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor

    def __post_init__(self) -> None:
        for name in ("obs", "next_obs"):
            object.__setattr__(self, name, flat(getattr(self, name)))
        count = len(self.obs)
        for field in dataclasses.fields(self):
            tensor = getattr(self, field.name)
            if tensor.ndim < 1 or len(tensor) != count:
                raise ValueError(
                    f"{field.name!r} must hold {count} steps, got shape {tuple(tensor.shape)}"
                )
        if self.next_obs.shape != self.obs.shape:
            raise ValueError(
                f"'next_obs' must have shape {tuple(self.obs.shape)}, "
                f"got {tuple(self.next_obs.shape)}"
            )
        for name in ("terminated", "truncated"):
            if getattr(self, name).dtype != torch.bool:
                raise ValueError(f"{name!r} must be booleans, got {getattr(self, name).dtype}")

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, index: Tensor | slice) -> "Transitions":
        """Some of the steps."""
        return Transitions(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def to(self, device: torch.device) -> "Transitions":
        """The steps on a device; themselves if they are there."""
        if self.obs.device == device:
            return self
        return Transitions(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


def joined(parts: Sequence[Transitions]) -> Transitions:
    """All steps of `parts`, one after the other."""
    fields = dataclasses.fields(Transitions)
    return Transitions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields))


def flat(obs: Tensor | Mapping[str, Any]) -> Tensor:
    """One tensor for observations in parts; tensors stay as they are.

    Parts follow one another in the order of their names, dictionaries within dictionaries too.
    Bytes are scaled as `Features` scales them, so MiniGrid's symbols and pictures are of about unit
    size; a number that stands for one of several things stays that number. What is no tensor, such
    as MiniGrid's mission, a text, is left out.

    Args:
        obs: a tensor, or a dictionary of tensors with shapes (B, *part) and of such dictionaries.

    Returns:
        `obs` itself, or floats with shape (B, n).

    Example:
        >>> import torch
        >>> from rlgen.agents.transitions import flat
        >>> flat({"view": torch.full((1, 2), 255, dtype=torch.uint8), "side": torch.tensor([3])})
        tensor([[3., 1., 1.]])
    """
    if isinstance(obs, Tensor):
        return obs
    parts = [obs[name] for name in sorted(obs) if isinstance(obs[name], Tensor | Mapping)]
    if not parts:
        raise ValueError(f"an observation must have a part of numbers, got {sorted(obs)}")
    return torch.cat(
        [_floats(part) if isinstance(part, Tensor) else flat(part) for part in parts], dim=1
    )


def flat_space(space: spaces.Space[Any]) -> spaces.Box:
    """The space of `flat` observations: a Box stays itself, parts without numbers are left out."""
    if isinstance(space, spaces.Box):
        return space
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"observations must be a Box or a Dict, got {space}")
    low, high = (flat(_extremes(space, end)).squeeze(0).numpy() for end in (0, 1))
    return spaces.Box(low, high, dtype=np.float32)


def _floats(part: Tensor) -> Tensor:
    """(B, *part) -> (B, n), scaled by the one rule there is, but without any convolutions."""
    shape = tuple(part.shape[1:])
    form = shape if is_symbolic(shape) else (math.prod(shape),)
    floats: Tensor = Features(form, part.dtype).to(part.device)(part.reshape(len(part), *form))
    return floats


def _extremes(space: spaces.Dict, end: int) -> dict[str, Any]:
    """The lowest or the highest observation, as a batch of one."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, spaces.Dict):
            found[name] = _extremes(part, end)
        elif isinstance(part, spaces.Box):
            found[name] = torch.from_numpy(np.array((part.low, part.high)[end]))[None]
        elif isinstance(part, spaces.Discrete):
            found[name] = torch.tensor([int(part.start) + end * (int(part.n) - 1)])
        elif isinstance(part, spaces.MultiDiscrete):
            found[name] = torch.as_tensor(part.start + end * (part.nvec - 1))[None]
        elif isinstance(part, spaces.MultiBinary):
            found[name] = torch.full((1, *part.shape), end)
    return found

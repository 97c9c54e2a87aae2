"""What was experienced: steps of worlds as tensors, checked once, when they are made."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """Steps of worlds, with one leading dimension.

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

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


def joined(parts: Sequence[Transitions]) -> Transitions:
    """All steps of `parts`, one after the other."""
    fields = dataclasses.fields(Transitions)
    return Transitions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields))

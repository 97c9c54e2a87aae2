"""A learner as a checkpoint: how it was made, without its world, and everything it has become."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlgen.checkpoint import Configurable

_GIVEN_AGAIN = ("world", "reward_models")  # they are not the learner's to make


class SavedLearner(Configurable):
    """What a checkpoint of a learner holds.

    Args:
        kind: the learner's class, by name.
        arguments: what it was made with, but for its world and its reward models.
        copies: of its world.
        streams: names of its reward models.
    """

    def __init__(
        self, kind: str, *, arguments: dict[str, Any], copies: int, streams: tuple[str, ...]
    ) -> None:
        self.kind, self.arguments = kind, arguments
        self.copies, self.streams = copies, streams
        self.state: dict[str, Any] = {}

    @classmethod
    def of(
        cls, kind: str, arguments: Mapping[str, Any], *, copies: int, streams: tuple[str, ...]
    ) -> "SavedLearner":
        """With the arguments that are worth keeping."""
        kept = {name: v for name, v in arguments.items() if name not in _GIVEN_AGAIN}
        return cls(kind, arguments=kept, copies=copies, streams=streams)

    def check(self, kind: str, copies: int, streams: tuple[str, ...]) -> None:
        """Whether it can go on in a learner of this kind, with this world and reward models."""
        if kind != self.kind:
            raise ValueError(f"the checkpoint holds a {self.kind}, not a {kind}")
        if copies != self.copies:
            raise ValueError(
                f"'world' must have {self.copies} copies, as when it was saved, got {copies}; for "
                "another world there is evaluate(world=...)"
            )
        if streams != self.streams:
            wanted = ", ".join(self.streams) or "none"
            raise ValueError(
                f"'reward_models' must be those it was saved with, {wanted}, "
                f"got {', '.join(streams) or 'none'}"
            )

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def moved(state: Any, device: torch.device) -> Any:
    """Nested dictionaries, lists and tuples with their tensors on `device`."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {name: moved(part, device) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(moved(part, device) for part in state)
    return state

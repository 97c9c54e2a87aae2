"""Rewards that are learnt: exploration bonuses and imitation speak this one protocol."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlgen.agents.transitions import Transitions


@runtime_checkable
class RewardModel(Protocol):
    """Pays for steps, and learns from them; the two never mix."""

    def reward(self, t: Transitions) -> Tensor:
        """What each step is worth, with shape (B,). Pure: asked twice, it says the same."""

    def update(self, t: Transitions) -> dict[str, float]:
        """Learn from steps, and say how that went."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Stream:
    """One source of rewards and how a learner uses it.

    Attributes:
        model: what pays.
        weight: of its advantages beside those of the world's reward.
        discount: of its rewards; None takes the learner's.
        episodic: whether its returns end with the episode. Those of a bonus need not: what is
            new stays new across episodes.
        normalise: divide its rewards by the running standard deviation of their returns.
    """

    model: RewardModel
    weight: float = 1.0
    discount: float | None = None
    episodic: bool = True
    normalise: bool = True


def as_streams(
    models: Mapping[str, RewardModel | tuple[RewardModel, float] | Stream],
) -> dict[str, Stream]:
    """`{"name": model}`, `{"name": (model, weight)}` or `{"name": Stream(model, ...)}`."""
    streams = {}
    for name, given in models.items():
        if isinstance(given, tuple):
            model, weight = given
            given = Stream(model, float(weight))
        elif not isinstance(given, Stream):
            given = Stream(given)
        if not isinstance(given.model, RewardModel):
            raise TypeError(
                f"the reward model {name!r} needs reward, update, state_dict and load_state_dict; "
                f"{type(given.model).__name__} lacks one"
            )
        streams[name] = given
    return streams


class ReturnScale:
    """The running standard deviation of discounted returns, by which rewards are divided.

    Args:
        discount: of the returns.
    """

    def __init__(self, discount: float) -> None:
        self.discount = discount
        self.returns: Tensor | None = None
        self.count, self.mean, self.square = 0.0, 0.0, 0.0

    def scale(self, reward: Tensor, done: Tensor | None = None) -> Tensor:
        """Rewards (T, B) over the standard deviation of all returns up to now, these included."""
        scaled: Tensor = reward / self.deviation(reward, done)
        return scaled

    def deviation(self, reward: Tensor, done: Tensor | None = None) -> float:
        """The standard deviation of all returns up to now, those of these rewards included."""
        if self.returns is None:
            self.returns = torch.zeros_like(reward[0])
        if self.count == 0:
            self._observe(self.returns.double())  # before the first step; or it alone has no spread
        seen = []
        for t, now in enumerate(reward):
            self.returns = self.discount * self.returns + now
            seen.append(self.returns)
            if done is not None:
                self.returns = self.returns * ~done[t]
        self._observe(torch.stack(seen).double())
        return max(math.sqrt(self.square / max(self.count, 1.0)), 1e-8)

    def state_dict(self) -> dict[str, Any]:
        return {
            "returns": self.returns,
            "count": self.count,
            "mean": self.mean,
            "square": self.square,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.returns = state["returns"]
        self.count, self.mean, self.square = state["count"], state["mean"], state["square"]

    def _observe(self, x: Tensor) -> None:
        """Chan's update of count, mean and the sum of squares around it."""
        count, mean = x.numel(), float(x.mean())
        total, gap = self.count + count, mean - self.mean
        self.square += float((x - mean).square().sum()) + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total

"""What steps earn: the world's rewards and those of reward models, and the advantages of all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlgen.agents.reward_model import ReturnScale, RewardModel, Stream, as_streams
from rlgen.agents.rollout import Rollout, gae
from rlgen.agents.transitions import Transitions
from rlgen.generative import NonFiniteLoss

Models = Mapping[str, RewardModel | tuple[RewardModel, float] | Stream]


@dataclass(frozen=True)
class Batch:
    """A rollout with what each action was worth beyond expectation.

    Attributes:
        rollout: the steps.
        advantage: of all streams together, weighted, with shape (T, B).
        returns: what the values should have been, with shape (T, B, streams).
    """

    rollout: Rollout
    advantage: Tensor
    returns: Tensor


class Earnings:
    """Pays the steps of rollouts in every stream of rewards, and says how good they were.

    With a temperature the world's rewards contain what an action's surprise is worth,

        r_t - temperature log pi(a_t|s_t),

    so that returns, and with them values and advantages, are those of E[sum of discounted rewards
    and entropies], the future's entropies included. The gradient of that expectation is still the
    one of log pi weighted by what came after: the term that would be left over, the gradient of
    -temperature log pi(a_t|s_t) itself, is zero on average.

    References:
        | Function Optimization using Connectionist Reinforcement Learning Algorithms (Ronald
        | Williams and Jing Peng, 1991)

    Args:
        streams: the reward models by name.
        discount: of the world's rewards.
        trace: lambda of generalised advantage estimation.
        world_weight: of the world's rewards; 0 leaves them out, as imitation does.
        temperature: of the entropy beside the world's rewards.
        normalise: divide the world's rewards by the running standard deviation of their returns.
    """

    def __init__(
        self,
        streams: Models,
        *,
        discount: float,
        trace: float,
        world_weight: float,
        temperature: float,
        normalise: bool,
    ) -> None:
        if not 0.0 <= discount <= 1.0 or not 0.0 <= trace <= 1.0:
            raise ValueError(
                f"'discount' and 'trace' must be from 0 to 1, got {discount} and {trace}"
            )
        if not 0.0 <= temperature < math.inf:
            raise ValueError(f"'temperature' must be at least 0 and finite, got {temperature}")
        self.streams = as_streams(streams)
        if not 0.0 <= world_weight < math.inf:
            raise ValueError(f"'world_weight' must be at least 0 and finite, got {world_weight}")
        self.discount, self.trace, self.temperature = discount, trace, temperature
        self.world_weight = world_weight
        self.scales = {name: ReturnScale(self._discount(s)) for name, s in self.streams.items()}
        self.own_scale = ReturnScale(discount) if normalise else None

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """A rollout with its advantages, and how reward models did: they pay, and then learn."""
        rewards, metrics = self._pay(rollout)
        total = self._advantage(rollout, rewards[0], 0, self.discount, episodic=True)
        returns = [total + rollout.values[..., 0]]
        uses = self.streams.values()
        for i, (stream, reward) in enumerate(zip(uses, rewards[1:], strict=True), start=1):
            discount = self._discount(stream)
            advantage = self._advantage(rollout, reward, i, discount, episodic=stream.episodic)
            total = total + stream.weight * advantage
            returns.append(advantage + rollout.values[..., i])
        return Batch(rollout, total, torch.stack(returns, dim=-1)), metrics

    def state_dict(self) -> dict[str, Any]:
        """Of the reward models and of what their rewards are divided by."""
        return {
            "streams": {name: s.model.state_dict() for name, s in self.streams.items()},
            "scales": {name: scale.state_dict() for name, scale in self.scales.items()},
            "own_scale": self.own_scale and self.own_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stream in self.streams.items():
            stream.model.load_state_dict(state["streams"][name])
            self.scales[name].load_state_dict(state["scales"][name])
        if self.own_scale is not None:
            self.own_scale.load_state_dict(state["own_scale"])

    def _pay(self, rollout: Rollout) -> tuple[list[Tensor], dict[str, float]]:
        """The rewards of all streams, each (T, B)."""
        own = rollout.reward
        surprise = self.temperature * rollout.log_prob if self.temperature > 0.0 else 0.0
        scale = 1.0
        if self.own_scale is not None and self.world_weight > 0.0:
            # of what the world gave, before it is weighed
            scale = self.own_scale.deviation(own - surprise, rollout.done)
        own = (self.world_weight * own - surprise) / scale
        rewards, metrics = [own], dict[str, float]()
        if not self.streams:
            return rewards, metrics
        transitions = rollout.transitions()
        for name, stream in self.streams.items():
            reward = _checked(name, stream.model.reward(transitions), transitions)
            reward = reward.reshape(rollout.reward.shape)
            metrics[f"{name}/reward"] = float(reward.mean())
            if not math.isfinite(metrics[f"{name}/reward"]):
                raise NonFiniteLoss(f"what the reward model {name!r} pays is not finite")
            if stream.normalise:
                ends = rollout.done if stream.episodic else None
                reward = self.scales[name].scale(reward, ends)
            rewards.append(reward)
            metrics |= _taught(name, stream.model, transitions)
        return rewards, metrics

    def _discount(self, stream: Stream) -> float:
        return self.discount if stream.discount is None else stream.discount

    def _advantage(
        self, rollout: Rollout, reward: Tensor, i: int, discount: float, *, episodic: bool
    ) -> Tensor:
        never = torch.zeros_like(rollout.done)
        return gae(
            reward,
            rollout.values[..., i],
            (rollout.next_values if episodic else rollout.following)[..., i],
            rollout.terminated if episodic else never,
            rollout.done if episodic else never,
            discount=discount,
            trace=self.trace,
        )


def _taught(name: str, model: RewardModel, transitions: Transitions) -> dict[str, float]:
    try:
        with torch.enable_grad():
            learnt = model.update(transitions)
    except NonFiniteLoss as error:
        raise NonFiniteLoss(f"the reward model {name!r}: {error}") from error
    return {f"{name}/{key}": value for key, value in learnt.items()}


def _checked(name: str, reward: Tensor, transitions: Transitions) -> Tensor:
    if reward.shape != (len(transitions),):
        raise ValueError(
            f"the reward model {name!r} must pay each of {len(transitions)} steps, "
            f"got shape {tuple(reward.shape)}"
        )
    return reward.detach()

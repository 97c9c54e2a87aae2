"""The one loop that steps a world for a learner, and what becomes of the rewards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlgen.agents.actions import within_bounds
from rlgen.agents.policy import ActorCritic
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Stateful
from rlgen.envs.world import Step, World


@dataclass(frozen=True)
class Rollout:
    """T steps of B copies of a world; time comes first.

    Attributes:
        obs: what was seen, with shape (T, B, *observation).
        action: what was done, with shape (T, B, *action).
        log_prob: of each action under the policy that chose it, with shape (T, B).
        values: of each observation, with shape (T, B, streams).
        reward: of the world, with shape (T, B).
        next_obs: what each step led to, ends of episodes included, with shape (T, B, *observation).
        next_values: of those, with shape (T, B, streams).
        following: values of what was seen next, which after an end is a new episode's first
            observation; for rewards that go on across episodes.
        terminated: with shape (T, B).
        truncated: with shape (T, B).
        first: whether an observation begins an episode, with shape (T, B).
        state: memories before the first step, with shape (B, *memory).
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    values: Tensor
    reward: Tensor
    next_obs: Tensor
    next_values: Tensor
    following: Tensor
    terminated: Tensor
    truncated: Tensor
    first: Tensor
    state: Tensor

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    def transitions(self) -> Transitions:
        """All steps in one batch of T * B."""
        parts = (self.obs, self.action, self.reward, self.next_obs, self.terminated, self.truncated)
        return Transitions(*(part.flatten(0, 1) for part in parts))


class Collector:
    """Steps a world with a policy and keeps its place between calls.

    Args:
        world: what is stepped; it is reset at the first call.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.obs: Tensor | None = None
        self.state: Tensor
        self.first: Tensor

    @torch.no_grad()
    def collect(self, model: ActorCritic, steps: int) -> Rollout:
        """The next `steps` steps of every copy."""
        if self.obs is None:
            self.obs = self.world.reset()
            self.state = model.initial_state(len(self.obs))
            self.first = torch.ones(len(self.obs), dtype=torch.bool, device=self.obs.device)
        start, rows, ends = self.state, [], []
        for _ in range(steps):
            row, end = self._step(model)
            rows.append(row)
            ends.append(end)
        parts = [torch.stack(part) for part in zip(*rows, strict=True)]
        obs, action, log_prob, values, reward, next_obs, terminated, truncated, first = parts
        following = torch.cat([values[1:], model.values(self.obs, self.state)[0][None]])
        done = (terminated | truncated)[..., None]
        next_values = torch.where(done, torch.stack(ends), following)
        return Rollout(
            obs=obs,
            action=action,
            log_prob=log_prob,
            values=values,
            reward=reward,
            next_obs=next_obs,
            next_values=next_values,
            following=following,
            terminated=terminated,
            truncated=truncated,
            first=first,
            state=start,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where it is. Worlds without a `state_dict` of their own begin anew instead."""
        if self.obs is None or not isinstance(self.world, Stateful):
            return {}
        return {
            "world": self.world.state_dict(),
            "obs": self.obs,
            "state": self.state,
            "first": self.first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.obs = None
        if not state:
            return
        assert isinstance(self.world, Stateful)
        self.world.load_state_dict(state["world"])
        self.obs, self.state, self.first = (
            state[name].to(self.world.device) for name in ("obs", "state", "first")
        )

    def _step(self, model: ActorCritic) -> tuple[tuple[Tensor, ...], Tensor]:
        """One step of all copies, and the values where their episodes ended."""
        assert self.obs is not None
        obs, first = self.obs, self.first
        pi, values, state = model.act(obs, self.state)
        action = pi.sample()
        step = self.world.step(within_bounds(action, self.world.action_space))
        next_obs, end_values = _ends(model, step, state, values)
        self.obs, self.first = step.obs, step.done
        self.state = state * ~step.done[:, None]
        outcome = (step.reward, next_obs, step.terminated, step.truncated)
        return (obs, action, pi.log_prob(action), values, *outcome, first), end_values


def gae(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: float,
    trace: float,
) -> Tensor:
    """Generalised advantage estimates along time, with shape (T, B).

        delta_t = r_t + discount (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + discount trace (1 - done_t) A_{t+1}

    s'_t is what the step led to, so an episode that ran out of time is bootstrapped from its own
    last observation, and one that terminated is not.

    References:
        John Schulman, Philipp Moritz, Sergey Levine, Michael Jordan and Pieter Abbeel.
        High-Dimensional Continuous Control Using Generalized Advantage Estimation, 2016.
        https://arxiv.org/abs/1506.02438

    Args:
        reward: with shape (T, B).
        values: V(s_t), with shape (T, B).
        next_values: V(s'_t), with shape (T, B).
        terminated: the episode ended in the task's own terms, (T, B).
        done: it ended for whatever reason, (T, B).
        discount: of rewards.
        trace: lambda; 0 trusts the values, 1 the returns.
    """
    delta = reward + discount * next_values * ~terminated - values
    keep = discount * trace * (~done).to(delta.dtype)
    advantages, following = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        following = delta[t] + keep[t] * following
        advantages[t] = following
    return advantages


def _ends(model: ActorCritic, step: Step, state: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What the step led to, and what that is worth where an episode ended.

    On a CPU only the ended rows are worked out; an accelerator does not wait to know which.
    """
    if step.obs.device.type != "cpu":
        return step.final_obs, model.values(step.final_obs, state)[0]
    ended = step.done.nonzero().squeeze(1)
    if len(ended) == 0:
        return step.obs, values
    final_obs = step.final_obs
    worth = model.values(final_obs[ended], state[ended])[0]
    return final_obs, values.index_copy(0, ended, worth)

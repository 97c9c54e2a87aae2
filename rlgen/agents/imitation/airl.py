"""Adversarial inverse reinforcement learning: the critic's form leaves a reward behind."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from rlgen.agents.imitation.adversarial import Adversary
from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.imitation.pairs import Pairs, Rows
from rlgen.agents.transitions import Transitions
from rlgen.generative import Critic, NonSaturating


class AIRL(Adversary):
    """A critic made of a reward of states, a shaping that cancels, and the agent's own policy.

        logit = f(s, s') - log pi(a|s),   f = g(s') + discount h(s') - h(s)

    The agent is paid the logit, so it maximises f and its entropy. At the game's end f is the
    expert's advantage, and g, which sees nothing but where a step leads, a reward that makes sense
    under other dynamics, up to a constant; h takes up what only shapes it. `learnt()` is g.

    References:
        Justin Fu, Katie Luo and Sergey Levine. Learning Robust Rewards with Adversarial Inverse
        Reinforcement Learning, 2018. https://arxiv.org/abs/1710.11248

    Args:
        demonstrations: of the expert.
        observation_space: of the world.
        action_space: of the world.
        log_prob: (actions, observations) -> log pi(a|s), with shape (B,): the agent's
            `policy.log_prob`, which has to be the one that learns, on the device that this computes
            on. After `load`, set `airl.log_prob` to that of the agent that was loaded.
        penalty: weight of the squared size of f, which keeps it from growing without end.
        hidden: widths of the hidden layers of g and h.
        absorbing: whether ended episodes go on in their last state.
        discount: the learner's.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: steps of the expert in each, and as many of the agent.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO, ActorCritic, Policy
        >>> from rlgen.agents.imitation import AIRL, record, shortest_paths_expert
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, goal=(11, 11), seed=0)
        >>> demonstrations = record(world, shortest_paths_expert(world), episodes=4)
        >>> spaces = world.observation_space, world.action_space
        >>> model = ActorCritic(Policy.of(*spaces), streams=2)
        >>> airl = AIRL(demonstrations, *spaces, log_prob=model.policy.log_prob)
        >>> agent = PPO(world, model=model, reward_models={"airl": airl}, world_weight=0.0)
        >>> agent = agent.learn(64 * 32, progress=False)
    """

    networks: "_RewardAndShaping"

    def __init__(
        self,
        demonstrations: Demonstrations,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        log_prob: Callable[[Tensor, Tensor], Tensor],
        penalty: float = 0.01,
        hidden: tuple[int, ...] = (64, 64),
        absorbing: bool = True,
        discount: float = 0.99,
        lr: float = 1e-3,
        updates: int = 16,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if penalty < 0.0:
            raise ValueError(f"'penalty' must not be negative, got {penalty}")
        self.log_prob, self.penalty = log_prob, penalty
        self.discrete = isinstance(action_space, gymnasium.spaces.Discrete)
        self.action_shape = tuple(action_space.shape or ())
        super().__init__(
            demonstrations,
            observation_space,
            action_space,
            networks=lambda pairs: _RewardAndShaping(pairs, hidden),
            absorbing=absorbing,
            discount=discount,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            seed=seed,
        )

    def judge(self, rows: Rows) -> Tensor:
        return self.advantage(rows) - self._log_pi(rows)

    def pay(self, logits: Tensor) -> Tensor:
        return logits

    def loss(self, expert: Rows, agent: Rows) -> tuple[Tensor, Tensor, Tensor]:
        f_expert, f_agent = self.advantage(expert), self.advantage(agent)
        real, fake = f_expert - self._log_pi(expert), f_agent - self._log_pi(agent)
        size = f_expert.square().mean() + f_agent.square().mean()
        loss = NonSaturating().critic_loss(real, fake).mean() + self.penalty * size
        return loss, real, fake

    def advantage(self, rows: Rows) -> Tensor:
        """f(s, s'), with shape (B,)."""
        here, there = self.pairs.state(rows.obs), self.pairs.state(rows.next_obs)
        f = self.networks.g(there) + self.discount * self.networks.h(there)
        shaped: Tensor = f - self.networks.h(here)
        return shaped

    def learnt(self) -> "LearntReward":
        """g as it is now, as a reward model that learns no more, for training others."""
        return LearntReward(self)

    @torch.no_grad()
    def _log_pi(self, rows: Rows) -> Tensor:
        """log pi(a|s); where the episode is over there is but one thing to do."""
        action = rows.action.argmax(1) if self.discrete else rows.action
        action = action.reshape(-1, *self.action_shape)
        log_pi = self.log_prob(action, rows.obs)
        return log_pi.masked_fill(rows.over, 0.0)


class LearntReward:
    """A reward of where steps lead, g(s'), that no longer changes.

    Args:
        airl: what learnt it.
    """

    def __init__(self, airl: AIRL) -> None:
        self.absorbing, self.discount = airl.absorbing, airl.discount
        self.pairs, self.networks = copy.deepcopy((airl.pairs, airl.networks))

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        """g where each step leads; where that is the end, of staying there for ever."""
        device = next(self.networks.parameters()).device
        paid: Tensor = self.networks.g(self.pairs.state(t.next_obs.to(device))).to(t.obs.device)
        if not self.absorbing:
            return paid
        return torch.where(t.terminated, paid / (1.0 - self.discount), paid)

    def update(self, t: Transitions) -> dict[str, float]:
        """Nothing is left to learn."""
        del t
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": dict(self.networks.state_dict()),
            "pairs": dict(self.pairs.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        self.pairs.load_state_dict(state["pairs"])


class _RewardAndShaping(nn.Module):
    """g and h, of states."""

    def __init__(self, pairs: Pairs, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.g = Critic(pairs.event_shape, hidden=hidden)
        self.h = Critic(pairs.event_shape, hidden=hidden)

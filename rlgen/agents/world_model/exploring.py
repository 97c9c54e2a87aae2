"""Looking for what is not known yet: dreams that reward it, and going there in the real world."""

from typing import Any

import torch
from torch import Tensor

from rlgen.agents.exploration.counts import HashCounts
from rlgen.agents.imitation.recording import Acts
from rlgen.agents.transitions import Transitions
from rlgen.agents.world_model.model import WorldModel
from rlgen.agents.world_model.planner import Planner
from rlgen.agents.world_model.watching import Pilot


class Untried:
    """A reward model for dreams: 1 where an action was never done at a token, and 0 elsewhere.

    What was done is what the model's episodes hold; dreaming of it does not count.

    References:
        R-max, a general polynomial time algorithm for near-optimal reinforcement learning (Brafman
        and Tennenholtz, 2002). https://www.jmlr.org/papers/v3/brafman02a.html

    Args:
        model: with episodes and with tokens; of numbers, no two are alike.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.world_model import WorldModel
        >>> from rlgen.agents.world_model.exploring import Untried
        >>> from rlgen.envs import OpenWorld
        >>> model = WorldModel.of(OpenWorld(1, size=4), symbols=16, width=16)
        >>> _ = model.collect(OpenWorld(16, size=4, seed=0), 16).fit(vision_steps=5, memory_steps=5)
        >>> explorer = PPO(model.dream(8, seed=0), reward_models={"untried": Untried(model)})
    """

    def __init__(self, model: WorldModel) -> None:
        if model.data is None or model.vision.symbols is None:
            raise ValueError("'model' must have episodes, and tokens for latents")
        self.width, self.actions = model.vision.features_size, model.memory.actions
        self.hashes = HashCounts(bits=63)
        done = model.data.transitions()
        seen = model.vision.features(model.vision.encode(done.obs))
        self.known = self._keys(seen, done.action).unique()

    def reward(self, t: Transitions) -> Tensor:
        return (~torch.isin(self._keys(t.obs, t.action), self.known)).to(torch.float32)

    def update(self, t: Transitions) -> dict[str, float]:
        """Nothing is learnt from dreams; says how much of them was untried."""
        return {"untried": float(self.reward(t).mean())}

    def state_dict(self) -> dict[str, Any]:
        return {"known": self.known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known = state["known"].to(self.known.device)

    def _keys(self, features: Tensor, action: Tensor) -> Tensor:
        return self.hashes.keys(features[:, : self.width]) * self.actions + action


class Wandering:
    """An agent that follows another for a while in each episode, and then chance.

    One that heads for what is not known has no plan of its own from there on. Of an agent that
    needs a `Pilot`, wrap the agent: the pilot has to know what was really done. So does a
    `Planner`, which cannot be told.

    Args:
        agent: with `act`; no `Pilot` and no `Planner`.
        actions: how many there are.
        longest: the other is followed for up to so many steps, drawn for each episode.
    """

    def __init__(self, agent: Acts, actions: int, *, longest: int) -> None:
        if longest < 1:
            raise ValueError(f"'longest' must be positive, got {longest}")
        if isinstance(agent, Pilot | Planner):
            kind = type(agent).__name__
            raise TypeError(f"'agent' must remember what was done, and a {kind} what it chose")
        self.agent, self.actions, self.longest = agent, actions, longest

    def act(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = False,
    ) -> tuple[Tensor, Any]:
        """Actions along episodes; see `Learner.act`."""
        inner, left = (None, None) if state is None else state
        action, inner = self.agent.act(obs, inner, episode_start, deterministic=deterministic)
        drawn = self.longest * torch.rand(len(action), device=action.device)
        if left is None:
            left = drawn
        elif episode_start is not None:
            left = torch.where(episode_start, drawn, left)
        chance = torch.randint_like(action, self.actions)
        return torch.where(left > 0, action, chance), (inner, left - 1)

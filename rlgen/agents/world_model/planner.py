"""Acting by planning in the model: the cross-entropy method over sequences of actions."""

from typing import Any

import torch
from torch import Tensor

from rlgen.agents.planning import cross_entropy
from rlgen.agents.transitions import flat
from rlgen.agents.world_model.memory import Memory
from rlgen.agents.world_model.vision import Vision
from rlgen.agents.world_model.watching import remembered
from rlgen.seeding import drawing_from, mix


class Planner:
    """Plans anew before each action, and does the first action of the plan.

    The last plans are judged by several draws of M each: one draw says who was lucky.
    It has `act` as learners do, over a world's own observations; nothing is learnt.

    Args:
        vision: V.
        memory: M, whose draws the plans are judged by.
        horizon: actions in one plan.
        candidates: plans in each round.
        elites: the best of them, which the next round is drawn from.
        rounds: of drawing and choosing.
        discount: of the rewards that M foresees.
        seed: of the draws.

    Example:
        >>> from rlgen.agents.world_model import Memory, Planner, Vision
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(2, size=4, seed=0)
        >>> vision = Vision.of(world.observation_space, symbols=16)
        >>> planner = Planner(vision, Memory.of(1, symbols=16, actions=4, width=16), horizon=4)
        >>> planner.act(world.reset())[0].shape
        torch.Size([2])
    """

    def __init__(
        self,
        vision: Vision,
        memory: Memory,
        *,
        horizon: int = 20,
        candidates: int = 128,
        elites: int = 16,
        rounds: int = 4,
        discount: float = 0.97,
        seed: int = 0,
    ) -> None:
        self.vision, self.memory, self.discount, self.seed = vision, memory, discount, seed
        self.search = {"candidates": candidates, "elites": elites, "rounds": rounds}
        self.horizon = horizon
        self._calls = 0

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Any]:
        """The first action of each copy's plan, and the state for the next call."""
        del deterministic
        z = self.vision.encode(flat(obs))
        memory = remembered(self.memory, z, state, episode_start)
        self._calls += 1
        with drawing_from(mix(self.seed, self._calls)):
            plan = cross_entropy(
                lambda plans: self._worth(z, memory, plans),
                len(z),
                horizon=self.horizon,
                actions=self.memory.actions,
                **self.search,
            )
        action = plan[:, 0].to(z.device)
        return action, (memory, z, action)

    def _worth(self, z: Tensor, memory: Tensor, plans: Tensor) -> Tensor:
        """The discounted return that M foresees for plans (B, candidates, horizon)."""
        count = plans.shape[1]
        z, memory = z.repeat_interleave(count, 0), memory.repeat_interleave(count, 0)
        total = torch.zeros(len(z), device=z.device)
        alive = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for t, action in enumerate(plans.to(z.device).flatten(0, 1).unbind(1)):
            memory = self.memory.step(z, action, memory)
            ahead = self.memory.foresee(memory)
            total += self.discount**t * ahead.reward * alive
            alive &= ~ahead.terminated
            z = ahead.z
        worth: Tensor = total.unflatten(0, (-1, count))
        return worth

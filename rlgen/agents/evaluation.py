"""How well a policy does: over the episodes it learns from, and when it is held still."""

import math
from typing import Any

import torch
from torch import Tensor

from rlgen.agents.actions import within_bounds
from rlgen.agents.policy import ActorCritic
from rlgen.agents.rollout import Rollout
from rlgen.envs.world import World
from rlgen.seeding import drawing_from, mix


@torch.no_grad()
def evaluate(
    model: ActorCritic,
    world: World,
    episodes: int = 100,
    *,
    deterministic: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Returns and lengths of so many whole episodes.

    How many of them each copy of the world plays is settled beforehand. To count the first ones to
    end, whichever copy they are of, would favour short episodes.

    Args:
        model: what acts; its memory begins anew with each episode.
        world: reset with `seed`, and left somewhere within an episode.
        episodes: how many. Copies play equally many, or one more.
        deterministic: act by the mode of the policy instead of by a sample.
        seed: of the world and of the actions.

    Returns:
        The means of "return" and "length", "return_error" (the standard error of the return; of
        one episode, nan) and "success", the share of episodes with a return above 0, for worlds
        that pay for success alone.

    Example:
        >>> from rlgen.agents import ActorCritic, Policy
        >>> from rlgen.agents.evaluation import evaluate
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(4, size=3, start=(0, 0), goal=(2, 2), max_steps=9)
        >>> model = ActorCritic(Policy.of(world.observation_space, world.action_space))
        >>> evaluate(model, world, 10, deterministic=False)["length"] <= 9
        True
    """
    if episodes < 1:
        raise ValueError(f"'episodes' must be positive, got {episodes}")
    with drawing_from(mix(seed, 2)):
        played = _play(model, world, episodes, deterministic, seed)
    returns, lengths = played.cpu()
    error = float(returns.std()) / math.sqrt(episodes) if episodes > 1 else math.nan
    return {
        "return": float(returns.mean()),
        "return_error": error,
        "length": float(lengths.mean()),
        "success": float((returns > 0).double().mean()),
    }


def _play(
    model: ActorCritic, world: World, episodes: int, deterministic: bool, seed: int
) -> Tensor:
    """Returns and lengths, with shape (2, episodes)."""
    copies, device = world.num_envs, world.device
    left = (episodes + torch.arange(copies, device=device)) // copies
    present = torch.zeros(2, copies, dtype=torch.float64, device=device)
    obs, state, played = world.reset(seed), model.initial_state(copies), []
    while bool((left > 0).any()):
        pi, _, state = model.act(obs, state)
        action = pi.mode if deterministic else pi.sample()
        step = world.step(within_bounds(action, world.action_space))
        present = present + torch.stack([step.reward.double(), torch.ones_like(present[1])])
        done = step.done
        played.append(present[:, done & (left > 0)])
        left, present = left - done.long(), present * ~done
        obs, state = step.obs, state * ~done[:, None]
    return torch.cat(played, dim=1)


class Episodes:
    """Returns and lengths of the episodes that ended lately.

    Args:
        count: of copies of the world.
        device: where their rewards are.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.returns = torch.zeros(count, device=device)
        self.lengths = torch.zeros(count, device=device)
        self.last: dict[str, float] = {}

    def note(self, rollout: Rollout) -> None:
        """Go on with the steps of a rollout."""
        ended = torch.zeros(3, device=self.returns.device)
        for reward, done in zip(rollout.reward, rollout.done, strict=True):
            # not in place: a state that was taken stays as it is
            self.returns, self.lengths = self.returns + reward, self.lengths + 1
            ended += torch.stack(
                [done.sum(), (self.returns * done).sum(), (self.lengths * done).sum()]
            )
            self.returns, self.lengths = self.returns * ~done, self.lengths * ~done
        count, total, length = ended.tolist()
        if count:
            self.last = {"episode/return": total / count, "episode/length": length / count}

    def metrics(self) -> dict[str, float]:
        return dict(self.last)

    def state_dict(self) -> dict[str, Any]:
        return {"returns": self.returns, "lengths": self.lengths, "last": dict(self.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.returns, self.lengths = state["returns"], state["lengths"]
        self.last = dict(state["last"])

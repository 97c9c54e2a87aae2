"""What critics of imitation see: states with actions, and what follows the end of an episode."""

from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor, nn

from rlgen.agents.actions import action_numbers, action_width, within_bounds
from rlgen.agents.standardised import Standardised
from rlgen.agents.transitions import Transitions


class Rows(NamedTuple):
    """Steps as a critic is shown them, each tensor with one leading dimension.

    Attributes:
        obs: what was seen.
        action: what was done, in numbers; zeros where the episode is `over`.
        next_obs: what the step led to.
        over: the episode had ended, and the step leads from its last state to itself.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    over: Tensor

    def take(self, index: Tensor) -> "Rows":
        return Rows(*(part.index_select(0, index) for part in self))

    def draw(self, count: int) -> "Rows":
        """So many, at random, with replacement."""
        return self.take(torch.randint(len(self.over), (count,), device=self.over.device))

    def to(self, device: torch.device) -> "Rows":
        return Rows(*(part.to(device) for part in self))


class Pairs(nn.Module):
    """States as the x of a `Critic`, actions as its context.

    Pictures stay pictures, everything else is flattened, and all is standardised. Actions are
    one-hot, or numbers within the bounds of their Box. The last number of a context says that the
    episode is over, where nothing can be done any more.

    Args:
        observation_space: a Box or a Dict.
        action_space: Discrete or a Box.
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> None:
        super().__init__()
        self.standardised = Standardised(observation_space, pictures=True)
        self.event_shape = self.standardised.shape
        self.actions = action_width(action_space)
        self.context_shape = torch.Size([self.actions + 1])
        self.action_space = action_space

    def steps(self, t: Transitions) -> Rows:
        """All steps, with actions as numbers."""
        numbers = action_numbers(within_bounds(t.action, self.action_space), self.actions)
        return Rows(t.obs, numbers, t.next_obs, torch.zeros_like(t.terminated))

    def after(self, t: Transitions) -> Rows:
        """What follows each episode that was terminated: its last state, again and again."""
        ended = t.terminated.nonzero().squeeze(1)
        last = t.next_obs.index_select(0, ended)
        nothing = torch.zeros(len(last), self.actions, device=last.device)
        return Rows(last, nothing, last, torch.ones_like(ended, dtype=torch.bool))

    def rows(self, t: Transitions, *, absorbing: bool) -> Rows:
        """All steps and, if ended episodes go on, one step of what follows each."""
        if not absorbing:
            return self.steps(t)
        both = zip(self.steps(t), self.after(t), strict=True)
        return Rows(*(torch.cat(parts) for parts in both))

    def state(self, obs: Tensor) -> Tensor:
        """Observations as x, with shape (B, *event_shape)."""
        x: Tensor = self.standardised(obs)
        return x

    def context(self, rows: Rows) -> Tensor:
        """Actions and whether it is over, with shape (B, actions + 1)."""
        return torch.cat([rows.action, rows.over[:, None].to(rows.action.dtype)], dim=1)

    def note(self, rows: Rows) -> None:
        """Learn the scale of what is seen."""
        self.standardised.note(rows.obs)

"""What bonuses with networks of their own share: spaces, actions as numbers, gradient steps."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.agents.exploration.memory import Rehearsal
from rlgen.agents.observations import Features
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable
from rlgen.seeding import drawing_from, mix

_CLIP_NORM = 5.0


class NetworkBonus(Configurable, ABC):
    """A bonus that networks work out; they learn after it is read, from fresh and earlier steps.

    The networks compute on the device they are on, and are on the CPU until
    `bonus.networks.to(device)` moves them, before the first update.

    Args:
        networks: all that is learnt, and what is saved with it.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those.
        memory: steps kept to learn from, a uniform sample of all.
        seed: of everything random.
    """

    def __init__(
        self,
        networks: nn.Module,
        *,
        lr: float,
        updates: int,
        batch_size: int,
        memory: int,
        seed: int,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"'lr' must be positive, got {lr}")
        self.networks, self.seed = networks, seed
        self.rehearsal = Rehearsal(updates=updates, batch_size=batch_size, memory=memory, seed=seed)
        self.learnt = [p for p in networks.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.learnt, lr=lr)

    @abstractmethod
    def bonus(self, t: Transitions) -> Tensor:
        """What each step is worth, with shape (B,); gradients are off."""

    @abstractmethod
    def rows(self, t: Transitions) -> tuple[Tensor, ...]:
        """What is kept of steps, to learn from."""

    @abstractmethod
    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        """What a gradient step makes smaller, by name; their sum counts."""

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        return self.bonus(self.placed(t)).to(t.obs.device)

    def update(self, t: Transitions) -> dict[str, float]:
        """Keep the steps in memory, and take some gradient steps on them and on earlier ones."""
        figures = dict[str, float]()
        for batch in self.rehearsal.batches(*self.rows(self.placed(t))):
            with drawing_from(mix(self.seed, 1, self.rehearsal.drawn)):
                losses = self.losses(*batch)
            self.optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            nn.utils.clip_grad_norm_(self.learnt, _CLIP_NORM, error_if_nonfinite=True)
            self.optimizer.step()
            figures = {name: float(loss.detach()) for name, loss in losses.items()}
        return figures

    def placed(self, t: Transitions) -> Transitions:
        """The steps on the networks' device."""
        device = self.learnt[0].device
        if t.obs.device == device:
            return t
        parts = (t.obs, t.action, t.reward, t.next_obs, t.terminated, t.truncated)
        return Transitions(*(part.to(device) for part in parts))

    def state_dict(self) -> dict[str, Any]:
        state = {
            "networks": dict(self.networks.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "rehearsal": self.rehearsal.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # or optimisers would share what they change in place
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rehearsal.load_state_dict(state["rehearsal"])


def features_of(space: gymnasium.Space[Any]) -> Features:
    """The features of a Box of observations."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"observations must be arrays (a Box), got {space}")
    return Features(space.shape, getattr(torch, str(space.dtype)))


def action_width(space: gymnasium.Space[Any]) -> int:
    """How many numbers `action_numbers` makes of an action."""
    if isinstance(space, gymnasium.spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"discrete actions must begin at 0, got {space}")
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box):
        return int(torch.Size(space.shape).numel())
    raise ValueError(f"actions must be Discrete or Box, got {space}")


def action_numbers(action: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Actions as vectors (B, width): integers (B,) one-hot, all others flat."""
    if action.is_floating_point():
        flat = action.reshape(len(action), -1)
        if flat.shape[1] != width:
            raise ValueError(f"actions must hold {width} numbers, got {flat.shape[1]}")
        return flat.to(dtype)
    if action.numel() != len(action):
        raise ValueError(f"discrete actions must have shape (B,), got {tuple(action.shape)}")
    return F.one_hot(action.reshape(-1).long(), width).to(dtype)

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
from rlgen.agents.transitions import Transitions, flat_space
from rlgen.checkpoint import Configurable
from rlgen.seeding import drawing_from, mix

_CLIP_NORM = 5.0
_FARTHEST = 5.0  # deviations
_GATES = 2.0  # deviation of what actions multiply hidden units by, at first


class NetworkBonus(Configurable, ABC):
    """A bonus that networks work out; they learn after it is read, from fresh and earlier steps.

    The networks compute on the device they are on, and are on the CPU until
    `bonus.networks.to(device)` moves them, before the first update.

    Args:
        networks: all that is learnt, and what is saved with it.
        inputs: the part of `networks` that observations come in by.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those.
        memory: steps kept to learn from, a uniform sample of all.
        seed: of everything random.
    """

    def __init__(
        self,
        networks: nn.Module,
        inputs: "Standardised",
        *,
        lr: float,
        updates: int,
        batch_size: int,
        memory: int,
        seed: int,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"'lr' must be positive, got {lr}")
        self.networks, self.inputs, self.seed = networks, inputs, seed
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
        bonus: Tensor = self.bonus(self.placed(t))
        return bonus.to(t.obs.device)

    def update(self, t: Transitions) -> dict[str, float]:
        """Keep the steps in memory, and take some gradient steps on them and on earlier ones."""
        t, figures = self.placed(t), dict[str, float]()
        self.inputs.note(t.next_obs)
        for batch in self.rehearsal.batches(*self.rows(t)):
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


class Standardised(nn.Module):
    """Features of observations, by the mean and deviation of all that were noted.

    A network is slow to tell one-hot vectors apart unless their entries have about unit variance.
    Before any were noted, a batch is measured by itself.

    Args:
        space: of observations, a Box or a Dict. Pictures go through fixed random convolutions.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        super().__init__()
        self.features = features_of(space).requires_grad_(False)
        self.width = self.features.width
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("variance", torch.ones(self.width))

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *observation) -> (B, width), none beyond five deviations."""
        x = self.features(obs)
        noted = self.count > 0
        mean = torch.where(noted, self.mean, x.mean(0))
        variance = torch.where(noted, self.variance, x.var(0, unbiased=False))
        scaled: Tensor = (x - mean) / (variance + 1e-6).sqrt()
        return scaled.clamp(-_FARTHEST, _FARTHEST)

    @torch.no_grad()
    def note(self, obs: Tensor) -> None:
        """Chan's update of count, mean and variance."""
        x = self.features(obs)
        self.count += len(x)
        share = (len(x) / self.count).to(x.dtype)
        gap = x.mean(0) - self.mean
        spread = x.var(0, unbiased=False) + (1 - share) * gap.square()
        self.variance.lerp_(spread, share)
        self.mean += share * gap


class ForwardModels(nn.Module):
    """Networks that predict what follows a state and an action, several computed as one.

        f_m(x, a) = C_m [silu(A_m x + b_m) * (B_m a + 1)] + c_m

    Actions gate the hidden units, so what one action does is learnt apart from the others; where
    both are inputs of the first layer, tables of states and actions take ten times the steps.

    Args:
        inputs: numbers in x.
        actions: numbers in a.
        outputs: numbers predicted.
        members: networks.
        hidden: units of each.
    """

    def __init__(
        self, inputs: int, actions: int, outputs: int, *, members: int = 1, hidden: int = 256
    ) -> None:
        super().__init__()
        self.into = nn.Parameter(_uniform(members, inputs, hidden))
        self.into_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.gates = nn.Parameter(_GATES * torch.randn(members, actions, hidden))
        self.out = nn.Parameter(_uniform(members, hidden, outputs))
        self.out_bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """(B, inputs) and (B, actions) -> (members, B, outputs)."""
        members = len(self.into)
        state = torch.baddbmm(self.into_bias, x.expand(members, *x.shape), self.into)
        gates = torch.matmul(action, self.gates) + 1.0
        predicted: Tensor = torch.baddbmm(self.out_bias, F.silu(state) * gates, self.out)
        return predicted


def features_of(space: gymnasium.Space[Any]) -> Features:
    """The features of observations: of a Box, or of a Dict, which transitions hold flattened."""
    box = flat_space(space)
    return Features(box.shape, getattr(torch, str(box.dtype)))


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


def _uniform(members: int, inputs: int, outputs: int) -> Tensor:
    """Weights as `nn.Linear` has them at first, with shape (members, inputs, outputs)."""
    bound: float = inputs**-0.5
    return (2.0 * torch.rand(members, inputs, outputs) - 1.0) * bound

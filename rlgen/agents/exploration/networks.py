"""What bonuses with networks of their own share: predictions, and gradient steps."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.agents.exploration.memory import Rehearsal
from rlgen.agents.standardised import Standardised
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable
from rlgen.seeding import drawing_from, mix

_CLIP_NORM = 5.0
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
        inputs: Standardised,
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
        return t.to(self.learnt[0].device)

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


def _uniform(members: int, inputs: int, outputs: int) -> Tensor:
    """Weights as `nn.Linear` has them at first, with shape (members, inputs, outputs)."""
    bound: float = inputs**-0.5
    return (2.0 * torch.rand(members, inputs, outputs) - 1.0) * bound

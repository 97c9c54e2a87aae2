"""Policies drawn from a distribution over policies, and what they are made of and compared by."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from rlgen.agents.latent import Latent, LatentPolicy
from rlgen.envs.tabular import TabularGrid
from rlgen.generative.functions import Prior, Scoring
from rlgen.generative.functions.comparisons import Function


class Policies:
    """Policies that were drawn once, each known by its z.

    Attributes:
        z: their codes, with shape (n, *shape of z).
    """

    def __init__(self, world: Latent, policy: LatentPolicy, z: Tensor) -> None:
        self.world, self.policy, self.z = world, policy, z

    def __len__(self) -> int:
        return len(self.z)

    @torch.no_grad()
    def __call__(self, obs: Tensor) -> Distribution:
        """pi_z(. | o) of each at each observation (m, *observation), with batch shape (n, m)."""
        seen = self.world.features.scaled(obs.to(self.z.device)).flatten(1)
        return self.policy.given(seen, self.world.prior.features(self.z))

    def table(self, world: TabularGrid) -> Tensor:
        """pi_z(a | s) in every cell of a world with the same observations, (n, cells, actions)."""
        pi = self(world.views())
        assert isinstance(pi, Categorical)
        probs: Tensor = pi.probs
        return probs

    def between(self, steps: int) -> "Policies":
        """`steps` policies on the straight line in z from the first to the last."""
        if not self.z.is_floating_point():
            raise ValueError("symbols have nothing between them")
        if steps < 2:
            raise ValueError(f"'steps' must be at least 2, got {steps}")
        t = torch.linspace(0.0, 1.0, steps, device=self.z.device)
        return Policies(self.world, self.policy, torch.lerp(self.z[:1], self.z[-1:], t[:, None]))


class PolicyFunction(nn.Module):
    """The function of each z: from states to the probabilities of actions, or to their means.

    Args:
        policy: whose weights these are; they are not this module's own.
        prior: of z.
    """

    def __init__(self, policy: LatentPolicy, prior: Prior) -> None:
        super().__init__()
        self._policy, self._prior = [policy], [prior]
        shape = policy.event_shape
        # discrete actions have one probability each
        self.outputs = policy.head.size(()) if not shape else shape.numel()

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        """z (B, *shape of z), states (B, m, numbers) -> (B, m, outputs)."""
        (policy,), (prior,) = self._policy, self._prior
        if points.stride(0) == 0:  # the same for all: looked at once
            points = points[:1]
        outputs = policy.outputs(points, prior.features(z))
        pi = policy.head(outputs, tuple(policy.event_shape))
        return pi.probs if isinstance(pi, Categorical) else pi.mean.flatten(2)


class SquaredDistance(Scoring):
    """Scores each candidate by -|f - f_z|^2 / 2 s^2: the likelihood of f under normal noise.

    What all candidates have in common is left out, and all pairs are one product of matrices.

    Args:
        scale: s.

    Example:
        >>> import torch
        >>> from rlgen.agents.policies import SquaredDistance
        >>> from rlgen.generative import functions
        >>> f, points = torch.randn(5, 7), torch.randn(1, 7, 1)
        >>> z = torch.randn(1, 16, 2)
        >>> SquaredDistance(0.3)(f, points, functions.FunctionMLP(2), z).shape
        torch.Size([5, 16])
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"'scale' must be positive, got {scale}")
        self.scale = scale

    def forward(self, f: Tensor, points: Tensor, function: Function, z: Tensor) -> Tensor:
        sets, candidates = z.shape[:2]
        f = f.flatten(1)
        if sets == 1:
            made = function(z[0], points.expand(candidates, *points.shape[1:])).flatten(1)
            near = f @ made.T - 0.5 * made.square().sum(1)
        else:
            each = points[:, None].expand(sets, candidates, *points.shape[1:]).flatten(0, 1)
            made = function(z.flatten(0, 1), each).flatten(1).unflatten(0, (sets, candidates))
            near = (made * f[:, None]).sum(2) - 0.5 * made.square().sum(2)
        scores: Tensor = (near - 0.5 * f.square().sum(1, keepdim=True)) / self.scale**2
        return scores


class Replay:
    """What was seen lately.

    Args:
        capacity: how many observations; a new one takes the place of the oldest.
        always: these instead, whatever is seen.
    """

    def __init__(self, capacity: int, always: Tensor | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"'capacity' must be positive, got {capacity}")
        self.capacity, self.always = capacity, always
        self.kept: Tensor | None = None
        self.count = 0

    def note(self, obs: Tensor) -> None:
        """Keep a batch of flat observations (B, numbers)."""
        if self.always is not None:
            return
        obs = obs[-self.capacity :]
        if self.kept is None:
            self.kept = obs.new_zeros(self.capacity, obs.shape[1])
        places = (self.count + torch.arange(len(obs), device=obs.device)) % self.capacity
        self.kept[places] = obs
        self.count += len(obs)

    def draw(self, n: int) -> Tensor:
        """`n` of them, with shape (n, numbers)."""
        if self.always is not None:
            return self.always
        if self.kept is None:
            raise ValueError("nothing was seen yet: 'learn' comes first")
        return self.kept[torch.randint(min(self.count, self.capacity), (n,))]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": None if self.kept is None else self.kept.clone(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        kept = state["kept"]
        self.kept = None if kept is None else kept.to(device, copy=True)
        self.count = state["count"]

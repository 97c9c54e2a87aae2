"""Policies drawn from a distribution over policies."""

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from rlgen.agents.latent import Latent, LatentPolicy
from rlgen.envs.tabular import TabularGrid


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

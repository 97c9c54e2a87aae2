"""Policies drawn from a distribution over policies."""

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from rlgen.agents.actions import within_bounds
from rlgen.agents.latent import Latent, LatentPolicy
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import World
from rlgen.generative.functions.vfunc import line
from rlgen.seeding import drawing_from, mix


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

    def __getitem__(self, index: Tensor | slice) -> "Policies":
        """Some of them."""
        return Policies(self.world, self.policy, self.z[index])

    @torch.no_grad()
    def played(
        self, world: World, episodes: int = 1, *, deterministic: bool = True, seed: int = 0
    ) -> Tensor:
        """The return of each, from so many whole episodes of its own, with shape (n, episodes).

        It needs no gradient to adapt: in a world that has changed, this finds the policies that
        still do well.

        Args:
            world: with one copy for each policy, and observations as they were learnt from.
            episodes: of each.
            deterministic: act by the mode of each policy instead of by a sample.
            seed: of the world and of the actions.
        """
        if world.num_envs != len(self):
            raise ValueError(f"'world' must have {len(self)} copies, got {world.num_envs}")
        if episodes < 1:
            raise ValueError(f"'episodes' must be positive, got {episodes}")
        latent = Latent(world, self.world.prior, z=self.z)
        returns = torch.zeros(len(self), episodes, device=world.device)
        number = torch.zeros(len(self), dtype=torch.long, device=world.device)
        every = torch.arange(len(self), device=world.device)
        with drawing_from(mix(seed, 2)):
            obs = latent.reset(seed)
            while bool((number < episodes).any()):
                pi = self.policy.distribution(obs)
                action = pi.mode if deterministic else pi.sample()
                step = latent.step(within_bounds(action, world.action_space))
                going = (number < episodes).to(returns.dtype)
                returns[every, number.clamp_max(episodes - 1)] += step.reward * going
                obs, number = step.obs, number + step.done.long()
        return returns

    def arriving(
        self,
        world: World,
        episodes: int = 1,
        *,
        least: float = 0.0,
        deterministic: bool = True,
        seed: int = 0,
    ) -> "Policies":
        """Those that earn more than `least` in each of so many episodes, the best ones first.

        Where `fit` of n policies do so, trying one after the other finds the first of them after
        (n + 1) / (fit + 1) of them on average.

        Args:
            world: as in `played`.
            episodes: of each policy.
            least: a return; 0 is that of those who never arrive, where only that is paid.
            deterministic: act by the mode of each policy instead of by a sample.
            seed: of the world and of the actions.

        Example:
            >>> from rlgen.agents import VFunc
            >>> from rlgen.envs import OpenWorld
            >>> world = OpenWorld(64, size=3, start=(0, 0), seed=0)
            >>> agent = VFunc(world, settings={"steps": 8}, seed=0).learn(4096, progress=False)
            >>> fit = agent.sample_policies(64).arriving(world.blocked((1, 1)))
            >>> len(fit) <= 64  # by one episode of each, and no gradient step
            True
        """
        returns = self.played(world, episodes, deterministic=deterministic, seed=seed)
        best = returns.mean(1).argsort(descending=True, stable=True)
        return self[best[(returns > least).all(1)[best]]]

    def between(self, steps: int) -> "Policies":
        """`steps` policies on the straight line in z from the first to the last."""
        return Policies(self.world, self.policy, line(self.z, steps))

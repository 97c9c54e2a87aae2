"""Inverse reinforcement learning: the reward under which an expert's choices are likely."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents.imitation import measures
from rlgen.agents.transitions import Transitions
from rlgen.envs.tabular import MDP, TabularGrid

if TYPE_CHECKING:
    from rlgen.agents.imitation.demonstrations import Demonstrations


class MaxEntIRL:
    """Maximum-entropy inverse reinforcement learning, exact in a world of cells.

    The expert is taken for the best soft policy of a reward r = w . phi(s, a), and w makes what it
    did as likely as can be. That is the dual of matching features with the most random policy:

        L(w) = E_expert[r] - log Z,  log Z = (1 - discount) E[V(s_0)] with the soft values V of r
        dL/dw = E_expert[phi] - E_policy[phi],  under discounted shares of time

    L is concave and found by L-BFGS. Only what the reward makes one do is recovered: rewards that
    differ by shaping, or where the expert never chooses, are not told apart. An ended episode is
    worth 0 from then on, so rewards are comparable with a learner's, which thinks the same.

    It pays a learner too: it is a `RewardModel`, whose soft policy has temperature 1.

    References:
        | Maximum Entropy Inverse Reinforcement Learning (Ziebart, Maas, Bagnell and Dey, 2008)
        | https://cdn.aaai.org/AAAI/2008/AAAI08-227.pdf

    Args:
        expert: demonstrations, or the exact occupancy (S, A) of a policy in `world`.
        world: known in all; its goal must stay. Where demonstrations begin is taken from them.
        features: phi, with shape (S, A, K) or (S, K); None for one of each (s, a).
        discount: of time.
        decay: times half of |w|^2 is taken off L. An expert who never errs would need an infinite
            reward; this one stays finite.

    Example:
        >>> from rlgen.agents.imitation.experts import shortest_paths_expert
        >>> from rlgen.agents.imitation.inverse import MaxEntIRL
        >>> from rlgen.agents.imitation.measures import total_variation
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(1, size=4, start=(0, 0))
        >>> expert = shortest_paths_expert(world).occupancy(0.9)
        >>> irl = MaxEntIRL(expert, world, discount=0.9).fit()
        >>> total_variation(irl.occupancy(), expert) < 0.01
        True
    """

    def __init__(
        self,
        expert: "Demonstrations | Tensor",
        world: TabularGrid,
        *,
        features: Tensor | None = None,
        discount: float = 0.99,
        decay: float = 1e-6,
    ) -> None:
        if decay < 0.0:
            raise ValueError(f"'decay' must not be negative, got {decay}")
        self.world, self.discount, self.decay = world, discount, decay
        self.expert, self.mdp = known(expert, world, discount)
        self.features = as_features(features, self.mdp)
        self._going = (~self.mdp.terminal).double()[:, None]
        self.weights = torch.zeros(self.features.shape[2], dtype=torch.float64)

    def fit(self, steps: int = 200, *, tolerance: float = 1e-7) -> Self:
        """Ascend L until all features match within `tolerance`, for at most so many steps."""
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        weights = self.weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=steps,
            max_eval=5 * steps,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def descend() -> float:
            value, slope = self.objective(weights)
            weights.grad = -slope
            return -float(value)

        optimizer.step(descend)
        self.weights = weights.detach()
        return self

    @torch.no_grad()
    def objective(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """L(w), and its gradient, with shape (K,)."""
        reward = self._table(weights)
        plan = self._plan(reward)
        share = planning.occupancy(self.mdp, plan.policy, discount=self.discount)
        log_z = (1.0 - self.discount) * (self.mdp.start @ plan.value)
        value = (self.expert * reward).sum() - log_z - 0.5 * self.decay * weights @ weights
        gap = (self.expert - share) * self._going
        slope = torch.einsum("sa,sak->k", gap, self.features) - self.decay * weights
        return value, slope

    def table(self) -> Tensor:
        """r(s, a), with shape (S, A); 0 where the episode is over."""
        return self._table(self.weights)

    def policy(self) -> Tensor:
        """The soft policy of the reward that was found, pi(a|s), with shape (S, A)."""
        return self._plan(self.table()).policy

    def occupancy(self) -> Tensor:
        """The discounted share of time of that policy in the world, from the world's own start."""
        return measures.occupancy(self.world.mdp(), self.policy(), discount=self.discount)

    def reward(self, t: Transitions) -> Tensor:
        """What each step is worth, with shape (B,)."""
        cell = measures.cells(t.obs, self.world)
        return self.table()[cell, t.action.long().cpu()].float().to(t.obs.device)

    def update(self, t: Transitions) -> dict[str, float]:
        """Nothing is learnt from what others do."""
        del t
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["weights"].shape != self.weights.shape:
            raise ValueError(
                f"'weights' must have shape {tuple(self.weights.shape)}, "
                f"got {tuple(state['weights'].shape)}"
            )
        self.weights = state["weights"].double().cpu()

    def _table(self, weights: Tensor) -> Tensor:
        return (self.features @ weights) * self._going

    def _plan(self, reward: Tensor) -> planning.Plan:
        return planning.soft_value_iteration(
            self.mdp._replace(reward=reward), discount=self.discount
        )


def known(
    expert: "Demonstrations | Tensor", world: TabularGrid, discount: float
) -> tuple[Tensor, MDP]:
    """An expert's occupancy, and the process it lived in.

    Demonstrations are compared with policies that begin where they do, which is not quite where the
    world begins. A table must be an occupancy of this world from its start with this discount: what
    flows into each state flows out of it. Shares of steps that are not discounted do not pass.
    """
    mdp = world.mdp()
    if not isinstance(expert, Tensor):
        first = torch.stack([measures.cells(t.obs[:1], world)[0] for t in expert.trajectories])
        start = torch.bincount(first, minlength=world.cells).double() / len(first)
        return measures.empirical_occupancy(expert, world, discount), mdp._replace(start=start)
    shape = tuple(mdp.reward.shape)
    if tuple(expert.shape) != shape:
        raise ValueError(f"'expert' must have shape {shape}, got {tuple(expert.shape)}")
    share = expert.detach().double().cpu()
    inflow = (1.0 - discount) * mdp.start
    inflow = inflow + discount * torch.einsum("sa,saz->z", share, mdp.transition)
    off = float((inflow - share.sum(1)).abs().sum())
    if not off < 1e-4 or bool((share < -1e-9).any()):
        raise ValueError(
            "'expert' must be a discounted occupancy of this world, from its start and with "
            f"discount {discount}; what flows into states and out of them differs by {off:.2g}"
        )
    return share, mdp


def as_features(features: Tensor | None, mdp: MDP) -> Tensor:
    """phi with shape (S, A, K), in float64 on the CPU."""
    states, actions = mdp.reward.shape
    if features is None:
        return torch.eye(states * actions, dtype=torch.float64).reshape(states, actions, -1)
    phi: Tensor = features.detach().double().cpu()
    if phi.ndim == 2:
        phi = phi[:, None].expand(-1, actions, -1)
    if phi.ndim != 3 or tuple(phi.shape[:2]) != (states, actions):
        raise ValueError(
            f"'features' must have shape ({states}, {actions}, K) or ({states}, K), "
            f"got {tuple(features.shape)}"
        )
    return phi

"""Apprenticeship learning: as good as the expert under every reward that features can tell."""

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from rlgen.agents import planning
from rlgen.agents.imitation import measures
from rlgen.agents.imitation.experts import Expert
from rlgen.agents.imitation.inverse import as_features, known
from rlgen.envs.tabular import TabularGrid

if TYPE_CHECKING:
    from rlgen.agents.imitation.demonstrations import Demonstrations


class Apprenticeship:
    """Matches the expert's features with a mixture of planned policies.

    With mu(pi) = E[sum over t of discount^t phi(s_t, a_t)], the value of a policy under the reward
    w . phi is w . mu(pi). In turn:

        w = (mu_expert - mu) / |mu_expert - mu|: the reward by which the expert is ahead the most
        pi = the best policy for w, planned exactly
        mu = the point nearest to mu_expert among mixtures of all policies found so far

    The margin |mu_expert - mu| falls with each, and bounds how far the mixture can be behind:
    w . mu >= w . mu_expert - margin for every |w| <= 1. The paper projects onto the line to the new
    policy alone; the projection onto all mixtures is at least as near. A policy of the mixture is
    drawn for each episode and kept: to draw at each step would be another policy altogether.

    An ended episode goes on in its last state, which has features and may be worth something, so
    that no sign of the reward is to the advantage of short or of long episodes.

    References:
        | Apprenticeship Learning via Inverse Reinforcement Learning (Abbeel and Ng, 2004)
        | https://ai.stanford.edu/~ang/papers/icml04-apprentice.pdf
        | Finding the nearest point in a polytope (Wolfe, 1976)
        | https://doi.org/10.1007/BF01580381

    Args:
        expert: demonstrations, or the exact occupancy (S, A) of a policy in `world`.
        world: known in all; its goal must stay.
        features: phi, with shape (S, A, K) or (S, K); None for one of each (s, a).
        discount: of time.

    Example:
        >>> from rlgen.agents.imitation.apprenticeship import Apprenticeship
        >>> from rlgen.agents.imitation.experts import shortest_paths_expert
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(1, size=4, start=(0, 0))
        >>> expert = shortest_paths_expert(world).occupancy(0.9)
        >>> learner = Apprenticeship(expert, world, discount=0.9).fit()
        >>> learner.margin < 0.05
        True
        >>> action, state = learner.mixture().act(world.reset(0))
    """

    def __init__(
        self,
        expert: "Demonstrations | Tensor",
        world: TabularGrid,
        *,
        features: Tensor | None = None,
        discount: float = 0.99,
    ) -> None:
        self.world, self.discount = world, discount
        share, self.mdp = known(expert, world, discount)
        features = as_features(features, self.mdp)
        # nobody chooses after the end
        ended = features.mean(1, keepdim=True).expand_as(features)
        self.features = torch.where(self.mdp.terminal[:, None, None], ended, features)
        self.target = self._expected(share)
        even = torch.full_like(self.mdp.reward, 1.0 / self.mdp.reward.shape[1])
        self.policies = [even]
        self.weights = torch.ones(1, dtype=torch.float64)
        self._found = self._features_of(even)[None]
        self.margins = [self.margin]

    @property
    def feature_expectations(self) -> Tensor:
        """mu of the mixture, with shape (K,)."""
        return self.weights @ self._found

    @property
    def margin(self) -> float:
        """|mu_expert - mu|: the most that the mixture is behind under any reward |w| <= 1."""
        return float((self.target - self.feature_expectations).norm())

    def fit(self, iterations: int = 30, *, tolerance: float = 0.05) -> Self:
        """Add at most so many policies, until the margin is `tolerance` or cannot fall further."""
        if iterations < 1:
            raise ValueError(f"'iterations' must be positive, got {iterations}")
        for _ in range(iterations):
            if self.margin <= tolerance or not self.iterate():
                break
        return self

    def iterate(self) -> bool:
        """Add one policy; False if none comes nearer, as may be with few demonstrations."""
        if self.margin == 0.0:
            return False
        policy = self._best(self.direction())
        found = self._features_of(policy)
        if float(self.direction() @ (found - self.feature_expectations)) <= 1e-9:
            return False
        self.policies.append(policy)
        self._found = torch.cat([self._found, found[None]])
        self.weights = nearest(self._found - self.target)
        self.margins.append(self.margin)
        return True

    def direction(self) -> Tensor:
        """The reward w with |w| = 1 by which the expert is ahead of the mixture the most."""
        gap = self.target - self.feature_expectations
        unit: Tensor = gap / gap.norm()
        return unit

    def mixture(self) -> Expert:
        """Who draws one of the policies for each episode."""
        used = self.weights > 0.0
        return Expert(self.world, torch.stack(self.policies)[used], self.weights[used])

    def _best(self, weights: Tensor) -> Tensor:
        for_ever = self.mdp._replace(
            reward=self.features @ weights, terminal=torch.zeros_like(self.mdp.terminal)
        )
        return planning.value_iteration(for_ever, discount=self.discount).policy

    def _features_of(self, policy: Tensor) -> Tensor:
        return self._expected(measures.occupancy(self.mdp, policy, discount=self.discount))

    def _expected(self, share: Tensor) -> Tensor:
        return torch.einsum("sa,sak->k", share, self.features) / (1.0 - self.discount)


def nearest(points: Tensor) -> Tensor:
    """The mixture of points that is nearest to the origin: its weights, with shape (N,).

    Wolfe's method: it keeps a few points, whose nearest mixture has weights that are all positive,
    adds the point that lies furthest towards the origin, and drops those that are in the way.

    Args:
        points: with shape (N, K).

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.apprenticeship import nearest
        >>> nearest(torch.tensor([[1.0, -1.0], [1.0, 3.0], [5.0, 0.0]]).double())
        tensor([0.7500, 0.2500, 0.0000], dtype=torch.float64)
    """
    gram = points @ points.T
    precision = 1e-13 * float(gram.diagonal().max())
    kept = [int(gram.diagonal().argmin())]
    weights = torch.zeros(len(points), dtype=points.dtype)
    weights[kept[0]] = 1.0
    while True:
        slopes = gram @ weights
        new = int(slopes.argmin())
        if new in kept or float(weights @ slopes - slopes[new]) <= precision:
            return weights
        better = _reduced(gram, [*kept, new], weights)
        if float(better @ gram @ better) >= float(weights @ slopes):  # no more digits to gain
            return weights
        weights, kept = better, better.nonzero().flatten().tolist()


def _reduced(gram: Tensor, kept: list[int], weights: Tensor) -> Tensor:
    """The nearest mixture of `kept` points, without those that would have a negative weight."""
    while True:
        present, best = weights[kept], _unconstrained(gram[kept][:, kept])
        wrong = best <= 0.0
        if not bool(wrong.any()):
            return torch.zeros_like(weights).index_put((torch.tensor(kept),), best)
        steps = torch.where(wrong, present / (present - best).clamp(min=1e-300), 1.0)
        leaving = int(steps.argmin())
        moved = present + float(steps[leaving]) * (best - present)
        moved[leaving] = 0.0
        weights = torch.zeros_like(weights).index_put((torch.tensor(kept),), moved.clamp(min=0.0))
        del kept[leaving]


def _unconstrained(gram: Tensor) -> Tensor:
    """Weights of any sign that sum to one, for the shortest mixture."""
    count = len(gram)
    system = torch.ones(count + 1, count + 1, dtype=gram.dtype)
    system[:count, :count], system[count, count] = gram, 0.0
    target = torch.zeros(count + 1, 1, dtype=gram.dtype)
    target[count] = 1.0
    solved: Tensor = torch.linalg.lstsq(system, target, driver="gelsd").solution
    return solved[:count, 0]

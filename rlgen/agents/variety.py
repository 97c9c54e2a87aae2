"""How much policies differ: a bound of the information that what they do has about their z.

Notation: f, what pi_z does at m states S_H: its action probabilities there, or the means of its
actions, under noise of a fixed amount.
"""

import math
from typing import Any, Literal, NamedTuple

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from rlgen.agents.actions import within_bounds
from rlgen.agents.anneal import Anneal
from rlgen.agents.latent import LatentPolicy
from rlgen.envs.tabular import check_choice
from rlgen.generative import VFunc as FunctionModel
from rlgen.generative.functions import (
    Difference,
    Direct,
    Prior,
    Scoring,
    Similarity,
    StandardNormal,
)
from rlgen.generative.functions.comparisons import Function
from rlgen.generative.functions.noise import noise_entropy
from rlgen.generative.heads import FixedNormal

Bound = Literal["discretise", "maxent"]
Encoder = Literal["likelihood", "difference", "direct", "similarity"]
_AT_ONCE = 4096  # functions in memory


class Variety:
    """The bound on I(f; z) for policies pi_z, on states that were visited lately.

    Args:
        function: what pi_z does.
        bound: "discretise" or "maxent".
        encoder: how functions are compared; None takes the usual one of the bound.
        points: m.
        candidates: k, how many z are drawn at a time.
        noise: standard deviation of the noise on f.
        replay: where states come from.
    """

    def __init__(
        self,
        function: "PolicyFunction",
        *,
        bound: Bound,
        encoder: Encoder | None,
        points: int,
        candidates: int,
        noise: float | Anneal,
        replay: "Replay",
    ) -> None:
        prior = function.prior
        if encoder is None:
            listed = bound == "discretise" or prior.symbols is not None
            encoder = "likelihood" if listed else "difference"
        check_choice("bound", bound, Bound)
        check_choice("encoder", encoder, Encoder)
        scores = encoder in ("likelihood", "similarity")
        if bound == "maxent" and scores and prior.symbols is None:
            raise ValueError(
                f"'encoder' must give a distribution over z for the bound \"maxent\": difference "
                f"or direct, got {encoder!r}"
            )
        if encoder == "difference" and not isinstance(prior, StandardNormal):
            raise ValueError(
                f"'encoder' \"difference\" needs a StandardNormal, got {type(prior).__name__}"
            )
        if candidates < 2:
            raise ValueError(f"'candidates' must be at least 2, got {candidates}")
        if points < 1:
            raise ValueError(f"'points' must be positive, got {points}")
        scales = (noise.start, noise.end) if isinstance(noise, Anneal) else (noise,)
        for scale in scales:
            if not 0.0 < scale < math.inf:
                raise ValueError(f"'noise' must be positive and finite, got {scale}")
        self.bound, self.draws, self.noise, self.replay = bound, candidates, noise, replay
        points = points if replay.always is None else len(replay.always)
        self.points = points
        self.functions = FunctionModel(
            (points, function.outputs),
            function,
            inputs=function.inputs,
            prior=prior,
            comparison=_comparison(encoder, prior, function.inputs, function.outputs, scales[0]),
            head=FixedNormal(scales[0]),
        )

    @property
    def encoder(self) -> nn.Module:
        """What compares functions, with weights of its own where it learns."""
        comparison: nn.Module = self.functions.comparison
        return comparison

    def information(self) -> Tensor:
        """The bound, in nats, for each of k fresh draws of z and f, at fresh states."""
        states = self.replay.draw(self.points)
        candidates = self.draws if self.bound == "discretise" else None
        return self.functions.information(states, self.draws, candidates=candidates)

    def between(self, candidates: int, draws: int) -> "Between":
        """Two bounds of I(f; z), at fresh states, whatever the encoder."""
        return squeezed(self.functions, self.replay.draw(self.points), candidates, draws)

    def anneal(self, step: int) -> None:
        """The noise after so many steps of the world."""
        if not isinstance(self.noise, Anneal):
            return
        head = FixedNormal(self.noise(step))
        self.functions.head = head
        self.functions.noise_entropy = noise_entropy(head, tuple(self.functions.event_shape))
        if isinstance(self.encoder, SquaredDistance):
            self.encoder.scale = head.scale


class Between(NamedTuple):
    """What a number lies between, in expectation.

    Attributes:
        lower: bound.
        upper: bound.
    """

    lower: float
    upper: float


@torch.no_grad()
def squeezed(model: FunctionModel, points: Tensor, candidates: int, draws: int) -> Between:
    """I(f; z) between two bounds, that meet as there are more candidates.

    For z_1 that made f, and others z_2, ..., z_K ~ p(z):

        lower = E[log p(f|z_1) - log (1/K) sum over all j of p(f|z_j)]
        upper = E[log p(f|z_1) - log (1/(K-1)) sum over j > 1 of p(f|z_j)]

    The first has z_1 among the candidates, and is at most log K. The second has an estimate of p(f)
    without bias, whose logarithm is too small on average.

    References:
        | On variational bounds of mutual information (Poole et al., 2019)
        | https://arxiv.org/abs/1905.06922

    Args:
        model: functions under normal noise of a fixed amount.
        points: one set, with shape (m, *inputs).
        candidates: K.
        draws: of z_1 and f, at most K; they are each other's candidates.

    Example:
        >>> import torch
        >>> from rlgen.agents.variety import squeezed
        >>> from rlgen.generative import VFunc, functions
        >>> model = VFunc(5, functions.FunctionMLP(2), prior=functions.StandardNormal(2))
        >>> lower, upper = squeezed(model, torch.linspace(-1, 1, 5)[:, None], 64, 32)
        >>> lower < upper
        True
    """
    if not 1 <= draws <= candidates or candidates < 2:
        raise ValueError(
            f"'candidates' must be at least 2 and at least 'draws', got {candidates} and {draws}"
        )
    assert isinstance(model.head, FixedNormal)
    score = SquaredDistance(model.head.scale)
    z = model.prior.sample(torch.Size([candidates]))
    f = model.decode(z[:draws], points.expand(draws, *points.shape)).sample()
    scores = torch.cat(
        [score(f, points[None], model.function, some[None]) for some in z.split(_AT_ONCE)], dim=1
    )
    own = scores.diagonal().clone()
    together = scores.logsumexp(1) - math.log(candidates)
    others = scores.fill_diagonal_(-math.inf).logsumexp(1) - math.log(candidates - 1)
    return Between(float((own - together).mean()), float((own - others).mean()))


class PolicyFunction(nn.Module):
    """The function of each z: from states to the probabilities of actions, or to their means.

    Means are within the bounds of the actions, as the world takes nothing else: what differs
    outside of them alone is no difference.

    Args:
        policy: whose weights these are; they are not this module's own.
        prior: of z.
        actions: their space.
    """

    def __init__(self, policy: LatentPolicy, prior: Prior, actions: gymnasium.Space[Any]) -> None:
        super().__init__()
        self._policy, self._prior, self._actions = [policy], [prior], actions
        assert policy.context_shape is not None
        self.inputs = policy.context_shape.numel() - policy.width
        shape = policy.event_shape
        # discrete actions have one probability each
        self.outputs = policy.head.size(()) if not shape else shape.numel()

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        """z (B, *shape of z), states (B, m, numbers) -> (B, m, outputs)."""
        (policy,) = self._policy
        if points.stride(0) == 0:  # the same for all: looked at once
            points = points[:1]
        outputs = policy.outputs(points, self.prior.features(z))
        pi = policy.head(outputs, tuple(policy.event_shape))
        if isinstance(pi, Categorical):
            return pi.probs
        return within_bounds(pi.mean, self._actions).flatten(2)

    @property
    def prior(self) -> Prior:
        return self._prior[0]


class SquaredDistance(Scoring):
    """Scores each candidate by -|f - f_z|^2 / 2 s^2: the likelihood of f under normal noise.

    What all candidates have in common is left out, and all pairs are one product of matrices.

    Args:
        scale: s.

    Example:
        >>> import torch
        >>> from rlgen.agents.variety import SquaredDistance
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
        device = self.kept.device
        return self.kept[torch.randint(min(self.count, self.capacity), (n,), device=device)]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": None if self.kept is None else self.kept.clone(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        kept = state["kept"]
        self.kept = None if kept is None else kept.to(device, copy=True)
        self.count = state["count"]


def _comparison(
    encoder: Encoder, prior: Prior, inputs: int, outputs: int, noise: float
) -> nn.Module:
    if encoder == "likelihood":
        return SquaredDistance(noise)
    if encoder == "similarity":
        return Similarity(prior, inputs=inputs, outputs=outputs)
    if encoder == "direct":
        return Direct(prior, inputs=inputs, outputs=outputs)
    return Difference(prior.width, inputs=inputs, outputs=outputs, scale=noise)

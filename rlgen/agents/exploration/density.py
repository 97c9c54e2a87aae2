"""Pseudo-counts and surprise: what a density model thinks of where a step led."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlgen.agents.exploration.memory import Reservoir, as_data
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable
from rlgen.generative import Bound, Density, GenerativeModel, Trainer, unchecked
from rlgen.generative.catalogue import require
from rlgen.generative.model import evaluating
from rlgen.generative.support import Real
from rlgen.seeding import drawing_from, mix

Estimator = Literal["recoding", "gain", "frequency"]
Weights = dict[str, Tensor]
_T = TypeVar("_T")


class _OnlineDensity(Configurable):
    """A density or a bound that learns from where steps lead, at a constant cost for each.

    Args:
        model: learns in place.
        features: turns observations into the model's x; None reshapes them to its event_shape.
        lr: of the model's Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those, drawn from the memory.
        memory: observations kept, a uniform sample of all that were ever seen.
        seed: of everything random.
    """

    def __init__(
        self,
        model: GenerativeModel,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        lr: float = 1e-3,
        updates: int = 8,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        require(model, (Density, Bound), type(self).__name__)
        if model.context_shape is not None:
            raise ValueError(
                f"{type(self).__name__} needs a model without a context; {type(model).__name__} "
                f"has one of shape {tuple(model.context_shape)}"
            )
        self.model, self.features = model, features
        self.trainer = Trainer(model, lr=lr, seed=seed)
        self.updates, self.batch_size, self.seed = updates, batch_size, seed
        self.memory = Reservoir(memory, seed)

    def data(self, obs: Tensor) -> Tensor:
        """Observations as the model's x."""
        return as_data(obs if self.features is None else self.features(obs), self.model)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), or a bound of it with the same noise for every x and call, with shape (B,)."""
        scored = _Scored(self.model)
        with evaluating(self.model), unchecked():
            if isinstance(self.model, Density):
                score: Tensor = scored(x)
                return score
            score = _for_rows(lambda row: scored(row[None])[0], x, self.seed)
            return score

    def update(self, t: Transitions) -> dict[str, float]:
        """Keep the batch in memory, and take some gradient steps on what is there."""
        x = self.data(t.next_obs)
        self.memory.add(x)
        loss = torch.zeros(())
        with unchecked():
            for _ in range(self.updates):
                batch = self.memory.draw(self.batch_size, mix(self.seed, self.trainer.steps))
                loss = self.trainer.step(batch)["loss"]
        return {"nats": float(loss)}

    def state_dict(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.memory.load_state_dict(state["memory"])


class Surprise(_OnlineDensity):
    """Pays for how unlikely a density finds what a step led to: -log p(o').

    Args:
        model: any density or bound without a context; it learns in place.
        features: turns observations into the model's x; None reshapes them to its event_shape.
        lr: of the model's Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those.
        memory: observations kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> from rlgen.agents.exploration import Surprise
        >>> from rlgen.generative import MADE
        >>> bonus = Surprise(MADE(104))
    """

    def reward(self, t: Transitions) -> Tensor:
        return -self.log_prob(self.data(t.next_obs))


class PseudoCounts(_OnlineDensity):
    """Counts for observations that are never seen twice, from a density that learns online.

    How much more likely would o become if it were seen once more? With rho = p(o) and rho' the
    probability after a trial update on o alone, which is then forgotten,

        recoding   N = rho (1 - rho') / (rho' - rho)
        gain       N = 1 / (exp(c max(PG, 0) / sqrt(n)) - 1),  PG = n log(rho' / rho), for n seen
        frequency  N = n rho

        bonus      1 / sqrt(N + floor)

    A trial of plain gradient ascent measures nothing: the gradient's norm hardly depends on N. The
    trial here is the natural step of one observation among n,

        theta' = theta + g / (n F + g^2),   g = grad log p(o), F the mean of g^2 over all seen,

    which for a table of probabilities gives back the visit counts. (The g^2 is that of o itself,
    seen once more; without it, what nothing was known of would be taken much too far.) Its gain is
    taken to first order, rho' / rho = 1 + sum g^2 / (n F + g^2): for networks the whole step
    overshoots where little is known and may even lower rho, and the difference of two nearly equal
    numbers would drown in rounding. Densities over real numbers have no probabilities of single
    points: there rho' in the numerator is 0.

    References:
        Marc Bellemare et al. Unifying Count-Based Exploration and Intrinsic Motivation, 2016.
        https://arxiv.org/abs/1606.01868
        Georg Ostrovski, Marc Bellemare, Aaron van den Oord and Remi Munos. Count-Based Exploration
        with Neural Density Models, 2017. https://arxiv.org/abs/1703.01310

    Args:
        model: any density or bound without a context; it learns in place.
        estimator: "recoding" is right for tables of probabilities; networks, all of whose weights
            a trial changes, give a constant fraction of the count. "frequency" needs a model that
            keeps up with what is seen. "gain" is the published form.
        floor: added to each count; at 1 nothing pays more than 1. The papers have .01, which pays
            more for the unseen, and for what the density has yet to learn.
        features: turns observations into the model's x; None reshapes them to its event_shape.
        lr: of the model's Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those.
        memory: observations kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> from rlgen.agents.exploration import PseudoCounts
        >>> from rlgen.generative import MADE
        >>> bonus = PseudoCounts(MADE(104))
    """

    def __init__(
        self,
        model: GenerativeModel,
        *,
        estimator: Estimator = "frequency",
        floor: float = 1.0,
        features: Callable[[Tensor], Tensor] | None = None,
        lr: float = 5e-3,
        updates: int = 8,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        if estimator not in get_args(Estimator):
            allowed = ", ".join(get_args(Estimator))
            raise ValueError(f"'estimator' must be one of {allowed}, got {estimator!r}")
        if floor <= 0.0:
            raise ValueError(f"'floor' must be positive, got {floor}")
        super().__init__(
            model,
            features=features,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            memory=memory,
            seed=seed,
        )
        self.estimator, self.floor = estimator, floor
        self.squares: Weights = {
            name: torch.zeros_like(p, dtype=torch.float64)
            for name, p in model.named_parameters()
            if p.requires_grad
        }

    def count(self, obs: Tensor) -> Tensor:
        """How often each observation, or something like it, was seen, with shape (B,)."""
        x = self.data(obs)
        if self.estimator == "frequency" and isinstance(self.model, Density):
            return self._count(x)
        # a trial, or a bound's samples, are dear: once for each different observation
        different, which = x.unique(dim=0, return_inverse=True)
        return self._count(different)[which]

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        return (self.count(t.next_obs) + self.floor).rsqrt()

    def update(self, t: Transitions) -> dict[str, float]:
        metrics = super().update(t)
        if self.estimator != "frequency":
            self._note_squares(self.data(t.next_obs))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "squares": dict(self.squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.squares = dict(state["squares"])

    def _count(self, x: Tensor) -> Tensor:
        seen = self.memory.seen
        if seen == 0:
            return x.new_zeros(len(x), dtype=self.model.dtype)
        if self.estimator == "frequency":
            return seen * self.log_prob(x).exp()
        before, gain = self._trial(x)
        if self.estimator == "gain":
            counts = 1.0 / torch.expm1(_GAIN * gain * math.sqrt(seen)).clamp_min(_TINY)
        elif isinstance(self.model.support, Real):
            counts = 1.0 / gain.clamp_min(_TINY)
        else:
            # to first order rho' may pass 1: it is taken for sqrt(rho) at most
            after = torch.minimum(before.exp() * (1.0 + gain), (before / 2).exp())
            counts = (1.0 - after) / gain.clamp_min(_TINY)
        # never fewer than none, and never more than all that was seen
        return counts.clamp(0.0, float(seen)).to(self.model.dtype)

    def _trial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log rho and rho' / rho - 1 of each x in float64; the model stays as it is."""
        weights = self._weights()
        total = {
            name: (square * self.memory.seen).clamp_min(_TINY).to(self.model.dtype)
            for name, square in self.squares.items()
        }

        slopes_of = torch.func.grad_and_value(self._log_prob)
        parts = []
        with torch.no_grad(), evaluating(self.model), unchecked():
            for chunk in x.split(_CHUNK):
                slopes, before = _for_rows(lambda row: slopes_of(weights, row), chunk, self.seed)
                gain = torch.zeros_like(before)
                for name, g in slopes.items():
                    square = g.square_()  # in place: there is one number for each row and weight
                    gain += square.div_(square + total[name]).reshape(len(gain), -1).sum(1)
                parts.append(torch.stack([before, gain], dim=1).double())
        before, gain = torch.cat(parts).unbind(1)
        return before, gain

    @torch.no_grad()
    def _note_squares(self, x: Tensor) -> None:
        """Move the mean of squared gradients on to all of history, this batch included."""
        weights, share = self._weights(), len(x) / self.memory.seen
        total = {name: torch.zeros_like(square) for name, square in self.squares.items()}
        if len(x) > _NOTED:
            index = torch.linspace(0, len(x) - 1, _NOTED, device=x.device).long()
            x = x.index_select(0, index)

        different, counts = x.unique(dim=0, return_counts=True)
        slopes_of = grad(self._log_prob)
        with evaluating(self.model), unchecked():
            for chunk, count in zip(different.split(_CHUNK), counts.split(_CHUNK), strict=True):
                slopes = _for_rows(lambda row: slopes_of(weights, row), chunk, self.seed)
                for name, g in slopes.items():
                    square = g.square_().reshape(len(g), -1)
                    total[name] += (count.to(g) @ square).view_as(total[name]).double()
        for name, square in self.squares.items():
            square.lerp_(total[name] / len(x), share)

    def _weights(self) -> Weights:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _log_prob(self, weights: Weights, row: Tensor) -> Tensor:
        named = {f"model.{name}": weight for name, weight in weights.items()}
        score: Tensor = functional_call(_Scored(self.model), named, (row[None],))
        return score[0]


class _Scored(torch.nn.Module):
    """`functional_call` calls forward."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, Density):
            return self.model.log_prob(x)
        assert isinstance(self.model, Bound)
        return self.model.elbo(x, samples=_SAMPLES)


def _for_rows(one: Callable[[Tensor], _T], x: Tensor, seed: int) -> _T:
    """`one` of every row, many at a time, with the same noise for all."""
    parts = []
    for chunk in x.split(_CHUNK):
        with drawing_from(seed):
            parts.append(vmap(one, randomness="same")(chunk))
    if len(parts) == 1:
        return parts[0]
    leaves = [tree_flatten(part)[0] for part in parts]
    joined = [torch.cat(leaf) for leaf in zip(*leaves, strict=True)]
    made: _T = tree_unflatten(joined, tree_flatten(parts[0])[1])
    return made


_GAIN = 0.1  # the c of the paper
_TINY = 1e-12
_CHUNK = 256
_SAMPLES = 16  # of a bound
_NOTED = 1024  # gradients of a batch that are looked at, evenly spaced

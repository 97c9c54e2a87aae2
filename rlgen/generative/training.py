"""Training: `Trainer` takes single steps, `fit` is the one loop around it.

A trainer owns all that must survive a restart: weights, optimisers, how many updates were made and
how many minibatches were drawn. The noise of update k depends only on the seed and k, and so does
the order of the data, so N + M steps give the same weights as N steps, save, load, M steps.
(Validation and schedules belong to one call of `fit`: with validation it ends on its best weights,
not on its last ones.)
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlgen.checkpoint import Configurable, load_module_state
from rlgen.generative.data import length, take
from rlgen.generative.model import Batch, GenerativeModel, Objective, evaluating
from rlgen.seeding import drawing_from, mix

# how often an accelerator is asked whether its losses were finite; asking waits for it
_ACCELERATOR_CHECK = 32


class NonFiniteLoss(FloatingPointError):
    """Training diverged. The model has its last good weights back; optimisers begin afresh."""


@runtime_checkable
class SelfFitting(Protocol):
    """A model with a better way than gradients: an EM iteration, or the closed form."""

    def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
        """One exact step on all of the data, which never lowers its likelihood."""


class Trainer(Configurable):
    """Takes gradient steps on a model's objectives.

    Args:
        model: what to train. Every objective gets an optimiser of its own.
        lr: the learning rate of Adam; objectives that bring an optimiser keep its own.
        clip_norm: the largest norm of an objective's gradient, or None.
        seed: of the noise in the losses and the order of the data.

    Example:
        >>> import torch
        >>> from rlgen.generative import RealNVP, Trainer
        >>> trainer = Trainer(RealNVP(2), lr=1e-3)
        >>> losses = trainer.step(torch.randn(64, 2))
        >>> sorted(losses)
        ['loss']
    """

    def __init__(
        self,
        model: GenerativeModel,
        *,
        lr: float = 1e-3,
        clip_norm: float | None = 5.0,
        seed: int = 0,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"'lr' must be positive, got {lr}")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"'clip_norm' must be positive or None, got {clip_norm}")
        self.model = model
        self.lr = lr
        self.clip_norm = clip_norm
        self.seed = seed
        self.objectives = model.objectives()
        self.optimizers = [self._optimizer(objective) for objective in self.objectives]
        self.base_lrs = [
            [group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers
        ]
        self.steps = 0
        self.batches_drawn = 0
        self._updates = 0
        self._good: list[Tensor] | None = None
        self._unverified: list[tuple[int, str, Tensor]] = []

    def step(self, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """One training step on one minibatch: each objective in turn, as often as it repeats.

        Returns:
            The mean loss of each objective before its last update, detached.
        """
        return self.step_from(itertools.repeat((x, context)))

    def step_from(
        self, batches: Iterator[tuple[Tensor, Tensor | None]], lr_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """One training step in which every update takes the next minibatch."""
        self.model.train()
        losses = {}
        for index, objective in enumerate(self.objectives):
            self._scale_lr(index, lr_scale)
            for _ in range(objective.repeats):
                x, context = next(batches)
                losses[objective.name] = self._update(index, x, context)
        self.steps += 1
        return losses

    def verify(self) -> None:
        """Raise `NonFiniteLoss` if a loss since the last call was not finite.

        On a CPU every update verifies itself; on an accelerator every few dozen do.
        """
        if not self._unverified:
            return
        finite = torch.isfinite(torch.stack([value for _, _, value in self._unverified]))
        if not finite.all():
            step, name, _ = self._unverified[int((~finite).nonzero()[0])]
            self._unverified.clear()
            if self._good is not None:
                _put_back(self.model, self._good)
            self.forget_moments()  # an accelerator has taken steps since
            raise NonFiniteLoss(
                f"step {step}: the objective {name!r} or its gradient is not finite; "
                "the model has the last good weights back. A lower lr or clip_norm may help."
            )
        self._unverified.clear()

    def forget_moments(self) -> None:
        """Start the optimisers afresh, where the weights are no longer those they followed."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        self.verify()
        return {
            "model": dict(self.model.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "steps": self.steps,
            "batches_drawn": self.batches_drawn,
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_module_state(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps = state["steps"]
        self.batches_drawn = state["batches_drawn"]
        self._updates = state["updates"]

    def _optimizer(self, objective: Objective) -> torch.optim.Optimizer:
        parameters = list(objective.parameters)
        if not parameters:
            raise ValueError(f"the objective {objective.name!r} has no parameters to train")
        if objective.optimizer is not None:
            return objective.optimizer(parameters)
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        return torch.optim.Adam(parameters, lr=self.lr, betas=objective.betas, fused=fused)

    def _scale_lr(self, index: int, scale: float) -> None:
        optimizer = self.optimizers[index]
        for group, base in zip(optimizer.param_groups, self.base_lrs[index], strict=True):
            group["lr"] = scale * base

    def _update(self, index: int, x: Tensor, context: Tensor | None) -> Tensor:
        objective, optimizer = self.objectives[index], self.optimizers[index]
        with drawing_from(mix(self.seed, self._updates)):
            loss = objective.loss(x, context).mean()
            # gradients of this objective's parameters alone: players of a game do not leak
            gradients = torch.autograd.grad(loss, objective.parameters, allow_unused=True)
            for parameter, gradient in zip(objective.parameters, gradients, strict=True):
                parameter.grad = _laid_out_like(parameter, gradient)
            limit = float("inf") if self.clip_norm is None else self.clip_norm
            norm = nn.utils.clip_grad_norm_(objective.parameters, limit)
            loss = loss.detach()
            self._unverified.append((self.steps, objective.name, loss + 0.0 * norm))
            every = 1 if loss.device.type == "cpu" else _ACCELERATOR_CHECK
            if self._good is None:  # nothing is known of these weights, but there are no others
                self._good = _copy_of(self.model)
            if len(self._unverified) >= every:
                self.verify()
                self._good = _copy_of(self.model, self._good)
            optimizer.step()
            if objective.after_step is not None:
                objective.after_step()
        self._updates += 1
        return loss


def _laid_out_like(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Convolutions may give channels-last gradients, and fused Adam on a CPU ignores strides."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class ExactTrainer(Configurable):
    """Trains a `SelfFitting` model: each step is one EM iteration, or the closed form, once.

    Args:
        model: what to train.
        tolerance: converged when a step lowers the mean loss by less, in nats.
        seed: of whatever the model draws at random, such as its starting point.
    """

    def __init__(self, model: GenerativeModel, *, tolerance: float = 1e-5, seed: int = 0) -> None:
        if not isinstance(model, SelfFitting):
            raise TypeError(f"{type(model).__name__} has no exact steps; train it with Trainer")
        self.model = model
        self.tolerance = tolerance
        self.seed = seed
        self.steps = 0
        self.converged = False
        self._last: float | None = None

    def step(self, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """One exact step on all of the data; returns the mean loss after it."""
        assert isinstance(self.model, SelfFitting)
        before = _copy_of(self.model)
        with torch.no_grad(), evaluating(self.model), drawing_from(mix(self.seed, self.steps)):
            self.model.maximise(x, context)
            loss = self.model.loss(x, context).mean()
        value = float(loss)
        if not math.isfinite(value):
            _put_back(self.model, before)
            raise NonFiniteLoss(
                f"step {self.steps}: the loss is not finite after an exact step; "
                "the model has the weights from before it"
            )
        self.converged = self._last is not None and self._last - value < self.tolerance
        self._last = value
        self.steps += 1
        return {"loss": loss}

    def state_dict(self) -> dict[str, Any]:
        return {"model": dict(self.model.state_dict()), "steps": self.steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_module_state(self.model, state["model"])
        self.steps, self._last = state["steps"], state["last"]


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    x: Batch,
    context: Batch | None = None,
    *,
    batch_size: int = 1024,
    seed: int = 0,
) -> float:
    """The mean of the model's loss over data, in evaluation mode, with the same noise each time."""
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be positive, got {batch_size}")
    if length(x) == 0:
        raise ValueError("'x' must not be an empty batch")
    total = torch.zeros((), dtype=torch.float64)
    with evaluating(model), drawing_from(seed):
        for start in range(0, length(x), batch_size):
            part = slice(start, start + batch_size)
            loss = model.loss(take(x, part), None if context is None else take(context, part))
            total += loss.sum(dtype=torch.float64).cpu()
    return float(total) / length(x)


def _weights_of(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _copy_of(model: nn.Module, into: list[Tensor] | None = None) -> list[Tensor]:
    """A copy of all weights and buffers, in the memory of an earlier one if there is one."""
    if into is None:
        return [tensor.clone() for tensor in _weights_of(model)]
    torch._foreach_copy_(into, _weights_of(model))
    return into


def _put_back(model: nn.Module, copy: list[Tensor]) -> None:
    torch._foreach_copy_(_weights_of(model), copy)

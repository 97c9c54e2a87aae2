"""`fit`: the one training loop, around either kind of trainer."""

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rlgen.generative.data import as_pair, length, minibatches, streamed, take
from rlgen.generative.model import Batch, Diagnosed, GenerativeModel, evaluating
from rlgen.generative.support import unchecked
from rlgen.generative.training import ExactTrainer, SelfFitting, Trainer, evaluate
from rlgen.seeding import drawing_from, mix

Batches = Iterator[tuple[Any, Any]]
Callback = Callable[[int, dict[str, float]], bool | None]
Measure = Callable[[GenerativeModel], float]


@dataclass
class History:
    """What `fit` did.

    Attributes:
        trainer: continues where this run ended: `fit(..., trainer=history.trainer)`.
        losses: objective -> its mean loss at every step.
        validation: (step, mean loss on held-out data) at every evaluation.
        measured: name -> (step, figure) at every evaluation: the caller's `measures`, and what the
            model says of itself, such as the accuracy of a game's critic.
        best_step: the step with the best validation loss, whose weights the model now has.
        stopped: why: "steps", "early" (validation), "converged", "callback" or "exhausted" (data).
    """

    trainer: Trainer | ExactTrainer
    losses: dict[str, list[float]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)
    measured: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best_step: int | None = None
    stopped: str = "steps"

    @property
    def best_validation(self) -> float | None:
        return min((loss for _, loss in self.validation if not math.isnan(loss)), default=None)


def fit(
    model: GenerativeModel,
    x: Batch | Dataset[Any] | Iterator[Any],
    context: Batch | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 256,
    lr: float | None = None,
    schedule: Callable[[float], float] | None = None,
    validation: float | Batch | tuple[Batch, Batch] | None = None,
    patience: int = 10,
    measures: Mapping[str, Measure] | None = None,
    callback: Callback | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    trainer: Trainer | ExactTrainer | None = None,
) -> History:
    """Train `model` on data, in place.

    Models that fit themselves (EM, closed forms) take exact steps on all of the data until they
    converge; to train those by gradients too, pass `trainer=Trainer(model)`.

    Args:
        model: any generative model.
        x: a tensor (or tuple of tensors) that stays on its device, a map-style `Dataset`, or an
            iterator of ready minibatches. The last two give x, or (x, context) pairs where the
            model takes a context; an iterator must itself continue where a restarted run left it.
        context: one for each x.
        steps: training steps of this call.
        batch_size: examples in a minibatch.
        lr: the learning rate, 1e-3 unless given.
        schedule: maps this call's progress in [0, 1] to a factor of the learning rate; see
            `cosine`.
        validation: held-out x, or (x, context), or the fraction of x to hold out. With it, training
            stops early and the best weights are restored.
        patience: evaluations without improvement before training stops; there are 50 in a full run.
        measures: name -> a figure of the model, such as `metrics.ModesCovered(centres, radius)`,
            taken 50 times in a full run and kept in `History.measured`.
        callback: called as callback(step, losses) after each step; a true result stops training.
        seed: of the order and the noise; 0 unless given.
        progress: show a live line; by default when standard error is a terminal.
        trainer: continues an earlier run, instead of `lr` and `seed`.

    Returns:
        A `History`; `history.trainer` continues the run or goes into a checkpoint.

    Raises:
        NonFiniteLoss: training diverged; the message names step and objective, and the model has
            its last good weights.

    Example:
        >>> import torch
        >>> from rlgen.generative import Gaussian, fit
        >>> model = Gaussian(2)
        >>> history = fit(model, torch.randn(1000, 2))
        >>> history.stopped
        'converged'
    """
    if steps < 1 or batch_size < 1 or patience < 1:
        raise ValueError(
            "'steps', 'batch_size' and 'patience' must be positive, "
            f"got {steps}, {batch_size} and {patience}"
        )
    if trainer is None:
        trainer = _default_trainer(model, lr, seed)
    elif lr is not None or seed is not None:
        raise ValueError("'trainer' brings its own 'lr' and 'seed': give either, not both")
    elif trainer.model is not model:
        raise ValueError("'trainer' trains another model than the one given")
    if schedule is not None and isinstance(trainer, ExactTrainer):
        raise ValueError(f"{type(model).__name__} fits itself and has no use for 'schedule'")
    data, held_out = _prepare(model, x, context, validation, trainer)
    batches = _batches(model, data, batch_size, trainer)
    checked = isinstance(data, tuple)
    run = _Run(trainer, held_out, steps, schedule, patience, measures or {}, checked)
    with _progress_line(steps, progress) as show:
        run.loop(batches, callback, show)
    return run.finish()


def cosine(progress: float) -> float:
    """A schedule for `fit`: from the full learning rate to zero along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class _Run:
    """One call of `fit`: the loop, its validation and its record."""

    def __init__(
        self,
        trainer: Trainer | ExactTrainer,
        held_out: tuple[Batch, Batch | None] | None,
        steps: int,
        schedule: Callable[[float], float] | None,
        patience: int,
        measures: Mapping[str, Measure],
        checked: bool,
    ) -> None:
        self.trainer, self.history, self.held_out = trainer, History(trainer), held_out
        self.steps, self.schedule, self.patience = steps, schedule, patience
        self.measures, self.checked = measures, checked
        self.latest: tuple[Any, Any] | None = None
        self.every = max(1, steps // 50)
        self.record: dict[str, list[Tensor]] = {}
        self.best: dict[str, Tensor] | None = None
        self.looked_at: int | None = None

    def loop(self, batches: Batches, callback: Callback | None, show: "_Show") -> None:
        batches = self._remembered(batches)
        for k in range(self.steps):
            losses = self._step(k, batches)
            if losses is None:
                self.history.stopped = "exhausted"
                return
            for name, loss in losses.items():
                self.record.setdefault(name, []).append(loss)
            step = self.trainer.steps
            if (k + 1) % self.every == 0:
                self._look()
            show(k + 1, losses, self.history)
            if callback is not None and callback(step, {n: float(v) for n, v in losses.items()}):
                self.history.stopped = "callback"
                return
            if isinstance(self.trainer, ExactTrainer) and self.trainer.converged:
                self.history.stopped = "converged"
                return
            if self._worse_for() >= self.patience:
                self.history.stopped = "early"
                return

    def finish(self) -> History:
        if isinstance(self.trainer, Trainer):
            self.trainer.verify()
        if self.record and self.looked_at != self.trainer.steps:  # it ended between two looks
            self._look()
        if self.best is not None and self.history.best_step != self.trainer.steps:
            self.trainer.model.load_state_dict(self.best)
            if isinstance(self.trainer, Trainer):  # their moments are those of later weights
                self.trainer.forget_moments()
        self.history.losses = {n: torch.stack(v).tolist() for n, v in self.record.items()}
        return self.history

    def _step(self, k: int, batches: Batches) -> dict[str, Tensor] | None:
        scale = 1.0 if self.schedule is None else self.schedule(k / self.steps)
        with unchecked() if self.checked else nullcontext():
            try:
                if isinstance(self.trainer, ExactTrainer):
                    return self.trainer.step(*next(batches))
                return self.trainer.step_from(batches, scale)
            except StopIteration:
                return None

    def _look(self) -> None:
        """Validate and measure the present weights."""
        self.looked_at = self.trainer.steps
        if self.held_out is not None:
            self._validate(self.looked_at, *self.held_out)
        self._measure(self.looked_at)

    def _validate(self, step: int, x: Batch, context: Batch | None) -> None:
        loss = evaluate(self.trainer.model, x, context)
        best = self.history.best_validation
        if math.isfinite(loss) and (best is None or loss < best):
            state = self.trainer.model.state_dict()
            self.best = {name: tensor.clone() for name, tensor in state.items()}
            self.history.best_step = step
        self.history.validation.append((step, loss))

    @torch.no_grad()
    def _measure(self, step: int) -> None:
        model = self.trainer.model
        figures: dict[str, float] = {}
        with evaluating(model), drawing_from(mix(self.trainer.seed, 2, step)):
            if isinstance(model, Diagnosed) and self.latest is not None:
                figures |= model.diagnose(*self.latest)
            clash = sorted(figures.keys() & self.measures.keys())
            if clash:
                raise ValueError(f"'measures' must leave {clash[0]!r} to the model's own figures")
            figures |= {name: float(measure(model)) for name, measure in self.measures.items()}
        for name, value in figures.items():
            self.history.measured.setdefault(name, []).append((step, value))

    def _remembered(self, batches: Batches) -> Batches:
        for self.latest in batches:
            yield self.latest

    def _worse_for(self) -> int:
        """Evaluations since the best one."""
        return sum(step > (self.history.best_step or 0) for step, _ in self.history.validation)


def _default_trainer(
    model: GenerativeModel, lr: float | None, seed: int | None
) -> Trainer | ExactTrainer:
    if isinstance(model, SelfFitting):
        if lr is not None:
            raise ValueError(
                f"{type(model).__name__} fits itself and has no use for 'lr'; "
                "to train it by gradients, pass trainer=Trainer(model, lr=...)"
            )
        return ExactTrainer(model, seed=seed or 0)
    return Trainer(model, lr=1e-3 if lr is None else lr, seed=seed or 0)


def _prepare(
    model: GenerativeModel,
    x: Any,
    context: Batch | None,
    validation: Any,
    trainer: Trainer | ExactTrainer,
) -> tuple[Any, tuple[Batch, Batch | None] | None]:
    """Checked (x, context) tensors, or the stream as it is; and the held-out data."""
    if isinstance(x, Tensor | tuple):
        model.check(x, context)  # type: ignore[arg-type]
        data: Any = (x, context)
    elif not isinstance(x, Dataset | Iterator):
        raise ValueError(
            "'x' must be a tensor, a tuple of tensors, a Dataset or an iterator of minibatches, "
            f"such as iter(loader), got {type(x).__name__}"
        )
    elif context is not None or isinstance(validation, float):
        raise ValueError("a Dataset or iterator brings its own context; hold data out yourself")
    elif isinstance(trainer, ExactTrainer):
        raise ValueError(f"{type(model).__name__} fits itself to all data: pass tensors")
    else:
        data = x
    if validation is None:
        return data, None
    if isinstance(trainer, Trainer):
        _check_comparable(trainer)
    if isinstance(validation, float):
        return _split(x, context, validation, trainer.seed)
    held_out = validation if model.context_shape is not None else (validation, None)
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise ValueError("'validation' must be (x, context) where the model takes a context")
    try:
        model.check(*held_out)
    except ValueError as error:
        raise ValueError(f"'validation' does not fit the model: {error}") from error
    return data, held_out


def _check_comparable(trainer: Trainer) -> None:
    """Refuse to stop by losses that do not say which weights are better."""
    name = type(trainer.model).__name__
    first, *others = trainer.objectives
    if others:
        names = " and ".join(objective.name for objective in trainer.objectives)
        why = f"needs one loss to stop by, and {name} has {names}"
    elif not first.comparable:
        why = f"needs a loss that tells which weights are better, and that of {name} does not"
    else:
        return
    raise ValueError(f"'validation' {why}; watch it with 'measures' instead")


def _split(
    x: Batch, context: Batch | None, fraction: float, seed: int
) -> tuple[tuple[Batch, Batch | None], tuple[Batch, Batch | None]]:
    count = length(x)
    held = round(fraction * count)
    if not 0 < held < count:
        raise ValueError(f"'validation' must leave data on both sides, got {fraction} of {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, 0)))
    parts = order[held:], order[:held]
    kept, out = ((take(x, p), None if context is None else take(context, p)) for p in parts)
    return kept, out


def _batches(
    model: GenerativeModel, data: Any, batch_size: int, trainer: Trainer | ExactTrainer
) -> Batches:
    if isinstance(trainer, ExactTrainer):
        return itertools.repeat(data)
    conditional = model.context_shape is not None
    if isinstance(data, tuple):
        x, context = data
        batches: Batches = minibatches(x, context, batch_size, trainer.seed, trainer.batches_drawn)
    elif isinstance(data, Dataset):
        device = next(model.parameters()).device
        drawn = streamed(data, batch_size, trainer.seed, trainer.batches_drawn, device)
        batches = (as_pair(batch, conditional) for batch in drawn)
    else:
        batches = (as_pair(batch, conditional) for batch in data)
    return _counted(batches, trainer)


def _counted(batches: Batches, trainer: Trainer) -> Batches:
    for batch in batches:
        trainer.batches_drawn += 1
        yield batch


_Show = Callable[[int, dict[str, Tensor], History], None]


def _progress_line(steps: int, wanted: bool | None) -> AbstractContextManager[_Show]:
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return nullcontext(lambda step, losses, history: None)
    from rlgen.generative.progress import live_line

    return live_line(steps)

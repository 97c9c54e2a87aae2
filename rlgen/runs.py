"""A run directory: its configuration, its metrics, and checkpoints that it goes on from.

    folder/config.json      what was asked for
    folder/metrics.jsonl    one line for each iteration; also as TensorBoard events
    folder/checkpoint/      everything that decides the future; replaced as a whole

A run that was killed goes on from its last checkpoint and ends with the same weights as one that
was not: what was logged after that checkpoint is dropped, and happens again.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlgen import checkpoint
from rlgen.checkpoint import Configurable


class Resumable(Protocol):
    """Whatever a run keeps: a learner, for one."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Run:
    """One run's folder, made if it is not there.

    Args:
        folder: where.
        config: what was asked for, as plain values. A folder that holds another configuration is
            refused.
        tensorboard: also write TensorBoard events.

    Example:
        >>> import tempfile
        >>> from rlgen.runs import Run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Run(folder, {"seed": 0}, tensorboard=False)
        ...     run.log(100, {"episode/return": 0.5})
        ...     run.metrics()
        [{'step': 100, 'episode/return': 0.5}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        tensorboard: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_config(json.loads(json.dumps(dict(config))))
        self._lines = self.folder / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._events: Any = None
        self._purge: int | None = None  # what TensorBoard is to forget, after a resumption

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one line of metrics; numbers that are not finite are kept as text."""
        line = {name: v if math.isfinite(v) else str(v) for name, v in metrics.items()}
        with self._lines.open("a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self._tensorboard:
            for name, value in metrics.items():
                self._writer().add_scalar(name, value, step)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines so far; one that was cut off by a crash does not count."""
        if not self._lines.exists():
            return []
        lines = self._lines.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def save(self, step: int, learner: Resumable) -> None:
        """Replace the checkpoint; a crash leaves the old one or the new one, whole."""
        checkpoint.save(_Snapshot.of({"step": step, "learner": learner.state_dict()}), self._place)

    def resume(self, learner: Resumable) -> int:
        """Take a learner to the last checkpoint, if there is one.

        Returns:
            The step to go on from; 0 where nothing was saved.
        """
        step = 0
        if (self._place / "config.json").exists():
            state = checkpoint.load(self._place).state
            learner.load_state_dict(state["learner"])
            step = int(state["step"])
        kept = [line for line in self.metrics() if line["step"] <= step]
        _replace(self._lines, "".join(json.dumps(line) + "\n" for line in kept))
        self._purge = step
        return step

    @property
    def _place(self) -> Path:
        return self.folder / "checkpoint"

    def _check_config(self, config: dict[str, Any]) -> None:
        file = self.folder / "config.json"
        if not file.exists():
            _replace(file, json.dumps(config, indent=1) + "\n")
            return
        before = json.loads(file.read_text())
        names = sorted(k for k in {*before, *config} if before.get(k) != config.get(k))
        if names:
            raise ValueError(
                f"{str(self.folder)!r} holds a run with other values of {', '.join(names)}; "
                "give another folder, or the same values to go on with it"
            )

    def _writer(self) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder), purge_step=self._purge)
        return self._events


class _Snapshot(Configurable):
    """State on its way to a checkpoint and back."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "_Snapshot":
        made = cls()
        made.state = state
        return made

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def _replace(file: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one, whole."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, file)

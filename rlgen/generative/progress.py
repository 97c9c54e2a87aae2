"""One live line on a terminal while a model trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


@contextmanager
def live_line(steps: int) -> Iterator[Callable[[int, dict[str, Tensor], Any], None]]:
    """Gives show(step, losses, history), which redraws the line a few times a second."""
    columns = (
        TextColumn("fit"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fit", total=steps, metrics="")
        every = max(1, steps // 200)

        def show(step: int, losses: dict[str, Tensor], history: Any) -> None:
            if step % every and step != steps:
                return
            shown = [f"{name} {float(loss):.4f}" for name, loss in losses.items()]
            if history.validation:
                shown.append(f"validation {history.validation[-1][1]:.4f}")
            shown += [f"{name} {taken[-1][1]:.3g}" for name, taken in history.measured.items()]
            bar.update(task, completed=step, metrics="  ".join(shown))

        yield show

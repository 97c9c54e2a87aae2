"""One live line on a terminal while an agent learns."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SHOWN = 4


@contextmanager
def live_line(steps: int, wanted: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Gives show(steps so far, metrics); silent where standard error is no terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda step, metrics: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[metrics]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("learn", total=steps, metrics="")

        def show(step: int, metrics: dict[str, float]) -> None:
            shown = [f"{name} {value:.3g}" for name, value in metrics.items()][:_SHOWN]
            bar.update(task, completed=min(step, steps), metrics="  ".join(shown))

        yield show

"""What the benchmarks share: figures kept line by line, and how a document shows them."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


class Notes:
    """Figures of one benchmark in runs/<name>.jsonl, each there as soon as it is known."""

    def __init__(self, name: str) -> None:
        self.file = Path("runs") / f"{name}.jsonl"

    def add(self, kind: str, **figures: Any) -> None:
        """Keep one, and show it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"kind": kind, **figures})
        print(line[:300], flush=True)
        with self.file.open("a") as lines:
            lines.write(line + "\n")

    def rows(self) -> list[Row]:
        """All of them."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def latest(self, *names: str) -> list[Row]:
        """Those of `names` that differ; of what was measured again, the last."""
        return list({tuple(map(str, map(row.get, names))): row for row in self.rows()}.values())


def machine(*packages: str) -> str:
    """Where the figures were taken, and with which versions of what else they need."""
    beside = "".join(f", {package} {version(package)}" for package in packages)
    return (
        f"{platform.machine()} {platform.system()}, one thread of a shared "
        f"{os.cpu_count()}-core machine, Python {platform.python_version()}, "
        f"torch {torch.__version__}{beside}"
    )


def spread(found: Sequence[float], digits: int = 3) -> str:
    """The median, and of more than one the range."""
    middle = f"{statistics.median(found):z,.{digits}f}"
    if len(found) == 1:
        return middle
    return f"{middle} ({min(found):z,.{digits}f} to {max(found):z,.{digits}f})"


def table(head: Sequence[str], body: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in body)]


def listed(settings: dict[str, Any]) -> str:
    """Settings as a document names them."""
    return ", ".join(f"`{name}={value}`" for name, value in settings.items())

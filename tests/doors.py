"""What every script with options owes: a mistake is one line, and what it prints is a table."""

from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]


def refusal(call: Call, folder: Path, *arguments: str) -> str:
    """The one line that says what is wrong with the arguments; nothing was begun."""
    there = set(folder.rglob("*"))
    code, out, err = call("--out", str(folder / "runs"), *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    begun = {file.suffix for file in set(folder.rglob("*")) - there}
    assert not begun & {".json", ".jsonl", ".npz", ".png", ".gif"}
    return err


def rows(out: str) -> dict[str, list[str]]:
    """The cells of the closing table, by whom they are of."""
    lines = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}

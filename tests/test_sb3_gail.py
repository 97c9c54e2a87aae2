"""GAIL around Stable-Baselines3 is a few lines, and they imitate."""

import ast
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "sb3_gail.py"
Call = Callable[..., tuple[float, float]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The returns of the expert and of its imitator, as the script says them."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    main = importlib.import_module("sb3_gail").main

    def run(**options: int) -> tuple[float, float]:
        main(**options)
        line = r"return of the expert ([\d.]+), of its imitator ([\d.]+)\n"
        found = re.fullmatch(line, capsys.readouterr().out)
        assert found is not None
        return float(found[1]), float(found[2])

    return run


def lines_of_code(text: str) -> int:
    """Lines with something on them, docstrings not counted."""
    docstrings = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and number not in docstrings for number, line in lines)


def test_it_takes_less_than_25_lines() -> None:
    assert (
        lines_of_code('"""One\n\ntwo."""\n\nx = 1\n\n\ndef f():\n    """No."""\n    return x\n')
        == 3
    )
    assert lines_of_code(SCRIPT.read_text()) < 25


def test_it_runs_and_says_both_returns(call: Call) -> None:
    expert, imitator = call(timesteps=1024, demonstrations=2)
    assert expert == 500.0
    assert 8.0 <= imitator < 400.0  # so little is not enough


@pytest.mark.slow
def test_it_imitates(call: Call) -> None:
    expert, imitator = call(timesteps=100_000)
    assert imitator >= 0.95 * expert

"""Every test starts from the same random state, on one thread, in a folder of its own."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test left another default dtype behind"


@pytest.fixture
def door(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Call]:
    """A script by its name -> the exit code and the output of calling it, in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("COLUMNS", "160")

    def of(script: str) -> Call:
        main = importlib.import_module(script).main

        def run(*arguments: str) -> tuple[int, str, str]:
            code = 0
            try:
                main(list(arguments))
            except SystemExit as done:
                code = int(done.code or 0)
            return code, *capsys.readouterr()

        return run

    return of


@pytest.fixture
def call(request: pytest.FixtureRequest, door: Callable[[str], Call]) -> Call:
    """The module's SCRIPT."""
    return door(request.module.SCRIPT)

"""The front door: the way in through a pipe in another process, mistakes in this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlgen import __version__, checkpoint
from rlgen.cli import main
from rlgen.generative import catalogue

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", **variables}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env,
        cwd=ROOT,
        timeout=120,
    )


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int | str | None, str, str]:
    """The exit code and the output of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["rlgen", *arguments])
    code: int | str | None = 0
    try:
        main()
    except SystemExit as done:
        code = done.code
    return code, *capsys.readouterr()


def test_models_lists_every_family_whole_when_piped() -> None:
    done = run("-m", "rlgen", "models")
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout and "\x1b" not in done.stdout
    for family in catalogue():
        row = [line for line in done.stdout.splitlines() if f" {family.name} " in line]
        assert len(row) == 1, f"{family.name} has {len(row)} rows"
        for cell in (*family.capabilities, family.data, family.paper):
            assert cell in row[0]


def test_models_survives_an_output_without_box_characters() -> None:
    done = run("-m", "rlgen", "models", PYTHONIOENCODING="ascii:backslashreplace")
    assert done.returncode == 0, done.stderr
    assert "┃" not in done.stdout and "|" in done.stdout


def test_the_front_door_is_light_and_chooses_one_thread() -> None:
    code = """
import sys
sys.argv = ["rlgen", "models"]
from rlgen.cli import main
main()
import torch
assert torch.get_num_threads() == 1
heavy = {"stable_baselines3", "minigrid", "matplotlib", "tensorboard", "sklearn", "scipy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = run("-c", code, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("argument", ["--version", "version"])
def test_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    assert call(monkeypatch, capsys, argument) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["modles"], "modles"), (["models", "--wide"], "--wide"), ([], "models")],
)
def test_a_mistake_is_named_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    assert "models" in out and "version" in out


@pytest.mark.slow
def test_the_main_job_leaves_a_picture_and_a_checkpoint(tmp_path: Path) -> None:
    out = str(tmp_path / "moons")
    done = run("-W", "error", "scripts/two_moons.py", f"--out={out}", "--steps=5", "--train=500")
    assert done.returncode == 0, done.stderr
    truth = next(line for line in done.stdout.splitlines() if "truth (its entropy)" in line)
    assert abs(float(truth.split("│")[2]) - 0.29) < 0.03
    assert (tmp_path / "moons" / "density.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.load(tmp_path / "moons" / "flow").sample(3).shape == (3, 2)

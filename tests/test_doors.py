"""All scripts that train have the same kind of door."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doors import Call, refusal

ROOT = Path(__file__).resolve().parent.parent
# a script -> the least it can be asked to do, and a file that shows that it did
SCRIPTS = {
    "train_explorer": ("--steps 16 --copies 4 --learner trpo --bonus none", "none/checkpoint"),
    "train_imitation": (
        "--steps 16 --copies 4 --rollout 8 --cloning 10 --evaluation 8",
        "gail/checkpoint",
    ),
    "train_vfunc": ("--steps 2048 --candidates 8 --points 4 --latent 2", "run/checkpoint"),
    "train_world_model": (
        "--world OpenWorld --size 4 --max-steps 12 --episodes 8 --vision-steps 4 --memory-steps 4 "
        "--steps 64 --copies 4 --symbols 16 --width 16 --evaluation 8",
        "agent",
    ),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_cannot_be_is_one_line(
    door: Callable[[str], Call], script: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(door(script), tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_starts_from_a_shell(script: str, tmp_path: Path) -> None:
    arguments, left = SCRIPTS[script]
    command = [sys.executable, f"scripts/{script}.py", "--out", str(tmp_path), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / left / "config.json").exists()

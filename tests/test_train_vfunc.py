"""The door to distributions over policies: a mistake is one line, a run a table and a picture."""

from pathlib import Path

import pytest

from tests.doors import Call, refusal

SCRIPT = "train_vfunc"  # that `call` calls
TINY = ("--steps", "2048", "--candidates", "8", "--points", "4", "--latent", "2")


def values(out: str) -> dict[str, str]:
    """The closing table."""
    lines = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    return {cells[0].strip(): cells[1].strip() for cells in lines}


def test_help_shows_every_option_with_its_default(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for option in ("world", "size", "steps", "task", "entropy-weight", "bound", "encoder", "out"):
        assert f"--{option}" in out
    for default in ("OpenWorld", "ppo", "discretise", "16", "0", "runs/vfunc"):
        assert f"default: {default}" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--world", "FiveRooms"), "FiveRooms"),
        (("--task", "trpo"), "trpo"),
        (("--bound", "exact"), "exact"),
        (("--encoder", "none"), "none"),
        (("--candidates", "1"), "--candidates must be from 2"),
        (("--size", "1"), "--size must be from 2"),
        (("--entropy-weight", "inf"), "must be finite"),
        (("--bound", "maxent", "--encoder", "likelihood"), "must give a distribution over z"),
        (("--steps", "many"), "many"),
        (("--closed", "9", "9"), "cells"),
        (("--world", "FourRooms", "--size", "8"), "--size is for OpenWorld, not for FourRooms"),
        (("--closed", "0", "0"), "start"),
        (("--device", "nowhere"), "--device 'nowhere' is not there"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    err = refusal(call, tmp_path, *arguments)
    assert err.startswith("train_vfunc.py: ")
    assert named in err


@pytest.mark.parametrize(
    "more",
    [
        ("--size", "3"),
        ("--size", "3", "--task", "reinforce"),
        ("--size", "3", "--bound", "maxent"),
        ("--size", "3", "--entropy-weight", "0"),
        ("--world", "FourRooms", "--steps", "8192"),
    ],
)
def test_a_run_is_a_table_a_picture_and_a_folder(call: Call, more: tuple[str, ...]) -> None:
    code, out, err = call(*TINY, *more)
    assert (code, err) == (0, "")
    found = values(out)
    assert found["greedy paths that arrive"].endswith("%")
    assert len(found) == 10
    assert (found["routes"] == "-") == ("FourRooms" not in more)
    assert Path("runs/vfunc/policies.png").stat().st_size > 10_000
    assert Path("runs/vfunc/run/metrics.jsonl").is_file()


def test_a_cell_can_be_closed_afterwards(call: Call) -> None:
    assert call(*TINY, "--size", "3")[0] == 0
    code, out, err = call(*TINY, "--size", "3", "--closed", "1", "1")  # of the same run
    assert (code, err) == (0, "")
    assert 0 <= int(values(out)["of 500 policies, arrive with (1, 1) closed"]) <= 500


def test_called_again_it_goes_on_and_other_options_are_refused(call: Call) -> None:
    first = call(*TINY, "--size", "3")
    again = call(*TINY, "--size", "3")
    assert first[0] == again[0] == 0
    assert values(first[1]) == values(again[1])
    code, _, err = call(*TINY, "--size", "3", "--seed", "1")
    assert code == 2 and "seed" in err
    assert call(*TINY[2:], "--size", "3", "--steps", "4096")[0] == 0  # for longer


def test_what_falls_along_training_knows_its_end(call: Call) -> None:
    rooms = (*TINY[2:], "--world", "FourRooms", "--steps")
    assert call(*rooms, "8192")[0] == 0
    code, _, err = call(*rooms, "16384")
    assert code == 2 and "steps" in err

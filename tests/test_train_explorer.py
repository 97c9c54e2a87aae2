"""The explorer's door: a mistake is one line, and a run is a table, a picture and a folder."""

from pathlib import Path

import pytest

from rlgen import checkpoint
from tests.doors import Call, refusal
from tests.walks import same

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "train_explorer"  # that `call` calls
TINY = ("--steps", "16", "--copies", "4")


def test_help_shows_every_option_with_its_default(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for option in ("world", "bonus", "model", "weight", "learner", "steps", "copies", "goal"):
        assert f"--{option}" in out
    for option in ("restart", "device", "seed", "out"):
        assert f"--{option}" in out
    for default in ("FourRooms", "pseudo none", "made", "ppo", "600", "64", "cpu", "runs/explorer"):
        assert f"default: {default}" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--world", "FiveRooms"), "FiveRooms"),
        (("--world", "MiniGrid-Nowhere-v0"), "MiniGrid-Nowhere-v0"),
        (("--bonus", "luck"), "luck"),
        (("--bonus", "none", "none"), "none none"),
        (("--model", "gan"), "gan"),
        (("--learner", "dqn"), "dqn"),
        (("--device", "abacus"), "abacus"),
        (("--device", "meta"), "meta"),
        (("--steps", "0"), "--steps"),
        (("--steps", "many"), "many"),
        (("--copies", "-1"), "--copies"),
        (("--seed", "-1"), "--seed"),
        (("--weight", "nan"), "--weight"),
        (("--restart", "1"), "--restart"),
        (("--stpes", "3"), "--stpes"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(call, tmp_path, *arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_leaves_all_it_promises_and_goes_on(call: Call, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    code, out, err = call("--out", str(whole), *TINY)
    assert (code, err) == (0, "")
    for word in ("pseudo", "none", "entropy / 4.644", "all cells by step", "seconds", "success"):
        assert word in out
    assert (whole / "places.png").read_bytes().startswith(b"\x89PNG")
    again = call("--out", str(whole), *TINY)
    assert again == (code, out, err)  # it had ended: the same table

    assert call("--out", str(half), "--steps", "8", "--copies", "4")[0] == 0
    assert call("--out", str(half), *TINY)[0] == 0
    for bonus in ("pseudo", "none"):
        ends = [checkpoint.load(f / bonus / "checkpoint").state_dict() for f in (whole, half)]
        assert same(*ends)
    code, out, err = call("--out", str(half), *TINY, "--seed", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "seed" in err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("world", ["OpenWorld", "MiniGrid-Empty-5x5-v0"])
@pytest.mark.parametrize("model", ["made", "categorical", "vae", "realnvp"])
def test_everything_fits(call: Call, tmp_path: Path, world: str, model: str) -> None:
    bonuses = ["none", "table", "hash", "pseudo", "surprise"]
    if model == "made":
        bonuses += ["icm", "rnd", "disagreement", "dynamics"]
    where = ("--out", str(tmp_path), "--world", world, "--model", model)
    code, out, err = call(*where, *TINY, "--bonus", *bonuses)
    assert (code, err) == (0, "")
    assert all(f" {bonus} " in out for bonus in bonuses)

"""The document of distributions over policies: its bars are the known ones, and none can hide."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
Bars = Callable[..., dict[str, list[str]]]
ROW: dict[str, Any] = {
    "kind": "row",
    "success": 1.0,
    "length": 1.0,
    "distinct": 2100,
    "most": 0.01,
    "entropy": 6.7,
    "agree": 0.9,
    "given": 0.3,
    "routes": [0.5, 0.5],
    "information": 4.0,
    "recovered": 0.8,
    "d500": 400,
    "bound": 4.0,
    "between": [4.5, 4.6],
    "closed": [200, 100, 0],
    "seconds": 60.0,
    "looked": 6.0,
}
# world -> what -> the bar and, where there is one, the aim
KNOWN = {
    "open5": {
        "success": (0.98, None),
        "length / shortest": (1.02, None),
        "d500": (50, None),
        "H": (3.5, 4.05),
        "agree": (0.6, 0.8),
        "H above entropy weight 0": (1.5, None),
        "agree of action entropy": (0.6, None),
    },
    "open8": {
        "success": (0.95, None),
        "length / shortest": (1.05, None),
        "d500": (200, 350),
        "H": (5.3, 6.6),
        "agree": (0.3, 0.6),
        "H above an ensemble of 64": (1.0, None),
    },
    "rooms": {
        "success": (0.95, None),
        "d500": (120, 260),
        "H": (4.6, 5.8),
        "agree": (0.15, 0.5),
        "share of the rarer route": (0.2, 0.35),
    },
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("vfunc_tables")


def rows(world: str, **others: dict[str, Any]) -> list[dict[str, Any]]:
    """Two seeds of VFunc, and of whom else."""
    changed: dict[str, dict[str, Any]] = {"vfunc": {}, **others}
    return [
        {**ROW, "world": world, "who": who, "seed": seed, **changes}
        for who, changes in changed.items()
        for seed in (8, 9)
    ]


@pytest.fixture
def bars(tables: Any) -> Bars:
    """The table of bars, by its first column."""

    def of(world: str, **others: dict[str, Any]) -> dict[str, list[str]]:
        lines = [line for line in tables.bars(world, rows(world, **others)) if line[:1] == "|"]
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        return {line[0]: line[1:] for line in cells[2:]}

    return of


@pytest.mark.parametrize("world", KNOWN)
def test_bars_are_the_known_ones(tables: Any, world: str) -> None:
    found = {bar.what: bar for bar in tables.bars_of(world)}
    for what, (least, aim) in KNOWN[world].items():
        assert abs(found[what].least) == least
        assert found[what].aim == aim


@pytest.mark.parametrize("world", KNOWN)
@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("success", {"success": 0.9}),
        ("length / shortest", {"length": 1.2}),
        ("d500", {"d500": 10}),
        ("H", {"entropy": 1.0}),
        ("agree", {"agree": 0.1}),
        ("bound, of log 512", {"bound": 7.0}),
        ("bound, of log 128", {"bound": 5.0}),
        ("bound", {"bound": 0.9}),
        ("lower bound of the information above the bound learnt by", {"bound": 4.55}),
        ("share of the rarer route", {"routes": [0.9, 0.1]}),
    ],
)
def test_what_falls_short_is_seen(
    tables: Any, bars: Bars, world: str, what: str, bad: dict[str, Any]
) -> None:
    if what in bars(world):
        good, missed = bars(world)[what], bars(world, vfunc=bad)[what]
        assert (good[2], missed[2]) == ("2 of 2", "0 of 2")
        said = tables.bars(world, rows(world, vfunc=bad))[-1]
        assert f"{what} (0 of 2 seeds)" in said


def test_a_comparison_that_was_not_made_is_not_held(bars: Bars) -> None:
    assert bars("open8")["H above an ensemble of 64"][1:3] == ["not measured", "0 of 2"]
    found = bars("open8", ensemble={"entropy": 4.1})["H above an ensemble of 64"]
    assert found[1:3] == ["2.60 (2.60 to 2.60)", "2 of 2"]
    assert bars("open5", none={"entropy": 6.0})["H above entropy weight 0"][2] == "0 of 2"
    assert bars("open5", action={"agree": 0.7})["agree of action entropy"][2] == "0 of 2"


def test_aims_count_where_all_are_reached_at_once(tables: Any) -> None:
    assert "All aims at once: 2 of 2 seeds" in tables.bars("open8", rows("open8"))[-1]
    one = rows("open8")
    one[0]["entropy"], one[1]["agree"] = 6.0, 0.5
    assert "All aims at once: 0 of 2 seeds" in tables.bars("open8", one)[-1]


def test_the_whole_document(tables: Any) -> None:
    """Who never arrives has no length; what is unfit is called so; all that was paid for counts."""
    unfit = {"success": 0.4, "scale": 0.0125, "length": math.nan, "agree": 0.01}
    exact = {name: tables.Exact(paths=70, coin=4.03) for name in KNOWN}
    every = rows("open5", noise=unfit, ensemble={}, difference={}) + rows("rooms", bare={})
    picture = {"kind": "picture", "world": "rooms", "seed": 8, "file": "a.png", "seconds": 60.0}
    text = "\n".join(tables.document([*every, picture], exact))
    assert "## Open world 8 x 8" not in text and "![policies of seed 8](a.png)" in text
    assert "parameter noise, scale 0.0125 (unfit), 0.0125 (unfit) | 2 | 0.400" in text
    assert "Below a success of 95%: parameter noise 40.0%, 40.0%." in text
    assert "The rarer route of VFunc without the bonus has 50%, 50%." in text
    # of all worlds: vfunc twice, noise, ensemble; of one alone: difference, bare, the picture
    assert "took 9 CPU-minutes, on two cores 4 at best" in text
    assert "those of one world alone and the pictures 5" in text

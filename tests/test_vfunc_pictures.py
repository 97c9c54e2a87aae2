"""The picture of what is known of a distribution over policies."""

import importlib
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("falls", [False, True])
def test_bounds_are_shown_as_they_are_and_of_what(
    falls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    pictures: Any = importlib.import_module("vfunc_pictures")
    axis, colours = MagicMock(), MagicMock()
    known = pictures.Known([(0, 0.1), (9, 2.0)], [(0, 0.2, 30.0), (9, 2.1, 2.5)], None, falls)
    pictures.show_information(axis, known, colours)
    assert axis.fill_between.call_args.args == ((0, 9), (0.2, 2.1), (30.0, 2.5))
    assert axis.plot.call_args.args == ((0, 9), (0.1, 2.0))
    assert ("another quantity" in axis.set.call_args.kwargs["title"]) == falls
    assert not pictures.Known([], [], None).noise_falls

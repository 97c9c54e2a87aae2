"""One contract, all families: every instance in the catalogue against every check."""

import inspect
import re
from functools import partial
from pathlib import Path

import pytest

from rlgen import generative
from rlgen.generative import Family, catalogue, require
from tests import checks, toys
from tests.checks import CHECKS, Check
from tests.helpers import Case, cases

CASES = list(cases())


def name_of(value: object) -> str:
    if isinstance(value, partial):
        return f"{value.func.__name__}{value.args}{value.keywords}"
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check: Check, case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_saves_and_loads(case: Case, tmp_path: Path) -> None:
    checks.check_saving(case, tmp_path)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize("toy", toys.SOUND, ids=name_of)
def test_sound_models_pass(toy: toys.Toy, check: Check) -> None:
    check(Case("toy", toy))


@pytest.mark.parametrize(("toy", "check", "message"), toys.BROKEN, ids=name_of)
def test_broken_models_are_caught(toy: toys.Toy, check: Check, message: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception), match=message):
        check(Case("toy", toy))


def test_names_are_unique_and_exported() -> None:
    names = [family.name for family in catalogue()]
    assert len(set(names)) == len(names)
    for family in catalogue():
        assert getattr(generative, family.name) is family.cls
        assert family.small and all(type(make()) is family.cls for make in family.small)
        assert family.data and family.paper and family.bar


@pytest.mark.parametrize("family", catalogue(), ids=name_of)
def test_constructors_are_small(family: Family) -> None:
    first, *others = inspect.signature(family.cls).parameters.values()
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    assert len(others) <= 7
    for i, parameter in enumerate(others):
        second = i == 0 and parameter.default is parameter.empty
        assert second or parameter.kind is parameter.KEYWORD_ONLY, f"{parameter.name} by name"


@pytest.mark.parametrize("family", catalogue(), ids=name_of)
def test_docstrings_show_how(family: Family) -> None:
    text = inspect.getdoc(family.cls)
    assert text is not None and "Args:" in text and ">>> " in text


@pytest.mark.parametrize(
    ("capability", "method"),
    [
        (generative.Density, "log_prob"),
        (generative.Bound, "elbo"),
        (generative.Encoder, "encode"),
        (generative.Decoder, "decode"),
        (generative.Energy, "energy"),
        (generative.Score, "score"),
    ],
    ids=name_of,
)
def test_require_names_both_sides(capability: type, method: str) -> None:
    word = capability.__name__.lower()
    able = [family.name for family in catalogue() if word in family.capabilities]
    for family in catalogue():
        model = family.small[0]()
        assert isinstance(model, capability) == (family.name in able) == hasattr(model, method)
        if family.name in able:
            require(model, capability, "Consumer")
            continue
        with pytest.raises(TypeError) as caught:
            require(model, capability, "Consumer")
        message = str(caught.value)
        needs = rf"Consumer needs an? {word} \({method}\); {family.name} has none"
        assert re.match(needs, message), message
        listed = message.partition("Families with one: ")[2].split(", ")
        assert [name for name in listed if name] == able

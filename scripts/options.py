"""What the scripts' front doors share: options that are checked, and mistakes that are one line."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
import tyro
from rich.console import Console

from rlgen.generative import NonFiniteLoss

O = TypeVar("O")  # noqa: E741


class Refused(Exception):
    """What was asked for cannot be."""


def check_numbers(*numbers: tuple[str, int, int]) -> None:
    """Each is a name, a number and the least that it may be."""
    for name, number, least in numbers:
        if not least <= number < 2**31:
            raise Refused(f"--{name} must be from {least} to {2**31 - 1}, got {number}")


def check_name(option: str, name: str, names: Iterable[str], shown: str = "") -> None:
    names = tuple(names)
    if name not in names:
        raise Refused(
            f"--{option} must be one of {shown or ', '.join(names)}; there is no {name!r}"
        )


def check_device(name: str) -> None:
    try:
        there = float(torch.ones(1, device=name).sum()) == 1.0
    except Exception:  # each kind of device has an error of its own
        there = False
    if not there:
        raise Refused(f"--device {name!r} is not there")


def check_folder(folder: Path, option: str = "out") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise Refused(f"--{option} {str(folder)!r} cannot be written: {error.strerror}") from error


def parsed(kind: type[O], arguments: list[str]) -> O:
    """The options; what tyro says in a box is said in one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments)
    except SystemExit as done:
        if not done.code:
            raise
        raise Refused(unboxed(said.getvalue())) from None


def unboxed(text: str) -> str:
    """What a box says below its title, up to the next rule, whatever the box is drawn with."""
    lines = [line.strip("│|╭╮╰╯┌┐└┘─-+= ") for line in text.strip().splitlines()[1:]]
    while lines and not lines[0]:
        del lines[0]
    return " ".join(lines[: lines.index("")] if "" in lines else lines)


def answered(
    script: str,
    kind: type[O],
    arguments: list[str] | None,
    work: Callable[[O, Console], None],
) -> None:
    """Parse and work; a mistake is one line, and ends with 2."""
    wide = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 120))
    try:
        options = parsed(kind, sys.argv[1:] if arguments is None else arguments)
        work(options, Console(width=wide))
    except NonFiniteLoss as error:
        sys.exit(f"{script}: {error}")
    except (Refused, ValueError) as error:
        sys.stderr.write(f"{script}: {error}\n")
        sys.exit(2)

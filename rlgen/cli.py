"""The front door: one command for each job, and no logic of its own."""

import sys

import torch
import tyro
from rich.console import Console
from rich.table import Table

from rlgen import __version__
from rlgen.generative import catalogue

app = tyro.extras.SubcommandApp()


@app.command
def models() -> None:
    """List every family of generative models: what it can do, and on what data."""
    table = Table(title="Generative models")
    for name in ("group", "family", "capabilities", "data", "paper"):
        table.add_column(name, overflow="fold", no_wrap=name in ("group", "family"))
    for family in catalogue():
        group = family.cls.__module__.split(".")[2]
        capabilities = ", ".join(family.capabilities)
        table.add_row(group, family.name, capabilities, family.data, family.paper)
    _console().print(table)


@app.command
def version() -> None:
    """Print the version."""
    _console().print(__version__, highlight=False)


def main() -> None:
    """Run the command named on the command line."""
    # small networks: one thread is often ten times faster than several
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--version"]:
        return version()
    app.cli(prog="rlgen", description="Generative models, and what agents are made of.")


def _console() -> Console:
    """As wide as the terminal; when the output goes elsewhere, as wide as it needs to be."""
    return Console(width=None if sys.stdout.isatty() else 1000)

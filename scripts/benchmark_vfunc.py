"""Distributions over policies: VFunc beside what else could be one, at the same cost.

    python scripts/benchmark_vfunc.py measure --world open5 --seeds 0 1 2 3 4
    python scripts/benchmark_vfunc.py measure --world rooms --who vfunc ensemble --seeds 0
    python scripts/benchmark_vfunc.py report

Each figure is a line in runs/vfunc.jsonl as soon as it is known; `report` makes
docs/results/vfunc.md of them. One thread; seconds are of the CPU.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from figures import Notes, Row, machine, spread
from policy_rows import (
    RECIPES,
    SUCCESS,
    Draw,
    Recipe,
    adapted,
    drawing,
    ensemble,
    parameter_noise,
    seen,
    vfunc,
)

from rlgen.agents.anneal import Anneal

NOTES = Notes("vfunc")
app = tyro.extras.SubcommandApp()
WHO = {
    "vfunc": "VFunc",
    "none": "the same, entropy weight 0",
    "action": "the same, action entropy instead",
    "ensemble": "ensemble of 64",
    "noise": "parameter noise",
}
WORLDS = {
    "open5": "Open world 5 x 5",
    "open8": "Open world 8 x 8",
    "rooms": "Four-Rooms, (1, 1) to (11, 11)",
}
ACTION_ENTROPY = 0.05


@app.command
def measure(
    world: str = "open5",
    who: Sequence[str] = tuple(WHO),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> None:
    """Train each and look at what it draws."""
    torch.set_num_threads(1)
    recipe = RECIPES[world]
    one = recipe.world(1, 0)
    for seed in seeds:
        for name in who:
            began = time.process_time()
            draw, bound = trained(name, recipe, seed)
            seconds = time.process_time() - began
            found = {**seen(one, draw), "closed": adapted(one, draw, recipe.closed)}
            row = {**found, "bound": bound, "seconds": seconds}
            NOTES.add("row", world=world, who=name, seed=seed, **row)


def trained(name: str, recipe: Recipe, seed: int) -> tuple[Draw, float | None]:
    """One distribution over policies, and the bound of its information if it has z."""
    if name == "ensemble":
        return ensemble(recipe, seed), None
    if name == "noise":
        return parameter_noise(recipe, seed), None
    changes: dict[str, Any] = {}
    if name != "vfunc":
        changes["entropy_weight"] = 0.0
    if name == "action":
        settings = {**recipe.settings, "entropy_weight": ACTION_ENTROPY}
        changes |= {"settings": settings, "action_entropy": None}
    agent = vfunc(recipe, seed, **changes)
    return drawing(agent, recipe.world(1, seed)), agent.information_bound()


@app.command
def report(out: Path = Path("docs/results/vfunc.md")) -> None:
    """The table of all figures."""
    rows = [row for row in NOTES.rows() if row["kind"] == "row"]
    latest = {(row["world"], row["who"], row["seed"]): row for row in rows}
    lines = [*heading()]
    for world in WORLDS:
        found = [row for row in latest.values() if row["world"] == world]
        lines += table(world, found) if found else []
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def heading() -> list[str]:
    return [
        "# Distributions over policies",
        "",
        f"{machine()}. Median and range over seeds. d500, d2000: different shortest paths among "
        "the greedy paths of so many drawn policies. H: entropy of the greedy path over 2,000 "
        "draws, in nats. agree: how likely a sampled episode follows the greedy path of its own "
        "policy. H(path given z): of sampled episodes. I(path; z): what a sampled path tells of "
        "which of 500 policies took it, at most log 500 = 6.21. Arrive with a cell closed: the "
        "share of policies whose greedy path still arrives when a cell is closed after training, "
        "the worst of several; one episode of each of 1 / share policies finds one. "
        f"Variety counts where at least {SUCCESS:.0%}"
        " reach the goal. The bound is that of the information of z and what policies do at 16 "
        "visited states; it is below log 128 = 4.85, and compares only rows with the same noise.",
    ]


def table(world: str, rows: Sequence[Row]) -> list[str]:
    recipe = RECIPES[world]
    paths = recipe.world(1, 0).shortest_paths()
    d500, entropy, agree = recipe.bars
    lines = [
        "",
        f"## {WORLDS[world]}",
        "",
        f"{paths:,} shortest paths, log {math.log(paths):.2f}. {settings_of(recipe)} Bars: d500 "
        f"at least {d500}, H at least {entropy}, agree at least {agree}.",
        "",
        "| who | seeds | success | length / shortest | d500 | d2000 | H | agree | "
        "H(path given z) | I(path; z) | routes | arrive with a cell closed | bound | CPU-seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, shown in WHO.items():
        found = [row for row in rows if row["who"] == name]
        if found:
            lines.append("| " + " | ".join(cells(shown, found)) + " |")
    return lines


def settings_of(recipe: Recipe) -> str:
    """How VFunc learnt, in a sentence."""
    noise = recipe.noise
    spoken = f"{noise.start} to {noise.end}" if isinstance(noise, Anneal) else f"{noise}"
    return (
        f"{recipe.total:,} steps of {recipe.copies} copies, PPO {recipe.settings}, entropy weight "
        f"{recipe.entropy_weight}, noise {spoken}."
    )


def cells(shown: str, found: Sequence[Row]) -> list[str]:
    def of(name: str, digits: int = 2) -> str:
        known = [row[name] for row in found if row[name] is not None]
        return spread(known, digits) if known else "-"

    routes = ["/".join(f"{100 * share:.0f}" for share in row["routes"]) for row in found]
    least = [min(row["closed"]) for row in found]
    return [
        shown,
        str(len(found)),
        of("success", 3),
        of("length", 3),
        of("d500", 0),
        of("d2000", 0),
        of("entropy"),
        of("agree"),
        of("given"),
        of("information"),
        ", ".join(routes),
        f"{spread(least, 2)}",
        of("bound"),
        of("seconds", 0),
    ]


if __name__ == "__main__":
    app.cli(description=__doc__)

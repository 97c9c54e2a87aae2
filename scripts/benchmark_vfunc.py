"""Distributions over policies: VFunc beside what else could be one, at the same cost.

    python scripts/benchmark_vfunc.py measure --world open5
    python scripts/benchmark_vfunc.py measure --world rooms --who vfunc ensemble --seeds 8
    python scripts/benchmark_vfunc.py pictures
    python scripts/benchmark_vfunc.py report

Each figure is a line in runs/vfunc.jsonl as soon as it is known; `report` makes
docs/results/vfunc.md of them. Settings were chosen on the seeds 0 to 7, so others are measured.
One thread; seconds are of the CPU.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from figures import Notes
from policy_rows import (
    ALONE,
    FORMS,
    RECIPES,
    Draw,
    Recipe,
    action_entropy,
    adapted,
    drawing,
    ensemble,
    fair_coin,
    parameter_noise,
    played,
    seen,
    untrained,
    vfunc,
)
from vfunc_pictures import BETWEEN, PATHS, Known, draw_policies
from vfunc_tables import WHO, WORLDS, Exact, document

from rlgen.agents import VFunc
from rlgen.agents import policy_measures as pm
from rlgen.agents.anneal import Anneal

NOTES = Notes("vfunc")
PICTURES = Path("docs/results")
CHECKPOINTS = 16  # of the information, along training
CLOSE = 8192  # candidates of the bounds from both sides
SETS = 16  # of states, that all bounds are taken at
app = tyro.extras.SubcommandApp()


@app.command
def measure(
    world: str = "open5",
    who: Sequence[str] = tuple(WHO),
    seeds: Sequence[int] = (8, 9, 10, 11, 12),
) -> None:
    """Train each and look at what it draws; some are of one world alone."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in who:
            where, changes = ALONE.get(name, (world, {}))
            if where != world:
                continue
            recipe = dataclasses.replace(RECIPES[world], **changes)
            one, began = recipe.world(1, 0), time.process_time()
            draw, agent, more = trained(name, recipe, seed)
            more["seconds"], began = time.process_time() - began, time.process_time()
            found = seen(one, draw)
            if agent is None:
                found["closed"] = adapted(one, draw, recipe.closed)
            else:
                found["closed"] = played(agent, recipe, seed)
                found["bound"] = agent.information_bound(SETS)
                found["between"] = agent.information_between(CLOSE, SETS)
            more["looked"] = time.process_time() - began
            NOTES.add("row", world=world, who=name, seed=seed, **found, **more)


def trained(name: str, recipe: Recipe, seed: int) -> tuple[Draw, VFunc | None, dict[str, Any]]:
    """One distribution over policies, its agent if it has z, and what else is to be told of it."""
    if name == "ensemble":
        return ensemble(recipe, seed), None, {}
    if name == "noise":
        draw, scale = parameter_noise(recipe, seed)
        return draw, None, {"scale": scale}
    more = {}
    if name == "action":
        agent, more["weight"] = action_entropy(recipe, seed)
    elif name in FORMS:
        agent = vfunc(recipe, seed, **FORMS[name])
    else:
        weight = 0.0 if name == "none" else recipe.entropy_weight
        agent = vfunc(recipe, seed, entropy_weight=weight)
    return drawing(agent, recipe.world(1, seed)), agent, more


@app.command
def pictures(worlds: Sequence[str] = tuple(WORLDS), seed: int = 8) -> None:
    """Of one agent for each world: paths, the way from one z to another, and information."""
    torch.set_num_threads(1)
    for name in worlds:
        recipe, began = RECIPES[name], time.process_time()
        agent, known = watched(recipe, seed)
        one, file = recipe.world(1, seed), PICTURES / f"vfunc_{name}.png"
        draw_policies(
            one,
            pm.greedy(one, agent.sample_policies(PATHS, generator=1).table(one)).path,
            pm.greedy(one, agent.sample_policies(2, generator=3).between(BETWEEN).table(one)).path,
            known,
            file,
        )
        seconds = time.process_time() - began
        NOTES.add("picture", world=name, seed=seed, file=file.name, seconds=seconds)


def watched(recipe: Recipe, seed: int) -> tuple[VFunc, Known]:
    """VFunc, trained, and what was known of its information on the way."""
    agent = untrained(recipe, seed)
    known = Known([], [], math.log(recipe.candidates), isinstance(recipe.noise, Anneal))

    def look(steps: int, metrics: dict[str, float]) -> None:
        if steps * CHECKPOINTS >= len(known.between) * recipe.total:
            known.bound.append((steps, agent.information_bound(SETS)))
            known.between.append((steps, *agent.information_between(CLOSE, SETS)))

    return agent.learn(recipe.total, progress=False, callback=look), known


@app.command
def report(out: Path = Path("docs/results/vfunc.md")) -> None:
    """The document of all figures."""
    exact = {}
    for name, recipe in RECIPES.items():
        one = recipe.world(1, 0)
        exact[name] = Exact(one.shortest_paths(), fair_coin(one))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(document(NOTES.latest("kind", "world", "who", "seed"), exact)) + "\n")


if __name__ == "__main__":
    app.cli(description=__doc__)

"""Learn a distribution over policies, and see how much they differ.

    python scripts/train_vfunc.py
    python scripts/train_vfunc.py --world FourRooms
    python scripts/train_vfunc.py --size 8 --entropy-weight 0
    python scripts/train_vfunc.py --bound maxent --encoder difference

Ends with a table, exact but for the draws of policies, and a picture of the paths of 200 policies,
of the way from one to another, and of the bound while it was learnt. Called again with the same
options, it goes on from where it was.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from options import Refused, answered, check_device, check_folder, check_name, check_numbers
from policy_rows import RECIPES, Recipe, drawing, falls, lasting, open_world, seen, untrained
from rich.console import Console
from rich.table import Table
from vfunc_pictures import BETWEEN, PATHS, Known, draw_policies

from rlgen.agents import VFunc
from rlgen.agents import policy_measures as pm
from rlgen.agents.anneal import Anneal
from rlgen.envs import FourRooms
from rlgen.envs.tabular import TabularGrid
from rlgen.runs import Run

# a run may move, go on for longer where nothing falls until its end, and be looked at anew
FREE = ("out", "steps", "closed")
USUAL = {5: "open5", 8: "open8"}  # sizes of OpenWorld
TRIED = 500  # policies, where a cell is closed


@dataclasses.dataclass(frozen=True)
class Options:
    """Learn a distribution over policies, and see how much they differ.

    Args:
        world: OpenWorld, from corner to corner, or FourRooms, from (1, 1) to (11, 11).
        size: rows and columns of OpenWorld.
        steps: over all copies; 0 is as many as usual for the world. In FourRooms some settings fall
            until then, so a run that was begun there keeps its number.
        task: whose gradient earns the return: ppo, reinforce.
        entropy_weight: of the bound; below 0 is the usual one for the world.
        bound: discretise, maxent.
        encoder: likelihood, difference, direct, similarity; none is the usual one of the bound.
        latent: numbers of z.
        points: visited states at which policies are compared; 0 is as many as usual for the world.
        candidates: z at each gradient step; 0 is as many as usual for the world.
        closed: row and column of a cell that is closed after training, to see who still arrives.
        device: such as cpu or cuda.
        seed: of everything random.
        out: the folder of the run and its picture.
    """

    world: str = "OpenWorld"
    size: int = 5
    steps: int = 0
    task: str = "ppo"
    entropy_weight: float = -1.0
    bound: str = "discretise"
    encoder: str = ""
    latent: int = 16
    points: int = 0
    candidates: int = 0
    closed: tuple[int, int] | None = None
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/vfunc")


def recipe_of(o: Options) -> Recipe:
    """What is known to work there, with what was asked for."""
    if o.world == "FourRooms":
        recipe = RECIPES["rooms"]
    elif o.size in USUAL:
        recipe = RECIPES[USUAL[o.size]]
    else:
        recipe = RECIPES["open5" if o.size <= 5 else "open8"]
        recipe = dataclasses.replace(recipe, world=open_world(o.size, max(50, 12 * o.size)))
    settings = dict(recipe.settings)
    if o.task == "reinforce":
        settings.pop("minibatch", None)
    weight = recipe.entropy_weight if o.entropy_weight < 0.0 else o.entropy_weight
    recipe = dataclasses.replace(
        recipe,
        settings=settings,
        entropy_weight=weight,
        points=o.points or recipe.points,
        candidates=o.candidates or recipe.candidates,
        device=o.device,
    )
    return lasting(recipe, o.steps or recipe.total)


def check(o: Options) -> None:
    check_name("world", o.world, ("OpenWorld", "FourRooms"))
    check_name("task", o.task, ("ppo", "reinforce"))
    check_name("bound", o.bound, ("discretise", "maxent"))
    encoders = ("likelihood", "difference", "direct", "similarity")
    if o.encoder:
        check_name("encoder", o.encoder, encoders)
    least = {"size": 2, "steps": 0, "latent": 1, "points": 0, "candidates": 0, "seed": 0}
    check_numbers(*((name, getattr(o, name), low) for name, low in least.items()))
    if o.candidates == 1:
        raise Refused("--candidates must be from 2, or 0, got 1")
    if o.world != "OpenWorld" and o.size != Options.size:
        raise Refused(f"--size is for OpenWorld, not for {o.world}")
    if not o.entropy_weight < math.inf:
        raise Refused(f"--entropy-weight must be finite, got {o.entropy_weight}")
    check_device(o.device)
    if o.closed is not None:
        recipe_of(o).world(1, 0).blocked(o.closed)
    check_folder(o.out)


def train(o: Options, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    check(o)
    recipe = recipe_of(o)
    names = ("task", "bound", "latent")
    choices: dict[str, Any] = {name: getattr(o, name) for name in names}
    agent = untrained(recipe, o.seed, encoder=o.encoder or None, **choices)
    config = {k: v for k, v in dataclasses.asdict(o).items() if k not in FREE}
    if falls(recipe):
        config["steps"] = recipe.total
    run = Run(o.out / "run", config)
    console.print(f"{o.world}: {recipe.total} steps, entropy weight {recipe.entropy_weight}")
    began = time.perf_counter()
    agent.learn(recipe.total, run=run, progress=True)
    seconds = time.perf_counter() - began
    one = recipe.world(1, o.seed)
    table = table_of(agent, one, f"{o.world}, {agent.total_steps} steps, {seconds:.0f} s")
    if o.closed is not None:
        blocked = recipe.world(TRIED, o.seed, o.device).blocked(o.closed)
        fit = len(agent.sample_policies(TRIED, generator=2).arriving(blocked))
        table.add_row(f"of {TRIED} policies, arrive with {o.closed} closed", f"{fit}")
    console.print(table)
    console.print(f"Picture: {drawn(o, recipe, agent, one, run)}   Run: {o.out}", soft_wrap=True)


def table_of(agent: VFunc, world: TabularGrid, title: str) -> Table:
    found = seen(world, drawing(agent, world))
    routes = " ".join(f"{share:.0%}" for share in found["routes"])
    bound, between = agent.information_bound(16), agent.information_between(draws=16)
    paths = world.shortest_paths()
    shown = {
        "greedy paths that arrive": f"{found['success']:.1%}",
        "their length, over the shortest": f"{found['length']:.3f}",
        f"different shortest paths of {paths:,}, in 500 draws": f"{found['d500']}",
        "in 2,000 draws": f"{found['distinct']}",
        f"entropy of paths, of {math.log(paths):.2f} nats": f"{found['entropy']:.2f}",
        "agree: a sampled episode follows its greedy path": f"{found['agree']:.2f}",
        "entropy of a sampled path given z, nats": f"{found['given']:.2f}",
        "routes": routes if isinstance(world, FourRooms) else "-",
        "bound of the information of z and policy, nats": f"{bound:.2f}",
        "that information, from both sides": " to ".join(f"{side:.2f}" for side in between),
    }
    table = Table(title=title, show_header=False)
    for name, value in shown.items():
        table.add_row(name, value)
    return table


def drawn(o: Options, recipe: Recipe, agent: VFunc, world: TabularGrid, run: Run) -> Path:
    """The picture, and where it is."""
    policies = agent.sample_policies(PATHS, generator=1)
    ways = agent.sample_policies(2, generator=3).between(BETWEEN)
    lines = [line for line in run.metrics() if "vfunc/information" in line]
    bound = [(int(line["step"]), float(line["vfunc/information"])) for line in lines]
    most = math.log(recipe.candidates) if o.bound == "discretise" else None
    file = o.out / "policies.png"
    draw_policies(
        world,
        pm.greedy(world, policies.table(world)).path,
        pm.greedy(world, ways.table(world)).path,
        Known(bound, [], most, isinstance(recipe.noise, Anneal)),
        file,
    )
    return file


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then learn."""
    answered("train_vfunc.py", Options, arguments, train)


if __name__ == "__main__":
    main()

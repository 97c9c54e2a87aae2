"""Dreams against the truth, and agents that learnt in dreams in the real world.

    python scripts/benchmark_world_model.py truth
    python scripts/benchmark_world_model.py protocol
    python scripts/benchmark_world_model.py report

Each figure is a line in runs/world_model.jsonl as soon as it is known; `report` makes
docs/results/world_model.md and its pictures of them. One thread; seconds are of the CPU.
"""

import time
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from dreamers import played_out
from figures import Notes, listed
from torch import Tensor
from world_model_panels import document

from rlgen.agents import PPO
from rlgen.agents.imitation import measures as imitation
from rlgen.agents.imitation import record
from rlgen.agents.world_model import (
    Attention,
    Controller,
    Dream,
    Memory,
    Vision,
    WorldModel,
    evolve,
    measures,
)
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from, mix

NOTES = Notes("world_model")
HORIZON, DREAMS, CAP, EPISODES = 30, 4096, 100, 1000
SPREAD_AFTER, SPREAD_STARTS = 15, 4
WIDTH = {"tokens": 64, "attention": 64, "numbers": 128}
SURE: dict[str, Any] = {"vision_steps": 800, "memory_steps": 4000, "lr": 6e-3}
FIT = {"tokens": SURE, "attention": SURE, "numbers": {**SURE, "memory_steps": 3000, "lr": 4e-3}}
JUDGED = 2500  # M's steps where chance is, that more of them would learn by heart
IN_DREAMS: dict[str, Any] = {"steps": 16, "minibatch": 256, "lr": 1e-3, "entropy_weight": 0.01}
DREAMED_STEPS = 65536
POPULATION, ROLLOUTS, GENERATIONS = 64, 16, 50
Kind = Literal["tokens", "attention", "numbers"]
Place = Literal["rooms", "open"]
WHO = {"tokens": "tokens, GRU", "attention": "tokens, Attention", "numbers": "MDN-RNN"}
app = tyro.extras.SubcommandApp()


def place(where: Place, copies: int, *, slip: float = 0.0, seed: int = 0) -> TabularGrid:
    """Pictures of a map with one goal, from any cell."""
    form: dict[str, Any] = {"observation": "image", "slip": slip, "max_steps": CAP, "seed": seed}
    return FourRooms(copies, **form) if where == "rooms" else OpenWorld(copies, size=10, **form)


def untaught(world: TabularGrid, kind: Kind, vision: Vision | None, seed: int) -> WorldModel:
    """A world model whose M knows nothing, and whose V nothing unless it is given."""
    with drawing_from(mix(seed, 11)):
        recurrence = Attention(WIDTH[kind]) if kind == "attention" else None
        latent: Literal["tokens", "numbers"] = "numbers" if kind == "numbers" else "tokens"
        model = WorldModel.of(world, latent=latent, width=WIDTH[kind], recurrence=recurrence)
    return model if vision is None else WorldModel(vision, model.memory)


def taught(model: WorldModel, form: dict[str, Any], *, seed: int, see: bool = True) -> float:
    """Fit V, if it is to `see`, and M; the CPU-seconds that it took."""
    began = time.process_time()
    model.fit(**(form if see else {**form, "vision_steps": 0}), seed=seed)
    return time.process_time() - began


# dreams against the truth


@app.command
def truth(
    seeds: tuple[int, ...] = (0, 1000, 2000),
    slips: tuple[float, ...] = (0.0, 0.1),
    kinds: tuple[Kind, ...] = ("tokens", "attention", "numbers"),
) -> None:
    """Dreams of Four-Rooms by random actions against its exact process."""
    torch.set_num_threads(1)
    for seed in seeds:
        for slip in slips:
            world = place("rooms", 64, slip=slip, seed=seed)
            data = record(world, at_random, 303 if slip == 0.0 else 1120, seed=seed)
            seen: Vision | None = None
            for kind in kinds:
                model = untaught(world, kind, None if kind == "numbers" else seen, seed)
                model.data = data
                fresh = kind == "numbers" or seen is None
                sure = slip == 0.0 and kind != "numbers"
                form = FIT[kind] if sure else {**FIT[kind], "memory_steps": JUDGED}
                seconds = taught(model, form, seed=seed, see=fresh)
                seen = model.vision if kind != "numbers" else seen
                same: dict[str, Any] = {"slip": slip, "seed": seed, "steps": data.steps}
                same |= {"width": WIDTH[kind], "noise": model.memory.noise, "fit": form}
                judged = judge(model.vision, model.memory, slip, seed)
                NOTES.add("truth", who=WHO[kind], seconds=seconds, **same, **judged)
                if kind == "numbers":
                    judged = judge(model.vision, model.memory, slip, seed, again=True)
                    NOTES.add("truth", who="MDN-RNN, encoded anew", **same, **judged)
                if kind != "attention":
                    blank = untaught(world, kind, None, seed + 100).memory
                    judged = judge(model.vision, blank, slip, seed)
                    NOTES.add("truth", who=f"{WHO[kind]}, untrained M", **same, **judged)


def at_random(obs: Tensor) -> Tensor:
    return torch.randint(4, (len(obs),))


def judge(
    vision: Vision, memory: Memory, slip: float, seed: int, *, again: bool = False
) -> dict[str, Any]:
    """Thousands of dreams beside the exact process."""
    world = place("rooms", 128, slip=slip)
    mdp, source = world.mdp(), torch.Generator().manual_seed(mix(seed, 12))
    start = torch.multinomial(mdp.start, DREAMS, replacement=True, generator=source)
    action = torch.randint(4, (HORIZON, DREAMS), generator=source)
    dreamt = measures.dreams(vision, memory, world, start, action, again=again, seed=seed)
    again_seen = vision.decode(vision.encode(measures.pictures(world)))
    every = torch.arange(world.cells)
    figures: dict[str, Any] = {
        "illegal": measures.illegal(dreamt, mdp).tolist(),
        "ended": measures.ended(dreamt).tolist(),
        "exact_ended": measures.exact_ended(mdp, HORIZON).tolist(),
        "dreams": DREAMS,
        "vision": float((imitation.cells(again_seen, world) == every).double().mean()),
        **{name: int(found.sum()) for name, found in measures.goals(dreamt, mdp).items()},
    }
    if slip == 0.0:
        figures["accuracy"] = measures.accuracy(dreamt, mdp).tolist()
    figures["spread"], figures["floor"] = [], []
    with drawing_from(mix(seed, 13)):
        for first in torch.linspace(0, world.cells - 2, SPREAD_STARTS).long():
            action = torch.randint(4, (SPREAD_AFTER, DREAMS))
            begin = first.expand(DREAMS)
            dreamt = measures.dreams(vision, memory, world, begin, action, again=again, seed=seed)
            figures["spread"].append(measures.spread(dreamt, mdp, SPREAD_AFTER))
            really = measures.walks(mdp, begin, action)
            figures["floor"].append(measures.spread(really, mdp, SPREAD_AFTER))
        some = start[:1024]
        walked = measures.walks(mdp, some, torch.randint(4, (11, len(some))))
    if not again:
        found = measures.told(vision, memory, world, walked, seed=seed)
        figures |= {"nats": found.nats, "entropy": found.entropy}
    return figures


# agents that learnt in dreams


@app.command
def protocol(
    seeds: tuple[int, ...] = (5000, 6000, 7000, 8000, 9000),
    where: Place = "rooms",
    kind: Kind = "tokens",
    temperatures: tuple[float, ...] = (1.0, 0.1, 0.5, 1.15, 1.3),
    evolved: bool = True,
    control: bool = True,
) -> None:
    """V and M of 100 random episodes; C by PPO and CMA-ES in the dream; the real world judges.

    Args:
        seeds: of everything; far apart, for copy i of a world has the seed + i.
        where: Four-Rooms or the open world.
        kind: of M.
        temperatures: of the dreams that PPO learns in.
        evolved: evolve a linear controller too, at temperature 1.
        control: learn in the dream of an untrained M too.
    """
    torch.set_num_threads(1)
    for seed in seeds:
        world = place(where, 64, seed=seed)
        model = untaught(world, kind, None, seed)
        model.data = record(world, at_random, 100, seed=seed)
        seconds = taught(model, FIT[kind], seed=seed)
        same = {"where": where, "who": WHO[kind], "seed": seed, "steps": model.data.steps}
        same |= {"width": WIDTH[kind], "noise": model.memory.noise, "fit": FIT[kind]}
        NOTES.add("model", seconds=seconds, **same)
        for temperature in temperatures:
            began = time.process_time()
            agent = by_ppo(model, temperature, seed)
            seconds = time.process_time() - began
            found = tried(model, agent, where, temperature, seed)
            NOTES.add("agent", by="PPO", temperature=temperature, seconds=seconds, **same, **found)
        if evolved:
            began = time.process_time()
            linear = by_evolution(model, seed)
            seconds = time.process_time() - began
            found = tried(model, linear, where, 1.0, seed)
            NOTES.add("agent", by="CMA-ES", temperature=1.0, seconds=seconds, **same, **found)
        if control:
            blank = WorldModel(model.vision, untaught(world, kind, None, seed + 100).memory)
            blank.data = model.data
            agent = by_ppo(blank, 1.0, seed)
            found = tried(blank, agent, where, 1.0, seed)
            NOTES.add("agent", by="PPO, untrained M", temperature=1.0, **same, **found)


def by_ppo(model: WorldModel, temperature: float, seed: int) -> PPO:
    dream = model.dream(64, temperature=temperature, max_steps=CAP, seed=mix(seed, 14))
    return PPO(dream, seed=seed, **IN_DREAMS).learn(DREAMED_STEPS, progress=False)


def by_evolution(model: WorldModel, seed: int) -> Controller:
    dream = model.dream(POPULATION * ROLLOUTS, groups=POPULATION, max_steps=CAP, seed=seed)
    controller = Controller.of(dream)
    form: dict[str, Any] = {"population": POPULATION, "generations": GENERATIONS}
    evolve(controller, dream, seed=seed, progress=False, **form)
    return controller


def tried(
    model: WorldModel, agent: Any, where: Place, temperature: float, seed: int
) -> dict[str, float]:
    """Episodes in reality, and in dreams whose starts are drawn among those."""
    world = place(where, EPISODES)
    real = record(world, model.pilot(agent), EPISODES, seed=10**6 + seed, deterministic=True)
    firsts = torch.stack([walk.obs[0] for walk in real])
    form: dict[str, Any] = {"max_steps": CAP, "seed": mix(seed, 15)}
    dream = model.dream(EPISODES, temperature=temperature, obs=firsts, **form)
    return {
        "success": sum(walk.terminated for walk in real) / len(real),
        "length": real.steps / len(real),
        "optimum": float(world.distances()[imitation.cells(firsts, world)].double().mean()),
        **{f"dreamed_{name}": figure for name, figure in in_dream(dream, agent, world).items()},
    }


def in_dream(dream: Dream, agent: PPO | Controller, world: TabularGrid) -> dict[str, float]:
    """One episode in each copy: how many ended, how soon, where, and what could not happen."""
    z, action, _, ended, alive = played_out(dream, agent, True)
    cells = torch.stack([imitation.cells(dream.vision.decode(now), world) for now in z])
    walks = measures.Walks(cells, action, ended)
    goals = measures.goals(walks, world.mdp())
    ends, false = int(goals["ends"].sum()), int(goals["false"].sum())
    wrong, counted = measures.impossible(walks, world.mdp())
    return {
        "success": ends / dream.num_envs,
        "length": float(alive.sum(0).double().mean()),
        "false": false / max(1, ends),
        "impossible": float(wrong.sum() / counted.sum()),
    }


@app.command
def report(out: Path = Path("docs/results/world_model.md")) -> None:
    """The document of all that was measured."""
    rows = NOTES.latest("kind", "where", "slip", "who", "by", "temperature", "seed")
    chance = {
        where: float(measures.exact_ended(place(where, 1).mdp(), CAP)[-1])
        for where in ("rooms", "open")
    }
    settings = (
        f"PPO in the dream: {DREAMED_STEPS:,} steps with {listed(IN_DREAMS)}. CMA-ES: "
        f"{GENERATIONS} generations of {POPULATION} candidates with {ROLLOUTS} dreams each"
    )
    document(rows, chance, settings, out, episodes=EPISODES)


if __name__ == "__main__":
    app.cli(description=__doc__)

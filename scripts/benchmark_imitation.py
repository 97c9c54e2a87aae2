"""Imitation in Four-Rooms, against the expert's exact occupancy.

    python scripts/benchmark_imitation.py table
    python scripts/benchmark_imitation.py fixed
    python scripts/benchmark_imitation.py routes
    python scripts/benchmark_imitation.py pixels
    python scripts/benchmark_imitation.py pixels --wasserstein --seeds 0
    python scripts/benchmark_imitation.py report

Each figure is a line in runs/imitation.jsonl as soon as it is known; `report` makes
docs/results/imitation.md and its picture of them. One thread; seconds are of the CPU.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from figures import Notes, machine, spread
from imitation_pictures import Panel, draw_paths
from torch import Tensor

from rlgen.agents import PPO, ActorCritic, Policy, planning
from rlgen.agents.imitation import (
    AIRL,
    BC,
    GAIL,
    Coded,
    Demonstrations,
    Expert,
    InfoGAIL,
    measures,
    record,
    routes_expert,
    shortest_paths_expert,
)
from rlgen.agents.imitation.adversarial import Adversary
from rlgen.envs import FourRooms
from rlgen.generative import Wasserstein
from rlgen.seeding import drawing_from, mix

NOTES = Notes("imitation")
DISCOUNT = 0.97
SETTINGS = {"steps": 32, "minibatch": 512, "lr": 3e-3, "entropy_weight": 0.003}
BARS = {1: (0.15, 0.90), 4: (0.12, 0.94), 16: (0.08, 0.95)}
app = tyro.extras.SubcommandApp()


Start = tuple[int, int] | None


def every_cell(observation: Any = "onehot") -> Tensor:
    """What is seen from each cell, with shape (cells, *observation)."""
    goal: Any = (11, 11) if observation == "image" else "none"  # pictures show it
    other = FourRooms(1, start=(11, 11), goal="none").start
    seen = []
    for cell in range(FourRooms(1).cells):
        where = 0 if goal != "none" and cell == other else cell  # nothing is done at the goal
        seen.append(FourRooms(1, start=where, goal=goal, observation=observation).reset())
    return torch.cat(seen)


@torch.no_grad()
def table_of(policy: Policy, seen: Tensor) -> Tensor:
    """pi(a|s) of every cell, exact, with shape (cells, actions)."""
    head: Any = policy.distribution(seen)
    probabilities: Tensor = head.probs.double()
    return probabilities / probabilities.sum(1, keepdim=True)  # single precision left a little


def train(agent: PPO, iterations: int) -> float:
    """Iterate with a learning rate that falls to nearly nothing: a constant one goes in circles.

    Returns:
        The accuracy of the critic, over the last tenth.
    """
    rate, right = agent.optimizer.param_groups[0]["lr"], []
    for i in range(iterations):
        for group in agent.optimizer.param_groups:
            group["lr"] = rate * max(0.02, 1.0 - i / iterations)
        right.append(agent.iterate()["imitation/accuracy"])
    return statistics.mean(right[-max(1, iterations // 10) :])


def imitate(
    kind: str,
    demonstrations: Demonstrations,
    seed: int,
    iterations: int,
    start: Start = None,
    **options: Any,
) -> tuple[Policy, float]:
    """GAIL or AIRL with PPO, all networks small; and how often the critic is right in the end."""
    world = FourRooms(64, start=start, max_steps=200, seed=seed)
    spaces = world.observation_space, world.action_space
    with drawing_from(mix(seed, 1)):
        model = ActorCritic(Policy.of(*spaces), streams=2)
    reward: Adversary = (
        GAIL(demonstrations, *spaces, discount=DISCOUNT, seed=seed, **options)
        if kind == "GAIL"
        else AIRL(
            demonstrations, *spaces, log_prob=model.policy.log_prob, discount=DISCOUNT, seed=seed
        )
    )
    models = {"imitation": reward}
    settings: dict[str, Any] = {**SETTINGS, "discount": DISCOUNT, "seed": seed}
    agent = PPO(world, model=model, reward_models=models, world_weight=0.0, **settings)
    right = train(agent, iterations)
    return model.policy, right


@app.command
def table(
    counts: tuple[int, ...] = (1, 4, 16, 64),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    iterations: int = 60,
) -> None:
    """BC, GAIL and AIRL by the number of demonstrations, from a uniform start."""
    torch.set_num_threads(1)
    world = FourRooms(64, max_steps=200)
    mdp, expert = world.mdp(), shortest_paths_expert(world)
    truth = expert.occupancy(DISCOUNT)
    best = float(planning.evaluate_policy(mdp, expert.policy, discount=DISCOUNT) @ mdp.start)
    seen = every_cell()
    for seed in seeds:
        all_of_them = record(world, expert, max(counts), seed=1000 + seed)
        for count in counts:
            few = all_of_them[:count]
            floor = measures.empirical_occupancy(few, world, DISCOUNT)
            floor_tv = measures.total_variation(floor, truth)
            NOTES.add("table", who="demonstrations", count=count, seed=seed, tv=floor_tv)
            for who in ("BC", "GAIL", "AIRL"):
                start = time.process_time()
                if who == "BC":
                    spaces = world.observation_space, world.action_space
                    policy = BC(few, *spaces, lr=3e-3, seed=seed).learn(500, progress=False).policy
                else:
                    policy, _ = imitate(who, few, seed, iterations)
                seconds = time.process_time() - start
                pi = table_of(policy, seen)
                rho = measures.occupancy(mdp, pi, discount=DISCOUNT)
                value = planning.evaluate_policy(mdp, pi, discount=DISCOUNT) @ mdp.start
                tv = measures.total_variation(rho, truth)
                figures = {"tv": tv, "share": float(value) / best, "seconds": seconds}
                NOTES.add("table", who=who, count=count, seed=seed, **figures)


@app.command
def fixed(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4), iterations: int = 300, penalty: float = 0.1
) -> None:
    """GAIL from one corner, of so many demonstrations that they are nearly the expert itself."""
    torch.set_num_threads(1)
    world = FourRooms(64, start=(1, 1), max_steps=200)
    expert = shortest_paths_expert(world)
    seen, truth = every_cell(), expert.occupancy(DISCOUNT)
    for seed in seeds:
        shown = record(world, expert, 2048, seed=1000 + seed)
        policy, right = imitate("GAIL", shown, seed, iterations, start=(1, 1), penalty=penalty)
        rho = measures.occupancy(world.mdp(), table_of(policy, seen), discount=DISCOUNT)
        tv = measures.total_variation(rho, truth)
        NOTES.add("fixed", seed=seed, tv=tv, accuracy=right, iterations=iterations, penalty=penalty)


def two_ways(copies: int, seed: int, observation: Any) -> FourRooms:
    return FourRooms(
        copies, start=(1, 1), goal=(11, 11), max_steps=60, observation=observation, seed=seed
    )


def routes_run(
    seed: int, *, observation: Any, weight: float, iterations: int, copies: int, wasserstein: bool
) -> dict[str, Any]:
    """InfoGAIL on the mixture of two ways; with a weight of 0, its policy is blind to the code."""
    start = time.process_time()
    plain = two_ways(64, seed, observation)
    expert = routes_expert(plain)
    demonstrations = record(plain, expert, 64, seed=1000 + seed)
    spaces = plain.observation_space, plain.action_space
    game: dict[str, Any] = (
        {"game": Wasserstein(), "reward": "logit", "clip": 0.05, "penalty": 0.0}
        if wasserstein
        else {}
    )
    batch: dict[str, Any] = {"batch_size": 128} if observation == "image" else {}  # they take long
    gail = GAIL(demonstrations, *spaces, discount=DISCOUNT, seed=seed, **(game | batch))
    coded = Coded(two_ways(copies, seed, observation), codes=2, seed=seed)
    blind = weight == 0.0
    world = coded.world if blind else coded
    info = InfoGAIL(gail, weight=weight, lr=3e-3, seed=seed, **batch)
    models = {"imitation": gail if blind else info}
    settings: dict[str, Any] = {**SETTINGS, "discount": DISCOUNT, "seed": seed}
    with drawing_from(mix(seed, 1)):
        policy = Policy.of(world.observation_space, world.action_space)
        if observation == "image":  # begins as a clone that cannot know what codes will mean
            settings["lr"] = 5e-4  # or what was cloned is soon lost
            policy = cloned(demonstrations, coded, policy, seed)
        model = ActorCritic(policy, streams=2)
    agent = PPO(world, model=model, reward_models=models, world_weight=0.0, **settings)
    train(agent, iterations)
    seconds = time.process_time() - start
    cells = every_cell(observation)
    tables = [
        table_of(model.policy, cells if blind else coded.beside(cells, torch.full((104,), code)))
        for code in (0, 1)
    ]
    return {**judged(torch.stack(tables), expert, seed), "seconds": seconds}


def cloned(demonstrations: Demonstrations, world: Coded, policy: Policy, seed: int) -> Policy:
    """The policy after it has cloned episodes with codes drawn at random."""
    drawn = torch.randint(world.codes, (len(demonstrations),))
    shown = [
        replace(walk, obs=world.beside(walk.obs, code.expand(len(walk.obs))))
        for walk, code in zip(demonstrations.trajectories, drawn, strict=True)
    ]
    spaces = world.observation_space, world.action_space
    settings: dict[str, Any] = {"lr": 3e-3, "batch_size": 128, "seed": seed}
    bc = BC(Demonstrations(tuple(shown)), *spaces, policy=policy, **settings)
    return bc.learn(1000, progress=False).policy


def judged(tables: Tensor, expert: Expert, seed: int) -> dict[str, Any]:
    """Routes by code over 1000 episodes, and the exact occupancy of both together."""
    world = two_ways(500, 0, "onehot")
    paths, codes, taken = [], [], []
    for code in (0, 1):
        walked = record(world, Expert(world, tables[code]), 500, seed=10**6 + seed)
        found = measures.as_paths(walked, world)
        paths += [path.tolist() for path in found[:40]]
        taken.append(measures.routes(walked, world))
        codes.append(torch.full((500,), code))
    said, route = torch.cat(codes), torch.cat(taken)
    rho = measures.occupancy(world.mdp(), tables, discount=DISCOUNT)
    return {
        "purity": measures.purity(said, route),
        "information": measures.information(said, route),
        "tv": measures.total_variation(rho, expert.occupancy(DISCOUNT)),
        "north_east": float((route == 0).double().mean()),
        "south_west": float((route == 1).double().mean()),
        "paths": paths if seed == 0 else [],
    }


@app.command
def routes(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4), iterations: int = 150, weight: float = 0.25
) -> None:
    """InfoGAIL on the mixture of two ways, and beside it GAIL, which has no code."""
    torch.set_num_threads(1)
    form: dict[str, Any] = {"observation": "onehot", "iterations": iterations, "copies": 64}
    for seed in seeds:
        for who, used in (("InfoGAIL", weight), ("GAIL, blind to the code", 0.0)):
            found = routes_run(seed, weight=used, wasserstein=False, **form)
            NOTES.add("routes", who=who, seed=seed, **found)


@app.command
def pixels(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    iterations: int = 50,
    weight: float = 0.25,
    wasserstein: bool = False,
) -> None:
    """The same from pictures of the map, 3 x 13 x 13, with a classifier or a Wasserstein critic."""
    torch.set_num_threads(1)
    who = "InfoGAIL, pictures" + (", WGAN" if wasserstein else "")
    form: dict[str, Any] = {"observation": "image", "iterations": iterations, "copies": 32}
    for seed in seeds:
        found = routes_run(seed, weight=weight, wasserstein=wasserstein, **form)
        NOTES.add("routes", who=who, seed=seed, **found)


@app.command
def report(out: Path = Path("docs/results/imitation.md")) -> None:
    """The document of all that was measured."""
    rows = NOTES.rows()
    lines = [
        "# Imitation in Four-Rooms",
        "",
        "`python scripts/benchmark_imitation.py table`, `routes`, `pixels`, then `report`.",
        "",
        f"{machine()}. On a GPU: not measured. PPO with "
        f"{', '.join(f'`{k}={v}`' for k, v in SETTINGS.items())}, a learning rate that falls "
        f"linearly, and a discount of {DISCOUNT}; critics have their defaults. Medians over seeds, "
        "the range in brackets.",
        *occupancy_table([r for r in rows if r["kind"] == "table"]),
        *fixed_line([r for r in rows if r["kind"] == "fixed"]),
        *routes_table([r for r in rows if r["kind"] == "routes"]),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    shown = [panel_of(r) for r in rows if r.get("paths")]
    draw_paths(shown, two_ways(1, 0, "onehot"), out.parent / "imitation_routes.png")


def panel_of(row: dict[str, Any]) -> Panel:
    """Twenty paths of each code."""
    each = len(row["paths"]) // 2
    some = [*range(20), *range(each, each + 20)]
    paths = [torch.tensor(row["paths"][i]) for i in some]
    return Panel(row["who"], paths, [int(i >= each) for i in some], "code")


def occupancy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## Few demonstrations",
        "",
        "A stochastic shortest-path expert from a uniform start. Total variation between the exact "
        "discounted occupancies of imitator and expert, and the imitator's share of the expert's "
        "exact return. The demonstrations' own distance is that of their empirical occupancy.",
        "",
        "| demonstrations | who | seeds | total variation | share of the return | CPU-seconds | "
        "GAIL's bar | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in sorted({r["count"] for r in rows}):
        for who in ("demonstrations", "BC", "GAIL", "AIRL"):
            found = [r for r in rows if r["count"] == count and r["who"] == who]
            if not found:
                continue
            tv, share, seconds = spread([r["tv"] for r in found]), "", ""
            bar, met = "", ""
            if who != "demonstrations":
                share = spread([r["share"] for r in found])
                seconds = f"{statistics.median(r['seconds'] for r in found):.1f}"
            if who == "GAIL" and count in BARS:
                most, least = BARS[count]
                bar = f"≤ {most}, ≥ {least}"
                passed = (
                    statistics.median(r["tv"] for r in found) <= most
                    and statistics.median(r["share"] for r in found) >= least
                )
                met = "met" if passed else "not met"
            cells = (count, who, len(found), tv, share, seconds, bar, met)
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def fixed_line(found: Sequence[dict[str, Any]]) -> list[str]:
    if not found:
        return []
    return [
        "",
        f"From the corner (1, 1) alone (`fixed`), GAIL of 2,048 demonstrations, "
        f"{found[0]['iterations']} iterations and a penalty of {found[0]['penalty']}: total "
        f"variation {spread([r['tv'] for r in found])}, {len(found)} seeds; the bar is .05. The "
        f"critic is right in {spread([r['accuracy'] for r in found], 2)} of the last steps.",
    ]


def routes_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## Two ways, one code each",
        "",
        "From the corner (1, 1) to (11, 11), 64 demonstrations, half of them by the north-east and "
        "half by the south-west. Purity: the share of 1000 episodes whose code says their route. "
        "Information of code and route in nats, of at most ln 2 = .693. Total variation: of both "
        "codes' exact occupancies together from the expert's. Bars: purity at least .95 for each "
        "seed, information at least .62, routes .45 to .55, total variation at most .15 (median); "
        "from pictures, purity at least .9. A policy blind to the code: purity at most .6.",
        "",
        "| who | seeds | purity of each | information | total variation | by the north-east | "
        "by the south-west | CPU-seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for who in dict.fromkeys(r["who"] for r in rows):
        found = [r for r in rows if r["who"] == who]
        purity = ", ".join(f"{r['purity']:.2f}" for r in found)
        ways = [spread([r[way] for r in found], 2) for way in ("north_east", "south_west")]
        seconds = f"{statistics.median(r['seconds'] for r in found):.0f}"
        lines.append(
            f"| {who} | {len(found)} | {purity} | {spread([r['information'] for r in found])} "
            f"| {spread([r['tv'] for r in found])} | {ways[0]} | {ways[1]} | {seconds} |"
        )
    return [*lines, "", "![routes coloured by code](imitation_routes.png)"]


if __name__ == "__main__":
    app.cli(description=__doc__)

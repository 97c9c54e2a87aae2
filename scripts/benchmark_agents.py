"""How fast agents learn, with other libraries beside them in the same run.

    python scripts/benchmark_agents.py speed
    python scripts/benchmark_agents.py four-rooms --seeds 0 1 2
    python scripts/benchmark_agents.py sparse --seeds 0 1 2 3 4
    python scripts/benchmark_agents.py gail
    python scripts/benchmark_agents.py world-model
    python scripts/benchmark_agents.py report

Each figure is a line in runs/benchmark_agents.jsonl as soon as it is known; `report` makes
docs/results/agents.md of them. One thread; seconds are of the CPU where they are compared, and of
the wall too where a limit is one of the wall.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dream_rates
import imitation_rates
import torch
import tyro
from agent_peers import RLEXPLORE_MEMORY, rlexplore_rate, sb3_four_rooms, sb3_rate
from figures import Notes, machine
from minigrid_optimum import optimal_return

from rlgen.agents import PPO, ActorCritic, Policy, RewardModel, Stream, Transitions
from rlgen.agents.exploration import HashCounts, PseudoCounts, TableCounts
from rlgen.envs import MiniGrid, OpenWorld
from rlgen.envs.world import World
from rlgen.generative import MADE, heads

NOTES = Notes("benchmark_agents")
HELD_OUT = 10**6  # seeds from here on are for evaluation only
FAR = "open world 40x40, goal in the far corner"
app = tyro.extras.SubcommandApp()


def ppo_rate(copies: int, steps: int, minibatch: int, seconds: float, device: str) -> float:
    """Training steps per second of our PPO with separate 2x64 networks and 4 epochs."""
    world = MiniGrid("MiniGrid-FourRooms-v0", copies, seed=0, device=device)
    agent = PPO(world, steps=steps, minibatch=minibatch)
    clock = time.process_time if device == "cpu" else time.perf_counter
    agent.iterate()
    start, before = clock(), agent.total_steps
    while clock() - start < seconds:
        agent.iterate()
    return (agent.total_steps - before) / (clock() - start)


def bonus_rate(bonus: PseudoCounts, seen: int, seconds: float) -> float:
    """Observations per CPU-second of reward and update together, after `seen` of them."""
    obs = torch.eye(104)[torch.randint(104, (2048,))]
    nothing = torch.zeros(len(obs))
    t = Transitions(obs, nothing.long(), nothing, obs, nothing.bool(), nothing.bool())
    bonus.update(t)
    bonus.memory.seen = max(seen, bonus.memory.seen)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        bonus.reward(t)
        bonus.update(t)
        count += len(obs)
    return count / (time.process_time() - start)


def view_density() -> MADE:
    """Of a MiniGrid view: the object, the colour and the state of each of 7 x 7 cells."""
    return MADE((7, 7, 3), head=heads.Categorical(11))


@app.command
def speed(seconds: float = 6.0, rounds: int = 3, device: str = "cpu") -> None:
    """PPO's training steps, and pseudo-counts' observations, a second."""
    torch.set_num_threads(1)
    if device != "cpu":
        for copies in (1024, 4096, 16384, 65536):
            rate = ppo_rate(copies, 32, copies * 4, seconds, device)
            NOTES.add("ppo-device", device=device, copies=copies, rate=rate)
        return
    for _ in range(rounds):  # interleaved, so that all share the machine's moods
        NOTES.add("ppo", who="SB3, 8 copies, minibatch 256", rate=sb3_rate(seconds))
        for copies, steps, minibatch in ((1024, 32, 4096), (1024, 32, 256)):
            name = f"rlgen, {copies} copies, minibatch {minibatch}"
            NOTES.add("ppo", who=name, rate=ppo_rate(copies, steps, minibatch, seconds, "cpu"))
        peer = rlexplore_rate(RLEXPLORE_MEMORY)
        if peer is not None:
            NOTES.add("bonus", who=f"RLeXplore PseudoCounts, memory {RLEXPLORE_MEMORY}", rate=peer)
        for estimator in ("frequency", "recoding"):
            for seen in (10**4, 10**6):
                made = MADE(104)
                rate = bonus_rate(PseudoCounts(made, estimator=estimator), seen, seconds)
                NOTES.add("bonus", who=f"rlgen MADE, {estimator}, after {seen:,}", rate=rate)


def world_of(name: str, copies: int, seed: int) -> World:
    if name == FAR:
        return OpenWorld(copies, size=40, start=(0, 0), max_steps=400, seed=seed)
    return MiniGrid(name, copies, seed=seed)


def evaluated(agent: PPO, name: str, episodes: int = 512) -> dict[str, float]:
    """On layouts that training never saw, with actions drawn as in training."""
    world = world_of(name, episodes, seed=HELD_OUT)
    return agent.evaluate(episodes, world=world, deterministic=False)


@app.command
def four_rooms(
    seeds: tuple[int, ...] = (0, 1, 2), seconds: float = 60.0, peer: bool = True
) -> None:
    """MiniGrid-FourRooms-v0 from its 7x7 view: return after so many seconds, and SB3's."""
    torch.set_num_threads(1)
    for seed in seeds:
        world = MiniGrid("MiniGrid-FourRooms-v0", 256, seed=seed)
        bonus = Stream(TableCounts(), weight=0.1)
        agent = PPO(
            world, reward_models={"count": bonus}, steps=64, minibatch=4096, lr=2e-3, seed=seed
        )
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            agent.iterate()
        spent, cpu = time.perf_counter() - start, time.process_time() - cpu
        figures = evaluated(agent, "MiniGrid-FourRooms-v0")
        spent_on = {"steps": agent.total_steps, "wall": spent, "cpu": cpu}
        NOTES.add("four-rooms", who="rlgen", seed=seed, **spent_on, **figures)
        if peer:
            NOTES.add("four-rooms", who="SB3", seed=seed, **sb3_four_rooms(seed, 300_000, HELD_OUT))


BONUSES: dict[str, Callable[[int], RewardModel | None]] = {
    "none": lambda seed: None,
    "hash count": lambda seed: HashCounts(bits=32, seed=seed),
    "n rho, MADE": lambda seed: PseudoCounts(view_density(), lr=3e-3, seed=seed),
    "exact count": lambda seed: TableCounts(),
}


@app.command
def sparse(
    worlds: tuple[str, ...] = ("MiniGrid-DoorKey-8x8-v0", "MiniGrid-MultiRoom-N4-S5-v1"),
    bonuses: tuple[str, ...] = ("exact count", "hash count", "none"),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    steps: int = 1_000_000,
    weight: float = 0.3,
) -> None:
    """Sparse rewards: steps and seconds to 90 % of the optimal return, on layouts held out."""
    torch.set_num_threads(1)
    for world_id in worlds:
        optimum = 1.0 if world_id == FAR else optimal_return(world_id)
        for bonus in bonuses:
            for seed in seeds:
                figures = solved(world_id, bonus, seed, steps, weight, 0.9 * optimum)
                NOTES.add(
                    "sparse", world=world_id, bonus=bonus, seed=seed, optimum=optimum, **figures
                )


def solved(
    world_id: str, bonus: str, seed: int, steps: int, weight: float, goal: float
) -> dict[str, Any]:
    """Train until the goal is reached on held-out layouts, looked at every 50,000 steps."""
    world = world_of(world_id, 64, seed)
    torch.manual_seed(seed)
    reward_model = BONUSES[bonus](seed)
    streams = {} if reward_model is None else {"bonus": Stream(reward_model, weight=weight)}
    policy = Policy.of(world.observation_space, world.action_space)
    model = ActorCritic(policy, streams=1 + len(streams))
    agent = PPO(world, model=model, reward_models=streams, steps=64, minibatch=512, seed=seed)
    wall, cpu, paused, best = time.perf_counter(), time.process_time(), 0.0, 0.0
    figures: dict[str, Any] = {"reached": None}
    while agent.total_steps < steps:
        agent.learn(49_152, progress=False)
        look = time.process_time()
        best = max(best, evaluated(agent, world_id)["return"])
        paused += time.process_time() - look
        if best >= goal:
            figures["reached"] = agent.total_steps
            break
    cpu, wall = time.process_time() - cpu - paused, time.perf_counter() - wall
    return {**figures, "best": best, "steps": agent.total_steps, "cpu": cpu, "wall": wall}


@app.command
def gail(seconds: float = 4.0, rounds: int = 3) -> None:
    """GAIL beside its learner alone, and beside `imitation` if it is installed."""
    torch.set_num_threads(1)
    for _ in range(rounds):  # interleaved, so that all share the machine's moods
        imitation_rates.measure(NOTES.add, seconds)


@app.command
def world_model(seconds: float = 3.0, rounds: int = 3, device: str = "cpu") -> None:
    """Imagined steps beside the real MiniGrid's, and a generation of evolution in dreams."""
    torch.set_num_threads(1)
    dream_rates.measure(NOTES.add, seconds, rounds, device)


@app.command
def report(out: Path = Path("docs/results/agents.md")) -> None:
    """The document of all that was measured."""
    rows = NOTES.rows()
    lines = [
        "# Agents",
        "",
        "`python scripts/benchmark_agents.py speed`, `four-rooms`, `sparse`, `gail`, `world-model` "
        "and `report`.",
        "",
        f"{machine('stable-baselines3', 'minigrid')}, one run. On a GPU: "
        f"{'below' if any(r['kind'] == 'ppo-device' for r in rows) else 'not measured'}.",
        *speeds(rows, "ppo", "Training steps a CPU-second on MiniGrid-FourRooms-v0", "SB3"),
        "PPO with separate networks of 2 x 64 for policy and values, 4 epochs, the 7x7x3 view.",
        *speeds(rows, "bonus", "Pseudo-counts in Four-Rooms: reward and update", "RLeXplore"),
        "In observations (104 numbers) a CPU-second; ours `PseudoCounts(MADE(104))` with its "
        "defaults, in batches of 2,048. RLeXplore's is an episodic memory with an encoder.",
        *four_rooms_table([r for r in rows if r["kind"] == "four-rooms"]),
        *sparse_table([r for r in rows if r["kind"] == "sparse"]),
        *imitation_rates.table([r for r in rows if r["kind"] == "gail"]),
        *dream_rates.table(rows),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def speeds(rows: Sequence[dict[str, Any]], kind: str, title: str, base: str) -> list[str]:
    rates: dict[str, list[float]] = {}
    for row in rows:
        if row["kind"] == kind:
            rates.setdefault(row["who"], []).append(row["rate"])
    medians = {who: statistics.median(found) for who, found in rates.items()}
    beside = next((median for who, median in medians.items() if who.startswith(base)), None)
    lines = [
        "",
        f"## {title}",
        "",
        f"| what | median | range | times {base} |",
        "|---|---|---|---|",
    ]
    for who, found in rates.items():
        times = "not measured" if beside is None else f"{medians[who] / beside:.1f}"
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        lines.append(f"| {who} | {medians[who]:,.0f} | {spread} | {times} |")
    return [*lines, ""]


def four_rooms_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## MiniGrid-FourRooms-v0 from its 7x7 view",
        "",
        "Mean return of 512 episodes on layouts held out, actions drawn from the policy; the "
        "optimum is 0.850, a random walk has 0.020. rlgen: PPO, 256 copies, with counts of views "
        "at weight 0.1. SB3: PPO, 8 copies, for its first 300,000 steps.",
        "",
        "| who | seed | return | steps | wall seconds | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: r["who"]):
        lines.append(
            f"| {r['who']} | {r['seed']} | {r['return']:.3f} | {r['steps']:,} | {r['wall']:.0f} "
            f"| {r['cpu']:.0f} |"
        )
    return lines


def sparse_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## Sparse rewards",
        "",
        "Steps until the mean return of 512 episodes on layouts held out is 90 % of the optimal "
        "one, which a search finds; '-' is never, within the steps tried.",
        "",
        "| world | optimum | bonus | seeds that reach it | steps of each | best return of each "
        "| CPU seconds of each |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, float, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["world"], row["bonus"], row["optimum"]), []).append(row)  # type: ignore[arg-type]
    for (world, bonus, optimum), found in groups.items():  # type: ignore[misc]
        reached = [r["reached"] for r in found]
        steps = ", ".join("-" if r is None else f"{r / 1000:.0f}k" for r in reached)
        best = ", ".join(f"{r['best']:.2f}" for r in found)
        cpu = ", ".join(f"{r['cpu']:.0f}" for r in found)
        count = f"{sum(r is not None for r in reached)} of {len(found)}"
        lines.append(f"| {world} | {optimum:.3f} | {bonus} | {count} | {steps} | {best} | {cpu} |")
    return lines


if __name__ == "__main__":
    app.cli(description=__doc__)

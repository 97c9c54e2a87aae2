"""What a world model is good for: fewer real steps, and memory where the view is partial.

    python scripts/benchmark_dreaming.py tuning
    python scripts/benchmark_dreaming.py scarce
    python scripts/benchmark_dreaming.py partial
    python scripts/benchmark_dreaming.py report

Each figure is a line in runs/dreaming.jsonl as soon as it is known; `report` makes
docs/results/dreaming.md and its picture of them. Seconds are of the CPU.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import partial_views
import torch
import tyro
from figures import Notes, listed, machine, spread
from imitation_pictures import pyplot, save

from rlgen.agents import PPO
from rlgen.agents.exploration import HashCounts
from rlgen.agents.reward_model import Stream
from rlgen.agents.world_model import Memoryless, Untried, Wandering, WorldModel
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from, mix

NOTES = Notes("dreaming")
RESULTS = Path("docs/results/dreaming.md")
PICTURE = RESULTS.parent / "dreaming.png"
ENOUGH = 0.9
EPISODES, LONGEST = 12, 60  # of a round of the world model; steps by chance, at most
FIT: dict[str, Any] = {"vision_steps": 800, "memory_steps": 800, "lr": 1e-2}
DREAMED_STEPS, WARY = 49152, 0.1
DREAMT: dict[str, Any] = {"steps": 16, "minibatch": 256, "lr": 1e-3, "entropy_weight": 0.01}
# what `tuning` lets PPO try, alone and with counts; `scarce` takes what was best
BATCH = {"steps": 32, "minibatch": 128}
TRIED = {
    "PPO": [
        {**BATCH, "lr": lr, "entropy_weight": weight}
        for lr in (1e-3, 3e-3)
        for weight in (0.0, 0.01, 0.03)
    ],
    "PPO with counts": [
        {**BATCH, "lr": lr, "epochs": epochs} for lr in (1e-3, 3e-3) for epochs in (4, 8)
    ],
}
LEARNERS = ("PPO", "PPO with counts", "world model")
app = tyro.extras.SubcommandApp()


@app.command
def tuning(seeds: tuple[int, ...] = (0, 1, 2), limit: int = 100_000) -> None:
    """Which of some settings PPO does best with, on other seeds than those that count."""
    torch.set_num_threads(1)
    for who, tried in TRIED.items():
        for settings in tried:
            for seed in seeds:
                *_, (steps, success, _) = learnt(who, settings, seed, limit)
                taken = steps if success >= ENOUGH else None
                NOTES.add("tuning", who=who, settings=settings, seed=seed, steps=taken)


@app.command
def scarce(
    seeds: tuple[int, ...] = (3, 4, 5, 6, 7),
    limit: int = 100_000,
    who: tuple[str, ...] = LEARNERS,
) -> None:
    """Real steps of Four-Rooms from one corner to the other until 90 % of the episodes succeed."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in TRIED:
            for progress in learnt(name, best(name), seed, limit) if name in who else ():
                noted(name, seed, *progress)
        if "world model" in who:
            dreams(seed)


def best(who: str) -> dict[str, Any]:
    """The settings that took the fewest real steps, by their mean; never counts as the limit."""
    every = NOTES.latest("kind", "who", "settings", "seed")
    rows = [row for row in every if row["kind"] == "tuning" and row["who"] == who]

    def taken(settings: dict[str, Any]) -> float:
        return statistics.mean(r["steps"] or 1e5 for r in rows if r["settings"] == settings)

    if not rows:
        raise SystemExit("call 'tuning' first")
    return min(TRIED[who], key=taken)


def learnt(
    who: str, settings: dict[str, Any], seed: int, limit: int
) -> Iterator[tuple[int, float, float]]:
    """(steps, success, seconds) of PPO in the real world, again and again until it is enough."""
    bonus: Any = {"count": (HashCounts(), 0.1)} if who == "PPO with counts" else None
    world = FourRooms(16, start=(1, 1), seed=seed)
    agent = PPO(world, reward_models=bonus, seed=seed, **settings)
    began, success = time.process_time(), 0.0
    while agent.total_steps < limit and success < ENOUGH:
        agent.learn(512, progress=False)
        success = arrived(agent, corner(128))
        yield agent.total_steps, success, time.process_time() - began


def corner(copies: int, seed: int = partial_views.HELD_OUT) -> FourRooms:
    return FourRooms(copies, start=(1, 1), seed=seed)


def arrived(agent: PPO, world: Any) -> float:
    """The share of 128 episodes that reach the goal, by draws of the policy."""
    return agent.evaluate(128, world=world, deterministic=False)["success"]


def noted(who: str, seed: int, steps: int, success: float, seconds: float) -> bool:
    """Write down how it goes; true if that is enough."""
    NOTES.add("scarce", who=who, seed=seed, steps=steps, success=success, seconds=seconds)
    return success >= ENOUGH


def dreams(seed: int, rounds: int = 10) -> None:
    """Look for what is not known in dreams, go there, and learn the task in dreams too."""
    began, data, explorer = time.process_time(), None, None
    for k in range(rounds):
        with drawing_from(mix(seed, k)):
            model = WorldModel.of(
                corner(1),
                symbols=128,
                recurrence=Memoryless(64),
                noise=0.0,  # which hides traces of a past, and here there is none
                remembering=False,
            )
        model.data = data
        model.collect(corner(EPISODES, seed), EPISODES, explorer, seed=mix(seed, k, 1) % 2**31)
        model.fit(**FIT, seed=seed, progress=False)
        success = 0.0
        data = model.data
        assert data is not None
        if any(one.terminated for one in data):  # else there is nothing to learn yet
            # M can say anything of what was never tried, goals next door included
            wary = {"untried": Stream(Untried(model), weight=-WARY, normalise=False)}
            judge = PPO(model.dream(64, seed=seed), reward_models=wary, seed=seed, **DREAMT)
            judge.learn(DREAMED_STEPS, progress=False)
            success = arrived(judge, model.watched(corner(128)))
        if noted("world model", seed, data.steps, success, time.process_time() - began):
            return
        untried = {"untried": Untried(model)}
        agent = PPO(model.dream(64, seed=seed), reward_models=untried, seed=seed, **DREAMT)
        agent.learn(DREAMED_STEPS, progress=False)
        explorer = model.pilot(Wandering(agent, 4, longest=LONGEST))


@app.command
def partial(
    seeds: tuple[int, ...] = (1001, 2001, 3001), episodes: int = 1600, steps: int = 300_000
) -> None:
    """MiniGrid's Four-Rooms by its view: what memory foretells, and what an agent has of it."""
    torch.set_num_threads(1)
    for seed in seeds:
        partial_views.measure(NOTES.add, seed, episodes, steps)


@app.command
def report() -> None:
    """docs/results/dreaming.md from all that was noted."""
    lines = [
        "# What dreams save",
        "",
        "`python scripts/benchmark_dreaming.py tuning`, `scarce`, `partial`, then `report`.",
        "",
        f"{machine()}. Medians over seeds, the range in brackets.",
        "",
        *scarce_lines([row for row in NOTES.rows() if row["kind"] == "scarce"]),
        *partial_views.lines_of(NOTES.latest("kind", "who", "seed")),
    ]
    RESULTS.write_text("\n".join(lines).rstrip() + "\n")


def scarce_lines(rows: list[dict[str, Any]]) -> list[str]:
    """How many real steps it took, and the curves."""
    picture(rows)
    lines = [
        "## Real steps to 90 %",
        "",
        "Four-Rooms from (1, 1) to (11, 11), one-hot cells, episodes of at most 100 steps, 1 for "
        "the goal and nothing else. After each round (PPO: 512 steps) 128 episodes from other "
        "seeds, by draws of the policy; the first count of real steps with 90 % of them at the "
        f"goal. The world model's rounds: {EPISODES} episodes, V and M from nothing by "
        f"{listed(FIT)}, M without memory or noise, PPO for {DREAMED_STEPS:,} dreamed steps "
        "for the task, once there is an episode that ended, where an action that was never tried "
        f"costs {WARY}, and for as many towards such actions; the agent that looks for them "
        f"collects the next round, and wanders by chance after 0 to {LONGEST} steps. "
        "PPO has 16 copies, and the settings that were best on seeds 0 to 2 by the mean: "
        f"of {len(TRIED['PPO'])} alone {listed(best('PPO'))}, and of "
        f"{len(TRIED['PPO with counts'])} with hash counts (weight .1) "
        f"{listed(best('PPO with counts'))}.",
        "",
        "| | seeds | real steps | CPU-s |",
        "|---|---|---|---|",
    ]
    for who in LEARNERS:
        ends = [ended(rows, who, seed) for seed in seeds_of(rows, who)]
        if ends:
            taken, seconds = zip(*ends, strict=True)
            found = spread(taken, 0).replace("inf", "never")
            lines.append(f"| {who} | {len(ends)} | {found} | {spread(seconds, 0)} |")
    return [*lines, "", f"![success over real steps]({PICTURE.name})", ""]


def seeds_of(rows: list[dict[str, Any]], who: str) -> list[int]:
    return sorted({row["seed"] for row in rows if row["who"] == who})


def ended(rows: list[dict[str, Any]], who: str, seed: int) -> tuple[float, float]:
    """Real steps and seconds until it was enough; infinitely many if it never was."""
    mine = curve_of(rows, who, seed)
    for row in mine:
        if row["success"] >= ENOUGH:
            return row["steps"], row["seconds"]
    return float("inf"), mine[-1]["seconds"]


def curve_of(rows: list[dict[str, Any]], who: str, seed: int) -> list[dict[str, Any]]:
    """What was noted along one run; of several, along the last."""
    run: list[dict[str, Any]] = []
    for row in rows:
        if row["who"] == who and row["seed"] == seed:
            if run and row["steps"] <= run[-1]["steps"]:
                run = []
            run.append(row)
    return run


def picture(rows: list[dict[str, Any]]) -> None:
    """Success over real steps, a line for each run."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for colour, who in enumerate(LEARNERS):
        for k, seed in enumerate(seeds_of(rows, who)):
            mine = curve_of(rows, who, seed)
            curve = [row["steps"] for row in mine], [row["success"] for row in mine]
            label = who if k == 0 else None
            axes.plot(*curve, color=f"C{colour}", alpha=0.7, lw=1, marker=".", ms=3, label=label)
    axes.axhline(ENOUGH, color="0.7", lw=0.8, zorder=0)
    axes.set(xscale="log", xlabel="real steps", ylabel="success", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8)
    save(figure, PICTURE)


if __name__ == "__main__":
    app.cli()

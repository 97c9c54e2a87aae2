"""What a world model is good for: fewer real steps, and memory where the view is partial.

    python scripts/benchmark_dreaming.py scarce
    python scripts/benchmark_dreaming.py partial
    python scripts/benchmark_dreaming.py report

Each figure is a line in runs/dreaming.jsonl as soon as it is known; `report` makes
docs/results/dreaming.md and its picture of them. Seconds are of the CPU.
"""

import copy
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from figures import Notes, machine, spread
from torch import Tensor

from rlgen.agents import PPO
from rlgen.agents.exploration import HashCounts
from rlgen.agents.imitation import record
from rlgen.agents.reward_model import Stream
from rlgen.agents.world_model import Memoryless, Untried, Wandering, WorldModel
from rlgen.agents.world_model.episodes import Latents
from rlgen.envs import FourRooms, MiniGrid
from rlgen.envs.minigrid.view import view_offsets
from rlgen.envs.world import TensorWorld
from rlgen.seeding import drawing_from, mix

NOTES = Notes("dreaming")
RESULTS = Path("docs/results/dreaming.md")
PICTURE = RESULTS.parent / "dreaming.png"
ENOUGH = 0.9
HELD_OUT = 10**6  # a seed that no learner has
DREAMT: dict[str, Any] = {"steps": 16, "minibatch": 256, "lr": 1e-3, "entropy_weight": 0.01}
# the best of five settings of PPO alone, and of three with counts, on seeds 0 to 2
ALONE: dict[str, Any] = {"steps": 32, "minibatch": 128, "lr": 1e-3, "entropy_weight": 0.01}
COUNTING: dict[str, Any] = {"steps": 32, "minibatch": 128, "lr": 3e-3, "epochs": 8}
# of partial views, chosen on seed 0: gradient steps, windows, and how many in each batch
BEGIN = (800, 1, 1600)
GO_ON = {"memory": ((200, 8, 100), (800, 50, 16)), "memoryless": ((200, 1, 1600), (800, 1, 1600))}
REAL: dict[str, Any] = {"steps": 32, "minibatch": 512}
app = tyro.extras.SubcommandApp()


@app.command
def scarce(seeds: tuple[int, ...] = (0, 1, 2, 3, 4), limit: int = 100_000) -> None:
    """Real steps of Four-Rooms from one corner to the other until 90 % of the episodes succeed."""
    torch.set_num_threads(1)
    for seed in seeds:
        for who, settings in (("PPO", ALONE), ("PPO with counts", COUNTING)):
            bonus: Any = {"count": (HashCounts(), 0.1)} if settings is COUNTING else None
            world = FourRooms(16, start=(1, 1), seed=seed)
            agent = PPO(world, reward_models=bonus, seed=seed, **settings)
            began = time.process_time()
            while agent.total_steps < limit:
                agent.learn(512, progress=False)
                if noted(who, seed, agent.total_steps, arrived(agent, corner(128)), began):
                    break
        dreams(seed)


def corner(copies: int, seed: int = HELD_OUT) -> FourRooms:
    return FourRooms(copies, start=(1, 1), seed=seed)


def arrived(agent: PPO, world: Any) -> float:
    """The share of 128 episodes that reach the goal, by draws of the policy."""
    return agent.evaluate(128, world=world, deterministic=False)["success"]


def noted(who: str, seed: int, steps: int, success: float, began: float) -> bool:
    """Write down how it goes; true if that is enough."""
    seconds = time.process_time() - began
    NOTES.add("scarce", who=who, seed=seed, steps=steps, success=success, seconds=seconds)
    return success >= ENOUGH


def dreams(seed: int, rounds: int = 10, episodes: int = 12) -> None:
    """Look for what is not known in dreams, go there, and learn the task in dreams too."""
    began, data, explorer = time.process_time(), None, None
    for k in range(rounds):
        with drawing_from(mix(seed, k)):
            model = WorldModel.of(
                corner(1), symbols=128, recurrence=Memoryless(64), remembering=False
            )
        model.data = data
        model.collect(corner(episodes, seed), episodes, explorer, seed=mix(seed, k, 1) % 2**31)
        model.fit(vision_steps=800, memory_steps=800, lr=1e-2, seed=seed, progress=False)
        success = 0.0
        data = model.data
        assert data is not None
        if any(one.terminated for one in data):  # else there is nothing to learn yet
            # M can say anything of what was never tried, goals next door included
            wary = {"untried": Stream(Untried(model), weight=-0.1, normalise=False)}
            judge = PPO(model.dream(64, seed=seed), reward_models=wary, seed=seed, **DREAMT)
            judge.learn(49152, progress=False)
            success = arrived(judge, model.watched(corner(128)))
        if noted("world model", seed, data.steps, success, began):
            return
        untried = {"untried": Untried(model)}
        agent = PPO(model.dream(64, seed=seed), reward_models=untried, seed=seed, **DREAMT)
        agent.learn(49152, progress=False)
        explorer = model.pilot(Wandering(agent, 4, longest=60))


# partial views


@app.command
def partial(seeds: tuple[int, ...] = (1, 2, 3), episodes: int = 1600, steps: int = 300_000) -> None:
    """MiniGrid's Four-Rooms by its view: what memory foretells, and what an agent has of it."""
    torch.set_num_threads(1)
    for seed in seeds:
        world = rooms(200, seed)
        with drawing_from(mix(seed, 0)):
            model = viewer(world)
        began = time.process_time()
        model.collect(world, episodes, by_chance, seed=seed)
        assert model.data is not None
        held = record(world, by_chance, 200, seed=HELD_OUT + seed)
        model.vision.fit(torch.cat([one.obs for one in model.data]), steps=2000, lr=3e-3, seed=seed)
        kept = told_apart(model, torch.cat([one.obs for one in held]))
        view, past = determined(rooms(200, HELD_OUT + seed))
        found = {"kept": kept, "by_view": view, "by_past": past, "steps": model.data.steps}
        learn(model, BEGIN, seed)
        blind = copy.deepcopy(model)
        for name, one in (("memory", model), ("memoryless", blind)):
            for k, stage in enumerate(GO_ON[name]):
                learn(one, stage, mix(seed, k, 2) % 2**31)
            found[name] = foretold(one, held, name == "memory")
        NOTES.add("foretold", seed=seed, seconds=time.process_time() - began, **found)
        for who in ("latent and memory", "latent alone"):
            model.remembering = who != "latent alone"
            acted(model, who, seed, steps)


def learn(model: WorldModel, stage: tuple[int, int, int], seed: int) -> None:
    """Teach M for some steps."""
    steps, window, batch = stage
    model.fit(
        vision_steps=0,
        memory_steps=steps,
        window=window,
        batch_size=batch,
        ends=0.0,
        seed=seed,
        progress=False,
    )


def acted(model: WorldModel, who: str, seed: int, steps: int) -> None:
    """Learn in the real world from what V and M make of it, and write down how it went."""
    began = time.process_time()
    agent = PPO(model.watched(rooms(64, seed)), seed=seed, **REAL).learn(steps, progress=False)
    held_out = model.watched(rooms(128, HELD_OUT + seed))
    found = agent.evaluate(512, world=held_out, deterministic=False)
    seconds = time.process_time() - began
    NOTES.add("acting", who=who, seed=seed, steps=steps, seconds=seconds, **found)


def rooms(copies: int, seed: int) -> MiniGrid:
    return MiniGrid("MiniGrid-FourRooms-v0", copies, seed=seed)


def viewer(world: TensorWorld[Any]) -> WorldModel:
    return WorldModel.of(world, positions=2, symbols=512, width=128)


def by_chance(obs: Any) -> Tensor:
    """Left, right or forward."""
    return torch.randint(3, (len(obs),))


def told_apart(model: WorldModel, obs: Tensor) -> float:
    """The share of views that one could name from their tokens: of each latent its commonest."""
    views = obs.flatten(1).unique(dim=0, return_inverse=True)[1]
    latents = model.vision.encode(obs).unique(dim=0, return_inverse=True)[1]
    pairs, counts = torch.stack([latents, views], 1).unique(dim=0, return_counts=True)
    best = counts.new_zeros(len(obs)).scatter_reduce(0, pairs[:, 0], counts, "amax")
    return float(best.sum()) / len(obs)


def determined(world: MiniGrid) -> tuple[float, float]:
    """Shares of steps to a view whose cells were all seen just before, or in its episode so far."""
    obs, offsets = world.reset(), view_offsets(world.config.width, world.device)
    seen = torch.zeros(world.num_envs, world.scene.grid.shape[1], dtype=torch.bool)
    known = torch.zeros(3)  # by the view, by the episode, steps
    with drawing_from(HELD_OUT):
        for _ in range(world.max_steps - 1):
            cells, visible = looked_at(world, obs, offsets)
            now = torch.zeros_like(seen).scatter(1, cells, visible)
            seen |= now
            step = world.step(by_chance(obs))
            obs, goes_on = step.obs, ~step.done
            cells, visible = looked_at(world, obs, offsets)
            for k, cells_known in enumerate((now, seen)):
                known[k] += ((cells_known.gather(1, cells) | ~visible).all(1) & goes_on).sum()
            known[2] += goes_on.sum()
            seen &= goes_on[:, None]
    shares = known[:2] / known[2]
    return float(shares[0]), float(shares[1])


def looked_at(world: MiniGrid, obs: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Where the 49 cells of each view are on the map, and which of them no wall hides."""
    cells = world.scene.place[:, None] + offsets[world.direction]
    return cells, obs[..., 0].mT.flatten(1) > 0


@torch.no_grad()
def foretold(model: WorldModel, held: Any, whole: bool) -> float:
    """Nats of the next view's tokens per step, of episodes that nobody learnt from."""
    told, given = Latents.of(held, model.vision).padded().pair()
    weight = given[2]
    if not whole:  # every step is an episode of its own
        real = weight.flatten() > 0
        told, given = (
            tuple(part.flatten(0, 1)[real][:, None] for part in parts) for parts in (told, given)
        )
        weight = given[2]
    latent, _, _ = model.memory.log_probs(told, given)
    return float(-(weight * latent).sum() / weight.sum())


@app.command
def report() -> None:
    """docs/results/dreaming.md from all that was noted."""
    rows = NOTES.rows()
    lines = [
        "# What dreams save",
        "",
        "`python scripts/benchmark_dreaming.py scarce`, `partial`, then `report`.",
        "",
        f"{machine()}. Medians over seeds, the range in brackets.",
        "",
        *scarce_lines([row for row in rows if row["kind"] == "scarce"]),
        *partial_lines(rows),
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
        "goal. The world model's rounds: 12 episodes, V 800 and M 800 gradient steps from nothing, "
        "M without memory, PPO for 49,152 dreamed steps for the task, once there is an episode "
        "that ended, where an action that was never tried costs .1, and for as many towards such "
        "actions; the agent that looks for them collects the next round, and "
        "wanders by chance after 0 to 60 steps. PPO has 16 copies; its settings are the best of "
        "five, and with hash counts (weight .1) of three, on seeds 0 to 2, which are among these.",
        "",
        "| | seeds | real steps | CPU-s |",
        "|---|---|---|---|",
    ]
    for who in ("PPO", "PPO with counts", "world model"):
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
    mine = [row for row in rows if row["who"] == who and row["seed"] == seed]
    for row in mine:
        if row["success"] >= ENOUGH:
            return row["steps"], row["seconds"]
    return float("inf"), mine[-1]["seconds"]


def partial_lines(rows: list[dict[str, Any]]) -> list[str]:
    told = [row for row in rows if row["kind"] == "foretold"]
    acting = [row for row in rows if row["kind"] == "acting"]
    if not told:
        return []
    lines = [*foretold_lines(told), "PPO in the real world, with its defaults and minibatches of "]
    lines[-1] += "512 from 64 copies, by what V and M make of the views, M held still:"
    lines += [
        "",
        "| it sees | seeds | real steps | return | success | CPU-s |",
        "|---|---|---|---|---|---|",
    ]
    for who in ("latent and memory", "latent alone"):
        mine = [row for row in acting if row["who"] == who]
        if mine:
            cells = [spread([row[name] for row in mine], 3) for name in ("return", "success")]
            seconds = spread([row["seconds"] for row in mine], 0)
            steps = f"{mine[0]['steps']:,}"
            lines.append(f"| {who} | {len(mine)} | {steps} | {' | '.join(cells)} | {seconds} |")
    return [*lines, ""]


def foretold_lines(rows: list[dict[str, Any]]) -> list[str]:
    """What memory foretells, and what could be foretold."""
    gains = [row["memoryless"] - row["memory"] for row in rows]
    kept, view, past = (
        spread([100 * row[name] for row in rows], 0) for name in ("kept", "by_view", "by_past")
    )
    return [
        "## Views of 7 x 7",
        "",
        f"`MiniGrid-FourRooms-v0` by its view, a new map for each episode. V has 2 tokens of 512 "
        f"symbols, 2,000 gradient steps at 3e-3; they tell {kept} % of held-out views apart. M "
        f"learnt from {spread([row['steps'] for row in rows], 0)} steps of 1,600 episodes by "
        f"chance, turns and steps forward: {BEGIN[0]} gradient steps of {BEGIN[2]:,} single steps, "
        f"then {told_stages('memory')}: it learns from long windows faster after short ones. "
        "The memoryless one is the same M after the single steps, which then learns and is asked "
        f"step by step: {told_stages('memoryless')}. Neither sees more of the ends of episodes "
        "than there are. The settings were chosen on seed 0, which is not among these.",
        "",
        f"Nats of the next view's tokens per step, on 200 episodes of other maps: "
        f"{spread([r['memory'] for r in rows], 2)} with memory, "
        f"{spread([r['memoryless'] for r in rows], 2)} without: **{spread(gains, 2)} less**, "
        f"{len(rows)} seeds, {spread([r['seconds'] for r in rows], 0)} CPU-s. There is more to be "
        f"had: of {view} % of the steps the next view shows only what the present one shows, and "
        f"of {past} % only what was seen in the episode so far.",
        "",
    ]


def told_stages(name: str) -> str:
    return " and ".join(
        f"{steps} of {batch:,} windows of {window}" for steps, window, batch in GO_ON[name]
    )


def picture(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for colour, who in enumerate(("PPO", "PPO with counts", "world model")):
        for k, seed in enumerate(seeds_of(rows, who)):
            mine = [row for row in rows if row["who"] == who and row["seed"] == seed]
            curve = [row["steps"] for row in mine], [row["success"] for row in mine]
            label = who if k == 0 else None
            axes.plot(*curve, color=f"C{colour}", alpha=0.7, lw=1, marker=".", ms=3, label=label)
    axes.axhline(ENOUGH, color="0.7", lw=0.8, zorder=0)
    axes.set(xscale="log", xlabel="real steps", ylabel="success", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    app.cli()

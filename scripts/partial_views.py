"""Views of 7 x 7: what memory foretells of the next one, and what an agent has of it."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from figures import spread
from torch import Tensor

from rlgen.agents import PPO
from rlgen.agents.imitation import record
from rlgen.agents.world_model import WorldModel
from rlgen.agents.world_model.episodes import Latents
from rlgen.envs import MiniGrid
from rlgen.envs.minigrid.view import view_offsets
from rlgen.envs.world import TensorWorld
from rlgen.seeding import drawing_from, mix

Note = Callable[..., None]
HELD_OUT = 10**6  # a seed that no learner has
COPIES = 200
# chosen on seed 0: gradient steps, windows, and how many in each batch; the control has more steps
BEGIN = (800, 1, 1600)
GO_ON = {"memory": ((200, 8, 100), (800, 50, 16)), "memoryless": ((200, 1, 1600), (2000, 1, 1600))}
ACTORS = ("latent and memory", "latent alone", "latent and an untrained M")
REAL: dict[str, Any] = {"steps": 32, "minibatch": 512}


def measure(note: Note, seed: int, episodes: int, steps: int) -> None:
    """What M with a memory foretells, beside one without; and what PPO does with its memory."""
    world = rooms(COPIES, seed)
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
    blank = WorldModel(model.vision, copy.deepcopy(model.memory))
    found["untrained"] = foretold(blank, held, True)
    learn(model, BEGIN, seed)
    blind = copy.deepcopy(model)
    for name, one in (("memory", model), ("memoryless", blind)):
        for k, stage in enumerate(GO_ON[name]):
            learn(one, stage, mix(seed, k, 2) % 2**31)
        found[name] = foretold(one, held, name == "memory")
    note("foretold", seed=seed, seconds=time.process_time() - began, **found)
    for who, one in zip(ACTORS, (model, model, blank), strict=True):
        one.remembering = who != "latent alone"
        note("acting", who=who, seed=seed, steps=steps, **acted(one, seed, steps))


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


def acted(model: WorldModel, seed: int, steps: int) -> dict[str, float]:
    """How well PPO learns in the real world from what V and M make of it."""
    began = time.process_time()
    agent = PPO(model.watched(rooms(64, seed)), seed=seed, **REAL).learn(steps, progress=False)
    held_out = model.watched(rooms(128, HELD_OUT + seed))
    found = agent.evaluate(512, world=held_out, deterministic=False)
    return {"seconds": time.process_time() - began, **found}


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


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """The part of the document that tells of it."""
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
    for who in ACTORS:
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
        "than there are. The settings were chosen on seed 0, and M's `noise` on other worlds. "
        f"Copy i of {COPIES} has the maps of the seed + i; seeds are 1,000 apart, so maps are new.",
        "",
        f"Nats of the next view's tokens per step, on 200 episodes of other maps: "
        f"{spread([r['memory'] for r in rows], 2)} with memory, "
        f"{spread([r['memoryless'] for r in rows], 2)} without: **{spread(gains, 2)} less**, "
        f"{len(rows)} seeds; {spread([r['untrained'] for r in rows], 1)} before it learnt; "
        f"{spread([r['seconds'] for r in rows], 0)} CPU-s. There is more "
        f"to be had: in {view} % of the steps the next view shows only what the present one shows, "
        f"and in {past} % only what was seen in the episode so far.",
        "",
    ]


def told_stages(name: str) -> str:
    return " and ".join(
        f"{steps} of {batch:,} windows of {window}" for steps, window, batch in GO_ON[name]
    )

"""How far bonuses lead through the four rooms without any reward, and past a noisy screen.

    python scripts/benchmark_exploration.py coverage
    python scripts/benchmark_exploration.py noisy-tv --kind cell
    python scripts/benchmark_exploration.py noisy-tv --kind action
    python scripts/benchmark_exploration.py report --folder docs/results

Each run is written to a file as it ends, and not repeated when the program is started again. The
report is made from that file alone.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import exploration_panels as panels
import gymnasium
import torch
import tyro
from torch import Tensor

from rlgen import generative as g
from rlgen.agents import PPO, RewardModel
from rlgen.agents.exploration import (
    ICM,
    RND,
    CodeCounts,
    Disagreement,
    DynamicsCuriosity,
    HashCounts,
    PseudoCounts,
    Surprise,
    TableCounts,
)
from rlgen.agents.reward_model import Stream
from rlgen.envs import FourRooms, NoisyTV, TensorWorld
from rlgen.envs.world import Step
from rlgen.seeding import drawing_from, mix

CELLS = 104
BITS = 16
COPIES = 64
SEEDS = (10, 11, 12, 13, 14)  # settings were chosen with seeds 0 and 1
SETTINGS: dict[str, Any] = {  # of the learner, the same for all
    "steps": 8,
    "epochs": 4,
    "minibatch": 256,
    "lr": 1e-3,
    "entropy_weight": 0.01,
    "discount": 0.99,
}
RUNS = Path("runs/exploration.jsonl")


class Restarting:
    """A world whose copies go back to the start now and then, as if their time had run out.

    It remembers where everyone was after each step, and who switched the channel.

    Args:
        world: what is stepped; the first 104 numbers that it shows are the cell, one-hot.
        probability: that a copy goes back, at each step.
        seed: of when.
    """

    def __init__(self, world: TensorWorld[Any], probability: float, seed: int) -> None:
        self.world, self.probability = world, probability
        self.generator = torch.Generator().manual_seed(seed)
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.num_envs, self.device = world.num_envs, world.device
        self.cells: list[Tensor] = []
        self.switched: list[Tensor] = []

    def reset(self, seed: int | None = None) -> Tensor:
        return self.world.reset(seed)

    def step(self, action: Tensor) -> Step:
        reward, terminated, truncated = self.world.advance(action)
        seen = self.world.observe()
        self.cells.append(seen[:, :CELLS].argmax(1))
        self.switched.append(action == 4)
        truncated = truncated | (
            torch.rand(self.num_envs, generator=self.generator) < self.probability
        )
        self.world.restart(terminated | truncated)
        return Step(self.world.observe(), reward, terminated, truncated, lambda: seen)


class Seen(NamedTuple):
    """What there is to be curious about."""

    observations: gymnasium.Space[Any]
    actions: gymnasium.spaces.Discrete
    width: int  # of an observation: 104 for the cell, then the bits of the screen
    seed: int


Make = Callable[[Seen], RewardModel | None]


class PlaceCounts(TableCounts):
    """Counts that do not see the screen."""

    def keys(self, obs: Tensor) -> Tensor:
        return super().keys(obs[:, :CELLS])


def symbols(obs: Tensor) -> Tensor:
    """The number of the cell, then the bits, with shape (B, 1 + bits)."""
    return torch.cat([obs[:, :CELLS].argmax(1, keepdim=True), obs[:, CELLS:].long()], dim=1)


def coordinates(obs: Tensor) -> Tensor:
    """Row and column of the cell, then the bits as 0 or 12, with shape (B, 2 + bits)."""
    return torch.cat([panels.PLACES[obs[:, :CELLS].argmax(1)], 12 * obs[:, CELLS:].long()], dim=1)


def table(s: Seen) -> g.Categorical:
    """Independent tables for the cell and for each bit."""
    return g.Categorical(1 + s.width - CELLS, categories=CELLS)


def made(s: Seen) -> g.MADE:
    return g.MADE(s.width, hidden=(128,))


def vae(s: Seen) -> g.VAE:
    head = g.heads.Categorical(CELLS)
    return g.VAE(1 + s.width - CELLS, latent=4, head=head, hidden=(128,))


def flow(s: Seen) -> g.Dequantised:
    numbers = 2 + s.width - CELLS
    transforms = [g.flows.Logit(), *g.RealNVP(numbers).transforms]
    return g.Dequantised(g.Flow(numbers, transforms), levels=13)


def frequency(
    model: Callable[[Seen], g.GenerativeModel],
    features: Callable[[Tensor], Tensor] | None = None,
    lr: float = 3e-3,
    floor: float = 1.0,
) -> Make:
    # the density must keep up with 512 steps between two updates
    return lambda s: PseudoCounts(
        model(s), features=features, lr=lr, updates=32, floor=floor, seed=s.seed
    )


def recoding(s: Seen) -> RewardModel:
    return PseudoCounts(
        table(s), estimator="recoding", features=symbols, lr=3e-2, updates=16, seed=s.seed
    )


def curiosity(
    form: Literal["excess", "surprise", "error"], head: g.heads.Head, lr: float = 3e-3
) -> Make:
    def make(s: Seen) -> RewardModel:
        context = s.width + int(s.actions.n)
        model = g.MixtureDensityNetwork(s.width, context_shape=context, head=head)
        return DynamicsCuriosity(model, form=form, lr=lr, seed=s.seed)

    return make


METHODS: dict[str, Make] = {
    "random policy": lambda s: None,
    "no bonus": lambda s: None,
    "exact counts": lambda s: TableCounts(),
    "hashes": lambda s: HashCounts(bits=32, seed=s.seed),
    "n rho, MADE": frequency(made, lr=1e-2),
    "n rho, VAE": frequency(vae, symbols),
    "n rho, RealNVP": frequency(flow, coordinates, floor=0.01),
    "recoding, softmax table": recoding,
    "excess, learned variance": curiosity("excess", g.heads.Normal(0.05), lr=1e-3),
    "ICM": lambda s: ICM(s.observations, s.actions, seed=s.seed),
    "RND": lambda s: RND(s.observations, seed=s.seed),
    "disagreement": lambda s: Disagreement(s.observations, s.actions, seed=s.seed),
    "raw error": curiosity("error", g.heads.FixedNormal(1.0)),
    "surprise, MADE": lambda s: Surprise(made(s), lr=1e-2, updates=32, seed=s.seed),
}
SCREEN_ONLY: dict[str, Make] = {"counts of places": lambda s: PlaceCounts()}
ROOMS_ONLY: dict[str, Make] = {
    "codes, VQ-VAE": lambda s: CodeCounts(
        g.VQVAE(s.width, codes=256, head=g.heads.FixedNormal(0.1)), seed=s.seed
    ),
}


def explore(world: Restarting, name: str, make: Make, steps: int, seed: int) -> None:
    """Let one method live in the world."""
    assert isinstance(world.action_space, gymnasium.spaces.Discrete)
    if name == "random policy":
        generator = torch.Generator().manual_seed(mix(seed, 2))  # unlike that of the restarts
        world.reset()
        for _ in range(steps):
            count = int(world.action_space.n)
            world.step(torch.randint(count, (world.num_envs,), generator=generator))
        return
    shape = world.observation_space.shape
    assert shape is not None
    with drawing_from(mix(seed, 1)):
        model = make(Seen(world.observation_space, world.action_space, shape[0], seed))
    # what is new stays new across episodes
    streams = {} if model is None else {"bonus": Stream(model, episodic=False)}
    agent = PPO(world, reward_models=streams, seed=seed, **SETTINGS)
    agent.learn(steps * world.num_envs, progress=False)


def measure(world: Restarting, name: str, make: Make, steps: int, seed: int) -> panels.Row:
    """One run, and what it saw."""
    start = time.process_time()
    explore(world, name, make, steps, seed)
    seconds = time.process_time() - start
    cells = torch.stack(world.cells[:steps])
    visits = torch.bincount(cells.flatten(), minlength=CELLS)
    first = torch.full((CELLS,), steps).scatter_reduce(
        0, cells.flatten(), torch.arange(steps).repeat_interleave(world.num_envs), "amin"
    )
    return {
        "method": name,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 2),
        "visits": visits.tolist(),
        "first": [int(at) + 1 if at < steps else None for at in first],
        "switched": round(float(torch.stack(world.switched[:steps]).float().mean()), 5),
    }


def run_all(
    task: str,
    world_of: Callable[[int], Restarting],
    methods: dict[str, Make],
    wanted: tuple[str, ...],
    steps: int,
    seeds: tuple[int, ...],
    out: Path,
) -> None:
    """Every method with every seed, seed by seed; what is in the file is not run again."""
    torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    unknown = set(wanted) - set(methods)
    if unknown:
        raise ValueError(f"'methods' must be some of {', '.join(methods)}, got {sorted(unknown)}")
    known = {(r["task"], r["method"], r["seed"], r["steps"]) for r in panels.read(out)}
    for seed in seeds:
        for name, make in methods.items():
            if (wanted and name not in wanted) or (task, name, seed, steps) in known:
                continue
            row = {"task": task, **measure(world_of(seed), name, make, steps, seed)}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = f"{panels.entropy(row):.2f} nats, all cells at {panels.covered_at(row)}"
            share = f"{panels.share(row):.3f} at the screen" if task != "coverage" else ""
            print(f"{task:9} {seed} {name:26} {shown} {share} {row['seconds']} s", flush=True)


def rooms(seed: int) -> FourRooms:
    return FourRooms(COPIES, start=(1, 1), goal="none", max_steps=10**6, seed=1000 * seed)


def coverage(
    *,
    seeds: tuple[int, ...] = SEEDS,
    steps: int = 600,
    methods: tuple[str, ...] = (),
    out: Path = RUNS,
) -> None:
    """Explore the four rooms without reward; each copy goes back once in 40 steps.

    Args:
        seeds: one run of each method for each.
        steps: of each of 64 copies.
        methods: some of them, by name; none for all.
        out: the file to which runs are added.
    """

    def world_of(seed: int) -> Restarting:
        return Restarting(rooms(seed), 1 / 40, seed)

    run_all("coverage", world_of, METHODS | ROOMS_ONLY, methods, steps, seeds, out)


def noisy_tv(
    *,
    kind: Literal["cell", "action"] = "cell",
    seeds: tuple[int, ...] = SEEDS,
    steps: int = 1200,
    methods: tuple[str, ...] = (),
    out: Path = RUNS,
) -> None:
    """Explore with a screen of 16 fresh random bits; each copy goes back once in 100 steps.

    Args:
        kind: of screen: seen from the cell (11, 1), or switched by an action.
        seeds: one run of each method for each.
        steps: of each of 64 copies.
        methods: some of them, by name; none for all.
        out: the file to which runs are added.
    """

    def world_of(seed: int) -> Restarting:
        return Restarting(NoisyTV(rooms(seed), kind=kind, bits=BITS), 1 / 100, seed)

    run_all(kind, world_of, METHODS | SCREEN_ONLY, methods, steps, seeds, out)


def report(*, runs: Path = RUNS, folder: Path = Path("docs/results")) -> None:
    """Write the tables and the pictures of all runs in the file.

    Args:
        runs: the file.
        folder: where the document goes.
    """
    rows = panels.read(runs)
    names = tuple(METHODS | SCREEN_ONLY | ROOMS_ONLY)
    text = panels.document(rows, names, SETTINGS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exploration.md").write_text(text)
    panels.draw_curves(rows, names, folder / "exploration_curves.png")
    panels.draw_maps(rows, names, folder / "exploration_maps.png")
    print(text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"coverage": coverage, "noisy-tv": noisy_tv, "report": report}, description=__doc__
    )

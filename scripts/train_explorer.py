"""Train explorers, and see where each has been.

    python scripts/train_explorer.py --bonus pseudo none
    python scripts/train_explorer.py --world MiniGrid-DoorKey-8x8-v0 --bonus table --weight 0.3 \\
        --steps 16000

Several bonuses are trained one after another and shown side by side. FourRooms and OpenWorld pay
nothing unless there is a goal: walkers start in a corner, and go back there now and then. Each run
has a folder of its own below `out`; called again, it goes on from there.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from explorer_world import Remembering, draw
from options import Refused, answered, check_device, check_folder, check_name, check_numbers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlgen import generative as g
from rlgen.agents import PPO, REINFORCE, TRPO, RewardModel, Stream
from rlgen.agents import exploration as e
from rlgen.agents.learners.learner import Learner
from rlgen.envs import FourRooms, MiniGrid, OpenWorld, TensorWorld
from rlgen.envs.registration import ids
from rlgen.envs.tabular import TabularGrid
from rlgen.runs import Run
from rlgen.seeding import drawing_from, mix

SYMBOLS = 11  # MiniGrid's codes of things, colours and states are below
MINIGRID = tuple(kwargs["id"] for _, kwargs in ids() if kwargs["world"] == "MiniGrid")


@dataclasses.dataclass(frozen=True)
class Options:
    """Train explorers, one for each bonus, and show side by side where each has been.

    Args:
        world: FourRooms, OpenWorld, or an id of MiniGrid's such as MiniGrid-DoorKey-8x8-v0.
        bonus: what pays for the new; several are trained one after another: none, table, hash,
            pseudo, surprise, icm, rnd, disagreement, dynamics.
        model: the density that pseudo and surprise learn: made, categorical, vae, realnvp.
        weight: of the bonus beside the world's reward.
        learner: ppo, reinforce, trpo.
        steps: of each copy.
        copies: of the world.
        goal: whether FourRooms and OpenWorld have one, in the far corner, that pays 1.
        restart: the probability that a copy goes back to its start, at each step; below 0 stands
            for 1/40 in FourRooms and OpenWorld without a goal, and for never elsewhere.
        device: such as cpu or cuda.
        seed: of everything random.
        out: the folder of runs; runs that are there with the same options go on, for longer
            if there are more steps now.
    """

    world: str = "FourRooms"
    bonus: tuple[str, ...] = ("pseudo", "none")
    model: str = "made"
    weight: float = 1.0
    learner: str = "ppo"
    steps: int = 600
    copies: int = 64
    goal: bool = False
    restart: float = -1.0
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/explorer")


class Result(NamedTuple):
    """What one explorer did."""

    bonus: str
    seconds: float
    world: Remembering


class Sight(NamedTuple):
    """What there is to be curious about."""

    world: Remembering
    options: Options

    @property
    def cells(self) -> int | None:
        """Of a map that is seen as one-hot cells; None for symbols."""
        inner = self.world.world
        return inner.cells if isinstance(inner, TabularGrid) else None

    @property
    def width(self) -> int:
        shape = self.world.observation_space.shape
        assert shape is not None
        return math.prod(shape)

    def symbols(self, obs: Tensor) -> Tensor:
        """The number of the cell, or the symbols of a view, with shape (B, symbols)."""
        return obs.flatten(1).long() if self.cells is None else obs.argmax(1, keepdim=True)

    def floats(self, obs: Tensor) -> Tensor:
        return obs.flatten(1).float() / (SYMBOLS - 1 if self.cells is None else 1)

    def numbers(self, obs: Tensor) -> Tensor:
        """Row and column, or the symbols of a view: integers with a distance."""
        inner = self.world.world
        if not isinstance(inner, TabularGrid):
            return self.symbols(obs)
        return inner.free.nonzero().to(obs.device)[obs.argmax(1)]


Density = tuple[g.GenerativeModel, Callable[[Tensor], Tensor] | None]


def made(s: Sight) -> Density:
    if s.cells is not None:
        return g.MADE(s.width, hidden=(128,)), None
    return g.MADE(s.width, hidden=(128,), head=g.heads.Categorical(SYMBOLS)), s.symbols


def categorical(s: Sight) -> Density:
    if s.cells is not None:
        return g.Categorical(1, categories=s.cells), s.symbols
    return g.Categorical(s.width, categories=SYMBOLS), s.symbols


def vae(s: Sight) -> Density:
    count, categories = (s.width, SYMBOLS) if s.cells is None else (1, s.cells)
    head = g.heads.Categorical(categories)
    return g.VAE(count, latent=4, head=head, hidden=(128,)), s.symbols


def realnvp(s: Sight) -> Density:
    inner = s.world.world
    count, levels = s.width, SYMBOLS
    if isinstance(inner, TabularGrid):
        count, levels = 2, max(inner.free.shape)
    flow = g.Flow(count, [g.flows.Logit(), *g.RealNVP(count).transforms])
    return g.Dequantised(flow, levels=levels), s.numbers


def density(s: Sight) -> dict[str, Any]:
    model, features = MODELS[s.options.model](s)
    model = model.to(s.world.device)
    # it must keep up with what is seen: the simpler the model, the faster it may go
    lr = 1e-2 if s.options.model in ("made", "categorical") else 3e-3
    return {"model": model, "features": features, "lr": lr, "updates": 16, "seed": s.options.seed}


def dynamics(s: Sight) -> RewardModel:
    assert isinstance(s.world.action_space, gymnasium.spaces.Discrete)
    context = s.width + int(s.world.action_space.n)
    model = g.MixtureDensityNetwork(s.width, context_shape=context, head=g.heads.Normal(0.05))
    model = model.to(s.world.device)
    return e.DynamicsCuriosity(model, s.floats, seed=s.options.seed)


def of_networks(make: Callable[..., Any], *, actions: bool) -> Callable[[Sight], RewardModel]:
    def made_for(s: Sight) -> RewardModel:
        spaces = (s.world.observation_space, s.world.action_space)
        bonus = make(*(spaces if actions else spaces[:1]), seed=s.options.seed)
        bonus.networks.to(s.world.device)
        model: RewardModel = bonus
        return model

    return made_for


MODELS: dict[str, Callable[[Sight], Density]] = {
    "made": made,
    "categorical": categorical,
    "vae": vae,
    "realnvp": realnvp,
}
BONUSES: dict[str, Callable[[Sight], RewardModel | None]] = {
    "none": lambda s: None,
    "table": lambda s: e.TableCounts(),
    "hash": lambda s: e.HashCounts(seed=s.options.seed),
    "pseudo": lambda s: e.PseudoCounts(**density(s)),
    "surprise": lambda s: e.Surprise(**density(s)),
    "icm": of_networks(e.ICM, actions=True),
    "rnd": of_networks(e.RND, actions=False),
    "disagreement": of_networks(e.Disagreement, actions=True),
    "dynamics": dynamics,
}
LEARNERS = ("ppo", "reinforce", "trpo")


def checked(o: Options) -> Options:
    """The options, once it is sure that all of them can be."""
    worlds = ("FourRooms", "OpenWorld", *MINIGRID)
    check_name("world", o.world, worlds, "FourRooms, OpenWorld, or a MiniGrid id")
    for bonus in o.bonus:
        check_name("bonus", bonus, BONUSES)
    check_name("model", o.model, MODELS)
    check_name("learner", o.learner, LEARNERS)
    if not o.bonus or len(set(o.bonus)) < len(o.bonus):
        raise Refused(
            f"--bonus must name each bonus once, got {' '.join(o.bonus) or 'none at all'}"
        )
    check_numbers(("steps", o.steps, 1), ("copies", o.copies, 1), ("seed", o.seed, 0))
    if not 0.0 <= o.weight < math.inf:
        raise Refused(f"--weight must be at least 0 and finite, got {o.weight}")
    if not (math.isfinite(o.restart) and o.restart < 1.0):
        raise Refused(f"--restart must be below 1, got {o.restart}")
    check_device(o.device)
    check_folder(o.out)
    if o.restart < 0.0:
        idle = o.world in ("FourRooms", "OpenWorld") and not o.goal
        o = dataclasses.replace(o, restart=1 / 40 if idle else 0.0)
    return o


def world_of(o: Options) -> Remembering:
    world: TensorWorld[Any]
    if o.world in ("FourRooms", "OpenWorld"):
        task: dict[str, Any] = {} if o.goal else {"goal": "none", "max_steps": 2**31}
        common = {"device": o.device, "seed": o.seed, **task}
        if o.world == "FourRooms":
            world = FourRooms(o.copies, start=(1, 1), **common)
        else:
            world = OpenWorld(o.copies, start=(0, 0), **common)
    else:
        world = MiniGrid(o.world, o.copies, device=o.device, seed=o.seed)
    return Remembering(world, o.restart, o.seed)


def learner_of(world: Remembering, bonus: str, o: Options) -> Learner:
    with drawing_from(mix(o.seed, 1)):
        model = BONUSES[bonus](Sight(world, o))
    # what is new stays new across episodes
    streams = {} if model is None else {"bonus": Stream(model, weight=o.weight, episodic=False)}
    few = isinstance(world.world, TabularGrid)
    common: dict[str, Any] = {"reward_models": streams, "seed": o.seed, "steps": 8 if few else 64}
    if o.learner == "reinforce":
        return REINFORCE(world, **common)
    if o.learner == "trpo":
        return TRPO(world, **common)
    return PPO(world, minibatch=256 if few else 512, **common)


def train(learner: Learner, run: Run, bonus: str, world: Remembering, o: Options) -> Result:
    """Train one explorer, or go on with it; time spent before counts."""
    clock = run.folder / "seconds.txt"
    before = float(clock.read_text()) if clock.exists() else 0.0
    start = time.perf_counter()

    def tick(step: int, metrics: dict[str, float]) -> None:
        del step, metrics
        clock.write_text(str(before + time.perf_counter() - start))

    learner.learn(o.steps * o.copies, run=run, callback=tick)
    return Result(bonus, float(clock.read_text()), world)


def explore(o: Options, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    plans = []
    for bonus in o.bonus:  # all are made before any begins
        world = world_of(o)
        config = {**dataclasses.asdict(o), "bonus": bonus}
        for name in ("out", "steps"):  # a run may move, and go on for longer
            del config[name]
        learner = learner_of(world, bonus, o)
        plans.append((learner, Run(o.out / bonus, config), bonus, world))
    results = []
    for plan in plans:
        paid = "without a bonus" if plan[2] == "none" else f"with {plan[2]}"
        console.print(f"Exploring {o.world} {paid}: {o.steps} steps of {o.copies} copies")
        results.append(train(*plan, o))
    picture = o.out / "places.png"
    draw({result.bonus: result.world for result in results}, picture)
    console.print(table_of(results, o))
    console.print(f"Picture: {picture}   Runs: {o.out}", soft_wrap=True)


def table_of(results: list[Result], o: Options) -> Table:
    inner = results[0].world.world
    cells = inner.cells if isinstance(inner, TabularGrid) else None
    table = Table(title=f"{o.world}, {o.learner}, {o.copies} copies")
    names = ["steps", "seconds", "return", "success", "places", "observations"]
    names += [] if cells is None else [f"entropy / {math.log(cells):.3f}", "all cells by step"]
    table.add_column("bonus")
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        memory = {k: v.cpu() for k, v in result.world.memory.items()}
        ended, earned, won = memory["ended"].tolist()
        visits = memory["visits"][memory["visits"] > 0].double()
        row = [str(int(memory["steps"]) * o.copies), f"{result.seconds:.1f}"]
        row += [f"{earned / ended:.3f}", f"{won / ended:.1%}"] if ended else ["-", "-"]
        row += [str(len(visits)), str(len(result.world.different.table.keys))]
        if cells is not None:
            p = visits / visits.sum()
            row += [f"{-float((p * p.log()).sum()):.3f} nats"]
            row += [str(int(memory["first"].max())) if len(visits) == cells else "never"]
        table.add_row(result.bonus, *row)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then train."""
    answered("train_explorer.py", Options, arguments, lambda o, c: explore(checked(o), c))


if __name__ == "__main__":
    main()

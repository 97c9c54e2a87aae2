"""Learn a world from random play, and how to act there in dreams of it alone.

    python scripts/train_world_model.py
    python scripts/train_world_model.py --controller cma --latent numbers --temperature 1.15
    python scripts/train_world_model.py --world OpenWorld --start 0 0 --rounds 4 --episodes 25
    python scripts/train_world_model.py --world MiniGrid-Empty-5x5-v0 --symbols 64

A round plays episodes in the real world, the first one at random and later ones with the present
agent, learns the world from all episodes so far, and then learns to act in dreams. Nothing else is
asked of the real world but to judge. A run that is called again goes on after its last round.
"""

import dataclasses
import math
import time
from pathlib import Path

import torch
from dream_pictures import draw_dream
from dreamers import (
    CONTROLLERS,
    GRIDS,
    RECURRENCES,
    Judged,
    cells_of,
    dreamily,
    optimum,
    really,
    rounds_of,
    world_of,
)
from options import Refused, answered, check_device, check_folder, check_name, check_numbers
from rich.console import Console
from rich.table import Table

from rlgen import checkpoint
from rlgen.agents import PPO
from rlgen.agents.world_model import Controller
from rlgen.agents.world_model.rounds import Rounds
from rlgen.envs.tabular import TabularGrid
from rlgen.runs import Run
from rlgen.seeding import mix

LATENTS = ("tokens", "numbers")
LOOKED_AT = 8  # episodes, of which the longest is drawn


@dataclasses.dataclass(frozen=True)
class Options:
    """Learn a world from random play, and how to act there in dreams of it alone.

    Args:
        world: FourRooms, OpenWorld, or an id of MiniGrid's such as MiniGrid-Empty-5x5-v0.
        size: rows and columns of OpenWorld.
        observation: of FourRooms and OpenWorld: image, onehot, xy.
        start: row and column in FourRooms and OpenWorld; none draws one for each episode.
        goal: row and column in FourRooms and OpenWorld; none takes the far corner.
        slip: the probability that a move in FourRooms or OpenWorld goes wrong.
        max_steps: when an episode is truncated; 0 leaves that to the world.
        latent: what V makes of an observation: tokens of a VQ-VAE, or numbers of a VAE, whose M
            is a mixture of normals.
        symbols: that a token can be.
        positions: tokens for one observation.
        recurrence: of M: gru, attention.
        width: of M's summary of the past.
        remembering: show the agent of ppo or cma this summary beside the latent.
        vision_steps: gradient steps of V in each round.
        memory_steps: gradient steps of M in each round.
        window: steps of the pieces that M learns from.
        controller: what acts: ppo, cma (a linear map, evolved), planner (a search for each action).
        temperature: of the dream; below 1 it is surer than M, above 1 less sure.
        steps: of ppo in the dream, over all copies.
        copies: of ppo's dream.
        generations: of cma.
        horizon: of the planner.
        rounds: of collecting, learning and dreaming.
        episodes: of each round.
        evaluation: episodes that are looked at after each round; they teach nothing.
        device: such as cpu or cuda.
        seed: of everything random.
        out: the folder of the run; one that is there with the same options goes on, for longer
            if there are more rounds now.
    """

    world: str = "FourRooms"
    size: int = 10
    observation: str = "image"
    start: tuple[int, int] | None = None
    goal: tuple[int, int] | None = None
    slip: float = 0.0
    max_steps: int = 0
    latent: str = "tokens"
    symbols: int = 256
    positions: int = 1
    recurrence: str = "gru"
    width: int = 64
    remembering: bool = True
    vision_steps: int = 800
    memory_steps: int = 4000
    window: int = 16
    controller: str = "ppo"
    temperature: float = 1.0
    steps: int = 65_536
    copies: int = 64
    generations: int = 50
    horizon: int = 20
    rounds: int = 1
    episodes: int = 100
    evaluation: int = 256
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/world_model")


ONLY_FOR = {  # elsewhere it would make no difference
    "size": ("world", ("OpenWorld",)),
    "symbols": ("latent", ("tokens",)),
    "positions": ("latent", ("tokens",)),
    "remembering": ("controller", ("ppo", "cma")),
    "steps": ("controller", ("ppo",)),
    "copies": ("controller", ("ppo",)),
    "generations": ("controller", ("cma",)),
    "horizon": ("controller", ("planner",)),
}


def checked(o: Options) -> Options:
    """The options, once it is sure that all of them can be."""
    check_name("latent", o.latent, LATENTS)
    check_name("recurrence", o.recurrence, RECURRENCES)
    check_name("controller", o.controller, CONTROLLERS)
    least = {"size": 2, "max_steps": 0, "symbols": 2, "positions": 1, "width": 1}
    least |= {"vision_steps": 0, "memory_steps": 0, "window": 1, "steps": 1, "copies": 1}
    least |= {"generations": 1, "horizon": 1, "rounds": 1, "episodes": 1, "evaluation": 1}
    numbers = ((name, getattr(o, name), low) for name, low in {**least, "seed": 0}.items())
    check_numbers(*((name.replace("_", "-"), number, low) for name, number, low in numbers))
    if o.recurrence == "attention" and o.width % 4:
        raise Refused(f"--width must be a multiple of 4 for attention, got {o.width}")
    if not 0.0 < o.temperature < math.inf:
        raise Refused(f"--temperature must be positive and finite, got {o.temperature}")
    if not 0.0 <= o.slip <= 1.0:
        raise Refused(f"--slip must be a probability, got {o.slip}")
    for name, (of, fitting) in ONLY_FOR.items():
        if getattr(o, of) not in fitting and getattr(o, name) != getattr(Options, name):
            raise Refused(f"--{name} is for {' and '.join(fitting)}, not for {getattr(o, of)}")
    check_device(o.device)
    world_of(o, 1)
    check_folder(o.out)
    return o


def run_of(o: Options) -> Run:
    """The folder, which is of these options alone."""
    config = dataclasses.asdict(o)
    for free in ("out", "rounds", "evaluation"):  # a run may move, and go on for longer
        del config[free]
    return Run(o.out, config)


def train(o: Options, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    o = checked(o)
    run, rounds = run_of(o), rounds_of(o)
    run.resume(rounds)
    console.print(
        f"{o.world}: {o.latent}, {o.recurrence}, {o.controller} at temperature {o.temperature:g}; "
        f"rounds of {o.episodes} episodes",
        highlight=False,
    )
    for line in run.metrics():
        console.print(told(line), highlight=False)
    while rounds.round < o.rounds:
        start = time.process_time()
        metrics = rounds.iterate(progress=True)
        metrics["seconds"] = time.process_time() - start
        real = really(o, rounds.pilot(), o.evaluation)
        metrics |= Judged.of(real).metrics("real") | dreamily(o, rounds, real).metrics("dream")
        run.log(rounds.steps, {"round": rounds.round, **metrics})
        run.save(rounds.steps, rounds)
        console.print(told(run.metrics()[-1]), highlight=False)
    save(rounds, o.out)
    picture = drawn(o, rounds)
    console.print(table_of(o, run))
    console.print(f"Picture: {picture}   Run: {o.out}", soft_wrap=True)


def told(line: dict[str, float]) -> str:
    """One round in one line."""
    parts = [f"Round {line['round']:.0f}: {line['steps']:,.0f} real steps"]
    parts += [f"{part} {line[part]:.2f} nats" for part in ("V", "M") if part in line]
    parts += [f"real success {line['real/success']:.1%} in {line['real/length']:.1f} steps"]
    parts += [f"dreamt {line['dream/success']:.1%} in {line['dream/length']:.1f}"]
    return f"{', '.join(parts)}; {line['seconds']:.0f} CPU seconds"


def save(rounds: Rounds, folder: Path) -> None:
    """The model with its episodes, and the agent, for whoever wants to use them elsewhere."""
    rounds.model.save(folder / "model")
    if isinstance(rounds.agent, PPO):
        rounds.agent.save(folder / "agent")
    elif isinstance(rounds.agent, Controller):
        checkpoint.save(rounds.agent, folder / "agent")


def table_of(o: Options, run: Run) -> Table:
    """The last round, beside chance and the best that can be."""
    last = run.metrics()[-1]
    rows = {"optimum": optimum(o), "chance": Judged.of(really(o, None, o.evaluation))}
    rows |= {f"{o.controller}, really": Judged.from_metrics("real", last)}
    rows |= {f"{o.controller}, in the dream": Judged.from_metrics("dream", last)}
    steps, seconds = last["steps"], sum(line["seconds"] for line in run.metrics())
    title = f"{o.world} after {steps:,.0f} real steps and {seconds:.0f} CPU seconds"
    table = Table(title=title)
    table.add_column("")
    mapped = o.world in GRIDS
    names = ["success", "return", "length", *(["false goals", "illegal moves"] if mapped else [])]
    for name in names:
        table.add_column(name, justify="right")
    for who, judged in rows.items():
        if judged is None:
            continue
        row = [f"{judged.success:.1%}", f"{judged.earned:.3f}"]
        row += ["-" if math.isnan(judged.length) else f"{judged.length:.1f}"]
        shares = (judged.false_goals, judged.illegal)
        row += ["-" if share is None else f"{share:.2%}" for share in shares]
        table.add_row(who, *row[: len(names)])
    return table


def drawn(o: Options, rounds: Rounds) -> Path:
    """The longest of a few real episodes, and what the model expects of the same actions."""
    actor, world = rounds.pilot(), world_of(o, 1)
    longest = max(really(o, actor, LOOKED_AT), key=len)
    obs, action = longest.obs, longest.action[:, None]
    dreamt = rounds.model.imagine(
        obs[:1], action, temperature=o.temperature, generator=mix(o.seed, 10)
    )
    frames = rounds.model.vision.decode(dreamt.z[:, 0])
    wrong = [False] * len(obs)
    if isinstance(world, TabularGrid):
        wrong = (cells_of(frames, world) != cells_of(obs, world)).tolist()
    title = f"{o.world}: {len(action)} steps of {o.controller}, and a dream of the same actions"
    draw_dream(obs, frames, world, wrong, title, o.out / "dream.png")
    return o.out / "dream.png"


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then collect, learn and dream."""
    answered("train_world_model.py", Options, arguments, train)


if __name__ == "__main__":
    main()

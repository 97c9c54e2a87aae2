"""Record demonstrations: of a planned expert, of a saved agent, or by hand.

    python scripts/record_demonstrations.py --by shortest --episodes 100 --out runs/shortest.npz
    python scripts/record_demonstrations.py --by routes --start 1 1 --observation image
    python scripts/record_demonstrations.py --world MiniGrid-DoorKey-5x5-v0 --by keyboard
    python scripts/record_demonstrations.py --world CartPole-v1 --by runs/cartpole/agent --copies 4

The file is written anew after every episode, or, where episodes come faster than they can be
written, now and then and at the end. By hand, one that is not finished is not kept.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from options import Refused, answered, check_folder, check_numbers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_explorer import MINIGRID

from rlgen import checkpoint
from rlgen.agents import ActorCritic, Policy
from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.imitation.experts import first_expert, routes_expert, shortest_paths_expert
from rlgen.agents.imitation.recording import Actor, record
from rlgen.agents.learners.saving import SavedLearner
from rlgen.agents.transitions import flat_space
from rlgen.checkpoint import load_module_state
from rlgen.envs import FourRooms, MiniGrid, OpenWorld, TensorWorld, adapters
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import World
from rlgen.generative import Trainer
from rlgen.seeding import mix

ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}  # as terminals send them
WALK = {"up": 0, "down": 1, "left": 2, "right": 3}
TURN = {"left": 0, "right": 1, "up": 2, "p": 3, "d": 4, " ": 5, "\n": 6}
WALK_HELP = "Arrow keys walk, q stops."
TURN_HELP = "Left and right turn, up walks, p picks up, d drops, space opens, q stops."


@dataclasses.dataclass(frozen=True)
class Options:
    """Record demonstrations of a planned expert, of a saved agent, or by hand.

    Args:
        world: FourRooms, OpenWorld, a MiniGrid id, or any gymnasium id such as CartPole-v1.
        by: who acts: shortest (any shortest path), routes (FourRooms by the north-east or the
            south-west), first (OpenWorld along its row or its column first), keyboard, or the
            folder of a saved learner or policy.
        episodes: how many whole ones, shared out over the copies.
        copies: of the world; by hand there is one.
        observation: of FourRooms and OpenWorld: onehot, xy, image.
        start: row and column in FourRooms and OpenWorld; none draws one for each episode.
        goal: row and column in FourRooms and OpenWorld; none takes the far corner.
        slip: the probability that a move in FourRooms or OpenWorld goes wrong.
        max_steps: when an episode is truncated; 0 leaves that to the world.
        deterministic: act by the mode of a policy instead of by a sample.
        seed: of the world and of the actions.
        add: go on with the file that is there; what is added has other random streams.
        out: the .npz file.
        minari: a folder for the same in Minari's format, which needs h5py.
    """

    world: str = "FourRooms"
    by: str = "shortest"
    episodes: int = 10
    copies: int = 8
    observation: str = "onehot"
    start: tuple[int, int] | None = None
    goal: tuple[int, int] | None = None
    slip: float = 0.0
    max_steps: int = 0
    deterministic: bool = False
    seed: int = 0
    add: bool = False
    out: Path = Path("runs/demonstrations.npz")
    minari: Path | None = None


class Plan(NamedTuple):
    """All that a recording needs, made and checked."""

    world: World
    actor: Actor
    before: Demonstrations | None


class Stopped(Exception):
    """Whoever plays has had enough."""


EXPERTS: dict[str, Callable[[Any], Actor]] = {
    "shortest": shortest_paths_expert,
    "routes": routes_expert,
    "first": first_expert,
}


def planned(o: Options) -> Plan:
    """The world, who acts in it and what was there, once it is sure that all of it can be."""
    check_numbers(
        ("episodes", o.episodes, 1),
        ("copies", o.copies, 1),
        ("seed", o.seed, 0),
        ("max-steps", o.max_steps, 0),
    )
    if not 0.0 <= o.slip <= 1.0:
        raise Refused(f"--slip must be a probability, got {o.slip}")
    if o.by == "keyboard":
        if not sys.stdin.isatty():
            raise Refused("--by keyboard needs a terminal to read keys from")
        o = dataclasses.replace(o, copies=1)
    world = world_of(o)
    actor = actor_of(o, world)
    check_files(o)
    return Plan(world, actor, demonstrations_before(o, world))


def check_files(o: Options) -> None:
    if o.out.suffix != ".npz":
        raise Refused(f"--out must end in .npz, got {str(o.out)!r}")
    if o.out.exists() and not o.add:
        raise Refused(f"--out {str(o.out)!r} is there: --add goes on with it")
    check_folder(o.out.parent)
    if o.minari is None:
        return
    if importlib.util.find_spec("h5py") is None:
        raise Refused("--minari needs h5py: pip install h5py")
    if o.minari.exists():
        raise Refused(f"--minari {str(o.minari)!r} is there already")
    check_folder(o.minari.parent, "minari")


def world_of(o: Options, device: str = "cpu") -> World:
    steps: dict[str, Any] = {"max_steps": o.max_steps} if o.max_steps else {}
    if o.world in ("FourRooms", "OpenWorld"):
        make: Any = FourRooms if o.world == "FourRooms" else OpenWorld
        task = {"start": o.start, "goal": o.goal, "slip": o.slip, "observation": o.observation}
        grid: World = make(o.copies, seed=o.seed, device=device, **task, **steps)
        return grid
    for field in dataclasses.fields(o):
        given = getattr(o, field.name)
        if field.name in ("observation", "start", "goal", "slip") and given != field.default:
            raise Refused(f"--{field.name} is for FourRooms and OpenWorld, not for {o.world}")
    if o.world in MINIGRID:
        return MiniGrid(o.world, o.copies, seed=o.seed, device=device, **steps)
    if o.world not in gymnasium.registry:
        raise Refused(f"--world must be FourRooms, OpenWorld or an id; there is no {o.world!r}")
    how: dict[str, Any] = {"vectorization_mode": "sync"}
    how["vector_kwargs"] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    if o.max_steps:
        how["max_episode_steps"] = o.max_steps
    try:
        venv = gymnasium.make_vec(o.world, o.copies, **how)
    except (gymnasium.error.Error, ImportError) as error:
        why = " ".join(str(error).split())
        raise Refused(f"--world {o.world} cannot be made: {why}") from error
    return adapters.from_gymnasium(venv, device=device)


def actor_of(o: Options, world: World) -> Actor:
    if o.by in EXPERTS:
        if not isinstance(world, TabularGrid):
            raise Refused(f"--by {o.by} is for FourRooms and OpenWorld, not for {o.world}")
        if o.by == "first" and not isinstance(world, OpenWorld):
            raise Refused(f"--by first is for OpenWorld, not for {o.world}")
        return EXPERTS[o.by](world)
    if o.by == "keyboard":
        if not isinstance(world, TabularGrid | MiniGrid):
            raise Refused(f"--by keyboard is for FourRooms, OpenWorld and MiniGrid, not {o.world}")
        return Keyboard(world, TURN if isinstance(world, MiniGrid) else WALK, o.episodes)
    if not Path(o.by).is_dir():
        raise Refused(
            f"--by must be {', '.join(EXPERTS)}, keyboard, or a folder; there is no {o.by!r}"
        )
    fitting = Policy.of(flat_space(world.observation_space), world.action_space)
    try:
        policy = saved(o.by, fitting)
    except RuntimeError:  # the weights are of another size
        policy = None
    forms = ("context_shape", "event_shape", "obs_dtype", "head")
    if policy is None or any(getattr(policy, f) != getattr(fitting, f) for f in forms):
        raise Refused(f"--by {o.by} did not learn in a world like {o.world}")
    return policy


def saved(folder: str, fitting: Policy) -> Policy:
    """The policy of a learner, of a clone, or itself."""
    found = checkpoint.load(folder)
    if isinstance(found, SavedLearner):
        model = found.arguments.get("model")
        if model is None:  # the learner made it for its world
            model = ActorCritic(fitting, streams=1 + len(found.streams))
        load_module_state(model, found.state["model"])
        found = model
    if isinstance(found, Trainer):
        found = found.model
    if isinstance(found, ActorCritic):
        found = found.policy
    if not isinstance(found, Policy):
        raise Refused(f"--by {folder} holds a {type(found).__name__}, which does not act")
    return found


def demonstrations_before(o: Options, world: World) -> Demonstrations | None:
    if not o.out.exists():
        return None
    before = Demonstrations.load(o.out)
    return before.check(world.observation_space, world.action_space)


class Keyboard:
    """Draws a world of one copy, and does what the next key says.

    Args:
        world: to draw.
        keys: name of a key -> action.
        episodes: that are to be played.
    """

    def __init__(self, world: TensorWorld[Any], keys: dict[str, int], episodes: int) -> None:
        self.world, self.keys, self.episodes = world, keys, episodes
        self.done, self.last = 0, ""

    def __call__(self, obs: Any) -> Tensor:
        del obs
        self.draw()
        while True:
            key = read_key()
            if key in ("q", ""):
                raise Stopped
            if key in self.keys:
                return torch.tensor([self.keys[key]])

    def note(self, so_far: Demonstrations) -> None:
        """Says how the last episode went above the next one."""
        self.done = len(so_far)
        last = so_far.trajectories[-1]
        self.last = f"  The last one: return {so_far.returns()[-1]:g} in {len(last)} steps."

    def draw(self) -> None:
        status = f"Episode {self.done + 1} of {self.episodes}, step {int(self.world.time)}."
        keys = TURN_HELP if self.keys is TURN else WALK_HELP
        lines = [*blocks(self.world.render()[0]), status + self.last, keys]
        sys.stdout.write("\x1b[H\x1b[2J" + "\r\n".join(lines) + "\r\n")
        sys.stdout.flush()


def blocks(picture: Tensor) -> Iterator[str]:
    """A picture (height, width, 3) as lines of half blocks, two pixels on top of each other."""
    scale = 4 if picture.shape[1] <= 400 else 8
    small = torch.nn.functional.avg_pool2d(picture.movedim(-1, 0).float().cpu(), scale)
    small = small[:, : small.shape[1] // 2 * 2].movedim(0, -1).long()
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        )
        yield "".join(cells) + "\x1b[0m"


def read_key() -> str:
    """The next key: up, down, left, right, or a character; empty at the end of the input."""
    file = sys.stdin.fileno()
    key = os.read(file, 1).decode(errors="replace")
    if key != "\x1b":
        return "\n" if key == "\r" else key
    rest = ""
    while len(rest) < 2 and select.select([file], [], [], 0.05)[0]:
        rest += os.read(file, 1).decode(errors="replace")
    return ARROWS.get(rest[1:], "escape")


@contextlib.contextmanager
def keys_at_once() -> Iterator[None]:
    """A terminal that gives each key without waiting for the end of a line."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class Saver:
    """Writes what there is so far, in a tenth of the time at most."""

    def __init__(self, path: Path, before: Demonstrations | None) -> None:
        self.path, self.before = path, before
        self.all: Demonstrations | None = before
        self.seconds, self.when = 0.0, -math.inf

    def note(self, so_far: Demonstrations) -> None:
        earlier = () if self.before is None else self.before.trajectories
        self.all = Demonstrations((*earlier, *so_far.to("cpu").trajectories))
        if time.perf_counter() - self.when >= 10.0 * self.seconds:
            self.save()

    def save(self) -> None:
        if self.all is not None and self.all is not self.before:
            start = time.perf_counter()
            self.all.save(self.path)
            self.when = time.perf_counter()
            self.seconds = self.when - start


def run(o: Options, plan: Plan, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    saver, hand = Saver(o.out, plan.before), isinstance(plan.actor, Keyboard)
    count = 0 if plan.before is None else len(plan.before)
    seed = mix(o.seed, count) % 2**31 if count else o.seed

    def note(so_far: Demonstrations) -> None:
        saver.note(so_far)
        if isinstance(plan.actor, Keyboard):
            plan.actor.note(so_far)

    with contextlib.ExitStack() as stack:
        stack.callback(saver.save)  # whatever happens
        stack.enter_context(contextlib.suppress(Stopped, KeyboardInterrupt))
        if hand:
            stack.enter_context(keys_at_once())
        how: dict[str, Any] = {"deterministic": o.deterministic, "seed": seed}
        record(plan.world, plan.actor, o.episodes, progress=not hand, on_episode=note, **how)
    if saver.all is None or saver.all is plan.before:
        console.print("No episode was finished: nothing was recorded.")
        return
    if o.minari is not None:
        saver.all.save_minari(o.minari, plan.world.observation_space, plan.world.action_space)
    console.print(table_of(saver.all, count, o))


def table_of(made: Demonstrations, before: int, o: Options) -> Table:
    table = Table(title=f"{o.world}, by {o.by}: {o.out}")
    for name in ("", "trajectories", "steps", "return", "length", "terminated"):
        table.add_column(name, justify="right")
    parts = {"before": made[:before], "recorded": made[before:]} if before else {"recorded": made}
    for name, part in parts.items():
        returns = [float(one.reward.sum()) for one in part if one.reward is not None]
        mean = f"{sum(returns) / len(returns):.3f}" if returns else "-"
        ended = sum(one.terminated for one in part) / len(part)
        length = part.steps / len(part)
        table.add_row(name, str(len(part)), str(part.steps), mean, f"{length:.1f}", f"{ended:.0%}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then record."""
    answered("record_demonstrations.py", Options, arguments, lambda o, c: run(o, planned(o), c))


if __name__ == "__main__":
    main()

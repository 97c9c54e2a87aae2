"""Imitate an expert, and see how well.

    python scripts/train_imitation.py --algorithm gail bc --episodes 4
    python scripts/train_imitation.py --algorithm infogail gail --by routes
    python scripts/train_imitation.py --algorithm maxent --world OpenWorld --slip 0.1
    python scripts/train_imitation.py --world CartPole-v1 --demonstrations runs/cartpole.npz

Several algorithms imitate the same demonstrations one after another and are shown side by side.
Demonstrations are read from a file, or recorded there and then. Each algorithm has a folder of its
own below `out`; called again, it goes on from there.
"""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from imitation_pictures import Curve, Panel, draw_curves, draw_paths
from imitators import ALGORITHMS, EXACT, GAMES, LEARNERS, Imitator, timed
from options import Refused, answered, check_device, check_folder, check_name, check_numbers
from record_demonstrations import Options as Recording
from record_demonstrations import actor_of, world_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlgen.agents.imitation import Demonstrations, Expert, measures, record
from rlgen.agents.imitation.coded import without_code
from rlgen.agents.imitation.recording import Actor
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import World
from rlgen.runs import Run

HELD_OUT = 10**6  # added to the seed for the episodes that are looked at
GRIDS = ("FourRooms", "OpenWorld")
CORNERS = {"FourRooms": (1, 1), "OpenWorld": (0, 0)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Imitate an expert with one algorithm or several, and show side by side how well.

    Args:
        world: FourRooms, OpenWorld, a MiniGrid id, or any gymnasium id such as CartPole-v1.
        algorithm: bc, gail, airl, infogail; in FourRooms and OpenWorld also maxent, apprenticeship.
        demonstrations: a file of rlgen's or of imitation's, or a folder of Minari's; none records
            the expert there and then.
        by: the expert: shortest, routes (FourRooms), first (OpenWorld), or the folder of a saved
            agent; none is routes or first for infogail, and shortest otherwise. Beside a file it is
            only compared with.
        episodes: how many demonstrations; 0 is all of a file, or 16 that are recorded.
        observation: of FourRooms and OpenWorld: onehot, xy, image.
        start: row and column in FourRooms and OpenWorld; none draws one for each episode, but takes
            the near corner for routes and first.
        goal: row and column in FourRooms and OpenWorld; none takes the far corner.
        slip: the probability that a move in FourRooms or OpenWorld goes wrong.
        max_steps: when an episode is truncated; 0 leaves that to the world.
        learner: of gail, airl and infogail: ppo, trpo.
        steps: of each copy of the world.
        copies: of the world.
        rollout: steps of each copy from one update to the next.
        cloning: gradient steps of bc, and of a warm start.
        warm_start: begin gail, airl and infogail as a clone.
        game: of the critic: nonsaturating, minimax, wasserstein.
        reward: what the critic pays: positive, negative, logit.
        penalty: weight of the penalty on the critic's slope; 0 is none.
        spectral: divide the critic's weights by their largest singular values.
        clip: the largest size of the critic's weights; 0 is none.
        codes: of infogail.
        weight: of what infogail's code says of the steps.
        absorbing: let ended episodes go on in their last state, so that how long they are earns
            nothing by itself.
        discount: of time, for learners and for shares of time.
        evaluation: episodes that are looked at in the end.
        device: such as cpu or cuda.
        seed: of everything random.
        out: the folder of runs; runs that are there with the same options go on, for longer
            if there are more steps now.
    """

    world: str = "FourRooms"
    algorithm: tuple[str, ...] = ("gail",)
    demonstrations: Path | None = None
    by: str = ""
    episodes: int = 0
    observation: str = "onehot"
    start: tuple[int, int] | None = None
    goal: tuple[int, int] | None = None
    slip: float = 0.0
    max_steps: int = 0
    learner: str = "ppo"
    steps: int = 2400
    copies: int = 64
    rollout: int = 32
    cloning: int = 1000
    warm_start: bool = False
    game: str = "nonsaturating"
    reward: Literal["positive", "negative", "logit"] = "positive"
    penalty: float = 1.0
    spectral: bool = False
    clip: float = 0.0
    codes: int = 2
    weight: float = 0.25
    absorbing: bool = True
    discount: float = 0.97
    evaluation: int = 256
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/imitation")

    @property
    def recording(self) -> Recording:
        """Of the world, and of who acts in it."""
        names = ("world", "by", "observation", "start", "goal", "slip", "max_steps", "seed")
        return Recording(copies=self.copies, **{name: getattr(self, name) for name in names})

    def world_of(self, copies: int) -> World:
        return world_of(dataclasses.replace(self.recording, copies=copies), self.device)


class Score(NamedTuple):
    """How somebody did, in episodes that were looked at."""

    who: str
    seconds: float | None
    played: Demonstrations
    distance: float | None  # of occupancies
    paths: list[Tensor] | None
    routes: Tensor | None
    codes: Tensor | None


def checked(o: Options) -> Options:
    """The options, once it is sure that all of them can be."""
    for name in o.algorithm:
        check_name("algorithm", name, ALGORITHMS)
        if name in EXACT and o.world not in GRIDS:
            raise Refused(f"--algorithm {name} is for FourRooms and OpenWorld, not for {o.world}")
    if not o.algorithm or len(set(o.algorithm)) < len(o.algorithm):
        named = " ".join(o.algorithm) or "none at all"
        raise Refused(f"--algorithm must name each algorithm once, got {named}")
    check_name("learner", o.learner, LEARNERS)
    check_name("game", o.game, GAMES)
    if o.game == "wasserstein" and o.reward != "logit":
        raise Refused("--game wasserstein has no probabilities: it needs --reward logit")
    least = {"episodes": 0, "max_steps": 0, "steps": 1, "copies": 1, "rollout": 1, "cloning": 0}
    least |= {"codes": 2, "evaluation": 1, "seed": 0}
    check_numbers(*((n.replace("_", "-"), getattr(o, n), low) for n, low in least.items()))
    for name in ("penalty", "clip", "weight"):
        if not 0.0 <= getattr(o, name) < math.inf:
            raise Refused(f"--{name} must be at least 0 and finite, got {getattr(o, name)}")
    if not 0.0 <= o.discount < 1.0:
        raise Refused(f"--discount must be at least 0 and below 1, got {o.discount}")
    if not 0.0 <= o.slip <= 1.0:
        raise Refused(f"--slip must be a probability, got {o.slip}")
    check_device(o.device)
    check_folder(o.out)
    return with_expert(o)


def with_expert(o: Options) -> Options:
    """Whom to imitate, if that was left open, and from where."""
    if o.by == "keyboard":
        raise Refused("--by keyboard: record_demonstrations.py records by hand, for a file")
    if o.demonstrations is None and not o.by:
        if o.world not in GRIDS:
            raise Refused(f"--demonstrations or --by must say whom to imitate in {o.world}")
        modes = {"FourRooms": "routes", "OpenWorld": "first"}
        o = dataclasses.replace(o, by=modes[o.world] if "infogail" in o.algorithm else "shortest")
    if o.by in ("routes", "first") and o.start is None and o.world in GRIDS:
        o = dataclasses.replace(o, start=CORNERS[o.world])
    return o


def shown_by(o: Options, expert: Actor | None, world: World) -> Demonstrations:
    """Read from the file, or recorded in the world."""
    if o.demonstrations is None:
        assert expert is not None
        shown = record(world, expert, o.episodes or 16, seed=o.seed, progress=True)
        shown.save(o.out / "demonstrations.npz")
        return shown
    shown = Demonstrations.load(o.demonstrations)
    if o.episodes > len(shown):
        raise Refused(f"--episodes {o.episodes}: the file has no more than {len(shown)}")
    return (
        shown[: o.episodes or None].check(world.observation_space, world.action_space).to(o.device)
    )


def run_of(name: str, o: Options, shown: Demonstrations) -> Run:
    """The folder of one algorithm; it is of these demonstrations alone."""
    config = {**dataclasses.asdict(o), "algorithm": name, "demonstrations": digest(shown)}
    for free in ("out", "steps", "cloning", "evaluation"):  # a run may move, and go on for longer
        del config[free]
    if o.warm_start:
        config["cloning"] = o.cloning
    return Run(o.out / name, config)


def digest(shown: Demonstrations) -> str:
    made = hashlib.sha256()
    for one in shown:
        for part in (one.obs, one.action):
            made.update(part.cpu().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def imitate(o: Options, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    o = checked(o)
    there = o.world_of(min(8, o.copies))
    expert = actor_of(o.recording, there) if o.by else None
    shown = shown_by(o, expert, there)
    plans = []
    for name in o.algorithm:  # all are made before any begins
        imitator = ALGORITHMS[name](o, shown, o.world_of(o.copies))
        plans.append((name, imitator, run_of(name, o, shown)))
    source = f"by {o.by}" if o.demonstrations is None else f"of {o.demonstrations}"
    console.print(f"{o.world}: {len(shown)} demonstrations {source}, {shown.steps} steps")
    scores = scores_before(o, shown)
    for name, imitator, run in plans:
        console.print(f"Imitating with {name}: {what_follows(name, o)}")
        scores.append(score_of(name, o, imitator, timed(imitator, run), shown))
    picture = drawn(o, scores, [run for _, _, run in plans])
    console.print(table_of(scores, o))
    console.print(f"Picture: {picture}   Runs: {o.out}", soft_wrap=True)


def what_follows(name: str, o: Options) -> str:
    if name in EXACT:
        return "exactly"
    if name == "bc":
        return f"{o.cloning} gradient steps"
    ends = "go on in their last state" if o.absorbing else "are worth nothing from then on"
    return f"{o.steps} steps of {o.copies} copies; episodes that end {ends}"


def scores_before(o: Options, shown: Demonstrations) -> list[Score]:
    """Of the demonstrations, and of the expert where it can be asked for more."""
    world = o.world_of(min(64, o.evaluation))
    target = target_of(o, shown)
    distance = None
    if isinstance(world, TabularGrid) and o.by:
        found = measures.empirical_occupancy(shown, world, o.discount)
        distance = measures.total_variation(found, target) if target is not None else None
    scores = [seen("demonstrations", None, shown, distance, world)]
    if o.by:
        expert = actor_of(o.recording, world)
        played = record(world, expert, o.evaluation, seed=o.seed + HELD_OUT)
        exact = 0.0 if isinstance(expert, Expert) else None
        scores.insert(0, seen("expert", None, played, exact, world))
    return scores


def target_of(o: Options, shown: Demonstrations) -> Tensor | None:
    """The expert's shares of time: exact if it was planned, or else as its demonstrations say."""
    world = o.world_of(1)
    if not isinstance(world, TabularGrid):
        return None
    expert = actor_of(o.recording, world) if o.by else None
    if isinstance(expert, Expert):
        return expert.occupancy(o.discount)
    return measures.empirical_occupancy(shown, world, o.discount)


def score_of(
    name: str, o: Options, imitator: Imitator, seconds: float, shown: Demonstrations
) -> Score:
    world = o.world_of(min(64, o.evaluation))
    played = record(*imitator.acting_in(world), o.evaluation, seed=o.seed + HELD_OUT)
    distance, target = None, target_of(o, shown)
    if target is not None:
        cells = o.world_of(1)
        assert isinstance(cells, TabularGrid)
        every = o.world_of(cells.cells)
        assert isinstance(every, TabularGrid)
        policies, weights = imitator.policies(every)
        found = measures.occupancy(cells.mdp(), policies, discount=o.discount, weights=weights)
        distance = measures.total_variation(found, target)
    codes = None
    if imitator.codes > 1:
        first = torch.stack([one.obs[0] for one in played])
        codes = without_code(first, imitator.codes)[1].cpu()
    return seen(name, seconds, played, distance, world, codes)


def seen(
    who: str,
    seconds: float | None,
    played: Demonstrations,
    distance: float | None,
    world: World,
    codes: Tensor | None = None,
) -> Score:
    """A score, with paths and routes where there are any."""
    paths = routes = None
    if isinstance(world, TabularGrid):
        paths = [measures.cells(one.obs, world) for one in played]
        if world.start is not None:  # or there are no two ways to speak of
            routes = measures.routes(paths, world)
    return Score(who, seconds, played, distance, paths, routes, codes)


def mean_return(played: Demonstrations) -> tuple[float, float] | None:
    """With its standard error; None where rewards are not known."""
    if any(one.reward is None for one in played):
        return None
    returns = played.returns()
    error = float(returns.std()) / math.sqrt(len(returns)) if len(returns) > 1 else math.nan
    return float(returns.mean()), error


def table_of(scores: list[Score], o: Options) -> Table:
    table = Table(title=f"{o.world}, {o.learner}, {o.evaluation} episodes of each")
    coded = any(score.codes is not None for score in scores)
    routed = any(score.routes is not None for score in scores)
    exact = any(score.distance is not None for score in scores)
    names = ["", "seconds", "return", "length"]
    names += ["TV" if o.by else "TV to demonstrations"] if exact else []
    names += ["route 0", "route 1"] if routed else []
    names += ["purity", "information"] if routed and coded else []
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for score in scores:
        mean = mean_return(score.played)
        row = [score.who, "-" if score.seconds is None else f"{score.seconds:.1f}"]
        row += ["-" if mean is None else f"{mean[0]:.3f} +- {mean[1]:.3f}"]
        row += [f"{score.played.steps / len(score.played):.1f}"]
        row += ["-" if score.distance is None else f"{score.distance:.3f}"] if exact else []
        if score.routes is not None:
            row += [f"{float((score.routes == way).double().mean()):.0%}" for way in (0, 1)]
            if score.codes is not None:
                row += [f"{measures.purity(score.codes, score.routes):.3f}"]
                row += [f"{measures.information(score.codes, score.routes):.3f} nats"]
        table.add_row(*row, *["-"] * (len(names) - len(row)))
    return table


def drawn(o: Options, scores: list[Score], runs: list[Run]) -> Path:
    """Paths over the map, or where there is none, returns over steps."""
    world = o.world_of(1)
    if isinstance(world, TabularGrid):
        panels = []
        for score in scores:
            groups, what = score.routes, "route"
            if score.codes is not None:
                groups, what = score.codes, "code"
            assert score.paths is not None
            numbers = [0] * len(score.paths) if groups is None else groups.tolist()
            panels.append(Panel(score.who, score.paths, numbers, "" if groups is None else what))
        draw_paths(panels, world, o.out / "paths.png")
        return o.out / "paths.png"
    curves = []
    means = {score.who: mean_return(score.played) for score in scores}
    for run, name in zip(runs, o.algorithm, strict=True):
        lines = [line for line in run.metrics() if "episode/return" in line]
        returns = [float(line["episode/return"]) for line in lines]
        end = means[name]
        assert end is not None
        curves.append(Curve(name, [line["step"] for line in lines], returns, end[0]))
    expert = means.get("expert") or means["demonstrations"]
    draw_curves(curves, expert and expert[0], o.world, o.out / "returns.png")
    return o.out / "returns.png"


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then imitate."""
    answered("train_imitation.py", Options, arguments, imitate)


if __name__ == "__main__":
    main()

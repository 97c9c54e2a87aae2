"""The imitators of `train_imitation.py`: how each is made, trained and looked at."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlgen.agents import PPO, TRPO, ActorCritic, Policy, RewardModel
from rlgen.agents.flat_world import flattened
from rlgen.agents.imitation import (
    AIRL,
    BC,
    GAIL,
    Apprenticeship,
    Coded,
    Demonstrations,
    Expert,
    InfoGAIL,
    MaxEntIRL,
)
from rlgen.agents.imitation.recording import Actor
from rlgen.agents.learners.learner import Learner
from rlgen.agents.progress import live_line
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import World
from rlgen.generative import Minimax, NonSaturating, Wasserstein
from rlgen.generative.adversarial.games import Game
from rlgen.runs import Run
from rlgen.seeding import drawing_from, mix

if TYPE_CHECKING:
    from train_imitation import Options

GAMES: dict[str, Callable[[], Game]] = {
    "nonsaturating": NonSaturating,
    "minimax": Minimax,
    "wasserstein": Wasserstein,
}
LEARNERS = ("ppo", "trpo")


class Imitator(ABC):
    """One way to imitate.

    Args:
        o: what was asked for.
        shown: of the expert.
        world: to learn in.
    """

    codes = 1  # how many ways of acting it has

    def __init__(self, o: Options, shown: Demonstrations, world: World) -> None:
        self.o, self.shown, self.world = o, shown, world

    @abstractmethod
    def train(self, run: Run) -> None:
        """Learn, or go on, with everything kept in the run's folder."""

    @abstractmethod
    def acting_in(self, world: World) -> tuple[World, Actor]:
        """The world as it sees it, and who acts there."""

    @abstractmethod
    def policies(self, world: TabularGrid) -> tuple[Tensor, Tensor]:
        """pi(a|s) of each of its ways (ways, S, A), and their probabilities."""


class Cloner(Imitator):
    """A policy fitted to what was shown."""

    def __init__(self, o: Options, shown: Demonstrations, world: World) -> None:
        super().__init__(o, shown, world)
        self.bc = BC(shown, world.observation_space, world.action_space, seed=o.seed)
        self.bc.policy.to(world.device)

    def train(self, run: Run) -> None:
        goal, trainer = self.o.cloning, self.bc.trainer
        done, every = run.resume(trainer), max(1, goal // 20)
        t = self.shown.transitions()
        with live_line(goal, True) as show:
            while done < goal:
                count = min(every, goal - done)
                self.bc.learn(count, progress=False)
                done += count
                with torch.no_grad():
                    likely = float(self.bc.policy.log_prob(t.action, t.obs).mean())
                show(done, {"log_prob": likely})
                run.log(done, {"log_prob": likely})
                run.save(done, trainer)

    def acting_in(self, world: World) -> tuple[World, Actor]:
        return world, self.bc.policy

    def policies(self, world: TabularGrid) -> tuple[Tensor, Tensor]:
        return table_of(self.bc.policy, all_cells(world))[None], torch.ones(1)


class Adversary(Imitator):
    """A learner that a critic pays; see `rlgen.agents.imitation`."""

    def __init__(self, o: Options, shown: Demonstrations, world: World, kind: str) -> None:
        super().__init__(o, shown, world)
        self.codes = o.codes if kind == "infogail" else 1
        self.seen = Coded(world, o.codes, seed=o.seed) if kind == "infogail" else flattened(world)
        with drawing_from(mix(o.seed, 1)):
            policy = Policy.of(self.seen.observation_space, world.action_space)
            self.model = ActorCritic(policy, streams=2).to(world.device)
        self.learner = self.learner_of(self.reward_of(kind))

    def reward_of(self, kind: str) -> RewardModel:
        o, device = self.o, self.world.device
        spaces = self.world.observation_space, self.world.action_space
        common: dict[str, Any] = {"seed": o.seed, "discount": o.discount, "absorbing": o.absorbing}
        if kind == "airl":
            log_prob = self.model.policy.log_prob
            return AIRL(self.shown, *spaces, log_prob=log_prob, **common).to(device)
        gail = GAIL(
            self.shown,
            *spaces,
            game=GAMES[o.game](),
            reward=o.reward,
            penalty=o.penalty,
            spectral=o.spectral,
            clip=o.clip if o.clip > 0.0 else None,
            **common,
        )
        if kind == "gail":
            return gail.to(device)
        return InfoGAIL(gail, codes=o.codes, weight=o.weight, seed=o.seed).to(device)

    def learner_of(self, reward: RewardModel) -> Learner:
        o = self.o
        common: dict[str, Any] = {
            "model": self.model,
            "reward_models": {"imitation": reward},
            "world_weight": 0.0,
            "discount": o.discount,
            "steps": o.rollout,
            "seed": o.seed,
        }
        if o.learner == "trpo":
            return TRPO(self.seen, **common)
        # about four minibatches to an epoch
        return PPO(self.seen, minibatch=max(64, o.rollout * o.copies // 4), **common)

    def train(self, run: Run) -> None:
        if self.o.warm_start and not (run.folder / "checkpoint" / "config.json").exists():
            self.clone()
        self.learner.learn(self.o.steps * self.o.copies, run=run)

    def clone(self) -> None:
        """Begin as a clone; whoever has codes begins alike for all of them."""
        shown = self.shown
        if isinstance(self.seen, Coded):
            shown = with_codes(shown, self.seen, self.o.seed)
        spaces = self.seen.observation_space, self.seen.action_space
        BC(shown, *spaces, policy=self.model.policy, seed=self.o.seed).learn(self.o.cloning)

    def acting_in(self, world: World) -> tuple[World, Actor]:
        seen = world if self.codes == 1 else Coded(world, self.codes, seed=self.o.seed)
        return seen, self.model.policy

    def policies(self, world: TabularGrid) -> tuple[Tensor, Tensor]:
        obs = all_cells(world)
        if isinstance(self.seen, Coded):
            codes = torch.arange(self.codes, device=obs.device)
            told = [self.seen.beside(obs, code.expand(len(obs))) for code in codes]
        else:
            told = [obs]
        tables = torch.stack([table_of(self.model.policy, one) for one in told])
        return tables, torch.full((len(tables),), 1.0 / len(tables))


class Planner(Imitator):
    """Exact imitation in a world of cells; it takes seconds and is made anew each time."""

    def __init__(self, o: Options, shown: Demonstrations, world: World, kind: str) -> None:
        super().__init__(o, shown, world)
        assert isinstance(world, TabularGrid)
        shown.check(world.observation_space, world.action_space)
        self.found: Expert | None = None
        self.inner: MaxEntIRL | Apprenticeship
        make = MaxEntIRL if kind == "maxent" else Apprenticeship
        self.inner = make(shown, world, discount=o.discount)

    def train(self, run: Run) -> None:
        del run
        if isinstance(self.inner, MaxEntIRL):
            self.found = Expert(self.inner.world, self.inner.fit().policy())
        else:
            self.found = self.inner.fit().mixture()

    def acting_in(self, world: World) -> tuple[World, Actor]:
        assert isinstance(world, TabularGrid)
        return world, Expert(world, *self.policies(world))

    def policies(self, world: TabularGrid) -> tuple[Tensor, Tensor]:
        assert self.found is not None
        return self.found.policies, self.found.weights


ALGORITHMS: dict[str, Callable[[Options, Demonstrations, World], Imitator]] = {
    "bc": Cloner,
    "gail": lambda o, shown, world: Adversary(o, shown, world, "gail"),
    "airl": lambda o, shown, world: Adversary(o, shown, world, "airl"),
    "infogail": lambda o, shown, world: Adversary(o, shown, world, "infogail"),
    "maxent": lambda o, shown, world: Planner(o, shown, world, "maxent"),
    "apprenticeship": lambda o, shown, world: Planner(o, shown, world, "apprenticeship"),
}
EXACT = ("maxent", "apprenticeship")


def timed(imitator: Imitator, run: Run) -> float:
    """Train; the seconds that it took, those before it was stopped included."""
    clock = run.folder / "seconds.txt"
    before = float(clock.read_text()) if clock.exists() else 0.0
    done = len(run.metrics())
    start = time.perf_counter()
    imitator.train(run)
    if not clock.exists() or len(run.metrics()) > done:
        before += time.perf_counter() - start
        clock.write_text(str(before))
    return before


def all_cells(world: TabularGrid) -> Tensor:
    """What is seen in each cell of a world with as many copies as cells."""
    world.reset(0)
    numbers = torch.arange(world.cells, device=world.device)
    world.load_state_dict({**world.state_dict(), "cell": numbers})
    return world.observe()


@torch.no_grad()
def table_of(policy: Policy, obs: Tensor) -> Tensor:
    """pi(a|s) for each of four actions, with shape (S, 4)."""
    actions = torch.arange(4, device=obs.device)
    likely = [policy.log_prob(action.expand(len(obs)), obs) for action in actions]
    return torch.stack(likely, dim=1).double().softmax(1).cpu()


def with_codes(shown: Demonstrations, coded: Coded, seed: int) -> Demonstrations:
    """Demonstrations as one would see them who was told any code."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(coded.codes, (len(shown),), generator=generator)
    made = []
    for one, code in zip(shown, codes.to(coded.device), strict=True):
        obs = coded.beside(one.obs, code.expand(len(one.obs)))
        made.append(dataclasses.replace(one, obs=obs))
    return Demonstrations(tuple(made))

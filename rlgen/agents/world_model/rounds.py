"""Iterated collection: gather episodes, learn the world from all of them, learn to act in dreams.

A round's numbers depend only on the seed and on the rounds before it, so what was saved after one
goes on as if it had never stopped.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.imitation.recording import Actor
from rlgen.agents.learners.ppo import PPO
from rlgen.agents.world_model.controller import Controller, evolve
from rlgen.agents.world_model.dream import Dream
from rlgen.agents.world_model.model import Progress, WorldModel
from rlgen.agents.world_model.planner import Planner
from rlgen.agents.world_model.watching import features_space
from rlgen.checkpoint import Stateful, load_module_state
from rlgen.envs.world import World
from rlgen.seeding import mix


class Dreamer(Protocol):
    """A way to come to an agent by a model alone."""

    def begin(self, model: WorldModel, seed: int) -> Any:
        """An agent that has learnt nothing yet."""

    def learn(self, model: WorldModel, agent: Any, seed: int, progress: bool) -> dict[str, float]:
        """Let it learn in dreams, and say how that went."""

    def pilot(self, model: WorldModel, agent: Any, seed: int) -> Actor:
        """It, acting on the real world's observations."""


@dataclass(frozen=True)
class ByPPO:
    """PPO in a dream.

    Attributes:
        steps: dreamed, over all copies.
        copies: of the dream.
        temperature: of the dream.
        max_steps: when a dreamed episode is truncated.
        learner: arguments of `PPO`.
    """

    steps: int = 2**16
    copies: int = 64
    temperature: float = 1.0
    max_steps: int = 100
    learner: dict[str, Any] = field(
        default_factory=lambda: {"steps": 16, "minibatch": 256, "entropy_weight": 0.01}
    )

    def begin(self, model: WorldModel, seed: int) -> PPO:
        dream = model.dream(
            self.copies, temperature=self.temperature, max_steps=self.max_steps, seed=seed
        )
        return PPO(dream, seed=seed, **self.learner)

    def learn(self, model: WorldModel, agent: PPO, seed: int, progress: bool) -> dict[str, float]:
        del model, seed
        last: dict[str, float] = {}
        agent.learn(self.steps, progress=progress, callback=lambda _, m: last.update(m))
        return {f"learner/{name}": value for name, value in last.items()}

    def pilot(self, model: WorldModel, agent: PPO, seed: int) -> Actor:
        del seed
        return model.pilot(agent)


@dataclass(frozen=True)
class ByEvolution:
    """The paper's linear controller, evolved in a dream; its episodes begin as the world's do.

    Attributes:
        generations: of the search.
        population: candidates in a generation.
        rollouts: of each candidate.
        temperature: of the dream.
        max_steps: when a dreamed episode is truncated.
        discount: of rewards.
    """

    generations: int = 50
    population: int = 64
    rollouts: int = 16
    temperature: float = 1.0
    max_steps: int = 100
    discount: float = 0.97

    def begin(self, model: WorldModel, seed: int) -> Controller:
        del seed
        (size,) = features_space(model.vision, model.memory, model.remembering).shape
        return Controller(size, actions=model.memory.actions).to(model.vision.mean.device)

    def learn(
        self, model: WorldModel, agent: Controller, seed: int, progress: bool
    ) -> dict[str, float]:
        found = evolve(
            agent,
            self._dream(model, seed),
            population=self.population,
            generations=self.generations,
            discount=self.discount,
            seed=seed,
            progress=progress,
        )
        return {f"search/{name}": getattr(found, name) for name in ("fitness", "mean_fitness")}

    def pilot(self, model: WorldModel, agent: Controller, seed: int) -> Actor:
        del seed
        return model.pilot(agent)

    def _dream(self, model: WorldModel, seed: int) -> Dream:
        return model.dream(
            self.population * self.rollouts,
            temperature=self.temperature,
            resets=True,
            max_steps=self.max_steps,
            groups=self.population,
            seed=seed,
        )


@dataclass(frozen=True)
class ByPlanning:
    """Nothing is learnt but the model: each action comes out of a search in it.

    Attributes:
        temperature: of what the plans are judged by.
        planner: arguments of `Planner`.
    """

    temperature: float = 1.0
    planner: dict[str, Any] = field(default_factory=dict)

    def begin(self, model: WorldModel, seed: int) -> Planner:
        memory = model.memory.at_temperature(self.temperature)
        return Planner(model.vision, memory, seed=seed, **self.planner)

    def learn(
        self, model: WorldModel, agent: Planner, seed: int, progress: bool
    ) -> dict[str, float]:
        del model, agent, seed, progress
        return {}

    def pilot(self, model: WorldModel, agent: Planner, seed: int) -> Actor:
        del agent  # which has drawn plans already
        return self.begin(model, seed)


class Rounds:
    """Collect, fit, dream; and again, with the agent that came of it.

    The first round's episodes are of chance. V and M go on from where they are and learn from all
    episodes so far; the agent of each round is a new one.

    Args:
        model: V and M.
        world: the real one, with a `seed` of its own for every round.
        dreamer: `ByPPO`, `ByEvolution`, `ByPlanning`, or another way to come to an agent.
        episodes: of each round.
        fitting: arguments of `WorldModel.fit`.
        seed: of everything random.

    Attributes:
        agent: of the last round; None before the first one.
        round: how many there have been.

    Example:
        >>> from rlgen.agents.world_model import WorldModel
        >>> from rlgen.agents.world_model.rounds import ByPPO, Rounds
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(16, size=4, max_steps=20)
        >>> model = WorldModel.of(world, symbols=16, width=16)
        >>> short = {"vision_steps": 5, "memory_steps": 5}
        >>> rounds = Rounds(model, world, ByPPO(steps=64), episodes=16, fitting=short)
        >>> for _ in range(2):
        ...     metrics = rounds.iterate()
        >>> rounds.round, len(model.data)
        (2, 32)
    """

    def __init__(
        self,
        model: WorldModel,
        world: World,
        dreamer: Dreamer,
        *,
        episodes: int = 100,
        fitting: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"'episodes' must be positive, got {episodes}")
        self.model, self.world, self.dreamer = model, world, dreamer
        self.episodes, self.fitting, self.seed = episodes, fitting or {}, seed
        self.agent: Any = None
        self.round = 0

    @property
    def steps(self) -> int:
        """Of the real world, so far."""
        return 0 if self.model.data is None else self.model.data.steps

    def pilot(self) -> Actor | None:
        """The last round's agent on the world's own observations; None before the first one."""
        if self.agent is None:
            return None
        return self.dreamer.pilot(self.model, self.agent, self._seed())

    def iterate(
        self, *, progress: bool = False, callback: Progress | None = None
    ) -> dict[str, float]:
        """One round.

        Args:
            progress: show live lines on a terminal.
            callback: of `WorldModel.fit`.

        Returns:
            "steps" of the real world so far, the last losses of "V" and "M" in nats, and what the
            dreamer says.
        """
        actor, seed = self.pilot(), self._seed()
        self.model.collect(self.world, self.episodes, actor, seed=seed, progress=progress)
        shown = None if progress else False  # None: where there is a terminal
        losses = self.model.fit(seed=seed, callback=callback, progress=shown, **self.fitting)
        self.agent = self.dreamer.begin(self.model, seed)
        told = self.dreamer.learn(self.model, self.agent, seed, progress)
        self.round += 1
        last = {part: sum(nats[-50:]) / len(nats[-50:]) for part, nats in losses.items() if nats}
        return {"steps": float(self.steps), **last, **told}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rounds to come."""
        agent = self.agent.state_dict() if isinstance(self.agent, Stateful) else None
        data = None if self.model.data is None else _packed(self.model.data)
        return {
            "round": self.round,
            "model": dict(self.model.state_dict()),
            "data": data,
            "agent": None if agent is None else dict(agent),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in rounds made with the same arguments."""
        load_module_state(self.model, state["model"])
        data = state["data"]
        self.model.data = None if data is None else _unpacked(data, self.world.device)
        self.round, self.agent = state["round"], None
        if self.round:
            self.agent = self.dreamer.begin(self.model, self._seed(self.round - 1))
            if isinstance(self.agent, Stateful):
                self.agent.load_state_dict(state["agent"])

    def _seed(self, number: int | None = None) -> int:
        """Of a round, by default of the one that comes next."""
        return mix(self.seed, 8, self.round if number is None else number) % 2**31


def _packed(data: Demonstrations) -> dict[str, Any]:
    """Episodes as a few tensors."""
    flags = [[one.terminated, one.truncated] for one in data]
    parts = {name: [getattr(one, name) for one in data] for name in ("obs", "action", "reward")}
    packed = {name: torch.cat(part) for name, part in parts.items()}
    return {
        **packed,
        "flags": torch.tensor(flags),
        "lengths": torch.tensor([len(one) for one in data]),
    }


def _unpacked(packed: dict[str, Any], device: torch.device) -> Demonstrations:
    lengths = packed["lengths"].tolist()
    obs = packed["obs"].to(device).split([length + 1 for length in lengths])
    action, reward = (packed[name].to(device).split(lengths) for name in ("action", "reward"))
    flags = packed["flags"].tolist()
    return Demonstrations(
        tuple(
            Trajectory(seen, done, ended[0], ended[1], paid)
            for seen, done, paid, ended in zip(obs, action, reward, flags, strict=True)
        )
    )

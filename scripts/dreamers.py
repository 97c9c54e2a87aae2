"""What `train_world_model.py` is made of: its worlds, its ways to an agent, and their judges."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from minigrid_optimum import optimal_return
from options import Refused, check_name
from torch import Tensor
from train_explorer import MINIGRID

from rlgen.agents import planning
from rlgen.agents.imitation import Demonstrations, record
from rlgen.agents.imitation.recording import Actor
from rlgen.agents.world_model import GRU, Attention, Dream, Planner, WorldModel, measures
from rlgen.agents.world_model.measures import Walks
from rlgen.agents.world_model.recurrence import Recurrence
from rlgen.agents.world_model.rounds import ByEvolution, ByPlanning, ByPPO, Dreamer, Rounds
from rlgen.envs import FourRooms, MiniGrid, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import TensorWorld
from rlgen.seeding import drawing_from, mix

if TYPE_CHECKING:
    from train_world_model import Options

GRIDS = ("FourRooms", "OpenWorld")
HELD_OUT = 2**20  # added to the seed for the episodes that are looked at
NOTHING = 0.05  # M's rewards are means and never quite 0; the least success pays 0.1
SEARCHED = ("Empty", "FourRooms", "DoorKey", "MultiRoom", "SimpleCrossing")


def world_of(o: Options, copies: int) -> TensorWorld[Any]:
    """The real world."""
    check_name("world", o.world, (*GRIDS, *MINIGRID), "FourRooms, OpenWorld, or a MiniGrid id")
    steps: dict[str, Any] = {"max_steps": o.max_steps} if o.max_steps else {}
    common = {"seed": o.seed, "device": o.device, **steps}
    if o.world not in GRIDS:
        plain = {"observation": "image", "start": None, "goal": None, "slip": 0.0}
        for name, default in plain.items():
            if getattr(o, name) != default:
                raise Refused(f"--{name} is for FourRooms and OpenWorld, not for {o.world}")
        return MiniGrid(o.world, copies, **common)
    common |= {"start": o.start, "goal": o.goal, "slip": o.slip, "observation": o.observation}
    if o.world == "FourRooms":
        return FourRooms(copies, **common)
    return OpenWorld(copies, size=o.size, **common)


RECURRENCES: dict[str, Callable[[int], Recurrence]] = {
    "gru": GRU,
    "attention": lambda width: Attention(width, window=16),
}


def model_of(o: Options, world: TensorWorld[Any]) -> WorldModel:
    """V and M, new."""
    with drawing_from(mix(o.seed, 1)):
        return WorldModel.of(
            world,
            latent="tokens" if o.latent == "tokens" else "numbers",
            symbols=o.symbols,
            positions=o.positions,
            width=o.width,
            recurrence=RECURRENCES[o.recurrence](o.width),
            remembering=o.remembering,
        )


def by_ppo(o: Options, max_steps: int) -> Dreamer:
    return ByPPO(o.steps, copies=o.copies, temperature=o.temperature, max_steps=max_steps)


def by_evolution(o: Options, max_steps: int) -> Dreamer:
    return ByEvolution(o.generations, temperature=o.temperature, max_steps=max_steps)


def by_planning(o: Options, max_steps: int) -> Dreamer:
    del max_steps
    return ByPlanning(o.temperature, {"horizon": o.horizon})


CONTROLLERS: dict[str, Callable[[Options, int], Dreamer]] = {
    "ppo": by_ppo,
    "cma": by_evolution,
    "planner": by_planning,
}


def rounds_of(o: Options) -> Rounds:
    """All that a run keeps, at its beginning."""
    world = world_of(o, min(64, o.episodes))
    return Rounds(
        model_of(o, world),
        world,
        CONTROLLERS[o.controller](o, world.max_steps),
        episodes=o.episodes,
        fitting={
            "vision_steps": o.vision_steps,
            "memory_steps": o.memory_steps,
            "window": o.window,
        },
        seed=o.seed,
    )


class Judged(NamedTuple):
    """How whole episodes went.

    Attributes:
        success: the share of them with a return; of dreams, those that ended with a reward.
        earned: the mean return.
        length: the mean of their steps.
        false_goals: of the dream's ends, the share away from the goal; None where there is no map.
        illegal: of the dream's steps, the share that no step of the world can be; likewise.
    """

    success: float
    earned: float
    length: float
    false_goals: float | None = None
    illegal: float | None = None

    @classmethod
    def of(cls, played: Demonstrations) -> Judged:
        returns = played.returns()
        success = float((returns > 0).double().mean())
        return cls(success, float(returns.mean()), played.steps / len(played))

    def metrics(self, who: str) -> dict[str, float]:
        """Those that are known, as a run logs them."""
        named = {f"{who}/{name}": value for name, value in self._asdict().items()}
        return {name: value for name, value in named.items() if value is not None}

    @classmethod
    def from_metrics(cls, who: str, metrics: dict[str, Any]) -> Judged:
        return cls(*(metrics.get(f"{who}/{name}") for name in cls._fields))  # type: ignore[arg-type]


def really(o: Options, actor: Actor | None, episodes: int) -> Demonstrations:
    """Episodes of the real world, from seeds that learning never has; None acts by chance.

    PPO's actions are drawn as it learnt them: now and then its mode goes round in circles.
    """
    world = world_of(o, min(64, episodes))
    count = int(world.action_space.n)
    chance = lambda obs: torch.randint(count, (len(obs),), device=world.device)  # noqa: E731
    seed = o.seed + HELD_OUT
    sure = o.controller != "ppo"
    return record(world, actor or chance, episodes, deterministic=sure, seed=seed)


@torch.no_grad()
def dreamily(o: Options, rounds: Rounds, real: Demonstrations) -> Judged:
    """The same agent in dreams that begin where these real episodes did."""
    world, model = world_of(o, 1), rounds.model
    dream = model.dream(
        o.evaluation,
        temperature=o.temperature,
        obs=torch.stack([episode.obs[0] for episode in real]),
        max_steps=world.max_steps,
        seed=o.seed + HELD_OUT,
    )
    with drawing_from(mix(o.seed, 9)):
        z, action, reward, ended, alive = played_out(dream, rounds.agent, o.controller != "ppo")
    total, length = (reward * alive).sum(0), alive.sum(0).double()
    won = (ended & alive & (reward > NOTHING)).any(0)
    judged = Judged(float(won.double().mean()), float(total.mean()), float(length.mean()))
    if not isinstance(world, TabularGrid):
        return judged
    cells = torch.stack([cells_of(dream.vision.decode(now), world) for now in z])
    walks, mdp = Walks(cells, action.cpu(), ended.cpu()), world.mdp()
    goals = measures.goals(walks, mdp)
    ends, false = int(goals["ends"].sum()), int(goals["false"].sum())
    impossible, counted = measures.impossible(walks, mdp)
    share = float(impossible.sum() / counted.sum())
    return judged._replace(false_goals=false / ends if ends else None, illegal=share)


@torch.no_grad()
def played_out(dream: Dream, agent: Any, sure: bool) -> tuple[Tensor, ...]:
    """One episode in each copy: z (T + 1, B, n), and actions, rewards, ends and who still goes."""
    state = None
    dream.reset()
    done = torch.zeros(dream.num_envs, dtype=torch.bool, device=dream.device)
    first, latents, rows = ~done, [dream.state.z], []
    while not bool(done.all()):
        # who plans sees what the world would show, and who learnt sees features
        obs = dream.frames() if isinstance(agent, Planner) else dream.observe()
        action, state = agent.act(obs, state, first, deterministic=sure)
        reward, terminated, truncated = dream.advance(action, frozen=done)
        rows.append((action, reward, terminated, ~done))
        latents.append(dream.state.z)
        done, first = done | terminated | truncated, torch.zeros_like(done)
    return torch.stack(latents), *(torch.stack(row) for row in zip(*rows, strict=True))


def cells_of(frames: Tensor, world: TabularGrid) -> Tensor:
    """The cell whose picture is nearest to each frame, on the CPU."""
    seen = measures.pictures(world).cpu().float().flatten(1)
    return torch.cdist(frames.cpu().float().flatten(1), seen).argmin(1)


def optimum(o: Options) -> Judged | None:
    """The best that can be, where that is known: exactly on a map, by a search in some others."""
    world = world_of(o, 1)
    if isinstance(world, TabularGrid):
        mdp = world.mdp()
        each = mdp._replace(reward=-(~mdp.terminal).double()[:, None].expand(-1, 4))
        steps = planning.value_iteration(each, discount=1.0 - 1e-6, tolerance=1e-4).value
        return Judged(1.0, 1.0, -float(steps @ mdp.start))
    known = o.world.removeprefix("MiniGrid-").startswith(SEARCHED)
    if not known or o.max_steps or importlib.util.find_spec("minigrid") is None:
        return None
    return Judged(1.0, optimal_return(o.world), float("nan"))

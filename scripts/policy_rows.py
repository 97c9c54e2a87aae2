"""Distributions over policies to compare: VFunc, and what else could be one, at the same cost."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rlgen.agents import PPO, Policy, VFunc
from rlgen.agents import policy_measures as pm
from rlgen.agents.anneal import Anneal
from rlgen.agents.exploration import TableCounts
from rlgen.agents.reward_model import Stream
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.grid import Cell
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from, mix

Draw = Callable[[int, int], Tensor]  # so many policies by a seed -> their table (n, S, A)
Where = Callable[..., TabularGrid]
SCALES = (3.2, 1.6, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)  # of noise on parameters, large first
WEIGHTS = (0.01, 0.05, 0.2)  # of an action's entropy
SUCCESS = 0.95  # less than this, and variety does not count


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A world, and how a distribution over policies is learnt there.

    Args:
        world: copies, seed, device -> the world.
        copies: of it, in training.
        total: steps of training, over all copies.
        settings: of PPO.
        entropy_weight: of the bound.
        noise: on what policies do, where they are compared.
        action_entropy: PPO's weight of the action's entropy, where it changes.
        closed: cells that are closed one by one after training.
        members: of an ensemble, so many that each still learns with its share of the steps.
        novelty: weight of a bonus for cells by how seldom anybody was there; for all rows alike.
        points: at which policies are compared.
        candidates: z at each gradient step.
        device: where policies with a z learn.
    """

    world: Where
    copies: int
    total: int
    settings: dict[str, Any]
    entropy_weight: float
    noise: float | Anneal
    action_entropy: Anneal | None
    closed: Sequence[Cell]
    members: int = 64
    novelty: float = 0.0
    points: int = 16
    candidates: int = 128
    device: str = "cpu"


def open_world(size: int, limit: int) -> Where:
    def made(copies: int, seed: int, device: str = "cpu") -> TabularGrid:
        form: dict[str, Any] = {"size": size, "start": (0, 0), "max_steps": limit}
        return OpenWorld(copies, **form, seed=seed, device=device)

    return made


def four_rooms(observation: Literal["onehot", "xy"]) -> Where:
    def made(copies: int, seed: int, device: str = "cpu") -> TabularGrid:
        form: dict[str, Any] = {"start": (1, 1), "observation": observation}
        return FourRooms(copies, **form, seed=seed, device=device)

    return made


FORMS_TOTAL = 300_000  # steps, as some are slow
# other ways to ask how much policies differ; what has to be learnt whole says too little with the
# weight of what is exact
FORMED: dict[str, Any] = {"points": 16, "candidates": 128, "noise": 0.4}
FORMS: dict[str, dict[str, Any]] = {
    "difference": {"bound": "maxent", "encoder": "difference", "entropy_weight": 0.05, **FORMED},
    "similarity": {"encoder": "similarity", "entropy_weight": 0.3, **FORMED},
    "direct": {"encoder": "direct", "entropy_weight": 0.3, **FORMED},
}
STILL = {"steps": 16, "entropy_weight": 0.0}
RECIPES = {
    "open5": Recipe(
        open_world(5, 50), 128, 800_000, {**STILL, "discount": 0.95, "lr": 5e-3},
        0.1, 0.5, None, ((2, 2), (1, 3), (3, 0)), points=32, candidates=512,
    ),
    "open8": Recipe(
        open_world(8, 100), 128, 1_000_000, {**STILL, "discount": 0.95, "lr": 3e-3},
        0.1, 0.5, None, ((3, 3), (4, 4), (1, 5)), points=32, candidates=512,
    ),
    "rooms": Recipe(
        four_rooms("onehot"), 512, 1_800_000,
        {**STILL, "discount": 0.97, "lr": 3e-3, "minibatch": 8192},
        0.07, Anneal(2.0, 0.5, steps=800_000, geometric=True),
        Anneal(0.2, 0.0, steps=720_000), ((3, 6), (6, 2)), 32, 0.3,
    ),
}  # fmt: skip

# rows that one world alone has, and what is another there than in its recipe
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    **{form: ("open5", {"total": FORMS_TOTAL}) for form in FORMS},
    "bare": ("rooms", {"novelty": 0.0}),
    "xy": ("rooms", {"world": four_rooms("xy")}),
}


def vfunc(recipe: Recipe, seed: int, **changes: Any) -> VFunc:
    """The agent of a recipe, trained."""
    return untrained(recipe, seed, **changes).learn(recipe.total, progress=False)


def untrained(recipe: Recipe, seed: int, **changes: Any) -> VFunc:
    """The agent of a recipe; `changes` are of VFunc's arguments."""
    names = ("settings", "entropy_weight", "noise", "action_entropy", "points", "candidates")
    arguments = {**{name: getattr(recipe, name) for name in names}, **changes}
    world = recipe.world(recipe.copies, seed, recipe.device)
    return VFunc(world, reward_models=novelty(recipe), seed=seed, **arguments)


def novelty(recipe: Recipe) -> dict[str, Stream]:
    """The recipe's bonus, if it has one; new, for it counts."""
    if not recipe.novelty:
        return {}
    return {"novelty": Stream(TableCounts(), recipe.novelty, episodic=False)}


def falls(recipe: Recipe) -> bool:
    """Whether anything changes along training, so that its end has to be known at the beginning."""
    return isinstance(recipe.noise, Anneal) or recipe.action_entropy is not None


def lasting(recipe: Recipe, total: int) -> Recipe:
    """The same in `total` steps; what falls along training falls as much faster or slower."""

    def scaled(setting: Any) -> Any:
        if not isinstance(setting, Anneal):
            return setting
        steps = max(1, round(setting.steps * total / recipe.total))
        return Anneal(setting.start, setting.end, steps=steps, geometric=setting.geometric)

    noise, entropy = scaled(recipe.noise), scaled(recipe.action_entropy)
    return dataclasses.replace(recipe, total=total, noise=noise, action_entropy=entropy)


def action_entropy(recipe: Recipe, seed: int) -> tuple[VFunc, float]:
    """VFunc's network without its bound, each step's own entropy instead; and its weight.

    Of all weights, the one with the most shortest paths among those that leave it fit for the task;
    where none does, the most successful one.
    """
    one, found = recipe.world(1, seed), []
    for weight in WEIGHTS:
        settings = {**recipe.settings, "entropy_weight": weight}
        agent = vfunc(recipe, seed, entropy_weight=0.0, settings=settings, action_entropy=None)
        walks = pm.greedy(one, drawing(agent, one)(500, 3))
        success = float(walks.reached.double().mean())
        fit = pm.distinct_shortest(one, walks) if success >= SUCCESS else 0
        found.append((fit, success, weight, agent))
    *_, weight, agent = max(found, key=lambda each: each[:3])
    return agent, weight


def drawing(agent: VFunc, world: TabularGrid) -> Draw:
    return lambda n, seed: agent.sample_policies(n, generator=seed).table(world)


def ensemble(recipe: Recipe, seed: int) -> Draw:
    """Independent policies, that share the recipe's steps evenly."""
    one, tables = recipe.world(1, seed), []
    copies = max(16, recipe.copies // 16)
    for member in range(recipe.members):
        agent = plain(recipe, mix(seed, member), copies, recipe.total // recipe.members)
        tables.append(table_of(agent.model.policy, one))
    every = torch.stack(tables)

    def draw(n: int, seed: int) -> Tensor:
        with drawing_from(seed):
            return every[torch.randint(recipe.members, (n,))]

    return draw


def parameter_noise(recipe: Recipe, seed: int) -> tuple[Draw, float]:
    """One policy with noise on its parameters, as much as leaves it fit; and how much that is.

    Where none of the scales does, it is the smallest.
    """
    one = recipe.world(1, seed)
    policy = plain(recipe, seed, recipe.copies, recipe.total).model.policy

    def noisy(scale: float) -> Draw:
        return lambda n, seed: noisy_tables(policy, one, scale, n, seed)

    for scale in SCALES:
        if pm.variety(one, noisy(scale)(200, 0)).success >= SUCCESS:
            break
    return noisy(scale), scale


def plain(recipe: Recipe, seed: int, copies: int, steps: int) -> PPO:
    """PPO without z, with the recipe's settings."""
    world = recipe.world(copies, seed)
    models = novelty(recipe)
    agent = PPO(world, reward_models=models, seed=seed % 2**31, **recipe.settings)
    return agent.learn(steps, progress=False)


@torch.no_grad()
def table_of(policy: Policy, world: TabularGrid) -> Tensor:
    """pi(a|s) in every cell, with shape (S, A)."""
    pi: Any = policy.distribution(world.views())
    probs: Tensor = pi.probs
    return probs


@torch.no_grad()
def noisy_tables(policy: Policy, world: TabularGrid, scale: float, n: int, seed: int) -> Tensor:
    """Tables of policies whose parameters have noise of this share of each tensor's own size."""
    views, known = world.views(), dict(policy.named_parameters())

    def act(parameters: dict[str, Tensor]) -> Tensor:
        outputs, _ = torch.func.functional_call(
            policy.net, {k.removeprefix("net."): v for k, v in parameters.items()},
            (views, policy.initial_state(len(views))),
        )  # fmt: skip
        return torch.softmax(outputs, dim=-1)

    tables = []
    with drawing_from(seed):
        for some in torch.arange(n).split(250):
            noisy = {
                k: v + scale * v.std(correction=0) * torch.randn(len(some), *v.shape)
                for k, v in known.items()
            }
            tables.append(torch.func.vmap(act)(noisy))
    return torch.cat(tables)


def seen(world: TabularGrid, draw: Draw) -> dict[str, Any]:
    """The columns of a row, of 2000 policies and of 500."""
    found, some = pm.variety(world, draw(2000, 1)), draw(500, 2)
    d500 = pm.distinct_shortest(world, pm.greedy(world, some))
    return {**found._asdict(), **pm.behaviour(world, some)._asdict(), "d500": d500}


def adapted(world: TabularGrid, draw: Draw, closed: Sequence[Cell]) -> list[int]:
    """How many of 500 policies arrive by their greedy paths where one of these cells is closed."""
    table = draw(500, 2)
    return [int(pm.greedy(world.blocked(cell), table).reached.sum()) for cell in closed]


def played(agent: VFunc, recipe: Recipe, seed: int) -> list[int]:
    """The same of VFunc's policies, by one episode of each."""
    policies = agent.sample_policies(500, generator=2)
    world = recipe.world(500, seed, recipe.device)
    return [len(policies.arriving(world.blocked(cell))) for cell in recipe.closed]


def fair_coin(world: TabularGrid) -> float:
    """The entropy of the path of who chooses evenly among the best actions of each cell."""
    best = world.optimal_actions().double()
    return float(
        pm.path_entropy_given(world, best[None] / best.sum(1, keepdim=True).clamp_min(1.0))
    )

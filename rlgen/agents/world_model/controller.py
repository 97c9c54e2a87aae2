"""C: the paper's linear controller, and its evolution, a whole population in one tensor program."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from rlgen.agents.progress import live_line
from rlgen.agents.world_model.dream import Dream
from rlgen.checkpoint import Configurable
from rlgen.envs.world import TensorWorld
from rlgen.seeding import mix, uniform

Fitness = Callable[[Tensor], Tensor]  # candidates (n, parameters) -> what each is worth, (n,)


class Controller(Configurable, nn.Module):
    """Actions by a linear map of features: outputs are the logits of actions.

    It has (features + 1) * actions parameters.

    References:
        David Ha and Juergen Schmidhuber. World Models, 2018. https://arxiv.org/abs/1803.10122

    Args:
        features: numbers in one observation.
        actions: how many there are.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Controller
        >>> controller = Controller(3, actions=4)
        >>> controller.act(torch.zeros(5, 3))[0]
        tensor([0, 0, 0, 0, 0])
    """

    def __init__(self, features: int, *, actions: int) -> None:
        super().__init__()
        if features < 1 or actions < 1:
            raise ValueError(
                f"'features' and 'actions' must be positive, got {features} and {actions}"
            )
        self.linear = nn.Linear(features, actions)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def of(cls, world: Any) -> "Controller":
        """The controller for a world of vectors with discrete actions."""
        seen, done = world.observation_space, world.action_space
        if not isinstance(seen, gymnasium.spaces.Box) or len(seen.shape) != 1:
            raise ValueError(f"observations must be vectors, got {seen}")
        if not isinstance(done, gymnasium.spaces.Discrete):
            raise ValueError(f"actions must be Discrete, got {done}")
        return cls(seen.shape[0], actions=int(done.n))

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        state: Any = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, None]:
        """The likeliest action of each observation, or one drawn; there is no state."""
        del state, episode_start
        outputs = self.linear(obs)
        if not deterministic:
            outputs = outputs + _gumbel(uniform(outputs.shape, outputs))
        return outputs.argmax(1), None

    @torch.no_grad()
    def set(self, vector: Tensor) -> "Controller":
        """Take all parameters from one vector, weights (actions, features) before biases."""
        if vector.shape != (self.parameters_count,):
            raise ValueError(
                f"'vector' must have shape ({self.parameters_count},), got {tuple(vector.shape)}"
            )
        vector = vector.to(self.linear.weight.device, self.linear.weight.dtype)
        weights, biases = vector.split([self.linear.weight.numel(), self.linear.bias.numel()])
        self.linear.weight.copy_(weights.view_as(self.linear.weight))
        self.linear.bias.copy_(biases)
        return self


class Evolution(NamedTuple):
    """What `evolve` found.

    Attributes:
        vector: the parameters that were kept.
        fitness: of them, on episodes of its own, that chose nothing.
        mean_fitness: of the search's mean, on the episodes that chose between the two.
        best_fitness: of the best candidate of all generations, on the same episodes.
        history: for each generation the best and the mean of its candidates' fitness.
    """

    vector: Tensor
    fitness: float
    mean_fitness: float
    best_fitness: float
    history: list[tuple[float, float]]


def maximise(
    fitness: Fitness,
    start: Tensor,
    *,
    population: int = 64,
    generations: int = 50,
    sigma: float = 0.5,
    seed: int = 0,
    diagonal: bool | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor, list[tuple[float, float]]]:
    """Climb by CMA-ES.

    References:
        Nikolaus Hansen. The CMA evolution strategy: a tutorial, 2016.
        https://arxiv.org/abs/1604.00772

    Args:
        fitness: of candidates (population, n), the larger the better.
        start: the first mean, (n,).
        population: candidates in a generation.
        generations: how many.
        sigma: the first step size.
        seed: of the search.
        diagonal: keep to variances, which learns faster in many dimensions than a full covariance
            and costs less; None where there are more than 200.
        progress: show a live line on a terminal.

    Returns:
        The last mean, the best candidate of all, and (best, mean) fitness of each generation.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import maximise
        >>> mean, best, history = maximise(
        ...     lambda x: -(x - 3.0).square().sum(1), torch.zeros(2), generations=30
        ... )
        >>> bool((mean - 3.0).abs().max() < 0.01)
        True
    """
    import cma

    draws = np.random.default_rng(seed)
    separable = len(start) > 200 if diagonal is None else diagonal
    options = {
        "popsize": population,
        "seed": np.nan,  # any other would seed numpy's global generator
        "randn": lambda *shape: draws.standard_normal(shape),
        "CMA_diagonal": separable,
        "verbose": -9,
    }
    search = cma.CMAEvolutionStrategy(start.cpu().double().numpy(), sigma, options)
    best, record, history = start, -float("inf"), []
    with live_line(generations, progress) as show:
        for generation in range(generations):
            asked = search.ask()
            candidates = torch.tensor(np.stack(asked), dtype=start.dtype, device=start.device)
            found = fitness(candidates)
            top = int(found.argmax())
            search.tell(asked, (-found).double().cpu().tolist())
            history.append((float(found[top]), float(found.mean())))
            if history[-1][0] > record:
                best, record = candidates[top], history[-1][0]
            show(generation + 1, {"best": history[-1][0], "mean": history[-1][1]})
    mean = torch.as_tensor(search.result.xfavorite, dtype=start.dtype, device=start.device)
    return mean, best, history


def evolve(
    controller: Controller,
    world: TensorWorld[Any],
    *,
    population: int = 64,
    generations: int = 50,
    discount: float = 0.99,
    sigma: float = 0.15,
    seed: int = 0,
    progress: bool = True,
) -> Evolution:
    """Evolve a controller for the mean discounted return of one episode in each copy.

    Actions are drawn from the softmax of the outputs. A candidate that always did the likeliest
    would be stuck for good wherever it is wrong, and its return would say little of the rest.

    All candidates of a generation act at once, each in as many copies as there are for one, and all
    of them meet the same starts and the same noise. In the end the search's mean and the best
    candidate are tried on episodes that chose neither: the luckiest is seldom the best. The one
    that is kept is tried on others again.

    Args:
        controller: the first mean; it has the better of the two afterwards.
        world: a tensor world, whose copies are a multiple of the population; a `Dream` must have
            been made with `groups=population`.
        population: candidates in a generation; even, so that the two of the end share noise too.
        generations: how many.
        discount: of rewards.
        sigma: the first step size.
        seed: of search and episodes.
        progress: show a live line on a terminal.

    Example:
        >>> from rlgen.agents.world_model import Controller, evolve
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(8 * 4, size=3, max_steps=10)
        >>> found = evolve(Controller.of(world), world, population=8, generations=3)
        >>> len(found.history), tuple(found.vector.shape)
        (3, (40,))
    """
    if population < 2 or population % 2 or world.num_envs % population:
        raise ValueError(
            f"'population' must be even and divide the world's {world.num_envs} copies, "
            f"got {population}"
        )
    start = nn.utils.parameters_to_vector(controller.parameters()).detach()
    # of each generation, others: seeds in a row would share all copies but one
    episodes = (mix(seed, k) for k in itertools.count())

    def tried_once(candidates: Tensor) -> Tensor:
        return returns_of(candidates, world, discount=discount, seed=next(episodes))

    def judged(candidates: Tensor) -> Tensor:
        return torch.stack([tried_once(candidates) for _ in range(4)]).mean(0)

    mean, best, history = maximise(
        tried_once,
        start,
        population=population,
        generations=generations,
        sigma=sigma,
        seed=seed,
        progress=progress,
    )
    tried = judged(torch.stack([mean, best]))  # each in half of the copies
    kept = mean if tried[0] >= tried[1] else best
    controller.set(kept)
    fitness = float(judged(kept[None])[0])
    return Evolution(kept, fitness, float(tried[0]), float(tried[1]), history)


@torch.no_grad()
def returns_of(
    candidates: Tensor,
    world: TensorWorld[Any],
    *,
    discount: float = 0.99,
    deterministic: bool = False,
    seed: int = 0,
) -> Tensor:
    """The mean discounted return of each linear controller, over the same episodes for all.

    Args:
        candidates: parameters of controllers, with shape (n, (features + 1) * actions).
        world: its copies are shared out evenly. The groups of a `Dream`, which share noise, must
            be so too.
        discount: of rewards.
        deterministic: do the likeliest; else actions are drawn from the softmax of the outputs.
        seed: of the episodes and of the actions.

    Returns:
        With shape (n,).
    """
    count, copies = len(candidates), world.num_envs // len(candidates)
    actions = int(world.action_space.n)
    features = world.observation_space.shape
    if features is None or len(features) != 1 or candidates.shape[1] != (features[0] + 1) * actions:
        raise ValueError(
            f"'candidates' must be controllers of {features} with {actions} actions, "
            f"got shape {tuple(candidates.shape)}"
        )
    if isinstance(world, Dream) and world.groups % count:
        raise ValueError(
            f"{count} candidates must meet the same noise, and the dream's {world.groups} 'groups' "
            "cannot be shared out among them: make it by model.dream(n, groups=population)"
        )
    weights, biases = candidates[:, :-actions], candidates[:, None, -actions:]
    weights = weights.unflatten(1, (actions, -1)).mT
    world.reset(seed)
    alike = {name: torch.cat([t[:copies]] * count) for name, t in world.state_dict().items()}
    world.load_state_dict(alike)
    source = torch.Generator(world.device).manual_seed(mix(seed, 21))
    total = torch.zeros(world.num_envs, device=world.device)
    done = torch.zeros(world.num_envs, dtype=torch.bool, device=world.device)
    for t in range(world.max_steps):
        seen = world.observe().unflatten(0, (count, copies)).to(weights.dtype)
        logits = torch.baddbmm(biases, seen, weights)
        if not deterministic:  # the same noise for all candidates
            draws = torch.rand(copies, actions, generator=source, device=world.device)
            logits = logits + _gumbel(draws)
        action = logits.argmax(2).flatten()
        reward, terminated, truncated = world.advance(action, frozen=done)
        total += discount**t * reward
        done |= terminated | truncated
        if t % 16 == 15 and bool(done.all()):
            break
    fitness: Tensor = total.unflatten(0, (count, copies)).mean(1)
    return fitness


def _gumbel(u: Tensor) -> Tensor:
    """Noise from uniform numbers: the largest of logits + noise is a draw from their softmax."""
    return -(-u.clamp_min(1e-20).log()).log()

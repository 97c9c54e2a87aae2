"""Whole episodes of whatever can act, as demonstrations."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlgen.agents.actions import within_bounds
from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.policy import ActorCritic, Policy
from rlgen.agents.progress import live_line
from rlgen.agents.transitions import flat
from rlgen.envs.adapters import as_arrays
from rlgen.envs.world import World
from rlgen.seeding import drawing_from, mix


@runtime_checkable
class Acts(Protocol):
    """A learner of rlgen, a planned expert."""

    def act(
        self, obs: Any, state: Any, episode_start: Any, *, deterministic: bool
    ) -> tuple[Tensor, Any]: ...


@runtime_checkable
class Predicts(Protocol):
    """A model of Stable-Baselines3."""

    def predict(
        self, obs: Any, state: Any, episode_start: Any, deterministic: bool
    ) -> tuple[Any, Any]: ...


Actor = Acts | Predicts | ActorCritic | Policy | Callable[[Any], Any]
_Step = Callable[[Any, Any, Tensor], tuple[Any, Any]]  # obs, state, first -> action, state


@torch.no_grad()
def record(
    world: World,
    policy: Actor,
    episodes: int,
    *,
    deterministic: bool = False,
    seed: int = 0,
    progress: bool = False,
    on_episode: Callable[[Demonstrations], object] | None = None,
) -> Demonstrations:
    """Exactly so many whole episodes, in which `policy` acts.

    How many of them each copy of the world plays is settled beforehand: to take the first ones to
    end, whichever copy they are of, would favour short episodes. They come in rounds, the first
    episodes of all copies and then the second ones, so that the first few are as fair a sample.

    Args:
        world: reset with `seed`, and left somewhere within an episode.
        policy: has `act`, such as a learner, or `predict` of Stable-Baselines3, or is an
            `ActorCritic`, a `Policy` or a function from observations to actions.
        episodes: how many. Copies play equally many, or one more.
        deterministic: ask the policy for its mode instead of a sample; a function is not asked.
        seed: of the world and of the actions.
        progress: show a live line on a terminal.
        on_episode: called with all that there is so far when an episode has ended.

    Returns:
        Observations in parts are made `transitions.flat`; all is on the world's device.

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.recording import record
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(4, size=5, start=(0, 0), goal=(0, 4))
        >>> to_the_right = record(world, lambda obs: torch.full((len(obs),), 3), 6)
        >>> len(to_the_right), to_the_right.steps
        (6, 24)
    """
    if episodes < 1:
        raise ValueError(f"'episodes' must be positive, got {episodes}")
    step = _stepper(world, policy, deterministic)
    tape = _Tape(world.num_envs, episodes)
    with drawing_from(mix(seed, 3)), live_line(episodes, progress) as show:
        obs, state = world.reset(seed), None
        first = torch.ones(world.num_envs, dtype=torch.bool, device=world.device)
        while not tape.full:
            action, state = step(obs, state, first)
            action = torch.as_tensor(action, device=world.device)
            action = within_bounds(action, world.action_space)
            after = world.step(action)
            tape.note(obs, action, after)
            obs, first = after.obs, after.done
            if tape.grew:
                show(tape.count, {})
                if on_episode is not None:
                    on_episode(tape.demonstrations())
    return tape.demonstrations()


class _Tape:
    """What all copies lived through since the longest present episode began."""

    def __init__(self, copies: int, episodes: int) -> None:
        self.left = [(episodes + i) // copies for i in range(copies)]
        self.found: list[list[Trajectory]] = [[] for _ in range(copies)]
        self.begin = [0] * copies  # where in `rows` each copy's episode begins
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.grew = False

    @property
    def full(self) -> bool:
        return not any(self.left)

    @property
    def count(self) -> int:
        return sum(map(len, self.found))

    def note(self, obs: Any, action: Tensor, after: Any) -> None:
        """One step of all copies."""
        self.grew = False
        self.rows.append((flat(obs), action, after.reward))
        ended = after.done.nonzero().squeeze(1).tolist()
        if not ended:
            return
        final = flat(after.final_obs)
        flags = torch.stack([after.terminated, after.truncated]).tolist()
        for i in ended:
            if self.left[i]:
                self.found[i].append(self._episode(i, final, flags[0][i], flags[1][i]))
                self.left[i] -= 1
                self.grew = True
            self.begin[i] = len(self.rows)
        waiting = [b for b, left in zip(self.begin, self.left, strict=True) if left]
        spent = min(waiting, default=len(self.rows))
        del self.rows[:spent]
        self.begin = [max(0, b - spent) for b in self.begin]

    def _episode(self, i: int, final: Tensor, terminated: bool, truncated: bool) -> Trajectory:
        obs, action, reward = zip(*self.rows[self.begin[i] :], strict=True)
        return Trajectory(
            torch.stack([*(row[i] for row in obs), final[i]]),
            torch.stack([row[i] for row in action]),
            terminated,
            truncated,
            torch.stack([row[i] for row in reward]),
        )

    def demonstrations(self) -> Demonstrations:
        rounds = range(max(map(len, self.found)))
        return Demonstrations(
            tuple(mine[k] for k in rounds for mine in self.found if k < len(mine))
        )


def _stepper(world: World, policy: Actor, deterministic: bool) -> _Step:
    """One way to ask them all."""
    if isinstance(policy, ActorCritic):
        policy = policy.policy
    if isinstance(policy, Policy):
        return _of_density(policy, deterministic)
    if isinstance(policy, Acts):
        acts = policy
        return lambda obs, state, first: acts.act(obs, state, first, deterministic=deterministic)
    if isinstance(policy, Predicts):
        predicts = policy
        return lambda obs, state, first: predicts.predict(
            as_arrays(obs),
            state=state,
            episode_start=first.cpu().numpy(),
            deterministic=deterministic,
        )
    if not callable(policy):
        raise ValueError(
            f"'policy' must have act or predict or be a function, got {type(policy).__name__}"
        )
    function = policy
    return lambda obs, state, first: (function(obs), None)


def _of_density(policy: Policy, deterministic: bool) -> _Step:
    def step(obs: Any, state: Any, first: Tensor) -> tuple[Tensor, Tensor]:
        obs = flat(obs)
        state = policy.initial_state(len(obs)) if state is None else state * ~first[:, None]
        outputs, state = policy.net(obs, state)
        pi = policy.head(outputs, tuple(policy.event_shape))
        return (pi.mode if deterministic else pi.sample()), state

    return step

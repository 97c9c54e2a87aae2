"""What a world is: many copies of an environment, stepped together as tensors on one device.

Rules are pure functions on a state, a frozen dataclass of tensors with one leading dimension (the
copies). `TensorWorld` is the thin shell that holds the state, counts time and starts new episodes.

Episodes restart in the step that ends them: `Step.obs` then belongs to the new episode, and
`Step.final_obs` is what the ended one really saw. `terminated` and `truncated` stay apart, and both
can be true.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import gymnasium
import torch
from torch import Tensor

from rlgen.envs.draws import Draws, combine, copy_keys

_CHECK_EVERY = 1024  # steps between two looks at whether an accelerator was given bad actions


class Step:
    """What one step of all copies gave.

    Attributes:
        obs: what each copy sees now, with shape (num_envs, *observation).
        reward: float32 with shape (num_envs,).
        terminated: the episode ended in the task's own terms.
        truncated: the episode ran out of time.
    """

    def __init__(
        self,
        obs: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        see_end: Callable[[], Tensor],
    ) -> None:
        self.obs, self.reward = obs, reward
        self.terminated, self.truncated = terminated, truncated
        self._see_end = see_end

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    @property
    def final_obs(self) -> Tensor:
        """What each copy saw when this step ended, before any restart; worked out when asked for.

        It equals `obs` wherever no episode ended.
        """
        return self._see_end()


@runtime_checkable
class World(Protocol):
    """`num_envs` copies of an environment on one device; the spaces are those of one copy."""

    @property
    def num_envs(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def observation_space(self) -> gymnasium.Space[Any]: ...
    @property
    def action_space(self) -> gymnasium.Space[Any]: ...

    def reset(self, seed: int | None = None) -> Tensor: ...
    def step(self, action: Tensor) -> Step: ...


@dataclasses.dataclass(frozen=True)
class State:
    """Base of the states of worlds: a frozen dataclass of tensors with leading dimension n."""

    def where(self, chosen: Tensor, other: Any) -> Any:
        """`other` where `chosen`, else this state; for accelerators, where waiting is dear."""
        parts = {}
        for f in dataclasses.fields(self):
            ours, theirs = getattr(self, f.name), getattr(other, f.name)
            mask = chosen.reshape(-1, *[1] * (ours.ndim - 1))
            parts[f.name] = torch.where(mask, theirs, ours)
        return type(self)(**parts)

    def to(self, device: torch.device) -> Any:
        """The same on another device."""
        fields = dataclasses.fields(self)
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields})

    def take(self, index: Tensor) -> Any:
        """The rows at `index`."""
        fields = dataclasses.fields(self)
        return type(self)(**{f.name: getattr(self, f.name).index_select(0, index) for f in fields})

    def put(self, index: Tensor, other: Any) -> Any:
        """This state with the rows at `index` replaced by those of `other`."""
        parts = {
            f.name: getattr(self, f.name).index_copy(0, index, getattr(other, f.name))
            for f in dataclasses.fields(self)
        }
        return type(self)(**parts)


S = TypeVar("S", bound=State)


class TensorWorld(ABC, Generic[S]):
    """The shell around the rules of one kind of world.

    Args:
        num_envs: how many copies.
        device: where they live.
        observation_space: of one copy.
        action_space: of one copy.
        max_steps: when an episode is truncated.
        seed: of the first `reset`; None draws one from torch's global generator.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        device: str | torch.device,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.spaces.Discrete,
        max_steps: int,
        seed: int | None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"'num_envs' must be positive, got {num_envs}")
        if max_steps < 1:
            raise ValueError(f"'max_steps' must be positive, got {max_steps}")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.observation_space = observation_space
        self.action_space = action_space
        self.max_steps = max_steps
        self._seed = seed
        self._keys: Tensor | None = None
        self._episode: Tensor
        self._time: Tensor
        self._state: S
        # on an accelerator, bad actions are noted here and reported later: see `step`
        self._bad_action = torch.zeros((), dtype=torch.bool, device=self.device)
        self._checked_steps = 0

    @abstractmethod
    def _initial(self, draws: Draws) -> S:
        """Fresh states, one for each key of `draws`."""

    @abstractmethod
    def _transition(
        self, state: S, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[S, Tensor, Tensor]:
        """The rules: (next state, reward, terminated) of every copy. A pure function.

        `time` counts the steps of the episode, this one included.
        """

    @abstractmethod
    def _observe(self, state: S) -> Tensor:
        """What each copy sees in `state`. A pure function."""

    def _begin(self, draws: Draws) -> tuple[S, Tensor]:
        """States and clocks of all copies after a reset."""
        time = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return self._initial(draws), time

    @property
    def state(self) -> S:
        """The present state of all copies."""
        self._present_keys()
        return self._state

    @property
    def time(self) -> Tensor:
        """Steps since each copy's episode began, as int64 with shape (num_envs,)."""
        self._present_keys()
        return self._time

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes in all copies.

        Args:
            seed: starts the random streams anew: copy i of a world seeded with s lives the same
                life as copy 0 of one seeded with s + i. None goes on with the present streams.

        Returns:
            What each copy sees, with shape (num_envs, *observation).
        """
        self._raise_bad_action()
        if seed is None and self._keys is None:
            seed = self._seed if self._seed is not None else int(torch.randint(2**31, ()))
        if seed is not None:
            self._keys = copy_keys(seed, self.num_envs, self.device)
            self._episode = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        else:
            self._episode = self._episode + 1
        self._state, self._time = self._begin(self._draws(self._keys, self._episode, 0))
        return self._observe(self._state)

    def step(self, action: Tensor) -> Step:
        """One step of all copies; those whose episode ends restart at once.

        An action that is out of range is refused at once on a CPU. An accelerator would have to be
        waited for: there it counts as the nearest one in range, and is reported by the next
        `reset` or `state_dict`, or after at most 1024 steps.

        Args:
            action: integers with shape (num_envs,), on the world's device.
        """
        reward, terminated, truncated = self.advance(action)
        ended = self._state
        self.restart(terminated | truncated)
        return Step(self.observe(), reward, terminated, truncated, lambda: self._observe(ended))

    def advance(
        self, action: Tensor, *, frozen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The first half of `step`: nobody restarts. For those who decide that themselves.

        Args:
            action: as in `step`.
            frozen: copies that stay as they are, whatever their action, earn nothing and end
                nothing, as booleans.

        Returns:
            reward, terminated and truncated.
        """
        before = self.state
        action = self._check_action(action, frozen)
        time = self._time + 1
        draws = self._draws(self._keys, self._episode, time)
        after, reward, terminated = self._transition(before, action, time, draws)
        truncated = time >= self.max_steps
        if frozen is not None:
            after, time = after.where(frozen, before), torch.where(frozen, self._time, time)
            reward, terminated = reward.masked_fill(frozen, 0.0), terminated & ~frozen
            truncated = truncated & ~frozen
        self._state, self._time = after, time
        return reward, terminated, truncated

    def restart(self, chosen: Tensor) -> None:
        """New episodes in the chosen copies: a few rows on a CPU, masked rows elsewhere.

        Both give the same numbers; the second never waits for the device.
        """
        keys = self._present_keys()
        if _on_host(self.device):
            index = chosen.nonzero().squeeze(1)
            if len(index) == 0:
                return
            episode = self._episode[index] + 1
            fresh = self._initial(self._draws(keys[index], episode, 0))
            self._state = self._state.put(index, fresh)
            self._episode = self._episode.index_copy(0, index, episode)
            self._time = self._time.index_fill(0, index, 0)
            return
        episode = self._episode + chosen
        fresh = self._initial(self._draws(keys, episode, 0))
        self._state = self._state.where(chosen, fresh)
        self._episode, self._time = episode, self._time.masked_fill(chosen, 0)

    def observe(self) -> Tensor:
        """What each copy sees now."""
        return self._observe(self.state)

    def render(self) -> Tensor:
        """A picture of each copy now: uint8 with shape (num_envs, height, width, 3)."""
        raise ValueError(f"there is no picture of {type(self).__name__}")

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the future, random streams included."""
        self._raise_bad_action()
        parts = {f.name: getattr(self.state, f.name) for f in dataclasses.fields(self.state)}
        return {"keys": self._keys, "episode": self._episode, "time": self._time, **parts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken, in a world made with the same arguments."""
        if self._keys is None:
            self.reset(0)  # any will do, without a draw from torch's global generator
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ValueError(f"the state has entries {sorted(state)}, not {sorted(expected)}")
        for name, tensor in expected.items():
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                raise ValueError(
                    f"{name!r} must be {tensor.dtype} with shape {tuple(tensor.shape)}, "
                    f"got {state[name].dtype} with shape {tuple(state[name].shape)}"
                )
        moved = {name: tensor.to(self.device) for name, tensor in state.items()}
        self._keys, self._episode = moved.pop("keys"), moved.pop("episode")
        self._time = moved.pop("time")
        self._state = type(self._state)(**moved)

    def _draws(self, keys: Tensor | None, episode: Tensor, time: Tensor | int) -> Draws:
        assert keys is not None
        return Draws(lambda: combine(combine(keys, episode), time))

    def _present_keys(self) -> Tensor:
        if self._keys is None:
            raise ValueError("call 'reset' first")
        return self._keys

    def _check_action(self, action: Tensor, frozen: Tensor | None) -> Tensor:
        """`action` as int64, 0 for frozen copies.

        Shape, dtype and device and dtype are known on the host; values only on the device.
        """
        if not isinstance(action, Tensor) or action.shape != (self.num_envs,):
            shape = tuple(action.shape) if isinstance(action, Tensor) else type(action).__name__
            raise ValueError(f"'action' must be a tensor of shape ({self.num_envs},), got {shape}")
        if action.is_floating_point() or action.is_complex() or action.dtype == torch.bool:
            raise ValueError(f"'action' must hold integers, got {action.dtype}")
        if action.device.type != self.device.type:
            raise ValueError(f"'action' must be on {self.device}, got {action.device}")
        action = action.long()
        if frozen is not None:
            action = action.masked_fill(frozen, 0)
        count = int(self.action_space.n)
        if _on_host(self.device):
            low, high = torch.aminmax(action)
            if low < 0 or high >= count:
                raise ValueError(
                    f"'action' must be from 0 to {count - 1}, got {int(low)} to {int(high)}"
                )
            return action
        self._bad_action |= ((action < 0) | (action >= count)).any()
        self._checked_steps += 1
        if self._checked_steps % _CHECK_EVERY == 0:
            self._raise_bad_action()
        return action.clamp(0, count - 1)

    def _raise_bad_action(self) -> None:
        if _on_host(self.device) or self.device.type == "meta":
            return
        if bool(self._bad_action):
            self._bad_action.zero_()
            raise ValueError(
                f"'action' must be from 0 to {int(self.action_space.n) - 1}, and an earlier one "
                "was not"
            )


def _on_host(device: torch.device) -> bool:
    """Whether values can be read without waiting for an accelerator."""
    return device.type == "cpu"

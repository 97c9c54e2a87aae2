"""What an expert did: whole episodes as tensors, checked once, when they are made."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlgen.agents.imitation import formats
from rlgen.agents.imitation.formats import Stored, numbered
from rlgen.agents.transitions import Transitions, flat, flat_space


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode of T steps.

    Observations may be given as dictionaries of tensors; they are made `transitions.flat`.

    Attributes:
        obs: what was seen, with shape (T + 1, *observation); the last is what the last step led to.
        action: what was done, with shape (T, *action).
        terminated: the episode ended in the task's own terms.
        truncated: time ran out, or the recording was stopped.
        reward: what the world gave, with shape (T,); None where that is not known.
    """

    obs: Tensor
    action: Tensor
    terminated: bool
    truncated: bool
    reward: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.obs, Mapping):
            object.__setattr__(self, "obs", flat(self.obs))
        for name in ("obs", "action", "reward"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not (name == "reward" and value is None):
                raise ValueError(f"{name!r} must be a tensor, got {type(value).__name__}")
        self._check_lengths()
        for name in ("terminated", "truncated"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name!r} must be True or False, got {value!r}")
        if not (self.terminated or self.truncated):
            raise ValueError("an episode that did not terminate must be truncated, got neither")
        for name, tensor in self._parts():
            if tensor.is_floating_point():
                _check_steps(name, tensor, tensor.isfinite(), "finite")

    def __len__(self) -> int:
        return len(self.action)

    def to(self, device: str | torch.device) -> "Trajectory":
        """The same on another device."""
        parts = {name: part.to(device) for name, part in self._parts()}
        return Trajectory(terminated=self.terminated, truncated=self.truncated, **parts)

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        yield "obs", self.obs
        yield "action", self.action
        if self.reward is not None:
            yield "reward", self.reward

    def _check_lengths(self) -> None:
        if self.action.ndim < 1 or len(self.action) < 1:
            raise ValueError(f"'action' must hold a step or more, got {tuple(self.action.shape)}")
        steps = len(self.action)
        if self.obs.ndim < 1 or len(self.obs) != steps + 1:
            raise ValueError(
                f"'obs' must hold {steps + 1} observations, one more than there are actions, "
                f"got shape {tuple(self.obs.shape)}"
            )
        if self.reward is not None and self.reward.shape != (steps,):
            raise ValueError(f"'reward' must have shape ({steps},), got {tuple(self.reward.shape)}")
        if self.reward is not None and not self.reward.is_floating_point():
            raise ValueError(f"'reward' must hold floats, got {self.reward.dtype}")


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of an expert, all of one kind.

    Attributes:
        trajectories: at least one; their observations and their actions are of one shape and dtype
            and on one device.

    Example:
        >>> import torch
        >>> from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
        >>> walk = Trajectory(torch.eye(3), torch.tensor([1, 0]), terminated=True, truncated=False)
        >>> both = Demonstrations((walk, walk))
        >>> len(both), both.steps
        (2, 4)
        >>> both.transitions().terminated
        tensor([False,  True, False,  True])
    """

    trajectories: tuple[Trajectory, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "trajectories", tuple(self.trajectories))
        if not self.trajectories:
            raise ValueError("'trajectories' must not be empty")
        for i, one in enumerate(self.trajectories):
            if not isinstance(one, Trajectory):
                raise ValueError(f"trajectory {i} must be a Trajectory, got {type(one).__name__}")
            for name in ("obs", "action"):
                wanted = _kind(getattr(self.trajectories[0], name))
                found = _kind(getattr(one, name))
                if found != wanted:
                    raise ValueError(
                        f"trajectory {i}: {name!r} must be {wanted}, as in trajectory 0, "
                        f"got {found}"
                    )

    def __len__(self) -> int:
        return len(self.trajectories)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __getitem__(self, index: slice | Sequence[int]) -> "Demonstrations":
        """Some of the trajectories."""
        if isinstance(index, slice):
            return Demonstrations(self.trajectories[index])
        if isinstance(index, int):
            raise TypeError(f"one trajectory is .trajectories[{index}], and some are [[{index}]]")
        return Demonstrations(tuple(self.trajectories[int(i)] for i in index))

    @property
    def steps(self) -> int:
        """Of all trajectories together."""
        return sum(len(one) for one in self.trajectories)

    def returns(self) -> Tensor:
        """The sum of each trajectory's rewards, as float64 with shape (trajectories,)."""
        sums = []
        for i, one in enumerate(self.trajectories):
            if one.reward is None:
                raise ValueError(f"trajectory {i} has no 'reward'")
            sums.append(one.reward.double().sum())
        return torch.stack(sums)

    def transitions(self) -> Transitions:
        """All steps in order; only a last step may end an episode; unknown rewards are 0."""
        ends = torch.tensor([len(one) for one in self.trajectories]).cumsum(0) - 1
        device = self.trajectories[0].obs.device
        flags = torch.zeros(2, self.steps, dtype=torch.bool)
        flags[0, ends] = torch.tensor([one.terminated for one in self.trajectories])
        flags[1, ends] = torch.tensor([one.truncated for one in self.trajectories])
        rewards = [
            torch.zeros(len(one), device=device) if one.reward is None else one.reward.float()
            for one in self.trajectories
        ]
        return Transitions(
            torch.cat([one.obs[:-1] for one in self.trajectories]),
            torch.cat([one.action for one in self.trajectories]),
            torch.cat(rewards),
            torch.cat([one.obs[1:] for one in self.trajectories]),
            *flags.to(device),
        )

    def check(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
    ) -> "Demonstrations":
        """Itself, if all that was seen and done lies in these spaces.

        Raises:
            ValueError: a shape, a dtype or a value does not fit; it names trajectory and step.
        """
        seen = observation_space
        if isinstance(seen, spaces.Dict):
            seen = flat_space(seen)
        for i, one in enumerate(self.trajectories):
            with numbered(i):
                _check_within("obs", one.obs, seen)
                _check_within("action", one.action, action_space)
        return self

    def to(self, device: str | torch.device) -> "Demonstrations":
        """The same on another device."""
        return Demonstrations(tuple(one.to(device) for one in self.trajectories))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .npz file, without pickle; one that is there is replaced as a whole.

        Example:
            >>> import tempfile, torch
            >>> from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
            >>> walk = Trajectory(torch.eye(2), torch.tensor([1]), terminated=True, truncated=False)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Demonstrations((walk,)).save(folder + "/walk.npz")
            ...     again = Demonstrations.load(folder + "/walk.npz")
            >>> torch.equal(again.trajectories[0].obs, walk.obs)
            True
        """
        formats.write_npz(Path(path), self._stored())

    def save_minari(
        self,
        folder: str | os.PathLike[str],
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        id: str | None = None,
    ) -> None:
        """Write a folder as Minari has them, which needs h5py.

        Below Minari's own root, its path there is the id by which `minari.load_dataset` finds it.

        Args:
            folder: must not exist yet.
            observation_space: that the observations are checked to be in.
            action_space: likewise.
            id: of the data set, such as "rooms/expert-v0"; None takes the folder's name.
        """
        self.check(observation_space, action_space)
        if isinstance(observation_space, spaces.Dict):
            observation_space = flat_space(observation_space)
        formats.write_minari(Path(folder), self._stored(), observation_space, action_space, id)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Demonstrations":
        """What `save` wrote, or others: nothing is unpickled, and all of it is read or nothing.

        - the trajectories of `imitation`: its old .npz, whose infos are not read, so that an
          episode that ran out of time counts as terminated, and its folders of Hugging Face's
          datasets, which need pyarrow and tell the two apart where the infos do;
        - a folder of Minari's in HDF5, which needs h5py. An episode that just stops is truncated,
          and rewards that are all NaN are not known.

        Observations in parts are made `transitions.flat`; what is no number, such as text, is left
        out.

        Raises:
            ValueError: there is nothing there, or it is truncated, pickled, foreign or wrong; the
                message names trajectory and step where there is one.
        """
        made = []
        try:
            for i, one in enumerate(formats.read(Path(path))):
                with numbered(i):
                    made.append(_made(one))
            return cls(tuple(made))
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error

    def _stored(self) -> list[Stored]:
        return [
            Stored(
                one.obs.detach().cpu().numpy(),
                one.action.detach().cpu().numpy(),
                None if one.reward is None else one.reward.detach().cpu().numpy(),
                one.terminated,
                one.truncated,
            )
            for one in self.trajectories
        ]


def _made(one: Stored) -> Trajectory:
    return Trajectory(
        flat(_tensors("obs", one.obs)),
        _tensors("action", one.action),
        one.terminated,
        one.truncated,
        None if one.reward is None else _tensors("reward", one.reward),
    )


def _tensors(name: str, value: Any) -> Any:
    """Arrays as tensors of their own; what holds no numbers is left out of a dictionary."""
    if isinstance(value, dict):
        kept = {key: _tensors(name, part) for key, part in value.items() if _numeric(part)}
        if not kept:
            raise ValueError(f"{name!r} must hold numbers, got parts {sorted(value)}")
        return kept
    if not _numeric(value):
        raise ValueError(f"{name!r} must hold numbers, got {value.dtype}")
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def _numeric(value: Any) -> bool:
    return isinstance(value, dict) or value.dtype.kind in "biuf"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape[1:])} on {tensor.device}"


def _check_steps(name: str, tensor: Tensor, fine: Tensor, wanted: str) -> None:
    """Names the first step that is not fine."""
    if bool(fine.all()):
        return
    where = (~fine).nonzero()[0]
    value = tensor[tuple(where)].item()
    inside = "" if len(where) == 1 else f" at {tuple(where[1:].tolist())}"
    raise ValueError(f"step {int(where[0])}: {name!r} must be {wanted}, got {value}{inside}")


def _check_within(name: str, tensor: Tensor, space: gymnasium.Space[Any]) -> None:
    low, high, shape = _bounds(space)
    if tuple(tensor.shape[1:]) != shape:
        raise ValueError(f"step 0: {name!r} must have shape {shape}, got {tuple(tensor.shape[1:])}")
    wanted = torch.from_numpy(np.zeros(0, space.dtype)).dtype
    exact = isinstance(space, spaces.Box)
    integers = not (tensor.is_floating_point() or tensor.dtype == torch.bool)
    if tensor.dtype != wanted and (exact or not integers):
        raise ValueError(f"step 0: {name!r} must be {wanted}, got {tensor.dtype}")
    ends = [torch.as_tensor(end, dtype=tensor.dtype, device=tensor.device) for end in (low, high)]
    _check_steps(name, tensor, (tensor >= ends[0]) & (tensor <= ends[1]), f"in {space}")


def _bounds(space: gymnasium.Space[Any]) -> tuple[Any, Any, tuple[int, ...]]:
    """The least and the greatest that lies in a space, and its shape."""
    if isinstance(space, spaces.Box):
        return space.low, space.high, space.shape
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1), ()
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1, space.shape
    if isinstance(space, spaces.MultiBinary):
        return 0, 1, space.shape
    raise ValueError(f"a space must be of numbers, got {space}")

"""Ways in and out: gymnasium and Stable-Baselines3 on one side, tensors on the other.

The only place where observations become numpy arrays, which are always copies. An episode's last
observation is never lost: each convention has its own place for it, named in the docstrings.
"""

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlgen.envs.world import Step, TensorWorld, World

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Array = np.ndarray[Any, Any]
_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SingleEnv(gymnasium.Env[Any, Any]):
    """A world of one copy as a `gymnasium.Env`.

    Args:
        world: with `num_envs` 1.
        render_mode: None or "rgb_array".

    Example:
        >>> from rlgen.envs import FourRooms, adapters
        >>> env = adapters.SingleEnv(FourRooms(1, start=(1, 1)))
        >>> obs, info = env.reset(seed=0)
        >>> obs.shape
        (104,)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, world: TensorWorld[Any], render_mode: str | None = None) -> None:
        if world.num_envs != 1:
            raise ValueError(f"a single environment is a world of one copy, got {world.num_envs}")
        self.world = world
        self.render_mode = _check_render_mode(render_mode)
        self.observation_space = world.observation_space
        self.action_space = world.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """A new episode; a seed starts the world's random streams anew."""
        del options
        super().reset(seed=seed)
        return _numpy(self.world.reset(seed))[0], {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; an ended episode waits for `reset`."""
        given = torch.tensor(np.asarray(action)[None], device=self.world.device)
        reward, terminated, truncated = self.world.advance(given)
        seen = _numpy(self.world.observe())[0]
        return seen, float(reward), bool(terminated), bool(truncated), {}

    def render(self) -> Array | None:
        return None if self.render_mode is None else _numpy(self.world.render())[0]


class NativeVectorEnv(VectorEnv[Any, Any, Any]):
    """A world as a `gymnasium.vector.VectorEnv`, without a loop over its copies.

    An ended episode's last observation is `obs` itself under NEXT_STEP and DISABLED, and
    `info["final_obs"]` under SAME_STEP, where `info["_final_obs"]` says which rows ended.

    Args:
        world: any tensor world.
        autoreset_mode: when ended episodes restart. DISABLED waits for
            `reset(options={"reset_mask": ...})`.
        render_mode: None or "rgb_array".

    Example:
        >>> import numpy as np
        >>> from rlgen.envs import FourRooms, adapters
        >>> venv = adapters.NativeVectorEnv(FourRooms(3), autoreset_mode="SameStep")
        >>> obs, info = venv.reset(seed=0)
        >>> obs, reward, terminated, truncated, info = venv.step(np.array([0, 1, 2]))
        >>> obs.shape
        (3, 104)
    """

    def __init__(
        self,
        world: TensorWorld[Any],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        self.world = world
        self.mode = _autoreset_mode(autoreset_mode)
        self.render_mode = _check_render_mode(render_mode)
        self.metadata = {**SingleEnv.metadata, "autoreset_mode": self.mode}
        self.num_envs = world.num_envs
        self.single_observation_space = world.observation_space
        self.single_action_space = world.action_space
        self.observation_space = batch_space(world.observation_space, self.num_envs)
        self.action_space = batch_space(world.action_space, self.num_envs)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool, device=world.device)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """New episodes in all copies, or in those where `options["reset_mask"]` is true."""
        if isinstance(seed, list):
            raise ValueError("'seed' must be one integer: copy i then has seed + i")
        mask = None if options is None else options.get("reset_mask")
        if mask is None:
            super().reset(seed=seed)
            obs = self.world.reset(seed)
            self._ended = torch.zeros_like(self._ended)
            return _numpy(obs), {}
        if seed is not None:
            raise ValueError("'seed' restarts all copies: give it without 'reset_mask'")
        self.world.observe()  # refuses a world that was never reset
        chosen = _reset_mask(mask, self._ended)
        self.world.restart(chosen)
        self._ended = self._ended & ~chosen
        return _numpy(self.world.observe()), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of all copies; under NEXT_STEP, those that ended before restart instead."""
        action = torch.tensor(np.asarray(actions), device=self.world.device)
        if self.mode is AutoresetMode.SAME_STEP:
            step = self.world.step(action)
            info = _ends(step) if bool(step.done.any()) else {}
            return _as_gymnasium(step.obs, step.reward, step.terminated, step.truncated, info)
        if self.mode is AutoresetMode.DISABLED and bool(self._ended.any()):
            raise ValueError("an episode has ended: call reset(options={'reset_mask': mask})")
        reward, terminated, truncated = self.world.advance(action, frozen=self._ended)
        self.world.restart(self._ended)
        self._ended = terminated | truncated
        return _as_gymnasium(self.world.observe(), reward, terminated, truncated, {})

    def render(self) -> tuple[Array, ...] | None:
        return None if self.render_mode is None else tuple(_numpy(self.world.render()))


class GymnasiumWorld:
    """A gymnasium `VectorEnv` as a `World`; see `from_gymnasium`."""

    def __init__(self, venv: VectorEnv[Any, Any, Any], device: str | torch.device) -> None:
        mode = venv.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise ValueError(
                "a World restarts episodes in the step that ends them: make the vector environment "
                "with autoreset_mode=AutoresetMode.SAME_STEP, such as gymnasium.make_vec(id, n, "
                "vectorization_mode='sync', vector_kwargs={'autoreset_mode': ...}); "
                f"this one has {mode}"
            )
        if not isinstance(venv.single_action_space, _ARRAYS):
            raise ValueError(f"actions must be arrays, got {venv.single_action_space}")
        self.venv, self.mode = venv, mode
        self.num_envs = venv.num_envs
        self.device = torch.device(device)
        self.observation_space = _numeric(venv.single_observation_space)
        self.action_space = venv.single_action_space

    def reset(self, seed: int | None = None) -> Any:
        """Start new episodes in all copies; copy i gets seed + i."""
        obs, _ = self.venv.reset(seed=seed)
        return self._tensors(obs)

    def step(self, action: Tensor) -> Step:
        """One step of all copies; those whose episode ends restart at once."""
        obs, reward, terminated, truncated, info = self.venv.step(self._check_action(action))
        done = np.asarray(terminated) | np.asarray(truncated)
        seen = final = self._tensors(obs)
        if done.any() and self.mode is AutoresetMode.SAME_STEP:
            if "final_obs" not in info:
                raise ValueError(f"{self.venv} lost the last observation: no info['final_obs']")
            final = self._tensors(_with_ends(self.observation_space, obs, info["final_obs"], done))
        elif done.any():
            obs, _ = self.venv.reset(options={"reset_mask": done})
            seen = self._tensors(obs)
        return Step(
            seen,
            torch.tensor(np.asarray(reward, np.float32), device=self.device),
            torch.tensor(np.asarray(terminated), device=self.device),
            torch.tensor(np.asarray(truncated), device=self.device),
            lambda: final,
        )

    def close(self) -> None:
        """Close the environment behind it."""
        self.venv.close()

    def _tensors(self, obs: Any) -> Any:
        """Copies on the device, as the environment may reuse its arrays; numbers only."""
        return _to_tensors(self.observation_space, obs, self.device)

    def _check_action(self, action: Tensor) -> Array:
        space = self.venv.action_space
        given = _numpy(action)
        if given.shape != space.shape:
            raise ValueError(f"'action' must have shape {space.shape}, got {given.shape}")
        if isinstance(space, spaces.Box):
            return given.astype(space.dtype, copy=False)  # as gymnasium does, without a bound
        if not np.issubdtype(given.dtype, np.integer) or not space.contains(given):
            raise ValueError(f"'action' must be in {space}, got {given.dtype} {given}")
        return given


def from_gymnasium(venv: VectorEnv[Any, Any, Any], *, device: str | torch.device = "cpu") -> World:
    """Any gymnasium `VectorEnv` as a `World`: CartPole, MiniGrid itself, MuJoCo.

    Where its observations are dictionaries, so are those of the world: dictionaries of tensors. An
    entry that holds no numbers, such as MiniGrid's mission, is left out, also of the space.

    Args:
        venv: with autoreset mode SAME_STEP or DISABLED; its observations and actions are arrays,
            or observations are dictionaries of them.
        device: where its tensors go.

    Example:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode
        >>> from rlgen.envs import adapters
        >>> same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
        >>> venv = gymnasium.make_vec(
        ...     "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=same_step
        ... )
        >>> adapters.from_gymnasium(venv).reset(seed=0).shape
        torch.Size([2, 4])
    """
    return GymnasiumWorld(venv, device)


def to_sb3(world: World) -> "VecEnv":
    """A world as a Stable-Baselines3 `VecEnv`.

    An ended episode's last observation is `info["terminal_observation"]`, and
    `info["TimeLimit.truncated"]` says that it ended by time alone.
    """
    from rlgen.envs.sb3_vec_env import WorldVecEnv

    return WorldVecEnv(world)


def as_arrays(obs: Any) -> Any:
    """Observations as numpy arrays of their own, whose memory nothing else writes to."""
    if isinstance(obs, dict):
        return {name: as_arrays(part) for name, part in obs.items()}
    return _numpy(obs)


def _numpy(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", copy=True).numpy()
    return array


def _as_gymnasium(
    obs: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, info: dict[str, Any]
) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
    rewards = _numpy(reward).astype(np.float64)
    return _numpy(obs), rewards, _numpy(terminated), _numpy(truncated), info


def _ends(step: Step) -> dict[str, Any]:
    """What gymnasium tells of the episodes that ended."""
    return {
        "final_obs": _numpy(step.final_obs),
        "_final_obs": _numpy(step.done),
        "final_info": {},
        "_final_info": _numpy(step.done),
    }


def _numeric(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The part of a space that holds numbers."""
    if isinstance(space, spaces.Dict):
        parts = {
            name: part for name, part in space.items() if isinstance(part, (*_ARRAYS, spaces.Dict))
        }
        if parts:
            return spaces.Dict({name: _numeric(part) for name, part in parts.items()})
    elif isinstance(space, _ARRAYS):
        return space
    raise ValueError(f"observations must be arrays or dictionaries of arrays, got {space}")


def _to_tensors(space: gymnasium.Space[Any], obs: Any, device: torch.device) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _to_tensors(part, obs[name], device) for name, part in space.items()}
    return torch.tensor(np.asarray(obs), device=device)


def _with_ends(space: gymnasium.Space[Any], obs: Any, ends: Any, done: Array) -> Any:
    """`obs` with the rows of ended episodes as they were seen before the restart.

    `ends` is a dictionary of arrays, an array, or an array of objects with one for each row.
    """
    if isinstance(space, spaces.Dict):
        return {
            name: _with_ends(part, obs[name], _entry(ends, name), done)
            for name, part in space.items()
        }
    rows = np.array(obs)
    rows[done] = np.stack([ends[i] for i in done.nonzero()[0]])
    return rows


def _entry(ends: Any, name: str) -> Any:
    return ends[name] if isinstance(ends, dict) else [e if e is None else e[name] for e in ends]


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        allowed = ", ".join(str(m.value) for m in AutoresetMode)
        raise ValueError(f"'autoreset_mode' must be one of {allowed}, got {mode!r}") from error


def _check_render_mode(mode: str | None) -> str | None:
    if mode not in (None, "rgb_array"):
        raise ValueError(f"'render_mode' must be None or 'rgb_array', got {mode!r}")
    return mode


def _reset_mask(mask: Any, like: Tensor) -> Tensor:
    chosen = torch.tensor(np.asarray(mask), device=like.device)
    if chosen.shape != like.shape or chosen.dtype != torch.bool or not bool(chosen.any()):
        raise ValueError(f"'reset_mask' must be {len(like)} booleans, not all of them false")
    return chosen

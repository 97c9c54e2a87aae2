"""A world as a Stable-Baselines3 `VecEnv`; see `adapters.to_sb3`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlgen.envs.adapters import Array, as_arrays
from rlgen.envs.world import TensorWorld, World


class WorldVecEnv(VecEnv):
    """Stable-Baselines3 steps it as one of its own.

    Args:
        world: any world whose observations are tensors or dictionaries of them.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.render_mode = "rgb_array" if isinstance(world, TensorWorld) else None
        self._action: Tensor | None = None
        super().__init__(world.num_envs, world.observation_space, world.action_space)

    def reset(self) -> Any:
        seed = self._seeds[0]  # copy i then has seed + i, as `VecEnv.seed` says
        self._reset_seeds()
        self._reset_options()
        return as_arrays(self.world.reset(seed))

    def step_async(self, actions: Array) -> None:
        self._action = torch.tensor(np.asarray(actions), device=self.world.device)

    def step_wait(self) -> Any:
        if self._action is None:
            raise ValueError("call 'step_async' first")
        step = self.world.step(self._action)
        self._action = None
        done: Array = as_arrays(step.done)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            final = as_arrays(step.final_obs)
            by_time: Array = as_arrays(step.truncated & ~step.terminated)
            for i in done.nonzero()[0]:
                infos[i] = {
                    "terminal_observation": _row(final, i),
                    "TimeLimit.truncated": bool(by_time[i]),
                }
        return as_arrays(step.obs), as_arrays(step.reward), done, infos

    def close(self) -> None:
        """Nothing to close: the world is its owner's."""

    def get_images(self) -> Sequence[Array | None]:
        if not isinstance(self.world, TensorWorld):
            return [None] * self.num_envs
        return list(as_arrays(self.world.render()))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The world's attribute, once for each copy."""
        value = self.render_mode if attr_name == "render_mode" else getattr(self.world, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise ValueError("the copies of a world share their attributes: set them on the world")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        raise ValueError("the copies of a world share their methods: call them on the world")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def _row(obs: Any, i: Any) -> Any:
    """Row i, in memory of its own: a buffer that keeps it must not keep its whole batch."""
    if isinstance(obs, dict):
        return {name: _row(part, i) for name, part in obs.items()}
    return np.array(obs[i])

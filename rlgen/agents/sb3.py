"""Reward models and encoders inside Stable-Baselines3, for any of its algorithms.

The only module of the agents that needs Stable-Baselines3; none of the others imports it.
"""

import copy
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, is_vecenv_wrapped
from torch import Tensor, nn

from rlgen import checkpoint
from rlgen.agents.exploration.memory import as_data
from rlgen.agents.reward_model import ReturnScale, RewardModel
from rlgen.agents.transitions import Transitions, flat, joined
from rlgen.generative import Encoder, GenerativeModel, unchecked
from rlgen.generative.catalogue import require

Array = np.ndarray[Any, Any]
Observations = Any  # a tensor, or a dictionary of them


class RewardModelVecEnv(VecEnvWrapper):
    """Adds what a reward model pays to the reward, where the environment gives it.

        task_weight * r + weight * r_model / (standard deviation of the returns of r_model)

    So returns and advantages contain it, in every algorithm. A replay buffer keeps what was paid
    when the step was taken; one that relabels rewards, such as `HerReplayBuffer`, drops it. The
    model is read at every step and then learns, by itself, from all steps since it last did.

    A step leads to `infos["terminal_observation"]` where it ended the episode. The task's own
    reward stays in `infos["rlgen/reward"]` beside `infos["rlgen/bonus"]`, as paid. Statistics of
    episodes are of the task if the `Monitor` or `VecMonitor` is inside, as with `make_vec_env`.
    Two of these around one environment add up.

    Attributes:
        training: False for evaluation: the reward is the task's alone, and nothing is learnt.
        metrics: what the model said when it last learnt, with the means of the task's reward and
            of the bonus over the steps that it learnt from.

    Args:
        venv: any `VecEnv`; a `VecNormalize` goes around this, not inside.
        reward_model: with `reward`, `update`, `state_dict` and `load_state_dict`.
        weight: of the model's reward beside the task's.
        task_weight: of the reward of `venv`; 0 leaves it out, as imitation does.
        steps: of the vector environment from one update of the model to the next: the algorithm's
            `n_steps`, so that it learns at the end of each rollout.
        normalise: divide by the running standard deviation of the returns.
        discount: of those returns.

    Example:
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from rlgen.agents.exploration import HashCounts
        >>> from rlgen.agents.sb3 import RewardModelVecEnv
        >>> venv = RewardModelVecEnv(make_vec_env("CartPole-v1", 2), HashCounts(), weight=0.1)
        >>> venv.reset().shape
        (2, 4)
    """

    def __init__(
        self,
        venv: VecEnv,
        reward_model: RewardModel,
        *,
        weight: float = 1.0,
        task_weight: float = 1.0,
        steps: int = 128,
        normalise: bool = True,
        discount: float = 0.99,
    ) -> None:
        _check(venv, reward_model)
        for name, factor in (("weight", weight), ("task_weight", task_weight)):
            if not 0.0 <= factor < math.inf:
                raise ValueError(f"{name!r} must be at least 0 and finite, got {factor}")
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"'steps' must be a positive integer, got {steps!r}")
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"'discount' must be from 0 to 1, got {discount}")
        super().__init__(venv)
        self.reward_model, self.steps = reward_model, steps
        self.weight, self.task_weight = float(weight), float(task_weight)
        self.device = _device_of(reward_model.state_dict())
        self.scale = ReturnScale(discount) if normalise else None
        self.training = True
        self.metrics: dict[str, float] = {}
        self._obs: Observations = None
        self._action: Tensor | None = None
        self._since_update: list[Transitions] = []
        self._paid = 0.0

    def reset(self) -> Any:
        obs = self.venv.reset()
        self._obs = self._tensors(obs)
        if self.scale is not None:
            self.scale.returns = torch.zeros(self.num_envs)
        return obs

    def step_async(self, actions: Array) -> None:
        self._action = torch.tensor(np.asarray(actions), device=self.device)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        if self._obs is None or self._action is None:
            raise ValueError("call 'reset' first, and 'step_async' before each 'step_wait'")
        obs, rewards, dones, infos = self.venv.step_wait()
        infos = [
            {**info, "rlgen/reward": float(info.get("rlgen/reward", reward))}
            for info, reward in zip(infos, rewards, strict=True)
        ]
        steps = self._transitions(obs, dones, infos)
        self._obs, self._action = self._tensors(obs), None
        if self.training:
            bonus = self._pay(steps)
            for info, paid in zip(infos, bonus, strict=True):
                info["rlgen/bonus"] = info.get("rlgen/bonus", 0.0) + float(paid)
            rewards = self.task_weight * np.asarray(rewards, np.float32) + bonus
        return obs, rewards, dones, infos

    def state_dict(self) -> dict[str, Any]:
        """Of the reward model and of the scale, with the steps that it has yet to learn from."""
        since = joined(self._since_update) if self._since_update else None
        return {
            "reward_model": self.reward_model.state_dict(),
            "scale": None if self.scale is None else self.scale.state_dict(),
            "since_update": None if since is None else dict(vars(since)),
            "paid": self._paid,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the environment starts anew."""
        if (state["scale"] is None) != (self.scale is None):
            raise ValueError("'normalise' must be what it was when the state was saved")
        since = state["since_update"]
        if since is not None and len(since["obs"]) % self.num_envs:
            raise ValueError(f"the state was not saved with {self.num_envs} environments")
        self.reward_model.load_state_dict(state["reward_model"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])
        self._since_update = []
        if since is not None:
            steps = Transitions(**{name: part.to(self.device) for name, part in since.items()})
            n = self.num_envs
            self._since_update = [steps[i : i + n] for i in range(0, len(steps), n)]
        self._paid = state["paid"]
        self._obs = self._action = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to the directory `path`, as a checkpoint of rlgen."""
        saved = _Saved()
        saved.load_state_dict(self.state_dict())
        checkpoint.save(saved, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from what `save` wrote, in a wrapper made with the same arguments."""
        saved = checkpoint.load(path)
        if not isinstance(saved, _Saved):
            raise ValueError(f"{str(path)!r} holds a {type(saved).__name__}, saved by another")
        self.load_state_dict(saved.state)

    def _pay(self, steps: Transitions) -> Array:
        """Read the model, then let it learn if it is time."""
        reward = self.reward_model.reward(steps).detach().to("cpu", torch.float32)
        name = type(self.reward_model).__name__
        if reward.shape != (self.num_envs,):
            raise ValueError(
                f"{name} must pay for {self.num_envs} steps, got shape {tuple(reward.shape)}"
            )
        if not bool(reward.isfinite().all()):
            raise ValueError(f"{name} paid what is not finite: {reward.tolist()}")
        if self.scale is not None:
            reward = self.scale.scale(reward[None], steps.done[None].cpu())[0]
        bonus: Array = (self.weight * reward).numpy()
        self._paid += float(bonus.mean())
        self._since_update.append(steps)
        if len(self._since_update) >= self.steps:
            self._update()
        return bonus

    def _update(self) -> None:
        steps, bonus = joined(self._since_update), self._paid / len(self._since_update)
        self._since_update, self._paid = [], 0.0
        learnt = self.reward_model.update(steps)
        self.metrics = {**learnt, "task_reward": float(steps.reward.mean()), "bonus": bonus}

    def _transitions(self, obs: Any, dones: Array, infos: Sequence[dict[str, Any]]) -> Transitions:
        assert self._action is not None
        ended = np.flatnonzero(dones).tolist()
        for i in ended:
            if infos[i].get("terminal_observation") is None:
                raise ValueError(f"{self.venv} lost the last observation: no terminal_observation")
        by_time = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        reward = [info["rlgen/reward"] for info in infos]
        done, truncated = torch.tensor(np.asarray(dones, bool)), torch.tensor(by_time)
        return Transitions(
            self._obs,
            self._action,
            torch.tensor(reward, dtype=torch.float32, device=self.device),
            self._tensors(_with_ends(obs, ended, infos)),
            (done & ~truncated).to(self.device),
            (done & truncated).to(self.device),
        )

    def _tensors(self, obs: Any) -> Observations:
        """Copies on the model's device; what is one number, such as a state, is a vector of one."""
        if isinstance(obs, dict):
            return {name: self._tensors(part) for name, part in obs.items()}
        tensor = torch.tensor(np.asarray(obs), device=self.device)
        return tensor[:, None] if tensor.ndim == 1 else tensor


class GenerativeFeatures(BaseFeaturesExtractor):
    """Any encoder as the features of a policy: the mean of its codes, flattened.

        policy_kwargs = {
            "features_extractor_class": GenerativeFeatures,
            "features_extractor_kwargs": {"encoder": vae},
        }

    The encoder's x is the observation itself, as for the reward models: Stable-Baselines3's
    division of pictures by 255, its one-hot codes and, where the encoder's `event_shape` tells so,
    its order of axes are undone. A copy of the encoder is used, so that each network has its own,
    and Stable-Baselines3's orthogonal initialisation does not touch it.

    Args:
        observation_space: as Stable-Baselines3 gives it.
        encoder: a trained model with `encode`, without a context.
        train: let the policy's losses train the copy, too; otherwise it never changes.
        features: turns observations, as the policy has them but undone as above, into the
            encoder's x; None reshapes them to its event_shape.

    Example:
        >>> from gymnasium.spaces import Box
        >>> from rlgen.agents.sb3 import GenerativeFeatures
        >>> from rlgen.generative import VAE
        >>> GenerativeFeatures(Box(-1.0, 1.0, (4,)), VAE(4, latent=3)).features_dim
        3
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        encoder: GenerativeModel,
        *,
        train: bool = False,
        features: Callable[[Any], Tensor] | None = None,
    ) -> None:
        require(encoder, Encoder, "GenerativeFeatures")
        if features is None:
            _check_order(observation_space, encoder)
        device = next(encoder.parameters()).device
        blank = _blank(observation_space, device)
        with torch.no_grad(), unchecked():
            width = _means(encoder, _data(blank, observation_space, encoder, features)).shape[1]
        super().__init__(observation_space, width)
        self.encoder = copy.deepcopy(encoder).requires_grad_(train)
        self.trains, self.turn = train, features
        self.train()

    def forward(self, observations: Any) -> Tensor:
        """Preprocessed observations -> (B, features_dim)."""
        obs = restored(observations, self._observation_space)
        with torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
            x = _data(obs, self._observation_space, self.encoder, self.turn)
            return _means(self.encoder, x).float()

    def train(self, mode: bool = True) -> "GenerativeFeatures":
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.trains:
            self.encoder.eval()
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> "GenerativeFeatures":
        """Does nothing: Stable-Baselines3 would initialise the encoder's weights anew."""
        return self


class _Saved(checkpoint.Configurable):
    """A state as a checkpoint can hold it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def restored(obs: Any, space: spaces.Space[Any]) -> Any:
    """What Stable-Baselines3 did to observations before it gave them to a network, undone."""
    if isinstance(space, spaces.Dict):
        return {name: restored(obs[name], part) for name, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return obs.argmax(-1, keepdim=True)
    if isinstance(space, spaces.MultiDiscrete):
        parts = obs.split(space.nvec.tolist(), -1)
        return torch.cat([part.argmax(-1, keepdim=True) for part in parts], -1)
    if is_image_space(space):
        if bool((obs > 1.0).any()):
            raise ValueError("GenerativeFeatures needs the policy's default, normalize_images=True")
        obs = (obs * 255.0).round()
    return obs.to(torch.from_numpy(np.zeros(0, space.dtype)).dtype)


def _check(venv: object, reward_model: object) -> None:
    if not isinstance(venv, VecEnv):
        raise TypeError(
            f"RewardModelVecEnv needs a VecEnv, such as make_vec_env(id, 8), "
            f"got a {type(venv).__name__}"
        )
    if is_vecenv_wrapped(venv, VecNormalize):
        raise ValueError(
            "put VecNormalize around RewardModelVecEnv, not inside: replay buffers store the "
            "rewards that went into VecNormalize, which would be those without the bonus"
        )
    if not isinstance(reward_model, RewardModel) or isinstance(reward_model, type):
        raise TypeError(
            f"a reward model needs reward, update, state_dict and load_state_dict; "
            f"{getattr(reward_model, '__name__', type(reward_model).__name__)} is none"
        )


def _device_of(state: Any) -> torch.device:
    """Where the tensors of a state are; counters and random states may stay on the CPU."""
    if isinstance(state, Tensor):
        return state.device
    parts = state.values() if isinstance(state, dict) else state
    if isinstance(state, dict | list | tuple):
        for device in map(_device_of, parts):
            if device.type != "cpu":
                return device
    return torch.device("cpu")


def _with_ends(obs: Any, ended: list[int], infos: Sequence[dict[str, Any]], *names: str) -> Any:
    """`obs` with the rows of ended episodes as they were seen before the restart."""
    if isinstance(obs, dict):
        return {name: _with_ends(part, ended, infos, *names, name) for name, part in obs.items()}
    rows = np.array(obs)
    for i in ended:
        final = infos[i]["terminal_observation"]
        for name in names:
            final = final[name]
        rows[i] = final
    return rows


def _blank(space: spaces.Space[Any], device: torch.device) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _blank(part, device) for name, part in space.items()}
    shape: Any = get_obs_shape(space)
    return torch.zeros(1, *shape, device=device)


def _data(
    obs: Any,
    space: spaces.Space[Any],
    encoder: GenerativeModel,
    features: Callable[[Any], Tensor] | None,
) -> Tensor:
    if features is not None:
        obs = features(obs)
    elif isinstance(space, spaces.Dict):
        obs = flat(obs)
    elif is_image_space(space) and tuple(encoder.event_shape) != space.shape:
        obs = obs.movedim(1, -1)
    return as_data(obs, encoder)


def _means(encoder: GenerativeModel, x: Tensor) -> Tensor:
    assert isinstance(encoder, Encoder)
    mean: Tensor = encoder.encode(x).mean
    return mean.flatten(1)


def _check_order(space: spaces.Space[Any], encoder: GenerativeModel) -> None:
    """Stable-Baselines3 may have moved the channels of pictures, and does not say so."""
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    pictures = [part.shape for part in parts if is_image_space(part) and part.shape]
    if not pictures:
        return
    channels, *rest = pictures[0]
    allowed = [] if isinstance(space, spaces.Dict) else [pictures[0], (*rest, channels)]
    if tuple(encoder.event_shape) not in allowed:
        raise ValueError(
            f"{type(encoder).__name__} models events of shape {tuple(encoder.event_shape)}, which "
            f"does not tell where the channels of pictures of shape {pictures[0]} go: give "
            "'features' that turn an observation into the encoder's x"
        )

"""Curiosity about what the agent controls: prediction errors in features of inverse dynamics."""

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.agents.actions import action_numbers, action_width
from rlgen.agents.exploration.networks import ForwardModels, NetworkBonus
from rlgen.agents.standardised import Standardised
from rlgen.agents.transitions import Transitions
from rlgen.generative.nets import MLP
from rlgen.seeding import drawing_from


class ICM(NetworkBonus):
    """The intrinsic curiosity module: prediction errors in features that actions can be read from.

        bonus = 1/2 |f(phi(s), a) - phi(s')|^2

    phi learns to tell the action that led from s to s', so it has no use for what no action
    changes, such as noise. f learns to predict phi(s'), which does not train phi: it would make
    phi constant.

    References:
        Deepak Pathak, Pulkit Agrawal, Alexei Efros and Trevor Darrell. Curiosity-driven Exploration
        by Self-supervised Prediction, 2017. https://arxiv.org/abs/1705.05363

    Args:
        observation_space: a Box or a Dict.
        action_space: Discrete or Box.
        latent: features in phi.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those, half of it fresh.
        memory: steps kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.exploration import ICM
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, seed=0)
        >>> icm = ICM(world.observation_space, world.action_space)
        >>> agent = PPO(world, reward_models={"icm": icm}).learn(64 * 32, progress=False)
        >>> icm.encode(world.reset()).shape
        torch.Size([64, 32])
    """

    networks: "_Networks"

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        latent: int = 32,
        lr: float = 3e-3,
        updates: int = 8,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        if latent < 1:
            raise ValueError(f"'latent' must be positive, got {latent}")
        self.actions = action_width(action_space)
        self.discrete = isinstance(action_space, gymnasium.spaces.Discrete)
        with drawing_from(seed):
            networks = _Networks(Standardised(observation_space), self.actions, latent)
        super().__init__(
            networks,
            networks.inputs,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            memory=memory,
            seed=seed,
        )

    @torch.no_grad()
    def encode(self, obs: Tensor) -> Tensor:
        """phi of observations, with shape (B, latent)."""
        phi: Tensor = self.networks.encoder(obs)
        return phi

    @torch.no_grad()
    def predict_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """The action between two observations: logits of a discrete one, or its mean, (B, A)."""
        return self._inverse(self.encode(obs), self.encode(next_obs))

    def bonus(self, t: Transitions) -> Tensor:
        return self._errors(self.encode(t.obs), t.action, self.encode(t.next_obs))

    def rows(self, t: Transitions) -> tuple[Tensor, ...]:
        return t.obs, t.action, t.next_obs

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        obs, action, next_obs = rows
        phi, next_phi = self.networks.encoder(torch.cat([obs, next_obs])).chunk(2)
        told = self._inverse(phi, next_phi)
        if self.discrete:
            inverse = F.cross_entropy(told, action.reshape(-1).long())
        else:
            inverse = (told - action_numbers(action, self.actions)).square().mean()
        forward = self._errors(phi.detach(), action, next_phi.detach()).mean()
        return {"inverse": inverse, "forward": forward}

    def _inverse(self, phi: Tensor, next_phi: Tensor) -> Tensor:
        told: Tensor = self.networks.inverse(torch.cat([phi, next_phi], dim=1))
        return told

    def _errors(self, phi: Tensor, action: Tensor, next_phi: Tensor) -> Tensor:
        numbers = action_numbers(action, self.actions)
        (predicted,) = self.networks.dynamics(phi, numbers)
        error: Tensor = predicted - next_phi
        return 0.5 * error.square().sum(1)


class _Networks(nn.Module):
    def __init__(self, inputs: Standardised, actions: int, latent: int) -> None:
        super().__init__()
        self.inputs = inputs
        # of fixed length, or phi would grow without end and the bonus with it
        norm = nn.LayerNorm(latent, elementwise_affine=False)
        self.encoder = nn.Sequential(inputs, MLP(inputs.width, latent, (64,)), norm)
        self.inverse = MLP(2 * latent, actions, (64,))
        self.dynamics = ForwardModels(latent, actions, latent)

"""Distilling a random network: where it was not seen yet, it cannot be imitated."""

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from rlgen.agents.exploration.networks import NetworkBonus
from rlgen.agents.standardised import Standardised
from rlgen.agents.transitions import Transitions
from rlgen.generative.nets import MLP
from rlgen.seeding import drawing_from

_GAIN = 3.0  # of the random network's hidden layers


class RND(NetworkBonus):
    """Pays for how badly a predictor imitates a fixed random network where a step led.

        bonus = mean over outputs of (predictor(n(o')) - target(n(o')))^2

    n standardises observations by the mean and variance of all that were learnt from, and clips
    them to five standard deviations.

    References:
        Yuri Burda, Harrison Edwards, Amos Storkey and Oleg Klimov. Exploration by Random Network
        Distillation, 2018. https://arxiv.org/abs/1810.12894

    Args:
        observation_space: a Box or a Dict.
        latent: outputs of the random network.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those, half of it fresh.
        memory: observations kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.exploration import RND
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, seed=0)
        >>> models = {"rnd": RND(world.observation_space)}
        >>> agent = PPO(world, reward_models=models).learn(64 * 32, progress=False)
    """

    networks: "_Networks"

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        *,
        latent: int = 64,
        lr: float = 3e-3,
        updates: int = 8,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        if latent < 1:
            raise ValueError(f"'latent' must be positive, got {latent}")
        with drawing_from(seed):
            networks = _Networks(Standardised(observation_space), latent)
        super().__init__(
            networks,
            networks.inputs,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            memory=memory,
            seed=seed,
        )

    def bonus(self, t: Transitions) -> Tensor:
        return self._errors(t.next_obs)

    def rows(self, t: Transitions) -> tuple[Tensor, ...]:
        return (t.next_obs,)

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        (obs,) = rows
        return {"error": self._errors(obs).mean()}

    def _errors(self, obs: Tensor) -> Tensor:
        x = self.inputs(obs)
        error: Tensor = self.networks.predictor(x) - self.networks.target(x)
        return error.square().mean(1)


class _Networks(nn.Module):
    def __init__(self, inputs: Standardised, latent: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.target = _crumpled(MLP(inputs.width, latent, (64, 64))).requires_grad_(False)
        self.predictor = MLP(inputs.width, latent, (64, 64))


@torch.no_grad()
def _crumpled(layers: nn.Sequential) -> nn.Sequential:
    """A network far from linear: imitating it at one observation says little about others."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, 1.0 if layer is linear[-1] else _GAIN)
    return layers

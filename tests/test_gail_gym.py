"""GAIL on a gymnasium environment: ends that are worth what going on is."""

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rlgen.agents.imitation import GAIL, Demonstrations, Trajectory, record
from rlgen.agents.transitions import Transitions
from rlgen.envs.adapters import from_gymnasium


def shown() -> tuple[Demonstrations, Any]:
    """Falls of a cart that is always pushed to the right."""
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    venv = gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs=same_step)
    world = from_gymnasium(venv)
    return record(world, lambda obs: torch.ones(len(obs), dtype=torch.int64), 8), world


def constant(**options: Any) -> tuple[GAIL, Transitions]:
    played, world = shown()
    gail = GAIL(played, world.observation_space, world.action_space, updates=0, **options)
    for parameter in gail.critic.parameters():
        parameter.data.zero_()
    return gail, played.transitions()


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_a_constant_critic_pays_nothing_for_ends_or_for_going_on(discount: float) -> None:
    gail, t = constant(discount=discount)
    assert int(t.terminated.sum()) == 8
    torch.testing.assert_close(gail.reward(t), torch.zeros(len(t)))


def test_without_absorbing_states_a_constant_critic_pays_for_every_step_alive() -> None:
    gail, t = constant(absorbing=False)
    paid = gail.reward(t)
    torch.testing.assert_close(paid, torch.full_like(paid, 0.6931472))


def test_an_agent_that_never_falls_makes_falling_the_experts() -> None:
    played, world = shown()
    standing = Trajectory(torch.zeros(201, 4), torch.arange(200) % 2, False, True)
    agent = Demonstrations((standing,)).transitions()
    gail = GAIL(played, world.observation_space, world.action_space, seed=0)
    for _ in range(20):
        gail.update(agent)
    t = played.transitions()
    end = gail.reward(t)[t.terminated].mean() * (1 - gail.discount)
    assert end > gail.reward(agent).mean()

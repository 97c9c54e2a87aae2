"""Observations in parts, such as MiniGrid's own, become one tensor for all that learn."""

from typing import Any

import gymnasium
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rlgen.agents import PPO, REINFORCE, TRPO, Transitions
from rlgen.agents.exploration import RND, TableCounts
from rlgen.agents.flat_world import flattened
from rlgen.agents.observations import Features
from rlgen.agents.transitions import flat, flat_space
from rlgen.envs import FourRooms, adapters
from rlgen.envs.world import World


def in_parts(copies: int = 2) -> World:
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    venv = gymnasium.make_vec(
        "MiniGrid-Empty-5x5-v0", copies, vectorization_mode="sync", vector_kwargs=same_step,
        max_steps=7,
    )  # fmt: skip
    return adapters.from_gymnasium(venv)


def parts() -> spaces.Dict:
    return spaces.Dict(
        {
            "z": spaces.Box(-1.0, 2.0, (2,)),
            "picture": spaces.Box(0, 255, (3, 9, 9), np.uint8),
            "mission": spaces.Text(9),
            "inner": spaces.Dict({"b": spaces.MultiBinary(2), "a": spaces.Discrete(5)}),
            "codes": spaces.MultiDiscrete([2, 6]),
            "symbols": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        }
    )


def batch_of(space: spaces.Dict, count: int) -> dict[str, Any]:
    rows = [space.sample() for _ in range(count)]

    def stacked(name: str, part: spaces.Space[Any], values: list[Any]) -> Any:
        if isinstance(part, spaces.Dict):
            return {n: stacked(n, p, [v[n] for v in values]) for n, p in part.items()}
        if isinstance(part, spaces.Text):
            return values
        return torch.tensor(np.stack(values))

    return {n: stacked(n, p, [row[n] for row in rows]) for n, p in space.items()}


def test_parts_follow_in_the_order_of_their_names_and_bytes_are_scaled() -> None:
    space = parts()
    space.seed(0)
    obs = batch_of(space, 4)
    one = flat(obs)
    assert one.dtype == torch.float32 and one.shape == (4, 2 + 3 + 243 + 12 + 2)
    assert torch.equal(one[:, :2], obs["codes"].float())
    assert torch.equal(one[:, 2], obs["inner"]["a"].float())
    assert torch.equal(one[:, 3:5], obs["inner"]["b"].float())
    torch.testing.assert_close(one[:, 5:248], obs["picture"].flatten(1) / 255)
    scaled = Features((2, 2, 3), torch.uint8)(obs["symbols"])
    assert torch.equal(one[:, 248:260], scaled) and not torch.equal(scaled * 255, scaled)
    assert torch.equal(one[:, 260:], obs["z"])
    box = flat_space(space)
    assert box.shape == one.shape[1:] and all(box.contains(row) for row in one.numpy())
    assert box.low[-1] == -1.0 and box.high[-1] == 2.0 and box.high[2] == 4.0
    assert flat(one) is one and flat_space(box) is box


def test_what_has_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a part of numbers, got \['mission'\]"):
        flat({"mission": ["go"]})
    with pytest.raises(ValueError, match="must be a Box or a Dict"):
        flat_space(spaces.Discrete(3))


def test_transitions_take_parts() -> None:
    obs = {"b": torch.ones(3, 2), "a": torch.arange(3)}
    no = torch.zeros(3, dtype=torch.bool)
    steps = Transitions(obs, no, torch.zeros(3), obs, no, no)  # type: ignore[arg-type]
    assert steps.obs.tolist() == [[0, 1, 1], [1, 1, 1], [2, 1, 1]]
    assert torch.equal(steps[1:].next_obs, steps.obs[1:])


def test_a_flat_world_is_the_same_world() -> None:
    world, raw = flattened(in_parts()), in_parts()
    assert flattened(FourRooms(1)).observation_space.shape == (104,)
    assert torch.equal(world.reset(0), flat(raw.reset(0)))
    for _ in range(9):
        ours, theirs = (w.step(torch.tensor([2, 1])) for w in (world, raw))
        assert torch.equal(ours.obs, flat(theirs.obs))
        assert torch.equal(ours.final_obs, flat(theirs.final_obs))
        assert torch.equal(ours.truncated, theirs.truncated)
    assert world.observation_space.shape == (1 + 7 * 7 * 3,)


@pytest.mark.parametrize("kind", [REINFORCE, PPO, TRPO])
def test_learners_live_on_minigrid_itself(kind: Any) -> None:
    world: Any = in_parts()
    space = flat_space(world.observation_space)
    models: Any = {"new": TableCounts(), "rnd": RND(space, memory=64, updates=1)}
    agent = kind(world, steps=10, reward_models=models, seed=0).learn(20, progress=False)
    obs = world.reset(0)
    assert isinstance(obs, dict) and obs["image"].dtype == torch.uint8
    assert torch.equal(agent.predict(obs), agent.predict(flat(obs)))

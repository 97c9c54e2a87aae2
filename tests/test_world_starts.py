"""Where dreams begin: in what was collected, with what came before it, or with what is shown."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlgen.agents.world_model import GRU, Attention, Memory, WorldModel, episodes
from rlgen.agents.world_model.episodes import Latents
from rlgen.agents.world_model.recurrence import Recurrence
from rlgen.envs import OpenWorld
from rlgen.seeding import drawing_from
from tests.exact_models import exact_vision
from tests.walks import seeded

RECURRENCES: dict[str, Callable[[], Recurrence]] = {
    "GRU": lambda: GRU(8),
    "Attention": lambda: Attention(8, attention_heads=2, window=4),
}


def cells_model(recurrence: str = "GRU") -> WorldModel:
    """Sixteen cells that V knows, and an M of random weights."""
    made = RECURRENCES[recurrence]
    memory = seeded(lambda: Memory.of(1, actions=4, symbols=16, recurrence=made()))
    return WorldModel(exact_vision(torch.eye(16)), memory)


def actions(copies: int, steps: int) -> Tensor:
    return torch.randint(4, (steps, copies), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("resets", [False, True])
def test_dreams_begin_where_they_are_told_to(resets: bool) -> None:
    """Anywhere in the episodes, or only where they began; never at an end."""
    world = OpenWorld(16, size=4, start=(0, 0), goal=(3, 3), max_steps=30)
    model = cells_model().collect(world, 64)
    dream = model.dream(4000, resets=resets, seed=0, max_steps=3)
    dream.reset()
    begun = dream.state.z[:, 0].unique()
    assert begun.tolist() == ([0] if resets else list(range(15)))
    if resets:
        assert (dream.state.memory == 0).all()
    later = [dream.step(action).done for action in actions(dream.num_envs, 3)]
    assert later[-1].any() and dream.state.z[later[-1]].unique().max() < 15


def test_dreams_begin_with_what_is_shown() -> None:
    """No episode is needed, and nothing is remembered of any."""
    model = cells_model()
    dream = model.dream(400, obs=torch.eye(16)[[3, 14]], seed=0, max_steps=3)
    dream.reset()
    assert dream.state.z[:, 0].unique().tolist() == [3, 14]
    assert (dream.state.memory == 0).all()
    later = [dream.step(action).done for action in actions(dream.num_envs, 3)]
    assert set(dream.state.z[later[-1]].unique().tolist()) <= {3, 14}
    with pytest.raises(ValueError, match="resets"):
        model.dream(4, obs=torch.eye(16), resets=True)


@torch.no_grad()
def all_at_once(latents: Latents, memory: Memory, most: int) -> tuple[Tensor, Tensor]:
    """Any latents but the last of episodes, and the states of every step to choose from."""
    inside = torch.ones(len(latents.mean), dtype=torch.bool)
    inside[latents.first + latents.steps] = False
    pool = inside.nonzero()[:, 0]
    index = pool[torch.randperm(len(pool))[:most]]
    rows = latents.padded()
    states = memory.states(rows.z[:, :-1], rows.action)
    before = torch.cat([memory.initial_state(len(states))[:, None], states], dim=1)
    episode = (latents.first[:, None] <= index).sum(0) - 1
    return latents.draw(index), before[episode, index - latents.first[episode]]


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize(("most", "steps_at_once"), [(2000, 1), (2000, 70), (9, 70), (2000, 10**6)])
def test_starts_of_a_few_episodes_at_a_time_are_those_of_all_at_once(
    recurrence: str, most: int, steps_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes of 1 to 30 steps; one at a time, two, or all."""
    model = cells_model(recurrence).collect(OpenWorld(16, size=4, max_steps=30), 37)
    latents, memory = Latents.of(model.data, model.vision), model.memory
    size, asked = memory.recurrence.state_size, []
    states = memory.states

    def noted(z: Tensor, action: Tensor) -> Tensor:
        asked.append(z.shape[0] * z.shape[1])
        return states(z, action)

    monkeypatch.setattr(memory, "states", noted)
    monkeypatch.setattr(episodes, "_AT_ONCE", steps_at_once * size)
    with drawing_from(3):
        z, before = latents.starts(memory, most)
    assert max(asked) <= max(steps_at_once, int(latents.steps.max()))
    with drawing_from(3):
        same_z, same_before = all_at_once(latents, memory, most)
    assert torch.equal(z, same_z)
    torch.testing.assert_close(before, same_before, rtol=1e-5, atol=1e-6)

"""What was never tried is rewarded in dreams, and only that; and going there ends in wandering."""

import copy

import pytest
import torch

from rlgen.agents import PPO
from rlgen.agents.imitation import record
from rlgen.agents.transitions import Transitions
from rlgen.agents.world_model import Planner, Untried, Wandering, WorldModel
from rlgen.envs import OpenWorld


def corner_model() -> WorldModel:
    """Of a world in which nobody ever went left or up, with a token for each cell."""
    world = OpenWorld(16, size=3, start=(0, 0), goal=(2, 2), max_steps=8, seed=0)
    model = WorldModel.of(world, symbols=16, width=16)
    to_the_goal = lambda obs: 2 * torch.randint(2, (len(obs),)) + 1  # noqa: E731  down or right
    return model.collect(world, 64, to_the_goal)


def steps(model: WorldModel, action: torch.Tensor | None = None) -> Transitions:
    """The model's own episodes, as its dreams would show them, with other actions if given."""
    assert model.data is not None
    done = model.data.transitions()
    seen, after = (model.vision.features(model.vision.encode(o)) for o in (done.obs, done.next_obs))
    flags = done.terminated, done.truncated
    return Transitions(seen, done.action if action is None else action, done.reward, after, *flags)


def test_what_was_done_pays_nothing_and_what_was_not_pays_one() -> None:
    model = corner_model()
    model.fit(vision_steps=200, memory_steps=1, progress=False)
    untried = Untried(model)
    done = steps(model)
    assert not untried.reward(done).any()
    assert untried.reward(steps(model, (done.action + 1) % 4)).all()  # up and left
    before = untried.state_dict()["known"].clone()
    untried.update(steps(model, (done.action + 1) % 4))
    assert torch.equal(untried.known, before), "dreaming of it is not doing it"


def test_a_learner_takes_it_and_comes_back_to_it() -> None:
    model = corner_model()
    model.fit(vision_steps=20, memory_steps=20, progress=False)
    agent = PPO(model.dream(8, seed=0), reward_models={"untried": Untried(model)}, steps=8)
    agent.learn(64, progress=False)
    state = copy.deepcopy(agent.state_dict())
    again = PPO(model.dream(8, seed=0), reward_models={"untried": Untried(model)}, steps=8)
    again.load_state_dict(state)
    first, second = agent.iterate(), again.iterate()
    assert first == second


def test_numbers_are_refused() -> None:
    world = OpenWorld(8, size=3, max_steps=8, seed=0)
    model = WorldModel.of(world, latent="numbers", width=16).collect(world, 8)
    with pytest.raises(ValueError, match="tokens"):
        Untried(model)


class Still:
    """Always does the same."""

    def act(
        self, obs: torch.Tensor, state: object, episode_start: object, *, deterministic: bool
    ) -> tuple[torch.Tensor, None]:
        return torch.full((len(obs),), 3), None


def test_wandering_begins_within_so_many_steps_of_each_episode() -> None:
    world = OpenWorld(512, size=9, start=(8, 0), goal=(0, 8), max_steps=12, seed=0)
    walks = record(world, Wandering(Still(), 4, longest=6), 1024, seed=0)
    same = torch.stack([(one.action == 3).float() for one in walks if len(one) == 12]).mean(0)
    # followed at step t with probability 1 - t / 6, and by chance one time in four
    expected = (1 - torch.arange(12) / 6).clamp_min(0)
    expected = expected + (1 - expected) / 4
    assert (same - expected).abs().max() < 0.06


def test_a_pilot_knows_what_was_really_done() -> None:
    model = corner_model()
    model.fit(vision_steps=50, memory_steps=20, progress=False)
    world = OpenWorld(4, size=3, start=(0, 0), goal=(2, 2), max_steps=8, seed=1)
    pilot = model.pilot(Wandering(Still(), 4, longest=1))
    obs = world.reset()
    action, state = pilot.act(obs, None, torch.ones(4, dtype=torch.bool))
    after = world.step(action).obs
    _, later = pilot.act(after, state, torch.zeros(4, dtype=torch.bool))
    known = model.memory.step(model.vision.encode(obs), action, model.memory.initial_state(4))
    assert torch.equal(later[0], known)


def test_who_remembers_its_own_choice_is_refused() -> None:
    model = corner_model()
    for agent in (model.pilot(Still()), Planner(model.vision, model.memory)):
        with pytest.raises(TypeError, match="what was done"):
            Wandering(agent, 4, longest=3)

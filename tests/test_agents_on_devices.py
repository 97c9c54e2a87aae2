"""Each kind of agent learns, acts and is judged where its world is: on the CPU, and beyond."""

from pathlib import Path

import pytest
import torch

from rlgen.agents import PPO, VFunc
from rlgen.agents import policy_measures as pm
from rlgen.agents.imitation import GAIL, Coded, InfoGAIL, record, routes_expert
from rlgen.agents.world_model import Controller, Planner, WorldModel, evolve, measures
from rlgen.envs import FourRooms, OpenWorld

pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
TOKENS = {"symbols": 16, "width": 16}
NUMBERS = {"latent": "numbers", "size": 4, "width": 16}


def pictures(device: str, copies: int = 8) -> OpenWorld:
    form = {"size": 4, "observation": "image", "max_steps": 12}
    return OpenWorld(copies, seed=0, device=device, **form)  # type: ignore[arg-type]


def moved(model: torch.nn.Module) -> set[str]:
    return {tensor.device.type for tensor in model.state_dict().values()}


@pytest.mark.parametrize("form", [TOKENS, NUMBERS], ids=["tokens", "numbers"])
def test_a_world_model_is_learnt_and_dreamt_with(
    device: str, form: dict[str, object], tmp_path: Path
) -> None:
    world = pictures(device)
    model = WorldModel.of(world, **form).collect(world, 16)  # type: ignore[arg-type]
    model.fit(vision_steps=5, memory_steps=5, progress=False)
    assert moved(model) == {device}
    dream = model.dream(16, temperature=1.3, seed=0)
    agent = PPO(dream, steps=4, minibatch=32).learn(128, progress=False)
    assert model.pilot(agent).predict(world.reset()).device.type == device
    evolved = model.dream(16, groups=4, seed=0)
    controller = Controller.of(evolved).to(device)
    found = evolve(controller, evolved, population=4, generations=2, progress=False)
    assert found.vector.device.type == device
    planner = Planner(model.vision, model.memory, horizon=3, candidates=8, elites=2, rounds=2)
    assert planner.act(world.reset())[0].device.type == device
    start, action = torch.zeros(8).long(), torch.randint(4, (5, 8))
    dreamt = measures.dreams(model.vision, model.memory, pictures(device, 1), start, action)
    assert dreamt.cell.shape == (6, 8)
    model.save(tmp_path)
    kept = WorldModel.load(tmp_path)
    assert kept.data is not None and len(kept.data) == 16


def test_policies_differ(device: str) -> None:
    world = OpenWorld(16, size=4, start=(0, 0), seed=0, device=device)
    for bound in ("discretise", "maxent"):
        agent = VFunc(world, settings={"steps": 8}, bound=bound, candidates=8, latent=4)  # type: ignore[arg-type]
        agent.learn(256, progress=False)
        assert moved(agent.model) == {device}
        policies = agent.sample_policies(16, generator=0)
        found = pm.variety(world, policies.table(world))
        assert 0.0 <= found.success <= 1.0
        assert policies.arriving(world.blocked((1, 1))).z.device.type == device
        lower, upper = agent.information_between(16, 2)
        assert lower <= upper + 0.05  # in expectation without it
    seen = pictures(device)
    agent = VFunc(seen, settings={"steps": 8}, candidates=8, latent=4).learn(64, progress=False)
    assert agent.latent_world.features.scale.device.type == device
    assert agent.predict(seen.reset()).device.type == device


def test_two_ways_are_imitated(device: str) -> None:
    world = FourRooms(16, start=(1, 1), goal=(11, 11), seed=0, device=device)
    shown = record(world, routes_expert(world), episodes=4)
    gail = GAIL(shown, world.observation_space, world.action_space).to(device)
    models = {"imitation": InfoGAIL(gail, codes=2).to(device)}
    agent = PPO(Coded(world, codes=2), reward_models=models, world_weight=0.0, steps=8)
    agent.learn(16 * 16, progress=False)
    assert moved(agent.model) == {device}

"""The dreamers' door: a mistake is one line, and a run is a table, a picture and a folder."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents import PPO
from rlgen.agents.imitation.measures import cells
from rlgen.agents.imitation.recording import record
from rlgen.agents.world_model import Controller, WorldModel
from rlgen.agents.world_model.rounds import ByEvolution, ByPlanning, ByPPO, Dreamer, Rounds
from rlgen.envs import FourRooms, OpenWorld
from rlgen.seeding import drawing_from
from tests.doors import Call, refusal, rows
from tests.walks import same

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "train_world_model"  # that `call` calls
WHERE = ("--world", "OpenWorld", "--size", "4", "--max-steps", "12")
SHORT = (
    *("--episodes", "8", "--vision-steps", "4", "--memory-steps", "4"),
    *("--width", "16", "--evaluation", "8"),
)
PPO_OF_TOKENS = ("--steps", "64", "--copies", "4", "--symbols", "16")
TINY = (*WHERE, *SHORT, *PPO_OF_TOKENS)


def test_help_shows_every_option_with_its_default(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for option in ("world", "latent", "symbols", "recurrence", "controller", "temperature"):
        assert f"--{option}" in out
    for option in ("steps", "rounds", "episodes", "evaluation", "device", "seed", "out"):
        assert f"--{option}" in out
    for default in ("FourRooms", "tokens", "gru", "ppo", "1.0", "100", "runs/world_model"):
        assert f"default: {default}" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--world", "FiveRooms"), "FiveRooms"),
        (("--world", "CartPole-v1"), "CartPole-v1"),
        (("--world", "MiniGrid-Empty-5x5-v0", "--slip", "0.1"), "--slip"),
        (("--world", "MiniGrid-Empty-5x5-v0", "--observation", "xy"), "--observation"),
        (("--size", "5"), "--size"),
        (("--generations", "3"), "--generations is for cma, not for ppo"),
        (("--horizon", "9"), "--horizon is for planner, not for ppo"),
        (("--controller", "planner", "--steps", "9"), "--steps is for ppo, not for planner"),
        (("--controller", "cma", "--copies", "9"), "--copies is for ppo, not for cma"),
        (("--controller", "planner", "--no-remembering"), "--remembering"),
        (("--latent", "numbers", "--symbols", "7"), "--symbols is for tokens, not for numbers"),
        (("--latent", "numbers", "--positions", "2"), "--positions"),
        (("--observation", "smell"), "smell"),
        (("--start", "0", "0"), "start"),
        (("--goal", "1", "99"), "goal"),
        (("--latent", "words"), "words"),
        (("--recurrence", "lstm"), "lstm"),
        (("--recurrence", "attention", "--width", "6"), "--width"),
        (("--controller", "dqn"), "dqn"),
        (("--temperature", "0"), "--temperature"),
        (("--temperature", "nan"), "--temperature"),
        (("--slip", "2"), "--slip"),
        (("--symbols", "1"), "--symbols"),
        (("--rounds", "0"), "--rounds"),
        (("--episodes", "0"), "--episodes"),
        (("--steps", "many"), "many"),
        (("--memory-steps", "-1"), "--memory-steps"),
        (("--horizon", "0"), "--horizon"),
        (("--max-steps", "-1"), "--max-steps"),
        (("--device", "abacus"), "abacus"),
        (("--seed", "-1"), "--seed"),
        (("--rouns", "3"), "--rouns"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(call, tmp_path, *arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_leaves_all_it_promises_and_goes_on(call: Call, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    code, out, err = call("--out", str(whole), *TINY, "--rounds", "2")
    assert (code, err) == (0, "")
    assert "Round 1:" in out and "Round 2:" in out
    table = rows(out)
    assert list(table)[-4:] == ["optimum", "chance", "ppo, really", "ppo, in the dream"]
    assert table["optimum"][2] == "3.2"  # the mean of 15 distances
    assert (whole / "dream.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2]
    assert len(WorldModel.load(whole / "model").data or ()) == 16
    again = call("--out", str(whole), *TINY, "--rounds", "2")
    assert again == (code, out, err)  # it had ended: the same table

    assert call("--out", str(half), *TINY)[0] == 0
    assert call("--out", str(half), *TINY, "--rounds", "2")[0] == 0
    ends = [checkpoint.load(f / "checkpoint").state_dict() for f in (whole, half)]
    assert same(*ends)
    code, out, err = call("--out", str(half), *TINY, "--seed", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "seed" in err


@pytest.mark.parametrize(
    ("controller", "observation", "short"),
    [
        ("cma", "image", "--generations"),
        ("cma", "onehot", "--generations"),
        ("planner", "xy", "--horizon"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_everything_fits(
    call: Call, tmp_path: Path, controller: str, observation: str, short: str
) -> None:
    other = ("--latent", "numbers", "--recurrence", "attention", "--temperature", "1.3")
    by = ("--controller", controller, short, "2")
    where = ("--out", str(tmp_path), "--observation", observation)
    code, out, err = call(*where, *WHERE, *SHORT, *other, *by, "--evaluation", "2")
    assert (code, err) == (0, "")
    assert list(rows(out))[-2:] == [f"{controller}, really", f"{controller}, in the dream"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_minigrid_is_dreamt_of_too(call: Call, tmp_path: Path) -> None:
    tiny = (*SHORT, *PPO_OF_TOKENS)  # with the world's own size and time
    code, out, err = call("--out", str(tmp_path), *tiny, "--world", "MiniGrid-Empty-5x5-v0")
    assert (code, err) == (0, "")
    table = rows(out)
    assert table["optimum"][0] == "100.0%" and float(table["optimum"][1]) > 0.9
    assert len(table["ppo, in the dream"]) == 3  # there is no map to tell false goals by


def test_a_film_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    film = importlib.import_module("dream_film")
    short = ["--episodes", "4", "--vision-steps", "4", "--memory-steps", "4", "--steps", "5"]
    for name in ("a.gif", "b.gif"):
        film.main([*short, "--copies", "2", "--out", name])
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()
    with Image.open("a.gif") as gif:
        assert (gif.n_frames, gif.format) == (6, "GIF")  # type: ignore[attr-defined]
    assert "wrong" in capsys.readouterr().out
    for wrong in (["--out", "a.mp4"], ["--steps", "0"], ["--temperature", "0"]):
        with pytest.raises(SystemExit) as left:
            film.main(wrong)
        assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_film_of_the_truth_has_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model is the world itself, no frame is marked, and walks that end stay."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    film = importlib.import_module("dream_film")
    options = film.Options(copies=64, steps=100)
    made = film.filmed(Oracle(), options)
    assert not made.wrong.any()
    assert torch.equal(made.real, made.dreamt)


class Oracle:
    """Four-Rooms in the place of a model: latents are its observations."""

    vision = SimpleNamespace(decode=lambda z: z)

    def imagine(self, obs: Tensor, actions: Tensor, **_: Any) -> SimpleNamespace:
        world = FourRooms(len(obs), observation="image", goal="none", max_steps=1000)
        world.reset(0)
        world.load_state_dict({**world.state_dict(), "cell": cells(obs, world)})
        z, ends = [obs], []
        for action in actions:
            world.step(action)
            seen = world.observe()
            seen[:, 1] = obs[:, 1]  # the goal, which that world does not show
            z.append(seen)
            ends.append((seen[:, 1] == seen[:, 2]).flatten(1).all(1))
        return SimpleNamespace(z=torch.stack(z), terminated=torch.stack(ends))


def small(dreamer: Dreamer) -> Rounds:
    world = OpenWorld(8, size=4, max_steps=12)
    with drawing_from(0):
        model = WorldModel.of(world, symbols=16, width=16)
    fitting = {"vision_steps": 4, "memory_steps": 4}
    return Rounds(model, world, dreamer, episodes=8, fitting=fitting)


DREAMERS = (
    ByPPO(steps=64, copies=4, max_steps=12),
    ByEvolution(2, population=8, rollouts=2, max_steps=12),
    ByPlanning(planner={"horizon": 2, "candidates": 8, "elites": 2}),
)


@pytest.mark.parametrize("dreamer", DREAMERS, ids=lambda d: type(d).__name__)
def test_rounds_go_on_as_if_they_had_never_stopped(dreamer: Dreamer) -> None:
    whole, half = small(dreamer), small(dreamer)
    whole.iterate()
    half.load_state_dict(whole.state_dict())
    torch.manual_seed(123)  # what is drawn elsewhere makes no difference
    assert whole.iterate() == half.iterate()
    assert same(whole.state_dict(), half.state_dict())


def test_a_round_is_what_was_said() -> None:
    rounds = small(DREAMERS[1])
    assert rounds.pilot() is None and rounds.steps == 0
    rounds.iterate()
    data = rounds.model.data
    assert data is not None and rounds.steps == data.steps
    assert isinstance(rounds.agent, Controller)
    before = rounds.agent
    rounds.iterate()
    assert rounds.agent is not before and len(rounds.model.data or ()) == 16
    walks = (rounds.model.data or data).trajectories
    assert walks[:8] == data.trajectories
    starts = [torch.stack([walk.obs[0] for walk in part]) for part in (walks[:8], walks[8:])]
    assert not torch.equal(*starts), "each round has a seed of its own"
    with pytest.raises(ValueError, match="episodes"):
        Rounds(rounds.model, rounds.world, DREAMERS[0], episodes=0)


def test_a_controller_collects_with_some_chance_and_is_judged_without() -> None:
    rounds = small(ByEvolution(1, population=8, rollouts=2, max_steps=12))
    rounds.iterate()
    pilot = rounds.pilot()
    obs = rounds.world.reset(0)[:1].repeat(64, 1)
    sure, _ = pilot.act(obs, None, None, deterministic=True)  # type: ignore[union-attr]
    unsure, _ = pilot.act(obs, None, None, deterministic=False)  # type: ignore[union-attr]
    assert len(sure.unique()) == 1 and len(unsure.unique()) == 4


@pytest.mark.parametrize("remembering", [True, False])
def test_evolution_begins_at_a_controller_of_nothing(remembering: bool) -> None:
    """It has an input for each feature, and no episode is looked at for it."""
    world = OpenWorld(8, size=4)
    model = WorldModel.of(world, symbols=16, width=16, remembering=remembering)
    agent = ByEvolution().begin(model, 0)
    features = model.watched(world).reset().shape[1]
    assert agent.parameters_count == (features + 1) * 4
    assert not any(parameter.any() for parameter in agent.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_defaults_solve_four_rooms(call: Call, tmp_path: Path) -> None:
    code, out, err = call("--out", str(tmp_path))
    assert (code, err) == (0, "")
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] <= 10_000 and line["seconds"] < 120.0
    assert line["real/success"] >= 0.95
    optimum = float(rows(out)["optimum"][2])
    assert line["real/length"] <= 1.35 * optimum
    assert line["dream/false_goals"] <= 0.02
    model = WorldModel.load(tmp_path / "model")
    agent = PPO.load(tmp_path / "agent", model.dream(64))
    assert agent.total_steps == 65_536
    real, dreamt = lengths(model, agent)
    assert abs(dreamt / real - 1.0) <= 0.15


def lengths(model: WorldModel, agent: PPO) -> tuple[float, float]:
    """The mean steps of real episodes, and of dreamed ones from the same starts."""
    world = FourRooms(64, observation="image")
    real = record(world, model.pilot(agent), 512, seed=1, deterministic=False)
    firsts = torch.stack([walk.obs[0] for walk in real])
    dream = model.dream(512, obs=firsts, max_steps=world.max_steps)
    dream.reset(1)
    steps, done = 0, torch.zeros(512, dtype=torch.bool)
    with drawing_from(2):
        while not bool(done.all()):
            steps += int((~done).sum())
            action, _ = agent.act(dream.observe(), deterministic=False)
            _, terminated, truncated = dream.advance(action, frozen=done)
            done |= terminated | truncated
    return real.steps / 512, steps / 512

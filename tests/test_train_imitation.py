"""The imitators' door: a mistake is one line, and a run is a table, a picture and a folder."""

from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rlgen import checkpoint
from rlgen.agents.imitation import Demonstrations, Trajectory, record
from rlgen.envs import adapters
from tests.doors import Call, refusal, rows
from tests.walks import same

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "train_imitation"  # that `call` calls
TINY = ("--steps", "16", "--copies", "4", "--rollout", "8", "--cloning", "10", "--evaluation", "8")


@pytest.fixture
def poles(tmp_path: Path) -> Path:
    """A file of demonstrations of CartPole."""
    how = {"vectorization_mode": "sync"}
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    venv = gymnasium.make_vec("CartPole-v1", 2, vector_kwargs=same_step, **how)  # type: ignore[arg-type]
    world = adapters.from_gymnasium(venv)
    file = tmp_path / "poles.npz"
    record(world, lambda obs: (obs[:, 2] + obs[:, 3] > 0).long(), 3).save(file)
    return file


def test_help_shows_every_option_with_its_default(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for option in ("world", "algorithm", "demonstrations", "by", "episodes", "start", "learner"):
        assert f"--{option}" in out
    for option in ("game", "reward", "codes", "weight", "absorbing", "device", "seed", "out"):
        assert f"--{option}" in out
    for default in ("FourRooms", "gail", "ppo", "2400", "64", "positive", "runs/imitation"):
        assert f"default: {default}" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--world", "FiveRooms"), "FiveRooms"),
        (("--world", "MiniGrid-Nowhere-v0", "--by", "x"), "MiniGrid-Nowhere-v0"),
        (("--world", "CartPole-v1"), "whom to imitate"),
        (("--algorithm", "dagger"), "dagger"),
        (("--algorithm", "bc", "bc"), "bc bc"),
        (("--world", "CartPole-v1", "--algorithm", "maxent"), "maxent"),
        (("--demonstrations", "nowhere.npz"), "nowhere.npz"),
        (("--by", "magic"), "magic"),
        (("--by", "keyboard"), "record_demonstrations.py"),
        (("--by", "first"), "OpenWorld"),
        (("--by", "routes", "--goal", "1", "11"), "start"),
        (("--goal", "0", "0"), "goal"),
        (("--observation", "smell"), "smell"),
        (("--learner", "dqn"), "dqn"),
        (("--game", "chess"), "chess"),
        (("--game", "wasserstein"), "--reward logit"),
        (("--reward", "huge"), "huge"),
        (("--codes", "1"), "--codes"),
        (("--steps", "0"), "--steps"),
        (("--steps", "many"), "many"),
        (("--rollout", "0"), "--rollout"),
        (("--max-steps", "-1"), "--max-steps"),
        (("--weight", "nan"), "--weight"),
        (("--penalty", "-1"), "--penalty"),
        (("--discount", "1"), "--discount"),
        (("--slip", "2"), "--slip"),
        (("--device", "abacus"), "abacus"),
        (("--seed", "-1"), "--seed"),
        (("--stpes", "3"), "--stpes"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(call, tmp_path, *arguments)


def test_demonstrations_that_do_not_fit_are_one_line(
    call: Call, tmp_path: Path, poles: Path
) -> None:
    where = ("--out", str(tmp_path / "runs"), "--demonstrations", str(poles))
    for more, named in (
        ((), "trajectory 0"),  # of another world
        (("--world", "CartPole-v1", "--episodes", "4"), "no more than 3"),
    ):
        code, out, err = call(*where, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert named in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_leaves_all_it_promises_and_goes_on(call: Call, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    both = ("--algorithm", "infogail", "bc", "--warm-start")
    code, out, err = call("--out", str(whole), *both, *TINY)
    assert (code, err) == (0, "")
    assert "16 demonstrations by routes" in out and "go on in their last state" in out
    table = rows(out)
    assert list(table)[-4:] == ["expert", "demonstrations", "infogail", "bc"]
    assert table["expert"][1:4] == ["1.000 +- 0.000", "20.0", "0.000"]
    assert table["infogail"][-1].endswith("nats")
    assert (whole / "paths.png").read_bytes().startswith(b"\x89PNG")
    assert len(Demonstrations.load(whole / "demonstrations.npz")) == 16
    again = call("--out", str(whole), *both, *TINY)
    assert again == (code, out, err)  # it had ended: the same table

    assert call("--out", str(half), *both, *TINY, "--steps", "8")[0] == 0
    assert call("--out", str(half), *both, *TINY)[0] == 0
    for name in ("infogail", "bc"):
        ends = [checkpoint.load(f / name / "checkpoint").state_dict() for f in (whole, half)]
        assert same(*ends)
    code, out, err = call("--out", str(half), *both, *TINY, "--seed", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "seed" in err and "demonstrations" in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_gymnasium_world_is_imitated_from_a_file(
    call: Call, tmp_path: Path, poles: Path
) -> None:
    where = ("--out", str(tmp_path / "runs"), "--demonstrations", str(poles), *TINY)
    names = ("gail", "bc", "airl", "infogail")
    code, out, err = call(*where, "--world", "CartPole-v1", "--algorithm", *names)
    assert (code, err) == (0, "")
    table = rows(out)
    assert list(table)[-5:] == ["demonstrations", *names]
    assert float(table["demonstrations"][1].split(" +- ")[0]) > 100.0
    assert (tmp_path / "runs" / "returns.png").read_bytes().startswith(b"\x89PNG")


def test_rewards_need_not_be_known(call: Call, tmp_path: Path, poles: Path) -> None:
    bare = tuple(
        Trajectory(one.obs, one.action, one.terminated, one.truncated)
        for one in Demonstrations.load(poles)
    )
    Demonstrations(bare).save(poles)
    where = ("--out", str(tmp_path / "runs"), "--demonstrations", str(poles), *TINY)
    code, out, err = call(*where, "--world", "CartPole-v1", "--algorithm", "bc")
    assert (code, err) == (0, "")
    assert rows(out)["demonstrations"][1] == "-"


@pytest.mark.parametrize("name", ["maxent", "apprenticeship"])
def test_exact_imitators_come_close(call: Call, tmp_path: Path, name: str) -> None:
    where = ("--out", str(tmp_path), "--world", "OpenWorld", "--algorithm", name, *TINY)
    code, out, err = call(*where, "--start", "0", "0", "--episodes", "64")
    assert (code, err) == (0, "")
    floor, found = (float(rows(out)[who][3]) for who in ("demonstrations", name))
    assert found <= floor + 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("observation", ["onehot", "xy", "image"])
@pytest.mark.parametrize("learner", ["ppo", "trpo"])
def test_everything_fits(call: Call, tmp_path: Path, observation: str, learner: str) -> None:
    where = ("--out", str(tmp_path), "--observation", observation, "--learner", learner, *TINY)
    names = ("bc", "gail", "airl", "infogail", "maxent", "apprenticeship")
    game = ("--game", "wasserstein", "--reward", "logit", "--clip", "0.1", "--penalty", "0")
    code, out, err = call(*where, *game, "--world", "OpenWorld", "--algorithm", *names)
    assert (code, err) == (0, "")
    assert list(rows(out))[-8:] == ["expert", "demonstrations", *names]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_saved_agent_is_imitated_in_minigrid(call: Call, tmp_path: Path) -> None:
    from rlgen.agents import PPO
    from rlgen.envs import MiniGrid

    PPO(MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0), steps=8).save(tmp_path / "agent")
    where = ("--out", str(tmp_path / "runs"), "--by", str(tmp_path / "agent"), *TINY)
    code, out, err = call(*where, "--world", "MiniGrid-Empty-5x5-v0", "--episodes", "4")
    assert (code, err) == (0, "")
    assert list(rows(out))[-3:] == ["expert", "demonstrations", "gail"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gail_comes_as_close_as_its_demonstrations(call: Call, tmp_path: Path) -> None:
    torch.manual_seed(0)
    code, out, err = call("--out", str(tmp_path))
    assert (code, err) == (0, "")
    assert float(rows(out)["gail"][3]) <= 0.12
    assert float(rows(out)["gail"][1].split(" +- ")[0]) >= 0.98

"""Checkpoints: what comes back is equal, what is broken is refused, and nothing foreign runs."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import rlgen
from rlgen import checkpoint
from rlgen.checkpoint import Configurable
from rlgen.generative import DensityModel, ExactTrainer, GaussianMixture, Trainer, heads, support
from rlgen.generative.nets import ContextMLP


class Net(DensityModel):
    """A conditional density with weights, a buffer, and arguments of every kind."""

    def __init__(
        self,
        event_shape: int | tuple[int, ...] = 2,
        *,
        head: heads.Head = heads.Normal(),  # noqa: B008
        hidden: tuple[int, ...] = (8,),
        offset: Tensor | None = None,
        context_shape: int | None = None,
        extra: Any = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if any(width < 1 for width in hidden):
            raise ValueError(f"'hidden' must be positive, got {hidden}")
        self.head, self.extra = head, extra
        self.net = ContextMLP(1, head.size(tuple(self.event_shape)), self.context_shape, hidden)
        self.register_buffer("offset", torch.zeros(()) if offset is None else offset.clone())

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        outputs = self.net(x.new_ones(len(x), 1), context)
        return self.head(outputs, tuple(self.event_shape)).log_prob(x - self.offset)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        outputs = self.net(torch.ones(n, 1, dtype=self.dtype), context)
        return self.head(outputs, tuple(self.event_shape)).sample()


class Notebook(Configurable):
    """Neither a module nor stateful."""

    def __init__(self, **words: str) -> None:
        self.words = words


@pytest.fixture(autouse=True)
def _net_is_of_rlgen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Net` stands for a family: as far as checkpoints know, it is defined in rlgen."""
    for cls in (Net, Notebook):
        monkeypatch.setattr(cls, "__module__", "rlgen.generative.model")
        monkeypatch.setattr(rlgen.generative.model, cls.__name__, cls, raising=False)


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


class TestWhatComesBack:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_module_is_equal(self, tmp_path: Path, dtype: torch.dtype) -> None:
        offset = torch.tensor([1.0, -2.0])
        model = Net(2, head=heads.MixtureOfNormals(3), hidden=(4, 4), offset=offset)
        model = model.to(dtype)
        checkpoint.save(model, tmp_path / "model")
        again = checkpoint.load(tmp_path / "model")
        assert type(again) is Net and again.head == model.head
        assert_same_state(model, again)
        x = torch.randn(5, 2, dtype=dtype)
        assert torch.equal(model.log_prob(x), again.log_prob(x))
        assert torch.equal(model.sample(3, generator=1), again.sample(3, generator=1))

    @pytest.mark.parametrize(
        "extra",
        [
            None, True, 3, 0.1, float("inf"), "ü\n", [1, (2, [3])], {"a": 1, (1, 2): None, 3: {}},
            torch.float64, torch.arange(3), {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
            torch.zeros(2, 3).T, torch.zeros(0), support.Symbols(7), (heads.Bernoulli(),),
        ],
        ids=repr,
    )  # fmt: skip
    def test_an_argument_is_equal(self, tmp_path: Path, extra: Any) -> None:
        checkpoint.save(Net(extra=extra), tmp_path / "model")
        again = checkpoint.load(tmp_path / "model").extra
        assert repr(again) == repr(extra)  # which shows types, dtypes and values

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_trainer_goes_on_as_if_it_had_never_stopped(
        self, tmp_path: Path, dtype: torch.dtype
    ) -> None:
        x = torch.randn(64, 2, dtype=dtype)
        trainer = Trainer(Net().to(dtype), lr=0.01, seed=3)
        for _ in range(3):
            trainer.step(x)
        checkpoint.save(trainer, tmp_path / "run")
        again = checkpoint.load(tmp_path / "run")
        assert again.steps == 3 and again.lr == 0.01 and again.seed == 3
        for _ in range(3):
            trainer.step(x)
            again.step(x)
        assert_same_state(trainer.model, again.model)

    def test_an_exact_trainer_goes_on_where_it_was(self, tmp_path: Path) -> None:
        x = torch.randn(200, 2)
        trainer = ExactTrainer(GaussianMixture(2, components=3), seed=3)
        for _ in range(3):
            trainer.step(x)
        checkpoint.save(trainer, tmp_path / "run")
        again = checkpoint.load(tmp_path / "run")
        assert trainer.step(x) == again.step(x)
        assert_same_state(trainer.model, again.model)
        assert (again.steps, again.converged) == (trainer.steps, trainer.converged)

    def test_what_was_loaded_can_be_saved_again(self, tmp_path: Path) -> None:
        model = Net(offset=torch.ones(2))
        checkpoint.save(model, tmp_path / "one")
        checkpoint.save(checkpoint.load(tmp_path / "one"), tmp_path / "two")
        assert_same_state(model, checkpoint.load(tmp_path / "two"))

    def test_loading_leaves_the_random_state_alone(self, tmp_path: Path) -> None:
        checkpoint.save(Net(), tmp_path / "model")
        before = torch.get_rng_state()
        checkpoint.load(tmp_path / "model")
        assert torch.equal(before, torch.get_rng_state())

    def test_the_device_reaches_the_model_inside_a_trainer(self) -> None:
        tensors: dict[str, Tensor] = {}
        made = checkpoint._encode(Trainer(Net()), tensors, "arguments")
        trainer = checkpoint._decode(made, tensors, "meta")
        assert trainer.model.net.net[0].weight.is_meta

    def test_a_device_that_is_not_there_is_not_blamed_on_the_file(self, tmp_path: Path) -> None:
        checkpoint.save(Net(), tmp_path / "model")
        with pytest.raises(Exception, match=r"(?i)cuda|device|invalid") as caught:
            checkpoint.load(tmp_path / "model", device="cuda:99")
        assert "does not fit" not in str(caught.value)

    def test_others_may_read_it_as_far_as_the_umask_lets_them(self, tmp_path: Path) -> None:
        old = os.umask(0o022)
        try:
            checkpoint.save(Net(), tmp_path / "model")
        finally:
            os.umask(old)
        assert {f.stat().st_mode & 0o777 for f in (tmp_path / "model").iterdir()} == {0o644}


class TestWhatCannotBeSaved:
    def test_an_argument_that_is_no_data(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"arguments\.extra is a Linear"):
            checkpoint.save(Net(extra=nn.Linear(1, 1)), tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a Linear"):
            checkpoint.save(nn.Linear(1, 1), tmp_path / "model")  # type: ignore[arg-type]

    def test_a_class_outside_of_rlgen(self, tmp_path: Path) -> None:
        @dataclass(frozen=True)
        class Local(support.Real): ...

        with pytest.raises(ValueError, match=r"Local"):
            checkpoint.save(Local(), tmp_path / "local")
        Local.__module__ = "rlgen.generative.support"
        with pytest.raises(ValueError, match=r"rlgen.*Local"):
            checkpoint.save(Local(), tmp_path / "local")

    def test_arguments_without_names(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"Notebook takes \*words"):
            checkpoint.save(Notebook(a="b"), tmp_path / "notebook")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(Net(offset=torch.ones(2)), tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def tensors_of(folder: Path) -> Path:
    (file,) = folder.glob("tensors-*.safetensors")
    return file


class TestBrokenFiles:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere"):
            checkpoint.load(tmp_path / "nowhere")

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpoint.load(tmp_path / "file")
        with pytest.raises(ValueError, match="is a file"):
            checkpoint.save(Net(), tmp_path / "file")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not JSON"), ("{", "not JSON"), ("\ufffd\0", "not JSON"),
            ("[" * 10**5, "not JSON"), ("[]", "not written by rlgen"),
            ('{"model_type": "bert"}', "not written by rlgen"),
            ('{"format": "x"}', "not written by rlgen"), ('{"format": 1}', "no entry 'made'"),
        ],
    )  # fmt: skip
    def test_a_foreign_folder(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            checkpoint.load(tmp_path)
        with pytest.raises(ValueError, match=message):
            checkpoint.save(Net(), tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["config.json"]
        assert (tmp_path / "config.json").read_text() == text

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="not JSON"):
            checkpoint.load(tmp_path)

    def test_a_newer_format(self, saved: Path) -> None:
        edit(saved, lambda config: config.update(format=checkpoint.FORMAT + 1, rlgen="9.9"))
        with pytest.raises(ValueError, match=r"format 2, written by rlgen 9\.9"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("keep", [0, 7, 100, -1])
    def test_truncated_tensors(self, saved: Path, keep: int) -> None:
        file = tensors_of(saved)
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ValueError, match="truncated or was changed"):
            checkpoint.load(saved)

    def test_a_changed_bit(self, saved: Path) -> None:
        file = tensors_of(saved)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="truncated or was changed"):
            checkpoint.load(saved)

    def test_missing_tensors(self, saved: Path) -> None:
        tensors_of(saved).unlink()
        with pytest.raises(ValueError, match="lacks its tensors"):
            checkpoint.load(saved)

    def test_tensors_that_are_no_safetensors(self, saved: Path) -> None:
        file = tensors_of(saved)
        file.write_bytes(b"PK\x03\x04 a pickle in a zip")
        edit(saved, lambda config: config.update(sha256=checkpoint._digest(file)))
        with pytest.raises(ValueError, match="not a safetensors file"):
            checkpoint.load(saved)

    @pytest.mark.parametrize(
        "name",
        ["../{}", "/{}", "sub/{}", "..", ".", "", "a\0b", None, ["{}"], "{}/../{}", "./../{}"],
    )
    def test_tensors_named_elsewhere(self, saved: Path, name: Any) -> None:
        file = tensors_of(saved)
        for folder in (saved.parent, saved / "sub"):
            folder.mkdir(exist_ok=True)
            shutil.copy(file, folder)
        if name == "/{}":
            name = str(saved.parent / file.name)
        elif isinstance(name, str):
            name = name.replace("{}", file.name)
        edit(saved, lambda config: config.update(tensors=name))
        with pytest.raises(ValueError, match="tensors"):
            checkpoint.load(saved)


CANARY = "rlgen_canary_of_the_tests"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that anyone could import, and that writes a file when somebody does."""
    folder, mark = tmp_path / "elsewhere", tmp_path / "imported"
    folder.mkdir()
    source = f"""
import pathlib
from rlgen.checkpoint import Configurable
pathlib.Path({str(mark)!r}).touch()
class Evil(Configurable): pass
"""
    (folder / f"{CANARY}.py").write_text(source)
    (folder / "rlgen").mkdir()
    (folder / "rlgen" / f"{CANARY}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    return mark


class TestEditedByHand:
    @pytest.mark.parametrize(
        "name",
        [
            "os.system", "torch.nn.Linear", "builtins.eval", f"{CANARY}.Evil",
            f"rlgen.{CANARY}.Evil",
            "rlgen.checkpoint.json", "rlgen.checkpoint.json.loads", "rlgen.checkpoint.os.system",
            "rlgen.checkpoint.subprocess.Popen", "rlgen.checkpoint.load", "rlgen.checkpoint.nope",
            f"rlgen..{CANARY}.Evil", f"rlgen.../{CANARY}.Evil", "rlgen.__class__", "rlgen.cli.main",
            "rlgen.generative.model.Tensor", "rlgen.generative.training.GenerativeModel",
            "rlgen.checkpoint.Configurable.__init__", "rlgen.checkpoint.Configurable",
            "rlgen.generative.model.GenerativeModel", "rlgen.generative.heads.Normal",
            "rlgen.__main__.main", "rlgen", "", "rlgen.", ".", None, 3, ["rlgen"], {}, "a\0.b",
        ],
    )  # fmt: skip
    def test_another_class(self, saved: Path, canary: Path, name: Any) -> None:
        edit(saved, lambda config: config["made"].update({"class": name}))
        before = set(sys.modules)
        with pytest.raises(ValueError, match=r"class|rlgen"):
            checkpoint.load(saved)
        assert not canary.exists()
        foreign = {m for m in set(sys.modules) - before if m.partition(".")[0] != "rlgen"}
        if not str(name).startswith(("rlgen.cli.", "rlgen.__main__.")):
            assert not foreign  # those two are of rlgen, and import what they need

    @pytest.mark.parametrize(
        "argument",
        [
            {"event_shape": "abc"}, {"event_shape": -1}, {"event_shape": 5}, {"hidden": "8"},
            {"hidden": {"tuple": [0]}}, {"hidden": {"tuple": 3}}, {"nope": 1}, {"head": None},
            {"head": {"class": "os.system", "arguments": {"command": "touch imported"}}},
            {"head": {"class": f"{CANARY}.Evil", "arguments": {}}}, {"offset": {"tensor": "nope"}},
            {"offset": {"tensor": ["x"]}}, {"extra": {"dtype": "_dynamo"}}, {"extra": {"x": 1}},
            {"extra": {"dtype": "nn"}}, {"extra": {"dict": [1]}}, {"extra": {"dict": [[[], 1]]}},
            {"context_shape": 3}, {"extra": {"class": "rlgen.generative.heads.Normal"}},
        ],
        ids=str,
    )  # fmt: skip
    def test_other_arguments(self, saved: Path, canary: Path, argument: dict[str, Any]) -> None:
        edit(saved, lambda config: config["made"]["arguments"].update(argument))
        before = set(sys.modules)
        with pytest.raises(ValueError, match=r"does not fit|checkpoint|rlgen"):
            checkpoint.load(saved)
        assert not canary.exists()
        assert set(sys.modules) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda config: config.pop("state"),
            lambda config: config.update(state=None),
            lambda config: config.update(state=[]),
            lambda config: config.update(state={"dict": []}),
            lambda config: config["state"]["dict"].pop(),
            lambda config: config["state"]["dict"].append(["more", {"tensor": "state.offset"}]),
            lambda config: config["state"]["dict"][-1].__setitem__(1, {"tensor": "state.offset"}),
            lambda config: config.update(made=None),
            lambda config: config.update(made=[config["made"]]),
            lambda config: config["made"].pop("arguments"),
        ],
    )
    def test_another_state(self, saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        edit(saved, change)
        with pytest.raises(ValueError, match=r"does not fit|does not describe"):
            checkpoint.load(saved)


class Crash(BaseException):
    """As sudden as a signal: no `except Exception` sees it."""


class TestCrashWhileSaving:
    def crash_in(self, module: Any, name: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(module, name), iter(range(10**6))

        def crashing(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                if name == "save_file":
                    Path(args[1]).write_bytes(b"half a file")
                raise Crash
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, crashing)

    @pytest.mark.parametrize("call", range(12))
    @pytest.mark.parametrize(
        ("module", "name"),
        [
            (safetensors.torch, "save_file"), (os, "replace"), (os, "fsync"), (Path, "write_bytes"),
            (Path, "unlink"),
        ],
    )  # fmt: skip
    def test_one_of_the_two_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int
    ) -> None:
        old, new = Net(offset=torch.zeros(2)), Net(offset=torch.ones(2))
        folder = tmp_path / "model"
        checkpoint.save(old, folder)
        with monkeypatch.context() as patch:
            self.crash_in(module, name, call, patch)
            try:
                checkpoint.save(new, folder)
                crashed = False
            except Crash:
                crashed = True
        found = checkpoint.load(folder)
        assert_same_state(found, new if found.offset.sum() else old)
        assert crashed or found.offset.sum() > 0
        checkpoint.save(new, folder)
        assert_same_state(checkpoint.load(folder), new)
        assert len(list(folder.iterdir())) == 2, "a save clears away what a crash left behind"

    def test_before_the_first_is_whole_there_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            self.crash_in(os, "replace", 1, patch)
            with pytest.raises(Crash):
                checkpoint.save(Net(), tmp_path / "model")
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpoint.load(tmp_path / "model")
        checkpoint.save(Net(), tmp_path / "model")
        checkpoint.load(tmp_path / "model")


class TestSavingOverAnother:
    def test_the_new_one_replaces_it(self, tmp_path: Path) -> None:
        checkpoint.save(Net(hidden=(8, 8)), tmp_path / "model")
        model = Net(3)
        for _ in range(2):  # the second has the same tensors, and so the same file
            checkpoint.save(model, tmp_path / "model")
            assert_same_state(checkpoint.load(tmp_path / "model"), model)
            assert len(list((tmp_path / "model").iterdir())) == 2

    def test_other_files_in_the_folder_are_left_alone(self, tmp_path: Path) -> None:
        checkpoint.save(Net(), tmp_path)
        for name in ("notes.txt", "tensors-mine.safetensors"):
            (tmp_path / name).write_text("mine")
        checkpoint.save(Net(), tmp_path)
        for name in ("notes.txt", "tensors-mine.safetensors"):
            assert (tmp_path / name).read_text() == "mine"

"""Run directories: what they keep, what they refuse, and learners that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlgen.agents import PPO, ActorCritic, Policy
from rlgen.agents.exploration import PseudoCounts, TableCounts
from rlgen.envs import OpenWorld
from rlgen.generative import MADE
from rlgen.runs import Run
from rlgen.seeding import drawing_from

ROOT = Path(__file__).resolve().parent.parent


def agent() -> PPO:
    """With a memory, and with two reward models of which one learns by gradients."""
    world = OpenWorld(8, size=4, start=(0, 0), goal=(3, 3), max_steps=20, seed=0)
    with drawing_from(0):
        policy = Policy.of(world.observation_space, world.action_space, hidden=(8,), memory=8)
        model = ActorCritic(policy, streams=3, hidden=(8,))
        density = MADE(16, hidden=(8,))
    rare = PseudoCounts(density, updates=1, batch_size=32, memory=128)
    return PPO(
        world, model=model, steps=8, epochs=1, minibatch=32, seed=1,
        reward_models={"new": (TableCounts(), 0.1), "rare": rare},
    )  # fmt: skip


def train(folder: Path, steps: int = 15 * 64) -> None:
    run = Run(folder, {"seed": 1}, tensorboard=False)
    agent().learn(steps, run=run, save_every=100, progress=False)


def in_a_process(work: Callable[[], None], after: float | None = None) -> bool:
    """Whether `work`, in a process of its own, was done before it was killed."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == 0


def killed_while_saving(folder: Path, at: int) -> None:
    """Dies where the file number `at` would have replaced another one."""
    real, count = os.replace, 0

    def replace(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)

    os.replace = replace  # type: ignore[assignment]
    train(folder)


def main(folder: Path) -> None:
    """Trains once in one go and once with deaths; says how many there were."""
    torch.set_num_threads(1)
    train(folder / "warm", 128)  # what torch imports when it is first needed
    begin = time.perf_counter()
    assert in_a_process(lambda: train(folder / "whole"))
    whole = time.perf_counter() - begin
    pieces, kills = folder / "pieces", 0
    # before the tensors of the second checkpoint are there, and between them and their config
    for at in (5, 3):
        kills += not in_a_process(lambda at=at: killed_while_saving(pieces, at))  # type: ignore[misc]
    draw = random.Random()
    for _ in range(3):
        kills += not in_a_process(lambda: train(pieces), draw.uniform(0.1, 0.5) * whole)
    assert in_a_process(lambda: train(pieces))
    sys.stdout.write(str(kills))


def test_a_killed_run_ends_as_one_that_was_never_killed(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from tests.test_runs import main; main(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    whole, pieces = (
        json.loads((tmp_path / name / "checkpoint" / "config.json").read_text())
        for name in ("whole", "pieces")
    )
    # weights, optimisers, worlds and reward models, bit for bit
    assert whole["state"] == pieces["state"] and whole["sha256"] == pieces["sha256"]
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "pieces")]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 15
    assert not list((tmp_path / "pieces").rglob("*.new*"))


def test_a_run_that_is_done_does_nothing_more(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, tensorboard=False)
    first = agent().learn(128, run=run, progress=False)
    again = agent().learn(128, run=Run(tmp_path, {}, tensorboard=False), progress=False)
    assert again.total_steps == 128 and len(run.metrics()) == 2
    for ours, theirs in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_callback_stops_and_the_run_is_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, tensorboard=False)
    agent().learn(640, run=run, save_every=640, callback=lambda n, m: n >= 128, progress=False)
    assert run.resume(agent()) == 128
    with pytest.raises(ValueError, match="'save_every' must be positive"):
        agent().learn(64, run=run, save_every=0)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, {"seed": 0, "lr": 0.1})
    with pytest.raises(ValueError, match="other values of lr, seed"):
        Run(tmp_path, {"seed": 1})


def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, tensorboard=False)
    run.log(1, {"loss": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": "nan"}]
    assert run.resume(agent()) == 0 and run.metrics() == []

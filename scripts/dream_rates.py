"""How fast dreams are, beside the real MiniGrid, and what a generation of evolution costs."""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import gymnasium
import torch

from rlgen.agents.world_model import Controller, WorldModel
from rlgen.agents.world_model.controller import returns_of
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from

Note = Callable[..., None]
COPIES = (64, 256, 1024)
REAL_COPIES = 64
POPULATION, ROLLOUTS = 64, 16
LATENTS = ("tokens", "numbers")
CLOCKS = {"cpu": time.process_time}


def model_of(latent: str, device: str) -> WorldModel:
    """A world model of Four-Rooms; how much it has learnt makes no difference to its speed."""
    world = FourRooms(64, observation="image", seed=0, device=device)
    with drawing_from(0):
        model = WorldModel.of(world, latent="tokens" if latent == "tokens" else "numbers")
    model.collect(world, 100).fit(vision_steps=20, memory_steps=20, progress=False)
    return model


def real_rate(seconds: float) -> float:
    """Copy-steps per CPU-second of minigrid's FourRooms in a SyncVectorEnv."""
    import minigrid  # noqa: F401  (registers its ids)
    from minigrid.wrappers import ImgObsWrapper

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("MiniGrid-FourRooms-v0", disable_env_checker=True)
        return ImgObsWrapper(env)  # type: ignore[no-untyped-call]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        venv = gymnasium.vector.SyncVectorEnv([make] * REAL_COPIES)
        venv.reset(seed=0)
        actions = [venv.action_space.sample() for _ in range(64)]
        return _rate(lambda i: venv.step(actions[i % 64]), REAL_COPIES, seconds, "cpu")


def dream_rate(model: WorldModel, copies: int, seconds: float) -> float:
    """Copy-steps per second of a dream in which chance acts; observations and restarts count."""
    dream = model.dream(copies, seed=0)
    device = dream.device
    actions = torch.randint(model.memory.actions, (64, copies), device=device)
    dream.reset(0)
    return _rate(lambda i: dream.step(actions[i % 64]), copies, seconds, device.type)


def generation(model: WorldModel, rounds: int = 3) -> float:
    """Seconds of one generation: all candidates in as many dreams each, 100 steps at the most."""
    dream = model.dream(POPULATION * ROLLOUTS, groups=POPULATION, resets=True, seed=0)
    candidates = torch.randn(POPULATION, Controller.of(dream).parameters_count, device=dream.device)
    clock, spent = CLOCKS.get(dream.device.type, time.perf_counter), []
    for seed in range(rounds + 1):
        start = clock()
        returns_of(candidates, dream, seed=seed).sum().item()  # which waits for the device
        spent.append(clock() - start)
    return statistics.median(spent[1:])


def measure(note: Note, seconds: float, rounds: int, device: str = "cpu") -> None:
    """Everything, interleaved, so that all share the machine's moods."""
    models = {latent: model_of(latent, device) for latent in LATENTS}
    sizes = COPIES if device == "cpu" else (1024, 4096, 16384)
    for _ in range(rounds):
        if device == "cpu":
            note("dream", who="real", device=device, copies=REAL_COPIES, rate=real_rate(seconds))
        for latent, model in models.items():
            for copies in sizes:
                rate = dream_rate(model, copies, seconds)
                note("dream", who=latent, device=device, copies=copies, rate=rate)
            note("generation", who=latent, device=device, seconds=generation(model))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Medians over rounds; nothing where nothing was measured."""
    rates: dict[tuple[str, str, int], list[float]] = {}
    spent: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["kind"] == "dream":
            rates.setdefault((row["who"], row["device"], row["copies"]), []).append(row["rate"])
        if row["kind"] == "generation":
            spent.setdefault((row["who"], row["device"]), []).append(row["seconds"])
    if not rates:
        return []
    real = statistics.median(rates.get(("real", "cpu", REAL_COPIES), [float("nan")]))
    lines = [
        "",
        "## Dreams beside the real world",
        "",
        "Steps a CPU-second (on a GPU: of the wall), with observations and restarts: minigrid "
        f"{version('minigrid')}'s MiniGrid-FourRooms-v0 in gymnasium {version('gymnasium')}'s "
        "`SyncVectorEnv`, and dreams of Four-Rooms from its images, with `WorldModel`'s defaults.",
        "",
        "| what | device | copies | median | range | times the real one |",
        "|---|---|---|---|---|---|",
    ]
    for (who, device, copies), found in rates.items():
        what = "minigrid" if who == "real" else f"a dream in {who}"
        median, spread = statistics.median(found), f"{min(found):,.0f} to {max(found):,.0f}"
        times = f"{median / real:.1f}"
        lines.append(f"| {what} | {device} | {copies} | {median:,.0f} | {spread} | {times} |")
    lines += [
        "",
        f"One generation of CMA-ES, {POPULATION} linear controllers in {ROLLOUTS} dreams each of "
        "100 steps at the most, of models that have hardly learnt, so that few dreams end early:",
        "",
        "| latents | device | seconds | range |",
        "|---|---|---|---|",
    ]
    for (who, device), found in spent.items():
        spread = f"{min(found):.2f} to {max(found):.2f}"
        lines.append(f"| {who} | {device} | {statistics.median(found):.2f} | {spread} |")
    return lines


def _rate(step: Callable[[int], Any], copies: int, seconds: float, device: str) -> float:
    clock = CLOCKS.get(device, time.perf_counter)
    for i in range(8):
        step(i)
    start, count = clock(), 0
    while clock() - start < seconds:
        for i in range(16):
            step(i)
        count += 16
        if device == "cuda":
            torch.cuda.synchronize()
    return copies * count / (clock() - start)

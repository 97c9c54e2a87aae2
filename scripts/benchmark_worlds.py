"""Steps per CPU-second of the tensor worlds, with minigrid beside them in the same run.

    python scripts/benchmark_worlds.py
    python scripts/benchmark_worlds.py --device cuda --copies 1024 4096 16384 65536 262144

Random actions; observations and restarts are included. minigrid's own vector environment of 8
copies is timed before and after; ratios are to the mean of the two. envpool, navix and xminigrid
stand beside it where they are installed. On an accelerator, seconds are of the wall, with the
device waited for.
"""

import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import torch
import tyro
import world_peers
from torch import Tensor

from rlgen.envs import FourRooms, MiniGrid, TensorWorld

Make = Callable[[int, str], TensorWorld[Any]]
WORLDS: dict[str, Make] = {
    "FourRooms, one-hot": lambda n, device: FourRooms(n, device=device, seed=0),
    **{
        f"MiniGrid-{name}": lambda n, device, name=name: MiniGrid(  # type: ignore[misc]
            f"MiniGrid-{name}", n, device=device, seed=0
        )
        for name in ("FourRooms-v0", "DoorKey-8x8-v0", "KeyCorridorS3R3-v0", "MultiRoom-N6-v0")
    },
}


@dataclass
class Options:
    """What to time."""

    copies: tuple[int, ...] = (64, 1024, 8192, 65536)
    device: str = "cpu"
    seconds: float = 2.0
    """of stepping for each figure"""
    peer_copies: tuple[int, ...] = (64, 1024)
    """of the other fast grid worlds that are installed"""
    out: Path | None = None
    """a markdown file for the table"""


def minigrid_rate(steps: int = 400) -> float:
    """Copy-steps per CPU-second of minigrid's FourRooms in a SyncVectorEnv of 8."""
    import minigrid  # noqa: F401  (registers its ids)
    from minigrid.wrappers import ImgObsWrapper

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("MiniGrid-FourRooms-v0", disable_env_checker=True)
        return ImgObsWrapper(env)  # type: ignore[no-untyped-call]

    venv = gymnasium.vector.SyncVectorEnv([make] * 8)
    venv.reset(seed=0)
    actions = [venv.action_space.sample() for _ in range(steps)]
    start = time.process_time()
    for action in actions:
        venv.step(action)
    return 8 * steps / (time.process_time() - start)


def rate(world: TensorWorld[Any], seconds: float) -> float:
    """Copy-steps per second."""
    on_cpu = world.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    count = int(world.action_space.n)
    actions = torch.randint(count, (64, world.num_envs), device=world.device)
    world.reset()
    for action in actions[:8]:
        world.step(action)
    wait(world.device)
    start, steps = clock(), 0
    while clock() - start < seconds:
        for action in actions:
            world.step(action)
        wait(world.device)
        steps += len(actions)
    return world.num_envs * steps / (clock() - start)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bytes_per_copy(world: TensorWorld[Any]) -> float:
    """Of the state and one observation; shared tables are not counted."""
    parts: list[Tensor] = [*world.state_dict().values(), world.observe()]
    return sum(part.nbytes for part in parts) / world.num_envs


def bandwidth(device: str, seconds: float = 1.0) -> float:
    """Bytes a second that a plain copy reads and writes, for comparison."""
    source = torch.zeros(2**28 if device != "cpu" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    wait(source.device)
    start, copies = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(8):
            target.copy_(source)
        wait(source.device)
        copies += 8
    return 2 * source.nbytes * copies / (time.perf_counter() - start)


Row = tuple[str, int, float, float]
PeerRow = tuple[str, str, int, float]


def report(
    options: Options, rows: list[Row], peers: list[PeerRow], base: float, bytes_a_second: float
) -> str:
    """The table, with what it was measured on."""
    on_cpu = options.device == "cpu"
    where = "CPU, one thread" if on_cpu else torch.cuda.get_device_name(options.device)
    lines = [
        "# Worlds: steps a second",
        "",
        f"`python scripts/benchmark_worlds.py --device {options.device} "
        f"--seconds {options.seconds:g}`",
        "",
        f"{platform.machine()} {platform.system()}, {where}, Python {platform.python_version()}, "
        f"torch {version('torch')}, minigrid {version('minigrid')}; one run.",
        f"minigrid's SyncVectorEnv of 8 FourRooms beside it: {base:,.0f} steps a CPU-second.",
        *(["On a GPU: not measured."] if on_cpu else []),
        f"A plain copy moves {bytes_a_second / 1e9:.0f} GB a second here. The last column is what "
        "reading and writing each copy's bytes once a step takes of that.",
        "",
        f"| world | copies | steps a {'CPU-' if on_cpu else ''}second | times minigrid's FourRooms "
        "| bytes a copy | of the bandwidth |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, copies, measured, size in rows:
        share = measured * 2 * size / bytes_a_second
        lines.append(
            f"| {name} | {copies} | {measured:,.0f} | {measured / base:.0f} | {size:.0f} "
            f"| {share:.1%} |"
        )
    if peers:
        lines += [
            "",
            "Others' MiniGrid-FourRooms in the same run. What they observe differs:",
            "",
            "| library | observation | copies | steps a CPU-second | times minigrid's |",
            "| --- | --- | --- | --- | --- |",
        ]
    for name, seen, copies, measured in peers:
        named = f"{name} {version(name)}"
        lines.append(f"| {named} | {seen} | {copies} | {measured:,.0f} | {measured / base:.0f} |")
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(1)
    before = minigrid_rate()
    rows: list[Row] = []
    for name, make in WORLDS.items():
        for copies in options.copies:
            world = make(copies, options.device)
            measured = rate(world, options.seconds)
            rows.append((name, copies, measured, bytes_per_copy(world)))
            print(f"{name:32} {copies:8d} {measured:14,.0f}", flush=True)
    peers: list[PeerRow] = []
    for name, (seen, peer_rate) in world_peers.installed().items():
        for copies in options.peer_copies:
            peers.append((name, seen, copies, peer_rate(copies, options.seconds)))
    text = report(options, rows, peers, (before + minigrid_rate()) / 2, bandwidth(options.device))
    print("\n" + text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

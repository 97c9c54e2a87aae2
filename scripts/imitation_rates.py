"""What GAIL costs beside its learner, and beside the `imitation` library if that is installed."""

import contextlib
import importlib
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
from torch import Tensor

from rlgen.agents import PPO
from rlgen.agents.imitation import GAIL, Demonstrations, record, shortest_paths_expert
from rlgen.envs import FourRooms, adapters
from rlgen.envs.world import World

Note = Callable[..., None]
POLE, ROOMS = "CartPole-v1", "FourRooms"
OURS, PEER = "rlgen", "imitation"


def world_of(name: str, copies: int) -> World:
    if name == ROOMS:
        return FourRooms(copies, seed=0)
    same_step = {"autoreset_mode": "SameStep"}
    return adapters.from_gymnasium(gymnasium.make_vec(name, copies, "sync", same_step))


def balance(obs: Tensor) -> Tensor:
    """Push to where the pole falls: it never does."""
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0.0).long()


def shown_in(name: str) -> Demonstrations:
    world = world_of(name, 8)
    if isinstance(world, FourRooms):
        return record(world, shortest_paths_expert(world), 16)
    return record(world, balance, 10)


def our_rate(
    name: str, copies: int, shown: Demonstrations | None, seconds: float, alike: bool = False
) -> float:
    """Training steps per CPU-second of PPO, with GAIL where something is shown.

    With `alike` as many steps, epochs, minibatches and updates as in `peer_rates`.
    """
    world = world_of(name, copies)
    how: dict[str, Any] = {"steps": 32, "minibatch": 8 * copies}
    if alike:
        how = {"steps": 256, "minibatch": 256, "epochs": 10}
    if shown is not None:
        updates = 8 if alike else 16
        gail = GAIL(shown, world.observation_space, world.action_space, updates=updates)
        how |= {"reward_models": {"gail": gail}, "world_weight": 0.0}
    agent = PPO(world, **how)
    agent.iterate()
    start, before = time.process_time(), agent.total_steps
    while time.process_time() - start < seconds:
        agent.iterate()
    return (agent.total_steps - before) / (time.process_time() - start)


def peer_rates(copies: int, shown: Demonstrations, rounds: int) -> tuple[float, float] | None:
    """The same of Stable-Baselines3's PPO, and of `imitation`'s GAIL around it."""
    if importlib.util.find_spec("imitation") is None:
        return None
    from stable_baselines3 import PPO as SB3PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    how: dict[str, Any] = {"n_steps": 256, "batch_size": 256, "seed": 0, "device": "cpu"}
    alone = SB3PPO("MlpPolicy", make_vec_env(POLE, copies, seed=0), **how)
    alone.set_logger(Logger(None, []))
    alone.learn(256 * copies)
    start = time.process_time()
    alone.learn(rounds * 256 * copies)
    plain = rounds * 256 * copies / (time.process_time() - start)

    venv = make_vec_env(POLE, copies, seed=0)
    quiet = importlib.import_module("imitation.util.logger").configure
    nets = importlib.import_module("imitation.rewards.reward_nets")
    norm = importlib.import_module("imitation.util.networks").RunningNorm
    net = nets.BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=norm)
    peer = importlib.import_module("imitation.algorithms.adversarial.gail").GAIL(
        demonstrations=as_peer_has_them(shown),
        demo_batch_size=256,
        venv=venv,
        gen_algo=SB3PPO("MlpPolicy", venv, **how),
        reward_net=net,
        n_disc_updates_per_round=8,
        allow_variable_horizon=True,
        custom_logger=quiet(None, []),
    )
    peer.train(256 * copies)
    start = time.process_time()
    peer.train(rounds * 256 * copies)
    return plain, rounds * 256 * copies / (time.process_time() - start)


def as_peer_has_them(shown: Demonstrations) -> list[Any]:
    types = importlib.import_module("imitation.data.types")
    return [
        types.TrajectoryWithRew(
            one.obs.numpy(), one.action.numpy(), None, one.terminated,
            np.zeros(len(one)) if one.reward is None else one.reward.double().numpy(),
        )
        for one in shown
    ]  # fmt: skip


def measure(note: Note, seconds: float) -> None:
    """One round of everything."""
    for name in (POLE, ROOMS):
        shown = shown_in(name)
        for copies in (64, 256, 1024):
            alone, gail = (our_rate(name, copies, given, seconds) for given in (None, shown))
            note("gail", who=OURS, world=name, copies=copies, alone=alone, gail=gail)
    shown = shown_in(POLE)
    alone, gail = (our_rate(POLE, 8, given, seconds, alike=True) for given in (None, shown))
    note("gail", who=f"{OURS}, {PEER}'s settings", world=POLE, copies=8, alone=alone, gail=gail)
    for copies in (8, 64):
        with contextlib.redirect_stderr(io.StringIO()):  # its progress
            peer = peer_rates(copies, shown, rounds=max(1, 32 // copies))
        if peer is not None:
            who = f"{PEER} {version(PEER)}"
            note("gail", who=who, world=POLE, copies=copies, alone=peer[0], gail=peer[1])


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Medians over rounds; nothing where nothing was measured."""
    if not rows:
        return []
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["world"], row["who"], row["copies"]), []).append(row)
    found = {
        key: [statistics.median(row[part] for row in group) for part in ("alone", "gail")]
        for key, group in groups.items()
    }
    peers = [rates[1] for (_, who, _), rates in found.items() if who.startswith(PEER)]
    best = max(peers, default=None)
    lines = [
        "",
        "## GAIL beside its learner",
        "",
        "Training steps a CPU-second, medians. rlgen: PPO in rollouts of 32 with 4 epochs of 4 "
        "minibatches and 16 updates of the critic, all defaults of `GAIL`. imitation: "
        "Stable-Baselines3's PPO in rollouts of 256, minibatches of 256, 10 epochs, and 8 updates "
        "of its critic; so much of everything in the row with its settings.",
        "",
        "| world | who | copies | learner alone | with GAIL | cost | times imitation's best |",
        "|---|---|---|---|---|---|---|",
    ]
    for (world, who, copies), (alone, gail) in found.items():
        times = "-" if world != POLE or who.startswith(PEER) else "not measured"
        if times != "-" and best is not None:
            times = f"{gail / best:.1f}"
        lines.append(
            f"| {world} | {who} | {copies} | {alone:,.0f} | {gail:,.0f} | {alone / gail:.2f} "
            f"| {times} |"
        )
    return lines

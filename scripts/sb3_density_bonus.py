"""Stable-Baselines3's PPO on MiniGrid with rlgen's density as a bonus, and its encoder as features.

    python scripts/sb3_density_bonus.py
    python scripts/sb3_density_bonus.py --world MiniGrid-DoorKey-8x8-v0 --timesteps 500000

Rewards are hardly ever met in the default world, so besides the return the table says how many
different views were seen: how far the agent has explored.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import tyro
from minigrid.wrappers import ImgObsWrapper
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from rlgen.agents.exploration import PseudoCounts, TableCounts
from rlgen.agents.sb3 import GenerativeFeatures, RewardModelVecEnv
from rlgen.envs import MiniGrid
from rlgen.generative import MADE, VAE, fit, heads

COPIES, ROLLOUT = 16, 128
SYMBOLS = heads.Categorical(11)  # kinds of objects in a cell, or of colours, or of states
console = Console()


class Result(NamedTuple):
    """One run."""

    returned: float  # of the task, mean over the last hundred episodes
    views: float  # different ones, in all of training
    seconds: float


def main(
    world: str = "MiniGrid-MultiRoom-N4-S5-v1",
    timesteps: int = 51_200,
    seeds: Sequence[int] = (0,),
    weight: float = 1.0,
) -> None:
    """Train PPO without a bonus, with one, and with one and the features of a VAE.

    Args:
        world: any of MiniGrid's.
        timesteps: of each run.
        seeds: of the runs.
        weight: of the bonus beside the task's reward.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # a small beta leaves more of the view in the codes
    encoder = VAE((7, 7, 3), head=SYMBOLS, latent=64, hidden=(128,), beta=0.3)
    views = random_views(world, steps=200)
    console.print(f"Fitting a VAE to {len(views)} views of random play")
    fit(encoder, views, steps=400, lr=2e-3, seed=0)
    features = {
        "features_extractor_class": GenerativeFeatures,
        "features_extractor_kwargs": {"encoder": encoder},
    }
    plain = {"normalize_images": False}  # symbols are not intensities
    variants: list[tuple[str, float, dict[str, Any]]] = [
        ("PPO", 0.0, plain),
        ("PPO + PseudoCounts(MADE)", weight, plain),
        ("PPO + PseudoCounts(MADE) + VAE features", weight, features),
    ]
    results: dict[str, list[Result]] = {name: [] for name, _, _ in variants}
    runs = [(*variant, seed) for seed in seeds for variant in variants]
    for name, paid, policy, seed in track(runs, "Training", console=console):
        results[name].append(train(world, timesteps, seed, paid, policy))
    console.print(table_of(results, f"{world}: {timesteps} steps, {len(seeds)} seed(s)"))


def train(world: str, timesteps: int, seed: int, weight: float, policy: dict[str, Any]) -> Result:
    """One run of PPO; a weight of 0 leaves the bonus out."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    venv = make_vec_env(world, COPIES, seed=seed, wrapper_class=ImgObsWrapper)
    # without a weight this only counts
    venv = counted = RewardModelVecEnv(venv, TableCounts(), weight=0.0, steps=ROLLOUT)
    if weight > 0:
        density = MADE((7, 7), head=SYMBOLS)
        bonus = PseudoCounts(density, features=objects, lr=1e-2, updates=16, seed=seed)
        venv = RewardModelVecEnv(venv, bonus, weight=weight, steps=ROLLOUT)
    agent = PPO(
        "MlpPolicy",
        venv,
        n_steps=ROLLOUT,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-3,
        ent_coef=0.01,
        policy_kwargs=policy,
        seed=seed,
        device="cpu",
    )
    agent.learn(timesteps)
    returns = [episode["r"] for episode in agent.ep_info_buffer or ()]  # of the task alone
    returned = statistics.fmean(returns) if returns else float("nan")
    return Result(returned, counted.metrics["distinct"], time.perf_counter() - began)


def objects(views: torch.Tensor) -> torch.Tensor:
    """What stands in each cell, without its colour and state."""
    return views[..., 0]


def random_views(world: str, steps: int) -> torch.Tensor:
    """What 64 random players see, with shape (64 * steps, 7, 7, 3)."""
    game = MiniGrid(world, num_envs=64, seed=0)
    game.reset()
    seen = [game.step(torch.randint(7, (64,))).obs for _ in range(steps)]
    return torch.cat(seen).long()


def table_of(results: dict[str, list[Result]], title: str) -> Table:
    table = Table(title=title)
    table.add_column("agent")
    for name in ("return", "different views", "seconds"):
        table.add_column(name, justify="right")
    for name, runs in results.items():
        returned, views, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
        table.add_row(name, f"{returned:.3f}", f"{views:.0f}", f"{seconds:.0f}")
    return table


if __name__ == "__main__":
    tyro.cli(main)

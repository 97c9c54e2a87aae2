"""GAIL around Stable-Baselines3's PPO, which never sees the task's own reward.

    python scripts/sb3_gail.py
    python scripts/sb3_gail.py --timesteps 200000 --demonstrations 1

The expert balances CartPole's pole by a rule of thumb. What is shown at the end are the returns of
the expert and of its imitator in episodes that neither has seen.
"""

import gymnasium
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from rlgen.agents.imitation import GAIL, record
from rlgen.agents.sb3 import RewardModelVecEnv
from rlgen.envs import adapters


def main(timesteps: int = 100_000, demonstrations: int = 10, seed: int = 0) -> None:
    """Record the expert, imitate it, and print both returns."""
    torch.set_num_threads(1)
    venv = make_vec_env("CartPole-v1", 8, seed=seed)
    envs = gymnasium.make_vec("CartPole-v1", 8, "sync", {"autoreset_mode": "SameStep"})
    shown = record(adapters.from_gymnasium(envs), expert, demonstrations, seed=seed)

    gail = GAIL(shown, venv.observation_space, venv.action_space, seed=seed)
    paid = RewardModelVecEnv(venv, gail, task_weight=0.0, steps=128)
    agent = PPO("MlpPolicy", paid, n_steps=128, batch_size=256, seed=seed, device="cpu")
    agent.learn(timesteps)

    mean, _ = evaluate_policy(agent, make_vec_env("CartPole-v1", 8, seed=10**6), 20)
    print(f"return of the expert {float(shown.returns().mean()):.1f}, of its imitator {mean:.1f}")


def expert(obs: torch.Tensor) -> torch.Tensor:
    """Push to where the pole falls."""
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0.0).long()


if __name__ == "__main__":
    tyro.cli(main)

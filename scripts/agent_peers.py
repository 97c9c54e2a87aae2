"""Other libraries' agents, for the benchmark: Stable-Baselines3, and RLeXplore if installed."""

import importlib
import importlib.util
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch

RLEXPLORE_MEMORY = 256  # observations of the running episode that its pseudo-counts compare with


def make_view() -> gymnasium.Env[Any, Any]:
    """MiniGrid-FourRooms with its 7x7x3 view as 147 floats."""
    import minigrid  # noqa: F401  (registers its ids)
    from minigrid.wrappers import ImgObsWrapper

    env = ImgObsWrapper(gymnasium.make("MiniGrid-FourRooms-v0", disable_env_checker=True))  # type: ignore[no-untyped-call]
    space = gymnasium.spaces.Box(0.0, 255.0, (147,), np.float32)
    return gymnasium.wrappers.TransformObservation(
        env, lambda obs: obs.reshape(-1).astype(np.float32), space
    )


def sb3_agent(seed: int) -> Any:
    """Its PPO with 8 copies, rollouts of 128, minibatches of 256 and 4 epochs."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    venv = make_vec_env(make_view, 8, seed=seed)
    return PPO("MlpPolicy", venv, n_steps=128, batch_size=256, n_epochs=4, seed=seed, device="cpu")


def sb3_rate(seconds: float) -> float:
    """Training steps per CPU-second."""
    agent = sb3_agent(0)
    agent.learn(1024)
    start, steps = time.process_time(), 0
    while time.process_time() - start < seconds:
        agent.learn(1024, reset_num_timesteps=False)
        steps += 1024
    return steps / (time.process_time() - start)


def sb3_four_rooms(seed: int, steps: int, held_out: int, episodes: int = 200) -> dict[str, float]:
    """Its return on layouts held out after so many steps, actions drawn from the policy."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    agent = sb3_agent(seed)
    wall, cpu = time.perf_counter(), time.process_time()
    agent.learn(steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    venv = make_vec_env(make_view, 8, seed=held_out)
    mean, _ = evaluate_policy(agent, venv, n_eval_episodes=episodes, deterministic=False)
    assert isinstance(mean, float)
    return {"return": mean, "steps": steps, "wall": wall, "cpu": cpu}


def rlexplore_rate(memory: int, copies: int = 16) -> float | None:
    """Observations per CPU-second that its PseudoCounts watches, pays and learns from."""
    if importlib.util.find_spec("rllte") is None:
        return None
    warnings.simplefilter("ignore")
    PseudoCounts = importlib.import_module("rllte.xplore.reward").PseudoCounts

    def rooms() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("rlgen/FourRooms-v0")

    venv = gymnasium.vector.SyncVectorEnv([rooms] * copies)
    bonus = PseudoCounts(venv, "cpu", encoder_model="espeholt")
    obs = torch.eye(104)[torch.randint(104, (memory, copies))]
    action = torch.randint(4, (memory, copies))
    zeros = torch.zeros(memory, copies)
    samples = {
        "observations": obs, "actions": action, "rewards": zeros, "terminateds": zeros,
        "truncateds": zeros, "next_observations": obs,
    }  # fmt: skip
    start = time.process_time()
    for t in range(memory):
        bonus.watch(obs[t], action[t], zeros[t], zeros[t], zeros[t], obs[t])
    bonus.compute(samples)
    spent = time.process_time() - start
    return memory * copies / spent

"""Other fast MiniGrid-FourRooms, timed as `benchmark_worlds.py` times ours, where installed.

    pip install envpool navix xminigrid

Each function gives copy-steps per CPU-second of random play with restarts included; compilation
and the first steps are not timed. What each returns as an observation differs, and is said.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

STEPS_IN_A_SCAN = 16


def envpool_rate(copies: int, seconds: float) -> float:
    """C++ in a pool of threads."""
    import envpool

    venv = envpool.make_gymnasium("MiniGrid-FourRooms-v0", num_envs=copies, seed=0)
    venv.reset()
    actions = np.random.default_rng(0).integers(7, size=(64, copies))
    return _timed(lambda: [venv.step(action) for action in actions], 64 * copies, seconds)


def navix_rate(copies: int, seconds: float) -> float:
    """JAX, compiled; restarts are its own."""
    import jax
    import navix

    env = navix.make("Navix-FourRooms-v0", observation_fn=navix.observations.symbolic_first_person)
    step, reset = jax.vmap(env.step), jax.vmap(env.reset)
    state = reset(jax.random.split(jax.random.key(0), copies))
    return _scanned(lambda state, actions, _: step(state, actions), state, 7, copies, seconds)


def xminigrid_rate(copies: int, seconds: float) -> float:
    """JAX, compiled; restarts by its own wrapper."""
    import jax
    import xminigrid
    from xminigrid.wrappers import GymAutoResetWrapper

    env, parameters = xminigrid.make("MiniGrid-FourRooms")
    env = GymAutoResetWrapper(env)
    step = jax.vmap(env.step, in_axes=(None, 0, 0))
    keys = jax.random.split(jax.random.key(0), copies)
    state = jax.vmap(env.reset, in_axes=(None, 0))(parameters, keys)
    count = env.num_actions(parameters)
    return _scanned(lambda s, a, _: step(parameters, s, a), state, count, copies, seconds)


Rate = Callable[[int, float], float]
PEERS: dict[str, tuple[str, Rate]] = {
    "envpool": ("7x7x3 with occlusion, direction and mission", envpool_rate),
    "navix": ("7x7x3 without occlusion", navix_rate),
    "xminigrid": ("7x7x2", xminigrid_rate),
}


def installed() -> dict[str, tuple[str, Rate]]:
    return {name: peer for name, peer in PEERS.items() if find_spec(name) is not None}


def _scanned(step: Any, state: Any, actions: int, copies: int, seconds: float) -> float:
    """Steps of a compiled scan; its observations are kept, so that they are worked out."""
    import jax

    def many(state: Any, key: Any) -> Any:
        drawn = jax.random.randint(key, (STEPS_IN_A_SCAN, copies), 0, actions)

        def body(state: Any, action: Any) -> Any:
            state = step(state, action, None)
            return state, state.observation.sum()

        return jax.lax.scan(body, state, drawn)

    compiled = jax.jit(many)
    keys = iter(jax.random.split(jax.random.key(1), 100_000))
    held = [compiled(state, next(keys))[0]]

    def run() -> None:
        held[0], seen = compiled(held[0], next(keys))
        seen.block_until_ready()

    return _timed(run, STEPS_IN_A_SCAN * copies, seconds)


def _timed(run: Callable[[], Any], steps: int, seconds: float) -> float:
    """Runs for at least so many CPU-seconds, after a warm-up."""
    run()
    start, rounds = time.process_time(), 0
    while time.process_time() - start < seconds:
        run()
        rounds += 1
    return steps * rounds / (time.process_time() - start)

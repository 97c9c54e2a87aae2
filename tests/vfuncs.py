"""Small worlds, and agents with a distribution over policies that learn there quickly."""

from typing import Any

from rlgen.agents import VFunc
from rlgen.envs import OpenWorld


def open_world(copies: int = 8, **kwargs: Any) -> OpenWorld:
    return OpenWorld(copies, size=3, start=(0, 0), max_steps=9, seed=0, **kwargs)


def small(world: OpenWorld | None = None, **kwargs: Any) -> VFunc:
    settings = {"steps": 8, "minibatch": 32, **kwargs.pop("settings", {})}
    if kwargs.get("task") == "reinforce":
        del settings["minibatch"]
    kwargs = {"latent": 3, "points": 4, "candidates": 8, "hidden": (16,), **kwargs}
    return VFunc(open_world() if world is None else world, settings=settings, **kwargs)

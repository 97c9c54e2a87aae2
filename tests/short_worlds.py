"""Worlds with short episodes of both endings, in step with one another or not."""

from collections.abc import Callable
from typing import Any

from rlgen.envs import FourRooms, MiniGrid, OpenWorld
from rlgen.envs.world import TensorWorld

SHORT: list[Callable[[int], TensorWorld[Any]]] = [
    lambda n: FourRooms(n, start=(9, 10), goal=(11, 11), slip=0.3, max_steps=7),
    lambda n: OpenWorld(n, size=3, goal="random", observation="image", max_steps=9),
    lambda n: MiniGrid("MiniGrid-Empty-Random-5x5-v0", n, max_steps=15),
]

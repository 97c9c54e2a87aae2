"""A world that remembers where everyone has been, for `train_explorer.py`."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlgen.agents.exploration import TableCounts
from rlgen.envs import MiniGrid, TensorWorld
from rlgen.envs.minigrid.layouts import BORDER
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import Step


class Remembering:
    """A world with a memory of its places, whose copies go back to their start now and then.

    Whoever goes back does so as if time had run out. What is remembered is part of the state, so a
    run that goes on has it all.

    Args:
        world: what is stepped: a map of cells, or a MiniGrid.
        restart: the probability that a copy goes back, at each step.
        seed: of when.
    """

    def __init__(self, world: TensorWorld[Any], restart: float, seed: int) -> None:
        self.world, self.restart = world, restart
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.num_envs, self.device = world.num_envs, world.device
        self.generator = torch.Generator().manual_seed(seed)
        self.different = TableCounts()
        count, device = math.prod(shape_of(world)), world.device
        self.memory = {
            "visits": torch.zeros(count, dtype=torch.int64, device=device),
            "first": torch.zeros(count, dtype=torch.int64, device=device),  # 0 is never
            "steps": torch.zeros((), dtype=torch.int64, device=device),
            "earned": torch.zeros(world.num_envs, dtype=torch.float64, device=device),
            "ended": torch.zeros(
                3, dtype=torch.float64, device=device
            ),  # episodes, return, success
        }

    def reset(self, seed: int | None = None) -> Tensor:
        obs = self.world.reset(seed)
        self._note(obs)
        return obs

    def step(self, action: Tensor) -> Step:
        reward, terminated, truncated = self.world.advance(action)
        seen = self.world.observe()
        back = torch.rand(self.num_envs, generator=self.generator).to(self.device) < self.restart
        truncated = truncated | back
        self.memory["steps"] = self.memory["steps"] + 1
        self._note(seen)
        self._note_ends(reward, terminated | truncated)
        self.world.restart(terminated | truncated)
        return Step(self.world.observe(), reward, terminated, truncated, lambda: seen)

    def state_dict(self) -> dict[str, Any]:
        memory = {name: tensor.clone() for name, tensor in self.memory.items()}
        different = self.different.state_dict()
        draws = self.generator.get_state()
        return {
            "world": self.world.state_dict(),
            "memory": memory,
            "different": different,
            "draws": draws,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.world.load_state_dict(state["world"])
        self.memory = {k: v.to(self.device, copy=True) for k, v in state["memory"].items()}
        seen = state["different"]
        self.different.load_state_dict({k: v.to(self.device) for k, v in seen.items()})
        self.generator.set_state(state["draws"].cpu())

    def _note(self, obs: Tensor) -> None:
        place = places_of(self.world)
        fresh = torch.zeros_like(self.memory["visits"]).index_add_(0, place, torch.ones_like(place))
        new = (self.memory["visits"] == 0) & (fresh > 0)
        self.memory["first"] = torch.where(new, self.memory["steps"], self.memory["first"])
        self.memory["visits"] = self.memory["visits"] + fresh
        self.different.table.add(self.different.keys(obs))

    def _note_ends(self, reward: Tensor, done: Tensor) -> None:
        earned = self.memory["earned"] + reward
        ends = torch.stack([done, earned * done, (earned > 0) & done]).sum(1)
        self.memory["ended"] = self.memory["ended"] + ends
        self.memory["earned"] = earned * ~done


def shape_of(world: TensorWorld[Any]) -> tuple[int, int]:
    """Rows and columns of the map."""
    if isinstance(world, TabularGrid):
        return int(world.free.shape[0]), int(world.free.shape[1])
    assert isinstance(world, MiniGrid)
    return world.config.height, world.config.width


def places_of(world: TensorWorld[Any]) -> Tensor:
    """Where each copy is on the map, in row-major order."""
    state = world.state
    if isinstance(world, TabularGrid):
        places: Tensor = world.free.flatten().nonzero().squeeze(1).to(world.device)[state.cell]
        return places
    place: Tensor = state.place
    return place


def picture_of(world: Remembering) -> Tensor:
    """How often each place was visited, with shape (rows, columns)."""
    visits = world.memory["visits"].cpu().reshape(shape_of(world.world))
    return (
        visits if isinstance(world.world, TabularGrid) else visits[BORDER:-BORDER, BORDER:-BORDER]
    )


def draw(worlds: dict[str, Remembering], file: Path) -> None:
    """Where each has been, as the share of all visits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    maps = [picture_of(world).double() for world in worlds.values()]
    shares = [visits / visits.sum() for visits in maps]
    low, high = (float(f([f(s[s > 0]) for s in shares])) for f in (min, max))
    size = (4.2 * len(maps) + 1.0, 4.2)
    figure, axes = plt.subplots(1, len(maps), figsize=size, layout="constrained", squeeze=False)
    colours = plt.get_cmap("magma").with_extremes(bad="#c8ccd0")
    norm = LogNorm(low, max(high, 1.001 * low))
    for axis, (bonus, world), share in zip(axes[0], worlds.items(), shares, strict=True):
        shown = share.masked_fill(share == 0, math.nan).numpy()
        image = axis.imshow(shown, cmap=colours, norm=norm)
        axis.set(title=f"bonus: {bonus}", xticks=[], yticks=[])
        free = getattr(world.world, "free", None)
        if free is not None:  # walls are black, and what was never seen is grey
            walls = (~free).double().masked_fill(free, math.nan).numpy()
            axis.imshow(walls, cmap="gray_r", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes[0].tolist(), label="share of visits")
    figure.savefig(file, dpi=120)
    plt.close(figure)

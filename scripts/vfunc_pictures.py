"""A picture of a distribution over policies: its paths, the way from one to another, its bound."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from imitation_pictures import pyplot, save
from torch import Tensor

from rlgen.envs import grid
from rlgen.envs.tabular import TabularGrid

JITTER = 0.3  # of a cell, so that paths can be told apart
PATHS, BETWEEN = 200, 24  # shown


class Known(NamedTuple):
    """Of the information of z and policy, in nats.

    Attributes:
        bound: that is learnt by, as (step, nats).
        between: bounds from both sides, as (step, lower, upper).
        most: what the first cannot exceed; None for nothing.
        noise_falls: whether each step's numbers are for a noise of its own.
    """

    bound: list[tuple[int, float]]
    between: list[tuple[int, float, float]]
    most: float | None
    noise_falls: bool = False


def draw_policies(
    world: TabularGrid,
    drawn: Tensor,
    between: Tensor,
    known: Known,
    file: Path,
) -> None:
    """Three panels side by side.

    Args:
        world: whose map it is.
        drawn: greedy paths of drawn policies, as cells (n, T).
        between: greedy paths along the line from one z to another, (n, T).
        known: of their information, while it was learnt.
        file: where the picture goes.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(13.0, 4.4), layout="constrained")
    colours = plt.get_cmap("viridis")
    show_paths(axes[0], world, drawn, [colours(i / len(drawn)) for i in range(len(drawn))], 0.35)
    axes[0].set_title(f"{len(drawn)} drawn policies")
    shades = [colours(i / max(1, len(between) - 1)) for i in range(len(between))]
    show_paths(axes[1], world, between, shades, 0.9)
    axes[1].set_title("from one z (dark) to another (light)")
    show_information(axes[2], known, colours)
    file.parent.mkdir(parents=True, exist_ok=True)
    save(figure, file)


def show_information(axis: Any, known: Known, colours: Any) -> None:
    """The bound over steps, and where the truth must be.

    Under a noise that falls these are bounds of another quantity at each step.
    """
    title = "information of z and policy"
    if known.noise_falls:
        title += "\n(noise falls: of another quantity at each step)"
    axis.set(title=title, xlabel="steps", ylabel="nats")
    axis.ticklabel_format(axis="x", scilimits=(3, 3))
    if known.between:
        steps, lower, upper = zip(*known.between, strict=True)
        axis.fill_between(steps, lower, upper, color=colours(0.7), label="the truth")
    if known.bound:
        steps, nats = zip(*known.bound, strict=True)
        axis.plot(steps, nats, color=colours(0.3), label="bound")
    if known.most is not None:
        axis.axhline(
            known.most, color="black", linestyle="--", label=f"log {math.exp(known.most):.0f}"
        )
    if axis.get_legend_handles_labels()[0]:
        axis.legend()


def show_paths(
    axis: Any, world: TabularGrid, paths: Tensor, colours: Sequence[Any], alpha: float
) -> None:
    """Each a line, a little apart from the others."""
    axis.imshow(world.free.double().numpy(), cmap="gray", vmin=-0.4, vmax=1.0)
    axis.set(xticks=[], yticks=[])
    places = grid.coordinates(world.free).double()
    generator = torch.Generator().manual_seed(0)
    for path, colour in zip(paths, colours, strict=True):
        shift = JITTER * (2.0 * torch.rand(2, generator=generator) - 1.0)
        row, column = (places[path] + shift).unbind(1)
        axis.plot(column.numpy(), row.numpy(), color=colour, alpha=alpha, linewidth=1.0)

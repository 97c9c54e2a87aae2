"""Pictures of imitation, for `train_imitation.py`: paths over a map, or returns over steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlgen.envs import grid
from rlgen.envs.tabular import TabularGrid

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22")
NEITHER = "#7f7f7f"
SHOWN, ABREAST = 40, 4  # paths in one panel, panels in one row


class Panel(NamedTuple):
    """Who walked, where, and in which group each path is; -1 is in none."""

    who: str
    paths: Sequence[Tensor]
    groups: Sequence[int]
    what: str  # a group is


class Curve(NamedTuple):
    """Mean returns over steps while somebody learnt, and the return in the end."""

    who: str
    steps: Sequence[float]
    returns: Sequence[float]
    end: float


def draw_paths(panels: Sequence[Panel], world: TabularGrid, file: Path) -> None:
    """The first paths of each, a little apart from each other so that all can be seen."""
    plt = pyplot()
    columns = min(ABREAST, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (4.2 * columns, 4.6 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    places = grid.coordinates(world.free)
    generator = torch.Generator().manual_seed(0)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.imshow(world.free.double().numpy(), cmap="gray", vmin=-0.4, vmax=1.0)
        axis.set(title=panel.who, xticks=[], yticks=[])
        known = dict[int, Any]()
        for path, group in list(zip(panel.paths, panel.groups, strict=True))[:SHOWN]:
            shift = 0.5 * torch.rand(2, generator=generator) - 0.25
            row, column = (places[path].double() + shift).unbind(1)
            colour = COLOURS[group % len(COLOURS)] if group >= 0 else NEITHER
            (line,) = axis.plot(column.numpy(), row.numpy(), color=colour, alpha=0.6, linewidth=1.0)
            known.setdefault(group, line)
        names = {g: f"{panel.what} {g}" if g >= 0 else "neither" for g in sorted(known)}
        if panel.what:
            lines = [known[g] for g in names]
            axis.legend(lines, names.values(), loc="upper center", ncols=4, fontsize=8,
                        bbox_to_anchor=(0.5, 0.0), frameon=False)  # fmt: skip
    save(figure, file)


def draw_curves(curves: Sequence[Curve], expert: float | None, title: str, file: Path) -> None:
    """Returns while each learnt, with the expert's as a line."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for curve, colour in zip(curves, COLOURS, strict=False):
        if curve.steps:
            axis.plot(curve.steps, curve.returns, color=colour, label=curve.who)
        axis.axhline(curve.end, color=colour, linestyle=":", label=f"{curve.who}, in the end")
    if expert is not None:
        axis.axhline(expert, color="black", linestyle="--", label="expert")
    axis.set(title=title, xlabel="steps", ylabel="return")
    axis.legend()
    save(figure, file)


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=120)
    pyplot().close(figure)

"""Pictures of dreams beside what happened, for `train_world_model.py` and `dream_film.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from imitation_pictures import pyplot, save
from torch import Tensor

from rlgen.envs import render
from rlgen.envs.tabular import TabularGrid

WRONG = render.AGENT_COLOR  # of the rule around a frame that is not what happened
ABREAST = 10  # frames in one row
_THINGS = (render.WALL_COLOR, render.GOAL_COLOR, render.AGENT_COLOR)


def shown(frames: Tensor, world: Any) -> Tensor:
    """Observations (n, *observation) as pictures, uint8 with shape (n, height, width, 3).

    What is half there is drawn as half there.
    """
    frames = frames.cpu()
    if not isinstance(world, TabularGrid):  # a view: the kinds of things have a colour each
        kinds = frames[..., 0].long().clamp(0, 10)
        return (255 * _palette(11))[kinds].to(torch.uint8)
    if world.observation != "image":
        frames = _drawn(frames.float(), world)
    picture = torch.tensor(render.FREE_COLOR).expand(len(frames), *frames.shape[2:], 3).float()
    for i, colour in enumerate(_THINGS):
        share = frames[:, i, :, :, None].float() / 255
        picture = picture + share * (torch.tensor(colour).float() - picture)
    return picture.round().to(torch.uint8)


def _drawn(numbers: Tensor, world: TabularGrid) -> Tensor:
    """One-hot cells, or rows and columns, as images (n, 3, rows, columns) of where one is."""
    rows, columns = world.free.shape
    if world.observation == "onehot":
        share = numbers[:, : world.cells].clamp(0, 1)
    else:
        cell = (numbers[:, None, :2] - world._positions.cpu()).square().sum(2).argmin(1)
        share = torch.nn.functional.one_hot(cell, world.cells).float()
    images = torch.zeros(len(numbers), 3, rows, columns)
    images[:, 0] = world._walls.cpu().float()
    if isinstance(world.goal, int):
        images[:, 1].view(len(images), -1)[:, world._places[world.goal]] = 255.0
    images[:, 2].view(len(images), -1)[:, world._places.cpu()] = 255.0 * share
    return images


def _palette(count: int) -> Tensor:
    colours = pyplot().get_cmap("tab20").colors
    return torch.tensor(colours[:count])


def draw_dream(
    real: Tensor, dreamt: Tensor, world: Any, wrong: Sequence[bool], title: str, file: Path
) -> None:
    """What happened above, and what was dreamt of the same actions below, step by step."""
    plt = pyplot()
    count = len(real)
    times = torch.linspace(0, count - 1, min(ABREAST, count)).round().long().unique()
    rows = [shown(part[times], world).numpy() for part in (real, dreamt)]
    figure, axes = plt.subplots(
        2, len(times), figsize=(1.5 * len(times) + 0.6, 3.6), layout="constrained", squeeze=False
    )
    for above, (row, name) in enumerate(zip(rows, ("real", "dreamt"), strict=True)):
        for axis, picture, time in zip(axes[above], row, times.tolist(), strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[], title="" if above else f"step {time}")
            if above and wrong[time]:
                axis.spines[:].set(color=[c / 255 for c in WRONG], linewidth=3.0)
        axes[above][0].set_ylabel(name)
    figure.suptitle(title)
    save(figure, file)

"""A picture of the ways that imitators took, coloured by their code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.envs import FourRooms, grid

COLOURS = ("tab:orange", "tab:blue")


def draw_routes(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """One map for each imitator: half of its paths have the first code, half the second.

    Args:
        rows: with "who" and "paths", the cells of each path.
        file: where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    free = FourRooms(1).free
    places = grid.coordinates(free).numpy()
    figure, axes = pyplot.subplots(1, max(1, len(rows)), figsize=(3.2 * max(1, len(rows)), 3.5))
    generator = np.random.default_rng(0)
    for axis, row in zip(np.atleast_1d(axes), rows, strict=False):
        axis.imshow(~free.numpy(), cmap="Greys", vmax=1.6)
        for i, path in enumerate(row["paths"]):
            code = int(i >= len(row["paths"]) // 2)
            ways = places[path] + generator.uniform(-0.25, 0.25, 2)
            axis.plot(ways[:, 1], ways[:, 0], color=COLOURS[code], alpha=0.3, linewidth=1.2)
        axis.set_title(row["who"], fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)

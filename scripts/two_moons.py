"""The main job: fit densities to two moons, and see how close they come to the truth.

The truth is known: its log density is a quadrature over the two arcs. So the table can say how far
each model is from the best that any model could do, and the picture shows the flow.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlgen import checkpoint
from rlgen.generative import MAF, DensityModel, GaussianMixture, cosine, data, fit, metrics

console = Console()


class Result(NamedTuple):
    """One row of the closing table: nats per example on the same held-out data."""

    name: str
    nats: float
    gap: float
    gap_error: float
    stopped: str


def main(
    out: Path = Path("runs/two_moons"), steps: int = 2000, train: int = 20_000, seed: int = 0
) -> None:
    """Fit two densities to two moons; print held-out nats; save a picture and the flow.

    Args:
        out: the folder for the picture and the checkpoint.
        steps: training steps of the flow.
        train: examples to train on; a tenth of them decides when to stop.
        seed: of the data, the networks and the training.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x = data.two_moons(train, generator=generator)
    test = data.two_moons(5000, generator=generator)
    truth = data.two_moons_log_prob(test)
    console.print(f"Two moons: {train} examples to train on, {len(test)} held out")

    mixture = GaussianMixture(2, components=32)
    console.print("Fitting a mixture of 32 Gaussians by EM")
    history = fit(mixture, x, steps=200, seed=seed)
    results = [judge("GaussianMixture", mixture, test, truth, history.stopped)]

    flow = MAF(2, transforms=8)
    console.print(f"Fitting a masked autoregressive flow by at most {steps} gradient steps")
    history = fit(
        flow,
        x,
        steps=steps,
        batch_size=512,
        lr=2e-3,
        schedule=cosine,
        validation=0.1,
        seed=seed,
    )
    results.append(judge("MAF", flow, test, truth, history.stopped))

    out.mkdir(parents=True, exist_ok=True)
    draw(flow, test, out / "density.png", seed)
    checkpoint.save(flow, out / "flow")
    console.print(table_of(results, truth))
    console.print(f"Picture: {out / 'density.png'}   Checkpoint: {out / 'flow'}", soft_wrap=True)


def judge(name: str, model: DensityModel, test: Tensor, truth: Tensor, stopped: str) -> Result:
    """How many nats the model loses to the truth on `test`, and how sure that is."""
    nats = metrics.held_out(model, test).nats
    with torch.no_grad():
        gap = truth - model.log_prob(test).double()
    return Result(name, nats, float(gap.mean()), float(gap.std()) / len(gap) ** 0.5, stopped)


def draw(model: DensityModel, test: Tensor, file: Path, seed: int) -> None:
    """Held-out data, as many samples, and the density, side by side."""
    matplotlib.use("Agg")
    samples = model.sample(len(test), generator=seed)
    across, up = torch.linspace(-1.5, 2.5, 320), torch.linspace(-1.0, 1.5, 200)
    points = torch.cartesian_prod(up, across).flip(1)
    with torch.no_grad():
        density = model.log_prob(points).exp().reshape(len(up), len(across))
    extent = (-1.5, 2.5, -1.0, 1.5)
    figure, axes = plt.subplots(1, 3, figsize=(15, 3.6), layout="constrained")
    for axis, title, dots in zip(axes, ("data", "samples"), (test, samples), strict=False):
        axis.scatter(*dots.T.numpy(), s=1)
        axis.set(title=title, xlim=extent[:2], ylim=extent[2:], aspect="equal")
    axes[2].imshow(density.numpy(), origin="lower", extent=extent, cmap="magma")
    axes[2].set(title="density")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def table_of(results: list[Result], truth: Tensor) -> Table:
    table = Table(title="Two moons, held out: nats per example (less is better)")
    table.add_column("model")
    for name in ("nats", "above the truth", "stopped"):
        table.add_column(name, justify="right")
    for row in results:
        gap = f"{row.gap:.4f} ± {row.gap_error:.4f}"
        table.add_row(row.name, f"{row.nats:.4f}", gap, row.stopped)
    table.add_row("the truth (its entropy)", f"{-float(truth.mean()):.4f}", "0", "")
    return table


if __name__ == "__main__":
    tyro.cli(main)

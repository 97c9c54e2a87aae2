"""One picture for each family of implicit, energy-based, score-based and contrastive models, and of
models of functions: data, samples, and the field that the family learns, where it learns one.

    python scripts/gallery.py                  # all of them, into docs/gallery
    python scripts/gallery.py --only GAN DDPM

Every picture has a seed of its own, so it is the same whichever others are made.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gallery_panels as panels
import matplotlib
import matplotlib.pyplot as plt
import torch
import tyro
from gallery_panels import Data, Panel
from matplotlib.axes import Axes
from rich.console import Console

from rlgen.generative import (
    CPC,
    DDPM,
    GAN,
    RBM,
    WGAN,
    WGANGP,
    EnergyModel,
    FunctionRegression,
    GaussianProcess,
    GenerativeModel,
    InfoGAN,
    MMDGenerator,
    ScoreSDE,
    VFunc,
    cosine,
    data,
    fit,
    functions,
    kernels,
)

console = Console()


@dataclass(frozen=True)
class Picture:
    """One row of the gallery.

    Attributes:
        name: of the file.
        make: the untrained model.
        data: what it is trained on.
        steps: how long.
        panels: what is drawn, from left to right.
        lr: the learning rate.
    """

    name: str
    make: Callable[[], GenerativeModel]
    data: Callable[[], Data]
    steps: int
    panels: tuple[Panel, ...]
    lr: float = 1e-3


def moons() -> Data:
    return Data(data.two_moons(5000))


def ring() -> Data:
    """Eight normals on a circle."""
    angle = 2 * math.pi * torch.randint(8, (5000,)) / 8
    return Data(torch.stack([angle.cos(), angle.sin()], 1) + 0.06 * torch.randn(5000, 2))


def corners() -> Data:
    """Four normals."""
    return Data((torch.randint(2, (5000, 2)) * 2.0 - 1.0) + 0.15 * torch.randn(5000, 2))


def bars_and_stripes() -> Data:
    """4x4 bits in which either every row or every column is of one value."""
    lines = torch.randint(2, (4000, 4)).float()
    across = lines[:, :, None].expand(-1, 4, 4)
    return Data(torch.where(torch.rand(4000, 1, 1) < 0.5, across, across.mT))


def views() -> Data:
    """Two noisy looks at the same place on two moons."""
    places = data.two_moons(5000, noise=0.0)
    return Data(*(places + 0.1 * torch.randn(2, 5000, 2)))


def six_points() -> Data:
    """One function, known at six points with a gap between them."""
    x = torch.tensor([-2.6, -2.1, -1.4, 1.1, 1.7, 2.5])[:, None]
    return Data(torch.sin(2.0 * x).mT + 0.5 * x.mT, x[None])


def six_numbers() -> Data:
    """The same, as six examples."""
    values, places = six_points()
    assert places is not None
    return Data(values[0], places[0])


def waves() -> Data:
    """Sines of any amplitude and phase, each known at eight points of its own."""
    x = 6.0 * torch.rand(5000, 8, 1) - 3.0
    amplitude, phase = 0.5 + 1.5 * torch.rand(5000, 1), 2 * math.pi * torch.rand(5000, 1)
    return Data(amplitude * torch.sin(1.5 * x[..., 0] + phase) + 0.05 * torch.randn(5000, 8), x)


def wave_model() -> VFunc:
    prior = functions.StandardNormal(4)
    comparison = functions.Direct(prior)
    return VFunc(8, functions.FunctionMLP(4), prior=prior, comparison=comparison)


def regression(maxent: bool) -> FunctionRegression:
    prior = functions.StandardNormal(8)
    comparison = functions.Difference(8)
    family = VFunc(24, functions.FunctionMLP(8), prior=prior, comparison=comparison)
    process = GaussianProcess(24, kernel=kernels.RBF(length=0.8), noise=0.1)
    given = process if maxent else None
    return FunctionRegression(family, process=given, examples=6, low=-3.0, high=3.0, draws=4)


def without_maxent(axis: Axes, model: FunctionRegression, shown: Data) -> None:
    """The same functions, fitted to the data alone."""
    torch.manual_seed(0)
    other = regression(maxent=False)
    train(other, shown, 1500, 2e-3)
    panels.spread(axis, other, shown)
    axis.set_title("without maximum entropy")


PICTURES = (
    Picture(
        "GAN",
        lambda: GAN(2, r1=0.05),
        ring,
        4500,
        (panels.points, panels.samples, panels.critic),
        lr=2e-3,
    ),
    Picture(
        "WGAN",
        lambda: WGAN(2, clip=0.1, lr=1e-3),
        ring,
        2000,
        (panels.points, panels.samples, panels.potential),
    ),
    Picture(
        "WGANGP",
        lambda: WGANGP(2, lr=2e-3, penalty=1.0),
        ring,
        2000,
        (panels.points, panels.samples, panels.potential),
    ),
    Picture(
        "InfoGAN",
        lambda: InfoGAN(2, categories=4),
        corners,
        2000,
        (panels.points, panels.codes, panels.read_codes, panels.critic),
    ),
    Picture(
        "MMDGenerator",
        lambda: MMDGenerator(2),
        ring,
        4000,
        (panels.points, panels.samples, panels.witness),
        lr=4e-3,
    ),
    Picture(
        "RBM",
        lambda: RBM((4, 4), hidden=32),
        bars_and_stripes,
        8000,
        (panels.bits, panels.sampled_bits, panels.mass),
        lr=1e-2,
    ),
    Picture(
        "EnergyModel",
        lambda: EnergyModel(2),
        moons,
        2500,
        (panels.points, panels.samples, panels.energy),
        lr=2e-3,
    ),
    Picture(
        "DDPM",
        lambda: DDPM(2, steps=100),
        moons,
        4000,
        (
            panels.points,
            panels.samples,
            panels.sampled_by("10 strided steps", "sample_strided", steps=10),
            panels.scores(0.1),
        ),
        lr=3e-3,
    ),
    Picture(
        "ScoreSDE",
        lambda: ScoreSDE(2),
        moons,
        4000,
        (
            panels.points,
            panels.samples,
            panels.sampled_by("samples of the SDE", "sample_sde", steps=200),
            panels.density,
            panels.scores(0.1),
        ),
        lr=3e-3,
    ),
    Picture(
        "GaussianProcess",
        lambda: GaussianProcess(6, kernel=kernels.RBF(), noise=0.1),
        six_points,
        200,
        (panels.prior_functions, panels.posterior),
        lr=1e-2,
    ),
    Picture(
        "VFunc",
        wave_model,
        waves,
        3000,
        (
            panels.known_functions,
            panels.drawn_functions,
            panels.inferred_functions,
            panels.between_functions,
        ),
        lr=2e-3,
    ),
    Picture(
        "FunctionRegression",
        lambda: regression(maxent=True),
        six_numbers,
        1500,
        (
            panels.spread,
            panels.regressed_functions,
            panels.regressed_between,
            without_maxent,
        ),
        lr=2e-3,
    ),
    Picture(
        "CPC",
        lambda: CPC(2, context_shape=2),
        views,
        1500,
        (panels.pairs, panels.ratio, panels.samples_given, panels.features),
    ),
)


def main(only: tuple[str, ...] = (), out: Path = Path("docs/gallery")) -> None:
    """Draw the pictures.

    Args:
        only: names of families; all of them unless given.
        out: the folder for the pictures.
    """
    names = [picture.name for picture in PICTURES]
    if unknown := set(only) - set(names):
        raise SystemExit(f"no picture of {', '.join(sorted(unknown))}; there are {names}")
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        if not only or picture.name in only:
            start = time.process_time()
            file = out / f"{picture.name}.png"
            draw(picture, file)
            seconds, size = time.process_time() - start, file.stat().st_size / 1000
            console.print(f"{picture.name:16} {seconds:5.1f} s  {size:4.0f} KB  {file}")


def train(model: GenerativeModel, shown: Data, steps: int, lr: float) -> None:
    size = min(256, len(shown.x))
    fit(model, *shown, steps=steps, batch_size=size, lr=lr, schedule=cosine, seed=0)
    model.eval()


def draw(picture: Picture, file: Path) -> None:
    """Train the model of a picture, and draw its panels."""
    torch.manual_seed(0)
    shown: Data = picture.data()
    model = picture.make()
    train(model, shown, picture.steps, picture.lr)
    count = len(picture.panels)
    figure, axes = plt.subplots(1, count, figsize=(2.6 * count, 2.8), layout="constrained")
    for axis, panel in zip(axes.flat, picture.panels, strict=True):
        panel(axis, model, shown)
    figure.suptitle(picture.name)
    figure.savefig(file, dpi=80, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    tyro.cli(main)

"""Panels of the gallery: each draws one thing about one model onto one axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor

from rlgen.generative import (
    CPC,
    RBM,
    Density,
    Energy,
    FunctionRegression,
    GaussianProcess,
    GenerativeModel,
    InfoGAN,
    VFunc,
)

_DOTS = 1000
_SIDE = 64
_LINES = "#888888"
_GRID = torch.linspace(-3.0, 3.0, 121)[:, None]


class Data(NamedTuple):
    """What a model of the gallery was trained on."""

    x: Tensor
    context: Tensor | None = None


Panel = Callable[[Axes, Any, Data], None]


# ---------------------------------------------------------------- points in the plane


def points(axis: Axes, model: GenerativeModel, data: Data) -> None:
    """The data."""
    _scatter(axis, data.x[:_DOTS], data)
    axis.set_title("data")


def samples(axis: Axes, model: GenerativeModel, data: Data) -> None:
    """As many samples."""
    _scatter(axis, model.sample(_DOTS, generator=0), data)
    axis.set_title("samples")


def density(axis: Axes, model: Density, data: Data) -> None:
    """Its density, in the plane."""
    _field(axis, lambda x: model.log_prob(x).exp(), data)
    axis.set_title("density")


def energy(axis: Axes, model: Energy, data: Data) -> None:
    """Its energy, above the least one on show, up to 10 nats."""
    _field(axis, lambda x: -(e := model.energy(x)).sub(e.min()).clamp_max(10.0), data)
    axis.set_title("minus energy")


def critic(axis: Axes, model: Any, data: Data) -> None:
    """The critic's output: where it wants more samples, and where fewer."""
    _field(axis, model.critic.logits, data, diverging=True)
    axis.set_title("critic")


def potential(axis: Axes, model: Any, data: Data) -> None:
    """The same of a critic that is free up to a constant: above its mean over the picture."""
    _field(axis, lambda x: (v := model.critic.logits(x)) - v.mean(), data, diverging=True)
    axis.set_title("critic, centred")


def witness(axis: Axes, model: GenerativeModel, data: Data) -> None:
    """The witness of MMD: where data are denser than samples, smoothed by a kernel."""
    fakes = model.sample(_DOTS, generator=0)

    def smoothed(x: Tensor, centres: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(x, centres) / 0.2) ** 2).mean(1)

    _field(axis, lambda x: smoothed(x, data.x[:_DOTS]) - smoothed(x, fakes), data, diverging=True)
    axis.set_title("witness of MMD")


def codes(axis: Axes, model: InfoGAN, data: Data) -> None:
    """Samples, coloured by the code that they were made from."""
    x, code = model.sample_with_codes(_DOTS, generator=0)
    _dots(axis, x, c=code.argmax(1).numpy(), cmap="tab10", vmin=0, vmax=9)
    _frame(axis, data)
    axis.set_title("samples by their code")


def read_codes(axis: Axes, model: InfoGAN, data: Data) -> None:
    """Data, coloured by the code that is read off them."""
    with torch.no_grad():
        code = model.encode(data.x[:_DOTS]).mean.argmax(1)
    _dots(axis, data.x[:_DOTS], c=code.numpy(), cmap="tab10", vmin=0, vmax=9)
    _frame(axis, data)
    axis.set_title("codes read off data")


def scores(level: float) -> Panel:
    """Arrows along the gradient of the log density of data with noise of one level."""

    def panel(axis: Axes, model: Any, data: Data) -> None:
        west, east, south, north = _bounds(data)
        across, up = torch.linspace(west, east, 18), torch.linspace(south, north, 18)
        x = torch.cartesian_prod(up, across).flip(1)
        with torch.no_grad():
            arrows = model.score(x, torch.full((len(x),), level))
        arrows = arrows / (1.0 + arrows.norm(dim=1, keepdim=True))
        axis.quiver(*x.T.numpy(), *arrows.T.numpy(), color="C0", width=0.006)
        _frame(axis, data)
        axis.set_title(f"score at t = {level:g}")

    return panel


def sampled_by(title: str, method: str, **options: Any) -> Panel:
    """Samples of another method of the model's."""

    def panel(axis: Axes, model: Any, data: Data) -> None:
        _scatter(axis, getattr(model, method)(_DOTS, generator=0, **options), data)
        axis.set_title(title)

    return panel


# ---------------------------------------------------------------- pairs


def pairs(axis: Axes, model: CPC, data: Data) -> None:
    """Data and their contexts, joined by lines."""
    assert data.context is not None
    for x, context in zip(data.x[:150], data.context[:150], strict=True):
        axis.plot(*torch.stack([x, context]).T.numpy(), color=_LINES, linewidth=0.6)
    _scatter(axis, data.x[:150], data)
    axis.set_title("pairs")


def ratio(axis: Axes, model: CPC, data: Data) -> None:
    """How much likelier each place becomes by one context, up to a factor."""
    assert data.context is not None
    context = data.context[:1]
    _field(axis, lambda x: model.ratio(x, context.expand(len(x), -1)).clamp_min(-10.0), data)
    axis.plot(*context[0].numpy(), "o", color="cyan", markersize=5)
    axis.set_title("log ratio given the dot")


def samples_given(axis: Axes, model: CPC, data: Data) -> None:
    """Samples given a few contexts."""
    assert data.context is not None
    for i, context in enumerate(data.context[:4]):
        x = model.sample(60, context, generator=i)
        _dots(axis, x, color=f"C{i}")
        axis.plot(*context.numpy(), "o", color=f"C{i}", markeredgecolor="black", markersize=6)
    _frame(axis, data)
    axis.set_title("samples given the dots")


def features(axis: Axes, model: CPC, data: Data) -> None:
    """The two main directions of the features, coloured by where x lies from west to east."""
    with torch.no_grad():
        vectors = model.encode(data.x[:_DOTS]).mean
    centred = vectors - vectors.mean(0)
    main = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    _dots(axis, centred @ main.T, c=data.x[:_DOTS, 0].numpy(), cmap="viridis")
    axis.set_title("features, by x")
    axis.set_xticks([])
    axis.set_yticks([])


# ---------------------------------------------------------------- bits


def bits(axis: Axes, model: RBM, data: Data) -> None:
    """Some of the data, as tiles."""
    _tiles(axis, data.x[:64])
    axis.set_title("data")


def sampled_bits(axis: Axes, model: RBM, data: Data) -> None:
    """Some samples, as tiles."""
    _tiles(axis, model.sample(64, generator=0))
    axis.set_title("samples")


def mass(axis: Axes, model: RBM, data: Data) -> None:
    """The exact probability of each kind of data, from most to least likely, and the truth."""
    kinds, counts = data.x.unique(dim=0, return_counts=True)
    with torch.no_grad():
        probs = model.log_prob(kinds).exp().sort(descending=True).values
    axis.bar(range(len(kinds)), probs.numpy(), color="C0")
    share = counts.sort(descending=True).values / counts.sum()
    axis.step(range(len(kinds)), share.numpy(), where="mid", color="black")
    axis.set_title(f"{len(kinds)} kinds: {float(probs.sum()):.0%} of the mass")


# ---------------------------------------------------------------- functions of one number


def prior_functions(axis: Axes, model: GaussianProcess, data: Data) -> None:
    """Functions before any value is known."""
    torch.manual_seed(0)
    with torch.no_grad():
        draws = model.distribution(_GRID, noisy=False).sample(torch.Size([6]))
    _curves(axis, draws)
    axis.set_title("functions, before data")


def posterior(axis: Axes, model: GaussianProcess, data: Data) -> None:
    """Mean, two standard deviations, and functions given the data."""
    assert data.context is not None
    torch.manual_seed(0)
    with torch.no_grad():
        f = model.posterior(data.context[0], data.x[0], _GRID)
        _band(axis, f.mean, f.stddev)
        _curves(axis, f.sample(torch.Size([5])))
    axis.plot(data.context[0, :, 0].numpy(), data.x[0].numpy(), "ko", markersize=4)
    axis.set_title("given data")


def known_functions(axis: Axes, model: VFunc, data: Data) -> None:
    """Some of the functions that it was trained on, at the points where they are known."""
    assert data.context is not None
    for i in range(6):
        order = data.context[i, :, 0].argsort()
        line = data.context[i, order, 0].numpy(), data.x[i, order].numpy()
        axis.plot(*line, "o-", markersize=3, linewidth=0.5, color=f"C{i}")
    _function_frame(axis)
    axis.set_title("functions at known points")


def drawn_functions(axis: Axes, model: VFunc, data: Data) -> None:
    """Functions of the model, everywhere."""
    with torch.no_grad():
        _curves(axis, model.functions(8, generator=0)(_GRID))
    axis.set_title("functions drawn")


def inferred_functions(axis: Axes, model: VFunc, data: Data) -> None:
    """Functions whose code is inferred from the values of one function at a few points."""
    assert data.context is not None
    torch.manual_seed(0)
    with torch.no_grad():
        z = model.encode(data.x[:1], data.context[:1]).sample(torch.Size([200]))[:, 0]
        values = model.function(z, _GRID.expand(len(z), -1, -1))[..., 0]
    _band(axis, values.mean(0), values.std(0))
    _curves(axis, values[:5])
    axis.plot(data.context[0, :, 0].numpy(), data.x[0].numpy(), "ko", markersize=4)
    axis.set_title("given one's points")


def between_functions(axis: Axes, model: VFunc, data: Data) -> None:
    """Functions on a straight line in z."""
    with torch.no_grad():
        values = model.functions(2, generator=0).between(7)(_GRID)
    for i, value in enumerate(values):
        axis.plot(_GRID[:, 0].numpy(), value.numpy(), color=(i / 6, 0.3, 1 - i / 6), linewidth=1)
    _function_frame(axis)
    axis.set_title("between two codes")


def spread(axis: Axes, model: FunctionRegression, data: Data) -> None:
    """Mean and two standard deviations; dashed, those of the process that is its prior."""
    mean, std = model.predict(_GRID, generator=0)
    _band(axis, mean, std)
    if model.process is not None and data.context is not None:
        with torch.no_grad():
            exact = model.process.posterior(data.context, data.x, _GRID)
        for sign in (-2, 0, 2):
            edge = exact.mean + sign * exact.stddev
            axis.plot(_GRID[:, 0].numpy(), edge.numpy(), color="C1", linewidth=0.8, linestyle="--")
    _known(axis, data)
    axis.set_title("mean, spread; exact dashed")


def regressed_functions(axis: Axes, model: FunctionRegression, data: Data) -> None:
    """Functions of the model, all of which explain the data."""
    with torch.no_grad():
        _curves(axis, model.functions.functions(8, generator=0)(_GRID))
    _known(axis, data)
    axis.set_title("functions drawn")


def regressed_between(axis: Axes, model: FunctionRegression, data: Data) -> None:
    """Functions on a straight line in z, all of which explain the data."""
    between_functions(axis, model.functions, data)
    _known(axis, data)


# ---------------------------------------------------------------- what panels share


def _bounds(data: Data) -> tuple[float, float, float, float]:
    """West, east, south and north of a square around the data."""
    low, high = data.x.amin(0), data.x.amax(0)
    centre, half = (low + high) / 2, 0.6 * float((high - low).max())
    (x, y) = centre.tolist()
    return x - half, x + half, y - half, y + half


def _frame(axis: Axes, data: Data) -> None:
    west, east, south, north = _bounds(data)
    axis.set(xlim=(west, east), ylim=(south, north), aspect="equal", xticks=[], yticks=[])


def _scatter(axis: Axes, x: Tensor, data: Data) -> None:
    _dots(axis, x, color="C0")
    _frame(axis, data)


def _dots(axis: Axes, x: Tensor, **colour: Any) -> None:
    axis.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=3, linewidths=0, **colour)


def _field(
    axis: Axes, value: Callable[[Tensor], Tensor], data: Data, diverging: bool = False
) -> None:
    bounds = west, east, south, north = _bounds(data)
    across, up = torch.linspace(west, east, _SIDE), torch.linspace(south, north, _SIDE)
    with torch.no_grad():
        values = value(torch.cartesian_prod(up, across).flip(1)).reshape(_SIDE, _SIDE)
    limit = float(values.abs().max())
    colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if diverging else {"cmap": "magma"}
    axis.imshow(values.numpy(), origin="lower", extent=bounds, **colours)
    axis.set(xticks=[], yticks=[])


def _tiles(axis: Axes, x: Tensor) -> None:
    """64 square images of bits, with lines between them."""
    side = x.shape[-1]
    framed = torch.nn.functional.pad(x, (0, 1, 0, 1), value=0.5)
    sheet = framed.reshape(8, 8, side + 1, side + 1).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    axis.imshow(sheet[:-1, :-1].numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def _curves(axis: Axes, values: Tensor) -> None:
    for value in values:
        axis.plot(_GRID[:, 0].numpy(), value.numpy(), linewidth=1)
    _function_frame(axis)


def _band(axis: Axes, mean: Tensor, std: Tensor) -> None:
    low, high = (mean - 2 * std).numpy(), (mean + 2 * std).numpy()
    axis.fill_between(_GRID[:, 0].numpy(), low, high, color="C0", alpha=0.2, linewidth=0)
    axis.plot(_GRID[:, 0].numpy(), mean.numpy(), color="black", linewidth=1.2)
    _function_frame(axis)


def _known(axis: Axes, data: Data) -> None:
    assert data.context is not None
    axis.plot(data.context[:, 0].numpy(), data.x.numpy(), "ko", markersize=4)


def _function_frame(axis: Axes) -> None:
    axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])

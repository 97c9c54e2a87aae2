"""Density quality and speed of the generative core, with peers beside it where they are installed.

    python scripts/benchmark_generative.py                   # everything
    python scripts/benchmark_generative.py --parts speed     # one part
    python scripts/benchmark_generative.py --no-peers --seeds 2 --steps 300

Networks of ours and of the peers are trained by the same loop on the same data: Adam with a cosine
schedule, and the best weights by validation data. Each row names its own budget. No run chooses its
weights by the test set, but the configurations of ours were settled with test scores in sight. A
seed fixes initial weights, order of the data and noise; the data are the same for all seeds.
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
import tyro
from benchmark_peers import (
    Foreign,
    ForeignMixture,
    Preprocessed,
    PreprocessedMixture,
    have,
    logit_standardise,
    standardise,
)
from torch import Tensor

from rlgen.generative import (
    MADE,
    MAF,
    VAE,
    CategoricalMixture,
    DensityModel,
    Dequantised,
    GaussianMixture,
    GenerativeModel,
    PixelCNN,
    RealNVP,
    Trainer,
    cosine,
    fit,
    heads,
    metrics,
    unchecked,
)
from rlgen.generative.data import digits, two_moons, two_moons_log_prob
from rlgen.generative.training import SelfFitting

Part = Literal["moons", "digits", "binary", "speed"]


@dataclass
class Options:
    """What to run, and where the table goes."""

    parts: tuple[Part, ...] = ("moons", "digits", "binary", "speed")
    seeds: int = 5
    steps: int = 1500
    peers: bool = True
    out: Path | None = None
    """a markdown file for the tables; they are printed in any case"""


@dataclass(frozen=True)
class Contender:
    """A model, and what differs in how it is trained."""

    name: str
    configuration: str
    build: Callable[[int], GenerativeModel]
    """seed -> an untrained model"""
    steps: float = 1.0
    """times the steps of the options"""
    lr: float = 1e-3
    samples: int = 1
    """of the importance-weighted bound"""


@dataclass(frozen=True)
class Problem:
    train: Tensor
    validation: Tensor
    test: Tensor
    batch_size: int
    unit: Callable[[metrics.NegativeLogLikelihood], float]


@dataclass
class Table:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def evaluate(contender: Contender, problem: Problem, options: Options) -> tuple[str, ...]:
    """One row: the contender's held-out figure over all seeds."""
    values, seconds, kind, count = [], [], "", 0
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = contender.build(seed)
        count = sum(p.numel() for p in model.parameters())
        start = time.process_time()
        if isinstance(model, SelfFitting):
            fit(model, problem.train, steps=200, seed=seed)
        else:
            steps = round(contender.steps * options.steps)
            fit(
                model,
                problem.train,
                steps=steps,
                batch_size=problem.batch_size,
                lr=contender.lr,
                schedule=cosine,
                validation=problem.validation,
                patience=50,  # keeps the best weights, and never stops before the end
                seed=seed,
            )
        seconds.append(time.process_time() - start)
        score = metrics.held_out(model, problem.test, samples=contender.samples, seed=seed)
        values.append(problem.unit(score))
        kind = score.kind
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    sign = "" if kind == "exact" else "≤ "
    return (
        contender.name,
        contender.configuration,
        f"{sign}{statistics.mean(values):.4f}{spread}",
        kind,
        str(count) if count else "",
        f"{statistics.median(seconds):.1f}",
    )


def quality(
    title: str, problem: Problem, contenders: Sequence[Contender], options: Options
) -> Table:
    table = Table(
        f"{title} ({options.seeds} seeds, mean ± standard deviation)",
        ("model", "configuration", "held out", "kind", "parameters", "CPU s a seed"),
    )
    for contender in contenders:
        table.rows.append(evaluate(contender, problem, options))
        print("  ".join(table.rows[-1]), flush=True)
    return table


def moons(options: Options) -> Table:
    """Two moons, nats in data space; the floor is the true density's own figure."""
    draw = [torch.Generator().manual_seed(seed) for seed in range(3)]
    x, validation, test = (
        two_moons(n, generator=g) for n, g in zip((20_000, 2_000, 5_000), draw, strict=True)
    )
    f = standardise(x)
    problem = Problem(x, validation, test, 256, lambda score: score.nats)

    def mixture(k: int) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return PreprocessedMixture(GaussianMixture(2, components=k), f)

        return Contender(f"rlgen GaussianMixture({k})", "EM, k-means++", build)

    def flow(name: str, layers: int, width: int, steps: float, library: str) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return Preprocessed(make_flow(library, name, 2, layers, width), f)

        shape = f"{layers} x ({width}, {width}), {round(steps * options.steps)} steps"
        return Contender(f"{library} {name}", shape, build, steps)

    contenders = [mixture(16), mixture(32)]
    contenders += [flow(name, 5, 64, 1.0, "rlgen") for name in ("RealNVP", "MAF")]
    contenders.append(flow("MAF", 10, 64, 4.0, "rlgen"))
    if options.peers and have("sklearn"):
        contenders.append(
            Contender(
                "scikit-learn GaussianMixture(32)",
                "EM, k-means",
                lambda seed: PreprocessedMixture(ForeignMixture(2, 32, seed), f),
            )
        )
    if options.peers and have("zuko"):
        contenders += [flow(name, 5, 64, 1.0, "zuko") for name in ("RealNVP", "MAF", "NSF")]
    truth = -float(two_moons_log_prob(test).mean())
    table = quality("Two moons, nats", problem, contenders, options)
    table.rows.insert(0, ("true density", "quadrature", f"{truth:.4f}", "exact", "", ""))
    return table


def make_flow(library: str, name: str, dims: int, layers: int, width: int) -> DensityModel:
    """A flow of ours or of zuko's, of the same shape."""
    hidden = (width, width)
    if library == "zuko":
        import zuko

        family = {"RealNVP": zuko.flows.RealNVP, "MAF": zuko.flows.MAF, "NSF": zuko.flows.NSF}
        return Foreign(dims, family[name](dims, transforms=layers, hidden_features=hidden))
    ours: dict[str, type[RealNVP] | type[MAF]] = {"RealNVP": RealNVP, "MAF": MAF}
    return ours[name](dims, transforms=layers, hidden=hidden)


def grey_digits(options: Options) -> Table:
    """8x8 digits with 17 grey levels, bits per dimension of the discrete mass."""
    split = digits()
    images = Problem(
        split.train, split.validation, split.test, 128, lambda score: score.bits_per_dim
    )
    vectors = flatten(images)
    noise = torch.rand(vectors.train.shape, generator=torch.Generator().manual_seed(0))
    f = logit_standardise((vectors.train + noise) / 17)

    def mixture(k: int) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return CategoricalMixture(64, components=k, categories=17, smoothing=0.1)

        return Contender(f"rlgen CategoricalMixture({k})", "EM, smoothing 0.1", build)

    def flow(name: str, library: str) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return Dequantised(
                Preprocessed(make_flow(library, name, 64, 5, 128), f, unit=True), levels=17
            )

        return Contender(
            f"{library} {name}, dequantised", "5 x (128, 128), IW-10", build, 1.0, 1e-3, 10
        )

    def pixels(head: heads.Head, what: str) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return PixelCNN((1, 8, 8), head=head)

        return Contender("rlgen PixelCNN", f"gated, {what}", build)

    def vae(seed: int) -> GenerativeModel:
        return VAE(64, latent=8, head=heads.DiscretisedLogisticMixture(17))

    contenders = [mixture(10), mixture(30)]
    contenders += [flow(name, "rlgen") for name in ("RealNVP", "MAF")]
    what = "latent 8, (256, 256), discretised logistics, IW-200"
    contenders.append(Contender("rlgen VAE", what, vae, 2.0, 1e-3, 200))
    if options.peers and have("zuko"):
        contenders += [flow(name, "zuko") for name in ("RealNVP", "MAF", "NSF")]
    table = quality("Digits, 17 levels, bits per dimension", vectors, contenders, options)
    contenders = [
        pixels(heads.Categorical(17), "17-way"),
        pixels(heads.DiscretisedLogisticMixture(17), "discretised logistics"),
    ]
    table.rows += quality("", images, contenders, options).rows
    return table


def flatten(problem: Problem) -> Problem:
    return Problem(
        problem.train.flatten(1),
        problem.validation.flatten(1),
        problem.test.flatten(1),
        problem.batch_size,
        problem.unit,
    )


def binary_digits(options: Options) -> Table:
    """8x8 digits, bit v >= 8, nats per image."""
    split = digits()
    train, validation, test = (
        (part >= 8).long() for part in (split.train, split.validation, split.test)
    )
    images = Problem(train, validation, test, 128, lambda score: score.nats)

    def mixture(k: int) -> Contender:
        def build(seed: int) -> GenerativeModel:
            return CategoricalMixture(64, components=k, smoothing=0.1)

        return Contender(f"rlgen CategoricalMixture({k})", "EM, smoothing 0.1", build)

    def vae(seed: int) -> GenerativeModel:
        return VAE(64, latent=8, head=heads.Bernoulli())

    contenders = [mixture(10), mixture(30), mixture(100)]
    contenders += [
        Contender("rlgen MADE", "(512,), lr 3e-3", lambda seed: MADE(64, hidden=(512,)), 2.0, 3e-3),
        Contender("rlgen VAE", "latent 8, (256, 256), IW-200", vae, 2.0, 1e-3, 200),
    ]
    table = quality("Binarised digits, nats", flatten(images), contenders, options)
    pixels = Contender("rlgen PixelCNN", "gated", lambda seed: PixelCNN((1, 8, 8)))
    table.rows += quality("", images, [pixels], options).rows
    return table


def speed(options: Options) -> Table:
    """RealNVP and MAF at D = 64, batch 1024: interleaved calls, CPU time of one thread."""
    x = torch.randn(1024, 64, generator=torch.Generator().manual_seed(0))
    rows: list[tuple[str, ...]] = []
    libraries = ["rlgen", "zuko"] if options.peers and have("zuko") else ["rlgen"]
    for name in ("RealNVP", "MAF"):
        contenders = {library: make_flow(library, name, 64, 5, 64) for library in libraries}
        jobs = {library: flow_jobs(model, x) for library, model in contenders.items()}
        for job in ("training step", "log_prob", "sample"):
            slow = job == "sample" and name == "MAF"
            calls = {library: jobs[library][job] for library in jobs}
            times = interleaved(calls, rounds=7 if slow else 40)
            for library, measured in times.items():
                ratio = statistics.median(measured) / statistics.median(times["rlgen"])
                size = sum(p.numel() for p in contenders[library].parameters())
                rows.append(
                    (
                        f"{library} {name}",
                        job,
                        f"{1e3 * min(measured):.2f}",
                        f"{1e3 * statistics.median(measured):.2f}",
                        f"{ratio:.2f}",
                        str(size),
                    )
                )
                print("  ".join(rows[-1]), flush=True)
    columns = ("model", "call", "min ms", "median ms", "times rlgen's median", "parameters")
    return Table("Speed, D = 64, batch 1024, 5 x (64, 64), one thread", columns, rows)


def flow_jobs(model: GenerativeModel, x: Tensor) -> dict[str, Callable[[], object]]:
    trainer = Trainer(model)

    def train() -> None:
        with unchecked():
            trainer.step(x)

    def log_prob() -> None:
        with torch.no_grad(), unchecked():
            model.loss(x)

    return {
        "training step": train,
        "log_prob": log_prob,
        "sample": lambda: model.sample(1024),
    }


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call, in turns, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return times


def machine() -> str:
    packages = ["torch", "numpy", *(p for p in ("zuko", "scikit-learn") if have_version(p))]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{platform.machine()} {platform.system()}, CPU, one thread, Python " + (
        f"{platform.python_version()}, {versions}"
    )


def have_version(package: str) -> bool:
    return have({"scikit-learn": "sklearn"}.get(package, package))


def main(options: Options) -> None:
    torch.set_num_threads(1)
    runs = {"moons": moons, "digits": grey_digits, "binary": binary_digits, "speed": speed}
    tables = [runs[part](options) for part in options.parts]
    command = (
        f"python scripts/benchmark_generative.py --parts {' '.join(options.parts)} "
        f"--seeds {options.seeds} --steps {options.steps}"
    )
    text = f"# Generative core: held-out density and speed\n\n`{command}`\n\n{machine()}\n\n"
    text += "\n".join(table.markdown() for table in tables)
    print("\n" + text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

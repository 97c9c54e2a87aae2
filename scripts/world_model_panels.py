"""The document of `benchmark_world_model.py`, and its pictures, out of the rows it wrote."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from figures import Row, listed, machine, spread, table
from imitation_pictures import COLOURS, pyplot, save

Rows = Sequence[Row]
PLACES = {"rooms": "Four-Rooms", "open": "open world, 10x10"}
ORDER = ("PPO", "CMA-ES", "PPO, untrained M")


def document(
    rows: Rows, chance: dict[str, float], settings: str, out: Path, *, episodes: int
) -> None:
    """Write it.

    Args:
        rows: all that was measured.
        chance: the exact success of random actions in each place.
        settings: that were the same for all.
        out: where to.
        episodes: that each agent was tried in.
    """
    judged = [row for row in rows if row["kind"] == "truth"]
    agents = [row for row in rows if row["kind"] == "agent"]
    lines = [
        "# Dreams",
        "",
        "`python scripts/benchmark_world_model.py truth`, `protocol`, `protocol --kind numbers`, "
        "both with `--where open --temperatures 1.0` too, then `report`. Two settings are what "
        "they are since agents had found what M had wrong on other seeds than those of agents "
        "below: tokens take 4,000 steps of M, and all M learn through noise, which was chosen "
        "among 0, 0.2 and 0.4 on the seeds 1000 and 10000.",
        "",
        f"{machine()}. On a GPU: not measured. "
        f"{settings}. Medians over seeds, the range in brackets.",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    for slip in sorted({row["slip"] for row in judged}):
        some = [row for row in judged if row["slip"] == slip]
        picture = out.parent / f"world_model_truth{'_slip' if slip else ''}.png"
        draw_horizons(some, picture)
        lines += [*truth_table(some, slip), "", f"![by horizon]({picture.name})"]
    for where in PLACES:
        some = [row for row in agents if row["where"] == where]
        lines += agents_table(some, where, chance[where], episodes) if some else []
    if agents:
        draw_temperatures([row for row in agents if row["by"] == "PPO"], out.parent / TEMPERATURES)
        lines += ["", f"![dreamed and real lengths by temperature]({TEMPERATURES})"]
    out.write_text("\n".join(lines) + "\n")


TEMPERATURES = "world_model_temperatures.png"


def middle(rows: Rows, figure: Callable[[Row], float], digits: int = 3) -> str:
    return spread([figure(row) for row in rows], digits)


def fitted(rows: Rows) -> str:
    """How V and M were fitted, as the rows have it."""
    each = dict[str, list[str]]()
    for row in rows:
        if "untrained" not in row["who"] and "anew" not in row["who"]:
            form = {"width": row["width"], "noise": row["noise"], **row["fit"]}
            found = each.setdefault(listed(form), [])
            found += [row["who"]] if row["who"] not in found else []
    return "; ".join(f"{', '.join(who)}: {form}" for form, who in each.items())


def mean(found: Sequence[float]) -> float:
    return sum(found) / len(found)


def rate(found: Sequence[float | None]) -> float:
    """The mean over horizons; where no dream was left there is none."""
    return mean([x for x in found if x is not None and x == x])


# against the truth


def truth_table(rows: Rows, slip: float) -> list[str]:
    """One line for each M."""
    first = rows[0]
    steps = f"{statistics.median(row['steps'] for row in rows):,.0f}"
    horizon, dreams = len(first["illegal"]), first["dreams"]
    worst = min(row["vision"] for row in rows)
    lines = [
        "",
        f"## Four-Rooms {'with slip ' + str(slip) if slip else 'without slip'}, {steps} real steps",
        "",
        f"Pictures, random actions, {dreams:,} dreams of {horizon} steps. Illegal: the share of "
        "dreamed steps that are impossible. False goals: dreams that ended at no goal, of those "
        "that ended; missed: arrivals at the goal that did not end, of all arrivals. Ends: the "
        "largest difference, over horizons, of the share of dreams that have ended from the exact "
        f"share. Fitted as {fitted(rows)}. V decodes {100 * worst:.0f} % of the cells rightly, "
        "or more.",
        "",
    ]
    head = ["M", "seeds", *(["accuracy at 30"] if not slip else []), "illegal a step"]
    head += ["false goals", "missed goals", "ends", "TV after 15", "nats of the next cell"]
    body = []
    for who in dict.fromkeys(row["who"] for row in rows):
        found = [row for row in rows if row["who"] == who]
        line: list[object] = [who, len(found)]
        if not slip:
            line.append(middle(found, lambda row: row["accuracy"][-1]))
        line += [
            middle(found, lambda row: rate(row["illegal"]), 5),
            fraction(found, "false", "ends"),
            fraction(found, "missed", "arrivals"),
            middle(found, off),
            middle(found, lambda row: mean(row["spread"])),
            middle(found, lambda row: row["nats"]) if "nats" in found[0] else "",
        ]
        body.append(line)
    floor = spread([mean(row["floor"]) for row in rows if row["who"] == first["who"]])
    entropy = statistics.median(row["entropy"] for row in rows if "entropy" in row)
    return [
        *lines,
        *table(head, body),
        "",
        f"TV: of the cells after 15 steps from one cell, the mean over {len(first['spread'])} "
        f"first cells, from the exact P^15; as many exact walks are {floor} away. The exact "
        f"entropy of the next cell is {entropy:.3f} nats.",
        "",
        *truth_bars(rows, slip),
    ]


class Bar(NamedTuple):
    """What was to be reached, by whom, and how a row says it."""

    what: str
    who: str
    figure: Callable[[Row], float]
    holds: Callable[[float], bool]
    digits: int = 3


def truth_bars(rows: Rows, slip: float) -> list[str]:
    tokens, numbers = ("tokens, GRU", "tokens, Attention"), ("MDN-RNN",)
    bars = []
    for who in tokens if not slip else ():
        bars += [
            Bar("accuracy at 30 ≥ .95", who, lambda row: row["accuracy"][-1], lambda x: x >= 0.95),
            Bar("illegal ≤ .001", who, lambda row: rate(row["illegal"]), lambda x: x <= 0.001, 5),
            Bar("no false goals", who, lambda row: row["false"], lambda x: x == 0, 0),
            Bar("no missed goals", who, lambda row: row["missed"], lambda x: x == 0, 0),
        ]
    for who in (*tokens, *numbers) if slip else ():
        nats, most = (0.05, 0.08) if who in tokens else (0.15, 0.15)
        bars += [
            Bar(f"nats above the entropy ≤ {nats}", who, lambda row: row["nats"] - row["entropy"],
                lambda x, most=nats: x <= most),  # type: ignore[misc]
            Bar(f"TV after 15 ≤ {most}", who, lambda row: mean(row["spread"]),
                lambda x, most=most: x <= most),  # type: ignore[misc]
        ]  # fmt: skip
    return bars_table(rows, bars)


def bars_table(rows: Rows, bars: Sequence[Bar]) -> list[str]:
    """Each with how many seeds hold it."""
    body = []
    for bar in bars:
        found = [bar.figure(row) for row in rows if row["who"] == bar.who]
        if found:
            held = sum(bar.holds(figure) for figure in found)
            body.append([bar.who, bar.what, spread(found, bar.digits), f"{held} of {len(found)}"])
    return table(["who", "bar", "found", "seeds that hold it"], body)


def fraction(rows: Rows, part: str, whole: str) -> str:
    """Counts of all seeds together."""
    return f"{sum(row[part] for row in rows)} of {sum(row[whole] for row in rows)}"


def off(row: Row) -> float:
    pairs = zip(row["ended"], row["exact_ended"], strict=True)
    return float(max(abs(mine - exact) for mine, exact in pairs))


def draw_horizons(rows: Rows, file: Path) -> None:
    """Accuracy where there is one, illegal moves and the share of ended dreams by horizon."""
    plt = pyplot()
    panels = ["illegal", "ended"] if "accuracy" not in rows[0] else ["accuracy", "illegal", "ended"]
    titles = {
        "accuracy": "where it really would be",
        "illegal": "impossible moves a step",
        "ended": "have ended",
    }
    size = (4.6 * len(panels), 3.9)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained")
    people = list(dict.fromkeys(row["who"] for row in rows))
    for axis, panel in zip(axes, panels, strict=True):
        for who, colour in zip(people, COLOURS, strict=False):
            found = torch.tensor([row[panel] for row in rows if row["who"] == who]).double()
            horizon = range(1, found.shape[1] + 1)
            line = "--" if "untrained" in who else "-"
            values = found.median(0).values.clamp_min(1e-5 if panel == "illegal" else 0.0)
            axis.plot(horizon, values, line, color=colour, label=who)
        if panel == "ended":
            axis.plot(horizon, rows[0]["exact_ended"], ":", color="black", label="exact")
        axis.set(title=titles[panel], xlabel="horizon")
        if panel == "accuracy":
            axis.set_ylim(0.0, 1.02)
        else:
            axis.set_yscale("log")
    axes[-1].legend(fontsize=7)
    save(figure, file)


# agents


def agents_table(rows: Rows, where: str, chance: float, episodes: int) -> list[str]:
    """One line for each M, way of learning and temperature."""
    lines = [
        "",
        f"## Learnt in dreams: {PLACES[where]}",
        "",
        f"V and M from {steps_of(rows)} real random steps, and nothing but the dream "
        f"afterwards. Fitted as {fitted(rows)}. "
        f"{episodes:,} real episodes from any cell, at most 100 steps, and as many dreamed ones, "
        "each from a start drawn among these. Steps count failures as 100. Random actions succeed "
        f"with probability {chance:.3f}, exactly. Real over optimum: mean steps over the mean "
        "distance of the real starts. False goals: the share of dreamed ends that are at no goal. "
        "Impossible: the share of dreamed steps that could not happen.",
        "",
    ]
    head = ["M", "C", "temperature", "seeds", "real success", "real steps", "dreamed steps"]
    head += ["dreamed from real", "real over optimum", "false goals", "impossible", "CPU-seconds"]
    body = []
    for who in dict.fromkeys(row["who"] for row in rows):
        for by in ORDER:
            some = [row for row in rows if row["who"] == who and row["by"] == by]
            for hot in sorted({row["temperature"] for row in some}):
                found = [row for row in some if row["temperature"] == hot]
                body.append([who, by, hot, len(found), *agents_line(found)])
    return [*lines, *table(head, body), "", *agents_bars(rows, chance)]


def agents_bars(rows: Rows, chance: float) -> list[str]:
    """At temperature 1."""
    lines: list[str] = []
    for by in ORDER:
        some = [row for row in rows if row["by"] == by and row["temperature"] == 1.0]
        bars = []
        for who in dict.fromkeys(row["who"] for row in some):
            bars += bars_of(who, by, chance)
        named = [{**row, "who": f"{row['who']}, {by}"} for row in some]
        lines += bars_table(named, bars)[2 if lines else 0 :]
    return lines


def bars_of(who: str, by: str, chance: float) -> list[Bar]:
    name = f"{who}, {by}"
    if by == "PPO":
        return [
            Bar("success ≥ .95", name, lambda row: row["success"], lambda x: x >= 0.95),
            Bar("steps over optimum ≤ 1.35", name, lambda row: row["length"] / row["optimum"],
                lambda x: x <= 1.35, 2),
            Bar("dreamed within 15 % of real", name, apart, lambda x: abs(x) <= 0.15, 2),
        ]  # fmt: skip
    if by == "CMA-ES":
        return [
            Bar("success ≥ .90", name, lambda row: row["success"], lambda x: x >= 0.90),
            Bar("CPU-seconds ≤ 120", name, lambda row: row["seconds"], lambda x: x <= 120, 0),
        ]
    most = chance + 0.05
    return [Bar(f"success ≤ {most:.3f}", name, lambda row: row["success"], lambda x: x <= most)]


def steps_of(rows: Rows) -> str:
    found = sorted({row["steps"] for row in rows})
    return f"{found[0]:,}" + (f" to {found[-1]:,}" if len(found) > 1 else "")


def agents_line(found: Rows) -> list[str]:
    seconds = [row["seconds"] for row in found if "seconds" in row]
    return [
        middle(found, lambda row: row["success"]),
        middle(found, lambda row: row["length"], 1),
        middle(found, lambda row: row["dreamed_length"], 1),
        f"{round(100 * statistics.median(apart(row) for row in found)):+d} %",
        middle(found, lambda row: row["length"] / row["optimum"], 2),
        middle(found, lambda row: row["dreamed_false"]),
        middle(found, lambda row: row["dreamed_impossible"], 4),
        f"{statistics.median(seconds):.0f}" if seconds else "",
    ]


def apart(row: Row) -> float:
    return float(row["dreamed_length"] / row["length"] - 1.0)


def draw_temperatures(rows: Rows, file: Path) -> None:
    """Dreamed and real steps to the goal by temperature."""
    plt = pyplot()
    several = [
        (where, who)
        for where in PLACES
        for who in dict.fromkeys(row["who"] for row in rows)
        if len({r["temperature"] for r in rows if (r["where"], r["who"]) == (where, who)}) > 1
    ]
    if not several:
        return
    size = (4.6 * len(several), 3.9)
    figure, axes = plt.subplots(1, len(several), figsize=size, layout="constrained", squeeze=False)
    for axis, (where, who) in zip(axes[0], several, strict=True):
        some = [row for row in rows if (row["where"], row["who"]) == (where, who)]
        hot = sorted({row["temperature"] for row in some})
        kinds = {"length": "real", "dreamed_length": "dreamed", "optimum": "optimum"}
        for (name, label), colour in zip(kinds.items(), COLOURS, strict=False):
            line = [statistics.median(r[name] for r in some if r["temperature"] == t) for t in hot]
            axis.plot(hot, line, "o-", color=colour, label=label)
            for row in some:
                axis.plot(row["temperature"], row[name], ".", color=colour, alpha=0.4)
        axis.set(title=f"{PLACES[where]}, {who}", xlabel="temperature", ylabel="steps to the goal")
        axis.legend()
    save(figure, file)

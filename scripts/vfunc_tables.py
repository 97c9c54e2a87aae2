"""The document of `benchmark_vfunc.py`, out of the rows it wrote."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from figures import Row, listed, machine, spread, table
from policy_rows import ALONE, FORMED, FORMS, FORMS_TOTAL, RECIPES, SCALES, SUCCESS, WEIGHTS, Recipe

from rlgen.agents.anneal import Anneal

WHO = {
    "vfunc": "VFunc",
    "none": "the same, entropy weight 0",
    "action": "the same, action entropy instead",
    "ensemble": "ensemble",
    "noise": "parameter noise",
    "difference": 'VFunc, "maxent", encoder "difference"',
    "similarity": 'VFunc, encoder "similarity"',
    "direct": 'VFunc, encoder "direct"',
    "bare": "VFunc without the bonus",
    "xy": "VFunc, a cell seen as two numbers",
}
WORLDS = {
    "open5": "Open world 5 x 5",
    "open8": "Open world 8 x 8",
    "rooms": "Four-Rooms, (1, 1) to (11, 11)",
}
UNSURE = 0.15  # an agree below it is hardly any
Same = Mapping[str, Row]  # who -> the row of one seed
Figure = Callable[[Same], float]


class Exact(NamedTuple):
    """What is known of a world without learning.

    Attributes:
        paths: how many shortest paths there are.
        coin: the entropy of the path of who chooses evenly among the best actions, in nats.
    """

    paths: int
    coin: float


class Bar(NamedTuple):
    """What was to be reached, how the rows of one seed say it, and what was aimed at beyond."""

    what: str
    figure: Figure
    least: float
    aim: float | None = None
    digits: int = 2
    needs: str = "vfunc"


def document(rows: Sequence[Row], exact: Mapping[str, Exact]) -> list[str]:
    """All lines of it."""
    measured = [row for row in rows if row["kind"] == "row"]
    drawn = {row["world"]: row for row in rows if row["kind"] == "picture"}
    lines = heading()
    for world in WORLDS:
        found = [row for row in measured if row["world"] == world]
        if found:
            lines += section(world, found, exact[world])
        if world in drawn:
            picture = drawn[world]
            lines += ["", f"![policies of seed {picture['seed']}]({picture['file']})"]
    return [*lines, "", *cost(measured, list(drawn.values()))]


def heading() -> list[str]:
    return [
        "# Distributions over policies",
        "",
        "`python scripts/benchmark_vfunc.py measure` with `--world open5`, `open8` and `rooms`, "
        "`pictures`, then `report`.",
        "",
        f"{machine()}. On a GPU: not measured. Settings were chosen on the seeds 0 to 7; these are "
        "others. That open worlds take more states and candidates than Four-Rooms began with a "
        "miss of seed 8 at 5 x 5; how many was chosen on seed 0. Median, and range over seeds in "
        "brackets.",
        "",
        "d500, d2000: different shortest paths among the greedy paths of so many drawn policies. "
        "H: entropy of the greedy path over 2,000 draws, in nats. agree: how likely a sampled "
        "episode follows the greedy path of its own policy. H(path given z): of sampled episodes, "
        "in nats. I(path; z): what a sampled path tells of which of 500 policies took it, at most "
        "log 500 = 6.21. z found: how often no other of them makes the path likelier. Bound: that "
        "is learnt by, of the information of z and what policies do at visited states; then bounds "
        "from both sides by 8,192 candidates. All three are estimates from 16 sets of states, "
        "hence one digit, and compare only rows with the same states, candidates and noise at the "
        "end. Routes: shares of all draws by the north-east and by the south-west, for each seed.",
        "",
        f"Variety counts where at least {SUCCESS:.0%} reach the goal, and with its agree: a policy "
        "that is nearly undecided has many greedy paths for the least change. The same without "
        "bound begins from the same weights as VFunc, and has all else of it, also an action's "
        "entropy that falls. Of action entropies, the weight of "
        f"{', '.join(map(str, WEIGHTS))} with the most d500 at such a success is shown, or the "
        "most successful one where none has it, and all of them are paid for. The policies of an "
        "ensemble share the steps of one row. Parameter noise has the largest of the scales "
        f"{', '.join(map(str, SCALES))} that leaves such a success to 200 policies, or the last "
        "where none does. A weight or a scale whose own row falls short of it is marked as unfit.",
    ]


def section(world: str, rows: Sequence[Row], exact: Exact) -> list[str]:
    lines = [
        "",
        f"## {WORLDS[world]}",
        "",
        f"{exact.paths:,} shortest paths, log {math.log(exact.paths):.2f}; a fair coin at every "
        f"choice has {exact.coin:.2f} nats. {settings_of(RECIPES[world])}",
        "",
        *table(
            ["who", "seeds", "success", "length / shortest", "d500", "d2000", "H", "agree",
             "H(path given z)", "I(path; z)", "z found", "bound", "between", "routes",
             "CPU-seconds"],
            [cells(shown, some) for shown, some in by_who(rows)],
        ),
        "",
        *bars(world, rows),
        "",
        f"**Where it sticks.** {sticks(rows, exact)}",
        "",
        "A cell is closed after training: how many of 500 policies still arrive by their greedy "
        "paths, and after how many tries of one episode each the first of them is found, (500 + 1) "
        "/ (fit + 1) on average. No gradient step is taken. Median and range over seeds.",
        "",
        *table(
            ["who", *(f"{cell} closed" for cell in RECIPES[world].closed)],
            [closed(shown, some) for shown, some in by_who(rows)],
        ),
    ]  # fmt: skip
    return lines


def by_who(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """In the order of the table, those that were measured."""
    found = [(shown, [row for row in rows if row["who"] == name]) for name, shown in WHO.items()]
    return [(shown, some) for shown, some in found if some]


def settings_of(recipe: Recipe) -> str:
    """How VFunc learnt, in a sentence."""
    more = ""
    if recipe.action_entropy is not None:
        more = (
            f" and an action's entropy {falls(recipe.action_entropy)}, that the same with entropy "
            "weight 0 has, too"
        )
    if recipe.novelty:
        more += (
            f", and a bonus of weight {recipe.novelty} for seldom visited cells, that all rows "
            "have but the one that says so"
        )
    return (
        f"{recipe.total:,} steps of {recipe.copies} copies, PPO with "
        f"{listed(recipe.settings)}, an entropy weight of {recipe.entropy_weight}, "
        f"{recipe.points} states, {recipe.candidates} candidates, so a bound of at most "
        f"{math.log(recipe.candidates):.2f}, noise {falls(recipe.noise)}{more}. The ensemble has "
        f"{recipe.members} policies."
    )


def falls(setting: float | Anneal | None) -> str:
    if not isinstance(setting, Anneal):
        return f"{setting}"
    return f"from {setting.start} to {setting.end} in {setting.steps:,} steps"


def cells(shown: str, rows: Sequence[Row]) -> list[str]:
    def of(name: str, digits: int = 2) -> str:
        # no length where nobody arrives
        known = [row[name] for row in rows if row.get(name, math.nan) == row.get(name)]
        return spread(known, digits) if known else "-"

    middle = [[row["between"][side] for row in rows if "between" in row] for side in (0, 1)]
    between = " to ".join(f"{statistics.median(side):.1f}" for side in middle) if middle[0] else "-"
    routes = [" / ".join(f"{100 * share:.0f}" for share in row["routes"]) for row in rows]
    told = ", ".join(routes) if rows[0]["world"] == "rooms" else "-"
    for name in ("weight", "scale"):
        if name in rows[0]:
            shown += f", {name} {', '.join(fitting(row, name) for row in rows)}"
    return [
        shown, str(len(rows)), of("success", 3), of("length", 3), of("d500", 0),
        of("distinct", 0), of("entropy"), of("agree"), of("given"), of("information"),
        of("recovered"), of("bound", 1), between, told, of("seconds", 0),
    ]  # fmt: skip


def fitting(row: Row, name: str) -> str:
    """A setting that was sought, and whether it serves the task."""
    return f"{row[name]:g}{' (unfit)' * (row['success'] < SUCCESS)}"


def closed(shown: str, rows: Sequence[Row]) -> list[str]:
    def of(counts: Sequence[int]) -> str:
        tries = statistics.median(501 / (fit + 1) for fit in counts)
        return f"{spread(counts, 0)}; {tries:.1f}" if min(counts) else f"{spread(counts, 0)}; -"

    return [shown, *(of(counts) for counts in zip(*(row["closed"] for row in rows), strict=True))]


def own(name: str, sign: float = 1.0) -> Figure:
    return lambda same: sign * same["vfunc"][name]


def above(name: str) -> Figure:
    return lambda same: same["vfunc"]["entropy"] - same[name]["entropy"]


def smaller_route(same: Same) -> float:
    return float(min(same["vfunc"]["routes"]))


def bars_of(world: str) -> list[Bar]:
    """Of VFunc, but for one of a comparison; "at most" is "at least" of the negative."""
    success = 0.98 if world == "open5" else 0.95
    length = {"open5": 1.02, "open8": 1.05}
    d500, entropy, agree = {
        "open5": ((50, None), (3.5, 4.05), (0.6, 0.8)),
        "open8": ((200, 350), (5.3, 6.6), (0.3, 0.6)),
        "rooms": ((120, 260), (4.6, 5.8), (0.15, 0.5)),
    }[world]
    most = RECIPES[world].candidates
    found = [Bar("success", own("success"), success, digits=3)]
    if world in length:
        found.append(Bar("length / shortest", own("length", -1.0), -length[world], digits=3))
    found += [
        Bar("d500", own("d500"), *d500, digits=0),
        Bar("H", own("entropy"), *entropy),
        Bar("agree", own("agree"), *agree),
        Bar(f"bound, of log {most}", own("bound", -1.0), -math.log(most)),
        Bar(
            "lower bound of the information above the bound learnt by",
            lambda same: same["vfunc"]["between"][0] - same["vfunc"]["bound"],
            0.0,
        ),
    ]
    if world == "rooms":
        found.append(Bar("share of the rarer route", smaller_route, 0.2, 0.35))
    if world == "open5":
        found += [
            Bar("bound", own("bound"), 1.0),
            Bar("H above entropy weight 0", above("none"), 1.5, needs="none"),
            Bar(
                "agree of action entropy",
                lambda same: -same["action"]["agree"],
                -0.6,
                needs="action",
            ),
        ]
    if world == "open8":
        found.append(Bar("H above an ensemble of 64", above("ensemble"), 1.0, needs="ensemble"))
    return found


def bars(world: str, rows: Sequence[Row]) -> list[str]:
    """Each with how many seeds hold it and how many reach the aim; and what is not held by all."""
    seeds = sorted({row["seed"] for row in rows if row["who"] == "vfunc"})
    by_seed = [{row["who"]: row for row in rows if row["seed"] == seed} for seed in seeds]
    body, missed, aims = [], [], [True for _ in seeds]
    for bar in bars_of(world):
        found = [bar.figure(same) for same in by_seed if bar.needs in same]
        sign, word = (-1.0, "at most") if bar.least < 0.0 else (1.0, "at least")
        held, aim = sum(figure >= bar.least for figure in found), ["", ""]
        if held < len(seeds):
            missed.append(f"{bar.what} ({held} of {len(seeds)} seeds)")
        if bar.aim is not None:
            reached = [figure >= bar.aim for figure in found]
            aims = [both and one for both, one in zip(aims, reached, strict=True)]
            aim = [f"at least {bar.aim:g}", f"{sum(reached)} of {len(seeds)}"]
        shown = spread([sign * f for f in found], bar.digits) if found else "not measured"
        limit = f"{word} {sign * bar.least:.4g}"
        body.append([bar.what, limit, shown, f"{held} of {len(seeds)}", *aim])
    return [
        *table(["of VFunc", "bar", "found", "seeds that hold it", "aim", "seeds"], body),
        "",
        f"Bars that are not held by all seeds: {', '.join(missed) if missed else 'none'}. All aims "
        f"at once: {sum(aims)} of {len(seeds)} seeds.",
    ]


def sticks(rows: Sequence[Row], exact: Exact) -> str:
    """In how few of the ways it stays, by seed."""
    mine = sorted((row for row in rows if row["who"] == "vfunc"), key=lambda row: row["seed"])
    if not mine:
        return "VFunc was not measured."
    shares = [row["distinct"] / exact.paths for row in mine]
    entropies = [row["entropy"] for row in mine]
    said = [
        f"For the seeds {each(mine, 'seed', 'd')}, 2,000 draws of VFunc showed "
        f"{', '.join(f'{share:.0%}' for share in shares)} of all shortest paths; the most frequent "
        f"path had {each(mine, 'most', '.1%')} of the draws, and an even choice of all has "
        f"{1 / exact.paths:.2%}. Its H is that of "
        f"{', '.join(f'{math.exp(nats):.0f}' for nats in entropies)} equally likely paths, and "
        f"{', '.join(f'{exact.coin - nats:.2f}' for nats in entropies)} nats below a fair "
        "coin's (2,000 draws show less than there is where paths are many)."
    ]
    if mine[0]["world"] == "rooms":
        said += by_routes(rows)
    forms = [row for row in rows if row["who"] in FORMS]
    if forms:
        said.append(
            f"The other forms have {FORMS_TOTAL:,} steps and {formed()}; the bound of "
            '"maxent" knows no candidates, so no such limit. '
            f"Of {exact.paths} paths, 2,000 draws showed: {named(forms, 'distinct', 'd')}."
        )
    missed = [row for row in rows if row["success"] < SUCCESS]
    if missed:
        said.append(f"Below a success of {SUCCESS:.0%}: {named(missed, 'success', '.1%')}.")
    unsure = [row for row in rows if row["agree"] < UNSURE and row["success"] >= SUCCESS]
    if unsure:
        said.append(f"Arrive, but with an agree below {UNSURE}: {named(unsure, 'agree', '.2f')}.")
    return " ".join(said)


def by_routes(rows: Sequence[Row]) -> list[str]:
    """How evenly the two ways around are taken, with a bonus, without, and with less to see."""
    said = []
    for who in ("vfunc", "bare", "xy"):
        some = [row for row in rows if row["who"] == who]
        if some:
            shares = ", ".join(f"{smaller_route({'vfunc': row}):.0%}" for row in some)
            said.append(f"The rarer route of {WHO[who]} has {shares}.")
    return [*said, "An even choice of all shortest paths has 25%, by the south-west."]


def each(rows: Sequence[Row], name: str, form: str) -> str:
    """A figure of one row after the other."""
    return ", ".join(format(row[name], form) for row in rows)


def formed() -> str:
    """What the other forms have, in words."""
    weights = {name: form["entropy_weight"] for name, form in FORMS.items()}
    shown = ", ".join(f"{weight} ({name})" for name, weight in weights.items())
    return (
        f"{FORMED['points']} states, {FORMED['candidates']} candidates, noise {FORMED['noise']}, "
        f"entropy weights of {shown}"
    )


def named(rows: Sequence[Row], name: str, form: str) -> str:
    """A figure of each, by who it is of."""
    told = [f"{shown} {each(some, name, form)}" for shown, some in by_who(rows)]
    return "; ".join(told)


def cost(rows: Sequence[Row], drawn: Sequence[Row]) -> list[str]:
    """What all of it took."""
    shared = [row for row in rows if row["who"] not in ALONE]
    others = [row for row in rows if row["who"] in ALONE]
    longest = max(rows, key=minutes)
    whole, more = sum(map(minutes, shared)), sum(map(minutes, (*others, *drawn)))
    return [
        "## Cost",
        "",
        f"The rows that all worlds have took {whole:.0f} CPU-minutes, on two cores {whole / 2:.0f} "
        f"at best (bar: 40); those of one world alone and the pictures {more:.0f}. The longest row "
        f"of one seed took {minutes(longest):.1f} (bar: 4): {WHO[longest['who']]}, "
        f"{WORLDS[longest['world']]}, seed {longest['seed']}.",
    ]


def minutes(row: Row) -> float:
    """Of the CPU, to learn and to be looked at."""
    return float(row["seconds"] + row.get("looked", 0.0)) / 60.0

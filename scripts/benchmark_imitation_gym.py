"""Imitation on CartPole and Acrobot, with the published figures beside it, and survival bias.

    python scripts/benchmark_imitation_gym.py survival --seeds 0 1 2 3 4
    python scripts/benchmark_imitation_gym.py table --task CartPole-v0 --seeds 0 1 2
    python scripts/benchmark_imitation_gym.py table --task Acrobot-v1 --seeds 0 1 2
    python scripts/benchmark_imitation_gym.py report

Each figure is a line in runs/imitation_gym.jsonl as soon as it is known; `report` makes
docs/results/imitation_gym.md of them. Experts are trained once and their demonstrations kept
beside it. Two commands may run at the same time, one thread each.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
import tyro
from figures import Notes, machine, spread
from gymnasium.vector import AutoresetMode

from rlgen.agents import PPO, TRPO, ActorCritic
from rlgen.agents.imitation import BC, GAIL, Demonstrations, Trajectory, record
from rlgen.envs.adapters import from_gymnasium
from rlgen.envs.world import World

NOTES = Notes("imitation_gym")
HELD_OUT = 10**6  # seeds from here on are for evaluation only
COPIES, STEPS, EPISODES = 16, 64, 100
Task = Literal["CartPole-v0", "Acrobot-v1"]
Learned = Literal["BC", "GAIL, PPO", "GAIL, TRPO"]
GOALS = {"CartPole-v0": 199.9, "Acrobot-v1": -82.0}  # of the experts; see `expert_of`
PUBLISHED = {  # Ho and Ermon, 2016: BC and GAIL with TRPO, by demonstrations
    "CartPole-v0": {1: (72.0, 200.0), 4: (169.2, 200.0), 10: (177.2, 200.0)},
    "Acrobot-v1": {1: (-130.6, -77.3), 4: (-93.2, -83.1), 10: (-95.1, -78.9)},
}
PUBLISHED_EXPERTS = {"CartPole-v0": 200.0, "Acrobot-v1": -75.25}
app = tyro.extras.SubcommandApp()


def world_of(task: str, copies: int = COPIES) -> World:
    """CartPole-v0 is CartPole-v1 with 200 steps."""
    name, limit = ("CartPole-v1", 200) if task == "CartPole-v0" else (task, 500)
    venv = gymnasium.make_vec(
        name,
        copies,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        max_episode_steps=limit,
    )
    return from_gymnasium(venv)


def scored(policy: PPO | TRPO | BC, task: str, episodes: int = EPISODES) -> dict[str, Any]:
    """Returns of whole episodes with actions drawn from the policy, and with its modes."""
    figures: dict[str, Any] = {}
    for name, deterministic in (("drawn", False), ("mode", True)):
        world = world_of(task, 20)
        played = record(world, policy, episodes, deterministic=deterministic, seed=HELD_OUT)
        figures[name] = float(played.returns().mean())
        figures[f"{name}_spread"] = float(played.returns().std())
    return figures


def falling(played: Demonstrations, score: float, near: float) -> bool:
    """Whether episodes end by themselves, after about `score` steps."""
    far = abs(float(played.returns().mean()) - score) > near
    return not far and not any(one.truncated for one in played)


def expert_of(task: str) -> Demonstrations:
    """Episodes of PPO that has reached the goal; for CartPole-v1, of PPO half way."""
    path = NOTES.file.parent / f"expert_{task}.npz"
    if path.exists():
        return Demonstrations.load(path)
    world = world_of(task)
    agent = PPO(world, steps=STEPS, minibatch=256, seed=1)
    world.reset(1)
    while True:
        agent.learn(COPIES * STEPS, progress=False)
        quick = record(world_of(task, 20), agent, 20, seed=agent.iteration)
        if task == "CartPole-v1":
            if agent.iteration < 12 or not falling(quick, 194, 15):
                continue
            played = record(world_of(task, 50), agent, 250, seed=HELD_OUT)
            if falling(played, 194, 8):
                break
        elif float(quick.returns().mean()) >= GOALS[task]:
            played = record(world_of(task, 20), agent, EPISODES, seed=HELD_OUT)
            if float(played.returns().mean()) >= GOALS[task]:
                break
    returns = played.returns()
    NOTES.add("expert", task=task, steps=agent.total_steps, episodes=len(played),
         score=float(returns.mean()), spread=float(returns.std()))  # fmt: skip
    played.save(path)
    return played


def thinned(demonstrations: Demonstrations, every: int, seed: int) -> Demonstrations:
    """One step in `every` of each episode from a random start, as often as `every` steps were.

    Repeated, so that ends weigh as much beside steps as they do in whole episodes.
    """
    if every == 1:
        return demonstrations
    generator = torch.Generator().manual_seed(seed)
    found = []
    for one in demonstrations:
        first = int(torch.randint(every, (), generator=generator))
        kept = torch.arange(min(first, len(one) - 1), len(one), every).repeat_interleave(every)
        obs = torch.cat([one.obs[kept], one.obs[-1:]])
        found.append(Trajectory(obs, one.action[kept], one.terminated, one.truncated))
    return Demonstrations(tuple(found))


def decayed(agent: PPO | TRPO, gail: GAIL, total: int) -> float:
    """Learn, with both players' rates going down in a straight line to a twentieth.

    Returns:
        The mean return of the episodes that ended in the last third.
    """
    groups = [*agent.optimizer.param_groups, *gail.optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    late: list[float] = []
    kl = getattr(agent, "max_kl", None)

    def lower(done: int, metrics: dict[str, float]) -> None:
        if done > total * 2 / 3:
            late.append(metrics["episode/return"])
        left = max(0.05, 1.0 - done / total)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * left
        if isinstance(agent, TRPO) and kl is not None:
            agent.max_kl = kl * left

    agent.learn(total, callback=lower, progress=False)
    return statistics.mean(late)


def learner(kind: str, world: World, gail: GAIL, seed: int, **options: Any) -> PPO | TRPO:
    models, shared = {"gail": gail}, {"world_weight": 0.0, "seed": seed, **options}
    if kind == "GAIL, TRPO":
        return TRPO(world, reward_models=models, steps=2 * STEPS, **shared)
    settings = {"steps": STEPS, "minibatch": 256, **PPO_OPTIONS, **shared}
    return PPO(world, reward_models=models, **settings)


PPO_OPTIONS: dict[str, Any] = {"entropy_weight": 1e-3, "normalise": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "absorbing states (default)": {},
    "none, positive reward": {"absorbing": False},
    "from nothing, absorbing states": {},
    "from nothing, none, positive reward": {"absorbing": False},
    "constant critic, absorbing states": {"updates": 0},
    "constant critic, none, positive reward": {"updates": 0, "absorbing": False},
}


@app.command
def survival(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    variants: tuple[str, ...] = tuple(VARIANTS),
    steps: int = 120_000,
    learns: Learned = "GAIL, PPO",
    policy_lr: float = 3e-4,
) -> None:
    """Demonstrations that end in a fall at about 194 of 500 steps: where does the learner end?"""
    torch.set_num_threads(1)
    task = "CartPole-v1"
    shown = expert_of(task)[:200]
    for seed in seeds:
        for name in variants:
            world = world_of(task)
            world.reset(1000 * seed)
            spaces = world.observation_space, world.action_space
            gail = GAIL(shown, *spaces, seed=seed, **VARIANTS[name])
            full = gail.updates > 0
            warm = full and not name.startswith("from nothing")
            start, model = time.process_time(), None
            if warm:
                cloned = BC(shown, *spaces, seed=seed).learn(2000, progress=False)
                model = ActorCritic(cloned.policy, streams=2)
                NOTES.add("survival", who="cloning alone", seed=seed, **scored(cloned, task))
            if not gail.updates:
                for parameter in gail.critic.parameters():
                    parameter.data.zero_()
            kind, rate = (learns, policy_lr) if warm else ("GAIL, PPO", 1e-3)
            # what pays nothing must not be divided by its own deviation
            scale = {} if full else {"normalise": True}
            agent = learner(kind, world, gail, seed, model=model, lr=rate, **scale)
            late = decayed(agent, gail, steps if full else 60_000)
            cpu = time.process_time() - start
            NOTES.add("survival", who=name, seed=seed, cpu=cpu, late=late, **scored(agent, task))


@app.command
def table(
    task: Task,
    seeds: tuple[int, ...] = (0, 1, 2),
    demonstrations: tuple[int, ...] = (1, 4, 10),
    methods: tuple[Learned, ...] = ("BC", "GAIL, PPO", "GAIL, TRPO"),
    subsample: int = 10,
    steps: int = 100_000,
    penalty: float = 1.0,
    lr: float = 1e-3,
    policy_lr: float = 3e-4,
) -> None:
    """BC and GAIL at few demonstrations, of which one step in `subsample` is shown."""
    torch.set_num_threads(1)
    played = expert_of(task)
    for seed in seeds:
        for count in demonstrations:
            chosen = range(seed * count, (seed + 1) * count)
            shown = thinned(played[[i % len(played) for i in chosen]], subsample, seed)
            for method in methods:
                world = world_of(task)
                world.reset(1000 * seed)
                spaces = world.observation_space, world.action_space
                start = time.process_time()
                if method == "BC":
                    found: PPO | TRPO | BC = BC(shown, *spaces, seed=seed)
                    found.learn(2000, progress=False)
                else:
                    gail = GAIL(shown, *spaces, penalty=penalty, lr=lr, seed=seed)
                    rate = {"lr": policy_lr} if method == "GAIL, PPO" else {}
                    found = learner(method, world, gail, seed, **rate)
                    decayed(found, gail, steps)
                cpu = time.process_time() - start
                NOTES.add("table", task=task, who=method, demonstrations=count, seed=seed,
                     subsample=subsample, steps=steps, cpu=cpu, **scored(found, task))  # fmt: skip


@app.command
def report(out: Path = Path("docs/results/imitation_gym.md")) -> None:
    """The document of all that was measured."""
    rows = NOTES.rows()
    lines = [
        "# Imitation: CartPole and Acrobot",
        "",
        "`python scripts/benchmark_imitation_gym.py survival`, `table --task CartPole-v0`, "
        "`table --task Acrobot-v1`, then `report`.",
        "",
        f"{machine('gymnasium')}. Each score is the mean return of {EPISODES} "
        "episodes with actions drawn from the policy; a cell is the median over seeds, the range "
        "in brackets. Experts are our own PPO, stopped when they had reached their score.",
        *survival_table(rows),
        *[line for task in PUBLISHED for line in published_table(rows, task)],
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def expert_line(rows: Sequence[dict[str, Any]], task: str) -> dict[str, Any]:
    return next(r for r in rows if r["kind"] == "expert" and r["task"] == task)


def survival_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not any(r["kind"] == "survival" for r in rows):
        return []
    expert = expert_line(rows, "CartPole-v1")
    score = expert["score"]
    lines = [
        "",
        "## Survival bias: an expert that falls",
        "",
        f"CartPole-v1, 500 steps at most. The expert is PPO half way: {score:.0f} on average over "
        f"{expert['episodes']} episodes (deviation {expert['spread']:.0f}), all of which end in a "
        "fall; 200 of them are shown. A learner that does more has not imitated: it was paid for "
        "being alive.",
        "",
        "| what follows an end | seeds | score | in the last third | of the expert's | within 15 % "
        "| CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for who in ("cloning alone", *VARIANTS):
        found = {r["seed"]: r for r in rows if r["kind"] == "survival" and r["who"] == who}
        if not found:
            continue
        scores = [r["drawn"] for r in found.values()]
        near = sum(abs(s / score - 1.0) <= 0.15 for s in scores)
        cpu = [r["cpu"] for r in found.values() if "cpu" in r]
        seconds = f"{statistics.median(cpu):.0f}" if cpu else ""
        late = [r["late"] for r in found.values() if "late" in r]
        share = statistics.median(scores) / score
        lines.append(
            f"| {who} | {len(found)} | {spread(scores, 0)} "
            f"| {spread(late, 0) if late else ''} | {share:.2f} | {near} of {len(found)} "
            f"| {seconds} |"
        )
    return [*lines, "", *SURVIVAL_SETTINGS]


def published_table(rows: Sequence[dict[str, Any]], task: str) -> list[str]:
    mine = [r for r in rows if r["kind"] == "table" and r["task"] == task]
    if not mine:
        return ["", f"## {task}", "", "Not measured."]
    expert = expert_line(rows, task)
    lines = [
        "",
        f"## {task}",
        "",
        f"Our expert: {expert['score']:.1f} (deviation {expert['spread']:.1f}); the published one: "
        f"{PUBLISHED_EXPERTS[task]:g}. {TASKS[task]} Published: Ho and Ermon, 2016, GAIL with "
        "TRPO, one step in 10.",
        "",
        "| demonstrations | steps shown | method | seeds | score | by modes | published "
        "| CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[int, int, str], dict[int, dict[str, Any]]] = {}
    for r in mine:
        groups.setdefault((r["subsample"], r["demonstrations"], r["who"]), {})[r["seed"]] = r
    for (every, count, who), found in sorted(groups.items(), key=lambda group: group[0]):
        of = list(found.values())
        published = f"{PUBLISHED[task][count][who != 'BC']:g}" if count in PUBLISHED[task] else ""
        lines.append(
            f"| {count} | {'all' if every == 1 else f'one in {every}'} | {who} | {len(of)} "
            f"| {spread([r['drawn'] for r in of], 1)} | {spread([r['mode'] for r in of], 1)} "
            f"| {published if every == 10 else ''} "
            f"| {statistics.median(r['cpu'] for r in of):.0f} |"
        )
    return [*lines, "", TABLE_SETTINGS]


TASKS = {
    "CartPole-v0": "CartPole-v1 made with 200 steps.",
    "Acrobot-v1": "The published figures are of Acrobot-v0, which ends after 200 steps, not 500.",
}
SURVIVAL_SETTINGS = [
    "The first two learners begin as the clone (the first row, 2,000 gradient steps) with PPO's "
    "`lr=3e-4`, all others from nothing with 1e-3; they learn for 120,000 steps, the constant "
    "critic's for 60,000, from `GAIL`'s defaults but for what the row says, and PPO with 16 copies "
    "of 64 steps, minibatches of 256, `entropy_weight=1e-3` and, but for the constant critic, "
    "`normalise=False`. The constant critic's weights are zero. All rates "
    "go down in a straight line to a twentieth.",
]
TABLE_SETTINGS = (
    "Learners begin from nothing: `GAIL` with its defaults, absorbing states included, 100,000 "
    "steps; PPO with 16 copies of 64 steps, minibatches of 256, `lr=3e-4`, "
    "`entropy_weight=1e-3`, `normalise=False`; TRPO with 128 steps; all rates, and TRPO's bound, "
    "go down in a straight line to a twentieth. BC: 2,000 gradient steps. One step in 10 is shown, "
    "as in the paper."
)

if __name__ == "__main__":
    app.cli(description=__doc__)

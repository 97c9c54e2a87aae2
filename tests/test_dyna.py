"""Learning from a model's draws, held against value iteration and against plain Q-learning."""

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen import checkpoint
from rlgen.agents.planning import evaluate_policy, value_iteration
from rlgen.agents.world_model import Dyna, TabularModel
from rlgen.agents.world_model.dyna import Moves
from rlgen.envs import FourRooms, OpenWorld
from rlgen.envs.tabular import TabularGrid
from rlgen.seeding import drawing_from, mix

DISCOUNT = 0.95
WORLDS: dict[str, Callable[[int, float], TabularGrid]] = {
    "rooms": lambda seed, slip: FourRooms(16, slip=slip, seed=seed),
    "open": lambda seed, slip: OpenWorld(16, size=8, slip=slip, seed=seed),
}


def steps_to_optimum(world: TabularGrid, *, k: int, decay: float, seed: int) -> float:
    """Real steps until no cell's value is off by 5 % of the largest, for 50 batches on end."""
    optimum = value_iteration(world.mdp(), discount=DISCOUNT).value
    agent = Dyna(world, k=k, discount=DISCOUNT, decay=decay, epsilon=1.0, seed=seed)
    good: list[int] = []

    def enough(steps: int, metrics: dict[str, float]) -> bool:
        error = (agent.values() - optimum).abs().max() / optimum.max()
        if error < 0.05:
            good.append(steps)
        else:
            good.clear()
        return len(good) == 50

    agent.learn(60_000, callback=enough, progress=False)
    return good[0] if len(good) == 50 else math.inf


def needed(world: str, slip: float, k: int, decay: float) -> list[float]:
    """The same for three seeds."""
    return [
        steps_to_optimum(WORLDS[world](100 * seed, slip), k=k, decay=decay, seed=seed)
        for seed in range(3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slip", "decay", "plain_decays"), [(0.0, 0.0, (0.0,)), (0.1, 0.3, (0.1, 0.2, 0.3))]
)
@pytest.mark.parametrize("world", WORLDS)
def test_half_of_the_real_steps_suffice(
    world: str, slip: float, decay: float, plain_decays: tuple[float, ...]
) -> None:
    """Even if plain Q-learning may choose its step size afterwards, for each seed."""
    tried = [needed(world, slip, 0, plain_decay) for plain_decay in plain_decays]
    plain = [min(tries) for tries in zip(*tried, strict=True)]
    more = needed(world, slip, 5, decay)
    assert max(plain) < math.inf and max(more) < math.inf
    ratios = [b / a for a, b in zip(plain, more, strict=True)]
    assert median(ratios) <= 0.5, (plain, more)


def test_what_was_really_done_does_not_depend_on_the_model() -> None:
    """So that nothing but the draws makes the difference above."""
    plain, more = (Dyna(WORLDS["rooms"](0, 0.1), k=k, epsilon=1.0) for k in (0, 5))
    for _ in range(50):
        plain.iterate()
        more.iterate()
        assert torch.equal(plain.world.state.cell, more.world.state.cell)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_without_draws_it_is_q_learning_bit_for_bit(decay: float) -> None:
    """The reference knows nothing but floats and lists."""
    agent = Dyna(_world(1, slip=0.1), k=0, decay=decay, epsilon=0.5, seed=3)
    agent.learn(800, progress=False)

    world = _world(1, slip=0.1)
    obs = world.reset()
    q = [[0.0] * 4 for _ in range(world.cells)]
    met = [[0] * 4 for _ in range(world.cells)]
    size = {0.0: lambda n: 1.0, 0.5: lambda n: 1.0 / math.sqrt(n), 1.0: lambda n: 1.0 / n}[decay]
    for t in range(800):
        cell = int(obs.argmax())
        best = [value == max(q[cell]) for value in q[cell]]
        share = [0.5 * b / sum(best) + 0.5 / 4 for b in best]
        with drawing_from(mix(3, t)):
            action = int(torch.multinomial(torch.tensor(share, dtype=torch.float64), 1))
        step = world.step(torch.tensor([action]))
        onward = int(step.final_obs.argmax())
        following = 0.0 if bool(step.terminated) else max(q[onward])
        met[cell][action] += 1
        error = float(step.reward) + 0.95 * following - q[cell][action]
        q[cell][action] += size(met[cell][action]) * error
        obs = step.obs
    assert torch.equal(agent.q, torch.tensor(q, dtype=torch.float64))
    assert torch.equal(agent.updates, torch.tensor(met, dtype=torch.float64))
    assert agent.q.any() and not agent.model.seen.any()


def test_entries_met_twice_in_a_batch_move_to_the_mean() -> None:
    agent = Dyna(_world(1), k=0, decay=1.0)
    moves = _moves([(0, 1, 1.0, 4), (0, 1, 0.0, 4), (0, 1, 0.5, 4), (2, 0, 1.0, 2)])
    agent.update(moves)
    agent.update(_moves([(0, 1, 1.0, 4)]))
    assert agent.q[0, 1] == pytest.approx(2.5 / 4)
    assert agent.q[2, 0] == 1.0 and int((agent.q != 0).sum()) == 2
    newest = Dyna(_world(1), k=0, decay=0.0)
    newest.update(moves)
    assert newest.q[0, 1] == pytest.approx(0.5)


def test_the_model_approaches_the_world() -> None:
    distances = []
    agent = Dyna(_world(64, slip=0.1), k=1, epsilon=1.0)
    mdp = agent.world.mdp()
    for steps in (2_000, 32_000):
        agent.learn(steps, progress=False)
        gap = 0.5 * (agent.model.transition - mdp.transition).abs().sum(2)
        distances.append(float(gap[~mdp.terminal].mean()))
    assert distances[1] < 0.4 * distances[0] and distances[1] < 0.03
    seen = agent.model.seen
    paid = seen[..., 1].sum(2) / seen[..., 0].sum(2)
    assert (paid - mdp.reward)[~mdp.terminal].abs().max() < 0.05
    goal = int(mdp.terminal.nonzero())
    assert torch.equal(seen[..., 1], seen[..., 2])  # paid where it ends, and only there
    assert not seen[:, :, [c for c in range(len(mdp.start)) if c != goal], 2].any()
    assert not seen[goal].any()  # nobody acts where it is over


def test_draws_have_the_models_law() -> None:
    model = TabularModel(3, 2)
    model.observe(_moves([(0, 1, 1.0, 2), (0, 1, 1.0, 2), (0, 1, 0.5, 2), (0, 1, 0.0, 1)], end=2))
    model.observe(_moves([(2, 0, 4.0, 0), (0, 1, 0.5, 2)]))
    drawn = model.draw(20_000)
    first = (drawn.cell == 0) & (drawn.action == 1)
    onward = first & (drawn.next_cell == 2)
    assert bool((first | ((drawn.cell == 2) & (drawn.action == 0))).all())
    assert float(first.double().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(onward.sum() / first.sum()) == pytest.approx(0.8, abs=0.02)
    assert drawn.reward[onward].unique().tolist() == [0.75]
    assert drawn.reward[drawn.cell == 2].unique().tolist() == [4.0]
    assert float(drawn.ended[onward].double().mean()) == pytest.approx(0.75, abs=0.03)
    assert not drawn.ended[~onward].any()


def test_older_experience_fades_if_wanted() -> None:
    before, after = _moves([(0, 0, 0.0, 1)] * 3), _moves([(0, 0, 0.0, 2)])
    for keep, share in ((1.0, 0.25), (0.5, 0.4), (0.0, 1.0)):
        model = TabularModel(3, 1, keep=keep)
        model.observe(before)
        model.observe(_moves([(1, 0, 0.0, 2)]))  # is nothing to cell 0
        model.observe(after)
        assert float(model.transition[0, 0, 2]) == pytest.approx(share)


def test_no_draw_is_older_than_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cell is closed and all ways into it were tried again, no draw leads there."""
    world = OpenWorld(8, size=4, start=(0, 0), seed=0)
    closed = 5  # the second cell of the second row
    agent = Dyna(world, k=5, discount=0.9, decay=0.0, epsilon=1.0, keep=0.0)
    drawn: list[Moves] = []
    draw = agent.model.draw

    def watched(n: int) -> Moves:
        moves = draw(n)
        now = agent.model.transition[moves.cell, moves.action, moves.next_cell]
        assert bool((now > 0).all())  # possible in the model of this very moment
        drawn.append(moves)
        return moves

    monkeypatch.setattr(agent.model, "draw", watched)
    agent.learn(4_000, progress=False)
    assert len(drawn) == 5 * agent.iteration
    assert agent.updates.sum() == 6 * agent.total_steps
    assert bool((torch.cat([m.next_cell for m in drawn]) == closed).any())

    into = (world.next_cell == closed).nonzero()
    agent.world = world.blocked((1, 1))
    assert _leads(agent.model, into, closed).any()  # not known yet
    while _leads(agent.model, into[into[:, 0] != closed], closed).any():
        agent.iterate()
    drawn.clear()
    agent.learn(4_000, progress=False)
    assert not (torch.cat([m.next_cell for m in drawn]) == closed).any()
    optimum = value_iteration(agent.world.mdp(), discount=0.9).value
    elsewhere = torch.arange(world.cells) != closed
    assert torch.allclose(agent.values()[elsewhere], optimum[elsewhere])


def test_it_goes_on_as_if_it_had_never_stopped() -> None:
    whole = Dyna(_world(4, slip=0.1), seed=1).learn(400, progress=False)
    agent = Dyna(_world(4, slip=0.1), seed=1).learn(200, progress=False)
    state = agent.state_dict()
    agent.learn(40, progress=False)  # does not touch the state that was taken
    again = Dyna(_world(4, slip=0.1), seed=1)
    again.load_state_dict(state)
    again.learn(200, progress=False)
    assert again.total_steps == whole.total_steps == 400
    assert torch.equal(again.q, whole.q) and torch.equal(again.model.seen, whole.model.seen)
    assert torch.equal(again.world.observe(), whole.world.observe())


def test_the_model_is_saved(tmp_path: Any) -> None:
    model = Dyna(_world(8), keep=0.9).learn(400, progress=False).model
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    assert again.keep == 0.9 and torch.equal(again.seen, model.seen)
    for drawn, before in zip(_seeded(again), _seeded(model), strict=True):
        assert torch.equal(drawn, before)


@pytest.mark.parametrize("observation", ["onehot", "xy", "image"])
def test_it_acts_on_what_it_sees(observation: Any) -> None:
    world = OpenWorld(16, size=4, observation=observation, seed=0)
    agent = Dyna(world, decay=0.0).learn(4_000, progress=False)
    mdp = world.mdp()
    optimum = value_iteration(mdp, discount=0.95).value
    assert torch.allclose(evaluate_policy(mdp, agent.policy(), discount=0.95), optimum)
    action, state = agent.act(world.views(), None, None)
    ahead = world.distances()[world.next_cell.gather(1, action[:, None]).squeeze(1)]
    assert torch.equal(ahead[:-1], world.distances()[:-1] - 1) and state is None
    assert torch.equal(agent.predict(world.views()), action)
    chance = agent.predict(world.views(), deterministic=False)
    assert bool((chance != action).any())
    with pytest.raises(ValueError, match="one of its cells"):
        agent.predict(torch.full_like(world.views()[:2], 7))


def test_a_callback_stops_it() -> None:
    agent = Dyna(_world(4))
    seen: list[int] = []

    def stop(steps: int, metrics: dict[str, float]) -> bool:
        assert metrics.keys() == {"td_error", "tried"}
        seen.append(steps)
        return steps == 12

    agent.learn(400, callback=stop, progress=False)
    assert seen == [4, 8, 12] and agent.total_steps == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", -1), ("decay", 1.5), ("epsilon", -0.1), ("discount", 2.0), ("keep", 1.1)],
)
def test_what_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"'{name}' must"):
        Dyna(_world(1), **{name: value})


def test_a_goal_that_moves_is_refused() -> None:
    with pytest.raises(ValueError, match="goal that stays"):
        Dyna(OpenWorld(1, goal="random"))


def _world(copies: int, *, slip: float = 0.0) -> TabularGrid:
    return OpenWorld(copies, size=4, slip=slip, max_steps=20, seed=7)


def _moves(steps: list[tuple[int, int, float, int]], *, end: int | None = None) -> Moves:
    cell, action, reward, onward = (torch.tensor(part) for part in zip(*steps, strict=True))
    return Moves(cell, action, reward, onward, onward == (-1 if end is None else end))


def _leads(model: TabularModel, ways: Tensor, cell: int) -> Tensor:
    return model.transition[ways[:, 0], ways[:, 1], cell] > 0


def _seeded(model: TabularModel) -> Moves:
    with drawing_from(0):
        return model.draw(64)

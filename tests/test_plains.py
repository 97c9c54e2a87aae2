"""The plains: every map can be solved, one sees little, and keys open doors."""

from collections import deque

import pytest
import torch

from rlgen.envs import Plains
from rlgen.envs.plains import Trek
from rlgen.envs.terrain import DOOR, FREE, GOAL, KEY, LAVA, WALL, WATER, draw_maps

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
LEFT, RIGHT = 2, 3


def way(codes: list[list[int]], start: tuple[int, int]) -> list[int] | None:
    """The moves of a shortest way to the goal, by a plain search over (cell, keys held)."""
    size = len(codes)
    first = (*start, frozenset())
    came, queue = {first: (first, -1)}, deque([first])
    while queue:
        row, column, held = now = queue.popleft()
        if codes[row][column] == GOAL:
            moves = []
            while came[now][1] >= 0:
                now, move = came[now]
                moves.append(move)
            return moves[::-1]
        for move, (down, right) in enumerate(MOVES):
            r, c = row + down, column + right
            if not (0 <= r < size and 0 <= c < size):
                continue
            code = codes[r][c]
            if code in (WALL, WATER, LAVA) or (code >= DOOR and code - DOOR not in held):
                continue
            state = (r, c, held | {code - KEY} if KEY <= code < DOOR else held)
            if state not in came:
                came[state] = (now, move)
                queue.append(state)
    return None


def ways(size: int, keys: int, maps: range) -> list[list[int] | None]:
    codes, starts = draw_maps(size, keys, maps)
    corners = [divmod(start, size) for start in starts.tolist()]
    return [way(c, s) for c, s in zip(codes.tolist(), corners, strict=True)]


@pytest.mark.parametrize(("size", "keys"), [(32, 3), (48, 1), (64, 0), (64, 2), (96, 3)])
def test_every_map_can_be_solved(size: int, keys: int) -> None:
    for moves in ways(size, keys, range(12)):
        assert moves is not None
        assert len(moves) > size * 0.75  # the goal is far away


@pytest.mark.parametrize("keys", [0, 2])
def test_a_plan_earns_the_one_reward_and_is_as_short_as_can_be(keys: int) -> None:
    maps = range(100, 106)
    world = Plains(64, keys=keys, maps=maps, seed=0)
    world.reset()
    plans = ways(64, keys, maps)
    assert [world.shortest(k) for k in range(6)] == [len(plan) for plan in plans]
    assert set(world.state.layout.tolist()) == set(range(6))
    lengths = torch.tensor([len(plans[k]) for k in world.state.layout.tolist()])
    longest = int(lengths.max())
    padded = torch.tensor(
        [plans[k] + [0] * (longest - len(plans[k])) for k in world.state.layout.tolist()]
    )
    over = torch.zeros(64, dtype=torch.bool)
    for t in range(longest):
        reward, terminated, _ = world.advance(padded[:, t], frozen=over)
        ends = lengths == t + 1
        assert torch.equal(terminated, ends) and torch.equal(reward, ends.float())
        over = over | ends
    assert (world.state.held == 2**keys - 1).all()


def place_of(world: Plains, row: int, column: int) -> torch.Tensor:
    return torch.tensor(
        [(row + world.view // 2) * (world.size + world.view - 1) + column + world.view // 2]
    )


def put(world: Plains, row: int, column: int, held: int = 0) -> None:
    world._state = Trek(torch.tensor([0]), place_of(world, row, column), torch.tensor([held]))


def where(world: Plains, code: int) -> tuple[int, int]:
    codes, _ = draw_maps(world.size, 2, world.maps)
    return tuple((codes[0] == code).nonzero()[0].tolist())


def test_keys_doors_lava_water_and_walls() -> None:
    world = Plains(1, maps=1, seed=0)
    world.reset()
    row, column = where(world, KEY + 1)  # in the open
    put(world, row, column - 1)
    seen = world.observe()[0]
    assert seen[4, 5].tolist() == [5, 2]  # a key of the second color
    seen = world.step(torch.tensor([RIGHT])).obs[0]
    assert seen[4, 4].tolist() == [0, 2]  # on its cell, holding bit 1
    assert world.step(torch.tensor([LEFT])).obs[0, 4, 5].tolist() == [0, 0]  # it is gone

    row, column = where(world, DOOR + 1)
    codes, _ = draw_maps(64, 2, range(1))
    down, right = next(m for m in MOVES if codes[0, row + m[0], column + m[1]] == FREE)
    action = torch.tensor([MOVES.index((-down, -right))])
    for held, opens in ((0, False), (0b01, False), (0b10, True)):
        put(world, row + down, column + right, held)
        assert world.observe()[0, 4 - down, 4 - right].tolist() == [6, 2]
        world.step(action)
        assert bool(world.state.place == place_of(world, row, column)) == opens

    for code, ends in ((LAVA, True), (WATER, False), (WALL, False)):
        near = (codes[0, :, 1:] == code) & (codes[0, :, :-1] == FREE)
        row, column = near.nonzero()[0].tolist()
        put(world, row, column)
        before = world.observe()
        reward, terminated, _ = world.advance(torch.tensor([RIGHT]))
        assert bool(terminated) == ends and not reward.any()
        assert ends or torch.equal(world.observe(), before)


def test_the_view_is_the_map_around_the_agent() -> None:
    world = Plains(32, maps=4, view=7, seed=3)
    obs = world.reset()
    codes, starts = draw_maps(64, 2, range(4))
    padded = torch.nn.functional.pad(codes, (3, 3, 3, 3), value=WALL)
    kinds = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6])
    for k, layout in enumerate(world.state.layout.tolist()):
        row, column = divmod(int(starts[layout]), 64)
        around = padded[layout, row : row + 7, column : column + 7].long()
        assert torch.equal(obs[k, :, :, 0].long(), kinds[around])
    assert world.observation_space.contains(obs[0].numpy())


def test_maps_are_their_numbers() -> None:
    all_of_them, starts = draw_maps(32, 1, range(8))
    some, those = draw_maps(32, 1, range(3, 6))
    assert torch.equal(all_of_them[3:6], some) and torch.equal(starts[3:6], those)
    assert len(all_of_them.flatten(1).unique(dim=0)) == 8


def test_copies_do_not_depend_on_their_number_and_episodes_differ() -> None:
    few, many = (Plains(n, maps=16, max_steps=5, seed=0) for n in (3, 10))
    assert torch.equal(few.reset(), many.reset()[:3])
    generator = torch.Generator().manual_seed(0)
    layouts = []
    for action in torch.randint(4, (40, 10), generator=generator):
        a, b = few.step(action[:3]), many.step(action)
        assert torch.equal(a.obs, b.obs[:3]) and torch.equal(a.final_obs, b.final_obs[:3])
        layouts.append(many.state.layout)
    assert len(torch.stack(layouts)[:, 0].unique()) > 3


def test_a_run_goes_on_exactly_where_it_was_saved() -> None:
    world, other = (Plains(8, maps=8, max_steps=30, seed=seed) for seed in (0, 1))
    world.reset()
    actions = torch.randint(4, (60, 8))
    for action in actions[:20]:
        world.step(action)
    other.load_state_dict(world.state_dict())
    for action in actions[20:]:
        assert torch.equal(world.step(action).obs, other.step(action).obs)


def test_no_value_is_read_in_a_step() -> None:
    world = Plains(8, maps=2, device="meta", seed=0)
    world.reset()
    step = world.step(torch.zeros(8, dtype=torch.int64, device="meta"))
    assert step.obs.shape == (8, 9, 9, 2)


def test_the_picture_is_the_whole_map() -> None:
    world = Plains(2, size=32, maps=2, seed=0)
    world.reset()
    picture = world.render()
    assert picture.shape == (2, 256, 256, 3) and picture.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "'size' must be at least 32, got 0"),
        ({"size": 31}, "'size' must be at least 32, got 31"),
        ({"view": 8}, "'view' must be an odd number from 3, got 8"),
        ({"keys": 4}, "'keys' must be from 0 to 3, got 4"),
        ({"maps": 0}, "'maps' must hold at least one map"),
        ({"max_steps": 0}, "'max_steps' must be positive, got 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plains(1, **options)

"""A screen of noise on a world: the noise is noise, and the world is what it was."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.envs import FourRooms, MiniGrid, NoisyTV, OpenWorld, Plains

CELLS = 104
UP, DOWN, LEFT, RIGHT, SWITCH = range(5)


def at_the_screen(num_envs: int, *, bits: int = 16, max_steps: int = 100, seed: int = 0) -> NoisyTV:
    """Everybody starts in the corner from where the screen is seen, and can stay by going left."""
    return NoisyTV(FourRooms(num_envs, start=(11, 1), max_steps=max_steps, seed=seed), bits=bits)


def stay(world: NoisyTV) -> Tensor:
    return torch.full((world.num_envs,), LEFT)


def random_actions(steps: int, copies: int, count: int) -> Tensor:
    return torch.randint(count, (steps, copies), generator=torch.Generator().manual_seed(1))


def test_the_screen_is_seen_from_its_cell_alone() -> None:
    world = NoisyTV(FourRooms(64, max_steps=50, seed=0), bits=16)
    obs = world.reset()
    assert obs.shape == (64, CELLS + 16)
    assert world.observation_space.shape == (CELLS + 16,)
    cell = int(FourRooms(1, start=(11, 1)).start)
    watched = 0
    for action in random_actions(300, 64, 4):
        obs = world.step(action).obs
        here = obs[:, :CELLS].argmax(1) == cell
        assert not obs[~here, CELLS:].any()
        assert (obs[here, CELLS:].sum(1) > 0).all()  # 2^-16 for each of a few dozens
        watched += int(here.sum())
    assert watched > 20


def test_bits_are_fair_and_independent() -> None:
    world = at_the_screen(256, bits=8)
    seen = [world.reset()[:, CELLS:]]
    seen += [world.step(stay(world)).obs[:, CELLS:] for _ in range(99)]
    bits = torch.stack(seen)  # (time, copies, bits)
    n = bits.numel() / 8
    assert (bits.mean((0, 1)) - 0.5).abs().max() < 4.5 * 0.5 / n**0.5
    signs = (2 * bits - 1).flatten(0, 1)
    between_bits = (signs.T @ signs / n).fill_diagonal_(0)
    assert between_bits.abs().max() < 4.5 / n**0.5
    signs = 2 * bits - 1
    assert (signs[1:] * signs[:-1]).mean().abs() < 4.5 / bits.numel() ** 0.5  # in time
    assert (signs[:, 1:] * signs[:, :-1]).mean().abs() < 4.5 / bits.numel() ** 0.5  # copies


def test_noise_is_new_in_every_step_copy_and_episode() -> None:
    world = at_the_screen(16, bits=32, max_steps=10)
    seen = [world.reset()[:, CELLS:]]
    seen += [world.step(stay(world)).obs[:, CELLS:] for _ in range(49)]  # five episodes
    screens = torch.cat(seen)
    assert len(screens.unique(dim=0)) == len(screens)


def test_the_same_seed_gives_the_same_noise_whatever_the_number_of_copies() -> None:
    few, many = at_the_screen(2, max_steps=7), at_the_screen(9, max_steps=7)
    torch.testing.assert_close(few.reset(), many.reset()[:2], rtol=0, atol=0)
    for _ in range(20):
        a, b = few.step(stay(few)), many.step(stay(many))
        torch.testing.assert_close(a.obs, b.obs[:2], rtol=0, atol=0)
    assert not torch.equal(few.reset(seed=1), few.reset(seed=2))
    torch.testing.assert_close(few.reset(seed=3)[0], few.reset(seed=2)[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["cell", "action"])
def test_the_world_inside_lives_the_same_life(kind: str) -> None:
    bare = FourRooms(32, slip=0.3, goal="random", max_steps=20, seed=5)
    world = NoisyTV(FourRooms(32, slip=0.3, goal="random", max_steps=20, seed=5), kind=kind)
    torch.testing.assert_close(world.reset()[:, :-16], bare.reset(), rtol=0, atol=0)
    for action in random_actions(100, 32, 4):
        ours, theirs = world.step(action), bare.step(action)
        torch.testing.assert_close(ours.obs[:, :-16], theirs.obs, rtol=0, atol=0)
        torch.testing.assert_close(ours.final_obs[:, :-16], theirs.final_obs, rtol=0, atol=0)
        for name in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_switching_changes_the_screen_and_nothing_else() -> None:
    world = NoisyTV(FourRooms(16, start=(1, 1), slip=0.5, seed=0), kind="action", bits=32)
    assert world.action_space.n == 5
    obs = world.reset()
    assert not obs[:, CELLS:].any()  # dark
    switches = torch.arange(16) % 2 == 0
    for _ in range(5):
        step = world.step(torch.where(switches, SWITCH, RIGHT))
        assert torch.equal(step.obs[switches, :CELLS], obs[switches, :CELLS])
        assert (step.obs[switches, CELLS:] != obs[switches, CELLS:]).any(1).all()
        assert not step.obs[~switches, CELLS:].any()
        assert not step.reward.any() and not step.done.any()
        obs = step.obs
    assert len(obs[switches, CELLS:].unique(dim=0)) == 8
    kept = world.step(torch.full((16,), DOWN)).obs
    assert torch.equal(kept[:, CELLS:], obs[:, CELLS:])


def test_switching_beside_the_goal_earns_nothing_and_takes_time() -> None:
    inner = OpenWorld(2, size=4, start=(1, 0), goal=(0, 0), max_steps=3, seed=0)
    world = NoisyTV(inner, kind="action")
    world.reset()
    step = world.step(torch.tensor([SWITCH, UP]))
    assert step.reward.tolist() == [0.0, 1.0] and step.terminated.tolist() == [False, True]
    world.step(torch.tensor([SWITCH, DOWN]))
    step = world.step(torch.tensor([SWITCH, DOWN]))
    assert step.truncated.tolist() == [True, False]
    assert not step.obs[0, -16:].any() and step.final_obs[0, -16:].any()  # dark again


@pytest.mark.parametrize("kind", ["cell", "action"])
def test_a_run_goes_on_exactly_where_it_was_saved(kind: str) -> None:
    def make(seed: int) -> NoisyTV:
        return NoisyTV(FourRooms(8, slip=0.2, max_steps=9, seed=seed), kind=kind)

    world, other = make(0), make(1)
    world.reset()
    actions = random_actions(40, 8, world.action_space.n)
    for action in actions[:20]:
        world.step(action)
    other.load_state_dict(world.state_dict())
    torch.testing.assert_close(other.observe(), world.observe(), rtol=0, atol=0)
    for action in actions[20:]:
        torch.testing.assert_close(other.step(action).obs, world.step(action).obs, rtol=0, atol=0)
    with pytest.raises(ValueError, match="'screen'"):
        other.load_state_dict({})


def test_the_halves_of_a_step() -> None:
    world = at_the_screen(4, max_steps=2)
    world.reset()
    frozen = torch.tensor([True, False, False, False])
    before = world.observe()
    world.advance(stay(world), frozen=frozen)
    after = world.observe()
    assert torch.equal(after[0], before[0]) and (after[1:] != before[1:]).any(1).all()
    world.restart(frozen)
    assert world.time.tolist() == [0, 1, 1, 1]
    assert (world.observe()[0] != after[0]).any()


def test_images_get_a_channel() -> None:
    world = NoisyTV(FourRooms(3, observation="image", start=(11, 1), seed=0))
    obs = world.reset()
    assert obs.shape == (3, 4, 13, 13) == (3, *world.observation_space.shape)
    assert torch.equal(obs[:, :3], world.world.reset())
    flat = obs[:, 3].flatten(1)
    assert torch.equal(flat[:, :16] == 255, world.screen) and not flat[:, 16:].any()
    assert world.observation_space.contains(obs[0].numpy())


def test_the_channel_of_a_narrow_tabular_image_is_on_the_first_axis() -> None:
    world = NoisyTV(OpenWorld(1, size=2, observation="image", seed=0), kind="action", bits=4)
    assert world.reset().shape == (1, 4, 2, 2) == (1, *world.observation_space.shape)


def test_a_screen_in_minigrid() -> None:
    world = NoisyTV(MiniGrid("MiniGrid-Empty-5x5-v0", 4, seed=0), cell=(1, 1))
    obs = world.reset()
    assert obs.shape == (4, 7, 7, 4)
    assert set(obs[..., 3].unique().tolist()) == {0, 255} and world.screen.any(1).all()
    obs = world.step(torch.full((4,), 2)).obs  # a step to the right
    assert not obs[..., 3].any()


def test_a_screen_in_the_plains() -> None:
    world = NoisyTV(Plains(4, maps=2, seed=0), kind="action")
    world.reset()
    obs = world.step(torch.full((4,), SWITCH)).obs
    assert obs.shape == (4, 9, 9, 3)
    assert world.observation_space.contains(obs[0].numpy()) and obs[..., 2].any()


def test_the_picture_has_the_screen_below_it() -> None:
    world = at_the_screen(2)
    world.reset()
    before = world.observe()
    picture = world.render()
    bare = world.world.render()
    assert picture.shape == (2, bare.shape[1] + 16, bare.shape[2], 3)
    assert torch.equal(picture[:, :-16], bare) and picture[:, -16:].any()
    assert torch.equal(world.observe(), before)


def test_no_value_is_read_in_a_step() -> None:
    """Tensors without values raise when somebody waits for one."""
    for kind in ("cell", "action"):
        world = NoisyTV(FourRooms(8, device="meta", seed=0), kind=kind)
        world.reset()
        step = world.step(torch.zeros(8, dtype=torch.int64, device="meta"))
        assert step.obs.shape == (8, CELLS + 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "radio"}, "'kind' must be one of cell, action, got 'radio'"),
        ({"bits": 0}, "'bits' must be from 1 to 63, got 0"),
        ({"bits": 64}, "'bits' must be from 1 to 63, got 64"),
        ({"cell": (0, 0)}, "'cell' must be a free cell"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyTV(FourRooms(1), **options)


def test_worlds_that_cannot_have_a_screen() -> None:
    with pytest.raises(ValueError, match="without a screen"):
        NoisyTV(NoisyTV(FourRooms(1)))
    with pytest.raises(ValueError, match="must be of kind 'action'"):
        NoisyTV(Plains(1, maps=1))
    for cell in (3, (1, 2, 3), 0.5):
        with pytest.raises(ValueError, match=r"'cell' must be .*\(row, column\)"):
            NoisyTV(MiniGrid("MiniGrid-Empty-5x5-v0", 1), cell=cell)
    with pytest.raises(ValueError, match="on a map of 5 x 5"):
        NoisyTV(MiniGrid("MiniGrid-Empty-5x5-v0", 1))
    with pytest.raises(ValueError, match="must be from 0 to 3, got 0 to 4"):
        world = NoisyTV(FourRooms(2))
        world.reset()
        world.step(torch.tensor([0, 4]))


def test_a_random_walk_meets_the_screen_as_rarely_as_any_corner() -> None:
    world = NoisyTV(FourRooms(64, goal="none", max_steps=100, seed=0))
    world.reset()
    share = np.mean(
        [
            float(world.step(action).obs[:, CELLS:].any(1).float().mean())
            for action in random_actions(1200, 64, 4)
        ]
    )
    assert 0.002 < share < 0.02  # uniform is 1 / 104

"""V: what of an observation a latent keeps."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from rlgen import checkpoint
from rlgen.agents.imitation.recording import record
from rlgen.agents.world_model import Vision
from rlgen.envs import FourRooms, MiniGrid
from rlgen.generative import MADE, VAE, VQVAE, GenerativeModel, fit, heads
from rlgen.generative.support import unchecked
from tests.exact_models import Lookup, everywhere, exact_vision
from tests.walks import seeded

PICTURE = spaces.Box(0, 255, (3, 13, 13), np.uint8)
BARE = spaces.Box(0, 255, (2, 4), np.uint8)


@pytest.fixture(scope="module")
def seen() -> Tensor:
    """All that 100 random episodes in the four rooms show, their ends included."""
    world = FourRooms(100, observation="image", seed=0)
    walks = record(world, lambda obs: torch.randint(4, (len(obs),)), 100, seed=0)
    return torch.cat([walk.obs for walk in walks])


def cell_in(pictures: Tensor) -> Tensor:
    """The place, out of 169, where the agent's plane is brightest."""
    return pictures[:, 2].flatten(1).float().argmax(1)


def bytes_seen(n: int = 200) -> Tensor:
    """Bytes (n, 2, 4), of which the first row never changes."""
    obs = torch.randint(256, (n, 2, 4), generator=torch.Generator().manual_seed(0))
    obs[:, 0] = torch.tensor([0, 7, 255, 13])
    return obs.to(torch.uint8)


class Plain(GenerativeModel):
    """An autoencoder without any noise."""

    def __init__(self, event_shape: tuple[int, ...], *, latent: int = 3) -> None:
        super().__init__(event_shape)
        size = self.event_shape.numel()
        self.inwards, self.outwards = nn.Linear(size, latent), nn.Linear(latent, size)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        z = 1.0 + 3.0 * self.inwards(x.flatten(1))
        return Independent(Normal(z, torch.zeros_like(z), validate_args=False), 1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        mean = self.outwards(z).unflatten(1, self.event_shape)
        return Independent(Normal(mean, 1.0, validate_args=False), len(self.event_shape))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return (self.decode(self.encode(x).mean).mean - x).flatten(1).square().sum(1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        raise AssertionError("V has no use for samples")


MODELS = {
    "VAE": lambda: VAE((2, 4), latent=3, hidden=(8,)),
    "VQVAE": lambda: VQVAE((2, 4), codes=8, latent=3, hidden=(8,), positions=1),
    "VQVAE-4": lambda: VQVAE((2, 4), codes=8, latent=3, hidden=(8,), positions=4),
    "Plain": lambda: Plain((2, 4)),
    "Lookup": lambda: Lookup((2, 4), symbols=8),
}
LATENT_SHAPES = {"VAE": (3,), "VQVAE": (1,), "VQVAE-4": (4,), "Plain": (3,), "Lookup": (1,)}
TRAINED = [name for name in MODELS if name != "Lookup"]


def made(name: str, steps: int = 5) -> Vision:
    vision = Vision((2, 4), model=seeded(MODELS[name]), dtype="uint8")
    if name == "Lookup":
        vision.measure(bytes_seen())
        return vision
    vision.fit(bytes_seen(), steps=steps, batch_size=32)
    return vision


@pytest.mark.slow
def test_r20_every_cell_has_a_token_of_its_own(seen: Tensor) -> None:
    vision = seeded(lambda: Vision.of(PICTURE, latent="tokens", symbols=256))
    vision.fit(seen, steps=600)
    cells = everywhere(observation="image")
    tokens = vision.encode(cells)
    assert tokens.shape == (104, 1) and tokens.dtype == torch.int64
    assert len(tokens.unique()) == 104
    assert torch.equal(cell_in(vision.decode(tokens)), cell_in(cells))
    assert len(vision.features(tokens).unique(dim=0)) == 104


@pytest.mark.slow
def test_r20_numbers_say_where_the_agent_is(seen: Tensor) -> None:
    vision = seeded(lambda: Vision.of(PICTURE, latent="numbers"))
    vision.fit(seen, steps=600)
    cells = everywhere(observation="image")
    where = cell_in(cells)
    mean, noise = vision.posterior(cells)
    assert noise is not None
    drawn = mean + noise * torch.randn(40, *mean.shape)
    assert (cell_in(vision.decode(mean)) == where).double().mean() >= 0.99
    sampled = cell_in(vision.decode(drawn.flatten(0, 1)))
    assert (sampled == where.repeat(40)).double().mean() >= 0.98
    probe = LogisticRegression(max_iter=300)
    probe.fit(drawn[:10].flatten(0, 1).numpy(), where.repeat(10).numpy())
    assert probe.score(mean.numpy(), where.numpy()) >= 0.97
    assert probe.score(drawn[10:].flatten(0, 1).numpy(), where.repeat(30).numpy()) >= 0.97


@pytest.mark.slow
def test_r20_the_bound_of_raw_pixels_leaves_the_agent_out(seen: Tensor) -> None:
    """A control of the other two: as many steps of as large a model at beta 1 see nothing."""
    summed = heads.FixedNormal(0.5**0.5)  # the squared error, summed over pixels
    model = seeded(lambda: VAE((3, 13, 13), latent=16, hidden=(256, 256), head=summed))
    x = seen.float() / 255.0
    fit(model, x, steps=600, batch_size=256, lr=1e-3, seed=0, progress=False)
    pictures = everywhere(observation="image").float() / 255.0
    with torch.no_grad():
        again = model.decode(model.encode(pictures).mean).mean
    assert (cell_in(again) == cell_in(pictures)).double().mean() <= 0.1


def test_the_model_sees_standard_numbers_and_constants_as_nothing() -> None:
    obs = bytes_seen()
    vision = made("VAE")
    standard = vision.standard(obs)
    assert standard.is_floating_point() and standard.isfinite().all()
    assert (standard[:, 0] == 0).all()
    torch.testing.assert_close(standard[:, 1].mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        standard[:, 1].std(0, correction=0), torch.ones(4), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e7])
def test_the_unit_of_a_number_makes_no_difference(unit: float) -> None:
    seen = torch.cat([torch.randn(500, 3), torch.tensor([0.0, 0.3, -7.1]).expand(500, 3)], 1)
    visions = [Vision((6,), model=VAE(6, latent=2)) for _ in range(2)]
    visions[0].measure(seen)
    visions[1].measure(seen * unit)
    standard = visions[1].standard(seen * unit)
    torch.testing.assert_close(standard, visions[0].standard(seen), rtol=1e-4, atol=1e-4)
    assert (standard[:, :3].std(0) > 0.9).all() and (standard[:, 3:] == 0).all()


@pytest.mark.parametrize("name", TRAINED)
def test_what_never_changed_cannot_move_a_latent_and_is_given_back_exactly(name: str) -> None:
    obs = bytes_seen()
    vision = made(name)
    other = obs.clone()
    other[:, 0] = 99
    assert torch.equal(vision.encode(obs), vision.encode(other))
    again = vision.decode(vision.encode(other))
    assert torch.equal(again[:, 0], obs[:, 0])


@pytest.mark.parametrize("name", MODELS)
def test_latents_have_the_shapes_that_are_said(name: str) -> None:
    vision, obs = made(name), bytes_seen()
    z = vision.encode(obs)
    tokens = name not in ("VAE", "Plain")
    assert tuple(vision.latent_shape) == LATENT_SHAPES[name] == tuple(z.shape[1:])
    assert vision.symbols == (8 if tokens else None)
    assert z.dtype == (torch.int64 if tokens else torch.float32)
    assert vision.features(z).shape == (200, vision.features_size)
    assert vision.features(z).dtype == torch.float32
    again = vision.decode(z)
    assert again.shape == obs.shape and again.dtype == torch.uint8
    mean, noise = vision.posterior(obs)
    assert torch.equal(mean, z)
    assert (noise is None) == tokens


def test_a_plain_autoencoder_learns_and_has_no_noise_to_speak_of() -> None:
    """Bytes on a line in 4 dimensions take one number."""
    step = torch.arange(200)[:, None, None]
    obs = (20 + step * torch.tensor([[[0, 0, 0, 0], [1, 1, 1, 1]]])).to(torch.uint8)
    vision = Vision((2, 4), model=seeded(lambda: Plain((2, 4), latent=1)), dtype="uint8")
    vision.fit(obs, steps=400, batch_size=64, lr=1e-2)
    mean, noise = vision.posterior(obs)
    assert noise is not None and (noise == 0).all()
    assert (vision.decode(mean).float() - obs.float()).abs().max() <= 3.0


def test_draws_of_numbers_have_unit_variance_used_or_not() -> None:
    model = seeded(lambda: VAE((2, 4), latent=3, hidden=(8,), beta=0.1))
    vision = Vision((2, 4), model=model, dtype="uint8")
    obs = bytes_seen()
    vision.fit(obs, steps=50, batch_size=32)
    mean, noise = vision.posterior(obs)
    assert noise is not None
    torch.testing.assert_close(mean.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    drawn = mean + noise * torch.randn(200, *mean.shape)
    torch.testing.assert_close(drawn.flatten(0, 1).std(0), torch.ones(3), rtol=0, atol=3e-2)
    with torch.no_grad():
        own = model.eval().encode(vision.standard(obs))
    unit = (own.mean.var(0, correction=0) + own.variance.mean(0)).sqrt()
    torch.testing.assert_close(noise, own.stddev / unit, rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(mean, (own.mean - own.mean.mean(0)) / unit, rtol=1e-2, atol=1e-3)


def test_symbols_become_their_vectors_of_about_unit_size() -> None:
    vision = made("VQVAE-4", steps=50)
    z = vision.encode(bytes_seen())
    features = vision.features(z)
    assert vision.features_size == 4 * 3
    swapped = z[:, [1, 0, 2, 3]]
    parts = features.unflatten(1, (4, 3))
    torch.testing.assert_close(
        vision.features(swapped).unflatten(1, (4, 3)), parts[:, [1, 0, 2, 3]]
    )
    assert 0.2 < float(features.square().mean().sqrt()) < 5.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.float32, np.float64])
def test_decoded_observations_are_of_the_worlds_own_kind(dtype: type) -> None:
    """Rounded where the world has integers, and never beyond what they can hold."""
    low = 0 if dtype == np.uint8 else -100
    line = np.linspace(low, 100, 101)[:, None].repeat(2, 1)
    obs = torch.from_numpy(line.round().astype(dtype))
    model = seeded(lambda: Plain((2,), latent=1))
    vision = Vision((2,), model=model, dtype=str(obs.dtype).removeprefix("torch."))
    vision.fit(obs, steps=400, batch_size=50, lr=1e-2)
    again = vision.decode(vision.encode(obs))
    assert again.dtype == obs.dtype and again.shape == obs.shape
    assert (again.double() - obs.double()).abs().max() <= 4.0
    further = vision.decode(torch.linspace(-9, 9, 50)[:, None]).double().diff(dim=0)
    rises = further[25] > 0
    assert ((further >= 0) == rises).logical_or(further == 0).all()  # and no wrap around


def test_exact_tables_are_their_own_round_trip() -> None:
    for observation in ("image", "onehot", "xy"):
        cells = everywhere(observation=observation)
        vision = exact_vision(cells)
        assert torch.equal(vision.encode(cells)[:, 0], torch.arange(104))
        again = vision.decode(torch.arange(104)[:, None])
        assert again.dtype == cells.dtype
        torch.testing.assert_close(again, cells, rtol=0, atol=1e-5)


def test_two_fits_with_one_seed_are_the_same_and_leave_the_global_numbers_alone() -> None:
    before = torch.get_rng_state()
    models = [Vision((2, 4), model=seeded(MODELS["VAE"]), dtype="uint8") for _ in range(2)]
    for vision in models:
        vision.fit(bytes_seen(), steps=5, batch_size=32, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*(vision.encode(bytes_seen()) for vision in models))


@pytest.mark.parametrize("latent", ["tokens", "numbers"])
def test_a_saved_vision_sees_the_same(latent: str, tmp_path: Path) -> None:
    vision = Vision.of(BARE, latent=latent, symbols=8, size=3, hidden=(8,))  # type: ignore[arg-type]
    vision.fit(bytes_seen(), steps=5, batch_size=32)
    checkpoint.save(vision, tmp_path / "v")
    again = checkpoint.load(tmp_path / "v")
    assert isinstance(again, Vision)
    z = vision.encode(bytes_seen())
    assert torch.equal(again.encode(bytes_seen()), z)
    assert torch.equal(again.decode(z), vision.decode(z))
    assert torch.equal(again.features(z), vision.features(z))


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_waits_for_an_accelerator(name: str) -> None:
    vision = made(name).to("meta")
    obs = bytes_seen().to("meta")
    with unchecked():
        z = vision.encode(obs)
        assert vision.decode(z).shape == obs.shape
        assert vision.features(z).shape == (200, vision.features_size)


def test_the_vision_of_a_dictionary_sees_all_its_parts() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 3), np.uint8), "way": spaces.Discrete(4)})
    vision = Vision.of(space, symbols=8)
    assert torch.Size(vision.event_shape).numel() >= 9


def test_minigrid_views_go_in_and_out() -> None:
    world = MiniGrid("MiniGrid-FourRooms-v0", 32, seed=0)
    space = world.observation_space
    vision = Vision.of(space, latent="tokens", symbols=16, positions=4)
    obs = torch.cat([world.reset()] + [world.step(torch.full((32,), 2)).obs for _ in range(5)])
    vision.fit(obs, steps=5)
    assert vision.encode(obs).shape == (192, 4)
    assert vision.decode(vision.encode(obs)).dtype == obs.dtype


@pytest.mark.parametrize("n", [1, 2])
def test_few_observations_are_enough_to_stay_finite(n: int) -> None:
    for latent in ("tokens", "numbers"):
        vision = Vision.of(BARE, latent=latent, symbols=8, size=3, hidden=(8,))  # type: ignore[arg-type]
        vision.fit(bytes_seen(n), steps=3)
        features = vision.features(vision.encode(bytes_seen(50)))
        assert features.isfinite().all()


def spaces_without_numbers() -> list[gymnasium.Space[object]]:
    return [spaces.Text(5), spaces.Sequence(spaces.Discrete(3))]


def test_errors_are_clear() -> None:
    with pytest.raises(ValueError, match="latent"):
        Vision.of(BARE, latent="words")  # type: ignore[arg-type]
    for space in spaces_without_numbers():
        with pytest.raises(ValueError):
            Vision.of(space)
    with pytest.raises(ValueError, match=r"symbols|codes"):
        Vision.of(BARE, symbols=0)
    with pytest.raises(ValueError, match="positions"):
        Vision.of(BARE, positions=0)
    with pytest.raises(ValueError, match=r"size|latent"):
        Vision.of(BARE, latent="numbers", size=0)
    with pytest.raises((ValueError, TypeError), match="MADE"):
        Vision((8,), model=MADE(8))
    with pytest.raises(ValueError, match=r"event_shape|\(2, 4\)"):
        Vision((3, 4), model=VAE((2, 4)))
    with pytest.raises(ValueError, match="dtype"):
        Vision((2, 4), model=VAE((2, 4)), dtype="string")


@pytest.mark.parametrize("name", MODELS)
def test_wrong_shapes_and_symbols_are_refused(name: str) -> None:
    vision = made(name)
    with pytest.raises(ValueError, match="obs"):
        vision.encode(bytes_seen()[:, :1])
    with pytest.raises(ValueError, match="obs"):
        vision.fit(bytes_seen()[:, :, :3], steps=1)
    z = vision.encode(bytes_seen())
    with pytest.raises(ValueError):
        vision.decode(torch.cat([z, z], 1))
    if vision.symbols is None:
        return
    for wrong in (torch.full_like(z, vision.symbols), torch.full_like(z, -1)):
        with pytest.raises((ValueError, IndexError)):
            vision.decode(wrong)
        with pytest.raises((ValueError, IndexError)):
            vision.features(wrong)

"""The plug matrix: every model of the catalogue in every consumer, or a refusal that says why."""

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen import generative as g
from rlgen.agents import RewardModel, Transitions
from rlgen.agents.exploration import CodeCounts, DynamicsCuriosity, PseudoCounts, Surprise
from rlgen.generative.support import Binary, Real
from rlgen.seeding import drawing_from
from tests.helpers import Case, cases, values
from tests.walks import arriving_at, copied, same, seeded

QUICK: dict[str, Any] = {"lr": 1e-2, "updates": 4, "batch_size": 64}
DENSITIES = tuple(f for f in g.catalogue() if {"density", "bound"} & set(f.capabilities))
OTHERS = tuple(f for f in g.catalogue() if f not in DENSITIES)
ACTIONS = 3


@dataclass(frozen=True)
class Plug:
    """A way to make a reward model, twice the same, and steps to try it on."""

    name: str
    make: Callable[[], Any]
    often: Callable[[], Transitions]  # what is learnt from, 64 steps that are all but one
    both: Callable[[], Transitions]  # that step, and one that leads where nobody has been
    positive: bool = False


def check(plug: Plug, falls: bool = True, rounds: int = 8) -> None:
    """Finite, pure, without traces, restarted exactly, and higher for what was never seen."""
    bonus, often, both = plug.make(), plug.often(), plug.both()
    stream = torch.get_rng_state()
    assert isinstance(bonus, RewardModel)
    before = bonus.reward(often)
    assert before.shape == (64,) and torch.isfinite(before).all()
    for _ in range(rounds):
        said = bonus.update(often)
        assert said and all(isinstance(value, float) for value in said.values())
    held = copied(bonus.state_dict())
    first, second = bonus.reward(both), bonus.reward(both)
    assert torch.equal(stream, torch.get_rng_state()), "it draws from the global stream"
    assert same(held, bonus.state_dict()), "asking leaves a trace"
    assert torch.equal(first, second) and torch.isfinite(first).all() and first.shape == (2,)
    assert first.is_floating_point() and not first.requires_grad
    assert not plug.positive or (first >= 0).all()
    assert not falls or first[1] > first[0], f"what was never seen pays {first[1]}, not {first[0]}"
    again = plug.make()
    again.load_state_dict(held)
    assert torch.equal(again.reward(both), first), "a restart pays otherwise"


# --- densities and bounds in PseudoCounts and Surprise

CONSUMERS: dict[str, Callable[..., Any]] = {
    "frequency": functools.partial(PseudoCounts, estimator="frequency", **QUICK),
    "surprise": functools.partial(Surprise, **QUICK),
    "recoding": functools.partial(PseudoCounts, estimator="recoding", **QUICK),
    "gain": functools.partial(PseudoCounts, estimator="gain", **QUICK),
}
# unit normals over 64 pixels: no density is above e^-59, and n rho never more than nothing
FLAT = {("VQVAE-2", "frequency")}
BOUNDED = ("Dequantised-0", "VAE-0", "VQVAE-0", "DDPM-0", "MADE-0", "RealNVP-0")


def extremes(model: g.GenerativeModel) -> tuple[Tensor, Tensor]:
    """Two observations with shape (1, *event_shape) that no model takes for one another."""
    shape = (1, *(model.event_shape or (1,)))
    if isinstance(model.support, Real):
        return torch.full(shape, 0.5), torch.full(shape, -2.0)
    if isinstance(model.support, Binary):
        bits = (torch.arange(model.event_shape.numel()) % 2).reshape(shape).float()
        return bits, 1 - bits
    return torch.zeros(shape).long(), torch.full(shape, model.support.count - 1)  # type: ignore[attr-defined]


def density_plug(case: Case, consumer: str) -> Plug:
    model = case.make()
    often, never = extremes(model)
    seen = often.expand(64, *often.shape[1:])
    if isinstance(model.support, Real):
        seen = seen + 0.1 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))
    return Plug(
        f"{case.name}-{consumer}",
        lambda: CONSUMERS[consumer](seeded(case.make)),
        lambda: arriving_at(seen),
        lambda: arriving_at(torch.cat([often, never])),
        positive=consumer != "surprise",
    )


def name_of_case(case: Case) -> str:
    return case.name


def firsts(families: tuple[g.Family, ...]) -> list[Case]:
    """One instance of each family, and one with a context where both can be."""
    return [c for c in cases(families) if c.name.split("-")[1] == "0"]


def unconditional() -> Iterator[Case]:
    yield from (c for c in cases(DENSITIES) if c.make().context_shape is None)


def density_pairs() -> Iterator[Any]:
    """All; by default each family's first instance, once in n rho and once in another."""
    others = itertools.cycle(["recoding", "surprise", "gain"])
    for case in unconditional():
        quick = {"frequency", next(others)} if case.name.endswith("-0") else set()
        for consumer in CONSUMERS:
            marks = [] if consumer in quick else [pytest.mark.slow]
            yield pytest.param(case, consumer, id=f"{case.name}-{consumer}", marks=marks)


@pytest.mark.parametrize(("case", "consumer"), list(density_pairs()))
def test_densities_and_bounds_pay(case: Case, consumer: str) -> None:
    check(density_plug(case, consumer), falls=(case.name, consumer) not in FLAT)


@pytest.mark.parametrize(
    "case", [c for c in unconditional() if c.name in BOUNDED], ids=name_of_case
)
def test_a_step_is_worth_the_same_wherever_it_stands_in_a_batch(case: Case) -> None:
    """Noise of a bound that differs from row to row would pay one step many prices."""
    plug = density_plug(case, "frequency")
    bonus = plug.make()
    for _ in range(8):
        bonus.update(plug.often())
    alone = bonus.reward(plug.both()[:1])
    among = bonus.reward(arriving_at(plug.both().next_obs[[1, 1, 0, 1, 0]]))[[2, 4]]
    torch.testing.assert_close(among, alone.expand(2), rtol=0.1, atol=1e-4)


# --- conditional densities in DynamicsCuriosity, on the features of encoders

DYNAMICS: dict[str, Callable[[int, int], g.GenerativeModel]] = {
    "MixtureDensityNetwork": lambda f, c: g.MixtureDensityNetwork(
        f, context_shape=c, components=2, hidden=(16,)
    ),
    "NADE": lambda f, c: g.NADE(f, head=g.heads.Normal(), hidden=16, context_shape=c),
    "RNADE": lambda f, c: g.RNADE(f, hidden=16, context_shape=c),
    "MADE": lambda f, c: g.MADE(f, head=g.heads.Normal(), hidden=(16,), context_shape=c),
    "PixelCNN": lambda f, c: g.PixelCNN(
        (1, 1, f), head=g.heads.Normal(), channels=4, layers=2, context_shape=c
    ),
    "RealNVP": lambda f, c: g.RealNVP(f, transforms=2, hidden=(8,), context_shape=c),
    "MAF": lambda f, c: g.MAF(f, transforms=2, hidden=(8,), context_shape=c),
    "IAF": lambda f, c: g.IAF(f, transforms=2, hidden=(8,), context_shape=c),
    "ScoreSDE": lambda f, c: g.ScoreSDE(
        f, hidden=(8,), solver=g.diffusion.RungeKutta(8), context_shape=c
    ),
    # bounds, which "surprise" alone takes
    "VAE": lambda f, c: g.VAE(f, latent=1, hidden=(16,), context_shape=c),
    "DDPM": lambda f, c: g.DDPM(f, steps=5, hidden=(16,), context_shape=c),
}
SYMBOLS: dict[str, Callable[[int, int], g.GenerativeModel]] = {
    "FVSBN": lambda f, c: g.FVSBN(f, context_shape=c),
    "NADE": lambda f, c: g.NADE(f, hidden=16, context_shape=c),
    "MADE": lambda f, c: g.MADE(f, hidden=(16,), context_shape=c),
    "PixelCNN": lambda f, c: g.PixelCNN((1, 2, f // 2), channels=4, layers=2, context_shape=c),
    "MixtureDensityNetwork": lambda f, c: g.MixtureDensityNetwork(
        f, context_shape=c, hidden=(16,), head=g.heads.Bernoulli()
    ),
    "CausalTransformer": lambda f, c: g.CausalTransformer(
        f, symbols=2, width=16, layers=1, attention_heads=2, context_shape=c
    ),
    "Dequantised": lambda f, c: g.Dequantised(
        g.RealNVP(f, transforms=2, hidden=(8,), context_shape=c), levels=2
    ),
    "VAE": lambda f, c: g.VAE(f, latent=1, hidden=(16,), head=g.heads.Bernoulli(), context_shape=c),
}
BOUNDS = {"VAE", "DDPM", "Dequantised"}
OF_FUNCTIONS = {"GaussianProcess", "VFunc"}  # their context is a set of points
FORMS = ("excess", "surprise", "error")


def test_every_conditional_density_is_in_the_matrix() -> None:
    """A new family must take its place here."""
    conditional = {f.name for f in DENSITIES if f.context != "none"}
    assert conditional == set(DYNAMICS) | set(SYMBOLS) | OF_FUNCTIONS


def encoder_cases() -> Iterator[Case]:
    families = tuple(f for f in g.catalogue() if "encoder" in f.capabilities)
    for case in cases(families):
        # an encoder that looks at a context beside x has nothing to look at
        if case.make().context_shape is None or case.name.startswith("CPC"):
            yield case


PICTURES = ("VQVAE-2", "InfoGAN-2", "CPC-1")


@functools.cache
def trained(case: Case) -> g.GenerativeModel:
    """So that its features tell things apart. All tests share it, as none may train it."""
    with drawing_from(0):
        model = case.make()
        x = values(model, 256)
        context = None if model.context_shape is None else torch.randn(256, *model.context_shape)
        g.fit(model, x, context, steps=100, batch_size=64, lr=1e-2, progress=False)
    return model.eval()


def features_of(model: g.GenerativeModel, x: Tensor) -> Tensor:
    assert isinstance(model, g.Encoder)
    with torch.no_grad():
        return model.encode(x).mean.flatten(1)


def as_observations(model: g.GenerativeModel, x: Tensor) -> Tensor:
    return x if model.event_shape else x[:, None]


def steps_between(obs: Tensor, next_obs: Tensor) -> Transitions:
    nothing = torch.zeros(len(obs))
    action = torch.ones(len(obs)).long()
    return Transitions(obs, action, nothing, next_obs, nothing.bool(), nothing.bool())


def dynamics_plug(case: Case, dynamics: str, form: Any) -> Plug:
    encoder = trained(case)
    x = values(encoder, 64)
    x = torch.cat([x, *(part.reshape(1, *encoder.event_shape) for part in extremes(encoder))])
    found = features_of(encoder, x)
    often, never = divmod(int(torch.cdist(found, found).argmax()), len(x))
    assert (found[often] - found[never]).abs().max() > 0.3, "nothing to tell apart"
    width = found.shape[1]
    obs = as_observations(encoder, x)
    start = obs[1:2].expand(64, *obs.shape[1:])
    return Plug(
        f"{case.name}-{dynamics}-{form}",
        lambda: DynamicsCuriosity(
            seeded(lambda: DYNAMICS[dynamics](width, width + ACTIONS)), encoder, form=form, **QUICK
        ),
        lambda: steps_between(start, obs[often].expand(64, *obs.shape[1:])),
        lambda: steps_between(start[:2], obs[[often, never]]),
        positive=form == "error",
    )


def dynamics_pairs() -> Iterator[Any]:
    """All; by default each encoder once, each dynamics once, and each form several times."""
    forms = itertools.cycle(FORMS)
    for number, case in enumerate(encoder_cases()):
        for dynamics in DYNAMICS:
            fast = number == 1 or dynamics == "MixtureDensityNetwork"
            fast &= not case.name.startswith(PICTURES)
            chosen = "surprise" if dynamics in BOUNDS else next(forms)
            for form in FORMS if dynamics not in BOUNDS else ("surprise",):
                marks = [] if fast and form == chosen else [pytest.mark.slow]
                name = f"{case.name}-{dynamics}-{form}"
                yield pytest.param(case, dynamics, form, id=name, marks=marks)


@pytest.mark.parametrize(("case", "dynamics", "form"), list(dynamics_pairs()))
def test_conditional_densities_pay_on_encoders(case: Case, dynamics: str, form: str) -> None:
    slow = dynamics in ("PixelCNN", "RealNVP", "ScoreSDE", "DDPM")
    check(dynamics_plug(case, dynamics, form), rounds=24 if slow else 16)


def test_encoders_are_not_trained_by_curiosity() -> None:
    case = next(c for c in encoder_cases() if c.name == "VAE-1")
    encoder = trained(case)
    before = copied(encoder.state_dict())
    x = values(encoder, 64)
    width = features_of(encoder, x).shape[1]
    bonus = DynamicsCuriosity(DYNAMICS["MADE"](width, width + ACTIONS), encoder, **QUICK)
    for _ in range(3):
        bonus.update(steps_between(x, x.roll(1, 0)))
    assert same(before, encoder.state_dict()) and not encoder.training


def symbol_pairs() -> Iterator[Any]:
    """All; by default each dynamics once."""
    forms = itertools.cycle(FORMS[:2])
    for dynamics in SYMBOLS:
        chosen = "surprise" if dynamics in BOUNDS else next(forms)
        for form in FORMS:
            marks = [] if form == chosen else [pytest.mark.slow]
            yield pytest.param(dynamics, form, id=f"{dynamics}-{form}", marks=marks)


@pytest.mark.parametrize(("dynamics", "form"), list(symbol_pairs()))
def test_densities_of_symbols_pay_on_bits(dynamics: str, form: Any) -> None:
    """Where observations are bits, or a function makes bits of them."""
    make = functools.partial(SYMBOLS[dynamics], 6, 6 + ACTIONS)
    if dynamics in BOUNDS and form != "surprise":
        with pytest.raises(TypeError, match=f"DynamicsCuriosity.*{dynamics}"):
            DynamicsCuriosity(make(), form=form)
        return
    if dynamics == "CausalTransformer" and form == "error":
        with pytest.raises(ValueError, match="surprise"):  # symbols have no distance
            DynamicsCuriosity(make(), form=form)
        return
    bits = isinstance(make().support, Binary)
    bright = torch.tensor([[9.0, -9.0, 9.0, 9.0, -9.0, 9.0], [-9.0, 9.0, -9.0, -9.0, 9.0, -9.0]])

    def of_signs(obs: Tensor) -> Tensor:
        return (obs > 0).float() if bits else (obs > 0).long()

    start = bright[:1].expand(64, 6)
    plug = Plug(
        dynamics,
        lambda: DynamicsCuriosity(seeded(make), of_signs, form=form, **QUICK),
        lambda: steps_between(start, start),
        lambda: steps_between(start[:2], bright),
        positive=form == "error",
    )
    check(plug)


# --- codebooks in CodeCounts

CODED = ("VQVAE-0", "VQVAE-1")


@pytest.mark.parametrize("case", [c for c in unconditional() if c.name in CODED], ids=name_of_case)
@pytest.mark.parametrize("updates", [0, 4])
def test_codebooks_count(case: Case, updates: int) -> None:
    model = trained(case)
    x = values(model, 256)
    assert isinstance(model, g.VQVAE)
    codes = model.codes(x).flatten(1)
    other = int((codes != codes[:1]).sum(1).argmax())
    assert (codes[other] != codes[0]).any()
    state = copied(model.state_dict())

    def make() -> CodeCounts:
        fresh = case.make()
        fresh.load_state_dict(state)
        return CodeCounts(fresh, lr=1e-3, updates=updates, batch_size=64)

    plug = Plug(
        case.name,
        make,
        lambda: arriving_at(x[:1].expand(64, *x.shape[1:])),
        lambda: arriving_at(x[[0, other]]),
        positive=True,
    )
    check(plug, falls=updates == 0)  # one that learns from one x alone may forget all others


# --- refusals


def named(*names: str) -> str:
    """A pattern of all `names`, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(name)})" for name in names)


@pytest.mark.parametrize("consumer", [PseudoCounts, Surprise], ids=lambda c: c.__name__)
@pytest.mark.parametrize("family", OTHERS, ids=lambda f: f.name)
def test_what_has_no_density_is_refused(family: g.Family, consumer: Any) -> None:
    message = (
        rf"^{consumer.__name__} needs a density \(log_prob\) or a bound \(elbo\); "
        rf"{family.name} has none\. Families with one: .*MADE.*VAE"
    )
    for make in family.small:
        with pytest.raises(TypeError, match=message):
            consumer(make())


@pytest.mark.parametrize("consumer", [PseudoCounts, Surprise], ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "case", [c for c in firsts(DENSITIES) if c.make().context_shape is not None], ids=name_of_case
)
def test_what_wants_a_context_is_refused_where_there_is_none(case: Case, consumer: Any) -> None:
    model = case.make()
    with pytest.raises((TypeError, ValueError), match=named(consumer.__name__, name_of(model))):
        consumer(model)


def name_of(model: g.GenerativeModel) -> str:
    return type(model).__name__


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", OTHERS, ids=lambda f: f.name)
def test_what_has_no_density_is_no_dynamics(family: g.Family, form: Any) -> None:
    needs = r"DynamicsCuriosity needs a density \(log_prob\)"
    message = rf"^{needs}.*; {family.name} has none\. Families with one: .*MADE"
    with pytest.raises(TypeError, match=message):
        DynamicsCuriosity(family.small[0](), form=form)


@pytest.mark.parametrize(
    "case", [c for c in firsts(DENSITIES) if c.make().context_shape is None], ids=name_of_case
)
def test_what_takes_no_context_is_no_dynamics(case: Case) -> None:
    model = case.make()
    with pytest.raises((TypeError, ValueError), match=named("DynamicsCuriosity", name_of(model))):
        DynamicsCuriosity(model, form="surprise")


@pytest.mark.parametrize("name", ["VAE", "DDPM", "Dequantised"])
def test_bounds_are_surprised_and_no_more(name: str) -> None:
    make = (DYNAMICS | SYMBOLS)[name]
    with pytest.raises(TypeError, match=rf"DynamicsCuriosity needs a density.*{name} has none"):
        DynamicsCuriosity(make(2, 2 + ACTIONS), form="excess")


@pytest.mark.parametrize("name", sorted(OF_FUNCTIONS))
def test_densities_of_functions_are_no_dynamics(name: str) -> None:
    family = next(f for f in DENSITIES if f.name == name)
    for make in family.small:
        with pytest.raises((TypeError, ValueError), match=named("DynamicsCuriosity", name)):
            DynamicsCuriosity(make(), form="surprise")


@pytest.mark.parametrize(
    "family", [f for f in g.catalogue() if "encoder" not in f.capabilities], ids=lambda f: f.name
)
def test_what_encodes_nothing_gives_no_features(family: g.Family) -> None:
    """Every module can be called, so a test for callables alone would take them all."""
    message = rf"^DynamicsCuriosity needs an encoder \(encode\).*; {family.name} has none\."
    with pytest.raises(TypeError, match=message):
        DynamicsCuriosity(DYNAMICS["MADE"](2, 2 + ACTIONS), family.small[0]())


@pytest.mark.parametrize("name", ["VAE", "InfoGAN", "VFunc"])
def test_encoders_that_want_a_context_give_no_features(name: str) -> None:
    family = next(f for f in g.catalogue() if f.name == name)
    make = family.small[0]
    encoder = make() if family.context == "required" else make(context_shape=(2,))
    with pytest.raises((TypeError, ValueError), match=named("DynamicsCuriosity", name)):
        DynamicsCuriosity(DYNAMICS["MADE"](2, 2 + ACTIONS), encoder)


@pytest.mark.parametrize("dynamics", ["FVSBN", "CausalTransformer"])
def test_features_that_are_no_symbols_are_refused(dynamics: str) -> None:
    """An encoder's mean is real; a density of symbols has nothing to say of it."""
    encoder = g.VAE(4, latent=2, hidden=(8,))
    make = SYMBOLS[dynamics]
    with pytest.raises((TypeError, ValueError), match=named("VAE", dynamics)):
        DynamicsCuriosity(make(2, 2 + ACTIONS), encoder)


@pytest.mark.parametrize(
    ("event", "context", "numbers"), [(3, 6, ("3", "2")), (2, 2, ("2",)), (2, 1, ("2", "1"))]
)
def test_widths_that_do_not_fit_are_refused(
    event: int, context: int, numbers: tuple[str, ...]
) -> None:
    """The encoder gives 2 features, which leave room for an action in a context of 3 or more."""
    encoder = g.VAE(4, latent=2, hidden=(8,))
    with pytest.raises(ValueError, match=named(*numbers)):
        DynamicsCuriosity(DYNAMICS["MADE"](event, context), encoder)


@pytest.mark.parametrize(
    "family", [f for f in g.catalogue() if f.name != "VQVAE"], ids=lambda f: f.name
)
def test_what_has_no_codes_is_refused(family: g.Family) -> None:
    with pytest.raises(TypeError, match=rf"^CodeCounts needs .*codes.*; {family.name} has none"):
        CodeCounts(family.small[0]())


@pytest.mark.parametrize("consumer", [PseudoCounts, Surprise, DynamicsCuriosity, CodeCounts])
@pytest.mark.parametrize("given", ["MADE", None, torch.nn.Linear(2, 2), g.MADE, g.VQVAE], ids=str)
def test_what_is_no_model_is_refused(given: Any, consumer: Any) -> None:
    """Not even a class, whose methods are there and whose weights are not."""
    with pytest.raises(TypeError, match=consumer.__name__):
        consumer(given)

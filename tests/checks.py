"""What every generative model must do: one function for each clause of the contract.

Each takes a `Case` and fails with an AssertionError, or pytest's own. That they can fail is itself
tested, on broken models, in `test_conformance.py`.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.testing import assert_close

from rlgen import checkpoint
from rlgen.generative import (
    Bound,
    Decoder,
    DensityModel,
    Encoder,
    GenerativeModel,
    evaluate,
    fit,
    unchecked,
)
from rlgen.generative.support import Binary, Real, Symbols, Unit
from rlgen.seeding import drawing_from
from tests import helpers
from tests.checks_truth import (
    check_bound_is_below,
    check_capabilities_are_exclusive,
    check_density_is_normalised,
)
from tests.helpers import Case

Check = Callable[[Case], None]


def check_shapes_and_dtypes(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        model = case.scrambled(dtype=dtype)
        x, context = helpers.batch(model, 5)
        assert model.dtype == dtype
        for name, score in helpers.scores(model).items():
            _is_tensor(name, score(x, context), (5,), dtype)
        if isinstance(model, Bound):
            _is_tensor("elbo of 3 samples", model.elbo(x, context, samples=3), (5,), dtype)
        symbols = isinstance(model.support, Symbols)
        sample = model.sample(5, context)
        _is_tensor("sample", sample, (5, *model.event_shape), torch.long if symbols else dtype)
        model.check(sample, context)  # samples are data: they lie in the support
        assert not sample.requires_grad
        if isinstance(model, DensityModel):
            sample, log_prob = model.sample_and_log_prob(5, context, generator=0)
            _is_tensor("its log_prob", log_prob, (5,), dtype)
            assert torch.equal(sample, model.sample(5, context, generator=0))
            tolerance = 1e-3 if dtype == torch.float32 else 1e-7
            with torch.no_grad():
                asked = model.log_prob(sample, context)
            assert_close(log_prob, asked, rtol=tolerance, atol=tolerance)


def check_codes(case: Case) -> None:
    """`encode` and `decode` give distributions over one code, and one x, for each example."""
    model = case.scrambled()
    x, context = helpers.batch(model, 5)
    if isinstance(model, Encoder):
        q = model.encode(x, context)
        assert isinstance(q, Distribution) and q.batch_shape[:1] == (5,), q
        _is_tensor("encode(x).mean", q.mean, q.batch_shape + q.event_shape, model.dtype)
        assert q.mean.requires_grad
    if isinstance(model, Encoder) and isinstance(model, Decoder):
        p = model.decode(q.mean, context)
        assert isinstance(p, Distribution) and p.batch_shape == (5,), p
        assert p.event_shape == model.event_shape
        _is_tensor("decode(z).log_prob", p.log_prob(x), (5,), model.dtype)
        _is_tensor("decode(z).sample", p.sample().to(x.dtype), x.shape, x.dtype)
        with pytest.raises(ValueError, match="'z'"):
            model.decode(q.mean[:, :-1], context)
        with pytest.raises(ValueError, match="'z'"):
            model.decode(q.mean * math.nan, context)


def _is_tensor(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert isinstance(x, Tensor), name
    assert x.shape == shape, f"{name} has shape {tuple(x.shape)}, not {tuple(shape)}"
    assert x.dtype == dtype, f"{name} is {x.dtype}, not {dtype}"
    assert torch.isfinite(x).all(), f"{name} is not finite"


def check_examples_are_independent(case: Case) -> None:
    """The score of an example is the same in any company, in training too."""
    for training in (False, True):
        model = case.scrambled().train(training)
        x, context = helpers.batch(model, 6)
        for name, score in helpers.scores(model).items():
            if case.compares and (name == "loss" or name.startswith("objective")):
                continue
            with torch.no_grad(), drawing_from(0):
                together = score(x, context)
            for i in (0, 4):
                others, other_context = helpers.batch(model, 6, seed=i + 1)
                others[i] = x[i]
                if context is not None and other_context is not None:
                    other_context[i] = context[i]
                with torch.no_grad(), drawing_from(0):
                    among_others = score(others, other_context)
                assert_close(among_others[i], together[i], msg=f"{name} depends on other examples")
            if not helpers.is_noisy(score, x, context):
                rows = [slice(i, i + 1) for i in range(6)]
                with torch.no_grad():
                    alone = [score(x[r], None if context is None else context[r]) for r in rows]
                assert_close(torch.cat(alone), together, msg=f"{name} of a batch is not its rows'")


def check_every_parameter_learns(case: Case) -> None:
    model = case.scrambled().train()
    x, context = helpers.batch(model, 64)
    moved: set[int] = set()
    for objective in model.objectives():
        with drawing_from(0):
            loss = objective.loss(x, context).mean()
        gradients = torch.autograd.grad(loss, objective.parameters, allow_unused=True)
        for parameter, gradient in zip(objective.parameters, gradients, strict=True):
            if gradient is not None and gradient.count_nonzero() > 0:
                assert torch.isfinite(gradient).all()
                moved.add(id(parameter))
    parameters = [item for item in model.named_parameters() if item[1].requires_grad]
    idle = [name for name, parameter in parameters if id(parameter) not in moved]
    assert not idle, f"no objective moves {idle}"


def check_context_matters(case: Case) -> None:
    model = case.scrambled()
    if model.context_shape is None:
        return
    x, context = helpers.batch(model, 16)
    assert context is not None
    for name, score in helpers.scores(model).items():
        with torch.no_grad(), drawing_from(0):
            first = score(x, context)
        with torch.no_grad(), drawing_from(0):
            second = score(x, context.roll(1, 0))
        assert not torch.isclose(first, second).any(), f"{name} ignores the context"
    one, other = (model.sample(256, c[0], generator=0) for c in (context[:1], context[1:2]))
    assert not torch.equal(one, other), "samples ignore the context"
    each = model.sample(256, context[:1].expand(256, *model.context_shape), generator=0)
    assert torch.equal(one, each), "a context for all is not that context for each"


def check_saving(case: Case, folder: Path) -> None:
    model = case.fresh(dtype=torch.float32)
    x, context = helpers.batch(model, 64)
    fit(model, x, context, steps=2, progress=False)
    checkpoint.save(model, folder / "model")
    for again in (checkpoint.load(folder / "model"), copy.deepcopy(model)):
        assert type(again) is type(model)
        assert again.event_shape == model.event_shape
        assert again.context_shape == model.context_shape
        _same_state(again, model)
        for name, score in helpers.scores(model).items():
            results = []
            for scored in (score, helpers.scores(again)[name]):
                with torch.no_grad(), drawing_from(0):
                    results.append(scored(x, context))
            assert torch.equal(*results), f"{name} differs"
        samples = [m.sample(64, context, generator=0) for m in (model, again)]
        assert torch.equal(*samples), "samples differ"
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for tensor in again.state_dict().values():
            tensor.zero_()
        assert all(torch.equal(kept[name], t) for name, t in model.state_dict().items()), "shared"


def _same_state(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def check_same_seed_same_numbers(case: Case) -> None:
    models = []
    for other_state in (5, 6):
        model = case.fresh(dtype=torch.float32)
        x, context = helpers.batch(model, 64)
        torch.manual_seed(other_state)
        before = torch.get_rng_state()
        fit(model, x, context, steps=3, batch_size=16, seed=7, progress=False)
        evaluate(model, x, context)
        assert torch.equal(before, torch.get_rng_state()), "fit touches the global random state"
        models.append(model)
    _same_state(*models)
    model = models[0]
    before = torch.get_rng_state()
    draws = [model.sample(64, context, generator=seed) for seed in (0, 0, 1)]
    stream = torch.Generator().manual_seed(3)
    first, second = (model.sample(64, context, generator=stream) for _ in range(2))
    again = torch.Generator().manual_seed(3)
    assert torch.equal(before, torch.get_rng_state()), "sample touches the global random state"
    assert torch.equal(draws[0], draws[1]), "the same seed gives other samples"
    assert not torch.equal(draws[0], draws[2]), "another seed gives the same samples"
    assert not torch.equal(first, second), "a generator does not continue its stream"
    for expected in (first, second):
        assert torch.equal(expected, model.sample(64, context, generator=again))


def check_precision(case: Case) -> None:
    """float32 gives what float64 gives, up to rounding; where there is noise, on average."""
    single = case.scrambled(dtype=torch.float32)
    double = copy.deepcopy(single).double()
    x, context = helpers.batch(single, 8)
    # images, and losses that compare all examples with all, are dear
    repeats = 200 if case.compares or x[0].numel() > 16 else 2000
    wide = None if context is None else context.double()
    x_wide = x.double() if x.is_floating_point() else x
    for name, score in helpers.scores(single).items():
        other = helpers.scores(double)[name]
        if not helpers.is_noisy(score, x, context):
            with torch.no_grad():
                results = score(x, context).double(), other(x_wide, wide)
            assert_close(*results, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
            continue
        means = []
        for s, value, given in ((score, x, context), (other, x_wide, wide)):
            many = value.repeat_interleave(repeats, dim=0)
            given = None if given is None else given.repeat_interleave(repeats, dim=0)
            with torch.no_grad(), drawing_from(0):
                each = s(many, given).double().reshape(8, repeats)
            means.append((each.mean(1), each.std(1) / math.sqrt(repeats)))
        slack = 4.5 * (means[0][1] + means[1][1]) + 1e-4
        assert ((means[0][0] - means[1][0]).abs() <= slack).all(), f"{name}: dtypes differ"


def check_meta_device(case: Case) -> None:
    """Shapes without numbers: no forward pass looks at values."""
    model = case.fresh(dtype=torch.float32).eval().to("meta")
    x, context = (None if t is None else t.to("meta") for t in helpers.batch(model, 4))
    assert x is not None
    with unchecked(), torch.no_grad():
        for name, score in helpers.scores(model).items():
            out = score(x, context)
            assert out.is_meta and out.shape == (4,), name
        sample = model.sample(4, context)
    assert sample.is_meta and sample.shape == (4, *model.event_shape)


def check_messages(case: Case) -> None:
    """Wrong data are refused, by name, wherever data come in."""
    model = case.scrambled(dtype=torch.float32)
    x, context = helpers.batch(model, 4)
    calls = helpers.scores(model)
    for name in ("encode", "conditionals", "transform", "kl", "codes", "perplexity"):
        if callable(getattr(model, name, None)):
            calls[name] = getattr(model, name)
    for name, call in calls.items():
        for wrong in (x[:, None], x[0], x.flatten()[:0].reshape(0, *x.shape[1:]), x.tolist()):
            with pytest.raises(ValueError, match="'x'"):
                call(wrong, context)
        for wrong in _illegal(model, x):
            with pytest.raises(ValueError, match="'x'"):
                call(wrong, context)
        for given, message in _wrong_contexts(model, context):
            if given is None and name == "encode" and _encodes_x_alone(model, x, context):
                continue
            with pytest.raises(ValueError, match=message):
                call(x, given)
    if isinstance(model, Bound):
        with pytest.raises(ValueError, match="'samples'"):
            model.elbo(x, context, samples=0)
    draws = [model.sample]
    if isinstance(model, DensityModel):
        draws.append(model.sample_and_log_prob)
    for draw in draws:
        for n in (0, -1):
            with pytest.raises(ValueError, match="'n'"):
                draw(n, context)
        for given, message in _wrong_contexts(model, context):
            with pytest.raises(ValueError, match=message):
                draw(4, given)


def _encodes_x_alone(model: GenerativeModel, x: Tensor, context: Tensor | None) -> bool:
    """Whether codes owe nothing to the context, so that a model may give them without it."""
    assert isinstance(model, Encoder) and context is not None
    means = [model.encode(x, given).mean for given in (context, context.roll(1, 0))]
    return torch.equal(*means)


def _illegal(model: GenerativeModel, x: Tensor) -> list[Tensor]:
    """Data of the right shape that the support rules out, each with one wrong value."""

    def put(value: float) -> Tensor:
        wrong = x.clone()
        wrong.reshape(-1)[-1] = value
        return wrong

    if isinstance(model.support, Real):
        wrong_dtype = [x.double(), x.long(), x.half()]
        return [put(math.nan), put(math.inf), put(-math.inf), *wrong_dtype]
    if isinstance(model.support, Unit):
        return [put(0.0), put(1.0), put(math.nan), put(-0.5), x.double(), x.long()]
    if isinstance(model.support, Binary):
        return [put(0.5), put(2.0), put(-1.0), put(math.nan)]
    assert isinstance(model.support, Symbols)
    return [put(model.support.count), put(-1), x.float(), x.bool()]


def _wrong_contexts(
    model: GenerativeModel, context: Tensor | None
) -> list[tuple[Tensor | None, str]]:
    if context is None:
        return [(torch.zeros(4, 2), "takes no context")]
    nan = context.clone()
    nan.reshape(-1)[0] = math.nan
    return [
        (None, "needs a context"),
        (context[:3], "'context'"),
        (context[:, None], "'context'"),
        (torch.cat([context, context], dim=-1), "'context'"),
        (context.double(), "'context'"),
        (nan, "'context'"),
    ]


def check_modes(case: Case) -> None:
    """Sampling is in evaluation mode, and leaves every part in the mode that it was in."""
    model = case.scrambled()
    x, context = helpers.batch(model, 32)
    parts = list(model.modules())
    expected = model.sample(32, context, generator=0)
    for pattern in range(3):
        for i, part in enumerate(parts):
            part.training = (i + pattern) % 3 == 0
        before = [part.training for part in parts]
        samples = [model.sample(32, context, generator=0)]
        if isinstance(model, DensityModel):
            samples.append(model.sample_and_log_prob(32, context, generator=0)[0])
        evaluate(model, x, context)
        assert [part.training for part in parts] == before, "a mode is not what it was"
        assert all(torch.equal(sample, expected) for sample in samples), "sampled in training mode"


class _Loss(nn.Module):
    """`torch.func.functional_call` calls forward."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.model.loss(x, context)


def check_vectorised_gradients(case: Case) -> None:
    """vmap(grad) of the loss is a loop over examples: the code is safe under torch.func."""
    if case.compares:
        return
    model = case.scrambled()
    x, context = helpers.batch(model, 3)
    parameters = {f"model.{name}": p for name, p in model.named_parameters()}

    def one(weights: dict[str, Tensor], x: Tensor, context: Tensor | None) -> Tensor:
        given = None if context is None else context[None]
        loss: Tensor = torch.func.functional_call(_Loss(model), weights, (x[None], given))
        return loss.sum()

    axes = (None, 0, None if context is None else 0)
    weights = {name: p.detach() for name, p in parameters.items()}
    with unchecked():
        gradients = torch.func.vmap(torch.func.grad(one), axes, randomness="different")
        fast = gradients(weights, x, context)
    if helpers.is_noisy(model.loss, x, context):  # then there is nothing to compare with
        assert all(torch.isfinite(gradient).all() for gradient in fast.values())
        return
    for i in range(3):
        row = slice(i, i + 1)
        loss = model.loss(x[row], None if context is None else context[row]).sum()
        slow = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, slow, strict=True):
            wanted = torch.zeros_like(weights[name]) if gradient is None else gradient
            assert_close(fast[name][i], wanted, rtol=1e-6, atol=1e-9, msg=f"gradient of {name}")


def check_extremes(case: Case) -> None:
    """Legal data never give NaN or infinity, however extreme; nor do gradients."""
    model = case.scrambled(dtype=torch.float32)
    if isinstance(model.support, Real):
        extremes = [0.0, 1e-30, -1e-6, 1e2, -1e4, 1e4]
    elif isinstance(model.support, Unit):
        extremes = [0.5, 1e-7, 1e-30, 1 - 1e-7]
    else:
        extremes = [0, model.support.count - 1 if isinstance(model.support, Symbols) else 1]
    x = torch.stack([torch.full_like(helpers.values(model, 1)[0], v) for v in extremes])
    contexts = [helpers.contexts(model, len(x))]
    if contexts[0] is not None:
        contexts += [torch.full_like(contexts[0], v) for v in (0.0, 1e3, -1e3)]
    for context in contexts:
        for objective in model.objectives():
            with drawing_from(0):
                loss = objective.loss(x, context)
            assert torch.isfinite(loss).all(), f"{objective.name} is {loss.tolist()} at {extremes}"
            for gradient in torch.autograd.grad(
                loss.sum(), objective.parameters, allow_unused=True
            ):
                assert gradient is None or torch.isfinite(gradient).all(), objective.name
        if context is not None:
            sample = model.sample(len(x), context, generator=0)
            assert torch.isfinite(sample.double()).all(), "samples are not finite"


CHECKS: list[Check] = [
    check_shapes_and_dtypes,
    check_codes,
    check_examples_are_independent,
    check_every_parameter_learns,
    check_context_matters,
    check_capabilities_are_exclusive,
    check_density_is_normalised,
    check_bound_is_below,
    check_same_seed_same_numbers,
    check_precision,
    check_meta_device,
    check_messages,
    check_modes,
    check_vectorised_gradients,
    check_extremes,
]

"""A12: causality, the cache, sharpening, and the entropy of a Markov chain."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.generative import CausalTransformer, cosine, fit
from tests.truth import MarkovChain, randomise


def scrambled(length: int, symbols: int = 3, **options: object) -> CausalTransformer:
    """Far from where it begins, where everything is nearly uniform and mistakes hide."""
    torch.manual_seed(0)
    model = CausalTransformer(
        length, symbols=symbols, width=16, attention_heads=2, **options
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def sequences(length: int, symbols: int = 3) -> Tensor:
    return torch.tensor(list(itertools.product(range(symbols), repeat=length)))


def test_a12_each_position_sees_the_past_and_all_of_it() -> None:
    model = scrambled(6)
    x = torch.tensor([[0, 1, 2, 1, 0, 2]])
    before = model.conditionals(x).logits[0]
    for i in range(6):
        changed = x.clone()
        changed[0, i] = (x[0, i] + 1) % 3
        moved = (model.conditionals(changed).logits[0] - before).abs().amax(-1)
        assert (moved[: i + 1] == 0).all(), f"x_{i} reaches a position at or before itself"
        assert (moved[i + 1 :] > 1e-6).all(), f"x_{i} does not reach all later positions"


def test_equal_symbols_at_different_places_count_differently() -> None:
    logits = scrambled(6).conditionals(torch.zeros(1, 6, dtype=torch.long)).logits[0]
    assert (logits[1:] - logits[:-1]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("context_shape", [None, (2,)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a12_cached_sampling_gives_the_logits_of_the_full_pass(
    length: int, context_shape: tuple[int, ...] | None
) -> None:
    model = scrambled(length, context_shape=context_shape)
    context = None if context_shape is None else torch.randn(64, 2, dtype=torch.float64)
    x, log_prob = model.sample_and_log_prob(64, context, generator=0)
    torch.testing.assert_close(log_prob, model.log_prob(x, context), rtol=0, atol=1e-10)
    full = model.conditionals(x, context).logits
    for t in range(length):
        step = model.next_distribution(x[:, :t], context).logits
        torch.testing.assert_close(step, full[:, t], rtol=0, atol=1e-10)


def test_extending_draws_from_the_conditional() -> None:
    model = scrambled(4)
    prefix = torch.tensor([[2, 0]])
    x = model.extend(prefix.expand(20_000, 2), generator=0)
    assert (x[:, :2] == prefix).all()
    all_x = sequences(4)
    exact = torch.where((all_x[:, :2] == prefix).all(1), model.log_prob(all_x).exp(), 0.0)
    counts = torch.bincount(x @ torch.tensor([27, 9, 3, 1]), minlength=81) / len(x)
    assert 0.5 * (counts - exact / exact.sum()).abs().sum() < 0.02


def test_extending_reaches_from_nothing_to_everything() -> None:
    model = scrambled(4)
    nothing = torch.zeros(5, 0, dtype=torch.long)
    assert torch.equal(model.extend(nothing, generator=3), model.sample(5, generator=3))
    whole = sequences(4)
    assert torch.equal(model.extend(whole), whole)


def test_a12_temperature_and_top_k() -> None:
    model = scrambled(4)
    prefix = sequences(2)
    plain = model.next_distribution(prefix).probs
    for temperature, top_k in itertools.product([0.5, 1.0, 3.0], [None, 1, 2, 3]):
        sharp = model.next_distribution(prefix, temperature=temperature, top_k=top_k).probs
        wanted = plain ** (1 / temperature)
        if top_k is not None:
            wanted = wanted * (plain >= plain.topk(top_k).values[:, -1:])
        wanted = wanted / wanted.sum(-1, keepdim=True)
        torch.testing.assert_close(sharp, wanted, rtol=0, atol=1e-10)
    cold = model.next_distribution(prefix, temperature=1e-300).probs
    assert torch.equal(cold, torch.nn.functional.one_hot(plain.argmax(-1), 3).double())
    greedy = model.extend(prefix[:, :1], top_k=1, generator=0)
    assert torch.equal(greedy, model.extend(prefix[:, :1], temperature=1e-9, generator=1))


def test_wrong_arguments() -> None:
    for options, name in (
        ({"symbols": 1}, "symbols"),
        ({"width": 0}, "width"),
        ({"layers": 0}, "layers"),
        ({"attention_heads": 3}, "attention_heads"),
        ({"attention_heads": 0}, "attention_heads"),
    ):
        with pytest.raises(ValueError, match=f"'{name}'"):
            CausalTransformer(4, **options)
    with pytest.raises(ValueError, match="'event_shape'"):
        CausalTransformer((2, 2))
    model = CausalTransformer(4, symbols=3)
    prefix = torch.zeros(2, 2, dtype=torch.long)
    for call in (model.extend, model.next_distribution):
        with pytest.raises(ValueError, match="'temperature'"):
            call(prefix, temperature=0.0)
        with pytest.raises(ValueError, match="'top_k'"):
            call(prefix, top_k=4)
        for wrong in (torch.zeros(2, 5).long(), torch.zeros(4).long(), prefix + 3, prefix.float()):
            with pytest.raises(ValueError, match="'prefix'"):
                call(wrong)
        with pytest.raises(ValueError, match="'prefix' must not be an empty batch"):
            call(prefix[:0])
        with pytest.raises(ValueError, match="'prefix' must not be an empty batch"):
            call(prefix[:0, :0])
    with pytest.raises(ValueError, match="t <= 3"):
        model.next_distribution(torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="'temperature'"):
        model.extend(torch.zeros(2, 4, dtype=torch.long), temperature=-1.0)


def test_second_derivatives_exist() -> None:
    model = scrambled(3)
    weight = model.blocks[0].to_qkv.weight
    (slope,) = torch.autograd.grad(model.loss(sequences(3)).sum(), weight, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), weight)
    assert curvature.abs().sum() > 0


def test_a12_cached_sampling_equals_the_full_pass_in_float32() -> None:
    """Within 1e-5, over a longer sequence: positions under the cache, and the sense of the mask."""
    torch.manual_seed(0)
    model = CausalTransformer(24, symbols=5, width=32)
    randomise(model, 0.1)
    x, log_prob = model.sample_and_log_prob(64, generator=0)
    with torch.no_grad():
        full = model.conditionals(x)
        for t in (0, 1, 7, 23):
            step = model.next_distribution(x[:, :t])
            assert (step.logits - full.logits[:, t]).abs().max() <= 1e-5
        assert (log_prob - full.log_prob(x).sum(1)).abs().max() <= 1e-4  # 24 conditionals


def test_a12_temperature_and_top_k_normalise() -> None:
    model = scrambled(6, symbols=7)
    prefix = torch.randint(7, (50, 3))
    for temperature, top_k in itertools.product([0.1, 1.0, 10.0], [None, 1, 3]):
        probs = model.next_distribution(prefix, temperature=temperature, top_k=top_k).probs
        assert (probs.sum(-1) - 1).abs().max() <= 1e-12
        assert top_k is None or ((probs > 0).sum(-1) == top_k).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a12_reaches_the_entropy_rate_of_a_markov_chain(seed: int) -> None:
    """NLL <= rate + 0.02 nats per symbol, on fresh sequences of an order-2 chain."""
    chain = MarkovChain(3, seed=seed)
    assert chain.rate < 0.8 * math.log(3), "too close to uniform to tell anything"
    model = CausalTransformer(16, symbols=3, width=32)
    x = chain.sample(20_000, 16, seed=1)
    fit(model, x, steps=500, batch_size=128, lr=3e-3, schedule=cosine, progress=False)
    fresh = chain.sample(20_000, 16, seed=2)
    with torch.no_grad():
        log_probs = model.conditionals(fresh).log_prob(fresh).double().numpy()
    exact = chain.conditional_log_probs(fresh)
    assert -float(log_probs[:, 2:].mean()) <= chain.rate + 0.02
    assert -1e-3 <= float((exact - log_probs[:, 2:]).mean()) <= 0.02
    # the first two symbols come from the stationary pair, not from the transitions
    pairs = chain.pairs[fresh[:, 0], fresh[:, 1]]
    assert abs(float((np.log(pairs) - log_probs[:, :2].sum(1)).mean())) <= 0.02
    drawn = model.sample(20_000, generator=0)
    assert -float(chain.conditional_log_probs(drawn).mean()) <= chain.rate + 0.05

"""What carries the past: step by step as at once, never from the future, and anew where it is 0."""

from collections.abc import Callable

import pytest
import torch

from rlgen.agents.world_model import GRU, Attention
from rlgen.agents.world_model.recurrence import Recurrence
from tests.truth import randomise

RECURRENCES: dict[str, Callable[[], Recurrence]] = {
    "GRU": lambda: GRU(8),
    "Attention": lambda: Attention(8, layers=2, attention_heads=2, window=4),
    "Attention-1": lambda: Attention(8, layers=1, attention_heads=1, window=3),
    "Attention-long": lambda: Attention(8, layers=3, attention_heads=4, window=32),
}


def recurrence_of(name: str) -> Recurrence:
    """With noise on all weights, in float64: nothing is zero by its initial value."""
    made = RECURRENCES[name]().double()  # type: ignore[attr-defined]
    randomise(made, 0.3, 0)
    return made.eval()


@pytest.mark.parametrize("name", RECURRENCES)
def test_a07_a12_steps_are_the_whole_pass(name: str) -> None:
    """Beyond the window too: the state carried is the sequence seen at once."""
    recurrence = recurrence_of(name)
    x = torch.randn(3, 11, 8, dtype=torch.float64)
    whole, states = recurrence.unroll(x), recurrence.states(x)
    state = torch.zeros(3, recurrence.state_size, dtype=torch.float64)
    for t in range(11):
        summary, state = recurrence.step(x[:, t], state)
        torch.testing.assert_close(summary, whole[:, t], rtol=0, atol=1e-10)
        torch.testing.assert_close(recurrence.summary(state), summary)
        torch.testing.assert_close(state, states[:, t], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", RECURRENCES)
def test_a_row_that_is_set_to_zero_begins_anew_and_the_others_do_not(name: str) -> None:
    recurrence = recurrence_of(name)
    x = torch.randn(3, 12, 8, dtype=torch.float64)
    state = torch.zeros(3, recurrence.state_size, dtype=torch.float64)
    for t in range(12):
        if t == 5:
            state = state * torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
        summary, state = recurrence.step(x[:, t], state)
    torch.testing.assert_close(summary[1], recurrence.unroll(x[1:2, 5:])[0, -1])
    torch.testing.assert_close(summary[[0, 2]], recurrence.unroll(x[[0, 2]])[:, -1])


@pytest.mark.parametrize("name", RECURRENCES)
def test_no_summary_depends_on_the_future_and_all_depend_on_the_present(name: str) -> None:
    recurrence = recurrence_of(name)
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(recurrence.unroll, x)[0, :, :, 0]
    reach = jacobian.abs().amax((1, 3))  # (out, in)
    assert (reach.triu(1) == 0).all() and (reach.diagonal() > 1e-6).all()
    if isinstance(recurrence, Attention):
        back = torch.arange(10)[:, None] - torch.arange(10)
        layers = {"Attention": 2, "Attention-1": 1, "Attention-long": 3}[name]
        far = back > layers * (recurrence.window - 1)
        assert (reach[far] == 0).all() and (reach[(back >= 0) & ~far] > 1e-9).all()
    else:
        assert (reach.tril()[torch.ones(10, 10).tril().bool()] > 1e-9).all()


def test_errors_are_clear() -> None:
    with pytest.raises(ValueError, match="attention_heads"):
        Attention(8, attention_heads=3)
    with pytest.raises(ValueError, match="window"):
        Attention(8, attention_heads=2, window=0)
    with pytest.raises(ValueError, match="width"):
        GRU(0)

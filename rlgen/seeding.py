"""Repeatable randomness: draw from a seed or a generator, and leave the global state alone.

`torch.distributions` and `nn.Dropout` only know torch's global generators. Instead of a
`generator` argument that half of torch cannot honour, a block of code borrows the global state.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_times: ContextVar[int] = ContextVar("times", default=1)


@contextmanager
def drawing_from(source: int | torch.Generator | None) -> Iterator[None]:
    """Within the block, torch's randomness comes from `source`; afterwards all is as it was.

    Args:
        source: a seed (the block draws the same numbers every time), a `torch.Generator` (the
            block continues its stream, as if it had been passed to each call), or None, which
            changes nothing.

    Example:
        >>> import torch
        >>> with drawing_from(0):
        ...     first = torch.randn(3)
        >>> with drawing_from(0):
        ...     assert torch.equal(first, torch.randn(3))
    """
    if source is None:
        yield
    elif isinstance(source, torch.Generator):
        device = source.device
        before = _get_state(device)
        _set_state(device, source.get_state())
        try:
            yield
        finally:
            source.set_state(_get_state(device))
            _set_state(device, before)
    else:
        devices = [torch.device("cpu")]
        if torch.cuda.is_initialized():
            devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        states = [_get_state(device) for device in devices]
        # torch.manual_seed would queue work for devices that are not in use, at every call
        torch.default_generator.manual_seed(int(source))
        if len(devices) > 1:
            torch.cuda.manual_seed_all(int(source))
        try:
            yield
        finally:
            for device, state in zip(devices, states, strict=True):
                _set_state(device, state)


@contextmanager
def repeating(times: int) -> Iterator[None]:
    """Within the block, `uniform` and `normal` give each number to so many rows.

    A batch then holds `times` groups of rows, one after the other, that all meet the same noise.

    Example:
        >>> import torch
        >>> with repeating(2):
        ...     noise = uniform((6,), torch.zeros(()))
        >>> assert torch.equal(noise[:3], noise[3:])
    """
    before = _times.set(times)
    try:
        yield
    finally:
        _times.reset(before)


def uniform(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Numbers on [0, 1) in the dtype and on the device of `like`; see `repeating`."""
    return _drawn(torch.rand, shape, like)


def normal(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers in the dtype and on the device of `like`; see `repeating`."""
    return _drawn(torch.randn, shape, like)


def mix(seed: int, *counters: int) -> int:
    """A seed for one numbered event of a seeded stream, such as step 7 of run 0.

    Neighbouring numbers give unrelated seeds (the finaliser of splitmix64).
    """
    state = seed & _MASK
    for counter in counters:
        state = (state + 0x9E3779B97F4A7C15 * (counter + 1)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1


def _drawn(draw: Any, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    times = _times.get()
    if times == 1:
        drawn: torch.Tensor = draw(*shape, dtype=like.dtype, device=like.device)
        return drawn
    if not shape or shape[0] % times:
        raise ValueError(f"{times} groups must share the noise of shape {tuple(shape)} evenly")
    once = draw(shape[0] // times, *shape[1:], dtype=like.dtype, device=like.device)
    return torch.cat([once] * times)


def _get_state(device: torch.device) -> torch.Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _set_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)

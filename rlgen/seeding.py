"""Repeatable randomness: draw from a seed or a generator, and leave the global state alone.

`torch.distributions` and `nn.Dropout` only know torch's global generators. Instead of a
`generator` argument that half of torch cannot honour, a block of code borrows the global state.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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


def _get_state(device: torch.device) -> torch.Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _set_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)

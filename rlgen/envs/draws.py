"""Counter-based randomness: every draw is a pure function of who asks, and when.

A stateful generator gives copy i other numbers when there are more copies beside it. Here each
copy has a key, and a draw hashes (key, episode, step, stream). So results do not depend on how
many copies there are, on the device, or on which copies are reset together; and the random state of
a world is its counters.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def scramble(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64: a bijection whose outputs look independent."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _FIRST
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def combine(key: Tensor, counter: Tensor | int) -> Tensor:
    """A new key for one value of a counter."""
    if isinstance(counter, int):  # python's integers do not wrap around
        shift = (counter + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF
        return scramble(key + (shift - (1 << 64) if shift >> 63 else shift))
    return scramble(key + (counter + 1) * _GOLDEN)


def copy_keys(seed: int, count: int, device: torch.device) -> Tensor:
    """Copy i of a world seeded with s has the key of copy 0 of a world seeded with s + i."""
    return scramble(torch.arange(count, device=device, dtype=torch.int64) + seed)


class Draws:
    """Random numbers for some copies at one moment.

    Args:
        make_key: gives the keys, with shape (n,); called at the first draw, so that worlds whose
            steps are certain do not pay for randomness.
    """

    def __init__(self, make_key: Callable[[], Tensor]) -> None:
        self._make_key = make_key

    @cached_property
    def key(self) -> Tensor:
        return self._make_key()

    def bits(self, stream: int) -> Tensor:
        """63 random bits as int64 with shape (n,); `stream` tells draws of one moment apart."""
        return combine(self.key, stream) & 0x7FFFFFFFFFFFFFFF

    def integers(self, stream: int, high: int | Tensor) -> Tensor:
        """Uniform on 0, ..., high - 1 for high up to 2^31; the bias is below high / 2^32."""
        return ((self.bits(stream) >> 31) * high) >> 32

    def several(self, *highs: int) -> tuple[Tensor, ...]:
        """One draw of `integers` for each bound, from the streams 0, 1, ..., hashed together."""
        streams = torch.arange(len(highs), device=self.key.device)
        bits = combine(self.key, streams[:, None]) & 0x7FFFFFFFFFFFFFFF
        return tuple(((row >> 31) * high) >> 32 for row, high in zip(bits, highs, strict=True))

    def uniform(self, stream: int) -> Tensor:
        """Uniform on [0, 1) as float32, on a grid of 2^-24."""
        return (self.bits(stream) >> 39).to(torch.float32) * 2.0**-24

"""What values a variable may take: the one place where data is checked.

Shapes and dtypes are always checked. Values (NaN, symbols out of range) cost a pass over the data
and, on an accelerator, a wait for the device; `unchecked` leaves them out where the data is known
to be good, and must be used under `torch.func` transforms, which cannot branch on values.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.checkpoint import Configurable

_CHECKING_VALUES = ContextVar("_CHECKING_VALUES", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Within the block the values of data are trusted; shapes and dtypes are still checked."""
    token = _CHECKING_VALUES.set(False)
    try:
        yield
    finally:
        _CHECKING_VALUES.reset(token)


class Support(Configurable, ABC):
    """A set of values; `check` turns data into the form that models compute with."""

    def check(self, name: str, x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """`x` with shape (batch, *shape), verified.

        Args:
            name: what the caller calls `x`, for the message.
            x: the data.
            shape: of one example.
            dtype: the floating dtype of the model.
        """
        check_batch(name, x, shape)
        x = self._check_dtype(name, x, dtype)
        if _CHECKING_VALUES.get():
            self._check_values(name, x)
        return x

    @abstractmethod
    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor: ...

    @abstractmethod
    def _check_values(self, name: str, x: Tensor) -> None: ...


def check_batch(name: str, x: Tensor, shape: torch.Size) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name!r} must be a tensor, got {type(x).__name__}")
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape:
        wanted = ", ".join(["batch", *map(str, shape)])
        raise ValueError(f"{name!r} must have shape ({wanted}), got {tuple(x.shape)}")
    if x.shape[0] == 0:
        raise ValueError(f"{name!r} must not be an empty batch")


def check_times(t: Tensor | float, batch: int, low: float, high: float, like: Tensor) -> Tensor:
    """Times with shape (batch,), from one for each example or one for all.

    Raises:
        ValueError: wrong shape, or a time outside [low, high].
    """
    times = torch.as_tensor(t, device=like.device)
    if times.ndim == 0:
        times = times.expand(batch)
    if times.shape != (batch,):
        raise ValueError(f"'t' must be a number or have shape ({batch},), got {tuple(times.shape)}")
    if _CHECKING_VALUES.get() and not ((times >= low) & (times <= high)).all():
        raise ValueError(
            f"'t' must be from {low:g} to {high:g}, got {float(times.min()):g} to "
            f"{float(times.max()):g}"
        )
    return times


def _check_floating(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype != dtype:
        raise ValueError(f"{name!r} must be {dtype}, as the model is, got {x.dtype}")
    return x


@dataclass(frozen=True)
class Real(Support):
    """All finite real numbers, in the dtype of the model."""

    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _check_floating(name, x, dtype)

    def _check_values(self, name: str, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise ValueError(f"{name!r} holds a value that is not finite (NaN or infinity)")


@dataclass(frozen=True)
class Unit(Support):
    """The open interval (0, 1): densities on it may be infinite at its ends."""

    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _check_floating(name, x, dtype)

    def _check_values(self, name: str, x: Tensor) -> None:
        if not ((x > 0) & (x < 1)).all():
            raise ValueError(f"{name!r} must lie strictly between 0 and 1")


@dataclass(frozen=True)
class Binary(Support):
    """0 and 1, in any dtype; models compute with them as floating numbers."""

    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        del name
        return x.to(dtype)

    def _check_values(self, name: str, x: Tensor) -> None:
        if not ((x == 0) | (x == 1)).all():
            raise ValueError(f"{name!r} must hold only 0 and 1")


@dataclass(frozen=True)
class Symbols(Support):
    """The integers 0, ..., count - 1, in any integer dtype."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"'count' must be at least 2, got {self.count}")

    def _check_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        del dtype
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name!r} must hold integer symbols, got {x.dtype}")
        return x.long()

    def _check_values(self, name: str, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        if low < 0 or high >= self.count:
            raise ValueError(
                f"{name!r} must hold symbols from 0 to {self.count - 1}, "
                f"got values from {int(low)} to {int(high)}"
            )

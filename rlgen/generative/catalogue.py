"""Every family, once: `catalogue()` is what the command line prints and the tests run over.

A new family is its own file and one entry in `families_explicit.py` or `families_implicit.py`; the
conformance tests come with the entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rlgen.generative import model as contracts
from rlgen.generative.model import GenerativeModel

_CAPABILITIES: tuple[tuple[type, str], ...] = (
    (contracts.Density, "density"),
    (contracts.Bound, "bound"),
    (contracts.Energy, "energy"),
    (contracts.Encoder, "encoder"),
    (contracts.Decoder, "decoder"),
    (contracts.Score, "score"),
)
_METHODS = {"density": "log_prob", "bound": "elbo", "encoder": "encode", "decoder": "decode"}


@dataclass(frozen=True)
class Family:
    """One entry of the catalogue.

    Attributes:
        cls: the class.
        data: the kinds of x it models, for people.
        paper: who, and when.
        bar: the figure that its tests hold it to, for people.
        small: constructors of small instances for the conformance tests. Where the context is
            "optional" or "required" they take `context_shape` as a keyword, and where it is
            "required" they bring one of their own.
        context: whether the family takes a context.
        compares: whether its losses compare the examples of a batch with each other, so that an
            example has no loss of its own.
    """

    cls: type[GenerativeModel]
    data: str
    paper: str
    bar: str
    small: Sequence[Callable[..., GenerativeModel]]
    context: Literal["none", "optional", "required"] = "optional"
    compares: bool = False

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def capabilities(self) -> tuple[str, ...]:
        return capabilities(self.cls)


def capabilities(cls: type) -> tuple[str, ...]:
    """The names of what a class can do, such as ("density",)."""
    return tuple(name for protocol, name in _CAPABILITIES if issubclass(cls, protocol))


def require(model: object, capability: type | tuple[type, ...], consumer: str) -> None:
    """Refuse a model that lacks a capability, and say which families have it.

    Args:
        model: what was given.
        capability: one of the protocols of `model.py`, such as `Density`, or several of which one
            is enough.
        consumer: who asks, for the message.

    Raises:
        TypeError: with both names.
    """
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"{consumer} needs a model; {name} is a class: make one, {name}(...)")
    wanted = capability if isinstance(capability, tuple) else (capability,)
    if isinstance(model, wanted):
        return
    names = [name for protocol, name in _CAPABILITIES if protocol in wanted]
    needs = " or ".join(f"{_article(name)} {name} ({_method(name)})" for name in names)
    families = ", ".join(f.name for f in catalogue() if set(names) & set(f.capabilities))
    raise TypeError(
        f"{consumer} needs {needs}; {type(model).__name__} has none. Families with one: {families}"
    )


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _method(capability: str) -> str:
    return _METHODS.get(capability, capability)


def catalogue() -> tuple[Family, ...]:
    """All families, in reading order."""
    # here, as their entries name all of rlgen.generative
    from rlgen.generative.families_explicit import EXPLICIT
    from rlgen.generative.families_implicit import IMPLICIT

    return EXPLICIT + IMPLICIT

"""Settings that change while an agent learns."""

import math

from rlgen.checkpoint import Configurable


class Anneal(Configurable):
    """A number that goes from one value to another, and stays there.

    Args:
        start: at the first step of the world.
        end: from `steps` on.
        steps: of the world, over all copies.
        geometric: go by equal factors instead of by equal differences.

    Example:
        >>> from rlgen.agents.anneal import Anneal
        >>> fall = Anneal(1.0, 0.25, steps=100, geometric=True)
        >>> [fall(step) for step in (0, 50, 100, 150)]
        [1.0, 0.5, 0.25, 0.25]
    """

    def __init__(self, start: float, end: float, *, steps: int, geometric: bool = False) -> None:
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        if not (0.0 <= start < math.inf and 0.0 <= end < math.inf):
            raise ValueError(
                f"'start' and 'end' must be at least 0 and finite, got {start} and {end}"
            )
        if geometric and min(start, end) == 0.0:
            raise ValueError(f"no factors lead to or from 0, got {start} and {end}")
        self.start, self.end, self.steps, self.geometric = start, end, steps, geometric

    def __call__(self, step: int) -> float:
        """Its value after so many steps."""
        share = min(1.0, step / self.steps)
        if self.geometric:
            value: float = self.start * (self.end / self.start) ** share
            return value
        return self.start + (self.end - self.start) * share

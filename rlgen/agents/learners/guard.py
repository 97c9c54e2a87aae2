"""Learning stops where a number is not finite, with the weights from before it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Guard:
    """Keeps a model's weights while they are changed, to put them back if that goes wrong.

    It looks once an update, as an accelerator has to be waited for.

    Args:
        model: what is changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kept: list[Tensor] = []

    def keep(self) -> None:
        """The weights as they are now are good."""
        weights = [tensor.detach() for tensor in self._named().values()]
        if not self.kept:
            self.kept = [tensor.clone() for tensor in weights]
        else:
            torch._foreach_copy_(self.kept, weights)

    def wrong(self, metrics: Mapping[str, float]) -> str | None:
        """The first of these metrics that is not finite, or else the first weight."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                return name
        floats = {k: t.detach() for k, t in self._named().items() if t.is_floating_point()}
        norms = torch.stack(torch._foreach_norm(list(floats.values())))
        if bool(norms.isfinite().all()):
            return None
        return next(k for k, n in zip(floats, norms.tolist(), strict=True) if not math.isfinite(n))

    def put_back(self) -> None:
        """The weights as they were kept."""
        torch._foreach_copy_([tensor.detach() for tensor in self._named().values()], self.kept)

    def _named(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())


def first_not_finite(named: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor holds something that is not finite; asks the device once."""
    finite = torch.stack([tensor.isfinite().all() for tensor in named.values()])
    return next((name for name, fine in zip(named, finite.tolist(), strict=True) if not fine), None)

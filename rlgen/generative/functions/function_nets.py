"""Networks that are functions: a code z and points in, values at the points out."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.checkpoint import Configurable
from rlgen.generative.functions.priors import one_hot
from rlgen.generative.model import Shape, as_shape
from rlgen.generative.nets import MLP, check_widths


class FunctionMLP(Configurable, nn.Module):
    """f_z(x): an MLP in which z shifts and scales the features of a point from the first layer on.

    h = A x + C z + (B x) * (D z),    f_z(x) = S h + MLP(h)

    so functions that are linear in x, with coefficients linear in z, are among them exactly. Any
    module with the same `forward` can take its place.

    Args:
        latent: numbers in one z, or how many symbols there are where z is a symbol.
        inputs: the shape of one point; an int means a vector.
        outputs: numbers at one point.
        hidden: widths of the hidden layers.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> function = functions.FunctionMLP(4, inputs=2)
        >>> function(torch.randn(5, 4), torch.randn(5, 7, 2)).shape
        torch.Size([5, 7, 1])
    """

    def __init__(
        self,
        latent: int,
        *,
        inputs: Shape = 1,
        outputs: int = 1,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        for name, value in (("latent", latent), ("outputs", outputs)):
            if value < 1:
                raise ValueError(f"{name!r} must be positive, got {value}")
        check_widths("hidden", hidden)
        if not hidden:
            raise ValueError("'hidden' must have at least one width")
        self.latent = latent
        self.input_dims = as_shape("inputs", inputs)
        width, dims = hidden[0], math.prod(self.input_dims)
        self.shift_x, self.scale_x = nn.Linear(dims, width), nn.Linear(dims, width)
        self.shift_z, self.scale_z = nn.Linear(latent, width), nn.Linear(latent, width)
        self.skip = nn.Linear(width, outputs)
        self.net = MLP(width, outputs, hidden[1:])

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        """The values of each function at its own points.

        Args:
            z: with shape (B, latent), or symbols with shape (B,).
            points: with shape (B, m, *inputs).

        Returns:
            With shape (B, m, outputs).
        """
        x = points.reshape(*points.shape[:2], -1)
        z = z if z.is_floating_point() else one_hot(z, self.latent, x.dtype)
        shift, scale = self.shift_z(z)[:, None], self.scale_z(z)[:, None]
        features = self.shift_x(x) + shift + self.scale_x(x) * scale
        values: Tensor = self.skip(features) + self.net(F.silu(features))
        return values


class FunctionTable(Configurable, nn.Module):
    """A table of values for each symbol: functions of m points that are always the same.

    Args:
        symbols: how many functions.
        points: m.
        outputs: numbers at one point.
        jitter: scale of logistic noise on the values in training mode. Where a threshold follows,
            as in `BitFlip`, it lets training cross it by chance and find better tables.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> function = functions.FunctionTable(16, 8)
        >>> function(torch.tensor([0, 3]), torch.zeros(2, 8, 1)).shape
        torch.Size([2, 8, 1])
    """

    def __init__(self, symbols: int, points: int, outputs: int = 1, *, jitter: float = 0.0) -> None:
        super().__init__()
        if jitter < 0:
            raise ValueError(f"'jitter' must not be negative, got {jitter}")
        self.jitter = jitter
        self.values = nn.Parameter(torch.randn(symbols, points, outputs))

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        """The values of the functions `z`, with shape (B, m, outputs); `points` only counts."""
        if points.shape[1] != self.values.shape[1]:
            raise ValueError(
                f"'points' must be the {self.values.shape[1]} of the table, got {points.shape[1]}"
            )
        table: Tensor = self.values
        if self.training and self.jitter > 0:
            uniform = torch.rand_like(table).clamp(1e-6, 1.0 - 1e-6)
            table = table + self.jitter * torch.logit(uniform)
        values: Tensor = F.embedding(z, table.flatten(1)).unflatten(1, table.shape[1:])
        return values

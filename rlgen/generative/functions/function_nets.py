"""Networks that are functions: a code z and points in, values at the points out."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.checkpoint import Configurable
from rlgen.generative.functions.priors import one_hot
from rlgen.generative.model import Shape, as_shape
from rlgen.generative.nets import MLP


class FunctionMLP(Configurable, nn.Module):
    """f_z(x): features of the point that all functions share, weighted by features of the code.

    f_z(x) = (phi(x), x, 1) . (A z + a(z)),    phi(x) = MLP(sin(W x + b))

    with an MLP a, so functions that are linear in x, with coefficients linear in z, are among them
    exactly; and the derivative by z, which `Difference` needs, costs no pass over the points. Any
    module with the same `forward` can take its place.

    References:
        | Learning nonlinear operators via DeepONet (Lu et al., 2021)
        | https://arxiv.org/abs/1910.03193
        | Random features for large-scale kernel machines (Rahimi and Recht, 2007)
        | https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines

    Args:
        latent: numbers in one z, or how many symbols there are where z is a symbol.
        inputs: the shape of one point; an int means a vector.
        outputs: numbers at one point.
        hidden: widths of the layers of phi, the first of them waves, and of the hidden layers of a.
        frequency: standard deviation of W to begin with. Functions that keep their values over a
            length l want about 1 / l, or more.

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
        frequency: float = 2.0,
    ) -> None:
        super().__init__()
        positive = {"latent": latent, "outputs": outputs, "frequency": frequency}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name!r} must be positive, got {value}")
        if not hidden:
            raise ValueError("'hidden' must have at least one width")
        self.latent, self.outputs = latent, outputs
        dims = math.prod(as_shape("inputs", inputs))
        terms = hidden[-1] + dims + 1
        self.waves = nn.Linear(dims, hidden[0])
        nn.init.normal_(self.waves.weight, std=frequency)
        nn.init.uniform_(self.waves.bias, 0.0, 2.0 * math.pi)
        deeper = [nn.Sequential(nn.Linear(*widths), nn.SiLU()) for widths in pairwise(hidden)]
        self.of_point = nn.Sequential(*deeper)
        self.of_code = MLP(latent, terms * outputs, hidden)
        self.linear = nn.Linear(latent, terms * outputs, bias=False)
        # functions begin alike: where data alone trains them, what they differ by at first is left
        nn.init.normal_(self.linear.weight, std=0.3 * (terms * latent) ** -0.5)

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
        terms = [self.of_point(self.waves(x).sin()), x, torch.ones_like(x[..., :1])]
        weights = (self.linear(z) + self.of_code(z)).unflatten(1, (-1, self.outputs))
        values: Tensor = torch.cat(terms, dim=2) @ weights
        return values


class FunctionTable(Configurable, nn.Module):
    """A table of values for each symbol: functions of m points that are always the same.

    Args:
        symbols: how many functions.
        points: m.
        outputs: numbers at one point.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> function = functions.FunctionTable(16, 8)
        >>> function(torch.tensor([0, 3]), torch.zeros(2, 8, 1)).shape
        torch.Size([2, 8, 1])
    """

    def __init__(self, symbols: int, points: int, outputs: int = 1) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(symbols, points, outputs))

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        """The values of the functions `z`, with shape (B, m, outputs); `points` only counts."""
        if points.shape[1] != self.values.shape[1]:
            raise ValueError(
                f"'points' must be the {self.values.shape[1]} of the table, got {points.shape[1]}"
            )
        values: Tensor = F.embedding(z, self.values.flatten(1)).unflatten(1, self.values.shape[1:])
        return values

"""How functions are compared: what their values at a few points tell about the codes z.

There are two kinds. An `Encoding` gives a normalised q(z | f). A `Scoring` gives numbers that
compare f with candidates z_1, ..., z_k, which a softmax turns into probabilities among them.

No comparison depends on the order of the points. Notation: B functions, m points, L numbers in z.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from rlgen.checkpoint import Configurable
from rlgen.generative.functions.priors import CorrelatedNormal, Prior
from rlgen.generative.heads import Head
from rlgen.generative.model import Shape, as_shape
from rlgen.generative.nets import MLP

Function = Callable[[Tensor, Tensor], Tensor]


class Encoding(Configurable, nn.Module, ABC):
    """f at points -> q(z | f)."""

    @abstractmethod
    def forward(self, f: Tensor, points: Tensor, function: Function) -> Distribution:
        """q(z | f).

        Args:
            f: values with shape (B, m, *outputs).
            points: with shape (B, m, *inputs).
            function: the network that makes functions, (z, points) -> values (B, m, outputs).
        """


class Scoring(Configurable, nn.Module, ABC):
    """f at points, candidates z -> one number for each, large where they fit."""

    @abstractmethod
    def forward(self, f: Tensor, points: Tensor, function: Function, z: Tensor) -> Tensor:
        """Scores, unnormalised, with shape (B, k).

        Args:
            f: values with shape (B, m, *outputs).
            points: with shape (P, m, *inputs), where P is B, or 1 if all functions share them.
            function: the network that makes functions, (z, points) -> values.
            z: k candidates for each set of points, with shape (P, k, *shape of z).
        """


class Direct(Encoding):
    """q(z | f) straight from the values: an MLP of the mean of an MLP over (point, value) pairs.

    References:
        | Deep sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114

    Args:
        prior: of z, which says what posteriors look like.
        inputs: the shape of one point; an int means a vector.
        outputs: numbers at one point.
        hidden: widths of the hidden layers of both MLPs.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> prior = functions.StandardNormal(2)
        >>> function = functions.FunctionMLP(2)
        >>> direct = functions.Direct(prior)
        >>> direct(torch.randn(5, 7), torch.randn(5, 7, 1), function).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        prior: Prior,
        *,
        inputs: Shape = 1,
        outputs: int = 1,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        self.latents = prior
        self.net = _DeepSet(inputs, outputs, prior.posterior_size, hidden)

    def forward(self, f: Tensor, points: Tensor, function: Function) -> Distribution:
        del function
        return self.latents.posterior(self.net(f, points))


class Difference(Encoding):
    """q(z | f) from differences f - f_z at the points, pulled back to z by the gradient of f_z.

    From a first estimate z, each step moves to the least-squares solution of the function's
    linearisation there (a Gauss-Newton step), and the last one also gives the covariance:

        z' = z + C (J' (f - f_z) / s^2 - z),    C = (I + J' J / s^2)^-1,    J = d f_z / d z
        q(z | f) = N(z_T, K C K)

    For functions linear in z with noise of scale s this is the exact posterior. The first estimate
    is an MLP's, and it, the scale s and the diagonal K are learnt. The prior is N(0, I).

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106

    Args:
        latent: L.
        inputs: the shape of one point; an int means a vector.
        outputs: numbers at one point, as many as the function gives.
        hidden: widths of the hidden layers of the MLP.
        steps: how often the estimate is moved.
        scale: s to begin with, best that of the noise.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> function = functions.FunctionMLP(2)
        >>> difference = functions.Difference(2)
        >>> difference(torch.randn(5, 7), torch.randn(5, 7, 1), function).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent: int,
        *,
        inputs: Shape = 1,
        outputs: int = 1,
        hidden: Sequence[int] = (64, 64),
        steps: int = 1,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"'steps' must be positive, got {steps}")
        if scale <= 0:
            raise ValueError(f"'scale' must be positive, got {scale}")
        self.steps = steps
        self.start = _DeepSet(inputs, outputs, latent, hidden)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.log_widths = nn.Parameter(torch.zeros(latent))

    def forward(self, f: Tensor, points: Tensor, function: Function) -> Distribution:
        def values(z: Tensor) -> Tensor:
            out = function(z, points)
            if out[0].numel() != f[0].numel():
                raise ValueError(
                    f"differences need as many outputs as values, {f[0].numel()}, "
                    f"got {out[0].numel()}"
                )
            return out.flatten(1)

        z = self.start(f, points)
        for _ in range(self.steps):
            there, slopes = _linearise(values, z)
            z, lower = _least_squares(f.flatten(1) - there, slopes, z, self.log_scale.exp())
        return CorrelatedNormal(z, self.log_widths.exp()[:, None] * lower)


class Likelihood(Scoring):
    """Scores each candidate by log p(f | z), the likelihood of f under its function.

    With a uniform prior over symbols the softmax over all of them is the exact posterior.

    Args:
        head: the noise around a function's values; that of the model, or wider.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions, heads
        >>> function = functions.FunctionMLP(2)
        >>> likelihood = functions.Likelihood(heads.FixedNormal(0.3))
        >>> f, points = torch.randn(5, 7), torch.randn(5, 7, 1)
        >>> likelihood(f, points, function, torch.randn(5, 16, 2)).shape
        torch.Size([5, 16])
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, f: Tensor, points: Tensor, function: Function, z: Tensor) -> Tensor:
        sets, candidates = z.shape[:2]
        repeated = points[:, None].expand(sets, candidates, *points.shape[1:]).flatten(0, 1)
        outputs = function(z.flatten(0, 1), repeated).flatten(1)
        given = self.head(outputs.unflatten(0, (sets, candidates)), tuple(f.shape[1:]))
        scores: Tensor = given.log_prob(f[:, None])
        return scores


class Similarity(Scoring):
    """Scores each candidate by an inner product of features, phi(f) . psi(z).

    Args:
        prior: of z.
        inputs: the shape of one point; an int means a vector.
        outputs: numbers at one point.
        features: numbers in phi and in psi.
        hidden: widths of the hidden layers of all MLPs.

    Example:
        >>> import torch
        >>> from rlgen.generative import functions
        >>> function = functions.FunctionMLP(2)
        >>> similarity = functions.Similarity(functions.StandardNormal(2))
        >>> f, points = torch.randn(5, 7), torch.randn(5, 7, 1)
        >>> similarity(f, points, function, torch.randn(5, 16, 2)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        prior: Prior,
        *,
        inputs: Shape = 1,
        outputs: int = 1,
        features: int = 32,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"'features' must be positive, got {features}")
        self.latents = prior
        self.phi = _DeepSet(inputs, outputs, features, hidden)
        self.psi = MLP(prior.width, features, hidden)

    def forward(self, f: Tensor, points: Tensor, function: Function, z: Tensor) -> Tensor:
        del function
        of_f = self.phi(f, points.expand(len(f), *points.shape[1:]))[:, None]
        scores: Tensor = (of_f * self.psi(self.latents.features(z))).sum(-1)
        return scores


class _DeepSet(nn.Module):
    """An MLP of the mean over points of an MLP: (f, points) -> (B, size), in any order."""

    def __init__(self, inputs: Shape, outputs: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        if outputs < 1:
            raise ValueError(f"'outputs' must be positive, got {outputs}")
        if not hidden:
            raise ValueError("'hidden' must have at least one width")
        numbers = math.prod(as_shape("inputs", inputs)) + outputs
        self.each = MLP(numbers, hidden[-1], hidden)
        self.all = MLP(hidden[-1], size, hidden)

    def forward(self, f: Tensor, points: Tensor) -> Tensor:
        pairs = [part.reshape(*points.shape[:2], -1) for part in (points, f)]
        out: Tensor = self.all(F.silu(self.each(torch.cat(pairs, dim=2))).mean(1))
        return out


def _linearise(values: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """f_z with shape (B, n), and its derivative by z with shape (B, n, L)."""

    pulled = torch.func.vjp(values, z)
    there, pull = pulled[0], pulled[1]
    # pulling back is linear, and the derivative of its derivative pushes forward
    push = torch.func.vjp(lambda weights: pull(weights)[0], torch.zeros_like(there))[1]
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)

    def along(direction: Tensor) -> Tensor:
        slope: Tensor = push(direction.expand_as(z))[0]
        return slope

    return there, torch.func.vmap(along, out_dims=-1)(basis)


def _least_squares(
    difference: Tensor, slopes: Tensor, z: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The posterior of z where f = f_z + slopes (z' - z) + noise: its mean and lower factor.

    An orthogonal factor of [slopes / scale; I] needs no matrix that rounding could make indefinite.
    Its columns are taken in reverse, so that the factor of the covariance is lower triangular.
    """
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    rows = torch.cat([slopes / scale, identity.expand(len(z), -1, -1)], dim=1).flip(-1)
    wanted = torch.cat([difference / scale, -z], dim=1)[..., None]
    q, r = torch.linalg.qr(rows)
    step = torch.linalg.solve_triangular(r, q.mT @ wanted, upper=True)
    upper = torch.linalg.solve_triangular(r, identity.expand_as(r), upper=True)
    lower = upper.flip((-2, -1))
    signs = lower.diagonal(dim1=-2, dim2=-1).sgn()[..., None, :]
    return z + step.squeeze(-1).flip(-1), lower * signs

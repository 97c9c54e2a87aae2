"""Gaussian processes: a density over functions in which everything is in closed form.

Notation: X are n points with `inputs` numbers each, f the values of the function there, and
y = f + noise what is seen of them. K is the matrix of k(X_i, X_j).
"""

import math

import torch
from torch import Tensor
from torch import distributions as D

from rlgen.generative.functions.kernels import RBF, Kernel, Positive
from rlgen.generative.model import DensityModel
from rlgen.generative.support import Real


class GaussianProcess(DensityModel):
    """The values of a random function at given points are jointly Gaussian.

    p(f | X) = N(f; 0, K),  p(y | X) = N(y; 0, K + noise^2 I)

    One x is the values y at `event_shape` points, and the context is those points, so `log_prob` is
    the log marginal likelihood of one data set and training maximises it over `noise` and the
    parameters of the kernel. `posterior` conditions on values that are known. The mean is 0:
    subtract that of the data.

    Everything is computed in float64, whatever the dtype of the model, and the diagonal of K gets a
    few roundings where it has no noise: points may repeat, and noise may be tiny.

    References:
        | Gaussian processes for machine learning (Rasmussen and Williams, 2006)
        | https://gaussianprocess.org/gpml

    Args:
        event_shape: n, the number of points of one x.
        inputs: numbers in one point.
        kernel: the covariance of the function, from `kernels`; RBF() unless given.
        noise: the standard deviation of y given f, at the start.

    Example:
        >>> import torch
        >>> from rlgen.generative import GaussianProcess
        >>> model = GaussianProcess(3)
        >>> points, values = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 0.0])
        >>> model.log_prob(values[None], points[None]).shape
        torch.Size([1])
        >>> f = model.posterior(points, values, torch.tensor([[1.0], [9.0]]))
        >>> [round(v, 2) for v in f.mean.tolist()], [round(v, 2) for v in f.stddev.tolist()]
        ([0.97, -0.0], [0.1, 1.0])
    """

    def __init__(
        self,
        event_shape: int,
        *,
        inputs: int = 1,
        kernel: Kernel | None = None,
        noise: float = 0.1,
    ) -> None:
        if not isinstance(event_shape, int) or event_shape < 1:
            raise ValueError(f"'event_shape' must be a positive number of points, {event_shape=}")
        if inputs < 1:
            raise ValueError(f"'inputs' must be positive, got {inputs}")
        super().__init__(event_shape, (event_shape, inputs))
        self.inputs = inputs
        self.kernel = RBF() if kernel is None else kernel
        self.noise_scale = Positive("noise", noise)

    @property
    def noise(self) -> Tensor:
        """The standard deviation of y given f."""
        noise: Tensor = self.noise_scale().to(self.dtype)
        return noise

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log N(y; 0, K + noise^2 I), with shape (B,).

        Args:
            x: the values y, with shape (B, n).
            context: their points, with shape (B, n, inputs).
        """
        x, context = self.check(x, context)
        assert context is not None
        return self._log_marginal(x, context)

    def log_marginal(self, y: Tensor, points: Tensor) -> Tensor:
        """As `log_prob`, for any number of points and any batch shape.

        Args:
            y: values with shape (*, n).
            points: with shape (*, n, inputs); leading dimensions broadcast with those of `y`.

        Returns:
            The log marginal likelihood of each data set in nats, with shape (*).
        """
        self._check_points("points", points)
        self._check_values("y", y, points)
        return self._log_marginal(y, points)

    def distribution(self, points: Tensor, *, noisy: bool = True) -> D.MultivariateNormal:
        """p(y | X), or p(f | X) without the noise, before any values are known.

        Args:
            points: X, with shape (*, n, inputs).
            noisy: whether of y or of f.
        """
        self._check_points("points", points)
        factor = self._factor(points.double(), points.shape[-2] if noisy else 0)
        return self._normal(torch.zeros_like(factor[..., 0]), factor)

    def posterior(
        self, points: Tensor, y: Tensor, at: Tensor, *, noisy: bool = False
    ) -> D.MultivariateNormal:
        """p(f(at) | y, X): what the function is elsewhere, given its values at some points.

        Args:
            points: X, with shape (*, n, inputs).
            y: the values there, with shape (*, n).
            at: m other points, with shape (*, m, inputs); leading dimensions broadcast.
            noisy: of new noisy values there, instead of the function itself.

        Returns:
            A distribution of event shape (m,), whose `.mean`, `.stddev` and `.covariance_matrix`
            are the prediction and which draws whole functions.
        """
        self._check_points("points", points)
        self._check_points("at", at)
        self._check_values("y", y, points)
        known, new = points.shape[-2], at.shape[-2]
        batch = torch.broadcast_shapes(points.shape[:-2], at.shape[:-2], y.shape[:-1])
        parts = (p.double().expand(*batch, -1, -1) for p in (points, at))
        # the Cholesky factor of all points holds that of the posterior as its last block, and this
        # way round no two covariances that are nearly equal are ever subtracted
        factor = self._factor(torch.cat([*parts], -2), known + new if noisy else known)
        seen, mixed, left = (
            factor[..., :known, :known],
            factor[..., known:, :known],
            factor[..., known:, known:],
        )
        white = torch.linalg.solve_triangular(
            seen, y.double().expand(*batch, -1)[..., None], upper=False
        )
        return self._normal((mixed @ white)[..., 0], left)

    def _log_marginal(self, y: Tensor, points: Tensor) -> Tensor:
        factor = self._factor(points.double(), points.shape[-2])
        white = torch.linalg.solve_triangular(factor, y.double()[..., None], upper=False)
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * math.log(2.0 * math.pi) * y.shape[-1]
        log_prob = -0.5 * white[..., 0].square().sum(-1) - log_scale - constant
        rounded: Tensor = log_prob.to(self.dtype)
        return rounded

    def _factor(self, points: Tensor, noisy: int) -> Tensor:
        """The Cholesky factor of K, with noise on its first `noisy` points."""
        covariance = self.kernel(points, points)
        n = points.shape[-2]
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        jitter = 4.0 * n * torch.finfo(torch.float64).eps * diagonal.mean(-1, keepdim=True)
        first = torch.arange(n, device=points.device) < noisy
        added = torch.maximum(jitter, first * self.noise_scale().square())
        factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(added))
        # what no jitter mends (parameters that diverged) shows as NaN, which trainers refuse
        sound: Tensor = factor.masked_fill((failed > 0)[..., None, None], math.nan)
        return sound

    def _normal(self, mean: Tensor, factor: Tensor) -> D.MultivariateNormal:
        mean, factor = mean.to(self.dtype), factor.to(self.dtype)
        return D.MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        del n
        assert context is not None
        values: Tensor = self.distribution(context).sample()
        return values

    def _check_points(self, name: str, points: Tensor) -> None:
        if points.ndim < 2 or points.shape[-1] != self.inputs:
            raise ValueError(
                f"{name!r} must have shape (..., points, {self.inputs}), got {tuple(points.shape)}"
            )
        flat = points.reshape(-1, self.inputs)
        Real().check(name, flat, torch.Size([self.inputs]), self.dtype)

    def _check_values(self, name: str, y: Tensor, points: Tensor) -> None:
        if y.ndim < 1 or y.shape[-1] != points.shape[-2]:
            raise ValueError(
                f"{name!r} must hold a value for each of {points.shape[-2]} points, "
                f"got shape {tuple(y.shape)}"
            )
        Real().check(name, y.reshape(-1, y.shape[-1]), y.shape[-1:], self.dtype)

"""Are two samples from one distribution? The maximum mean discrepancy (MMD) and a test with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.seeding import mix

# the median of distances is over at most so many rows of each sample
_MEDIAN_ROWS = 1000
# statistics that differ by rounding alone are equal
_ROUNDING = 1e-10


@dataclass(frozen=True)
class PermutationTest:
    """What a two-sample test found.

    Attributes:
        statistic: of the samples as they are; here the unbiased squared MMD.
        p_value: the chance of a statistic at least as large if both have one distribution.
    """

    statistic: float
    p_value: float


def mmd2(x: Tensor, y: Tensor, *, bandwidth: float | Sequence[float] | None = None) -> Tensor:
    """The squared maximum mean discrepancy of two samples, unbiased and differentiable.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = exp(-|x - y|^2 / (2 l^2))

    Each mean is over pairs of different examples, so the estimate of equal distributions is 0 on
    average, and often negative: do not take its root. It takes memory for all pairs.

    References:
        | A kernel two-sample test (Gretton et al., 2012)
        | https://jmlr.org/papers/v13/gretton12a.html

    Args:
        x: a sample with shape (n, *event_shape), n at least 2.
        y: another with shape (m, *event_shape).
        bandwidth: l, or several, whose kernels are averaged. None takes the median distance of
            the pooled sample, through which no gradient flows.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> from rlgen.generative import metrics
        >>> x, y = torch.randn(500, 2), torch.randn(400, 2)
        >>> bool(metrics.mmd2(x, y + 1.0) > metrics.mmd2(x, y))
        True
    """
    x, y = _as_rows(x, y)
    widths = _widths(x, y, bandwidth)
    within = [_off_diagonal_mean(rbf(squared_distances(s, s), widths)) for s in (x, y)]
    return within[0] + within[1] - 2.0 * rbf(squared_distances(x, y), widths).mean()


@torch.no_grad()
def mmd_test(
    x: Tensor,
    y: Tensor,
    *,
    permutations: int = 500,
    bandwidth: float | Sequence[float] | None = None,
    seed: int = 0,
) -> PermutationTest:
    """Test whether two samples have one distribution; exact at every size of the samples.

    If they have, every division of the pooled sample is as likely as the given one:
        p = (1 + divisions with an MMD^2 at least that of the given one) / (1 + permutations)
    Kernel and bandwidth are those of the pooled sample and the same for all divisions.

    References:
        | A kernel two-sample test (Gretton et al., 2012)
        | https://jmlr.org/papers/v13/gretton12a.html
        | Permutation p-values should never be zero (Phipson and Smyth, 2010)

    Args:
        x: a sample with shape (n, *event_shape), n at least 2.
        y: another with shape (m, *event_shape).
        permutations: random divisions to compare with.
        bandwidth: as in `mmd2`.
        seed: of the divisions.

    Example:
        >>> import torch
        >>> from rlgen.generative import metrics
        >>> metrics.mmd_test(torch.randn(100, 1), torch.randn(100, 1) + 2.0).p_value < 0.01
        True
    """
    if permutations < 1:
        raise ValueError(f"'permutations' must be positive, got {permutations}")
    x, y = _as_rows(x, y)
    n, m = len(x), len(y)
    pooled = torch.cat([x, y]).double()
    widths = _widths(pooled[:n], pooled[n:], bandwidth)
    kernel = rbf(squared_distances(pooled, pooled), widths).fill_diagonal_(0.0)
    # mixed: data drawn with the same seed must not decide the divisions
    generator = torch.Generator().manual_seed(mix(seed, n, m))
    order = torch.rand(permutations, n + m, generator=generator).argsort(dim=1)
    order = torch.cat([torch.arange(n + m)[None], order]).to(x.device)
    first = torch.zeros_like(order, dtype=kernel.dtype).scatter_(1, order[:, :n], 1.0)
    rows = first @ kernel
    xx, xy = (rows * first).sum(1), (rows * (1.0 - first)).sum(1)
    yy = kernel.sum() - xx - 2.0 * xy
    statistics = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m)
    as_large = int((statistics[1:] >= statistics[0] - _ROUNDING).sum())
    return PermutationTest(float(statistics[0]), (1 + as_large) / (1 + permutations))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 with shape (n, m), by differences: exact far from the origin too."""
    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square()


def rbf(squared: Tensor, widths: Tensor) -> Tensor:
    """The mean over `widths` (K,) of exp(-squared / (2 l^2)), in the shape of `squared`."""
    kernel = torch.exp(-squared / (2.0 * widths[0] ** 2))
    for width in widths[1:]:
        kernel = kernel + torch.exp(-squared / (2.0 * width**2))
    return kernel / len(widths)


@torch.no_grad()
def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """The median distance between different rows of the pooled sample, and never 0.

    Of a large sample, evenly spaced rows stand for all. Where most rows are equal it is the mean
    distance instead, and 1 where all are.
    """
    steps = (max(1, len(s) // _MEDIAN_ROWS) for s in (x, y))
    distances = torch.pdist(torch.cat([s[::step] for s, step in zip((x, y), steps, strict=True)]))
    middle, mean = distances.median(), distances.mean()
    middle = torch.where(middle > 0, middle, mean)
    return torch.where(middle > 0, middle, torch.ones_like(middle))


def _as_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (n, D) floats."""
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim < 1 or len(sample) < 2:
            raise ValueError(f"{name!r} must hold at least 2 examples, got {tuple(sample.shape)}")
        if not torch.isfinite(sample).all():
            raise ValueError(f"{name!r} holds a value that is not finite (NaN or infinity)")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"'x' and 'y' must hold events of one shape, "
            f"got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}"
        )
    dtype = torch.promote_types(x.dtype, y.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return x.reshape(len(x), -1).to(dtype), y.reshape(len(y), -1).to(dtype)


def _widths(x: Tensor, y: Tensor, bandwidth: float | Sequence[float] | None) -> Tensor:
    if bandwidth is None:
        return median_distance(x, y).reshape(1)
    widths = [bandwidth] if isinstance(bandwidth, int | float) else list(bandwidth)
    if not widths or min(widths) <= 0:
        raise ValueError(f"'bandwidth' must be positive, got {bandwidth}")
    return torch.tensor(widths, dtype=x.dtype, device=x.device)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))

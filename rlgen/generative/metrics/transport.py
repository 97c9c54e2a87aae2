"""Optimal transport: how far the mass of one distribution must move to become another."""

from dataclasses import dataclass

import torch
from torch import Tensor

# iterations at each temperature on the way to the last one, and between checks of convergence
_ROUND = 20


@dataclass(frozen=True)
class Transport:
    """A plan that moves a to b.

    Attributes:
        cost: sum of plan * cost, without the entropy, so never below the optimum. Its gradient
            with respect to the cost matrix is the plan.
        plan: mass from each i to each j with shape (n, m). It sums to a and b up to rounding.
        iterations: updates of both potentials.
        converged: whether the regularised problem was solved to `tolerance`.
    """

    cost: Tensor
    plan: Tensor
    iterations: int
    converged: bool


def wasserstein1(x: Tensor, y: Tensor) -> Tensor:
    """The exact Wasserstein-1 distance of two samples of numbers.

    W_1 = integral of |F(t) - G(t)| dt, with the empirical distribution functions F and G

    References:
        | Optimal transport: old and new (Villani, 2009), section 6

    Args:
        x: a sample with shape (n,).
        y: another with shape (m,).

    Returns:
        A scalar, differentiable in both.

    Example:
        >>> import torch
        >>> from rlgen.generative import metrics
        >>> metrics.wasserstein1(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0, 1.0, 4.0]))
        tensor(2.)
    """
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim != 1 or len(sample) == 0:
            raise ValueError(
                f"{name!r} must have shape (n,), got {tuple(sample.shape)}; "
                "for vectors, `sinkhorn` takes a matrix of costs"
            )
    x_sorted, y_sorted = x.double().sort().values, y.double().sort().values
    pooled = torch.cat([x_sorted, y_sorted]).sort().values
    f, g = (
        torch.searchsorted(s.detach(), pooled[:-1].detach(), right=True).double() / len(s)
        for s in (x_sorted, y_sorted)
    )
    distance: Tensor = (pooled.diff() * (f - g).abs()).sum()
    return distance.to(_floating(torch.promote_types(x.dtype, y.dtype)))


def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float = 1e-3,
    tolerance: float = 1e-5,
    iterations: int = 20_000,
) -> Transport:
    """Optimal transport between two weighted sets, by Sinkhorn's algorithm on logarithms.

    P = argmin over plans of <P, C> - epsilon H(P) = exp((f_i + g_j - C_ij) / epsilon)

    The potentials f and g of a and b are those of one row and one column sum in turn, at a
    temperature that falls from the range of C to epsilon. What the sums of P then lack is moved
    where it is missing, so the plan is one from a to b however early the iterations end.
    It computes in float64.

    References:
        | Sinkhorn distances: lightspeed computation of optimal transport (Cuturi, 2013)
        | https://arxiv.org/abs/1306.0895
        | Near-linear time approximation algorithms for optimal transport via Sinkhorn iteration
        | (Altschuler et al., 2017), https://arxiv.org/abs/1705.09634

    Args:
        cost: C with shape (n, m): of moving one unit of mass from i to j.
        a: mass at each i with shape (n,), summing to 1; None means 1 / n each.
        b: mass at each j with shape (m,), summing to 1; None means 1 / m each.
        epsilon: the last temperature, in units of the cost. Small ones are exact and slow: far
            below a hundredth of the usual cost, `iterations` end it before it has converged, with
            a plan that is close.
        tolerance: converged when the row sums of P are this close to a, in all.
        iterations: at most so many.

    Example:
        >>> import torch
        >>> from rlgen.generative import metrics
        >>> x, y = torch.rand(20, 2), torch.rand(30, 2)
        >>> transport = metrics.sinkhorn(torch.cdist(x, y), epsilon=0.01)
        >>> transport.plan.shape, transport.converged
        (torch.Size([20, 30]), True)
    """
    if cost.ndim != 2 or cost.numel() == 0:
        raise ValueError(f"'cost' must have shape (n, m), got {tuple(cost.shape)}")
    if not torch.isfinite(cost).all():
        raise ValueError("'cost' holds a value that is not finite (NaN or infinity)")
    for name, value in (("epsilon", epsilon), ("tolerance", tolerance), ("iterations", iterations)):
        if value <= 0:
            raise ValueError(f"{name!r} must be positive, got {value}")
    with torch.no_grad():
        wide = cost.double()
        mass_a = _masses("a", a, cost.shape[0], wide)
        mass_b = _masses("b", b, cost.shape[1], wide)
        plan, used, error = _solve(wide, mass_a, mass_b, epsilon, tolerance, iterations)
        plan = _rounded(plan, mass_a, mass_b).to(_floating(cost.dtype))
    return Transport((plan * cost).sum(), plan, used, error <= tolerance)


def _floating(dtype: torch.dtype) -> torch.dtype:
    """Whole numbers give fractions."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _masses(name: str, given: Tensor | None, n: int, like: Tensor) -> Tensor:
    if given is None:
        return like.new_full((n,), 1.0 / n)
    if given.shape != (n,) or not (given >= 0).all() or abs(float(given.sum()) - 1.0) > 1e-4:
        raise ValueError(f"{name!r} must be {n} numbers of at least 0 that sum to 1, got {given}")
    return given.to(like) / given.to(like).sum()


def _solve(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, tolerance: float, iterations: int
) -> tuple[Tensor, int, float]:
    """The plan, the iterations it took, and how much its rows miss a by, in all."""
    log_a, log_b = a.log(), b.log()
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    temperature = max(epsilon, float(cost.max() - cost.min()))
    used = 0
    while True:
        for _ in range(min(_ROUND, iterations - used)):
            f = temperature * (log_a - torch.logsumexp((g - cost) / temperature, 1))
            g = temperature * (log_b - torch.logsumexp((f[:, None] - cost) / temperature, 0))
            used += 1
        plan = torch.exp((f[:, None] + g - cost) / temperature)
        error = float((plan.sum(1) - a).abs().sum())
        if used >= iterations or (temperature == epsilon and error <= tolerance):
            return plan, used, error if temperature == epsilon else float("inf")
        temperature = max(epsilon, 0.5 * temperature)


def _rounded(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The nearby plan whose sums are a and b: shrink what is too much, then add what is missing."""
    tiny = torch.finfo(plan.dtype).tiny
    plan = plan * (a / plan.sum(1).clamp_min(tiny)).clamp_max(1.0)[:, None]
    plan = plan * (b / plan.sum(0).clamp_min(tiny)).clamp_max(1.0)
    missing_a, missing_b = (a - plan.sum(1)).relu(), (b - plan.sum(0)).relu()
    return plan + missing_a[:, None] * missing_b / missing_a.sum().clamp_min(tiny)

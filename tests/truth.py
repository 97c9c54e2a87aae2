"""Independent references: enumeration, quadrature, closed forms, scipy.

Nothing here asks the code under test for an answer, save for the numbers being judged.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.distributions import Distribution

Array = NDArray[np.float64]


def array(x: Tensor) -> Array:
    out: Array = x.detach().double().cpu().numpy()
    return out


def number(x: Tensor) -> float:
    return float(x.detach())


def symbols(dims: int, count: int = 2) -> Tensor:
    """All count ** dims sequences, in counting order, with shape (count ** dims, dims)."""
    return torch.tensor(list(itertools.product(range(count), repeat=dims)))


def randomise(model: nn.Module, scale: float = 0.3, seed: int = 0) -> None:
    """Add noise to every parameter, so that no identity holds only where training begins."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter.dtype))


def entropy(p: Array) -> float:
    return float(stats.entropy(p))


def kl(p: Array, q: Array) -> float:
    """KL(p || q) in nats of two tables that each sum to one."""
    assert abs(p.sum() - 1) < 1e-6 and abs(q.sum() - 1) < 1e-4
    return float(stats.entropy(p, q / q.sum()))


def frequencies(x: Tensor, count: int = 2) -> Array:
    """How often each sequence of `symbols` occurs in x, relative to all."""
    flat = x.flatten(1).long()
    weights = count ** torch.arange(flat.shape[1] - 1, -1, -1)
    table = torch.bincount((flat * weights).sum(1), minlength=count ** flat.shape[1])
    return array(table) / len(flat)


def total_variation(p: Array, q: Array) -> float:
    return 0.5 * float(np.abs(p - q).sum())


def sampling_floor(p: Array, n: int, repeats: int = 20) -> float:
    """The total variation that `n` perfect samples of p show on average."""
    generator = np.random.default_rng(0)
    draws = generator.multinomial(n, p / p.sum(), size=repeats) / n
    return float(np.mean([total_variation(p, draw) for draw in draws]))


def rbm_table(dims: int, hidden: int = 10, seed: int = 0) -> Array:
    """All probabilities of a random restricted Boltzmann machine, hidden units summed out.

    Its biases balance its weights, so that its bits depend on one another and not on them.
    """
    generator = np.random.default_rng(seed)
    weights = 2 * generator.normal(size=(dims, hidden))
    visible, bias = -0.5 * weights.sum(1), -0.5 * weights.sum(0)
    visible, bias = visible + generator.normal(size=dims), bias + generator.normal(size=hidden)
    v = symbols(dims).numpy()
    energy = v @ visible + np.logaddexp(0, v @ weights + bias).sum(1)
    table: Array = np.exp(energy - logsumexp(energy))
    return table


def draw(table: Array, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of `n` draws from a table."""
    chosen = np.random.default_rng(seed).choice(len(table), size=n, p=table / table.sum())
    return np.asarray(chosen, dtype=np.int64)


def inverse(f: Callable[[Tensor], Tensor], value: float) -> float:
    """Where a rising function of one number has `value`."""

    def gap(raw: float) -> float:
        return float(f(torch.tensor(raw, dtype=torch.float64))) - value

    return float(optimize.brentq(gap, -50.0, 50.0, xtol=1e-14))


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian of f at one x, both flattened: entry (i, j) is d f_i / d x_j."""
    out: Tensor = torch.autograd.functional.jacobian(lambda row: f(row[None])[0].flatten(), x)
    return out.reshape(len(out), -1)


def log_det(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log |det df/dx| of each example in a batch, through autograd."""
    return torch.stack([torch.linalg.slogdet(jacobian(f, row)).logabsdet for row in x])


def influence(
    conditionals: Callable[[Tensor], Distribution], x: Tensor, values: Sequence[Tensor]
) -> Tensor:
    """Which input changes which conditional, found by replacing one input at a time.

    Args:
        conditionals: x -> the distribution of every scalar, batch shape (B, *event_shape).
        x: data with shape (B, *event_shape).
        values: other data of the same shape, whose entries replace those of x.

    Returns:
        The largest change of any log probability: (D, D), row = conditional, column = input.
    """
    dims = x[0].numel()
    with torch.no_grad():
        before = conditionals(x).log_prob(x).flatten(1)
        columns = []
        for j in range(dims):
            change = torch.zeros(dims)
            for other in values:
                moved = x.flatten(1).clone()
                moved[:, j] = other.flatten(1)[:, j]
                after = conditionals(moved.reshape(x.shape)).log_prob(x).flatten(1)
                change = torch.maximum(change, (after - before).abs().amax(0).float())
            columns.append(change)
    return torch.stack(columns, dim=1)


BANANA_ENTROPY = 0.5 * math.log(2 * math.pi * math.e) * 2 + math.log(0.5)  # 2.1447


def banana(n: int, seed: int = 0) -> Tensor:
    """x1 ~ N(0, 1), x2 | x1 ~ N(x1 ** 2, 0.5 ** 2)."""
    noise = np.random.default_rng(seed).normal(size=(n, 2))
    x = np.stack([noise[:, 0], noise[:, 0] ** 2 + 0.5 * noise[:, 1]], axis=1)
    return torch.tensor(x, dtype=torch.float32)


def banana_log_prob(x: Tensor) -> Array:
    first, second = array(x).T
    out: Array = stats.norm.logpdf(first) + stats.norm.logpdf(second, first**2, 0.5)
    return out


def banana_nll(log_prob: Callable[[Tensor], Tensor], n: int = 200_000, seed: int = 99) -> float:
    """The expected NLL of a density under the banana: its entropy + KL, by fresh samples.

    The samples estimate the KL alone, whose terms vary far less than log densities do.
    """
    x = banana(n, seed)
    with torch.no_grad():
        modelled = np.concatenate([array(log_prob(part)) for part in x.split(20_000)])
    return BANANA_ENTROPY + float(np.mean(banana_log_prob(x) - modelled))


def plane_integral(
    log_prob: Callable[[Tensor], Tensor],
    centre: Tensor,
    half_width: float,
    nodes: int = 400,
    dtype: torch.dtype = torch.float64,
) -> float:
    """The integral of a density over a square by the midpoint rule."""
    step = 2 * half_width / nodes
    axis = -half_width + step * (torch.arange(nodes, dtype=dtype) + 0.5)
    grid = torch.cartesian_prod(axis, axis) + centre.to(dtype)
    with torch.no_grad():
        total = sum(float(log_prob(part).double().exp().sum()) for part in grid.split(20_000))
    return total * step**2


def ppca(x: Array, latent: int) -> tuple[Array, Array, float]:
    """Probabilistic PCA by maximum likelihood (Tipping and Bishop, 1999): mean, W, variance.

    W = U (L - variance I)^(1/2) without a rotation, so the posterior covariance is diagonal.
    """
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = float(values[latent:].mean())
    loadings: Array = vectors[:, :latent] * np.sqrt(values[:latent] - variance)
    return mean, loadings, variance


def linear_gaussian_log_prob(x: Array, mean: Array, loadings: Array, variance: float) -> Array:
    """log p(x) where x = mean + W z + noise, z ~ N(0, I), noise ~ N(0, variance I)."""
    covariance = loadings @ loadings.T + variance * np.eye(len(mean))
    out: Array = np.atleast_1d(stats.multivariate_normal.logpdf(x, mean, covariance))
    return out


class MarkovChain:
    """A stationary order-2 chain over `count` symbols: p(c | a, b) = transition[a, b, c]."""

    def __init__(self, count: int = 3, concentration: float = 0.5, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.count = count
        self.transition = generator.dirichlet(np.full(count, concentration), size=(count, count))
        pairs = np.full((count, count), 1 / count**2)
        for _ in range(10_000):
            pairs = np.einsum("ab,abc->bc", pairs, self.transition)
        self.pairs = pairs  # p(x_t = b, x_{t+1} = c)

    @property
    def rate(self) -> float:
        """The entropy rate, in nats per symbol."""
        conditional = -(self.transition * np.log(self.transition)).sum(-1)
        return float((self.pairs * conditional).sum())

    def sample(self, n: int, length: int, seed: int = 0) -> Tensor:
        generator = np.random.default_rng(seed)
        first = generator.choice(self.count**2, size=n, p=self.pairs.ravel() / self.pairs.sum())
        x = np.zeros((n, length), dtype=np.int64)
        x[:, 0], x[:, 1] = first // self.count, first % self.count
        for t in range(2, length):
            cumulative = self.transition[x[:, t - 2], x[:, t - 1]].cumsum(-1)
            x[:, t] = (generator.random((n, 1)) > cumulative[:, :-1]).sum(1)
        return torch.tensor(x)

    def conditional_log_probs(self, x: Tensor) -> Array:
        """log p(x_t | x_{t-2}, x_{t-1}) for t = 2, ..., with shape (B, T - 2)."""
        s = x.numpy()
        out: Array = np.log(self.transition[s[:, :-2], s[:, 1:-1], s[:, 2:]])
        return out


def within(estimates: Array, exact: float, errors: float = 3.0) -> bool:
    """Whether the mean of independent estimates is the exact value, up to standard errors."""
    error = estimates.std(ddof=1) / math.sqrt(len(estimates))
    return bool(abs(estimates.mean() - exact) <= errors * error)


def gaussian_kl(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> float:
    """KL(N(mean_p, cov_p) || N(mean_q, cov_q))."""
    inverse = np.linalg.inv(cov_q)
    gap = mean_q - mean_p
    logs = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    trace = np.trace(inverse @ cov_p) + gap @ inverse @ gap
    return float(0.5 * (trace - len(gap) + logs))


def as_float(x: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.as_tensor(np.asarray(x), dtype=dtype)

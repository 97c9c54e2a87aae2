"""Losses that fit a score, the gradient of a log density, to samples of that density.

Each takes any function `score`, (B, *event_shape) -> the same shape, and gives (B,) numbers whose
mean is 1/2 E |score(x) - grad log p(x)|^2 up to a constant that the score does not enter.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rlgen.generative.diffusion.ode import divergence, random_probe

ScoreFunction = Callable[[Tensor], Tensor]


def implicit(score: ScoreFunction, x: Tensor) -> Tensor:
    """1/2 |score(x)|^2 + tr d score / dx, exactly: one backward pass for each number in x.

    References:
        | Estimation of non-normalized statistical models by score matching (Hyvärinen, 2005)
        | https://jmlr.org/papers/v6/hyvarinen05a.html

    Args:
        score: of each example by itself.
        x: with shape (B, *event_shape).

    Returns:
        One number for each example, with shape (B,).

    Example:
        >>> import torch
        >>> from rlgen.generative.diffusion import score_matching
        >>> score_matching.implicit(lambda x: -x, torch.ones(1, 2))
        tensor([-1.])
    """
    out, trace = divergence(score, x)
    return 0.5 * _squared_norm(out) + trace


def sliced(score: ScoreFunction, x: Tensor) -> Tensor:
    """1/2 |score(x)|^2 + v' (d score / dx) v with random signs v: the mean of it is `implicit`.

    References:
        | Sliced score matching: a scalable approach to density and score estimation
        | (Song et al., 2019), https://arxiv.org/abs/1905.07088

    Args:
        score: of each example by itself.
        x: with shape (B, *event_shape).

    Returns:
        One number for each example, with shape (B,).

    Example:
        >>> import torch
        >>> from rlgen.generative.diffusion import score_matching
        >>> score_matching.sliced(lambda x: -x, torch.ones(1, 2))
        tensor([-1.])
    """
    out, trace = divergence(score, x, random_probe(x))
    return 0.5 * _squared_norm(out) + trace


def denoising(score: ScoreFunction, x: Tensor, sigma: float | Tensor) -> Tensor:
    """1/2 |score(x + sigma eps) + eps / sigma|^2.

    Its optimum is the score of the NOISED data, p convolved with N(0, sigma^2 I), and not that of
    p: for N(0, 1) it is -x / (1 + sigma^2).

    References:
        | A connection between score matching and denoising autoencoders (Vincent, 2011)
        | https://doi.org/10.1162/NECO_a_00142

    Args:
        score: of each example by itself.
        x: with shape (B, *event_shape).
        sigma: one for all, or a tensor that broadcasts with x.

    Returns:
        One number for each example, with shape (B,).

    Example:
        >>> import torch
        >>> from rlgen.generative.diffusion import score_matching
        >>> score_matching.denoising(lambda x: -x / 2, torch.randn(8, 2), 1.0).shape
        torch.Size([8])
    """
    eps = torch.randn_like(x)
    return 0.5 * _squared_norm(score(x + sigma * eps) + eps / sigma)


def _squared_norm(x: Tensor) -> Tensor:
    return x.square().reshape(x.shape[0], -1).sum(1)

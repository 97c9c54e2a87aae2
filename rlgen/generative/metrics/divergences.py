"""Divergences of probability tables, in nats."""

import torch
from torch import Tensor


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats of two probability tables over the last dimension; 0 log 0 is 0."""
    nats: Tensor = torch.special.xlogy(p, p) - torch.special.xlogy(p, q)
    return nats.sum(-1)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence in nats, at most log 2."""
    middle = 0.5 * (p + q)
    return 0.5 * (kl_divergence(p, middle) + kl_divergence(q, middle))


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of two probability tables over the last dimension."""
    return 0.5 * (p - q).abs().sum(-1)

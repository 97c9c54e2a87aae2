"""Clusters of data, where mixtures begin.

References:
    | k-means++: the advantages of careful seeding (Arthur and Vassilvitskii, 2007)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# how often the centres move
ROUNDS = 10


def k_means(x: Tensor, clusters: int) -> Tensor:
    """The cluster of each row of `x` (B, D): k-means++ and a few of Lloyd's iterations."""
    cluster = nearest_seed(x, clusters, lambda x, seeds: torch.cdist(x, seeds).square())
    for _ in range(ROUNDS):
        members = F.one_hot(cluster, clusters).to(x.dtype)
        centres = members.mT @ x / members.sum(0).clamp_min(1.0).unsqueeze(-1)
        cluster = torch.cdist(x, centres).argmin(-1)
    return cluster


def nearest_seed(x: Tensor, seeds: int, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For each row of `x` the nearest of the seeds that k-means++ picks among the rows.

    A row is picked with a probability proportional to its distance from the seeds so far. Of a few
    such candidates, the one becomes a seed that leaves the least distance in all.

    Args:
        x: with shape (B, D).
        seeds: how many.
        distance: of all rows (B, D) from some (m, D), with shape (B, m).

    Returns:
        Numbers from 0 to `seeds` - 1 with shape (B,).
    """
    candidates = 2 + int(math.log(seeds))
    nearest = distance(x, x[torch.randint(len(x), (1,), device=x.device)]).squeeze(1)
    cluster = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for number in range(1, seeds):
        # where all rows coincide with seeds, any row will do
        chances = torch.where(nearest.sum() > 0, nearest, torch.ones_like(nearest))
        drawn = torch.multinomial(chances, candidates, replacement=True)
        away = distance(x, x[drawn])
        left = torch.minimum(nearest.unsqueeze(1), away).sum(0)
        chosen = away.index_select(1, left.argmin().reshape(1)).squeeze(1)
        cluster = torch.where(chosen < nearest, number, cluster)
        nearest = torch.minimum(nearest, chosen)
    return cluster

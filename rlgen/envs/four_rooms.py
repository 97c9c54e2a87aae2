"""The classic Four-Rooms."""

import torch

from rlgen.envs import grid
from rlgen.envs.tabular import Goal, Observation, SlipRule, TabularGrid

# The eastern rooms are shifted: their wall is a row lower than that of the western ones.
MAP = """
#############
#     #     #
#     #     #
#           #
#     #     #
#     #     #
## ####     #
#     ### ###
#     #     #
#     #     #
#           #
#     #     #
#############
"""


class FourRooms(TabularGrid):
    """Four rooms and four hallways: 13 x 13 with 104 free cells.

    References:
        | Between MDPs and semi-MDPs: a framework for temporal abstraction in reinforcement learning
        | (Sutton, Precup and Singh, 1999)

    Args:
        num_envs: how many copies.
        device: where they live.
        observation: "onehot", "xy" or "image"; see `TabularGrid`.
        slip: the probability that a move goes wrong; the paper has 1/3.
        slip_rule: how it goes wrong, in the paper or in the code of option-critic.
        start: a cell, or None for any, drawn for each episode.
        goal: a cell, "random" or "none"; None is the corner opposite of (1, 1).
        max_steps: when an episode is truncated.
        seed: of the first reset.

    Example:
        >>> import torch
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(8, start=(1, 1), seed=0)
        >>> world.reset().shape
        torch.Size([8, 104])
        >>> step = world.step(torch.full((8,), 3))
        >>> world.shortest_paths()
        2000
    """

    def __init__(
        self,
        num_envs: int,
        *,
        device: str | torch.device = "cpu",
        observation: Observation = "onehot",
        slip: float = 0.0,
        slip_rule: SlipRule = "paper",
        start: grid.Cell | None = None,
        goal: Goal | None = None,
        max_steps: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            num_envs,
            grid.parse(MAP),
            device=device,
            observation=observation,
            slip=slip,
            slip_rule=slip_rule,
            start=start,
            goal=(11, 11) if goal is None else goal,
            max_steps=max_steps,
            seed=seed,
        )

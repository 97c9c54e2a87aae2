"""Worlds that are seen in parts, as the tensors that networks take."""

from gymnasium import spaces
from torch import Tensor

from rlgen.agents.transitions import flat, flat_space
from rlgen.checkpoint import Stateful
from rlgen.envs.world import Step, World


class FlatWorld:
    """A world whose observations, dictionaries of tensors, are made `flat`; all else is its own.

    Args:
        world: with a Dict of observations.

    Example:
        >>> import gymnasium, minigrid
        >>> from gymnasium.vector import AutoresetMode
        >>> from rlgen.agents.flat_world import FlatWorld
        >>> from rlgen.envs import adapters
        >>> same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
        >>> venv = gymnasium.make_vec(
        ...     "MiniGrid-Empty-5x5-v0", 2, vectorization_mode="sync", vector_kwargs=same_step
        ... )
        >>> FlatWorld(adapters.from_gymnasium(venv)).reset(seed=0).shape  # direction and image
        torch.Size([2, 148])
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.num_envs, self.device = world.num_envs, world.device
        self.observation_space = flat_space(world.observation_space)
        self.action_space = world.action_space
        if isinstance(world, Stateful):  # only then is this one, too
            self.state_dict = world.state_dict
            self.load_state_dict = world.load_state_dict

    def reset(self, seed: int | None = None) -> Tensor:
        """Start new episodes in all copies."""
        return flat(self.world.reset(seed))

    def step(self, action: Tensor) -> Step:
        """One step of all copies."""
        step = self.world.step(action)
        return Step(
            flat(step.obs),
            step.reward,
            step.terminated,
            step.truncated,
            lambda: flat(step.final_obs),
        )


def flattened(world: World) -> World:
    """`world`, or if it is seen in parts, the same world seen as one tensor."""
    if isinstance(world.observation_space, spaces.Dict):
        return FlatWorld(world)
    return world

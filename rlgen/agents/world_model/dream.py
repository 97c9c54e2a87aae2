"""A world that the model imagines. Whatever learns in a world learns in this one unchanged."""

from dataclasses import dataclass

import gymnasium
import torch
from torch import Tensor

from rlgen.agents.world_model.memory import Memory
from rlgen.agents.world_model.vision import Vision
from rlgen.agents.world_model.watching import features, features_space
from rlgen.envs.draws import Draws
from rlgen.envs.world import State, TensorWorld
from rlgen.seeding import drawing_from, repeating

_TRIED = 64  # rows that show whether noise is shared
_START = 0  # the stream of randomness that chooses where an episode begins


@dataclass(frozen=True)
class Dreamt(State):
    """The latent of each copy (n, latent), and the memory before it, (n, size)."""

    z: Tensor
    memory: Tensor


class Dream(TensorWorld[Dreamt]):
    """Episodes out of V and M alone: M draws the next latent, the reward and the end.

    What is observed is the latent's features and M's summary of the past, as `Watched` shows of a
    real world: an agent that learnt here acts there. A seed repeats a whole dream, with all its
    copies; a copy's own seed only says where it begins.

    Args:
        vision: V.
        memory: M.
        starts: latents where episodes begin and the memory's states before them; see
            `Latents.starts`.
        num_envs: copies.
        temperature: of M's latents: below 1 the dream is surer than M of what comes next, above 1
            less sure. Given that, rewards and ends are foreseen as they are.
        remembering: show M's summary; without it the latent alone is seen.
        max_steps: when an episode is truncated.
        groups: that many groups of copies, one after the other, meet the same noise in every step,
            so that what differs between them is what they do.
        seed: of the first reset.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Dream, Memory, Vision
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(8, size=4)
        >>> vision = Vision.of(world.observation_space, symbols=16)
        >>> memory = Memory.of(1, symbols=16, actions=4, width=32)
        >>> starts = vision.encode(world.reset()), memory.initial_state(8)
        >>> dream = Dream(vision, memory, starts, num_envs=5, seed=0)
        >>> dream.reset().shape  # 16 numbers for the token, 32 for the memory
        torch.Size([5, 48])
        >>> dream.step(torch.zeros(5, dtype=torch.long)).reward.shape
        torch.Size([5])
    """

    def __init__(
        self,
        vision: Vision,
        memory: Memory,
        starts: tuple[Tensor, Tensor],
        *,
        num_envs: int = 64,
        temperature: float = 1.0,
        remembering: bool = True,
        max_steps: int = 100,
        groups: int = 1,
        seed: int | None = None,
    ) -> None:
        if groups < 1 or num_envs % groups:
            raise ValueError(f"'groups' must divide the {num_envs} copies evenly, got {groups}")
        z, before = starts
        if (
            len(z) < 1
            or z.shape[1:] != vision.latent_shape
            or before.shape != memory.initial_state(len(z)).shape
        ):
            raise ValueError(
                f"'starts' must be latents (n, {vision.latent_shape.numel()}) and as many states "
                f"of the memory, got {tuple(z.shape)} and {tuple(before.shape)}"
            )
        self.vision, self.memory = vision, memory.at_temperature(temperature)
        self.starts = starts
        self._check_sharing(groups)
        self.temperature, self.remembering, self.groups = temperature, remembering, groups
        super().__init__(
            num_envs,
            device=starts[0].device,
            observation_space=features_space(vision, memory, remembering),
            action_space=gymnasium.spaces.Discrete(memory.actions),
            max_steps=max_steps,
            seed=seed,
        )

    @torch.no_grad()
    def _check_sharing(self, groups: int) -> None:
        """Rows that are alike must be foreseen alike in all groups."""
        if groups == 1:
            return
        z, before = (part[:1].expand(2 * _TRIED, -1) for part in self.starts)
        alike = self.memory.step(z, z.new_zeros(len(z), dtype=torch.long), before)
        with drawing_from(0), repeating(2):
            z = self.memory.foresee(alike).z
        if not torch.equal(z[:_TRIED], z[_TRIED:]):
            density = type(self.memory.density).__name__
            raise TypeError(
                f"'groups' share noise, and {density} draws its own; MADE, NADE and "
                "MixtureDensityNetwork with the heads Categorical, Normal or MixtureOfNormals share"
            )

    def frames(self) -> Tensor:
        """What each copy sees now, as the observation that the world would have shown."""
        return self.vision.decode(self.state.z)

    def render(self) -> Tensor:
        """What each copy sees now: uint8 pictures with shape (num_envs, height, width, 3)."""
        frames = self.frames()
        if frames.ndim != 4 or frames.dtype != torch.uint8 or frames.shape[1] != 3:
            raise ValueError(f"there is no picture of observations {tuple(frames.shape[1:])}")
        return frames.movedim(1, -1)

    def _initial(self, draws: Draws) -> Dreamt:
        z, memory = self.starts
        chosen = draws.integers(_START, len(z))
        return Dreamt(z[chosen], memory[chosen])

    @torch.no_grad()
    def _transition(
        self, state: Dreamt, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[Dreamt, Tensor, Tensor]:
        del time
        memory = self.memory.step(state.z, action, state.memory)
        # of all keys: that of a copy which waits for the others stays the same
        with drawing_from(int(draws.key.sum())), repeating(self.groups):
            ahead = self.memory.foresee(memory)
        return Dreamt(ahead.z, memory), ahead.reward, ahead.terminated

    def _observe(self, state: Dreamt) -> Tensor:
        return features(self.vision, self.memory, state.z, state.memory, self.remembering)

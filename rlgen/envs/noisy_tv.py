"""A screen of fresh random bits, added to any world: what curiosity must not fall for."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.envs import grid
from rlgen.envs.draws import Draws
from rlgen.envs.minigrid.layouts import BORDER, place
from rlgen.envs.minigrid.world import MiniGrid
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import State, TensorWorld

Kind = Literal["cell", "action"]

_NOISE = 1000  # a stream of randomness that no world uses
_MOST_BITS = 63
_STRIP = 16  # pixels in the height of the screen below a picture


@dataclass(frozen=True)
class Watched(State):
    """The state of the world inside and what is on the screen.

    Attributes:
        inner: the state of the world inside.
        screen: the bits of the screen as one word, as int64 with shape (n,).
    """

    inner: Any
    screen: Tensor

    def where(self, chosen: Tensor, other: Any) -> "Watched":
        screen = torch.where(chosen, other.screen, self.screen)
        return Watched(self.inner.where(chosen, other.inner), screen)

    def take(self, index: Tensor) -> "Watched":
        return Watched(self.inner.take(index), self.screen.index_select(0, index))

    def put(self, index: Tensor, other: Any) -> "Watched":
        screen = self.screen.index_copy(0, index, other.screen)
        return Watched(self.inner.put(index, other.inner), screen)


class NoisyTV(TensorWorld[Watched]):
    """Any tensor world with a screen of random bits in its observation.

    Every copy, episode and step has bits of its own, so they cannot be learnt; and the same seed
    gives the same bits again. Task, rewards and time limit are those of the world inside, whose
    copies live the same lives as without a screen.

    The bits are appended to vectors. Images get one more channel, on the first axis in tabular
    worlds and on the last one elsewhere. Its first pixels (row-major) are the bits, as the lowest
    or the highest value of the observation space; the channel is black elsewhere. A screen that
    shows nothing is like one whose bits are all zero.

    References:
        | Curious model-building control systems (Schmidhuber, 1991)
        | https://doi.org/10.1109/IJCNN.1991.170605
        | Exploration by random network distillation (Burda et al., 2018)
        | https://arxiv.org/abs/1810.12894

    Args:
        world: gives rules, number of copies, device and seed; it is not stepped itself.
        kind: "cell": new bits in every step, seen only from one cell. "action": one more action,
            the last, switches the channel: the agent stays where it is, and the screen shows new
            bits until it is switched again. It is dark when an episode begins.
        bits: how many, up to 63.
        cell: from where the screen is seen: a cell of a tabular world, or the (row, column) of a
            MiniGrid; the default is a corner of the four rooms. For kind "cell" alone.

    Example:
        >>> import torch
        >>> from rlgen.envs import FourRooms, NoisyTV
        >>> world = NoisyTV(FourRooms(8, start=(11, 2), seed=0), bits=16)
        >>> world.reset().shape
        torch.Size([8, 120])
        >>> step = world.step(torch.full((8,), 2))
        >>> bool(step.obs[:, 104:].any())
        True
    """

    def __init__(
        self,
        world: TensorWorld[Any],
        *,
        kind: Kind = "cell",
        bits: int = 16,
        cell: grid.Cell = (11, 1),
    ) -> None:
        if not isinstance(world, TensorWorld) or isinstance(world, NoisyTV):
            raise ValueError(f"'world' must be a world on tensors without a screen, got {world!r}")
        if kind not in get_args(Kind):
            raise ValueError(f"'kind' must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        if not 1 <= bits <= _MOST_BITS:
            raise ValueError(f"'bits' must be from 1 to {_MOST_BITS}, got {bits}")
        assert isinstance(world.action_space, gymnasium.spaces.Discrete)
        self.world, self.kind, self.bits = world, kind, bits
        self.cell = _number(world, cell) if kind == "cell" else None
        self.switch = int(world.action_space.n)  # the action, where there is one
        super().__init__(
            world.num_envs,
            device=world.device,
            observation_space=self._space(),
            action_space=gymnasium.spaces.Discrete(self.switch + (kind == "action")),
            max_steps=world.max_steps,
            seed=world._seed,
        )
        self._places = torch.arange(bits, device=self.device)

    @property
    def screen(self) -> Tensor:
        """The bits that each copy sees now, as booleans with shape (num_envs, bits)."""
        return self._shown(self.state)

    def render(self) -> Tensor:
        """The picture of the world inside, with the screen as a strip below it."""
        self.world.load_state_dict(self._inner_dict())
        picture = self.world.render()
        across = torch.arange(picture.shape[2], device=self.device) * self.bits // picture.shape[2]
        strip = 255 * self.screen[:, None, across, None].to(torch.uint8)
        return torch.cat([picture, strip.expand(-1, _STRIP, -1, 3)], dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the future, random streams included."""
        return {**self._inner_dict(), "screen": self.state.screen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken, in a world made with the same arguments."""
        inner = dict(state)
        screen = inner.pop("screen", None)
        if screen is None or screen.shape != (self.num_envs,) or screen.dtype != torch.int64:
            raise ValueError(f"'screen' must be torch.int64 with shape ({self.num_envs},)")
        self.world.load_state_dict(inner)
        self._keys, self._episode = self.world._keys, self.world._episode
        self._time = self.world._time
        self._state = Watched(self.world.state, screen.to(self.device))

    def _inner_dict(self) -> dict[str, Tensor]:
        self._raise_bad_action()
        parts = vars(self.state.inner)
        assert self._keys is not None
        return {"keys": self._keys, "episode": self._episode, "time": self._time, **parts}

    def _begin(self, draws: Draws) -> tuple[Watched, Tensor]:
        inner, time = self.world._begin(draws)
        return self._with_first_screen(inner, draws), time

    def _initial(self, draws: Draws) -> Watched:
        return self._with_first_screen(self.world._initial(draws), draws)

    def _with_first_screen(self, inner: Any, draws: Draws) -> Watched:
        if self.kind == "cell":
            return Watched(inner, draws.bits(_NOISE))
        return Watched(inner, torch.zeros_like(draws.key))

    def _transition(
        self, state: Watched, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[Watched, Tensor, Tensor]:
        noise = draws.bits(_NOISE)
        if self.kind == "cell":
            inner, reward, terminated = self.world._transition(state.inner, action, time, draws)
            return Watched(inner, noise), reward, terminated
        switches = action == self.switch
        moves = action.masked_fill(switches, 0)
        inner, reward, terminated = self.world._transition(state.inner, moves, time, draws)
        inner = inner.where(switches, state.inner)
        screen = torch.where(switches, noise, state.screen)
        return Watched(inner, screen), reward.masked_fill(switches, 0.0), terminated & ~switches

    def _observe(self, state: Watched) -> Tensor:
        seen, shown = self.world._observe(state.inner), self._shown(state)
        if seen.ndim == 2:
            return torch.cat([seen, shown.to(seen.dtype)], dim=1)
        channel = seen.select(self._axis, 0)
        low, high = self._dark, self._bright
        extra = torch.full_like(channel.flatten(1), low)
        extra[:, : self.bits] = torch.where(shown, high, low).to(seen.dtype)
        return torch.cat([seen, extra.view_as(channel).unsqueeze(self._axis)], dim=self._axis)

    def _shown(self, state: Watched) -> Tensor:
        shown = (state.screen[:, None] >> self._places & 1).bool()
        if self.cell is None:
            return shown
        inner = state.inner
        here: Tensor = inner.cell if isinstance(self.world, TabularGrid) else inner.place
        return shown & (here == self.cell)[:, None]

    def _space(self) -> gymnasium.spaces.Box:
        space = self.world.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) not in (1, 3):
            raise ValueError(f"a screen needs vectors or images to be shown in, and not {space}")
        if len(space.shape) == 1:
            low = np.append(space.low, np.zeros(self.bits, space.low.dtype))
            high = np.append(space.high, np.ones(self.bits, space.high.dtype))
            return gymnasium.spaces.Box(low, high, dtype=space.low.dtype.type)
        channels = 0 if isinstance(self.world, TabularGrid) else 2
        self._axis = channels + 1
        shape = list(space.shape)
        pixels = int(np.prod(shape)) // shape[channels]
        if self.bits > pixels:
            raise ValueError(f"'bits' must be at most {pixels}, the pixels of the image")
        shape[channels] += 1
        dark, bright = space.low.min(), space.high.max()
        self._dark, self._bright = float(dark), float(bright)
        return gymnasium.spaces.Box(dark, bright, tuple(shape), space.low.dtype.type)


def _number(world: TensorWorld[Any], cell: grid.Cell) -> int:
    """How the states of a world write the cell."""
    if isinstance(world, TabularGrid):
        return grid.as_cell("cell", cell, world.free)
    if not isinstance(world, MiniGrid):
        raise ValueError(
            f"{type(world).__name__} has no cell that is the same in all episodes: "
            "its screen must be of kind 'action'"
        )
    given = grid.as_integers("cell", cell)
    if len(given) != 2:
        raise ValueError(f"'cell' must be the (row, column) of a MiniGrid, got {cell}")
    row, column = given
    height, width = world.config.height - 2 * BORDER, world.config.width - 2 * BORDER
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"'cell' must be on a map of {height} x {width}, and {cell} is not")
    return place(column, row, world.config.width)

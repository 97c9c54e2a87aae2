"""MiniGrid's own worlds on tensors."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlgen.envs.draws import Draws
from rlgen.envs.minigrid import layouts as native
from rlgen.envs.minigrid.cells import EMPTY, GOAL, WALL
from rlgen.envs.minigrid.games import (
    DoorKeyLayouts,
    EmptyLayouts,
    FourRoomsLayouts,
    SceneBank,
    SpotBank,
    ThingsGame,
    WalledGame,
)
from rlgen.envs.minigrid.layouts import BORDER, Config
from rlgen.envs.minigrid.pictures import Pictures
from rlgen.envs.minigrid.rules import Scene
from rlgen.envs.minigrid.walled import LONGEST, Maps, Spot
from rlgen.envs.world import TensorWorld

Observation = Literal["image", "full", "rgb"]
Game = ThingsGame | WalledGame

_BANK = 256  # minigrid needs milliseconds for a layout


class MiniGrid(TensorWorld[Any]):
    """One of MiniGrid's worlds: its objects, its seven actions, its view, its reward.

    Success earns 1 - 0.9 * steps / max_steps and ends the episode; so does lava, for nothing.

    Args:
        id: MiniGrid's, such as "MiniGrid-DoorKey-8x8-v0".
        num_envs: how many copies.
        device: where they live.
        observation: "image" (the 7 x 7 cells in front, three bytes each), "full" (the whole map in
            the same code, with the agent), or "rgb" (a picture of the map, 8 pixels a cell).
        layouts: how many layouts to draw from minigrid, with the seeds 0, 1, ...; or a range of
            such seeds, to keep some for evaluation. None draws anew for every episode where that
            is possible (FourRooms, Empty, DoorKey) and is 256 elsewhere.
        see_through_walls: whether walls hide nothing; None asks minigrid.
        max_steps: when an episode is truncated; None asks minigrid.
        seed: of the first reset.

    Example:
        >>> import torch
        >>> from rlgen.envs import MiniGrid
        >>> world = MiniGrid("MiniGrid-FourRooms-v0", 16, seed=0)
        >>> world.reset().shape
        torch.Size([16, 7, 7, 3])
        >>> step = world.step(torch.full((16,), 2))
    """

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        device: str | torch.device = "cpu",
        observation: Observation = "image",
        layouts: int | range | None = None,
        see_through_walls: bool | None = None,
        max_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        env = native.make(id)
        config = native.config_of(env, see_through_walls, max_steps)
        where = torch.device(device)
        game = _native_game(env, config, where) if layouts is None else None
        if game is None:
            seeds = range(_BANK) if layouts is None else layouts
            seeds = range(seeds) if isinstance(seeds, int) else seeds
            game = _bank_game(native.draw_bank(env, seeds), config, where)
        self._setup(game, config, num_envs, where, observation, seed)

    @classmethod
    def from_envs(
        cls,
        envs: Sequence[Any],
        *,
        device: str | torch.device = "cpu",
        observation: Observation = "image",
        seed: int | None = None,
    ) -> "MiniGrid":
        """A world whose copies are where live minigrid environments are now, objects and all.

        It is reset already. Whatever its seed, `reset` puts copy i back to where environment i was,
        its clock included. When an episode ends, the copy goes on from any of these scenes, drawn
        at random, with its clock at 0.

        Args:
            envs: minigrid environments of one id, already reset; wrappers are looked through.
            device: where the copies live.
            observation: as in the constructor.
            seed: of the draws of later episodes; None draws one from torch's global generator.
        """
        inner = [getattr(env, "unwrapped", env) for env in envs]
        if not inner:
            raise ValueError("'envs' must not be empty")
        for env in inner:
            native.check_rules(env)
        config = native.config_of(inner[0], None, None)
        if any(native.config_of(env, None, None) != config for env in inner):
            raise ValueError("'envs' must be alike: one size, one time limit, one kind of world")
        where = torch.device(device)
        scenes = native.read(inner)
        world = cls.__new__(cls)
        game = _bank_game(scenes, config, where)
        world._setup(game, config, len(inner), where, observation, seed)
        time = torch.tensor([env.step_count for env in inner], device=where)
        world._copied = game.from_scene(scenes.to(where)), time
        world.reset()
        return world

    @property
    def scene(self) -> Scene:
        """What there is in each copy now; places are on a map with a border of walls."""
        return self.game.scene(self.state)

    @property
    def direction(self) -> Tensor:
        """MiniGrid's compass: 0 right, 1 down, 2 left, 3 up, with shape (num_envs,)."""
        heading: Tensor = self.state.heading
        return heading

    def render(self) -> Tensor:
        """MiniGrid's own pixels, 32 a cell: uint8 with shape (num_envs, height, width, 3)."""
        return self._pictures(32)(self.scene, self.game.look(self.state))

    def _setup(
        self,
        game: Game,
        config: Config,
        num_envs: int,
        device: torch.device,
        observation: Observation,
        seed: int | None,
    ) -> None:
        if observation not in get_args(Observation):
            allowed = ", ".join(get_args(Observation))
            raise ValueError(f"'observation' must be one of {allowed}, got {observation!r}")
        self.game, self.config, self.observation = game, config, observation
        width, height = config.width - 2 * BORDER, config.height - 2 * BORDER
        shape = {
            "image": (7, 7, 3),
            "full": (width, height, 3),
            "rgb": (8 * height, 8 * width, 3),
        }[observation]
        super().__init__(
            num_envs,
            device=device,
            observation_space=gymnasium.spaces.Box(0, 255, shape, np.uint8),
            action_space=gymnasium.spaces.Discrete(7),
            max_steps=config.max_steps,
            seed=seed,
        )
        self._drawn: dict[int, Pictures] = {}
        self._copied: tuple[Scene | Spot, Tensor] | None = None  # of live environments

    def _begin(self, draws: Draws) -> tuple[Scene | Spot, Tensor]:
        return super()._begin(draws) if self._copied is None else self._copied

    def _initial(self, draws: Draws) -> Scene | Spot:
        return self.game.initial(draws)

    def _transition(
        self, state: Any, action: Tensor, time: Tensor, draws: Draws
    ) -> tuple[Any, Tensor, Tensor]:
        del draws
        after, success, ended = self.game.move(state, action)
        # in float64, as python computes it
        earned = 1.0 - 0.9 * (time.double() / self.max_steps)
        return after, torch.where(success, earned, 0.0).float(), ended

    def _observe(self, state: Any) -> Tensor:
        if self.observation == "image":
            return self.game.look(state)
        scene = self.game.scene(state)
        if self.observation == "full":
            return self._pictures(0).symbols(scene)
        return self._pictures(8)(scene, self.game.look(state))

    def _pictures(self, pixels: int) -> Pictures:
        if pixels not in self._drawn:
            codes = self.game.codes() if pixels else set()
            self._drawn[pixels] = Pictures(self.config, pixels, codes, self.device)
        return self._drawn[pixels]


def _bank_game(scenes: Scene, config: Config, device: torch.device) -> Game:
    """Shared maps if there is nothing in them but walls and one goal each, and they are not long.

    The scenes are on the CPU: looking at them must not wait for a device.
    """
    goals = (scenes.grid == GOAL).sum(1)
    plain = (scenes.grid == WALL) | (scenes.grid == EMPTY) | (scenes.grid == GOAL)
    plain_maps = bool(plain.all()) and bool((goals == 1).all()) and not bool(scenes.carried.any())
    if not plain_maps or max(config.width, config.height) > LONGEST:
        return ThingsGame(SceneBank(scenes, device), config, device)
    maps = _maps(scenes.grid, config, device)
    layout = torch.arange(len(scenes.place))
    goal = (scenes.grid == GOAL).long().argmax(1)
    spots = Spot(layout, scenes.place, scenes.heading, goal)
    return WalledGame(SpotBank(spots.to(device)), maps)


def _native_game(env: Any, config: Config, device: torch.device) -> Game | None:
    """The worlds whose layouts are drawn anew for each episode, on the device."""
    if config.name == "FourRooms":
        maps = native.four_rooms_maps()
        free = (maps == EMPTY).nonzero()[:, 1].unflatten(0, (len(maps), -1)).to(device)
        return WalledGame(FourRoomsLayouts(free), _maps(maps, config, device))
    if config.name == "Empty" and max(config.width, config.height) <= LONGEST:
        return _empty_game(env, config, device)
    if config.name == "DoorKey":
        layouts = DoorKeyLayouts(
            native.door_key_rooms(env.width).to(device),
            size=env.width,
            width=config.width,
            origin=native.place(0, 0, config.width),
            things=native.door_key_codes(),
        )
        return ThingsGame(layouts, config, device)
    return None


def _empty_game(env: Any, config: Config, device: torch.device) -> Game:
    room = native.room(env.width, env.height).flatten()
    goal = native.place(env.width - 2, env.height - 2, config.width)
    starts, heading = (room == EMPTY).nonzero().squeeze(1), None
    starts = starts[starts != goal]
    if env.agent_start_pos is not None:
        x, y = env.agent_start_pos
        starts, heading = torch.tensor([native.place(x, y, config.width)]), env.agent_start_dir
    layouts = EmptyLayouts(goal, starts.to(device), heading)
    return WalledGame(layouts, _maps(room[None], config, device))


def _maps(grids: Tensor, config: Config, device: torch.device) -> Maps:
    shaped = grids.cpu().unflatten(1, (config.height, config.width))
    return Maps(shaped, see_through_walls=config.see_through_walls, device=device)

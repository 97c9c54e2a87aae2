"""Maps of wild land, drawn many at once: water, rocks, lava, and a chain of keys and vaults.

Map number k is a pure function of k, so that a range of numbers is a set of maps.
"""

from functools import lru_cache

import torch
from torch import Tensor

from rlgen.envs.draws import Draws, combine, scramble

KINDS = ("free", "wall", "water", "lava", "goal", "key", "door")
MOST_KEYS = 3
FREE, WALL, WATER, LAVA, GOAL, KEY = range(6)  # KEY + k is key k
DOOR = KEY + MOST_KEYS  # DOOR + k is the door that key k opens
CODES = DOOR + MOST_KEYS

_SECTORS = 4  # in a row: each holds at most one site
_SMALLEST = 8 * _SECTORS
_CLEAR, _VAULT = 3, 2  # how far a clearing and a vault's walls are from its middle
_WATER, _ROCKS, _LAVA = 0.2, 0.12, 0.05  # shares of the land
_ATTEMPTS = 100

_CORNER, _ORDER, _ROW, _COLUMN, _SIDE, _WATERS, _LAVAS = range(0, 700, 100)  # streams


@lru_cache(maxsize=8)
def draw_maps(size: int, keys: int, numbers: range) -> tuple[Tensor, Tensor]:
    """The maps with these numbers.

    A map is drawn until its start, its keys and its vaults are connected without passing a door.

    Args:
        size: rows and columns.
        keys: how many keys, and vaults.
        numbers: of the maps.

    Returns:
        Codes with shape (maps, size, size), as uint8, and the starts row * size + column, as int64
        with shape (maps,).

    Example:
        >>> from rlgen.envs import terrain
        >>> codes, starts = terrain.draw_maps(64, 2, range(8))
        >>> codes.shape, starts.shape
        (torch.Size([8, 64, 64]), torch.Size([8]))
    """
    if size < _SMALLEST:
        raise ValueError(f"'size' must be at least {_SMALLEST}, got {size}")
    if not 0 <= keys <= MOST_KEYS:
        raise ValueError(f"'keys' must be from 0 to {MOST_KEYS}, got {keys}")
    if len(numbers) == 0:
        raise ValueError(f"'maps' must hold at least one map, got {numbers}")
    number = torch.tensor(numbers)
    codes = torch.empty(len(number), size, size, dtype=torch.uint8)
    starts = torch.empty_like(number)
    missing = torch.arange(len(number))
    for attempt in range(_ATTEMPTS):
        key = combine(scramble(number[missing]), attempt)
        drawn, start, good = _attempt(key, size, keys)
        codes[missing[good]], starts[missing[good]] = drawn[good], start[good]
        missing = missing[~good]
        if len(missing) == 0:
            return codes, starts
    raise ValueError(f"no way to the goal was found on maps of size {size} with {keys} keys")


def _attempt(key: Tensor, size: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """One map for each random key, its start, and whether there is a way to its goal."""
    draws = Draws(lambda: key)
    codes = _land(key, size)
    sites = _sites(draws, size, keys + 2)
    goal_and_keys = [GOAL, *(KEY + k for k in range(keys))]
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    wanted = []
    for k, (row, column) in enumerate(sites):
        down, right = rows - row[:, None, None], columns - column[:, None, None]
        away = torch.maximum(down.abs(), right.abs())
        codes = torch.where(away <= _CLEAR, FREE, codes)
        if k == 0:
            continue  # the start
        codes = torch.where(away == 0, goal_and_keys[k - 1], codes)
        wanted.append(away == 0)
        if k <= keys:  # the goal and all keys but the last are in vaults
            codes = torch.where(away == _VAULT, WALL, codes)
            wanted[-1] = _door(draws, k, down, right)
            codes = torch.where(wanted[-1], DOOR + k - 1, codes)
    start = sites[0][0] * size + sites[0][1]
    ways = (codes != WALL) & (codes != WATER) & (codes != LAVA)
    met = _flood(ways, codes >= DOOR, start)
    good = torch.stack([(met & spot).flatten(1).any(1) for spot in wanted]).all(0)
    return codes.to(torch.uint8), start, good


def _land(key: Tensor, size: int) -> Tensor:
    """Land without sites, as int64 with shape (n, size, size): lakes, rocks and pools of lava."""
    height, heat = _hills(key, _WATERS, size), _hills(key, _LAVAS, size)
    low, high = _quantile(height, _WATER), _quantile(height, 1.0 - _ROCKS)
    land = torch.where(height < low, WATER, torch.where(height > high, WALL, FREE))
    return torch.where((heat > _quantile(heat, 1.0 - _LAVA)) & (land == FREE), LAVA, land)


def _hills(key: Tensor, stream: int, size: int) -> Tensor:
    """Smooth noise with shape (n, size, size): coarse hills and finer ones on top.

    In float64, so that no rounding turns land into water on another machine.
    """
    total = torch.zeros(len(key), size, size, dtype=torch.float64)
    for octave, weight in ((8, 1.0), (3, 0.6)):
        points = size // octave + 2
        streams = stream + torch.arange(points**2) * 8 + octave
        noise = (combine(key[:, None], streams) >> 39).double().unflatten(1, (points, points))
        smooth = torch.nn.functional.interpolate(
            noise[:, None] * 2.0**-24, (size, size), mode="bilinear", align_corners=True
        )
        total += weight * smooth.squeeze(1)
    return total


def _quantile(field: Tensor, share: float) -> Tensor:
    values = field.flatten(1)
    return values.kthvalue(round(share * values.shape[1]), dim=1).values[:, None, None]


def _sites(draws: Draws, size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Rows and columns of start, goal and keys: in opposite corners, and anywhere else."""
    corner = draws.integers(_CORNER, 4)
    edge = _SECTORS - 1
    start = torch.where(corner < 2, 0, edge * _SECTORS) + (corner % 2) * edge
    goal = _SECTORS**2 - 1 - start
    order = torch.stack([draws.bits(_ORDER + k) for k in range(_SECTORS**2)], dim=1)
    order = order.scatter(1, torch.stack([start, goal], dim=1), -1)  # bits are not negative
    sectors = [start, goal, *order.argsort(dim=1, descending=True).T]
    side = size // _SECTORS
    sites = []
    for k, sector in enumerate(sectors[:count]):
        inside = side - 2 * _CLEAR
        row = draws.integers(_ROW + k, inside) + _CLEAR + sector // _SECTORS * side
        column = draws.integers(_COLUMN + k, inside) + _CLEAR + sector % _SECTORS * side
        sites.append((row, column))
    return sites


def _door(draws: Draws, site: int, down: Tensor, right: Tensor) -> Tensor:
    """The middle of one side of a vault, as booleans with shape (n, size, size)."""
    side = draws.integers(_SIDE + site, 4)[:, None, None]
    out = torch.where(side % 2 == 0, -_VAULT, _VAULT)
    across, along = torch.where(side < 2, down, right), torch.where(side < 2, right, down)
    return (across == out) & (along == 0)


def _flood(ways: Tensor, doors: Tensor, start: Tensor) -> Tensor:
    """What can be reached from `start` without passing a door, the doors themselves included."""
    met = torch.zeros_like(ways).flatten(1).scatter(1, start[:, None], True).view_as(ways)
    while True:
        inside = met & ~doors
        spread = met.clone()
        spread[:, 1:] |= inside[:, :-1]
        spread[:, :-1] |= inside[:, 1:]
        spread[:, :, 1:] |= inside[:, :, :-1]
        spread[:, :, :-1] |= inside[:, :, 1:]
        spread &= ways
        if torch.equal(spread, met):
            return met
        met = spread

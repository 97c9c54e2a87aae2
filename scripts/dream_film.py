"""A film of a dream: what happens above, and below what the model expects of the same actions.

    python scripts/dream_film.py
    python scripts/dream_film.py --model runs/world_model/model --out runs/dream.gif

Several walks of chance in Four-Rooms, side by side. Neither row knows of the other: after the first
frame the dream has the actions alone. A frame of the dream has a red rule where it shows another
cell than the real one, or has ended the episode wrongly. Walks that reach the goal stay there.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from dream_pictures import WRONG, shown
from dreamers import cells_of
from options import Refused, answered, check_folder, check_numbers
from rich.console import Console
from torch import Tensor

from rlgen.agents.world_model import WorldModel
from rlgen.envs import FourRooms
from rlgen.seeding import drawing_from, mix

CELL, GAP, RULE = 8, 8, 2  # pixels
BACKGROUND = 255
MILLISECONDS = 250


@dataclasses.dataclass(frozen=True)
class Options:
    """A film of real walks, and of dreams of the same actions.

    Args:
        model: the folder of a world model of Four-Rooms' images; none learns one there and then.
        episodes: of chance that it learns from.
        vision_steps: gradient steps of V.
        memory_steps: gradient steps of M.
        copies: side by side.
        steps: of the film.
        temperature: of the dream.
        seed: of everything random.
        out: the file.
    """

    model: Path | None = None
    episodes: int = 100
    vision_steps: int = 800
    memory_steps: int = 4000
    copies: int = 5
    steps: int = 30
    temperature: float = 1.0
    seed: int = 0
    out: Path = Path("docs/gallery/dream.gif")


class Film(NamedTuple):
    """What was seen and dreamt, time first; a walk that has ended stays as it is.

    Attributes:
        real: observations, with shape (T + 1, copies, 3, 13, 13).
        dreamt: likewise.
        wrong: whether the dream differs, with shape (T + 1, copies).
    """

    real: Tensor
    dreamt: Tensor
    wrong: Tensor


def checked(o: Options) -> Options:
    least = {"episodes": 1, "vision_steps": 0, "memory_steps": 0, "copies": 1, "steps": 1}
    numbers = ((name, getattr(o, name), low) for name, low in {**least, "seed": 0}.items())
    check_numbers(*((name.replace("_", "-"), number, low) for name, number, low in numbers))
    if not 0.0 < o.temperature < float("inf"):
        raise Refused(f"--temperature must be positive and finite, got {o.temperature}")
    if o.out.suffix != ".gif":
        raise Refused(f"--out must end in .gif, got {str(o.out)!r}")
    check_folder(o.out.parent)
    return o


def model_of(o: Options) -> WorldModel:
    """The one that was asked for, or one that learns now."""
    world = FourRooms(64, observation="image", seed=o.seed)
    if o.model is not None:
        model = WorldModel.load(o.model)
        if model.vision.event_shape != world.observation_space.shape:
            raise Refused(f"--model {o.model} is not of Four-Rooms' images")
        return model
    with drawing_from(mix(o.seed, 1)):
        model = WorldModel.of(world)
    model.collect(world, o.episodes, seed=o.seed)
    model.fit(vision_steps=o.vision_steps, memory_steps=o.memory_steps, seed=o.seed)
    return model


def filmed(model: WorldModel, o: Options) -> Film:
    """Walks from seeds that the model has not seen, and the dreams of their actions."""
    world, rooms = (FourRooms(n, observation="image", seed=o.seed) for n in (o.copies, 1))
    obs = world.reset(o.seed + 2**20)
    with drawing_from(mix(o.seed, 11)):
        actions = torch.randint(4, (o.steps, o.copies))
    expected = model.imagine(obs, actions, temperature=o.temperature, generator=mix(o.seed, 12))
    done = torch.zeros(o.copies, dtype=torch.bool)
    lost = done.clone()  # the dream ended here, and the walk went on
    frames = model.vision.decode(expected.z[0])
    real, dreamt, wrong = [obs], [frames], [cells_of(frames, rooms) != cells_of(obs, rooms)]
    for t, action in enumerate(actions):
        ended = done.clone()
        done |= world.advance(action, frozen=done)[1]
        moving = ~(ended | lost)
        frames = frames.clone()
        frames[moving] = model.vision.decode(expected.z[t + 1])[moving]
        real.append(world.observe())
        lost |= moving & (expected.terminated[t] != done)
        dreamt.append(frames)
        wrong.append(lost | (cells_of(frames, rooms) != cells_of(real[-1], rooms)))
    return Film(torch.stack(real), torch.stack(dreamt), torch.stack(wrong))


def canvas(film: Film, time: int, world: FourRooms) -> Tensor:
    """One picture of the film, uint8 with shape (height, width, 3)."""
    rows = []
    for frames, wrong in ((film.real, None), (film.dreamt, film.wrong)):
        pictures = shown(frames[time], world)
        pictures = pictures.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
        framed = []
        for i, picture in enumerate(pictures):
            side = picture.shape[0] + 2 * RULE
            colour = WRONG if wrong is not None and wrong[time, i] else (BACKGROUND,) * 3
            one = torch.tensor(colour, dtype=torch.uint8).repeat(side, side, 1)
            one[RULE:-RULE, RULE:-RULE] = picture
            framed.append(torch.nn.functional.pad(one, (0, 0, 0, GAP), value=BACKGROUND))
        rows.append(torch.cat(framed, dim=1)[:, :-GAP] if GAP else torch.cat(framed, dim=1))
    gap = torch.full((GAP, rows[0].shape[1], 3), BACKGROUND, dtype=torch.uint8)
    return torch.cat([rows[0], gap, rows[1]])


def save(film: Film, world: FourRooms, file: Path) -> None:
    """All pictures one after the other, with the last one held."""
    from PIL import Image

    count = len(film.real)
    images = [Image.fromarray(canvas(film, t, world).numpy()) for t in range(count)]
    palette = images[-1].quantize(64)
    made = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [MILLISECONDS] * (count - 1) + [8 * MILLISECONDS]
    made[0].save(file, save_all=True, append_images=made[1:], duration=times, loop=0)


def shoot(o: Options, console: Console) -> None:
    torch.set_num_threads(1)  # for networks this small, one is the fastest
    o = checked(o)
    film = filmed(model_of(o), o)
    save(film, FourRooms(1, observation="image"), o.out)
    console.print(
        f"{o.out}: {o.steps} steps of {o.copies} walks, {o.out.stat().st_size // 1000} kB; "
        f"{float(film.wrong[1:].double().mean()):.1%} of the dreamt frames are wrong",
        soft_wrap=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Check everything, then learn and film."""
    answered("dream_film.py", Options, arguments, shoot)


if __name__ == "__main__":
    main()

"""V and M together, and what is done with them: collect, fit, dream, imagine."""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import gymnasium
import torch
from torch import Tensor, nn

from rlgen import checkpoint
from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.imitation.recording import Actor, record
from rlgen.agents.world_model.dream import Dream
from rlgen.agents.world_model.episodes import Latents
from rlgen.agents.world_model.memory import Memory
from rlgen.agents.world_model.recurrence import Recurrence
from rlgen.agents.world_model.vision import Vision
from rlgen.agents.world_model.watching import Pilot, Watched
from rlgen.checkpoint import Configurable
from rlgen.envs.world import World
from rlgen.generative import cosine, fit
from rlgen.generative.fitting import Callback
from rlgen.generative.support import Symbols
from rlgen.seeding import drawing_from, mix

Progress = Callable[[str, int, dict[str, float]], bool | None]


class Imagined(NamedTuple):
    """What `imagine` saw; time comes first.

    Attributes:
        z: latents, from the first to the one after the last step, (T + 1, B, n).
        action: with shape (T, B).
        reward: with shape (T, B).
        terminated: with shape (T, B); what follows an end is not to be believed.
    """

    z: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor


class WorldModel(Configurable, nn.Module):
    """V and M of one world, and the episodes that they learnt from.

    References:
        David Ha and Juergen Schmidhuber. World Models, 2018. https://arxiv.org/abs/1803.10122

    Args:
        vision: V.
        memory: M, over the latents of V.
        remembering: whether agents see M's summary beside the latent.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.world_model import WorldModel
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(16, size=4, max_steps=20, seed=0)
        >>> model = WorldModel.of(world, symbols=16, width=16)
        >>> losses = model.collect(world, 16).fit(vision_steps=5, memory_steps=5)
        >>> agent = PPO(model.dream(8, seed=0), steps=4).learn(32, progress=False)
        >>> model.pilot(agent).predict(world.reset()).shape  # and so it acts in the world
        torch.Size([16])
    """

    def __init__(self, vision: Vision, memory: Memory, *, remembering: bool = True) -> None:
        super().__init__()
        symbols = memory.support.count if isinstance(memory.support, Symbols) else None
        if memory.event_shape != vision.latent_shape or symbols != vision.symbols:
            raise ValueError(
                f"'memory' must be over latents {tuple(vision.latent_shape)} of {vision.symbols} "
                f"symbols, got {tuple(memory.event_shape)} of {symbols}"
            )
        self.vision, self.memory, self.remembering = vision, memory, remembering
        self.data: Demonstrations | None = None

    @classmethod
    def of(
        cls,
        world: World,
        *,
        latent: Literal["tokens", "numbers"] = "tokens",
        symbols: int = 256,
        positions: int = 1,
        size: int = 16,
        width: int = 64,
        recurrence: Recurrence | None = None,
        reward_scale: float = 0.05,
        noise: float = 0.2,
        remembering: bool = True,
    ) -> Self:
        """The world model for a world's spaces.

        Args:
            world: with discrete actions.
            latent: "tokens", or the "numbers" of the paper, whose M is a mixture of normals.
            symbols: of tokens.
            positions: tokens in one latent.
            size: of a token's vector, or numbers in a latent.
            width: of M's summary.
            recurrence: of M; None takes a `GRU`.
            reward_scale: dreamed rewards, and costs, that are smaller than this are 0.
            noise: on M's summary while it learns.
            remembering: whether agents see M's summary beside the latent.
        """
        actions, space = int(_discrete(world).n), world.observation_space
        vision = Vision.of(space, latent=latent, symbols=symbols, positions=positions, size=size)
        memory = Memory.of(
            vision.latent_shape.numel(),
            actions=actions,
            symbols=vision.symbols,
            width=width,
            recurrence=recurrence,
            reward_scale=reward_scale,
            noise=noise,
        )
        return cls(vision, memory, remembering=remembering).to(world.device)

    def collect(
        self,
        world: World,
        episodes: int,
        policy: Actor | None = None,
        *,
        seed: int = 0,
        progress: bool = False,
    ) -> Self:
        """Add whole episodes to `data`: of a policy on the world's observations, or of chance."""
        if policy is None:
            count = int(_discrete(world).n)
            policy = lambda obs: torch.randint(count, (len(obs),), device=world.device)  # noqa: E731
        fresh = record(world, policy, episodes, seed=seed, progress=progress)
        old = () if self.data is None else self.data.trajectories
        self.data = Demonstrations((*old, *fresh.trajectories))
        return self

    def fit(
        self,
        *,
        vision_steps: int = 1000,
        memory_steps: int = 4000,
        batch_size: int = 64,
        window: int = 16,
        ends: float = 0.25,
        lr: float = 6e-3,
        seed: int = 0,
        callback: Progress | None = None,
        progress: bool | None = None,
    ) -> dict[str, list[float]]:
        """Learn V from all that was seen, the ends of episodes included, and then M.

        Args:
            vision_steps: gradient steps of V; 0 keeps it as it is.
            memory_steps: gradient steps of M; an agent finds and exploits what too few leave wrong.
            batch_size: windows for each step of M.
            window: steps of a window. M remembers nothing before one, so where the past matters
                they should be long. It learns from long windows faster after short ones: call this
                with a window of 1, and again with `vision_steps=0` and longer ones.
            ends: share of the windows that end where an episode terminated, so that rare ends are
                learnt. What latent comes next is as likely as it is without them, nearly so in
                small batches, for it is weighted back. Rewards and ends are not: where the latent
                does not tell them, such as chance that ends episodes at a fixed rate, M foresees
                more ends than there are; then take 0.
            lr: of M's first step; it falls to nothing.
            seed: of order and noise.
            callback: called as callback("V" or "M", step, losses); a true result stops that part.
            progress: show a live line; None where there is a terminal.

        Returns:
            The losses of "V" and of "M" in nats, step by step.
        """
        data = self._data()
        seen = torch.cat([one.obs for one in data])
        losses: dict[str, list[float]] = {"V": [], "M": []}
        if vision_steps:
            history = self.vision.fit(
                seen,
                steps=vision_steps,
                seed=seed,
                callback=_about("V", callback),
                progress=progress,
            )
            losses["V"] = history.losses["loss"]
        if memory_steps:
            latents = Latents.of(data, self.vision)
            source = torch.Generator(seen.device).manual_seed(mix(seed, 5))
            history = fit(
                self.memory,
                _windows(latents, batch_size, window, ends, source),
                steps=memory_steps,
                batch_size=batch_size,
                lr=lr,
                schedule=cosine,
                seed=seed,
                callback=_about("M", callback),
                progress=progress,
            )
            losses["M"] = history.losses["loss"]
        return losses

    def dream(
        self,
        num_envs: int = 64,
        *,
        temperature: float = 1.0,
        resets: bool = False,
        obs: Tensor | None = None,
        max_steps: int = 100,
        groups: int = 1,
        seed: int | None = None,
    ) -> Dream:
        """A world of this model's own; see `Dream`.

        Args:
            num_envs: copies.
            temperature: of M's latents.
            resets: begin where the world's episodes began, instead of anywhere in them.
            obs: begin with one of these observations, (n, *observation), instead of in an episode
                that was collected; not with `resets`.
            max_steps: when an episode is truncated.
            groups: of copies that meet the same noise.
            seed: of the first reset, and of which latents episodes can begin at.
        """
        if obs is not None and resets:
            raise ValueError("'resets' begins in collected episodes, and 'obs' does not: give one")
        if obs is None:
            with drawing_from(mix(seed or 0, 6)):
                latents = Latents.of(self._data(), self.vision)
                starts = latents.starts(self.memory, most=1024, resets=resets)
        else:
            starts = self.vision.encode(obs), self.memory.initial_state(len(obs))
        return Dream(
            self.vision,
            self.memory,
            starts,
            num_envs=num_envs,
            temperature=temperature,
            remembering=self.remembering,
            max_steps=max_steps,
            groups=groups,
            seed=seed,
        )

    def watched(self, world: World) -> Watched:
        """A world with the observations that this model's dreams have."""
        return Watched(world, self.vision, self.memory, remembering=self.remembering)

    def pilot(self, agent: Any) -> Pilot:
        """An agent from a dream, acting on the world's own observations."""
        return Pilot(agent, self.vision, self.memory, remembering=self.remembering)

    @torch.no_grad()
    def imagine(
        self,
        obs: Tensor,
        actions: Tensor,
        *,
        state: Tensor | None = None,
        temperature: float = 1.0,
        generator: int | torch.Generator | None = None,
    ) -> Imagined:
        """What M expects of given actions, each row on its own.

        Args:
            obs: what is seen first, (B, *observation).
            actions: with shape (T, B).
            state: the memory before `obs`; None for nothing.
            temperature: of M's latents.
            generator: a seed or a `torch.Generator`.
        """
        if actions.ndim != 2 or actions.shape[1] != len(obs):
            raise ValueError(
                f"'actions' must have shape (T, {len(obs)}), got {tuple(actions.shape)}"
            )
        memory = self.memory.at_temperature(temperature)
        z = self.vision.encode(obs)
        state = memory.initial_state(len(z)) if state is None else state
        zs, rewards, ends = [z], [], []
        with drawing_from(generator):
            for action in actions:
                state = memory.step(z, action, state)
                z, reward, terminated = memory.foresee(state)
                zs.append(z)
                rewards.append(reward)
                ends.append(terminated)
        return Imagined(torch.stack(zs), actions, torch.stack(rewards), torch.stack(ends))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write V and M, as they are by now, and the episodes to a checkpoint in `folder`."""
        checkpoint.save(type(self)(self.vision, self.memory, remembering=self.remembering), folder)
        episodes = os.path.join(folder, "episodes.npz")
        if self.data is not None:
            self.data.save(episodes)
        elif os.path.exists(episodes):
            os.remove(episodes)  # another model's

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The world model that `save` wrote."""
        made = checkpoint.load(folder)
        if not isinstance(made, cls):
            raise ValueError(f"{str(folder)!r} holds a {type(made).__name__}, not a {cls.__name__}")
        episodes = os.path.join(folder, "episodes.npz")
        if os.path.exists(episodes):
            made.data = Demonstrations.load(episodes)
        return made

    def _data(self) -> Demonstrations:
        if self.data is None:
            raise ValueError("there are no episodes yet: call 'collect' first")
        if next(iter(self.data)).obs.device != self.vision.mean.device:
            self.data = self.data.to(self.vision.mean.device)
        return self.data


def _windows(
    latents: Latents, count: int, length: int, ends: float, source: torch.Generator
) -> Any:
    while True:
        with drawing_from(source):
            pair = latents.windows(count, length, ends).pair()
        yield pair


def _about(part: str, callback: Progress | None) -> Callback | None:
    if callback is None:
        return None
    return lambda step, losses: callback(part, step, losses)


def _discrete(world: World) -> gymnasium.spaces.Discrete:
    space = world.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, got {space}")
    return space

"""Episodes as V sees them, cut into the windows that M learns from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.world_model.memory import Memory, Windows
from rlgen.agents.world_model.vision import Vision

_AT_ONCE = 2**22  # numbers in the states of episodes that are gone through together


@dataclass(frozen=True)
class Latents:
    """Whole episodes, one after the other; the one with T steps has T + 1 latents.

    Attributes:
        mean: latents, or their means, (steps + episodes, n).
        noise: how far the encoder's noise moves each number, or None for symbols.
        action: one for each latent; that of an episode's last latent means nothing.
        reward: of the step that begins there.
        terminated: whether that step ended the task.
        first: where each episode begins, (episodes,).
        steps: of each episode, (episodes,).
    """

    mean: Tensor
    noise: Tensor | None
    action: Tensor
    reward: Tensor
    terminated: Tensor
    first: Tensor
    steps: Tensor

    @classmethod
    def of(cls, data: Demonstrations, vision: Vision) -> "Latents":
        """The episodes as `vision` sees them; rewards must be known."""
        if any(one.reward is None for one in data):
            raise ValueError("a world model learns from rewards, and some episodes have none")
        mean, noise = vision.posterior(torch.cat([one.obs for one in data]))
        device = mean.device
        action = [torch.cat([one.action, one.action[-1:]]) for one in data]
        reward = [torch.cat([one.reward, one.reward.new_zeros(1)]) for one in data]  # type: ignore[union-attr, list-item]
        ends = [torch.zeros(len(one) + 1, dtype=torch.bool, device=device) for one in data]
        for one, flags in zip(data, ends, strict=True):
            flags[-2] = one.terminated
        steps = torch.tensor([len(one) for one in data], device=device)
        first = (steps + 1).cumsum(0) - (steps + 1)
        parts = (torch.cat(action), torch.cat(reward).to(mean.device), torch.cat(ends))
        return cls(mean, noise, *parts, first, steps)

    def draw(self, index: Tensor) -> Tensor:
        """Latents at an index of any shape; numbers with fresh noise of the encoder."""
        mean = self.mean[index]
        return mean if self.noise is None else mean + self.noise[index] * torch.randn_like(mean)

    def windows(self, count: int, length: int, ends: float = 0.25) -> Windows:
        """Random pieces of episodes, that meet every step equally often but for those near `ends`.

        Pieces reach over both edges of an episode; what lies beyond has weight 0. As weighed by
        `fair`, all steps are met equally often.

        Args:
            count: how many.
            length: steps of each.
            ends: the share of them that are the last steps of an episode that terminated, if there
                is one. Ends are rare, and a memory that hardly sees them never foresees them; but
                where chance decides, more ends are more luck, so latents are weighted back. The
                share is rounded to whole pieces: at 0.25 there is none among 1 or 2 of them.
        """
        if length < 1:
            raise ValueError(f"the length of a 'window' must be positive, got {length}")
        if not 0.0 <= ends < 1.0 or round(ends * count) == count:
            raise ValueError(
                f"'ends' must be a share, from 0 to less than 1, that leaves some of {count} "
                f"windows for the steps that are far from an end, got {ends}"
            )
        spans = self.steps + length - 1
        episode = torch.multinomial(spans.to(torch.float32), count, replacement=True)
        last = (torch.rand(count, device=episode.device) * spans[episode]).long()
        ended = self._ended.nonzero().squeeze(1)
        some = round(ends * count) if len(ended) else 0
        if some:
            episode[:some] = ended[torch.randint(len(ended), (some,), device=episode.device)]
            last[:some] = self.steps[episode[:some]] - 1
        begin = (last - length + 1).clamp_min(0)
        offset = begin[:, None] + torch.arange(length + 1, device=episode.device)
        steps = self.steps[episode, None]
        weight = (offset[:, :-1] < steps.minimum(last[:, None] + 1)).to(torch.float32)
        index = self.first[episode, None] + offset.minimum(steps)
        here = index[:, :-1]
        # a step is in `length` of all pieces, and in the last one if its episode terminated soon
        often = (1.0 - some / count) * length / spans.sum()
        more = some / count / max(1, len(ended))
        soon = self._ended[episode, None] & (steps - offset[:, :-1] <= length)
        mean = often + more * self.steps[ended].clamp_max(length).sum() / self.steps.sum()
        fair = weight * mean / (often + more * soon)
        parts = self.action[here], self.reward[here], self.terminated[here]
        return Windows(self.draw(index), *parts, weight, fair)

    @property
    def _ended(self) -> Tensor:
        """Which episodes terminated, (episodes,)."""
        return self.terminated[self.first + self.steps - 1]

    def padded(self) -> Windows:
        """All episodes whole, each in a row as long as the longest; latents without noise."""
        offset = torch.arange(int(self.steps.max()) + 1, device=self.steps.device)
        weight = (offset[None, :-1] < self.steps[:, None]).to(torch.float32)
        index = self.first[:, None] + offset.minimum(self.steps[:, None])
        here = index[:, :-1]
        return Windows(
            self.mean[index],
            self.action[here],
            self.reward[here],
            self.terminated[here],
            weight,
            weight,
        )

    @torch.no_grad()
    def starts(self, memory: Memory, most: int, *, resets: bool = False) -> tuple[Tensor, Tensor]:
        """Latents from which a dream can go on, and the memory's states before them.

        Args:
            memory: whose states.
            most: how many at most, drawn at random.
            resets: the first latents of episodes only. Otherwise any latent that is not
                an episode's last is as likely as any other.
        """
        if resets:
            some = torch.randperm(len(self.steps), device=self.steps.device)[:most]
            return self.draw(self.first[some]), memory.initial_state(len(some))
        begun = torch.ones(len(self.mean), dtype=torch.bool, device=self.first.device)
        begun[self.first + self.steps] = False
        pool = begun.nonzero().squeeze(1)
        index = pool[torch.randperm(len(pool), device=pool.device)[:most]]
        episode = torch.searchsorted(self.first, index, right=True) - 1
        before, time = memory.initial_state(len(index)), index - self.first[episode]
        used, row = episode.unique(return_inverse=True)
        rows, width = self.padded(), int(self.steps.max())
        size = max(1, _AT_ONCE // (width * before.shape[1]))
        for begin in range(0, len(used), size):  # a state of every step of all would fill memory
            some = used[begin : begin + size]
            states = memory.states(rows.z[some, :width], rows.action[some])
            here = (row >= begin) & (row < begin + size) & (time > 0)
            before[here] = states[row[here] - begin, time[here] - 1]
        return self.draw(index), before

"""What carries the past of a sequence: a state that is read and written one step at a time.

A state is one vector for each sequence. All zeros means that nothing has happened yet, so a
sequence begins anew where its row is set to zero.
"""

import math
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.checkpoint import Configurable


class Recurrence(Protocol):
    """Inputs (B, T, width) -> summaries of all inputs up to each, (B, T, width)."""

    width: int

    @property
    def state_size(self) -> int: ...
    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]: ...
    def unroll(self, x: Tensor) -> Tensor: ...
    def states(self, x: Tensor) -> Tensor: ...
    def summary(self, state: Tensor) -> Tensor: ...


class GRU(Configurable, nn.Module):
    """A gated recurrent unit; its state is its summary.

    References:
        | Learning phrase representations using RNN encoder-decoder (Cho et al., 2014)
        | https://arxiv.org/abs/1406.1078

    Args:
        width: of inputs and of the state.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import GRU
        >>> gru = GRU(8)
        >>> gru.unroll(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"'width' must be positive, got {width}")
        self.width = width
        self.net = nn.GRU(width, width, batch_first=True)

    @property
    def state_size(self) -> int:
        return self.width

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) and a state -> what is remembered now, and the next state."""
        state = torch.gru_cell(x, state, *self.net.all_weights[0])
        return state, state

    def unroll(self, x: Tensor) -> Tensor:
        """(B, T, width) from the beginning -> summaries (B, T, width)."""
        summaries: Tensor = self.net(x)[0]
        return summaries

    def states(self, x: Tensor) -> Tensor:
        """(B, T, width) from the beginning -> states (B, T, size)."""
        return self.unroll(x)

    def summary(self, state: Tensor) -> Tensor:
        """What a state says, (B, width)."""
        return state


class Memoryless(Configurable, nn.Module):
    """No past: a summary tells of the present step alone.

    It is right for worlds that are seen whole, where it learns from few episodes what others learn
    from many, and a control for those that are not.

    Args:
        width: of inputs and summaries.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Memoryless
        >>> Memoryless(8).unroll(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"'width' must be positive, got {width}")
        self.width = width
        self.net = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    @property
    def state_size(self) -> int:
        return self.width

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) and a state -> what is remembered now, which is the next state too."""
        del state
        now = self.unroll(x)
        return now, now

    def unroll(self, x: Tensor) -> Tensor:
        """(*, width) -> summaries (*, width)."""
        summaries: Tensor = self.net(x)
        return summaries

    def states(self, x: Tensor) -> Tensor:
        """(B, T, width) -> states (B, T, width)."""
        return self.unroll(x)

    def summary(self, state: Tensor) -> Tensor:
        """What a state says, (B, width)."""
        return state


class Attention(Configurable, nn.Module):
    """Causal self-attention over the last inputs, in pre-normalised residual blocks.

    A state holds the keys and values of the last `window` steps in each layer, the last summary,
    and how many steps there were, so one more step costs one position. How far back a step lies is
    told by a learnt number for each distance and head, which is added to its score.

    References:
        | Attention is all you need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
        | Exploring the limits of transfer learning (Raffel et al., 2020), for the scores' numbers
        | https://arxiv.org/abs/1910.10683

    Args:
        width: of inputs and summaries.
        layers: blocks, each attention and an MLP.
        attention_heads: of each attention; they share the width, so they must divide it.
        window: steps that are seen, the present one included.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model import Attention
        >>> attention = Attention(8, attention_heads=2, window=4)
        >>> attention.unroll(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self, width: int = 64, *, layers: int = 2, attention_heads: int = 4, window: int = 16
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("layers", layers), ("window", window)):
            if value < 1:
                raise ValueError(f"{name!r} must be positive, got {value}")
        if attention_heads < 1 or width % attention_heads:
            raise ValueError(f"'attention_heads' must divide {width}, got {attention_heads}")
        self.width, self.window = width, window
        self.blocks = nn.ModuleList(
            _Block(width, attention_heads, window, layers) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    @property
    def state_size(self) -> int:
        return len(self.blocks) * 2 * self.window * self.width + self.width + 1

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) and a state -> what is remembered now, and the next state."""
        caches, age = state[:, : -self.width - 1], state[:, -1:] + 1
        shape = (len(x), len(self.blocks), 2, self.window, self.width)
        distance = torch.arange(self.window - 1, -1, -1, device=x.device)
        hidden = (distance >= age)[:, None, None]  # (B, 1, 1, window): before the beginning
        h, kept = x[:, None], []
        for block, cache in zip(self._each(), caches.view(shape).unbind(1), strict=True):
            query, key, value = block.project(h)
            cache = torch.cat([cache[:, :, 1:], torch.stack([key, value], dim=1)], dim=2)
            kept.append(cache)
            h = block(h, query, cache[:, 0], cache[:, 1], distance[None], hidden)
        h = self.norm(h).squeeze(1)
        return h, torch.cat([torch.stack(kept, dim=1).flatten(1), h, age], dim=1)

    def unroll(self, x: Tensor) -> Tensor:
        """(B, T, width) from the beginning -> summaries (B, T, width)."""
        time = torch.arange(x.shape[1], device=x.device)
        distance = time[:, None] - time
        hidden = (distance < 0) | (distance >= self.window)
        distance, h = distance.clamp(0, self.window - 1), x
        for block in self._each():
            h = block(h, *block.project(h), distance, hidden)
        summaries: Tensor = self.norm(h)
        return summaries

    def states(self, x: Tensor) -> Tensor:
        """(B, T, width) from the beginning -> states (B, T, size)."""
        state, found = x.new_zeros(len(x), self.state_size), []
        for now in x.unbind(1):
            state = self.step(now, state)[1]
            found.append(state)
        return torch.stack(found, dim=1)

    def summary(self, state: Tensor) -> Tensor:
        """What a state says, (B, width)."""
        return state[:, -self.width - 1 : -1]

    def _each(self) -> "list[_Block]":
        return cast("list[_Block]", list(self.blocks))


class _Block(nn.Module):
    """Attention and an MLP, each added to the residual stream."""

    def __init__(self, width: int, attention_heads: int, window: int, layers: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.of_distance = nn.Parameter(torch.zeros(attention_heads, window))
        for linear in (self.out, self.narrow):  # 2 layers of them add up
            with torch.no_grad():
                linear.weight.mul_(1.0 / math.sqrt(2 * layers))

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, T, width)."""
        query, key, value = self.to_qkv(self.norm1(h)).chunk(3, dim=-1)
        return query, key, value

    def forward(
        self, h: Tensor, query: Tensor, key: Tensor, value: Tensor, distance: Tensor, hidden: Tensor
    ) -> Tensor:
        """The stream after this block.

        Args:
            h: the stream, with shape (B, T, width).
            query: with shape (B, T, width).
            key: of what can be seen, with shape (B, S, width).
            value: with shape (B, S, width).
            distance: from each query back to each key, integers with shape (T, S).
            hidden: which keys a query does not see, as booleans that broadcast to (B, heads, T, S).
        """
        parts = [t.unflatten(-1, (self.attention_heads, -1)).movedim(2, 1) for t in (key, value)]
        query = query.unflatten(-1, (self.attention_heads, -1)).movedim(2, 1)
        scores = query @ parts[0].mT / math.sqrt(query.shape[-1]) + self.of_distance[:, distance]
        seen = scores.masked_fill(hidden, -math.inf).softmax(-1) @ parts[1]
        h = h + self.out(seen.movedim(1, 2).flatten(2))
        h = h + self.narrow(F.gelu(self.widen(self.norm2(h))))
        return h

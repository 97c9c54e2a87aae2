"""Sequences of symbols by masked self-attention, in the manner of GPT-2.

Notation: T symbols x_0, ..., x_{T-1}. The network reads begin, x_0, ..., x_{T-2}, so that what
comes out at position i has seen x_<i alone.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlgen.generative import heads
from rlgen.generative.autoregressive.base import Autoregressive
from rlgen.generative.model import Shape, evaluating
from rlgen.generative.support import unchecked
from rlgen.seeding import drawing_from

Past = tuple[Tensor, Tensor]  # keys and values of the positions before, each (B, heads, t, width')


class CausalTransformer(Autoregressive):
    """A decoder-only transformer over sequences of symbols.

    Pre-normalised residual blocks over learned symbol and position embeddings:
        h <- h + attention(norm(h)),  h <- h + mlp(norm(h)),  p(x_i | x_<i) = softmax(W norm(h_i))
    A context is added to the begin token, which every position attends to. Sampling keeps the keys
    and values of the past, so each new symbol costs one position and not a pass over all of them.

    References:
        | Attention is all you need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
        | Language models are unsupervised multitask learners (Radford et al., 2019),
          https://openai.com/index/better-language-models

    Args:
        event_shape: T, the length of a sequence.
        symbols: x_i is one of 0, ..., symbols - 1.
        width: of the residual stream.
        layers: blocks, each attention and an MLP.
        attention_heads: of each attention; they share the width, so they must divide it.
        context_shape: of the context, or None.

    Example:
        >>> import torch
        >>> from rlgen.generative import CausalTransformer
        >>> model = CausalTransformer(6, symbols=5, width=16)
        >>> model.log_prob(torch.zeros(3, 6, dtype=torch.long)).shape
        torch.Size([3])
        >>> model.extend(torch.tensor([[4, 1]]), top_k=2, generator=0).shape
        torch.Size([1, 6])
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        symbols: int = 2,
        width: int = 64,
        layers: int = 2,
        attention_heads: int = 4,
        context_shape: Shape | None = None,
    ) -> None:
        if symbols < 2:
            raise ValueError(f"'symbols' must be at least 2, got {symbols}")
        for name, value in (("width", width), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name!r} must be positive, got {value}")
        if attention_heads < 1 or width % attention_heads:
            raise ValueError(f"'attention_heads' must divide {width}, got {attention_heads}")
        super().__init__(event_shape, heads.Categorical(symbols), context_shape)
        if len(self.event_shape) != 1:
            raise ValueError(f"'event_shape' must be one length, got {tuple(self.event_shape)}")
        self.symbols = symbols
        self.begin = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(self.event_shape[0], width))
        self.embedding = nn.Embedding(symbols, width)
        self.from_context = (
            None if self.context_shape is None else nn.Linear(self.context_shape.numel(), width)
        )
        self.blocks = nn.ModuleList(_Block(width, attention_heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, self.head.size())
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.readout.weight, std=0.02)
        nn.init.zeros_(self.readout.bias)

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Categorical:
        logits, _ = self._read(self._begin(x.shape[0], context), x[:, :-1])
        return Categorical(logits=logits, validate_args=False)

    def next_distribution(
        self,
        prefix: Tensor,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> Categorical:
        """The distribution of the symbol after `prefix`.

        Args:
            prefix: the symbols so far, with shape (n, t) where 0 <= t < T.
            context: with shape (n, *context_shape).
            temperature: what the logits are divided by.
            top_k: how many of the likeliest symbols to keep; None keeps all.

        Returns:
            A categorical with batch shape (n,).
        """
        prefix, context = self._check_prefix(prefix, context, self.event_shape[0] - 1)
        logits, _ = self._read(self._begin(len(prefix), context), prefix)
        return _sharpened(logits[:, -1], temperature, top_k)

    @torch.no_grad()
    def extend(
        self,
        prefix: Tensor,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: int | torch.Generator | None = None,
    ) -> Tensor:
        """Complete sequences: draw the symbols after `prefix` one by one.

        Args:
            prefix: the first symbols, with shape (n, t) where 0 <= t <= T.
            context: with shape (n, *context_shape).
            temperature: what the logits are divided by: below 1 likely symbols become likelier.
            top_k: how many of the likeliest symbols to choose from; None allows all.
            generator: a seed or a `torch.Generator`.

        Returns:
            Whole sequences with shape (n, T), which begin with `prefix`.
        """
        prefix, context = self._check_prefix(prefix, context, self.event_shape[0])
        with evaluating(self), drawing_from(generator):
            return self._draw(prefix, context, temperature, top_k)[0]

    def _sample_and_log_prob(self, n: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        nothing = torch.empty(n, 0, dtype=torch.long, device=self.begin.device)
        return self._draw(nothing, context, 1.0, None)

    def _draw(
        self, prefix: Tensor, context: Tensor | None, temperature: float, top_k: int | None
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences, and the log probability of what was drawn of them."""
        log_prob = self.begin.new_zeros(len(prefix))
        drawn = [prefix]
        _check_sharpening(temperature, top_k, self.symbols)
        if prefix.shape[1] < self.event_shape[0]:
            logits, past = self._read(self._begin(len(prefix), context), prefix)
        for position in range(prefix.shape[1], self.event_shape[0]):
            choice: Distribution = _sharpened(logits[:, -1], temperature, top_k)
            symbol = choice.sample()
            log_prob = log_prob + choice.log_prob(symbol)
            drawn.append(symbol[:, None])
            if position + 1 < self.event_shape[0]:
                logits, past = self._read(None, symbol[:, None], past)
        return torch.cat(drawn, dim=1), log_prob

    def _check_prefix(
        self, prefix: Tensor, context: Tensor | None, longest: int
    ) -> tuple[Tensor, Tensor | None]:
        if prefix.ndim != 2 or prefix.shape[1] > longest:
            raise ValueError(
                f"'prefix' must have shape (batch, t) with t <= {longest}, "
                f"got {tuple(prefix.shape)}"
            )
        with unchecked() if prefix.shape[1] == 0 else nullcontext():  # no values to look at
            prefix = self.support.check("prefix", prefix, prefix.shape[1:], self.dtype)
        return prefix, self.check_context(len(prefix), context)

    def _begin(self, batch: int, context: Tensor | None) -> Tensor:
        """The begin token, with shape (B, 1, width)."""
        begin = self.begin.expand(batch, 1, -1)
        if self.from_context is None or context is None:
            return begin
        moved: Tensor = begin + self.from_context(context.flatten(1))[:, None]
        return moved

    def _read(
        self, begin: Tensor | None, x: Tensor, past: list[Past] | None = None
    ) -> tuple[Tensor, list[Past]]:
        """Logits (B, t, symbols) of the symbol after each input, and the past for the next call.

        Inputs are the begin token, if given, and the symbols x; they come after those in `past`.
        """
        tokens = self.embedding(x)
        if begin is not None:
            tokens = torch.cat([begin, tokens], dim=1)
        first = 0 if past is None else past[0][0].shape[2]
        h = tokens + self.positions[first : first + tokens.shape[1]]
        pasts: list[Past] = []
        for i, block in enumerate(self.blocks):
            h, new = block(h, None if past is None else past[i])
            pasts.append(new)
        return self.readout(self.norm(h)), pasts


class _Block(nn.Module):
    """Attention to the past and to itself, then an MLP, each added to the residual stream."""

    def __init__(self, width: int, attention_heads: int, layers: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # 2 * layers terms add up in the residual stream
        for linear in (self.out, self.narrow):
            with torch.no_grad():
                linear.weight.mul_(1.0 / math.sqrt(2 * layers))

    def forward(self, h: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        attended, past = self._attend(self.norm1(h), past)
        h = h + attended
        h = h + self.narrow(F.gelu(self.widen(self.norm2(h))))
        return h, past

    def _attend(self, h: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        qkv = self.to_qkv(h).unflatten(-1, (3, self.attention_heads, -1))
        query, key, value = qkv.movedim(1, -2).unbind(1)  # each (B, heads, t, width')
        if past is not None:
            assert h.shape[1] == 1, "after a past comes one position, which may see all of it"
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        with sdpa_kernel(SDPBackend.MATH):  # fused kernels lack second derivatives, and some vmap
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        return self.out(seen.movedim(1, 2).flatten(2)), (key, value)


def _check_sharpening(temperature: float, top_k: int | None, symbols: int) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"'temperature' must be positive and finite, got {temperature}")
    if top_k is not None and not 1 <= top_k <= symbols:
        raise ValueError(f"'top_k' must lie from 1 to {symbols}, got {top_k}")


def _sharpened(logits: Tensor, temperature: float, top_k: int | None) -> Categorical:
    _check_sharpening(temperature, top_k, logits.shape[-1])
    # relative to the largest: a tiny temperature makes -inf of the others, never inf - inf
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is not None:
        values, kept = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -math.inf).scatter(-1, kept, values)
    return Categorical(logits=logits, validate_args=False)

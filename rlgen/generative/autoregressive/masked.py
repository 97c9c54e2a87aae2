"""A masked MLP: D outputs at once, of which each sees only the dimensions before it.

Notation: the dimension that comes k-th (k = 0, ..., D - 1) has position k. Every unit has a
degree m, the number of positions that it may see: it depends on the first m of them alone. The
outputs of position k have degree k, so the first ones are constant in x. A layer lets a unit of
degree m see the units of degree <= m below it, and the input of position k from degree k + 1 on.

Hidden units are sorted by degree. Hence what a unit may see is always a leading block of the layer
below, and `unroll` can evaluate the network one position at a time, each unit once.

References:
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.generative.autoregressive.base import as_order
from rlgen.generative.nets import check_widths

Choose = Callable[[Tensor, int], Tensor]


class MaskedLinear(nn.Linear):
    """y = x (W * M)^T + b with a fixed mask M of zeros and ones, applied at every call.

    Args:
        mask: which outputs see which inputs, with shape (outputs, inputs).
        bias: whether there is a b.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        # floating: a product with booleans would convert them at every call
        self.register_buffer("mask", mask.to(self.weight), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.mask * self.weight, self.bias)


class MaskedMLP(nn.Module):
    """An autoregressive MLP. `forward` evaluates all positions at once, `unroll` one by one.

    A context enters the first hidden layer and the outputs, unmasked. With one there are hidden
    units of degree 0, so the outputs of position 0 are a network of the context.

    Args:
        dims: D, how many dimensions.
        outputs: numbers for each dimension, such as a head's size.
        width: inputs for each dimension, such as the length of a one-hot code.
        hidden: widths of the hidden layers, with ReLU; without any, the network is linear.
        order: `order[k]` is the dimension at position k; by default 0, ..., D - 1.
        context_features: numbers in a flattened context, or 0.
        direct: connect the inputs to the outputs directly, too.

    Example:
        >>> import torch
        >>> net = MaskedMLP(3, 2)
        >>> net(torch.randn(5, 3)).shape
        torch.Size([5, 3, 2])
        >>> x, outputs = net.unroll(lambda out, dim: out.sum(1, keepdim=True), 5)
        >>> bool(torch.isclose(net(x.flatten(1)), outputs, atol=1e-5).all())
        True
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        *,
        width: int = 1,
        hidden: Sequence[int] = (64, 64),
        order: Sequence[int] | None = None,
        context_features: int = 0,
        direct: bool = False,
    ) -> None:
        super().__init__()
        check_widths("hidden", hidden)
        self.dims, self.outputs, self.width = dims, outputs, width
        self.order = as_order(order, dims)
        self._position = [self.order.index(dim) for dim in range(dims)]
        lowest = 0 if context_features or dims == 1 else 1
        seen = [k + 1 for k in self._position for _ in range(width)]
        given = self._position * outputs
        between = [_spread(units, lowest, dims) for units in hidden]
        degrees = pairwise([seen, *between, given])
        layers = nn.ModuleList(MaskedLinear(_mask(a, b)) for a, b in degrees)
        self.layers = cast(Sequence[MaskedLinear], layers)
        straight = direct and len(hidden) > 0
        self.direct = MaskedLinear(_mask(seen, given), bias=False) if straight else None
        self.context_in = self.context_out = None
        if context_features:
            self.context_out = nn.Linear(context_features, dims * outputs, bias=False)
        if context_features and hidden:
            self.context_in = nn.Linear(context_features, hidden[0], bias=False)
        # _visible[l][k]: how many units of layer l have a degree of at most k; they come first
        self._visible = [[width * k for k in range(dims)]]
        self._visible += [[bisect_right(units, k) for k in range(dims)] for units in between]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """All outputs in one parallel pass.

        Args:
            x: inputs with shape (B, D * width), in the order of the data.
            context: with shape (B, *), `context_features` numbers each.

        Returns:
            Outputs with shape (B, D, outputs), in the order of the data.
        """
        h: Tensor = self.layers[0](x)
        if context is not None and self.context_in is not None:
            h = h + self.context_in(context.reshape(len(context), -1))
        for layer in self.layers[1:]:
            h = layer(F.relu(h))
        if self.direct is not None:
            h = h + self.direct(x)
        if context is not None and self.context_out is not None:
            h = h + self.context_out(context.reshape(len(context), -1))
        # all first outputs, then all second ones: each kind is one block for those who split them
        outputs: Tensor = h.unflatten(1, (self.outputs, self.dims)).transpose(1, 2)
        return outputs

    def unroll(
        self, choose: Choose, n: int, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Choose the inputs one position after another, at the cost of about one parallel pass.

        At position k only the units of degree k are new; those of lower degree are kept. It is
        differentiable if `choose` is.

        Args:
            choose: (outputs of one dimension with shape (n, outputs), the dimension) -> the inputs
                of that dimension, with shape (n, width).
            n: how many examples.
            context: as in `forward`, with B = n.

        Returns:
            The inputs with shape (n, D, width) and the outputs with shape (n, D, outputs), both in
            the order of the data: `forward` of these inputs gives these outputs.
        """
        step = self._stepper(n, context)
        known = [layer.weight.new_empty(layer.in_features, n) for layer in self.layers]
        outputs = []
        for k, dim in enumerate(self.order):
            out = step(k, known)
            outputs.append(out)
            known[0] = _put(known[0], self.width * k, choose(out, dim).T)
        inputs = known[0].unflatten(0, (self.dims, self.width))[self._position]
        return inputs.permute(2, 0, 1), torch.stack([outputs[k] for k in self._position], dim=1)

    def _stepper(self, n: int, context: Tensor | None) -> Callable[[int, list[Tensor]], Tensor]:
        """A function (k, known) -> the outputs of position k.

        `known` holds the values of each layer with shape (units, n), the inputs sorted by position;
        the function adds the hidden units of degree k to it.
        """
        columns = (self.dims, self.width)
        order = list(self.order)
        weights = [layer.weight for layer in self.layers]
        weights[0] = weights[0].unflatten(1, columns)[:, order].flatten(1)
        rows = (self.outputs, self.dims)
        last, bias = weights[-1].unflatten(0, rows), self.layers[-1].bias.unflatten(0, rows)
        direct = beside = into = None
        if self.direct is not None:
            direct = self.direct.weight.unflatten(0, rows)
            direct = direct.unflatten(2, columns)[:, :, order].flatten(2)
        if context is not None and self.context_out is not None:
            beside = self.context_out(context.reshape(len(context), -1)).unflatten(1, rows)
        if context is not None and self.context_in is not None:
            into = self.context_in(context.reshape(len(context), -1)).T.contiguous()

        def step(k: int, known: list[Tensor]) -> Tensor:
            for i, layer in enumerate(self.layers[:-1]):
                seen = self._visible[i][k]
                start, stop = self._visible[i + 1][k - 1] if k else 0, self._visible[i + 1][k]
                if start == stop:
                    continue
                offset = layer.bias[start:stop, None]
                if i == 0 and into is not None:
                    offset = offset + into[start:stop]
                new = torch.addmm(offset, weights[i][start:stop, :seen], known[i][:seen])
                known[i + 1] = _put(known[i + 1], start, F.relu(new))
            dim, seen = self.order[k], self._visible[-1][k]
            out = torch.addmm(bias[:, dim, None], last[:, dim, :seen], known[-1][:seen])
            if direct is not None:
                seen = self.width * k
                out = out + direct[:, dim, :seen] @ known[0][:seen]
            return out.T if beside is None else out.T + beside[..., dim]

        return step


def _spread(units: int, lowest: int, dims: int) -> list[int]:
    """Degrees from `lowest` to D - 1 for a hidden layer, as evenly as can be, in rising order."""
    kinds = dims - lowest
    if units >= kinds:
        return [lowest + j * kinds // units for j in range(units)]
    return [lowest + round(j * (kinds - 1) / max(units - 1, 1)) for j in range(units)]


def _mask(below: Sequence[int], above: Sequence[int]) -> Tensor:
    """Which units above (rows) may see which units below (columns), by their degrees."""
    return torch.tensor(above)[:, None] >= torch.tensor(below)


def _put(known: Tensor, start: int, rows: Tensor) -> Tensor:
    """`known` with `rows` from `start` on; later rows are unset."""
    if torch.is_grad_enabled():  # writing in place would spoil what autograd has saved
        return torch.cat([known[:start], rows])
    known[start : start + len(rows)] = rows
    return known

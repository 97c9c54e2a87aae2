"""Convolutions that look only back: at pixels above, to the left, and earlier channels.

Notation: pixels come in raster order, and all channels of a pixel before the next pixel. The
features of a pixel are C groups of equal size, one for each channel: group c may know the channels
before c of its own pixel, and all of earlier pixels.

No layer pads, so that the same layer serves the whole image (padded by the caller) and one pixel (a
window of what is already known). The last row of a kernel lies on the current pixel's row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedConv2d(nn.Conv2d):
    """A convolution whose weight is multiplied by a mask at every use.

    Args:
        mask: of the weight, with shape (outputs, inputs, rows, columns).
        groups: C; the outputs are in as many groups.

    Example:
        >>> import torch
        >>> mask = raster_mask(1, 1, (2, 3), groups=1, first=True)
        >>> mask[0, 0].long()
        tensor([[1, 1, 1],
                [1, 0, 0]])
        >>> MaskedConv2d(mask, groups=1)(torch.zeros(5, 1, 9, 10)).shape
        torch.Size([5, 1, 8, 8])
    """

    mask: Tensor

    def __init__(self, mask: Tensor, groups: int) -> None:
        outputs, inputs, rows, columns = mask.shape
        super().__init__(inputs, outputs, (rows, columns))
        self.group_size = outputs // groups
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, group: int | None = None) -> Tensor:
        """All outputs, or those of one group."""
        rows = _rows(group, self.group_size)
        assert self.bias is not None
        return F.conv2d(x, self.weight[rows] * self.mask[rows], self.bias[rows])


class Pointwise(nn.Conv2d):
    """A 1x1 convolution within each group.

    Args:
        inputs: features of one group.
        outputs: features of one group.
        groups: C.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(groups * inputs, groups * outputs, 1, groups=groups)
        self.group_size = outputs

    def forward(self, x: Tensor, group: int | None = None) -> Tensor:
        """All groups; or one, of which `x` then holds the features alone."""
        if group is None:
            return super().forward(x)
        rows = _rows(group, self.group_size)
        assert self.bias is not None
        return F.conv2d(x, self.weight[rows], self.bias[rows])


def raster_mask(
    inputs: int, outputs: int, kernel: tuple[int, int], *, groups: int, first: bool
) -> Tensor:
    """Where a kernel may look that ends on the current row: type A if `first`, else type B.

    Type A, for the layer on the data, hides the pixel's own channel; type B, for layers on
    features that do not know it, shows it.

    Args:
        inputs: features of one group.
        outputs: features of one group.
        kernel: rows and columns. The current pixel is in the last row, in column `columns // 2`
            or, if there is but one row, in the last column.
        groups: C.
        first: type A.

    Returns:
        A mask with shape (groups * outputs, groups * inputs, *kernel).
    """
    rows, columns = kernel
    centre = columns // 2 if rows > 1 else columns - 1
    channel = torch.arange(groups)
    source, target = channel.repeat_interleave(inputs), channel.repeat_interleave(outputs)
    own = source < target[:, None] if first else source <= target[:, None]
    mask = torch.ones(groups * outputs, groups * inputs, rows, columns, dtype=torch.bool)
    mask[:, :, -1, centre] = own
    mask[:, :, -1, centre + 1 :] = False
    return mask


def rows_above_mask(inputs: int, outputs: int, kernel: tuple[int, int], *, first: bool) -> Tensor:
    """Where the vertical stack looks: whole rows; if `first`, only those above the current one.

    Args:
        inputs: features of all groups.
        outputs: features of all groups.
        kernel: rows and columns.
        first: whether this is the layer on the data.

    Returns:
        A mask with shape (outputs, inputs, *kernel).
    """
    mask = torch.ones(outputs, inputs, *kernel, dtype=torch.bool)
    if first:
        mask[:, :, -1] = False
    return mask


def _rows(group: int | None, size: int) -> slice:
    return slice(None) if group is None else slice(group * size, (group + 1) * size)

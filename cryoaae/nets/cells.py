"""Means over cells and products at points, in the order in which convolutions on a CPU keep their channels.

With channels last torch's pooling of volumes and its convolutions of one voxel reorder their input and their output,
which takes longer than the arithmetic: together a third of a pass of the restorer. Its pooling of images does not.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


def halved(x: Tensor) -> Tensor:
    """Mean over cells of 2 x 2 x 2 voxels, (b, c, z, y, x) -> (b, c, z / 2, y / 2, x / 2); even sizes."""
    for axis in (2, 3, 4):
        ahead = (slice(None),) * axis
        x = x[(*ahead, slice(0, None, 2))] + x[(*ahead, slice(1, None, 2))]
    return x / 8


def window_mean(x: Tensor, width: int) -> Tensor:
    """Mean over windows of `width` voxels an axis, odd, of (b, c, z, y, x); fewer at faces and on short axes."""
    for axis in (1, 2, 3):
        last = x.movedim(1, -1)
        n = last.shape[axis]
        window = min(width, n - 1 + n % 2)
        # An image whose rows are the voxels along the axis, and whose columns are all that lie beside each other.
        image = last.reshape(math.prod(last.shape[:axis]), n, -1, last.shape[-1]).movedim(-1, 1)
        mean = nn.functional.avg_pool2d(image, (window, 1), 1, (window // 2, 0), count_include_pad=False)
        x = mean.movedim(1, -1).reshape(last.shape).movedim(-1, 1)
    return x


def pointwise(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution of one voxel, (b, c, z, y, x) -> (b, outputs, z, y, x), as a product of matrices."""
    assert isinstance(convolution, nn.Conv3d)  # also out of a list of modules
    product = nn.functional.linear(x.movedim(1, -1), convolution.weight.flatten(1), convolution.bias)
    return product.movedim(-1, 1)

"""Layers over a large volume box by box, so that what they hold in between does not grow with it.

A block of convolutions reaches a few voxels, a network tens of them. Cut block by block, halos are thin: a tile of the
whole network that takes the same memory would see several times as many voxels as it restores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cryoaae.patches.tiling import Tile, TileGrid

# Voxels of the boxes that are made together, at most, halos among them.
BOX_VOXELS = 1 << 21
# On CPUs torch takes its slow convolution for a single volume of this size with few channels, and its fast one for two.
TOGETHER = 2


def in_boxes(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], *, reach: int, most_voxels: int | None = None
) -> Tensor:
    """Apply a local function to volumes; the same as on the whole, but for rounding.

    Where gradients are wanted, or the volumes are small, it is applied to the whole.

    Parameters
    ----------
    function : callable
        Of boxes (b, c, z, y, x) of all inputs, to (b, channels, z, y, x) of the first's size.
    inputs : sequence of Tensor
        The first on the grid of the result; others on the same or on one coarser by a factor of two.
    reach : int
        How far the function looks, in voxels of the first.
    most_voxels : int, optional
        Default: `BOX_VOXELS`.
    """
    z, y, x = inputs[0].shape[-3:]
    most = BOX_VOXELS if most_voxels is None else most_voxels
    if torch.is_grad_enabled() or math.prod((z, y, x)) <= most:
        return function(*inputs)
    coarsest = max(z // other.shape[-3] for other in inputs)
    grid, count = TileGrid((z, y, x), reach, coarsest), len(inputs[0])
    tiles, out = grid.tiles(grid.choose_core(most // TOGETHER)), None
    together = TOGETHER if count == 1 else 1
    for start in range(0, len(tiles), together):
        some = tiles[start : start + together]
        made = function(*(_cut(other, some, z // other.shape[-3]) for other in inputs))
        if out is None:
            size, last = (count, made.shape[1], z, y, x), torch.channels_last_3d
            out = torch.empty(size, dtype=made.dtype, device=made.device, memory_format=last)
        for tile, part in zip(some, made.split(count), strict=True):
            (to_z, to_y, to_x), (from_z, from_y, from_x) = tile.core_slices, tile.inner_slices
            out[..., to_z, to_y, to_x] = part[..., from_z, from_y, from_x]
    assert out is not None  # a volume has voxels
    return out


def _cut(volume: Tensor, tiles: Sequence[Tile], factor: int) -> Tensor:
    """What tiles read of a volume on a grid that is coarser by `factor`, one after the other."""
    parts = []
    for tile in tiles:
        z, y, x = (slice(a // factor, b // factor) for a, b in tile.read)
        parts.append(volume[..., z, y, x])
    return torch.cat(parts).contiguous(memory_format=torch.channels_last_3d)

"""Where in a tomogram patches are taken from, if not everywhere alike: where there is something to learn.

Half of a thin specimen's tomogram is vacuum; patches of it teach little. Cells of a few working voxels get shares, by
which they are drawn: those of a mask, or, without one, by what the two halves have in common there,

    s = <a b> - <a> <b>     a, b: halves, means over the cell; of a single volume its variance, noise taken off
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cryoaae.physics.rotation import OVERSAMPLING
from cryoaae.volume import Volume

CELL = 8  # working voxels
# A cell shows structure if it has so much of what the cells have that show the most (a quantile of them).
STRUCTURE_SHARE, MOST = 0.2, 0.9
# Of cells that show none: what empty ice looks like has to be learned, too.
EMPTY_SHARE = 0.1
# Quantile of cells that are noise alone, of a single volume.
QUIET = 0.05


@dataclass(frozen=True)
class Places:
    """Shares of the cells of a tomogram.

    Parameters
    ----------
    shares : (cells_z, cells_y, cells_x)
        Between 0 and 1, not all 0.
    shape_zyx : tuple of int
        Size of the tomogram in working voxels.
    """

    shares: Tensor
    shape_zyx: tuple[int, int, int]

    @classmethod
    def of_mask(cls, mask: Volume, working_bin: int, shape_zyx: tuple[int, int, int]) -> Places:
        """Of each cell the share that a mask (above one half) covers; read slab by slab."""
        edge = CELL * working_bin
        cells = [math.ceil(n / edge) for n in mask.shape]
        starts = [np.arange(count) * edge for count in cells]
        everything = slice(None)
        covered = np.empty(cells, np.float32)
        for index, start in enumerate(starts[0]):
            inside = mask.block(slice(int(start), int(start) + edge), everything, everything) > 0.5
            rows = np.add.reduceat(inside.sum(axis=0, dtype=np.float32), starts[1], axis=0)
            sums = np.add.reduceat(rows, starts[2], axis=1)
            sizes = [np.minimum(edge, n - s) for n, s in zip(mask.shape[1:], starts[1:], strict=True)]
            covered[index] = sums / (len(inside) * sizes[0][:, None] * sizes[1][None])
        counted = tuple(math.ceil(n / CELL) for n in shape_zyx)
        return cls(torch.from_numpy(covered)[: counted[0], : counted[1], : counted[2]], shape_zyx)

    @classmethod
    def of_structure(cls, density: Tensor, shape_zyx: tuple[int, int, int]) -> Places:
        """By what is seen: 1 where there is structure or beside it, else `EMPTY_SHARE`.

        Parameters
        ----------
        density : (c, z, y, x)
            Halves or the single volume, on the source grid.
        shape_zyx : tuple of int
            In working voxels.
        """
        edge = CELL * OVERSAMPLING
        slabs = [_common(density[:, z : z + edge], edge) for z in range(0, density.shape[1], edge)]
        common = torch.cat(slabs)
        # With its neighbours: noise counts less, and what lies beside structure is taken, too.
        wide = F.avg_pool3d(common[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
        if len(density) == 1:
            wide = wide - torch.quantile(wide.flatten(), QUIET)
        shows = wide > STRUCTURE_SHARE * torch.quantile(wide.flatten(), MOST)
        return cls(torch.where(shows, 1.0, EMPTY_SHARE), shape_zyx)

    @property
    def volume(self) -> float:
        """What is covered, in working voxels."""
        return float(self.shares.double().mean()) * math.prod(self.shape_zyx)

    def share(self, box: Tensor) -> float:
        """Mean share of a box: first and last working voxel + 1, (2, 3)."""
        low = (box[0] / CELL).floor().long().tolist()
        high = (box[1] / CELL).ceil().long().tolist()
        z, y, x = (slice(a, max(b, a + 1)) for a, b in zip(low, high, strict=True))
        return float(self.shares[z, y, x].mean())

    def draw(self, generator: torch.Generator) -> Tensor:
        """A place (3,) in working voxels: a cell by its share, anywhere in it."""
        cell = torch.multinomial(self.shares.flatten(), 1, generator=generator)
        index = torch.tensor(np.unravel_index(int(cell), self.shares.shape))
        last = torch.tensor(self.shape_zyx) - 1
        return torch.minimum(CELL * index + CELL * torch.rand(3, generator=generator), last.float())


def _common(slab: Tensor, edge: int) -> Tensor:
    """Covariance of the halves, or variance, in the cells of a slab (c, z, y, x): (1, cells_y, cells_x)."""
    a, b = slab[0], slab[-1]
    cell = (len(a), edge, edge)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool3d(values[None, None], cell, cell, ceil_mode=True)[0, 0]

    return mean(a * b) - mean(a) * mean(b)

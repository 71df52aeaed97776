"""Tiles for restoring, and how a volume is continued beyond its faces.

Restoring works on a periodic continuation of the volume: past each face its reflection, cross-faded
in the middle of the gap with the reflection at the opposite face. The continuation is smooth all
around, so that Fourier resampling rings nowhere, and the network sees reflected density at faces.
Only the network is tiled. Its tiles overlap by its receptive field and are cropped to their cores,
so the result does not depend on where the tiles lie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.volume import Volume

# A tile is large enough when halos make the network's work less than this many times the volume's.
GOOD_OVERHEAD = 1.25


def reflect_indices(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Map positions on the whole axis into 0 .. size - 1 by reflection, however far outside."""
    period = max(2 * size - 2, 1)
    folded = np.abs(positions) % period
    return np.where(folded >= size, period - folded, folded)


def read_reflected(volume: Volume, intervals: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Read a block, (z, y, x) float64, that may reach outside the volume; outside it is reflected.

    Parameters
    ----------
    intervals : three (start, stop)
        Voxels along z, y, x; negative starts and stops past the end are all right.
    """
    indices = [reflect_indices(np.arange(a, b), n) for (a, b), n in zip(intervals, volume.shape, strict=True)]
    low = [int(i.min()) for i in indices]
    read = volume.data[tuple(slice(a, int(i.max()) + 1) for a, i in zip(low, indices, strict=True))]
    block: NDArray[np.float64] = np.asarray(read, dtype=np.float64)
    for axis, (start, stop) in enumerate(intervals):
        if start < 0 or stop > volume.shape[axis]:
            block = block.take(indices[axis] - low[axis], axis=axis)
    return block


@dataclass(frozen=True)
class PaddedAxis:
    """One axis of the periodic continuation.

    Parameters
    ----------
    size : int
        Voxels of the volume.
    before : int
        Voxels of the continuation ahead of the volume, a multiple of the working binning.
    padded : int
        Period in voxels, a multiple of the working binning.
    """

    size: int
    before: int
    padded: int

    @classmethod
    def plan(cls, size: int, *, working_bin: int, multiple: int, pad: int) -> PaddedAxis:
        """Pad by at least `pad` working voxels at each face, to a fast FFT size that suits the network."""
        working = fast_size(math.ceil(size / working_bin) + 2 * pad, multiple)
        return cls(size, pad * working_bin, working * working_bin)

    def sources(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """For each padded voxel: two voxels of the volume, and the weight of the second."""
        position = np.arange(self.padded) - self.before
        gap = self.padded - self.size
        # Gap voxels count 1 .. gap from the far face, whichever end of the array they stand at.
        step = np.where(position < 0, position + gap + 1, position - self.size + 1)
        inside = (position >= 0) & (position < self.size)
        blend = np.where(inside, 0.0, 0.5 - 0.5 * np.cos(np.pi * step / (gap + 1)))
        past_end = np.where(inside, position, self.size - 1 + step)
        ahead = np.where(inside, position, step - gap - 1)
        return (
            reflect_indices(past_end, self.size),
            reflect_indices(ahead, self.size),
            blend.astype(np.float32),
        )

    def extend(self, array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Continue an array along one axis, `size` -> `padded`."""
        first, second, blend = self.sources()
        core = slice(self.before, self.before + self.size)
        out = np.empty((*array.shape[:axis], self.padded, *array.shape[axis + 1 :]), np.float32)
        gap = np.delete(np.arange(self.padded), core)
        weight = blend[gap].reshape([-1 if d == axis else 1 for d in range(array.ndim)])
        ahead: tuple[Any, ...] = (slice(None),) * axis
        out[(*ahead, core)] = array
        faded = array.take(first[gap], axis=axis) * (1 - weight)
        out[(*ahead, gap)] = faded + array.take(second[gap], axis=axis) * weight
        return out


def _products(axes: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Products of all numbers along z with all along y and x, (z, y, x)."""
    z, y, x = (numbers.astype(np.float64) for numbers in axes)
    return z[:, None, None] * y[:, None] * x


def fast_size(least: int, multiple: int = 1) -> int:
    """The smallest size from `least` on, a multiple of `multiple`, whose FFT splits into radices up to 7."""
    size = least
    while size % multiple or not _fast(size):
        size += 1
    return size


def _fast(n: int) -> bool:
    """Whether an FFT of this size splits into radices up to 7."""
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


@dataclass(frozen=True)
class Tile:
    """A tile of a grid: what it reads and the core it writes, as three (start, stop) in voxels."""

    core: tuple[tuple[int, int], ...]
    read: tuple[tuple[int, int], ...]

    @property
    def read_slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in self.read)

    @property
    def core_slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in self.core)

    @property
    def inner_slices(self) -> tuple[slice, ...]:
        """The core within what was read."""
        return tuple(slice(a - r, b - r) for (a, b), (r, _) in zip(self.core, self.read, strict=True))

    @property
    def read_shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in self.read)

    @property
    def core_voxels(self) -> int:
        return math.prod(b - a for a, b in self.core)


@dataclass(frozen=True)
class TileGrid:
    """How a padded volume is cut into tiles.

    Parameters
    ----------
    shape : (z, y, x)
        Voxels; multiples of `multiple`.
    halo : int
        Receptive-field radius of the network.
    multiple : int
        Tiles start, and have sizes, at multiples of this, so that pooling sees the same cells.
    """

    shape: tuple[int, int, int]
    halo: int
    multiple: int

    def __post_init__(self) -> None:
        if any(n % self.multiple for n in self.shape):
            raise ValueError(f"shape {self.shape} is not a multiple of {self.multiple}")

    @property
    def reach(self) -> int:
        """Halo rounded up to the multiple."""
        return math.ceil(self.halo / self.multiple) * self.multiple

    def tile(self, core: Sequence[tuple[int, int]], lengths: Sequence[int] | None = None) -> Tile:
        """Tile with this core, reading at least a halo around it, within the volume.

        Parameters
        ----------
        core : three (start, stop)
        lengths : (z, y, x), optional
            Core of the largest tile of the grid. At the faces tiles read further inwards instead of
            less: when all have one size they batch, and libraries cache buffers for that one alone.
        """
        read = []
        for axis, ((start, stop), n) in enumerate(zip(core, self.shape, strict=True)):
            length = min(n, (stop - start if lengths is None else lengths[axis]) + 2 * self.reach)
            first = min(max(0, start - self.reach), n - length)
            read.append((first, first + length))
        return Tile(tuple(core), tuple(read))

    def tiles(self, core: Sequence[int], *, shift: int = 0) -> list[Tile]:
        """Cut into tiles of `core` voxels (z, y, x), the grid shifted by `shift` voxels.

        Cores cover every voxel once.
        """
        axes = []
        for n, size in zip(self.shape, core, strict=True):
            if size <= 0 or size % self.multiple or shift % self.multiple:
                raise ValueError(f"tile {size} shifted by {shift}: need multiples of {self.multiple}")
            first = shift % size
            cuts = [0, *range(first or size, n, size), n]
            axes.append(list(itertools.pairwise(cuts)))
        return [self.tile(corner, core) for corner in itertools.product(*axes)]

    def split(self, tile: Tile) -> list[Tile]:
        """Cut a tile in two along its longest axis; one tile when it is too small to cut."""
        lengths = [b - a for a, b in tile.core]
        axis = int(np.argmax(lengths))
        if lengths[axis] < 2 * self.multiple:
            return [tile]
        start, stop = tile.core[axis]
        middle = start + max(1, lengths[axis] // (2 * self.multiple)) * self.multiple
        halves = ((start, middle), (middle, stop))
        return [self.tile((*tile.core[:axis], half, *tile.core[axis + 1 :])) for half in halves]

    def choose_core(self, voxel_budget: float) -> tuple[int, int, int]:
        """Choose the core (z, y, x) with which tiles read least in all; among those that read little, the smallest.

        A thin axis is not cut: a halo there would cost most.

        Parameters
        ----------
        voxel_budget : float
            Most voxels a tile may read. Where no tile reads so few, the smallest.
        """
        sizes = [self._sizes(n) for n in self.shape]
        reads = [np.minimum(n, size + 2 * self.reach) for n, size in zip(self.shape, sizes, strict=True)]
        counts = [-(-n // size) for n, size in zip(self.shape, sizes, strict=True)]
        read = _products(reads)
        total = read * _products(counts)
        total[read > voxel_budget] = np.inf
        if not np.isfinite(total).any():
            at = np.unravel_index(np.argmin(read), read.shape)
        else:
            enough = total <= max(float(total.min()), GOOD_OVERHEAD * math.prod(self.shape))
            at = np.unravel_index(np.argmin(np.where(enough, read, np.inf)), read.shape)
        z, y, x = (int(size[i]) for size, i in zip(sizes, at, strict=True))
        return z, y, x

    def _sizes(self, n: int) -> NDArray[np.int64]:
        """Sizes of cores that share an axis out evenly, from one core to as many as there may be."""
        unit = 2 * self.multiple  # half a tile is a multiple too
        counts = np.arange(1, max(1, n // unit) + 1)
        return np.unique(-(-n // (counts * unit)) * unit)

    def read_voxels(self, core: Sequence[int]) -> int:
        """Voxels that a tile with such a core (z, y, x) reads."""
        return math.prod(min(n, c + 2 * self.reach) for n, c in zip(self.shape, core, strict=True))


def whole_shape(axes: Sequence[PaddedAxis], working_bin: int) -> tuple[int, int, int]:
    """Size of the continuation on the working grid, (z, y, x)."""
    z, y, x = (axis.padded // working_bin for axis in axes)
    return z, y, x


def extend_plane(plane: NDArray[Any], axes: Sequence[PaddedAxis]) -> NDArray[np.float32]:
    """Continue one plane (y, x) along y and x."""
    return axes[2].extend(axes[1].extend(plane.astype(np.float32), 0), 1)

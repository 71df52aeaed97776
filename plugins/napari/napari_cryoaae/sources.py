"""Volumes as the panels see them: sums of arrays, read a slab or a block at a time.

A mean over a slab is linear, and so is the measured part of a volume: the residual (input less
restored) and the mean of two halves need no volume of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The axis that each plane is a slab of.
PLANES = {"xy": 0, "xz": 1, "yz": 2}
# A tile around the cursor: its core, and what is read around it, in voxels.
CORE, MARGIN = 96, 32


@dataclass(frozen=True)
class Source:
    """A weighted sum of arrays (z, y, x) of one shape; `offset_zyx` says where a piece of a volume lies."""

    title: str
    parts: tuple[tuple[float, NDArray[Any]], ...]
    offset_zyx: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.parts[0][1].shape
        return int(z), int(y), int(x)

    def block(self, slices_zyx: Sequence[slice]) -> NDArray[np.float32]:
        """A block (z, y, x) float32, without reading the rest."""
        total = np.zeros([len(range(*s.indices(n))) for s, n in zip(slices_zyx, self.shape, strict=True)], np.float32)
        for weight, data in self.parts:
            total += np.float32(weight) * np.asarray(data[tuple(slices_zyx)], np.float32)
        return total

    def slab(self, plane: str, index: int, thickness: int) -> NDArray[np.float32]:
        """Mean over a slab around an index of the whole volume: (y, x), (z, x) or (z, y).

        `thickness` is in voxels; what reaches outside is left out, and a slab wholly outside is empty.
        """
        axis = PLANES[plane]
        first, last = slab_bounds(index - self.offset_zyx[axis], thickness, self.shape[axis])
        slices = [slice(None)] * 3
        slices[axis] = slice(first, last)
        if first >= last:
            return np.full([n for a, n in enumerate(self.shape) if a != axis], np.nan, np.float32)
        return self.block(slices).mean(axis=axis, dtype=np.float32)


def slab_bounds(index: int, thickness: int, size: int) -> tuple[int, int]:
    """First voxel of a slab around an index and the one after its last, inside an axis of `size`."""
    first = index - (thickness - 1) // 2
    return min(max(first, 0), size), min(max(first + thickness, 0), size)


def mean_of(title: str, volumes: Sequence[NDArray[Any]]) -> Source:
    """The mean of some volumes."""
    return Source(title, tuple((1.0 / len(volumes), volume) for volume in volumes))


def difference(title: str, one: Source, other: Source) -> Source:
    """One less the other."""
    return Source(title, one.parts + tuple((-weight, data) for weight, data in other.parts))


@dataclass(frozen=True)
class Window:
    """Where a tile lies: what is read (`outer`) and what of it is good (`inner`), in voxels of the volume."""

    outer: tuple[slice, slice, slice]
    inner: tuple[slice, slice, slice]

    def contains(self, index_zyx: Sequence[int]) -> bool:
        return all(s.start <= i < s.stop for s, i in zip(self.inner, index_zyx, strict=True))


def window_around(
    index_zyx: Sequence[int], shape_zyx: Sequence[int], *, core: int = CORE, margin: int = MARGIN
) -> Window:
    """The window of `core` plus two margins around a voxel, moved inside the volume and no larger than it."""
    outer, inner = [], []
    for index, size in zip(index_zyx, shape_zyx, strict=True):
        width = min(core + 2 * margin, size)
        start = min(max(index - width // 2, 0), size - width)
        outer.append(slice(start, start + width))
        # At a face of the volume nothing is missing beyond, so the core reaches it.
        low = 0 if start == 0 else start + margin
        inner.append(slice(low, size if start + width == size else start + width - margin))
    return Window((outer[0], outer[1], outer[2]), (inner[0], inner[1], inner[2]))

"""Volumes as the panels see them: sums of arrays, read a slab or a block at a time.

A mean over a slab is linear, and so is the measured part of a volume: the residual (input less
restored) and the mean of two halves need no volume of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The axis that each plane is a slab of.
PLANES = {"xy": 0, "xz": 1, "yz": 2}
# Axes (z, y, x) that run down and across each plane.
DOWN_ACROSS = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}
# A tile around the cursor: its core, and what is read around it, in voxels.
CORE, MARGIN = 96, 32


@dataclass(frozen=True, eq=False)
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

    def sampled(self, points_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
        """Densities at places (..., 3) of the whole volume, trilinear; NaN further out than half a voxel."""
        last = np.array(self.shape) - 1
        own = points_zyx - np.array(self.offset_zyx)
        outside = ((own < -0.5) | (own > last + 0.5)).any(axis=-1)
        own = np.clip(own, 0, last)
        low = np.minimum(own.astype(np.intp), np.maximum(last - 1, 0))
        shift = (own - low).astype(np.float32)
        total = np.zeros(own.shape[:-1], np.float32)
        # Only what is asked for is read of a mapped file; a layer that computes its voxels computes them all.
        arrays = [(np.float32(weight), np.asarray(data)) for weight, data in self.parts]
        for corner in product((0, 1), repeat=3):
            share = np.prod([shift[..., a] if up else 1 - shift[..., a] for a, up in enumerate(corner)], axis=0)
            index = tuple(np.minimum(low[..., a] + up, last[a]) for a, up in enumerate(corner))
            for weight, data in arrays:
                total += weight * share * data[index].astype(np.float32)
        total[outside] = np.nan
        return total


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
class SlabCut:
    """A slab of a volume's grid across one of its axes, `thickness` voxels around an index."""

    plane: str
    index: int
    thickness: int

    def of(self, source: Source) -> NDArray[np.float32]:
        """The picture (down, across)."""
        return source.slab(self.plane, self.index, self.thickness)

    def rect(self, source: Source) -> tuple[float, float, float, float]:
        """Where the picture lies in its view: left, top, width, height."""
        down, across = DOWN_ACROSS[self.plane]
        return source.offset_zyx[across], source.offset_zyx[down], source.shape[across], source.shape[down]

    def crosshair(self, place_zyx: Sequence[int]) -> tuple[float, float]:
        """Where the middle of a voxel lies in the view, down and across."""
        down, across = DOWN_ACROSS[self.plane]
        return place_zyx[down] + 0.5, place_zyx[across] + 0.5

    def place(self, down: float, across: float, near_zyx: Sequence[int]) -> tuple[int, int, int]:
        """The voxel at a place of the view; across the plane that of `near_zyx`."""
        place = list(near_zyx)
        for axis, value in zip(DOWN_ACROSS[self.plane], (down, across), strict=True):
            place[axis] = int(np.floor(value))
        z, y, x = place
        return z, y, x


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

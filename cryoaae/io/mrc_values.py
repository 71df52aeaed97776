"""Looking through the voxels of a volume, slab by slab, before anything is computed from them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError

log = logging.getLogger("cryoaae")

SLAB_VOXELS = 4_000_000
MEDIAN_SAMPLE = 1_000_000
NONFINITE_LIMIT = 0.01
# In float32, a constant 1000.1 has a spread of 3e-4: "constant" is relative to the mean.
RELATIVE_SPREAD_LIMIT = 1e-6


@dataclass(frozen=True)
class Statistics:
    """Float64 statistics of the finite voxels, and what is not finite.

    `first_nonfinite_zyx` is None where every voxel is finite.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    nonfinite: int = 0
    first_nonfinite_zyx: tuple[int, int, int] | None = None


def slabs(data: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first z, block of whole sections) of a (z, y, x) array, a few million voxels each."""
    depth = max(1, SLAB_VOXELS // max(1, data.shape[1] * data.shape[2]))
    for start in range(0, data.shape[0], depth):
        yield start, data[start : start + depth]


def measure(data: NDArray[Any]) -> Statistics:
    """Statistics of a (z, y, x) array of any real type, in float64, reading it once by slabs."""
    count, mean, square = 0, 0.0, 0.0
    low, high = float("inf"), float("-inf")
    nonfinite, first = 0, None
    for start, slab in slabs(data):
        with np.errstate(invalid="ignore"):  # signalling NaNs
            values = np.asarray(slab, dtype=np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            if first is None:
                z, y, x = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
                first = (start + z, y, x)
            nonfinite += int(finite.size - np.count_nonzero(finite))
            values = values[finite]
        if values.size == 0:
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        # Merging of means and squared deviations (Chan et al. 1979): stable for large offsets.
        slab_mean = float(values.mean())
        slab_square = float(np.square(values - slab_mean).sum())
        total, shift = count + values.size, slab_mean - mean
        square += slab_square + shift * shift * count * values.size / total
        mean += shift * values.size / total
        count = total
    std = float(np.sqrt(square / count)) if count else 0.0
    return Statistics(mean, std, low, high, nonfinite, first)


def check_values(
    path: Path, data: NDArray[Any], *, fill_nonfinite: bool, allow_constant: bool = False
) -> Statistics:
    """Measure a volume and refuse what cannot be restored; fills non-finite voxels in place on request.

    Raises
    ------
    InputError
        For non-finite voxels (always above 1 %), and for a constant volume.
    """
    found = measure(data)
    if found.nonfinite:
        share = found.nonfinite / data.size
        first = found.first_nonfinite_zyx
        problem = f"{found.nonfinite} non-finite voxels ({share:.2%}), first at (z, y, x) = {first}"
        if share > NONFINITE_LIMIT:
            raise InputError(path, problem, "too many to fill; reconstruct the tomogram again")
        if not fill_nonfinite:
            raise InputError(path, problem, "reconstruct again, or give --fill-nonfinite")
        median = fill_with_median(data)
        log.warning("%s: %s; filled with the median %.6g", path, problem, median)
        found = measure(data)
    if not allow_constant and found.std <= RELATIVE_SPREAD_LIMIT * abs(found.mean):
        raise InputError(
            path, f"constant volume (mean {found.mean:.6g}, standard deviation {found.std:.3g})",
            "give a tomogram with contrast",
        )  # fmt: skip
    return found


def fill_with_median(data: NDArray[Any]) -> float:
    """Put the median of (a regular sample of) the finite voxels where voxels are not finite, in place."""
    stride = max(1, round((data.size / MEDIAN_SAMPLE) ** (1 / 3)))
    sample = np.asarray(data[::stride, ::stride, ::stride], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    median = float(np.median(sample)) if sample.size else 0.0
    for _, slab in slabs(data):
        bad = ~np.isfinite(slab)
        if bad.any():
            slab[bad] = median
    return median


def same_values(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two (z, y, x) arrays hold the same numbers; stops at the first slab that differs."""
    if first.shape != second.shape:
        return False
    pairs = zip(slabs(first), slabs(second), strict=True)
    return all(np.array_equal(a, b) for (_, a), (_, b) in pairs)

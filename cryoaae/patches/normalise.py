"""The normalisation that fitting and restoring share: mean and scale of the working-grid density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.patches.tiling import read_reflected
from cryoaae.physics.resample import to_working_grid
from cryoaae.volume import Volume

# Blocks for the scale: core and margin in working voxels, and how many are enough for any volume.
CORE, MARGIN, BLOCKS = 64, 8, 27
# Below this share of the offset a deviation is float32 rounding, not density.
CONSTANT = 1e-6
# Halves that differ by less than this share of the density are taken for copies without noise.
SILENT = 1e-2


@dataclass(frozen=True)
class Normalisation:
    """Affine map between densities in the tomogram's units and network input.

    Parameters
    ----------
    mean : float
        Mean density, in the tomogram's units.
    scale : float
        Standard deviation of the band-limited (working-grid) density, in the tomogram's units.
    """

    mean: float
    scale: float

    def apply(self, density: NDArray[Any]) -> NDArray[np.float32]:
        """Density in the tomogram's units to network input; the offset goes in float64."""
        shifted: NDArray[np.float32] = np.subtract(density, self.mean, dtype=np.float64).astype(np.float32)
        shifted *= np.float32(1 / self.scale)
        return shifted

    def undo(self, density: NDArray[np.float32]) -> NDArray[np.float32]:
        """Network output back to the tomogram's units; the inverse of `apply`."""
        return (density * np.float64(self.scale) + self.mean).astype(np.float32)


def measure_normalisation(volume: Volume, working_bin: int) -> Normalisation:
    """Measure mean and scale of one volume, reading it piece by piece.

    Sums are float64. The scale comes from at most `BLOCKS` blocks spread evenly over the volume.

    Raises
    ------
    InputError
        When the volume is constant.
    """
    mean, raw = _moments(volume)
    source = volume.source or volume.name
    if not math.isfinite(raw) or raw <= CONSTANT * abs(mean):
        raise InputError(source, f"the density is constant ({mean:g})", "give a tomogram with contrast")
    edge = CORE * working_bin
    total = squares = count = 0.0
    for corner in _corners(volume, edge):
        values = _working_block(volume, corner, edge, working_bin, mean, raw)
        total, squares, count = total + values.sum(), squares + (values**2).sum(), count + values.size
    scale = raw * math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    if scale <= CONSTANT * max(abs(mean), raw):
        raise InputError(source, "the density is constant at the working resolution", "use a smaller binning")
    return Normalisation(mean, scale)


def shared_normalisation(
    volumes: Sequence[Volume], working_bin: int, *, noise_share: float = 0.0
) -> Normalisation:
    """Measure one normalisation for the halves of a tomogram: mean of means, rms of scales.

    With a `noise_share` the noise of one half, from the difference of the two, is brought to that
    many units instead, so that silence and structure have the loudness a network learned.
    """
    each = [measure_normalisation(volume, working_bin) for volume in volumes]
    shared = Normalisation(
        sum(n.mean for n in each) / len(each), math.sqrt(sum(n.scale**2 for n in each) / len(each))
    )
    if noise_share <= 0 or len(volumes) != 2:
        return shared
    return by_noise(shared, measure_noise(volumes, working_bin, shared), noise_share)


def by_noise(normalisation: Normalisation, noise: float, noise_share: float) -> Normalisation:
    """Scale that brings noise of this deviation to `noise_share`; unchanged where there is none."""
    if noise < SILENT * normalisation.scale:
        return normalisation
    return Normalisation(normalisation.mean, noise / noise_share)


def noise_share_of(normalisation: Normalisation, noise: float) -> float:
    """Noise of one half over its density, standard deviations; 0 where there is none."""
    share = noise / normalisation.scale
    return share if share >= SILENT else 0.0


def measure_noise(halves: Sequence[Volume], working_bin: int, normalisation: Normalisation) -> float:
    """Standard deviation of one half's noise on the working grid, in the tomogram's units."""
    edge = CORE * working_bin
    squares = count = 0.0
    for corner in _corners(halves[0], edge):
        even, odd = (
            _working_block(half, corner, edge, working_bin, normalisation.mean, normalisation.scale)
            for half in halves
        )
        squares, count = squares + ((even - odd) ** 2).sum() / 2, count + even.size
    return normalisation.scale * math.sqrt(squares / count)


def _corners(volume: Volume, edge: int) -> list[list[int]]:
    """Corners of at most `BLOCKS` blocks spread evenly over a volume."""
    cells = [math.ceil(n / edge) for n in volume.shape]
    chosen = np.unique(np.linspace(0, math.prod(cells) - 1, BLOCKS).round().astype(int))
    return [[int(i) * edge for i in np.unravel_index(flat, cells)] for flat in chosen]


def _moments(volume: Volume) -> tuple[float, float]:
    """Mean and standard deviation in float64, a few planes at a time, deviations about a first guess."""
    step = max(1, (1 << 22) // max(1, volume.shape[1] * volume.shape[2]))
    pivot = float(np.asarray(volume.data[0], dtype=np.float64).mean())
    total = squares = 0.0
    for z in range(0, volume.shape[0], step):
        deviation = np.asarray(volume.data[z : z + step], dtype=np.float64) - pivot
        total += float(deviation.sum())
        squares += float((deviation**2).sum())
    count = math.prod(volume.shape)
    return pivot + total / count, math.sqrt(max(squares / count - (total / count) ** 2, 0.0))


def _working_block(
    volume: Volume, corner: list[int], edge: int, working_bin: int, mean: float, raw: float
) -> NDArray[np.float64]:
    """Core of one block on the working grid, less `mean`, in units of `raw`; (z, y, x) float64."""
    margin = MARGIN * working_bin
    stops = [
        min(a + edge, math.ceil(n / working_bin) * working_bin)
        for a, n in zip(corner, volume.shape, strict=True)
    ]
    block = read_reflected(volume, [(a - margin, b + margin) for a, b in zip(corner, stops, strict=True)])
    tile = to_working_grid(torch.from_numpy(((block - mean) / raw).astype(np.float32)), working_bin)
    inner = tile[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return inner.numpy().astype(np.float64)

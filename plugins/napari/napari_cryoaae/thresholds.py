"""Masks by a threshold: on the density, on its spread, or on how far the density stands out over its spread.

    confidence = |density - background| / spread

The background is the median of a sparse sample: most of a tomogram is ice. A mask is made of pictures as they are
shown (so of a slab's mean), and plane by plane of a whole volume when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from napari_cryoaae.contrast import sample_slices
from napari_cryoaae.sources import SlabCut, Source

if TYPE_CHECKING:
    from cryoaae.runs.progress import Progress
    from cryoaae.volume import Volume

Picture = NDArray[np.float32]


class Quantity(StrEnum):
    """What a threshold is put on."""

    DENSITY = "density"
    SPREAD = "spread"
    CONFIDENCE = "confidence"


@dataclass(frozen=True)
class Threshold:
    """Which voxels are kept: those `above` a value of a quantity, or below it."""

    quantity: Quantity
    value: float
    above: bool = True

    def text(self) -> str:
        return f"{self.quantity} {'≥' if self.above else '≤'} {self.value:g}"


@dataclass(frozen=True)
class ThresholdMask:
    """A threshold on certain volumes.

    Parameters
    ----------
    threshold : Threshold
    density : Source
    spread : Source, optional
        Not needed for a threshold on the density.
    background : float
        Density of what is not structure.
    """

    threshold: Threshold
    density: Source
    spread: Source | None = None
    background: float = 0.0

    def kept(self, cut: Callable[[Source], Picture]) -> NDArray[np.bool_]:
        """Which pixels of a cut are kept; where there is no number, none."""
        values = self.values(cut)
        with np.errstate(invalid="ignore"):
            return values >= self.threshold.value if self.threshold.above else values <= self.threshold.value

    def planes(self) -> Iterator[NDArray[np.bool_]]:
        """Every plane (y, x) of the whole volume."""
        for z in range(self.density.shape[0]):
            yield self.kept(SlabCut("xy", z, 1).of)

    def values(self, cut: Callable[[Source], Picture]) -> Picture:
        """What the threshold is put on, of a cut.

        Raises
        ------
        InputError
            When there is no spread.
        """
        if self.threshold.quantity is Quantity.DENSITY:
            return cut(self.density)
        if self.spread is None:
            raise InputError(self.threshold.quantity, "needs the spread", "open the std of a restoration")
        spread = cut(self.spread)
        if self.threshold.quantity is Quantity.SPREAD:
            return spread
        away = np.abs(cut(self.density) - self.background)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Picture = np.where(spread > 0, away / spread, np.where(away > 0, np.inf, np.nan))
        return ratio


def background_of(density: Source) -> float:
    """Median of a sparse sample of a volume."""
    values = _sampled(density.shape, density.block)
    return float(np.median(values)) if values.size else 0.0


def first_value(mask: ThresholdMask) -> float:
    """A threshold to begin with: it keeps a twentieth of the voxels, or the half with the smaller spread."""
    values = _sampled(mask.density.shape, lambda block: mask.values(lambda source: source.block(block)))
    kept = 50 if mask.threshold.quantity is Quantity.SPREAD else 5
    percent = 100 - kept if mask.threshold.above else kept
    return float(f"{np.percentile(values, percent):.3g}") if values.size else 0.0


def _sampled(shape_zyx: tuple[int, int, int], read: Callable[[tuple[slice, slice, slice]], Picture]) -> Picture:
    """Finite values of a sparse sample."""
    values = np.concatenate([read(block).ravel() for block in sample_slices(shape_zyx)])
    finite: Picture = values[np.isfinite(values)]
    return finite


def write_mask(
    path: Path, mask: ThresholdMask, *, like: Volume | None, voxel_size_angstrom: float, progress: Progress
) -> Path:
    """Write a mask as an MRC file of 0 and 1 (int16), plane by plane.

    Raises
    ------
    InputError
        When the file cannot be written.
    InterruptedRunError
        When `progress` says so; nothing is left.
    """
    from cryoaae.io.mrc import create_volume

    label = f"mask, {mask.threshold.text().replace('≥', '>=').replace('≤', '<=')}"
    facts = {"like": like, "voxel_size_angstrom": voxel_size_angstrom, "dtype": "int16", "label": label}
    # The dialog has asked whether to replace an existing file.
    with create_volume(path, mask.density.shape, overwrite=True, **facts) as out:
        progress.start("writing the mask", float(len(out)), "planes")
        for z, plane in enumerate(mask.planes()):
            progress.check()
            out[z] = plane
            progress.advance(1.0)
    progress.finish()
    return path

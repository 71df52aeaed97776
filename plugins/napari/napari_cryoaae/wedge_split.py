"""What of a volume was measured and what was filled in, around a place or everywhere.

The library splits a whole volume by its Fourier coefficients: M x was measured, x - M x was not
(`MissingWedge`, the projector M on the support). Of a large tomogram that is minutes of work, so at
the cursor a *window* is split instead: a core, and a margin that is cropped off again, for what lies
around has a say in what was measured. Where the window ends at a face of the volume the core does
too, and a window that holds the whole volume gives the library's split exactly. (Fading the margins
out was tried: it takes more from the core than the jumps at the window's faces do.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.figures import spectrum_image, wedge_ends
from cryoaae.restoration.keep_measured import keep_measured_bytes
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import preflight
from napari_cryoaae.sources import Source, Window


@dataclass(frozen=True)
class Split:
    """Both parts of a volume, as sources that know where they lie."""

    measured: Source
    filled: Source


def split_window(source: Source, window: Window, wedge: MissingWedge) -> Split:
    """Split a window of a source; both parts are cropped to the window's core.

    With a list of tilts, a window counts as measured what lies within half of its own, coarser, Fourier
    voxel of a tilt's plane.
    """
    measured, filled = _split(source.block(window.outer), wedge)
    crop = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(window.inner, window.outer, strict=True))
    z, y, x = (s.start for s in window.inner)
    return Split(*(Source(source.title, ((1.0, part[crop]),), (z, y, x)) for part in (measured, filled)))


def split_whole(source: Source, wedge: MissingWedge) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measured and filled-in part (z, y, x) of a whole source: the split that `--keep-measured` merges by.

    Raises
    ------
    ResourceError
        When there is too little memory.
    """
    preflight(keep_measured_bytes(source.shape), 0, Path.cwd())
    return _split(source.block((slice(None),) * 3), wedge)


def _split(block: NDArray[np.float32], wedge: MissingWedge) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # The mean is measured; as an offset of thousands it would cost the spectrum its digits.
    level = block.mean(dtype=np.float64)
    centred = (block - level).astype(np.float32)
    measured = wedge.measured(torch.from_numpy(centred)).numpy()
    return (measured + level).astype(np.float32), centred - measured


@dataclass(frozen=True)
class Examined:
    """A window of several sources: power spectra seen along the tilt axis, and splits if a wedge is known."""

    window: Window
    splits: tuple[Split, ...]
    spectra: tuple[NDArray[np.float64], ...]
    wedge_ends: tuple[tuple[float, float, float], ...] = ()


def examine(sources: Sequence[Source], window: Window, wedge: MissingWedge | None, progress: Progress) -> Examined:
    """Take the power spectrum of a window of each source, and split it where a wedge is known.

    Raises
    ------
    InterruptedRunError
        When `progress` says so.
    """
    splits, spectra = [], []
    for source in sources:
        progress.check()
        spectra.append(spectrum_image(source.block(window.outer), wedge.tilt_axis_deg if wedge else 0.0))
        progress.check()
        if wedge is not None:
            splits.append(split_window(source, window, wedge))
    return Examined(window, tuple(splits), tuple(spectra), tuple(wedge_ends(wedge)) if wedge else ())

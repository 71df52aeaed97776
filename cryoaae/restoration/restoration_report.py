"""Pictures of a restoration beside what it was made from, of the middle of the tomogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume
from cryoaae.io.project import TomogramInput, open_tomogram
from cryoaae.metrics.sectors import tapered
from cryoaae.restoration.done import RestoreResult

# Of the box that is shown, in voxels; memory does not grow with the tomogram.
LARGEST_ZYX = (192, 320, 320)
# What the Fourier transform sees beyond the box, mirrored where the tomogram ends, so that faces do not show.
MARGIN = 16
PLANES = ("xy", "xz")


def write_restoration_report(
    result: RestoreResult, item: TomogramInput, path: Path, opening: dict[str, Any]
) -> dict[str, Any]:
    """Write one HTML file with input, restoration, its measured and its filled-in part; return its numbers.

    Parameters
    ----------
    result : RestoreResult
        Whose mean is shown.
    item : TomogramInput
        What it was made from, with its wedge.
    path : Path
        Of the page.
    opening : dict
        Keywords of `io.project.open_tomogram`.
    """
    from cryoaae import __version__
    from cryoaae.reports.figures import slices_figure, spectra_figure
    from cryoaae.reports.restoration_page import restoration_report
    from cryoaae.reports.style import png

    volumes, restored = open_tomogram(item, **opening).volumes, open_volume(result.paths[0])
    shape, voxel = restored.shape, volumes[0].voxel_size_angstrom
    given = np.mean([middle(volume.data) for volume in volumes], axis=0, dtype=np.float32)
    made = middle(restored.data)
    measured = item.wedge.solid().measured(torch.from_numpy(made)).numpy()
    panels = [
        ("Input", given), ("Restored", made), ("Measured only", measured), ("Filled in only", made - measured),
    ]  # fmt: skip
    shown = [(title, without_margin(volume)) for title, volume in panels]
    filled = filled_share(without_margin(made), without_margin(made - measured))
    facts = {
        "version": __version__, "name": result.name, "shape_zyx": list(shape),
        "shown_zyx": list(shown[0][1].shape), "voxel_size_angstrom": voxel, "halves": len(volumes),
        "tilt_range_deg": list(item.wedge.tilt_range_deg), "filled_share": filled,
        "undone": result.undone, "general": result.general, "seconds": result.seconds,
        "output": result.paths[0].name,
    }  # fmt: skip
    figures = {
        "slices": png(slices_figure(shown, voxel, planes=PLANES)),
        "spectra": png(spectra_figure(shown[:2], item.wedge, voxel)),
    }
    write_text(path, restoration_report(facts, figures).render())
    return facts


def middle(data: NDArray[Any]) -> NDArray[np.float32]:
    """The box in the middle of a volume (z, y, x) with `MARGIN` around it; no more of the file is read."""
    box, beyond = [], []
    for size, largest in zip(data.shape, LARGEST_ZYX, strict=True):
        length = min(size, largest)
        start = (size - length) // 2
        low, high = max(0, start - MARGIN), min(size, start + length + MARGIN)
        box.append(slice(low, high))
        beyond.append((low - start + MARGIN, start + length + MARGIN - high))
    return np.pad(np.array(data[tuple(box)], dtype=np.float32), beyond, mode="symmetric")


def without_margin(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `middle` found, without its margin."""
    return volume[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN]


def filled_share(made: NDArray[np.float32], filled: NDArray[np.float32]) -> float:
    """Share of the restoration's variance that lies where nothing was measured."""
    both = [torch.from_numpy(np.ascontiguousarray(volume)).double() for volume in (made, filled)]
    whole, part = (float(tapered(volume - volume.mean()).square().sum()) for volume in both)
    return part / whole if whole > 0 else 0.0


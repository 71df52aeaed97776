"""A list of particles: where each lies, how it is turned, and everything else its file said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.names import match_name
from cryoaae.io.star import StarFile

ANGSTROM, VOXEL = "angstrom", "voxel"
# A list with more of its particles outside the tomogram than this is taken for a mistake of units or axes.
OUTSIDE_LIMIT = 0.5
# Another reading of the coordinates is offered where it puts this share of the particles inside.
FITS = 0.95


@dataclass(frozen=True)
class Particles:
    """Particles in the order of their file.

    Parameters
    ----------
    source : Path
        The file.
    points_zyx : (n, 3)
        Centres, in `units`; origin shifts are applied.
    units : "angstrom" or "voxel"
        Of the points; voxels are those of the tomogram.
    centred : bool
        Whether points count from the middle of the tomogram (RELION 5) instead of its first voxel.
    rotations : (n, 3, 3)
        On (z, y, x) vectors; each turns the reference onto the particle (`io.euler`).
    tomograms : tuple of str
        Name of each particle's tomogram, without suffix; "" where the file names none.
    classes : tuple of str
        "" where there is none.
    half_sets : (n,)
        1 or 2; 0 where there is none.
    images : tuple of str
        Image or subtomogram file of each particle, as written; "" where there is none.
    shifts_zyx : (n, 3)
        From the centre of that image to the particle, in `units`: minus RELION's origin.
    image_pixel_angstrom : (n,)
        Pixel or voxel size of the images; NaN where the file does not say.
    frames_2d, premultiplied : bool
        Whether the images are stacks of 2-D tilt images, and multiplied with their CTF.
    turned_boxes : bool
        Whether images were cut in a turned frame (rlnTomoSubtomogramRot, Tilt, Psi).
    table : pandas table or None
        All columns of the file, as text.
    star : StarFile or None
        All blocks of a STAR file; its block `block` holds `table`.
    """

    source: Path
    points_zyx: NDArray[np.float64]
    units: str
    centred: bool
    rotations: NDArray[np.float64]
    tomograms: tuple[str, ...]
    classes: tuple[str, ...]
    half_sets: NDArray[np.int64]
    images: tuple[str, ...]
    shifts_zyx: NDArray[np.float64]
    image_pixel_angstrom: NDArray[np.float64]
    frames_2d: bool = False
    premultiplied: bool = False
    turned_boxes: bool = False
    table: Any = field(default=None, repr=False)
    star: StarFile | None = field(default=None, repr=False)
    block: str = "particles"

    def __len__(self) -> int:
        return len(self.points_zyx)

    def rows_of(self, tomogram: str) -> NDArray[np.int64]:
        """Rows of the particles of one tomogram."""
        return np.flatnonzero(np.array([name == tomogram for name in self.tomograms], dtype=bool))


def tomogram_name(text: object) -> str:
    """Name of a tomogram as in `io.project`: without folder, suffix, pixel size and half tokens."""
    name = str(text).removesuffix(".tomostar")
    return match_name(Path(name)) if name not in ("", "nan", "None") else ""


def tomogram_names(texts: Sequence[object]) -> tuple[str, ...]:
    """`tomogram_name` of every particle's; each distinct text is read once, for lists have thousands of each."""
    names = {text: tomogram_name(text) for text in dict.fromkeys(texts)}
    return tuple(names[text] for text in texts)


def voxel_points_zyx(
    particles: Particles,
    rows: NDArray[np.int64],
    shape_zyx: tuple[int, int, int],
    voxel_size_angstrom: float,
    tomogram: str,
) -> NDArray[np.float64]:
    """Centres (n, 3) in voxels of a tomogram, voxel (0, 0, 0) being its first.

    RELION 5's origin is the middle of the tomogram: voxel n / 2 along each axis.

    Raises
    ------
    InputError
        When over half of the particles lie outside, naming a reading of the coordinates that fits.
    """
    readings = _readings(particles, rows, shape_zyx, voxel_size_angstrom)
    points = readings.pop("")
    outside = 1 - _share_inside(points, shape_zyx)
    if outside > OUTSIDE_LIMIT:
        fitting = [name for name, other in readings.items() if _share_inside(other, shape_zyx) >= FITS]
        remedy = "check the list, --coordinates and the tomogram"
        if fitting:
            remedy = f"they would fit as {fitting[0]}: correct the list, or --coordinates"
        size = " x ".join(str(n) for n in shape_zyx[::-1])
        raise InputError(
            particles.source,
            f"{outside:.0%} of the particles of {tomogram} lie outside its {size} voxels (x y z) of "
            f"{voxel_size_angstrom:g} A, coordinates taken as {_reading_name(particles)}",
            remedy,
        )
    return points


def _readings(
    particles: Particles, rows: NDArray[np.int64], shape_zyx: tuple[int, int, int], voxel: float
) -> dict[str, NDArray[np.float64]]:
    """Voxel positions as stated (""), and as other readings would have it, the likelier ones first.

    The other unit comes last: divided by the voxel size, nearly everything fits.
    """
    points, middle = particles.points_zyx[rows], np.array(shape_zyx) / 2
    own, other = (voxel, 1.0) if particles.units == ANGSTROM else (1.0, voxel)
    origin = middle * particles.centred
    return {
        "": points / own + origin,
        "z, y, x instead of x, y, z": points[:, ::-1] / own + origin,
        f"counted from the {'first voxel' if particles.centred else 'middle'}": points / own + middle - origin,
        VOXEL if particles.units == ANGSTROM else ANGSTROM: points / other + origin,
    }


def _reading_name(particles: Particles) -> str:
    return f"{particles.units} from {'the middle' if particles.centred else 'the first voxel'}"


def _share_inside(points_zyx: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> float:
    return float(inside_volume(points_zyx, shape_zyx).mean()) if len(points_zyx) else 1.0


def inside_volume(points_zyx: NDArray[np.float64], shape_zyx: Sequence[int]) -> NDArray[np.bool_]:
    """Which of points (n, 3) lie in a voxel of a volume."""
    return np.asarray(((points_zyx >= -0.5) & (points_zyx <= np.array(shape_zyx) - 0.5)).all(axis=1))

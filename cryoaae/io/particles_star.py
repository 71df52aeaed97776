"""Particles in the STAR files of RELION 3, 4 and 5, Warp, WarpTools and M.

    RELION 5    rlnCenteredCoordinateXAngst    angstrom from the middle of the tomogram
    RELION 4    rlnCoordinateX                 pixels of the tilt series (rlnTomoTiltSeriesPixelSize)
    WarpTools   rlnCoordinateX                 pixels of the images (rlnImagePixelSize); tomograms end in .tomostar
    RELION 3    rlnCoordinateX                 pixels of the image (optics, rlnPixelSize, or detector pixel and
                                               magnification), else voxels of the tomogram

With A_s and A_p the matrices (`io.euler`) of rlnTomoSubtomogramRot, Tilt, Psi and of rlnAngleRot, Tilt, Psi, and
o the origin (rlnOriginXAngst, or rlnOriginX in pixels), a particle lies at  x - A_s o  and is turned by  A_s A_p.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.euler import relion_from_rotation, rotation_from_relion
from cryoaae.io.particles import ANGSTROM, VOXEL, Particles, tomogram_names
from cryoaae.io.star import StarFile, numbers

CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
BOX_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
ORIGIN_PIXELS = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
TOMOGRAM_LABELS = ("rlnTomoName", "rlnMicrographName")
CLASS_LABELS = ("rlnClassNumber", "rlnClassName")


def particles_from_star(path: Path, star: StarFile, coordinates: str | float = "auto") -> Particles:
    """Particles of a STAR file.

    Parameters
    ----------
    path : path
        Where it came from.
    star : StarFile
    coordinates : "auto", "voxel", "angstrom" or float
        What rlnCoordinateX counts: "auto" as above; a number is the pixel size in angstrom.

    Raises
    ------
    InputError
        For a file without coordinates or particles, values that are no numbers, or unknown pixel sizes.
    """
    found = star.table(*CENTRED) or star.table(*PIXELS)
    if found is None:
        raise InputError(path, f"has neither {CENTRED[0]} nor {PIXELS[0]} with Y and Z", "give a particle STAR file")
    block, table = found
    if len(table) == 0:
        raise InputError(path, "lists no particles", "give a STAR file with rows")
    optics = _optics(path, star, table)
    pixel = _image_pixel_angstrom(path, table, optics)
    centred = CENTRED[0] in table
    unit = 1.0 if centred else _coordinate_unit(path, table, optics, pixel, coordinates)
    raw = numbers(path, table, CENTRED if centred else PIXELS)
    # One unit for the whole file: angstrom where the size of a coordinate's pixel is known, else voxels.
    units = ANGSTROM if unit is not None else VOXEL
    points = raw if unit is None else raw * np.reshape(unit, (-1, 1))
    box = rotation_from_relion(numbers(path, table, BOX_ANGLES, default=0.0))
    origin = _origin(path, table, pixel, units)
    shifts = -np.einsum("nij,nj->ni", box, origin[:, ::-1])
    return Particles(
        source=path, points_zyx=points[:, ::-1] + shifts, units=units, centred=centred,
        rotations=box @ rotation_from_relion(numbers(path, table, ANGLES, default=0.0)),
        tomograms=tomogram_names(_first(table, TOMOGRAM_LABELS)), classes=tuple(_first(table, CLASS_LABELS)),
        half_sets=numbers(path, table, ("rlnRandomSubset",), default=0)[:, 0].astype(np.int64),
        images=tuple(_first(table, ("rlnImageName",))), shifts_zyx=shifts, image_pixel_angstrom=pixel,
        frames_2d=_are_2d_stacks(path, star, optics),
        premultiplied=bool(_of_optics(path, optics, "rlnCtfDataAreCtfPremultiplied", 0.0).any()),
        turned_boxes=bool(np.abs(box - np.eye(3)).max() > 1e-6), table=table, star=star, block=block,
    )  # fmt: skip


def _first(table: Any, labels: tuple[str, ...]) -> list[str]:
    """Return the first of the columns that the table has, as text; empty where it has none."""
    for label in labels:
        if label in table:
            return ["" if text != text else str(text) for text in table[label]]
    return [""] * len(table)


def _optics(path: Path, star: StarFile, table: Any) -> Any:
    """Optics row of each particle as a pandas table, or the particles' own table (RELION 3.0)."""
    found = star.table("rlnOpticsGroup")
    if found is None or found[0] != "optics":
        return table
    if "rlnOpticsGroup" not in table:
        raise InputError(path, "has optics groups, but the particles have no rlnOpticsGroup", "write it again")
    groups = found[1].set_index("rlnOpticsGroup")
    missing = set(table["rlnOpticsGroup"]) - set(groups.index)
    if missing or not groups.index.is_unique:
        what = f"optics group {min(missing)} is not in data_optics" if missing else "an optics group comes twice"
        raise InputError(path, what, "correct the block")
    return groups.loc[list(table["rlnOpticsGroup"])]


def _of_optics(path: Path, optics: Any, label: str, default: float) -> NDArray[np.float64]:
    return numbers(path, optics, (label,), default=default)[:, 0]


def _image_pixel_angstrom(path: Path, table: Any, optics: Any) -> NDArray[np.float64]:
    """Pixel size of each particle's image; NaN where the file does not say."""
    if "rlnImagePixelSize" in optics:
        return _of_optics(path, optics, "rlnImagePixelSize", np.nan)
    if "rlnPixelSize" in table:
        return _of_optics(path, table, "rlnPixelSize", np.nan)
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(table):
        detector_um, magnification = numbers(path, table, ("rlnDetectorPixelSize", "rlnMagnification")).T
        return np.asarray(detector_um * 1e4 / magnification)
    return np.full(len(table), np.nan)


def _coordinate_unit(
    path: Path, table: Any, optics: Any, pixel: NDArray[np.float64], coordinates: str | float
) -> NDArray[np.float64] | float | None:
    """Angstrom of one unit of rlnCoordinateX, a number or one a particle; None for voxels of the tomogram."""
    if not isinstance(coordinates, str):
        return float(coordinates)
    if coordinates == "angstrom":
        return 1.0
    if coordinates == "voxel":
        return None
    warp = "rlnTomoName" in table and str(table["rlnTomoName"].iloc[0]).endswith(".tomostar")
    if "rlnTomoTiltSeriesPixelSize" in optics and not warp:
        return _of_optics(path, optics, "rlnTomoTiltSeriesPixelSize", np.nan)
    return pixel if np.isfinite(pixel).all() else None


def _origin(path: Path, table: Any, pixel: NDArray[np.float64], units: str) -> NDArray[np.float64]:
    """RELION's origin (n, 3) x, y, z in the unit of the points."""
    per_unit: NDArray[np.float64] | float = 1.0
    if ORIGIN_ANGSTROM[0] in table:
        origin = numbers(path, table, ORIGIN_ANGSTROM, default=0.0)
        per_unit = 1.0 if units == ANGSTROM else 1.0 / pixel
    else:
        origin = numbers(path, table, ORIGIN_PIXELS, default=0.0)
        per_unit = pixel if units == ANGSTROM else 1.0
    if not origin.any():
        return origin
    if not np.isfinite(per_unit).all():
        raise InputError(path, "has origin shifts but no pixel size", "state it: --coordinates ANGSTROM_PER_PIXEL")
    return origin * np.reshape(per_unit, (-1, 1))


def _are_2d_stacks(path: Path, star: StarFile, optics: Any) -> bool:
    general = star.table("rlnTomoSubTomosAre2DStacks")
    stated = _of_optics(path, general[1] if general else optics, "rlnTomoSubTomosAre2DStacks", 0.0).any()
    return bool(stated) or bool((_of_optics(path, optics, "rlnImageDimensionality", 3.0) == 2).any())


def star_of(particles: Particles) -> tuple[StarFile, str, Any]:
    """Return the STAR file of a list, the name of its particle block and that block's table.

    Lists of other kinds (from the first voxel, never centred) are put into RELION's columns.
    """
    import pandas as pd

    if particles.star is not None:
        return particles.star, particles.block, particles.table
    angles = relion_from_rotation(particles.rotations)
    table = pd.DataFrame({"rlnTomoName": list(particles.tomograms)})
    for i, label in enumerate(PIXELS):
        table[label] = [f"{value:.4f}" for value in particles.points_zyx[:, 2 - i]]
    for i, label in enumerate(ANGLES):
        table[label] = [f"{value:.4f}" for value in angles[:, i]]
    if any(particles.classes):
        numeric = all(name.lstrip("-").isdigit() for name in particles.classes)
        table["rlnClassNumber" if numeric else "rlnClassName"] = list(particles.classes)
    if particles.half_sets.any():
        table["rlnRandomSubset"] = [str(half) for half in particles.half_sets]
    if particles.units == ANGSTROM:  # a coordinate's pixel is then one angstrom
        table["rlnPixelSize"] = "1.0"
    return StarFile({"particles": table}), "particles", table

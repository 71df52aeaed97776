"""The geometry and optics of tilt series, as tomogram STAR files of RELION 4, RELION 5 and WarpTools state them.

A projection maps the tomogram onto the detector: image x, image y and the beam are the rows of a rotation P on
(x, y, z) vectors. RELION 4 and WarpTools write these rows (rlnTomoProjX, Y, Z); RELION 5 writes angles,

    P = Rz(rlnTomoZRot) Ry(rlnTomoYTilt) Rx(rlnTomoXTilt)
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.names import file_beside
from cryoaae.io.particles import tomogram_name
from cryoaae.io.star import StarFile, numbers, read_star
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.wedge import MissingWedge

SERIES_LABELS = ("rlnTomoName", "rlnTomoTiltSeriesPixelSize")
ROWS = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
SIZES = ("rlnTomoSizeZ", "rlnTomoSizeY", "rlnTomoSizeX")
# Rows of a rotation written with six digits differ from orthonormal by less.
ORTHONORMAL = 1e-3


@dataclass(frozen=True)
class TiltSeries:
    """A tilt series: where each of its t images looked, and with which optics.

    Parameters
    ----------
    name : str
    pixel_size_angstrom : float
        Of the tilt series, unbinned.
    size_angstrom_zyx : (3,)
        Extent of the tomogram; NaN where the file does not say.
    projections : (t, 3, 3)
        Rotations that take (z, y, x) of the tomogram to (beam, image y, image x).
    defocus_u_angstrom, defocus_v_angstrom, astigmatism_deg, scale : (t,)
        Underfocus at the centre of the tomogram; scale (rlnCtfScalefactor) weighs an image, 1 by default.
    hand : float
        1 or -1: whether underfocus grows or falls along the beam (rlnTomoHand).
    voltage_kv, cs_mm, amplitude_contrast : float
    """

    name: str
    pixel_size_angstrom: float
    size_angstrom_zyx: NDArray[np.float64]
    projections: NDArray[np.float64]
    defocus_u_angstrom: NDArray[np.float64]
    defocus_v_angstrom: NDArray[np.float64]
    astigmatism_deg: NDArray[np.float64]
    scale: NDArray[np.float64]
    hand: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    def wedge(self, frames: NDArray[np.int64]) -> MissingWedge:
        """Missing wedge of the given images: the best single tilt axis in the plane, and their tilts about it."""
        beams = self.projections[frames, 0]  # (t, 3): direction of the beam, (z, y, x)
        beams = beams * np.where(beams[:, :1] < 0, -1.0, 1.0)
        # The beams fan out across the tilt axis: their spread in the plane is along (y, x) = (-sin a, cos a).
        across = np.linalg.eigh(beams[:, 1:].T @ beams[:, 1:])[1][:, 1]
        across = across * (1.0 if across[1] > 0 or (across[1] == 0 and across[0] < 0) else -1.0)
        tilts = np.degrees(np.arctan2(beams[:, 1:] @ across, beams[:, 0]))
        axis_deg = math.degrees(math.atan2(-across[0], across[1]))
        return MissingWedge.from_tilts([round(float(t), 3) for t in tilts], tilt_axis_deg=round(axis_deg, 3) + 0.0)

    def contrast_transfer(self, *, phase_flipped: bool = True) -> ContrastTransfer:
        """Contrast transfer of the whole tomogram: of every tilt that counts, without its astigmatism."""
        defocus_um = ((self.defocus_u_angstrom + self.defocus_v_angstrom) / 2e4)[self.scale > 0]
        return ContrastTransfer(
            tuple(round(float(d), 4) for d in defocus_um), voltage_kv=self.voltage_kv, cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast, phase_flipped=phase_flipped,
        )  # fmt: skip


def has_tilt_series(star: StarFile) -> bool:
    """Whether a STAR file states the geometry of tilt series, or names the files that do."""
    return star.table(*SERIES_LABELS) is not None


def tilt_series_file(path: Path) -> Path:
    """The tomogram STAR file: the given one, or the one an optimisation set names.

    Raises
    ------
    InputError
        When the named file is not there.
    """
    named = read_star(path).table("rlnTomoTomogramsFile")
    if named is None:
        return path
    found = file_beside(path, named[1]["rlnTomoTomogramsFile"].iloc[0])
    if found is None or not found.is_file():
        raise InputError(path, f"names the tomograms {found}, which is not there", "give the tomogram STAR file")
    return found


def read_tilt_series(path: Path) -> dict[str, TiltSeries]:
    """Tilt series of a tomogram STAR file, by name of the tomogram.

    Raises
    ------
    InputError
        When a series is missing, its projections are no rotations, or its optics are not stated.
    """
    star = read_star(path)
    listed = star.table(*SERIES_LABELS)
    if listed is None:
        raise InputError(path, f"lists no tilt series ({', '.join(SERIES_LABELS)})", "give a tomogram STAR file")
    series = {}
    for i in range(len(listed[1])):
        row = listed[1].iloc[i : i + 1]
        name = tomogram_name(row["rlnTomoName"].iloc[0])
        series[name] = _series(path, name, row, _images(path, star, row))
    return series


def _images(path: Path, star: StarFile, row: Any) -> Any:
    """Table with a row for each image of a series: a block of the same file, or a file of its own."""
    name = row["rlnTomoName"].iloc[0]
    if name in star.blocks:
        return star.blocks[name]
    entry = row["rlnTomoTiltSeriesStarFile"].iloc[0] if "rlnTomoTiltSeriesStarFile" in row else None
    found = file_beside(path, entry)
    if found is None or not found.is_file():
        raise InputError(path, f"states no projections of {name}", "give the tomogram STAR of an aligned tilt series")
    images = read_star(found).table("rlnDefocusU")
    if images is None:
        raise InputError(found, "has no table with rlnDefocusU", "estimate the CTF first")
    return images[1]


def _series(path: Path, name: str, row: Any, images: Any) -> TiltSeries:
    def one(label: str, default: float | None = None) -> float:
        return float(numbers(path, row, (label,), default=default)[0, 0])

    pixel = one("rlnTomoTiltSeriesPixelSize")
    u = numbers(path, images, ("rlnDefocusU",))[:, 0]
    return TiltSeries(
        name=name, pixel_size_angstrom=pixel,
        size_angstrom_zyx=numbers(path, row, SIZES, default=np.nan)[0] * pixel,
        projections=_projections(path, name, images), defocus_u_angstrom=u,
        defocus_v_angstrom=numbers(path, images, ("rlnDefocusV",))[:, 0] if "rlnDefocusV" in images else u,
        astigmatism_deg=numbers(path, images, ("rlnDefocusAngle",), default=0.0)[:, 0],
        scale=numbers(path, images, ("rlnCtfScalefactor",), default=1.0)[:, 0],
        hand=one("rlnTomoHand", -1.0), voltage_kv=one("rlnVoltage"),
        cs_mm=one("rlnSphericalAberration"), amplitude_contrast=one("rlnAmplitudeContrast"),
    )  # fmt: skip


def _projections(path: Path, name: str, images: Any) -> NDArray[np.float64]:
    if set(ROWS) <= set(images):
        rows = [[_vector(path, name, text) for text in images[label]] for label in ROWS]
        matrices = np.array(rows).transpose(1, 0, 2)  # (t, image axis, x y z)
    else:
        from scipy.spatial.transform import Rotation  # slow to load, as in io.euler

        angles = numbers(path, images, ANGLES)
        matrices = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    residue = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0)
    if residue > ORTHONORMAL:
        raise InputError(path, f"projections of {name} are no rotations (off by {residue:.2g})", "check rlnTomoProj")
    return np.ascontiguousarray(matrices[:, ::-1, ::-1])


def _vector(path: Path, name: str, text: str) -> list[float]:
    try:
        values = [float(v) for v in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(path, f"{name}: {text[:40]!r} is not a row of a projection", "write it again") from error
    if len(values) < 3:
        raise InputError(path, f"{name}: {text[:40]!r} has {len(values)} numbers", "write it again")
    return values[:3]

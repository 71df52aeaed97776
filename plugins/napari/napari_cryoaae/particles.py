"""Particle lists as points: the one place of the plugin that knows how a STAR file states positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import peek_header
from cryoaae.io.mrc_header import choose_voxel_size
from cryoaae.io.names import match_name

VOXELS_XYZ = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED_XYZ = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
NAMES = ("rlnTomoName", "rlnMicrographName")
# RELION 4 counts coordinates in voxels of the tilt series; earlier ones in those of the image.
PIXEL_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize", "rlnPixelSize")


@dataclass(frozen=True)
class ParticleSet:
    """Particles of one tomogram: positions (n, 3) from its first voxel, and all other columns."""

    tomogram: str
    positions_angstrom_zyx: NDArray[np.float64]
    features: dict[str, NDArray[Any]]


def read_particles(path: Path | str) -> list[ParticleSet]:
    """Read a particle STAR file, a set a tomogram.

    Coordinates in voxels need their pixel size, and centred ones the tomogram's size. What the file
    does not say is taken from the MRC files beside it, if they agree.

    Raises
    ------
    InputError
        When the file cannot be read, or does not say enough.
    """
    path = Path(path)
    table = _table(path)
    positions = _positions_angstrom_zyx(path, table)
    good = np.isfinite(positions).all(axis=1)
    if not good.any():
        raise InputError(path, "holds no particle with a finite position", "give a particle STAR file")
    name = next((column for column in NAMES if column in table), None)
    only = match_name(path.with_suffix(""))
    owners = np.full(len(table), only) if name is None else table[name].astype(str).to_numpy()
    used = (*VOXELS_XYZ, *CENTRED_XYZ)
    others = {column: table[column].to_numpy() for column in table.columns if column not in used}
    return [
        ParticleSet(str(owner), positions[mine], {column: values[mine] for column, values in others.items()})
        for owner in dict.fromkeys(owners)
        if (mine := good & (owners == owner)).any()
    ]


def _table(path: Path) -> Any:
    """The table with the particles, with the columns of its optics groups put beside each."""
    import starfile

    if not path.is_file():
        raise InputError(path, "no such file", "check the name")
    try:
        tables = starfile.read(path, always_dict=True)
    except Exception as error:
        raise InputError(path, f"not a STAR file ({type(error).__name__})", "give a particle STAR file") from error
    frames = [t for t in tables.values() if hasattr(t, "columns")]
    found = next((t for t in frames if any({*axes} <= {*t.columns} for axes in (VOXELS_XYZ, CENTRED_XYZ))), None)
    if found is None:
        raise InputError(path, "has no table with coordinates", "give a particle STAR file")
    optics = tables.get("optics")
    if hasattr(optics, "columns") and "rlnOpticsGroup" in found and optics is not found:
        new = ["rlnOpticsGroup", *(column for column in optics.columns if column not in found)]
        found = found.merge(optics[new], on="rlnOpticsGroup", how="left", validate="many_to_one")
    return found


def _positions_angstrom_zyx(path: Path, table: Any) -> NDArray[np.float64]:
    if all(column in table for column in VOXELS_XYZ):
        voxels = table[list(VOXELS_XYZ)].to_numpy(np.float64)[:, ::-1]
        column = next((c for c in PIXEL_SIZES if c in table), None)
        size = _beside(path)[0] if column is None else table[column].to_numpy(np.float64)[:, None]
        return voxels * size
    centred = table[list(CENTRED_XYZ)].to_numpy(np.float64)[:, ::-1]
    size, shape_zyx = _beside(path)
    return centred + size * np.asarray(shape_zyx) / 2


def _beside(path: Path) -> tuple[float, tuple[int, int, int]]:
    """Voxel size in angstrom and shape of the tomograms that lie in a file's folder, if they agree.

    Raises
    ------
    InputError
    """
    found = set()
    for neighbour in sorted(path.absolute().parent.glob("*.mrc")):
        try:
            header = peek_header(neighbour)
            found.add((round(choose_voxel_size(neighbour, header, None), 4), header.shape_zyx))
        except InputError:
            continue  # not a tomogram: says nothing
    if len(found) != 1:
        raise InputError(
            path, "does not state a pixel size, or the size of its tomogram", "put it beside its tomogram's MRC file"
        )
    return found.pop()

"""Reading and writing particle lists of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.names import file_beside
from cryoaae.io.particles import ANGSTROM, VOXEL, Particles
from cryoaae.io.particles_star import particles_from_star, star_of
from cryoaae.io.particles_table import particles_from_csv, particles_from_dynamo
from cryoaae.io.star import StarFile, read_star, write_star

SUFFIXES = (".star", ".tbl", ".csv")


def read_particles(path: Path | str, *, coordinates: str | float = "auto") -> Particles:
    """Read a particle list: a STAR file (RELION 3 to 5, Warp), a Dynamo table (.tbl) or CSV.

    Parameters
    ----------
    path : path
        An optimisation set of RELION 5 stands for the particle file that it names.
    coordinates : "auto", "voxel", "angstrom" or float
        What the coordinates count, where it is not what the file's format says; a number is the size
        of their pixel in angstrom. Coordinates of RELION 5 are always angstrom.

    Raises
    ------
    InputError
        Naming the file, the row and what to do.
    """
    path = Path(path)
    if isinstance(coordinates, str) and coordinates not in ("auto", VOXEL, ANGSTROM):
        raise InputError("--coordinates", f"'{coordinates}' is not known", "give auto, voxel, angstrom or a number")
    if not isinstance(coordinates, str) and not 0 < coordinates < np.inf:
        raise InputError("--coordinates", f"{coordinates} is not a pixel size", "give angstrom above 0")
    if not path.is_file():
        raise InputError(path, "no such file", "check the name")
    suffix = path.suffix.lower()
    if suffix == ".star":
        path, star = _particle_star(path)
        return particles_from_star(path, star, coordinates)
    if suffix not in SUFFIXES:
        raise InputError(path, f"suffix {suffix or '(none)'} is not read", f"give {', '.join(SUFFIXES)}")
    particles = particles_from_dynamo(path) if suffix == ".tbl" else particles_from_csv(path)
    if coordinates == "auto":
        return particles
    scale, units = (1.0, coordinates) if isinstance(coordinates, str) else (float(coordinates), ANGSTROM)
    return replace(particles, points_zyx=particles.points_zyx * scale, units=units)


def _particle_star(path: Path) -> tuple[Path, StarFile]:
    """The STAR file with the particles: the given one, or the one an optimisation set names."""
    star = read_star(path)
    named = star.table("rlnTomoParticlesFile")
    if named is None:
        return path, star
    found = file_beside(path, named[1]["rlnTomoParticlesFile"].iloc[0])
    if found is None or not found.is_file():
        raise InputError(path, f"names the particles {found}, which is not there", "give the particle STAR file")
    return found, read_star(found)


def write_particles(
    path: Path | str,
    particles: Particles,
    *,
    rows: Sequence[int] | NDArray[np.int64] | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write particles as a STAR file: optics, other blocks and unknown columns as they were read.

    Parameters
    ----------
    path : path
    particles : Particles
        Lists that were no STAR file get RELION's columns for position, angles, class and half set.
    rows : sequence of int, optional
        The particles to write, in this order; default: all.
    columns : mapping, optional
        Label (rlnClassNumber) to values, one a written particle: replaces or adds the column.
    overwrite : bool

    Raises
    ------
    InputError
        When the file exists, or a column has another length.
    """
    star, block, table = star_of(particles)
    table = table.iloc[np.arange(len(table)) if rows is None else np.asarray(rows)].copy()
    for label, values in (columns or {}).items():
        if len(values) != len(table):
            raise InputError(path, f"{len(values)} values of {label} for {len(table)} particles", "give one each")
        table[label] = [str(value) for value in values]
    write_star(path, StarFile({**star.blocks, block: table}, star.version), overwrite=overwrite)

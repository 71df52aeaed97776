"""Particles in Dynamo tables and CSV files.

Dynamo's columns, counted from 1: 4-6 shift, 7-9 tdrot, tilt, narot, 20 tomogram, 22 class, 24-26 position,
x before y before z, in voxels of the tomogram; a particle lies at position + shift.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.euler import rotation_from_dynamo, rotation_from_relion
from cryoaae.io.particles import ANGSTROM, VOXEL, Particles, tomogram_names
from cryoaae.io.star import numbers

DYNAMO_COLUMNS = 26
CSV_POINTS = {VOXEL: ("z", "y", "x"), ANGSTROM: ("z_angstrom", "y_angstrom", "x_angstrom")}
CSV_ANGLES = ("rot", "tilt", "psi")


def particles_from_dynamo(path: Path) -> Particles:
    """Particles of a Dynamo table (.tbl); positions are taken as counted from 0.

    Raises
    ------
    InputError
        When it has fewer than 26 columns, or a value that is no number.
    """
    table = _parsed(path, sep=r"\s+", header=None)
    if table.shape[1] < DYNAMO_COLUMNS:
        raise InputError(path, f"{table.shape[1]} columns, a Dynamo table has {DYNAMO_COLUMNS} or more", "check it")
    table.columns = [str(i + 1) for i in range(table.shape[1])]
    shift = numbers(path, table, ("6", "5", "4"))
    tomograms = numbers(path, table, ("20",))[:, 0].astype(int)
    classes = numbers(path, table, ("22",))[:, 0].astype(int)
    return _particles(
        path, table, numbers(path, table, ("26", "25", "24")) + shift, VOXEL,
        rotation_from_dynamo(numbers(path, table, ("7", "8", "9"))),
        [str(t) for t in tomograms], [str(c) if c else "" for c in classes],
    )  # fmt: skip


def particles_from_csv(path: Path) -> Particles:
    """Particles of a CSV file with a header: x, y, z (voxels) or x_angstrom and so on, from the first voxel.

    Columns rot, tilt, psi (RELION's angles), tomogram and class are read where there are any.

    Raises
    ------
    InputError
        When coordinates are missing or a value is no number.
    """
    table = _parsed(path, sep=",", header=0, skipinitialspace=True)
    table.columns = [str(name).strip() for name in table.columns]
    units = next((unit for unit, names in CSV_POINTS.items() if set(names) <= set(table.columns)), None)
    if units is None:
        raise InputError(path, f"columns {', '.join(table.columns)[:80]}", "name them x, y, z or x_angstrom, ...")
    angles = numbers(path, table, CSV_ANGLES, default=0.0)
    named = [list(table[name]) if name in table else [""] * len(table) for name in ("tomogram", "class")]
    points = numbers(path, table, CSV_POINTS[units])
    return _particles(path, table, points, units, rotation_from_relion(angles), named[0], named[1])


def _parsed(path: Path, **how: Any) -> Any:
    """Table of strings, or one line that says why not."""
    import pandas as pd

    try:
        table = pd.read_csv(
            io.StringIO(path.read_text(encoding="utf-8-sig")), dtype=str, keep_default_na=False, comment="#", **how
        )
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the name") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "not a text file", "give a table of particles") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(path, "lists no particles", "give a file with rows") from error
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(path, f"not a table ({str(error).splitlines()[0]})", "check its lines") from error
    if len(table) == 0:
        raise InputError(path, "lists no particles", "give a file with rows")
    return table


def _particles(
    path: Path,
    table: Any,
    points_zyx: NDArray[np.float64],
    units: str,
    rotations: NDArray[np.float64],
    tomograms: list[str],
    classes: list[str],
) -> Particles:
    count = len(points_zyx)
    return Particles(
        source=path, points_zyx=points_zyx, units=units, centred=False, rotations=rotations,
        tomograms=tomogram_names(tomograms), classes=tuple(classes),
        half_sets=np.zeros(count, dtype=np.int64), images=("",) * count, shifts_zyx=np.zeros((count, 3)),
        image_pixel_angstrom=np.full(count, np.nan), table=table,
    )  # fmt: skip

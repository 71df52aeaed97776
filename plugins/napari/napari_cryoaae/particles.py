"""Particle lists and stores as points: read by the library, put in their tomograms, a layer each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import peek_header
from cryoaae.io.mrc_header import choose_voxel_size
from cryoaae.io.names import match_name
from cryoaae.io.particle_files import SUFFIXES, read_particles
from cryoaae.io.particles import ANGSTROM, Particles, voxel_points_zyx
from cryoaae.io.particles_star import CENTRED, PIXELS
from napari_cryoaae.facts import ANGSTROM as ANGSTROM_PER_UNIT
from napari_cryoaae.facts import KEY, LayerFacts, Role

LISTS = (".star", ".tbl")
STORE_FORMAT = "cryoaae-subtomograms"
# Feature of a point: its row in the list, from 0.
ROW = "row"
AXES = ("z", "y", "x")
# Diameter of a particle on the screen; the list does not say how large it is.
POINT_ANGSTROM = 100.0
# A tomogram's voxel size in angstrom and its shape.
Size = tuple[float, tuple[int, int, int]]


@dataclass(frozen=True)
class ParticleSet:
    """Particles of one tomogram: positions (n, 3) from its first voxel, and all other columns."""

    tomogram: str
    positions_angstrom_zyx: NDArray[np.float64]
    features: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PlacedParticles:
    """Particles of a list, or of a store, in its order.

    Parameters
    ----------
    source : Path
        The list or the store.
    listed : Particles
        The list, with all its rows; that of a store is the one it was made from.
    rows : (n,)
        Row of each particle in the list.
    tomograms, labels : tuple of str
        "" where there is none.
    positions_angstrom_zyx : (n, 3)
        From the first voxel of the tomogram; NaN where unknown.
    """

    source: Path
    listed: Particles = field(repr=False)
    rows: NDArray[np.int64]
    tomograms: tuple[str, ...]
    labels: tuple[str, ...]
    positions_angstrom_zyx: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which particles have a position, (n,)."""
        return np.asarray(np.isfinite(self.positions_angstrom_zyx).all(axis=1))

    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns of the list but the coordinates, n rows each; numbers where all of a column are."""
        table = self.listed.table.iloc[self.rows]
        return {str(name): numbers_or_text(table[name]) for name in table.columns if name not in (*PIXELS, *CENTRED)}

    def sets(self, **features: NDArray[Any]) -> list[ParticleSet]:
        """A set a tomogram, of the particles that have a position; `features` (n rows) are added to the columns.

        Raises
        ------
        InputError
            When no particle has a position.
        """
        known = self.known
        if not known.any():
            raise InputError(self.source, "holds no particle with a known position", "give the list of its tomogram")
        alone = match_name(self.source.with_suffix(""))
        owners = np.array([name or alone for name in self.tomograms])
        columns = {ROW: self.rows, **self.columns(), **features}
        return [
            ParticleSet(str(owner), self.positions_angstrom_zyx[own], {k: v[own] for k, v in columns.items()})
            for owner in dict.fromkeys(owners[known])
            for own in [known & (owners == owner)]
        ]


def is_store(path: Path) -> bool:
    """Whether an HDF5 file is a store of subtomograms; never raises."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == STORE_FORMAT)
    except OSError:
        return False


def place_particles(path: Path | str) -> PlacedParticles:
    """Read a particle list or a store.

    Coordinates in voxels need their pixel size, and centred ones the tomogram's size. What a list does not say is
    taken from the MRC files beside it.

    Raises
    ------
    InputError
        When the file cannot be read, or does not say enough.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        return _placed_store(path)
    listed = read_particles(path)
    return place_list(listed, list_positions_angstrom_zyx(listed, [path.absolute().parent]))


def place_list(listed: Particles, positions_angstrom_zyx: NDArray[np.float64]) -> PlacedParticles:
    """All particles of a list, at given positions."""
    rows = np.arange(len(listed))
    return PlacedParticles(listed.source, listed, rows, listed.tomograms, listed.classes, positions_angstrom_zyx)


def _placed_store(path: Path) -> PlacedParticles:
    from cryoaae.io.store import SubtomogramStore

    store = SubtomogramStore(path)
    facts = store.facts
    positions = facts.positions_zyx * store.voxel_size_angstrom
    return PlacedParticles(path, store.particles(), facts.rows, facts.tomograms, facts.classes, positions)


def points_layer(found: ParticleSet, source: Path, run: Path | None = None) -> tuple[Any, dict[str, Any], str]:
    """Particles of one tomogram as data, look and kind of a layer, in angstrom."""
    look = {
        "name": f"{found.tomogram} particles",
        "features": found.features,
        "size": POINT_ANGSTROM,
        "face_color": "transparent",
        "border_color": "orange",
        "border_width": 0.08,
        "units": ("angstrom",) * 3,
        "axis_labels": AXES,
        "projection_mode": "rescale_spherical",  # balls, cut by the slice
        "metadata": {KEY: LayerFacts(Role.PARTICLES, found.tomogram, source, run=run)},
    }
    return found.positions_angstrom_zyx, look, "points"


def layer_positions_angstrom_zyx(
    data: Any, scale: Sequence[float], translate: Sequence[float], units: Sequence[Any]
) -> NDArray[np.float64] | None:
    """Positions (n, 3) of a layer's points; None where it has not three axes in units of length."""
    factors = [ANGSTROM_PER_UNIT.get(str(unit), 0.0) for unit in units]
    points = np.asarray(data, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(factors) != 3 or min(factors) <= 0:
        return None
    return (points * np.asarray(scale) + np.asarray(translate)) * np.asarray(factors)


def list_positions_angstrom_zyx(listed: Particles, folders: Sequence[Path]) -> NDArray[np.float64]:
    """Positions (n, 3) of a list's particles from their tomogram's first voxel.

    Parameters
    ----------
    listed : Particles
    folders : sequence of Path
        Where MRC files may lie that say what the list does not.

    Raises
    ------
    InputError
        When nothing says how large voxels, or tomograms, are; or when most particles lie outside of theirs.
    """
    if listed.units == ANGSTROM and not listed.centred:
        return listed.points_zyx
    sizes = _sizes(folders)
    positions = np.empty_like(listed.points_zyx)
    for name in dict.fromkeys(listed.tomograms):
        voxel, shape_zyx = _size_of(listed.source, name, sizes)
        rows = listed.rows_of(name)
        positions[rows] = voxel_points_zyx(listed, rows, shape_zyx, voxel, name or "its tomogram") * voxel
    return positions


def _sizes(folders: Sequence[Path]) -> dict[Path, Size]:
    """What the headers of the MRC files in some folders say."""
    found = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.mrc"))):
        try:
            header = peek_header(file)
            found[file] = (round(choose_voxel_size(file, header, None), 4), header.shape_zyx)
        except InputError:
            continue  # not a tomogram: says nothing
    return found


def _size_of(source: Path, tomogram: str, sizes: dict[Path, Size]) -> Size:
    """Size of a tomogram: that of the files of its name, else of all files, if they agree."""
    own = {size for file, size in sizes.items() if match_name(file) == tomogram}
    found = own or set(sizes.values())
    if len(found) != 1:
        raise InputError(
            source, "does not state a pixel size, or the size of its tomogram", "put it beside its tomogram's MRC file"
        )
    return found.pop()


def numbers_or_text(column: Any) -> NDArray[Any]:
    """A column of text as numbers, where all of it are."""
    import pandas as pd

    try:
        return np.asarray(pd.to_numeric(column))
    except (ValueError, TypeError):
        return column.to_numpy(dtype=object)

"""Points layers, and classes edited on the latent map, as STAR files: the library's writer keeps the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output
from cryoaae.io.particle_files import write_particles
from cryoaae.io.particles import ANGSTROM, Particles
from napari_cryoaae.facts import KEY, LayerFacts, Role
from napari_cryoaae.particles import ROW, PlacedParticles, layer_positions_angstrom_zyx, place_particles

if TYPE_CHECKING:
    from napari_cryoaae.latent_map import LatentMap
    from napari_cryoaae.particle_groups import ParticleGroups

CLASS_NUMBER, CLASS_NAME, OUTLIER = "rlnClassNumber", "cryoaaeClassName", "cryoaaeOutlierScore"
TOMOGRAM, NO_NAME = "rlnTomoName", "None"
LABEL = re.compile(r"[A-Za-z]\w*")
# Points that lie farther from where their row says were moved.
MOVED_ANGSTROM = 0.01
LayerTuple = tuple[Any, dict[str, Any], str]


def write_points_layers(path: str, layers: list[LayerTuple]) -> list[str]:
    """Write points layers as one STAR file; return its name.

    Points that were read from a list, or a store, are written as rows of that list, with its optics and all its
    columns; features that were changed or added become columns. Other points are a list of their own, in angstrom.

    Raises
    ------
    InputError
        When the layers are no particles, points of a list were moved or added, or the file is the list itself.
    """
    target = Path(path)
    layers = [layer for layer in layers if len(layer[0])]
    if not layers:
        raise InputError(target, "the layers hold no points", "choose others")
    sources = {_list_behind(attributes) for _, attributes, _ in layers}
    if len(sources) > 1:
        raise InputError(target, "the layers were not read from one list", "save them one by one")
    points = np.concatenate([_positions(target, layer) for layer in layers])
    features = _shared_features(layers)
    source = sources.pop()
    if source is not None:
        _write_rows(target, place_particles(source), points, features)
    else:
        _write_new(target, layers, points, features)
    return [str(target)]


def write_classes(
    path: Path, latent: LatentMap, groups: ParticleGroups, members: NDArray[np.int64] | None = None
) -> list[Path]:
    """Write particles of a latent map with their classes as they are now, a STAR file a store; return the files.

    Parameters
    ----------
    path : Path
        Of several stores, each file gets the store's name, too.
    latent : LatentMap
    groups : ParticleGroups
    members : (m,), optional
        The particles; default: all.

    Raises
    ------
    InputError
        When the particles' list was not found, or a file would be overwritten that was read.
    """
    chosen = np.ones(len(latent), dtype=bool)
    if members is not None:
        chosen = np.isin(np.arange(len(latent)), members)
    names = [name for name in latent.store_names if (chosen & (latent.codes["store"] == name)).any()]
    if not names:
        raise InputError(path, "nothing is selected", "select particles first")
    files = [path if len(names) == 1 else path.with_name(f"{path.stem}_{Path(n).stem}{path.suffix}") for n in names]
    numbers, titles = np.array(groups.numbers), np.array(groups.names, dtype=object)
    for name, file in zip(names, files, strict=True):
        own, index = latent.of_store(name)
        kept = chosen[own]
        if name not in latent.placed:
            raise InputError(name, "the list of its particles was not found", "put the store beside the run folder")
        of = groups.assigned[own[kept]]
        columns = {CLASS_NUMBER: numbers[of], CLASS_NAME: titles[of]}
        if "outlier_score" in latent.codes:
            columns[OUTLIER] = np.array([f"{v:.4f}" for v in latent.codes["outlier_score"][own[kept]]], dtype=object)
        placed = latent.placed[name]
        _write(file, placed, placed.rows[index[kept]], columns)
    return files


# -- rows of a list -------------------------------------------------------------------------------


def _list_behind(attributes: dict[str, Any]) -> Path | None:
    """The list or store that a layer's points are rows of."""
    known = attributes.get("metadata", {}).get(KEY)
    listed = isinstance(known, LayerFacts) and known.role is Role.PARTICLES and ROW in attributes.get("features", {})
    return known.source if listed else None


def _write_rows(
    target: Path, placed: PlacedParticles, points_angstrom_zyx: NDArray[np.float64], features: dict[str, NDArray[Any]]
) -> None:
    rows = features.pop(ROW).astype(np.int64)
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    by_row = np.argsort(placed.rows)
    index = by_row[np.minimum(np.searchsorted(placed.rows, rows, sorter=by_row), len(placed) - 1)]
    away = np.abs(placed.positions_angstrom_zyx[index] - points_angstrom_zyx[order]).max(axis=1)
    same = (placed.rows[index] == rows) & (away <= MOVED_ANGSTROM) & np.concatenate([[True], np.diff(rows) > 0])
    if not same.all():
        raise InputError(
            target, f"{int((~same).sum())} points were moved or added since {placed.source.name} was read",
            "put new points into a layer of their own, and save that",
        )  # fmt: skip
    listed = {name: values[index] for name, values in placed.columns().items()}
    values = {name: column[order] for name, column in features.items()}
    changed = {k: v for k, v in values.items() if k not in listed or not _same(v, listed[k])}
    _write(target, placed, rows, changed)


def _write(target: Path, placed: PlacedParticles, rows: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> None:
    """Write rows of a list, whose file is never the target; the user was asked whether to replace another."""
    check_output(target, [placed.source, placed.listed.source], overwrite=True)
    texts = {name: star_texts(values) for name, values in columns.items()}
    write_particles(target, placed.listed, rows=rows, columns=texts, overwrite=True)


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two columns hold the same; a number that is missing in both is."""
    numeric = np.issubdtype(one.dtype, np.number) and np.issubdtype(other.dtype, np.number)
    return bool(np.array_equal(one, other, equal_nan=True)) if numeric else one.tolist() == other.tolist()


# -- points of the user's own ---------------------------------------------------------------------


def _write_new(
    target: Path, layers: Sequence[LayerTuple], points_zyx: NDArray[np.float64], features: dict[str, NDArray[Any]]
) -> None:
    tomograms = [name for layer in layers for name in [_tomogram(layer[1])] * len(layer[0])]
    count = len(tomograms)
    particles = Particles(
        source=target, points_zyx=points_zyx, units=ANGSTROM, centred=False,
        rotations=np.broadcast_to(np.eye(3), (count, 3, 3)), tomograms=tuple(tomograms), classes=("",) * count,
        half_sets=np.zeros(count, np.int64), images=("",) * count, shifts_zyx=np.zeros((count, 3)),
        image_pixel_angstrom=np.ones(count),
    )  # fmt: skip
    columns = {TOMOGRAM: tomograms} | {name: star_texts(values) for name, values in features.items()}
    write_particles(target, particles, columns=columns, overwrite=True)


def _tomogram(attributes: dict[str, Any]) -> str:
    known = attributes.get("metadata", {}).get(KEY)
    return known.tomogram if isinstance(known, LayerFacts) else NO_NAME


# -- layers ---------------------------------------------------------------------------------------


def _positions(target: Path, layer: LayerTuple) -> NDArray[np.float64]:
    data, attributes, _ = layer
    scale, translate = attributes.get("scale", (1.0,) * 3), attributes.get("translate", (0.0,) * 3)
    points = layer_positions_angstrom_zyx(data, scale, translate, attributes.get("units") or ())
    if points is None:
        problem = f"{attributes.get('name', 'the layer')} does not hold points (z, y, x) in units of length"
        raise InputError(target, problem, "give the layer three axes with units angstrom")
    return points


def _shared_features(layers: Sequence[LayerTuple]) -> dict[str, NDArray[Any]]:
    """Features that all layers have, and that can be columns."""
    tables = [attributes.get("features", {}) for _, attributes, _ in layers]
    names = [name for name in tables[0] if LABEL.fullmatch(str(name)) and all(name in table for table in tables)]
    return {str(name): np.concatenate([np.asarray(table[name]) for table in tables]) for name in names}


def star_texts(values: NDArray[Any]) -> list[str]:
    """Values as STAR files hold them, in one word: RELION reads no quotes."""
    return [re.sub(r"\s+", "_", str(value).strip()) or NO_NAME for value in values.tolist()]

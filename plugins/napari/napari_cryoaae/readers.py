"""Files as layers: memory maps with scale in angstrom, units, axis names and robust contrast."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume, peek_header
from cryoaae.io.mrc_header import MrcHeader, choose_voxel_size
from cryoaae.io.names import PACKED_SUFFIXES, STORE_SUFFIXES, match_name
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.contrast import sampled_limits
from napari_cryoaae.facts import KEY, LayerFacts, Role, role_of_file
from napari_cryoaae.latent_map import is_latent_folder, read_latent_map
from napari_cryoaae.particles import AXES, LISTS, is_store, place_particles, points_layer
from napari_cryoaae.run_folder import Restoration, is_run_folder, read_restoration, read_run, restoration_of
from napari_cryoaae.spread_record import SpreadRecord, draw_number, read_spread, spread_of, spreads_near

LayerData = tuple[Any, dict[str, Any], str]
VOLUMES = (".mrc", ".rec", ".map")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Look cheaply whether all paths are ours; return what reads them, or None."""
    paths = [Path(p) for p in _listed(path)]
    return _read_all if paths and all(_reader_of(p) is not None for p in paths) else None


def read_volume(path: Path, facts: LayerFacts | None = None) -> LayerData:
    """Map a volume into memory as an image layer; nothing but a sample of it is read.

    Raises
    ------
    InputError
        When it cannot be read. A voxel size that makes no sense is no reason: a warning is given and
        the layer counts voxels.
    """
    header = peek_header(path, lenient=True)
    voxel = _voxel_size(path, header)
    data = _mapped(path, header)
    known = replace(facts or facts_of_file(path), voxel_size_angstrom=voxel)
    step = 1.0 if voxel is None else voxel
    look: dict[str, Any] = {
        "name": _stem(path),
        "scale": (step,) * 3,
        "units": ("pixel" if voxel is None else "angstrom",) * 3,
        "axis_labels": AXES,
        "contrast_limits": sampled_limits(data),
        "colormap": "gray",
        "metadata": {KEY: known},
    }
    return data, look, "image"


def facts_of_file(path: Path) -> LayerFacts:
    """What a volume is: by the record beside it, else by its name."""
    made = restoration_of(path)
    if made is not None:
        return _restored_facts(made, path, dict(made.outputs())[path], made.run())
    spread = spread_of(path)
    if spread is not None:
        return _spread_facts(spread, path, dict(spread.outputs())[path], None)
    return LayerFacts(role_of_file(path), match_name(path), path)


def read_run_folder(path: Path) -> list[LayerData]:
    """Layers of a run: its inputs where they can still be found, and what was restored with it.

    Raises
    ------
    InputError
        When the folder is no run, or nothing of it can be shown.
    """
    run = read_run(path)
    layers = []
    for file, role, name, wedge in run.files():
        layers.append(read_volume(file, LayerFacts(role, name, file, wedge=wedge, run=run.path)))
    missing = len(run.record.get("inputs", [])) - len(layers)
    if missing:
        warnings.warn(f"{path}: {missing} of its input files are not where they were", stacklevel=2)
    restored = run.restorations()
    for made in restored:
        for file, role in made.outputs():
            layers.append(read_volume(file, _restored_facts(made, file, role, run.path)))
    for spread in spreads_near(run.path, run.digest):
        # The mean of draws is the restoration, to the bit.
        known = any(made.tomogram == spread.tomogram for made in restored)
        layers += _spread_layers(spread, run.path, mean=not known)
    if not layers:
        raise InputError(path, "neither its inputs nor a restoration are there", "open the volumes themselves")
    return layers


def read_sample_folder(path: Path) -> list[LayerData]:
    """Layers of a folder of `cryoaae sample`: mean, spread and draws, of which the first is shown.

    Raises
    ------
    InputError
        When the folder is none, or nothing of it stands.
    """
    spread = read_spread(path)
    layers = [] if spread is None else _spread_layers(spread, None, mean=True)
    if not layers:
        raise InputError(path, "holds no draws", "give the folder that `cryoaae sample` wrote")
    return layers


def read_latent_folder(path: Path) -> list[LayerData]:
    """Particles of a folder of `cryoaae cluster` or `cryoaae embed` as points; the Latent panel finds their map.

    Raises
    ------
    InputError
        When there are no codes, or no particle has a known position.
    """
    latent = read_latent_map(path, NullProgress())
    layers = [points_layer(s, placed.source, path) for placed in latent.placed.values() for s in placed.sets()]
    if not layers:
        raise InputError(path, "; ".join(latent.remarks), "open it in the Latent panel")
    return layers


def _spread_layers(spread: SpreadRecord, run: Path | None, *, mean: bool) -> list[LayerData]:
    """Volumes of a spread's record; draws and the spread are not shown at first, they would hide the rest."""
    layers = []
    made = read_restoration(spread.beside) if mean and spread.whole_folder else None
    for file, role in made.outputs() if made else ():
        layers.append(read_volume(file, _restored_facts(made, file, role, run or made.run())))
    for file, role in spread.outputs():
        if role is not Role.MODE:
            data, look, kind = read_volume(file, _spread_facts(spread, file, role, run))
            layers.append((data, look | {"visible": False}, kind))
    return layers


def read_points(path: Path) -> list[LayerData]:
    """Particles of a list or a store as points in angstrom, a layer a tomogram.

    Raises
    ------
    InputError
    """
    return [points_layer(found, path) for found in place_particles(path).sets()]


def _restored_facts(made: Restoration, path: Path, role: Role, run: Path | None) -> LayerFacts:
    return LayerFacts(role, made.tomogram, path, wedge=made.wedge, run=run, record=made.file)


def _spread_facts(spread: SpreadRecord, path: Path, role: Role, run: Path | None) -> LayerFacts:
    return LayerFacts(
        role, spread.tomogram, path, wedge=spread.wedge, run=run, record=spread.file, draw=draw_number(path)
    )


def _listed(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str | Path) else list(path)


def _reader_of(path: Path) -> Callable[[Path], list[LayerData]] | None:
    if path.is_dir():
        if is_run_folder(path):
            return read_run_folder
        if is_latent_folder(path):
            return read_latent_folder
        return None if read_spread(path) is None else read_sample_folder
    if path.suffix.lower() in LISTS or (path.suffix.lower() in STORE_SUFFIXES and is_store(path)):
        return read_points
    packed = path.suffix.lower() in PACKED_SUFFIXES
    suffix = Path(path.stem).suffix if packed else path.suffix
    return _one_volume if suffix.lower() in VOLUMES else None


def _one_volume(path: Path) -> list[LayerData]:
    return [read_volume(path)]


def _read_all(path: str | Sequence[str]) -> list[LayerData]:
    layers: list[LayerData] = []
    for one in (Path(p) for p in _listed(path)):
        read = _reader_of(one)
        if read is None:
            raise InputError(one, "is not read by cryoaae", "give an MRC or STAR file, a store or a run folder")
        layers += read(one)
    return layers


def _mapped(path: Path, header: MrcHeader) -> NDArray[Any]:
    """The densities (z, y, x): mapped where the file is not packed, native where it is of another byte order."""
    if path.suffix.lower() in PACKED_SUFFIXES:
        return open_volume(path, voxel_size_angstrom=1.0, lenient=True, allow_constant=True).data
    data = np.memmap(path, header.dtype, "r", header.data_offset, header.stored_shape)
    turned = np.transpose(data, header.axes_zyx)
    # Graphics cards take native numbers only.
    return turned if header.dtype.isnative else turned.astype(header.dtype.newbyteorder("="))


def _voxel_size(path: Path, header: MrcHeader) -> float | None:
    """Voxel size in angstrom as the header states it; None, with a warning, where that makes no sense."""
    try:
        return choose_voxel_size(path, header, None)
    except InputError as error:
        warnings.warn(f"{error.source}: {error.problem}; shown in voxels", stacklevel=2)
        return None


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() in PACKED_SUFFIXES else path.stem

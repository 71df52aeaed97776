"""An image layer as an MRC file that keeps the header of the file it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.volume import Volume
from napari_cryoaae.facts import KEY, LayerFacts, voxel_size_of

WRITTEN = ("float32", "float16", "int16", "uint16")
# What MRC has no mode for, and the smallest mode that holds it.
WIDENED = {"int8": "int16", "uint8": "int16", "bool": "int16"}


def write_volume_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image layer (z, y, x); return the file's name.

    Origin, labels and extended header are those of the file that the layer, or what it was computed
    from, was read from.

    Raises
    ------
    InputError
        When the layer is no volume, has no voxel size, or the file is the one it is read from.
    """
    target = Path(path)
    if attributes.get("rgb") or getattr(data, "ndim", 0) != 3:
        raise InputError(target, "the layer is not a single grey-valued volume (z, y, x)", "choose another layer")
    known = attributes.get("metadata", {}).get(KEY)
    like = header_of(known) if isinstance(known, LayerFacts) else None
    if isinstance(known, LayerFacts):
        refuse_own_file(target, known)
    voxel = voxel_size_of(attributes.get("scale", ()), attributes.get("units"))
    if voxel is None and like is None:
        raise InputError(target, "the layer states no cubic voxel size", "set its scale, with units angstrom")
    values, dtype = _storable(np.asarray(data))
    # The viewer has asked whether to replace an existing file.
    write_volume(
        target, values, like=like, voxel_size_angstrom=voxel, dtype=dtype, label="saved from napari", overwrite=True
    )
    return [str(target)]


def refuse_own_file(target: Path, facts: LayerFacts) -> None:
    """Refuse to write over the file that a layer is read from.

    Raises
    ------
    InputError
    """
    if facts.source is not None and facts.source.exists() and target.exists() and target.samefile(facts.source):
        raise InputError(target, "is the file that the layer is read from", "give another name")


def header_of(facts: LayerFacts) -> Volume | None:
    """The file of a layer, for its header; None where it has none, or no longer."""
    if facts.source is None or not facts.source.is_file():
        return None
    stated = facts.voxel_size_angstrom or 1.0  # unknown: the layer's own goes into the file
    return open_volume(facts.source, voxel_size_angstrom=stated, lenient=True, allow_constant=True)


def _storable(data: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Densities and the type they are stored as."""
    name = data.dtype.newbyteorder("=").name
    dtype = name if name in WRITTEN else WIDENED.get(name, "float32")
    return data.astype(dtype, copy=False), dtype

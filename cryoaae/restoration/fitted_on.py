"""What a restorer says of tomograms: the voxel size it was fitted at, and the wedges of those it was fitted on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.io.project import TomogramInput, resolve_inputs, split_inputs
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

VOXEL_SIZE_TOLERANCE = 0.10


def check_voxel_size(
    voxel_size_angstrom: float, model: Any, source: Path | str, *, allow_scale: bool = False
) -> None:
    """Refuse a tomogram whose voxel size is more than 10 % off the one the model was fitted on.

    Raises
    ------
    InputError
    """
    fitted = float(model.spec.voxel_size_angstrom)
    if allow_scale or abs(voxel_size_angstrom / fitted - 1) <= VOXEL_SIZE_TOLERANCE:
        return
    raise InputError(
        source,
        f"voxel size {voxel_size_angstrom:g} angstrom, but the model was fitted at {fitted:g}",
        "resample the tomogram, fit a model at this voxel size, or give --allow-scale",
    )


def resolve_with_model(
    inputs: Any, model: Any, geometry: dict[str, Any], opening: dict[str, Any]
) -> list[TomogramInput]:
    """Inputs with their wedges: those stated, else those that the model knows.

    `opening` are keywords of `io.project.open_tomogram`: a model knows data as they were opened.

    Raises
    ------
    InputError
    """
    given, items = split_inputs(inputs)
    if items:
        return items
    if geometry.get("tilts") is not None or geometry.get("tilt_range") is not None:
        return resolve_inputs(given, **geometry)
    items = resolve_inputs(given, **geometry, default_wedge=MissingWedge())
    return [replace(item, wedge=known_wedge(item, model, opening)) for item in items]


def known_wedge(item: TomogramInput, model: Any, opening: dict[str, Any]) -> MissingWedge:
    """Wedge of a tomogram the model was fitted on, found by its content.

    Raises
    ------
    InputError
        When the model was fitted on other tomograms.
    """
    found = wedge_by_content(open_volume(item.paths[0], **opening), model)
    if found is not None:
        return found
    raise InputError(
        item.paths[0], "the model was not fitted on it, so its tilts are not known", "give --tilts or --tilt-range"
    )


def wedge_by_content(volume: Volume, model: Any) -> MissingWedge | None:
    """Wedge of a half or single volume the model was fitted on; None of others."""
    tomograms = getattr(getattr(model, "spec", None), "tomograms", [])
    digest = volume.digest() if tomograms else ""
    return next((MissingWedge.from_facts(known) for known in tomograms if digest in known["digests"]), None)

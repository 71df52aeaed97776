"""Both parts of a whole volume as layers: which volume a user means, and what its parts look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cryoaae.comparison import Entry, Kind, Part
from napari_cryoaae.facts import KEY, Role, StatedWedge, facts_of


def main_volume(entries: Sequence[Entry]) -> Entry | None:
    """The restoration, else the first density."""
    densities = [entry for entry in entries if entry.kind is Kind.DENSITY and entry.whole]
    restored = (entry for entry in densities if facts_of(entry.layers[0]).role is Role.RESTORED)
    return next(restored, densities[0] if densities else None)


def part_layers(
    entry: Entry, stated: StatedWedge, parts: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> list[tuple[NDArray[np.float32], dict[str, Any]]]:
    """The measured and the filled-in part of an entry, with the look of their layers."""
    layer = entry.layers[0]
    known = replace(facts_of(layer), record=None, wedge=stated)
    made = []
    for role, part, data in zip((Role.MEASURED, Role.FILLED), (Part.MEASURED, Part.FILLED), parts, strict=True):
        facts = replace(known, role=role, made=f"{role}, of {layer.name}")
        look = {
            "name": f"{layer.name} {role}", "scale": layer.scale, "units": layer.units,
            "axis_labels": layer.axis_labels, "contrast_limits": entry.levels(part), "metadata": {KEY: facts},
        }  # fmt: skip
        made.append((data, look))
    return made

"""Which particles of a latent map the selected points of the viewer are: those of their tomogram at their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cryoaae.errors import InputError
from napari_cryoaae.facts import facts_of
from napari_cryoaae.latent_map import LatentMap
from napari_cryoaae.particles import layer_positions_angstrom_zyx
from napari_cryoaae.points_link import SAME_ANGSTROM

MOST = 2


def picked_particles(layers: Iterable[Any], latent: LatentMap) -> list[int]:
    """Numbers, from 1, of the one or two particles whose points are selected.

    Raises
    ------
    InputError
        When none, or more, are selected, or they are no particles of the map.
    """
    points = [layer for layer in layers if type(layer).__name__ == "Points" and layer.selected_data]
    count = sum(len(layer.selected_data) for layer in points)
    if not 1 <= count <= MOST:
        raise InputError("points", f"{count} are selected", "select one particle, or two to go between")
    found = [number for layer in points for number in _numbers(layer, latent)]
    if len(found) < count:
        raise InputError("points", "what is selected is no particle of this model", "select points of its list")
    return found


def _numbers(layer: Any, latent: LatentMap) -> list[int]:
    places = layer_positions_angstrom_zyx(layer.data, layer.scale, layer.translate, layer.units)
    if places is None:
        return []
    owners = latent.tomograms
    of_layer = owners == facts_of(layer).tomogram
    mine = of_layer if of_layer.any() else np.full(len(owners), len(set(owners)) == 1)
    numbers = []
    for point in sorted(layer.selected_data):
        distance = np.linalg.norm(latent.positions_angstrom_zyx - places[point], axis=1)
        distance[~mine | ~np.isfinite(distance)] = np.inf
        if distance.min() < SAME_ANGSTROM:
            numbers.append(int(distance.argmin()) + 1)
    return numbers

"""Particles of the latent map and the points of the viewer's layers, kept together by where they lie.

A point belongs to the particle of its tomogram at its place: so it does not matter whether a layer was read from the
store, from the list it was cut by, or from the list that the clustering wrote. Selected particles are filled; which
points are *selected* in the viewer's own sense is left to the user, and read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from napari_cryoaae.bonds import Bonds
from napari_cryoaae.facts import facts_of
from napari_cryoaae.latent_map import LatentMap
from napari_cryoaae.particle_groups import ParticleGroups
from napari_cryoaae.particle_writer import CLASS_NAME, CLASS_NUMBER
from napari_cryoaae.particles import layer_positions_angstrom_zyx

# Points nearer than this to where a particle lies are that particle.
SAME_ANGSTROM = 1.0
NONE = -1
FILLED = (1.0, 1.0, 1.0, 0.6)
NO_CLASS = "none"


@dataclass
class _Linked:
    """A layer, the particle of each of its points (-1: none), and the faces it had."""

    layer: Any
    particles: NDArray[np.int64]
    faces: NDArray[np.float32]

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.particles != NONE


class PointsLink:
    """Fills the points of selected particles, and says which points the user picked.

    Parameters
    ----------
    viewer : napari viewer
    bonds : Bonds
        Of the panel, which let go with it.
    picked : callable
        Told the particles (m,) of the points that the user selected in a layer.
    """

    def __init__(self, viewer: Any, bonds: Bonds, picked: Callable[[NDArray[np.int64]], None]) -> None:
        self._viewer, self._bonds, self._picked = viewer, bonds, picked
        self._trees: dict[str, tuple[KDTree, NDArray[np.int64]]] = {}
        self._linked: list[_Linked] = []
        # The layer whose points the user is picking, which keep their mark; and whether what changes is our doing.
        self._picked_in: _Linked | None = None
        self._deaf = False
        self._rgb: NDArray[np.uint8] | None = None
        self._groups: ParticleGroups | None = None
        self._selected = np.empty(0, dtype=bool)
        bonds.tie(viewer.layers.events.inserted, self._inserted)
        bonds.tie(viewer.layers.events.removed, self._removed)

    def follow(self, latent: LatentMap) -> None:
        """Link the layers' points with the particles of a map."""
        places, owners = latent.positions_angstrom_zyx, latent.tomograms
        known = np.isfinite(places).all(axis=1)
        self._trees = {}
        for name in dict.fromkeys(owners[known]):
            own = np.flatnonzero(known & (owners == name))
            self._trees[str(name)] = (KDTree(places[own]), own)
        self.show_selected(np.zeros_like(self._selected))
        for linked in list(self._linked):
            self._let_go(linked)
        self._rgb, self._groups, self._selected = None, None, np.zeros(len(latent), dtype=bool)
        for layer in self._viewer.layers:
            self._link(layer)

    def covered(self) -> NDArray[np.bool_]:
        """Which particles have a point in a layer, (n,)."""
        covered = np.zeros(len(self._selected), dtype=bool)
        for linked in self._linked:
            covered[linked.particles[linked.known]] = True
        return covered

    def show_colours(self, rgb: NDArray[np.uint8]) -> None:
        """Draw points in the colours (n, 3) of their particles."""
        self._rgb = rgb
        for linked in self._linked:
            self._draw_border(linked)

    def show_classes(self, groups: ParticleGroups) -> None:
        """Put the classes of the particles among the features of their points."""
        self._groups = groups
        for linked in self._linked:
            self._write_classes(linked)

    def show_selected(self, selected: NDArray[np.bool_]) -> None:
        """Fill the points of the selected particles (n,), and forget what the user had picked among the points."""
        self._selected = selected
        for linked in self._linked:
            self._moved(linked)
            if linked is not self._picked_in and linked.layer.selected_data:
                self._deaf = True
                linked.layer.selected_data.clear()
                self._deaf = False
            self._fill(linked)

    # -- layers --------------------------------------------------------------------------------------

    def _inserted(self, event: Any) -> None:
        self._link(event.value)

    def _removed(self, event: Any) -> None:
        for linked in [linked for linked in self._linked if linked.layer is event.value]:
            self._let_go(linked)

    def _link(self, layer: Any) -> None:
        if type(layer).__name__ != "Points" or not self._trees:
            return
        linked = _Linked(layer, self._particles_of(layer), np.array(layer.face_color))
        if not linked.known.any():
            return
        self._linked.append(linked)
        self._bonds.tie(layer.selected_data.events.items_changed, lambda *_: self._on_picked(linked))
        self._bonds.tie(layer.events.data, lambda *_: self._moved(linked, anew=True))
        self._show(linked)

    def _let_go(self, linked: _Linked) -> None:
        self._bonds.untie(linked.layer.selected_data.events.items_changed)
        self._bonds.untie(linked.layer.events.data)
        self._linked.remove(linked)

    def _moved(self, linked: _Linked, *, anew: bool = False) -> None:
        """Find the particles of points anew that came, went or moved; the viewer says so later than it does it."""
        if len(linked.layer.data) != len(linked.particles):
            linked.faces = np.array(linked.layer.face_color)
            linked.faces[np.isclose(linked.faces, FILLED).all(axis=1)] = 0.0
        elif not anew:
            return
        linked.particles = self._particles_of(linked.layer)

    def _particles_of(self, layer: Any) -> NDArray[np.int64]:
        """The particle of each point, or -1."""
        points = layer_positions_angstrom_zyx(layer.data, layer.scale, layer.translate, layer.units)
        if points is None or not len(points):
            return np.full(len(layer.data), NONE)
        only = next(iter(self._trees.values())) if len(self._trees) == 1 else None
        tree, own = self._trees.get(facts_of(layer).tomogram) or only or (None, np.empty(0, np.int64))
        if tree is None:
            return np.full(len(points), NONE)
        distance, nearest = tree.query(points, distance_upper_bound=SAME_ANGSTROM)
        return np.where(np.isfinite(distance), own[np.minimum(nearest, len(own) - 1)], NONE)

    def _on_picked(self, linked: _Linked) -> None:
        if self._deaf:
            return
        self._moved(linked)
        points = np.fromiter(linked.layer.selected_data, np.int64)
        particles = linked.particles[points]
        self._picked_in = linked
        try:
            self._picked(particles[particles != NONE])
        finally:
            self._picked_in = None

    # -- looks ---------------------------------------------------------------------------------------

    def _show(self, linked: _Linked) -> None:
        self._draw_border(linked)
        self._write_classes(linked)
        if self._selected.any():
            self._fill(linked)

    def _draw_border(self, linked: _Linked) -> None:
        if self._rgb is not None:
            colours = np.array(linked.layer.border_color)
            colours[linked.known, :3] = self._rgb[linked.particles[linked.known]] / 255
            linked.layer.border_color = colours

    def _fill(self, linked: _Linked) -> None:
        faces = linked.faces.copy()
        faces[linked.known & self._selected[linked.particles]] = FILLED
        linked.layer.face_color = faces

    def _write_classes(self, linked: _Linked) -> None:
        if self._groups is None:
            return
        features, known = linked.layer.features.copy(), linked.known
        numbers, names = np.array(self._groups.numbers), np.array(self._groups.names, dtype=object)
        of = self._groups.assigned[linked.particles[known]]
        for column, values, none in ((CLASS_NUMBER, numbers, 0), (CLASS_NAME, names, NO_CLASS)):
            before = features[column].to_numpy() if column in features else np.full(len(known), none, values.dtype)
            after = before.astype(np.result_type(before.dtype, values.dtype))
            after[known] = values[of]
            features[column] = after
        linked.layer.features = features

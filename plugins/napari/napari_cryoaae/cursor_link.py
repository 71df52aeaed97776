"""The cursor of a panel and the viewer's own slice, slab and clicks, kept together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Place = tuple[int, int, int]


class CursorLink:
    """Follows a viewer's sliders and clicks, and moves them.

    Parameters
    ----------
    viewer : napari viewer
    moved : callable
        Told a place (z, y, x) in voxels of the reference layer when the viewer's slice or a click says so.
    """

    def __init__(self, viewer: Any, moved: Callable[[Place], None]) -> None:
        self.viewer, self._moved = viewer, moved
        self.layer: Any = None
        self.place: Place = (0, 0, 0)
        viewer.dims.events.point.connect(self._on_point)
        viewer.mouse_drag_callbacks.append(self._on_press)

    def close(self) -> None:
        """Let go of the viewer."""
        self.viewer.dims.events.point.disconnect(self._on_point)
        if self._on_press in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_press)
        self.layer = None

    def set_layer(self, layer: Any | None) -> None:
        """Count voxels of this layer; None follows nothing."""
        self.layer = layer

    def set_place(self, place_zyx: Place) -> None:
        """Move the viewer's sliders to a place."""
        self.place = place_zyx
        if self.layer is None:
            return
        world = self.layer.data_to_world(place_zyx)
        axes = range(self.viewer.dims.ndim - 3, self.viewer.dims.ndim)
        self.viewer.dims.set_point(list(axes), list(world[-3:]))

    def set_thickness(self, layers: Sequence[Any], thickness: int) -> None:
        """Make the viewer average over as many voxels as the panel does."""
        if self.layer is None:
            return
        for layer in layers:
            layer.projection_mode = "mean" if thickness > 1 else "none"
        steps = [float(s) * thickness if thickness > 1 else 0.0 for s in self.layer.scale[-3:]]
        self.viewer.dims.thickness = (*(0.0,) * (self.viewer.dims.ndim - 3), *steps)

    def _on_point(self, event: Any = None) -> None:
        """A slider moved: only axes that have one count, the others keep their place."""
        if self.layer is None:
            return
        dims = self.viewer.dims
        there = self._voxel(dims.point)
        shown = {axis - (dims.ndim - 3) for axis in dims.displayed}
        z, y, x = (self.place[axis] if axis in shown else there[axis] for axis in range(3))
        self._go((z, y, x))

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click, not a drag, which moves the picture, puts the cursor there."""
        yield
        if event.type != "mouse_move" and self.layer is not None:
            self._go(self._voxel(event.position))

    def _voxel(self, world: Sequence[float]) -> Place:
        z, y, x = (round(float(v)) for v in self.layer.world_to_data(world)[-3:])
        return z, y, x

    def _go(self, place: Place) -> None:
        if place != self.place:
            self.place = place
            self._moved(place)

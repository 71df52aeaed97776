"""The oblique plane in the main window, through the viewer's own rendering of planes in 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_cryoaae.oblique import ObliquePlane


class PlaneInViewer:
    """Shows a layer of a viewer as one plane, and puts everything back as it was.

    Parameters
    ----------
    viewer : napari viewer
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layer: Any = None
        self._visible: list[tuple[Any, bool]] = []

    def show(self, layer: Any, plane: ObliquePlane, place_zyx: Sequence[int], thickness: int) -> None:
        """Render a layer as the plane through a voxel, `thickness` voxels of it, and no other image."""
        if layer is not self._layer:
            self.close()
            self._layer = layer
            # In 3-D the others would be drawn as volumes, before and behind the plane.
            self._visible = [(other, other.visible) for other in self._viewer.layers if _is_image(other)]
            for other, _ in self._visible:
                other.visible = other is layer
            self._viewer.dims.ndisplay = 3
        layer.plane.position = tuple(float(i) for i in place_zyx)
        layer.plane.normal = tuple(float(part) for part in plane.axes_zyx()[0])
        layer.plane.thickness = float(thickness)
        layer.depiction = "plane"

    def close(self) -> None:
        """Back to slices."""
        if self._layer is None:
            return
        self._layer.depiction = "volume"
        for other, visible in self._visible:
            other.visible = visible
        self._layer, self._visible = None, []
        self._viewer.dims.ndisplay = 2


def _is_image(layer: Any) -> bool:
    return type(layer).__name__ == "Image"

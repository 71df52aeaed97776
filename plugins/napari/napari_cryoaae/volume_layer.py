"""The one layer of the viewer whose volume changes: a film, or what a decoder makes as sliders move."""

from __future__ import annotations

from typing import Any

import numpy as np

# Between the decoded volume and what lies beside it, as a share of its edge.
GAP = 0.25


class VolumeLayer:
    """Shows one volume after the other in one layer; one that the user removed is made anew when next asked for.

    Parameters
    ----------
    viewer : napari viewer
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.layer: Any = None

    @property
    def alive(self) -> bool:
        """Whether the layer is still there."""
        return self.layer is not None and self.layer in self.viewer.layers

    def show(self, data: Any, look: dict[str, Any]) -> None:
        """Show a volume (z, y, x). `look` is that of a new layer; of one that stands, volume, name and facts change."""
        if self.alive and (self.layer.data.shape != data.shape or tuple(self.layer.scale) != tuple(look["scale"])):
            self.remove()
        if not self.alive:
            active = self.viewer.layers.selection.active
            self.layer = self.viewer.add_image(data, rgb=False, **look)
            if active is not None:  # what the user works on stays selected
                self.viewer.layers.selection.active = active
            return
        self.layer.name, self.layer.metadata = look["name"], look["metadata"]
        self.layer.data = data

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        if self.alive:
            self.viewer.layers.remove(self.layer)
        self.layer = None


def place_beside(viewer: Any, size: float, *, but: Any = None) -> tuple[float, float, float]:
    """Where the first voxel of a cube goes: beside all other layers in x, in their middle in y, on the slice in z.

    Parameters
    ----------
    viewer : napari viewer
    size : float
        Edge of the cube, in world units.
    but : layer, optional
        Not counted.
    """
    others = [layer for layer in viewer.layers if layer is not but and layer.ndim >= 3]
    if not others:
        return 0.0, 0.0, 0.0
    low = np.min([np.asarray(layer.extent.world)[0][-3:] for layer in others], axis=0)
    high = np.max([np.asarray(layer.extent.world)[1][-3:] for layer in others], axis=0)
    z = float(viewer.dims.point[-3]) if viewer.dims.ndim >= 3 else float(low[0])
    return z - size / 2, float(low[1] + high[1] - size) / 2, float(high[2]) + GAP * size

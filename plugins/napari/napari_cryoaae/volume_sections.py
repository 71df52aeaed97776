"""The three central sections of a small volume, in a panel."""

from __future__ import annotations

from typing import Any

import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtWidgets import QWidget

from napari_cryoaae.slice_view import BACKGROUND, TEXT
from napari_cryoaae.sources import PLANES

HEIGHT = 190


class VolumeSections(pg.GraphicsLayoutWidget):
    """Sections xy, xz and yz through the middle of a volume (z, y, x), beside each other."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setBackground(BACKGROUND)
        self.setMinimumHeight(HEIGHT)
        self.images: dict[str, pg.ImageItem] = {}
        for column, plane in enumerate(PLANES):
            self.addLabel(plane, row=0, col=column, color=TEXT)
            box = self.addViewBox(row=1, col=column, lockAspect=True, invertY=True, enableMouse=False, enableMenu=False)
            self.images[plane] = pg.ImageItem(axisOrder="row-major")
            box.addItem(self.images[plane])

    def show_volume(self, volume: NDArray[Any], levels: tuple[float, float]) -> None:
        """Show a volume with these grey levels."""
        for plane, image in self.images.items():
            axis = PLANES[plane]
            image.setImage(volume.take(volume.shape[axis] // 2, axis), autoLevels=False, levels=levels)

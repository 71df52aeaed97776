"""The scatter of the latent map: points as an image, a lasso and clicks to choose them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_cryoaae.charts import dress
from napari_cryoaae.latent_raster import disc_radius, paint_points
from napari_cryoaae.slice_view import BACKGROUND, CURSOR

REPLACE, ADD, REMOVE = "replace", "add", "remove"
# A click chooses the nearest particle within so many pixels.
CLICK_PIXELS = 8.0
REDRAW_MS = 10
PADDING = 0.04
SHUFFLE_SEED = 0


class _LassoBox(pg.ViewBox):
    """A view whose left button draws a lasso or clicks; the wheel zooms, the other buttons shift."""

    clicked = Signal(object, object)
    lassoed = Signal(object, object)
    reset = Signal()

    def __init__(self) -> None:
        super().__init__(enableMenu=False)
        self._corners: list[tuple[float, float]] = []
        self._line = pg.PlotCurveItem(pen=pg.mkPen(CURSOR, width=1.5), brush=pg.mkBrush(245, 197, 66, 30))
        self._line.setZValue(10)
        self.addItem(self._line, ignoreBounds=True)

    def mouseClickEvent(self, event: Any) -> None:
        event.accept()
        if event.double():
            self.reset.emit()
        elif event.button() == Qt.MouseButton.LeftButton:
            point = self.mapToView(event.pos())
            self.clicked.emit((point.x(), point.y()), event.modifiers())

    def mouseDragEvent(self, event: Any, axis: int | None = None) -> None:
        event.accept()
        if event.button() != Qt.MouseButton.LeftButton:
            shift = self.mapToView(event.lastPos()) - self.mapToView(event.pos())
            self.translateBy(x=shift.x(), y=shift.y())
            return
        if event.isStart():
            start = self.mapToView(event.buttonDownPos())
            self._corners = [(start.x(), start.y())]
        point = self.mapToView(event.pos())
        self._corners.append((point.x(), point.y()))
        if event.isFinish():
            self._line.setData([], [])
            self.lassoed.emit(np.array(self._corners), event.modifiers())
        else:
            self._line.setData(*np.array([*self._corners, self._corners[0]]).T)


class LatentScatter(QWidget):
    """Points along two axes. `chosen` says which the user chose, and whether they replace, join or leave the others."""

    chosen = Signal(object, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = _LassoBox()
        self.plot = pg.PlotWidget(viewBox=self.box, background=BACKGROUND)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.box.addItem(self.image, ignoreBounds=True)
        self.box.clicked.connect(self._clicked)
        self.box.lassoed.connect(self._lassoed)
        self.box.reset.connect(self.show_all)
        self.box.sigRangeChanged.connect(self.redraw)
        self.box.sigResized.connect(self.redraw)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.plot)
        self.plot.getPlotItem().layout.setContentsMargins(0, 4, 8, 6)
        self.xy = np.empty((0, 2))
        self.rgb = np.empty((0, 3), np.uint8)
        self.selected = np.empty(0, dtype=bool)
        self._order = np.empty(0, np.int64)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.draw)

    def sizeHint(self) -> QSize:
        return QSize(380, 360)  # the plot's own would leave little of the viewer

    # -- what is shown -------------------------------------------------------------------------------

    def show_points(self, x: NDArray[np.float64], y: NDArray[np.float64], titles: tuple[str, str]) -> None:
        """Spread particles along two axes; those that are not finite are not shown."""
        if len(x) != len(self.xy):
            # Drawn in a random order, so that no class hides another.
            self._order = np.random.default_rng(SHUFFLE_SEED).permutation(len(x))
            self.rgb, self.selected = np.full((len(x), 3), 255, np.uint8), np.zeros(len(x), dtype=bool)
        self.xy = np.stack([x, y], axis=1)
        dress(self.plot.getPlotItem(), *titles)
        self.show_all()
        self.redraw()

    def show_colours(self, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.redraw()

    def show_selected(self, selected: NDArray[np.bool_]) -> None:
        self.selected = selected
        self.redraw()

    def shown(self) -> NDArray[np.bool_]:
        """Which particles have a place on both axes."""
        return np.isfinite(self.xy).all(axis=1)

    def show_all(self) -> None:
        """Zoom out to all points."""
        points = self.xy[self.shown()]
        if len(points):
            low, high = points.min(axis=0), points.max(axis=0)
            high = np.where(high > low, high, low + 1.0)
            self.box.setRange(QRectF(*low, *(high - low)), padding=PADDING)

    def redraw(self, *_: Any) -> None:
        """Draw again soon."""
        if not self._timer.isActive():
            self._timer.start(REDRAW_MS)

    def draw(self) -> None:
        """Paint the points as they are to be seen now."""
        ratio = self.devicePixelRatioF()
        columns, rows = (max(1, round(ratio * length)) for length in (self.box.width(), self.box.height()))
        pixels, order = self._pixels(columns, rows), self._order
        radius = ratio * disc_radius(len(order))
        painted = paint_points(pixels[order], self.rgb[order], self.selected[order], (rows, columns), radius)
        self.image.setImage(painted, autoLevels=False, levels=(0, 255))
        self.image.setRect(self.box.viewRect())

    # -- choosing ------------------------------------------------------------------------------------

    def inside(self, corners_xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Particles inside a polygon (m, 2) of the plane."""
        from matplotlib.path import Path as Polygon

        return np.flatnonzero(Polygon(corners_xy).contains_points(self.xy) & self.shown())

    def nearest(self, point_xy: tuple[float, float]) -> NDArray[np.int64]:
        """The particle nearest to a point of the plane, if a click there means it."""
        size = max(self.box.width(), 1), max(self.box.height(), 1)
        scale = np.array(size) / np.array([self.box.viewRect().width(), self.box.viewRect().height()])
        distance = np.linalg.norm((self.xy - point_xy) * scale, axis=1)
        near = np.where(np.isfinite(distance), distance, np.inf)
        best = int(near.argmin()) if len(near) else 0
        return np.array([best] if len(near) and near[best] <= CLICK_PIXELS else [], np.int64)

    def _pixels(self, columns: int, rows: int) -> NDArray[np.float64]:
        (left, right), (low, high) = self.box.viewRange()
        return (self.xy - (left, low)) * (columns / (right - left), rows / (high - low))

    def _clicked(self, point_xy: tuple[float, float], modifiers: Any) -> None:
        self.chosen.emit(self.nearest(point_xy), _mode(modifiers))

    def _lassoed(self, corners_xy: NDArray[np.float64], modifiers: Any) -> None:
        self.chosen.emit(self.inside(corners_xy), _mode(modifiers))


def _mode(modifiers: Any) -> str:
    """What the keys held mean: shift adds, control or alt removes."""
    if modifiers & Qt.KeyboardModifier.ShiftModifier:
        return ADD
    removing = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
    return REMOVE if modifiers & removing else REPLACE

"""Three orthogonal slabs of several volumes side by side, under one crosshair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_cryoaae.sources import PLANES, Source

# Axes (z, y, x) that run down and across each plane.
DOWN_ACROSS = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}
BACKGROUND, CURSOR, TEXT = "#1d2025", "#f5c542", "#d0d6dd"
CURSOR_ALPHA = 150
# A drag asks for slabs more often than they can be drawn; they are drawn at this pace.
REDRAW_MS = 15


@dataclass(frozen=True)
class ShownSource:
    """A source, its grey levels, and the number shown for it under the cursor, if it is there."""

    source: Source
    levels: tuple[float, float]


class _SliceBox(pg.ViewBox):
    """A view whose left button moves the cursor; the wheel zooms, the middle or right button shifts."""

    picked = Signal(float, float)

    def __init__(self) -> None:
        super().__init__(lockAspect=True, invertY=True, enableMenu=False)
        self.setDefaultPadding(0.02)

    def mouseClickEvent(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._pick(event)

    def mouseDragEvent(self, event: Any, axis: int | None = None) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._pick(event)
        else:
            event.accept()
            shift = self.mapToView(event.lastPos()) - self.mapToView(event.pos())
            self.translateBy(x=shift.x(), y=shift.y())
            self.sigRangeChangedManually.emit(self.state["mouseEnabled"])

    def _pick(self, event: Any) -> None:
        event.accept()
        point = self.mapToView(event.pos())
        self.picked.emit(point.x(), point.y())


class _View:
    """One plane of one source: image, crosshair and the box they lie in."""

    def __init__(self, plane: str) -> None:
        self.plane = plane
        self.box = _SliceBox()
        self.image = pg.ImageItem(axisOrder="row-major")
        pen = pg.mkPen((*pg.mkColor(CURSOR).getRgb()[:3], CURSOR_ALPHA), width=1)
        self.lines = [pg.InfiniteLine(angle=angle, pen=pen) for angle in (0, 90)]
        for item in (self.image, *self.lines):
            self.box.addItem(item)
        self.drawn: tuple[Source | None, int, int] = (None, 0, 0)

    def draw(self, shown: ShownSource, cursor_zyx: Sequence[int], thickness: int) -> None:
        """Show the slab at the cursor; what is drawn already is not read again."""
        index = cursor_zyx[PLANES[self.plane]]
        if self.drawn[0] is not shown.source or self.drawn[1:] != (index, thickness):
            slab = shown.source.slab(self.plane, index, thickness)
            self.image.setImage(slab, autoLevels=False)
            down, across = (shown.source.offset_zyx[axis] for axis in DOWN_ACROSS[self.plane])
            self.image.setPos(across, down)
            self.drawn = (shown.source, index, thickness)
        self.image.setLevels(shown.levels)
        for line, axis in zip(self.lines, DOWN_ACROSS[self.plane], strict=True):
            line.setPos(cursor_zyx[axis] + 0.5)


class OrthoViews(QWidget):
    """A column of three planes (xy, xz, yz) for each of several volumes of one shape.

    `cursor_moved` says where the user put the cursor, (z, y, x) in voxels.
    """

    cursor_moved = Signal(tuple)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.graphics = pg.GraphicsLayoutWidget()
        self.graphics.setBackground(BACKGROUND)
        self.graphics.ci.layout.setSpacing(4)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.graphics)
        self.shape_zyx = (1, 1, 1)
        self.cursor_zyx = (0, 0, 0)
        self.thickness = 1
        self.shown: list[ShownSource] = []
        self.columns: list[dict[str, _View]] = []
        self._titles: list[pg.LabelItem] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._draw)
        self._fit = QTimer(self)
        self._fit.setSingleShot(True)
        self._fit.timeout.connect(self.show_all)

    def set_shape(self, shape_zyx: tuple[int, int, int]) -> None:
        """The volumes' shape; the views show all of it."""
        self.shape_zyx = shape_zyx
        self.columns = []  # other proportions, so laid out anew

    def show_sources(self, shown: Sequence[ShownSource]) -> None:
        """Show these sources, a column each."""
        if len(shown) != len(self.columns):
            self._lay_out(len(shown))
        self.shown = list(shown)
        self.redraw()

    def set_cursor(self, cursor_zyx: Sequence[int]) -> None:
        """Move the crosshair; a place outside the volume is moved to its face."""
        z, y, x = (int(min(max(i, 0), n - 1)) for i, n in zip(cursor_zyx, self.shape_zyx, strict=True))
        self.cursor_zyx = (z, y, x)
        self.redraw()

    def set_thickness(self, thickness: int) -> None:
        """Average over so many voxels across each plane."""
        self.thickness = thickness
        self.redraw()

    def redraw(self) -> None:
        """Draw again soon."""
        if not self._timer.isActive():
            self._timer.start(REDRAW_MS)

    def images(self, plane: str = "xy") -> list[NDArray[np.float32]]:
        """The images now shown of one plane, a source each."""
        return [column[plane].image.image for column in self.columns]

    def column_values(self, index: int) -> NDArray[np.float32]:
        """All finite densities now shown of one source, flat."""
        flat = np.concatenate([view.image.image.ravel() for view in self.columns[index].values()])
        return flat[np.isfinite(flat)]

    def _lay_out(self, count: int) -> None:
        self.graphics.clear()
        self.columns, self._titles = [], []
        z, y, _ = self.shape_zyx
        for row, stretch in enumerate((1, *(max(10, round(100 * n / (y + 2 * z))) for n in (y, z, z)))):
            self.graphics.ci.layout.setRowStretchFactor(row, stretch)
        for row, plane in enumerate(PLANES, start=1):
            self.graphics.addLabel(plane, row=row, col=0, color=TEXT, angle=-90)
        for index in range(1, count + 1):
            self._titles.append(self.graphics.addLabel("", row=0, col=index, color=TEXT))
            column = {plane: _View(plane) for plane in PLANES}
            for row, view in enumerate(column.values(), start=1):
                self.graphics.addItem(view.box, row=row, col=index)
                view.box.picked.connect(self._picker(view.plane))
                view.box.sigRangeChangedManually.connect(self._zoomer(view))
            self.columns.append(column)
        self.show_all()

    def show_all(self) -> None:
        """Zoom out to the whole of the volumes."""
        for plane, (down, across) in DOWN_ACROSS.items():
            size = (self.shape_zyx[across], self.shape_zyx[down])
            for column in self.columns:
                column[plane].box.setRange(QRectF(0, 0, *size), padding=0.02)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit.start(0)  # the rows have their new sizes only then

    def _zoomer(self, view: _View) -> Any:
        def zoomed(_: Any) -> None:
            """Zoom and shift the same plane of all volumes alike."""
            for other in (column[view.plane] for column in self.columns):
                if other is not view:
                    other.box.setRange(view.box.viewRect(), padding=0)

        return zoomed

    def _picker(self, plane: str) -> Any:
        def picked(across: float, down: float) -> None:
            place = list(self.cursor_zyx)
            for axis, value in zip(DOWN_ACROSS[plane], (down, across), strict=True):
                place[axis] = int(np.floor(value))
            self.set_cursor(place)
            self.cursor_moved.emit(self.cursor_zyx)

        return picked

    def _draw(self) -> None:
        for column, title, shown in zip(self.columns, self._titles, self.shown, strict=True):
            for view in column.values():
                view.draw(shown, self.cursor_zyx, self.thickness)
            title.setText(f"{shown.source.title}{self._value(shown.source)}")

    def _value(self, source: Source) -> str:
        """The density at the cursor, where the source has one."""
        inside = [i - o for i, o in zip(self.cursor_zyx, source.offset_zyx, strict=True)]
        if not all(0 <= i < n for i, n in zip(inside, source.shape, strict=True)):
            return ""
        block = source.block([slice(i, i + 1) for i in inside])
        return f"   {float(block[0, 0, 0]):.4g}"

"""Slabs of several volumes side by side, three orthogonal ones and an oblique one, under one crosshair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_cryoaae.column_title import ColumnTitle
from napari_cryoaae.oblique import ObliqueCut, ObliquePlane
from napari_cryoaae.slice_view import BACKGROUND, TEXT, Cut, MaskOverlay, SliceView, SpreadOverlay, spread_colours
from napari_cryoaae.sources import DOWN_ACROSS, PLANES, SlabCut, Source

OBLIQUE = "oblique"
# A drag asks for slabs more often than they can be drawn; they are drawn at this pace.
REDRAW_MS = 15
LEGEND_WIDTH, LABEL_WIDTH = 70, 16
SPACING, LEAST_HEIGHT = 4, 20
MOST_COLUMNS = 4
# Of the room for a picture, along its tighter axis.
FILLED = 0.96


@dataclass(frozen=True)
class ShownSource:
    """A source, its grey levels, and whether a spread may be laid over it."""

    source: Source
    levels: tuple[float, float]
    overlaid: bool = True


class OrthoViews(QWidget):
    """A column of planes (xy, xz, yz and, if wished, an oblique one) for each of several volumes of one shape.

    `cursor_moved` says where the user put the cursor, (z, y, x) in voxels.
    """

    cursor_moved = Signal(tuple)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.graphics = pg.GraphicsView(background=BACKGROUND)
        self.grid = pg.GraphicsLayout()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.graphics)
        self.shape_zyx = (1, 1, 1)
        self.cursor_zyx = (0, 0, 0)
        self.thickness = 1
        self.oblique: ObliquePlane | None = None
        self.shown: list[ShownSource] = []
        self.columns: list[dict[str, SliceView]] = []
        self.overlay: SpreadOverlay | None = None
        self.mask: MaskOverlay | None = None
        self.legend: pg.ColorBarItem | None = None
        self._titles: list[ColumnTitle] = []
        self._made: dict[tuple[type, str], tuple[Any, Cut, NDArray[Any]]] = {}
        self._timer, self._fit = self._soon(self._draw), self._soon(self.show_all)

    def _soon(self, what: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.timeout.connect(what)
        return timer

    # -- what is shown -------------------------------------------------------------------------------

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

    def set_oblique(self, plane: ObliquePlane | None) -> None:
        """Show a fourth plane, in this direction; None: none."""
        anew = (plane is None) != (self.oblique is None)
        turned, self.oblique = plane != self.oblique, plane
        if anew:
            self._lay_out(len(self.columns))
        elif turned:
            self._show_all_of(OBLIQUE, self._scale([OBLIQUE]))
        self.redraw()

    def set_overlay(self, overlay: SpreadOverlay | None) -> None:
        """Lay a spread over the densities, with a legend; None takes it off."""
        anew = (overlay is None) != (self.overlay is None)
        self.overlay = overlay
        if anew:
            self._lay_out(len(self.columns))
        if overlay is not None and self.legend is not None:
            self.legend.setLevels((0.0, overlay.high))
            self.legend.setLabel("right", f"{overlay.title} (density units)")
        self.redraw()

    def set_mask(self, mask: MaskOverlay | None) -> None:
        """Hide or mark voxels by a threshold; None: none."""
        self.mask = mask
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

    # -- layout --------------------------------------------------------------------------------------

    @property
    def planes(self) -> list[str]:
        return [*PLANES, OBLIQUE] if self.oblique is not None else list(PLANES)

    def _lay_out(self, count: int) -> None:
        self.grid = pg.GraphicsLayout()  # a new one: rows and columns that went would keep their room
        self.grid.layout.setSpacing(SPACING)
        self.graphics.setCentralItem(self.grid)
        self.columns, self._titles, self.legend = [], [], None
        block = self._block(count)
        width = 2 * len(block[0])  # a label and a view each
        self._stretch(block, count)
        for index in range(count):
            left = index * width
            self._titles.append(ColumnTitle())
            self.grid.addItem(self._titles[-1], row=0, col=left + 1, colspan=width - 1)
            column = {plane: SliceView(plane) for plane in self.planes}
            for row, planes in enumerate(block, start=1):
                for place, plane in enumerate(planes):
                    if index == 0 or len(planes) > 1:
                        self.grid.addLabel(plane, row=row, col=left + 2 * place, color=TEXT, angle=-90)
                    self._add(column[plane], row, left + 2 * place + 1)
            self.columns.append(column)
        if self.overlay is not None and count:
            self.legend = self._legend(self.overlay)
            self.grid.addItem(self.legend, row=1, col=count * width, rowspan=len(block))
        self._fit.start(0)  # the rows have their new sizes only then
        self.show_all()
        self.redraw()

    def _block(self, count: int) -> list[list[str]]:
        """Planes of one volume, by rows: below each other, but four of a single volume two by two."""
        if self.oblique is not None and count == 1:
            return [["xy", OBLIQUE], ["xz", "yz"]]
        return [[plane] for plane in self.planes]

    def _stretch(self, block: list[list[str]], count: int) -> None:
        """Give columns room by what lies in them, and not by their titles."""
        layout = self.grid.layout
        widths = [max(self._size(plane)[1] for plane in planes) for planes in zip(*block, strict=True)]
        for place, width in enumerate(widths * count):
            layout.setColumnPreferredWidth(2 * place, LABEL_WIDTH)
            layout.setColumnStretchFactor(2 * place + 1, max(10, round(100 * width / sum(widths))))
            layout.setColumnPreferredWidth(2 * place + 1, 0)

    def _share_height(self) -> None:
        """Give rows room by what lies in them; by itself the layout gives a high row more than its share."""
        if not self.columns:
            return
        layout, block = self.grid.layout, self._block(len(self.columns))
        heights = [max(self._size(plane)[0] for plane in planes) for planes in block]
        _, top, _, bottom = layout.getContentsMargins()
        room = self.graphics.height() - top - bottom - len(block) * SPACING - self._titles[0].minimumHeight()
        for row, height in enumerate(heights, start=1):
            layout.setRowFixedHeight(row, max(LEAST_HEIGHT, room * height / sum(heights)))
        layout.activate()

    def _add(self, view: SliceView, row: int, column: int) -> None:
        self.grid.addItem(view.box, row=row, col=column)
        view.box.picked.connect(self._picker(view))
        view.box.sigRangeChangedManually.connect(self._zoomer(view))

    def _legend(self, overlay: SpreadOverlay) -> pg.ColorBarItem:
        label = f"{overlay.title} (density units)"
        legend = pg.ColorBarItem((0.0, overlay.high), 12, spread_colours(), label=label, interactive=False)
        legend.getAxis("right").setPen(TEXT)
        legend.getAxis("right").setTextPen(TEXT)
        legend.getAxis("right").enableAutoSIPrefix(False)
        legend.setMaximumWidth(LEGEND_WIDTH)
        return legend

    def _size(self, plane: str) -> tuple[float, float]:
        """Extent of a plane's picture, down and across."""
        if plane == OBLIQUE:
            down, across = self._oblique_cut(self.oblique).half_size
            return 2 * down, 2 * across
        down_axis, across_axis = DOWN_ACROSS[plane]
        return self.shape_zyx[down_axis], self.shape_zyx[across_axis]

    def show_all(self) -> None:
        """Show the whole of the volumes, in one scale for the three planes of all of them."""
        self._share_height()
        scale = self._scale(list(PLANES))
        for plane in self.planes:
            self._show_all_of(plane, self._scale([OBLIQUE]) if plane == OBLIQUE else scale)

    def _scale(self, planes: Sequence[str]) -> float:
        """Pixels a voxel at which all of some planes can be seen in every column; 0 where there is no room yet."""
        fits = []
        for plane in planes:
            down, across = self._size(plane)
            boxes = [column[plane].box for column in self.columns]
            fits += [min(box.width() / across, box.height() / down) for box in boxes]
        return FILLED * min(fits, default=0.0)

    def _show_all_of(self, plane: str, scale: float) -> None:
        down, across = self._size(plane)
        x, y = (0.0, 0.0) if plane == OBLIQUE else (across / 2, down / 2)
        for box in (column[plane].box for column in self.columns):
            wide, high = (box.width() / scale, box.height() / scale) if scale > 0 else (across, down)
            box.setRange(QRectF(x - wide / 2, y - high / 2, wide, high), padding=0)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit.start(0)

    def _zoomer(self, view: SliceView) -> Any:
        def zoomed(_: Any) -> None:
            """Zoom and shift the same plane of all volumes alike."""
            for other in (column[view.plane] for column in self.columns):
                if other is not view:
                    other.box.setRange(view.box.viewRect(), padding=0)

        return zoomed

    def _picker(self, view: SliceView) -> Any:
        def picked(across: float, down: float) -> None:
            self.set_cursor(self._cut(view.plane).place(down, across, self.cursor_zyx))
            self.cursor_moved.emit(self.cursor_zyx)

        return picked

    # -- drawing -------------------------------------------------------------------------------------

    def _cut(self, plane: str) -> Cut:
        if plane == OBLIQUE:
            return self._oblique_cut(self.oblique)
        return SlabCut(plane, self.cursor_zyx[PLANES[plane]], self.thickness)

    def _oblique_cut(self, plane: ObliquePlane | None) -> ObliqueCut:
        return ObliqueCut.through(self.cursor_zyx, plane or ObliquePlane(), self.thickness, self.shape_zyx)

    def _draw(self) -> None:
        for plane in self.planes:
            self._draw_row(plane)
        for title, shown in zip(self._titles, self.shown, strict=True):
            title.show_text(shown.source.title, self._value(shown.source))

    def _draw_row(self, plane: str) -> None:
        """One plane of all volumes; spread and mask are the same in all of them, and cut once."""
        cut = self._cut(plane)
        spread = None if self.overlay is None else self._once(self.overlay.source, cut, cut.of, plane)
        kept = None if self.mask is None else self._once(self.mask, cut, lambda mask: mask.mask.kept(cut.of), plane)
        crossed = self.oblique is not None and plane != OBLIQUE
        trace = self._oblique_cut(self.oblique).trace_deg(*DOWN_ACROSS[plane]) if crossed else None
        for column, shown in zip(self.columns, self.shown, strict=True):
            view = column[plane]
            view.draw(shown.source, shown.levels, cut, self.cursor_zyx)
            view.draw_colour(self.overlay if shown.overlaid else None, spread)
            view.draw_veil(self.mask, kept)
            view.draw_trace(trace, self.cursor_zyx)

    def _once(self, what: Any, cut: Cut, make: Callable[[Any], NDArray[Any]], plane: str) -> NDArray[Any]:
        """A picture that was made for the same thing and cut, else a new one."""
        key = (type(what), plane)
        made = self._made.get(key)
        if made is None or made[0] is not what or made[1] != cut:
            made = self._made[key] = (what, cut, make(what))
        return made[2]

    def _value(self, source: Source) -> str:
        """The density at the cursor, where the source has one; else nothing."""
        inside = [i - o for i, o in zip(self.cursor_zyx, source.offset_zyx, strict=True)]
        if not all(0 <= i < n for i, n in zip(inside, source.shape, strict=True)):
            return ""
        block = source.block([slice(i, i + 1) for i in inside])
        return f"{float(block[0, 0, 0]):.4g}"

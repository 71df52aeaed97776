"""One picture in a box: a cut through a volume, a colour over it, a mask over that, and the crosshair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt, Signal

from cryoaae.reports.style import COLOURS
from napari_cryoaae.sources import Source
from napari_cryoaae.thresholds import ThresholdMask

BACKGROUND, CURSOR, TEXT = "#1d2025", "#f5c542", "#d0d6dd"
CURSOR_ALPHA, TRACE_ALPHA, MARK_ALPHA = 150, 110, 120
SPREAD_MAP = "inferno"
MARK = COLOURS[4]


class Cut(Protocol):
    """What a view shows of a volume: a picture, its place in the view, and the way back to voxels."""

    def of(self, source: Source) -> NDArray[np.float32]: ...

    def rect(self, source: Source) -> tuple[float, float, float, float]: ...

    def crosshair(self, place_zyx: Sequence[int]) -> tuple[float, float]: ...

    def place(self, down: float, across: float, near_zyx: Sequence[int]) -> tuple[int, int, int]: ...


@dataclass(frozen=True)
class SpreadOverlay:
    """A spread shown as colour: nothing at 0, all of the colour from `high` (density units) on."""

    source: Source
    high: float
    opacity: float = 0.7
    title: str = "standard deviation"


@dataclass(frozen=True)
class MaskOverlay:
    """A mask that marks the voxels it keeps, or hides all others."""

    mask: ThresholdMask
    marks: bool = False


def spread_colours() -> pg.ColorMap:
    """Colours of a spread, from clear to opaque: where little is uncertain the density stays as it is."""
    plain = pg.colormap.get(SPREAD_MAP).getLookupTable(0.15, 1.0, 256, alpha=True)
    plain[:, 3] = np.linspace(0, 255, 256).astype(np.uint8)
    return pg.ColorMap(np.linspace(0, 1, 256), plain)


class SliceBox(pg.ViewBox):
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


class SliceView:
    """One plane of one source."""

    def __init__(self, plane: str) -> None:
        self.plane = plane
        self.box = SliceBox()
        self.image, self.colour, self.veil = (pg.ImageItem(axisOrder="row-major") for _ in range(3))
        self.colour.setLookupTable(spread_colours().getLookupTable(0.0, 1.0, 256, alpha=True))
        pen = pg.mkPen((*pg.mkColor(CURSOR).getRgb()[:3], CURSOR_ALPHA), width=1)
        self.lines = [pg.InfiniteLine(angle=angle, pen=pen) for angle in (0, 90)]
        dashed = pg.mkPen((*pg.mkColor(CURSOR).getRgb()[:3], TRACE_ALPHA), width=1, dash=[5, 4])
        self.trace = pg.InfiniteLine(angle=0, pen=dashed)
        for item in (self.image, self.colour, self.veil, *self.lines, self.trace):
            self.box.addItem(item)
        self.cut: Cut | None = None
        self.drawn: tuple[Source, Cut] | None = None

    def draw(self, source: Source, levels: tuple[float, float], cut: Cut, cursor_zyx: Sequence[int]) -> None:
        """Show a cut; what is drawn already is not read again."""
        self.cut = cut
        if self.drawn is None or self.drawn[0] is not source or self.drawn[1] != cut:
            self._put(self.image, cut.of(source), cut.rect(source))
            self.drawn = (source, cut)
        self.image.setLevels(levels)
        for line, value in zip(self.lines, cut.crosshair(cursor_zyx), strict=True):
            line.setPos(value)

    def draw_colour(self, overlay: SpreadOverlay | None, picture: NDArray[np.float32] | None) -> None:
        """Lay a spread's picture over this one's; None takes it off."""
        self.colour.setVisible(overlay is not None)
        if overlay is not None and picture is not None and self.cut is not None:
            self._put(self.colour, picture, self.cut.rect(overlay.source))
            self.colour.setLevels((0.0, overlay.high))
            self.colour.setOpacity(overlay.opacity)

    def draw_veil(self, overlay: MaskOverlay | None, kept: NDArray[np.bool_] | None) -> None:
        """Hide what a mask does not keep, or mark what it keeps; None takes it off."""
        self.veil.setVisible(overlay is not None)
        if overlay is not None and kept is not None and self.cut is not None:
            shade = pg.mkColor(MARK if overlay.marks else BACKGROUND)
            clear, shown = (0, 0, 0, 0), (*shade.getRgb()[:3], MARK_ALPHA if overlay.marks else 255)
            table = np.array([clear, shown] if overlay.marks else [shown, clear], np.uint8)
            self.veil.setLookupTable(table)
            self._put(self.veil, kept.astype(np.uint8), self.cut.rect(overlay.mask.density))
            self.veil.setLevels((0, 1))

    def draw_trace(self, angle_deg: float | None, cursor_zyx: Sequence[int]) -> None:
        """Show where the oblique plane cuts this one; None: nowhere, or along it."""
        self.trace.setVisible(angle_deg is not None)
        if angle_deg is not None and self.cut is not None:
            down, across = self.cut.crosshair(cursor_zyx)
            self.trace.setAngle(angle_deg)
            self.trace.setPos((across, down))

    @staticmethod
    def _put(item: pg.ImageItem, picture: NDArray[Any], rect: tuple[float, float, float, float]) -> None:
        item.setImage(picture, autoLevels=False)
        item.setRect(QRectF(*rect))

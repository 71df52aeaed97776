"""Spectra and curves as pyqtgraph plots in the look of the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray

from cryoaae.reports.style import COLOURS
from napari_cryoaae.ortho_views import BACKGROUND, TEXT
from napari_cryoaae.validation_curves import Chart

# Of a spectrum, left out at each end of its colours.
SPECTRUM_PERCENT = (3, 99.7)
# The palette's blue and black are too dark on a dark ground.
LINES = (COLOURS[4], COLOURS[1], COLOURS[2], COLOURS[3])
WEDGE_COLOURS = (COLOURS[1], COLOURS[4])
BAND_ALPHA = 45
# The label's feet hang out of its axis by so much.
LABEL_FEET = 8

WedgeEnds = Sequence[tuple[float, float, float]]


class SpectrumRow(pg.GraphicsLayoutWidget):
    """Power spectra of several volumes seen along the tilt axis, with the ends of the tilt range."""

    def __init__(self) -> None:
        super().__init__()
        self.setBackground(BACKGROUND)
        self.plots: list[pg.PlotItem] = []

    def show_spectra(
        self, images: Sequence[tuple[str, NDArray[np.float64]]], ends: WedgeEnds, voxel_size_angstrom: float
    ) -> None:
        """Draw images (kz, across) over -0.5 to 0.5 cycles a voxel, two a row."""
        self.clear()
        self.plots = []
        for index, (title, image) in enumerate(images):
            plot = self.addPlot(row=index // 2, col=index % 2)
            plot.setTitle(_titled(title, ends), color=TEXT, size="10pt")
            dress(plot, "across the tilt axis (1/Å)", "along the beam, kz (1/Å)")
            item = pg.ImageItem(image, axisOrder="row-major", levels=np.percentile(image, SPECTRUM_PERCENT))
            item.setColorMap(pg.colormap.get("magma"))
            reach = 0.5 / voxel_size_angstrom
            item.setRect(-reach, -reach, 2 * reach, 2 * reach)
            plot.addItem(item)
            for (_, across, beam), colour in zip(ends, WEDGE_COLOURS, strict=False):
                x, y = (np.array([-1.0, 1.0]) * end / voxel_size_angstrom for end in (across, beam))
                plot.plot(x, y, pen=pg.mkPen(colour, width=2, dash=[4, 3]))
            plot.setAspectLocked(True)
            plot.setRange(xRange=(-reach, reach), yRange=(-reach, reach), padding=0.02)
            plot.setMouseEnabled(False, False)
            self.plots.append(plot)


class CurvePlot(pg.PlotWidget):
    """The curves of one chart, with their intervals."""

    def __init__(self) -> None:
        super().__init__(background=BACKGROUND)
        dress(self.getPlotItem(), "spatial frequency (1/Å)", "")
        self.addLegend(offset=(-10, 10), labelTextSize="9pt", labelTextColor=TEXT)

    def show_chart(self, chart: Chart | None) -> None:
        """Draw a chart in place of the one before; None clears it."""
        self.clear()
        if chart is None:
            return
        self.setLabel("left", chart.axis, color=TEXT)
        for curve, colour in zip(chart.curves, LINES, strict=False):
            if not np.isfinite(curve.values).any():
                continue
            x = curve.sfreq_per_angstrom
            if curve.low is not None and curve.high is not None:
                known = np.isfinite(curve.low) & np.isfinite(curve.high)
                ends = [pg.PlotCurveItem(x[known], values[known]) for values in (curve.low, curve.high)]
                self.addItem(pg.FillBetweenItem(*ends, brush=(*pg.mkColor(colour).getRgb()[:3], BAND_ALPHA)))
            self.plot(
                x, curve.values, name=curve.name, pen=pg.mkPen(colour, width=2), connect="finite",
                symbol="o", symbolSize=6, symbolBrush=colour, symbolPen=None,
            )  # fmt: skip
        self.addItem(pg.InfiniteLine(0.0, angle=0, pen=pg.mkPen(TEXT, width=1)))


def dress(plot: pg.PlotItem, across: str, up: str) -> None:
    """Axis labels and colours that can be read on a dark ground."""
    for side, label in (("bottom", across), ("left", up)):
        axis = plot.getAxis(side)
        axis.setPen(TEXT)
        axis.setTextPen(TEXT)
        # Without this, 0.02 would be shown as 20 of a thousandth.
        axis.enableAutoSIPrefix(False)
        plot.setLabel(side, label, color=TEXT)
    plot.layout.setContentsMargins(1, 1, 1, LABEL_FEET)


def _titled(title: str, ends: WedgeEnds) -> str:
    """A title that says which colour is which end of the tilt range: a legend would lie over the spectrum."""
    known = zip(ends, WEDGE_COLOURS, strict=False)
    tilts = (f"<span style='color: {colour}'>{tilt:+.3g}°</span>" for (tilt, _, _), colour in known)
    return " &nbsp; ".join([escape(title), *tilts])

"""The curves and the verdict of validations and of draws, beside the volumes they speak of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from cryoaae.errors import InputError
from napari_cryoaae.charts import CurvePlot
from napari_cryoaae.run_folder import read_validation, validation_near
from napari_cryoaae.spread_record import read_spread
from napari_cryoaae.validation_curves import (
    Chart,
    spread_charts,
    spread_sentences,
    validation_charts,
    validation_sentences,
)

NOTHING = "No validation at hand. Open the folder that `cryoaae validate` or `cryoaae sample` wrote."
Described = list[tuple[Chart | None, list[str]]]


class ValidationTab(QWidget):
    """Charts of report.json files. `failed` says why a folder holds none."""

    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._described: Described = []
        self.chart = QComboBox()
        self.chart.currentIndexChanged.connect(self._show)
        self.verdict = QLabel(NOTHING)
        self.verdict.setWordWrap(True)
        self.plot = CurvePlot()
        choose = QPushButton("Open…")
        choose.clicked.connect(self._choose)
        top = QHBoxLayout()
        top.addWidget(self.chart, stretch=1)
        top.addWidget(choose)
        layout = QVBoxLayout(self)
        layout.addLayout(top)
        layout.addWidget(self.plot, stretch=1)
        layout.addWidget(self.verdict)

    @property
    def charts(self) -> list[Chart]:
        return [chart for chart, _ in self._described if chart is not None]

    def open(self, path: Path) -> None:
        """Show the report of a validation or of draws: its folder, or its report.json."""
        try:
            self._fill(_described(path))
        except InputError as error:
            self.failed.emit(str(error))

    def open_near(self, places: Sequence[Path]) -> None:
        """Show the validation in, or beside, one of some folders, and the draws in them, if there are any."""
        found = [validation_near(places), *(place for place in places if read_spread(place) is not None)]
        self._fill([pair for path in found if path is not None for pair in _described(path)])

    def _fill(self, described: Described) -> None:
        self._described = described
        self.chart.blockSignals(True)
        self.chart.clear()
        self.chart.addItems([chart.title if chart else "No curves" for chart, _ in described])
        self.chart.blockSignals(False)
        self._show(0)

    def _show(self, index: int) -> None:
        known = 0 <= index < len(self._described)
        chart, (verdict, *reasons) = self._described[index] if known else (None, [NOTHING])
        self.plot.show_chart(chart)
        self.verdict.setText("<br>".join([f"<b>{verdict}</b>", *reasons]) if known else verdict)

    def _choose(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of a validation, or of draws")
        if name:
            self.open(Path(name))


def _described(path: Path) -> Described:
    """Charts of a report, each with what is to be said of it; one without curves has its sentences still.

    Raises
    ------
    InputError
    """
    spread = read_spread(path)
    if spread is not None and spread.whole_folder:
        charts, said = spread_charts(spread.record), spread_sentences(spread.record, spread.calibration_text())
    else:
        report = read_validation(path)
        charts, said = validation_charts(report), validation_sentences(report)
    return [(chart, said) for chart in charts] or [(None, said)]

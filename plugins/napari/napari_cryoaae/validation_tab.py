"""The curves and the verdict of a validation, beside the volumes they speak of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from cryoaae.errors import InputError
from napari_cryoaae.charts import CurvePlot
from napari_cryoaae.run_folder import read_validation, validation_near
from napari_cryoaae.validation_curves import Chart, validation_charts, validation_sentences

NOTHING = "No validation at hand. Open the folder that `cryoaae validate` wrote."


class ValidationTab(QWidget):
    """Charts of a report.json. `failed` says why a folder holds none."""

    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.charts: list[Chart] = []
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

    def open(self, path: Path) -> None:
        """Show a validation's folder, or its report.json."""
        try:
            report = read_validation(path)
        except InputError as error:
            self.failed.emit(str(error))
            return
        verdict, *reasons = validation_sentences(report)
        self.verdict.setText("<br>".join([f"<b>{verdict}</b>", *reasons]))
        self._fill(validation_charts(report))

    def open_near(self, places: Sequence[Path]) -> None:
        """Show the validation in, or beside, one of some folders; nothing where there is none."""
        found = validation_near(places)
        if found is not None:
            self.open(found)
        else:
            self.verdict.setText(NOTHING)
            self._fill([])

    def _fill(self, charts: list[Chart]) -> None:
        self.charts = charts
        self.chart.blockSignals(True)
        self.chart.clear()
        self.chart.addItems([chart.title for chart in charts])
        self.chart.blockSignals(False)
        self._show(0)

    def _show(self, index: int) -> None:
        self.plot.show_chart(self.charts[index] if 0 <= index < len(self.charts) else None)

    def _choose(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of a validation")
        if name:
            self.open(Path(name))

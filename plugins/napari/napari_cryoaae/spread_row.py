"""Which spread is laid over the densities, and how opaque."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QSlider, QWidget

from napari_cryoaae.comparison import Entry, Kind
from napari_cryoaae.facts import facts_of
from napari_cryoaae.slice_view import SpreadOverlay
from napari_cryoaae.spread_record import read_spread

NONE = "no std at hand: open one of `cryoaae sample` or `restore --uncertainty`"


class SpreadRow(QWidget):
    """Widgets beside each other. `changed` says that another overlay is to be shown."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entries: list[Entry] = []
        self.on = QCheckBox("show")
        self.choice = QComboBox()
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(70)
        self.opacity.setToolTip("opacity of the colour")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.on, self.choice, QLabel("opacity"), self.opacity):
            layout.addWidget(part, stretch=0 if part is self.on else 1)
        self.on.toggled.connect(self.changed)
        self.choice.currentIndexChanged.connect(self.changed)
        self.opacity.valueChanged.connect(self.changed)

    def offer(self, entries: Sequence[Entry]) -> None:
        """Offer the spreads among these; says nothing by itself."""
        self._entries = [entry for entry in entries if entry.kind is Kind.SPREAD]
        before = self.choice.currentText()
        self.choice.blockSignals(True)
        self.choice.clear()
        self.choice.addItems([_described(entry) for entry in self._entries] or [NONE])
        self.choice.setCurrentIndex(max(0, self.choice.findText(before)))
        self.choice.blockSignals(False)
        for part in (self.on, self.choice, self.opacity):
            part.setEnabled(bool(self._entries))
        if not self._entries:
            self.on.blockSignals(True)
            self.on.setChecked(False)
            self.on.blockSignals(False)

    def entry(self) -> Entry | None:
        """The spread that is chosen, shown or not."""
        index = self.choice.currentIndex()
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def overlay(self) -> SpreadOverlay | None:
        """What is to be laid over the densities; colours end where the grey levels of the spread's layer do."""
        entry = self.entry()
        if entry is None or not self.on.isChecked():
            return None
        return SpreadOverlay(entry.source, entry.levels()[1], self.opacity.value() / 100, self.choice.currentText())


def _described(entry: Entry) -> str:
    """A spread, and whether it was calibrated as far as its record says."""
    record = facts_of(entry.layers[0]).record
    spread = None if record is None else read_spread(record)
    if spread is None:
        return entry.title
    return f"{entry.title}, {'calibrated' if spread.calibrated else 'not calibrated'}"

"""A mask by a threshold: on what, at which value, hiding or marking, and its way into a file."""

from __future__ import annotations

import math
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_cryoaae.comparison import Entry
from napari_cryoaae.slice_view import MaskOverlay
from napari_cryoaae.thresholds import Quantity, Threshold, ThresholdMask, background_of, first_value

# What is kept, in words: quantity, and whether above the value.
CHOICES = {
    "density at least": (Quantity.DENSITY, True),
    "density at most": (Quantity.DENSITY, False),
    "spread at most": (Quantity.SPREAD, False),
    "spread at least": (Quantity.SPREAD, True),
    "confidence at least": (Quantity.CONFIDENCE, True),
}
OFF, HIDE, MARK = "no mask", "hide the rest", "mark"
# Of a threshold, as it is shown.
DIGITS = 4
VALUE_WIDTH = 125


class MaskRow(QWidget):
    """Widgets beside each other. `changed`: another mask is to be shown; `asked` for a file to write it to."""

    changed = Signal()
    asked = Signal(Path)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._density: Entry | None = None
        self._spread: Entry | None = None
        self._background: tuple[Entry | None, float] = (None, 0.0)
        self.look, self.choice = QComboBox(), QComboBox()
        self.look.addItems([OFF, HIDE, MARK])
        self.choice.addItems(CHOICES)
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setToolTip("voxels that are kept; confidence: |density - its median| over the spread")
        self.value = QDoubleSpinBox()
        self.value.setRange(-1e9, 1e9)
        self.value.setKeyboardTracking(False)
        self.value.setMaximumWidth(VALUE_WIDTH)
        self.export = QPushButton("Save…")
        self.export.setToolTip("write the mask of the whole volume as an MRC file of 0 and 1")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.look, self.choice, self.value, self.export):
            layout.addWidget(part, stretch=1 if part is self.choice else 0)
        self.look.currentIndexChanged.connect(self._switched)
        self.choice.currentIndexChanged.connect(self._propose)
        self.value.valueChanged.connect(self.changed)
        self.export.clicked.connect(self._choose)

    def offer(self, density: Entry | None, spread: Entry | None) -> None:
        """The volumes that a threshold can be put on."""
        self._density, self._spread = density, spread
        for index, (quantity, _) in enumerate(CHOICES.values()):
            there = quantity is Quantity.DENSITY or spread is not None
            self.choice.model().item(index).setEnabled(there)
        if spread is None and CHOICES[self.choice.currentText()][0] is not Quantity.DENSITY:
            self.choice.setCurrentIndex(0)
        on = density is not None and self.look.currentText() != OFF
        for part in (self.choice, self.value, self.export):
            part.setEnabled(on)
        self.look.setEnabled(density is not None)

    def mask(self) -> ThresholdMask | None:
        """The mask as chosen, shown or not; None where there is no volume for it."""
        if self._density is None:
            return None
        quantity, above = CHOICES[self.choice.currentText()]
        spread = None if self._spread is None else self._spread.source
        if quantity is Quantity.CONFIDENCE and self._background[0] is not self._density:
            self._background = (self._density, background_of(self._density.source))
        threshold = Threshold(quantity, self.value.value(), above)
        return ThresholdMask(threshold, self._density.source, spread, self._background[1])

    def overlay(self) -> MaskOverlay | None:
        """What is to be drawn over the views."""
        mask = None if self.look.currentText() == OFF else self.mask()
        return None if mask is None else MaskOverlay(mask, marks=self.look.currentText() == MARK)

    @property
    def density(self) -> Entry | None:
        return self._density

    def _switched(self, _: int = 0) -> None:
        fresh = not self.choice.isEnabled()
        self.offer(self._density, self._spread)
        if fresh and self.choice.isEnabled() and self.value.value() == 0.0:
            self._propose()
        else:
            self.changed.emit()

    def _propose(self, _: int = 0) -> None:
        """A value to begin with, of the quantity that is chosen now."""
        mask = self.mask()
        if mask is not None:
            value = first_value(mask)
            size = math.floor(math.log10(abs(value))) if value else 0
            self.value.blockSignals(True)
            self.value.setDecimals(max(0, DIGITS - 1 - size))
            self.value.setSingleStep(10.0 ** (size - 1))
            self.value.setValue(value)
            self.value.blockSignals(False)
        self.changed.emit()

    def _choose(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Mask", "mask.mrc", "MRC (*.mrc *.rec *.map)")
        if name:
            self.asked.emit(Path(name))

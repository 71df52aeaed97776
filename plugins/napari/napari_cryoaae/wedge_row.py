"""Tilts as a row of numbers: known from a record, read from a file, or typed in."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFileDialog, QHBoxLayout, QLabel, QPushButton, QWidget

from cryoaae.errors import InputError
from cryoaae.io.tilts import read_tilts
from napari_cryoaae.facts import StatedWedge

LIMIT_DEG = 90.0
# As wide as the viewer's own style has them, all of a row overlap in a narrow dock.
NARROW = "QDoubleSpinBox { min-width: 56px; } QDoubleSpinBox::up-button, QDoubleSpinBox::down-button { width: 13px; }"


class WedgeRow(QWidget):
    """Tilt range, axis and sign. `changed` says that the user stated another wedge, `failed` why a file is not one."""

    changed = Signal()
    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._stated: StatedWedge | None = None
        self.low, self.high, self.axis = self._number(), self._number(), self._number(180.0)
        self.axis.setToolTip("angle of the tilt axis in the xy plane, from y towards x")
        self.flipped = QCheckBox("flip")
        self.flipped.setToolTip("the angles have the other sign; `cryoaae inspect` tells which the data show")
        self.flipped.toggled.connect(self._edited)
        self.file = QPushButton("File…")
        self.file.setToolTip("tilt angles from a .tlt or .rawtlt file")
        self.file.clicked.connect(self._choose)
        self.count = QLabel("not known")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.low, QLabel("to"), self.high, QLabel("axis"), self.axis, self.flipped, self.file, self.count):
            layout.addWidget(part)
        layout.addStretch(1)

    def wedge(self) -> StatedWedge | None:
        """The wedge as stated, or None while nobody stated one."""
        return self._stated

    def set_wedge(self, wedge: StatedWedge | None) -> None:
        """Show a wedge; None: not known."""
        self._stated = wedge
        if wedge is not None:
            numbers = (self.low, self.high, self.axis)
            for part in (*numbers, self.flipped):
                part.blockSignals(True)
            for number, value in zip(numbers, (*wedge.tilt_range_deg, wedge.tilt_axis_deg), strict=True):
                number.setValue(value)
            self.flipped.setChecked(wedge.flipped)
            for part in (*numbers, self.flipped):
                part.blockSignals(False)
        self._say()

    def read_file(self, path: Path) -> None:
        """Take the tilts of a file; the axis and the sign stay."""
        try:
            tilts = read_tilts(path)
        except InputError as error:
            self.failed.emit(str(error))
            return
        self.set_wedge(StatedWedge.of_tilts(tilts, self.axis.value(), flipped=self.flipped.isChecked()))
        self.changed.emit()

    def _number(self, limit: float = LIMIT_DEG) -> QDoubleSpinBox:
        number = QDoubleSpinBox()
        number.setRange(-limit, limit)
        number.setDecimals(1)
        number.setSuffix("°")
        number.setKeyboardTracking(False)
        number.setStyleSheet(NARROW)
        number.valueChanged.connect(self._edited)
        return number

    def _edited(self) -> None:
        typed = (self.low.value(), self.high.value())
        if self._stated is None and typed[0] >= typed[1]:
            return  # half of a range
        # Of a list that was read, only the axis and the sign can be changed here; another range is no list.
        kept = self._stated.tilts_deg if self._stated and self.sender() in (self.axis, self.flipped) else None
        ends = self._stated.tilt_range_deg if self._stated and kept is not None else typed
        self._stated = StatedWedge(ends, kept, self.axis.value(), self.flipped.isChecked())
        self._say()
        self.changed.emit()

    def _say(self) -> None:
        if self._stated is None:
            self.count.setText("not known")
        else:
            self.count.setText("range" if self._stated.tilts_deg is None else f"{len(self._stated.tilts_deg)} tilts")

    def _choose(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Tilt angles", "", "Tilt angles (*.tlt *.rawtlt)")
        if name:
            self.read_file(Path(name))

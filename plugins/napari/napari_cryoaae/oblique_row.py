"""The direction of the oblique plane: on or off, two angles, and whether the main window shows it too."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QWidget
from superqt import QLabeledSlider

from napari_cryoaae.oblique import ObliquePlane

STEEPEST_DEG, FIRST_DEG = 90, 30


class ObliqueRow(QWidget):
    """Widgets beside each other. `changed` says that the plane, or where it is shown, is another."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.on = QCheckBox("show")
        self.tilt, self.azimuth = self._angle(0, STEEPEST_DEG), self._angle(-180, 180)
        self.tilt.setValue(FIRST_DEG)
        self.tilt.setToolTip("angle between the plane's normal and z")
        self.azimuth.setToolTip("direction of the normal in the xy plane, from x towards y")
        self.in_viewer = QCheckBox("in 3-D")
        self.in_viewer.setToolTip("render this plane in the main window; of a large volume each picture takes a while")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.on, QLabel("tilt"), self.tilt, QLabel("azimuth"), self.azimuth, self.in_viewer):
            layout.addWidget(part, stretch=1 if isinstance(part, QLabeledSlider) else 0)
        self.on.toggled.connect(self._switched)
        self.in_viewer.toggled.connect(self.changed)
        self._switched(False)

    def plane(self) -> ObliquePlane | None:
        """The plane as chosen; None while it is not shown."""
        return ObliquePlane(float(self.tilt.value()), float(self.azimuth.value())) if self.on.isChecked() else None

    def _angle(self, low: int, high: int) -> QLabeledSlider:
        slider = QLabeledSlider(Qt.Orientation.Horizontal)
        slider.setRange(low, high)
        slider.valueChanged.connect(lambda _: self.changed.emit())
        return slider

    def _switched(self, on: bool) -> None:
        for part in (self.tilt, self.azimuth, self.in_viewer):
            part.setEnabled(on)
        if not on:
            self.in_viewer.setChecked(False)
        self.changed.emit()

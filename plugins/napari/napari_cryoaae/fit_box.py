"""What a user chooses of a fit: preset, time, and where the run goes."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QFormLayout, QLineEdit, QWidget

from napari_cryoaae.fit_request import FitRequest
from napari_cryoaae.restore_request import RestoreRequest
from napari_cryoaae.small_widgets import line_with_button

# Of `cryoaae fit`; what each is for.
PRESETS = {
    "fast": "a first look: 10 minutes",
    "full": "to keep: up to an hour",
    "filament": "a filament, or a few, in a thin volume: 8 minutes",
}
MOST_MINUTES = 24 * 60.0


class FitBox(QWidget):
    """Settings of a fit, a line each."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.preset = QComboBox()
        for name, meaning in PRESETS.items():
            self.preset.addItem(f"{name}: {meaning}", name)
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.0, MOST_MINUTES)
        self.minutes.setDecimals(1)
        self.minutes.setSuffix(" minutes at most")
        self.minutes.setSpecialValueText("as the preset says")
        self.settings, self.run_folder = QLineEdit(), QLineEdit()
        self.settings.setPlaceholderText("none; key=value ..., as for `cryoaae fit --set`")
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Preset", self.preset)
        form.addRow("Time", self.minutes)
        form.addRow("Other settings", self.settings)
        form.addRow("Run folder", line_with_button(self.run_folder, self._choose))

    def request(self, restoring: RestoreRequest) -> FitRequest:
        """The fit as chosen, before a restoration."""
        folder = Path(self.run_folder.text().strip()).expanduser()
        preset, minutes = self.preset.currentData(), self.minutes.value() or None
        return FitRequest(folder, preset, restoring, minutes, tuple(self.settings.text().split()))

    def _choose(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder for the run, or of a run that was stopped")
        if name:
            self.run_folder.setText(name)

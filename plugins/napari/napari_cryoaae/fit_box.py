"""What a user chooses of a fit: preset, time, and where the run goes."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QLineEdit, QWidget

from napari_cryoaae.fit_request import ADAPT, ADAPT_MINUTES, FitRequest
from napari_cryoaae.restore_request import RestoreRequest
from napari_cryoaae.small_widgets import line_with_button

# Of `cryoaae fit`, and what `cryoaae restore --adapt` does; what each is for.
PRESETS = {
    "fast": "a first look: 10 minutes",
    "full": "to keep: up to an hour",
    "filament": "a filament, or a few, in a thin volume: 8 minutes",
    ADAPT: f"the general restorer, fitted further: {ADAPT_MINUTES:g} minutes",
}
MOST_MINUTES = 24 * 60.0


class FitBox:
    """Settings of a fit: `lines` of a form, (label, widget) each."""

    def __init__(self) -> None:
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
        self.lines: tuple[tuple[str, QWidget], ...] = (
            ("Preset", self.preset), ("Time", self.minutes), ("Other settings", self.settings),
            ("Run folder", line_with_button(self.run_folder, self._choose)),
        )  # fmt: skip

    def request(self, restoring: RestoreRequest) -> FitRequest:
        """The fit as chosen, before a restoration."""
        folder = Path(self.run_folder.text().strip()).expanduser()
        preset, minutes = self.preset.currentData(), self.minutes.value() or None
        return FitRequest(folder, preset, restoring, minutes, tuple(self.settings.text().split()))

    def _choose(self) -> None:
        title = "Folder for the run, or of a run that was stopped"
        name = QFileDialog.getExistingDirectory(self.run_folder, title)
        if name:
            self.run_folder.setText(name)

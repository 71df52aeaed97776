"""Posterior draws of a tomogram: one after the other, along their modes, and their spread over the slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from cryoaae.errors import InputError
from napari_cryoaae.draw_playback import PosteriorDraws, glow_limits
from napari_cryoaae.facts import Role, facts_of
from napari_cryoaae.film import Film
from napari_cryoaae.film_bar import FilmBar
from napari_cryoaae.jobs import sentence
from napari_cryoaae.small_widgets import line_with_button, row
from napari_cryoaae.volume_layer import VolumeLayer

NOT_CALIBRATED = "The spread is not calibrated: it says where the restoration is less certain, not by how much."


class DrawsTab(QWidget):
    """A folder of `cryoaae sample`, or a restoration with its spread beside it. `said` tells what is wrong."""

    said = Signal(str)

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.draws: PosteriorDraws | None = None
        self._opened: Path | None = None
        self.shown = VolumeLayer(viewer)
        self._look: dict[str, Any] = {}
        self._build()

    def _build(self) -> None:
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("folder of `cryoaae sample`, or X.mrc with X_std.mrc beside it")
        self.folder.editingFinished.connect(self._edited)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.film = QComboBox()
        self.film.currentIndexChanged.connect(self._choose_film)
        self.over = QCheckBox("over the slice")
        self.over.toggled.connect(self._show_spread)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(50)
        self.opacity.setToolTip("opacity of the spread")
        self.opacity.valueChanged.connect(self._fade)
        self.bar = FilmBar(self.viewer)
        self.bar.turned.connect(self._turn)
        self.bar.said.connect(self.said)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Draws", line_with_button(self.folder, self._choose_folder))
        form.addRow(self.about)
        form.addRow("Play", self.film)
        form.addRow("Spread", row(self.over, self.opacity))
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.bar)
        layout.addStretch(1)

    # -- which draws ---------------------------------------------------------------------------------

    def open(self, path: Path) -> None:
        """Offer the draws of a folder, or say why there are none; nothing is shown before it is played."""
        try:
            draws = PosteriorDraws.of(path)
        except InputError as error:
            self.said.emit(str(error))
            return
        self.draws, self._opened = draws, path
        self.folder.setText(str(path))
        self.about.setText(_described(draws))
        self.film.blockSignals(True)
        self.film.clear()
        if draws.draws:
            self.film.addItem(f"{len(draws.draws)} draws", None)
        for index in range(len(draws.modes)):
            share = f", {100 * draws.shares[index]:.0f} % of the variance" if index < len(draws.shares) else ""
            self.film.addItem(f"principal mode {index + 1}{share}", index)
        self.film.blockSignals(False)
        self.said.emit("" if self.film.count() else "There are no draws to play, only their spread.")
        self._choose_film()
        self._show_spread()

    def _edited(self) -> None:
        path = Path(self.folder.text().strip()).expanduser()
        if self.folder.text().strip() and path != self._opened:
            self.open(path)

    def _choose_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of draws")
        if name:
            self.open(Path(name))

    # -- film ----------------------------------------------------------------------------------------

    def _choose_film(self, _: int = 0) -> None:
        try:
            film = self._film()
            if film is not None and film.like is not None and self.draws is not None:
                self._look = self.draws.layer(film.like, Role.FILM)[1] | {"name": film.title}
        except (InputError, OSError) as error:
            film = None
            self.said.emit(sentence(error))
        self.bar.set_film(film)
        if film is not None and self.shown.alive:
            self.bar.show_frame(0)

    def _film(self) -> Film | None:
        if self.draws is None or not self.film.count():
            return None
        mode = self.film.currentData()
        return self.draws.draw_film() if mode is None else self.draws.mode_film(mode)

    def _turn(self, frame: int) -> None:
        """Show a frame."""
        film = self.bar.film
        if film is None:
            return
        new = not self.shown.alive
        self.shown.show(film.frame(frame), self._look)
        if new:
            self._show_spread()  # else the film would lie over it

    # -- spread --------------------------------------------------------------------------------------

    def _show_spread(self, _: Any = None) -> None:
        """Lay the spread over everything else, or hide it."""
        layer = self._spread_layer()
        if not self.over.isChecked():
            if layer is not None:
                layer.visible = False
            return
        if layer is None and self.draws is not None:
            data, look, _kind = self.draws.std_layer()
            layer = self.viewer.add_image(data, **look)
        if layer is not None:
            layer.colormap, layer.blending, layer.visible = "inferno", "additive", True
            layer.contrast_limits = glow_limits(layer.data)
            self._fade()
            self.viewer.layers.move(self.viewer.layers.index(layer), len(self.viewer.layers))

    def _fade(self, _: int = 0) -> None:
        layer = self._spread_layer()
        if layer is not None:
            layer.opacity = self.opacity.value() / 100

    def _spread_layer(self) -> Any:
        """The layer of the spread, whoever opened it; None where there is none."""
        std = None if self.draws is None else self.draws.std
        return next((layer for layer in self.viewer.layers if std and facts_of(layer).source == std), None)


def _described(draws: PosteriorDraws) -> str:
    """One sentence on what was found."""
    found = f"{draws.name}: {len(draws.draws)} draws, {len(draws.modes)} modes"
    record = draws.record
    return f"{found}. " + (f"Calibrated {record.calibration_text()}." if record.calibrated else NOT_CALIBRATED)

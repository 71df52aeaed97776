"""Play a film in the viewer, and write it: pictures of the canvas as GIF or MP4, its volumes as MRC files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFileDialog, QLabel, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledSlider

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from napari_cryoaae.film import Film, series_paths, write_series
from napari_cryoaae.film_export import Picture, check_film, write_film
from napari_cryoaae.jobs import Jobs
from napari_cryoaae.small_widgets import chip, row

PER_SECOND, FASTEST = 8.0, 30.0
FILMS, SERIES = "Films (*.gif *.mp4)", "MRC series (*.mrc)"


class FilmBar(QWidget):
    """Play and pause, a slider over the frames, their rate, and export.

    `turned` asks its owner to show a frame, `said` tells what was written, or why not.

    Parameters
    ----------
    viewer : napari viewer
    """

    turned = Signal(int)
    said = Signal(str)

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.film: Film | None = None
        self.jobs = Jobs(self)
        self._pictures: list[Picture] = []
        self._recording: tuple[Path, float] | None = None
        self._clock = QTimer(self)
        self._clock.timeout.connect(self._tick)
        self._build()
        self.set_film(None)

    def _build(self) -> None:
        self.play = chip("Play", checked=False)
        self.play.toggled.connect(self._toggled)
        self.place = QLabeledSlider(Qt.Orientation.Horizontal)
        self.place.setEdgeLabelMode(QLabeledSlider.EdgeLabelMode.NoLabel)
        self.place.valueChanged.connect(self._turned)
        self.rate = QDoubleSpinBox()
        self.rate.setRange(0.5, FASTEST)
        self.rate.setDecimals(1)
        self.rate.setValue(PER_SECOND)
        self.rate.setSuffix(" / s")
        self.rate.setToolTip("frames a second")
        self.rate.valueChanged.connect(self._pace)
        self.label = QLabel()
        self.as_film, self.as_series = QPushButton("GIF or MP4…"), QPushButton("MRC series…")
        self.as_film.setToolTip("pictures of the main window's canvas as it is now, one a frame")
        self.as_series.setToolTip("the volume of every frame, X_001.mrc and so on")
        self.as_film.clicked.connect(self._choose_film)
        self.as_series.clicked.connect(self._choose_series)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(row(self.play, self.place, self.rate))
        layout.addWidget(row(self.label, None, QLabel("Export"), self.as_film, self.as_series))

    # -- playing -------------------------------------------------------------------------------------

    def set_film(self, film: Film | None) -> None:
        """Take a film, which is shown once it is played or its slider moved; None: there is nothing to play."""
        self.pause()
        self.film, self._recording = film, None
        self.place.blockSignals(True)
        self.place.setRange(1, len(film) if film else 1)
        self.place.setValue(1)
        self.place.blockSignals(False)
        self.setEnabled(film is not None)
        self._say_frame()

    def show_frame(self, index: int) -> None:
        """Go to a frame, from 0, and have it shown even if the slider is there already."""
        self.place.blockSignals(True)
        self.place.setValue(index + 1)
        self.place.blockSignals(False)
        self._turned(index + 1)

    @property
    def frame(self) -> int:
        """Frame that is shown, from 0."""
        return int(self.place.value()) - 1

    def pause(self) -> None:
        """Stop where it is."""
        self.play.setChecked(False)

    def _toggled(self, on: bool) -> None:
        self.play.setText("Pause" if on else "Play")
        if on:
            self._clock.start(self._interval_ms())
        else:
            self._clock.stop()

    def _pace(self, _: float) -> None:
        self._clock.setInterval(self._interval_ms())

    def _interval_ms(self) -> int:
        return round(1000 / self.rate.value())

    def _tick(self) -> None:
        if self.film is not None:
            self.show_frame((self.frame + 1) % len(self.film))

    def _turned(self, _: int) -> None:
        self._say_frame()
        self.turned.emit(self.frame)

    def _say_frame(self) -> None:
        self.label.setText(self.film.labels[self.frame] if self.film else "nothing to play")

    # -- writing -------------------------------------------------------------------------------------

    def export_film(self, path: Path) -> None:
        """Write what the canvas shows, a frame after the other, as GIF or MP4."""
        if self.film is None or self._recording is not None:
            return
        try:
            check_film(path)
        except InputError as error:
            self.said.emit(str(error))
            return
        if not hasattr(self.viewer, "screenshot"):
            self.said.emit("There is no window to take pictures of.")
            return
        self.pause()
        self._pictures, self._recording = [], (path, self.rate.value())
        self.setEnabled(False)
        self._take()

    def _take(self) -> None:
        """Take the picture of the next frame, then let the window live; when all are taken, write them."""
        if self.film is None or self._recording is None:
            return
        taken, count = len(self._pictures), len(self.film)
        if taken < count:
            self.said.emit(f"Taking picture {taken + 1} of {count} …")
            self.show_frame(taken)
            self._pictures.append(np.ascontiguousarray(self.viewer.screenshot(canvas_only=True, flash=False)[..., :3]))
            QTimer.singleShot(0, self._take)
            return
        (path, rate), pictures = self._recording, same_size(self._pictures)
        self._pictures, self._recording = [], None
        self.setEnabled(True)
        self._write(lambda progress: [write_film(path, pictures, rate)])

    def export_series(self, path: Path) -> None:
        """Write the volume of every frame as an MRC file."""
        film = self.film
        if film is None:
            return
        try:
            series_paths(path, len(film))
        except InputError as error:
            self.said.emit(str(error))
            return
        self._write(lambda progress: write_series(film, path, progress))

    def _write(self, work: Callable[[Progress], list[Path]]) -> None:
        self.said.emit("Writing …")
        self.jobs.start("write", work, returned=self._written, failed=self.said)

    def _written(self, paths: list[Path]) -> None:
        last = f" to {paths[-1].name}" if len(paths) > 1 else ""
        self.said.emit(f"Wrote {paths[0]}{last}.")

    def _choose_film(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Film", "film.gif", FILMS)
        if name:
            self.export_film(Path(name))

    def _choose_series(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "MRC series", "film.mrc", SERIES)
        if name:
            self.export_series(Path(name))

    def close_down(self) -> None:
        """Stop playing, taking pictures and writing."""
        self._recording = None
        self._clock.stop()
        self.jobs.cancel()


def same_size(pictures: list[Picture]) -> list[Picture]:
    """Pictures cut to what all of them have: the window may have been resized meanwhile."""
    height, width = (min(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    return [picture[:height, :width] for picture in pictures]

"""The Restore panel: a model, or a fit, and the files of some layers in, a restored layer out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QLabel, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from napari_cryoaae.bonds import Bonds
from napari_cryoaae.facts import Role, facts_of
from napari_cryoaae.fit_request import FitRequest
from napari_cryoaae.jobs import Job, sentence
from napari_cryoaae.preview_request import Preview, Previewer, preview_layer, visible_box
from napari_cryoaae.requirements import what_is_missing
from napari_cryoaae.restore_form import RestoreForm
from napari_cryoaae.restore_request import Restored, RestoreRequest, restored_layers
from napari_cryoaae.run_folder import WEIGHTS
from napari_cryoaae.small_widgets import button, row

WIDTH = 560


class RestorePanel(QWidget):
    """Fill in the form, see what it would take, look at a preview, restore in a thread."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.job: Job | None = None
        self.previewer = Previewer()
        self._working_on: list[Path] = []
        self._model = Path()
        self._previewed: Any = None
        self.form = RestoreForm()
        self.form.failed.connect(self.say)
        self.form.changed.connect(self._name_buttons)
        self._build()
        bonds = Bonds(self)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            bonds.tie(event, self._layers_changed)
        bonds.at_close(self.cancel)
        self.refresh()

    def _build(self) -> None:
        self.check_button = button("Check", "what would be done, and what it needs; writes nothing", self.check)
        self.preview_button = button(
            "Preview", "restore what the window shows around the cursor, at most a slab; writes nothing", self.preview
        )
        self.restore_button = button("Restore", "write the restoration, and open it as a layer", self.restore)
        self.cancel_button = button("Cancel", "stop at the next safe place", self.cancel)
        self.cancel_button.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.buttons = (self.check_button, self.preview_button, self.restore_button)
        layout = QVBoxLayout(self)
        layout.addWidget(self.form, stretch=1)
        layout.addWidget(row(*self.buttons, self.cancel_button))
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        self.setMinimumWidth(WIDTH)
        # Or the viewer puts a gap below, larger for every panel that was opened before.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._name_buttons()

    def _name_buttons(self) -> None:
        self.restore_button.setText("Fit and restore" if self.form.fits else "Restore")
        self.preview_button.setEnabled(not self.form.fits and self.job is None)

    def say(self, text: str) -> None:
        """Show a sentence under the buttons."""
        self.message.setText(text)

    def refresh(self) -> None:
        """Offer the layers that are there now; choices that still stand are kept."""
        found = self.form.offer(self.viewer.layers)
        if self.job is None:
            self.say(what_is_missing() or ("" if found else "Open a tomogram, or its two halves, from files first."))

    # -- work ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Say what would be done and what it needs; nothing is written."""
        self._start(self.form.request, lambda request: request.plan, self._checked, "Checking …")

    def restore(self) -> None:
        """Restore, after a fit if that is asked for, in a thread; the result becomes a layer."""
        self._start(self.form.request, lambda request: request.run, self._restored, "Starting …")

    def preview(self) -> None:
        """Restore what the window shows, in a thread; it becomes a layer, and no file."""

        def work(request: RestoreRequest) -> Callable[[Progress], Preview]:
            layer = next(layer for layer in self.viewer.layers if facts_of(layer).source == request.first)
            thickness = round(self.viewer.dims.thickness[-3] / float(layer.scale[-3]))
            box, self._previewed = visible_box(self.viewer, layer, thickness), layer
            return lambda progress: self.previewer.make(request, box, progress)

        self._start(self.form.restoring, work, self._preview_made, "Opening …")

    def cancel(self) -> None:
        """Stop at the next safe place; of a restoration nothing is left behind, a fit can go on."""
        if self.job is not None:
            self.job.cancel()

    def _start(self, asked: Callable[[], Any], work: Callable[[Any], Any], returned: Any, text: str) -> None:
        if self.job is not None:
            return  # a second click
        try:
            request = asked()
        except InputError as error:
            self.say(sentence(error))
            return
        restoring = request.restoring if isinstance(request, FitRequest) else request
        self._working_on = [path for path in (restoring.first, restoring.odd) if path is not None]
        self._model = request.run_folder if isinstance(request, FitRequest) else request.model
        self.job = Job(work(request))
        signals = self.job.signals
        signals.told.connect(self._told)
        signals.said.connect(self.say)
        signals.returned.connect(returned)
        signals.stopped.connect(self._stopped)
        signals.failed.connect(self.say)
        signals.finished.connect(self._finished)
        self._busy(True)
        self.say(text)
        self.job.start()

    def _busy(self, on: bool) -> None:
        for offered in self.buttons:
            offered.setDisabled(on)
        self.cancel_button.setEnabled(on)
        self.bar.setVisible(on)

    def _told(self, task: str, share: float, facts: str) -> None:
        self.bar.setRange(0, 0 if share < 0 else 100)
        self.bar.setValue(max(0, round(100 * share)))
        self.say(f"{task} {facts}".strip())

    # -- what came of it -----------------------------------------------------------------------------

    def _checked(self, lines: list[str]) -> None:
        self.say("\n".join(lines))

    def _restored(self, made: Restored) -> None:
        if self.form.fits:
            self.form.use(self._model)
        open_ = {facts_of(layer).source for layer in self.viewer.layers} if made.kept else set()
        try:
            layers = restored_layers([path for path in made.paths if path not in open_], self._model)
        except InputError as error:
            self.say(str(error))
            return
        for data, look, _ in layers:
            self.viewer.add_image(data, **look)
        said = "Made before from the same, and kept:" if made.kept else "Wrote"
        self.say(f"{said} {', '.join(map(str, made.paths))}.")

    def _preview_made(self, preview: Preview) -> None:
        if self._previewed not in self.viewer.layers:
            self.say("The input's layer was removed meanwhile; nothing was added.")
            return
        data, look = preview_layer(preview, self._previewed)
        tomogram = facts_of(self._previewed).tomogram
        before = [f for f in self.viewer.layers if (facts_of(f).role, facts_of(f).tomogram) == (Role.PREVIEW, tomogram)]
        for layer in before:
            self.viewer.layers.remove(layer)
        self.viewer.add_image(data, **look)
        size = " x ".join(map(str, data.shape))
        self.say(f"A preview of {size} voxels, in {preview.seconds:.1f} s; no file was written{preview.lacks}.")

    def _stopped(self) -> None:
        if self.form.fits and (self._model / WEIGHTS).is_file():
            self.form.use(self._model)
            self.say("Stopped; nothing was restored. The fit is done, and its model is chosen now.")
        elif self.form.fits:
            self.say("Stopped. If the fit had begun, the same button goes on with it.")
        else:
            self.say("Stopped; nothing was written.")

    def _finished(self) -> None:
        self.job = None
        self._busy(False)
        self._name_buttons()

    def _layers_changed(self, event: Any = None) -> None:
        """A layer came or went; work on one that went is given up."""
        gone = facts_of(event.value).source if event is not None and event.type == "removed" else None
        if self.job is not None and gone is not None and gone in self._working_on:
            self.cancel()
        self.refresh()

"""The Restore panel: a model and the files of some layers in, a restored layer out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cryoaae.errors import InputError
from napari_cryoaae.bonds import Bonds
from napari_cryoaae.facts import Role, facts_of
from napari_cryoaae.jobs import Job, sentence
from napari_cryoaae.restore_request import (
    Candidate,
    Restored,
    RestoreRequest,
    candidates,
    default_output,
    describe_model,
    restored_layers,
)
from napari_cryoaae.small_widgets import line_with_button
from napari_cryoaae.wedge_row import WedgeRow

NO_ODD = "none: a single volume"
DEVICES = ("auto", "cpu", "cuda")
WIDTH = 560


class RestorePanel(QWidget):
    """Choose a model and inputs, see what it would take, restore in a thread."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.job: Job | None = None
        self._restoring: list[Path] = []
        self._proposed = ""
        self._build()
        bonds = Bonds(self)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            bonds.tie(event, self._layers_changed)
        bonds.at_close(self.cancel)
        self.refresh()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.model, self.output = QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("run folder of `cryoaae fit`, or its weights")
        self.model.textChanged.connect(self._describe)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.first, self.odd = QComboBox(), QComboBox()
        for box in (self.first, self.odd):
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.first.currentIndexChanged.connect(self._propose_output)
        self.known = QCheckBox("as the model knows them")
        self.known.setChecked(True)
        self.wedge = WedgeRow()
        self.wedge.setVisible(False)
        self.known.toggled.connect(self.wedge.setHidden)
        self.wedge.failed.connect(self.say)
        self.voxel = QDoubleSpinBox()
        self.voxel.setRange(0.0, 1000.0)
        self.voxel.setDecimals(3)
        self.voxel.setSuffix(" Å")
        self.voxel.setSpecialValueText("as the files say")
        self.device = QComboBox()
        self.device.addItems(DEVICES)
        self.halves = QCheckBox("keep both restored halves")
        self.keep_measured = QCheckBox("put the measured coefficients back")
        self.symmetries = QCheckBox("mean over half turns that keep the wedge")
        self.symmetries.setChecked(True)
        self.overwrite = QCheckBox("replace an existing output")
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Model", line_with_button(self.model, self._choose_model))
        form.addRow(self.about)
        form.addRow("Even half or volume", self.first)
        form.addRow("Odd half", self.odd)
        form.addRow("Tilts", self.known)
        form.addRow(self.wedge)
        form.addRow("Voxel size", self.voxel)
        form.addRow("Output", line_with_button(self.output, self._choose_output))
        for option in (self.halves, self.keep_measured, self.symmetries, self.overwrite):
            form.addRow("", option)
        form.addRow("Device", self.device)
        asked = QWidget()
        asked.setLayout(form)
        scroll = QScrollArea()  # so that a low window cuts nothing off
        scroll.setWidget(asked)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        layout = QVBoxLayout(self)
        layout.addWidget(scroll, stretch=1)
        layout.addLayout(self._buttons())
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        self.setMinimumWidth(WIDTH)

    def _buttons(self) -> QHBoxLayout:
        self.check_button, self.restore_button, self.cancel_button = (
            QPushButton(text) for text in ("Check", "Restore", "Cancel")
        )
        self.check_button.setToolTip("what would be done, and the memory and disk it needs; writes nothing")
        self.check_button.clicked.connect(self.check)
        self.restore_button.clicked.connect(self.restore)
        self.cancel_button.clicked.connect(self.cancel)
        self.cancel_button.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.message = QLabel()
        self.message.setWordWrap(True)
        row = QHBoxLayout()
        for button in (self.check_button, self.restore_button, self.cancel_button):
            row.addWidget(button)
        return row

    def say(self, text: str) -> None:
        """Show a sentence under the buttons."""
        self.message.setText(text)

    # -- what is asked for ---------------------------------------------------------------------------

    def refresh(self) -> None:
        """Offer the layers that are there now; choices that still stand are kept."""
        found = candidates(self.viewer.layers)
        for box, role in ((self.first, Role.EVEN), (self.odd, Role.ODD)):
            before = box.currentData()
            box.blockSignals(True)
            box.clear()
            if box is self.odd:
                box.addItem(NO_ODD, None)
            for candidate in found:
                box.addItem(candidate.name, candidate.path)
            chosen = before if box.findData(before) >= 0 and before is not None else _of_role(found, role)
            box.setCurrentIndex(max(0, box.findData(chosen)))
            box.blockSignals(False)
        self._propose_output()
        if not self.model.text():
            run = next((f.run for f in map(facts_of, self.viewer.layers) if f.run is not None), None)
            if run is not None:
                self.model.setText(str(run))
        if not found:
            self.say("Open a tomogram, or its two halves, from files first.")
        elif self.job is None:
            self.say("")

    def request(self) -> RestoreRequest:
        """What the panel asks for now.

        Raises
        ------
        InputError
            When something was not chosen.
        """
        first = self.first.currentData()
        if first is None:
            raise InputError("input", "no layer that was read from a file", "open a tomogram, or its two halves")
        if not self.model.text().strip():
            raise InputError("model", "none chosen", "give the run folder of `cryoaae fit`")
        stated = None if self.known.isChecked() else self.wedge.wedge()
        if stated is None and not self.known.isChecked():
            raise InputError("tilts", "not stated", "type their range or choose a tilt file")
        return RestoreRequest(
            Path(self.model.text().strip()).expanduser(),
            first,
            self.odd.currentData(),
            Path(self.output.text().strip()).expanduser(),
            stated,
            halves=self.halves.isChecked(),
            keep_measured=self.keep_measured.isChecked(),
            symmetries=self.symmetries.isChecked(),
            device=self.device.currentText(),
            voxel_size_angstrom=self.voxel.value() or None,
            overwrite=self.overwrite.isChecked(),
        )

    def _describe(self, text: str) -> None:
        """Say what the chosen model is, or why it is none."""
        try:
            self.about.setText(describe_model(Path(text).expanduser()) if text.strip() else "")
        except InputError as error:
            self.about.setText(str(error))

    def _propose_output(self, _index: int = 0) -> None:
        """Name an output beside the input, unless the user named one."""
        first = self.first.currentData()
        if first is not None and self.output.text() == self._proposed:
            self._proposed = str(default_output(first))
            self.output.setText(self._proposed)

    def _choose_model(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Run folder")
        if name:
            self.model.setText(name)

    def _choose_output(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Restored volume", self.output.text(), "MRC (*.mrc *.rec *.map)")
        if name:
            self.output.setText(name)
            self.overwrite.setChecked(Path(name).exists())  # the dialog has asked

    # -- work ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Say what restoring would do and need; nothing is written."""
        self._start("plan", self._checked)

    def restore(self) -> None:
        """Restore in a thread; the result becomes a layer."""
        self._start("run", self._restored)

    def cancel(self) -> None:
        """Stop at the next safe place; nothing is left behind."""
        if self.job is not None:
            self.job.cancel()

    def _start(self, kind: str, returned: Any) -> None:
        if self.job is not None:
            return  # a second click
        try:
            request = self.request()
        except InputError as error:
            self.say(sentence(error))
            return
        self._restoring = [path for path in (request.first, request.odd) if path is not None]
        self._model = request.model
        self.job = Job(request.plan if kind == "plan" else request.run)
        signals = self.job.signals
        signals.told.connect(self._told)
        signals.said.connect(self.say)
        signals.returned.connect(returned)
        signals.stopped.connect(self._stopped)
        signals.failed.connect(self.say)
        signals.finished.connect(self._finished)
        self._busy(True)
        self.say("Checking …" if kind == "plan" else "Starting …")
        self.job.start()

    def _busy(self, on: bool) -> None:
        self.check_button.setDisabled(on)
        self.restore_button.setDisabled(on)
        self.cancel_button.setEnabled(on)
        self.bar.setVisible(on)

    def _told(self, task: str, share: float, facts: str) -> None:
        self.bar.setRange(0, 0 if share < 0 else 100)
        self.bar.setValue(max(0, round(100 * share)))
        self.say(f"{task} {facts}".strip())

    def _checked(self, lines: list[str]) -> None:
        self.say("\n".join(lines))

    def _restored(self, made: Restored) -> None:
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

    def _stopped(self) -> None:
        self.say("Stopped; nothing was written.")

    def _finished(self) -> None:
        self.job = None
        self._busy(False)

    def _layers_changed(self, event: Any = None) -> None:
        """A layer came or went; work on one that went is given up."""
        gone = facts_of(event.value).source if event is not None and event.type == "removed" else None
        if self.job is not None and gone is not None and gone in self._restoring:
            self.cancel()
        self.refresh()


def _of_role(found: list[Candidate], role: Role) -> Path | None:
    """The first candidate of a role; for want of an even half, a single volume."""
    by_role = {candidate.role: candidate.path for candidate in reversed(found)}
    other = by_role.get(Role.INPUT) if role is Role.EVEN else None
    return by_role.get(role, other)

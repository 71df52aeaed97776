"""What a user fills in to restore a tomogram: model or fit, inputs, tilts, output and options."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from cryoaae.errors import InputError
from cryoaae.io.names import match_name
from napari_cryoaae.facts import Role, StatedWedge, facts_of
from napari_cryoaae.fit_box import FitBox
from napari_cryoaae.fit_request import FitRequest, default_run
from napari_cryoaae.general_model import GENERAL
from napari_cryoaae.restore_request import (
    Candidate,
    RestoreRequest,
    candidates,
    default_output,
    describe_model,
)
from napari_cryoaae.run_folder import is_run_folder
from napari_cryoaae.small_widgets import line_with_button, row
from napari_cryoaae.tilt_file import tilt_file_of, wedge_beside
from napari_cryoaae.wedge_row import WedgeRow

NO_ODD = "none: a single volume"
USE, FIT = "a model at hand", "a model fitted on these volumes first"
WITHOUT = "the general restorer, which comes along"
DEVICES = ("auto", "cpu", "cuda")
DENSITIES = {"as the data show": None, "bright": "bright", "dark": "dark"}
MOST_DRAWS, MOST_DEFOCUS_UM = 64, 49.0


class RestoreForm(QScrollArea):
    """Lines to fill in; it scrolls, so that a low window cuts nothing off.

    `failed` says why a file is no use, `changed` that something else is to be done.
    """

    failed = Signal(str)
    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._proposed = self._proposed_run = ""
        self._proposed_source = WITHOUT
        self._proposed_wedge: StatedWedge | None = None
        self._known_wedges: dict[Path, StatedWedge | None] = {}
        self._build()
        asked = QWidget()
        asked.setLayout(self._lines())
        self.setWidget(asked)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self._switched()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.source = QComboBox()
        self.source.addItems([WITHOUT, USE, FIT])
        self.source.currentIndexChanged.connect(self._switched)
        self.model, self.output = QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("run folder of `cryoaae fit`, or its weights")
        self.model.textChanged.connect(self._describe)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.fit = FitBox()
        self.first, self.odd = QComboBox(), QComboBox()
        for box in (self.first, self.odd):
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.first.currentIndexChanged.connect(self._propose)
        self.known = QCheckBox("as the model knows them")
        self.known.setChecked(True)
        self.unknown = QLabel()
        self.wedge = WedgeRow()
        self.known.toggled.connect(self._switched)
        self.wedge.failed.connect(self.failed)
        self.wedge.changed.connect(self._say_tilts)
        self.voxel = QDoubleSpinBox()
        self.voxel.setRange(0.0, 1000.0)
        self.voxel.setDecimals(3)
        self.voxel.setSuffix(" Å")
        self.voxel.setSpecialValueText("as the files say")
        self.density = QComboBox()
        for text, said in DENSITIES.items():
            self.density.addItem(text, said)
        self.density.setToolTip("what the general restorer, and a fit that starts there, take structures to be")
        self.defocus = QDoubleSpinBox()
        self.defocus.setRange(0.0, MOST_DEFOCUS_UM)
        self.defocus.setSingleStep(0.5)
        self.defocus.setSuffix(" µm")
        self.defocus.setSpecialValueText("left as it is")
        self.defocus.setToolTip("underfocus of which the contrast transfer is undone, at 300 kV; the last step")
        self.flipped = QCheckBox("phases were flipped")
        self.flipped.setChecked(True)
        self.flipped.setEnabled(False)
        self.defocus.valueChanged.connect(lambda value: self.flipped.setEnabled(value > 0))
        self.draws = QSpinBox()
        self.draws.setRange(0, MOST_DRAWS)
        self.draws.setSuffix(" draws")
        self.draws.setSpecialValueText("none")
        self.draws.setToolTip("std of so many draws, written beside the restoration; each takes longer than it")
        self.device = QComboBox()
        self.device.addItems(DEVICES)
        self.halves = QCheckBox("keep both restored halves")
        self.keep_measured = QCheckBox("put the measured coefficients back")
        self.symmetries = QCheckBox("mean over half turns that keep the wedge")
        self.symmetries.setChecked(True)
        self.overwrite = QCheckBox("replace an existing output")

    def _lines(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.model_line = line_with_button(self.model, self._choose_model)
        form.addRow("With", self.source)
        form.addRow("Model", self.model_line)
        form.addRow(self.about)
        for label, part in self.fit.lines:
            form.addRow(label, part)
        form.addRow("Even half or volume", self.first)
        form.addRow("Odd half", self.odd)
        form.addRow("Tilts", row(self.known, self.unknown, None))
        form.addRow(self.wedge)
        form.addRow("Voxel size", self.voxel)
        form.addRow("Structures are", self.density)
        form.addRow("Output", line_with_button(self.output, self._choose_output))
        for option in (self.halves, self.keep_measured, self.symmetries, self.overwrite):
            form.addRow("", option)
        form.addRow("Contrast transfer", row(self.defocus, self.flipped, None))
        form.addRow("Spread", self.draws)
        form.addRow("Device", self.device)
        return form

    @property
    def fits(self) -> bool:
        """Whether a model is to be fitted first."""
        return self.source.currentText() == FIT

    @property
    def _at_hand(self) -> bool:
        """Whether a model is named, which may know the tilts."""
        return self.source.currentText() == USE

    def use(self, model: Path) -> None:
        """Choose a model that was fitted: the next restoration needs no second fit."""
        self.model.setText(str(model))
        self.source.setCurrentText(USE)

    def _switched(self, _: Any = None) -> None:
        """Show the lines that matter: of a model, or of a fit; only a model at hand may know the tilts."""
        form = self.widget().layout()
        form.setRowVisible(self.model_line, self._at_hand)
        form.setRowVisible(self.about, not self.fits)
        for _, part in self.fit.lines:
            form.setRowVisible(part, self.fits)
        self.known.setVisible(self._at_hand)
        self.unknown.setVisible(not self._at_hand)
        form.setRowVisible(self.wedge, not (self._at_hand and self.known.isChecked()))
        self._describe(self.model.text() if self._at_hand else str(GENERAL))
        self.changed.emit()

    # -- what is offered -----------------------------------------------------------------------------

    def offer(self, layers: Iterable[Any]) -> bool:
        """Offer the layers that are there now, keeping choices that still stand; return whether there is any."""
        layers = list(layers)
        found = candidates(layers)
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
        known = list(map(facts_of, layers))
        run = next((facts.run for facts in known if facts.run is not None and is_run_folder(facts.run)), None)
        if run is not None and not self.model.text():
            self.model.setText(str(run))
            if self.source.currentText() == self._proposed_source:
                self._proposed_source = USE
                self.source.setCurrentText(USE)
        self._known_wedges = {facts.source: facts.wedge for facts in known if facts.source is not None}
        self._propose()
        return bool(found)

    def _propose(self, _index: int = 0) -> None:
        """Fill in tilts that a record or a file states, an output and a run; what a user stated stays."""
        first = self.first.currentData()
        if first is None:
            return
        if self.wedge.wedge() in (None, self._proposed_wedge):
            self._proposed_wedge = self._known_wedges.get(first) or wedge_beside(first)
            self.wedge.set_wedge(self._proposed_wedge)
            self._say_tilts()
        if self.output.text() == self._proposed:
            self._proposed = str(default_output(first))
            self.output.setText(self._proposed)
        if self.fit.run_folder.text() == self._proposed_run:
            self._proposed_run = str(default_run(first, match_name(first)))
            self.fit.run_folder.setText(self._proposed_run)

    def _say_tilts(self) -> None:
        """Where tilts come from that no model knows."""
        first, stated = self.first.currentData(), self.wedge.wedge()
        if stated is None:
            said = "state them here: no tilt file lies beside the volume"
        elif stated != self._proposed_wedge or first is None:
            said = "as stated here"
        elif stated == self._known_wedges.get(first):
            said = "as the record of the volume says"
        else:
            said = f"from {(tilt_file_of(first) or first).name}"
        self.unknown.setText(said)

    def _describe(self, text: str) -> None:
        """Say what the chosen model is, or why it is none."""
        try:
            self.about.setText(describe_model(Path(text).expanduser()) if text.strip() else "")
        except InputError as error:
            self.about.setText(str(error))

    # -- what is asked for ---------------------------------------------------------------------------

    def request(self) -> RestoreRequest | FitRequest:
        """What is asked for now.

        Raises
        ------
        InputError
            When something was not chosen.
        """
        restoring = self.restoring()
        return self.fit.request(restoring) if self.fits else restoring

    def restoring(self) -> RestoreRequest:
        """The restoration, whether or not a fit comes first.

        Raises
        ------
        InputError
        """
        first = self.first.currentData()
        if first is None:
            raise InputError("input", "no layer that was read from a file", "open a tomogram, or its two halves")
        if self._at_hand and not self.model.text().strip():
            raise InputError("model", "none chosen", "give a run folder, or choose the general restorer")
        return RestoreRequest(
            Path(self.model.text().strip()).expanduser() if self._at_hand else GENERAL,
            first,
            self.odd.currentData(),
            Path(self.output.text().strip()).expanduser(),
            self._stated(),
            halves=self.halves.isChecked(),
            keep_measured=self.keep_measured.isChecked(),
            symmetries=self.symmetries.isChecked(),
            device=self.device.currentText(),
            voxel_size_angstrom=self.voxel.value() or None,
            overwrite=self.overwrite.isChecked(),
            draws=self.draws.value(),
            defocus_um=self.defocus.value() or None,
            phase_flipped=self.flipped.isChecked(),
            density=self.density.currentData(),
        )

    def _stated(self) -> StatedWedge | None:
        """The tilts as stated; None: as the model knows them."""
        if self.known.isChecked() and self._at_hand:
            return None
        stated = self.wedge.wedge()
        if stated is None:
            raise InputError("tilts", "not stated", "type their range or choose a tilt file")
        return stated

    def _choose_model(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Run folder")
        if name:
            self.model.setText(name)

    def _choose_output(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Restored volume", self.output.text(), "MRC (*.mrc *.rec *.map)")
        if name:
            self.output.setText(name)
            self.overwrite.setChecked(Path(name).exists())  # the dialog has asked


def _of_role(found: list[Candidate], role: Role) -> Path | None:
    """The first candidate of a role; for want of an even half, a single volume."""
    by_role = {candidate.role: candidate.path for candidate in reversed(found)}
    other = by_role.get(Role.INPUT) if role is Role.EVEN else None
    return by_role.get(role, other)

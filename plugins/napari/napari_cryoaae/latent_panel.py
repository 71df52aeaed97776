"""The Latent panel: particles on the map of their codes and in their tomograms, and classes of them, edited by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from napari_cryoaae.bonds import Bonds
from napari_cryoaae.class_list import ClassList
from napari_cryoaae.comparison import tomograms
from napari_cryoaae.facts import facts_of
from napari_cryoaae.job_bar import JobBar
from napari_cryoaae.latent_buttons import LatentButtons
from napari_cryoaae.latent_colours import Colouring, can_colour, colour_groups, colour_values
from napari_cryoaae.latent_map import LatentMap, is_latent_folder, read_latent_map
from napari_cryoaae.latent_scatter import ADD, REMOVE, REPLACE, LatentScatter
from napari_cryoaae.latent_volumes import ParticleVolume, ParticleVolumes
from napari_cryoaae.particle_groups import History, ParticleGroups
from napari_cryoaae.particle_volume_layer import add_particle_volume
from napari_cryoaae.particle_writer import write_classes
from napari_cryoaae.particles import points_layer
from napari_cryoaae.points_link import PointsLink
from napari_cryoaae.small_widgets import button, line_with_button, row

BY_CLASS = "class"
LIST_SHARE = (1000, 420)
STAR_FILES = "STAR (*.star)"
NOTHING_OPEN = "Open the run folder of `cryoaae cluster`, or what `cryoaae embed` wrote."
HOW = "Draw around points or click one; Shift adds, Ctrl removes. The wheel zooms, the right button shifts."


class LatentPanel(QWidget):
    """A scatter of codes beside its legend; what is chosen there is shown in the viewer, and the other way round."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.latent: LatentMap | None = None
        self.volumes: ParticleVolumes | None = None
        self.history: History | None = None
        self.colouring: Colouring | None = None
        self.selected = np.zeros(0, dtype=bool)
        self._next: Path | None = None
        self._made_of = ""
        self._build()
        bonds = Bonds(self)
        self.link = PointsLink(napari_viewer, bonds, self._points_picked)
        bonds.at_close(self.work.cancel)
        self._enable()
        self._open_what_is_shown()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("run folder of `cryoaae cluster`, or folder of `cryoaae embed`")
        self.folder.returnPressed.connect(lambda: self.open(self.folder.text().strip()))
        self.colour_by, self.across, self.up = QComboBox(), QComboBox(), QComboBox()
        self.colour_by.currentTextChanged.connect(self._recolour)
        for box in (self.across, self.up):
            box.currentTextChanged.connect(self._spread)
        for box in (self.colour_by, self.across, self.up):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(9)
        self.scatter = LatentScatter()
        self.scatter.setToolTip(HOW)
        self.scatter.chosen.connect(self.choose)
        self.classes = ClassList()
        self.classes.chosen.connect(self._categories_chosen)
        # Queued: the list is filled anew, which must not happen while its editor closes.
        self.classes.renamed.connect(self.rename, Qt.ConnectionType.QueuedConnection)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.scatter)
        split.addWidget(self.classes)
        split.setSizes(LIST_SHARE)
        self.work = JobBar()
        self.work.said.connect(self.say)
        self.work.changed.connect(self._work_changed)
        self.count, self.message = QLabel(), QLabel(NOTHING_OPEN)
        self.message.setWordWrap(True)
        form = QFormLayout()
        form.addRow("Codes", line_with_button(self.folder, self._choose_folder))
        form.addRow("Colour by", row(self.colour_by, QLabel("Axes"), self.across, self.up, None))
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(split, stretch=1)
        layout.addWidget(self._selection_row())
        self.buttons = LatentButtons(self)
        layout.addWidget(self.buttons)
        layout.addWidget(self.work)
        layout.addWidget(self.message)
        self.setMinimumWidth(600)
        # Or the viewer puts a gap below, larger for every panel that was opened before.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def _selection_row(self) -> QWidget:
        self.clear_button = button("Clear", "select nothing", self.clear)
        return row(self.count, None, self.clear_button)

    def say(self, text: str) -> None:
        """Show a sentence under the buttons."""
        self.message.setText(text)

    # -- which map -----------------------------------------------------------------------------------

    def open(self, path: Path | str) -> None:
        """Read a folder of `cryoaae cluster` or `cryoaae embed` in a thread, and show it."""
        if not str(path):
            return
        self.folder.setText(str(path))
        if not self.work.start(partial(read_latent_map, Path(path).expanduser()), self._opened, "Reading …"):
            self._next = Path(path)
            self.work.cancel()

    def _open_what_is_shown(self) -> None:
        """Open the map whose particles are among the layers."""
        runs = {facts_of(layer).run for layer in self.viewer.layers if type(layer).__name__ == "Points"}
        found = next((run for run in runs if run is not None and is_latent_folder(run)), None)
        if found is not None:
            self.open(found)

    def _opened(self, latent: LatentMap) -> None:
        self.latent, self.volumes, self.history = latent, ParticleVolumes(latent), History(latent.found)
        self.selected = np.zeros(len(latent), dtype=bool)
        axes = list(latent.axes)
        columns = [name for name, values in latent.columns.items() if can_colour(values)]
        _fill(self.across, axes, 0)
        _fill(self.up, axes, 1)
        _fill(self.colour_by, [BY_CLASS, *columns], 0)
        self.link.follow(latent)
        self._add_points(latent)
        self._spread()
        self._show_groups()
        self.choose(np.empty(0, np.int64), REPLACE)
        self.say("\n".join([f"{len(latent):,} particles. {HOW}", *latent.remarks]))

    def _add_points(self, latent: LatentMap) -> None:
        """Show particles of tomograms that no layer shows yet; of those that are not open, hidden."""
        shown, images = set(latent.tomograms[self.link.covered()]), tomograms(self.viewer.layers)
        for placed in latent.placed.values():
            for found in placed.sets() if placed.known.any() else ():
                if found.tomogram not in shown:
                    data, look, _ = points_layer(found, placed.source, latent.folder)
                    self.viewer.add_points(data, **look, visible=not images or found.tomogram in images)

    def _choose_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of a clustering, or of codes")
        if name:
            self.open(name)

    # -- what the map shows --------------------------------------------------------------------------

    def _spread(self, _text: str = "") -> None:
        if self.latent is None:
            return
        titles = self.across.currentText(), self.up.currentText()
        self.scatter.show_points(*(self.latent.axes[title] for title in titles), titles)
        self._tell_count()

    def _recolour(self, _text: str = "") -> None:
        if self.latent is None or self.history is None:
            return
        title = self.colour_by.currentText()
        by_class = title == BY_CLASS
        self.colouring = colour_groups(self.history.state) if by_class else colour_values(self.latent.columns[title])
        self.scatter.show_colours(self.colouring.rgb)
        self.link.show_colours(self.colouring.rgb)
        self.classes.show_entries(title, self.colouring.legend(), editable=by_class)
        self._enable()

    def _show_groups(self) -> None:
        """Show the classes as they are now, here and among the features of the points."""
        if self.history is None:
            return
        self.link.show_classes(self.history.state)
        self._recolour()

    # -- selection -----------------------------------------------------------------------------------

    def choose(self, particles: NDArray[np.int64], mode: str) -> None:
        """Select particles, here and in the viewer: instead of those that are, in addition, or take them out."""
        if self.latent is None:
            return
        selected = self.selected.copy() if mode in (ADD, REMOVE) else np.zeros(len(self.latent), dtype=bool)
        selected[particles] = mode != REMOVE
        self.classes.choose_none()
        self._show_selected(selected)

    def _points_picked(self, particles: NDArray[np.int64]) -> None:
        """The user selected points in a layer."""
        self.choose(particles, REPLACE)

    def _categories_chosen(self, rows: list[int]) -> None:
        """The user chose entries of the legend: their particles are selected."""
        if self.colouring is not None and self.colouring.category is not None:
            self._show_selected(np.isin(self.colouring.category, rows))

    def clear(self) -> None:
        """Select nothing."""
        self.choose(np.empty(0, np.int64), REPLACE)

    def members(self) -> NDArray[np.int64]:
        """The selected particles."""
        return np.flatnonzero(self.selected)

    def _show_selected(self, selected: NDArray[np.bool_]) -> None:
        self.selected = selected
        self.scatter.show_selected(selected)
        self.link.show_selected(selected)
        self._tell_count()
        self._enable()

    def _tell_count(self) -> None:
        hidden = int((~self.scatter.shown()).sum())
        text = f"{int(self.selected.sum()):,} of {len(self.selected):,} selected"
        self.count.setText(text + (f"; {hidden:,} not shown: no number on these axes" if hidden else ""))

    # -- volumes -------------------------------------------------------------------------------------

    def average(self) -> None:
        """Add the average of the selected particles as a layer."""
        if self.volumes is not None:
            self._make(self.volumes.average)

    def gallery(self) -> None:
        """Add the selected particles side by side as a layer."""
        if self.volumes is not None:
            self._make(self.volumes.gallery)

    def decode(self) -> None:
        """Add what the model makes of the selected particles' class as a layer."""
        if self.volumes is not None:
            self._make(self.volumes.decoded)

    def show_written(self) -> None:
        """Add the averages of all classes as the run wrote them, as layers."""
        if self.volumes is not None:
            self.work.start(self.volumes.written, self._written_read, "Reading the averages …")

    def _make(self, kind: Callable[[NDArray[np.int64], Progress], ParticleVolume]) -> None:
        members = self.members()
        if self.work.start(partial(kind, members), self._made, "Reading the store …"):
            self._made_of = f"{self._what(members)} ({len(members):,})"

    def _what(self, members: NDArray[np.int64]) -> str:
        """The class that the particles are, or "selection"."""
        if self.history is None:
            return ""
        groups = self.history.state
        own = np.unique(groups.assigned[members])
        whole = len(own) == 1 and len(members) == groups.sizes[own[0]]
        return f"class {groups.names[own[0]]}" if whole else "selection"

    def _made(self, made: ParticleVolume) -> None:
        name = f"{made.kind} of {self._made_of}"
        add_particle_volume(self.viewer, made, name, self._run())
        self.say(f"Added {name}." + (f" Note: {made.remark}." if made.remark else ""))

    def _written_read(self, averages: list[ParticleVolume]) -> None:
        for made in averages:
            add_particle_volume(self.viewer, made, made.kind, self._run())
        self.say("Added " + ", ".join(f"{m.kind}" + (f" ({m.remark})" if m.remark else "") for m in averages) + ".")

    def _run(self) -> Path | None:
        """The run that volumes of particles are by: that of the model, or this one."""
        return None if self.latent is None else self.latent.model or self.latent.folder

    # -- classes -------------------------------------------------------------------------------------

    def merge(self) -> None:
        """Make the classes chosen in the list one."""
        self._edit(lambda groups: groups.merged(self.classes.chosen_rows()))

    def rename(self, number: int, name: str) -> None:
        """Give a class another name."""
        self._edit(lambda groups: groups.renamed(number, name))

    def split(self) -> None:
        """Make new classes of the selected particles."""
        if self.latent is None or self.history is None:
            return
        members, parts, groups = self.members(), self.buttons.parts.value(), self.history.state
        codes = np.asarray(self.latent.codes["features"][members], np.float64)
        self.work.start(lambda progress: groups.split(members, codes, parts), self._push, "Splitting …")

    def rename_chosen(self) -> None:
        """Let the user type another name for the class chosen in the list."""
        self.classes.rename_chosen()

    def undo(self) -> None:
        """Go back by one change of the classes."""
        if self.history is not None:
            self.history.undo()
            self._show_groups()

    def redo(self) -> None:
        """Make again what was undone last."""
        if self.history is not None:
            self.history.redo()
            self._show_groups()

    def _edit(self, change: Callable[[ParticleGroups], ParticleGroups]) -> None:
        if self.history is None or self.work.job is not None:
            return
        try:
            self._push(change(self.history.state))
        except InputError as error:
            self._recolour()  # a name that is refused is not to stand in the list
            self.say(str(error))

    def _push(self, groups: ParticleGroups) -> None:
        if self.history is not None:
            self.history.push(groups)
            self.say("")
            self._show_groups()

    # -- files ---------------------------------------------------------------------------------------

    def save(self, path: Path, members: NDArray[np.int64] | None = None) -> None:
        """Write particles with their classes as STAR; None: all of them."""
        if self.latent is not None and self.history is not None:
            latent, groups = self.latent, self.history.state
            self.work.start(lambda progress: write_classes(path, latent, groups, members), self._written, "Writing …")

    def choose_file(self, *, only_selected: bool) -> None:
        """Ask where to, and write the selected particles, or all."""
        name, _ = QFileDialog.getSaveFileName(self, "Particles", "particles.star", STAR_FILES)
        if name:
            self.save(Path(name), self.members() if only_selected else None)

    def _written(self, files: list[Path]) -> None:
        self.say(f"Wrote {', '.join(map(str, files))}.")

    # -- work ----------------------------------------------------------------------------------------

    def _work_changed(self) -> None:
        """Work began or ended; a map that was asked for meanwhile is opened."""
        self._enable()
        if self.work.job is None and self._next is not None:
            following, self._next = self._next, None
            self.open(following)

    def _enable(self) -> None:
        """Offer what can be done now."""
        free, selected = self.work.job is None, bool(self.selected.any())
        chosen = len(self.classes.chosen_rows()) if self.colour_by.currentText() == BY_CLASS else 0
        self.buttons.offer(self.latent, free=free, selected=selected, classes_chosen=chosen)
        history = self.history if free else None
        self.buttons.offer_history(
            undo=history is not None and history.can_undo, redo=history is not None and history.can_redo
        )
        self.clear_button.setEnabled(selected)


def _fill(box: QComboBox, names: list[str], chosen: int) -> None:
    """Offer names without telling."""
    box.blockSignals(True)
    box.clear()
    box.addItems(names)
    box.setCurrentIndex(min(chosen, len(names) - 1))
    box.blockSignals(False)

"""The Tomogram panel: volumes of one tomogram under one cursor, and what of them was measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QGridLayout,
    QLabel,
    QPushButton,
    QTabWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout, QLabeledSlider

from cryoaae.reports.style import contrast_limits
from cryoaae.runs.progress import Progress
from napari_cryoaae.bonds import Bonds
from napari_cryoaae.charts import SpectrumRow
from napari_cryoaae.comparison import (
    Entry,
    Kind,
    Part,
    entries_of,
    first_choice,
    folders_of,
    refusal,
    tomograms,
    wedge_of,
)
from napari_cryoaae.cursor_link import CursorLink, Place
from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge, facts_of
from napari_cryoaae.jobs import Job
from napari_cryoaae.ortho_views import OrthoViews, ShownSource
from napari_cryoaae.small_widgets import chip, row
from napari_cryoaae.sources import window_around
from napari_cryoaae.validation_tab import ValidationTab
from napari_cryoaae.wedge_row import WedgeRow

if TYPE_CHECKING:
    from napari_cryoaae.wedge_split import Examined

MOST_COLUMNS = 4
THICKEST = 64
# The cursor rests so long before the tile around it is split.
REST_MS = 200


@dataclass(frozen=True)
class _Tile:
    """What was found out around the cursor, and for which volumes and wedge."""

    titles: tuple[str, ...]
    wedge: StatedWedge | None
    examined: Examined

    def serves(self, titles: Sequence[str], wedge: StatedWedge | None, place: Place) -> bool:
        return self.titles == tuple(titles) and self.wedge == wedge and self.examined.window.contains(place)


class TomogramPanel(QWidget):
    """Linked orthogonal slabs of input, halves, restored and residual; measured only or filled in only."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.entries: list[Entry] = []
        self.shown_titles: list[str] = []
        self._offered: list[str] = []
        self.part = Part.BOTH
        self.tile: _Tile | None = None
        self.jobs: dict[str, Job] = {}
        self._wanted: Any = None
        self._name, self._folders = "", []
        self._linked: list[Any] = []
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.timeout.connect(self._examine)
        self._build()
        self.link = CursorLink(napari_viewer, self._viewer_moved)
        self._tie()
        self.refresh()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.tomogram = QComboBox()
        self.tomogram.currentTextChanged.connect(self._choose_tomogram)
        self.chips = QWidget()
        self.chips.setLayout(QFlowLayout())
        self.chips.layout().setContentsMargins(0, 0, 0, 0)
        self.wedge = WedgeRow()
        self.wedge.changed.connect(self._show)
        self.wedge.failed.connect(self.say)
        self.views = OrthoViews()
        self.views.cursor_moved.connect(self._panel_moved)
        self.message = QLabel()
        self.message.setWordWrap(True)
        grid = QGridLayout()
        rows = (
            ("Tomogram", self.tomogram), ("Volumes", self.chips), ("Slab", self._slab_row()),
            ("Show", self._part_row()), ("Tilts", self.wedge),
        )  # fmt: skip
        for index, (label, part) in enumerate(rows):
            grid.addWidget(QLabel(label), index, 0)
            grid.addWidget(part, index, 1)
        grid.setColumnStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.addLayout(grid)
        layout.addWidget(self._tabs(), stretch=1)
        layout.addWidget(self.message)
        self.setMinimumWidth(560)

    def _slab_row(self) -> QWidget:
        self.slab = QLabeledSlider(Qt.Orientation.Horizontal)
        self.slab.setRange(1, THICKEST)
        self.slab.valueChanged.connect(self._thickness_changed)
        self.slab_text = QLabel()
        self.linked = QCheckBox("Linked contrast")
        self.linked.toggled.connect(self._link_contrast)
        auto = QPushButton("Auto")
        auto.setToolTip("grey levels from what is shown now")
        auto.clicked.connect(self.auto_contrast)
        return row(self.slab, self.slab_text, self.linked, auto)

    def _part_row(self) -> QWidget:
        self.parts = QButtonGroup(self)
        buttons = []
        for part in Part:
            button = chip(str(part), checked=part is Part.BOTH)
            self.parts.addButton(button)
            button.clicked.connect(lambda _checked=False, chosen=part: self.show_part(chosen))
            buttons.append(button)
        self.whole = QPushButton("Split whole volume")
        self.whole.setToolTip("add measured only and filled in only of the restored volume as layers")
        self.whole.clicked.connect(self.split_whole)
        return row(*buttons, None, self.whole)

    def _tabs(self) -> QTabWidget:
        self.spectra = SpectrumRow()
        self.validation = ValidationTab()
        self.validation.failed.connect(self.say)
        self.tabs = QTabWidget()
        for part, title in ((self.views, "Slabs"), (self.spectra, "Spectrum"), (self.validation, "Validation")):
            self.tabs.addTab(part, title)
        self.tabs.currentChanged.connect(self._show)
        return self.tabs

    def _tie(self) -> None:
        self._bonds = Bonds(self)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            self._bonds.tie(event, self._layers_changed)
        self._bonds.at_close(self.link.close)
        self._bonds.at_close(self._cancel)

    def say(self, text: str) -> None:
        """Show a sentence under the views; empty: nothing."""
        self.message.setText(text)

    # -- which volumes -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look through the layers again."""
        names = list(tomograms(self.viewer.layers))
        before = self.tomogram.currentText()
        self.tomogram.blockSignals(True)
        self.tomogram.clear()
        self.tomogram.addItems(names)
        if before in names:
            self.tomogram.setCurrentText(before)
        self.tomogram.blockSignals(False)
        self._choose_tomogram(self.tomogram.currentText())

    @property
    def layers(self) -> list[Any]:
        """Layers of the tomogram that is shown."""
        return tomograms(self.viewer.layers).get(self.tomogram.currentText(), [])

    @property
    def shown(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.title in self.shown_titles]

    def show_volumes(self, titles: Sequence[str]) -> None:
        """Show these volumes; of more than there is room for, the last ones."""
        self.shown_titles = list(titles)[-MOST_COLUMNS:]
        for button in self.chips.findChildren(QToolButton):
            button.setChecked(button.text() in self.shown_titles)
        self._show()

    def _layers_changed(self, event: Any = None) -> None:
        if event is not None and event.type == "removed":
            self._cancel()  # what runs may work on that layer
        self.refresh()

    def _choose_tomogram(self, name: str) -> None:
        layers = self.layers
        self.entries, notes = entries_of(layers) if layers else ([], self._nothing())
        self.tile = None
        self.link.set_layer(self.entries[0].layers[0] if self.entries else None)
        for layer in layers:
            self._bonds.untie(layer.events.contrast_limits)
            self._bonds.tie(layer.events.contrast_limits, self._levels_changed)
        if self.entries:
            shape = self.entries[0].source.shape
            if shape != self.views.shape_zyx:
                self.views.set_shape(shape)
                self._panel_moved(tuple(n // 2 for n in shape))
        titles = [entry.title for entry in self.entries]
        self.shown_titles = [title for title in self.shown_titles if title in titles]
        if not self.shown_titles or set(first_choice(self.entries)) - set(self._offered):
            self.shown_titles = first_choice(self.entries)  # a restoration that came is shown at once
        self._offered = titles
        self._fill_chips(titles)
        if name != self._name or wedge_of(layers) is not None:
            self.wedge.set_wedge(wedge_of(layers))  # what was typed in holds for its tomogram alone
        self._name = name
        self._link_contrast(self.linked.isChecked())
        if self.slab.value() > 1:
            self.link.set_thickness(layers, self.slab.value())
        self._say_thickness()
        if folders_of(layers) != self._folders:
            self._folders = folders_of(layers)
            self.validation.open_near(self._folders)
        self.say(" ".join(f"{note}." for note in notes))
        self._show()

    def _nothing(self) -> list[str]:
        """Why nothing is shown."""
        refused = [refusal(layer) for layer in self.viewer.layers]
        return [*refused, "Open a tomogram, or a run folder, to compare its volumes here"]

    def _fill_chips(self, titles: Sequence[str]) -> None:
        layout = self.chips.layout()
        while layout.count():
            layout.takeAt(0).widget().deleteLater()
        for title in titles:
            button = chip(title, checked=title in self.shown_titles)
            button.clicked.connect(lambda checked, chosen=title: self._toggled(chosen, checked))
            layout.addWidget(button)

    def _toggled(self, title: str, checked: bool) -> None:
        others = [t for t in self.shown_titles if t != title]
        self.show_volumes([*others, title] if checked else others)

    # -- cursor, slab and grey levels ----------------------------------------------------------------

    def _panel_moved(self, place: Place) -> None:
        self.views.set_cursor(place)
        self.link.set_place(self.views.cursor_zyx)
        self._show()

    def _viewer_moved(self, place: Place) -> None:
        self.views.set_cursor(place)
        self.link.place = self.views.cursor_zyx  # a click beside the volume counts as one on its face
        self._show()

    def _thickness_changed(self, _value: int = 0) -> None:
        self.views.set_thickness(self.slab.value())
        self.link.set_thickness(self.layers, self.slab.value())
        self._say_thickness()

    def _say_thickness(self) -> None:
        voxel = next((v for v in (facts_of(layer).voxel_size_angstrom for layer in self.layers) if v), None)
        self.slab_text.setText(f"{self.slab.value() * voxel:.4g} Å" if voxel else "voxels")

    def _levels_changed(self, event: Any = None) -> None:
        self._show_columns()

    def _link_contrast(self, on: bool) -> None:
        """Keep the grey levels of all densities the same, or let each have its own."""
        from napari.experimental import link_layers, unlink_layers

        if self._linked:
            with suppress(KeyError, ValueError):  # a layer that is gone
                unlink_layers(self._linked, ("contrast_limits",))
        densities = {id(e.layers[0]): e.layers[0] for e in self.entries if e.kind is Kind.DENSITY}
        self._linked = list(densities.values()) if on and len(densities) > 1 else []
        if self._linked:
            for layer in self._linked:
                layer.contrast_limits = self._linked[-1].contrast_limits
            link_layers(self._linked, ("contrast_limits",))

    def auto_contrast(self) -> None:
        """Grey levels from the slabs now shown; of linked volumes together."""
        images = {e.title: self.views.column_values(i) for i, e in enumerate(self.shown)}
        densities = [e for e in self.shown if e.kind is Kind.DENSITY and images[e.title].size]
        pooled = [images[e.title] for e in densities]
        for entry, values in zip(densities, pooled, strict=True):
            limits = contrast_limits(pooled if self._linked else [values])
            for layer in entry.layers:
                layer.contrast_limits = limits

    # -- measured and filled in ----------------------------------------------------------------------

    def show_part(self, part: Part) -> None:
        """Show the whole of each volume, or what of it was measured, or filled in, around the cursor."""
        if part is not Part.BOTH and self.wedge.wedge() is None:
            self.say("The tilts are not known: state them, or open a run folder or a restored volume.")
            part = Part.BOTH
        self.part = part
        for button in self.parts.buttons():
            button.setChecked(button.text() == part)
        self._show()

    def _show(self, _: Any = None) -> None:
        """Show what was asked for, and have the tile around the cursor examined if that needs it."""
        self._show_columns()
        needed = self.part is not Part.BOTH or self.tabs.currentWidget() is self.spectra
        if needed and self.shown and self._tile_at_cursor() is None:
            self._rest.start(REST_MS)

    def _show_columns(self) -> None:
        tile = self._tile_of_shown() if self.part is not Part.BOTH else None
        columns = []
        for index, entry in enumerate(self.shown):
            source = entry.source
            if tile is not None and tile.examined.splits:
                split = tile.examined.splits[index]
                source = split.measured if self.part is Part.MEASURED else split.filled
            columns.append(ShownSource(source, entry.levels(Part.BOTH if source is entry.source else self.part)))
        self.views.show_sources(columns)

    def _titles(self) -> tuple[str, ...]:
        return tuple(entry.title for entry in self.shown)

    def _tile_at_cursor(self) -> _Tile | None:
        tile = self.tile
        return tile if tile and tile.serves(self._titles(), self.wedge.wedge(), self.views.cursor_zyx) else None

    def _tile_of_shown(self) -> _Tile | None:
        """The tile of these volumes, if need be around a cursor of before: better than none while one is made."""
        tile = self.tile
        return tile if tile and tile.titles == self._titles() and tile.wedge == self.wedge.wedge() else None

    def _examine(self) -> None:
        """Split the tile around the cursor and take its spectra, in a thread."""
        if not self.shown or self._tile_at_cursor() is not None:
            return
        sources = [entry.source for entry in self.shown]
        window = window_around(self.views.cursor_zyx, sources[0].shape)
        stated = self.wedge.wedge()
        wanted = (self._titles(), stated, window)
        if "tile" in self.jobs and self._wanted == wanted:
            return  # it is being made

        def work(progress: Progress) -> _Tile:
            from napari_cryoaae.wedge_split import examine

            wedge = None if stated is None else stated.build()
            return _Tile(tuple(s.title for s in sources), stated, examine(sources, window, wedge, progress))

        self._wanted = wanted
        self._start("tile", work, self._tile_made, "Splitting around the cursor …")

    def _tile_made(self, tile: _Tile) -> None:
        self.tile = tile
        self.say("")
        if tile.titles == self._titles():
            pairs = list(zip(tile.titles, tile.examined.spectra, strict=True))
            voxel = facts_of(self.shown[0].layers[0]).voxel_size_angstrom or 1.0
            self.spectra.show_spectra(pairs, tile.examined.wedge_ends, voxel)
        self._show()

    def split_whole(self) -> None:
        """Split the whole restored volume (else the first shown) and add both parts as layers."""
        stated = self.wedge.wedge()
        chosen = [e for e in self.shown if e.kind is Kind.DENSITY]
        entry = next((e for e in chosen if facts_of(e.layers[0]).role is Role.RESTORED), (chosen or [None])[0])
        if "whole" in self.jobs:
            return  # a second click
        if entry is None or stated is None:
            self.say("There is no volume to split." if entry is None else "The tilts are not known: state them first.")
            return

        def work(progress: Progress) -> tuple[Entry, StatedWedge, Any]:
            from napari_cryoaae.wedge_split import split_whole

            return entry, stated, split_whole(entry.source, stated.build())

        self._start("whole", work, self._whole_made, f"Splitting the whole of {entry.title} …")

    def _whole_made(self, made: tuple[Entry, StatedWedge, Any]) -> None:
        entry, stated, parts = made
        layer = entry.layers[0]
        if layer not in self.viewer.layers:
            self.say(f"{entry.title} was removed meanwhile; nothing was added.")
            return
        known = facts_of(layer)
        for role, part, data in zip((Role.MEASURED, Role.FILLED), (Part.MEASURED, Part.FILLED), parts, strict=True):
            facts = LayerFacts(role, known.tomogram, known.source, known.voxel_size_angstrom, stated, known.run)
            self.viewer.add_image(
                data, name=f"{layer.name} {role}", scale=layer.scale, units=layer.units,
                axis_labels=layer.axis_labels, contrast_limits=entry.levels(part), metadata={KEY: facts},
            )  # fmt: skip
        self.say("Both parts were added as layers.")

    def _start(self, kind: str, work: Any, returned: Any, text: str) -> None:
        """Do some work in a thread, in place of what of its kind was asked for before."""
        if kind in self.jobs:
            self.jobs[kind].cancel()
        job = self.jobs[kind] = Job(work)
        job.signals.returned.connect(returned)
        job.signals.failed.connect(self.say)
        job.signals.finished.connect(self._ended)
        self.say(text)
        job.start()

    def _ended(self) -> None:
        self.jobs = {kind: job for kind, job in self.jobs.items() if job in Job.alive}

    def _cancel(self) -> None:
        for job in self.jobs.values():
            job.cancel()
        self.jobs = {}

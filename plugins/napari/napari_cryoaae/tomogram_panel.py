"""The Tomogram panel: volumes of one tomogram under one cursor, what of them was measured, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QGridLayout,
    QLabel,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledSlider

from cryoaae.runs.progress import Progress
from napari_cryoaae.bonds import Bonds
from napari_cryoaae.charts import SpectrumRow
from napari_cryoaae.comparison import Entry, Kind, Part, entries_of, folders_of, refusal, tomograms, wedge_of
from napari_cryoaae.cursor_link import CursorLink, Place
from napari_cryoaae.facts import StatedWedge, facts_of
from napari_cryoaae.jobs import Jobs
from napari_cryoaae.linked_contrast import LinkedContrast
from napari_cryoaae.mask_row import MaskRow
from napari_cryoaae.oblique_row import ObliqueRow
from napari_cryoaae.ortho_views import OrthoViews, ShownSource
from napari_cryoaae.plane_in_viewer import PlaneInViewer
from napari_cryoaae.small_widgets import chip, row
from napari_cryoaae.spread_row import SpreadRow
from napari_cryoaae.tile_at_cursor import Tile, TileAtCursor, Wanted
from napari_cryoaae.validation_tab import ValidationTab
from napari_cryoaae.volume_chips import VolumeChips
from napari_cryoaae.wedge_row import WedgeRow
from napari_cryoaae.whole_split import main_volume, part_layers

THICKEST = 64


class TomogramPanel(QWidget):
    """Linked slabs of input, halves, restored, residual and draws; measured only or filled in only; spread and mask."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.part = Part.BOTH
        self.jobs = Jobs(self)
        self.tiles = TileAtCursor(self, self.jobs)
        self.contrast = LinkedContrast()
        self.plane_in_viewer = PlaneInViewer(napari_viewer)
        self._name, self._folders = "", []
        self._build()
        self.link = CursorLink(napari_viewer, self._viewer_moved)
        self._tie()
        self.refresh()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.tomogram, self.chips, self.wedge = QComboBox(), VolumeChips(), WedgeRow()
        self.oblique, self.spread, self.mask = ObliqueRow(), SpreadRow(), MaskRow()
        self.views = OrthoViews()
        self.message = QLabel()
        self.message.setWordWrap(True)
        grid = QGridLayout()
        grid.setVerticalSpacing(3)
        rows = (
            ("Tomogram", self.tomogram), ("Volumes", self.chips), ("Slab", self._slab_row()),
            ("Show", self._part_row()), ("Tilts", self.wedge), ("Oblique", self.oblique), ("Spread", self.spread),
            ("Mask", self.mask),
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
        self._connect()

    def _connect(self) -> None:
        self.tomogram.currentTextChanged.connect(self._choose_tomogram)
        self.chips.changed.connect(self._chosen)
        self.wedge.changed.connect(self._show)
        self.oblique.changed.connect(self._show_oblique)
        self.spread.changed.connect(self._show_overlays)
        self.mask.changed.connect(self._show_overlays)
        self.mask.asked.connect(self.save_mask)
        self.views.cursor_moved.connect(self._panel_moved)
        self.tiles.made.connect(self._tile_made)
        for signal in (self.wedge.failed, self.validation.failed, self.tiles.failed, self.tiles.said):
            signal.connect(self.say)

    def _slab_row(self) -> QWidget:
        self.slab = QLabeledSlider(Qt.Orientation.Horizontal)
        self.slab.setRange(1, THICKEST)
        self.slab.valueChanged.connect(self._thickness_changed)
        self.slab_text = QLabel()
        self.linked = QCheckBox("Linked contrast")
        self.linked.toggled.connect(lambda on: self.contrast.link(self.entries, on=on))
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
        self.spectra, self.validation = SpectrumRow(), ValidationTab()
        self.tabs = QTabWidget()
        for part, title in ((self.views, "Slabs"), (self.spectra, "Spectrum"), (self.validation, "Validation")):
            self.tabs.addTab(part, title)
        self.tabs.currentChanged.connect(self._show)
        return self.tabs

    def _tie(self) -> None:
        self._bonds = Bonds(self)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            self._bonds.tie(event, self._layers_changed)
        for last in (self.link.close, self.plane_in_viewer.close, self.jobs.cancel):
            self._bonds.at_close(last)

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
    def entries(self) -> list[Entry]:
        return self.chips.entries

    @property
    def shown(self) -> list[Entry]:
        return self.chips.shown

    def show_volumes(self, titles: Sequence[str]) -> None:
        """Show these volumes; of more than there is room for, the last ones."""
        self.chips.show_only(titles)

    def _layers_changed(self, event: Any = None) -> None:
        if event is not None and event.type == "removed":
            self.jobs.cancel()  # what runs may work on that layer
        self.refresh()

    def _choose_tomogram(self, name: str) -> None:
        layers = self.layers
        entries, notes = entries_of(layers) if layers else ([], self._nothing())
        self.tiles.forget()
        self.link.set_layer(next((entry.layers[0] for entry in entries if entry.whole), None))
        for layer in layers:
            self._bonds.untie(layer.events.contrast_limits)
            self._bonds.tie(layer.events.contrast_limits, self._levels_changed)
        self._take_shape(entries)
        self.chips.offer(entries)
        if name != self._name or wedge_of(layers) is not None:
            self.wedge.set_wedge(wedge_of(layers))  # what was typed in holds for its tomogram alone
        self._name = name
        self.contrast.link(entries, on=self.linked.isChecked())
        if self.slab.value() > 1:
            self.link.set_thickness(layers, self.slab.value())
        self._say_thickness()
        if folders_of(layers) != self._folders:
            self._folders = folders_of(layers)
            self.validation.open_near(self._folders)
        self.say(" ".join(f"{note}." for note in notes))
        self._chosen()

    def _take_shape(self, entries: Sequence[Entry]) -> None:
        """Lay the views out for volumes of another shape, with the cursor in the middle."""
        shape = next((entry.source.shape for entry in entries if entry.whole), None)
        if shape is not None and shape != self.views.shape_zyx:
            self.views.set_shape(shape)
            self._panel_moved(tuple(n // 2 for n in shape))

    def _nothing(self) -> list[str]:
        """Why nothing is shown."""
        refused = [refusal(layer) for layer in self.viewer.layers]
        return [*refused, "Open a tomogram, or a run folder, to compare its volumes here"]

    def _chosen(self) -> None:
        """Other volumes are shown now, and other ones may be masked."""
        self.spread.offer(self.entries)
        self.mask.offer(main_volume(self.shown) or main_volume(self.entries), self.spread.entry())
        self._show_overlays()
        self._show_oblique()

    # -- cursor, slab and grey levels ----------------------------------------------------------------

    def _panel_moved(self, place: Place) -> None:
        self.views.set_cursor(place)
        self.link.set_place(self.views.cursor_zyx)
        self._show_oblique()

    def _viewer_moved(self, place: Place) -> None:
        self.views.set_cursor(place)
        self.link.place = self.views.cursor_zyx  # a click beside the volume counts as one on its face
        self._show_oblique()

    def _thickness_changed(self, _value: int = 0) -> None:
        self.views.set_thickness(self.slab.value())
        self.link.set_thickness(self.layers, self.slab.value())
        self._say_thickness()
        self._show_oblique()

    def _say_thickness(self) -> None:
        voxel = next((v for v in (facts_of(layer).voxel_size_angstrom for layer in self.layers) if v), None)
        self.slab_text.setText(f"{self.slab.value() * voxel:.4g} Å" if voxel else "voxels")

    def _levels_changed(self, event: Any = None) -> None:
        self._show_columns()
        self.views.set_overlay(self.spread.overlay())

    def auto_contrast(self) -> None:
        """Grey levels from the slabs now shown; of linked volumes together."""
        self.contrast.fit(self.shown, {e.title: self.views.column_values(i) for i, e in enumerate(self.shown)})

    def _show_oblique(self) -> None:
        """The oblique plane, here and, if wished, in the main window."""
        plane = self.oblique.plane()
        self.views.set_oblique(plane)
        entry = main_volume(self.shown)
        if plane is not None and self.oblique.in_viewer.isChecked() and entry is not None:
            self.plane_in_viewer.show(entry.layers[0], plane, self.views.cursor_zyx, self.slab.value())
        else:
            self.plane_in_viewer.close()
        self._show()

    # -- spread and mask -----------------------------------------------------------------------------

    def _show_overlays(self) -> None:
        self.mask.offer(self.mask.density, self.spread.entry())
        self.views.set_overlay(self.spread.overlay())
        self.views.set_mask(self.mask.overlay())

    def save_mask(self, path: Path) -> None:
        """Write the mask of the whole volume as an MRC file, in a thread."""
        mask, entry = self.mask.mask(), self.mask.density
        if mask is None or entry is None or "mask" in self.jobs.running:
            return  # nothing to mask, or a second click
        facts = facts_of(entry.layers[0])

        def work(progress: Progress) -> Path:
            from napari_cryoaae.thresholds import write_mask
            from napari_cryoaae.writers import header_of, refuse_own_file

            refuse_own_file(path, facts)
            voxel = facts.voxel_size_angstrom or 1.0
            return write_mask(path, mask, like=header_of(facts), voxel_size_angstrom=voxel, progress=progress)

        self.say("Writing the mask …")
        self.jobs.start("mask", work, returned=self._mask_written, failed=self.say)

    def _mask_written(self, path: Path) -> None:
        self.say(f"Wrote {path}.")

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
        if self.part is not Part.BOTH or self.tabs.currentWidget() is self.spectra:
            self.tiles.want(self._wanted())

    def _wanted(self) -> Wanted:
        sources = tuple(entry.source for entry in self.shown if entry.whole)
        return Wanted(sources, self.wedge.wedge(), self.views.cursor_zyx)

    def _show_columns(self) -> None:
        tile = self.tiles.near(self._wanted()) if self.part is not Part.BOTH else None
        splits = dict(zip(tile.titles, tile.examined.splits, strict=False)) if tile else {}
        columns = []
        for entry in self.shown:
            split, levels = splits.get(entry.title), entry.levels()
            source = entry.source
            if split is not None:
                source = split.measured if self.part is Part.MEASURED else split.filled
                levels = entry.levels(self.part)
            columns.append(ShownSource(source, levels, overlaid=entry.kind is not Kind.SPREAD))
        self.views.show_sources(columns)

    def _tile_made(self, tile: Tile) -> None:
        if tile.of(self._wanted()):
            pairs = list(zip(tile.titles, tile.examined.spectra, strict=True))
            voxel = facts_of(self.shown[0].layers[0]).voxel_size_angstrom or 1.0
            self.spectra.show_spectra(pairs, tile.examined.wedge_ends, voxel)
        self._show()

    def split_whole(self) -> None:
        """Split the whole restored volume (else the first shown) and add both parts as layers."""
        stated, entry = self.wedge.wedge(), main_volume(self.shown)
        if "whole" in self.jobs.running:
            return  # a second click
        if entry is None or stated is None:
            self.say("There is no volume to split." if entry is None else "The tilts are not known: state them first.")
            return

        def work(progress: Progress) -> tuple[Entry, StatedWedge, Any]:
            from napari_cryoaae.wedge_split import split_whole

            return entry, stated, split_whole(entry.source, stated.build())

        self.say(f"Splitting the whole of {entry.title} …")
        self.jobs.start("whole", work, returned=self._whole_made, failed=self.say)

    def _whole_made(self, made: tuple[Entry, StatedWedge, Any]) -> None:
        entry, stated, parts = made
        if entry.layers[0] not in self.viewer.layers:
            self.say(f"{entry.title} was removed meanwhile; nothing was added.")
            return
        for data, look in part_layers(entry, stated, parts):
            self.viewer.add_image(data, **look)
        self.say("Both parts were added as layers.")

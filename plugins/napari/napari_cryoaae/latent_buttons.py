"""The buttons of the Latent panel: volumes of particles, classes, files."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from qtpy.QtWidgets import QFormLayout, QSpinBox, QWidget

from napari_cryoaae.latent_map import LatentMap
from napari_cryoaae.small_widgets import button, row

MOST_PARTS = 20
AVERAGE = "selected particles, by the poses that were found, or else those of their store"
DECODED = "what the model makes of their class, not measured"
WRITTEN = "averages of all classes, as the run wrote them"
NONE_WRITTEN = "the run wrote no averages: no poses are known"


class LatentActions(Protocol):
    """What the buttons ask for."""

    def average(self) -> None: ...
    def gallery(self) -> None: ...
    def decode(self) -> None: ...
    def show_written(self) -> None: ...
    def merge(self) -> None: ...
    def split(self) -> None: ...
    def rename_chosen(self) -> None: ...
    def undo(self) -> None: ...
    def redo(self) -> None: ...
    def choose_file(self, *, only_selected: bool) -> None: ...


class LatentButtons(QWidget):
    """Rows of buttons; what cannot be done now is grey, what a map cannot do at all says why.

    Parameters
    ----------
    actions : LatentActions
    """

    def __init__(self, actions: LatentActions, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        rows = QFormLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Show", self._volume_row(actions))
        rows.addRow("Classes", self._class_row(actions))
        rows.addRow("Export", self._export_row(actions))

    def _volume_row(self, actions: LatentActions) -> QWidget:
        self.average = button("Average", AVERAGE, actions.average)
        self.gallery = button("Gallery", "selected particles side by side, filtered", actions.gallery)
        self.written = button("All averages", WRITTEN, actions.show_written)
        self.decode = button("Decoded class", DECODED, actions.decode)
        return row(self.average, self.gallery, self.decode, self.written, None)

    def _class_row(self, actions: LatentActions) -> QWidget:
        self.parts = QSpinBox()
        self.parts.setRange(1, MOST_PARTS)
        self.parts.setValue(2)
        self.merge = button("Merge", "make the classes that are chosen in the list one", actions.merge)
        self.split = button("Split into", "new classes of the selected particles, by k-means", actions.split)
        self.rename = button("Rename", "the class chosen in the list; or double-click it", actions.rename_chosen)
        self.undo = button("Undo", "the last change of the classes", actions.undo)
        self.redo = button("Redo", "what was undone last", actions.redo)
        return row(self.merge, self.rename, self.split, self.parts, None, self.undo, self.redo)

    def _export_row(self, actions: LatentActions) -> QWidget:
        selection, everything = (partial(actions.choose_file, only_selected=only) for only in (True, False))
        self.save_selection = button("Selection…", "STAR of the selected particles", selection)
        self.save_all = button("All particles…", "STAR of all, with their classes", everything)
        return row(self.save_selection, self.save_all, None)

    def offer(self, latent: LatentMap | None, *, free: bool, selected: bool, classes_chosen: int) -> None:
        """Enable what can be done now, but for undoing.

        Parameters
        ----------
        latent : LatentMap, optional
        free : bool
            Whether no work runs.
        selected : bool
            Whether any particle is.
        classes_chosen : int
            Classes that are chosen in the list.
        """
        free &= latent is not None
        for one in (self.average, self.gallery, self.split, self.save_selection):
            one.setEnabled(free and selected)
        self.save_all.setEnabled(free)
        decodes = latent is None or not latent.by_alignment
        self.decode.setEnabled(free and selected and decodes)
        self.decode.setToolTip(DECODED if latent is None or decodes else latent.without_model)
        written = latent is not None and bool(latent.averages)
        self.written.setEnabled(free and written)
        self.written.setToolTip(WRITTEN if written or latent is None else NONE_WRITTEN)
        self.merge.setEnabled(free and classes_chosen > 1)
        self.rename.setEnabled(free and classes_chosen == 1)

    def offer_history(self, *, undo: bool, redo: bool) -> None:
        """Enable going back and forth."""
        self.undo.setEnabled(undo)
        self.redo.setEnabled(redo)

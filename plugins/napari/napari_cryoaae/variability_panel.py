"""The Variability panel: what a model of particles can make, and what a tomogram may look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QLabel, QTabWidget, QVBoxLayout, QWidget

from napari_cryoaae.bonds import Bonds
from napari_cryoaae.draws_tab import DrawsTab
from napari_cryoaae.facts import Role, facts_of
from napari_cryoaae.structures_tab import StructuresTab

WIDTH = 560


class VariabilityPanel(QWidget):
    """Structures decoded from a latent space, and posterior draws of a tomogram, played and written as films."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.structures, self.draws = StructuresTab(napari_viewer), DrawsTab(napari_viewer)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.structures, "Structures")
        self.tabs.addTab(self.draws, "Draws")
        self.message = QLabel()
        self.message.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.tabs, stretch=1)
        layout.addWidget(self.message)
        self.setMinimumWidth(WIDTH)
        for tab in (self.structures, self.draws):
            tab.said.connect(self.say)
        bonds = Bonds(self)
        bonds.tie(napari_viewer.layers.events.inserted, self._propose)
        bonds.tie(napari_viewer.layers.events.removed, self._removed)
        bonds.at_close(self.structures.close_down)
        bonds.at_close(self.draws.bar.close_down)
        self.say("Choose a run folder of `cryoaae cluster --by both`, or, under Draws, a folder of `cryoaae sample`.")
        self._propose()

    def say(self, text: str) -> None:
        """Show a sentence under the tabs; empty: nothing."""
        self.message.setText(text)

    def open_model(self, run: Path) -> None:
        """Look through the model of a run of `cryoaae cluster`."""
        self.tabs.setCurrentWidget(self.structures)
        self.structures.open(run)

    def open_draws(self, folder: Path) -> None:
        """Play the draws of a folder of `cryoaae sample`."""
        self.tabs.setCurrentWidget(self.draws)
        self.draws.open(folder)

    def _propose(self, event: Any = None) -> None:
        """Offer the draws, or the spread, that a layer came from, where none were chosen."""
        if self.draws.draws is not None:
            return
        spreads = (facts_of(layer) for layer in self.viewer.layers)
        record = next((f.record for f in spreads if f.role in (Role.DRAW, Role.STD) and f.record is not None), None)
        if record is not None:
            self.draws.open(record)

    def _removed(self, event: Any) -> None:
        """A film whose layer the user took away must not put it back."""
        for tab in (self.structures, self.draws):
            if event.value is tab.shown.layer:
                tab.bar.pause()

"""The Provenance panel: what the selected layer was made with."""

from __future__ import annotations

from html import escape
from typing import Any

from qtpy.QtGui import QTextOption
from qtpy.QtWidgets import QApplication, QPushButton, QTextBrowser, QVBoxLayout, QWidget

from napari_cryoaae.bonds import Bonds
from napari_cryoaae.facts import facts_of
from napari_cryoaae.provenance import Sections, as_text, provenance

LABEL = "#8fa1b3"


class ProvenancePanel(QWidget):
    """Digest of the model, wedge, normalisation, voxel size, versions and the command that makes it again."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.sections: Sections = []
        self.text = QTextBrowser()
        self.text.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        copy = QPushButton("Copy as text")
        copy.clicked.connect(self.copy)
        layout = QVBoxLayout(self)
        layout.addWidget(self.text)
        layout.addWidget(copy)
        self.setMinimumWidth(380)
        Bonds(self).tie(napari_viewer.layers.selection.events.active, self.refresh)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Show the active layer."""
        layer = self.viewer.layers.selection.active
        self.sections = [] if layer is None else provenance(facts_of(layer))
        title = "Select a layer." if layer is None else layer.name
        self.text.setHtml(f"<h3>{escape(title)}</h3>" + "".join(_section(*section) for section in self.sections))

    def copy(self) -> None:
        """Put all of it on the clipboard."""
        QApplication.clipboard().setText(as_text(self.sections))


def _section(title: str, lines: list[tuple[str, str]]) -> str:
    rows = (
        f"<p style='margin: 3px 0'><span style='color: {LABEL}'>{escape(label)}</span> &nbsp;{escape(text)}</p>"
        for label, text in lines
    )
    return f"<h4 style='margin: 10px 0 2px 0'>{escape(title)}</h4>{''.join(rows)}"

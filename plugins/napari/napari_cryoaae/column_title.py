"""What stands above the pictures of a volume: its name and the density at the cursor."""

from __future__ import annotations

from html import escape

import pyqtgraph as pg
from qtpy.QtCore import Qt

from napari_cryoaae.slice_view import TEXT

# Of a name; more would reach over the next column.
MOST_CHARACTERS = 20


class ColumnTitle(pg.LabelItem):
    """Two lines of text, which change with the cursor and so may not decide how wide a column is."""

    def __init__(self) -> None:
        super().__init__("", color=TEXT)
        self.show_text("", "")  # as high as it will be

    def show_text(self, name: str, value: str) -> None:
        """Show a name, cut short if it is long, and a value below it."""
        short = name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"
        self.item.setTextWidth(-1)
        lines = "<br>".join(escape(line) or "&nbsp;" for line in (short, value))
        self.setText(f"<div align='center'>{lines}</div>")
        self.item.setTextWidth(self.item.document().idealWidth())  # lines are centred within a width alone
        self.resizeEvent(None)
        self.setToolTip(name)

    def updateMin(self) -> None:
        """Ask for the height of the text, and for no width."""
        super().updateMin()
        self.setMinimumWidth(0)
        for hint in (Qt.SizeHint.MinimumSize, Qt.SizeHint.PreferredSize):
            self._sizeHint[hint] = (0, self._sizeHint[hint][1])
        self.updateGeometry()

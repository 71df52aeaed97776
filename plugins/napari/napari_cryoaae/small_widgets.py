"""Small widgets that panels are put together from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QPushButton, QSizePolicy, QToolButton, QWidget

# napari's own style does not show which of such buttons are down.
CHIP_STYLE = (
    "QToolButton { padding: 3px 8px; border-radius: 4px; background: #414851; }"
    "QToolButton:checked { background: #4b5fc7; color: white; }"
)


def button(text: str, tip: str, clicked: Callable[[], None]) -> QPushButton:
    """A button with a sentence on what it does."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda _checked=False: clicked())
    return made


def chip(text: str, *, checked: bool) -> QToolButton:
    """A small button that stays down."""
    made = QToolButton()
    made.setStyleSheet(CHIP_STYLE)
    made.setText(text)
    made.setCheckable(True)
    made.setChecked(checked)
    return made


def row(*parts: QWidget | None) -> QWidget:
    """Widgets beside each other; None is a gap that takes what room is left."""
    widget = QWidget()
    layout = QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        if part is None:
            layout.addStretch(1)
        else:
            layout.addWidget(part)
    widget.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
    return widget


def line_with_button(line: QLineEdit, choose: Any) -> QWidget:
    """A line to type in, with a button that opens a dialog."""
    dots = QPushButton("…")
    dots.setMaximumWidth(32)
    dots.clicked.connect(choose)
    line.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return row(line, dots)

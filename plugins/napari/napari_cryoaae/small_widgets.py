"""Small widgets that panels are put together from."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QPushButton, QSizePolicy, QToolButton, QWidget

# napari's own style does not show which of such buttons are down.
CHIP_STYLE = (
    "QToolButton { padding: 3px 8px; border-radius: 4px; background: #414851; }"
    "QToolButton:checked { background: #4b5fc7; color: white; }"
)


def chip(text: str, *, checked: bool) -> QToolButton:
    """A small button that stays down."""
    button = QToolButton()
    button.setStyleSheet(CHIP_STYLE)
    button.setText(text)
    button.setCheckable(True)
    button.setChecked(checked)
    return button


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
    button = QPushButton("…")
    button.setMaximumWidth(32)
    button.clicked.connect(choose)
    line.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return row(line, button)

"""A style as sliders: along its own axes, or along the principal modes of the particles' styles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QScrollArea, QWidget
from superqt import QLabeledDoubleSlider

# Standard deviations to either side.
REACH = 3.0


class CodeSliders(QScrollArea):
    """A row a number of the style: its name, a slider in standard deviations, a button that walks along it.

    `moved` says which slider was moved and to where, `walked` which is to be walked along.
    """

    moved = Signal(int, float)
    walked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.names: tuple[str, ...] = ()
        self.sliders: list[QLabeledDoubleSlider] = []

    def set_names(self, names: Sequence[str]) -> None:
        """Make a row for each, unless these are shown already."""
        if tuple(names) == self.names:
            return
        self.names = tuple(names)
        rows, grid = QWidget(), QGridLayout()
        rows.setLayout(grid)
        grid.setContentsMargins(0, 0, 6, 0)
        self.sliders = []
        for index, name in enumerate(names):
            slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
            slider.setRange(-REACH, REACH)
            slider.setDecimals(2)
            slider.valueChanged.connect(partial(self.moved.emit, index))
            walk = QPushButton("Walk")
            walk.setToolTip("film from one end of the prior to the other along this one")
            walk.clicked.connect(partial(self._walk, index))
            for column, part in enumerate((QLabel(name), slider, walk)):
                grid.addWidget(part, index, column)
            self.sliders.append(slider)
        grid.setRowStretch(len(names), 1)
        self.setWidget(rows)

    def set_places(self, places: Sequence[float]) -> None:
        """Move the sliders without telling; a place beyond the reach is shown at its end."""
        for slider, place in zip(self.sliders, places, strict=True):
            slider.blockSignals(True)
            slider.setValue(min(max(place, -REACH), REACH))
            slider.blockSignals(False)

    def _walk(self, index: int, _checked: bool = False) -> None:
        self.walked.emit(index)

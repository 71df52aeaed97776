"""Which volumes of a tomogram are shown: a button each, and one number for all draws."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QSpinBox, QToolButton, QWidget
from superqt import QFlowLayout

from napari_cryoaae.comparison import Entry, first_choice
from napari_cryoaae.facts import Role
from napari_cryoaae.ortho_views import MOST_COLUMNS
from napari_cryoaae.small_widgets import chip


class VolumeChips(QWidget):
    """A row of buttons. `changed` says that others are to be shown."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.entries: list[Entry] = []
        self.shown_titles: list[str] = []
        self._offered: list[str] = []
        self.buttons: list[QToolButton] = []
        layout = QFlowLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.draw = QSpinBox(self)
        self.draw.setToolTip("which of the draws is shown")
        self.draw.valueChanged.connect(self._other_draw)

    @property
    def shown(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.title in self.shown_titles]

    def offer(self, entries: list[Entry]) -> None:
        """Offer these; what was shown stays, and a restoration that came is shown at once."""
        self.entries = entries
        titles = [entry.title for entry in entries]
        self.shown_titles = [title for title in self.shown_titles if title in titles]
        if not self.shown_titles or set(first_choice(entries)) - set(self._offered):
            self.shown_titles = first_choice(entries)
        self._offered = titles
        self._fill()

    def show_only(self, titles: Sequence[str]) -> None:
        """Show these volumes; of more than there is room for, the last ones."""
        self.shown_titles = list(titles)[-MOST_COLUMNS:]
        for button in self.buttons:
            button.setChecked(button.property("title") in self.shown_titles)
        self.changed.emit()

    @property
    def draws(self) -> dict[int, str]:
        """Titles of the draws, by their numbers."""
        return {entry.draw: entry.title for entry in self.entries if entry.draw is not None}

    def _fill(self) -> None:
        layout, self.buttons = self.layout(), []
        while layout.count():
            widget = layout.takeAt(0).widget()
            if widget is not self.draw:
                widget.hide()  # it is deleted in a later turn, and would lie over the new ones until then
                widget.deleteLater()
        for title in (entry.title for entry in self.entries if entry.draw is None):
            self._add(title, title)
        draws = self.draws
        self.draw.setVisible(bool(draws))
        if draws:
            shown = next((number for number, title in draws.items() if title in self.shown_titles), None)
            self.draw.blockSignals(True)
            self.draw.setRange(min(draws), max(draws))
            self.draw.setSuffix(f" of {len(draws)}")
            if shown is not None:
                self.draw.setValue(shown)
            self.draw.blockSignals(False)
            self._add(str(Role.DRAW), draws.get(self.draw.value(), ""))
            layout.addWidget(self.draw)

    def _add(self, text: str, title: str) -> None:
        button = chip(text, checked=title in self.shown_titles)
        button.setProperty("title", title)
        button.clicked.connect(lambda checked, mine=button: self._toggled(mine.property("title"), checked))
        self.layout().addWidget(button)
        self.buttons.append(button)

    def _toggled(self, title: str, checked: bool) -> None:
        others = [t for t in self.shown_titles if t != title]
        self.show_only([*others, title] if checked else others)

    def _other_draw(self, number: int) -> None:
        """Another draw takes the place of the one shown; none was shown: it is."""
        draws = self.draws
        if number not in draws:
            return  # one that was not kept, or whose layer is gone
        button = next(b for b in self.buttons if b.text() == Role.DRAW)
        button.setProperty("title", draws[number])
        before = [title for title in self.shown_titles if title not in draws.values()]
        self.show_only([*before, draws[number]])

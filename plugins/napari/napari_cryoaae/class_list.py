"""The list beside the map: its legend, and the classes that can be chosen and renamed there."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

ICON_PIXELS = 12
NAME, COUNT = 0, 1
Entry = tuple[str, tuple[int, int, int], int | None]


class ClassList(QTreeWidget):
    """Names, colours and sizes. `chosen` tells the rows that were chosen, `renamed` a row and its new name."""

    chosen = Signal(list)
    renamed = Signal(int, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._filling = False
        self.setColumnCount(2)
        self.setHeaderLabels(["class", "particles"])
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.header().setStretchLastSection(False)
        self.header().setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        self.header().setSectionResizeMode(COUNT, QHeaderView.ResizeMode.ResizeToContents)
        self.itemSelectionChanged.connect(self._selection_changed)
        self.itemChanged.connect(self._changed)
        self.itemDoubleClicked.connect(self._edit)

    def sizeHint(self) -> QSize:
        return QSize(160, 200)

    def show_entries(self, title: str, entries: Sequence[Entry], *, editable: bool) -> None:
        """Show a legend. Entries without a number of particles are steps of a scale, and cannot be chosen."""
        self._filling = True
        self.clear()
        self.setHeaderLabels([title, "particles" if any(count is not None for *_, count in entries) else ""])
        for name, rgb, count in entries:
            item = QTreeWidgetItem([name, "" if count is None else f"{count:,}"])
            square = QPixmap(ICON_PIXELS, ICON_PIXELS)
            square.fill(QColor(*rgb))
            item.setIcon(NAME, QIcon(square))
            item.setToolTip(NAME, name)
            item.setTextAlignment(COUNT, Qt.AlignmentFlag.AlignRight)
            flags = Qt.ItemFlag.ItemIsEnabled
            if count is not None:
                flags |= Qt.ItemFlag.ItemIsSelectable
            if editable:
                flags |= Qt.ItemFlag.ItemIsEditable
            item.setFlags(flags)
            self.addTopLevelItem(item)
        self._filling = False

    def chosen_rows(self) -> list[int]:
        """Rows that are chosen now, in order."""
        return sorted(self.indexOfTopLevelItem(item) for item in self.selectedItems())

    def choose_none(self) -> None:
        """Choose no row, without telling."""
        self._filling = True
        self.clearSelection()
        self._filling = False

    def rename_chosen(self) -> None:
        """Let the user type a new name for the chosen row."""
        items = self.selectedItems()
        if items:
            self._edit(items[0])

    def _edit(self, item: QTreeWidgetItem, column: int = NAME) -> None:
        if item.flags() & Qt.ItemFlag.ItemIsEditable:
            self.editItem(item, NAME)

    def _selection_changed(self) -> None:
        if not self._filling:
            self.chosen.emit(self.chosen_rows())

    def _changed(self, item: QTreeWidgetItem, column: int) -> None:
        if not self._filling and column == NAME:
            self.renamed.emit(self.indexOfTopLevelItem(item), item.text(NAME))

"""The one piece of work that a panel has in hand: begun, told of, cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget

from cryoaae.runs.progress import Progress
from napari_cryoaae.jobs import Job


class JobBar(QWidget):
    """A progress bar with a button that cancels, there while something runs.

    `said` is what a person should read; `changed` comes when work begins and when it has ended.
    """

    said = Signal(str)
    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.job: Job | None = None
        self.bar, self.cancel_button = QProgressBar(), QPushButton("Cancel")
        self.cancel_button.clicked.connect(self.cancel)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.bar, stretch=1)
        layout.addWidget(self.cancel_button)
        self.setVisible(False)

    def start(self, work: Callable[[Progress], Any], returned: Any, text: str) -> bool:
        """Do something in a thread, unless something runs; whether it was begun.

        `returned`, a bound method of a widget, is called with what the work returns.
        """
        if self.job is not None:
            return False  # a second click
        self.job = Job(work)
        signals = self.job.signals
        signals.told.connect(self._told)
        signals.returned.connect(returned)
        signals.stopped.connect(self._stopped)
        signals.failed.connect(self.said)
        signals.finished.connect(self._finished)
        self.bar.setRange(0, 0)
        self.setVisible(True)
        self.said.emit(text)
        self.changed.emit()
        self.job.start()
        return True

    def cancel(self) -> None:
        """Stop what runs at the next safe place."""
        if self.job is not None:
            self.job.cancel()

    def _told(self, task: str, share: float, facts: str) -> None:
        self.bar.setRange(0, 0 if share < 0 else 100)
        self.bar.setValue(max(0, round(100 * share)))
        self.said.emit(f"{task} {facts}".strip())

    def _stopped(self) -> None:
        self.said.emit("Stopped.")

    def _finished(self) -> None:
        self.job = None
        self.setVisible(False)
        self.changed.emit()

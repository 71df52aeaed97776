"""Work asked for faster than it can be done: only the latest request is carried out, and the panel never waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from cryoaae.runs.progress import Progress
from napari_cryoaae.jobs import Job


class LatestJob(QObject):
    """One thread at a time, and one request that waits for it: a newer one takes its place.

    What runs is not stopped, so that a drag shows volumes on its way, not only where it ends.
    `returned` and `failed` tell of every request that was carried out.
    """

    returned = Signal(object)
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._running: Job | None = None
        self._waiting: Callable[[Progress], Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return self._running is not None

    def ask(self, work: Callable[[Progress], Any]) -> None:
        """Carry out some work as soon as what runs has ended, unless something newer is asked for before."""
        if self._running is not None:
            self._waiting = work
            return
        job = self._running = Job(work)
        job.signals.returned.connect(self.returned)
        job.signals.failed.connect(self.failed)
        job.signals.finished.connect(self._ended)
        job.start()

    def cancel(self) -> None:
        """Forget what waits, and stop what runs, as far as it goes at once."""
        self._waiting = None
        if self._running is not None:
            self._running.cancel()

    def _ended(self) -> None:
        self._running = None
        work, self._waiting = self._waiting, None
        if work is not None:
            self.ask(work)

"""Work in a thread: the library's own progress object, told and cancelled from a panel."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

from qtpy.QtCore import QCoreApplication, QObject, Signal

from cryoaae.errors import CryoaaeError, InterruptedRunError
from cryoaae.runs.progress import NullProgress, Progress, duration

log = logging.getLogger("cryoaae")

# More often than this a progress bar need not move.
TELL_EVERY_SECONDS = 0.05
# Before, the pace is not known.
SETTLED_SECONDS = 3.0


class _Signals(QObject):
    """What the thread says; Qt delivers it in the panel's own thread, if the panel is still there.

    It keeps its job until its last word was heard and the thread has ended: an object of Qt whose last
    owner is another thread dies there, under the hands of the one that still reads its messages.
    """

    told = Signal(str, float, str)
    said = Signal(str)
    returned = Signal(object)
    stopped = Signal()
    failed = Signal(str)
    finished = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self.finished.connect(self._retire)

    def _retire(self) -> None:
        job, self.job = self.job, None
        if job is not None:
            job.join()
            Job.alive.discard(job)


class JobProgress(NullProgress):
    """The library's progress, told as signals: task, share done (-1 where not known), facts."""

    def __init__(self, signals: _Signals) -> None:
        super().__init__()
        self._signals = signals
        self._task, self._total = "", None
        self._done = self._last = self._started = 0.0

    def start(self, task: str, total: float | None, unit: str) -> None:
        self._task, self._total, self._done = task, total, 0.0
        self._last = self._started = time.monotonic()
        self._signals.told.emit(task, 0.0 if total else -1.0, "")

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        self._done += amount
        if time.monotonic() - self._last < TELL_EVERY_SECONDS:
            return
        self._last = time.monotonic()
        share = min(1.0, self._done / self._total) if self._total else -1.0
        self._signals.told.emit(self._task, share, ", ".join([*self._left(share), *map(_fact, facts.items())]))

    def _left(self, share: float) -> list[str]:
        """How long it will take from here, at the pace so far."""
        spent = time.monotonic() - self._started
        worth_saying = share > 0 and spent > SETTLED_SECONDS
        return [f"{duration(spent * (1 / share - 1))} left"] if worth_saying else []

    def message(self, text: str) -> None:
        self._signals.said.emit(text)

    def finish(self) -> None:
        if self._task:
            self._signals.told.emit(self._task, 1.0, "")


def _fact(item: tuple[str, Any]) -> str:
    """One fact that the library tells of its work, as text."""
    name, value = item
    if name == "voxels_per_second":
        return f"{value / 1e6:.2f} million voxels/s"
    return f"{name.replace('_', ' ')} {value}"


class Job:
    """One piece of work in a thread of its own.

    Connect bound methods of a widget to `signals`, then `start`: a widget that is gone by then is not
    called. Of `returned`, `stopped` and `failed` one is emitted, then `finished`. When the program ends,
    all work is asked to stop and waited for, so that it can remove what it left unfinished.

    Parameters
    ----------
    work : callable
        Called in the thread with the progress object, which it should ask whether to stop.
    """

    # What runs is kept here, whoever else forgets it.
    alive: ClassVar[set[Job]] = set()

    def __init__(self, work: Callable[[Progress], Any]) -> None:
        self.signals = _Signals()
        self.progress = JobProgress(self.signals)
        self._work = work
        self._thread = threading.Thread(target=self._run, name="cryoaae")

    def start(self) -> None:
        """Begin; once only."""
        Job.alive.add(self)
        self.signals.job = self
        _cancel_at_the_end()
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop at the next safe place; what it returns after all is dropped."""
        self.progress.cancel()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._end(self.signals.returned, self._work(self.progress))
        except InterruptedRunError:
            self._end(self.signals.stopped)
        except Exception as error:  # noqa: BLE001 (a thread has nobody above it)
            self._end(self.signals.failed, sentence(error))

    def _end(self, signal: Any, *what: Any) -> None:
        with suppress(RuntimeError):  # the program has ended, and Qt with it
            if self.progress.cancelled():
                self.signals.stopped.emit()
            else:
                signal.emit(*what)
            self.signals.finished.emit()


class Jobs(QObject):
    """A panel's work, one piece of a kind at a time: a new one takes the place of the one before."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.running: dict[str, Job] = {}

    def start(self, kind: str, work: Callable[[Progress], Any], *, returned: Any, failed: Any) -> Job:
        """Do some work; `returned` and `failed` are bound methods of a widget, or signals."""
        if kind in self.running:
            self.running[kind].cancel()
        job = self.running[kind] = Job(work)
        job.signals.returned.connect(returned)
        job.signals.failed.connect(failed)
        job.signals.finished.connect(self._ended)
        job.start()
        return job

    def cancel(self) -> None:
        """Stop all of it, as far as it goes at once."""
        for job in self.running.values():
            job.cancel()
        self.running = {}

    def _ended(self) -> None:
        self.running = {kind: job for kind, job in self.running.items() if job in Job.alive}


@cache
def _cancel_at_the_end() -> None:
    QCoreApplication.instance().aboutToQuit.connect(cancel_all)


def cancel_all() -> None:
    """Ask all work to stop."""
    for job in list(Job.alive):
        job.cancel()


def sentence(error: BaseException) -> str:
    """What went wrong, for a person; a traceback goes to the log where it is a bug of ours."""
    if isinstance(error, CryoaaeError):
        return str(error)
    if isinstance(error, ImportError):
        missing = error.name or str(error)
        return f"{missing} cannot be loaded; install it with: pip install 'cryoaae[gui]'"
    if isinstance(error, MemoryError):
        return "not enough memory; close other programs, or work on a part of the tomogram"
    if isinstance(error, OSError):
        return str(error)
    log.error("in a panel", exc_info=error)
    return f"A bug of ours: {type(error).__name__}: {error}"

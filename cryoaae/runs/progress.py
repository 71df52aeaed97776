"""Progress and cancelling: one object that the command line and the plugin share."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO

from cryoaae.errors import InterruptedRunError

LINE_EVERY_SECONDS = 15.0


class Progress(Protocol):
    """What long work tells its caller, and asks of it."""

    def start(self, task: str, total: float | None, unit: str) -> None:
        """Begin a task of `total` units; None when the amount is not known."""

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        """Say that more is done, with facts worth showing (loss, voxels per second)."""

    def message(self, text: str) -> None:
        """Say one thing, once."""

    def finish(self) -> None:
        """End the present task."""

    def cancelled(self) -> bool:
        """Whether the caller wants the work to stop."""
        ...

    def check(self) -> None:
        """Raise InterruptedRunError when the caller wants the work to stop."""


class NullProgress:
    """Says nothing; `cancel` stops the work."""

    def __init__(self) -> None:
        self._cancelled: int | None = None

    def start(self, task: str, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float = 1.0, **facts: Any) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self) -> None: ...

    def cancel(self, signal_number: int = 2) -> None:
        """Ask the work to stop at the next safe place."""
        self._cancelled = signal_number

    def cancelled(self) -> bool:
        return self._cancelled is not None

    def check(self) -> None:
        if self._cancelled is not None:
            raise InterruptedRunError("stopped on request", self._cancelled)


class ConsoleProgress(NullProgress):
    """A bar with the time left on a terminal, plain lines elsewhere.

    Parameters
    ----------
    stream : text stream, optional
        Default: standard error.
    quiet : bool
        Show nothing.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        super().__init__()
        self.stream = sys.stderr if stream is None else stream
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._name, self._unit = "", ""
        self._total: float | None = None
        self._done = self._started = self._last_line = 0.0

    def _on_terminal(self) -> bool:
        return self.stream.isatty()

    def start(self, task: str, total: float | None, unit: str) -> None:
        self.finish()
        self._name, self._total, self._unit = task, total, unit
        self._done, self._started = 0.0, time.monotonic()
        self._last_line = self._started
        if self.quiet:
            return
        if not self._on_terminal():
            self._line(f"{task} ...")
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[facts]}"),
            console=Console(file=self.stream),
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task(task, total=total, facts="")

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        self._done += amount
        if self.quiet:
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in facts.items())
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, facts=text)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._line(f"{self._name}: {self._state()}  {text}".rstrip())

    def _state(self) -> str:
        elapsed = time.monotonic() - self._started
        if not self._total or self._done <= 0:
            return f"{elapsed:.0f} s"
        left = elapsed * (self._total / self._done - 1)
        return f"{100 * min(1.0, self._done / self._total):.0f} %, {elapsed:.0f} s, {max(left, 0):.0f} s left"

    def message(self, text: str) -> None:
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """How long a plan takes, in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"

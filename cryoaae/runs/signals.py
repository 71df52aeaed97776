"""Signals: the first asks for a safe stop, the second stops now."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(cancel: Callable[[int], None]) -> Iterator[None]:
    """Call `cancel(number)` on the first SIGINT, SIGTERM or SIGUSR1 (a cluster's time limit).

    A second signal gets the default treatment, so nobody has to wait for a hanging disk.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {}

    def handle(number: int, _frame: FrameType | None) -> None:
        cancel(signal.SIGTERM if number == signal.SIGUSR1 else number)
        for other in numbers:
            signal.signal(other, signal.SIG_DFL)

    try:
        for number in numbers:
            before[number] = signal.signal(number, handle)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

"""What a panel has tied to a viewer, and how it is let go of when either goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Bonds:
    """Callbacks on a viewer's events, tied until a panel is gone.

    Parameters
    ----------
    panel : QWidget
    """

    def __init__(self, panel: Any) -> None:
        # A bound method would be held weakly, and its object be gone before the signal comes.
        panel.destroyed.connect(lambda *_: self.close())
        self._tied: list[tuple[Any, Callable[..., None]]] = []
        self._last: list[Callable[[], None]] = []

    def tie(self, emitter: Any, callback: Callable[..., None]) -> None:
        """Call back at an event, until `close` or `untie`."""
        emitter.connect(callback)
        self._tied.append((emitter, callback))

    def untie(self, emitter: Any) -> None:
        """Let go of one emitter, as of a layer that was removed."""
        for mine, callback in [pair for pair in self._tied if pair[0] is emitter]:
            mine.disconnect(callback)
            self._tied.remove((mine, callback))

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call once when the panel goes: to cancel what runs."""
        self._last.append(callback)

    def close(self) -> None:
        """Let go of everything."""
        for emitter, callback in self._tied:
            with suppress(RuntimeError, ValueError, KeyError):  # went before us
                emitter.disconnect(callback)
        for callback in self._last:
            callback()
        self._tied, self._last = [], []

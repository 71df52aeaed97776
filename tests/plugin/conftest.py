"""For the plugin's tests: files to open, a Qt application, a viewer; what is not there is skipped, visibly."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before Qt is loaded: without a display widgets can still be made, but no viewer can be shown.
DISPLAY = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
if not DISPLAY:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
# The user's own settings of the viewer are neither read nor written.
os.environ.setdefault("NAPARI_CONFIG", "")


@cache
def missing() -> str:
    """Why no widget can be made here; empty where one can."""
    try:
        import napari  # noqa: F401
        import pyqtgraph  # noqa: F401
        from qtpy import QtWidgets  # noqa: F401
    except ImportError as error:
        return f"the extra gui or a library that Qt needs is not installed ({error})"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("gui"):
            # Warnings of Qt's and the viewer's own making say nothing of ours.
            for rule in ("default", "ignore::DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(rule))
            shows = "viewer" in getattr(item, "fixturenames", ())
            reason = missing() or ("" if DISPLAY or not shows else "no display (try xvfb-run)")
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Restored:
    """A tiny tomogram with what was made of it: halves, run folder, restoration."""

    even: Path
    odd: Path
    run: Path
    output: Path


@pytest.fixture(scope="session")
def restored(tiny: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Restored:
    """A fit of three steps on the tiny tomogram, and what it restores."""
    from cryoaae.config import load_fit_config
    from cryoaae.restoration.fit import fit
    from cryoaae.restoration.restore import restore

    folder = tmp_path_factory.mktemp("plugin")
    even, odd = tiny / "t_EVN.mrc", tiny / "t_ODD.mrc"
    settings = load_fit_config(overrides=tiny_settings[1::2], steps=3)
    run = fit([], folder / "run", even=even, odd=odd, tilts=tiny / "t.tlt", settings=settings, device="cpu")
    restore(output=folder / "t_restored.mrc", even=even, odd=odd, model=run, halves=True, device="cpu")
    return Restored(even, odd, run, folder / "t_restored.mrc")


@pytest.fixture
def qt_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Qt application. An error in a callback, which Qt swallows, fails the test."""
    from qtpy.QtWidgets import QApplication

    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    yield QApplication.instance() or QApplication([])
    assert not errors, errors


@pytest.fixture
def wait_until(qt_app: Any) -> Callable[..., None]:
    """Let Qt work until something is true."""
    from qtpy.QtTest import QTest

    def wait(true: Callable[[], Any], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "waited in vain"
            QTest.qWait(20)

    return wait


@pytest.fixture
def shown(qt_app: Any) -> Iterator[Callable[[Any], Any]]:
    """Show a widget, and take it down here: collected later, in another thread, it would crash Qt."""
    from qtpy.QtCore import QEvent
    from qtpy.QtTest import QTest

    widgets: list[Any] = []

    def show(widget: Any) -> Any:
        widgets.append(weakref.ref(widget))  # the test owns it
        widget.resize(700, 800)
        widget.show()
        return widget

    yield show
    _end_work()
    QTest.qWait(20)
    for widget in (held() for held in widgets):
        with suppress(RuntimeError, AttributeError):  # gone already
            widget.deleteLater()
    qt_app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()


def _end_work() -> None:
    """Stop what panels left running."""
    from qtpy.QtTest import QTest

    from napari_cryoaae.jobs import Job, cancel_all

    cancel_all()
    for job in list(Job.alive):
        job.join(30)
    QTest.qWait(20)
    assert not Job.alive


@pytest.fixture
def viewer(qt_app: Any) -> Iterator[Any]:
    """A napari viewer on the screen, closed afterwards; no work of a panel may outlive it."""
    from napari import Viewer
    from napari.settings import get_settings
    from qtpy.QtTest import QTest

    get_settings().application.confirm_close_window = False
    window = Viewer(show=True)
    yield window
    if hasattr(window.window, "_qt_window"):  # not closed by the test itself
        window.close()
    QTest.qWait(50)
    _end_work()
    gc.collect()

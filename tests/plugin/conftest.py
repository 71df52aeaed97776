"""For the plugin's tests: files to open, a Qt application, a viewer; what is not there is skipped, visibly."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mrcfile
import numpy as np
import pytest

# Before Qt is loaded: without a display widgets can still be made, but no viewer can be shown.
DISPLAY = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
if not DISPLAY:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
# The user's own settings of the viewer are neither read nor written.
os.environ.setdefault("NAPARI_CONFIG", "")
# Of work that was cancelled: on a busy machine torch alone takes longer than a minute to load.
LONGEST_END_SECONDS = 120.0


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
    settings = load_fit_config(overrides=[*tiny_settings[1::2], "presence=false"], steps=3)
    run = fit([], folder / "run", even=even, odd=odd, tilts=tiny / "t.tlt", settings=settings, device="cpu")
    restore(output=folder / "t_restored.mrc", even=even, odd=odd, model=run, halves=True, device="cpu")
    return Restored(even, odd, run, folder / "t_restored.mrc")


@dataclass(frozen=True)
class Sampled:
    """The same with two draws in a folder, and a spread beside its restoration."""

    run: Path
    output: Path
    tilts: Path
    draws: Path
    beside: Path


@pytest.fixture(scope="session")
def sampled(restored: Restored, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """A copy of the run with what `sample` and `restore --uncertainty` make with it."""
    import shutil

    from cryoaae.reports import sampling_figures, sampling_page
    from cryoaae.restoration.posterior import sample
    from cryoaae.restoration.restore import restore

    folder = tmp_path_factory.mktemp("sampled")
    run, output = folder / "run", folder / "t_restored.mrc"
    shutil.copytree(restored.run, run)
    inputs = {"even": restored.even, "odd": restored.odd, "model": run}
    quick = {"calibrate": False, "symmetries": False, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:  # its figures take longer than all else
        patch.setattr(sampling_figures, "sampling_figures", lambda *_: {})
        patch.setattr(sampling_page, "sampling_report", lambda *_: SimpleNamespace(render=str))
        sample(output=folder / "draws", draws=2, modes=1, **quick, **inputs)
    restore(output=output, uncertainty=2, **quick, **inputs)
    return Sampled(run, output, tiny / "t.tlt", folder / "draws", folder / "t_restored_std.mrc")


@dataclass(frozen=True)
class Clustered:
    """Two tomograms of balls and rods, the list of their particles, a store of them and a clustering."""

    tomograms: tuple[Path, Path]
    particles: Path
    store: Path
    run: Path


@pytest.fixture(scope="session")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Clustered:
    """A clustering of a few steps; of two particles of the list the box reaches out, so they are in no store."""
    import cryoaae
    from cryoaae.errors import InputError
    from cryoaae.subtomograms.settings import ClusterSettings

    folder = tmp_path_factory.mktemp("clustered")
    tomograms = (folder / "TS_1.mrc", folder / "TS_2.mrc")
    rows = [row for seed, path in enumerate(tomograms) for row in _balls_and_rods(path, seed)]
    labels = [f"rlnCoordinate{axis}" for axis in "XYZ"] + [f"rlnAngle{angle}" for angle in ("Rot", "Tilt", "Psi")]
    labels += ["rlnTomoName", "rlnOpticsGroup", "rlnClassName", "myColumn"]
    head = "".join(f"_{label} #{i + 1}\n" for i, label in enumerate(labels))
    optics = "# version 50001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 5.000000\n\n"
    listed = folder / "particles.star"
    # Rows of both tomograms in turn, so that the order of the store is another.
    listed.write_text(f"{optics}data_particles\n\nloop_\n{head}" + "\n".join([*rows[::2], *rows[1::2]]) + "\n")
    store = folder / "store.h5"
    cryoaae.extract(list(tomograms), store, particles=listed, box=12, tilt_range=(-60.0, 60.0))
    small = {"working_box": 12, "widths": (4, 8), "units": 16, "classes": 4, "style_dim": 3, "batch_size": 8}
    for seed in range(8):  # so short a fit may leave a cluster, or all classes but one, empty
        settings = ClusterSettings(**small, warm_up_steps=2, evaluations=1, steps=24, seed=seed)
        try:
            run = cryoaae.cluster(
                store, folder / f"run_{seed}", by="autoencoder", clusters=2, settings=settings, device="cpu"
            )
        except InputError:
            continue
        if min(json.loads((run / "clusters.json").read_text())["sizes"]) > 3:
            return Clustered(tomograms, listed, store, run)
    raise AssertionError("no seed gave two clusters")


@pytest.fixture(scope="session")
def aligned(clustered: Clustered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same particles clustered by alignment alone, as `cryoaae cluster` does by itself."""
    import cryoaae
    from cryoaae.subtomograms.settings import ClusterSettings

    coarse: Any = {
        "coarse_iterations": 2, "fine_iterations": 1, "final_iterations": 1, "coarse_step_deg": 45.0,
        "fine_step_deg": 30.0,
    }  # fmt: skip
    run = tmp_path_factory.mktemp("aligned") / "run"
    settings = ClusterSettings(alignment=coarse)
    return cryoaae.cluster(clustered.store, run, clusters=2, settings=settings, device="cpu")


def _balls_and_rods(path: Path, seed: int, count: int = 15) -> list[str]:
    """Write a tomogram of blobs in noise, voxels of 10 A; rows of a list whose coordinates count half voxels."""
    rng = np.random.default_rng(seed)
    shape = (30, 60 + 4 * seed, 64)
    volume = rng.normal(scale=0.3, size=shape)
    places = [(6, 9 + 11 * y, 9 + 11 * x) for y in range(5) for x in range(5)]
    places = [places[i] for i in rng.permutation(len(places))[: count - 1]] + [(1, 1, 1)]  # the last one at the border
    rows = []
    for number, place in enumerate(places):
        place = np.array(place) + (number % 2) * np.array([12, 0, 0]) * (place[0] > 1)
        grid = np.stack(np.indices(shape), axis=-1) - place
        length = 1.0 if number % 3 else 3.0
        volume += 2 * np.exp(-(grid**2 / np.array([4.0 * length, 4.0, 4.0])).sum(axis=-1))
        x, y, z = 2.0 * place[::-1]
        angles = " ".join(f"{angle:.3f}" for angle in rng.uniform(0, 180, 3))
        kind = "ball" if number % 3 else "rod"
        rows.append(f"{x:.6f} {y:.6f} {z:.6f} {angles} {path.stem} 1 {kind} kept{seed}_{number}")
    with mrcfile.new(path, volume.astype(np.float32)) as file:
        file.voxel_size = 10.0
    return rows


@pytest.fixture
def qt_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Qt application. An error in a callback, which Qt swallows, fails the test."""
    from qtpy.QtWidgets import QApplication

    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    yield QApplication.instance() or QApplication([])
    assert not errors, errors


@pytest.fixture
def model(qt_app: Any) -> Any:
    """What a napari viewer is, less its window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def add() -> Callable[..., list[Any]]:
    """Open files as a viewer does that they are dropped on; the layers."""
    from napari_cryoaae.readers import get_reader

    def open_all(model: Any, *paths: Path) -> list[Any]:
        found: list[Any] = []
        for path in paths:
            reader: Any = get_reader(str(path))
            found += [getattr(model, f"add_{kind}")(data, **look) for data, look, kind in reader(str(path))]
        return found

    return open_all


# Of the volumes that are made up, and the tilts that they state.
SHAPE, RANGE_DEG = (12, 14, 16), (-50.0, 60.0)


@pytest.fixture
def add_volumes() -> Callable[..., None]:
    """Add halves and a restoration of noise, or other roles, that state their tilts; draws, as many as asked for."""
    from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge

    stated = StatedWedge(RANGE_DEG)

    def add_all(model: Any, *roles: Role, draws: int = 0, wedge: StatedWedge | None = stated) -> None:
        rng = np.random.default_rng(0)
        kinds = [(role, None) for role in roles or (Role.EVEN, Role.ODD, Role.RESTORED)]
        for role, draw in [*kinds, *((Role.DRAW, number) for number in range(1, draws + 1))]:
            noise = rng.normal(size=SHAPE).astype(np.float32)
            spread = role is Role.STD
            known = LayerFacts(role, "t", voxel_size_angstrom=10.0, wedge=wedge, draw=draw)
            model.add_image(
                np.abs(noise) if spread else 50 + noise, name=str(role) if draw is None else f"{role} {draw}",
                contrast_limits=(0, 2) if spread else (45, 55), scale=(10.0,) * 3, units=("angstrom",) * 3,
                metadata={KEY: known},
            )  # fmt: skip

    return add_all


@dataclass(frozen=True)
class Held:
    """A restoration that waits once it has begun, until it may go on."""

    started: threading.Event
    go: threading.Event


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """The library's restoring, made to wait."""
    import cryoaae.restoration.restore as library

    found, real = Held(threading.Event(), threading.Event()), library.restore_volumes

    def waiting(*arguments: Any, **keywords: Any) -> Any:
        found.started.set()
        found.go.wait(30)
        return real(*arguments, **keywords)

    monkeypatch.setattr(library, "restore_volumes", waiting)
    return found


@pytest.fixture
def tomogram_panel(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a Tomogram panel of a viewer's model."""
    from napari_cryoaae.tomogram_panel import TomogramPanel

    return lambda model: shown(TomogramPanel(model))


@pytest.fixture
def restore_panel(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a Restore panel of a viewer's model."""
    from napari_cryoaae.restore_panel import RestorePanel

    return lambda model: shown(RestorePanel(model))


@pytest.fixture
def wait_until(qt_app: Any) -> Callable[..., None]:
    """Let Qt work until something is true."""
    from qtpy.QtTest import QTest

    def wait(true: Callable[[], Any], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "waited in vain"
            QTest.qWait(1)
            time.sleep(0.01)  # QTest keeps Python's lock while it waits, and the work in other threads waits too

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
    """Stop what panels left running, and what they begin with the last of its results."""
    from qtpy.QtTest import QTest

    from napari_cryoaae.jobs import Job, cancel_all

    end = time.monotonic() + LONGEST_END_SECONDS
    while Job.alive and time.monotonic() < end:
        cancel_all()
        for job in list(Job.alive):
            job.join(1)
        QTest.qWait(5)
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

"""How long the napari plugin lets a user wait: opening, stepping, choosing among 50,000 particles, decoding.

Needs a display; without one: xvfb-run -a -s "-screen 0 1600x1000x24" .venv/bin/python scripts/benchmark_napari.py

Makes a tomogram of 300 x 928 x 960 voxels (float16) and a map of 50,000 particles in a temporary folder, opens them in
a window of 1500 x 900 and drives it as a user would. Every time ends when the window has drawn: the picture is read
back, which is counted in. A row is appended to docs/benchmarks/napari.json, docs/benchmarks/napari.md is made from all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_rows import append, read_rows
from numpy.typing import NDArray

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import create_volume

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "napari.json"
PAGE = ROWS.with_suffix(".md")
SAMPLE = Path(__file__).parents[1] / "plugins" / "napari" / "napari_cryoaae" / "sample"
SIZE = (1500, 900)
SHAPE = (300, 928, 960)
PARTICLES, CLASSES, TOMOGRAM = 50_000, 8, "TS_01"
LARGE_BOX = 32
STEPS, LONGEST_WAIT_SECONDS = 9, 300.0
# What is measured, in words, and the most it should take, in seconds; None: no limit was set.
LIMITS: dict[str, tuple[str, float | None]] = {
    "open": ("opening 300 x 928 x 960 voxels (float16)", 2.0),
    "open_again": ("opening it once more", 2.0),
    "z_step": ("a step along z", 0.1),
    "panel_step": ("the same with the Tomogram panel", None),
    "oblique": ("another angle of the oblique plane", None),
    "click": ("a click among 50,000 particles", 0.2),
    "lasso": ("a lasso around a third of them", 0.2),
    "frame": ("the next of the tomogram's draws", None),
    "decode": ("decoding a structure", 0.2),
    "decode_32": ("decoding one of 32 voxels an edge, as `cryoaae cluster` makes its model", 0.2),
}


class Clock:
    """Seconds that passed, and seconds of the processor that this program took: others may want it, too."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.times: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure what is done until the window has drawn it."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.viewer.screenshot(canvas_only=True, flash=False)
        self.times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "seconds": round(statistics.median(wall for wall, _ in pairs), 4),
                "cpu_seconds": round(statistics.median(cpu for _, cpu in pairs), 4),
                "times": len(pairs),
            }
            for name, pairs in self.times.items()
        }


def wait(what: str, true: Callable[[], Any]) -> None:
    """Let the window work until something is true."""
    from qtpy.QtTest import QTest

    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        QTest.qWait(1)
        time.sleep(0.002)  # QTest keeps Python's lock while it waits, and the work in other threads waits too


def make_tomogram(path: Path) -> Path:
    """Noise with some structure in it, plane by plane."""
    rng = np.random.default_rng(0)
    rows, columns = (np.arange(n) for n in SHAPE[1:])
    with create_volume(path, SHAPE, voxel_size_angstrom=10.0, dtype="float16") as out:
        pattern = np.sin(rows[:, None] / 20) * np.sin(columns / 15)
        for z in range(len(out)):
            out[z] = rng.standard_normal(SHAPE[1:], dtype=np.float32) + pattern
    return path


def make_map(folder: Path) -> Path:
    """Codes of particles as `cryoaae cluster` writes them: a cloud a class, positions in one tomogram."""
    import pandas as pd
    import starfile

    rng = np.random.default_rng(1)
    cluster = rng.integers(0, CLASSES, PARTICLES)
    centres = 4 * rng.normal(size=(CLASSES, 8))
    style = (centres[cluster] + rng.normal(size=(PARTICLES, 8))).astype(np.float32)
    codes: dict[str, NDArray[Any]] = {
        "store": np.full(PARTICLES, "p.h5"), "index": np.arange(PARTICLES), "row": np.arange(PARTICLES),
        "features": style, "style": style, "plane": style[:, :2], "cluster": cluster,
        "class_probabilities": np.eye(CLASSES, dtype=np.float32)[cluster],
        "outlier_score": rng.random(PARTICLES).astype(np.float32),
    }  # fmt: skip
    places = rng.uniform(0, 1, (PARTICLES, 3)) * np.array(SHAPE[::-1])
    table: dict[str, Any] = {f"rlnCoordinate{axis}": places[:, i] for i, axis in enumerate("XYZ")}
    table |= {"rlnTomoName": TOMOGRAM, "rlnImagePixelSize": 10.0}
    (folder / "particles").mkdir(parents=True)
    starfile.write({"particles": pd.DataFrame(table)}, folder / "particles" / "p.star")
    np.savez(folder / "codes.npz", **codes)
    write_text(folder / "run.json", json.dumps({"command": "cluster", "state": "done", "inputs": []}))
    write_text(folder / "clusters.json", json.dumps({"names": [str(k + 1) for k in range(CLASSES)]}))
    return folder


def make_draws(folder: Path, tomogram: Path) -> Path:
    """What `cryoaae sample` leaves, with the tomogram itself as every volume."""
    names = [*(f"draw_{number:03d}.mrc" for number in range(1, 3)), "std.mrc"]
    folder.mkdir()
    for name in names:
        (folder / name).hardlink_to(tomogram)
    wedge = {"tilt_range_deg": [-60.0, 60.0], "tilts_deg": None, "tilt_axis_deg": 0.0, "flipped": False}
    report = {
        "format": "cryoaae sample 1", "name": TOMOGRAM, "draws": 2, "outputs": names,
        "made_from": {"model": "", "wedge": wedge},
    }  # fmt: skip
    write_text(folder / "report.json", json.dumps(report))
    return folder


def time_tomogram(clock: Clock, path: Path) -> None:
    viewer = clock.viewer
    with clock.measure("open"):
        viewer.open(str(path), plugin="cryoaae")
    viewer.layers.clear()
    with clock.measure("open_again"):
        viewer.open(str(path), plugin="cryoaae")
    middle = SHAPE[0] // 2
    for z in range(middle, middle + STEPS):
        with clock.measure("z_step"):
            viewer.dims.set_current_step(0, z)
    panel = viewer.window.add_plugin_dock_widget("cryoaae", "Tomogram", tabify=True)[1]
    viewer.window.resize(*SIZE)

    def drawn(plane: str, before: Any) -> bool:
        return bool(panel.views.columns) and panel.views.columns[0][plane].drawn not in (None, before)

    wait("the panel", lambda: drawn("xy", None))
    for z in range(middle - 1, middle - 1 - STEPS, -1):  # the panel begins in the middle
        before = panel.views.columns[0]["xy"].drawn
        with clock.measure("panel_step"):
            viewer.dims.set_current_step(0, z)
            wait("the next slab", lambda before=before: drawn("xy", before))
    panel.oblique.on.click()
    wait("the plane", lambda: "oblique" in panel.views.columns[0] and drawn("oblique", None))
    for tilt in range(35, 35 + STEPS):
        before = panel.views.columns[0]["oblique"].drawn
        with clock.measure("oblique"):
            panel.oblique.tilt.setValue(tilt)
            wait("the next plane", lambda before=before: drawn("oblique", before))
    panel.oblique.on.click()


def time_latent(clock: Clock, folder: Path) -> None:
    from qtpy.QtCore import Qt

    viewer = clock.viewer
    panel = viewer.window.add_plugin_dock_widget("cryoaae", "Latent", tabify=True)[1]
    viewer.window.resize(*SIZE)
    panel.open(folder)
    wait("the map", lambda: panel.latent is not None and not panel.scatter._timer.isActive())
    plane, none = panel.scatter.xy, Qt.KeyboardModifier.NoModifier
    low, high = plane.min(axis=0), plane.max(axis=0)
    for particle in range(STEPS):
        with clock.measure("click"):
            panel.scatter.box.clicked.emit(tuple(plane[particle]), none)
            wait("the points", lambda: not panel.scatter._timer.isActive())
    for k in range(STEPS):
        right = low[0] + (high[0] - low[0]) * (0.4 + 0.02 * k)
        corners = np.array([[low[0], low[1]], [right, low[1]], [right, high[1]], [low[0], high[1]]])
        with clock.measure("lasso"):
            panel.scatter.box.lassoed.emit(corners, none)
            wait("the points", lambda: not panel.scatter._timer.isActive())


def time_frames(clock: Clock, folder: Path) -> None:
    """Play the draws: what is not in view is not read."""
    viewer = clock.viewer
    panel = viewer.window.add_plugin_dock_widget("cryoaae", "Variability", tabify=True)[1]
    viewer.window.resize(*SIZE)
    panel.open_draws(folder)
    panel.draws.bar.show_frame(0)
    viewer.screenshot(canvas_only=True, flash=False)
    for number in range(STEPS):
        with clock.measure("frame"):
            panel.draws.bar.show_frame((number + 1) % 2)


def time_decoding(clock: Clock, run: Path) -> int:
    """Decode with a model of `cryoaae cluster`, and with one as it is before its fit; return the edge of the first."""
    from cryoaae.draws import Draws
    from cryoaae.runs.progress import NullProgress
    from cryoaae.subtomograms.model_files import FittedModel, build_model
    from cryoaae.subtomograms.settings import ClusterSettings
    from napari_cryoaae.latent_decoding import StructureModel

    model = StructureModel.load(run, NullProgress())
    settings, standard = ClusterSettings(working_box=LARGE_BOX), replace(model.fitted.standard, working_box=LARGE_BOX)
    large = FittedModel(build_model(settings, standard, Draws.seeded(0)).eval(), standard, settings)
    for name, decoder in (("decode", model.fitted), ("decode_32", large)):
        _time_decoder(clock, name, decoder)
    return model.box


def _time_decoder(clock: Clock, name: str, decoder: Any) -> None:
    import torch

    from cryoaae.subtomograms.generate import decode_volumes

    generator = torch.Generator().manual_seed(0)
    for number in range(STEPS + 1):
        classes = torch.eye(decoder.settings.classes)[:1]
        style = torch.randn(1, decoder.settings.style_dim, generator=generator)
        wall, cpu = time.perf_counter(), time.process_time()
        decode_volumes(decoder, classes, style)
        if number:  # the first pass of a process is slower
            clock.times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))


def measure(folder: Path, run: Path) -> dict[str, Any]:
    """One row: open a window and measure everything in it."""
    import napari
    from napari.settings import get_settings

    get_settings().application.confirm_close_window = False
    tomogram, latent = make_tomogram(folder / f"{TOMOGRAM}.mrc"), make_map(folder / "clusters")
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.screenshot(canvas_only=True, flash=False)  # the window itself, drawn once
    clock = Clock(viewer)
    time_tomogram(clock, tomogram)
    time_frames(clock, make_draws(folder / "draws", tomogram))
    time_latent(clock, latent)
    box = time_decoding(clock, run)
    viewer.close()
    return {
        "times": clock.medians(),
        "box": box,
        "load": round(os.getloadavg()[0], 1),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "software_rendering": os.environ.get("LIBGL_ALWAYS_SOFTWARE", "0") == "1",
        "python": platform.python_version(),
        "napari": metadata.version("napari"),
        "date": time.strftime("%F"),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The page as Markdown, from committed rows alone."""
    lines = [
        "# How long the napari plugin lets a user wait",
        "",
        "Made by `scripts/benchmark_napari.py` from `napari.json`: medians until the window, 1500 x 900, has drawn. In "
        "brackets the seconds of the processor that the program itself took; where they are fewer, others had it.",
        "",
        "| | limit | " + " | ".join(row["date"] for row in rows) + " |",
        "|---|---|" + "---|" * len(rows),
    ]
    for name, (words, limit) in LIMITS.items():
        times = [row["times"].get(name) for row in rows]
        cells = ["–" if t is None else f"{spoken(t['seconds'])} ({spoken(t['cpu_seconds'])})" for t in times]
        lines.append(f"| {words} | {'–' if limit is None else spoken(limit)} | {' | '.join(cells)} |")
    facts = {
        "box of the structures": "box", "cores": "cores", "programs waiting for them": "load", "napari": "napari",
        "rendering": "software_rendering",
    }  # fmt: skip
    for words, key in facts.items():
        values = ("software" if value is True else "by the card" if value is False else str(value) for value in
                  (row[key] for row in rows))  # fmt: skip
        lines.append(f"| {words} | | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def spoken(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=SAMPLE / "clusters", help="of `cryoaae cluster`, to decode with")
    parser.add_argument("--page", action="store_true", help="only make the page again")
    options = parser.parse_args()
    if not options.page:
        with tempfile.TemporaryDirectory() as name:
            row = measure(Path(name), options.run)
        append(ROWS, row)
    write_text(PAGE, page(read_rows(ROWS)))


if __name__ == "__main__":
    main()

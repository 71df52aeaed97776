"""Does a restoration make a microtubule rounder? Single volume, real data, no truth.

    benchmark_microtubule.py TOMOGRAM.mrc --tilt-range LO HI [--minutes 8] [--start spectrum] [--seed 0] [--run RUN]

The microtubule lies near the xy plane. Its xz sections are shifted onto its axis and averaged; the
wall's radius is found along rays from the centre and an ellipse fitted to it. A missing wedge
stretches the ring along z, so the ratio of its axes (along z over across) exceeds 1. Input,
clip-and-put-back, the restorer that comes along without a fit, and a restoration fitted by the `filament` preset
(--minutes 0: none) are measured in the same way; a row is appended to docs/benchmarks/microtubule.json and the sections
are drawn in docs/benchmarks/microtubule.png.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import append
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import least_squares

import cryoaae
from cryoaae.config import load_fit_config
from cryoaae.fitting.settings import STARTS
from cryoaae.io.atomic import write_bytes
from cryoaae.metrics.nulls import NULLS, NullInput
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.style import new_figure, png
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.provenance import versions

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "microtubule.json"
WALL_RADII = (7.0, 17.0)  # voxels of 10.5 A: where the wall of a 13-protofilament microtubule can lie
RAYS = 72
BLUR = 1.0  # voxels, on the averaged section, the same for all


def axis_line(volume: NDArray[np.float32]) -> tuple[float, float]:
    """Slope of the microtubule's axis, x over y, and its x at the middle row.

    The line along which the mean over z is most alike when sheared: largest variance of the sum.
    """
    projection = gaussian_filter(volume.mean(axis=0), 1.0)
    best = max(
        (float(np.var(straight(projection[None], slope, 0.0).mean(axis=(0, 1)))), slope)
        for slope in np.linspace(-0.6, 0.6, 121)
    )[1]
    profile = straight(projection[None], best, 0.0).mean(axis=(0, 1))
    width = 21
    # The centre of the tube is the dip between two walls: correlate with wall - lumen - wall.
    template = np.zeros(2 * width + 1)
    template[[width - 10, width - 9, width + 9, width + 10]] = 1
    template -= template.mean()
    score = np.correlate(profile - profile.mean(), template, mode="same")
    return best, float(np.argmax(score[width:-width]) + width)


def straight(volume: NDArray[np.float32], slope: float, offset: float) -> NDArray[np.float64]:
    """Shift each row (z, y, x) along x so that the line x = slope * (y - middle) becomes vertical."""
    nz, ny, nx = volume.shape
    z, y, x = np.indices((nz, ny, nx), dtype=float)
    return map_coordinates(volume, [z, y, x + slope * (y - (ny - 1) / 2) + offset], order=1, mode="nearest")


def section(
    volume: NDArray[np.float32], slope: float, centre_x: float, rows: slice, half: int = 22
) -> NDArray[np.float64]:
    """Average xz section (z, x) around the axis, x scaled to the plane perpendicular to it."""
    nz, ny, _ = volume.shape
    y = np.arange(ny)[rows]
    across = np.arange(-half, half + 1) / math.cos(math.atan(slope))
    centre = centre_x + slope * (y - (ny - 1) / 2)
    z, yy, _ = np.meshgrid(np.arange(nz), y, across, indexing="ij")
    x = centre[None, :, None] + across[None, None, :] + 0 * z
    return gaussian_filter(map_coordinates(volume, [z, yy, x], order=1, mode="nearest").mean(axis=1), BLUR)


def wall(image: NDArray[np.float64], centre_zx: tuple[float, float]) -> NDArray[np.float64]:
    """Wall positions (rays, 2) as (z, x): the centroid of the brightest stretch along each ray."""
    radii = np.arange(WALL_RADII[0], WALL_RADII[1] + 0.01, 0.25)
    points = []
    for angle in np.linspace(0, 2 * np.pi, RAYS, endpoint=False):
        z, x = centre_zx[0] + radii * np.sin(angle), centre_zx[1] + radii * np.cos(angle)
        inside = (z >= 0) & (z <= image.shape[0] - 1)
        profile = map_coordinates(image, [z, x], order=1, mode="nearest")
        profile = np.where(inside, profile - np.median(image), -np.inf)
        peak = int(np.argmax(profile))
        near = slice(max(0, peak - 8), peak + 9)
        weight = np.clip(np.where(np.isfinite(profile[near]), profile[near], 0), 0, None) ** 2
        r = float((radii[near] * weight).sum() / max(weight.sum(), 1e-12))
        points.append((centre_zx[0] + r * np.sin(angle), centre_zx[1] + r * np.cos(angle)))
    return np.array(points)


def ring(image: NDArray[np.float64]) -> dict[str, Any]:
    """Ellipse of the wall: half axes along z and x, their ratio, and the wall's contrast to the lumen."""
    start = np.array([(image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2, 12.0, 12.0])
    for _ in range(3):
        points = wall(image, (start[0], start[1]))

        def residual(p: NDArray[np.float64], points: NDArray[np.float64] = points) -> NDArray[np.float64]:
            return np.hypot((points[:, 0] - p[0]) / p[2], (points[:, 1] - p[1]) / p[3]) - 1

        start = least_squares(residual, start, loss="soft_l1", f_scale=0.1).x
    z, x = np.indices(image.shape)
    r = np.hypot((z - start[0]) / start[2], (x - start[1]) / start[3])
    background = float(image[(r > 1.5)].mean())
    lumen, on_wall = float(image[r < 0.45].mean()), float(image[np.abs(r - 1) < 0.12].mean())
    return {
        "half_axis_z": float(start[2]), "half_axis_x": float(start[3]), "ratio": float(start[2] / start[3]),
        "wall_over_lumen": (on_wall - lumen) / max(on_wall - background, 1e-9), "centre": start[:2].tolist(),
        "wall": on_wall, "lumen": lumen, "background": background,
    }  # fmt: skip


def draw(sections: dict[str, NDArray[np.float64]], rings: dict[str, dict[str, Any]]) -> bytes:
    """Sections side by side with the fitted ellipses."""
    figure = new_figure(3.4 * len(sections), 3.4)
    angle = np.linspace(0, 2 * np.pi, 200)
    for axes, (title, image) in zip(np.atleast_1d(figure.subplots(1, len(sections))), sections.items(), strict=True):
        low, high = np.percentile(image, [1, 99.5])
        axes.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=high)
        found = rings[title]
        (cz, cx), a, b = found["centre"], found["half_axis_z"], found["half_axis_x"]
        axes.plot(cx + b * np.cos(angle), cz + a * np.sin(angle), "--", color="tab:orange", linewidth=1)
        axes.set_title(f"{title}\naxis ratio {found['ratio']:.2f}", fontsize=10)
        axes.set_axis_off()
    return png(figure)


def fitted(path: Path, tilt_range: tuple[float, float], options: argparse.Namespace) -> Path:
    """Run folder of a fit by the `filament` preset."""
    run = Path("benchmark_runs") / f"microtubule_{options.start}_{options.seed}"
    overrides = [f"start={options.start}"]
    settings = load_fit_config(preset="filament", overrides=overrides, minutes=options.minutes, seed=options.seed)
    return cryoaae.fit(path, run, tilt_range=tilt_range, settings=settings, overwrite=True, progress=ConsoleProgress())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    path, tilt_range = options.tomogram, tuple(options.tilt_range)
    volume = cryoaae.open_volume(path)
    data, wedge = volume.numpy(), MissingWedge(tilt_range)
    at_once = Path("benchmark_runs") / "microtubule_at_once.mrc"
    at_once.parent.mkdir(exist_ok=True)
    cryoaae.restore(path, at_once, tilt_range=tilt_range, overwrite=True)
    started, restored = time.monotonic(), {"no fit": at_once}
    if options.run is not None or options.minutes > 0:
        run = options.run or fitted(path, tilt_range, options)
        restored["restored"] = run / "restored.mrc"
        cryoaae.restore(path, restored["restored"], model=run, symmetries=True, overwrite=True)
    seconds = time.monotonic() - started
    given = NullInput(torch.from_numpy(data), wedge)
    volumes = {
        "input": data,
        "clip + put back": NULLS["clip_input"].compute(given).numpy(),
        **{title: cryoaae.open_volume(made).numpy() for title, made in restored.items()},
    }
    slope, centre = axis_line(data)
    middle = (data.shape[1] - 1) / 2
    rows = slice(int(middle - 70), int(middle + 70))
    sections = {title: section(v, slope, centre, rows) for title, v in volumes.items()}
    rings = {title: ring(image) for title, image in sections.items()}
    write_bytes(ROWS.with_suffix(".png"), draw(sections, rings))
    excess = {title: found["ratio"] - 1 for title, found in rings.items()}
    return {
        "tilt_range_deg": tilt_range, "minutes": options.minutes, "start": options.start, "seed": options.seed,
        "seconds": round(seconds), "slope": slope, "centre_x": centre, "rings": rings, "excess": excess,
        "versions": versions(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tomogram", type=Path)
    parser.add_argument("--tilt-range", type=float, nargs=2, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--start", choices=STARTS, default="spectrum", help="where the fit starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    row = measure(options)
    append(ROWS, row)
    for title, found in row["rings"].items():
        print(f"{title}: axis ratio {found['ratio']:.3f}, wall over lumen {found['wall_over_lumen']:.2f}")


if __name__ == "__main__":
    main()

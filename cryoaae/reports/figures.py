"""Figures of volumes, spectra and curves, as matplotlib figures; `style.png` gives the bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.metrics.sectors import tapered
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.style import COLOURS, FAINT, INK, contrast_limits, new_figure, plain_axes, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = Sequence[tuple[str, NDArray[Any]]]
REGION_TITLES = {
    "all": "Whole spectrum",
    "seen": "Measured region",
    "missing": "Missing wedge",
}
WEAK = tuple(COLOURS[i] for i in (6, 0, 2, 3, 4, 7, 1))
# Panels of an image row, in inches.
PANEL = 2.9


def _slice(volume: NDArray[Any], plane: str) -> NDArray[Any]:
    """Central slice as rows x columns: xy, xz or zy."""
    z, y, x = (n // 2 for n in volume.shape)
    planes = {"xy": volume[z], "xz": volume[:, y], "zy": volume[:, :, x].T}
    return np.asarray(planes[plane], dtype=np.float32)


def show_slice(
    axes: Axes, image: NDArray[Any], voxel_size_angstrom: float, limits: tuple[float, float] | None = None
) -> None:
    """Draw one slice (rows, columns) in grey, origin lower left, with a scale bar."""
    low, high = limits or contrast_limits([image])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    rows, columns = image.shape
    scale_bar(axes, (rows, columns), voxel_size_angstrom)


def slices_figure(
    panels: Panels, voxel_size_angstrom: float, *, planes: Sequence[str] = ("xy", "xz")
) -> Figure:
    """Central slices of several volumes side by side, one row a plane.

    Parameters
    ----------
    panels : sequence of (title, (z, y, x) array)
        For instance before, after, truth; all of one shape.
    voxel_size_angstrom : float
        Edge of the voxel.
    planes : sequence of str
        "xy", "xz", "zy".

    Notes
    -----
    Every volume has its own grey levels (percentiles): units and noise differ between them.
    """
    images = {plane: [_slice(volume, plane) for _, volume in panels] for plane in planes}
    heights = [max(0.35, images[p][0].shape[0] / images[p][0].shape[1]) for p in planes]
    width = PANEL * len(panels)
    figure = new_figure(width + 0.4, PANEL * sum(heights) + 0.5)
    grid = figure.subplots(len(planes), len(panels), squeeze=False, height_ratios=heights)
    for row, plane in enumerate(planes):
        for column, (title, volume) in enumerate(panels):
            axes = grid[row][column]
            levels = contrast_limits([_slice(volume, p) for p in planes])
            show_slice(axes, images[plane][column], voxel_size_angstrom, levels)
            if row == 0:
                axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
            if column == 0:
                axes.set_ylabel(plane, fontsize=11, color=INK, fontweight="bold")
    return figure


def spectrum_image(volume: NDArray[Any], tilt_axis_deg: float = 0.0) -> NDArray[np.float64]:
    """Log power seen along the tilt axis, (size, size): rows kz, columns across, origin in the middle.

    Averages over coefficients within a tenth of a cycle per voxel along the axis. Both frequencies
    run over (-0.5, 0.5) cycles per voxel, whatever the shape of the box.
    """
    import torch

    faded = tapered(torch.as_tensor(np.asarray(volume, dtype=np.float32)), share=0.5).numpy()
    power = np.fft.fftshift(np.abs(np.fft.fftn(faded)) ** 2)
    kz, ky, kx = (np.fft.fftshift(np.fft.fftfreq(n)) for n in volume.shape)
    axis = math.radians(tilt_axis_deg)
    across = math.cos(axis) * kx[None, :] - math.sin(axis) * ky[:, None]
    along = math.sin(axis) * kx[None, :] + math.cos(axis) * ky[:, None]
    size = int(np.clip(min(volume.shape[0], max(volume.shape[1:])), 24, 128)) | 1
    column = np.rint((across + 0.5) * (size - 1)).astype(int)
    inside = (np.abs(along) < 0.1) & (column >= 0) & (column < size)
    row = np.rint((kz + 0.5) * (size - 1)).astype(int)
    index = (row[:, None] * size + column[inside][None, :]).ravel()
    total = np.bincount(index, power[:, inside].ravel(), size * size).reshape(size, size)
    count = np.bincount(index, minlength=size * size).reshape(size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
    return _filled(np.log10(np.maximum(mean, np.nanmax(mean) * 1e-12)))


def _filled(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take pixels no coefficient falls on from their neighbours along each row, then each column."""
    for view in (image, image.T):
        for line in view:
            known = np.isfinite(line)
            if known.any() and not known.all():
                line[~known] = np.interp(np.flatnonzero(~known), np.flatnonzero(known), line[known])
    return image


def wedge_ends(wedge: MissingWedge, *, freq_max: float = 0.5) -> list[tuple[float, float, float]]:
    """Tilt in degrees and the point (across, kz) where its plane leaves the spectrum, for both ends of the range."""
    sign = 1.0 if wedge.flipped else -1.0
    ends = []
    for tilt in wedge.tilt_range_deg:
        angle = math.radians(sign * tilt)
        reach = freq_max / max(abs(math.cos(angle)), abs(math.sin(angle)), 1e-9)
        ends.append((tilt, reach * math.cos(angle), reach * math.sin(angle)))
    return ends


def draw_wedge(axes: Axes, wedge: MissingWedge, *, freq_max: float = 0.5) -> None:
    """Draw the ends of the tilt range over a spectrum, in cycles per voxel."""
    for (tilt, dx, dz), colour in zip(wedge_ends(wedge, freq_max=freq_max), (COLOURS[1], COLOURS[4]), strict=True):
        axes.plot(
            [-dx, dx], [-dz, dz], color=colour, linewidth=1.6, linestyle=(0, (5, 3)), label=f"{tilt:+.1f}°"
        )


def show_spectrum(
    axes: Axes, volume: NDArray[Any], wedge: MissingWedge | None, voxel_size_angstrom: float
) -> None:
    """Draw the power spectrum seen along the tilt axis, with the wedge over it."""
    axis_deg = wedge.tilt_axis_deg if wedge else 0.0
    image = spectrum_image(volume, axis_deg)
    low, high = np.percentile(image, (3, 99.7))
    axes.imshow(
        image,
        cmap="magma",
        vmin=low,
        vmax=high,
        origin="lower",
        extent=(-0.5, 0.5, -0.5, 0.5),
        interpolation="nearest",
    )
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(-0.5, 0.5)
    if wedge is not None:
        draw_wedge(axes, wedge)
        axes.legend(fontsize=8, loc="upper right", framealpha=0.85, title="tilt", title_fontsize=8)
    across = {0.0: "kx", 90.0: "-ky"}.get(axis_deg, f"across the axis at {axis_deg:.0f}°")
    nyquist = 10 / voxel_size_angstrom / 2  # cycles per nanometre
    ticks = [-0.5, -0.25, 0.0, 0.25, 0.5]
    labels = [f"{2 * t * nyquist:.2g}" for t in ticks]
    axes.set_xticks(ticks, labels, fontsize=8)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_xlabel(f"{across} (1/nm)", fontsize=9, color=INK)
    axes.set_ylabel("kz (1/nm)", fontsize=9, color=INK)


def spectra_figure(panels: Panels, wedge: MissingWedge, voxel_size_angstrom: float) -> Figure:
    """Power spectra of several volumes (z, y, x) seen along the tilt axis, the wedge drawn over each."""
    figure = new_figure(3.4 * len(panels) + 0.3, 3.6)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, volume) in zip(row, panels, strict=True):
        show_spectrum(axes, volume, wedge, voxel_size_angstrom)
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
    return figure


def _resolution_axis(axes: Axes, sfreq_max: float) -> None:
    """Label a frequency axis by resolution, which is what people quote."""
    best = 1 / sfreq_max
    nice = [
        r
        for s in (1, 10, 100, 1000)
        for r in (1 * s, 1.5 * s, 2 * s, 2.5 * s, 3 * s, 4 * s, 5 * s, 7 * s)
        if best <= r <= 40 * best
    ]
    ticks = [
        r for i, r in enumerate(sorted(nice)) if i == 0 or 1 / sorted(nice)[i - 1] - 1 / r > sfreq_max / 12
    ]
    axes.set_xticks([1 / r for r in ticks], [f"{r:g}" for r in ticks])
    axes.set_xlim(0, sfreq_max)
    axes.set_xlabel("resolution (Å)", fontsize=10, color=INK)


def _thresholds(axes: Axes) -> None:
    for value in (0.5, 0.143):
        axes.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        axes.text(
            1.0,
            value,
            f"{value:g}",
            fontsize=8,
            color=FAINT,
            va="bottom",
            ha="right",
            transform=axes.get_yaxis_transform(),
        )
    axes.axhline(0, color=FAINT, linewidth=0.8)


def fsc_figure(
    sfreq_per_angstrom: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]], first: str
) -> Figure:
    """Fourier shell correlation by region, one panel a region.

    Parameters
    ----------
    sfreq_per_angstrom : sequence of float
        Centres of the shells.
    curves : mapping of title to mapping of region to curve
        NaN or None where nothing lies.
    first : str
        Title of the curve drawn strongest: the restoration.
    """
    figure = new_figure(11.5, 4.3)
    row = figure.subplots(1, len(REGION_TITLES), sharey=True)
    titles = [first, *(t for t in curves if t != first)]
    for axes, (region, name) in zip(row, REGION_TITLES.items(), strict=True):
        plain_axes(axes)
        _thresholds(axes)
        for i, title in enumerate(titles):
            values = np.array([np.nan if v is None else v for v in curves[title][region]], dtype=float)
            strong = {"linewidth": 2.6, "color": COLOURS[5], "zorder": 5}
            weak = {"linewidth": 1.3, "color": WEAK[(i - 1) % len(WEAK)]}
            axes.plot(sfreq_per_angstrom[1:], values[1:], label=title, **(strong if i == 0 else weak))
        axes.set_title(name, fontsize=11, color=INK, fontweight="bold")
        axes.set_ylim(-0.15, 1.03)
        _resolution_axis(axes, float(sfreq_per_angstrom[-1]))
    row[0].set_ylabel("Fourier shell correlation", fontsize=10, color=INK)
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=9, frameon=False
    )
    return figure


def cross_half_figure(
    sfreq_per_angstrom: Sequence[float], curves: Mapping[str, Sequence[float]], ceiling: Sequence[float]
) -> Figure:
    """Restored half against the other raw half in the measured region, under its ceiling."""
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    plain_axes(axes)
    _thresholds(axes)
    x = list(sfreq_per_angstrom)[1:]
    top = np.array([np.nan if v is None else v for v in ceiling], dtype=float)[1:]
    axes.fill_between(x, top, 1.03, color="#eef1f4", label="cannot be reached: noise of the raw half")
    axes.plot(x, top, color=FAINT, linewidth=1.6, label="ceiling: square root of the raw half-map FSC")
    for i, (title, curve) in enumerate(curves.items()):
        values = np.array([np.nan if v is None else v for v in curve], dtype=float)[1:]
        axes.plot(x, values, color=(COLOURS[5], COLOURS[0], COLOURS[2])[i % 3], linewidth=2, label=title)
    axes.set_ylim(-0.15, 1.03)
    _resolution_axis(axes, float(sfreq_per_angstrom[-1]))
    axes.set_ylabel("Fourier shell correlation", fontsize=10, color=INK)
    axes.legend(fontsize=9, frameon=False, loc="upper right")
    return figure

"""The picture `inspect` draws of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.metrics.tilt_geometry import TiltGeometry
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.figures import show_slice, show_spectrum
from cryoaae.reports.style import COLOURS, FAINT, INK, contrast_limits, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def inspection_figure(
    block: NDArray[Any],
    voxel_size_angstrom: float,
    geometry: TiltGeometry | None,
    stated: MissingWedge | None = None,
    *,
    title: str = "",
    facts: Sequence[str] = (),
) -> Figure:
    """Orthoslices, the power spectrum with the estimated wedge, and the angular power profile.

    Parameters
    ----------
    block : (z, y, x)
        The part of the volume the estimate was made on.
    voxel_size_angstrom : float
        Edge of the voxel.
    geometry : TiltGeometry, optional
        What was estimated; without it the spectrum is drawn bare.
    stated : MissingWedge, optional
        What the user said; drawn in the profile.
    title, facts
        Written above.
    """
    figure = new_figure(11.5, 9.0)
    figure.suptitle("\n".join([title, *facts]), fontsize=10, color=INK, ha="left", x=0.02)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    slices, below = parts
    limits = contrast_limits([block])
    z, y, x = (n // 2 for n in block.shape)
    images = {"xy": block[z], "xz": block[:, y], "zy": block[:, :, x].T}
    widths = [float(image.shape[1]) for image in images.values()]
    row = slices.subplots(1, 3, width_ratios=[max(w, 0.25 * max(widths)) for w in widths])
    for axes, (plane, image) in zip(row, images.items(), strict=True):
        show_slice(axes, np.asarray(image), voxel_size_angstrom, limits)
        axes.set_title(f"{plane} slice", fontsize=11, color=INK, fontweight="bold")
    spectrum, profile = below.subplots(1, 2, width_ratios=[1, 1.7])
    show_spectrum(spectrum, block, geometry.wedge if geometry else None, voxel_size_angstrom)
    spectrum.set_title("power seen along the tilt axis", fontsize=11, color=INK, fontweight="bold")
    _draw_profile(profile, geometry, stated)
    return figure


def _draw_profile(axes: Axes, geometry: TiltGeometry | None, stated: MissingWedge | None) -> None:
    plain_axes(axes)
    axes.set_title("power by tilt angle", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel("tilt (degrees)", fontsize=10, color=INK)
    axes.set_ylabel("power over its level inside", fontsize=10, color=INK)
    axes.set_xlim(-90, 90)
    axes.set_xticks(range(-90, 91, 30))
    if geometry is None:
        axes.text(0.5, 0.5, "no clear missing wedge", transform=axes.transAxes, ha="center", color=FAINT)
        return
    tilt = -np.asarray(geometry.angle_deg)  # the plane at angle a is measured at tilt -a
    power = np.asarray(geometry.power)
    axes.plot(tilt, power, color=INK, linewidth=1.4)
    axes.set_ylim(0, max(1.5, 1.1 * float(np.percentile(power, 97))))
    lo, hi = geometry.tilt_range_deg
    axes.axvspan(-90, lo, color="#eef1f4", zorder=0)
    axes.axvspan(hi, 90, color="#eef1f4", zorder=0, label="missing wedge, estimated")
    for value, colour in ((lo, COLOURS[1]), (hi, COLOURS[4])):
        axes.axvline(
            value, color=colour, linewidth=1.8, linestyle=(0, (5, 3)), label=f"estimated: {value:+.1f}°"
        )
    if stated is not None:
        low, high = stated.tilt_range_deg
        ends = (-high, -low) if stated.flipped else (low, high)
        for i, value in enumerate(ends):
            axes.axvline(value, color=COLOURS[3], linewidth=1.4, label="stated" if i == 0 else None)
    axes.legend(fontsize=8.5, loc="upper right", framealpha=0.9)

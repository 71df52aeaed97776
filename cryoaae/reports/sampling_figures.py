"""Draws as figures: where the spread lies in space, by resolution, and in which directions it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoaae.reports.calibration_section import reliability_curves
from cryoaae.reports.figures import Panels, slices_figure
from cryoaae.reports.style import COLOURS, FAINT, INK, new_figure, plain_axes, png
from cryoaae.reports.validation_numbers import centres, values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELIABILITY_LOOKS = {
    "measured": (COLOURS[0], "where data were measured"), "hidden": (COLOURS[5], "hidden tilts, spread of the wedge")
}  # fmt: skip
REGION_LOOKS = {"measured": (COLOURS[0], "where data were measured"), "wedge": (COLOURS[5], "in the missing wedge")}


def sampling_figures(result: Mapping[str, Any], panels: Panels, modes: Panels) -> dict[str, bytes]:
    """Draw the PNGs of a sampling, by name.

    Parameters
    ----------
    result : mapping
        The numbers, as written to report.json.
    panels : sequence of (title, (z, y, x) array)
        Measured only, filled in only, restored, spread, on the working grid.
    modes : sequence of (title, (z, y, x) array)
        Principal modes; may be empty.
    """
    voxel = result["working_voxel_angstrom"]
    drawn = {"slices": slices_figure(panels, voxel), "spread": spread_figure(result["shells"])}
    check = result["calibration"].get("check")
    if check:
        drawn["reliability"] = reliability_figure(reliability_curves(check))
    if modes:
        drawn["modes"] = slices_figure(modes, voxel)
    return {name: png(figure) for name, figure in drawn.items()}


def spread_figure(shells: Sequence[Mapping[str, Any]]) -> Figure:
    """Spread over restoration by resolution, where measured and in the wedge."""
    figure = new_figure(8.5, 3.8)
    axes = figure.subplots()
    plain_axes(axes)
    for region, (colour, label) in REGION_LOOKS.items():
        axes.plot(centres(shells), values(shells, region), "o-", color=colour, linewidth=2, markersize=4.5, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, shells[-1]["high_per_angstrom"])
    axes.set_xlabel("spatial frequency (1/Å)", fontsize=10, color=INK)
    axes.set_ylabel("spread over restoration", fontsize=10, color=INK)
    axes.legend(fontsize=9, frameon=False)
    return figure


def reliability_figure(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Stated spread over error found by resolution, before and after, where measured and of hidden tilts."""
    figure = new_figure(8.5, 3.8)
    axes = figure.subplots()
    plain_axes(axes)
    axes.axhline(1.0, color=INK, linewidth=1)
    for region, (colour, label) in RELIABILITY_LOOKS.items():
        curve = curves[region]
        ends = (curve["after"] - curve["low"], curve["high"] - curve["after"])
        axes.plot(curve["sfreq"], curve["before"], "o--", color=colour, linewidth=1.2, markersize=3.5, alpha=0.6)
        axes.errorbar(
            curve["sfreq"], curve["after"], yerr=np.clip(np.nan_to_num(ends), 0, None), fmt="o-", color=colour,
            linewidth=2, markersize=4.5, capsize=2.5, label=label,
        )  # fmt: skip
    axes.plot([], [], "o--", color=FAINT, linewidth=1.2, markersize=3.5, label="before")
    axes.set_yscale("log")
    axes.set_yticks([0.125, 0.25, 0.5, 1, 2, 4, 8], ["0.125", "0.25", "0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xlim(0, 1.05 * max(max(curve["sfreq"], default=0.0) for curve in curves.values()))
    axes.set_xlabel("spatial frequency (1/Å)", fontsize=10, color=INK)
    axes.set_ylabel("stated spread over error", fontsize=10, color=INK)
    axes.legend(fontsize=9, frameon=False)
    return figure

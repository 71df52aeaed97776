"""The checks of a restoration as figures: correlations and powers by resolution and by distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.figures import Panels, slices_figure
from cryoaae.reports.style import COLOURS, FAINT, INK, new_figure, plain_axes, png
from cryoaae.reports.validation_numbers import (
    NULL_NAMES,
    Json,
    centres,
    has_kept_out,
    intervals,
    is_single,
    null_tests,
    range_text,
    resolution_text,
    values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = {"strict": COLOURS[0], "lenient": COLOURS[5], "expected": COLOURS[5]}
KIND_LABELS = {
    "strict": "strict (usually too low)",
    "lenient": "lenient",
    "expected": "expected",
}
# Style and width of a kind's lines by distance.
KIND_STYLES = {"strict": ("o-", 1.8), "lenient": ("--", 1.1)}
KEPT_OUT_LABEL = "boxes kept out of fitting"
# Of the wedge at a resolution; above this share its curve is dashed.
EXTRAPOLATED_SHARE = 0.25
CORRELATION_LIMITS = (-0.25, 1.04)
BELOW_LOWEST = 0.05
RATIO_LIMITS = (1.15, 3.0)
DASHES = (0, (2.5, 1.5))
# Two panels that share their vertical axis.
SIDE_BY_SIDE: dict[str, Any] = {"sharey": True, "gridspec_kw": {"wspace": 0.06}}


def validation_figures(result: Mapping[str, Any], panels: Panels) -> dict[str, bytes]:
    """Draw the PNGs of a validation, by name; parts that were not checked have none.

    Parameters
    ----------
    result : mapping
        The validation's numbers, as written to report.json.
    panels : sequence of (title, (z, y, x) array)
        Before, restored, measured only, filled in only, on the working grid.
    """
    drawn = {}
    if panels:
        drawn["slices"] = slices_figure(panels, result["working_voxel_angstrom"])
    held_out, hidden = result["held_out"], result["hidden_from_fitting"]
    trusted = held_out["trusted_correlation"]
    if is_single(held_out):
        drawn["held_out"] = curve_figure(held_out["shells"], "strict", "correlation (at least)", trusted)
    else:
        drawn["held_out"] = held_out_figure(held_out)
    if held_out["cells"]:
        drawn["distance"] = distance_figure(held_out)
    if hidden is not None:
        drawn["hidden_from_fitting"] = curve_figure(hidden["shells"], "strip", "correlation", trusted)
    if result["measured"] is not None:
        drawn["measured"] = measured_figure(result["measured"]["shells"])
    nulls = null_tests(result)
    if nulls:
        drawn["nulls"] = null_figure(nulls)
    return {name: png(figure) for name, figure in drawn.items()}


def held_out_figure(held_out: Mapping[str, Any]) -> Figure:
    """Correlation by resolution: of the hidden tilts, and what is expected in the own missing wedge.

    Parameters
    ----------
    held_out : mapping
        Part `held_out` of the result, of two halves.
    """
    figure = new_figure(11.5, 4.6)
    hidden, wedge = figure.subplots(1, 2, **SIDE_BY_SIDE)
    _correlation_axes(hidden, "Tilts that were hidden", held_out["shells"], held_out["trusted_correlation"])
    for kind in ("strict", "lenient"):
        _scores(hidden, held_out["shells"], kind, KIND_COLOURS[kind], KIND_LABELS[kind])
    hidden.set_ylabel("correlation", fontsize=10, color=INK)
    _wedge_panel(wedge, held_out)
    _legend_below(figure, (hidden, wedge), first=KIND_LABELS.values())
    return figure


def _wedge_panel(axes: Axes, held_out: Json) -> None:
    """What is expected in the own wedge; dashed and hollow where mostly extrapolated."""
    curve = held_out["wedge"]["curve"]
    _correlation_axes(axes, "The tomogram's own missing wedge", curve, held_out["trusted_correlation"])
    x, share = centres(curve), values(curve, "extrapolated_share")
    tested = ~(share > EXTRAPOLATED_SHARE)
    between = values(curve, "strict"), values(curve, "expected")
    axes.fill_between(x, *between, color=KIND_COLOURS["expected"], alpha=0.1, linewidth=0)
    for kind, width in (("strict", 1.4), ("expected", 2.6)):
        y, colour = values(curve, kind), KIND_COLOURS[kind]
        axes.plot(x, y, color=colour, linewidth=width, linestyle=DASHES, alpha=0.65)
        solid = np.where(tested, y, np.nan)
        axes.plot(x, solid, color=colour, linewidth=width, label=KIND_LABELS[kind], zorder=4)
        for chosen, face in ((tested, colour), (~tested, "white")):
            axes.plot(
                x[chosen], y[chosen], "o", markersize=2.5 + width, color=colour, markerfacecolor=face, zorder=5
            )
    if not tested.all():
        axes.plot([], [], color=FAINT, linestyle=DASHES, label="dashed: further away than tested")
    if resolution_text(held_out):
        finest = 1 / held_out["wedge"]["resolution_angstrom"]
        axes.axvline(finest, color=INK, linewidth=1)
        axes.text(
            finest,
            0.02,
            f" {resolution_text(held_out)} ",
            transform=axes.get_xaxis_transform(),
            ha="right" if finest > 0.6 * axes.get_xlim()[1] else "left",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )


def distance_figure(held_out: Mapping[str, Any]) -> Figure:
    """Correlation and error of the hidden tilts against the distance from the nearest measured data.

    Parameters
    ----------
    held_out : mapping
        Part `held_out` of the result, with `cells`.
    """
    import matplotlib as mpl

    cells, shells = held_out["cells"], held_out["shells"]
    figure = new_figure(11.5, 4.2)
    correlation, error = figure.subplots(1, 2)
    least, most = (" (at least)", " (at most)") if is_single(held_out) else ("", "")
    _distance_axes(correlation, f"Correlation{least}", "correlation", cells)
    worst = "share of the hidden power not explained\n(1: as bad as leaving it empty)"
    _distance_axes(error, f"Error{most}", worst, cells)
    _level(correlation, held_out["trusted_correlation"])
    correlation.axhline(0, color=FAINT, linewidth=0.8)
    correlation.set_ylim(*CORRELATION_LIMITS)
    present = sorted({cell["shell"] for cell in cells})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(present)))
    highest = 1.0
    for shell, colour in zip(present, colours, strict=True):
        chosen = sorted((c for c in cells if c["shell"] == shell), key=lambda c: c["distance_low_per_angstrom"])
        x = centres(chosen, "distance_")
        for kind, (style, width) in KIND_STYLES.items():
            look: dict[str, Any] = {"color": colour, "linewidth": width, "markersize": 4}
            name = range_text(shells[shell]) if kind == "strict" else None
            found = values(chosen, kind, "correlation")
            correlation.plot(x, found, style, label=name, **look)
            _show_below(correlation, found)
            left = 1 - values(chosen, kind, "recovered")
            error.plot(x, left, style, **look)
            highest = max([highest, *left[np.isfinite(left)]])
    _level(error, 1.0, "")
    error.set_ylim(0, float(np.clip(1.08 * highest, *RATIO_LIMITS)))
    if not is_single(held_out):
        correlation.plot([], [], "o-", color=FAINT, markersize=4, label="solid: strict")
        correlation.plot([], [], "--", color=FAINT, linewidth=1.1, label="dashed: lenient")
    handles, labels = correlation.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", fontsize=9, frameon=False, title="resolution", title_fontsize=9
    )
    return figure


def curve_figure(
    shells: Sequence[Mapping[str, Any]], kind: str, label: str, trusted_correlation: float
) -> Figure:
    """Correlation by resolution, one curve with its intervals.

    Parameters
    ----------
    shells : sequence of mappings
        Scores by kind.
    kind, label : str
        Which of them, and what they are.
    trusted_correlation : float
        From this correlation on, what is filled in may be trusted.
    """
    figure = new_figure(11.5, 3.8)
    axes = figure.subplots()
    _correlation_axes(axes, "", shells, trusted_correlation)
    _scores(axes, shells, kind, COLOURS[5], "")
    axes.set_ylabel(label, fontsize=10, color=INK)
    return figure


def measured_figure(shells: Sequence[Mapping[str, Any]]) -> Figure:
    """Where data were measured: against the structure, and against the other raw half under its ceiling.

    Parameters
    ----------
    shells : sequence of mappings
        Part `measured.shells` of the result.
    """
    figure = new_figure(11.5, 4.6)
    structure, raw = figure.subplots(1, 2, **SIDE_BY_SIDE)
    _correlation_axes(structure, "Against the structure", shells)
    _correlation_axes(raw, "A restored half against the other raw half", shells)
    part, label = ("kept_out", KEPT_OUT_LABEL) if has_kept_out(shells) else ("fitted", "the part that was checked")
    if part == "kept_out":
        _scores(structure, shells, "fitted", COLOURS[1], "the rest")
    _scores(structure, shells, part, COLOURS[0], label)
    x, ceiling = centres(shells), values(shells, part, "ceiling")
    raw.fill_between(x, ceiling, CORRELATION_LIMITS[1], color="#e4e8ec", linewidth=0)
    raw.plot(x, ceiling, color=FAINT, linewidth=1.6, label="ceiling: no restoration can pass it")
    found = values(shells, part, "against_other_half")
    raw.plot(x, found, "o-", color=COLOURS[0], linewidth=2, markersize=4.5)
    _show_below(raw, found)
    structure.set_ylabel("correlation", fontsize=10, color=INK)
    _legend_below(figure, (structure, raw), first=[label])
    return figure


def null_figure(nulls: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Power that comes out when there is no structure, over the power that comes out of the real data.

    Parameters
    ----------
    nulls : mapping of name to mapping
        Part `null_tests` of the result.
    """
    figure = new_figure(11.5, 4.4)
    row = figure.subplots(1, 2, **SIDE_BY_SIDE)
    highest = 1.0
    for axes, region, title in zip(
        row, ("measured", "wedge"), ("Where data were measured", "In the missing wedge"), strict=True
    ):
        plain_axes(axes)
        _level(axes, 1.0, "as much as from the real data")
        for name, colour in zip(NULL_NAMES, (COLOURS[0], COLOURS[5]), strict=True):
            if name in nulls:
                shells = nulls[name]["shells"]
                y = values(shells, region)
                axes.plot(centres(shells), y, "o-", color=colour, markersize=4.5, linewidth=2, label=NULL_NAMES[name])
                highest = max([highest, *y[np.isfinite(y)]])
        _frequency_axis(axes, [shell for null in nulls.values() for shell in null["shells"]])
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
    row[0].set_ylim(0, float(np.clip(1.08 * highest, *RATIO_LIMITS)))
    row[0].set_ylabel("power over the power on the real data", fontsize=10, color=INK)
    _legend_below(figure, row)
    return figure


def _scores(axes: Axes, shells: Sequence[Json], kind: str, colour: str, label: str) -> None:
    """One curve of correlations, with the band of its intervals."""
    x, y = centres(shells), values(shells, kind, "correlation")
    low, high = intervals(shells, kind)
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(x, low, high, where=known, color=colour, alpha=0.16, linewidth=0)
    axes.vlines(x[known], low[known], high[known], color=colour, linewidth=1, alpha=0.5)
    axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=4.5, label=label, zorder=4)
    _show_below(axes, y)


def _correlation_axes(axes: Axes, title: str, shells: Sequence[Json], level: float | None = None) -> None:
    plain_axes(axes)
    if level is not None:
        _level(axes, level)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_ylim(*CORRELATION_LIMITS)
    _frequency_axis(axes, shells)
    if title:
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")


def _distance_axes(axes: Axes, title: str, label: str, cells: Sequence[Json]) -> None:
    plain_axes(axes)
    axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
    axes.set_ylabel(label, fontsize=10, color=INK)
    axes.set_xlabel("distance from measured data (1/Å)", fontsize=10, color=INK)
    axes.set_xlim(0, max(cell["distance_high_per_angstrom"] for cell in cells))
    axes.locator_params(axis="x", nbins=5)


def _level(axes: Axes, value: float, name: str | None = None) -> None:
    """A line across, with its value beside it or a name for the legend."""
    axes.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), label=name)
    if name is None:
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


def _show_below(axes: Axes, correlations: NDArray[np.float64]) -> None:
    """Lower the panel's end where correlations lie below it."""
    lowest = np.nanmin(correlations, initial=CORRELATION_LIMITS[0] + BELOW_LOWEST) - BELOW_LOWEST
    axes.set_ylim(bottom=min(axes.get_ylim()[0], float(lowest)))


def _frequency_axis(axes: Axes, shells: Sequence[Json]) -> None:
    """Spatial frequency below, the resolution that people quote above."""
    top = max((shell["high_per_angstrom"] for shell in shells), default=0.1)
    axes.set_xlim(0, top)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("spatial frequency (1/Å)", fontsize=10, color=INK)
    nice = sorted(step * 10.0**power for power in range(5) for step in (1, 1.5, 2, 3, 4, 5, 7))
    ticks: list[float] = []
    for resolution in nice:
        if 1 / resolution <= top and (not ticks or 1 / ticks[-1] - 1 / resolution > top / 11):
            ticks.append(resolution)
    above = axes.secondary_xaxis("top")
    above.set_xticks([1 / r for r in ticks], [f"{r:g}" for r in ticks])
    above.tick_params(labelsize=8.5, color=FAINT, length=3)
    above.set_xlabel("resolution (Å)", fontsize=9, color=INK)
    above.spines["top"].set_visible(False)


def _legend_below(figure: Figure, row: Sequence[Axes], first: Iterable[str] = ()) -> None:
    """One legend for several panels, each label once."""
    found: dict[str, Any] = {}
    for axes in row:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=[*first, *found].index)
    handles = [found[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)

"""The checks of a restoration as figures and a page that says what can be trusted, and how far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.evaluation import number
from cryoaae.reports.figures import Panels, slices_figure
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.style import COLOURS, FAINT, INK, new_figure, plain_axes, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = Mapping[str, Any]
VERDICTS = {
    "trusted": ("Trusted. No check found a reason to doubt this restoration.", "good"),
    "caution": ("Use with caution.", ""),
    "do not use": ("Do not use this restoration.", "bad"),
}
KIND_COLOURS = {"strict": COLOURS[0], "expected": COLOURS[5], "lenient": COLOURS[2]}
KIND_LABELS = {
    "strict": "strict (usually too low)",
    "expected": "expected",
    "lenient": "lenient (usually too high)",
}
NULL_NAMES = {"noise_only": "noise only", "phase_randomised": "random phases"}
# From this correlation on, what is filled in may be trusted.
TRUSTED_CORRELATION = 0.5
# Of the wedge at a resolution; above this share its curve is dashed.
EXTRAPOLATED_SHARE = 0.25
CORRELATION_LIMITS = (-0.25, 1.04)
RATIO_LIMITS = (1.15, 3.0)

HELD_OUT_NOTE = (
    "Correlation: 1 is perfect, 0 is nothing; in brackets its 95 % interval. Slope: the factor by which the "
    "filled-in density should be multiplied; 1 is honest, far below 1 is invented. Recovered: share of the "
    "hidden structure's power that is explained; below 0 is worse than leaving it empty. All but the last "
    "column are strict."
)


def validation_figures(result: Mapping[str, Any], panels: Panels) -> dict[str, bytes]:
    """Draw the PNGs of a validation, by name; parts that were not checked have none.

    Parameters
    ----------
    result : mapping
        The validation's numbers, as written to report.json.
    panels : sequence of (title, (z, y, x) array)
        Before, restored, measured only, filled in only, on the working grid.
    """
    figures = {}
    if panels:
        figures["slices"] = png(slices_figure(panels, result["working_voxel_angstrom"]))
    held_out = result["held_out"]
    if held_out is not None:
        figures["held_out"] = png(held_out_figure(held_out))
        if held_out["cells"]:
            figures["distance"] = png(distance_figure(held_out["cells"], held_out["shells"]))
    if result["measured"] is not None:
        figures["measured"] = png(measured_figure(result["measured"]["shells"]))
    if result["null_tests"] is not None:
        figures["nulls"] = png(null_figure(_nulls(result["null_tests"])))
    return figures


def held_out_figure(held_out: Mapping[str, Any]) -> Figure:
    """Correlation by resolution: of the hidden tilts, and what is expected in the own missing wedge.

    Parameters
    ----------
    held_out : mapping
        Part `held_out` of the result.
    """
    shells, wedge = held_out["shells"], held_out.get("wedge")
    figure = new_figure(11.5 if wedge else 8.8, 4.6)
    row = figure.subplots(1, 2 if wedge else 1, sharey=True, squeeze=False, gridspec_kw={"wspace": 0.06})[0]
    hidden = row[0]
    _correlation_axes(hidden, "Tilts that were hidden", shells)
    for kind in ("strict", "lenient"):
        _scores(hidden, shells, kind, KIND_COLOURS[kind], KIND_LABELS[kind])
    hidden.set_ylabel("correlation", fontsize=10, color=INK)
    if wedge:
        _wedge_panel(row[1], wedge)
    handles, labels = _legend_of(row)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    return figure


def _wedge_panel(axes: Axes, wedge: Json) -> None:
    """What is expected in the own wedge; dashed and hollow where mostly extrapolated."""
    curve = wedge["curve"]
    _correlation_axes(axes, "The tomogram's own missing wedge", curve)
    x, share = _centres(curve), _values(curve, "extrapolated_share")
    tested = ~(share > EXTRAPOLATED_SHARE)
    axes.fill_between(
        x, _values(curve, "strict"), _values(curve, "lenient"), color=KIND_COLOURS["expected"], alpha=0.1, linewidth=0
    )
    for kind, width in (("strict", 1.4), ("lenient", 1.4), ("expected", 2.6)):
        y, colour = _values(curve, kind), KIND_COLOURS[kind]
        axes.plot(x, y, color=colour, linewidth=width, linestyle=(0, (2.5, 1.5)), alpha=0.65)
        solid = np.where(tested, y, np.nan)
        axes.plot(x, solid, color=colour, linewidth=width, label=KIND_LABELS[kind], zorder=4)
        for chosen, face in ((tested, colour), (~tested, "white")):
            axes.plot(
                x[chosen], y[chosen], "o", markersize=2.5 + width, color=colour, markerfacecolor=face, zorder=5
            )
    if not tested.all():
        axes.plot([], [], color=FAINT, linestyle=(0, (2.5, 1.5)), label="dashed: further away than tested")
    resolution = wedge["resolution_angstrom"]
    if resolution:
        axes.axvline(1 / resolution, color=INK, linewidth=1)
        axes.text(
            1 / resolution,
            0.02,
            f" {_angstrom(resolution)} Å ",
            transform=axes.get_xaxis_transform(),
            ha="right" if 1 / resolution > 0.8 * axes.get_xlim()[1] else "left",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )


def distance_figure(cells: Sequence[Mapping[str, Any]], shells: Sequence[Mapping[str, Any]]) -> Figure:
    """Correlation and error of the hidden tilts against the distance from the nearest measured data.

    Parameters
    ----------
    cells : sequence of mappings
        Scores by resolution and distance.
    shells : sequence of mappings
        What `shell` of a cell counts, from 0.
    """
    import matplotlib as mpl

    figure = new_figure(11.5, 4.2)
    row = figure.subplots(1, 2)
    present = sorted({cell["shell"] for cell in cells})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(present)))
    far = max(cell["distance_high_per_angstrom"] for cell in cells)
    for axes, title, label in (
        (row[0], "Correlation", "correlation"),
        (row[1], "Error", "share of the hidden power not explained\n(1: as bad as leaving it empty)"),
    ):
        plain_axes(axes)
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
        axes.set_ylabel(label, fontsize=10, color=INK)
        axes.set_xlabel("distance from measured data (1/Å)", fontsize=10, color=INK)
        axes.set_xlim(0, far)
    highest = 1.0
    for shell, colour in zip(present, colours, strict=True):
        chosen = sorted((c for c in cells if c["shell"] == shell), key=lambda c: c["distance_low_per_angstrom"])
        x = _centres(chosen, "distance_")
        name = _range_text(shells[shell]) if 0 <= shell < len(shells) else f"range {shell + 1}"
        for kind, style in (("strict", "o-"), ("lenient", "--")):
            look: dict[str, Any] = {"color": colour, "linewidth": 1.8 if kind == "strict" else 1.1, "markersize": 4}
            error = 1 - _values(chosen, kind, "recovered")
            row[0].plot(
                x, _values(chosen, kind, "correlation"), style, label=name if kind == "strict" else None, **look
            )
            row[1].plot(x, error, style, **look)
            highest = max([highest, *error[np.isfinite(error)]])
    _level(row[0], TRUSTED_CORRELATION, f"{TRUSTED_CORRELATION:g}")
    row[0].axhline(0, color=FAINT, linewidth=0.8)
    row[0].set_ylim(*CORRELATION_LIMITS)
    _level(row[1], 1.0, "")
    row[1].set_ylim(0, float(np.clip(1.08 * highest, *RATIO_LIMITS)))
    row[0].plot([], [], "o-", color=FAINT, markersize=4, label="solid: strict")
    row[0].plot([], [], "--", color=FAINT, linewidth=1.1, label="dashed: lenient")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", fontsize=9, frameon=False, title="resolution", title_fontsize=9
    )
    return figure


def measured_figure(shells: Sequence[Mapping[str, Any]]) -> Figure:
    """Correlation with the structure where data were measured: boxes kept out of fitting, and the rest.

    Parameters
    ----------
    shells : sequence of mappings
        Part `measured.shells` of the result.
    """
    figure = new_figure(8.8, 4.4)
    axes = figure.subplots()
    _correlation_axes(axes, "", shells)
    if _compares(shells):
        _scores(axes, shells, "fitted", COLOURS[1], "the rest")
        _scores(axes, shells, "kept_out", COLOURS[0], "boxes kept out of fitting")
    else:
        _scores(axes, shells, "fitted", COLOURS[0], "the part that was checked")
    axes.set_ylabel("correlation with the structure", fontsize=10, color=INK)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def null_figure(nulls: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Power that comes out when there is no structure, over the power that comes out of the real data.

    Parameters
    ----------
    nulls : mapping of name to mapping
        Part `null_tests` of the result.
    """
    figure = new_figure(11.5, 4.4)
    row = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.06})
    highest = 1.0
    for axes, region, title in zip(
        row, ("measured", "wedge"), ("Where data were measured", "In the missing wedge"), strict=True
    ):
        plain_axes(axes)
        _level(axes, 1.0, "as much as from the real data")
        for name, colour in zip(NULL_NAMES, (COLOURS[0], COLOURS[5]), strict=True):
            if name in nulls:
                shells = nulls[name]["shells"]
                y = _values(shells, region)
                axes.plot(
                    _centres(shells), y, "o-", color=colour, markersize=4.5, linewidth=2, label=NULL_NAMES[name]
                )
                highest = max([highest, *y[np.isfinite(y)]])
        _frequency_axis(axes, [shell for null in nulls.values() for shell in null["shells"]])
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")
    row[0].set_ylim(0, float(np.clip(1.08 * highest, *RATIO_LIMITS)))
    row[0].set_ylabel("power over the power on the real data", fontsize=10, color=INK)
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _nulls(null_tests: Json) -> dict[str, Json]:
    return {name: null_tests[name] for name in NULL_NAMES if null_tests.get(name)}


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _values(rows: Sequence[Json], *keys: str) -> NDArray[np.float64]:
    """Numbers at a path of keys, one a row; NaN where any part is missing."""
    found: list[Any] = list(rows)
    for key in keys:
        found = [None if value is None else value.get(key) for value in found]
    return np.array([_float(value) for value in found], dtype=np.float64)


def _centres(rows: Sequence[Json], prefix: str = "") -> NDArray[np.float64]:
    return (_values(rows, f"{prefix}low_per_angstrom") + _values(rows, f"{prefix}high_per_angstrom")) / 2


def _scores(axes: Axes, shells: Sequence[Json], kind: str, colour: str, label: str) -> None:
    """One curve of correlations, with the band of its intervals."""
    x, y = _centres(shells), _values(shells, kind, "correlation")
    intervals = [((shell.get(kind) or {}).get("interval")) or (None, None) for shell in shells]
    low, high = (np.array([_float(pair[i]) for pair in intervals]) for i in (0, 1))
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(x, low, high, where=known, color=colour, alpha=0.16, linewidth=0)
    axes.vlines(x[known], low[known], high[known], color=colour, linewidth=1, alpha=0.5)
    axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=4.5, label=label, zorder=4)


def _correlation_axes(axes: Axes, title: str, shells: Sequence[Json]) -> None:
    plain_axes(axes)
    _level(axes, TRUSTED_CORRELATION, f"{TRUSTED_CORRELATION:g}")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_ylim(*CORRELATION_LIMITS)
    _frequency_axis(axes, shells)
    if title:
        axes.set_title(title, fontsize=11, color=INK, fontweight="bold")


def _level(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    axes.text(
        1.0,
        value,
        text,
        fontsize=8,
        color=FAINT,
        va="bottom",
        ha="right",
        transform=axes.get_yaxis_transform(),
    )


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


def _legend_of(row: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Every label of several panels once."""
    found: dict[str, Any] = {}
    for axes in row:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = [label for label in KIND_LABELS.values() if label in found]
    labels = [*order, *(label for label in found if label not in order)]
    return [found[label] for label in labels], labels


def validation_report(result: Mapping[str, Any], figures: Mapping[str, bytes]) -> Report:
    """Put a validation into a report.

    Parameters
    ----------
    result : mapping
        The validation's numbers, as written to report.json.
    figures : mapping
        From `validation_figures`.
    """
    sections = [*_first_sections(result)]
    if "slices" in figures:
        sections.append(_slices_section(figures["slices"]))
    if result["held_out"] is None:
        sections.append(ReportSection("Single volume: what can and cannot be said", _single_volume(result)))
    else:
        sections.append(_held_out_section(result, figures))
    if result["measured"] is not None:
        sections.append(_measured_section(result["measured"]["shells"], figures))
    if result["null_tests"] is not None:
        sections.append(_null_section(_nulls(result["null_tests"]), figures))
    if result["geometry"] is not None:
        sections.append(_geometry_section(result["geometry"]))
    return Report(
        title=f"Validation of {result['name']}",
        subtitle=_subtitle(result),
        verdict=_verdict(result),
        sections=sections,
        footer=(
            f"cryoaae {result['version']}; restored with {result['model']}; checked in "
            f"{number(result['seconds'], 0)} s. All numbers are in report.json beside this file."
        ),
    )


def _subtitle(result: Json) -> str:
    z, y, x = result["shape_zyx"]
    tilts = _degrees(result["wedge"]["tilt_range_deg"])
    return f"{x} × {y} × {z} voxels of {result['voxel_size_angstrom']:.4g} Å; tilts {tilts}"


def _verdict(result: Json) -> Verdict:
    text, mood = VERDICTS[result["verdict"]]
    raised = [r["check"] for r in result["reasons"] if r["level"] != "ok"]
    if raised:
        text += f" {'Reason' if len(raised) == 1 else 'Reasons'}: {', '.join(raised)}; see below."
    wedge = (result["held_out"] or {}).get("wedge")
    if wedge and result["verdict"] != "do not use":
        text += f" {_resolution_sentence(wedge)}"
    if result["held_out"] is None:
        text += " What was filled in could not be compared with a measurement: there is a single volume."
    return Verdict(text, mood)


def _resolution_sentence(wedge: Json) -> str:
    expected = _values(wedge["curve"], "expected")
    if not np.isfinite(expected).any():
        return "How far to trust what is filled in could not be measured."
    resolution = wedge["resolution_angstrom"]
    if not resolution:
        return "Trust what is filled in at no resolution: the expected correlation is below 0.5 everywhere."
    falls = bool((expected < TRUSTED_CORRELATION).any())
    beyond = "its expected correlation with the truth falls below 0.5" if falls else "nothing was checked"
    sentence = f"Trust what is filled in up to {_angstrom(resolution)} Å. Finer than that, {beyond}."
    reached = [p for p in wedge["curve"] if p["low_per_angstrom"] < 1 / resolution]
    if (_values(reached, "extrapolated_share") > EXTRAPOLATED_SHARE).any():
        sentence += " Part of this range is extrapolated, not tested."
    return sentence


def _first_sections(result: Json) -> list[ReportSection]:
    sentences = []
    (z0, z1), (y0, y1), (x0, x1) = result["region_zyx"]
    if [z1 - z0, y1 - y0, x1 - x0] != list(result["shape_zyx"]):
        sentences.append(
            f"Only a part was checked: voxels {x0} to {x1} in x, {y0} to {y1} in y, {z0} to {z1} in z. "
            "What is said here is said of this part."
        )
    working, voxel = result["working_voxel_angstrom"], result["voxel_size_angstrom"]
    if not math.isclose(working, voxel, rel_tol=0.01):
        sentences.append(
            f"The checks were made on voxels of {working:.4g} Å, on which the network works. "
            f"They say nothing of details finer than {2 * working:.4g} Å."
        )
    reasons = result["reasons"]
    rows = [ReportRow([r["check"], r["level"]], "" if r["level"] == "ok" else "strong") for r in reasons]
    tables = [ReportTable(["check", "level"], rows)] if rows else []
    # Cells of the page's tables do not wrap; sentences follow as paragraphs, without a heading of their own.
    found = ReportSection("", [f"{_capital(r['check'])} ({r['level']}): {r['sentence']}" for r in reasons])
    return [ReportSection("In one look", sentences, (), tables), found]


def _slices_section(slices: bytes) -> ReportSection:
    caption = (
        "Central slices, xy (seen along the beam) above and xz (beam upwards) below; every column has its own "
        "grey levels, so strength cannot be compared between columns."
    )
    sentences = [
        "The restoration is the sum of two parts: what was measured, with less noise, and what the network "
        "filled in where nothing was measured.",
        "Structure that is seen only in the last column was put there by the network, not measured.",
    ]
    return ReportSection(
        "What was measured, and what was filled in",
        sentences,
        [ReportFigure(slices, caption, "slices of measured and filled-in parts")],
    )


def _single_volume(result: Json) -> list[str]:
    can = []
    if result["measured"] is not None and _compares(result["measured"]["shells"]):
        can.append("whether the network learnt noise by heart")
    if result["null_tests"] is not None:
        can.append("whether it makes structure out of noise")
    if (result["geometry"] or {}).get("estimated_range_deg") is not None:
        can.append("whether the stated tilts fit the data")
    return [
        "There is a single volume, not two halves. Its noise cannot be told from its structure.",
        "So what was filled in could not be compared with a measurement. No number here says how far the "
        "missing wedge can be trusted.",
        f"What can be said: {_listed(can)}." if can else "Nothing else could be checked.",
        "Passing these checks does not show that the filled-in structure is right. For that, reconstruct two "
        "half tomograms (even and odd frames, or even and odd tilts) and validate with both.",
    ]


def _held_out_section(result: Json, figures: Mapping[str, bytes]) -> ReportSection:
    held_out = result["held_out"]
    wedge = held_out.get("wedge")
    turns = [f"{turn:g}°" for turn in held_out["turns_deg"]]
    sentences = [
        "Measured tilts were hidden, the network restored, and what it put there was compared with what had "
        "been measured. The hidden tilts were chosen by turning the tomogram about its tilt axis"
        + (f", by {_listed(turns)}." if turns else "."),
        "Strict: nothing of what was hidden was known to the method. But less data was left than in the real "
        "restoration, so this is usually too low. Lenient: what was hidden had helped to fill the rest before, so "
        "this is usually too high. Expected: between the two, where the truth was found in simulations.",
    ]
    if wedge:
        sentences += _wedge_sentences(result, wedge)
    shown = [
        ReportFigure(
            figures["held_out"],
            "Correlation by resolution (1 is perfect, 0 is nothing); bands on the left are 95 % intervals"
            + (", on the right the range between strict and lenient." if wedge else "."),
            "correlation of what was filled in",
        )
    ]
    if "distance" in figures:
        shown.append(
            ReportFigure(
                figures["distance"],
                "The same hidden tilts by how far, in Fourier space, they lie from the nearest measured data: "
                "the further away, the harder they are to fill.",
                "correlation and error by distance",
            )
        )
    header = ["resolution", "strict correlation", "slope", "recovered", "lenient correlation"]
    rows = [
        ReportRow(
            [
                _range_text(shell),
                _score_text(shell["strict"]),
                number((shell["strict"] or {}).get("slope"), 2),
                number((shell["strict"] or {}).get("recovered"), 2),
                _score_text(shell["lenient"]),
            ]
        )
        for shell in held_out["shells"]
    ]
    return ReportSection(
        "How good is what was filled in?", sentences, shown, [ReportTable(header, rows, HELD_OUT_NOTE)]
    )


def _wedge_sentences(result: Json, wedge: Json) -> list[str]:
    sentences = []
    found = wedge["correlation"]
    if found.get("expected") is not None:
        sentences.append(
            f"In the tomogram's own missing wedge, over all resolutions together, the expected correlation is "
            f"{number(found['expected'], 2)} (strict {number(found['strict'], 2)}, "
            f"lenient {number(found['lenient'], 2)})."
        )
    resolution = _resolution_sentence(wedge)
    if result["verdict"] == "do not use" and wedge["resolution_angstrom"]:
        resolution = f"Taken alone, this check says: {resolution} The verdict above overrules it."
    sentences.append(resolution)
    share = wedge["extrapolated_share"]
    if share:
        text = f"{100 * share:.0f} %" if share >= 0.01 else "Less than 1 %"
        sentences.append(
            f"{text} of the missing wedge lies further from measured data than was tested. Numbers there are "
            f"extrapolated, not measured. The curve is dashed where this holds for more than "
            f"{100 * EXTRAPOLATED_SHARE:g} % of the wedge at a resolution."
        )
    return sentences


def _compares(shells: Sequence[Json]) -> bool:
    """Whether boxes kept out of fitting were scored at any resolution."""
    return bool(np.isfinite(_values(shells, "kept_out", "correlation")).any())


def _measured_section(shells: Sequence[Json], figures: Mapping[str, bytes]) -> ReportSection:
    sentences = ["This is the estimated correlation of the restoration with the structure, where data were measured."]
    compares = _compares(shells)
    if compares:
        sentences.append(
            "Some boxes were kept out of fitting and are compared with the rest. A gap between the two means that "
            "the network learnt noise by heart."
        )
    else:
        sentences.append(
            "No boxes that were kept out of fitting lie in the part that was checked. So whether the network "
            "learnt noise by heart cannot be said."
        )
    gaps = _values(shells, "fitted", "correlation") - _values(shells, "kept_out", "correlation")
    if np.isfinite(gaps).any() and np.nanmax(gaps) <= 0:
        sentences.append("Here the kept-out boxes are nowhere worse than the rest.")
    elif np.isfinite(gaps).any():
        worst = int(np.nanargmax(gaps))
        sentences.append(f"The largest gap is {number(float(gaps[worst]), 2)}, at {_range_text(shells[worst])}.")
    caption = "Higher is better; " + (
        "the two curves should lie within each other's bands (95 % intervals)." if compares
        else "the band is the 95 % interval."
    )  # fmt: skip
    figure = ReportFigure(figures["measured"], caption, "correlation where data were measured")
    return ReportSection("Where data were measured", sentences, [figure])


def _null_section(nulls: Mapping[str, Json], figures: Mapping[str, bytes]) -> ReportSection:
    sentences = [
        "The same pipeline was given data without any structure: noise only, or data with the tomogram's "
        "spectrum but random phases.",
        "Shown is the power that came out, over the power that came out of the real data. 0 is best. "
        "Filling the wedge of random phases is inventing.",
    ]
    rows = [
        ReportRow([NULL_NAMES[name], number(null["measured"], 3), number(null["wedge"], 3)])
        for name, null in nulls.items()
    ]
    caption = "Lower is better: at 1 the network puts out as much without structure as it does with it."
    return ReportSection(
        "Does it invent?",
        sentences,
        [ReportFigure(figures["nulls"], caption, "power without structure")],
        [ReportTable(["given", "where data were measured", "in the missing wedge"], rows)],
    )


def _geometry_section(geometry: Json) -> ReportSection:
    stated, estimated = geometry["stated_range_deg"], geometry["estimated_range_deg"]
    if estimated is None:
        sentences = [
            f"Stated tilt range: {_degrees(stated)}. None could be estimated from the data, "
            "so the stated one could not be checked."
        ]
    else:
        axis = geometry["estimated_axis_deg"]
        sentences = [
            f"Stated tilt range: {_degrees(stated)}. Estimated from the data: {_degrees(estimated)}"
            + ("." if axis is None else f", about an axis at {_degree(axis)}."),
            "The network fills where the stated range says that nothing was measured. "
            "A wrong range makes it fill the wrong place.",
        ]
    return ReportSection("Geometry", [*sentences, *(_sentence(warning) for warning in geometry["warnings"])])


def _degree(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}°".replace("-", "−")


def _degrees(pair: Sequence[float]) -> str:
    return f"{_degree(pair[0])} to {_degree(pair[1])}"


def _angstrom(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _range_text(shell: Json) -> str:
    """Resolutions of a shell, coarse to fine."""
    low, high = shell["low_per_angstrom"], shell["high_per_angstrom"]
    fine = _angstrom(1 / high)
    return f"{_angstrom(1 / low)}–{fine} Å" if low > 0 else f"> {fine} Å"


def _score_text(score: Json | None) -> str:
    if score is None or score["correlation"] is None:
        return "–"
    low, high = score["interval"] or (None, None)
    return f"{number(score['correlation'], 2)} [{number(low, 2)}, {number(high, 2)}]"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + ("" if text.endswith((".", "!", "?")) else ".")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([part for part in (", ".join(words[:-1]), words[-1]) if part]) if words else ""

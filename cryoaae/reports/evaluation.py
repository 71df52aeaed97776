"""The evaluation's numbers as figures, tables and an HTML report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.figures import Panels, cross_half_figure, fsc_figure, slices_figure, spectra_figure
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.style import png

REGION_NOTE = (
    "Missing wedge: coefficients at least three Fourier voxels inside it. Measured: at least one inside the "
    "measured part. The zone between counts for neither. Power over explained: power in the wedge divided by "
    "what agrees with the truth (1: all of it is explained; more: invented). Clip + put back: nothing below "
    "the background, what was measured stays, 30 rounds."
)


def evaluation_figures(result: Mapping[str, Any], panels: Panels, wedge: MissingWedge) -> dict[str, bytes]:
    """Draw the PNGs of an evaluation, by name.

    Parameters
    ----------
    result : mapping
        What `restoration.evaluate.evaluate` returns.
    panels : sequence of (title, (z, y, x) array)
        Before, after and, where known, truth.
    wedge : MissingWedge
        Drawn over the power spectra.
    """
    voxel = result["voxel_size_angstrom"]
    figures = {
        "slices": png(slices_figure(panels, voxel)),
        "spectra": png(spectra_figure(panels, wedge, voxel)),
    }
    if result.get("rows"):
        shown = {
            row["title"]: {name: region["fsc"] for name, region in row["regions"].items()}
            for row in result["rows"]
        }
        figures["fsc"] = png(fsc_figure(result["sfreq_per_angstrom"], shown, result["rows"][0]["title"]))
    if result.get("halves"):
        halves = result["halves"]
        figures["halves"] = png(
            cross_half_figure(result["sfreq_per_angstrom"], halves["curves"], halves["ceiling"])
        )
    return figures


def score_table(rows: Sequence[Mapping[str, Any]], voxel_size_angstrom: float) -> ReportTable:
    """The table of restoration, nulls and oracle."""
    coarse, fine = (f"{voxel_size_angstrom / freq:.3g}" for freq in (0.08, 0.16))
    header = [
        "", "correlation, all voxels", "in the wedge", f"> {coarse} Å", f"{coarse}–{fine} Å",
        "power / explained", "measured region", "gain, coarse",
        "wedge 0.5 (Å)", "measured 0.5 (Å)", "measured 0.143 (Å)",
    ]  # fmt: skip
    return ReportTable(header, [_score_row(row) for row in rows], REGION_NOTE)


def _score_row(row: Mapping[str, Any]) -> ReportRow:
    missing, seen = row["regions"]["missing"], row["regions"]["seen"]
    cells = [
        row["title"],
        number(row["cc"]),
        number(missing["bands"]["band"]["fcc"]),
        number(missing["bands"]["low"]["fcc"]),
        number(missing["bands"]["mid"]["fcc"]),
        number(missing["bands"]["band"]["excess_power"], 2),
        number(seen["bands"]["band"]["fcc"]),
        number(seen["bands"]["low"]["slope"], 2),
        resolution_text(missing["resolution"]["0.5"]),
        resolution_text(seen["resolution"]["0.5"]),
        resolution_text(seen["resolution"]["0.143"]),
    ]
    return ReportRow(cells, {"restored": "strong", "oracle": "quiet"}.get(row["kind"], ""))


def number(value: float | None, digits: int = 3) -> str:
    """Format for a table: fixed digits, a dash for nothing, no endless ratios."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value) or abs(value) >= 1000:
        return "> 1000"
    return f"{value:z.{digits}f}".replace("-", "−")  # z: no minus before a zero


def resolution_text(value: Mapping[str, Any]) -> str:
    """Format a resolution with its bound."""
    if value["angstrom"] is None or math.isnan(value["angstrom"]):
        return "–"
    sign = {"better than": "< ", "worse than": "> "}.get(value["bound"], "")
    return f"{sign}{value['angstrom']:.0f}"


def plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The main columns as lines of text, for a terminal."""
    counted = all("particles" in row for row in rows)
    names = ["", "cc", "wedge", "low", "mid", "seen", "res. wedge", "res. seen", *(["lost", "invented"] * counted)]
    lines = [
        f"{names[0]:<36}" + "".join(f"{n:>8}" for n in names[1:6]) + "".join(f"{n:>12}" for n in names[6:])
    ]
    for row in rows:
        cells = _score_row(row).cells
        values = [cells[i] for i in (1, 2, 3, 4, 6)]
        last = [f"{cells[i]}{' Å' if cells[i] != '–' else ''}" for i in (8, 9)]
        last += [str(row["particles"][key]) for key in ("lost", "invented")] if counted else []
        lines.append(
            f"{cells[0]:<36}" + "".join(f"{v:>8}" for v in values) + "".join(f"{v:>12}" for v in last)
        )
    return "\n".join(lines)


def evaluation_report(result: Mapping[str, Any], figures: Mapping[str, bytes]) -> Report:
    """Put an evaluation into a report.

    Parameters
    ----------
    result : mapping
        What `restoration.evaluate.evaluate` returns.
    figures : mapping
        From `evaluation_figures`.
    """
    sections = [
        ReportSection(
            "What changed",
            ["Central slices; every column has its own grey levels, since noise and units differ."],
            [
                ReportFigure(
                    figures["slices"],
                    "Top: xy, seen along the beam. Bottom: xz, beam upwards, where the wedge smears.",
                    "slices",
                )
            ],
        ),
        ReportSection(
            "Where the information lies",
            [],
            [
                ReportFigure(
                    figures["spectra"],
                    "Power spectra (logarithmic) seen along the tilt axis. Dashed: ends of the tilt range; "
                    "between them, above and below, nothing was measured.",
                    "power spectra",
                )
            ],
        ),
    ]
    if "fsc" in figures:
        sections.append(_truth_section(result, figures["fsc"]))
    for part, heading in (("structure", "Structure alone"), ("background", "Random background alone")):
        if result.get(part):
            note = "Against this part of the truth. A random background cannot be predicted in the wedge."
            sections.append(
                ReportSection(heading, [note], (), [score_table(result[part], result["voxel_size_angstrom"])])
            )
    if result.get("particles"):
        sections.append(_particle_section(result))
    if "halves" in figures:
        sections.append(_halves_section(result, figures["halves"]))
    good = result.get("beats_best_null_in_wedge")
    mood = "" if good is None else "good" if good else "bad"
    return Report(
        title=f"Evaluation of {result['name']}",
        subtitle=_subtitle(result),
        verdict=Verdict(result["verdict"], mood),
        sections=sections,
        footer=f"cryoaae {result['version']}. All numbers are in evaluation.json beside this file.",
    )


def _subtitle(result: Mapping[str, Any]) -> str:
    z, y, x = result["shape_zyx"]
    lo, hi = result["wedge"]["tilt_range_deg"]
    return f"{x} × {y} × {z} voxels of {result['voxel_size_angstrom']:.4g} Å; tilts {lo:g}° to {hi:g}°"


def _truth_section(result: Mapping[str, Any], fsc_png: bytes) -> ReportSection:
    caption = (
        "Correlation with the truth, shell by shell. Higher is better; the thick line is the restoration."
    )
    return ReportSection(
        "Against the truth",
        result["sentences"],
        [ReportFigure(fsc_png, caption, "Fourier shell correlation")],
        [score_table(result["rows"], result["voxel_size_angstrom"])],
    )


def _particle_section(result: Mapping[str, Any]) -> ReportSection:
    facts = result["particles"]
    note = (
        "A matched filter, up to the end of the middle band. Lost: listed particles that do not stand out from density "
        "without structure. Invented: peaks like a particle, and half as strong, where the truth is empty. The "
        f"threshold of a class is exceeded at {facts['nominal_rate']:.1%} of the places of random density."
    )
    counts = [(row["title"], row["particles"], row["kind"]) for row in result["rows"]]
    counts.append(("Random density of the truth's spectrum", facts["noise"], "quiet"))
    rows = [
        ReportRow(
            [title, *(str(c[k]) for k in ("particles", "lost", "invented")), number(100 * c["above_in_empty"], 2)],
            "strong" if kind == "restored" else "",
        )
        for title, c, kind in counts
    ]
    header = ["", "particles", "lost", "invented", "empty places above the threshold, %"]
    return ReportSection("Particles lost and invented", [note], (), [ReportTable(header, rows)])


def _halves_section(result: Mapping[str, Any], halves_png: bytes) -> ReportSection:
    halves = result["halves"]
    rows = [
        ReportRow([c["title"], number(c["correlation"]), number(c["share_of_ceiling"])])
        for c in halves["bands"]
    ]
    caption = (
        "A restored half against the other raw half, where data were measured. The other half's noise is "
        "independent, so nothing invented can help; its noise also sets the ceiling."
    )
    table = ReportTable(
        ["", "correlation", "share of the ceiling (estimated correlation with the structure)"], rows
    )
    return ReportSection(
        "Against the other half", halves["sentences"], [ReportFigure(halves_png, caption, "halves")], [table]
    )

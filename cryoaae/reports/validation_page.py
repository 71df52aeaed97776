"""A page that says what of a restoration can be trusted, and how far; each check with a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cryoaae.reports.calibration_section import stated_section
from cryoaae.reports.evaluation import number
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.validation_hidden_tilts import (
    held_out_section,
    hidden_section,
    resolution_sentence,
    single_section,
)
from cryoaae.reports.validation_numbers import (
    INTERVAL,
    NULL_NAMES,
    Json,
    degree,
    degrees,
    has_kept_out,
    intervals,
    is_single,
    null_tests,
    range_text,
    values,
)

VERDICTS = {
    "trusted": ("Trusted. No check found a reason to doubt this restoration.", "good"),
    "caution": ("Use with caution.", ""),
    "do not use": ("Do not use this restoration.", "bad"),
}


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
    hidden_tilts = single_section if is_single(result["held_out"]) else held_out_section
    sections.append(hidden_tilts(result, figures))
    if result["hidden_from_fitting"] is not None:
        sections.append(hidden_section(result, figures))
    if result["measured"] is not None:
        sections.append(_measured_section(result["measured"]["shells"], figures))
    if not is_single(result["held_out"]):
        sections.append(stated_section(result["calibration"]))
    nulls = null_tests(result)
    if nulls:
        sections.append(_null_section(nulls, figures))
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
    tilts = degrees(result["wedge"]["tilt_range_deg"])
    return f"{x} × {y} × {z} voxels of {result['voxel_size_angstrom']:.4g} Å; tilts {tilts}"


def _verdict(result: Json) -> Verdict:
    text, mood = VERDICTS[result["verdict"]]
    raised = [r["check"] for r in result["reasons"] if r["level"] != "ok"]
    if raised:
        text += f" {'Reason' if len(raised) == 1 else 'Reasons'}: {', '.join(raised)}; see below."
    if result["verdict"] != "do not use":
        text += f" {resolution_sentence(result['held_out'])}"
    return Verdict(text, mood)


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


def _measured_section(shells: Sequence[Json], figures: Mapping[str, bytes]) -> ReportSection:
    compares = has_kept_out(shells)
    compared = "the two curves should lie within each other's bands; " if compares else ""
    caption = (
        f"Higher is better. Left: {compared}a band is the {INTERVAL}. Right: the ceiling is the square root of the "
        "correlation between the raw halves."
    )
    sentences = [
        "Left: the estimated correlation of the restoration with the structure, where data were measured.",
        *_gap_sentences(shells),
        "Right: a restored half is compared with the other raw half. No restoration can pass the ceiling, for that "
        "half holds noise of its own.",
        *_ceiling_sentences(shells, "kept_out" if compares else "fitted"),
    ]
    figure = ReportFigure(figures["measured"], caption, "correlation where data were measured")
    return ReportSection("Where data were measured", sentences, [figure])


def _gap_sentences(shells: Sequence[Json]) -> list[str]:
    """Whether boxes kept out of fitting are worse than the rest, by more than noise could make them."""
    if not has_kept_out(shells):
        return [
            "No boxes that were kept out of fitting lie in the part that was checked. So whether the network "
            "learnt noise by heart cannot be said."
        ]
    sentences = [
        "Some boxes were kept out of fitting and are compared with the rest. A gap between the two means that "
        "the network learnt noise by heart."
    ]
    gaps = values(shells, "fitted", "correlation") - values(shells, "kept_out", "correlation")
    lowest, highest = intervals(shells, "fitted")[0], intervals(shells, "kept_out")[1]
    gaps = np.where(lowest > highest, gaps, np.nan)
    if np.isfinite(gaps).any():
        worst = int(np.nanargmax(gaps))
        sentences.append(
            f"The largest gap that noise cannot explain is {number(float(gaps[worst]), 2)}, at "
            f"{range_text(shells[worst])}."
        )
    else:
        sentences.append("Here noise can explain every gap.")
    return sentences


def _ceiling_sentences(shells: Sequence[Json], part: str) -> list[str]:
    """What a curve near or above the ceiling means."""
    if part == "fitted":
        return ["Where fitting has seen both halves, this curve may be too high."]
    passes = values(shells, part, "against_other_half") > values(shells, part, "ceiling")
    return ["Where the curve lies above it here, that is chance."] if passes.any() else []


def _null_section(nulls: Mapping[str, Json], figures: Mapping[str, bytes]) -> ReportSection:
    sentences = [
        "The same pipeline was given data without any structure: "
        + ("noise only, or " if "noise_only" in nulls else "")
        + "data with the tomogram's spectrum but random phases.",
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
            f"Stated tilt range: {degrees(stated)}. None could be estimated from the data, "
            "so the stated one could not be checked."
        ]
    else:
        axis = geometry["estimated_axis_deg"]
        sentences = [
            f"Stated tilt range: {degrees(stated)}. Estimated from the data: {degrees(estimated)}"
            + ("." if axis is None else f", about an axis at {degree(axis)}."),
            "The network fills where the stated range says that nothing was measured. "
            "A wrong range makes it fill the wrong place.",
        ]
    return ReportSection("Geometry", [*sentences, *(_sentence(warning) for warning in geometry["warnings"])])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + ("" if text.endswith((".", "!", "?")) else ".")

"""A page that shows a restoration: beside its input, and what of it was measured and what was filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryoaae.reports.evaluation import number
from cryoaae.reports.html import Report, ReportFigure, ReportSection, Verdict
from cryoaae.reports.validation_numbers import degrees


def restoration_report(facts: Mapping[str, Any], figures: Mapping[str, bytes]) -> Report:
    """Put a restoration into a report.

    Parameters
    ----------
    facts : mapping
        From `restoration_report.write_restoration_report`.
    figures : mapping
        ``slices`` and ``spectra``, PNG.
    """
    z, y, x = facts["shape_zyx"]
    source = "two halves" if facts["halves"] == 2 else "one volume"
    return Report(
        title=f"Restoration of {facts['name']}",
        subtitle=f"{x} × {y} × {z} voxels of {facts['voxel_size_angstrom']:.4g} Å, {source}; tilts "
        f"{degrees(facts['tilt_range_deg'])}",
        verdict=Verdict(
            f"{100 * facts['filled_share']:.0f} % of its variance lies where nothing was measured: that part was "
            "predicted."
        ),
        sections=[
            _slices_section(facts, figures["slices"]), _spectra_section(figures["spectra"]), _next_section(facts),
        ],
        footer=f"cryoaae {facts['version']}; {facts['output']}, made in {number(facts['seconds'], 0)} s.",
    )  # fmt: skip


def _slices_section(facts: Mapping[str, Any], slices: bytes) -> ReportSection:
    z, y, x = facts["shown_zyx"]
    part = "" if facts["shown_zyx"] == facts["shape_zyx"] else f" of the middle {x} × {y} × {z} voxels"
    sentences = [
        "The last two columns add up to the second: what was measured, with less noise, and what was filled in.",
        "Structures are smeared along the beam, which is upwards in xz, by what was not measured.",
    ]
    if facts["undone"]:
        sentences.append(f"Contrast transfer undone: {facts['undone']}.")
    caption = f"Central slices{part}, xy (seen along the beam) above, xz below; every column has its own grey levels."
    figure = ReportFigure(slices, caption, "slices of input and restoration")
    return ReportSection("Before and after", sentences, [figure])


def _spectra_section(spectra: bytes) -> ReportSection:
    caption = "Log power seen along the tilt axis, of the same voxels. Lines: the ends of the tilt range."
    return ReportSection("Where it has power", (), [ReportFigure(spectra, caption, "power spectra with the wedge")])


def _next_section(facts: Mapping[str, Any]) -> ReportSection:
    model = "" if facts["general"] else " --model RUN"
    return ReportSection(
        "Before you trust it",
        [
            f"cryoaae validate{model} hides measured tilts, restores and compares: how far the filled part holds.",
            f"cryoaae sample{model} draws what else the tomogram may look like, and writes how sure each place is.",
        ],
    )

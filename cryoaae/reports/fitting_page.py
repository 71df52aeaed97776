"""A page that says what a fit saw, how its losses went, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.validation_numbers import degrees

REASONS = {"steps": "all steps were made", "minutes": "the time was up"}
STARTS = {"general": "the restorer that comes along", "spectrum": "the tomogram's spectrum"}


def fitting_report(result: Mapping[str, Any], losses: bytes, previews: Sequence[tuple[str, bytes]]) -> Report:
    """Put a fit into a report.

    Parameters
    ----------
    result : mapping
        ``run`` (its folder), ``names``, ``halves`` (whether there are two), ``tilt_ranges_deg``, ``start``, ``steps``,
        ``minutes``, ``reason`` (why it ended), ``working_bin``, ``working_voxel_angstrom``, ``held_out`` (losses on
        what was kept out of fitting), ``changed`` (settings that are not the defaults), ``device``, ``version``.
    losses : bytes
        Figure of the losses, PNG; empty where nothing was kept out of fitting.
    previews : sequence of (title, PNG)
        The patch kept out, as it was restored at first and at last.
    """
    voxel, reason = result["working_voxel_angstrom"], REASONS.get(result["reason"], result["reason"])
    sections = [_tomograms_section(result)]
    if losses:
        sections.append(_losses_section(result, losses))
    if previews:
        sections.append(_patch_section(previews))
    sections += [_settings_section(result["changed"]), _next_section(result)]
    return Report(
        title=f"Fit of {', '.join(result['names'])}",
        subtitle=f"from {STARTS.get(result['start'], result['start'])}; working voxels of {voxel:.4g} Å "
        f"(binned by {result['working_bin']}), so nothing finer than {2 * voxel:.4g} Å is learned",
        verdict=Verdict(f"{result['steps']} steps in {result['minutes']:.3g} minutes; {reason}."),
        sections=sections,
        footer=f"cryoaae {result['version']}, on {result['device']}. Losses are in metrics.csv, all settings in "
        "config.yaml, inputs and versions in run.json beside this file.",
    )


def _tomograms_section(result: Mapping[str, Any]) -> ReportSection:
    seen = "two halves" if result["halves"] else "one volume"
    rows = [
        ReportRow([name, seen, degrees(tilts)])
        for name, tilts in zip(result["names"], result["tilt_ranges_deg"], strict=True)
    ]
    said = [] if result["halves"] else [
        "There are no halves: noise was estimated from the quietest blocks, and nothing could be held against a "
        "second measurement."
    ]  # fmt: skip
    return ReportSection("What was fitted on", said, tables=[ReportTable(["tomogram", "as", "tilts"], rows)])


def _losses_section(result: Mapping[str, Any], losses: bytes) -> ReportSection:
    held_out = result["held_out"]
    sentences = [
        "Boxes were kept out of fitting; the weights kept are those that did best there. A loss there that rises while "
        "the other falls shows learning by heart.",
        "Steps down are the times at which the tomogram's own wedge was filled anew: before and after one, losses are "
        "of other inputs.",
    ]
    if len(held_out) > 1 and min(held_out) == held_out[0]:
        sentences.insert(0, "On what was kept out it was never better than at its start.")
    figure = ReportFigure(losses, "Each value faint, a running mean strong.", "losses against steps")
    return ReportSection("How it went", sentences, [figure])


def _patch_section(previews: Sequence[tuple[str, bytes]]) -> ReportSection:
    caption = "A patch kept out of fitting, with two wedges: input, what was restored, what the other half measured."
    figures = [ReportFigure(picture, f"{title}. {caption}", f"restored patch, {title}") for title, picture in previews]
    return ReportSection("A patch that it has not seen", (), figures)


def _settings_section(changed: Mapping[str, Any]) -> ReportSection:
    if not changed:
        return ReportSection("Settings", ["All settings are the defaults."])
    rows = [ReportRow([key, f"{value}"]) for key, value in changed.items()]
    return ReportSection("Settings", tables=[ReportTable(["not the default", "value"], rows)])


def _next_section(result: Mapping[str, Any]) -> ReportSection:
    run, given = result["run"], "--even E.mrc --odd O.mrc" if result["halves"] else "TOMOGRAM.mrc"
    return ReportSection(
        "What to do with it",
        [
            f"Restore: cryoaae restore {given} --model {run} -o RESTORED.mrc",
            f"Before you trust it: cryoaae validate {given} --model {run} -o VALIDATION. It hides measured tilts from "
            "the network and compares, and gives it noise and structureless texture. The losses above say nothing of "
            "your tomogram's own wedge, which was never measured.",
        ],
    )

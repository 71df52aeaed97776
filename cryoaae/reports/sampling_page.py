"""A page that says what the draws of a tomogram leave open, whether that was checked, and what they do not say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cryoaae.reports.calibration_section import calibration_section, calibration_verdict
from cryoaae.reports.evaluation import number
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable
from cryoaae.reports.validation_numbers import angstrom, degrees, range_text

REGION_NAMES = {"measured": "where data were measured", "wedge": "in the missing wedge"}
NAMES = {
    "learned": "the learned sampler", "bootstrap": "the bootstrap", "importance": "importance sampling",
    "langevin": "Langevin walks",
}  # fmt: skip
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FAULTS = {
    "bootstrap": "The bootstrap takes the restoration for the truth. What the network can never recover is missing "
    "from the restoration and so from the spread, which is therefore too small, most so in the missing wedge. Where "
    "data were measured it may be too large instead: a turned structure loses directions that yours did not lose.",
    "learned": "The sampler learned on simulations how restorations err. What is unlike them may err otherwise, and so "
    "may a fit of your own.",
    "importance": "Each place hears the few voxels about it and nothing else; where too few candidates count the "
    "temperature is raised. Their errors were learned on simulations.",
    "langevin": "Without a discriminator the walk knows the data and a spectrum, and nothing of structures: less than "
    "the restoration that it is compared with.",
}


def sampling_report(result: Mapping[str, Any], figures: Mapping[str, bytes]) -> Report:
    """Put draws into a report.

    Parameters
    ----------
    result : mapping
        The numbers, as written to report.json.
    figures : mapping
        From `sampling_figures`.
    """
    z, y, x = result["shape_zyx"]
    tilts = degrees(result["wedge"]["tilt_range_deg"])
    sections = [_slices_section(figures["slices"]), _regions_section(result, figures["spread"])]
    if result["calibrated"]:
        sections.append(calibration_section(result["calibration"], figures.get("reliability", b"")))
    if result.get("sampling"):
        sections.append(_sampling_section(result["sampling"]))
    if result["modes"]:
        sections.append(_modes_section(result, figures["modes"]))
    sections.append(_limits_section(result))
    return Report(
        title=f"Draws of {result['name']}",
        subtitle=f"{x} × {y} × {z} voxels of {result['voxel_size_angstrom']:.4g} Å; tilts {tilts}; "
        f"{result['draws']} draws by {NAMES.get(result['sampler'], result['sampler'])}"
        + (", fitted on halves" if result.get("weights") else ""),
        verdict=calibration_verdict(result["calibration"], FAULTS.get(result["sampler"], "")),
        sections=sections,
        footer=f"cryoaae {result['version']}; sampled with {result['model']} in {number(result['seconds'], 0)} s. "
        "All numbers are in report.json beside this file.",
    )


def _slices_section(slices: bytes) -> ReportSection:
    sentences = [
        "The first two columns add up to the third: what was measured, with less noise, and what the network filled in "
        "where nothing was measured.",
        "The last column is the spread of the draws: bright where they differ from the restoration.",
    ]
    caption = (
        "Central slices, xy (seen along the beam) above and xz (beam upwards) below; every column has its own grey "
        "levels."
    )
    figure = ReportFigure(slices, caption, "slices of measured and filled-in parts and of the spread")
    return ReportSection("What was measured, what was filled in, and how sure it is", sentences, [figure])


def _regions_section(result: Mapping[str, Any], spread: bytes) -> ReportSection:
    regions = result["regions"]
    rows = [
        ReportRow([REGION_NAMES[name], _percent(facts["share_of_spread"]), number(facts["over_restoration"], 2)])
        for name, facts in regions.items()
    ]
    shells = [
        ReportRow([range_text(shell), *(number(shell[name], 2) for name in REGION_NAMES)])
        for shell in result["shells"]
    ]
    sentences = [
        f"{_percent(regions['wedge']['share_of_spread'])} of the spread's power lies in the missing wedge, "
        f"{_percent(regions['measured']['share_of_spread'])} where data were measured, the rest at the border.",
        "At 1 the draws differ from the restoration by as much as the restoration itself is strong: then nothing is "
        "known.",
    ]
    caption = "Root mean square of the spread over that of the restoration. Lower is surer."
    return ReportSection(
        "Where the spread lies", sentences, [ReportFigure(spread, caption, "spread by resolution")],
        [
            ReportTable(["", "share of the spread", "spread over restoration"], rows),
            ReportTable(["resolution", *REGION_NAMES.values()], shells, "Spread over restoration, shell by shell."),
        ],
    )  # fmt: skip


def _sampling_section(fared: Mapping[str, Any]) -> ReportSection:
    """How a sampler that weighs or walks fared: effective numbers, place by place or cell by cell."""
    sentences = [f"{fared['message'][:1].upper()}{fared['message'][1:]}."]
    if fared["gamma"] != 1:
        sentences.append(f"At temperature {fared['gamma']:g} this is a what-if: its spread is no law of errors.")
    if "each" in fared:
        each = fared["each"]
        ess, gamma = (sorted(itertools.chain(*each[name])) for name in ("ess", "gamma"))
        khat = sorted(k for k in itertools.chain(*each["khat"]) if k is not None)
        rows = [
            ReportRow([name, *(number(_quantile(values, q), 2) for q in QUANTILES)])
            for name, values in (("effective candidates", ess), ("Pareto k", khat), ("temperature", gamma))
            if values
        ]
        heads = ["of the places", *(f"{q:.0%}" for q in QUANTILES)]
        note = f"Quantiles over {fared['places']} places; report.json has each of them."
        return ReportSection("How many candidates count", sentences, [], [ReportTable(heads, rows, note)])
    rows = [
        ReportRow([cell["cell"], number(cell["rhat"], 3), number(cell["ess"], 0)]) for cell in fared.get("cells", ())
    ]
    sentences.append(f"{fared['acceptance']:.0%} of the steps were accepted.")
    tables = [ReportTable(["power of", "R-hat", "effective draws"], rows)] if rows else []
    return ReportSection("Whether the chains agree", sentences, [], tables)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


def _modes_section(result: Mapping[str, Any], modes: bytes) -> ReportSection:
    shares, draws = result["modes"], result["draws"]
    sentences = [
        "A mode is a way in which the draws differ together: the restoration plus and minus a mode are both as "
        "likely as a draw.",
        f"Of {draws} draws a mode holds {_percent(1 / draws)} of the variance if they have nothing in common; "
        f"the first holds {_percent(shares[0])}.",
    ]
    rows = [ReportRow([f"mode_{i:02d}.mrc", _percent(share)]) for i, share in enumerate(shares, start=1)]
    figure = ReportFigure(modes, "Central slices of the strongest modes, xy above and xz below.", "principal modes")
    return ReportSection(
        "In which directions", sentences, [figure], [ReportTable(["file", "share of the variance"], rows)]
    )


def _limits_section(result: Mapping[str, Any]) -> ReportSection:
    finest = 2 * result["working_voxel_angstrom"]
    sentences = [
        f"The spread speaks of detail coarser than about {angstrom(finest)} Å, the grid the network works on. Finer "
        f"detail ({_percent(result['finer_share'])} of the restoration's variance) is the same in every draw: of its "
        "error nothing is said.",
        f"The {result['draws']} draws of a single voxel scatter by about {_percent((2 * result['draws']) ** -0.5)} of "
        "their spread, so std.mrc is the mean over a window of two of the network's voxels, too.",
    ]
    return ReportSection("What is not said", sentences)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 0 if share >= 0.0995 else 1)} %"

"""What the page of a validation says of hidden tilts: those of two halves, of a single volume, and of fitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cryoaae.reports.evaluation import number
from cryoaae.reports.html import ReportFigure, ReportRow, ReportSection, ReportTable
from cryoaae.reports.validation_figures import EXTRAPOLATED_SHARE
from cryoaae.reports.validation_numbers import (
    INTERVAL,
    Json,
    degrees,
    is_open_ended,
    is_scored,
    is_single,
    listed,
    null_tests,
    range_text,
    resolution_text,
    score_text,
    values,
)

SCORE_NOTE = (
    f"Correlation: 1 is perfect, 0 is nothing; in brackets its {INTERVAL}. Slope: the factor by which the filled-in "
    "density should be multiplied; 1 is honest, far below 1 is invented. Recovered: share of the hidden structure's "
    "power that is explained; below 0 is worse than leaving it empty."
)


def resolution_sentence(held_out: Json) -> str:
    """How far to trust what is filled in."""
    if is_single(held_out):
        return "From a single volume it cannot be said up to which resolution what is filled in can be trusted."
    wedge, trusted = held_out["wedge"], held_out["trusted_correlation"]
    if not np.isfinite(values(wedge["curve"], "expected")).any():
        return "How far to trust what is filled in could not be measured."
    limit = resolution_text(held_out)
    if not limit:
        return (
            "Trust what is filled in at no resolution: the expected correlation is below "
            f"{trusted:g} already at the coarsest."
        )
    falls = f"its expected correlation with the truth falls below {trusted:g}"
    sentence = (
        f"Trust what is filled in up to {limit}. Finer than that, "
        f"{'nothing was checked' if is_open_ended(held_out) else falls}."
    )
    reached = [p for p in wedge["curve"] if p["low_per_angstrom"] < 1 / wedge["resolution_angstrom"]]
    if (values(reached, "extrapolated_share") > EXTRAPOLATED_SHARE).any():
        sentence += " Part of this range is extrapolated, not tested."
    return sentence


def held_out_section(result: Json, figures: Mapping[str, bytes]) -> ReportSection:
    """Tilts that were hidden from a restoration of two halves."""
    held_out = result["held_out"]
    sentences = [
        _how_hidden(held_out),
        "Strict: nothing of what was hidden was known to the method. But less data was left than in the real "
        "restoration, so this is usually too low. Lenient: what was hidden had helped to fill the rest before. In "
        "simulations the truth lay near the lenient score, so that is what is expected in the missing wedge.",
        *_pooled_sentences(held_out),
        *_wedge_sentences(result),
    ]
    caption = (
        f"Correlation by resolution (1 is perfect, 0 is nothing). A band on the left is the {INTERVAL}; the band on "
        "the right is the range between strict and expected."
    )
    header = ["resolution", "strict correlation", "slope", "recovered", "lenient correlation"]
    table = _score_table(held_out, header, f"{SCORE_NOTE} All but the last column are strict.")
    return ReportSection("How good is what was filled in?", sentences, _figures(figures, caption), [table])


def single_section(result: Json, figures: Mapping[str, bytes]) -> ReportSection:
    """Tilts that were hidden from a restoration of a single volume: bounds, and what cannot be said."""
    held_out = result["held_out"]
    can = [
        "whether what is filled in has anything in common with what was measured",
        "whether it is too strong (the slope)",
    ]
    if null_tests(result):
        can.append("whether the network makes structure out of a texture without any")
    if result["geometry"]["estimated_range_deg"] is not None:
        can.append("whether the stated tilts fit the data")
    sentences = [
        "There is a single volume, not two halves. Its noise cannot be told from its structure.",
        _how_hidden(held_out),
        "What was measured holds noise, which nothing can foresee. So correlations and what is recovered, where above "
        "0, are at least what is said here. How much more cannot be said.",
        *_pooled_sentences(held_out),
        f"What can be said: {listed(can)}. {resolution_sentence(held_out)}",
        "Passing these checks does not show that the filled-in structure is right. For more, reconstruct two half "
        "tomograms (even and odd frames, or even and odd tilts) and validate with both.",
    ]
    caption = f"Least correlation by resolution (1 is perfect, 0 is nothing); the band is the {INTERVAL}."
    table = _score_table(held_out, ["resolution", "correlation, at least", "slope", "recovered, at least"], SCORE_NOTE)
    heading = "Single volume: what can and cannot be said"
    return ReportSection(heading, sentences, _figures(figures, caption), [table])


def hidden_section(result: Json, figures: Mapping[str, bytes]) -> ReportSection:
    """Tilts that were hidden from fitting."""
    hidden = result["hidden_from_fitting"]
    (low, high), (first, last) = result["wedge"]["tilt_range_deg"], hidden["fitted_range_deg"]
    strips = [degrees(strip) for strip in ((low, first), (last, high)) if strip[1] > strip[0]]
    sentences = [
        f"Tilts from {listed(strips)} were hidden from fitting altogether: the network never saw them, not even as "
        "a target. This is the strictest test.",
        f"What it puts in their place has a correlation of {score_text(hidden['whole'])} with the structure. In "
        f"brackets the {INTERVAL}."
        if is_scored(hidden["whole"])
        else "Too little of them could be scored to say how well they are filled in.",
        "The restoration that is tested here is that of a model fitted on fewer tilts. For the restoration to keep, "
        "fit again without --hold-out-deg.",
    ]
    caption = (
        f"Correlation by resolution of what was put where tilts were hidden from fitting; the band is the {INTERVAL}."
    )
    figure = ReportFigure(figures["hidden_from_fitting"], caption, "correlation of tilts hidden from fitting")
    return ReportSection("Tilts that fitting was never shown", sentences, [figure])


def _how_hidden(held_out: Json) -> str:
    turns = [f"{turn:g}°" for turn in held_out["turns_deg"]]
    return (
        "Measured tilts were hidden, the network restored, and what it put there was compared with what had "
        f"been measured. The hidden tilts were chosen by turning the tomogram about its tilt axis, by {listed(turns)}."
    )


def _pooled_sentences(held_out: Json) -> list[str]:
    """All hidden tilts together; and whether fitting, which may have seen them, made them easier."""
    sentences = []
    whole, single = held_out["whole"], is_single(held_out)
    if is_scored(whole["strict"]):
        found = _bound_text(held_out, whole["strict"])
        if not single:
            found += f" strict, {score_text(whole['lenient'])} lenient"
        sentences.append(f"All hidden tilts together: correlation {found}. In brackets the {INTERVAL}.")
    kept_out, fitted = held_out["places"]["kept_out"], held_out["places"]["fitted"]
    if is_scored(kept_out):
        sentences.append(
            "Fitting may have seen the hidden tilts, but not in the boxes that were kept out of it: there the "
            f"{'correlation' if single else 'strict correlation'} is {_bound_text(held_out, kept_out)}, in the rest "
            f"{_bound_text(held_out, fitted)}."
        )
    else:
        sentences.append(
            "Fitting may have seen the hidden tilts. No boxes kept out of it could be scored, so whether that helped "
            "cannot be said."
        )
    return sentences


def _bound_text(held_out: Json, score: Json | None) -> str:
    """A correlation, of a single volume as the bound that it is; below 0 it bounds nothing from below."""
    bounded = is_single(held_out) and score is not None and (score["correlation"] or 0) > 0
    return f"{'at least ' if bounded else ''}{score_text(score)}"


def _wedge_sentences(result: Json) -> list[str]:
    sentences = []
    held_out, wedge = result["held_out"], result["held_out"]["wedge"]
    found = wedge["correlation"]
    if found["expected"] is not None:
        sentences.append(
            f"In the tomogram's own missing wedge, on average over the resolutions, the expected correlation is "
            f"{number(found['expected'], 2)} (strict "
            f"{number(found['strict'], 2)})."
        )
    resolution = resolution_sentence(held_out)
    if result["verdict"] == "do not use" and resolution_text(held_out):
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


def _figures(figures: Mapping[str, bytes], caption: str) -> list[ReportFigure]:
    shown = [ReportFigure(figures["held_out"], caption, "correlation of what was filled in")]
    if "distance" in figures:
        caption = (
            "The same hidden tilts by how far, in Fourier space, they lie from the nearest measured data: the further "
            "away, the harder they are to fill."
        )
        shown.append(ReportFigure(figures["distance"], caption, "correlation and error by distance"))
    return shown


def _score_table(held_out: Json, header: Sequence[str], note: str) -> ReportTable:
    """Scores by resolution and together, as many columns as the header has."""
    named = [(range_text(shell), shell, "") for shell in held_out["shells"]]
    rows = []
    for name, scores, kind in [*named, ("all", held_out["whole"], "strong")]:
        strict = scores["strict"] or {}
        cells = [
            name,
            score_text(scores["strict"]),
            number(strict.get("slope"), 2),
            number(strict.get("recovered"), 2),
            score_text(scores.get("lenient")),
        ]
        rows.append(ReportRow(cells[: len(header)], kind))
    return ReportTable(header, rows, note)

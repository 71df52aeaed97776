"""What the checks of a validation say together: trusted, caution, or do not use, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = ("ok", "caution", "do not use")
VERDICTS = {"ok": "trusted", "caution": "caution", "do not use": "do not use"}

# Halves that differ by less than this share of their power are copies of each other.
SAME_HALVES = 1e-4
# What is filled in is no more than chance below this correlation.
NOTHING_FILLED = 0.05
# A filled-in density that should be multiplied by less than this is too loud.
TOO_LOUD = 0.5
# Power put out for noise alone, or put into the wedge of a structureless texture, over that for the data.
# (A linear filter of a very noisy tomogram gives nearly as much for noise: no more than a caution.)
NOISE_AS_STRUCTURE, TEXTURE_AS_STRUCTURE = 0.95, 0.95
# Correlation lost in boxes kept out of fitting, where structure was measured well.
LEARNT_BY_HEART = 0.15


@dataclass(frozen=True)
class Reason:
    """What one check says.

    Parameters
    ----------
    check : str
    level : {"ok", "caution", "do not use"}
    sentence : str
        For people.
    """

    check: str
    level: str
    sentence: str


def verdict(reasons: list[Reason]) -> str:
    """The worst of the levels, as a verdict."""
    return VERDICTS[max((reason.level for reason in reasons), key=LEVELS.index, default="ok")]


def judge_geometry(geometry: Mapping[str, Any]) -> Reason:
    """The stated tilts against the spectrum."""
    if geometry["estimated_range_deg"] is None:
        why = geometry["warnings"][0] if geometry["warnings"] else "the spectrum shows no clear missing wedge"
        said = f"The stated tilts could not be checked: {why}."
        return Reason("tilt geometry", "caution", said)
    if geometry["warnings"]:
        said = "; ".join(geometry["warnings"])
        return Reason("tilt geometry", "do not use", f"{said[:1].upper()}{said[1:]}.")
    low, high = geometry["estimated_range_deg"]
    said = f"The spectrum shows tilts from {low:.0f} to {high:.0f} degrees, as stated."
    return Reason("tilt geometry", "ok", said)


def judge_model(*, fitted_here: bool) -> Reason:
    """Whether the model belongs to this tomogram."""
    if not fitted_here:
        said = "The model was fitted on other tomograms: it may put their structures here."
        return Reason("model", "caution", said)
    return Reason("model", "ok", "The model was fitted on this tomogram.")


def judge_halves(noise_share: float) -> Reason:
    """Whether the halves are two measurements."""
    if not noise_share >= SAME_HALVES:  # nor where it is no number
        said = "The halves are copies of each other: nothing can be checked, and the fit learnt their noise."
        return Reason("halves", "do not use", said)
    return Reason("halves", "ok", "The halves are two measurements with noise of their own.")


def judge_filling(wedge: Mapping[str, Any], slope: float, recovered: float) -> Reason:
    """What was recovered of hidden tilts."""
    expected = wedge["correlation"]["expected"]
    if not math.isfinite(expected):
        said = "Too little could be hidden to say what the filled-in wedge is worth."
        return Reason("filled-in wedge", "caution", said)
    strict = wedge["correlation"]["strict"]
    found = f"what is filled in is expected to correlate {expected:.2f} with the structure ({strict:.2f} at the least)"
    if expected < NOTHING_FILLED:
        said = f"Measured again on hidden tilts, {found}: hardly more than chance."
        return Reason("filled-in wedge", "caution", said)
    if not slope >= TOO_LOUD:
        how = f"{1 / slope:.1f} times too strong" if slope > 0 else "not what was measured"
        return Reason("filled-in wedge", "caution", f"Measured again on hidden tilts, {found}, but it is {how}.")
    if not recovered >= 0:
        said = f"Measured again on hidden tilts, {found}, yet leaving them empty would be nearer to what was measured."
        return Reason("filled-in wedge", "caution", said)
    return Reason("filled-in wedge", "ok", f"Measured again on hidden tilts, {found}.")


def judge_single_filling(whole: Mapping[str, Any] | None) -> Reason:
    """What was recovered of a single volume's hidden tilts: bounds, so never better than a caution."""
    check = "filled-in wedge"
    if whole is None or not math.isfinite(whole["correlation"]):
        return Reason(check, "caution", "Too little could be hidden to say what the filled-in wedge is worth.")
    (low, _), slope = whole["interval"], whole["slope"]
    if not low > 0:
        said = "Measured again on hidden tilts, what is filled in has nothing in common with them that chance has not."
        return Reason(check, "caution", said)
    found = f"what is filled in correlates at least {whole['correlation']:.2f} with the structure"
    if not slope >= TOO_LOUD:
        said = f"Measured again on hidden tilts, {found}, but it is {1 / slope:.1f} times too strong."
        return Reason(check, "caution", said)
    said = f"Measured again on hidden tilts, {found}; how much more cannot be said without halves."
    return Reason(check, "caution", said)


def judge_nulls(nulls: Mapping[str, Any]) -> Reason:
    """Whether structure appears where there is none."""
    noise, texture = nulls["noise_only"], nulls["phase_randomised"]
    if noise is None:
        return _judge_texture(texture["wedge"], "")
    loudest = max((v for v in (noise["measured"], noise["wedge"]) if math.isfinite(v)), default=math.nan)
    if loudest > NOISE_AS_STRUCTURE:
        share = 100 * loudest
        said = f"Given noise alone, it puts out {share:.0f} % of the power that it puts out for the data."
        return Reason("null tests", "caution", said)
    if not all(math.isfinite(v) for v in (noise["measured"], noise["wedge"])):
        return _judge_texture(math.nan, "")
    said = (
        f"given noise alone it puts out {100 * noise['measured']:.0f} % of the power where measured and "
        f"{100 * noise['wedge']:.0f} % in the wedge; "
    )
    return _judge_texture(texture["wedge"], said)


def _judge_texture(filled: float, before: str) -> Reason:
    """Power put into the wedge of a structureless texture, over that for the data."""
    if not math.isfinite(filled):
        said = "The restoration is empty where the null tests look, so they say nothing."
        return Reason("null tests", "caution", said)
    said = f"{before}given a texture without structure it fills {100 * filled:.0f} % as much into the wedge"
    said = said[:1].upper() + said[1:]
    if filled > TEXTURE_AS_STRUCTURE:
        return Reason("null tests", "caution", f"{said}: it hardly tells structure from texture.")
    return Reason("null tests", "ok", f"{said}.")


def judge_measured(gap: float | None) -> Reason | None:
    """Whether noise was learnt by heart: correlation lost in boxes kept out of fitting."""
    if gap is None or not math.isfinite(gap):
        return None
    if gap > LEARNT_BY_HEART:
        said = f"In boxes kept out of fitting the correlation is lower by {gap:.2f}: noise was learnt by heart."
        return Reason("kept-out boxes", "caution", said)
    said = f"Boxes kept out of fitting are restored as well as the rest (difference {gap:+.2f})."
    return Reason("kept-out boxes", "ok", said)

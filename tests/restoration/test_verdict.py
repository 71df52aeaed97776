"""Each check's levels on either side of its threshold, and what they say together."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest

from cryoaae.restoration.verdict import (
    LEARNT_BY_HEART,
    LEVELS,
    NOISE_AS_STRUCTURE,
    NOTHING_FILLED,
    SAME_HALVES,
    TEXTURE_AS_STRUCTURE,
    TOO_LOUD,
    VERDICTS,
    Reason,
    judge_filling,
    judge_geometry,
    judge_halves,
    judge_measured,
    judge_model,
    judge_nulls,
    verdict,
)

OK, CAUTION, NEVER = LEVELS
STEP = 1e-6


def geometry(seen: list[float] | None = None, *warnings: str) -> dict[str, Any]:
    return {"estimated_range_deg": seen, "warnings": list(warnings)}


def wedge(expected: float) -> dict[str, Any]:
    return {"correlation": {"strict": expected - 0.04, "expected": expected}}


def nulls(measured: float = 0.02, wedge: float = 0.03, texture: float = 0.6) -> dict[str, Any]:
    return {
        "noise_only": {"measured": measured, "wedge": wedge},
        "phase_randomised": {"measured": 0.9, "wedge": texture},
    }


def measured(gap: float) -> Reason:
    reason = judge_measured(gap)
    assert reason is not None
    return reason


# What is judged, the level, and words that its sentence must have.
CASES: dict[str, tuple[Reason, str, str]] = {
    # tilt geometry
    "tilts as stated": (judge_geometry(geometry([-59.6, 60.2])), OK, "from -60 to 60 degrees, as stated"),
    "no wedge seen": (judge_geometry(geometry(None, "the spectrum shows no clear wedge")), CAUTION, "not be checked"),
    "tilts not as stated": (judge_geometry(geometry([-40.0, 60.0], "stated tilts are off")), NEVER, "Stated tilts are"),
    "two warnings": (judge_geometry(geometry([-40.0, 60.0], "axis is off", "tilts are off")), NEVER, "off; tilts are"),
    # model
    "own model": (judge_model(fitted_here=True), OK, "on this tomogram"),
    "another's model": (judge_model(fitted_here=False), CAUTION, "other tomograms"),
    # halves
    "copies": (judge_halves(0.0), NEVER, "copies"),
    "nearly copies": (judge_halves(SAME_HALVES * (1 - STEP)), NEVER, "copies"),
    "just two": (judge_halves(SAME_HALVES), OK, "two measurements"),
    "noisy halves": (judge_halves(0.9), OK, "two measurements"),
    # filled-in wedge
    "chance": (judge_filling(wedge(NOTHING_FILLED - STEP), 1.0, 0.1), CAUTION, "hardly more than chance"),
    "against the structure": (judge_filling(wedge(-0.2), 1.0, 0.1), CAUTION, "hardly more than chance"),
    "just filled": (judge_filling(wedge(NOTHING_FILLED), 1.0, 0.1), OK, "correlate 0.05"),
    "good": (judge_filling(wedge(0.5), 1.0, 0.3), OK, "correlate 0.50 with the structure (0.46 at the least)"),
    "too loud": (judge_filling(wedge(0.5), TOO_LOUD - STEP, 0.1), CAUTION, "2.0 times too strong"),
    "four times": (judge_filling(wedge(0.5), 0.25, -1.0), CAUTION, "4.0 times too strong"),
    "upside down": (judge_filling(wedge(0.5), -0.3, -1.0), CAUTION, "but it is not what was measured"),
    "no slope": (judge_filling(wedge(0.5), math.nan, 0.1), CAUTION, "not what was measured"),
    "nothing expected": (judge_filling(wedge(math.nan), 1.0, 0.1), CAUTION, "Too little"),
    "empty in the wedge": (judge_nulls(nulls(wedge=math.nan)), CAUTION, "say nothing"),
    "noise in one region": (judge_nulls(nulls(measured=math.nan, wedge=0.96)), CAUTION, "96 %"),
    "no noise known": (judge_halves(math.nan), NEVER, "copies"),
    "just not too loud": (judge_filling(wedge(0.5), TOO_LOUD, 0.1), OK, "0.50"),
    "too faint": (judge_filling(wedge(0.5), 3.0, 0.1), OK, "0.50"),
    "better empty": (judge_filling(wedge(0.5), 0.6, -STEP), CAUTION, "leaving them empty"),
    "no better empty": (judge_filling(wedge(0.5), 0.6, 0.0), OK, "0.50"),
    # null tests
    "quiet": (judge_nulls(nulls()), OK, "2 % of the power where measured and 3 % in the wedge"),
    "noise where measured": (judge_nulls(nulls(measured=NOISE_AS_STRUCTURE + STEP)), CAUTION, "puts out 95 %"),
    "noise in the wedge": (judge_nulls(nulls(wedge=0.97)), CAUTION, "puts out 97 %"),
    "just bearable noise": (judge_nulls(nulls(NOISE_AS_STRUCTURE, NOISE_AS_STRUCTURE)), OK, "95 % in the wedge"),
    "texture filled": (judge_nulls(nulls(texture=TEXTURE_AS_STRUCTURE + STEP)), CAUTION, "structure from texture"),
    "texture told": (judge_nulls(nulls(texture=TEXTURE_AS_STRUCTURE)), OK, "95 % as much"),
    "noise is worse than texture": (judge_nulls(nulls(wedge=0.97, texture=2.0)), CAUTION, "noise alone"),
    # kept-out boxes
    "by heart": (measured(LEARNT_BY_HEART + STEP), CAUTION, "lower by 0.15"),
    "just not by heart": (measured(LEARNT_BY_HEART), OK, "+0.15"),
    "no gap": (measured(0.0), OK, "+0.00"),
    "better kept out": (measured(-0.3), OK, "-0.30"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_check_reaches_its_level_and_says_why(case: str) -> None:
    reason, level, words = CASES[case]
    assert reason.level == level
    assert words in reason.sentence


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_is_a_sentence(case: str) -> None:
    sentence = CASES[case][0].sentence
    assert sentence[0].isupper()
    assert re.search(r"[^.]\.$", sentence)
    assert "nan" not in sentence


def test_every_level_that_a_check_has_is_in_the_table_and_a_check_has_one_name() -> None:
    reached: dict[str, set[str]] = {}
    for reason, _, _ in CASES.values():
        reached.setdefault(reason.check, set()).add(reason.level)
    assert reached == {
        "tilt geometry": {OK, CAUTION, NEVER},
        "model": {OK, CAUTION},
        "halves": {OK, NEVER},
        "filled-in wedge": {OK, CAUTION},
        "null tests": {OK, CAUTION},
        "kept-out boxes": {OK, CAUTION},
    }


def test_boxes_that_were_not_kept_out_say_nothing() -> None:
    assert judge_measured(None) is None


def test_a_verdict_is_the_worst_of_what_is_said_in_any_order() -> None:
    for count in range(4):
        for levels in itertools.product(LEVELS, repeat=count):
            worst = NEVER if NEVER in levels else CAUTION if CAUTION in levels else OK
            assert verdict([Reason("check", level, "Said.") for level in levels]) == VERDICTS[worst]
    assert verdict([]) == "trusted"
    assert list(VERDICTS.values()) == ["trusted", "caution", "do not use"]

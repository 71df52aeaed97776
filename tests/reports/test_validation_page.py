from __future__ import annotations

import html
import re

import pytest

from cryoaae.reports.validation_figures import validation_figures
from cryoaae.reports.validation_page import validation_report

FAKE = dict.fromkeys(("slices", "held_out", "distance", "hidden_from_fitting", "measured", "nulls"), b"\x89PNG")


def text(given, figures=FAKE):
    """What is read on the page."""
    return html.unescape(validation_report(given, figures).render()).replace("\u00a0", " ")


def verdict(given):
    found = validation_report(given, FAKE).verdict
    assert found is not None
    return found


def open_ended(held_out, expected=0.8):
    """The expected curve stays up to the finest shell that was tested."""
    for point in held_out["wedge"]["curve"]:
        point["expected"] = expected
    held_out["wedge"]["resolution_angstrom"] = 50.6


def test_the_sentences_that_matter_are_there(result):
    shown = text(result())
    for words in (
        "Validation of tomo",
        "128 × 112 × 96 voxels of 10 Å; tilts −60° to 60°",
        "Use with caution. Reason: held-out tilts",
        "Geometry (ok): The stated tilts fit those found in the data.",
        "Measured tilts were hidden, the network restored",
        "by 15°, 30° and 45°.",
        "usually too low",
        "the truth lay near the lenient score",
        "95 % interval: what the noise leaves open",
        "All hidden tilts together: correlation 0.55 [0.51, 0.59] strict, 0.72 [0.69, 0.75] lenient.",
        "there the strict correlation is 0.51 [0.42, 0.60], in the rest 0.56 [0.52, 0.60].",
        "up to 121 Å. Finer than that, its expected correlation with the truth falls below 0.5.",
        "21 % of the missing wedge lies further from measured data than was tested.",
        "learnt noise by heart",
        "The largest gap that noise cannot explain is 0.08, at 62–54 Å.",
        "No restoration can pass the ceiling, for that half holds noise of its own.",
        "Filling the wedge of random phases is inventing.",
        "Stated tilt range: −60° to 60°. Estimated from the data: −59° to 61°, about an axis at 0°.",
        "The upper end differs by 1°.",
        "0.75 [0.67, 0.83]",
        "All numbers are in report.json beside this file.",
    ):
        assert words in shown, words
    for words in ("Only a part was checked", "Single volume", "never shown", "--hold-out-deg", "or better", "chance"):
        assert words not in shown, words


def test_the_calibration_has_a_section(result):
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text(result())))
    for words in (
        "Calibration: how far off the restoration is, and whether that can be foretold",
        "1.02 times the error where data were measured and 1.25 times that of hidden tilts",
        "hidden tilts 286–167 Å 0.0020–0.0040 1.25 [1.12, 1.38]",
        "52 % 81 % 91 % 96 % 34 %",
        "the halves confirm 90 % (95 % interval 80 % to 100 %)",
        "40 % of the spread's power in the wedge is extrapolated",
    ):
        assert words in shown, words
    assert "before" not in shown.split("Calibration:")[1].split("Error over structure")[0].replace("Before", "")
    nothing = text(result(calibration=None))
    assert "Too little was measured, or there is one volume only" in nothing


@pytest.mark.parametrize(
    ("name", "mood", "words"),
    [("trusted", "good", "Trusted."), ("caution", "", "Use with caution."), ("do not use", "bad", "Do not use")],
)
def test_the_verdict_stands_on_top(result, name, mood, words):
    found = verdict(result(verdict=name))
    assert found.mood == mood
    assert found.text.startswith(words)


def test_a_bad_verdict_is_not_softened_by_a_good_resolution(result):
    given = result(verdict="do not use")
    assert "Trust what" not in verdict(given).text
    assert "The verdict above overrules it." in text(given)


def test_nowhere_and_not_measured_are_told_apart(result):
    given = result()
    given["held_out"]["wedge"]["resolution_angstrom"] = None
    assert "at no resolution: the expected correlation is below 0.5 already at the coarsest." in text(given)
    for point in given["held_out"]["wedge"]["curve"]:
        point["expected"] = None
    assert "could not be measured" in text(given)
    assert "at no resolution" not in text(given)


def test_a_curve_that_never_falls_is_trusted_further_than_was_tested(result):
    given = result()
    open_ended(given["held_out"])
    assert "up to 51 Å or better. Finer than that, nothing was checked." in text(given)
    # A shell that could not be tested says nothing; one that falls does.
    given["held_out"]["wedge"]["curve"][-1]["expected"] = None
    assert "51 Å or better" in text(given)
    given["held_out"]["wedge"]["curve"][-1]["expected"] = 0.49
    assert "or better" not in text(given)


def test_the_trusted_correlation_is_the_results_own(result):
    given = result()
    open_ended(given["held_out"], expected=0.55)
    assert "or better" in text(given)
    given["held_out"]["trusted_correlation"] = 0.6
    assert "or better" not in text(given)
    assert "falls below 0.6." in text(given)


def test_a_resolution_within_the_extrapolated_part_says_so(result):
    given = result()
    assert "Part of this range is extrapolated" not in text(given)
    given["held_out"]["wedge"]["resolution_angstrom"] = 55.0
    assert "Part of this range is extrapolated, not tested." in text(given)


def test_extrapolation_is_said_only_where_there_is_any(result):
    given = result()
    given["held_out"]["wedge"]["extrapolated_share"] = 0.0
    assert "further from measured data than was tested" not in text(given)
    given["held_out"]["wedge"]["extrapolated_share"] = 0.004
    assert "Less than 1 % of the missing wedge" in text(given)


def test_without_kept_out_boxes_it_is_not_said_whether_seeing_the_tilts_helped(result):
    given = result()
    given["held_out"]["places"]["kept_out"] = None
    shown = text(given)
    assert "so whether that helped cannot be said" in shown
    assert "there the strict correlation is" not in shown


def test_hidden_tilts_that_were_not_scored_are_not_summed_up(result):
    given = result()
    given["held_out"]["whole"] = {"strict": None, "lenient": None}
    assert "All hidden tilts together" not in text(given)


def test_tilts_that_fitting_was_never_shown_are_the_strictest_test(result, hidden_from_fitting):
    shown = text(result(hidden_from_fitting=hidden_from_fitting))
    for words in (
        "Tilts that fitting was never shown</h2>",
        "Tilts from 45° to 60° were hidden from fitting altogether: the network never saw them, not even as a target.",
        "This is the strictest test.",
        "What it puts in their place has a correlation of 0.48 [0.43, 0.53] with the structure.",
        "a model fitted on fewer tilts. For the restoration to keep, fit again without --hold-out-deg.",
    ):
        assert words in shown, words
    hidden_from_fitting["fitted_range_deg"] = [-48.5, 60]
    hidden_from_fitting["whole"] = None
    shown = text(result(hidden_from_fitting=hidden_from_fitting))
    assert "Tilts from −60° to −48.5° were hidden" in shown
    assert "Too little of them could be scored" in shown
    assert "in their place has a correlation" not in shown


def test_a_single_volume_gives_bounds_and_says_what_cannot_be_said(single_volume, panels):
    shown = text(single_volume, validation_figures(single_volume, panels))
    for words in (
        "There is a single volume, not two halves.",
        "correlations and what is recovered, where above 0, are at least what is said here.",
        "All hidden tilts together: correlation at least 0.55 [0.51, 0.59]. In brackets",
        "there the correlation is at least 0.51 [0.42, 0.60], in the rest at least 0.56 [0.52, 0.60].",
        "a texture without any. From a single volume it cannot be said up to which resolution",
        "correlation, at least",
        "given data without any structure: data with the tomogram's spectrum but random phases.",
        "None could be estimated from the data",
    ):
        assert words in shown, words
    for words in ("Trust what is", "enient", "trict", "learnt noise", "ceiling", "never shown", "noise only"):
        assert words not in shown, words
    assert "up to which resolution what is filled in can be trusted" in verdict(single_volume).text
    # Noise hides a correlation of either sign: one below 0 bounds nothing from below.
    single_volume["held_out"]["whole"]["strict"]["correlation"] = -0.02
    assert "correlation −0.02 [" in text(single_volume)
    single_volume["geometry"]["estimated_range_deg"] = [-60, 60]
    assert "and whether the stated tilts fit the data. From a single volume" in text(single_volume)


def test_parts_that_are_missing_are_left_out(result):
    given = result(null_tests={"noise_only": None, "phase_randomised": None}, measured=None)
    shown = text(given, validation_figures(given, []))
    assert "Does it invent?" not in shown
    assert "Where data were measured</h2>" not in shown


def test_missing_numbers_are_drawn_and_written_without_complaint(result, panels, hidden_from_fitting):
    given = result(hidden_from_fitting=hidden_from_fitting)
    empty = {
        "correlation": None, "interval": [None, None], "slope": None, "recovered": None,
        "against_other_half": None, "ceiling": None,
    }  # fmt: skip
    held_out = given["held_out"]
    held_out["whole"] = held_out["places"] = {"strict": empty, "lenient": None, "kept_out": empty, "fitted": None}
    for shell in held_out["shells"]:
        shell["strict"], shell["lenient"] = None, empty
    for cell in held_out["cells"]:
        cell["strict"] = cell["lenient"] = empty
    for point in held_out["wedge"]["curve"]:
        point.update(dict.fromkeys(("strict", "expected", "extrapolated_share")))
    held_out["wedge"].update(
        correlation=dict.fromkeys(("strict", "expected")), extrapolated_share=None, resolution_angstrom=None
    )
    hidden_from_fitting["whole"] = empty
    for i, shell in enumerate(hidden_from_fitting["shells"]):
        shell["strip"] = empty if i % 2 else None
    for shell in given["measured"]["shells"]:
        shell["kept_out"], shell["fitted"] = None, empty
    for part in given["null_tests"].values():
        part.update(measured=None, wedge=None)
        for shell in part["shells"]:
            shell.update(measured=None, wedge=None)
    report = validation_report(given, validation_figures(given, panels))
    sentences = [sentence for section in report.sections for sentence in section.sentences]
    cells = [cell for s in report.sections for table in s.tables for row in table.rows for cell in row.cells]
    assert not any(word in sentence for sentence in sentences for word in ("nan", "None,", "[–", " – "))
    assert "nan" not in cells
    assert "learnt noise by heart cannot be said" in text(given)


def test_a_gap_that_noise_can_explain_is_no_sign_of_learning_by_heart(result):
    given = result()
    for shell in given["measured"]["shells"]:
        if shell["kept_out"]:
            shell["kept_out"]["interval"][1] = shell["fitted"]["interval"][0]
    shown = text(given)
    assert "Here noise can explain every gap." in shown
    assert "largest gap" not in shown
    given["measured"]["shells"][3]["kept_out"]["interval"][1] -= 0.001
    assert "The largest gap that noise cannot explain is 0.05, at 118–91 Å." in text(given)


def test_a_curve_above_its_ceiling_is_explained_where_it_happens(result):
    given = result()
    assert "that is chance" not in text(given)
    given["measured"]["shells"][6]["kept_out"]["against_other_half"] = 0.4
    assert "Where the curve lies above it here, that is chance." in text(given)


def test_without_kept_out_boxes_nothing_is_said_of_a_gap(result):
    given = result()
    for shell in given["measured"]["shells"]:
        shell["kept_out"] = None
    shown = text(given)
    assert "learnt noise by heart cannot be said" in shown
    assert "Where fitting has seen both halves, this curve may be too high." in shown
    for words in ("largest gap", "every gap", "two curves", "that is chance"):
        assert words not in shown, words


def test_a_part_of_the_tomogram_is_named(result):
    assert "voxels 8 to 104 in x, 0 to 112 in y, 0 to 96 in z" in text(
        result(region_zyx=[[0, 96], [0, 112], [8, 104]])
    )


def test_every_text_is_escaped(result):
    given = result(name="<b>tomo</b>", model="<b>model", version="<b>1")
    given["reasons"] = [{"check": "<b>c", "level": "ok", "sentence": "<b>s"}]
    given["geometry"]["warnings"] = ["<b>w"]
    shown = validation_report(given, FAKE).render()
    assert "<b>" not in shown
    assert "&lt;b&gt;tomo&lt;/b&gt;" in shown

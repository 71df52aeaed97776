"""The page of draws says what the numbers are, and whether they are calibrated, by what and how far."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import numpy as np
import pytest

from cryoaae.reports.sampling_figures import sampling_figures
from cryoaae.reports.sampling_page import sampling_report

EDGES = np.array([0.02, 0.07, 0.12, 0.17]) / 20.0


@pytest.fixture
def result() -> dict[str, Any]:
    shells = [
        {"low_per_angstrom": a, "high_per_angstrom": b, "measured": 0.2 + 0.1 * i, "wedge": 0.5 + 0.1 * i}
        for i, (a, b) in enumerate(zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True))
    ]
    shells[0]["wedge"] = None
    return {
        "format": "cryoaae sample 1", "version": "0.1.0", "name": "<tomo>", "model": "run", "shape_zyx": [96, 112, 128],
        "voxel_size_angstrom": 10.0, "working_voxel_angstrom": 20.0, "wedge": {"tilt_range_deg": [-60, 60]},
        "calibrated": False, "calibration": {"calibrated": False, "why": "it was not asked for"},
        "spread_rms": 0.3, "finer_share": 0.0214, "sampler": "bootstrap", "draws": 16,
        "regions": {
            "measured": {"share_of_spread": 0.553, "over_restoration": 0.31},
            "wedge": {"share_of_spread": 0.274, "over_restoration": None},
        },
        "shells": shells, "modes": [0.121, 0.08], "seconds": 63.0,
    }  # fmt: skip


def panels(*names: str) -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [(name, draw.normal(size=(16, 20, 24)).astype(np.float32)) for name in names]


def test_the_page_says_it(result: dict[str, Any]) -> None:
    figures = sampling_figures(
        result, panels("Measured only", "Filled in only", "Restored", "Spread"), panels("Mode 1", "Mode 2")
    )
    html = sampling_report(result, figures).render()
    text = re.sub(r"<[^>]+>", " ", html)
    assert "not calibrated: it was not asked for" in text and "too small" in text
    assert "Whether the spread is that of the errors" not in text
    assert "27 %" in text and "55 %" in text and "Finer detail (2.1 %" in text
    assert "coarser than about 40 Å" in text and "scatter by about 18 %" in text
    assert "the first holds 12 %" in text and "if they have nothing in common" in text
    assert html.count("data:image/png") == 3
    assert "<tomo>" not in html and "&lt;tomo&gt;" in html
    # The number that does not exist is a dash.
    assert re.search(r"where data were measured\s+55 %\s+0\.31", text) and re.search(r"wedge\s+27 %\s+–", text)


def test_without_modes_there_is_no_section_of_them(result: dict[str, Any]) -> None:
    result["modes"] = []
    figures = sampling_figures(result, panels("Measured only", "Filled in only", "Restored", "Spread"), [])
    assert set(figures) == {"slices", "spread"}
    assert "In which directions" not in sampling_report(result, figures).render()


def row(shell: int, before: float, after: float, **more: Any) -> dict[str, Any]:
    low, high = EDGES[shell : shell + 2].tolist()
    return {
        "low_per_angstrom": low, "high_per_angstrom": high, "before": before, "after": after,
        "interval": [after * 0.9, after * 1.1], **more,
    }  # fmt: skip


def cell(shell: int, gain: float, **more: Any) -> dict[str, Any]:
    low, high = EDGES[shell : shell + 2].tolist()
    return {
        "shell": shell, "low_per_angstrom": low, "high_per_angstrom": high, "gain": gain, "added_power": 0.0,
        "interval": [gain / 1.2, gain * 1.2], "pooled": False, **more,
    }  # fmt: skip


@pytest.fixture
def calibrated(result: dict[str, Any]) -> dict[str, Any]:
    levels = {"50": 0.41, "80": 0.7, "90": 0.82, "95": 0.9}
    deep = {"distance_low_per_angstrom": 0.002, "distance_high_per_angstrom": 0.004}
    seen = {"coverage_before": levels, "coverage_after": {**levels, "90": 0.89}, "spread_share": 0.61}
    hidden = row(1, 0.45, 1.1)
    result |= {
        "calibrated": True,
        "calibration": {
            "calibrated": True, "why": None, "hidden_by_turns_deg": [15.0, 30.0], "draws": 16,
            "measured": [cell(0, 0.21, pooled=True), cell(1, 1.31)],
            "edge": [cell(1, 1.77)],
            "wedge": [cell(1, 2.4, **deep, extrapolated=False), cell(2, 2.2, **deep, extrapolated=True)],
            "shares": {"extrapolated": 0.23, "added": 0.0, "added_measured": 0.0},
            "centre": {
                "measured": {"slope": [0.97, 1.02]}, "border": {"slope": [0.95, 1.0]}, "wedge": {"slope": [0.61, 0.9]},
                "check": {"measured": 0.99, "border": 0.98, "wedge": None},
            },
            "check": {
                "measured": [row(0, 4.6, 1.04, **seen), row(1, 0.76, 0.97, **seen)],
                "hidden": [hidden, {**row(2, 0.5, 1.2), "after": None, "interval": [None, None]}],
                "whole": {"measured": row(0, 1.25, 1.01), "hidden": hidden},
                "coverage": {"coverage_before": levels, "coverage_after": {**levels, "90": 0.89}},
            },
            "places": {
                "told_by": "0123456789abcdef",
                "found": 0.83, "interval": [0.7, 0.96], "applied": 0.82,
                "check": {
                    "groups": [
                        {"stated": 0.55, "found": 0.6, "interval": [0.5, 0.7]},
                        {"stated": 0.95, "found": 0.9, "interval": [0.8, 1.0]},
                        {"stated": 1.5, "found": 1.55, "interval": [1.4, 1.7]},
                    ]
                },
            },
        },
    }  # fmt: skip
    return result


def page(result: dict[str, Any]) -> str:
    figures = sampling_figures(
        result, panels("Measured only", "Filled in only", "Restored", "Spread"), panels("Mode 1", "Mode 2")
    )
    html = sampling_report(result, figures).render()
    assert html.count("data:image/png") == len(figures)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_a_calibrated_spread_says_by_what_how_far_and_what_is_extrapolated(calibrated: dict[str, Any]) -> None:
    text = page(calibrated)
    assert "size of this spread is calibrated" in text and "the error's within 25%" in text
    assert "not calibrated" not in text
    assert "hidden by turns of 15° and 30° both ways" in text and "16 draws were measured" in text
    assert "23 % of the spread's power in the wedge is extrapolated" in text
    assert "1.01 times the error where data were measured (before: 1.25 times)" in text
    assert re.search(r"at the edge of the wedge\s+.*1\.77", text)
    assert "1.10 times that of hidden tilts (before: 0.45 times)" in text
    assert "89 % for 90 %" in text
    assert re.search(r"measured > 285 Å|measured 1000–286 Å", text)
    assert re.search(r"0\.76 0\.97 \[0\.87, 1\.07\] 82 % 89 % 61 %", text)
    assert "independent error" not in text
    assert "its resolutions times 0.97 to 1.02 where data were measured" in text and "0.61 to 0.90 in it" in text
    assert "0.99 where data were measured, 0.98 at the edge of the wedge, – in it times that about the mean" in text
    # A number that does not exist is a dash, and the factors carry their marks.
    assert re.search(r"hidden tilts 167–118 Å 0\.50 – \[–, –\]", text)
    assert re.search(r"0\.0020–0\.0040 2\.20 \[1\.83, 2\.64\] extrapolated", text)
    assert "0.21 [0.17, 0.25] by its neighbours" in text
    # Where the spread lies, and whether that holds on blocks left out.
    assert "the halves confirm 83 % (95 % interval 70 % to 96 %); 82 % were applied" in text
    assert re.search(r"loudest third 1\.50 1\.55 \[1\.40, 1\.70\]", text)


def test_draws_spread_about_the_restoration_itself_are_not_explained(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["centre"] = None
    assert "as loud as the structure is" not in page(calibrated)


def test_places_that_nothing_could_be_said_of_are_told(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["places"] |= {"found": None, "interval": [None, None]}
    text = page(calibrated)
    assert "could not be checked" in text and "the halves confirm" not in text


def test_what_did_not_hold_is_said_first(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["check"]["whole"]["hidden"] = row(1, 0.4, 1.6)
    assert "that did not hold: hidden tilts" in page(calibrated)


def test_what_could_not_be_checked_is_not_said_to_have_failed(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["check"]["whole"]["hidden"]["after"] = None
    text = page(calibrated)
    assert "Too little was left for a check on blocks of its own: hidden tilts" in text
    assert "did not hold" not in text and "an unknown multiple of that of hidden tilts" in text


def test_added_error_is_told(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["shares"] |= {"added": 0.4, "added_measured": 0.02}
    calibrated["calibration"]["wedge"][0]["added_power"] = 0.3
    text = page(calibrated)
    assert "40 % of the spread's power in the wedge and 2.0 % where data were measured" in text
    assert "2.40 [2.00, 2.88] error added" in text


def test_without_a_check_or_coverage_the_page_says_so(calibrated: dict[str, Any]) -> None:
    calibrated["calibration"]["check"]["coverage"] = None
    assert "in every shell noise hides the spread" in page(calibrated)
    calibrated["calibration"]["check"] = None
    text = page(calibrated)
    assert "Too little was left for a check" in text and "Spread's share" not in text


def test_a_sampler_that_weighs_or_walks_says_how_it_fared(result: dict[str, Any]) -> None:
    each = {"ess": [[40.0, 80.0], [51.5, 12.0]], "khat": [[0.2, None], [0.5, 0.1]], "gamma": [[1.0, 1.0], [1.0, 1.5]]}
    weighed = {"message": "3 of 4 places calibrated", "gamma": 1.0, "places": 4, "each": each}
    cells = [{"cell": "wedge, shell 2", "rhat": 1.0123, "ess": 86.0}]
    walked = {"message": "chains agree: all", "gamma": 2.0, "acceptance": 0.574, "cells": cells}
    for fared, told in ((weighed, ["3 of 4 places calibrated.", "51.50", "Pareto k"]),
                        (walked, ["Chains agree: all.", "57%", "1.012", "temperature 2"])):  # fmt: skip
        said = page(result | {"sampling": fared})
        assert all(words in said for words in told), told

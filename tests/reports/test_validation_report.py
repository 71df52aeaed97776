from __future__ import annotations

import copy
import html
import io
from typing import Any

import numpy as np
import pytest

from cryoaae.reports.validation import validation_figures, validation_report

EDGES = np.array([0.02, 0.07, 0.12, 0.17, 0.22, 0.27, 0.32, 0.37, 0.42]) / 20.0
SHELLS = [
    {"low_per_angstrom": float(a), "high_per_angstrom": float(b)} for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)
]


def score(correlation: float, width: float = 0.08) -> dict[str, Any]:
    return {
        "correlation": correlation,
        "interval": [correlation - width, correlation + width],
        "slope": 0.95 - 0.5 * (1 - correlation) ** 2,
        "recovered": correlation**2 - 0.05,
    }


def held_out() -> dict[str, Any]:
    shells, cells, curve = [], [], []
    for i, shell in enumerate(SHELLS):
        strict, lenient = 0.75 - 0.1 * i, 0.9 - 0.08 * i
        shells.append({**shell, "strict": score(strict), "lenient": score(lenient, 0.05)})
        for j in range(min(2 + i, 6)):
            place = {"distance_low_per_angstrom": 0.002 * j, "distance_high_per_angstrom": 0.002 * (j + 1)}
            drop = 0.09 * j
            cells.append({"shell": i, **place, "strict": score(strict - drop), "lenient": score(lenient - drop)})
        point = {"strict": strict - 0.1, "expected": (strict + lenient) / 2 - 0.1, "lenient": lenient - 0.1}
        curve.append({**shell, **point, "extrapolated_share": max(0.0, 0.12 * (i - 2))})
    shells[-1]["strict"] = None
    return {
        "turns_deg": [15, 30, 45],
        "shells": shells,
        "cells": cells,
        "wedge": {
            "correlation": {"strict": 0.41, "expected": 0.52, "lenient": 0.63},
            "extrapolated_share": 0.21,
            "curve": curve,
            "resolution_angstrom": 121.4,
        },
    }


def null(level: float) -> dict[str, Any]:
    shells = [{**s, "measured": level * (1 + i), "wedge": 2 * level * (1 + i)} for i, s in enumerate(SHELLS)]
    return {"measured": 2 * level, "wedge": 4 * level, "shells": shells}


def result(**changes: Any) -> dict[str, Any]:
    measured = [
        {**s, "kept_out": score(0.93 - 0.07 * i, 0.03), "fitted": score(0.95 - 0.06 * i, 0.02)}
        for i, s in enumerate(SHELLS)
    ]
    measured[-1]["kept_out"] = None
    full = {
        "format": "cryoaae validation 1",
        "version": "0.1.0",
        "name": "tomo",
        "model": "runs/tomo/model",
        "shape_zyx": [96, 112, 128],
        "voxel_size_angstrom": 10.0,
        "working_voxel_angstrom": 20.0,
        "wedge": {"tilt_range_deg": [-60, 60], "tilt_axis_deg": 0.0, "flipped": False},
        "region_zyx": [[0, 96], [0, 112], [0, 128]],
        "verdict": "caution",
        "reasons": [
            {"check": "geometry", "level": "ok", "sentence": "The stated tilts fit those found in the data."},
            {
                "check": "held-out tilts",
                "level": "caution",
                "sentence": "What is filled in agrees with hidden measurements down to 121 Å only, and a fifth of the "
                "missing wedge lies further from measured data than could be tested.",
            },
            {"check": "noise only", "level": "ok", "sentence": "Noise alone gives 2 % of the power."},
        ],
        "held_out": held_out(),
        "measured": {"shells": measured},
        "null_tests": {"noise_only": null(0.01), "phase_randomised": null(0.03)},
        "geometry": {
            "stated_range_deg": [-60, 60],
            "estimated_range_deg": [-59, 61.04],
            "estimated_axis_deg": 0.0,
            "warnings": ["the upper end differs by 1°"],
        },
        "seconds": 63.0,
    }
    return {**full, **changes}


def single_volume() -> dict[str, Any]:
    geometry = {"stated_range_deg": [-60, 60], "estimated_range_deg": None, "estimated_axis_deg": None, "warnings": []}
    return result(held_out=None, measured=None, geometry=geometry, verdict="trusted", reasons=[])


def panels(shape: tuple[int, int, int] = (24, 28, 32)) -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    names = ("Before", "Restored", "Measured only", "Filled in only")
    return [(name, draw.normal(size=shape).astype(np.float32)) for name in names]


def page(given: dict[str, Any], figures: dict[str, bytes] | None = None) -> str:
    drawn = validation_figures(given, panels()) if figures is None else figures
    return validation_report(given, drawn).render()


FAKE = dict.fromkeys(("slices", "held_out", "distance", "measured", "nulls"), b"\x89PNG")


def text(given: dict[str, Any]) -> str:
    return html.unescape(page(given, FAKE))


def test_the_sentences_that_matter_are_there():
    shown = text(result())
    for words in (
        "Validation of tomo",
        "128 × 112 × 96 voxels of 10 Å; tilts −60° to 60°",
        "Use with caution. Reason: held-out tilts",
        "Geometry (ok): The stated tilts fit those found in the data.",
        "Measured tilts were hidden, the network restored",
        "by 15°, 30° and 45°.",
        "usually too low",
        "usually too high",
        "between the two, where the truth was found in simulations",
        "Trust what is filled in up to 121 Å.",
        "21 % of the missing wedge lies further from measured data than was tested.",
        "learnt noise by heart",
        "The largest gap is 0.08, at 62–54 Å.",
        "Filling the wedge of random phases is inventing.",
        "Stated tilt range: −60° to 60°. Estimated from the data: −59° to 61°, about an axis at 0°.",
        "The upper end differs by 1°.",
        "0.75 [0.67, 0.83]",
        "All numbers are in report.json beside this file.",
    ):
        assert words in shown, words
    assert "Only a part was checked" not in shown
    assert "Single volume" not in shown


@pytest.mark.parametrize(
    ("verdict", "mood", "words"),
    [("trusted", "good", "Trusted."), ("caution", "", "Use with caution."), ("do not use", "bad", "Do not use")],
)
def test_the_verdict_stands_on_top(verdict, mood, words):
    report = validation_report(result(verdict=verdict), FAKE)
    assert report.verdict is not None
    assert report.verdict.mood == mood
    assert report.verdict.text.startswith(words)


def test_a_bad_verdict_is_not_softened_by_a_good_resolution():
    report = validation_report(result(verdict="do not use"), FAKE)
    assert report.verdict is not None and "Trust what" not in report.verdict.text
    assert "The verdict above overrules it." in report.render()


def test_nowhere_and_not_measured_are_told_apart():
    given = result()
    given["held_out"]["wedge"]["resolution_angstrom"] = None
    assert "Trust what is filled in at no resolution" in text(given)
    for point in given["held_out"]["wedge"]["curve"]:
        point["expected"] = 0.8
    given["held_out"]["wedge"]["resolution_angstrom"] = 50.0
    assert "up to 50 Å. Finer than that, nothing was checked." in text(given)
    given["held_out"]["wedge"]["resolution_angstrom"] = None
    for point in given["held_out"]["wedge"]["curve"]:
        point["expected"] = None
    assert "could not be measured" in text(given)
    assert "at no resolution" not in text(given)


def test_a_resolution_within_the_extrapolated_part_says_so():
    given = result()
    assert "Part of this range is extrapolated" not in text(given)
    given["held_out"]["wedge"]["resolution_angstrom"] = 55.0
    assert "Part of this range is extrapolated, not tested." in text(given)


def test_extrapolation_is_said_only_where_there_is_any():
    given = result()
    given["held_out"]["wedge"]["extrapolated_share"] = 0.0
    assert "further from measured data than was tested" not in text(given)
    given["held_out"]["wedge"]["extrapolated_share"] = 0.004
    assert "Less than 1 % of the missing wedge" in text(given)


def test_a_single_volume_says_what_cannot_be_said():
    given = single_volume()
    figures = validation_figures(given, panels())
    assert set(figures) == {"slices", "nulls"}
    shown = html.unescape(page(given, figures))
    for words in (
        "There is a single volume, not two halves.",
        "No number here says how far the missing wedge can be trusted.",
        "What can be said: whether it makes structure out of noise.",
        "None could be estimated from the data",
    ):
        assert words in shown, words
    verdict = validation_report(given, figures).verdict
    assert verdict is not None and "could not be compared with a measurement" in verdict.text
    assert "Measured tilts were hidden" not in shown
    assert "Trust what is filled in" not in shown
    assert "learnt noise" not in shown


def test_parts_that_are_missing_are_left_out():
    figures = validation_figures(result(null_tests=None, measured=None), [])
    assert set(figures) == {"held_out", "distance"}
    shown = page(result(null_tests=None, measured=None), figures)
    assert "Does it invent?" not in shown
    assert "Where data were measured</h2>" not in shown
    nothing = {**single_volume(), "null_tests": None}
    assert "Nothing else could be checked." in page(nothing, {})
    assert validation_figures(nothing, []) == {}


def test_missing_numbers_are_drawn_and_written_without_complaint():
    given = result()
    empty = {"correlation": None, "interval": [None, None], "slope": None, "recovered": None}
    for shell in given["held_out"]["shells"]:
        shell["strict"], shell["lenient"] = None, empty
    for cell in given["held_out"]["cells"]:
        cell["strict"] = cell["lenient"] = empty
    for point in given["held_out"]["wedge"]["curve"]:
        point.update(dict.fromkeys(("strict", "expected", "lenient", "extrapolated_share")))
    given["held_out"]["wedge"].update(
        correlation=dict.fromkeys(("strict", "expected", "lenient")), extrapolated_share=None, resolution_angstrom=None
    )
    for shell in given["measured"]["shells"]:
        shell["kept_out"], shell["fitted"] = None, empty
    for part in given["null_tests"].values():
        part.update(measured=None, wedge=None)
        for shell in part["shells"]:
            shell.update(measured=None, wedge=None)
    shown = html.unescape(page(given))
    assert "nan" not in shown.lower().split("base64")[0]
    assert "learnt noise by heart cannot be said" in shown


def test_without_kept_out_boxes_nothing_is_said_of_a_gap():
    given = result()
    for shell in given["measured"]["shells"]:
        shell["kept_out"] = None
    shown = text(given)
    assert "learnt noise by heart cannot be said" in shown
    assert "largest gap" not in shown
    assert validation_figures(given, [])["measured"] != validation_figures(result(), [])["measured"]


def test_a_part_of_the_tomogram_is_named():
    assert "voxels 8 to 104 in x, 0 to 112 in y, 0 to 96 in z" in text(
        result(region_zyx=[[0, 96], [0, 112], [8, 104]])
    )


def test_every_text_is_escaped():
    given = result(name="<b>tomo</b>", model="<b>model", version="<b>1")
    given["reasons"] = [{"check": "<b>c", "level": "ok", "sentence": "<b>s"}]
    given["geometry"]["warnings"] = ["<b>w"]
    shown = page(given, FAKE)
    assert "<b>" not in shown
    assert "&lt;b&gt;tomo&lt;/b&gt;" in shown


def test_figures_are_pngs_and_show_the_numbers():
    from matplotlib.image import imread

    base = validation_figures(result(), panels())
    assert set(base) == {"slices", "held_out", "distance", "measured", "nulls"}
    for data in base.values():
        assert data.startswith(b"\x89PNG\r\n")
        assert imread(io.BytesIO(data), format="png").std() > 0.02
    changed = copy.deepcopy(result())
    changed["held_out"]["wedge"]["curve"][2]["expected"] += 0.05
    changed["held_out"]["cells"][3]["strict"]["recovered"] -= 0.1
    changed["measured"]["shells"][2]["kept_out"]["interval"][0] -= 0.1
    changed["null_tests"]["noise_only"]["shells"][2]["wedge"] += 0.1
    again = validation_figures(changed, panels())
    assert again["slices"] == base["slices"]
    for name in ("held_out", "distance", "measured", "nulls"):
        assert again[name] != base[name], name

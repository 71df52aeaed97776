"""Numbers and tables of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from cryoaae.reports.evaluation import evaluation_report, number, plain_table


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (-0.0004, 3, "0.000"), (-0.0, 2, "0.00"), (-0.0006, 3, "−0.001"), (1.25, 1, "1.2"), (None, 3, "–"),
        (float("nan"), 3, "–"), (float("inf"), 2, "> 1000"), (2500.0, 2, "> 1000"),
    ],
)  # fmt: skip
def test_numbers_have_fixed_digits_and_zero_has_no_sign(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def row(kind: str, lost: int, invented: int) -> dict[str, Any]:
    band = {"fcc": 0.5, "slope": 1.0, "excess_power": 1.0}
    region = {
        "bands": dict.fromkeys(("low", "mid", "band"), band), "fsc": [0.5],
        "resolution": {key: {"angstrom": 40.0, "bound": ""} for key in ("0.5", "0.143")},
    }  # fmt: skip
    counts = {"particles": 9, "lost": lost, "invented": invented, "above_in_empty": 0.002}
    regions = dict.fromkeys(("all", "seen", "missing"), region)
    return {"kind": kind, "name": kind, "title": kind, "cc": 0.5, "regions": regions, "particles": counts}


def test_counts_of_particles_stand_beside_the_other_figures() -> None:
    rows = [row("restored", 1, 2), row("null", 4, 7)]
    header, first, second = plain_table(rows).splitlines()
    assert header.split()[-2:] == ["lost", "invented"]
    assert (first.split()[-2:], second.split()[-2:]) == (["1", "2"], ["4", "7"])
    without = [{key: value for key, value in r.items() if key != "particles"} for r in rows]
    assert "lost" not in plain_table(without)


def test_the_report_counts_particles_of_rows_and_of_noise() -> None:
    noise = {"particles": 9, "lost": 9, "invented": 31, "above_in_empty": 0.001}
    result = {
        "rows": [row("restored", 1, 2)], "sentences": [], "name": "x", "version": "1", "verdict": "good",
        "shape_zyx": [8, 8, 8], "voxel_size_angstrom": 10.0, "wedge": {"tilt_range_deg": [-60, 60]},
        "particles": {"nominal_rate": 1e-3, "noise": noise},
    }  # fmt: skip
    figures = dict.fromkeys(("slices", "spectra", "fsc"), b"png")
    sections = {section.heading: section for section in evaluation_report(result, figures).sections}
    (table,) = sections["Particles lost and invented"].tables
    assert [list(r.cells)[1:] for r in table.rows] == [["9", "1", "2", "0.20"], ["9", "9", "31", "0.10"]]
    assert "0.1%" in sections["Particles lost and invented"].sentences[0]

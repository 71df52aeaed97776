from __future__ import annotations

import copy
import io

import numpy as np
import pytest

from cryoaae.reports.validation_figures import (
    curve_figure,
    distance_figure,
    held_out_figure,
    measured_figure,
    validation_figures,
)

ALL = {"slices", "held_out", "distance", "hidden_from_fitting", "measured", "nulls"}


def curve(axes, label):
    """Heights of the one line of a panel with a label."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_ydata(), dtype=float)


def levels(axes):
    """Heights of the lines that run across a whole panel."""
    return {float(y[0]) for line in axes.lines if len(y := line.get_ydata()) == 2 and y[0] == y[1]}


def words(axes):
    return {text.get_text().strip() for text in axes.texts}


def test_figures_are_pngs_and_show_the_numbers(result, panels, hidden_from_fitting):
    from matplotlib.image import imread

    given = result(hidden_from_fitting=hidden_from_fitting)
    base = validation_figures(given, panels)
    assert set(base) == ALL
    for data in base.values():
        assert data.startswith(b"\x89PNG\r\n")
        assert imread(io.BytesIO(data), format="png").std() > 0.02
    changed = copy.deepcopy(given)
    changed["held_out"]["wedge"]["curve"][2]["expected"] += 0.05
    changed["held_out"]["cells"][3]["strict"]["recovered"] -= 0.1
    changed["hidden_from_fitting"]["shells"][2]["strip"]["interval"][1] += 0.1
    changed["measured"]["shells"][2]["kept_out"]["interval"][0] -= 0.1
    changed["null_tests"]["noise_only"]["shells"][2]["wedge"] += 0.1
    again = validation_figures(changed, panels)
    assert again["slices"] == base["slices"]
    for name in ALL - {"slices"}:
        assert again[name] != base[name], name


def test_parts_that_are_missing_have_no_figure(result, single_volume, panels):
    given = result(null_tests=None, measured=None)
    given["held_out"]["cells"] = []
    assert set(validation_figures(given, [])) == {"held_out"}
    assert set(validation_figures(single_volume, panels)) == {"slices", "held_out", "distance", "nulls"}


def test_kept_out_boxes_stand_beside_the_rest_and_under_their_own_ceiling(result):
    shells = result()["measured"]["shells"]
    structure, raw = measured_figure(shells).axes
    assert curve(structure, "boxes kept out of fitting")[:3] == pytest.approx([0.93, 0.86, 0.79])
    assert curve(structure, "the rest")[:3] == pytest.approx([0.95, 0.89, 0.83])
    ceiling = curve(raw, "ceiling: no restoration can pass it")
    assert ceiling[:7] == pytest.approx([shell["kept_out"]["ceiling"] for shell in shells[:7]])
    assert np.isnan(ceiling[7])
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in raw.lines]
    assert any(len(y) == 8 and y[:7] == pytest.approx(0.9 * ceiling[:7]) for y in drawn)


def test_without_kept_out_boxes_the_part_that_was_checked_stands_alone(result):
    shells = result()["measured"]["shells"]
    for i, shell in enumerate(shells):
        shell["kept_out"] = None
        shell["fitted"]["ceiling"] = 0.8 - 0.05 * i
    structure, raw = measured_figure(shells).axes
    labels = {line.get_label() for line in structure.lines}
    assert "the part that was checked" in labels
    assert not labels & {"the rest", "boxes kept out of fitting"}
    assert curve(raw, "ceiling: no restoration can pass it") == pytest.approx([0.8 - 0.05 * i for i in range(8)])


def test_the_trusted_correlation_is_the_results_own(result, hidden_from_fitting):
    held_out = result()["held_out"]
    assert all(0.5 in levels(axes) and "0.5" in words(axes) for axes in held_out_figure(held_out).axes)
    held_out["trusted_correlation"] = 0.6
    for axes in (*held_out_figure(held_out).axes, *curve_figure(hidden_from_fitting["shells"], "strip", "", 0.6).axes):
        assert 0.6 in levels(axes) and 0.5 not in levels(axes)
        assert "0.6" in words(axes)


def test_a_resolution_that_nothing_finer_was_tested_than_is_marked_so(result):
    held_out = result()["held_out"]
    assert "121 Å" in words(held_out_figure(held_out).axes[1])
    for point in held_out["wedge"]["curve"]:
        point["expected"] = 0.8
    held_out["wedge"]["resolution_angstrom"] = 50.6
    assert "51 Å or better" in words(held_out_figure(held_out).axes[1])
    held_out["wedge"]["resolution_angstrom"] = None
    assert not any("Å" in text for text in words(held_out_figure(held_out).axes[1]))


def test_of_a_single_volume_only_the_strict_scores_are_drawn_as_bounds(result, single_volume):
    halves, single = result()["held_out"], single_volume["held_out"]
    for held_out, titles, lenient in (
        (halves, ["Correlation", "Error"], True),
        (single, ["Correlation (at least)", "Error (at most)"], False),
    ):
        correlation, error = distance_figure(held_out).axes
        assert [correlation.get_title(), error.get_title()] == titles
        drawn = [line for line in correlation.lines if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
        assert any(line.get_linestyle() == "--" and len(line.get_xdata()) > 2 for line in drawn) == lenient
        assert ("dashed: lenient" in {line.get_label() for line in correlation.lines}) == lenient


def test_a_curve_far_below_zero_is_seen(hidden_from_fitting):
    shells = hidden_from_fitting["shells"]
    (axes,) = curve_figure(shells, "strip", "", 0.5).axes
    assert axes.get_ylim()[0] == pytest.approx(-0.25)
    shells[3]["strip"]["correlation"] = -0.9
    (axes,) = curve_figure(shells, "strip", "", 0.5).axes
    assert axes.get_ylim()[0] < -0.9

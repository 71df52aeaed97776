"""Figures of codes draw what they are given, where they say, in colours that can be told apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import norm

from cryoaae.reports.image_grid import image_grid
from cryoaae.reports.latent_curves import training_curves
from cryoaae.reports.latent_figures import (
    PRIOR_GREY,
    RATIO_LIMIT,
    density_ratio_figure,
    latent_scatter,
    manifold_codes,
    plane_codes,
)
from cryoaae.reports.latent_marks import CLASS_COLOURS, class_colour
from cryoaae.reports.style import INK, png

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.412456, 0.357576, 0.180438], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304]])


def least_distance(colours, sight: str) -> float:
    """Smallest distance between two colours in CIE L*a*b* as seen with a kind of sight."""
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(SIGHT[sight]).T, 0, 1) @ TO_XYZ.T / (0.95047, 1, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(distance[np.triu_indices(len(lab), 1)].min())


@pytest.mark.parametrize("sight", SIGHT)
def test_ten_classes_can_be_told_apart(sight):
    assert least_distance(CLASS_COLOURS, sight) > 15


def test_the_usual_ten_colours_cannot():
    from matplotlib import colormaps

    assert least_distance(colormaps["tab10"].colors, "protanopia") < 8


@pytest.mark.parametrize(("side", "std"), [(1, 1.0), (5, 0.7), (20, 5.0)])
def test_the_manifold_has_equal_shares_of_the_prior(side, std):
    shares = norm.cdf(manifold_codes(side, std) / std).reshape(side, side, 2)
    middles = (np.arange(side) + 0.5) / side
    assert np.allclose(shares[..., 0], middles[None, :])
    # As in a plot, the first row of images is the highest.
    assert np.allclose(shares[..., 1], middles[::-1, None])


def test_a_field_lies_where_its_codes_do():
    extent, side = 4.0, 32
    codes = plane_codes(side, extent)
    field = (codes[:, 0] - 0.5 * codes[:, 1] - 1.0).reshape(side, side)
    axes = density_ratio_figure(field, extent, np.array([[1.0, 2.0], [np.nan, 0.0]])).axes[0]
    drawn = np.asarray(axes.images[0].get_array())
    assert np.array_equal(drawn, np.clip(field, -RATIO_LIMIT, RATIO_LIMIT))
    assert axes.images[0].origin == "lower" and axes.images[0].get_extent() == [-4, 4, -4, 4]
    line = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert len(line) > side / 2
    # Linear, so that clipping and interpolating move nothing.
    assert np.abs(line[:, 0] - 0.5 * line[:, 1] - 1.0).max() < 1e-9
    assert axes.collections[1].get_offsets().tolist() == [[1.0, 2.0]]


def test_a_ratio_of_one_sign_has_no_contour():
    figure = density_ratio_figure(np.full((6, 6), 3.0), 1.0, np.zeros((1, 2)))
    assert len(figure.axes[0].collections) == 1
    # Where nothing is known nothing is drawn, without a warning.
    assert png(density_ratio_figure(np.full((6, 6), np.nan), 1.0, np.zeros((1, 2))))


def colours_of(collection) -> list[str]:
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in collection.get_facecolors()]


def test_codes_are_drawn_at_their_place_in_the_colour_of_their_class():
    codes = np.array([[0.0, 1.0], [2.0, -1.0], [np.nan, 0.0], [3.0, 3.0]])
    prior = np.array([[-1.0, -1.0], [0.5, 0.5]])
    axes = latent_scatter(codes, [7, 2, 2, -1], prior_draws=prior).axes[0]
    behind, unlabelled, dots = axes.collections
    assert behind.get_offsets().tolist() == prior.tolist()
    assert colours_of(behind) == [PRIOR_GREY]
    assert behind.get_zorder() < min(dots.get_zorder(), unlabelled.get_zorder())
    # In the order of the data, so that no class hides the others.
    assert dots.get_offsets().tolist() == [[0.0, 1.0], [2.0, -1.0]]
    assert colours_of(dots) == [CLASS_COLOURS[7], CLASS_COLOURS[2]]
    assert unlabelled.get_offsets().tolist() == [[3.0, 3.0]] and colours_of(unlabelled) == [INK]


def test_held_out_codes_outside_of_the_prior_are_crosses():
    held_out = np.array([[0.0, 0.0], [9.0, 9.0], [1.0, 0.0]])
    outside = np.array([False, True, False])
    figure = latent_scatter(np.zeros((2, 2)), [0, 1], held_out, [0, 1, 1], prior_draws=np.eye(2), outside=outside)
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim() == second.get_ylim()
    assert first.get_xlim()[1] > 9
    _, dots, crosses = second.collections
    assert dots.get_offsets().tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert crosses.get_offsets().tolist() == [[9.0, 9.0]]
    assert len(crosses.get_paths()[0].vertices) == 4  # two strokes
    assert "outside of the prior: 1" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_names_every_class_that_is_there():
    codes = np.eye(2).repeat(2, axis=0)
    figure = latent_scatter(codes, [0, 1, 12, -1], heads=[[1.0, 1.0]], class_names=["zero", "one"])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["unlabelled", "zero", "one", "12", "cluster heads"]
    # Ten colours come again in another shape.
    zero, one, twelve = figure.legends[0].legend_handles[1:4]
    assert twelve.get_color() == class_colour(2) != one.get_color()
    assert twelve.get_marker() != zero.get_marker() == one.get_marker()


def test_names_are_written_over_classes_that_lie_apart_alone():
    codes = np.array([[-5.0, 0.0], [5.0, 0.0], [5.1, 0.0], [0.0, 5.0]]).repeat(3, axis=0)
    axes = latent_scatter(codes, np.repeat([0, 1, 2, 3], 3)).axes[0]
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [("0", (-5, 0)), ("3", (0, 5))]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_grid_holds_every_image_between_white_gaps(channels):
    images = np.random.default_rng(0).random((2, 3, 5, 4, *channels))
    images[0, 1] += 1.0  # clipped
    images[1, 2] = np.nan  # empty
    axes = image_grid(images, ["a", "b"], ["x", "y", "z"]).axes[0]
    sheet = np.asarray(axes.images[0].get_array())
    assert sheet.shape == (2 * 6 - 1, 3 * 5 - 1, *channels)
    for row in range(2):
        for column in range(3):
            place = sheet[6 * row : 6 * row + 5, 5 * column : 5 * column + 4]
            assert np.array_equal(place, np.nan_to_num(images[row, column], nan=1.0).clip(0, 1))
    assert (sheet[5] == 1).all() and (sheet[:, [4, 9]] == 1).all()
    assert axes.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert list(axes.get_yticks()) == [2, 8] and list(axes.get_xticks()) == [1.5, 6.5, 11.5]


def test_curves_are_drawn_over_their_references():
    steps, accuracy = [0, 10, 20, 30], [1.0, float("nan"), 0.6, 0.5]
    curves = {"discriminator accuracy": (steps, accuracy), "unbiased MMD": (steps, [0.4, 0.01, -0.0005, 0.0004])}
    figure = training_curves(curves, {"discriminator accuracy": 0.5, "unbiased MMD": 0.0008, "of another run": 1.0})
    first, second = figure.axes
    # A value that was not measured does not cut the line.
    assert first.lines[0].get_xydata().tolist() == [[0, 1.0], [20, 0.6], [30, 0.5]]
    assert list(first.lines[1].get_ydata()) == [0.5, 0.5]
    assert first.get_legend().get_texts()[0].get_text() == "chance: 50 %"
    # From hundreds of times the floor down to it, and on below zero.
    assert (first.get_yscale(), second.get_yscale()) == ("linear", "symlog")
    assert png(figure)


def test_a_curve_near_its_reference_keeps_a_plain_axis():
    axes = training_curves({"unbiased MMD": ([0, 1], [0.004, 0.001])}, {"unbiased MMD": 0.001}).axes[0]
    assert axes.get_yscale() == "linear"
    assert png(training_curves({"empty": ([], []), "unknown": ([0, 1], [float("nan")] * 2)}, {"empty": float("nan")}))
    assert png(training_curves({}))


@pytest.mark.parametrize(
    ("draw", "problem"),
    [
        (lambda: latent_scatter(np.zeros((3, 8)), [0, 0, 0]), "do not lie in a plane"),
        (lambda: latent_scatter(np.zeros((3, 2)), [0, 0]), "for 3 codes"),
        (lambda: latent_scatter(np.zeros((3, 2)), [0] * 3, outside=[True] * 3), "held-out codes need labels"),
        (lambda: latent_scatter(np.zeros((3, 2)), [0] * 3, np.zeros((2, 2))), "held-out codes need labels"),
        (lambda: latent_scatter(np.zeros((1, 2)), [0], np.zeros((2, 2)), [0, 0], outside=[True]), "for 2 held-out"),
        (lambda: image_grid(np.zeros((3, 5, 4))), "are no grid"),
        (lambda: image_grid(np.zeros((2, 2, 5, 4, 2))), "are no grid"),
        (lambda: image_grid(np.zeros((2, 0, 5, 4))), "are no grid"),
        (lambda: image_grid(np.zeros((2, 2, 5, 4)), ["one"]), "1 and 0 titles"),
        (lambda: density_ratio_figure(np.zeros((3, 4)), 1.0, np.zeros((1, 2))), "square plane"),
        (lambda: density_ratio_figure(np.zeros((3, 3)), 0.0, np.zeros((1, 2))), "extent"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(draw, problem):
    with pytest.raises(ValueError, match=problem):
        draw()


def test_the_modules_load_neither_matplotlib_nor_torch():
    code = "import cryoaae.reports.latent_page, sys; print({'matplotlib', 'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

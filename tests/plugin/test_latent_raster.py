"""Discs and colours of the scatter, without Qt."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cryoaae.latent_colours import NOTHING_RGB, can_colour, colour_groups, colour_values
from napari_cryoaae.latent_raster import FAINT, OPAQUE, RIM, RIM_RGB, paint_points
from napari_cryoaae.particle_groups import ParticleGroups


def painted_one_by_one(xy: np.ndarray, rgb: np.ndarray, selected: np.ndarray, shape: tuple[int, int], r: float):
    """What `paint_points` says it does, a pixel at a time."""
    out = np.zeros((*shape, 4), np.uint8)
    rims = [(i, r + RIM, RIM_RGB, 255) for i in np.flatnonzero(selected)]
    plain = [(i, r, rgb[i], FAINT if selected.any() else OPAQUE) for i in np.flatnonzero(~selected)]
    for i, radius, colour, alpha in [*plain, *rims, *((i, r, rgb[i], 255) for i in np.flatnonzero(selected))]:
        if not np.isfinite(xy[i]).all():
            continue
        x, y = np.floor(xy[i])
        for row in range(shape[0]):
            for column in range(shape[1]):
                if (row - y) ** 2 + (column - x) ** 2 <= radius**2:
                    out[row, column] = (*colour, alpha)
    return out


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_discs_lie_over_each_other_in_order_and_selected_ones_on_top(share: float) -> None:
    rng = np.random.default_rng(1)
    xy = rng.uniform(-4, 30, (40, 2))  # some reach in from outside
    xy[3] = np.nan
    xy[4] = 1e9
    rgb = rng.integers(0, 256, (40, 3)).astype(np.uint8)
    selected = rng.uniform(size=40) < share
    painted = paint_points(xy, rgb, selected, (20, 26), 2.0)
    assert np.array_equal(painted, painted_one_by_one(xy, rgb, selected, (20, 26), 2.0))


def test_groups_are_coloured_alike_within_and_not_between() -> None:
    groups = ParticleGroups(("a", "b", "c"), np.array([0, 2, 1, 1, 0, 2]))
    colouring = colour_groups(groups)
    for k, (name, rgb, count) in enumerate(colouring.legend()):
        own = groups.assigned == k
        assert (colouring.rgb[own] == rgb).all()
        assert not (colouring.rgb[~own] == rgb).all(axis=1).any()
        assert (name, count) == (groups.names[k], own.sum())


def test_numbers_lie_on_a_scale_and_missing_ones_do_not() -> None:
    values = np.append(np.linspace(0, 1, 200), np.nan)
    colouring = colour_values(values)
    assert (colouring.rgb[-1] == NOTHING_RGB).all()
    assert (np.diff(colouring.rgb[:-1, 1].astype(int)) >= 0).all()  # viridis gets greener
    low, high = colouring.limits or (np.nan, np.nan)
    assert (low, high) == pytest.approx((0.01, 0.99))
    assert [count for *_, count in colouring.legend()] == [None] * 7
    assert colouring.legend()[0][1] == tuple(colouring.rgb[0])
    assert colour_values(np.full(3, np.nan)).rgb.tolist() == [list(NOTHING_RGB)] * 3


def test_few_whole_numbers_are_categories_and_below_zero_is_none() -> None:
    colouring = colour_values(np.array([2, -1, 2, 0]))
    assert [(name, count) for name, _, count in colouring.legend()] == [("none", 1), ("0", 1), ("2", 2)]
    assert (colouring.rgb[1] == NOTHING_RGB).all()
    assert colour_values(np.arange(100)).limits is not None


@pytest.mark.parametrize(
    ("values", "useful"),
    [
        (np.array(["a", "b", "a"], object), True),
        (np.array(["a", "a"], object), False),
        (np.array([f"{i}" for i in range(1000)], object), False),
        (np.array([1.0, 1.0, np.nan]), False),
        (np.array([1, 2]), True),
    ],
)
def test_columns_that_tell_nothing_apart_are_not_offered(values: np.ndarray, useful: bool) -> None:
    assert can_colour(values) is useful

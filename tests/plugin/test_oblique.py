"""The oblique plane: laws of its geometry, and what it cuts of volumes whose values are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cryoaae.oblique import MOST_PIXELS, MOST_SAMPLES, ObliqueCut, ObliquePlane
from napari_cryoaae.sources import SlabCut, Source, difference, mean_of

SHAPE = (20, 24, 28)
PLACE = (9, 13, 11)
ANGLES = [(0, 0), (30, 0), (37, 71), (90, -120), (62, 180)]


def ramp(slope_zyx: tuple[float, float, float] = (1.0, 10.0, -3.0), shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    return (slope_zyx[0] * z + slope_zyx[1] * y + slope_zyx[2] * x + 5).astype(np.float32)


def cut(tilt: float, azimuth: float, thickness: int = 1, place: tuple[int, int, int] = PLACE) -> ObliqueCut:
    return ObliqueCut.through(place, ObliquePlane(tilt, azimuth), thickness, SHAPE)


@pytest.mark.parametrize(("tilt", "azimuth"), ANGLES)
def test_axes_are_a_right_handed_frame_with_the_normal_where_it_is_stated(tilt: float, azimuth: float) -> None:
    normal, down, across = ObliquePlane(tilt, azimuth).axes_zyx()
    assert np.allclose(np.stack([normal, down, across]) @ np.stack([normal, down, across]).T, np.eye(3), atol=1e-12)
    x, y, z = (np.array(v)[::-1] for v in (across, down, normal))  # as (x, y, z): across cross down is the normal
    assert np.allclose(np.cross(x, y), z)
    t, a = np.radians([tilt, azimuth])
    assert np.allclose(normal, [np.cos(t), np.sin(t) * np.sin(a), np.sin(t) * np.cos(a)])


def test_without_a_tilt_it_is_the_xy_slab() -> None:
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    source = Source("v", ((1.0, data),))
    for thickness in (1, 4):
        flat = SlabCut("xy", PLACE[0], thickness).of(source)
        assert np.allclose(cut(0, 0, thickness).of(source), flat, atol=1e-5)


@pytest.mark.parametrize(("tilt", "azimuth"), ANGLES)
@pytest.mark.parametrize("thickness", [1, 5])
def test_a_linear_density_is_cut_exactly(tilt: float, azimuth: float, thickness: int) -> None:
    """Trilinear sampling, and the mean over a slab, keep linear functions."""
    slope = np.array([1.0, 10.0, -3.0])
    mine = cut(tilt, azimuth, thickness)
    picture = mine.of(Source("v", ((1.0, ramp()),)))
    left, top, width, height = mine.rect(Source("v", ((1.0, ramp()),)))
    rows, columns = picture.shape
    v = top + (np.arange(rows) + 0.5) * height / rows
    u = left + (np.arange(columns) + 0.5) * width / columns
    normal, down, across = mine.plane.axes_zyx()
    middle = (np.array(SHAPE) - 1) / 2
    places = middle + mine.distance * normal + v[:, None, None] * down + u[None, :, None] * across
    # Away from the faces, where the slab leaves the volume on one side first.
    inside = ((places > thickness) & (places < np.array(SHAPE) - 1 - thickness)).all(axis=-1)
    assert inside.sum() > 100
    assert np.allclose(picture[inside], places[inside] @ slope + 5, atol=1e-2)
    outside = ((places < -0.5 - thickness) | (places > np.array(SHAPE) - 0.5 + thickness)).any(axis=-1)
    assert np.isnan(picture[outside]).all()


@pytest.mark.parametrize(("tilt", "azimuth"), ANGLES)
def test_a_place_in_the_view_is_the_voxel_that_lies_there(tilt: float, azimuth: float) -> None:
    mine = cut(tilt, azimuth)
    down, across = mine.crosshair(PLACE)
    assert mine.place(down, across, (0, 0, 0)) == PLACE
    # A click in the plane stays in the plane, within what rounding to voxels takes away.
    other = mine.place(down + 3, across - 2, PLACE)
    assert abs(ObliqueCut.through(other, mine.plane, 1, SHAPE).distance - mine.distance) < 0.9
    assert mine == cut(tilt, azimuth)


@pytest.mark.parametrize(("tilt", "azimuth"), ANGLES[1:])
def test_the_trace_lies_in_both_planes(tilt: float, azimuth: float) -> None:
    mine = cut(tilt, azimuth)
    for down_axis, across_axis in ((1, 2), (0, 2), (0, 1)):
        angle = mine.trace_deg(down_axis, across_axis)
        if angle is None:
            normal = mine.plane.axes_zyx()[0]
            assert np.allclose([normal[down_axis], normal[across_axis]], 0, atol=1e-4)
            continue
        direction = np.zeros(3)
        direction[across_axis], direction[down_axis] = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        assert abs(direction @ mine.plane.axes_zyx()[0]) < 1e-9


def test_sums_of_volumes_and_pieces_of_them_are_cut_alike() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    mine = cut(40, 25, 3)
    mean = mine.of(mean_of("input", [one, other]))
    left = mine.of(difference("residual", mean_of("input", [one, other]), Source("one", ((1.0, one),))))
    assert np.allclose(mean - mine.of(Source("one", ((1.0, one),))), left, atol=1e-5, equal_nan=True)
    piece = Source("piece", ((1.0, one[4:16, 6:20, 5:21]),), (4, 6, 5))
    seen, whole = mine.of(piece), mine.of(Source("one", ((1.0, one),)))
    # Half a voxel further out it is continued evenly, as any volume is at its faces.
    inside = np.isfinite(cut(40, 25, 5).of(Source("core", ((1.0, one[8:12, 10:16, 9:17]),), (8, 10, 9))))
    assert inside.sum() > 20
    assert np.allclose(seen[inside], whole[inside], atol=1e-5)


def test_a_large_volume_is_sampled_no_more_than_can_be_drawn() -> None:
    shape = (300, 928, 960)
    big = Source("big", ((1.0, np.broadcast_to(np.float32(2.0), shape)),))
    for thickness in (1, 16):
        mine = ObliqueCut.through((150, 400, 500), ObliquePlane(35, 20), thickness, shape)
        picture = mine.of(big)
        assert picture.size < 1.1 * MOST_PIXELS
        assert picture.size * thickness < 1.1 * MOST_SAMPLES
        assert picture.size > 0.8 * min(MOST_PIXELS, MOST_SAMPLES / thickness)
        assert np.nanmax(abs(picture - 2)) < 1e-5


def test_an_array_that_computes_its_voxels_is_sampled_too() -> None:
    dask = pytest.importorskip("dask.array", reason="napari brings dask")
    mine = cut(40, 25)
    lazy = mine.of(Source("lazy", ((1.0, dask.from_array(ramp(), chunks=7)),)))
    assert np.array_equal(lazy, mine.of(Source("v", ((1.0, ramp()),))), equal_nan=True)

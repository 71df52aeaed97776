"""What was measured and what was filled in: laws of the split, and the library's own one as the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.errors import ResourceError
from cryoaae.physics.fourier import rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.keep_measured import keep_measured
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.sources import Source, difference, mean_of, slab_bounds, window_around
from napari_cryoaae.wedge_split import examine, split_whole, split_window

WEDGES = [MissingWedge((-40.0, 60.0)), MissingWedge.from_tilts(range(-60, 61, 6), tilt_axis_deg=20.0, flipped=True)]
SHAPE = (30, 41, 36)


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Noise that falls off with frequency, on an offset of thousands as tomograms have."""
    noise = np.random.default_rng(seed).normal(size=shape)
    for axis in range(3):
        noise = noise + np.roll(noise, 1, axis)
    return (3000 + 20 * noise).astype(np.float32)


@pytest.mark.parametrize("wedge", WEDGES)
def test_whole_split_is_the_librarys(wedge: MissingWedge) -> None:
    """`keep_measured` takes M of one volume and 1 - M of the other: with a constant for either, the parts."""
    data = volume(0)
    flat = np.full_like(data, data.mean(dtype=np.float64))
    measured, filled = split_whole(Source("v", ((1.0, data),)), wedge)
    spread = data.std()
    assert np.abs(measured - keep_measured(data, flat, wedge)).max() < 1e-4 * spread
    assert np.abs(filled + data.mean(dtype=np.float64) - keep_measured(flat, data, wedge)).max() < 1e-4 * spread
    assert np.abs(measured + filled - data).max() < 1e-4 * spread
    # Neither part is empty, so that the equalities above say something.
    assert filled.std() > 0.1 * spread
    assert measured.std() > 0.1 * spread


@pytest.mark.parametrize("wedge", WEDGES)
def test_window_split_is_the_wedge_on_the_window(wedge: MissingWedge) -> None:
    data = volume(1, (40, 60, 52))
    window = window_around((20, 25, 30), data.shape, core=16, margin=8)
    split = split_window(Source("v", ((1.0, data),)), window, wedge)
    outer = torch.from_numpy(data[window.outer]).double()
    crop = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(window.inner, window.outer, strict=True))
    expected = wedge.measured(outer - outer.mean())[crop].numpy() + float(outer.mean())
    measured, filled = (part.parts[0][1] for part in (split.measured, split.filled))
    assert np.abs(measured - expected).max() < 1e-4 * data.std()
    assert np.abs(measured + filled - data[window.inner]).max() < 1e-4 * data.std()
    assert split.filled.offset_zyx == tuple(s.start for s in window.inner)


def test_window_that_holds_the_volume_gives_the_whole_split() -> None:
    data, wedge = volume(2), WEDGES[0]
    window = window_around((3, 40, 0), SHAPE)
    assert window.inner == tuple(slice(0, n) for n in SHAPE)
    source = Source("v", ((1.0, data),))
    split = split_window(source, window, wedge)
    for mine, whole in zip((split.measured, split.filled), split_whole(source, wedge), strict=True):
        assert np.abs(mine.parts[0][1] - whole).max() < 1e-4 * data.std()


def test_a_wider_margin_brings_a_window_nearer_to_the_whole() -> None:
    data, wedge = volume(3, (48, 72, 72)), MissingWedge((-60.0, 60.0))
    source = Source("v", ((1.0, data),))
    _, filled = split_whole(source, wedge)
    errors = []
    for margin in (2, 8, 16):
        window = window_around((24, 36, 36), data.shape, core=16, margin=margin)
        part = split_window(source, window, wedge).filled.parts[0][1]
        errors.append(np.linalg.norm(part - filled[window.inner]) / np.linalg.norm(filled[window.inner]))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.6


def test_the_measured_part_of_a_residual_is_the_residual_of_the_measured_parts() -> None:
    one, other, wedge = volume(4), volume(5), WEDGES[1]
    left = difference("residual", Source("a", ((1.0, one),)), Source("b", ((1.0, other),)))
    mine = split_whole(left, wedge)[0]
    parts = [split_whole(Source("v", ((1.0, data),)), wedge)[0] for data in (one, other)]
    assert np.abs(mine - (parts[0] - parts[1])).max() < 1e-4 * one.std()


def test_split_too_large_for_memory_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoaae.runs.resources.available_memory_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match="GB of memory"):
        split_whole(Source("v", ((1.0, volume(0)),)), WEDGES[0])


@pytest.mark.parametrize(("index", "shape"), [((0, 0, 0), (300, 40, 90)), ((299, 39, 50), (300, 40, 90))])
def test_windows_stay_inside_and_hold_the_cursor(index: tuple[int, ...], shape: tuple[int, ...]) -> None:
    window = window_around(index, shape, core=32, margin=16)
    assert window.contains(index)
    for outer, inner, size in zip(window.outer, window.inner, shape, strict=True):
        assert 0 <= outer.start <= inner.start < inner.stop <= outer.stop <= size
        assert inner.start == 0 or inner.start - outer.start == 16


def test_examined_spectrum_is_empty_in_the_wedge_until_it_is_filled() -> None:
    wedge = MissingWedge((-50.0, 50.0))
    full = torch.from_numpy(volume(6, (32, 32, 32))).double()
    seen = wedge.measured(full - full.mean()).numpy()
    sources = [Source(name, ((1.0, data),)) for name, data in (("input", seen), ("restored", full.numpy()))]
    examined = examine(sources, window_around((16, 16, 16), (32, 32, 32)), wedge, NullProgress())
    inside = [image[int(0.9 * len(image)), len(image) // 2] for image in examined.spectra]  # high kz, kx = 0
    measured = [image[len(image) // 2, int(0.9 * len(image))] for image in examined.spectra]
    assert inside[0] < measured[0] - 1.5  # decades
    assert abs(inside[1] - measured[1]) < 1.0
    assert [end[0] for end in examined.wedge_ends] == [-50.0, 50.0]
    assert float(rfft(torch.from_numpy(seen))[~wedge.support((32, 32, 32))].abs().max()) < 1e-6


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_slabs_are_means_across_their_plane_of_sums(plane: str) -> None:
    even, odd = volume(7), volume(8)
    axis = ["xy", "xz", "yz"].index(plane)
    slab = mean_of("input", [even, odd]).slab(plane, 12, 5)
    expected = ((even + odd) / 2).take(range(10, 15), axis).mean(axis)
    assert np.abs(slab - expected).max() < 1e-3
    piece = Source("tile", ((1.0, even[5:15, 5:15, 5:15]),), (5, 5, 5))
    within = even[5:15, 5:15, 5:15].take(range(5, 10), axis).mean(axis)
    assert np.abs(piece.slab(plane, 12, 5) - within).max() < 1e-3
    assert np.isnan(piece.slab(plane, 25, 5)).all()


def test_slabs_are_cut_at_the_faces() -> None:
    assert slab_bounds(0, 5, 10) == (0, 3)
    assert slab_bounds(9, 4, 10) == (8, 10)
    assert slab_bounds(50, 3, 10) == (10, 10)

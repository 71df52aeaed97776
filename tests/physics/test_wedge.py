"""Laws of the missing wedge, over odd, even and unequal boxes and every kind of geometry."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cryoaae.physics.fourier import frequencies, irfft, multiplicity, rfft
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge

shapes = st.tuples(*[st.integers(5, 14)] * 3)
few = settings(max_examples=20, deadline=None)


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def wedges(draw) -> MissingWedge:
    low, high = draw(st.floats(-85, -5)), draw(st.floats(5, 85))
    axis, flipped = draw(st.sampled_from([0.0, 90.0, 37.5])), draw(st.booleans())
    if draw(st.booleans()):
        step = draw(st.sampled_from([2.0, 3.0, 6.0, 11.0]))
        tilts = torch.arange(low, high, step).tolist()
        wedge = MissingWedge.from_tilts([*tilts, high], tilt_axis_deg=axis, flipped=flipped)
    else:
        wedge = MissingWedge((low, high), tilt_axis_deg=axis, flipped=flipped)
    if draw(st.booleans()):
        seed = draw(st.integers(0, 99))
        wedge = wedge.rotated(random_rotations(1, generator=torch.Generator().manual_seed(seed))[0])
    return wedge


def hermitian_error(values: torch.Tensor, shape: tuple[int, ...]) -> float:
    """How far a real half-spectrum factor is from even on the planes that hold both k and -k."""
    worst = 0.0
    columns = [0] + ([shape[2] // 2] if shape[2] % 2 == 0 else [])
    z, y = (-torch.arange(n) % n for n in shape[:2])
    for column in columns:
        plane = values[:, :, column].double()
        worst = max(worst, float((plane - plane[z][:, y]).abs().max()))
    return worst


@few
@given(shapes, wedges())
def test_support_is_an_orthogonal_projector(shape, wedge):
    x, y = noise(shape, 1), noise(shape, 2)
    ax = wedge.measured(x)
    assert torch.allclose(wedge.measured(ax), ax, atol=1e-10)  # M = M^2
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    assert abs(float((ax * y).sum() - (x * wedge.measured(y)).sum())) < 1e-9 * scale  # M = M*
    assert torch.allclose(ax + wedge.complement(x), x, atol=1e-12)
    split = float((ax**2).sum() + (wedge.complement(x) ** 2).sum())
    assert abs(split - float((x**2).sum())) < 1e-9 * float((x**2).sum())


@few
@given(shapes, wedges())
def test_factors_are_even_so_that_volumes_stay_real(shape, wedge):
    support, transfer = wedge.support(shape), wedge.transfer(shape)
    assert hermitian_error(support, shape) == 0
    assert hermitian_error(transfer, shape) < 1e-6
    # An uneven factor would lose power in the real inverse transform.
    spectrum = rfft(noise(shape)) * support
    power = (spectrum.abs() ** 2 * multiplicity(shape)).sum()
    assert torch.allclose((irfft(spectrum, shape) ** 2).sum(), power, rtol=1e-9)


@few
@given(shapes, wedges())
def test_transfer_is_self_adjoint_between_zero_and_one(shape, wedge):
    h = wedge.transfer(shape)
    assert float(h.min()) >= 0 and float(h.max()) <= 1 and float(h[0, 0, 0]) == 1
    x, y = noise(shape, 1), noise(shape, 2)
    hx, hy = irfft(rfft(x) * h, shape), irfft(rfft(y) * h, shape)
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    assert abs(float((hx * y).sum() - (x * hy).sum())) < 1e-6 * scale
    # What passes at least half is the support, and nothing else.
    assert torch.equal((h >= 0.5 - 1e-5) & ~wedge.support(shape), torch.zeros_like(h, dtype=torch.bool))


@few
@given(shapes, wedges(), st.floats(0.1, 2.0))
def test_margins_nest(shape, wedge, margin):
    inner = wedge.support(shape, margin=margin)
    assert not bool((inner & ~wedge.support(shape)).any())
    assert not bool((wedge.support(shape) & ~wedge.solid().support(shape)).any())


@few
@given(shapes, wedges())
def test_merge_takes_each_coefficient_from_one_source(shape, wedge):
    a, b = noise(shape, 1), noise(shape, 2)
    merged, m = rfft(wedge.merge(a, b)), wedge.support(shape)
    assert torch.allclose(merged[m], rfft(a)[m], atol=1e-10)
    assert torch.allclose(merged[~m], rfft(b)[~m], atol=1e-10)


@few
@given(shapes, st.sampled_from([0.0, 30.0, 90.0]))
def test_full_range_misses_nothing(shape, axis):
    x = noise(shape)
    wedge = MissingWedge((-90.0, 90.0), tilt_axis_deg=axis)
    assert torch.allclose(wedge.measured(x), x, atol=1e-12)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("axis", [0.0, 90.0])
def test_sign_convention(flipped, axis):
    """Tilt t measures the direction (across, beam) = (cos t, -sin t); `flipped` the mirror image."""
    shape, tilt = (64, 64, 64), 40.0
    wedge = MissingWedge((-10.0, 50.0), tilt_axis_deg=axis, flipped=flipped)
    support = wedge.support(shape)
    kz, ky, kx = frequencies(shape)
    across = (kx + 0 * ky if axis == 0.0 else -ky + 0 * kx) + 0 * kz  # the axis is y, or x
    angle = torch.atan2(-kz * torch.sign(across), across.abs()) * 180 / torch.pi
    far = (torch.sqrt(kz**2 + across**2) > 0.3) & (kz.abs() < 0.49) & (across.abs() < 0.49)
    sign = -1 if flipped else 1
    assert (far & ((angle - tilt).abs() < 5)).sum() > 100
    assert support[far & ((angle - sign * tilt).abs() < 5)].all()
    assert not support[far & ((angle + sign * tilt).abs() < 5)].any()


@few
@given(shapes, wedges(), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_a_narrowed_series_measures_a_part_of_what_the_whole_does(shape, wedge, below, above):
    """What is left and what was taken away make up the series; an end that is kept is kept to the voxel."""
    low, high = wedge.tilt_range_deg
    kept = (low + below * (high - low), high - above * (high - low))
    assume(wedge.tilts_deg is None or any(kept[0] <= t <= kept[1] for t in wedge.tilts_deg))
    narrow = wedge.narrowed(kept)
    assert narrow.tilt_range_deg == kept
    assert replace(narrow, tilt_range_deg=(low, high), tilts_deg=wedge.tilts_deg) == wedge
    assert not (narrow.support(shape) & ~wedge.support(shape)).any()
    assert wedge.narrowed((low, high)) == wedge
    if wedge.tilts_deg is None:
        rest = [wedge.narrowed(part) for part in ((low, kept[0]), (kept[1], high)) if part[0] < part[1]]
        # Odd boxes: on a Nyquist plane a coefficient counts only if both its readings were measured by one part.
        odd = [n | 1 for n in shape]
        union = functools.reduce(torch.logical_or, [part.support(odd) for part in (narrow, *rest)])
        assert torch.equal(union, wedge.support(odd))
    else:
        assert narrow.tilts_deg == tuple(t for t in wedge.tilts_deg if kept[0] <= t <= kept[1])


def test_rotated_wedge_matches_turned_volume():
    """A third of a turn about (1, 1, 1) moves volume and wedge alike, exactly, on a cube."""
    wedge = MissingWedge((-40.0, 60.0), tilt_axis_deg=90.0)
    x = noise((9, 9, 9))

    def turn(v: torch.Tensor) -> torch.Tensor:
        return v.permute(1, 2, 0)  # the density at (z, y, x) goes to (y, x, z)

    rotation = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    turned = turn(wedge.measured(x))
    assert torch.allclose(wedge.rotated(rotation).measured(turn(x)), turned, atol=1e-10)
    assert not torch.allclose(wedge.rotated(rotation.T).measured(turn(x)), turned, atol=1e-2)


@few
@given(st.integers(0, 999), wedges())
def test_rotating_and_back_is_the_same_wedge(seed, wedge):
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(seed))[0]
    there_and_back = wedge.rotated(rotation).rotated(rotation.T)
    a, b = wedge.depth((9, 10, 11)), there_and_back.depth((9, 10, 11))
    assert torch.allclose(a, b, atol=1e-3)
    # ... and rotations compose.
    second = random_rotations(1, generator=torch.Generator().manual_seed(seed + 1))[0]
    one, two = wedge.rotated(rotation).rotated(second), wedge.rotated(second @ rotation)
    assert torch.allclose(one.depth((9, 10, 11)), two.depth((9, 10, 11)), atol=1e-3)


def test_between_six_degree_slabs_is_missing():
    shape = (64, 64, 64)
    listed = MissingWedge.from_tilts(range(-60, 61, 6))
    kz, ky, kx = frequencies(shape)
    angle = torch.atan2(-kz, kx) * 180 / torch.pi + 0 * ky
    k = torch.sqrt(kz**2 + kx**2) + 0 * ky
    between = ((angle.remainder(6) - 3).abs() < 0.5) & (angle.abs() < 57) & (k > 0.4) & (kx < 0.49)
    on = ((angle.remainder(6) - 3).abs() > 2.9) & (angle.abs() < 57) & (k > 0.3) & (kx < 0.49)
    assert between.sum() > 100 and on.sum() > 100
    support = listed.support(shape)
    assert not support[between].any()
    assert support[on].all()
    assert listed.solid().support(shape)[between].all()
    # At low frequency neighbouring slabs overlap: nothing is missing there.
    low = (k < 0.5 / 64 / math.radians(3)) & (angle.abs() < 60)
    assert support[low].all()


def test_naive_asymmetric_mask_is_caught():
    """The law of `hermitian_error` has teeth: the mask without symmetrising fails it (row 45)."""
    shape, wedge = (32, 32, 32), MissingWedge((-40.0, 60.0))
    naive = wedge._depth_once(shape, shape, None, False) <= 0.5
    assert hermitian_error(naive, shape) == 1
    assert hermitian_error(wedge.support(shape), shape) == 0


@pytest.mark.parametrize("bad", [(60, -60), (0, 0), (-91, 60), (-60, float("nan")), (-60, 100)])
def test_bad_ranges_are_refused(bad):
    with pytest.raises(ValueError, match="tilt range"):
        MissingWedge(bad)

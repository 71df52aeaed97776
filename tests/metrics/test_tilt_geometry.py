from __future__ import annotations

import pytest
import torch

from cryoaae.metrics.sectors import plane_angle
from cryoaae.metrics.tilt_geometry import estimate_tilt_geometry
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge


def wedged(
    wedge: MissingWedge, shape: tuple[int, int, int], ramp: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """Falling spectrum, in `wedge`; `ramp` > 0 damps high tilts as SIRT does. Cut from a larger box."""
    large = tuple(n + 24 for n in shape)
    g = torch.Generator().manual_seed(seed)
    angle, _ = plane_angle(large, wedge.tilt_axis_deg)
    shaped = rfft(torch.randn(large, generator=g)) * torch.exp(-4 * radius(large))
    shaped = shaped * torch.exp(-ramp * (angle / 90) ** 2) * wedge.transfer(large)
    z, y, x = shape
    return irfft(shaped.to(torch.complex64), large)[12 : 12 + z, 12 : 12 + y, 12 : 12 + x].contiguous()


@pytest.mark.parametrize("ramp", [0.0, 1.0])
@pytest.mark.parametrize(
    ("axis", "low", "high", "shape"),
    [
        (0.0, -60, 60, (64, 64, 64)),
        (0.0, -40, 62, (40, 72, 60)),
        (90.0, -50, 66, (64, 60, 64)),
        (30.0, -54, 60, (64, 72, 72)),
        (-20.0, -66, 48, (64, 72, 72)),
    ],
)
def test_axis_and_both_ends_come_back(axis, low, high, shape, ramp):
    found = estimate_tilt_geometry(wedged(MissingWedge((low, high), tilt_axis_deg=axis), shape, ramp))
    assert found is not None
    assert found.tilt_axis_deg == pytest.approx(axis, abs=3)
    assert found.tilt_range_deg == pytest.approx((low, high), abs=3)
    assert found.plane_range_deg == pytest.approx((-high, -low), abs=3)


def test_a_mirror_image_has_the_opposite_sign():
    volume = wedged(MissingWedge((-40, 62)), (64, 64, 64))
    found = estimate_tilt_geometry(volume.flip(-1))
    assert found is not None
    assert found.tilt_range_deg == pytest.approx((-62, 40), abs=3)


def test_a_volume_without_a_wedge_shows_none():
    assert estimate_tilt_geometry(torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(3))) is None


def test_a_known_axis_is_taken_over():
    volume = wedged(MissingWedge((-60, 60), tilt_axis_deg=30.0), (64, 64, 64))
    found = estimate_tilt_geometry(volume, tilt_axis_deg=28.0)
    assert found is not None
    assert found.tilt_axis_deg == 28.0

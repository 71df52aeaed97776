"""Copies that tilts apart make: the sum's closed form, and projections and back-projections that know nothing of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.physics.angular_sampling import copied_power
from cryoaae.physics.fourier import multiplicity, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.reconstruction import back_project
from cryoaae.simulation.tilt_series import detector_width, project

STEP_DEG = 9
TILTS = tuple(float(t) for t in range(-63, 64, STEP_DEG))
SIZE = 48


def at(wedge: MissingWedge, kz: int, kx: int, *args: object) -> float:
    return float(copied_power(wedge, (SIZE,) * 3, *args)[kz, 0, kx])  # type: ignore[arg-type]


@pytest.mark.parametrize("kx", [4, 8, 13, 20])
def test_over_all_depths_it_is_the_sum_over_copies(kx: int) -> None:
    a = SIZE * (kx / SIZE) * math.radians(STEP_DEG)
    pairs = sum(2 * max(0.0, 1 - m / a) for m in range(1, 40))
    wedge = MissingWedge.from_tilts(TILTS)
    assert at(wedge, 0, kx, SIZE) == pytest.approx(pairs, abs=1e-5)
    layers = [at(wedge, 0, kx, SIZE, (float(z), z + 1.0)) for z in range(SIZE)]
    assert sum(layers) / SIZE == pytest.approx(pairs, abs=1e-5)


def test_a_middle_has_fewer_copies_than_a_face_and_a_steep_tilt_more() -> None:
    wedge = MissingWedge.from_tilts(TILTS)
    assert at(wedge, 0, 10, SIZE, (22.0, 26.0)) == 0 < at(wedge, 0, 10, SIZE, (0.0, 8.0))
    assert at(wedge, 9, 8, SIZE) > 1.3 * at(wedge, 0, 12, SIZE) > 0  # as far from the axis


@pytest.mark.parametrize(
    "wedge", [MissingWedge((-60.0, 60.0)), MissingWedge.from_tilts([t / 2 for t in range(-120, 121)])]
)
def test_none_where_tilts_are_close_or_not_known(wedge: MissingWedge) -> None:
    box = (SIZE,) * 3
    assert not copied_power(wedge, box, SIZE)[wedge.solid().support(box)].any()


def test_the_tilt_axis_and_the_sign_turn_it() -> None:
    uneven = (-60.0, -50.0, -40.0, *range(-30, 61, 3))
    plain, flipped = (
        copied_power(MissingWedge.from_tilts(uneven, flipped=f), (SIZE,) * 3, SIZE) for f in (False, True)
    )
    mirrored = torch.roll(flipped.flip(0), 1, 0)
    assert torch.allclose(plain[1 : SIZE // 2], mirrored[1 : SIZE // 2], atol=1e-4)
    assert not torch.allclose(plain, flipped, atol=0.1)
    turned = copied_power(MissingWedge.from_tilts(TILTS, tilt_axis_deg=90.0), (SIZE,) * 3, SIZE)
    assert float(turned[0, 12, 0]) == pytest.approx(at(MissingWedge.from_tilts(TILTS), 0, 12, SIZE), abs=1e-5)
    assert float(turned[0, 0, 12]) == 0


def test_reconstructions_have_the_copies() -> None:
    """Power of the reconstruction of a field over the field's, at low tilts, where the volume's sides do not matter."""
    box = (SIZE,) * 3
    k = torch.fft.rfftfreq(SIZE)
    across, beam = k.expand(SIZE, SIZE, -1), torch.fft.fftfreq(SIZE)[:, None, None].expand(SIZE, SIZE, len(k))
    distance = torch.hypot(across, beam)
    angle = torch.rad2deg(torch.atan2(beam.abs(), across))
    expected = copied_power(MissingWedge.from_tilts(TILTS), box, SIZE)
    found, foretold = [], []
    powers: list[tuple[Tensor, Tensor]] = []
    for seed in range(4):
        field = band_limit(torch.randn(box, generator=torch.Generator().manual_seed(seed)), 0.36, 0.42)
        images = (image - image.mean() for image in project(field, TILTS, detector_width(box)))
        powers.append((rfft(back_project(images, TILTS, box)).abs() ** 2, rfft(field).abs() ** 2))
    again, own = (sum(p) * multiplicity(box) for p in zip(*powers, strict=True))
    for low, high in ((0.04, 0.1), (0.18, 0.27), (0.27, 0.36)):
        zone = (distance >= low) & (distance < high) & (angle < 1.5 * STEP_DEG)
        found.append(float(again[zone].sum() / own[zone].sum()))
        foretold.append(1 + float((expected * own)[zone].sum() / own[zone].sum()))
    assert foretold[-1] > 2 * foretold[0]
    assert found == pytest.approx(foretold, rel=0.12)

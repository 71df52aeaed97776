"""Geometry of projections and laws of the detector's noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryoaae.simulation.assemblies import splat
from cryoaae.simulation.tilt_series import (
    detector_width,
    draw_noise,
    field_width,
    noise_power,
    phase_flipped_ctf,
    project,
    tilt_angles_deg,
)


@pytest.mark.parametrize("tilt", [-60.0, -20.0, 0.0, 35.0, 60.0])
def test_a_point_lands_where_geometry_says(tilt: float) -> None:
    shape, width = (32, 24, 40), 64
    volume = np.zeros(shape, np.float32)
    z, y, x = 22.3, 9.6, 27.2
    splat(volume, np.array([[z, y, x]]), np.array([3.0]), 1.2)
    (image,) = project(torch.from_numpy(volume), [tilt], width)
    total = float(image.sum())
    assert total == pytest.approx(3.0, rel=1e-4)  # a projection keeps the integral
    t = math.radians(tilt)
    expected_u = width // 2 + (x - 20) * math.cos(t) - (z - 16) * math.sin(t)
    found_u = float((image.sum(1) * torch.arange(width)).sum()) / total
    found_y = float((image.sum(0) * torch.arange(24)).sum()) / total
    assert found_u == pytest.approx(expected_u, abs=0.02)
    assert found_y == pytest.approx(y, abs=0.02)


def test_projection_is_the_central_slice_of_the_spectrum() -> None:
    # Written out from the definition, without an FFT of the volume.
    generator = torch.Generator().manual_seed(0)
    volume = torch.zeros(24, 8, 24)
    volume[6:18, :, 6:18] = torch.rand(12, 8, 12, generator=generator)
    t, width = math.radians(25.0), 48
    (image,) = project(volume, [25.0], width)
    u = torch.arange(width).double() - width // 2
    z = (torch.arange(24).double() - 12)[:, None]
    x = (torch.arange(24).double() - 12)[None]
    plane = volume.sum(1).double()
    for k in (0.05, 0.12, 0.2):
        line = (image.sum(1).double() * torch.exp(-2j * math.pi * k * u)).sum()
        phase = torch.exp(-2j * math.pi * k * (x * math.cos(t) - z * math.sin(t)))
        slice_value = (plane * phase).sum()
        assert abs(line - slice_value) < 0.02 * float(plane.sum()) * 0.1 + 0.03 * abs(slice_value)


def test_noise_follows_its_spectrum_and_standard_deviation() -> None:
    rng = np.random.default_rng(1)
    shape = (64, 48)
    images = torch.stack([draw_noise(rng, shape, 2.0) for _ in range(200)])
    assert float(images.std()) == pytest.approx(2.0, rel=0.01)
    measured = torch.fft.rfft2(images, norm="ortho").abs().square().mean(0) / 4.0
    law = noise_power(shape)
    ku = torch.fft.fftfreq(64)[:, None]
    ky = torch.fft.rfftfreq(48)[None]
    shell = ((ku**2 + ky**2).sqrt() * 16).long()
    for s in range(8):
        here = shell == s
        assert float(measured[here].mean() / law[here].mean()) == pytest.approx(1, abs=0.05)
    assert float(law[0, 0] / law[32, 24]) > 1.5  # coloured, mildly
    assert float(law[0, 0] / law[32, 24]) < 5


def test_field_holds_every_ray_through_the_volume() -> None:
    shape, tilts = (40, 8, 30), (-54.0, 60.0)
    half = field_width(shape, tilts) / 2
    for tilt in tilts:
        # From a top corner down to the bottom of the slab.
        assert half >= 15 + 40 * abs(math.tan(math.radians(tilt))) - 2
    assert detector_width(shape) >= math.hypot(40, 30)


def test_tilts_include_both_ends() -> None:
    assert tilt_angles_deg((-60, 60), 3.0) == tuple(float(t) for t in range(-60, 61, 3))
    assert tilt_angles_deg((-10, 10), 0.1)[-1] == pytest.approx(10.0)
    assert tilt_angles_deg((-54, 60), 4.0)[-1] == pytest.approx(58.0)


def test_ctf_has_its_first_zero_where_optics_puts_it() -> None:
    ctf = phase_flipped_ctf((2048, 4), 2.0, 3.0)[:1024, 0]
    assert float(ctf[0]) == pytest.approx(0.1, abs=1e-5)
    assert float(ctf.min()) >= 0
    # Without Cs: pi lambda dz k^2 + asin(0.1) = pi, lambda = 0.01969 A at 300 kV.
    expected = math.sqrt((math.pi - math.asin(0.1)) / (math.pi * 0.01969 * 3e4))
    low = int(expected * 1.5 * 2 * 2048)
    found = float(ctf[10:low].argmin() + 10) / 2048 / 2.0
    assert found == pytest.approx(expected, rel=0.02)

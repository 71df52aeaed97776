"""The reconstruction has unit gain where it measured, and nothing where it did not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.physics.fourier import irfft, radius, rfft, taper
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.reconstruction import angular_weights_rad, back_project, ramp_filter
from cryoaae.simulation.tilt_series import detector_width, field_width, project, tilt_angles_deg

RANGE = (-40.0, 60.0)


def pair(shape: tuple[int, int, int], tilt_range: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectra of a random specimen's truth and of its noise-free reconstruction."""
    tilts = tilt_angles_deg(tilt_range, 3.0)
    field = field_width(shape, tilts)
    full = (shape[0], shape[1], field)
    white = torch.randn(full, generator=torch.Generator().manual_seed(2))
    specimen = irfft(rfft(white) * torch.exp(-2 * np.pi**2 * radius(full) ** 2), full)
    images = list(project(specimen, tilts, detector_width(shape)))
    found = back_project(images, tilts, shape)
    start = field // 2 - shape[2] // 2
    truth = specimen[:, :, start : start + shape[2]]
    window = taper(shape)
    return rfft(truth * window), rfft(found * window)


@pytest.mark.parametrize("shape", [(64, 40, 64), (48, 33, 70)])
def test_gain_is_one_in_a_cone_inside_the_measured_range(shape: tuple[int, int, int]) -> None:
    truth, found = pair(shape, RANGE)
    # A cone 15 degrees inside the range, worked out by hand: planes at (kx, kz) = (cos t, -sin t).
    kz = torch.fft.fftfreq(shape[0])[:, None, None]
    kx = torch.fft.rfftfreq(shape[2])[None, None]
    angle = torch.rad2deg(torch.atan2(-kz, kx)).expand(truth.shape)
    angle = torch.where(kx == 0, torch.full_like(angle, 90.0), angle)
    inside = (angle > RANGE[0] + 15) & (angle < RANGE[1] - 15) & ((kx**2 + kz**2).sqrt() > 0.05)
    for low, high in ((0.05, 0.1), (0.1, 0.15), (0.15, 0.2)):
        r = radius(shape)
        cone = inside & (r > low) & (r <= high)
        cross = (found * truth.conj()).real[cone].sum()
        gain = float(cross / truth.abs().square()[cone].sum())
        correlation = float(
            cross / (truth.abs().square()[cone].sum() * found.abs().square()[cone].sum()).sqrt()
        )
        assert gain == pytest.approx(1.0, abs=0.03)
        assert correlation > 0.99


def test_power_lies_on_the_side_the_sign_convention_says() -> None:
    shape = (64, 32, 64)
    _, found = pair(shape, (-20.0, 60.0))
    power = found.abs().square()
    band = radius(shape) < 0.2

    def missing_share(flipped: bool) -> float:
        depth = MissingWedge((-20.0, 60.0), flipped=flipped).depth(shape)
        return float(power[(depth > 3) & band].mean() / power[(depth < -1) & band].mean())

    assert missing_share(False) < 0.02
    assert missing_share(True) > 0.2


def test_ramp_is_linear_and_keeps_the_mean() -> None:
    ramp = ramp_filter(256)
    k = torch.arange(129) / 256
    assert float((ramp[4:] - k[4:]).abs().max()) < 0.003
    assert 0 < float(ramp[0]) < 2e-3  # a padded line's mean is not lost


def test_weights_add_up_to_the_range_and_follow_gaps() -> None:
    weights = np.rad2deg(angular_weights_rad([10, -10, 0, 14]))
    assert weights == pytest.approx([7, 10, 10, 4])
    with pytest.raises(ValueError, match="two tilts"):
        angular_weights_rad([3.0])

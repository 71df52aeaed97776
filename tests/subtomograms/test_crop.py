"""Cutting boxes: the same as moving the whole tomogram, and exact bookkeeping at its faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.shift import fourier_shift
from cryoaae.subtomograms.crop import box_fits, box_start, cut_box
from cryoaae.volume import Volume


@pytest.mark.parametrize("fraction", [(0.5, 0.5, 0.5), (0.25, -0.4, 0.1)])
@pytest.mark.parametrize("box", [24, 25])
def test_a_cut_is_the_shift_of_the_whole_tomogram(fraction, box):
    noise = torch.randn(72, 72, 72, generator=torch.Generator().manual_seed(0))
    band = irfft(rfft(noise) * (radius(noise.shape) < 0.42), noise.shape)
    found = cut_box([Volume(band.numpy(), 10.0)], np.array([36.0, 36.0, 36.0]) + fraction, box, 0.0)
    inside = slice(36 - box // 2, 36 - box // 2 + box)
    wanted = fourier_shift(band, -torch.tensor(fraction))[inside, inside, inside].numpy()
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


def test_halves_are_averaged():
    a, b = (Volume(np.random.default_rng(i).normal(size=(20,) * 3).astype(np.float32), 10.0) for i in (0, 1))
    centre = np.array([10.3, 9.8, 10.0])
    mean = (cut_box([a], centre, 8, 0.0) + cut_box([b], centre, 8, 0.0)) / 2
    assert cut_box([a, b], centre, 8, 0.0) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("box", [8, 9])
def test_a_box_fits_exactly_when_every_voxel_is_there(box):
    shape = (20, 20, 20)
    for place in np.arange(0.0, 20.0, 0.25):
        centre = np.array([place, 10.0, 10.0])
        start = box_start(centre, box)
        assert abs(centre - (start + box // 2)).max() <= 0.5  # the nearest whole voxel
        assert box_fits(centre, box, shape) == (start[0] >= 0 and start[0] + box <= 20)


def test_far_outside_there_is_only_the_fill():
    volume = Volume(np.ones((12, 12, 12), dtype=np.float32), 10.0)
    assert (cut_box([volume], np.array([-50.0, 6, 6]), 8, 7.0) == 7.0).all()

"""The normalisation is the working-grid density's, whatever the offset, and refuses constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.patches import normalise
from cryoaae.patches.normalise import Normalisation, measure_normalisation, shared_normalisation
from cryoaae.physics.resample import to_working_grid
from cryoaae.volume import Volume


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("working_bin", [1, 2, 3])
def test_equals_moments_of_the_whole_working_grid(working_bin):
    data = noise((48, 60, 72)) * 5 - 3
    measured = measure_normalisation(Volume(data, 10.0), working_bin)
    whole = to_working_grid(torch.from_numpy(data).double(), working_bin)
    assert abs(measured.mean - float(data.mean(dtype=np.float64))) < 1e-6
    # Reflection at the faces raises the deviation of white noise there; small volumes are half faces.
    assert abs(measured.scale / float(whole.std()) - 1) < 0.05


def test_scale_is_of_the_band_not_of_the_voxels():
    data = noise((64, 64, 64))
    fine = measure_normalisation(Volume(data, 10.0), 1).scale
    coarse = measure_normalisation(Volume(data, 10.0), 2).scale
    # White noise: the share of the spectrum inside the band, one eighth at twice the voxel.
    assert abs(fine / coarse - 8**0.5) < 0.15


def test_affine_in_the_data():
    data = noise((20, 24, 28))
    one = measure_normalisation(Volume(data, 10.0), 2)
    other = measure_normalisation(Volume(data * 1e-6 + 1e-3, 10.0), 2)
    assert abs(other.scale / one.scale / 1e-6 - 1) < 1e-3


def test_large_values_and_integers():
    data = noise((20, 24, 28))
    assert (
        abs(
            measure_normalisation(Volume(data * 1e30, 10.0), 2).scale
            / 1e30
            / measure_normalisation(Volume(data, 10.0), 2).scale
            - 1
        )
        < 1e-3
    )
    integers = (data * 1000).astype(">i2")
    assert (
        abs(
            measure_normalisation(Volume(integers, 10.0), 2).scale
            / 1000
            / measure_normalisation(Volume(data, 10.0), 2).scale
            - 1
        )
        < 1e-2
    )


def test_sampled_blocks_agree_with_all(monkeypatch):
    data = noise((40, 80, 80))
    monkeypatch.setattr(normalise, "CORE", 16)
    every = measure_normalisation(Volume(data, 10.0), 1)
    monkeypatch.setattr(normalise, "BLOCKS", 20)
    some = measure_normalisation(Volume(data, 10.0), 1)
    assert some.scale != every.scale
    assert abs(some.scale / every.scale - 1) < 0.05


def test_apply_and_undo():
    data = noise((8, 8, 8)) * 4 + 10_000
    norm = Normalisation(10_000.0, 4.0)
    assert norm.apply(data).dtype == np.float32
    assert abs(float(norm.apply(data).std()) - 1) < 0.1
    assert np.allclose(norm.undo(norm.apply(data)), data, atol=2e-3)


def test_halves_share_one():
    halves = [Volume(noise((20, 24, 28), seed) * factor, 10.0) for seed, factor in ((1, 3.0), (2, 4.0))]
    each = [measure_normalisation(h, 1).scale for h in halves]
    shared = shared_normalisation(halves, 1)
    assert abs(shared.scale - np.sqrt((each[0] ** 2 + each[1] ** 2) / 2)) < 1e-9


@pytest.mark.parametrize("value", [0.0, 1000.1, -3e8])
def test_constants_are_refused(value):
    with pytest.raises(InputError, match="constant"):
        measure_normalisation(Volume(np.full((16, 16, 16), value, np.float32), 10.0), 2)

"""Laws of the shift in Fourier space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoaae.physics.fourier import rfft
from cryoaae.physics.shift import fourier_shift

few = settings(max_examples=15, deadline=None)
shapes = st.tuples(*[st.integers(4, 11)] * 3)
shifts = st.tuples(*[st.floats(-3, 3)] * 3)


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@few
@given(shapes, st.tuples(*[st.integers(-5, 5)] * 3))
def test_whole_voxels_roll(shape, shift):
    moved = fourier_shift(noise(shape), torch.tensor(shift))
    assert torch.allclose(moved, torch.roll(noise(shape), shift, (0, 1, 2)), atol=1e-9)


@few
@given(st.tuples(*[st.sampled_from([5, 7, 9])] * 3), shifts)
def test_there_and_back_is_the_identity_and_no_frequency_loses_power(shape, shift):
    x, d = noise(shape), torch.tensor(shift)
    moved = fourier_shift(x, d)
    assert torch.allclose(fourier_shift(moved, -d), x, atol=1e-9)
    assert torch.allclose(rfft(moved).abs(), rfft(x).abs(), atol=1e-9)


@pytest.mark.parametrize("size", [24, 25])
def test_a_gaussian_goes_where_it_should(size):
    grid = np.indices((size,) * 3) - size // 2

    def gaussian(centre):
        return torch.from_numpy(np.exp(-sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) / 2 / 1.8**2))

    moved = fourier_shift(gaussian((0.0, 1.0, -1.0)), torch.tensor([0.3, -1.45, 2.2]))
    assert torch.allclose(moved, gaussian((0.3, -0.45, 1.2)), atol=1e-4)

"""Laws of Fourier resampling, whole and in streamed passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoaae.physics import streamed
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.resample import band_limit, fourier_resample, from_working_grid, to_working_grid

shapes = st.tuples(*[st.integers(3, 13)] * 3)
few = settings(max_examples=15, deadline=None)


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_band(shape: tuple[int, ...], stop: float) -> torch.Tensor:
    return irfft(rfft(noise(shape)) * (radius(shape) < stop), shape)


@few
@given(shapes, st.tuples(*[st.integers(0, 9)] * 3))
def test_finer_and_back_is_the_identity(shape, more):
    """Up and down again keeps all but the ambiguous Nyquist planes."""
    x = low_band(shape, 0.5 - 1e-6)
    fine = tuple(n + m for n, m in zip(shape, more, strict=True))
    assert torch.allclose(fourier_resample(fourier_resample(x, fine), shape), x, atol=1e-10)


@few
@given(shapes, st.integers(2, 4))
def test_finer_grid_passes_through_the_coarse_samples(shape, factor):
    x = low_band(shape, 0.5 - 1e-6)
    fine = from_working_grid(x, factor)
    assert torch.allclose(fine[::factor, ::factor, ::factor], x, atol=1e-10)


@few
@given(shapes, shapes)
def test_densities_keep_their_mean(old, new):
    x = noise(old) + 7.0
    assert torch.allclose(fourier_resample(x, new).mean(), x.mean(), atol=1e-10)


@few
@given(st.tuples(*[st.integers(3, 8)] * 3), st.integers(1, 3))
def test_working_grid_keeps_what_lies_in_its_band(small, factor):
    """Volumes band-limited to where the window is 1 go to the working grid and back unchanged."""
    shape = tuple(n * factor for n in small)
    x = low_band(shape, 0.42 / factor)
    back = from_working_grid(to_working_grid(x, factor), factor)
    assert torch.allclose(back, x, atol=1e-10)


def test_working_grid_drops_what_lies_beyond():
    shape = (24, 24, 24)
    x = irfft(rfft(noise(shape)) * (radius(shape) >= 0.25), shape)
    assert to_working_grid(x, 2).abs().max() < 1e-6


def test_shifts_by_the_factor_commute():
    """Tiles that start at multiples of the factor share one working grid."""
    x = noise((12, 18, 24))
    moved = torch.roll(x, (3, 6, -9), dims=(0, 1, 2))
    expected = torch.roll(to_working_grid(x, 3), (1, 2, -3), dims=(0, 1, 2))
    assert torch.allclose(to_working_grid(moved, 3), expected, atol=1e-10)


def test_sizes_must_be_multiples():
    with pytest.raises(ValueError, match="multiple"):
        to_working_grid(torch.zeros(8, 8, 9), 2)


def test_band_is_rotation_symmetric():
    """A quarter turn commutes with the band limit, for cubes."""
    x = noise((11, 11, 11))
    turned = torch.rot90(x, 1, dims=(0, 2))
    assert torch.allclose(band_limit(turned), torch.rot90(band_limit(x), 1, dims=(0, 2)), atol=1e-6)


@few
@given(st.tuples(*[st.integers(2, 9)] * 3), st.integers(1, 3), st.integers(1, 4))
def test_streamed_passes_equal_the_whole(small, factor, rows):
    shape = tuple(n * factor for n in small)
    x = noise(shape).float()
    y = small[1]
    spectra = torch.cat([streamed.plane_spectra(p[None], small[1:]) for p in x])
    parts = [streamed.band_pencils(spectra[:, a : a + rows], small, a) for a in range(0, y, rows)]
    passed = streamed.planes_of_spectra(torch.cat(parts, dim=1), small[1:])
    assert torch.allclose(passed, to_working_grid(x, factor), atol=1e-5)
    stretched = streamed.stretch_pencils(passed, shape[0])
    assert stretched.shape == (shape[0], *small[1:])
    full = streamed.stretch_planes(stretched, shape[1:])
    np.testing.assert_allclose(full.numpy(), from_working_grid(passed, factor).numpy(), atol=1e-5)

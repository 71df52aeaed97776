"""Laws of the Fourier conventions: Parseval on half spectra, shells, windows."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoaae.physics.fourier import (
    frequencies,
    irfft,
    multiplicity,
    radius,
    rfft,
    shell_index,
    shell_sum,
    soft_lowpass,
)

shapes = st.tuples(*[st.integers(3, 14)] * 3)
few = settings(max_examples=15, deadline=None)


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(shapes)
def test_round_trip_and_parseval(shape):
    x = noise(shape)
    spectrum = rfft(x)
    assert torch.allclose(irfft(spectrum, shape), x, atol=1e-12)
    power = (spectrum.abs() ** 2 * multiplicity(shape)).sum()
    assert torch.allclose(power, (x**2).sum(), rtol=1e-6)


@few
@given(shapes, st.tuples(*[st.integers(-20, 20)] * 3))
def test_frequencies_match_a_plane_wave(shape, k):
    """A shift multiplies the spectrum by the phase that the frequencies predict."""
    x = noise(shape)
    kz, ky, kx = frequencies(shape, dtype=torch.float64)
    shifted = torch.roll(x, k, dims=(0, 1, 2))
    phase = torch.exp(-2j * torch.pi * (kz * k[0] + ky * k[1] + kx * k[2]))
    assert torch.allclose(rfft(shifted), rfft(x) * phase, atol=1e-10)


@few
@given(shapes, st.integers(1, 9))
def test_shell_sums_are_complete(shape, shells):
    """Every coefficient inside freq_max lies in one shell, those beyond in none."""
    values = noise((2, *radius(shape).shape))
    inside = radius(shape) / 0.5 * shells < shells
    sums = shell_sum(values, shell_index(shape, shells), shells)
    assert torch.allclose(sums.sum(-1), (values * inside).sum((-3, -2, -1)), atol=1e-9)


def test_shell_holds_its_frequencies():
    shape, shells = (16, 12, 18), 6
    index, k = shell_index(shape, shells), radius(shape)
    for shell in range(shells):
        inside = k[index == shell]
        assert inside.min() >= shell * 0.5 / shells - 1e-6
        assert inside.max() < (shell + 1) * 0.5 / shells + 1e-6


def test_soft_lowpass_falls_from_one_to_zero():
    k = torch.linspace(0, 1, 201)
    window = soft_lowpass(k, 0.3, 0.5)
    assert torch.all(window[k <= 0.3] == 1)
    assert torch.all(window[k >= 0.5].abs() < 1e-6)
    assert torch.all(window.diff() <= 1e-7)
    assert abs(float(soft_lowpass(torch.tensor(0.4), 0.3, 0.5)) - 0.5) < 1e-6

"""Noise of a single volume: right where no place is quiet, never more than there is, finite where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.patches.reconstruction_noise import reconstruction_noise
from cryoaae.patches.spectra import Spectra, measure_spectra
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.reconstruction import back_project
from cryoaae.volume import Volume

BOX = (96, 96, 96)
SHELLS = 16
K = (torch.arange(SHELLS, dtype=torch.float64) + 0.5) / SHELLS * 0.5


def law(k: torch.Tensor, fall: float) -> torch.Tensor:
    return k * torch.exp(1.0 - fall * k**2)


@pytest.mark.parametrize("fall", [0.0, 4.0, 30.0, -3.0])
def test_a_curve_of_the_law_is_found_under_structures_that_are_everywhere(fall: float) -> None:
    truth = law(K, fall)
    structure = 50 * torch.exp(-((K / 0.08) ** 2))
    found = reconstruction_noise(truth + structure)
    assert ((truth + structure) / truth)[1] > 5, "the quietest blocks are no answer"
    assert (found / truth - 1).abs().max() < 0.02


def test_it_is_never_above_the_quietest_blocks_and_is_theirs_beyond_the_structures() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        quiet = law(K, 4.0) * (0.3 * torch.randn(SHELLS, generator=generator, dtype=torch.float64)).exp()
        found = reconstruction_noise(quiet)
        assert (found > 0).all()
        assert (found <= quiet * (1 + 1e-9)).all()
        assert found[-1] == quiet[-1]


def test_what_was_cut_off_holds_no_noise_and_does_not_spoil_the_rest() -> None:
    quiet = law(K, 2.0)
    quiet[12:] = 0.0
    found = reconstruction_noise(quiet)
    assert (found[12:] == 0).all()
    torch.testing.assert_close(found[:12], quiet[:12])
    assert torch.equal(reconstruction_noise(torch.zeros(SHELLS, dtype=torch.float64)), torch.zeros(SHELLS).double())


def single(signal_rms: float, *, generator: torch.Generator) -> tuple[Spectra, torch.Tensor]:
    """Spectra of noise of the law with a field of structures all over, and the law at the shells."""
    wedge = MissingWedge((-60.0, 60.0))
    field = band_limit(torch.randn(BOX, generator=generator), 0.03, 0.08)
    noise = irfft(rfft(torch.randn(BOX, generator=generator)) * law(radius(BOX), 4.0).sqrt(), BOX)
    volume = wedge.measured(noise + signal_rms * field / field.std())
    found = measure_spectra([Volume(np.asarray(volume), 10.0)], wedge, generator=generator)
    return found, law((torch.arange(len(found.noise)) + 0.5) / len(found.noise) * 0.5, 4.0)


@pytest.mark.parametrize("signal_rms", [0.0, 1.0])
def test_of_a_crowded_volume_signal_and_noise_are_told_apart(signal_rms: float) -> None:
    found, truth = single(signal_rms, generator=torch.Generator().manual_seed(1))
    assert ((found.noise / truth)[2:] - 1).abs().max() < 0.3
    assert (found.noise + found.signal > 0).all()
    if signal_rms:
        assert found.fsc[1] > 0.9
    assert found.fsc[6:].max() < 0.3


def test_back_projected_noise_follows_the_law() -> None:
    generator = torch.Generator().manual_seed(0)
    tilts = [float(t) for t in range(-60, 61, 3)]
    images = (torch.randn(96, 96, generator=generator) for _ in tilts)
    volume = Volume(back_project(images, tilts, BOX).numpy(), 10.0)
    found = measure_spectra([volume], MissingWedge((-60.0, 60.0)), generator=generator)
    power = found.noise + found.signal
    assert ((reconstruction_noise(power) / power)[2:] - 1).abs().max() < 0.2

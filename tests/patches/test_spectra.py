"""Spectra from halves and from a single volume, and the grid that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.patches.spectra import Spectra, choose_working_bin, interpolate, measure_spectra
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

BOX = (96, 96, 96)


def noise(power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return irfft(rfft(torch.randn(BOX, generator=generator)) * power.sqrt(), BOX)


def test_noise_of_halves_is_the_noise_that_was_put_in() -> None:
    """Within 5 % per shell, whatever the signal, in the measured region only."""
    generator = torch.Generator().manual_seed(0)
    wedge = MissingWedge((-60.0, 60.0))
    truth = 0.3 + 4 * radius(BOX)
    found = []
    for _ in range(5):  # one volume leaves 5 % of chance in the low shells
        signal = band_limit(torch.randn(BOX, generator=generator), 0.05, 0.1) * 6
        halves = [Volume(np.asarray(wedge.measured(signal + noise(truth, generator))), 10.0) for _ in range(2)]
        spectra = measure_spectra(halves, wedge, generator=generator)
        found.append(spectra.noise)
    k = (torch.arange(len(spectra.noise)) + 0.5) / len(spectra.noise) * 0.5
    assert ((torch.stack(found).mean(dim=0) / (0.3 + 4 * k)) - 1).abs()[5:].max() < 0.05
    # The FSC is high where the signal is and nothing beyond its band.
    assert spectra.fsc[1:5].min() > 0.8
    assert spectra.fsc[16:].max() < 0.05
    assert spectra.cutoff() == pytest.approx(0.1, abs=0.03)


def test_shells_above_the_floor_by_chance_are_not_signal() -> None:
    signal = torch.zeros(32, dtype=torch.float64)
    signal[:10], signal[25] = 1.0, 0.05
    kept = Spectra(signal, torch.ones(32, dtype=torch.float64)).significant()
    assert torch.equal(kept[:10], torch.full((10,), 0.5, dtype=torch.float64))
    assert kept[11:].max() == 0


def test_noise_of_a_single_volume_comes_from_its_quietest_blocks() -> None:
    """Noise that rises with the frequency, as of a reconstruction, and structures in one half of the volume."""
    generator = torch.Generator().manual_seed(0)
    box = (64, 64, 256)
    volume = irfft(rfft(torch.randn(box, generator=generator)) * radius(box).sqrt(), box)
    volume[..., 128:] += band_limit(torch.randn((64, 64, 128), generator=generator), 0.05, 0.1) * 3
    spectra = measure_spectra([Volume(np.asarray(volume), 10.0)], MissingWedge(), generator=generator)
    k = (torch.arange(len(spectra.noise)) + 0.5) / len(spectra.noise) * 0.5
    assert (spectra.noise / k - 1).abs()[1:].max() < 0.2
    assert spectra.fsc[1:3].min() > 0.8


def test_working_grid_keeps_what_the_halves_share() -> None:
    k = (torch.arange(32, dtype=torch.float64) + 0.5) / 64

    def with_cutoff(freq: float) -> Spectra:
        return Spectra((k < freq).double(), torch.full((32,), 0.5, dtype=torch.float64))

    assert choose_working_bin(with_cutoff(0.45), (256, 256, 256)) == 1
    assert choose_working_bin(with_cutoff(0.22), (256, 256, 256)) == 2
    assert choose_working_bin(with_cutoff(0.14), (256, 256, 256)) == 3
    assert choose_working_bin(with_cutoff(0.14), (28, 256, 256)) == 1  # thin: a few tens of voxels stay


def test_spectra_on_the_working_grid_are_those_of_the_binned_volume() -> None:
    from cryoaae.physics.resample import to_working_grid

    generator = torch.Generator().manual_seed(0)
    truth = 0.3 + 4 * radius(BOX)
    halves = [noise(truth, generator) for _ in range(2)]
    volumes = [Volume(np.asarray(h), 10.0) for h in halves]
    spectra = measure_spectra(volumes, MissingWedge((-90.0, 90.0)), generator=generator)
    scale = 0.7
    on_grid = spectra.on_working_grid(2, scale)
    binned = rfft(to_working_grid(halves[0], 2) / scale).abs() ** 2
    k = radius((48, 48, 48))
    for freq in (0.1, 0.2, 0.3, 0.4):
        measured = float(binned[(k - freq).abs() < 0.02].mean())
        assert float(interpolate(on_grid.noise, torch.tensor([2 * freq]).double())) == pytest.approx(measured, rel=0.12)

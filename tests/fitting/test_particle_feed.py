"""Batches of simulated particles like those of a store."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryoaae.fitting import particle_feed
from cryoaae.fitting.particle_feed import ParticleFeed
from cryoaae.models.general_fitting import GeneralFitting
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.fourier import multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.particle_species import GYRATION, draw_particle_species

BOX, SHELLS, VOXEL = 16, 32, 24.0
WEDGES = [MissingWedge((-60.0, 60.0)), MissingWedge((-45.0, 70.0))]


def spectra() -> Spectra:
    k = torch.linspace(0, 1, SHELLS, dtype=torch.float64)
    return Spectra(0.6 * torch.exp(-5 * k), 1.0 - 0.5 * k)


@pytest.fixture(scope="module")
def species():
    return draw_particle_species(
        np.random.default_rng(0), [], count=6, diameter_angstrom=200.0, voxel_size_angstrom=VOXEL
    )


@pytest.fixture
def feed(species, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(particle_feed, "MEASURED", 12)
    monkeypatch.setattr(particle_feed, "HELD_OUT_BATCHES", 1)

    def made(seed: int = 0, batch_size: int = 2) -> ParticleFeed:
        return ParticleFeed(
            species, spectra(), WEDGES, box=BOX, pad=4, multiple=4, voxel_size_angstrom=VOXEL, held_out=2,
            batch_size=batch_size, hidden_weight=2.0, seed=seed, device=torch.device("cpu"),
        )  # fmt: skip

    return made


def shell_power(volumes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean power per coefficient of (n, z, y, x), (BOX // 2,), over coefficients (n, z, y, x // 2 + 1)."""
    index, weight = shell_index((BOX,) * 3, BOX // 2), multiplicity((BOX,) * 3) * where
    power = shell_sum((rfft(volumes).abs() ** 2 * weight).sum(dim=0), index, BOX // 2)
    return power / shell_sum(weight.sum(dim=0), index, BOX // 2)


def test_particles_have_the_diameter_that_was_asked_for(species) -> None:
    for one in species:
        places = np.stack(np.indices(one.density.shape), axis=-1)
        centre = np.array([n // 2 for n in one.density.shape])
        mass = one.density[..., None] / one.density.sum()
        assert np.abs((mass * (places - centre)).sum(axis=(0, 1, 2))).max() < 0.75
        radius = math.sqrt(float((mass[..., 0] * ((places - centre) ** 2).sum(axis=-1)).sum()))
        assert 2 * radius / GYRATION * VOXEL == pytest.approx(200, rel=0.3)


def test_batches_have_the_spectra_of_the_store(feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particle_feed, "NOTHING_SHARE", 0.0)
    made = feed(batch_size=32)
    batch = made.batch()
    truth, shown = batch.targets[:, 0], made._core(batch.inputs[:, :1])[:, 0]
    everywhere = torch.ones(len(truth), BOX, BOX, BOX // 2 + 1)
    position = (torch.arange(BOX // 2, dtype=torch.float64) + 0.5) / (BOX // 2)
    wanted = spectra()
    # Shells well inside: a cut box leaks from loud shells to quiet ones.
    inner = slice(2, 7)
    signal = shell_power(truth, everywhere)
    assert torch.allclose(signal[inner], interpolate(wanted.signal, position)[inner], rtol=0.3)
    noise = shell_power(shown - truth, batch.kept[:, 0])
    assert torch.allclose(noise[inner], interpolate(wanted.noise, position)[inner], rtol=0.15)
    # Of what the tilts did not measure only leaks are there.
    assert float(shell_power(shown, ~batch.kept[:, 0])[4:7].max()) < 0.3 * float(noise[4:7].min())


def test_some_boxes_hold_nothing(feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particle_feed, "NOTHING_SHARE", 1.0)
    batch = feed().batch()
    assert float(batch.targets.abs().max()) == 0
    assert float(batch.inputs[:, 0].std()) > 0.3


def test_the_same_seed_makes_the_same_batches_also_after_a_stop(feed) -> None:
    first, second = feed(), feed()
    first.batch()
    second.load_state(first.state(), None)
    one, other = first.batch(), second.batch()
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    assert not torch.equal(one.inputs, feed(seed=1).batch().inputs)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first.held_out(), second.held_out(), strict=True))


def test_boxes_alone_are_judged(feed) -> None:
    """Whatever a network makes of what is shown beyond the faces of a box does not count."""
    made = feed()
    batch = made.batch()

    class Outside(torch.nn.Module):
        def forward(self, shown: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            out = torch.full_like(shown[:, :1], 7.0)
            inside = slice(made.margin, made.margin + BOX)
            out[..., inside, inside, inside] = 0
            return out

    model = GeneralFitting(UNet(in_channels=2, widths=(4, 8), conditions=CONDITIONS), 2.0, made.margin)
    model.network = Outside()
    outside = model.error(batch)
    # That leaves the Wiener estimate, whose error the baseline is.
    assert 0.6 < float(outside) < 1.4

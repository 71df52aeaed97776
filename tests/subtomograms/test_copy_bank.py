"""Copies that are kept are those that would be made again, and quarter turns of them are turns of the particle."""

from __future__ import annotations

import pytest
import torch

from cryoaae.io.store import SubtomogramStore
from cryoaae.patches.particle_spectra import sphere
from cryoaae.physics.fourier import irfft
from cryoaae.physics.rotation import quarter_turns
from cryoaae.subtomograms.copies import fine_grid, turned_particle
from cryoaae.subtomograms.copy_bank import CopyBank
from cryoaae.subtomograms.standard import Particles, measure_standard


@pytest.fixture(scope="module")
def particles(tmp_path_factory, store_maker) -> Particles:
    stores = [SubtomogramStore(store_maker(tmp_path_factory.mktemp("bank") / "s.h5", 3))]
    return Particles(stores, measure_standard(stores, 16))


def test_what_is_forgotten_is_made_again_bit_for_bit(particles):
    bank = CopyBank(particles, canonical=True, shift=1.0, seed=3)
    bank.size = 1
    first = bank.get(0, 1)
    assert bank.get(0, 1) is first
    bank.get(1, 1)
    again = bank.get(0, 1)
    assert again is not first
    assert torch.equal(again.copy, first.copy) and torch.equal(again.rotation, first.rotation)
    for other in (bank.get(0, 2), CopyBank(particles, canonical=True, shift=1.0, seed=4).get(0, 1)):
        assert not torch.allclose(other.rotation, first.rotation)


@pytest.mark.parametrize("which", [0, 5, 17])
def test_a_copy_turned_by_quarters_is_measured_as_the_particle_turned_at_once(particles, which):
    bank, quarter = CopyBank(particles, canonical=False, shift=0.0, seed=0), quarter_turns()[which]
    turned = bank.get(2, 1)
    found = bank.target(2, turned, quarter)
    fine = fine_grid(particles.spectrum(2)[None])
    wanted = turned_particle(fine, particles.wedge(2), quarter @ turned.rotation)[0]
    assert torch.equal(found.seen, wanted.seen)
    inside = sphere(particles.box)
    first, second = (irfft(spectrum, inside.shape) * inside for spectrum in (found.spectrum, wanted.spectrum))
    # At its faces an even box does not turn into itself; a wedge spreads that a little.
    assert float((first - second).norm() / second.norm()) < 0.15


def test_frames_of_references_are_kept_only_where_they_are_wanted(particles):
    assert CopyBank(particles, canonical=False, shift=0.0, seed=0).get(0, 1).reference is None
    assert CopyBank(particles, canonical=True, shift=0.0, seed=0).get(0, 1).reference is not None

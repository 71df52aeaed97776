"""Standardised particles and their copies: noise as a real particle has it, nothing of what a wedge hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.models.volumetric import measured_error
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations, rotation_about
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.copies import as_it_is, completed, fine_grid, turned, turned_particle, turned_support
from cryoaae.subtomograms.standard import Particles, Standard, band, matching_standard, measure_standard, open_stores

BOX, WEDGE = 16, MissingWedge((-60.0, 60.0))


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, BOX, BOX, BOX)).astype(np.float32)


@pytest.fixture
def grains(tmp_path, store_writer) -> Particles:
    """Particles of wedged white noise alone, with any mean and scale."""
    volumes = [WEDGE.measured(torch.from_numpy(v)).numpy() * (1 + i % 3) + i for i, v in enumerate(noise(60))]
    path = store_writer(
        tmp_path / "grains.h5", volumes, classes=[""] * 60, turns=np.stack([np.eye(3)] * 60), wedges=[WEDGE] * 60
    )
    stores = open_stores([path])
    return Particles(stores, measure_standard(stores, BOX))


def test_whitened_noise_has_unit_power_in_every_measured_shell(grains):
    weight = grains.support(0) * multiplicity((BOX,) * 3)
    index = shell_index((BOX,) * 3, 8)
    power = sum(shell_sum(grains.spectrum(i).abs() ** 2 * weight, index, 8) for i in range(60)) / 60
    mean = power / shell_sum(weight, index, 8)
    assert mean[1:6] == pytest.approx(np.ones(5), abs=0.06)  # beyond, the band begins to end
    errors = [
        measured_error(torch.zeros(1, *(BOX,) * 3), grains.spectrum(i)[None], grains.support(i)[None], band(BOX) ** 2)
        for i in range(60)
    ]
    assert float(torch.cat(errors).mean()) == pytest.approx(0.5, rel=0.04)
    # Noise is no signal: what the encoder's filter passes is no more than its floor by much.
    assert float(grains.standard.spectra.fsc[1:].max()) < 0.1


def test_a_copy_has_the_noise_of_a_particle_in_every_shell(grains):
    """So that no network can tell copies from particles by it: within 3 % a shell."""
    generator, index, weight = torch.Generator().manual_seed(1), shell_index((BOX,) * 3, 8), multiplicity((BOX,) * 3)
    sums = torch.zeros(2, 8, dtype=torch.float64)
    for _ in range(3):
        for i, rotation in enumerate(random_rotations(60, generator=generator)):
            own, fresh = as_it_is(grains, i), torch.randn((BOX,) * 3, generator=generator)
            copy = turned_particle(fine_grid(completed(own, fresh)), WEDGE, rotation)[1]
            for row, spectrum in enumerate((own.spectrum, copy * own.seen)):
                sums[row] += shell_sum(spectrum.abs() ** 2 * weight, index, 8)
    ratio = sums[1] / sums[0]
    assert ratio[1:].numpy() == pytest.approx(np.ones(7), abs=0.03)


def test_what_the_wedge_hides_from_a_particle_changes_nothing(tmp_path, store_writer):
    first = noise(12)
    hidden = np.stack([WEDGE.complement(torch.from_numpy(50 * v)).numpy() for v in noise(12, seed=1)])
    made = []
    for name, volumes in (("a", first), ("b", first + hidden)):
        path = store_writer(
            tmp_path / f"{name}.h5", list(volumes), classes=[""] * 12, turns=np.stack([np.eye(3)] * 12),
            wedges=[WEDGE] * 12,
        )  # fmt: skip
        stores = open_stores([path])
        made.append(Particles(stores, measure_standard(stores, BOX)))
    for i in range(12):
        torch.testing.assert_close(made[0].spectrum(i), made[1].spectrum(i), atol=2e-3, rtol=0)


@pytest.mark.parametrize("stored", [24, 25])
def test_the_centre_of_a_stored_box_odd_or_even_is_that_of_the_working_box(stored, tmp_path, store_writer):
    """A blob about voxel n // 2 is, on the working grid, its own mirror image about voxel box // 2."""
    line = np.arange(stored) - stored // 2
    blob = 40 * np.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / 2 / 3.0**2)
    everywhere, rng = MissingWedge((-90.0, 90.0)), np.random.default_rng(0)
    path = store_writer(
        tmp_path / "s.h5", [blob + rng.normal(size=blob.shape) for _ in range(4)], classes=[""] * 4,
        turns=np.stack([np.eye(3)] * 4), wedges=[everywhere] * 4,
    )  # fmt: skip
    stores = open_stores([path])
    particles = Particles(stores, measure_standard(stores, BOX))
    seen = irfft(sum(particles.spectrum(i) for i in range(4)), (BOX,) * 3)[1:, 1:, 1:]
    mirrored = torch.corrcoef(torch.stack([seen.flatten(), seen.flip(0, 1, 2).flatten()]))[0, 1]
    assert float(mirrored) > 0.97


def test_gaps_between_tilts_that_a_large_box_resolves_are_not_measured():
    tilts = MissingWedge.from_tilts(np.arange(-60.0, 61.0, 3.0).tolist())
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    for box, gaps in ((16, False), (96, True)):
        found, solid = (turned_support(wedge, rotation, box) for wedge in (tilts, tilts.solid()))
        assert not (found & ~solid).any()
        assert bool((solid & ~found).any()) == gaps
        assert float(found.float().mean()) > 0.3


def test_a_quarter_turn_is_exact_and_a_shift_moves_by_what_it_says():
    volume = band_limit(torch.randn((BOX,) * 3, generator=torch.Generator().manual_seed(0)))
    fine = fine_grid(rfft(volume)[None])
    index = (torch.arange(BOX) - BOX // 2).tolist()
    rotation = rotation_about((1.0, 0.0, 0.0), np.pi / 2).round()
    # What is at p goes to R p, about voxel box // 2, in a periodic box.
    wanted = torch.zeros_like(volume)
    for y in index:
        for x in index:
            _, ty, tx = (rotation @ torch.tensor([0.0, y, x])).int().tolist()
            wanted[:, (ty + BOX // 2) % BOX, (tx + BOX // 2) % BOX] = volume[:, y + BOX // 2, x + BOX // 2]
    assert float((turned(fine, rotation)[0] - wanted).abs().max()) < 0.02 * float(volume.std())
    moved = turned(fine, torch.eye(3), torch.tensor([1.0, -2.0, 0.0]))[0]
    assert float((moved - volume.roll((1, -2), (0, 1))).abs().max()) < 0.02 * float(volume.std())


def test_a_copy_shows_the_particle_where_it_was_measured_and_noise_elsewhere(grains):
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(2))[0]
    fresh = torch.randn(2, *(BOX,) * 3, generator=torch.Generator().manual_seed(3))
    made = [turned_particle(fine_grid(completed(as_it_is(grains, 0), noise)), WEDGE, rotation) for noise in fresh]
    (target, one), (again, other) = made
    assert torch.equal(target.spectrum, again.spectrum)  # the target knows nothing of the noise that fills
    assert not (target.spectrum * ~target.seen).any()
    depth, inside = WEDGE.rotated(rotation).depth((BOX,) * 3), radius((BOX,) * 3) < 0.4
    measured, hidden = (depth < -1.5) & inside, (depth > 1.5) & inside
    changed = (one - other).abs() ** 2
    assert float(changed[measured].mean()) < 0.1
    assert float(changed[hidden].mean()) == pytest.approx(2.0, rel=0.15)
    assert float((one - target.spectrum)[measured].abs().square().mean()) < 0.05


def test_particles_do_not_depend_on_the_order_of_their_stores(tmp_path, store_maker):
    paths = [store_maker(tmp_path / f"{seed}.h5", 3, seed=seed) for seed in (0, 1)]
    both = [open_stores(order) for order in (paths, paths[::-1])]
    first, second = (Particles(stores, measure_standard(stores, BOX)) for stores in both)
    for i in range(6):
        torch.testing.assert_close(first.spectrum(i), second.spectrum(6 + i), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(first.spectrum(6 + i), second.spectrum(i), atol=1e-4, rtol=1e-4)
    assert [first.place(i) for i in (0, 5, 6, 11)] == [(0, 0), (0, 5), (1, 0), (1, 5)]


def test_whitening_is_undone(shapes_store):
    stores = open_stores([shapes_store])
    particles = Particles(stores, measure_standard(stores, BOX))
    whitened = irfft(particles.spectrum(1), (BOX,) * 3)
    raw = band_limit(torch.from_numpy(stores[0].volume(1)))
    again = particles.standard.unwhitened(whitened)
    assert float(torch.corrcoef(torch.stack([again.flatten(), raw.flatten()]))[0, 1]) > 0.999
    facts = Standard.from_facts(particles.standard.facts())
    torch.testing.assert_close(facts.filter(), particles.standard.filter())


def test_stores_that_do_not_fit_together_are_refused(tmp_path, shapes_store, store_maker, store_writer):
    with pytest.raises(InputError, match="no store given"):
        open_stores([])
    other = store_maker(tmp_path / "other.h5", 2, box=12)
    with pytest.raises(InputError, match="boxes of 12 voxels"):
        open_stores([shapes_store, other])
    fitted = measure_standard(open_stores([shapes_store]), BOX)
    with pytest.raises(InputError, match="extract boxes of 16 voxels"):
        matching_standard(open_stores([other]), fitted)
    flat = store_writer(
        tmp_path / "flat.h5", [np.ones((BOX,) * 3)] * 3, classes=[""] * 3, turns=np.stack([np.eye(3)] * 3),
        wedges=[WEDGE] * 3,
    )  # fmt: skip
    with pytest.raises(InputError, match="no background"):
        measure_standard(open_stores([flat]), BOX)

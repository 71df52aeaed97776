"""Simulated stores: what is known of the particles goes with them, and an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import write_volume
from cryoaae.io.store import SubtomogramStore
from cryoaae.physics.ctf import wavelength_angstrom
from cryoaae.runs.progress import NullProgress
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator
from cryoaae.subtomograms.band import particles_of_stores, radial_contrast
from cryoaae.subtomograms.from_simulation import simulate_store

SETTINGS = ImagingSettings(box=20, voxel_size_angstrom=12.0, tilt_step_deg=10.0, shift_voxels=1.5)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two maps: a ball, and two balls."""
    folder, (z, y, x) = tmp_path_factory.mktemp("maps"), np.indices((15, 15, 15)) - 7
    paths = []
    for name, offset in (("one", 0), ("two", 3)):
        density = sum(np.exp(-(z**2 + y**2 + (x - side * offset) ** 2) / 5) for side in (-1, 1))
        paths.append(folder / f"{name}.mrc")
        write_volume(paths[-1], density.astype(np.float32), voxel_size_angstrom=12.0)
    return paths


@pytest.fixture(scope="module")
def store(maps: list[Path], tmp_path_factory: pytest.TempPathFactory) -> SubtomogramStore:
    path = tmp_path_factory.mktemp("store") / "particles.h5"
    return SubtomogramStore(simulate_store(path, maps=maps, counts=[3, 2], settings=SETTINGS, seed=4))


def test_the_store_says_what_was_drawn(store: SubtomogramStore) -> None:
    assert sorted(store.facts.classes) == ["one"] * 3 + ["two"] * 2
    assert (store.box, store.voxel_size_angstrom, store.about["snr"]) == (20, 12.0, 0.1)
    particles = store.particles()
    # The list's own words, in angstrom and Euler angles, say the same as the tables.
    assert particles.points_zyx / 12 == pytest.approx(store.facts.positions_zyx, abs=1e-4)
    assert particles.rotations == pytest.approx(store.facts.rotations, abs=1e-5)
    assert particles.classes == store.facts.classes
    shifts = particles.shifts_zyx / 12
    assert store.facts.positions_zyx == pytest.approx(10 + shifts, abs=1e-4)
    assert 0 < np.linalg.norm(shifts, axis=1).max() <= 1.5
    assert store[0].wedge.tilts_deg == tuple(range(-60, 61, 10))


def test_the_defocus_in_the_list_is_that_of_the_particle(store: SubtomogramStore, maps: list[Path]) -> None:
    from cryoaae.simulation.dataset import load_species

    simulator = SubtomogramSimulator(load_species(maps, [], 12.0), [3, 2], SETTINGS, seed=4)
    found = radial_contrast(store)
    assert found.shape == (5, 11)
    for line, true in zip(found, simulator.truth, strict=True):
        k = np.arange(11) / 20 / 12
        wavelength = wavelength_angstrom(300.0)
        chi = np.pi * wavelength * k**2 * (1e4 * true.defocus_um - 0.5 * 2.7e7 * wavelength**2 * k**2)
        assert line == pytest.approx(np.abs(np.sin(chi + np.arcsin(0.1))), abs=1e-3)
    assert np.ptp(found[:, 5]) > 0.01  # particles differ
    with_ctf = particles_of_stores([store], 0.25, phases_flipped_ctf=True)
    without = particles_of_stores([store], 0.25)
    assert np.array_equal(with_ctf.contrast.numpy(), found[:, : with_ctf.band.shell_count])
    assert bool((without.contrast == 1).all())


def test_an_interrupted_simulation_goes_on_to_the_same(
    store: SubtomogramStore, maps: list[Path], tmp_path: Path
) -> None:
    class Impatient(NullProgress):
        def advance(self, amount: float = 1.0, **facts: object) -> None:
            self.cancel()

    output = tmp_path / "particles.h5"
    with pytest.raises(InterruptedRunError, match="--resume"):
        simulate_store(output, maps=maps, counts=[3, 2], settings=SETTINGS, seed=4, progress=Impatient())
    assert not output.exists()
    with pytest.raises(InputError, match="other inputs or settings"):
        simulate_store(output, maps=maps, counts=[3, 2], settings=SETTINGS, seed=5, resume=True)
    again = SubtomogramStore(simulate_store(output, maps=maps, counts=[3, 2], settings=SETTINGS, seed=4, resume=True))
    assert all(np.array_equal(again.volume(i), store.volume(i)) for i in range(5))
    with pytest.raises(InputError, match="exists already"):
        simulate_store(output, maps=maps, counts=[3, 2], settings=SETTINGS, seed=4)

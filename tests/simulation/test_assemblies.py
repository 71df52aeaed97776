"""Laws of procedural macromolecules, and their spectra against those of real maps."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.io.mrc import open_volume
from cryoaae.physics.fourier import radius, rfft
from cryoaae.simulation.assemblies import (
    ANGSTROM3_PER_DALTON,
    MASS_RANGE_KILODALTON,
    Assembly,
    random_assembly,
    splat,
    symmetry_rotations,
)

BANDS_PER_ANGSTROM = np.linspace(1 / 100, 1 / 25, 8)


def amplitude_spectrum(density: np.ndarray, voxel_size_angstrom: float) -> np.ndarray:
    """RMS amplitude per band between 1/100 and 1/25 per angstrom, geometric mean 1."""
    size = max(96, *density.shape)
    box = torch.zeros((size,) * 3)
    z, y, x = density.shape
    box[:z, :y, :x] = torch.from_numpy(density)
    power = rfft(box).abs().square().numpy()
    sfreq = radius(box.shape).numpy() / voxel_size_angstrom
    edges = itertools.pairwise(BANDS_PER_ANGSTROM)
    rms = np.array([np.sqrt(power[(sfreq >= low) & (sfreq < high)].mean()) for low, high in edges])
    return rms / np.exp(np.log(rms).mean())


def assemblies(number: int) -> list[Assembly]:
    rng = np.random.default_rng(7)
    return [random_assembly(rng, f"a{i}") for i in range(number)]


@pytest.mark.data
def test_spectra_lie_within_a_factor_two_of_real_maps() -> None:
    folder = Path(os.environ.get("CRYOAAE_DATA", "")) / "maps_10A"
    if "CRYOAAE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("CRYOAAE_DATA does not point to the shared data")
    real = []
    for path in sorted(folder.glob("*.mrc.gz")):
        volume = open_volume(path)
        real.append(np.log(amplitude_spectrum(volume.numpy(), volume.voxel_size_angstrom)))
    assert len(real) >= 10
    made = [np.log(amplitude_spectrum(a.density(10.0), 10.0)) for a in assemblies(24)]
    ratio = np.exp(np.mean(made, axis=0) - np.mean(real, axis=0))
    assert np.abs(np.log(ratio)).max() < np.log(1.6), ratio
    # Not only their mean: at least nine of ten stay within a factor 2 of the mean map everywhere.
    single = np.abs(np.array(made) - np.mean(real, axis=0)).max(axis=1) < np.log(2)
    assert single.mean() >= 0.9


def test_spectra_fall_as_those_of_compact_matter() -> None:
    # Porod: the amplitude of a body with a sharp surface falls as k^-2; a blurred one somewhat faster.
    made = np.mean([np.log(amplitude_spectrum(a.density(10.0), 10.0)) for a in assemblies(12)], axis=0)
    middle = np.log((BANDS_PER_ANGSTROM[1:] + BANDS_PER_ANGSTROM[:-1]) / 2)
    slope = np.polyfit(middle, made, 1)[0]
    assert -3.0 < slope < -1.6
    assert (np.diff(made) < 0.1).all()


def test_mass_matches_volume_and_range() -> None:
    rng = np.random.default_rng(0)
    for mass in (120.0, 800.0, 2500.0):
        assembly = random_assembly(rng, "a", mass)
        assert assembly.mass_kilodalton == pytest.approx(mass, rel=1e-6)
        # 1.35 g/cm3 and protein interior near 1: the integral is the molecule's volume.
        density = assembly.density(8.0)
        assert density.sum() * 8.0**3 == pytest.approx(mass * 1000 * ANGSTROM3_PER_DALTON, rel=0.01)
        bulk = density[density > 0.3 * density.max()].mean()
        assert 0.5 < bulk < 1.6
    masses = [a.mass_kilodalton for a in assemblies(20)]
    assert min(masses) >= MASS_RANGE_KILODALTON[0] * 0.99
    assert max(masses) <= MASS_RANGE_KILODALTON[1] * 1.01


@pytest.mark.parametrize("group", ["C3", "D2", "T", "O"])
def test_density_is_unchanged_by_its_point_group(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoaae.simulation.assemblies.POINT_GROUPS", (group,))
    assembly = random_assembly(np.random.default_rng(3), "a", 900.0)
    assert assembly.symmetry == group
    reference = assembly.density(10.0)
    for rotation in symmetry_rotations(group):
        turned = Assembly("t", rotation.apply(assembly.points_xyz_angstrom), assembly.weights, group)
        assert np.abs(turned.density(10.0) - reference).max() < 1e-3
    # A rotation outside the group must change it, or the test could not fail.
    other = symmetry_rotations("C5")[1]
    turned = Assembly("t", other.apply(assembly.points_xyz_angstrom), assembly.weights)
    different, size = turned.density(10.0), reference.shape[0]
    assert different.shape[0] != size or np.abs(different - reference).max() > 0.1


def test_splat_keeps_mass_and_centroid() -> None:
    volume = np.zeros((20, 22, 24), np.float32)
    centre = np.array([[9.3, 11.8, 12.4]])
    splat(volume, centre, np.array([2.5]), 1.0)
    assert volume.sum() == pytest.approx(2.5, rel=1e-5)
    found = [(volume.sum(axis=tuple(b for b in range(3) if b != a)) * np.arange(n)).sum() / 2.5
             for a, n in enumerate(volume.shape)]
    assert found == pytest.approx(centre[0].tolist(), abs=0.01)

"""Placement, poses and the parts of a specimen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoaae.simulation import shapes
from cryoaae.simulation.assemblies import Assembly
from cryoaae.simulation.specimen import (
    BACKGROUND_STD,
    OCCUPIED,
    Particle,
    Species,
    add_filaments,
    add_gold,
    add_membranes,
    add_particles,
    empty_specimen,
    fill_background,
    rotated_density,
)


def lopsided(seed: int = 0) -> Assembly:
    rng = np.random.default_rng(seed)
    return Assembly("lopsided", rng.normal(size=(300, 3)) * (45, 25, 15) + (10, 0, 0), np.full(300, 500.0))


def test_rotated_density_is_the_density_of_rotated_points() -> None:
    assembly = lopsided()
    rotation = Rotation.from_euler("xyz", [20, -50, 130], degrees=True)
    turned = rotated_density(Species("a", assembly.density(10.0)).softened(), rotation)
    points = Assembly("b", rotation.apply(assembly.points_xyz_angstrom), assembly.weights)
    expected = rotated_density(Species("b", points.density(10.0)).softened(), Rotation.identity())
    size = [min(a, b) // 2 for a, b in zip(turned.shape, expected.shape, strict=True)]
    a, b = (
        v[tuple(slice(n // 2 - h, n // 2 + h + 1) for n, h in zip(v.shape, size, strict=True))]
        for v in (turned, expected)
    )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995
    assert turned.sum() == pytest.approx(expected.sum(), rel=0.01)


def test_angles_are_relions() -> None:
    rotation = Rotation.random(rng=np.random.default_rng(4))
    rot, tilt, psi = np.deg2rad(Particle("a", (0, 0, 0), rotation).angles_zyz_deg)

    def about_z(t: float) -> np.ndarray:  # rotation of the frame, as RELION's Euler_angles2matrix
        return np.array([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]])

    about_y = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    assert np.allclose(about_z(psi) @ about_y @ about_z(rot), rotation.as_matrix(), atol=1e-9)


def test_particles_do_not_overlap_and_stay_between_the_faces() -> None:
    species = [Species("a", lopsided().density(10.0))]
    cube = species[0].softened()
    specimen = empty_specimen((48, 64, 64), 64)
    add_particles(specimen, np.random.default_rng(0), species, 12)
    assert len(specimen.particles) == 12
    covered = np.zeros((48 + 80, 64 + 80, 64 + 80), int)  # room for what crosses the faces in y and x
    for particle in specimen.particles:
        mask = rotated_density(cube, particle.rotation) > OCCUPIED
        start = [c + 40 - n // 2 for c, n in zip(particle.centre_zyx, mask.shape, strict=True)]
        covered[tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))] += mask
    inside = covered[40:88, 40:104, 40:104]
    assert inside.max() == 1
    assert np.array_equal(inside > 0, specimen.occupied)
    assert not covered[:40].any()
    assert not covered[88:].any()


def test_default_count_fills_to_crowding_with_poses_over_the_sphere() -> None:
    species = [Species("a", Assembly("s", np.random.default_rng(0).normal(size=(200, 3)) * 12,
                                     np.full(200, 300.0)).density(10.0))]
    specimen = empty_specimen((48, 64, 64), 96)
    add_particles(specimen, np.random.default_rng(0), species, None)
    assert 0.08 < specimen.cut(specimen.structure).mean() < 0.14
    axis = np.array([p.rotation.apply([0, 0, 1]) for p in specimen.particles])
    assert len(axis) > 60
    assert np.abs(axis.mean(axis=0)).max() < 4 / np.sqrt(3 * len(axis))
    assert np.mean(axis[:, 2] ** 2) == pytest.approx(1 / 3, abs=0.1)


def test_particle_position_is_where_its_density_is() -> None:
    species = [Species("a", Assembly("s", np.zeros((1, 3)), np.array([60_000.0])).density(10.0))]
    specimen = empty_specimen((40, 40, 40), 80)
    add_particles(specimen, np.random.default_rng(1), species, 3)
    volume = specimen.cut(specimen.structure)
    for particle in specimen.particles:
        z, y, x = particle.centre_zyx
        near = volume[max(0, z - 2) : z + 3, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert volume[z, y, x] == near.max() > 0.2


def test_objects_are_placed_apart_and_have_their_own_look() -> None:
    rng = np.random.default_rng(5)
    specimen = empty_specimen((64, 64, 64), 128)
    add_membranes(specimen, rng, 2, 10.0)
    # The core of a bilayer is less dense than solvent, its head groups are denser.
    assert specimen.structure.min() < -0.02
    assert specimen.structure.max() > 0.4
    add_filaments(specimen, rng, 2, 10.0)
    before = specimen.structure.max()
    add_gold(specimen, rng, 1, 10.0)
    assert specimen.objects["vesicle"] == 1
    assert specimen.objects.get("gold", 0) == 1
    assert specimen.structure.max() > 4 * before


def test_bilayer_profile_has_two_leaflets_at_their_distance() -> None:
    d = np.linspace(-60, 60, 601, dtype=np.float32)
    profile = shapes.bilayer(d, 4.0)
    peaks = d[1:-1][(profile[1:-1] > profile[:-2]) & (profile[1:-1] > profile[2:])]
    assert len(peaks) == 2
    assert peaks[1] - peaks[0] == pytest.approx(2 * shapes.LEAFLET_ANGSTROM, abs=3)
    # Coarser voxels blur the leaflets and keep their mass.
    assert shapes.bilayer(d, 14.0).sum() == pytest.approx(profile.sum(), rel=0.02)


def test_background_is_signed_correlated_and_of_mean_zero() -> None:
    specimen = empty_specimen((48, 48, 48), 48)
    fill_background(specimen, np.random.default_rng(0), 10.0)
    b = specimen.background
    assert b.std() == pytest.approx(BACKGROUND_STD, rel=0.02)
    assert abs(b.mean()) < 1e-3
    assert 0.3 < np.corrcoef(b[:-1].ravel(), b[1:].ravel())[0, 1] < 0.95
    assert abs(np.corrcoef(b[:-12].ravel(), b[12:].ravel())[0, 1]) < 0.1
    assert abs(float(np.mean(b**3))) / b.std() ** 3 < 0.1

"""Maps and atomic models come to the voxel size with the right size and weight."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.simulation.assemblies import ANGSTROM3_PER_DALTON, Assembly
from cryoaae.simulation.maps import assembly_from_structure, density_from_map


def radius_of_gyration(density: np.ndarray, voxel: float) -> float:
    grid = np.indices(density.shape).reshape(3, -1)
    weight = density.ravel() / density.sum()
    centre = (grid * weight).sum(1, keepdims=True)
    return float(np.sqrt((((grid - centre) ** 2).sum(0) * weight).sum())) * voxel


@pytest.mark.parametrize(("voxel", "scale"), [(7.0, 1.0), (10.0, 230.0), (13.3, 0.01)])
def test_resampled_map_keeps_size_and_loses_its_scale(voxel: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (6000, 3))
    points = points[np.linalg.norm(points, axis=1) < 1] * (70, 50, 40)
    ball = Assembly("b", points, np.full(len(points), 4 / 3 * np.pi * 70 * 50 * 40 / len(points)))
    fine = ball.density(5.0)
    found = density_from_map(fine * scale, 5.0, voxel)
    assert found.min() >= 0
    assert found.sum() * voxel**3 == pytest.approx(fine.sum() * 5.0**3, rel=0.35)
    assert radius_of_gyration(found, voxel) == pytest.approx(radius_of_gyration(fine, 5.0), rel=0.03)
    assert found[found > 0.3 * found.max()].mean() == pytest.approx(1.0, rel=1e-4)


def test_a_map_without_density_is_refused() -> None:
    with pytest.raises(ValueError, match="no positive density"):
        density_from_map(np.full((8, 8, 8), -1.0, np.float32), 10.0, 10.0)


def helix(residues: int) -> gemmi.Structure:
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for i in range(residues):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(i + 1, " ")
        for j, (name, element) in enumerate((("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("CB", "C"))):
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(element)
            atom.pos = gemmi.Position(2.3 * np.cos(i) + 30, 2.3 * np.sin(i), 1.5 * i + 0.3 * j)
            residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    return structure


def test_atomic_model_becomes_a_centred_density_of_its_volume() -> None:
    assembly = assembly_from_structure(helix(100), "helix")
    assert np.average(assembly.points_xyz_angstrom, axis=0, weights=assembly.weights) == pytest.approx(
        [0, 0, 0], abs=1e-9
    )
    # 100 alanines of 71 dalton.
    assert assembly.weights.sum() == pytest.approx(100 * 71.08 * ANGSTROM3_PER_DALTON, rel=0.08)
    density = assembly.density(5.0)
    along = np.flatnonzero(density.sum(axis=(1, 2)) > 0.3 * density.sum(axis=(1, 2)).max())
    assert (along[-1] - along[0] + 1) * 5.0 == pytest.approx(150, abs=15)  # z is the first axis


def test_an_empty_model_is_refused() -> None:
    with pytest.raises(InputError, match="no atoms"):
        assembly_from_structure(gemmi.Structure(), "empty.pdb")

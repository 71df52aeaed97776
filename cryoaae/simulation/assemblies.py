"""Procedural macromolecules: compact multi-subunit assemblies with point-group symmetry.

An assembly is a cloud of residues. A subunit is a chain of ellipsoidal domains in contact, each
packed with residues at the density of protein; copies of the subunit under the point group are
brought in until they touch. Clefts between domains, cavities of the higher groups and unequal
domain densities give the internal contrast that real complexes show at 20 to 100 angstrom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

# 1 / (1.35 g/cm3) in cubic angstrom per dalton, and the mean mass of a residue.
ANGSTROM3_PER_DALTON = 1.230
RESIDUE_DALTON = 110.0
DOMAIN_KILODALTON = (12.0, 36.0)
MASS_RANGE_KILODALTON = (100.0, 3000.0)
# Smallest blur of a residue: keeps the tail of the amplitude spectrum where real maps have it.
RESIDUE_SIGMA_ANGSTROM = 4.0
# Domains touch when their centres are this share of their radii's sum apart.
CONTACT = 0.86
POINT_GROUPS = ("C1", "C1", "C2", "C3", "C4", "C6", "C7", "D2", "D2", "D3", "D4", "D7", "T", "O", "I")

Points = NDArray[np.float64]
Density = NDArray[np.float32]


@dataclass(frozen=True)
class Assembly:
    """A macromolecule as weighted points.

    Parameters
    ----------
    name : str
        Class name, as written to particle lists.
    points_xyz_angstrom : array (n, 3)
        Residue positions, centred on the symmetry centre.
    weights : array (n,)
        Volume each point stands for, in cubic angstrom at the density of protein.
    symmetry : str
        Point group: Cn, Dn, T, O or I.
    """

    name: str
    points_xyz_angstrom: Points
    weights: NDArray[np.float64]
    symmetry: str = "C1"

    @property
    def mass_kilodalton(self) -> float:
        """Mass of a protein of this volume."""
        return float(self.weights.sum() / ANGSTROM3_PER_DALTON / 1000)

    def density(self, voxel_size_angstrom: float) -> Density:
        """Render on a cube with the centre at voxel n // 2, (z, y, x), protein interior near 1."""
        sigma = max(RESIDUE_SIGMA_ANGSTROM, 0.5 * voxel_size_angstrom)
        reach = float(np.linalg.norm(self.points_xyz_angstrom, axis=1).max()) + 4 * sigma
        size = 2 * math.ceil(reach / voxel_size_angstrom) + 2
        out = np.zeros((size,) * 3, np.float32)
        points_zyx = self.points_xyz_angstrom[:, ::-1] / voxel_size_angstrom + size // 2
        splat(out, points_zyx, self.weights / voxel_size_angstrom**3, sigma / voxel_size_angstrom)
        return out


def splat(
    volume: Density, points_zyx: Points, weights: NDArray[np.float64], sigma_voxel: float
) -> None:
    """Add normalised Gaussians to a volume (z, y, x) in place; what falls outside is dropped.

    Parameters
    ----------
    points_zyx : array (n, 3)
        Centres in voxels.
    weights : array (n,)
        Integral of each Gaussian, in voxels.
    sigma_voxel : float
        Standard deviation; at least about 0.5, below which the samples alias.
    """
    half = math.ceil(3.5 * sigma_voxel)
    offsets = np.arange(-half, half + 1)
    shape = volume.shape
    step = max(1, 4_000_000 // len(offsets) ** 3)  # bounds the memory of the stencils
    for start in range(0, len(points_zyx), step):
        block = points_zyx[start : start + step]
        nearest = np.rint(block).astype(np.int64)
        index = nearest[:, :, None] + offsets  # (n, 3, stencil)
        line = np.exp(-0.5 * ((index - block[:, :, None]) / sigma_voxel) ** 2)
        line /= line.sum(axis=2, keepdims=True)
        line[(index < 0) | (index >= np.array(shape)[None, :, None])] = 0
        for axis in range(3):
            np.clip(index[:, axis], 0, shape[axis] - 1, out=index[:, axis])
        value = np.einsum("n,ni,nj,nk->nijk", weights[start : start + step], *line.transpose(1, 0, 2))
        flat = (
            index[:, 0, :, None, None] * shape[1] + index[:, 1, None, :, None]
        ) * shape[2] + index[:, 2, None, None, :]
        volume += np.bincount(flat.ravel(), value.ravel(), volume.size).reshape(shape).astype(np.float32)


def symmetry_rotations(symmetry: str) -> Rotation:
    """Rotations of a point group: Cn and Dn about z, T, O or I."""
    return Rotation.create_group(symmetry)


def random_assembly(rng: np.random.Generator, name: str, mass_kilodalton: float | None = None) -> Assembly:
    """Draw an assembly of 100 kDa to 3 MDa with a random point group.

    Parameters
    ----------
    mass_kilodalton : float, optional
        Mass of the whole; default log-uniform over `MASS_RANGE_KILODALTON`.
    """
    if mass_kilodalton is None:
        mass_kilodalton = float(np.exp(rng.uniform(*np.log(MASS_RANGE_KILODALTON))))
    # A subunit is at least one small domain: high groups need heavy assemblies.
    groups = [g for g in POINT_GROUPS if mass_kilodalton / len(symmetry_rotations(g)) >= DOMAIN_KILODALTON[0]]
    symmetry = str(rng.choice(groups))
    rotations = symmetry_rotations(symmetry)
    masses = _domain_masses(rng, mass_kilodalton / len(rotations))
    radii = np.cbrt(masses * 1000 * ANGSTROM3_PER_DALTON * 3 / (4 * math.pi))
    centres = _packed_centres(rng, radii)
    centres = _touching(rng, centres, radii, rotations)
    points, weights = _residues(rng, centres, radii)
    everything = np.concatenate([r.apply(points) for r in rotations])
    return Assembly(name, everything, np.tile(weights, len(rotations)), symmetry)


def _domain_masses(rng: np.random.Generator, subunit_kilodalton: float) -> NDArray[np.float64]:
    """Masses of the domains of one subunit, summing to it."""
    count = max(1, round(subunit_kilodalton / float(rng.uniform(*DOMAIN_KILODALTON))))
    share = rng.uniform(0.5, 1.5, count)
    return np.asarray(share / share.sum() * subunit_kilodalton)


def _packed_centres(rng: np.random.Generator, radii: NDArray[np.float64]) -> Points:
    """Centres of a compact random cluster of spheres, each in contact with another."""
    centres = np.zeros((len(radii), 3))
    tries = int(rng.integers(4, 24))  # few: open and branched; many: compact
    for i in range(1, len(radii)):
        partner = rng.integers(0, i, tries)
        away = rng.normal(size=(tries, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        candidates = centres[partner] + away * (0.88 * (radii[i] + radii[partner]))[:, None]
        gaps = np.linalg.norm(candidates[:, None] - centres[None, :i], axis=2) / (radii[i] + radii[:i])
        clash = np.clip(0.87 - gaps, 0, None).sum(axis=1)
        spread = np.linalg.norm(candidates - centres[:i].mean(axis=0), axis=1)
        centres[i] = candidates[np.argmin(spread + 1e4 * clash)]
    return centres - np.average(centres, axis=0, weights=radii**3)


def _touching(
    rng: np.random.Generator, centres: Points, radii: NDArray[np.float64], rotations: Rotation
) -> Points:
    """Move a subunit along a random ray towards the symmetry centre until its copies touch."""
    copies = rotations[rotations.magnitude() > 1e-6]
    if len(copies) == 0:
        return centres
    # Along a symmetry axis the copies about it touch far from the others: of a few rays, the one
    # that brings all of them nearest keeps the assembly in one piece.
    planar = bool((np.abs(copies.as_matrix()[:, 2, 2] - 1) < 1e-9).all())
    moved: list[Points] = []
    for _ in range(6):
        ray = rng.normal(size=3) * (1.0, 1.0, 0.0 if planar else 1.0)
        moved.append(_approach(ray / np.linalg.norm(ray), centres, radii, copies))
    reach = [float(np.linalg.norm(points, axis=1).max()) for points in moved]
    return moved[int(np.argmin(reach))]


def _approach(ray: Points, centres: Points, radii: NDArray[np.float64], copies: Rotation) -> Points:
    """Slide a subunit inwards along a ray until its first contact with a copy.

    At distance d domains i and j of a copy under R are a + d b apart, with a = c_i - R c_j and
    b = ray - R ray: contact is the largest root of |a + d b|^2 = limit^2.
    """
    limits = CONTACT * (radii[:, None] + radii[None])
    matrices = copies.as_matrix()  # (m, 3, 3)
    a = centres[None, :, None] - np.einsum("mij,dj->mdi", matrices, centres)[:, None]  # (m, d, d, 3)
    b = ray - matrices @ ray  # (m, 3)
    square = (b**2).sum(axis=1)[:, None, None] + 1e-12
    half_linear = np.einsum("mijk,mk->mij", a, b)
    discriminant = half_linear**2 - square * ((a**2).sum(axis=-1) - limits**2)
    roots = (-half_linear + np.sqrt(np.clip(discriminant, 0, None))) / square
    distance = max(0.0, float(roots[discriminant > 0].max(initial=0.0)))
    return centres + ray * distance


def _residues(
    rng: np.random.Generator, centres: Points, radii: NDArray[np.float64]
) -> tuple[Points, NDArray[np.float64]]:
    """Fill domains with residues on a jittered lattice; return points and their volumes.

    A jittered lattice packs evenly as folded chains do; independent points would add white noise.
    """
    spacing = (RESIDUE_DALTON * ANGSTROM3_PER_DALTON) ** (1 / 3)
    points, weights = [], []
    for centre, radius in zip(centres, radii, strict=True):
        stretch = np.exp(rng.normal(0, 0.15, 3))
        stretch /= np.prod(stretch) ** (1 / 3)
        count = math.ceil(radius * stretch.max() / spacing) + 1
        axis = np.arange(-count, count + 1) * spacing
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        grid = grid + rng.uniform(-0.4, 0.4, grid.shape) * spacing
        inside = grid[np.linalg.norm(grid / stretch, axis=1) < radius]
        points.append(centre + Rotation.random(rng=rng).apply(inside))
        volume = 4 / 3 * math.pi * radius**3
        # Nucleic acid and metal scatter more, flexible domains less.
        contrast = np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.35, len(inside)))
        weights.append(contrast / contrast.sum() * volume)
    return np.concatenate(points), np.concatenate(weights)

"""Specimens: crowded cytosol with membranes, filaments and gold beads, without overlaps.

Densities are contrast against the mean of the solvent: the interior of protein is near 1.
Structure (everything with a shape) and background (solvent and unresolved molecules, a signed
random field) are kept apart. A specimen is wider in x than the volume that will be reconstructed,
so that the beam finds the same kind of matter on its whole way at high tilts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter, spline_filter
from scipy.spatial.transform import Rotation

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.simulation import shapes

Density = NDArray[np.float32]
Posed = tuple[str, Rotation, Density]  # class, pose and the density in that pose
# A voxel belongs to an object from this density on, and no two objects share one.
OCCUPIED = 0.12
# Crowded cytosol: share of the volume that particles take up, by their integrated density.
CROWDING = 0.12
# Blur of every object, in voxels: keeps the specimen clear of Nyquist, where projecting aliases.
SOFTNESS_VOXEL = 0.6
BACKGROUND_STD = 0.16
BACKGROUND_CORRELATION_ANGSTROM = 16.0
TRIES, FLANK_TRIES = 25, 6


@dataclass(frozen=True)
class Species:
    """A kind of particle: its class name and its density (z, y, x), centre at voxel n // 2."""

    name: str
    density: Density

    def softened(self) -> Density:
        """Blurred density on a cube with room to rotate, as spline coefficients."""
        reach = 1 + max(n - n // 2 for n in self.density.shape) + 2
        room = [(reach - n // 2, reach - (n - n // 2)) for n in self.density.shape]
        blurred = gaussian_filter(np.pad(self.density, room), SOFTNESS_VOXEL)
        return np.asarray(spline_filter(blurred), np.float32)


@dataclass(frozen=True)
class Particle:
    """A placed particle.

    Parameters
    ----------
    name : str
        Class.
    centre_zyx : tuple of int
        Voxel of the reconstructed volume.
    rotation : Rotation
        Takes the class's density to its pose: a point p (x, y, z) goes to rotation p.
    """

    name: str
    centre_zyx: tuple[int, int, int]
    rotation: Rotation

    @property
    def angles_zyz_deg(self) -> tuple[float, float, float]:
        """RELION's Rot, Tilt, Psi in degrees (intrinsic ZYZ of the inverse rotation)."""
        rot, tilt, psi = self.rotation.inv().as_euler("ZYZ", degrees=True, suppress_warnings=True)
        return float(rot), float(tilt), float(psi)


@dataclass
class Specimen:
    """A specimen under construction, (z, y, x) with `x_offset` voxels before the volume.

    Parameters
    ----------
    structure, background : array (z, y, x)
        Densities over the whole field.
    x_offset : int
        First x of the volume in the field.
    width : int
        Size in x of the volume.
    particles : list
        Particles with their centre in the volume.
    """

    structure: Density
    background: Density
    x_offset: int
    width: int
    occupied: NDArray[np.bool_]
    particles: list[Particle] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)

    def cut(self, density: Density) -> Density:
        """Return the part of a field (z, y, x) that will be reconstructed."""
        return np.ascontiguousarray(density[:, :, self.x_offset : self.x_offset + self.width])


def rotated_density(coefficients: Density, rotation: Rotation) -> Density:
    """Rotate a cube of spline coefficients (z, y, x) about voxel n // 2."""
    forward_xyz = rotation.as_matrix()
    inverse_zyx = forward_xyz.T[::-1, ::-1]
    centre = np.array([n // 2 for n in coefficients.shape], float)
    offset = centre - inverse_zyx @ centre
    turned = affine_transform(coefficients, inverse_zyx, offset=offset, order=3, prefilter=False)
    turned[np.abs(turned) < 1e-4] = 0
    where = [np.flatnonzero(turned.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    # Crop evenly about the centre, which stays at n // 2.
    half = [max(c - w[0], w[-1] - c) if len(w) else 0 for w, c in zip(where, centre.astype(int), strict=True)]
    box = tuple(slice(int(c) - h, int(c) + h + 1) for c, h in zip(centre, half, strict=True))
    return np.asarray(turned[box], np.float32)


def _overlap(
    field_zyx: Sequence[int], box_zyx: Sequence[int], centre_zyx: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the field and of the box where the box around a centre meets the field."""
    outer, inner = [], []
    for n, b, c in zip(field_zyx, box_zyx, centre_zyx, strict=True):
        start = c - b // 2
        low, high = max(0, start), max(0, min(n, start + b))
        outer.append(slice(low, high))
        inner.append(slice(low - start, max(0, high - start)))
    return tuple(outer), tuple(inner)


def empty_specimen(shape_zyx: Sequence[int], field_x: int) -> Specimen:
    """Specimen of vacuum with a field of `field_x` voxels about a volume of shape (z, y, x)."""
    z, y, x = shape_zyx
    zeros = np.zeros((z, y, field_x), np.float32)
    offset = field_x // 2 - x // 2
    return Specimen(zeros, zeros.copy(), offset, x, np.zeros(zeros.shape, bool))


def add_particles(
    specimen: Specimen, rng: np.random.Generator, species: Sequence[Species], count: int | None
) -> None:
    """Fill the specimen with particles in random poses that touch nothing.

    Parameters
    ----------
    count : int, optional
        Particles with their centre in the volume (the rest of the field gets the same number a
        voxel). Default: as many as reach the crowding of cytosol, or as find room.
    """
    z, y, field_x = specimen.structure.shape
    inside = (specimen.x_offset, specimen.x_offset + specimen.width)
    cubes = [(s.name, s.softened()) for s in species]
    seen: list[Posed] = []

    def fresh() -> Posed:
        name, cube = cubes[int(rng.integers(len(cubes)))]
        rotation = Rotation.random(rng=rng)
        seen.append((name, rotation, rotated_density(cube, rotation)))
        return seen[-1]

    def again() -> Posed:
        return seen[int(rng.integers(len(seen)))]

    # The volume first, every particle in its own pose. The flanks, which only cast shadows into it,
    # take poses already made.
    for low, high in (inside, (0, inside[0]), (inside[1], field_x)):
        if high > low:
            wanted = None if count is None else round(count * (high - low) / specimen.width)
            target = CROWDING * z * y * (high - low)
            _fill(specimen, rng, again if seen else fresh, (low, high), wanted, target)


def _fill(
    specimen: Specimen,
    rng: np.random.Generator,
    draw: Callable[[], Posed],
    x_range: tuple[int, int],
    wanted: int | None,
    target: float,
) -> None:
    """Place particles with centres in a range of x until the wanted number or mass is there."""
    placed, mass, failures = 0, 0.0, 0
    while (mass < target if wanted is None else placed < wanted) and failures < 40:
        name, rotation, density = draw()
        centre = _find_room(specimen, rng, density > OCCUPIED, x_range)
        if centre is None:
            failures += 1
            continue
        _paste(specimen, density, centre)
        placed, mass, failures = placed + 1, mass + float(density.sum()), 0
        x = centre[2] - specimen.x_offset
        if 0 <= x < specimen.width:
            specimen.particles.append(Particle(name, (centre[0], centre[1], x), rotation))


def _find_room(
    specimen: Specimen, rng: np.random.Generator, mask: NDArray[np.bool_], x_range: tuple[int, int]
) -> tuple[int, int, int] | None:
    """Centre at which the mask overlaps nothing and stays between the faces in z, or None."""
    z, y, _ = specimen.structure.shape
    half = mask.shape[0] // 2
    if mask.shape[0] > z:
        return None
    for _ in range(TRIES):
        centre = (
            int(rng.integers(half, z - half)),
            int(rng.integers(y)),
            int(rng.integers(*x_range)),
        )
        outer, inner = _overlap(specimen.structure.shape, mask.shape, centre)
        if not (specimen.occupied[outer] & mask[inner]).any():
            return centre
    return None


def _paste(specimen: Specimen, density: Density, centre: Sequence[int]) -> None:
    """Add a density at a centre and mark its voxels as taken."""
    outer, inner = _overlap(specimen.structure.shape, density.shape, centre)
    specimen.structure[outer] += density[inner]
    specimen.occupied[outer] |= density[inner] > OCCUPIED


Draw = Callable[[np.random.Generator, Sequence[int], int, float], Density]


def _add_objects(
    specimen: Specimen,
    rng: np.random.Generator,
    draw: Draw,
    count: int,
    name: str,
    voxel_size_angstrom: float,
) -> None:
    """Add `count` objects centred in the volume, and as many per voxel in the flanks."""
    shape = specimen.structure.shape
    field_x, low, width = shape[2], specimen.x_offset, specimen.width
    flanks = (field_x - width) / (2 * width)
    ranges = [(low, low + width)] * count
    for start, stop in ((0, low), (low + width, field_x)):
        if stop > start:
            ranges += [(start, stop)] * round(count * flanks)
    for x_range in ranges:
        inside = x_range == (low, low + width)
        for _ in range(TRIES if inside else FLANK_TRIES):
            density = draw(rng, shape, int(rng.integers(*x_range)), voxel_size_angstrom)
            mask = np.abs(density) > OCCUPIED
            if mask.any() and not (mask & specimen.occupied).any():
                specimen.structure += density
                specimen.occupied |= mask
                specimen.objects[name] = specimen.objects.get(name, 0) + inside
                break


def add_membranes(
    specimen: Specimen, rng: np.random.Generator, count: int, voxel_size_angstrom: float
) -> None:
    """Add vesicles and, every third, a bent sheet across the volume."""
    for i in range(count):
        draw = shapes.draw_sheet if i % 3 == 1 else shapes.draw_vesicle
        name = "sheet" if i % 3 == 1 else "vesicle"
        _add_objects(specimen, rng, draw, 1, name, voxel_size_angstrom)


def add_filaments(
    specimen: Specimen, rng: np.random.Generator, count: int, voxel_size_angstrom: float
) -> None:
    """Add actin-like filaments and, every second, a microtubule."""
    for i in range(count):
        draw = shapes.draw_microtubule if i % 2 == 0 else shapes.draw_actin
        name = "microtubule" if i % 2 == 0 else "actin"
        _add_objects(specimen, rng, draw, 1, name, voxel_size_angstrom)


def add_gold(specimen: Specimen, rng: np.random.Generator, count: int, voxel_size_angstrom: float) -> None:
    """Add gold beads of 10 nm, far denser than protein."""
    _add_objects(specimen, rng, shapes.draw_bead, count, "gold", voxel_size_angstrom)


def fill_background(specimen: Specimen, rng: np.random.Generator, voxel_size_angstrom: float) -> None:
    """Draw the background: a Gaussian random field of mean 0, correlated over some 30 angstrom.

    Inside dense objects, which exclude solvent, it is damped.
    """
    shape = specimen.structure.shape
    white = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    sigma = max(BACKGROUND_CORRELATION_ANGSTROM / voxel_size_angstrom, 1.2)
    r2 = radius(shape) ** 2
    # The slow rise at low frequency stands for the uneven mixture of small molecules.
    transfer = torch.exp(-2 * torch.pi**2 * sigma**2 * r2) + 0.3 * torch.exp(-torch.pi**2 * sigma**2 * r2 / 2)
    transfer[0, 0, 0] = 0
    noise = irfft(rfft(white) * transfer, shape).numpy()
    noise *= BACKGROUND_STD / noise.std()
    specimen.background += noise * (1 - 0.7 * np.clip(specimen.structure, 0, 1))

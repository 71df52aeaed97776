"""Large objects of a cell as densities over a field: vesicles, sheets, filaments, gold beads.

Every `draw_*` takes (generator, field shape (z, y, x), x of the object's centre, voxel size in
angstrom) and returns a float32 density (z, y, x) of contrast against solvent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from cryoaae.simulation.assemblies import splat

Density = NDArray[np.float32]
Points = NDArray[np.float64]
# Bilayer: two head-group layers about a core of less density than water.
LEAFLET_ANGSTROM = 19.0
HEAD_SIGMA_ANGSTROM = 8.0
HEAD_CONTRAST, CORE_CONTRAST = 0.9, -0.25
GOLD_RADIUS_ANGSTROM, GOLD_CONTRAST = 50.0, 8.0
# Tubulin and actin monomers: volume in cubic angstrom and radius of their beads.
TUBULIN_ANGSTROM3, ACTIN_ANGSTROM3 = 62_000.0, 52_000.0


def bilayer(distance_angstrom: Density, voxel_size_angstrom: float) -> Density:
    """Density of a bilayer at signed distances from its middle, any shape."""
    sigma = max(HEAD_SIGMA_ANGSTROM, 0.7 * voxel_size_angstrom)
    heads = sum(
        np.exp(-0.5 * ((distance_angstrom - side * LEAFLET_ANGSTROM) / sigma) ** 2) for side in (-1, 1)
    )
    core = np.exp(-0.5 * (distance_angstrom / sigma) ** 2)
    # Coarse voxels blur the leaflets: their integral is kept.
    profile = HEAD_SIGMA_ANGSTROM / sigma * (HEAD_CONTRAST * heads + CORE_CONTRAST * core)
    return np.asarray(profile, np.float32)


def _grids(shape_zyx: Sequence[int]) -> tuple[Density, Density, Density]:
    z, y, x = (np.arange(n, dtype=np.float32) for n in shape_zyx)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def draw_vesicle(
    rng: np.random.Generator, shape_zyx: Sequence[int], centre_x: int, voxel_size_angstrom: float
) -> Density:
    """Draw a closed, slightly squashed and dented bilayer of 120 to 350 angstrom radius."""
    depth, height, _ = shape_zyx
    wall = LEAFLET_ANGSTROM + 3 * HEAD_SIGMA_ANGSTROM
    largest = min(350.0, 0.8 * (depth * voxel_size_angstrom / 2 - wall))
    out = np.zeros(tuple(shape_zyx), np.float32)
    if largest < 60.0:  # the slab is too thin for any vesicle
        return out
    r = float(rng.uniform(min(120.0, 0.7 * largest), largest))
    room = math.ceil(1.15 * (r + wall) / voxel_size_angstrom)
    cz = int(rng.integers(room, depth - room)) if depth > 2 * room else depth // 2
    cy = int(rng.integers(height))
    box = tuple(
        slice(max(0, c - room), min(n, c + room + 1))
        for c, n in zip((cz, cy, centre_x), shape_zyx, strict=True)
    )
    grid = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), -1)
    offset = ((grid - (cz, cy, centre_x)) * voxel_size_angstrom).astype(np.float32)
    turned = offset @ Rotation.random(rng=rng).as_matrix().astype(np.float32)
    axes = r * np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    length = np.linalg.norm(turned, axis=-1) + 1e-6
    # Distance to an ellipsoid along the ray, exact enough for axes this alike.
    unit = turned / length[..., None]
    surface = 1 / np.maximum(np.linalg.norm(unit / axes, axis=-1), 1e-6)
    dent = 1 + 0.03 * np.sin(3 * unit[..., 0] + rng.uniform(0, 6)) * np.sin(4 * unit[..., 1])
    out[box] = bilayer(length - surface * dent, voxel_size_angstrom)
    return out


def draw_sheet(
    rng: np.random.Generator, shape_zyx: Sequence[int], centre_x: int, voxel_size_angstrom: float
) -> Density:
    """Draw a steep, gently bent bilayer that crosses the whole depth and height."""
    z, y, x = _grids(shape_zyx)
    azimuth, slant = rng.uniform(-0.6, 0.6), rng.uniform(-0.7, 0.7)
    flat = math.cos(slant)
    normal = np.array([math.sin(slant), flat * math.sin(azimuth), flat * math.cos(azimuth)])
    along = y * math.cos(azimuth) - (x - centre_x) * math.sin(azimuth)
    wave = 2 * math.pi * voxel_size_angstrom / rng.uniform(1500, 3000)
    bend = rng.uniform(15, 50) / voxel_size_angstrom * np.sin(wave * along + rng.uniform(0, 2 * math.pi))
    plane = (
        normal[0] * (z - shape_zyx[0] / 2) + normal[1] * (y - shape_zyx[1] / 2) + normal[2] * (x - centre_x)
    )
    return bilayer(np.asarray((plane + bend) * voxel_size_angstrom, np.float32), voxel_size_angstrom)


def draw_microtubule(
    rng: np.random.Generator, shape_zyx: Sequence[int], centre_x: int, voxel_size_angstrom: float
) -> Density:
    """Draw a 13-protofilament microtubule: tubulin every 41 angstrom on a three-start helix."""
    length = 1.8 * voxel_size_angstrom * math.hypot(*shape_zyx[:2], 64)
    rings = np.arange(-length / 2, length / 2, 41.0)
    ring, proto = np.meshgrid(rings, np.arange(13), indexing="ij")
    angle = 2 * math.pi * proto / 13
    along = ring + proto * (3 * 41.0 / 13)
    local = np.stack([112 * np.cos(angle), 112 * np.sin(angle), along], -1).reshape(-1, 3)
    return _filament(rng, local, TUBULIN_ANGSTROM3, 17.0, shape_zyx, centre_x, voxel_size_angstrom)


def draw_actin(
    rng: np.random.Generator, shape_zyx: Sequence[int], centre_x: int, voxel_size_angstrom: float
) -> Density:
    """Draw an actin filament: a monomer every 27.6 angstrom, turned by -166.6 degrees."""
    length = 1.8 * voxel_size_angstrom * math.hypot(*shape_zyx[:2], 64)
    n = np.arange(int(length / 27.6))
    angle = np.deg2rad(-166.6 * n)
    along = 27.6 * n - length / 2
    local = np.stack([20 * np.cos(angle), 20 * np.sin(angle), along], -1)
    return _filament(rng, local, ACTIN_ANGSTROM3, 15.0, shape_zyx, centre_x, voxel_size_angstrom)


def _filament(
    rng: np.random.Generator,
    local_xyz: Points,
    volume_angstrom3: float,
    sigma_angstrom: float,
    shape_zyx: Sequence[int],
    centre_x: int,
    voxel_size_angstrom: float,
) -> Density:
    """Lay monomers given about a straight z axis along a bent path near the plane of the slab."""
    depth, height, _ = shape_zyx
    # Lying down: filaments are far longer than the slab is thick.
    slope, azimuth = rng.uniform(-0.25, 0.25), rng.uniform(0, 2 * math.pi)
    curvature = rng.uniform(-1, 1) / 20_000.0
    bent = local_xyz.copy()
    bent[:, 0] += curvature * bent[:, 2] ** 2
    turn = Rotation.from_euler("zyz", [rng.uniform(-1, 1), math.pi / 2 - slope, azimuth])
    placed = turn.apply(bent)[:, ::-1] / voxel_size_angstrom
    room = min(0.45, 200 / (depth * voxel_size_angstrom))
    centre = (depth * rng.uniform(room, 1 - room), height * rng.uniform(0.1, 0.9), float(centre_x))
    out = np.zeros(tuple(shape_zyx), np.float32)
    placed = placed + centre
    reach = 4 * sigma_angstrom / voxel_size_angstrom
    near = ((placed > -reach) & (placed < np.array(shape_zyx) + reach)).all(axis=1)
    if near.any():
        weights = np.full(int(near.sum()), volume_angstrom3 / voxel_size_angstrom**3)
        splat(out, placed[near], weights, sigma_angstrom / voxel_size_angstrom)
    return out


def draw_bead(
    rng: np.random.Generator, shape_zyx: Sequence[int], centre_x: int, voxel_size_angstrom: float
) -> Density:
    """Draw a gold bead of 10 nm."""
    depth, height, _ = shape_zyx
    z, y, x = _grids(shape_zyx)
    r = GOLD_RADIUS_ANGSTROM / voxel_size_angstrom
    room = min(r + 2, depth / 2)
    cz, cy = rng.uniform(room, depth - room), rng.uniform(room, max(room + 1, height - room))
    out = np.zeros(tuple(shape_zyx), np.float32)
    low, high = max(0, int(centre_x - r - 4)), int(centre_x + r + 5)
    distance = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x[..., low:high] - centre_x) ** 2)
    out[..., low:high] = GOLD_CONTRAST * np.clip(r - distance + 0.5, 0, 1)
    return np.asarray(gaussian_filter(out, 0.6), np.float32)

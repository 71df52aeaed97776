"""Relatives of a known structure: shapes nobody has solved, with the inner texture of one that somebody has.

A restorer that trains on the same few maps learns those maps. A relative is a map stretched and bent by a smooth field,
mirrored or not, heavier in some places than in others, and sometimes cut through:

    y(r) = m(r) x(A r + u(r))       u: a few long waves       m = exp(a few long waves), or 0 behind a plane

Some are two such in contact, as subunits are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

Density = NDArray[np.float32]
Field = NDArray[np.float64]

# Larger or smaller than the model by a factor between these.
SCALE = (0.85, 1.5)
# Standard deviations: of the logarithm of the stretch along each axis, of the displacement as a share of the radius,
# and of the logarithm of the contrast.
STRETCH, BEND, CONTRAST = 0.15, 0.12, 0.35
# Waves of a smooth field, and their lengths in diameters.
WAVES, WAVE_LENGTH = 4, (0.6, 2.0)
CUT_SHARE, JOINED_SHARE = 0.25, 0.25
# A cut leaves between these shares of the diameter along its normal.
CUT = (0.45, 0.85)
# The centres of two in contact lie this share of their mean radii's sum apart.
CONTACT = (0.7, 1.0)
# What is fainter than this share of the peak is outside.
FAINT = 0.05


def relative_of(density: Density, rng: np.random.Generator) -> Density:
    """Draw a relative of a map.

    Parameters
    ----------
    density : array (z, y, x)
        The molecule bright, solvent at most zero.

    Returns
    -------
    array (n, n, n)
        In the same units and voxels; the map as it is if it is empty.
    """
    positive = np.clip(np.asarray(density, np.float32), 0, None)
    if not positive.any():
        return positive
    one = _bent(positive, rng)
    if rng.random() >= JOINED_SHARE:
        return one
    return _joined(one, _bent(positive, rng), rng)


def _bent(positive: Density, rng: np.random.Generator) -> Density:
    """Stretch, bend, mirror, weigh and cut a map, about the middle of a cube that holds the result."""
    inside = np.argwhere(positive > FAINT * positive.max())
    centre = (inside.min(axis=0) + inside.max(axis=0)) / 2
    radius = float(np.linalg.norm(inside - centre, axis=1).max()) + 1
    scale, stretch = rng.uniform(*SCALE), np.clip(rng.normal(0, STRETCH, 3), -2 * STRETCH, 2 * STRETCH)
    half = int(np.ceil(radius * scale * np.exp(stretch.max()) * (1 + 2 * BEND)))
    axis = np.arange(-half, half + 1, dtype=np.float64)
    r = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    # Orthogonal, of either sign: half of the relatives are mirror images.
    frames = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2)]
    source = np.tensordot(frames[0] @ np.diag(np.exp(-stretch) / scale) @ frames[1], r, axes=1)
    source += BEND * radius * np.stack([_waves(source, radius, rng) for _ in range(3)])
    out = map_coordinates(positive, source + centre[:, None, None, None], order=1, cval=0.0)
    out *= np.exp(CONTRAST * _waves(source, radius, rng))
    if rng.random() < CUT_SHARE:
        out *= _before_a_plane(source, radius, rng)
    return np.asarray(out, np.float32)


def _waves(r: Field, radius: float, rng: np.random.Generator) -> Field:
    """Sum of a few long plane waves, of unit variance, at places (3, z, y, x)."""
    total = np.zeros(r.shape[1:])
    for _ in range(WAVES):
        wave = _direction(rng) / (rng.uniform(*WAVE_LENGTH) * 2 * radius)
        total += np.cos(2 * np.pi * np.tensordot(wave, r, axes=1) + rng.uniform(0, 2 * np.pi))
    return total * np.sqrt(2 / WAVES)


def _direction(rng: np.random.Generator) -> Field:
    """A random unit vector (z, y, x)."""
    direction = rng.normal(size=3)
    return np.asarray(direction / np.linalg.norm(direction))


def _before_a_plane(r: Field, radius: float, rng: np.random.Generator) -> Field:
    """1 on one side of a random plane and 0 on the other, a voxel soft, at places (3, z, y, x)."""
    normal = _direction(rng)
    offset = (2 * rng.uniform(*CUT) - 1) * radius
    return np.asarray(np.clip(offset - np.tensordot(normal, r, axes=1) + 0.5, 0, 1))


def _joined(one: Density, other: Density, rng: np.random.Generator) -> Density:
    """Two densities side by side in a random direction; where they overlap, the brighter."""
    direction = _direction(rng)
    apart = rng.uniform(*CONTACT) * (_mean_radius(one) + _mean_radius(other))
    offset = np.rint(direction * apart).astype(int)
    half = max(one.shape[0] // 2, other.shape[0] // 2 + int(np.abs(offset).max()))
    out = np.zeros((2 * half + 1,) * 3, np.float32)
    for density, middle in ((one, np.full(3, half)), (other, half + offset)):
        low = middle - density.shape[0] // 2
        z, y, x = (slice(a, a + density.shape[0]) for a in low)
        out[z, y, x] = np.maximum(out[z, y, x], density)
    return out


def _mean_radius(density: Density) -> float:
    """Radius of the ball with a density's moment of inertia, in voxels."""
    axis = np.arange(density.shape[0]) - density.shape[0] // 2
    mass = max(float(density.sum()), 1e-12)
    squares = [float((density.sum(axis=tuple({0, 1, 2} - {i})) * axis**2).sum()) / mass for i in range(3)]
    return float(np.sqrt(5 / 3 * sum(squares)))

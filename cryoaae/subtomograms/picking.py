"""Proposals of particles in a restored tomogram, without a template: blobs of one size.

A difference of Gaussians answers to bright blobs of one diameter; its peaks, kept apart by a minimum distance and
away from the border, are taken as particles. It knows no shape: membranes, gold and ice of that size answer too,
so what comes out is to be sorted (by `cluster`, or by eye), and is never a count of particles.

    D = G(s) * V - G(1.6 s) * V,    s = d / (2 sqrt(3)) / sqrt(1.6)      (d: the diameter)

A ball of diameter d answers most where the middle of the two widths is d / (2 sqrt(3)).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from cryoaae.errors import InputError
from cryoaae.io.particles import VOXEL, Particles
from cryoaae.volume import Volume

# Marr and Hildreth (1980): this ratio of widths comes nearest to the Laplacian.
RATIO = 1.6
# Peaks must stand out from the response's median by so many robust standard deviations.
THRESHOLD = 4.0
MAD_TO_STD = 1.4826


def pick_particles(
    volume: Volume,
    diameter_angstrom: float,
    *,
    dark: bool = False,
    distance_angstrom: float | None = None,
    border: int = 0,
    count: int | None = None,
    name: str = "",
) -> tuple[Particles, NDArray[np.float64]]:
    """Propose particles, best first.

    Parameters
    ----------
    volume : Volume
        A restored (or strongly filtered) tomogram.
    diameter_angstrom : float
        Of the particles.
    dark : bool
        Whether particles are darker than ice.
    distance_angstrom : float, optional
        Least distance of two particles; default: the diameter.
    border : int
        Voxels at each face where none is proposed.
    count : int, optional
        At most so many.
    name : str
        Of the tomogram.

    Returns
    -------
    (Particles, (n,) float64)
        In voxels, without rotations; and how far each peak stands out, in robust standard deviations.

    Raises
    ------
    InputError
        When the diameter does not suit the tomogram, or nothing stands out.
    """
    source = volume.source or Path("array")
    diameter = diameter_angstrom / volume.voxel_size_angstrom
    if not 3 <= diameter <= min(volume.shape) / 2:
        raise InputError(
            "--diameter", f"{diameter_angstrom:g} A is {diameter:.1f} voxels of a tomogram of {volume.shape}",
            "give the diameter of the particles in angstrom",
        )  # fmt: skip
    response = blob_response(volume.numpy(), diameter, dark=dark)
    distance = (distance_angstrom or diameter_angstrom) / volume.voxel_size_angstrom
    points, scores = (found[:count] for found in _peaks(response, distance, border))
    if len(points) == 0:
        raise InputError(source, "nothing of this diameter stands out", "check --diameter and --density")
    n = len(points)
    return Particles(
        source=source, points_zyx=points, units=VOXEL, centred=False, rotations=np.tile(np.eye(3), (n, 1, 1)),
        tomograms=(name,) * n, classes=("",) * n, half_sets=np.zeros(n, dtype=np.int64), images=("",) * n,
        shifts_zyx=np.zeros((n, 3)), image_pixel_angstrom=np.full(n, np.nan),
    ), scores  # fmt: skip


def blob_response(density: NDArray[np.float32], diameter: float, *, dark: bool = False) -> NDArray[np.float32]:
    """Difference of Gaussians (z, y, x) for blobs of a diameter in voxels, high where they are."""
    narrow = diameter / (2 * math.sqrt(3)) / math.sqrt(RATIO)
    response = gaussian_filter(density, narrow) - gaussian_filter(density, RATIO * narrow)
    return np.asarray(-response if dark else response, dtype=np.float32)


def _peaks(
    response: NDArray[np.float32], distance: float, border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Peaks (n, 3), best first and further apart than a distance, and their robust z-scores."""
    middle = float(np.median(response))
    spread = MAD_TO_STD * float(np.median(np.abs(response - middle))) or 1.0
    peak = (response == maximum_filter(response, size=3)) & (response > middle + THRESHOLD * spread)
    inside = tuple(slice(border, n - border) for n in response.shape)
    kept = np.zeros_like(peak)
    kept[inside] = peak[inside]
    points = np.argwhere(kept)
    values = response[kept].astype(np.float64)
    order = np.argsort(-values, kind="stable")
    chosen = order[_apart(points[order], distance)]
    return points[chosen].astype(np.float64), (values[chosen] - middle) / spread


def _apart(points: NDArray[np.int64], distance: float) -> NDArray[np.int64]:
    """Indices of the points that no earlier kept point is nearer to than a distance."""
    if len(points) == 0:
        return np.empty(0, dtype=np.int64)
    near = cKDTree(points).query_ball_point(points, distance)
    free, kept = np.ones(len(points), dtype=bool), []
    for i, neighbours in enumerate(near):
        if free[i]:
            kept.append(i)
            free[neighbours] = False
    return np.array(kept, dtype=np.int64)

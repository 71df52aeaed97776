"""Estimate the tilt geometry from a reconstruction alone: the axis and both ends of the range.

The power spectrum of a tomogram falls off sharply where the tilt series ended. What lies between,
WBP, SIRT and filters shape smoothly, so ends are placed where power has fallen to half of its level
just inside, with the floor in the wedge taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.metrics.sectors import across_beam, tapered
from cryoaae.physics.fourier import multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge

# Rings about the tilt axis, in cycles per voxel, each normalised by itself before they are joined:
# signal falls over orders of magnitude, and some rings hold nothing but rounding noise.
RING_EDGES = tuple(0.06 + 0.04 * i for i in range(11))
STEP_DEG = 1.0
# A profile whose wedge is not at least this much below the rest shows no wedge.
MAX_FLOOR = 0.5
# Rows of the spectrum through the faces' normals are bright whatever was tilted.
SPIKE_DEG = 3.0
# Beyond this the "wedge" is only the spectrum's own unevenness.
MAX_RANGE_DEG = 176.0
SNAP_DEG = 1.0
EDGE_DEG = 6.0
PLATEAU_DEG = (4.0, 16.0)


@dataclass(frozen=True)
class TiltGeometry:
    """Tilt axis and range as seen in the power spectrum.

    Parameters
    ----------
    tilt_axis_deg : float
        Angle of the tilt axis in the xy plane from y towards x; 0 is y, 90 is x.
    tilt_range_deg : (float, float)
        Ends of the range in the package's sign convention: the projection at tilt t measures the
        plane with direction (kx, kz) = (cos t, -sin t).
    plane_range_deg : (float, float)
        The same ends as they are seen in the spectrum, ``atan2(kz, across)``: the negatives.
    floor : float
        Power left in the missing wedge as a share of the level inside; 0 is a clean wedge.
    angle_deg, power : list of float
        The normalised angular power profile, for a figure.
    """

    tilt_axis_deg: float
    tilt_range_deg: tuple[float, float]
    plane_range_deg: tuple[float, float]
    floor: float
    angle_deg: list[float]
    power: list[float]

    @property
    def wedge(self) -> MissingWedge:
        """The wedge of this geometry, as a range."""
        return MissingWedge(self.tilt_range_deg, tilt_axis_deg=self.tilt_axis_deg)


def power_spectrum(volume: Tensor) -> Tensor:
    """Power of a volume (z, y, x), (z, y, x // 2 + 1) float64, under a Hann window on each axis.

    A weaker taper leaves streaks of the faces across the wedge.
    """
    return rfft(tapered(volume, share=0.5)).abs() ** 2


def whitened_power(volume: Tensor) -> Tensor:
    """Power of a volume (z, y, x) over the mean of its shell, (z, y, x // 2 + 1) float64.

    Else the few coefficients near the origin would decide.
    """
    z, y, x = volume.shape
    shape = (int(z), int(y), int(x))
    power = power_spectrum(volume)
    shells = max(16, max(shape) // 2)
    shell = (radius(shape, dtype=torch.float64) * 2 * shells).long().clamp(max=2 * shells).reshape(-1)
    total = torch.zeros(2 * shells + 1, dtype=torch.float64).index_add_(0, shell, power.reshape(-1))
    count = torch.bincount(shell, minlength=2 * shells + 1).clamp(min=1)
    mean = (total / count).clamp(min=torch.finfo(torch.float64).tiny)
    return power / mean[shell].reshape(power.shape)


def angular_profile(
    whitened: Tensor, shape_zyx: tuple[int, int, int], tilt_axis_deg: float, step_deg: float = STEP_DEG
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power by angle about a candidate tilt axis.

    Parameters
    ----------
    whitened : (z, y, x // 2 + 1)
        From `whitened_power`.
    shape_zyx : tuple of int
        Box in voxels.
    tilt_axis_deg : float
        Candidate axis, from y towards x.
    step_deg : float
        Width of an angular bin.

    Returns
    -------
    angle_deg, profile : (bins,) float64
        Bin centres over (-90, 90) and the power, about 1 inside the measured region; NaN where a
        bin holds no coefficient. Rings about the axis are normalised one by one and joined with
        weights that favour those with a clear wedge.
    """
    table, count = _ring_table(whitened, shape_zyx, tilt_axis_deg, step_deg)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = table / count
    rows, weights = [], []
    for row in mean:
        known = row[np.isfinite(row)]
        if known.size < row.size // 3 or not (known > 0).any():
            continue
        level = float(np.quantile(known, 0.75))
        contrast = max(0.0, 1.0 - float(np.quantile(known, 0.1)) / level)
        rows.append(row / level)
        weights.append(contrast**2 + 1e-3)
    bins = mean.shape[1]
    angle = -90.0 + (np.arange(bins) + 0.5) * 180.0 / bins
    if not rows:
        return angle, np.full(bins, np.nan)
    stack, weight = np.array(rows), np.array(weights)[:, None]
    known_weight = np.where(np.isfinite(stack), weight, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        profile = (np.nan_to_num(stack) * known_weight).sum(0) / known_weight.sum(0)
    return angle, _bridge_gaps(profile)


def _ring_table(
    whitened: Tensor, shape_zyx: tuple[int, int, int], tilt_axis_deg: float, step_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of whitened power and number of coefficients by (ring, angle)."""
    across, beam = across_beam(shape_zyx, tilt_axis_deg)
    across, beam = torch.broadcast_tensors(across, beam)
    across, beam = across.expand(whitened.shape), beam.expand(whitened.shape)
    ring_of = torch.tensor(RING_EDGES, dtype=torch.float64)
    ring = torch.bucketize(torch.hypot(across, beam), ring_of) - 1
    bins = round(180.0 / step_deg)
    angle = torch.rad2deg(torch.atan2(beam, across))
    column = ((angle + 90.0) / 180.0 * bins).long().clamp(0, bins - 1)
    rings = len(RING_EDGES) - 1
    keep = ((ring >= 0) & (ring < rings)).reshape(-1)
    index = (ring * bins + column).reshape(-1)[keep]
    weight = multiplicity(shape_zyx).double().expand(whitened.shape).reshape(-1)[keep]
    values = whitened.reshape(-1)[keep] * weight
    total = torch.zeros(rings * bins, dtype=torch.float64).index_add_(0, index, values)
    count = torch.zeros(rings * bins, dtype=torch.float64).index_add_(0, index, weight)
    return total.reshape(rings, bins).numpy(), count.reshape(rings, bins).numpy()


def _bridge_gaps(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill bins without a coefficient from their neighbours (angles wrap at 90 degrees)."""
    known = np.isfinite(profile)
    if known.all() or not known.any():
        return profile
    n = profile.size
    at = np.flatnonzero(known)
    return np.interp(np.arange(n), at, profile[at], period=n)


def _wedge_contrast(profile: NDArray[np.float64], step_deg: float) -> float:
    """How empty the emptiest 20 degrees about the beam are: 1 for a clean wedge, 0 for none."""
    width = max(1, round(20.0 / step_deg))
    rolled = np.concatenate([profile, profile])
    means = np.convolve(rolled, np.ones(width) / width, mode="valid")[: profile.size]
    return 1.0 - float(means.min()) / max(float(np.median(profile)), 1e-12)


def find_tilt_axis(whitened: Tensor, shape_zyx: tuple[int, int, int]) -> float:
    """Find the tilt axis in the xy plane, in degrees from y towards x, in (-45, 135].

    First the axis about which the emptiest sector is emptiest, then the one about which the ends of
    the range are sharpest: an axis a little off smears them over several degrees.

    Parameters
    ----------
    whitened : (z, y, x // 2 + 1)
        From `whitened_power`.
    shape_zyx : tuple of int
        Box in voxels.
    """

    def contrast(axis_deg: float) -> float:
        _, profile = angular_profile(whitened, shape_zyx, axis_deg, 2.0)
        return _wedge_contrast(profile, 2.0) if np.isfinite(profile).all() else -1.0

    coarse = np.arange(-35.0, 140.0, 10.0)
    found = float(coarse[int(np.argmax([contrast(a) for a in coarse.tolist()]))])
    for reach in (10.0, 4.0):
        trial = found + np.linspace(-reach, reach, 9)
        sharp = np.array([_edge_sharpness(*angular_profile(whitened, shape_zyx, a)) for a in trial.tolist()])
        if not np.isfinite(sharp).all():
            return found
        i = int(np.clip(np.argmax(sharp), 1, trial.size - 2))
        found = float(trial[i] + (trial[1] - trial[0]) * _vertex(*sharp[i - 1 : i + 2].tolist()))
    found = found if found <= 135.0 else found - 180.0
    # y or x to within the search's own error is meant to be y or x.
    return next((exact for exact in (0.0, 90.0) if abs(found - exact) <= SNAP_DEG), found)


def _vertex(left: float, middle: float, right: float) -> float:
    """Position of the top of the parabola through three samples, in steps from the middle."""
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -1.0, 1.0)) if bend < 0 else 0.0


def _edge_sharpness(angle: NDArray[np.float64], profile: NDArray[np.float64]) -> float:
    """Fall of the profile over a few degrees, summed over both ends of the range."""
    ends = _half_power_ends(angle, _smoothed(profile)) if np.isfinite(profile).all() else None
    if ends is None:
        return float("nan")
    total = 0.0
    for side, end in ((-1.0, ends[0]), (1.0, ends[1])):
        beyond = side * (angle - end)
        inside, outside = (beyond < 0) & (beyond > -EDGE_DEG), (beyond > 0) & (beyond < EDGE_DEG)
        if not inside.any() or not outside.any():
            return float("nan")
        total += float(np.median(profile[inside]) - profile[outside].mean())
    return total


def estimate_tilt_geometry(volume: Tensor, tilt_axis_deg: float | None = None) -> TiltGeometry | None:
    """Estimate the tilt axis and both ends of the range from a reconstruction.

    Parameters
    ----------
    volume : (z, y, x)
        The reconstruction, or a large block of it.
    tilt_axis_deg : float, optional
        The axis where it is known, from y towards x.

    Returns
    -------
    TiltGeometry or None
        None where the spectrum shows no wedge.
    """
    z, y, x = volume.shape
    shape = (int(z), int(y), int(x))
    power = whitened_power(volume)
    axis = find_tilt_axis(power, shape) if tilt_axis_deg is None else tilt_axis_deg
    angle, profile = angular_profile(power, shape, axis)
    if not np.isfinite(profile).all():
        return None
    smooth = _smoothed(profile)
    ends = _half_power_ends(angle, smooth)
    if ends is None:
        return None
    low, high, floor = ends
    return TiltGeometry(axis, (-high, -low), (low, high), floor, angle.tolist(), profile.tolist())


def _smoothed(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel = np.array([1.0, 2.0, 1.0]) / 4
    return np.convolve(np.concatenate([profile[-1:], profile, profile[:1]]), kernel, mode="valid")


def _half_power_ends(
    angle: NDArray[np.float64], profile: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Ends (low, high) of the measured sector and the floor's share of the level inside."""
    central = np.abs(angle) > SPIKE_DEG
    level = float(np.median(profile[central & (np.abs(angle) < 40)]))
    floor = float(np.quantile(profile, 0.05))
    if level <= 0 or floor / level > MAX_FLOOR:
        return None
    ends = []
    for side in (-1.0, 1.0):
        outward = np.argsort(side * angle)
        outward = outward[side * angle[outward] > SPIKE_DEG]
        end = _half_power_end(side * angle[outward], profile[outward], level, floor)
        if end is None:
            return None
        ends.append(side * end)
    if ends[1] - ends[0] > MAX_RANGE_DEG:
        return None
    return ends[0], ends[1], floor / level


def _half_power_end(
    angle: NDArray[np.float64], profile: NDArray[np.float64], level: float, floor: float
) -> float | None:
    """Angle, growing outward, at which power has fallen half-way from the level just inside.

    The level just inside replaces the overall one: SIRT and filters tilt the profile slowly, and an
    edge measured against the centre would come out too early.
    """
    end: float | None = None
    for _ in range(5):
        half = (level + floor) / 2
        above = np.flatnonzero(profile >= half)
        if above.size == 0:
            return None
        i = int(above[-1])
        if i == angle.size - 1:
            return 90.0
        share = (profile[i] - half) / max(float(profile[i] - profile[i + 1]), 1e-12)
        end = float(angle[i] + share * (angle[i + 1] - angle[i]))
        near, far = PLATEAU_DEG
        inside = (angle < end - near) & (angle > end - far)
        if not inside.any():
            break
        level = float(np.median(profile[inside]))
    return end

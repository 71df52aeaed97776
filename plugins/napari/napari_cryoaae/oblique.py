"""A plane through the cursor with a free normal: its axes, what of a volume it cuts, and the way back to voxels.

    normal, down, across = R (z, y, x),      R = Rz(azimuth) Ry(tilt) Rz(-azimuth)

so that a tilt of 0 is the xy plane, and no tilt turns the picture within itself. Places in the plane are counted
from the foot of the volume's centre, not from the cursor: moving the cursor within the plane leaves the picture still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_cryoaae.sources import Source

# Pixels of a picture, and samples that it may take, slab and all: beyond that it is sampled more coarsely.
MOST_PIXELS, MOST_SAMPLES = 1 << 18, 1 << 20
# Distances from the centre that differ by less are one plane.
SAME_VOXELS = 1e-4


@dataclass(frozen=True)
class ObliquePlane:
    """The direction of a plane.

    Parameters
    ----------
    tilt_deg : float
        Angle between its normal and z.
    azimuth_deg : float
        Direction of the normal in the xy plane, from x towards y.
    """

    tilt_deg: float = 30.0
    azimuth_deg: float = 0.0

    def axes_zyx(self) -> NDArray[np.float64]:
        """Unit vectors (3, 3), (z, y, x) each: normal, down, across."""
        turn = Rotation.from_euler("ZYZ", [self.azimuth_deg, self.tilt_deg, -self.azimuth_deg], degrees=True)
        return np.array(turn.as_matrix().T[::-1, ::-1])


@dataclass(frozen=True)
class ObliqueCut:
    """A slab of a volume's grid along an oblique plane.

    Parameters
    ----------
    plane : ObliquePlane
    distance : float
        Of the plane from the volume's centre along its normal, in voxels.
    thickness : int
        In voxels, averaged over.
    shape_zyx : (int, int, int)
        The volume's, whatever piece of it is then cut.
    """

    plane: ObliquePlane
    distance: float
    thickness: int
    shape_zyx: tuple[int, int, int]

    @classmethod
    def through(
        cls, place_zyx: Sequence[float], plane: ObliquePlane, thickness: int, shape_zyx: tuple[int, int, int]
    ) -> ObliqueCut:
        """The cut through a voxel."""
        distance = float(plane.axes_zyx()[0] @ (np.asarray(place_zyx, float) - _centre(shape_zyx)))
        return cls(plane, round(distance / SAME_VOXELS) * SAME_VOXELS, thickness, shape_zyx)

    @property
    def half_size(self) -> tuple[float, float]:
        """Half extent of the volume's shadow in the plane, down and across, in voxels."""
        _, down, across = np.abs(self.plane.axes_zyx()) @ (np.asarray(self.shape_zyx) / 2)
        return float(down), float(across)

    def of(self, source: Source) -> NDArray[np.float32]:
        """The picture (down, across); NaN where the plane leaves the volume."""
        normal, down, across = self.plane.axes_zyx()
        pixels = min(MOST_PIXELS, MOST_SAMPLES / self.thickness)
        step = max(1.0, np.sqrt(4 * np.prod(self.half_size) / pixels))
        rows, columns = (_steps(half, step) for half in self.half_size)
        flat = _centre(self.shape_zyx) + rows[:, None, None] * down + columns[None, :, None] * across
        offsets = np.arange(self.thickness) - (self.thickness - 1) // 2  # as a slab across an axis
        layers = [source.sampled(flat + (self.distance + offset) * normal) for offset in offsets]
        inside = np.isfinite(layers)
        count = inside.sum(axis=0)
        total = np.where(inside, layers, 0).sum(axis=0, dtype=np.float64)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def rect(self, source: Source) -> tuple[float, float, float, float]:
        """Where the picture lies in its view: left, top, width, height."""
        down, across = self.half_size
        return -across, -down, 2 * across, 2 * down

    def crosshair(self, place_zyx: Sequence[int]) -> tuple[float, float]:
        """Where a voxel lies in the view, down and across."""
        _, down, across = self.plane.axes_zyx() @ (np.asarray(place_zyx) - _centre(self.shape_zyx))
        return float(down), float(across)

    def place(self, down: float, across: float, near_zyx: Sequence[int]) -> tuple[int, int, int]:
        """The voxel at a place of the view; `near_zyx` is the cursor of before, which does not matter here."""
        normal, v, u = self.plane.axes_zyx()
        z, y, x = np.rint(_centre(self.shape_zyx) + self.distance * normal + down * v + across * u).astype(int)
        return int(z), int(y), int(x)

    def trace_deg(self, down_axis: int, across_axis: int) -> float | None:
        """Angle of the plane's line in an orthogonal view, from across towards down; None where parallel to it."""
        normal = self.plane.axes_zyx()[0]
        up, side = normal[down_axis], normal[across_axis]
        return None if np.hypot(up, side) < SAME_VOXELS else float(np.degrees(np.arctan2(side, -up)))


def _centre(shape_zyx: Sequence[int]) -> NDArray[np.float64]:
    return (np.asarray(shape_zyx, float) - 1) / 2


def _steps(half: float, step: float) -> NDArray[np.float64]:
    """Middles of cells of about `step` that cover -half to half."""
    count = max(1, round(2 * half / step))
    return (np.arange(count) + 0.5) * (2 * half / count) - half

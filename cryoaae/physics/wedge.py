"""The missing wedge: which Fourier coefficients a tilt series measures.

Convention
----------
The tilt axis lies in the xy plane (default y) and the beam is z. The projection at tilt angle t
measures the central plane that holds the tilt axis and the direction (kx, kz) = (cos t, -sin t):
the projection's horizontal axis runs along x cos t - z sin t of the object. `flipped` is for files
whose angles have the other sign. Angles in degrees, frequencies in cycles
per voxel, depths in Fourier voxels (one over the box).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies, irfft, rfft

# A plane of a box of n voxels is one Fourier voxel thick: half of it on either side.
HALF_SLAB = 0.5
# Tolerances for using the symmetries of a wedge: tilt axis along the grid, ends of the range alike.
STRAIGHT_DEG = 1.0
SYMMETRIC_DEG = 3.0
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class MissingWedge:
    """Measured and missing region of Fourier space for a single-axis tilt series.

    Parameters
    ----------
    tilt_range_deg : (float, float)
        Lowest and highest tilt angle. The region between counts as measured, unless `tilts_deg`
        is given.
    tilts_deg : tuple of float, optional
        The tilt angles. Each measures a slab one Fourier voxel thick; what lies between slabs
        counts as missing.
    tilt_axis_deg : float
        Angle of the tilt axis in the xy plane, from y towards x.
    flipped : bool
        Whether the angles have the opposite sign to the convention above.
    rotation : 3 x 3 nested tuple
        Rotation (acting on (z, y, x) column vectors) of the object, and so of its wedge, since it
        was measured; see `rotated`.

    Notes
    -----
    Two objects must not be confused: the binary *support* M, a projector (M = M* = M^2), which
    belongs in losses and merges; and the *transfer* H, 0 <= H <= 1, self-adjoint, which says how
    much of a coefficient passes (DESIGN 2). Both are even in k, also on the Nyquist planes of even
    boxes, so that real volumes stay real.
    """

    tilt_range_deg: tuple[float, float] = (-60.0, 60.0)
    tilts_deg: tuple[float, ...] | None = None
    tilt_axis_deg: float = 0.0
    flipped: bool = False
    rotation: Matrix = IDENTITY

    def __post_init__(self) -> None:
        lo, hi = self.tilt_range_deg
        if not (math.isfinite(lo) and math.isfinite(hi)) or not -90 <= lo < hi <= 90:
            raise ValueError(f"tilt range {lo} to {hi} degrees: need -90 <= low < high <= 90")

    @classmethod
    def from_tilts(
        cls, tilts_deg: Sequence[float], *, tilt_axis_deg: float = 0.0, flipped: bool = False
    ) -> MissingWedge:
        """Build from the list of tilt angles in degrees, in any order."""
        tilts = tuple(sorted({float(t) for t in tilts_deg}))
        return cls((tilts[0], tilts[-1]), tilts, tilt_axis_deg, flipped)

    def facts(self) -> dict[str, Any]:
        """Tilts, axis and sign as plain data, for records; `from_facts` undoes it. Rotations are left out."""
        return {
            "tilt_range_deg": list(self.tilt_range_deg),
            "tilts_deg": None if self.tilts_deg is None else list(self.tilts_deg),
            "tilt_axis_deg": self.tilt_axis_deg,
            "flipped": self.flipped,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> MissingWedge:
        """Build from what `facts` gave; further keys do not matter."""
        (low, high), tilts = facts["tilt_range_deg"], facts["tilts_deg"]
        return cls(
            (low, high), None if tilts is None else tuple(tilts), facts["tilt_axis_deg"], facts["flipped"]
        )

    def rotated(self, rotation: Tensor) -> MissingWedge:
        """Wedge of the object rotated by a 3 x 3 matrix on (z, y, x) vectors (point p goes to R p)."""
        matrix = rotation.detach().double().cpu() @ torch.tensor(self.rotation, dtype=torch.float64)
        rows = tuple(tuple(float(v) for v in row) for row in matrix)
        return replace(self, rotation=rows)  # type: ignore[arg-type]

    @property
    def tilt_axis_zyx(self) -> tuple[float, float, float]:
        """Unit vector along the tilt axis, before any rotation of the object."""
        angle = math.radians(self.tilt_axis_deg)
        return (0.0, math.cos(angle), math.sin(angle))

    def half_turns(self) -> tuple[tuple[int, ...], ...]:
        """Half turns about x, y, z that keep this wedge and the grid, as axes to flip.

        The identity always; the turn about a tilt axis along y (or x) keeps any wedge; the other
        two mirror the tilt angles, so they need a symmetric range.
        """
        about_y, about_x, about_z = (-3, -1), (-3, -2), (-2, -1)
        angle = self.tilt_axis_deg % 180.0
        straight = min(angle % 90.0, 90.0 - angle % 90.0) < STRAIGHT_DEG
        if self.rotation != IDENTITY or not straight:
            return ((),)
        own, other = (about_y, about_x) if min(angle, 180.0 - angle) < 45.0 else (about_x, about_y)
        if abs(sum(self.tilt_range_deg)) > SYMMETRIC_DEG:
            return ((), own)
        return ((), own, other, about_z)

    def narrowed(self, tilt_range_deg: tuple[float, float]) -> MissingWedge:
        """Same series without the tilts outside a range that lies within its own."""
        low, high = tilt_range_deg
        kept = None if self.tilts_deg is None else tuple(t for t in self.tilts_deg if low <= t <= high)
        return replace(self, tilt_range_deg=(low, high), tilts_deg=kept)

    def solid(self) -> MissingWedge:
        """Same range, with everything between its ends counted as measured."""
        return replace(self, tilts_deg=None)

    # -- geometry ----------------------------------------------------------------------------

    def plane_angles_rad(self) -> Tensor:
        """Angles of the measured planes (the end ones, without a list of tilts) from across to beam, ascending."""
        sign = 1.0 if self.flipped else -1.0  # (kx, kz) = (cos t, -sin t)
        tilts = self.tilts_deg or self.tilt_range_deg
        return torch.tensor(sorted(math.radians(sign * t) for t in tilts), dtype=torch.float64)

    def _frame(self) -> Tensor:
        """Rows: unit vectors (beam, across) in the present frame, (2, 3) on (z, y, x)."""
        axis = math.radians(self.tilt_axis_deg)
        lab = torch.tensor(
            [[1.0, 0.0, 0.0], [0.0, -math.sin(axis), math.cos(axis)]], dtype=torch.float64
        )
        return lab @ torch.tensor(self.rotation, dtype=torch.float64).T

    def coordinates(
        self,
        shape_zyx: Sequence[int],
        device: torch.device | str | None = None,
        flip_nyquist: bool = False,
        rows: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Frequencies along the beam and across the tilt axis, (z, y, x // 2 + 1) float64, cycles per voxel.

        Of some `rows` along y alone, where they are given.
        """
        axes = []
        for axis, k in enumerate(frequencies(shape_zyx, device=device, dtype=torch.float64)):
            n = int(shape_zyx[axis])
            # Index n/2 stands for +0.5 and -0.5 alike; evenness must hold for both readings.
            nyquist = (n % 2 == 0) & (k.abs() >= 0.5 - 1e-9)
            axes.append(torch.where(nyquist, -k, k) if flip_nyquist else k)
        beam, across = self._frame().tolist()
        kz, ky, kx = axes[0], axes[1][:, rows], axes[2]
        return (
            beam[0] * kz + beam[1] * ky + beam[2] * kx,
            across[0] * kz + across[1] * ky + across[2] * kx,
        )

    def _slab_unit(self, angle: Tensor, shape_zyx: Sequence[int]) -> Tensor:
        """Fourier voxel of the box along the normal of planes at `angle`, in cycles per voxel."""
        beam, across = self._frame().to(angle.device)
        normal = torch.cos(angle)[..., None] * beam - torch.sin(angle)[..., None] * across
        sizes = torch.tensor([float(n) for n in shape_zyx], dtype=torch.float64, device=angle.device)
        return torch.linalg.vector_norm(normal / sizes, dim=-1)

    def _depth_once(
        self,
        shape_zyx: Sequence[int],
        object_zyx: Sequence[int],
        device: torch.device | str | None,
        flip_nyquist: bool,
        rows: slice = slice(None),
    ) -> Tensor:
        kb, ka = self.coordinates(shape_zyx, device, flip_nyquist, rows)
        planes = self.plane_angles_rad().to(kb.device)
        units = self._slab_unit(planes, object_zyx)
        # Fold onto across >= 0: planes are even in k.
        sign = torch.where(ka < 0, -1.0, 1.0)
        kb, ka = kb * sign, ka * sign
        if self.tilts_deg is not None:
            return self._distance_to_planes(kb, ka, planes, units)
        lo, hi = float(planes[0]), float(planes[-1])
        to_high = kb * math.cos(hi) - ka * math.sin(hi)
        to_low = kb * math.cos(lo) - ka * math.sin(lo)
        nearest = torch.minimum(to_high.abs() / units[-1], to_low.abs() / units[0])
        missing = (to_high > 0) | (to_low < 0)
        if hi - lo >= math.pi - 1e-9:
            missing = torch.zeros_like(missing)
        return torch.where(missing, nearest, -nearest)

    @staticmethod
    def _distance_to_planes(kb: Tensor, ka: Tensor, planes: Tensor, units: Tensor) -> Tensor:
        """Distance to the nearest measured plane in Fourier voxels; planes sorted by angle."""
        angle = torch.atan2(kb, ka).contiguous()
        after = torch.searchsorted(planes, angle).clamp_(max=len(planes) - 1)
        best = torch.full_like(angle, float("inf"))
        # The nearest plane by angle is a neighbour, or an end plane seen from beyond the axis.
        for candidate in (after, (after - 1).clamp(min=0), 0 * after, 0 * after + len(planes) - 1):
            p = planes[candidate]
            best = torch.minimum(best, (kb * torch.cos(p) - ka * torch.sin(p)).abs() / units[candidate])
        return best

    # -- what users of the class need ----------------------------------------------------------

    def depth(
        self,
        shape_zyx: Sequence[int],
        *,
        object_zyx: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        rows: slice = slice(None),
    ) -> Tensor:
        """Distance into the missing region, (z, y, x // 2 + 1) float32, in Fourier voxels.

        For a range: signed distance to the nearer end plane, negative inside the measured region.
        For a list of tilts: distance to the nearest measured plane.

        Parameters
        ----------
        shape_zyx : sequence of int
            Box in voxels; odd, even and unequal sizes are all right.
        object_zyx : sequence of int, optional
            Size of the object in voxels, which sets the Fourier voxel. Default: the box. A patch
            that is padded keeps its own, coarser Fourier voxel.
        rows : slice
            Of the y axis, where not all are wanted: (z, rows, x // 2 + 1).
        """
        size = shape_zyx if object_zyx is None else object_zyx
        depth = self._depth_once(shape_zyx, size, device, False, rows)
        if any(n % 2 == 0 for n in shape_zyx):
            depth = torch.maximum(depth, self._depth_once(shape_zyx, size, device, True, rows))
        return depth.float()

    def support(
        self,
        shape_zyx: Sequence[int],
        *,
        object_zyx: Sequence[int] | None = None,
        margin: float = 0.0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Measured coefficients M, (z, y, x // 2 + 1) bool, on the unshifted half spectrum.

        Parameters
        ----------
        shape_zyx, object_zyx : sequence of int
            Box and object in voxels, as for `depth`.
        margin : float
            Fourier voxels to take off at both ends of the tilt range. The origin stays.
        """
        mask = self.depth(shape_zyx, object_zyx=object_zyx, device=device) <= HALF_SLAB + 1e-6
        if margin > 0:
            ends = self.solid().depth(shape_zyx, object_zyx=object_zyx, device=device)
            mask &= ends <= HALF_SLAB - margin + 1e-6
        mask[0, 0, 0] = True
        return mask

    def transfer(self, shape_zyx: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
        """Transfer H in [0, 1], (z, y, x // 2 + 1): falls linearly over one Fourier voxel.

        Full at the centre of a slab (or inside the range), half at the edge of the support.
        """
        h = (1.0 - self.depth(shape_zyx, device=device)).clamp(0.0, 1.0)
        h[0, 0, 0] = 1.0
        return h

    def measured(self, volume: Tensor) -> Tensor:
        """A(x): what of volumes (..., z, y, x) is measured (support M; a projector)."""
        shape = volume.shape[-3:]
        return irfft(rfft(volume) * self.support(shape, device=volume.device), shape)

    def complement(self, volume: Tensor) -> Tensor:
        """X - A(x): what of volumes (..., z, y, x) lies in the missing region."""
        return volume - self.measured(volume)

    def merge(self, measured: Tensor, estimate: Tensor) -> Tensor:
        """Measured coefficients of one volume, the missing ones of the other, (..., z, y, x)."""
        return estimate + self.measured(measured - estimate)

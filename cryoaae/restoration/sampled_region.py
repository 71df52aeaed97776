"""A box of a tomogram that a costly sampler is confined to, and the fade into draws that are cheap around it.

    d(v) = w(v) d_box(v) + sqrt(1 - w(v)^2) d_around(v),      w = 1 in the box, 0 outside, over `FADE` voxels

The two are independent, so that squares of weights that add up to one keep the spread what it is on either side. Faces
of the tomogram itself are no seams: there the box ends where the tomogram does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.restoration.draw_sources import covering, covering_axes
from cryoaae.restoration.engine import FACE_PAD, RestoreOptions, plan_restoration
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram

# Working voxels over which draws of the box go over to those around it.
FADE = 6


def box_voxels(tomogram: WorkingTomogram, edge: int) -> int:
    """Working voxels of a box of at most `edge` an axis with its continuation; of no more than the tomogram's."""
    return math.prod(min(edge + 2 * FACE_PAD, n) for n in tomogram.plan.frame.working_zyx)


@dataclass(frozen=True)
class SampledRegion:
    """A box in working voxels of a tomogram.

    Parameters
    ----------
    box : three slices
    shape : (z, y, x)
        Of the tomogram in working voxels.
    """

    box: tuple[slice, slice, slice]
    shape: tuple[int, int, int]

    @classmethod
    def about(cls, tomogram: WorkingTomogram, edge: int, at: Sequence[int] | None) -> SampledRegion:
        """A box of at most `edge` working voxels an axis about a voxel (z, y, x) of the tomogram, or its middle.

        Raises
        ------
        InputError
            If the voxel lies outside.
        """
        frame = tomogram.plan.frame
        shape = [axis.size for axis in covering_axes(frame)]
        box = []
        for axis, n in enumerate(shape):
            size = min(edge, n)
            middle = n // 2 if at is None else at[axis] // frame.working_bin
            if at is not None and not 0 <= at[axis] < frame.axes[axis].size:
                whole = " x ".join(str(a.size) for a in frame.axes)
                raise InputError("--at", f"{', '.join(map(str, at))} lies outside {whole} voxels (z, y, x)")
            start = min(max(middle - size // 2, 0), n - size)
            box.append(slice(start, start + size))
        (z, y, x), (nz, ny, nx) = box, shape
        return cls((z, y, x), (nz, ny, nx))

    @property
    def whole(self) -> bool:
        """Whether it is all of the tomogram."""
        return all(s.stop - s.start == n for s, n in zip(self.box, self.shape, strict=True))

    def cut(self, tomogram: WorkingTomogram) -> WorkingTomogram:
        """The box as a tomogram of its own, on the same working grid and in the same units."""
        if self.whole:
            return tomogram
        bin_ = tomogram.plan.frame.working_bin
        z, y, x = (bin_ * (s.stop - s.start) for s in self.box)
        plan = plan_restoration((z, y, x), tomogram.model, RestoreOptions(device=str(tomogram.plan.device)))
        part, axes = covering(tomogram.plan.frame), covering_axes(plan.frame)
        halves = [continued(half[part][self.box].contiguous(), axes) for half in tomogram.halves]
        return replace(tomogram, halves=halves, plan=plan)

    def faded(self, inner: Tensor, around: Tensor) -> Tensor:
        """Deviations in the box within those of the tomogram (z, y, x)."""
        weight = self.weight
        made = (1 - weight.square()).sqrt() * around
        made[self.box] += weight[self.box] * inner
        return made

    @property
    def weight(self) -> Tensor:
        """Of the box, (z, y, x)."""
        z, y, x = (_rise(s, n) for s, n in zip(self.box, self.shape, strict=True))
        return z[:, None, None] * y[:, None] * x


def _rise(inside: slice, size: int) -> Tensor:
    """Weight along an axis: rises within the box, from faces that are not the tomogram's own."""
    voxel = torch.arange(size).float()
    low = (voxel - inside.start + 0.5) / FADE if inside.start > 0 else torch.ones(size)
    high = (inside.stop - voxel - 0.5) / FADE if inside.stop < size else torch.ones(size)
    return (torch.minimum(low, high).clamp(0.0, 1.0) * math.pi / 2).sin()

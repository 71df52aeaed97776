"""Between the tomogram and the working grid, a few planes or rows at a time.

The volume is continued periodically (`patches.tiling`), so both ways are exact Fourier resampling
of the whole volume, and memory does not grow with it. A filter on the working grid goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.tiling import PaddedAxis, extend_plane, whole_shape
from cryoaae.physics import streamed
from cryoaae.restoration.scratch import Scratch
from cryoaae.volume import Volume

# Planes or rows handled at once hold at most so many values.
CHUNK_VALUES = 1 << 21

Check = Callable[[], None]
Response = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Frame:
    """Geometry of one restoration: the volume, its continuation and the working grid.

    Parameters
    ----------
    axes : three PaddedAxis
        Along z, y, x.
    working_bin : int
        Tomogram voxels per working voxel.
    """

    axes: tuple[PaddedAxis, PaddedAxis, PaddedAxis]
    working_bin: int

    @classmethod
    def plan(cls, shape_zyx: tuple[int, int, int], *, working_bin: int, multiple: int, pad: int) -> Frame:
        z, y, x = (PaddedAxis.plan(n, working_bin=working_bin, multiple=multiple, pad=pad) for n in shape_zyx)
        return cls((z, y, x), working_bin)

    @property
    def working_zyx(self) -> tuple[int, int, int]:
        return whole_shape(self.axes, self.working_bin)

    @property
    def object_zyx(self) -> tuple[int, int, int]:
        """The volume in working voxels."""
        z, y, x = (axis.size // self.working_bin for axis in self.axes)
        return z, y, x

    @property
    def padded_zyx(self) -> tuple[int, int, int]:
        z, y, x = (axis.padded for axis in self.axes)
        return z, y, x

    def scratch_bytes(self, estimates: int) -> int:
        """Disk that `read` and `write` need with so many estimates on the working grid."""
        z, y, x = self.working_zyx
        passes = 8 * self.padded_zyx[0] * y * (x // 2 + 1)
        return passes + 4 * (1 + estimates) * z * y * x


def _chunks(count: int, values_each: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, values_each))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def to_working(
    volume: Volume, frame: Frame, normalisation: Normalisation, *, scratch: Scratch, check: Check
) -> NDArray[np.float32]:
    """Normalise a volume and bring its continuation to the working grid, (z, y, x) float32.

    Parameters
    ----------
    check : callable
        Called often; raises to stop the work.
    """
    z, y, x = frame.working_zyx
    spectra = scratch.array((frame.padded_zyx[0], y, x // 2 + 1), np.complex64)
    first, second, blend = frame.axes[0].sources()
    for e in range(len(first)):
        check()
        plane = normalisation.apply(volume.data[first[e]])
        if blend[e] > 0:
            plane = plane * (1 - blend[e]) + normalisation.apply(volume.data[second[e]]) * blend[e]
        planes = torch.from_numpy(extend_plane(plane, frame.axes))[None]
        spectra[e] = streamed.plane_spectra(planes, (y, x))[0].numpy()
    for rows in _chunks(y, 3 * len(first) * (x // 2 + 1)):
        check()
        pencils = torch.from_numpy(np.array(spectra[:, rows]))
        # Fewer planes than before: the result fits in the front of the same scratch.
        spectra[:z, rows] = streamed.band_pencils(pencils, frame.working_zyx, rows.start).numpy()
    out = scratch.array((z, y, x))
    for planes_at in _chunks(z, y * x):
        check()
        part = torch.from_numpy(np.array(spectra[planes_at]))
        out[planes_at] = streamed.planes_of_spectra(part, (y, x)).numpy()
    return out


def from_working(
    estimate: NDArray[np.float32],
    target: NDArray[Any],
    frame: Frame,
    normalisation: Normalisation,
    *,
    scratch: Scratch,
    check: Check,
) -> None:
    """Write an estimate on the working grid into a tomogram (z, y, x), in the tomogram's units."""
    axis_z, axis_y, axis_x = frame.axes
    _, y, x = frame.working_zyx
    stretched = scratch.array((axis_z.size, y, x))
    core_z = slice(axis_z.before, axis_z.before + axis_z.size)
    for rows in _chunks(y, 3 * axis_z.padded * x):
        check()
        pencils = torch.from_numpy(np.array(estimate[:, rows]))
        stretched[:, rows] = streamed.stretch_pencils(pencils, axis_z.padded)[core_z].numpy()
    core_y = slice(axis_y.before, axis_y.before + axis_y.size)
    core_x = slice(axis_x.before, axis_x.before + axis_x.size)
    for planes_at in _chunks(axis_z.size, 3 * axis_y.padded * axis_x.padded):
        check()
        planes = torch.from_numpy(np.array(stretched[planes_at]))
        full = streamed.stretch_planes(planes, (axis_y.padded, axis_x.padded))
        target[planes_at] = normalisation.undo(full[:, core_y, core_x].numpy()).astype(target.dtype)


def radial(response: Callable[[Tensor], Tensor], shape_zyx: Sequence[int]) -> Response:
    """Response by rows of one that is given by frequencies in cycles per voxel."""

    def of_rows(rows: slice) -> Tensor:
        return response(streamed.radius_of_rows(shape_zyx, rows.start, rows.stop - rows.start))

    return of_rows


def filter_in_place(volume: NDArray[Any], response: Response, *, scratch: Scratch, check: Check) -> None:
    """Apply a filter of any reach to a periodic volume (z, y, x); Nyquist is left empty.

    Parameters
    ----------
    response : callable
        A slice of rows of the half spectrum along y -> the response there, (z, rows, x // 2 + 1).
    """
    z, y, x = volume.shape
    spectra = scratch.array((z, y, x // 2 + 1), np.complex64)
    for planes_at in _chunks(z, y * x):
        check()
        planes = torch.from_numpy(np.array(volume[planes_at]))
        spectra[planes_at] = streamed.plane_spectra(planes, (y, x)).numpy()
    for rows in _chunks(y, 3 * z * (x // 2 + 1)):
        check()
        pencils = torch.from_numpy(np.array(spectra[:, rows]))
        spectra[:, rows] = streamed.filter_pencils(pencils, response(rows)).numpy()
    for planes_at in _chunks(z, y * x):
        check()
        part = torch.from_numpy(np.array(spectra[planes_at]))
        volume[planes_at] = streamed.planes_of_spectra(part, (y, x)).numpy()


def mean_into_first(estimates: list[NDArray[np.float32]]) -> None:
    """Replace the first of several estimates (z, y, x) by the mean of all."""
    for z in range(estimates[0].shape[0]):
        estimates[0][z] = sum(e[z] for e in estimates) / len(estimates)

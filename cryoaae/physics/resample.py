"""Change of sampling in Fourier space: the working grid and back.

Fitting and restoring work on a grid that holds only what was measured well enough (the cut-off is
chosen from the half-map FSC). Its voxel is a whole number of tomogram voxels, and its band is
spherical, so that a rotation neither adds nor loses content.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft, soft_lowpass

# Band of the working grid, in cycles per working voxel: the edge stays clear of Nyquist, where a
# rotated cubic band would be cut.
BAND_START, BAND_STOP = 0.42, 0.5


def _centre_slices(size: int, kept: int) -> tuple[slice, slice]:
    """Slices of the non-negative and negative frequencies shared by grids of both sizes."""
    low = min(size, kept)
    return slice(0, (low + 1) // 2), slice(-(low // 2), None) if low // 2 else slice(0, 0)


def fourier_resample(volume: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """Resample periodic volumes (..., z, y, x) to `shape_zyx` by cutting or padding the spectrum.

    Densities keep their values (not their sum). Nyquist planes of the smaller grid, whose phase is
    ambiguous, are dropped.
    """
    old = volume.shape[-3:]
    new = tuple(int(n) for n in shape_zyx)
    if tuple(old) == new:
        return volume.clone()
    spectrum = torch.fft.rfftn(volume, dim=(-3, -2, -1), norm="forward")
    low = [min(a, b) for a, b in zip(old, new, strict=True)]
    out = spectrum.new_zeros(*volume.shape[:-3], new[0], new[1], new[2] // 2 + 1)
    kx = slice(0, (low[2] + 1) // 2)
    for z in _centre_slices(old[0], new[0]):
        for y in _centre_slices(old[1], new[1]):
            out[..., z, y, kx] = spectrum[..., z, y, kx]
    for axis, n in ((-3, low[0]), (-2, low[1])):
        if n % 2 == 0:
            out.narrow(axis, out.shape[axis] - n // 2, 1).zero_()
    return torch.fft.irfftn(out, s=new, dim=(-3, -2, -1), norm="forward")


def band_limit(volume: Tensor, start: float = BAND_START, stop: float = BAND_STOP) -> Tensor:
    """Apply the soft spherical low-pass to volumes (..., z, y, x), in cycles per voxel."""
    shape = volume.shape[-3:]
    window = soft_lowpass(radius(shape, device=volume.device), start, stop)
    return irfft(rfft(volume) * window, shape)


def to_working_grid(volume: Tensor, factor: int) -> Tensor:
    """Bin volumes (..., z, y, x) by a whole `factor` in Fourier space, with the spherical band.

    Sizes must be multiples of `factor`. The first voxel keeps its place, so tiles that start at
    multiples of `factor` share one working grid.
    """
    z, y, x = volume.shape[-3:]
    if z % factor or y % factor or x % factor:
        raise ValueError(f"shape {(z, y, x)} is not a multiple of the binning {factor}")
    small = (z // factor, y // factor, x // factor)
    return band_limit(fourier_resample(volume, small))


def from_working_grid(volume: Tensor, factor: int) -> Tensor:
    """Take volumes (..., z, y, x) from the working grid back to the tomogram's; no new content."""
    z, y, x = volume.shape[-3:]
    return fourier_resample(volume, (z * factor, y * factor, x * factor))

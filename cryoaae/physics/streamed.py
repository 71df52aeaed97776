"""Fourier resampling in passes over planes and pencils, for volumes larger than memory.

The three passes `plane_spectra`, `band_pencils`, `planes_of_spectra` together equal
`resample.to_working_grid` on the whole volume, and `stretch_pencils`, `stretch_planes` together
equal `resample.from_working_grid`: nothing is tiled, so no seam can come from resampling. With `filter_pencils` between
`plane_spectra` and `planes_of_spectra` a filter of any reach is applied to the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies, soft_lowpass
from cryoaae.physics.resample import BAND_START, BAND_STOP, fourier_resample


def _kept(size: int, small: int) -> Tensor:
    """Return the indices of the frequencies below the Nyquist frequency of the smaller grid."""
    positive = (small + 1) // 2
    return torch.cat([torch.arange(positive), torch.arange(size - (small - 1) // 2, size)])


def plane_spectra(planes: Tensor, working_yx: Sequence[int]) -> Tensor:
    """Spectra (n, y, x // 2 + 1) on the working grid of planes (n, Y, X); Nyquist is left empty."""
    y, x = working_yx
    spectrum = torch.fft.rfftn(planes, dim=(-2, -1), norm="forward")
    out: Tensor = spectrum.new_zeros(planes.shape[0], y, x // 2 + 1)
    columns = (x + 1) // 2
    out[:, _kept(y, y), :columns] = spectrum[:, _kept(planes.shape[1], y), :columns]
    return out


def band_pencils(spectra: Tensor, working_zyx: Sequence[int], first_row: int) -> Tensor:
    """Bin and band-limit along z: plane spectra (Z, rows, kx) -> (z, rows, kx).

    Parameters
    ----------
    spectra : (Z, rows, x // 2 + 1)
        A few rows of all plane spectra.
    working_zyx : (z, y, x)
        The whole working grid.
    first_row : int
        Which row of the plane spectra comes first.
    """
    z = int(working_zyx[0])
    pencils = torch.fft.fft(spectra, dim=0, norm="forward")
    out = pencils.new_zeros(z, *spectra.shape[1:])
    out[_kept(z, z)] = pencils[_kept(spectra.shape[0], z)]
    out *= soft_lowpass(radius_of_rows(working_zyx, first_row, spectra.shape[1]), BAND_START, BAND_STOP)
    binned: Tensor = torch.fft.ifft(out, dim=0, norm="forward")
    return binned


def filter_pencils(spectra: Tensor, response: Tensor) -> Tensor:
    """Multiply by a response along all of z: a few rows of plane spectra (z, rows, x // 2 + 1) -> the same.

    Parameters
    ----------
    spectra : (z, rows, x // 2 + 1)
    response : (z, rows, x // 2 + 1)
        Of those rows.
    """
    pencils = torch.fft.fft(spectra, dim=0, norm="forward")
    pencils *= response
    filtered: Tensor = torch.fft.ifft(pencils, dim=0, norm="forward")
    return filtered


def radius_of_rows(shape_zyx: Sequence[int], first_row: int, rows: int) -> Tensor:
    """Length of the frequency vector in a few rows, (z, rows, x // 2 + 1), in cycles per voxel."""
    kz, ky, kx = frequencies(shape_zyx)
    return torch.sqrt(kz**2 + ky[:, first_row : first_row + rows] ** 2 + kx**2)


def planes_of_spectra(spectra: Tensor, working_yx: Sequence[int]) -> Tensor:
    """Planes (n, y, x) of their spectra (n, y, x // 2 + 1); the last pass to the working grid."""
    planes: Tensor = torch.fft.irfftn(spectra, s=tuple(working_yx), dim=(-2, -1), norm="forward")
    return planes


def stretch_pencils(pencils: Tensor, size: int) -> Tensor:
    """Resample (z, rows, x) along z to `size` planes."""
    last = pencils.permute(1, 2, 0).contiguous()[:, :, None, None]
    return fourier_resample(last, (1, 1, size))[:, :, 0, 0].permute(2, 0, 1)


def stretch_planes(planes: Tensor, size_yx: Sequence[int]) -> Tensor:
    """Resample planes (n, y, x) to (n, *size_yx)."""
    return fourier_resample(planes[:, None], (1, *size_yx))[:, 0]

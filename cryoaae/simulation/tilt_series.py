"""Projections of a specimen at a series of tilts, their noise and the effect of the microscope.

Geometry, worked out in real space: at tilt t the point (x, z), measured from the centre voxel
n // 2, falls on the detector at u = x cos t - z sin t. The projection is then the central plane of
Fourier space that holds the tilt axis (y) and the direction (kx, kz) = (cos t, -sin t).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

# Detector bins per voxel while splatting: linear shares on a twice finer grid leave under 1 % of
# aliasing below 0.25 cycles per voxel, and their blur is divided out.
OVERSAMPLING = 2
VOLTAGE_KILOVOLT = 300.0
SPHERICAL_ABERRATION_MM = 2.7
AMPLITUDE_CONTRAST = 0.1


def tilt_angles_deg(tilt_range_deg: tuple[float, float], step_deg: float) -> tuple[float, ...]:
    """Angles from the low end of the range in equal steps, up to the high end."""
    low, high = tilt_range_deg
    count = math.floor((high - low) / step_deg + 1e-6) + 1
    return tuple(round(low + i * step_deg, 6) for i in range(count))


def detector_width(shape_zyx: Sequence[int]) -> int:
    """Detector columns that see every voxel of the volume at any tilt, with room for filtering."""
    z, _, x = shape_zyx
    return 2 * math.ceil((math.hypot(z, x) + max(16, x // 8)) / 2)


def field_width(shape_zyx: Sequence[int], tilts_deg: Sequence[float]) -> int:
    """Width in x of the specimen that the beam crosses on its way through the volume.

    At tilt t a ray through a corner of the volume runs sideways by z tan t across the slab; a
    specimen no wider than the volume would lose its corners. Capped at twelve times the depth.
    """
    z, _, x = shape_zyx
    steepest = max(abs(math.tan(math.radians(t))) for t in tilts_deg)
    extra = 2 * math.ceil(z * min(steepest, 6.0) / 2)
    return x + 2 * (extra // 2 * 2)


def project(specimen: Tensor, tilts_deg: Sequence[float], width: int) -> Iterator[Tensor]:
    """Project a specimen (z, y, x) at each tilt: yields (u, y) images, sums along the beam in voxels.

    Parameters
    ----------
    specimen : Tensor (z, y, x)
        Density; may be wider in x than the volume to reconstruct, with the same centre.
    width : int
        Detector columns; column width // 2 looks at the centre voxel.
    """
    z, y, x = specimen.shape
    rows = specimen.permute(0, 2, 1).reshape(z * x, y)
    pz = (torch.arange(z) - z // 2).repeat_interleave(x).double()
    px = (torch.arange(x) - x // 2).repeat(z).double()
    fine = width * OVERSAMPLING
    correction = _inverse_splat_blur(fine)
    for tilt in tilts_deg:
        t = math.radians(tilt)
        u = (px * math.cos(t) - pz * math.sin(t) + width // 2) * OVERSAMPLING
        seen = (u >= 0) & (u < fine - 1)
        left = u[seen].floor().long()
        share = (u[seen] - left).float()[:, None]
        kept = rows if bool(seen.all()) else rows[seen]
        image = torch.zeros(fine, y).index_add_(0, left, kept * (1 - share))
        image.index_add_(0, left + 1, kept * share)
        yield _bin_columns(image, correction, width)


def _inverse_splat_blur(fine: int) -> Tensor:
    """One over the transfer of linear sharing, (fine // 2 + 1,), below the detector's Nyquist."""
    freq = torch.fft.rfftfreq(fine, dtype=torch.float64)
    blur = torch.sinc(freq) ** 2
    return torch.where(freq < 0.5 / OVERSAMPLING, 1.0 / blur, 0.0).float()


def _bin_columns(image: Tensor, correction: Tensor, width: int) -> Tensor:
    """Cut an oversampled image (fine u, y) to the detector's band: (width, y)."""
    spectrum = torch.fft.rfft(image, dim=0) * correction[:, None]
    binned: Tensor = torch.fft.irfft(spectrum[: width // 2 + 1], n=width, dim=0)
    return binned


def phase_flipped_ctf(shape: Sequence[int], voxel_size_angstrom: float, defocus_um: float) -> Tensor:
    """Contrast transfer after phase flipping, |CTF| on the half spectrum (u, y // 2 + 1).

    300 kV, Cs 2.7 mm, 10 % amplitude contrast; one defocus for the whole field (the height of a
    point in a tilted slab is left out).
    """
    volts = VOLTAGE_KILOVOLT * 1e3
    wavelength = 12.2643 / math.sqrt(volts + 0.97845e-6 * volts**2)
    ku = torch.fft.fftfreq(shape[0], dtype=torch.float64)[:, None]
    ky = torch.fft.rfftfreq(shape[1], dtype=torch.float64)[None]
    k2 = (ku**2 + ky**2) / voxel_size_angstrom**2
    phase = math.pi * wavelength * k2 * (
        defocus_um * 1e4 - 0.5 * SPHERICAL_ABERRATION_MM * 1e7 * wavelength**2 * k2
    )
    return torch.sin(phase + math.asin(AMPLITUDE_CONTRAST)).abs().float()


def apply_ctf(image: Tensor, transfer: Tensor) -> Tensor:
    """Multiply an image (u, y) by a transfer function on its half spectrum."""
    out: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape)
    return out


def noise_power(shape: Sequence[int]) -> Tensor:
    """Power spectrum of the detector's noise with mean 1, half spectrum (u, y // 2 + 1).

    Part of the shot noise passes the detector's transfer function, part is added behind it: the
    spectrum falls mildly towards Nyquist.
    """
    ku = torch.fft.fftfreq(shape[0], dtype=torch.float64)[:, None]
    ky = torch.fft.fftfreq(shape[1], dtype=torch.float64)[None]
    power = 0.3 + 0.7 * torch.exp(-(ku**2 + ky**2) / 0.4**2)
    return (power / power.mean())[:, : shape[1] // 2 + 1].float()


def draw_noise(rng: np.random.Generator, shape: Sequence[int], std: float) -> Tensor:
    """Draw one image (u, y) of detector noise with the given standard deviation."""
    white = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    return apply_ctf(white, std * noise_power(shape).sqrt())

"""The contrast transfer function of a thin specimen.

    CTF(k) = sin(chi(k) + asin A),    chi(k) = pi lambda k^2 (d(theta) - Cs lambda^2 k^2 / 2)
    d(theta) = (d_u + d_v) / 2 + (d_u - d_v) / 2 cos 2 (theta - theta_u)

k in cycles per angstrom, underfocus d > 0, A the amplitude contrast, lambda the relativistic wavelength. The sign is
that of images with bright protein: positive at low frequencies. Mindell and Grigorieff, J. Struct. Biol. 142 (2003).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Planck's constant, electron mass and charge, speed of light (CODATA 2018).
PLANCK, MASS, CHARGE, LIGHT = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0


def wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic wavelength of electrons: lambda = h / sqrt(2 m e V (1 + e V / 2 m c^2))."""
    energy = CHARGE * voltage_kv * 1e3
    return 1e10 * PLANCK / math.sqrt(2 * MASS * energy * (1 + energy / (2 * MASS * LIGHT**2)))


def ctf_2d(
    shape_yx: Sequence[int],
    pixel_size_angstrom: float,
    defocus_u_angstrom: Tensor,
    defocus_v_angstrom: Tensor,
    astigmatism_deg: Tensor,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
) -> Tensor:
    """CTF of n images, (n, y, x // 2 + 1) on the unshifted half spectrum.

    Parameters
    ----------
    shape_yx : (int, int)
        Image in pixels.
    pixel_size_angstrom : float
    defocus_u_angstrom, defocus_v_angstrom : (n,)
        Underfocus along the direction `astigmatism_deg`, and across it.
    astigmatism_deg : (n,)
        From x towards y.
    """
    device = defocus_u_angstrom.device
    ky = torch.fft.fftfreq(int(shape_yx[0]), device=device, dtype=torch.float64)[:, None] / pixel_size_angstrom
    kx = torch.fft.rfftfreq(int(shape_yx[1]), device=device, dtype=torch.float64)[None] / pixel_size_angstrom
    k2 = ky**2 + kx**2
    u, v, along = (
        t.double()[:, None, None] for t in (defocus_u_angstrom, defocus_v_angstrom, torch.deg2rad(astigmatism_deg))
    )
    defocus = (u + v) / 2 + (u - v) / 2 * torch.cos(2 * (torch.atan2(ky, kx) - along))
    wavelength = wavelength_angstrom(voltage_kv)
    chi = math.pi * wavelength * k2 * (defocus - 0.5 * cs_mm * 1e7 * wavelength**2 * k2)
    return torch.sin(chi + math.asin(amplitude_contrast)).float()

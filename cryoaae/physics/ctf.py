"""The contrast transfer function of a thin specimen.

    CTF(k) = sin(chi(k) + asin A),    chi(k) = pi lambda k^2 (d(theta) - Cs lambda^2 k^2 / 2)
    d(theta) = (d_u + d_v) / 2 + (d_u - d_v) / 2 cos 2 (theta - theta_u)

k in cycles per angstrom, underfocus d > 0, A the amplitude contrast, lambda the relativistic wavelength. The sign is
that of images with bright protein: positive at low frequencies. Mindell and Grigorieff, J. Struct. Biol. 142 (2003).

A tomogram is reconstructed from images of about one defocus: by the projection theorem its contrast transfer is the
same in all directions, the radial CTF(|k|), averaged where the tilts differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.errors import InputError

# Planck's constant, electron mass and charge, speed of light (CODATA 2018).
PLANCK, MASS, CHARGE, LIGHT = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
# Quantiles of a normal distribution in equal steps of probability, their variance brought to 1.
NORMAL_DEVIATES = torch.special.ndtri((torch.arange(15, dtype=torch.float64) + 0.5) / 15)
NORMAL_DEVIATES = NORMAL_DEVIATES / NORMAL_DEVIATES.square().mean().sqrt()


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
    return _transfer(k2, defocus, voltage_kv, cs_mm, amplitude_contrast).float()


def ctf_radial(
    sfreq: Tensor, defocus_angstrom: Tensor, *, voltage_kv: float, cs_mm: float, amplitude_contrast: float
) -> Tensor:
    """CTF without astigmatism at frequencies (k,) in cycles per angstrom, (n, k) float64.

    Parameters
    ----------
    sfreq : (k,)
    defocus_angstrom : (n,)
        Underfocus.
    """
    k2 = sfreq.double()[None] ** 2
    return _transfer(k2, defocus_angstrom.double()[:, None], voltage_kv, cs_mm, amplitude_contrast)


def _transfer(k2: Tensor, defocus: Tensor, voltage_kv: float, cs_mm: float, amplitude_contrast: float) -> Tensor:
    """The equation of the module; angstrom, float64."""
    wavelength = wavelength_angstrom(voltage_kv)
    chi = math.pi * wavelength * k2 * (defocus - 0.5 * cs_mm * 1e7 * wavelength**2 * k2)
    return torch.sin(chi + math.asin(amplitude_contrast))


@dataclass(frozen=True)
class ContrastTransfer:
    """What the microscope did to a tomogram's contrast, the same in all directions.

    Parameters
    ----------
    defocus_um : tuple of float
        Underfocus in micrometres: one, or that of each tilt.
    voltage_kv, cs_mm, amplitude_contrast : float
    phase_flipped : bool
        Whether the sign was corrected before or during reconstruction: |CTF| is left of the CTF.

    Raises
    ------
    InputError
        When a number cannot be meant.
    """

    defocus_um: tuple[float, ...]
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_flipped: bool = True

    def __post_init__(self) -> None:
        rules = [
            ("--defocus", self.defocus_um, all(0 < d < 50 for d in self.defocus_um) and len(self.defocus_um) > 0,
             "give micrometres of underfocus, above 0 and below 50"),
            ("--voltage", self.voltage_kv, 10 <= self.voltage_kv <= 3000, "give kilovolts"),
            ("--cs", self.cs_mm, 0 <= self.cs_mm <= 20, "give millimetres"),
            ("--amplitude-contrast", self.amplitude_contrast, 0 <= self.amplitude_contrast < 1, "give a share below 1"),
        ]  # fmt: skip
        for option, value, good, remedy in rules:
            if not good:
                raise InputError(option, f"{value} cannot be meant", remedy)

    def __str__(self) -> str:
        low, high = min(self.defocus_um), max(self.defocus_um)
        of_tilts = f" ({low:.2f} to {high:.2f} over {len(self.defocus_um)} tilts)" if high > low else ""
        return (
            f"defocus {sum(self.defocus_um) / len(self.defocus_um):.2f} µm{of_tilts}, {self.voltage_kv:g} kV, "
            f"Cs {self.cs_mm:g} mm, amplitude contrast {self.amplitude_contrast:g}, "
            + ("phases flipped" if self.phase_flipped else "phases not flipped")
        )

    def at(self, sfreq: Tensor, *, defocus_error: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean, and mean square, of what is left of the CTF at frequencies (k,) in cycles per angstrom.

        Parameters
        ----------
        sfreq : (k,)
        defocus_error : float
            Standard deviation of the true defocus about the stated one, as a share of it.

        Returns
        -------
        (k,), (k,)
            float64; over tilts, and over defoci as likely as the stated one.
        """
        stated = 1e4 * torch.tensor(self.defocus_um, dtype=torch.float64)  # angstrom
        possible = stated[:, None] * (1 + defocus_error * NORMAL_DEVIATES)
        optics = {
            "voltage_kv": self.voltage_kv, "cs_mm": self.cs_mm, "amplitude_contrast": self.amplitude_contrast,
        }  # fmt: skip
        transfer = ctf_radial(sfreq, possible.flatten(), **optics)
        if self.phase_flipped:
            transfer = transfer * ctf_radial(sfreq, stated, **optics).sign().repeat_interleave(len(NORMAL_DEVIATES), 0)
        return transfer.mean(dim=0), transfer.square().mean(dim=0)

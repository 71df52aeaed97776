"""Undo the contrast transfer: the last step on what is restored, radial and linear.

With y = T C x + n the network learns structures as the microscope shows them, C x, and what it returns, m, is shrunk
already as noise demands. What is left is known: of all multiples g m the nearest to x is, frequency by frequency,

    g = E[c] / (E[c^2] + f^2)

The expectation is over the defoci of the tilts and over how well they are known: where the sign of c is anybody's
guess, E[c] and g vanish. f is the amplitude of what m holds besides C x (ice, background, what the network made up)
over that of x. It bounds g by 1 / (2 f) where c is small: near its zeros, and at the lowest frequencies, where c is
the amplitude contrast alone. Variations longer than structures, the mean density among them, stay as they are: of
those ice and background make up more than structures do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.tilt_series_star import read_tilt_series, tilt_series_file
from cryoaae.patches.spectra import interpolate
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import soft_lowpass
from cryoaae.registry import suggestion
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Check, filter_in_place, radial

# Chosen on simulations, decision 0015: f, and the standard deviation of a stated defocus as a share of it.
FLOOR, DEFOCUS_ERROR = 0.1, 0.03
# From the longer to the shorter of these wavelengths g takes over from 1: ice and illumination vary more slowly.
LONG_ANGSTROM = (600.0, 300.0)
# Corner of Fourier space, cycles per voxel, and points at which g is computed up to there.
CORNER, POINTS = 0.75**0.5, 4096

Transfers = ContrastTransfer | Mapping[str, ContrastTransfer]
Gain = Callable[[Tensor], Tensor]


def gain(
    transfer: ContrastTransfer,
    sfreq: Tensor,
    *,
    floor: float = FLOOR,
    long_angstrom: tuple[float, float] = LONG_ANGSTROM,
) -> Tensor:
    """The gain g at frequencies (k,) in cycles per angstrom, float64; 1 at wavelengths beyond `long_angstrom`."""
    mean, square = transfer.at(sfreq, defocus_error=DEFOCUS_ERROR)
    unchanged = soft_lowpass(sfreq.double(), 1 / long_angstrom[0], 1 / long_angstrom[1])
    return unchanged + (1 - unchanged) * mean / (square + floor**2)


def gain_on_grid(transfer: ContrastTransfer, voxel_size_angstrom: float, **settings: Any) -> Gain:
    """The gain g as a function of frequencies of any shape in cycles per voxel, up to the corner of Fourier space.

    Parameters
    ----------
    transfer : ContrastTransfer
    voxel_size_angstrom : float
    **settings
        Keywords of `gain`.
    """
    freq = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS * CORNER
    curve = gain(transfer, freq / voxel_size_angstrom, **settings)

    def of(freq: Tensor) -> Tensor:
        return interpolate(curve.to(freq.dtype), freq / CORNER)

    return of


def undo_contrast(
    volume: NDArray[Any],
    transfer: ContrastTransfer,
    voxel_size_angstrom: float,
    *,
    scratch: Scratch,
    check: Check,
) -> None:
    """Undo the contrast transfer of a periodic volume (z, y, x), in place, a few planes or rows at a time."""
    gain = radial(gain_on_grid(transfer, voxel_size_angstrom), volume.shape)
    filter_in_place(volume, gain, scratch=scratch, check=check)


def transfer_of(transfers: Transfers | None, name: str) -> ContrastTransfer | None:
    """The contrast transfer of one tomogram: that of all, or its own by its name.

    Raises
    ------
    InputError
        When there is none of that name.
    """
    if transfers is None or isinstance(transfers, ContrastTransfer):
        return transfers
    if name not in transfers:
        raise InputError("--defocus", f"states none of the tomogram {name!r}", suggestion(name, transfers))
    return transfers[name]


def read_transfers(path: Path, *, phase_flipped: bool = True) -> dict[str, ContrastTransfer]:
    """Contrast transfer of every tomogram of a tilt-series STAR file, by name.

    Raises
    ------
    InputError
        When the file states no tilt series, or no defocus.
    """
    if path.suffix.lower() != ".star":
        raise InputError("--defocus", f"'{path}' is no number", "give micrometres, or a tilt-series STAR file")
    series = read_tilt_series(tilt_series_file(path))
    return {name: one.contrast_transfer(phase_flipped=phase_flipped) for name, one in series.items()}


def transfer_facts(transfer: ContrastTransfer) -> dict[str, Any]:
    """All that decides g, as plain data."""
    stated = asdict(transfer) | {"defocus_um": list(transfer.defocus_um)}
    return stated | {"floor": FLOOR, "defocus_error": DEFOCUS_ERROR, "long_angstrom": list(LONG_ANGSTROM)}

"""The gain that undoes a contrast transfer, radial and linear, and the part of it that a network is shown data with.

With y = T C x + n the network learns structures as the microscope shows them, C x, and what it returns, m, is shrunk
already as noise demands. What is left is known: of all multiples g m the nearest to x is, frequency by frequency,

    g = E[c] / (E[c^2] + f^2)

The expectation is over the defoci of the tilts and over how well they are known: where the sign of c is anybody's
guess, E[c] and g vanish. f is the amplitude of what m holds besides C x (ice, background, what the network made up)
over that of x. It bounds g by 1 / (2 f) where c is small: near its zeros, and at the lowest frequencies, where c is
the amplitude contrast alone. Variations longer than structures, the mean density among them, stay as they are: of
those ice and background make up more than structures do.

A network that has seen many contrasts, the general one or a fit from there, is shown sqrt(g) y, as loud as y was,
when it restores and when it is fitted, and its output is multiplied with sqrt(g): it was taught to mind frequencies by
how loud they are, and of the faintest g makes the most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cryoaae.patches.spectra import interpolate
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import soft_lowpass

# Chosen on simulations, decision 0015: f, and the standard deviation of a stated defocus as a share of it.
FLOOR, DEFOCUS_ERROR = 0.1, 0.03
# From the longer to the shorter of these wavelengths g takes over from 1: ice and illumination vary more slowly.
LONG_ANGSTROM = (600.0, 300.0)
# Of the gain's logarithm, before a network that has seen many contrasts; decision 0044.
SHARE_BEFORE = 0.5
# Corner of Fourier space, cycles per voxel, and points at which g is computed up to there.
CORNER, POINTS = 0.75**0.5, 4096

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


def shown_gain(transfer: ContrastTransfer, voxel_size_angstrom: float) -> Gain | None:
    """What a network that knows many contrasts is shown a tomogram multiplied with; None: nothing but 1.

    Where phases were not flipped the gain has zeros and signs, and no root.
    """
    if not transfer.phase_flipped:
        return None
    whole = gain_on_grid(transfer, voxel_size_angstrom)
    return lambda freq: whole(freq) ** SHARE_BEFORE

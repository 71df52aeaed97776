"""What is known of the imaging of a tomogram before it is looked at: its tilts, its noise, its voxel size.

A network that restores any tomogram is told these numbers; one that was fitted on a tomogram knows them by heart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.wedge import MissingWedge

SHELLS = 8
CONDITIONS = 3 + SHELLS
# Signal over noise is told in powers of ten, between these: beyond them nothing more follows from it.
LOG_RATIO = (-2.0, 2.0)
TILT_DEG, TILT_UNIT_DEG, VOXEL_ANGSTROM = 55.0, 10.0, 20.0


def ends_deg(wedge: MissingWedge) -> tuple[float, float]:
    """Lowest and highest tilt in the convention of `MissingWedge`, whatever the sign in the file."""
    low, high = wedge.tilt_range_deg
    return (-high, -low) if wedge.flipped else (low, high)


def conditions(spectra: Spectra, wedge: MissingWedge, voxel_size_angstrom: float) -> Tensor:
    """Numbers of order one, (CONDITIONS,) float32.

    Parameters
    ----------
    spectra : Spectra
        On the working grid, with the noise of what is restored.
    wedge : MissingWedge
        Of the tomogram, with the tilt axis along y.
    voxel_size_angstrom : float
        Of the working grid.
    """
    low, high = ends_deg(wedge)
    tilts = [(-low - TILT_DEG) / TILT_UNIT_DEG, (high - TILT_DEG) / TILT_UNIT_DEG]
    centre = (torch.arange(SHELLS, dtype=torch.float64) + 0.5) / SHELLS
    share = interpolate(spectra.fsc, centre).clamp(1e-6, 1 - 1e-6)
    ratio = torch.log10(share / (1 - share)).clamp(*LOG_RATIO)
    known = torch.tensor([*tilts, math.log2(voxel_size_angstrom / VOXEL_ANGSTROM)], dtype=torch.float64)
    return torch.cat([known, ratio]).float()


def conditions_of_mean(condition: Tensor) -> Tensor:
    """Conditions (CONDITIONS,) of the mean of two halves, from those of a half: twice the signal over noise.

    What lay at a limit stays there.
    """
    head, ratio = condition[:-SHELLS], condition[-SHELLS:]
    louder = torch.where(ratio > LOG_RATIO[0], ratio + math.log10(2.0), ratio).clamp(*LOG_RATIO)
    return torch.cat([head, louder])

"""Moving a volume by a fraction of a voxel, in Fourier space: every frequency keeps its amplitude.

    F_out(k) = F_in(k) exp(-2 pi i k . d)

Cubic interpolation would low-pass signal and noise by an amount that depends on the fraction; this does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies, irfft, rfft


def fourier_shift(volume: Tensor, shift_zyx: Tensor) -> Tensor:
    """Move periodic volumes (..., z, y, x) by `shift_zyx` voxels: what was at p is at p + shift.

    At the Nyquist frequency of even sizes, whose direction is not known, the real part of the phase is kept.
    """
    shape = volume.shape[-3:]
    turn = torch.ones(1, dtype=torch.complex128, device=volume.device)
    axes = frequencies(shape, device=volume.device, dtype=torch.float64)
    for k, d in zip(axes, shift_zyx.double().tolist(), strict=True):
        phase = torch.polar(torch.ones_like(k), -2 * torch.pi * k * d)
        turn = turn * torch.where(k.abs() == 0.5, phase.real.to(phase.dtype), phase)
    spectrum = rfft(volume)
    return irfft(spectrum * turn.to(spectrum.dtype), shape)

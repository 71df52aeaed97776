"""The one place that calls the FFT.

Volumes are real, (..., z, y, x); spectra are half spectra of `torch.fft.rfftn`, unshifted, with
``norm="ortho"``. Frequencies are in cycles per voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

AXES = (-3, -2, -1)


def rfft(volume: Tensor) -> Tensor:
    """Half spectrum (..., z, y, x // 2 + 1) of real volumes (..., z, y, x), orthonormal."""
    return torch.fft.rfftn(volume, dim=AXES, norm="ortho")


def irfft(spectrum: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """Real volumes (..., z, y, x) of half spectra; the inverse of `rfft`."""
    return torch.fft.irfftn(spectrum, s=tuple(shape_zyx), dim=AXES, norm="ortho")


def frequencies(
    shape_zyx: Sequence[int], *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies (kz, ky, kx) of the half spectrum, each broadcastable to (z, y, x // 2 + 1)."""
    z, y, x = shape_zyx
    kz = torch.fft.fftfreq(z, device=device, dtype=dtype)[:, None, None]
    ky = torch.fft.fftfreq(y, device=device, dtype=dtype)[None, :, None]
    kx = torch.fft.rfftfreq(x, device=device, dtype=dtype)[None, None, :]
    return kz, ky, kx


def radius(
    shape_zyx: Sequence[int], *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Length of the frequency vector, (z, y, x // 2 + 1), in cycles per voxel."""
    kz, ky, kx = frequencies(shape_zyx, device=device, dtype=dtype)
    return torch.sqrt(kz**2 + ky**2 + kx**2)


def multiplicity(shape_zyx: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """How often each coefficient of the half spectrum stands in the full one, (1, 1, x // 2 + 1).

    Sums over the half spectrum weighted with it equal sums over the full spectrum (Parseval).
    """
    x = int(shape_zyx[-1])
    weight = torch.full((x // 2 + 1,), 2.0, device=device)
    weight[0] = 1.0
    if x % 2 == 0:
        weight[-1] = 1.0
    return weight[None, None, :]


def shell_index(
    shape_zyx: Sequence[int], shells: int, freq_max: float = 0.5, *, device: torch.device | str | None = None
) -> Tensor:
    """Shell number of each coefficient, (z, y, x // 2 + 1); `shells` where beyond `freq_max`."""
    index = (radius(shape_zyx, device=device) / freq_max * shells).long()
    return index.clamp_(max=shells)


def shell_sum(values: Tensor, index: Tensor, shells: int) -> Tensor:
    """Sum of values over each shell in float64: (..., z, y, k) -> (..., shells)."""
    flat = values.double().reshape(-1, index.numel())
    out = torch.zeros(flat.shape[0], shells + 1, dtype=torch.float64, device=values.device)
    out.index_add_(1, index.reshape(-1), flat)
    return out[:, :shells].reshape(*values.shape[:-3], shells)


def soft_lowpass(freq: Tensor, start: float, stop: float) -> Tensor:
    """Radial low-pass, 1 below `start` and 0 above `stop` with a raised-cosine edge between."""
    t = ((freq - start) / (stop - start)).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * t)


def taper(
    shape_zyx: Sequence[int],
    *,
    share: float = 0.125,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Raised-cosine window (z, y, x) that fades the faces, so that they do not leak; strictly positive.

    Parameters
    ----------
    shape_zyx : sequence of int
        Box in voxels.
    share : float
        Part of each axis over which each of its two faces is faded; 0.5 gives a Hann window.
    """
    window = torch.ones(1, dtype=dtype, device=device)
    for axis, n in enumerate(shape_zyx):
        i = torch.arange(n, device=device, dtype=dtype)
        edge = torch.minimum(i, n - 1 - i) + 1
        line = 0.5 - 0.5 * torch.cos(torch.pi * (edge / max(n * share, 1.0)).clamp(max=1.0))
        window = window * line.reshape([n if a == axis else 1 for a in range(3)])
    return window

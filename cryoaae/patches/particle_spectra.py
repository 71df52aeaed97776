"""Signal and noise of particles, each in a box of its own: noise is what lies outside of a sphere.

    N(|k|) = sum |F (1 - w) x|^2 / sum (|F (1 - w)|^2 * M),      S = sum |F x|^2 / count - N

over the measured coefficients of a shell and over particles, with w a soft sphere that holds the particle and M the
support of its wedge. The denominator is what unit noise of the support leaves outside: what the window spreads beyond
the edge of the wedge is lost to the measured coefficients, some percent that would be missing from the noise.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cache

import torch
from torch import Tensor

from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import irfft, multiplicity, rfft, shell_index, shell_sum, soft_lowpass

# Radius of the sphere that holds a particle, as a share of half the box, and the voxels over which it fades.
SPHERE, FADE = 0.85, 2.0


@cache
def sphere(box: int) -> Tensor:
    """Soft-edged sphere about voxel box // 2, (z, y, x) float32: 1 where a particle may be, 0 at the faces."""
    line = torch.arange(box, dtype=torch.float32) - box // 2
    r = torch.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    return soft_lowpass(r, SPHERE * box / 2, SPHERE * box / 2 + FADE)


def particle_spectra(particles: Iterable[tuple[Tensor, Tensor, Hashable]], box: int) -> Spectra | None:
    """Measure the spectra of particles; None where they have no background.

    Parameters
    ----------
    particles : iterable of (spectrum, support, name)
        Measured half spectrum (z, y, x // 2 + 1) of each, zero elsewhere; where it was measured, bool; and a name of
        that support, which many particles share.
    box : int
        Edge of the particles, voxels.
    """
    shells = box // 2
    index = shell_index((box,) * 3, shells)
    outside, weight = 1 - sphere(box), multiplicity((box,) * 3)
    noise, passed, total, count = (torch.zeros(shells, dtype=torch.float64) for _ in range(4))
    passes: dict[Hashable, Tensor] = {}
    for spectrum, support, name in particles:
        if name not in passes:
            passes[name] = shell_sum(windowed_power(support, outside) * (support * weight), index, shells)
        background = rfft(irfft(spectrum, (box,) * 3) * outside)
        noise += shell_sum(background.abs() ** 2 * (support * weight), index, shells)
        passed += passes[name]
        total += shell_sum(spectrum.abs() ** 2 * weight, index, shells)
        count += shell_sum(support * weight, index, shells)
    if not float(noise.sum()) > 0:
        return None
    # A shell without a measured coefficient, as that of the mean, takes the power of the nearest one.
    measured = torch.nonzero(count > 0).flatten()
    nearest = measured[(torch.arange(shells)[:, None] - measured).abs().argmin(dim=1)]
    noise, total = (noise / passed)[nearest], (total / count)[nearest]
    return Spectra((total - noise).clamp(min=0.0), noise)


def windowed_power(support: Tensor, window: Tensor) -> Tensor:
    """Power of unit noise of a support, seen through a window (z, y, x), on the half spectrum: |F w|^2 * M."""
    shape = tuple(window.shape)
    spread = irfft(rfft(window).abs() ** 2 + 0j, shape)
    everywhere = irfft(torch.ones_like(support, dtype=torch.complex64), shape)
    share = rfft(spread * irfft(support + 0j, shape)).real
    return share / rfft(spread * everywhere).real * (window**2).mean()

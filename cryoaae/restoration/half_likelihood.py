"""What a half says of a structure: -log likelihood per Fourier coefficient, noise and signal as the halves show them.

    c(x, y) = 1/2 | W (x - y) |^2,      W = M / sqrt(N),      N = E |y_even - y_odd|^2 / 2

M is what was measured, N the noise of one half by shell, S the power that both share: the Gaussian reference of
`sampling.langevin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryoaae.patches.spectra import interpolate, measure_spectra
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.restoration.draw_sources import covering
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

NYQUIST = 0.5
# Noise that is weaker than this share of its mean is told wrong: two halves that are the same have none.
FLOOR = 1e-4


@dataclass(frozen=True)
class HalfLikelihood:
    """Noise, signal and support of the halves of a tomogram, per coefficient of its continued working grid.

    Parameters
    ----------
    support : (z, y, x // 2 + 1) bool
        What was measured, within the sphere of Nyquist.
    noise, signal : (z, y, x // 2 + 1)
        N of one half, and S.
    """

    support: Tensor
    noise: Tensor
    signal: Tensor

    @classmethod
    def of(cls, tomogram: WorkingTomogram) -> HalfLikelihood:
        """Measure it on two halves."""
        part = covering(tomogram.plan.frame)
        volumes = [Volume(half[part].contiguous().numpy(), tomogram.voxel_size_angstrom) for half in tomogram.halves]
        made = measure_spectra(volumes, tomogram.wedge, generator=torch.Generator().manual_seed(0))
        spectra, k = made.on_working_grid(1, 1.0), radius(tomogram.shape)
        least = FLOOR * float(spectra.noise.mean())
        noise, signal = (
            interpolate(curve.clamp(min=least), k / spectra.freq_max).float()
            for curve in (spectra.noise, spectra.signal)
        )
        inside = k <= NYQUIST
        support = tomogram.wedge.solid().support(tomogram.shape, object_zyx=tomogram.core_shape) & inside
        return cls(support, noise, torch.where(inside, signal, 0.0))

    def whitening(self, slowest: float = 0.0) -> Tensor:
        """W, without coefficients below a frequency in cycles a working voxel."""
        return torch.where(self.hears(slowest), self.noise.rsqrt(), 0.0)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        z, y, half = self.support.shape
        return z, y, 2 * (half - 1)

    def hears(self, slowest: float = 0.0) -> Tensor:
        """Coefficients that the half says something of, (z, y, x // 2 + 1) bool."""
        return self.support & (radius(self.shape) >= slowest)

    def heard(self, volume: Tensor, slowest: float = 0.0) -> Tensor:
        """The part of a volume (z, y, x) that the half says something of."""
        return irfft(rfft(volume) * self.hears(slowest), self.shape)

    def white(self, volume: Tensor, slowest: float = 0.0) -> Tensor:
        """W applied to a volume (z, y, x)."""
        return irfft(rfft(volume) * self.whitening(slowest), self.shape)

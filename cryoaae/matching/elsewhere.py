"""Structure elsewhere: what it adds to a place of a tomogram through the gaps between tilts.

A restored block that is measured again has lost it, and no half difference tells of it, for the halves share it. It
comes from many places at once, so it is drawn as Gaussian noise: power S(k) (g(k) - 1) where tilts measured, with S
the structure's own power by shell and g - 1 the copies' at a depth (`physics.angular_sampling`). What the halves share
is S g.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.patches.spectra import interpolate
from cryoaae.physics.angular_sampling import copied_power
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum, taper
from cryoaae.physics.resample import BAND_STOP
from cryoaae.physics.wedge import MissingWedge

# Coefficients that pass less than this are not asked for the structure's power.
PASSED = 0.99


class Elsewhere:
    """Gaussian noise as loud as structure elsewhere at a depth.

    Parameters
    ----------
    wedge : MissingWedge
        Of the tomogram.
    transfer : (n, n, n // 2 + 1)
        What a block passes of what it holds, in [0, 1].
    thickness : int
        Of the tomogram along the beam, in the voxels of its blocks.
    """

    def __init__(self, wedge: MissingWedge, transfer: Tensor, thickness: int) -> None:
        self._wedge, self._transfer, self._thickness = wedge, transfer, thickness
        n = transfer.shape[0]
        self._shape = (n, n, n)
        self._power = torch.zeros(transfer.shape)
        self._amplitudes: dict[int, Tensor] = {}

    @property
    def any(self) -> bool:
        """Whether anything comes through; not where tilts are close, or not known."""
        return bool((copied_power(self._wedge, self._shape, self._thickness) > 0).any())

    def measure(self, halves: Sequence[Tensor], depths: Sequence[int]) -> None:
        """Take the structure's power from what halves share.

        Parameters
        ----------
        halves : two of (b, n, n, n)
            The same blocks of either half.
        depths : sequence of int
            Of the blocks' middle voxels.
        """
        window = taper(self._shape, share=0.25)
        even, odd = (rfft((half - half.mean(dim=(-3, -2, -1), keepdim=True)) * window) for half in halves)
        shared = (even * odd.conj()).real.sum(dim=0) / window.square().mean()
        gain = torch.stack([1 + self._copied(depth) for depth in depths]).sum(dim=0)
        shells = self._shape[0] // 2
        index = shell_index(self._shape, shells)
        counted = multiplicity(self._shape) * (self._transfer > PASSED)
        own = shell_sum(shared * counted, index, shells) / shell_sum(gain * counted, index, shells)
        ring = radius(self._shape)
        power = interpolate(own.clamp(min=0.0), (2 * ring).clamp(max=1.0).double()).float()
        self._power = torch.where(ring < BAND_STOP, power, 0.0)
        self._amplitudes = {}

    def draw(self, depth: int, size: int, *, generator: torch.Generator) -> Tensor:
        """Middle voxels (size, size, size) of a block of it, its centre at a depth."""
        if depth not in self._amplitudes:
            self._amplitudes[depth] = (self._power * self._copied(depth)).sqrt() * self._transfer
        amplitude = self._amplitudes[depth]
        if not bool(amplitude.any()):
            return torch.zeros((size,) * 3)
        white = torch.randn(self._shape, generator=generator)
        start = self._shape[0] // 2 - size // 2
        cut = slice(start, start + size)
        return irfft(rfft(white) * amplitude, self._shape)[cut, cut, cut]

    def _copied(self, depth: int) -> Tensor:
        """Copied power about a depth, over the part of a block that any patch is cut from."""
        reach = self._shape[0] / 4
        low, high = max(depth - reach, 0.0), min(depth + reach, float(self._thickness))
        return copied_power(self._wedge, self._shape, self._thickness, (low, high))

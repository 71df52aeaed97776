"""Signal and noise spectra of a tomogram, and the linear filter that follows from them.

With halves y_even = s + n_even and y_odd = s + n_odd of independent noise, Re<y_even, y_odd*> is
the power of what both share and <|y_even - y_odd|^2> / 2 one half's noise power. A single volume
has no such split: its noise is told from its quietest blocks (`patches.reconstruction_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.patches.reconstruction_noise import reconstruction_noise
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum, taper
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

BOX = 64
# Smaller for a single volume: the quieter places must fit between the structures.
BOX_SINGLE = 32
BLOCKS = 48
QUIET_SHARE = 0.1
# The working grid ends where the halves share less than this (DESIGN 4: the rest is noise).
FSC_FLOOR = 0.1
# Measured detail is passed on as long as they share this much; a shell's own chance is a tenth of it.
DETAIL_FLOOR = 0.03
MAX_BIN = 4
MIN_WORKING_VOXELS = 16
# Wedges are filled from coarse detail: nothing beyond 40 angstrom was ever recovered in one, and a
# finer grid takes eight times the work. Finer measured detail passes a Wiener filter (Restorer.fine).
WORKING_VOXEL_ANGSTROM = 16.0


@dataclass(frozen=True)
class Spectra:
    """Power per measured coefficient (orthonormal FFT), in equal shells from 0 to `freq_max`.

    Parameters
    ----------
    signal, noise : (shells,) float64
        What the halves share, and the noise of one input (a half, or the single volume).
    freq_max : float
        Upper end of the last shell, cycles per voxel of the grid it is for.
    """

    signal: Tensor
    noise: Tensor
    freq_max: float = 0.5

    @property
    def fsc(self) -> Tensor:
        """Half-map Fourier shell correlation S / (S + N), in [0, 1]."""
        total = (self.signal + self.noise).clamp(min=torch.finfo(torch.float64).tiny)
        return (self.signal / total).clamp(0.0, 1.0)

    def cutoff(self, floor: float = FSC_FLOOR) -> float:
        """Frequency at which the smoothed FSC falls below `floor` for good, cycles per voxel."""
        padded = torch.nn.functional.pad(self.fsc[None, None], (1, 1), mode="replicate")
        smooth = torch.nn.functional.avg_pool1d(padded, 3, 1)[0, 0]
        above = torch.nonzero(smooth >= floor).flatten()
        last = int(above[-1]) + 1 if len(above) else 1
        return last / len(smooth) * self.freq_max

    def significant(self, floor: float = DETAIL_FLOOR) -> Tensor:
        """FSC up to the `cutoff`, zero beyond: single shells rise above `floor` by chance."""
        centre = (torch.arange(len(self.signal), dtype=torch.float64) + 0.5) / len(self.signal)
        return torch.where(centre * self.freq_max < self.cutoff(floor), self.fsc, 0.0)

    @property
    def noise_to_signal(self) -> float:
        """Noise over signal, standard deviations over the whole band; a shell counts by its coefficients."""
        k = torch.arange(len(self.signal), dtype=torch.float64) + 0.5
        signal, noise = ((k**2 * power).sum() for power in (self.signal, self.noise))
        return float((noise / signal.clamp(min=torch.finfo(torch.float64).tiny)).sqrt())

    def normalised(self, scale: float) -> Spectra:
        """The same for densities divided by `scale`."""
        return Spectra(self.signal / scale**2, self.noise / scale**2, self.freq_max)

    def on_working_grid(self, working_bin: int, scale: float, shells: int = 32) -> Spectra:
        """The same spectra per coefficient of the normalised working grid, up to its Nyquist."""
        centre = (torch.arange(shells, dtype=torch.float64) + 0.5) / shells * 0.5 / working_bin
        factor = 1.0 / (working_bin**3 * scale**2)
        return Spectra(
            interpolate(self.signal, centre / self.freq_max) * factor,
            interpolate(self.noise, centre / self.freq_max) * factor,
        )


def interpolate(curve: Tensor, position: Tensor) -> Tensor:
    """Read a curve of equal shells at positions in [0, 1], linear between shell centres."""
    x = (position * len(curve) - 0.5).clamp(0, len(curve) - 1)
    low = x.floor().long().clamp(max=len(curve) - 2) if len(curve) > 1 else x.long()
    fraction = x - low
    return curve[low] * (1 - fraction) + curve[(low + 1).clamp(max=len(curve) - 1)] * fraction


def measure_spectra(
    volumes: list[Volume], wedge: MissingWedge, *, generator: torch.Generator, blocks: int = BLOCKS
) -> Spectra:
    """Measure spectra over blocks at random places, in the measured region of Fourier space.

    Parameters
    ----------
    volumes : list of Volume
        Two halves, or a single volume.
    wedge : MissingWedge
        Wedge of the volumes, laboratory frame.
    blocks : int
        How many to measure over, of 64 voxels; more of a single volume's smaller ones.
    """
    shape = volumes[0].shape
    edge = BOX if len(volumes) == 2 else BOX_SINGLE
    box = tuple(min(edge, n) for n in shape)
    shells = min(box) // 2 if min(box) >= 32 else BOX // 4
    index = shell_index(box, shells)
    seen = wedge.support(box, margin=1.0) * multiplicity(box)
    count = shell_sum(seen, index, shells)
    window = taper(box)
    energy = float((window**2).mean())
    rows = []
    for _ in range(blocks * (BOX // edge)):
        start = [int(torch.randint(n - b + 1, (1,), generator=generator)) for n, b in zip(shape, box, strict=True)]
        where = [slice(a, a + b) for a, b in zip(start, box, strict=True)]
        pieces = [torch.from_numpy(v.block(*where)) for v in volumes]
        spectra = [rfft((piece - piece.mean()) * window) for piece in pieces]
        cross = (spectra[0] * spectra[-1].conj()).real
        difference = (spectra[0] - spectra[-1]).abs() ** 2 / 2
        rows.append(torch.stack([shell_sum(p * seen, index, shells) for p in (cross, difference)]) / energy)
    power = torch.stack(rows)  # (blocks, 2, shells)
    # Empty shells of small boxes take their neighbour's value.
    mean = _filled(power.mean(dim=0) / count.clamp(min=1e-9), count)
    if len(volumes) == 2:
        return Spectra(mean[0].clamp(min=0.0), mean[1])
    return _single(power[:, 0], mean[0], count)


def _single(power: Tensor, total: Tensor, count: Tensor) -> Spectra:
    """Split a single volume's power by what its quietest blocks say of the noise."""
    quiet = max(1, round(QUIET_SHARE * len(power)))
    order = torch.argsort(power.sum(dim=1))[:quiet]
    found = _filled(power[order].mean(dim=0)[None] / count.clamp(min=1e-9), count)[0]
    noise = reconstruction_noise(torch.minimum(found, total))
    return Spectra(total - noise, noise)


def _filled(curves: Tensor, count: Tensor) -> Tensor:
    good = torch.nonzero(count > 0).flatten()
    nearest = good[(torch.arange(len(count))[:, None] - good[None]).abs().argmin(dim=1)]
    return curves[:, nearest]


def choose_working_bin(
    spectra: Spectra, shape_zyx: tuple[int, int, int], *, voxel_size_angstrom: float = WORKING_VOXEL_ANGSTROM
) -> int:
    """Binning of the working grid: as coarse as the half-map FSC allows.

    Not finer than `WORKING_VOXEL_ANGSTROM`; the thinnest axis keeps a few tens of working voxels.
    """
    by_signal = int(0.5 / spectra.cutoff())
    by_voxel = math.ceil(WORKING_VOXEL_ANGSTROM / voxel_size_angstrom)
    by_size = min(shape_zyx) // MIN_WORKING_VOXELS
    return max(1, min(max(by_signal, by_voxel), by_size, MAX_BIN))


def radial_kernel(curve: Tensor, *, reach: int) -> Tensor:
    """Real-space kernel of a radial filter given per shell up to Nyquist, (k, k, k), k = 2 reach + 1.

    Compact, so that tiles agree: windowed beyond half of `reach`.
    """
    box = (4 * reach + 8,) * 3
    k = radius(box).double()
    response = interpolate(curve.double(), (k * 2).clamp(max=1.0))
    kernel = torch.fft.fftshift(torch.fft.irfftn(response.to(torch.complex128), s=box))
    c = box[0] // 2
    kernel = kernel[c - reach : c + reach + 1, c - reach : c + reach + 1, c - reach : c + reach + 1]
    line = torch.arange(-reach, reach + 1, dtype=torch.float64).abs() / (reach + 1)
    fade = torch.where(line > 0.5, 0.5 + 0.5 * torch.cos(torch.pi * (2 * line - 1)), 1.0)
    return (kernel * fade[:, None, None] * fade[None, :, None] * fade[None, None, :]).float()


def kernel_response(kernel: Tensor, box: Sequence[int]) -> Tensor:
    """Fourier factor (z, y, x // 2 + 1), in a box that holds it, of a kernel (k, k, k), k odd, about its middle."""
    size = kernel.shape[-1]
    spread = torch.nn.functional.pad(kernel, [p for n in reversed(box) for p in (0, n - size)])
    return torch.fft.rfftn(torch.roll(spread, (-(size // 2),) * 3, dims=(0, 1, 2)))


def coloured_noise(power: Tensor, box: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Gaussian noise (z, y, x) with a power per shell up to Nyquist."""
    white = torch.randn(box, generator=generator)
    amplitude = interpolate(power, (radius(box) * 2).double().clamp(max=1.0)).clamp(min=0).sqrt().float()
    return irfft(rfft(white) * amplitude, box)

"""Subtomograms as lists of the Fourier coefficients that carry them: low frequencies, measured, one of each +-k.

Coefficients are sorted by their frequency, so that a narrower band is the first part of a wider one. The origin of
the volume is its centre voxel n // 2. The transfer of particle i is H_i(k) = M_i(k) C_i(|k|): the support of its wedge
times, where it is known, its radial contrast transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.store import SubtomogramStore
from cryoaae.physics.ctf import ctf_2d
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.standard import distinct_wedges

# Noise is taken to be the same within a shell at like angles to the tilt axis: back-projection raises it away from it.
ANGLE_BINS = 3
# Particles read at a time.
BATCH = 64
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


@dataclass(frozen=True)
class Band:
    """Fourier coefficients of a box, one of each pair +-k, by rising frequency.

    Parameters
    ----------
    box : int
        Edge of the box in voxels.
    points_zyx : (q, 3) int
        In Fourier voxels; kx >= 0.
    """

    box: int
    points_zyx: Tensor

    @classmethod
    def up_to(cls, box: int, freq_max: float) -> Band:
        """All coefficients up to `freq_max` cycles a voxel but that at the origin."""
        if not 0 < freq_max < 0.5:
            raise ValueError(f"a band up to {freq_max} cycles a voxel: give a number between 0 and 0.5")
        reach = int(freq_max * box)
        line = torch.arange(-reach, reach + 1)
        points = torch.cartesian_prod(line, line, torch.arange(reach + 1))
        z, y, x = points.unbind(dim=1)
        once = (x > 0) | (y > 0) & (x == 0) | (z > 0) & (x == 0) & (y == 0)
        length2 = (points**2).sum(dim=1)
        points = points[once & (length2 <= (freq_max * box) ** 2)]
        return cls(box, points[torch.argsort((points**2).sum(dim=1), stable=True)])

    def __len__(self) -> int:
        return len(self.points_zyx)

    @cached_property
    def shells(self) -> Tensor:
        """Shell of each coefficient, (q,): its frequency in Fourier voxels, rounded."""
        return self.points_zyx.double().square().sum(dim=1).sqrt().round().long()

    @property
    def shell_count(self) -> int:
        return int(self.shells[-1]) + 1

    def count_up_to(self, freq_max: float) -> int:
        """How many coefficients, the first ones, lie up to `freq_max` cycles a voxel."""
        return int((self.points_zyx.square().sum(dim=1) <= (freq_max * self.box) ** 2).sum())

    def kept(self, which: Tensor) -> Band:
        """The band of some of the coefficients, (q,) bool."""
        return Band(self.box, self.points_zyx[which])

    def _place(self, box: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        z, y, x = self.points_zyx.to(device).unbind(dim=1)
        return z % box, y % box, x

    def coefficients(self, volumes: Tensor) -> Tensor:
        """Coefficients (..., q) complex of volumes (..., z, y, x), which may sample the same box more finely."""
        own = volumes.shape[-1]
        z, y, x = self._place(own, volumes.device)
        return rfft(torch.fft.ifftshift(volumes, dim=(-3, -2, -1)))[..., z, y, x] * (self.box / own) ** 1.5

    def volumes(self, coefficients: Tensor) -> Tensor:
        """Volumes (..., z, y, x) that hold these coefficients (..., q), and nothing else."""
        box = self.box
        z, y, x = self._place(box, coefficients.device)
        spectrum = coefficients.new_zeros(*coefficients.shape[:-1], box, box, box // 2 + 1)
        spectrum[..., z, y, x] = coefficients
        plane = x == 0  # holds both signs
        spectrum[..., -z[plane] % box, -y[plane] % box, 0] = coefficients[..., plane].conj()
        return torch.fft.fftshift(irfft(spectrum, (box, box, box)), dim=(-3, -2, -1))

    def noise_bins(self, tilt_axis_zyx: Sequence[float]) -> Tensor:
        """Bin of like noise of each coefficient, (q,): its shell, and its angle to the tilt axis."""
        points = self.points_zyx.double()
        along = (points @ torch.tensor(tilt_axis_zyx, dtype=torch.float64)).abs()
        cosine = along / points.square().sum(dim=1).sqrt()
        return self.shells * ANGLE_BINS + (cosine * ANGLE_BINS).long().clamp(max=ANGLE_BINS - 1)

    def shift_phases(self, shifts_zyx: Tensor) -> Tensor:
        """Factors (t, q) that move a volume by shifts (t, 3) in voxels."""
        turns = shifts_zyx.double() @ self.points_zyx.to(shifts_zyx.device).double().T / self.box
        return torch.polar(torch.ones_like(turns), -2 * torch.pi * turns).to(torch.complex64)


@dataclass(frozen=True)
class BandedParticles:
    """n particles as coefficients of one band.

    Parameters
    ----------
    band : Band
    coefficients : (n, q) complex64
        Zero where not measured.
    supports : (g, q) float32
        Measured (1) or not (0), of each distinct wedge.
    support_index : (n,) int64
    contrast : (n, shells) float32
        C_i at each shell; ones where it is not known.
    noise_bins : (q,) int64
    noise_power : (q,) float32
        Mean |noise|^2 of a coefficient, from the corners of the boxes.
    """

    band: Band
    coefficients: Tensor
    supports: Tensor
    support_index: Tensor
    contrast: Tensor
    noise_bins: Tensor
    noise_power: Tensor

    def __len__(self) -> int:
        return len(self.coefficients)

    def only(self, rows: Tensor) -> BandedParticles:
        """Some of the particles."""
        return replace(
            self, coefficients=self.coefficients[rows], support_index=self.support_index[rows],
            contrast=self.contrast[rows],
        )  # fmt: skip

    def transfer(self, rows: Tensor | slice, count: int) -> Tensor:
        """H_i at the first `count` coefficients of some particles, (rows, count)."""
        contrast = self.contrast[rows][:, self.band.shells[:count].to(self.contrast.device)]
        return self.supports[self.support_index[rows]][:, :count] * contrast


def banded_particles(
    batches: Iterable[Tensor],
    box: int,
    wedges: Sequence[MissingWedge],
    wedge_index: Tensor,
    freq_max: float,
    *,
    contrast: Tensor | None = None,
) -> BandedParticles:
    """Take subtomograms to the band, each divided by its standard deviation.

    Parameters
    ----------
    batches : iterable of (b, z, y, x)
        Cubes, n in all; one batch is held at a time.
    box : int
        Edge of the grid of the band: that of the cubes, or less for a coarser one over the same box.
    wedges : sequence of MissingWedge
        The distinct ones.
    wedge_index : (n,) int64
        Which of them is a particle's; on the device of the batches.
    freq_max : float
        End of the band in cycles a voxel of that grid.
    contrast : (n, shells), optional
        Radial contrast transfer of each particle at 0, 1, 2, ... Fourier voxels.
    """
    count, device = len(wedge_index), wedge_index.device
    band, supports = measured_band(box, wedges, freq_max)
    supports = supports.to(device)
    bins = band.noise_bins(wedges[0].tilt_axis_zyx).to(device)
    parts, noise = [], torch.zeros(len(band), dtype=torch.float64, device=device)
    corner = torch.ones((), device=device)
    for batch in batches:
        part, corner = _standardised(batch), _corners(batch.shape[-1], device)
        parts.append(band.coefficients(part).to(torch.complex64))
        noise += band.coefficients(part * corner).abs().double().square().sum(dim=0)
    noise /= corner.square().mean().double() * count
    contrast = torch.ones(count, band.shell_count) if contrast is None else contrast[:, : band.shell_count]
    measured_by = supports[wedge_index]
    return BandedParticles(
        band, torch.cat(parts) * measured_by, supports, wedge_index, contrast.float().to(device), bins,
        bin_means(noise, measured_by.mean(dim=0).double(), bins).float(),
    )  # fmt: skip


def measured_band(box: int, wedges: Sequence[MissingWedge], freq_max: float) -> tuple[Band, Tensor]:
    """Coefficients that any wedge lets through, and the support of each wedge there, (g, q) float32."""
    everything = Band.up_to(box, freq_max)
    supports = torch.stack([values_at(everything, wedge.support((box, box, box))) for wedge in wedges])
    measured = supports.any(dim=0)
    return everything.kept(measured), supports[:, measured].float()


def band_of_stores(stores: Sequence[SubtomogramStore], freq_max: float, working_box: int) -> Band:
    """The band in which `particles_of_stores` reads, from the stores' tables alone."""
    return measured_band(working_box, distinct_wedges(stores)[0], freq_max)[0]


def particles_of_stores(
    stores: Sequence[SubtomogramStore],
    freq_max: float,
    *,
    working_box: int | None = None,
    phases_flipped_ctf: bool = False,
    device: torch.device | str = "cpu",
) -> BandedParticles:
    """Read stores into a band; see `banded_particles`.

    Parameters
    ----------
    stores : sequence of SubtomogramStore
        Of one box and voxel size.
    freq_max : float
        Cycles a voxel of the working grid.
    working_box : int, optional
        Edge of the grid, which covers the same box more coarsely; default: the particles' own.
    phases_flipped_ctf : bool
        Whether the subtomograms stand as they were imaged but for the signs of the CTF, as those of tilt images whose
        phases were flipped do; the store's particle list then states the defocus.
    device : torch.device or str

    Raises
    ------
    InputError
        When the CTF is asked for and not stated.
    """
    contrast = torch.from_numpy(np.concatenate([*map(radial_contrast, stores)])) if phases_flipped_ctf else None
    wedges, index = distinct_wedges(stores)
    batches = (volumes.to(device) for store in stores for volumes in _batches(store))
    return banded_particles(
        batches, working_box or stores[0].box, wedges, torch.from_numpy(index).to(device), freq_max, contrast=contrast
    )


def _batches(store: SubtomogramStore) -> Iterator[Tensor]:
    for start in range(0, len(store), BATCH):
        rows = range(start, min(start + BATCH, len(store)))
        yield torch.from_numpy(np.stack([store.volume(i) for i in rows]))


def radial_contrast(store: SubtomogramStore) -> NDArray[np.float32]:
    """|CTF| of each particle at 0, 1, 2, ... Fourier voxels of the box, (n, box // 2 + 1), astigmatism left out.

    Raises
    ------
    InputError
        When the particle list states no defocus.
    """
    particles = store.particles()
    table, optics = particles.table, None if particles.star is None else particles.star.table(*OPTICS)
    if table is None or "rlnDefocusU" not in table or "rlnDefocusV" not in table or optics is None:
        raise InputError(store.path, "its particle list states no defocus", "leave the CTF out")
    voltage, cs, amplitude = (float(optics[1][label].iloc[0]) for label in OPTICS)
    mean = (table["rlnDefocusU"].astype(float) + table["rlnDefocusV"].astype(float)) / 2
    defocus = torch.from_numpy(np.array(mean)[store.facts.rows])
    line = ctf_2d(
        (1, store.box), store.voxel_size_angstrom, defocus, defocus, torch.zeros(len(defocus)), voltage_kv=voltage,
        cs_mm=cs, amplitude_contrast=amplitude,
    )  # fmt: skip
    return np.asarray(line[:, 0].abs().numpy())


def values_at(band: Band, half_spectrum: Tensor) -> Tensor:
    """Values of a half spectrum (z, y, x // 2 + 1) at the coefficients of a band, (q,)."""
    z, y, x = band.points_zyx.unbind(dim=1)
    return half_spectrum[z % band.box, y % band.box, x]


def bin_means(values: Tensor, weights: Tensor, bins: Tensor) -> Tensor:
    """Sum of values over sum of weights in each bin, given back to each coefficient: all (q,)."""
    sums = torch.zeros(2, int(bins.max()) + 1, dtype=torch.float64, device=values.device)
    sums.index_add_(1, bins, torch.stack([values.double(), weights.double()]))
    return (sums[0] / sums[1].clamp(min=1e-12))[bins]


def signal_power(particles: BandedParticles) -> Tensor:
    """Mean power of what the noise does not explain, by shell (shells,), contrast transfer divided out."""
    shells = particles.band.shells.to(particles.coefficients.device)
    mean = particles.coefficients.abs().double().square().mean(dim=0)
    measured = particles.supports[particles.support_index].double().mean(dim=0)
    contrast = particles.contrast.double().square().mean(dim=0)
    left = mean - measured * particles.noise_power
    sums = torch.zeros(2, particles.band.shell_count, dtype=torch.float64, device=left.device)
    sums.index_add_(1, shells, torch.stack([left, measured * contrast[shells]]))
    # Shells with no more than noise may still hold a little signal: a tenth of the noise at least.
    floor = 0.1 * float(particles.noise_power.min())
    return (sums[0] / sums[1].clamp(min=1e-12)).clamp(min=floor).float()


def _standardised(volumes: Tensor) -> Tensor:
    flat = volumes.reshape(len(volumes), -1)
    std = flat.std(dim=1).clamp(min=1e-20)
    return (volumes - flat.mean(dim=1)[:, None, None, None]) / std[:, None, None, None]


def _corners(box: int, device: torch.device) -> Tensor:
    """1 in the corners of a box, outside the ball that touches its faces, with a soft edge; (z, y, x)."""
    line = torch.arange(box, device=device) - box // 2
    r = torch.sqrt((line**2)[:, None, None] + (line**2)[None, :, None] + (line**2)[None, None, :].double())
    t = ((r - 0.45 * box) / (0.05 * box)).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(torch.pi * t)).float()

"""Single particles in boxes of their own, imaged as a tomogram is, with class and pose known.

A particle is turned at random, moved by up to a few voxels, projected at every tilt, multiplied with the CTF of that
tilt, and back-projected into the box; noise is added to the projections. Back-projection is linear, so signal s and
noise n are reconstructed apart, and the subtomogram is

    y = s sqrt(SNR / var s) + n / std n        SNR = variance of the signal over the box / that of the noise

The noise has one law for all particles and every particle has the same SNR, so neither the power of a subtomogram nor
its noise tells the class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import shift as moved
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.physics.ctf import ctf_2d
from cryoaae.physics.shift import fourier_shift
from cryoaae.simulation.reconstruction import BackProjector, angular_weights_rad
from cryoaae.simulation.specimen import Species, rotated_density
from cryoaae.simulation.tilt_series import (
    AMPLITUDE_CONTRAST,
    SPHERICAL_ABERRATION_MM,
    VOLTAGE_KILOVOLT,
    apply_ctf,
    detector_width,
    draw_noise,
    project,
    tilt_angles_deg,
)

Density = NDArray[np.float32]
# A particle ends where its density falls below this share of its bulk.
EDGE = 0.05
# Voxels before and behind the box along the tilt axis: what the CTF spreads must not wrap round.
MARGIN = 8
# From tilt to tilt the focus is found anew.
TILT_DEFOCUS_STD_UM = 0.1
# The standard deviation of the noise is measured on so many boxes.
NOISE_DRAWS = 16


@dataclass(frozen=True)
class ImagingSettings:
    """How particles are imaged.

    Parameters
    ----------
    box : int
        Edge of a subtomogram in voxels.
    voxel_size_angstrom : float
    tilt_range_deg, tilt_step_deg
        Tilt axis y, angles as in `simulation.tilt_series`.
    snr : float
        Of every subtomogram.
    shift_voxels : float
        Particles lie within this distance of the centre voxel n // 2, uniform in the ball.
    defocus_range_um : (float, float)
        Underfocus, uniform over the particles; every tilt differs from it by some 0.1. (0, 0) for no CTF.
    white_noise : bool
        White noise on the projections instead of the detector's.
    """

    box: int = 32
    voxel_size_angstrom: float = 13.5
    tilt_range_deg: tuple[float, float] = (-60.0, 60.0)
    tilt_step_deg: float = 3.0
    snr: float = 0.1
    shift_voxels: float = 2.0
    defocus_range_um: tuple[float, float] = (3.0, 5.0)
    white_noise: bool = False

    def __post_init__(self) -> None:
        (low, high), (near, far) = self.tilt_range_deg, self.defocus_range_um
        rules = [
            ("--box", self.box >= 8, self.box, "use 8 voxels or more"),
            ("--voxel-size", 0 < self.voxel_size_angstrom < 1000, self.voxel_size_angstrom, "give angstrom above 0"),
            ("--tilt-range", -90 < low < high < 90, self.tilt_range_deg, "give low and high within -90 to 90"),
            ("--tilt-step", 0 < self.tilt_step_deg <= high - low, self.tilt_step_deg, "two tilts are the least"),
            ("--snr", 0 < self.snr < math.inf, self.snr, "give a number above 0"),
            ("--shift", 0 <= self.shift_voxels < self.box / 2, self.shift_voxels, "give voxels within the box"),
            ("--defocus", 0 <= near <= far < 100, self.defocus_range_um, "give micrometres, low and high"),
        ]
        for option, good, value, remedy in rules:
            if not good:
                raise InputError(option, f"{value} makes no subtomogram", remedy)


@dataclass(frozen=True)
class TrueParticle:
    """What is known of a simulated particle.

    Parameters
    ----------
    name : str
        Its class.
    rotation : Rotation
        Takes the class's density to the particle: a point p (x, y, z) goes to rotation p.
    shift_zyx : (3,)
        From the centre voxel of the box to the particle, in voxels.
    defocus_um : float
        Mean underfocus of its tilts.
    """

    name: str
    rotation: Rotation
    shift_zyx: NDArray[np.float64]
    defocus_um: float


class SubtomogramSimulator:
    """A sequence of simulated subtomograms, each made when asked for; same seed, same subtomograms.

    Parameters
    ----------
    species : sequence of Species
        The classes; densities are centred on their mass.
    counts : sequence of int
        Particles of each class; they come in random order.
    settings : ImagingSettings
    seed : int

    Raises
    ------
    InputError
        When a particle does not fit the box, naming the box that would do.
    """

    def __init__(
        self, species: Sequence[Species], counts: Sequence[int], settings: ImagingSettings, *, seed: int
    ) -> None:
        if len(counts) != len(species) or min(counts, default=0) < 0 or not sum(counts):
            raise InputError("--count", f"{list(counts)} for {len(species)} classes", "give one number, or one a class")
        self.settings, self._seed = settings, seed
        centred = [_centred(one) for one in species]
        for one in centred:
            _check_fits(one, settings)
        self._coefficients = {one.name: one.softened() for one in centred}
        self.tilts_deg = tilt_angles_deg(settings.tilt_range_deg, settings.tilt_step_deg)
        rng = np.random.default_rng([seed, 0])
        names = np.repeat([one.name for one in species], counts)
        self.truth = [self._drawn(str(name), rng) for name in rng.permutation(names)]

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> Density:
        """Subtomogram (z, y, x): signal and noise, whose standard deviation is 1."""
        return self.signal(index) + self.noise(index)

    def signal(self, index: int) -> Density:
        """What a subtomogram holds besides its noise: (z, y, x), wedge and CTF applied, of variance SNR."""
        true, rng = self.truth[index], np.random.default_rng([self._seed, 1, index])
        images = list(project(self._density(index), self.tilts_deg, self._width))
        if self.settings.defocus_range_um[1] > 0:
            transfers = self._transfers(true.defocus_um + TILT_DEFOCUS_STD_UM * rng.standard_normal(len(images)))
            images = [apply_ctf(image, transfer) for image, transfer in zip(images, transfers, strict=True)]
        volume = self._reconstructed(images)
        return np.asarray(volume * math.sqrt(self.settings.snr / float(volume.var(dtype=np.float64))), np.float32)

    def density(self, index: int) -> Density:
        """What was imaged, (z, y, x): the particle as it lies, without wedge, CTF and noise."""
        density = self._density(index).numpy()
        low = [(n - self.settings.box) // 2 for n in density.shape]
        z, y, x = (slice(a, a + self.settings.box) for a in low)
        return np.asarray(density[z, y, x], np.float32)

    def _density(self, index: int) -> Tensor:
        true = self.truth[index]
        return self._placed(rotated_density(self._coefficients[true.name], true.rotation), true.shift_zyx)

    def noise(self, index: int) -> Density:
        """Noise of a subtomogram, (z, y, x), of standard deviation 1."""
        return np.asarray(self._raw_noise(np.random.default_rng([self._seed, 2, index])) / self._noise_std, np.float32)

    @property
    def _width(self) -> int:
        return detector_width((self.settings.box,) * 3)

    @property
    def _long(self) -> int:
        """Size along the tilt axis that is imaged."""
        return self.settings.box + 2 * MARGIN

    @cached_property
    def _noise_std(self) -> float:
        draws = [self._raw_noise(np.random.default_rng([self._seed, 3, i])) for i in range(NOISE_DRAWS)]
        return float(np.std(draws, dtype=np.float64))

    def _raw_noise(self, rng: np.random.Generator) -> Density:
        shape = (self._width, self._long)
        if self.settings.white_noise:
            white = (rng.standard_normal(shape, dtype=np.float32) for _ in self.tilts_deg)
            return self._reconstructed([torch.from_numpy(image) for image in white])
        return self._reconstructed([draw_noise(rng, shape, 1.0) for _ in self.tilts_deg])

    def _drawn(self, name: str, rng: np.random.Generator) -> TrueParticle:
        direction = rng.standard_normal(3)
        length = self.settings.shift_voxels * rng.uniform() ** (1 / 3)  # uniform in the ball
        shift = direction * (length / np.linalg.norm(direction))
        return TrueParticle(name, Rotation.random(rng=rng), shift, float(rng.uniform(*self.settings.defocus_range_um)))

    def _placed(self, density: Density, shift_zyx: NDArray[np.float64]) -> Tensor:
        """Put a density with its centre in voxel n // 2 into the imaged volume, moved by the shift."""
        box = self.settings.box
        out = torch.zeros(box, self._long, box)
        outer, inner = [], []
        for size, own in zip(out.shape, density.shape, strict=True):
            start = size // 2 - own // 2
            outer.append(slice(max(0, start), start + own))
            inner.append(slice(max(0, -start), size - start))
        out[tuple(outer)] = torch.from_numpy(density[tuple(inner)])
        return fourier_shift(out, torch.from_numpy(shift_zyx))

    def _transfers(self, defocus_um: NDArray[np.float64]) -> Tensor:
        """CTF of each tilt after phase flipping, (t, u, y // 2 + 1)."""
        defocus = torch.from_numpy(defocus_um) * 1e4
        return ctf_2d(
            (self._width, self._long), self.settings.voxel_size_angstrom, defocus, defocus, torch.zeros(len(defocus)),
            voltage_kv=VOLTAGE_KILOVOLT, cs_mm=SPHERICAL_ABERRATION_MM, amplitude_contrast=AMPLITUDE_CONTRAST,
        ).abs()  # fmt: skip

    def _reconstructed(self, images: Sequence[Tensor]) -> Density:
        """Weighted back-projection of images (u, y), cut to the box."""
        box = self.settings.box
        projector = BackProjector((box, self._long, box), self._width)
        for image, tilt, weight in zip(images, self.tilts_deg, angular_weights_rad(self.tilts_deg), strict=True):
            projector.add(image, tilt, weight)
        return np.ascontiguousarray(projector.volume()[:, MARGIN : MARGIN + box].numpy())


def _centred(species: Species) -> Species:
    """The species with its centre of mass in voxel n // 2."""
    density = np.pad(species.density, 2)
    places = np.indices(density.shape).reshape(3, -1)
    centre = places @ density.reshape(-1).astype(np.float64) / density.sum(dtype=np.float64)
    offset = np.array([n // 2 for n in density.shape]) - centre
    room = int(np.ceil(np.abs(offset).max()))
    wide = np.pad(density, room)
    # Padding an axis by the same on both sides keeps n // 2 over the centre.
    return Species(species.name, np.asarray(moved(wide, offset, order=3), np.float32))


def radius_voxels(species: Species) -> float:
    """Distance from the centre voxel n // 2 to where the density of a species ends."""
    places = np.argwhere(species.density > EDGE)
    centre = np.array([n // 2 for n in species.density.shape])
    return float(np.linalg.norm(places - centre, axis=1).max())


def _check_fits(species: Species, settings: ImagingSettings) -> None:
    """Refuse a particle that reaches out of the box in some pose."""
    reach = radius_voxels(species) + settings.shift_voxels
    needed = 2 * math.ceil(reach)
    if needed > settings.box:
        raise InputError(
            species.name, f"reaches {reach:.1f} voxels from the centre of the box of {settings.box}",
            f"use --box {needed}, or a coarser --voxel-size",
        )  # fmt: skip

"""Particles as the volumetric model sees them: on a working grid, whitened, nothing but what was measured.

    v(k) = M(k) B(k) Y(k) / sqrt(N(|k|))

Y is the spectrum of a particle whose background (what lies outside a sphere) has the standard deviation 1, M the
support of its own wedge, N the noise power per measured coefficient, B a band that ends before Nyquist, so that a
rotation neither adds nor loses content. The noise of v has unit power in every measured coefficient. N is measured
outside the sphere, over many particles; what is inside beyond N is the signal's power S, and S / (S + N) the filter
that the encoder's input passes. A store holds no CTF: what it does to the particles is part of their structure here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.store import SubtomogramStore
from cryoaae.patches.particle_spectra import particle_spectra, sphere
from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.fourier import frequencies, irfft, multiplicity, radius, rfft, soft_lowpass
from cryoaae.physics.resample import BAND_START, BAND_STOP, fourier_resample
from cryoaae.physics.wedge import MissingWedge

# Particles over which the spectra are measured.
MEASURED = 400
# Shells quieter than this share of the loudest are not whitened any further.
WHITENING_FLOOR = 1e-2
# Signal's least share of the power in the encoder's filter: no shell is hidden altogether.
FILTER_FLOOR = 0.02
SIZE_TOLERANCE = 0.1
# Elements of rotation matrices that differ less are of one pose.
SAME_POSE = 1e-3
# Supports kept in memory; stores may have a wedge for every particle.
KEPT_SUPPORTS = 512


@cache
def band(box: int) -> Tensor:
    """Soft spherical band of a working grid, (z, y, x // 2 + 1)."""
    return soft_lowpass(radius((box,) * 3), BAND_START, BAND_STOP)


@dataclass(frozen=True)
class Standard:
    """What the particles of a fit share, and particles embedded later must match.

    Parameters
    ----------
    box : int
        Edge of the stored particles, voxels.
    working_box : int
        Edge of the working grid, which covers the same box more coarsely.
    voxel_size_angstrom : float
        Of the stored particles.
    spectra : Spectra
        Power per measured coefficient of the working grid, of particles with a background of unit variance.
    """

    box: int
    working_box: int
    voxel_size_angstrom: float
    spectra: Spectra

    @property
    def working_voxel_angstrom(self) -> float:
        return self.voxel_size_angstrom * self.box / self.working_box

    def whitening(self) -> Tensor:
        """1 / sqrt(N) on the half spectrum of the working grid, (z, y, x // 2 + 1) float32."""
        noise = self.spectra.noise
        return self._radial(noise.clamp(min=float(noise.max()) * WHITENING_FLOOR).rsqrt())

    def unwhitened(self, volume: Tensor) -> Tensor:
        """Whitened volumes (..., z, y, x) in units of the particles' background noise."""
        return irfft(rfft(volume) / self.whitening(), (self.working_box,) * 3)

    def filter(self) -> Tensor:
        """S / (S + N) on the half spectrum, scaled so that its noise has unit variance in a box measured in full."""
        share = self._radial(self.spectra.fsc.clamp(min=FILTER_FLOOR)) * band(self.working_box)
        weight = multiplicity((self.working_box,) * 3)
        return share * torch.sqrt(self.working_box**3 / (weight * share**2).sum())

    def _radial(self, curve: Tensor) -> Tensor:
        return interpolate(curve, (radius((self.working_box,) * 3) * 2).double().clamp(max=1.0)).float()

    def facts(self) -> dict[str, Any]:
        """The same as plain data; `from_facts` undoes it."""
        return {
            "box": self.box, "working_box": self.working_box, "voxel_size_angstrom": self.voxel_size_angstrom,
            "signal": self.spectra.signal.tolist(), "noise": self.spectra.noise.tolist(),
        }  # fmt: skip

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Standard:
        """Build from what `facts` gave."""
        signal, noise = (torch.tensor(facts[name], dtype=torch.float64) for name in ("signal", "noise"))
        return cls(facts["box"], facts["working_box"], facts["voxel_size_angstrom"], Spectra(signal, noise))


@dataclass(frozen=True)
class ParticlePoses:
    """How n particles lie: turned from their reference, and moved from the centre of their box.

    Parameters
    ----------
    rotations : (n, 3, 3) float32
        On (z, y, x) vectors; each turns the reference onto the particle.
    shifts_zyx : (n, 3) float32
        From the centre of the box to the particle, voxels of the store.
    """

    rotations: Tensor
    shifts_zyx: Tensor

    @classmethod
    def of_stores(cls, stores: Sequence[SubtomogramStore]) -> ParticlePoses:
        """As the particle lists had it: boxes are cut about the particles, so nothing is moved."""
        rotations = torch.from_numpy(np.concatenate([store.facts.rotations for store in stores])).float()
        return cls(rotations, torch.zeros(len(rotations), 3))

    @property
    def differ(self) -> bool:
        """Whether they are poses at all: lists without angles give every particle of a store the same."""
        return bool((self.rotations - self.rotations[:1]).abs().max() > SAME_POSE)


class Particles:
    """The particles of one or more stores, standardised one at a time; voxels stay on disk.

    Parameters
    ----------
    stores : sequence of SubtomogramStore
        Of one box and voxel size.
    standard : Standard
    poses : ParticlePoses, optional
        Found ones; by default those of the stores. `found` says which.
    """

    def __init__(
        self, stores: Sequence[SubtomogramStore], standard: Standard, poses: ParticlePoses | None = None
    ) -> None:
        self.stores, self.standard = list(stores), standard
        self.wedges, self.wedge_index = distinct_wedges(self.stores)
        self._starts = np.cumsum([0, *(len(store) for store in self.stores)])
        self._factor = standard.whitening() * band(standard.working_box)
        self.found = poses is not None
        self.poses = poses or ParticlePoses.of_stores(self.stores)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def box(self) -> int:
        """Edge of the working grid."""
        return self.standard.working_box

    @property
    def posed(self) -> bool:
        """Whether poses are known: found, or in the lists of all stores."""
        return self.found or all(ParticlePoses.of_stores([store]).differ for store in self.stores)

    def pose(self, index: int) -> tuple[Tensor, Tensor]:
        """Rotation (3, 3) of a particle from its reference, and its shift (3,) in voxels of the working grid."""
        shift = self.poses.shifts_zyx[index] * (self.box / self.standard.box)
        return self.poses.rotations[index], shift

    def place(self, index: int) -> tuple[int, int]:
        """Store and index in it of a particle."""
        store = int(np.searchsorted(self._starts, index, side="right")) - 1
        return store, index - int(self._starts[store])

    def support(self, index: int) -> Tensor:
        """Coefficients that the wedge of a particle lets through, (z, y, x // 2 + 1) bool."""
        return _support(self.wedge(index), self.box)

    def wedge(self, index: int) -> MissingWedge:
        """Wedge of a particle."""
        return self.wedges[int(self.wedge_index[index])]

    def spectrum(self, index: int) -> Tensor:
        """Whitened half spectrum of a particle, zero where it was not measured, (z, y, x // 2 + 1) complex64."""
        store, i = self.place(index)
        return _levelled(self.stores[store].volume(i), self.support(index)) * self._factor


def distinct_wedges(stores: Sequence[SubtomogramStore]) -> tuple[list[MissingWedge], np.ndarray]:
    """Distinct wedges of all stores, and which is each particle's."""
    distinct = {wedge: i for i, wedge in enumerate(dict.fromkeys(w for s in stores for w in s.facts.wedges))}
    index = [np.array([distinct[w] for w in s.facts.wedges])[s.facts.wedge_index] for s in stores]
    return list(distinct), np.concatenate(index)


@lru_cache(KEPT_SUPPORTS)
def _support(wedge: MissingWedge, box: int) -> Tensor:
    """Support of a wedge; no particle says anything of its own mean."""
    support = wedge.support((box,) * 3)
    support[0, 0, 0] = False
    return support


def _levelled(volume: np.ndarray, support: Tensor) -> Tensor:
    """Measured half spectrum of a particle on the working grid, its background with standard deviation 1.

    The background is taken from what was measured, so that nothing depends on what the wedge hides.
    """
    box = len(support)
    voxels = torch.from_numpy(volume)
    spectrum = rfft(fourier_resample(voxels - voxels.mean(), (box,) * 3)) * support
    if len(volume) % 2:
        spectrum = spectrum * _centring(len(volume), box)
    outside = irfft(spectrum, (box,) * 3)[sphere(box) == 0].double()
    scale = float(outside.std())
    flat = not math.isfinite(scale) or scale <= 0
    return torch.zeros_like(spectrum) if flat else spectrum / scale


@cache
def _centring(stored: int, box: int) -> Tensor:
    """Phases that move voxel stored // 2, of an odd stored box, to voxel box // 2 of the working grid."""
    shift = box // 2 - (stored // 2) * box / stored
    kz, ky, kx = frequencies((box,) * 3)
    phase = -2 * math.pi * shift * (kz + ky + kx)
    return torch.polar(torch.ones_like(phase), phase)


def open_stores(paths: Sequence[Path | str]) -> list[SubtomogramStore]:
    """Open stores that can be used together.

    Raises
    ------
    InputError
        When there is none, one is empty, or boxes or voxel sizes differ.
    """
    if not paths:
        raise InputError("STORE", "no store given", "make one with cryoaae extract")
    stores = [SubtomogramStore(path) for path in paths]
    first = stores[0]
    for store in stores:
        if not len(store):
            raise InputError(store.path, "holds no particles", "extract some, or leave it out")
        if store.box != first.box or abs(store.voxel_size_angstrom / first.voxel_size_angstrom - 1) > 0.01:
            raise InputError(
                store.path, f"boxes of {store.box} voxels of {store.voxel_size_angstrom:g} A, {first.path.name} has "
                f"{first.box} of {first.voxel_size_angstrom:g} A", "extract them alike",
            )  # fmt: skip
    return stores


def measure_standard(stores: Sequence[SubtomogramStore], working_box: int) -> Standard:
    """Measure the spectra of the particles of stores on a working grid.

    Raises
    ------
    InputError
        When all particles are flat.
    """
    wedges, wedge_index = distinct_wedges(stores)
    places = [(store, i) for store in stores for i in range(len(store))]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(MEASURED, len(places))).round().astype(int))

    def measured() -> Iterator[tuple[Tensor, Tensor, int]]:
        for n in chosen:
            (store, i), number = places[n], int(wedge_index[n])
            support = _support(wedges[number], working_box)
            yield _levelled(store.volume(i), support), support, number

    spectra = particle_spectra(measured(), working_box)
    if spectra is None:
        raise InputError(stores[0].path, "its particles have no background to measure noise in", "extract larger boxes")
    return Standard(stores[0].box, working_box, stores[0].voxel_size_angstrom, spectra)


def matching_standard(stores: Sequence[SubtomogramStore], fitted: Standard) -> Standard:
    """The standard of other particles, to be embedded by a model that was fitted to `fitted`.

    Their own noise is whitened; the filter of the encoder's input stays the one it was fitted with.

    Raises
    ------
    InputError
        When their boxes cover another length.
    """
    check_length(stores, fitted.box * fitted.voxel_size_angstrom)
    return measure_standard(stores, fitted.working_box)


def check_length(stores: Sequence[SubtomogramStore], wanted_angstrom: float) -> None:
    """Refuse boxes that cover another length than those that a model was fitted on.

    Raises
    ------
    InputError
    """
    first = stores[0]
    length = first.box * first.voxel_size_angstrom
    if abs(length / wanted_angstrom - 1) > SIZE_TOLERANCE:
        raise InputError(
            first.path, f"boxes of {length:.0f} A, the model was fitted on {wanted_angstrom:.0f} A",
            f"extract boxes of {round(wanted_angstrom / first.voxel_size_angstrom)} voxels",
        )  # fmt: skip

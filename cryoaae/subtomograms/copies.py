"""Rotated, re-wedged copies of particles: what a microscope would have made of the same molecule in another pose.

    copy = M' F R (v + (1 - M) n),      target: M_R F R v

v is a whitened particle, M its wedge's support, M_R that of the rotated particle, M' that of a particle of the same
stores, drawn at random, and n white noise. Rotated, the particle's own noise would fill only M_R. So what the wedge
left empty is filled with fresh noise first, before the rotation: noise that is white everywhere stays so, whatever the
rotation mixes at the edge of the wedge, and a copy has the noise of a real particle in every coefficient; only the
signal is missing where the particle was not measured. The target keeps what the second wedge hides. The box is
continued periodically, which leaves the noise its law beyond the faces (a particle lies inside the sphere, so its
images stay out of sight), and is interpolated once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies, irfft, radius, rfft, soft_lowpass
from cryoaae.physics.resample import BAND_START, BAND_STOP, fourier_resample
from cryoaae.physics.rotation import OVERSAMPLING, sample_cubic, sample_positions
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.standard import Particles, band

# Voxels by which the fine grid is continued, for the reach of the spline.
CONTINUED = 3
# Fourier voxels at the ends of a rotated tilt range that do not count as measured.
EDGE = 0.5
LARGEST_GAIN = 1.25


@dataclass(frozen=True)
class Measured:
    """What was measured of a particle, in some pose.

    Parameters
    ----------
    spectrum : (z, y, x // 2 + 1) complex64
        Whitened; zero elsewhere.
    seen : (z, y, x // 2 + 1) bool
        Where it was measured.
    """

    spectrum: Tensor
    seen: Tensor


@cache
def _prefilter(box: int) -> Tensor:
    """`spline_prefilter` of the fine grid, on the coefficients of the working grid."""
    factor = torch.ones(1)
    for k in frequencies((box,) * 3):
        factor = factor / torch.sinc(k / OVERSAMPLING) ** 4
    return factor


@cache
def _copy_gain(box: int) -> Tensor:
    """Factor on a copy's spectrum that makes up for what the faces of a rotated box spread beyond the band.

    The field goes on beyond the faces, but not periodically: the box shows its spectrum convolved with the box's own,
    which takes some percent of the noise out of the band. With C the covariance of noise of the band,

        P(k) = sum over r of C(r) prod (1 - |r| / box) exp(-2 pi i k r)

    is what is left of its power at k.
    """
    double, half = 2 * box, slice(None, None, 2)
    covariance = irfft(soft_lowpass(radius((double,) * 3), BAND_START, BAND_STOP).square() + 0j, (double,) * 3)
    lag = torch.arange(double)
    share = (1 - torch.minimum(lag, double - lag) / box).clamp(min=0)
    left = rfft(covariance * share[:, None, None] * share[:, None] * share).real[half, half, half]
    inside = band(box)
    # At the very end of the band, where next to nothing passes, the quotient means nothing.
    return (inside / left.clamp(min=1e-6).sqrt()).clamp(max=LARGEST_GAIN).where(inside > 0, 0.0)


def completed(own: Measured, noise: Tensor) -> Tensor:
    """Spectra of a particle, and of white noise (z, y, x) that fills what its wedge hides, (2, z, y, x // 2 + 1)."""
    fresh = rfft(noise) * (band(len(noise)) * ~own.seen)
    return torch.stack([own.spectrum, fresh])


def fine_grid(spectra: Tensor) -> Tensor:
    """Prefiltered volumes on a finer grid, continued periodically, for any number of rotations, (c, d, h, w).

    Parameters
    ----------
    spectra : (c, z, y, x // 2 + 1)
        Half spectra of cubes with the band of a working grid.
    """
    box = spectra.shape[1]
    volumes = fourier_resample(irfft(spectra * _prefilter(box), (box,) * 3), (OVERSAMPLING * box,) * 3)
    return torch.nn.functional.pad(volumes[None], (CONTINUED,) * 6, mode="circular")[0]


def turned(fine: Tensor, rotation: Tensor, shift_zyx: Tensor | None = None) -> Tensor:
    """Volumes (c, z, y, x) of a `fine_grid`, rotated about voxel box // 2, then moved by `shift_zyx` working voxels."""
    size = fine.shape[-1] - 2 * CONTINUED
    centre = torch.full((3,), float(size // 2))
    if shift_zyx is not None:
        # What is at p comes from c + R^T (p - c - shift).
        centre = centre - OVERSAMPLING * (rotation.T @ shift_zyx)
    positions = sample_positions(rotation, centre, size // OVERSAMPLING, float(OVERSAMPLING))
    return sample_cubic(fine, torch.remainder(positions, size) + CONTINUED)


def turned_support(wedge: MissingWedge, rotation: Tensor, box: int) -> Tensor:
    """Measured coefficients M_R of the rotated particle, (z, y, x // 2 + 1) bool.

    The half Fourier voxel at the ends of the range is left out: off the grid, it is mixed with what was not measured.
    In small boxes the slabs of a list of tilts overlap up to Nyquist, and count as solid, which is quicker.
    """
    tilts = wedge.tilts_deg or ()
    widest = max((b - a for a, b in itertools.pairwise(tilts)), default=0.0)
    overlapping = math.radians(widest) * box / 2 <= 1
    support = (wedge.solid() if overlapping else wedge).rotated(rotation).support((box,) * 3, margin=EDGE)
    support[0, 0, 0] = False
    return support


def as_it_is(particles: Particles, index: int) -> Measured:
    """A particle in its own pose."""
    return Measured(particles.spectrum(index), particles.support(index))


def turned_particle(
    fine: Tensor, wedge: MissingWedge, rotation: Tensor, shift_zyx: Tensor | None = None
) -> tuple[Measured, Tensor]:
    """A particle in another pose, and the same filled with noise for a microscope to see.

    Parameters
    ----------
    fine : (c, d, h, w)
        `fine_grid` of the particle, and of what fills its wedge (`completed`) where that is wanted.
    wedge : MissingWedge
        Its own, in the pose in which it was measured.
    rotation : (3, 3)
        On (z, y, x) vectors, about voxel box // 2.
    shift_zyx : (3,), optional
        By which it is moved afterwards, working voxels.

    Returns
    -------
    Measured
        The target.
    (z, y, x // 2 + 1) complex64
        The copy, but for the second wedge.
    """
    spectra = rfft(turned(fine, rotation, shift_zyx))
    seen = turned_support(wedge, rotation, spectra.shape[1])
    return Measured(spectra[0] * seen, seen), spectra.sum(dim=0) * _copy_gain(spectra.shape[1])


def in_reference_frame(particles: Particles, index: int) -> Measured:
    """A particle turned, and moved, back by its pose: t(p) = v(c + d + R p), with c the centre of its box."""
    fine = fine_grid(particles.spectrum(index)[None])
    rotation, shift = particles.pose(index)
    return turned_particle(fine, particles.wedge(index), rotation.T, -rotation.T @ shift)[0]

"""Held-out tilts without a second fit: the tomogram is turned until the wedge hides what was measured.

A network fills the laboratory's wedge and no other place. So the tomogram is turned about its tilt
axis by some degrees: its own empty wedge leaves the laboratory's, and measured tilts come to lie
there. They are taken away, the own wedge is filled, the network restores, and what it puts where they
were is compared with what they measured:

    y_h = (1 - S) y        S: measured, and in the wedge once turned by R
    m   = f( M R (y_h + (1 - M)(filler + n)) )        against R y on R S

The own wedge can be filled in two ways. *Strict*: with f(y_h), which knows nothing of what is hidden;
but less was measured then than when the tomogram itself is restored: usually too low.
*Lenient*: with f(y), made when nothing was hidden; what the network guessed from S helps to guess S,
which usually is too high. In simulations the truth in the true wedge lay near the lenient score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.patches.source import to_source_grid
from cryoaae.patches.spectra import coloured_noise
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum
from cryoaae.physics.rotation import OVERSAMPLING, reflect_positions, rotation_about, sample_cubic, sample_positions
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.working import WorkingTomogram

# Shells and distances of the table, in cycles per working voxel.
SHELL_EDGES = (0.02, 0.07, 0.12, 0.17, 0.22, 0.27, 0.32, 0.37, 0.42)
DISTANCE_STEP = 0.04
# Hidden coefficients nearer than this to a measured one are not scored; Fourier voxels.
GUARD = 2.0
FEWEST = 20
CELLS_A_SHELL = 100
NOISE_SHELLS = 24
UNIT = (1, 1, 1)  # an object of one voxel: depths come out in cycles per voxel

Key = tuple[int, int]
Powers = dict[Key, ErrorPower]


@dataclass(frozen=True)
class Turned:
    """What came of one turn.

    Parameters
    ----------
    angle_deg : float
        Turn about the tilt axis.
    strict, lenient : dict of (shell, distance) to ErrorPower
        See the module.
    """

    angle_deg: float
    strict: Powers
    lenient: Powers


def distance_bin(distance: Tensor) -> Tensor:
    """Column of the table for distances in cycles per voxel."""
    return (distance.clamp(min=0) / DISTANCE_STEP).long()


def hidden_sectors(
    tomogram: WorkingTomogram, turns_deg: Sequence[float], estimates: list[Tensor], *, generator: torch.Generator
) -> Iterator[Turned]:
    """Turn the tomogram by every angle, both ways, and score what the wedge then hides.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves.
    turns_deg : sequence of float
        More than the wedge's width hides no more.
    estimates : list of (z, y, x)
        The restored halves, each as it is.
    generator : torch.Generator
        Of the noise that is put where the own wedge was empty.
    """
    noise = half_noise(tomogram)
    for turn in turns_deg:
        for angle in (turn, -turn):
            yield _turned(tomogram, angle, estimates, noise, generator)


def half_noise(tomogram: WorkingTomogram) -> Tensor:
    """Noise power of one half per coefficient, by shell up to Nyquist, from the measured region."""
    shape = tomogram.shape
    index = shell_index(shape, NOISE_SHELLS)
    seen = tomogram.wedge.solid().support(shape, object_zyx=tomogram.core_shape) * multiplicity(shape)
    difference = rfft(tomogram.halves[0] - tomogram.halves[1]).abs().square() / 2
    count = shell_sum(seen, index, NOISE_SHELLS)
    return shell_sum(difference * seen, index, NOISE_SHELLS) / count.clamp(min=1)


def _turned(
    tomogram: WorkingTomogram, angle_deg: float, filler: list[Tensor], noise: Tensor, generator: torch.Generator
) -> Turned:
    wedge, shape = tomogram.wedge.solid(), tomogram.shape
    rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(angle_deg))
    measured = wedge.support(shape, object_zyx=tomogram.core_shape)
    hidden = measured & ~wedge.rotated(rotation.T).support(shape, object_zyx=tomogram.core_shape)
    table = sector_table(tomogram, rotation, angle_deg)
    if not (table >= 0).any():
        return Turned(angle_deg, {}, {})
    blind = tomogram.without(hidden)
    turner = _Turner(tomogram, rotation)
    where = turner.inside()
    truth = [turner(half) for half in tomogram.halves]
    found: list[Powers] = []
    for fillers in (tomogram.restore_each(blind), filler):
        estimates = []
        for half, estimate in zip(blind, fillers, strict=True):
            put = estimate + coloured_noise(noise, shape, generator)
            filled = irfft(torch.where(measured, rfft(half), rfft(put)), shape)
            turned = irfft(rfft(turner(filled)) * measured, shape)
            estimates.append(tomogram.restore([turned]))
        found.append(score(tomogram, truth, estimates, table, where))
    return Turned(angle_deg, found[0], found[1])


def sector_table(tomogram: WorkingTomogram, rotation: Tensor, angle_deg: float) -> Tensor:
    """Cell of each turned coefficient, (z, y, x // 2 + 1) int: shell * CELLS_A_SHELL + distance; -1: not scored."""
    wedge, shape = tomogram.wedge.solid(), tomogram.shape
    core = tomogram.core_shape
    scored = wedge.rotated(rotation).depth(shape, object_zyx=core) < -1
    distance = torch.full_like(radius(shape), math.inf)
    near = distance.clone()
    for part in remaining_ranges(wedge, angle_deg):
        distance = torch.minimum(distance, part.depth(shape, object_zyx=UNIT))
        near = torch.minimum(near, part.depth(shape, object_zyx=core))
    scored &= (near >= GUARD) & near.isfinite()
    return cells(shape, distance, scored)


def cells(shape_zyx: Sequence[int], distance: Tensor, scored: Tensor) -> Tensor:
    """Cells of coefficients by shell and distance (cycles per voxel), -1 where not scored."""
    edges = torch.tensor(SHELL_EDGES)
    shell = torch.bucketize(radius(shape_zyx), edges, right=True) - 1
    scored = scored & (shell >= 0) & (shell < len(SHELL_EDGES) - 1)
    return torch.where(scored, shell * CELLS_A_SHELL + distance_bin(distance.nan_to_num(0, 0, 0)), -1)


def remaining_ranges(wedge: MissingWedge, angle_deg: float) -> list[MissingWedge]:
    """What is measured, in the turned frame, both before and after hiding, as wedges of a range each."""
    low, high = wedge.tilt_range_deg
    # A turn by a carries tilt t to t + a (physics.wedge), or to t - a where signs are flipped.
    shift = -angle_deg if wedge.flipped else angle_deg
    parts = [(low + shift + turn, high + shift + turn) for turn in (-180.0, 0.0, 180.0)]
    kept = [(max(low, a), min(high, b)) for a, b in parts]
    return [replace(wedge, tilt_range_deg=(a, b)) for a, b in kept if b - a > 0.1]


class _Turner:
    """Turns volumes of a working grid about its middle, losing nothing inside the band."""

    def __init__(self, tomogram: WorkingTomogram, rotation: Tensor) -> None:
        self.tomogram = tomogram
        fine = tuple(OVERSAMPLING * n for n in tomogram.shape)
        centre = torch.tensor([float(n // 2 * OVERSAMPLING) for n in tomogram.shape])
        self.positions = sample_positions(rotation, centre, tomogram.shape, OVERSAMPLING)
        self.reflected = reflect_positions(self.positions, fine)

    def __call__(self, volume: Tensor) -> Tensor:
        return sample_cubic(to_source_grid(volume, 1)[None], self.reflected)[0]

    def inside(self) -> Tensor:
        """Voxels of the turned grid that come from inside the tomogram, (z, y, x) bool."""
        low = torch.tensor([float(s.start) for s in self.tomogram.inside]) * OVERSAMPLING
        high = torch.tensor([float(s.stop - 1) for s in self.tomogram.inside]) * OVERSAMPLING
        return ((self.positions >= low) & (self.positions <= high)).all(dim=-1)


def score(
    tomogram: WorkingTomogram,
    halves: Sequence[Tensor],
    estimates: Sequence[Tensor],
    table: Tensor,
    where: Tensor,
) -> Powers:
    """Error powers by cell: fields are filtered to the cell, multiplied, and summed over voxels and blocks."""
    spectra = [rfft(volume) for volume in (*halves, *estimates)]
    weight = multiplicity(tomogram.shape).expand(table.shape)
    found: Powers = {}
    for cell in table.unique().tolist():
        mask = table == cell
        if cell < 0 or float(weight[mask].sum()) < FEWEST:
            continue
        even, odd, of_even, of_odd = (irfft(spectrum * mask, tomogram.shape) for spectrum in spectra)
        found[divmod(int(cell), CELLS_A_SHELL)] = ErrorPower.of((even, odd), (of_even, of_odd), where=where)
    return found

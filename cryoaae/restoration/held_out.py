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
which could be too high. In simulations the truth in the true wedge lay near the lenient score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower, HalvesInBand, SingleInBand
from cryoaae.patches.spectra import coloured_noise, measure_spectra
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum
from cryoaae.physics.rotation import OVERSAMPLING, rotation_about
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

# Shells and distances of the table, in cycles per working voxel.
SHELL_EDGES = (0.02, 0.07, 0.12, 0.17, 0.22, 0.27, 0.32, 0.37, 0.42)
SHELLS = len(SHELL_EDGES) - 1
DISTANCE_STEP = 0.04
# Hidden coefficients nearer than this to a measured one are not scored; Fourier voxels.
GUARD = 2.0
# Fourier voxels beyond the edge of what was measured: less than this counts as measured for sure.
MEASURED_DEPTH = -1.0
FEWEST = 20
CELLS_A_SHELL = 100
NOISE_SHELLS = 24
UNIT = (1, 1, 1)  # an object of one voxel: depths come out in cycles per voxel

Key = tuple[int, int]
Group = TypeVar("Group", bound=Hashable)
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
    places : dict of {"kept_out", "fitted"} to ErrorPower
        The strict score of all that was hidden, in boxes kept out of fitting and elsewhere.
    hidden_deg : (float, float)
        Tilts that were hidden.
    """

    angle_deg: float
    strict: Powers = field(default_factory=dict)
    lenient: Powers = field(default_factory=dict)
    places: dict[str, ErrorPower] = field(default_factory=dict)
    hidden_deg: tuple[float, float] = (0.0, 0.0)


def grouped(found: Mapping[Any, ErrorPower], group: Callable[[Any], Group]) -> dict[Group, ErrorPower]:
    """Scores of different coefficients together, by a group of cells."""
    sums: dict[Group, ErrorPower] = {}
    for cell, powers in found.items():
        key = group(cell)
        sums[key] = sums[key] + powers if key in sums else powers
    return sums


def pooled(turns: Sequence[Turned], kind: str, group: Callable[[Any], Group]) -> dict[Group, ErrorPower]:
    """Scores of several turns together, by a group of cells.

    Turns one way hide the same tilts again and again, so their noise is shared; turns the other way
    hide others, unless both go so far that they meet.
    """
    ways: list[dict[Group, ErrorPower]] = [{}, {}]
    for turned in turns:
        way = ways[turned.angle_deg > 0]
        for key, powers in grouped(getattr(turned, kind), group).items():
            way[key] = way[key].with_shared_noise(powers) if key in way else powers
    one, other = ways
    join = ErrorPower.with_shared_noise if _meet(turns) else ErrorPower.__add__
    return {
        key: join(one[key], other[key]) if key in one and key in other else (one | other)[key]
        for key in (one | other)
    }


def _meet(turns: Sequence[Turned]) -> bool:
    """Whether some tilts were hidden by turns both ways."""
    one, other = ([t.hidden_deg for t in turns if (t.angle_deg > 0) == way] for way in (False, True))
    return any(max(a[0], b[0]) < min(a[1], b[1]) for a in one for b in other)


def distance_bin(distance: Tensor) -> Tensor:
    """Column of the table for distances in cycles per voxel."""
    return (distance.clamp(min=0) / DISTANCE_STEP).long()


def hidden_sectors(
    tomogram: WorkingTomogram,
    turns_deg: Sequence[float],
    estimates: list[Tensor],
    *,
    kept_out: Tensor,
    generator: torch.Generator,
    also: Callable[[float, HiddenTilts], None] | None = None,
) -> Iterator[Turned]:
    """Turn the tomogram by every angle, both ways, and score what the wedge then hides.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves, or a single volume: of that only the strict scores, and those are bounds.
    turns_deg : sequence of float
        More than the wedge's width hides no more.
    estimates : list of (z, y, x)
        The restored halves, each as it is.
    kept_out : (z, y, x) bool
        Voxels that fitting has not seen.
    generator : torch.Generator
        Of the noise that is put where the own wedge was empty.
    also : callable, optional
        Told of every angle (degrees) and what was made of the tomogram there.
    """
    noise = half_noise(tomogram, generator=generator)
    for turn in turns_deg:
        for angle in (turn, -turn):
            made = hide_tilts(tomogram, angle, estimates, noise, generator)
            if made is None:
                yield Turned(angle)
                continue
            if also is not None:
                also(angle, made)
            yield _scored(tomogram, angle, made, kept_out)


def half_noise(tomogram: WorkingTomogram, *, generator: torch.Generator) -> Tensor:
    """Noise power of one half (or of the single volume) per coefficient, by shell up to Nyquist.

    Of halves that of their difference in the measured region; of a single volume that of its quietest blocks.
    """
    if len(tomogram.halves) == 1:
        array = tomogram.halves[0][tomogram.core].numpy()
        single = Volume(array, tomogram.voxel_size_angstrom)
        return measure_spectra([single], tomogram.wedge.solid(), generator=generator).noise
    shape = tomogram.shape
    index = shell_index(shape, NOISE_SHELLS)
    seen = tomogram.wedge.solid().support(shape, object_zyx=tomogram.core_shape) * multiplicity(shape)
    difference = rfft(tomogram.halves[0] - tomogram.halves[1]).abs().square() / 2
    count = shell_sum(seen, index, NOISE_SHELLS)
    return shell_sum(difference * seen, index, NOISE_SHELLS) / count.clamp(min=1)


@dataclass(frozen=True)
class HiddenTilts:
    """A tomogram that was turned, and restored without the tilts that the wedge then hides.

    Parameters
    ----------
    turner : Turner
        Of the tomogram's voxels.
    table : (z, y, x // 2 + 1) int
        Cells of what was hidden, from `sector_table`.
    border : (z, y, x // 2 + 1) int
        Cells, by shell alone, of what was hidden or is no longer measured for sure, too near to what is to be scored.
    halves : list of (z, y, x)
        Turned, with what was hidden.
    estimates : dict of {"strict", "lenient"} to list of (z, y, x)
        What was made of each half without it.
    """

    turner: _Turner
    table: Tensor
    border: Tensor
    halves: list[Tensor]
    estimates: dict[str, list[Tensor]]


def hide_tilts(
    tomogram: WorkingTomogram,
    angle_deg: float,
    filler: list[Tensor],
    noise: Tensor,
    generator: torch.Generator,
    *,
    strict: bool = True,
) -> HiddenTilts | None:
    """Turn a tomogram and restore it without what the wedge then hides; None if that is nothing.

    Parameters
    ----------
    tomogram : WorkingTomogram
    angle_deg : float
        Turn about the tilt axis.
    filler : list of (z, y, x)
        The restored halves: the lenient filling.
    noise : (shells,)
        From `half_noise`.
    generator : torch.Generator
    strict : bool
        Whether to fill strictly too; it takes as long again, and as long once more.
    """
    wedge, shape = tomogram.wedge.solid(), tomogram.shape
    rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(angle_deg))
    measured = wedge.support(shape, object_zyx=tomogram.core_shape)
    hidden = measured & ~wedge.rotated(rotation.T).support(shape, object_zyx=tomogram.core_shape)
    table, border = sector_table(tomogram, rotation, angle_deg), border_table(tomogram, rotation, angle_deg)
    if not (table >= 0).any():
        return None
    blind = tomogram.without(hidden)
    turner = _Turner(tomogram, rotation)
    halves = [turner(half) for half in tomogram.halves]
    estimates: dict[str, list[Tensor]] = {}
    kinds = {"strict": tomogram.restore_each(blind, hidden)} if strict else {}
    if len(halves) == 2:  # what has seen the noise of a single volume cannot be held against it
        kinds["lenient"] = filler
    for name, fillers in kinds.items():
        estimates[name] = []
        for half, estimate in zip(blind, fillers, strict=True):
            put = estimate + coloured_noise(noise, shape, generator)
            filled = irfft(torch.where(measured, rfft(half), rfft(put)), shape)
            turned = irfft(rfft(turner(filled)) * measured, shape)
            estimates[name].append(tomogram.restore([turned]))
    return HiddenTilts(turner, table, border, halves, estimates)


def _scored(tomogram: WorkingTomogram, angle_deg: float, made: HiddenTilts, kept_out: Tensor) -> Turned:
    where, boxes = made.turner.inside(), made.turner.mask(kept_out)
    found = score(made.halves, made.estimates, made.table, where)
    everything = torch.where(made.table >= 0, 0, -1)
    strict = {"strict": made.estimates["strict"]}
    places = {
        name: powers[0, 0]
        for name, there in (("kept_out", where & boxes), ("fitted", where & ~boxes))
        if (powers := score(made.halves, strict, everything, there)["strict"])
    }
    hidden = hidden_range(tomogram.wedge.solid(), angle_deg)
    return Turned(angle_deg, found["strict"], found.get("lenient", {}), places, hidden)


def sector_table(tomogram: WorkingTomogram, rotation: Tensor, angle_deg: float) -> Tensor:
    """Cell of each turned coefficient, (z, y, x // 2 + 1) int: shell * CELLS_A_SHELL + distance; -1: not scored."""
    distance = _distance(tomogram, angle_deg, UNIT)
    near = _distance(tomogram, angle_deg, tomogram.core_shape)
    scored = _measured_before(tomogram, rotation) & (near >= GUARD) & near.isfinite()
    return cells(tomogram.shape, distance, scored)


def border_table(tomogram: WorkingTomogram, rotation: Tensor, angle_deg: float) -> Tensor:
    """Cell of each turned coefficient at the edge of what stays measured, by shell alone; -1: elsewhere."""
    near = _distance(tomogram, angle_deg, tomogram.core_shape)
    scored = _measured_before(tomogram, rotation) & (near >= MEASURED_DEPTH) & (near < GUARD)
    return cells(tomogram.shape, torch.zeros_like(near), scored)


def _measured_before(tomogram: WorkingTomogram, rotation: Tensor) -> Tensor:
    """Turned coefficients that were measured for sure before anything was hidden, (z, y, x // 2 + 1) bool."""
    turned = tomogram.wedge.solid().rotated(rotation)
    return turned.depth(tomogram.shape, object_zyx=tomogram.core_shape) < MEASURED_DEPTH


def _distance(tomogram: WorkingTomogram, angle_deg: float, object_zyx: tuple[int, int, int]) -> Tensor:
    """Of turned coefficients to what stays measured, (z, y, x // 2 + 1), in Fourier voxels of an object."""
    nearest = torch.full_like(radius(tomogram.shape), math.inf)
    for part in remaining_ranges(tomogram.wedge.solid(), angle_deg):
        nearest = torch.minimum(nearest, part.depth(tomogram.shape, object_zyx=object_zyx))
    return nearest


def strip_powers(tomogram: WorkingTomogram, fitted: MissingWedge, where: Tensor) -> Powers:
    """Score tilts that fitting was never shown, by shell and distance to what it was shown.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With all its tilts.
    fitted : MissingWedge
        What fitting was shown. The rest is taken away and lies in the wedge that the network knows: no turn is needed.
    where : (z, y, x) bool
        Voxels that count.
    """
    shape, core = tomogram.shape, tomogram.core_shape
    shown = fitted.solid()
    hidden = ~shown.support(shape, object_zyx=core)
    estimates = tomogram.restore_each(tomogram.without(hidden), hidden)
    scored = tomogram.wedge.solid().depth(shape, object_zyx=core) < MEASURED_DEPTH
    scored &= shown.depth(shape, object_zyx=core) >= GUARD
    table = cells(shape, shown.depth(shape, object_zyx=UNIT), scored)
    return score(tomogram.halves, {"strip": estimates}, table, where)["strip"]


def cells(shape_zyx: Sequence[int], distance: Tensor, scored: Tensor) -> Tensor:
    """Cells of coefficients by shell and distance (cycles per voxel), -1 where not scored."""
    shell = shell_of(shape_zyx)
    scored = scored & (shell >= 0) & (shell < SHELLS)
    return torch.where(scored, shell * CELLS_A_SHELL + distance_bin(distance.nan_to_num(0, 0, 0)), -1)


def shell_of(shape_zyx: Sequence[int]) -> Tensor:
    """Shell of each coefficient, (z, y, x // 2 + 1) int; -1 below the first, SHELLS beyond the last."""
    return torch.bucketize(radius(shape_zyx), torch.tensor(SHELL_EDGES), right=True) - 1


def sums_by_shell(values: Tensor, where: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """Sums over each shell, (SHELLS,) float64, of values (z, y, x // 2 + 1) where a mask holds."""
    shell = shell_of(shape_zyx)
    return shell_sum(values, torch.where(where & (shell >= 0), shell, SHELLS), SHELLS)


def hidden_range(wedge: MissingWedge, angle_deg: float) -> tuple[float, float]:
    """Lowest and highest of the tilts that a turn brings to where nothing was measured."""
    low, high = wedge.tilt_range_deg
    shift = -angle_deg if wedge.flipped else angle_deg
    if shift > 0:
        return max(low, high - shift), min(high, low + 180.0 - shift)
    return max(low, high - 180.0 - shift), min(high, low - shift)


def remaining_ranges(wedge: MissingWedge, angle_deg: float) -> list[MissingWedge]:
    """What is measured, in the turned frame, both before and after hiding, as wedges of a range each."""
    low, high = wedge.tilt_range_deg
    # A turn by a carries tilt t to t + a (physics.wedge), or to t - a where signs are flipped.
    shift = -angle_deg if wedge.flipped else angle_deg
    parts = [(low + shift + turn, high + shift + turn) for turn in (-180.0, 0.0, 180.0)]
    kept = [(max(low, a), min(high, b)) for a, b in parts]
    return [replace(wedge, tilt_range_deg=(a, b)) for a, b in kept if b - a > 0.1]


class _Turner(Turner):
    """Turns volumes of a tomogram, and knows what stays inside it."""

    def __init__(self, tomogram: WorkingTomogram, rotation: Tensor) -> None:
        super().__init__(tomogram.shape, rotation)
        self.tomogram = tomogram

    def inside(self) -> Tensor:
        """Voxels of the turned grid that come from inside the tomogram, (z, y, x) bool."""
        low = torch.tensor([float(s.start) for s in self.tomogram.inside]) * OVERSAMPLING
        high = torch.tensor([float(s.stop - 1) for s in self.tomogram.inside]) * OVERSAMPLING
        return ((self.positions >= low) & (self.positions <= high)).all(dim=-1)


def score(
    halves: Sequence[Tensor], estimates: Mapping[str, Sequence[Tensor]], table: Tensor, where: Tensor
) -> dict[str, Powers]:
    """Error powers of estimates by the cells of a table, over the voxels that count."""
    found: dict[str, Powers] = {name: {} for name in estimates}
    if not bool(where.any()):
        return found
    measured = tuple(rfft(half) for half in halves)
    spectra = {name: tuple(rfft(estimate) for estimate in made) for name, made in estimates.items()}
    for cell, band in scored_cells(table, where.shape):
        for name, powers in _against(measured, spectra, band, where).items():
            found[name][cell] = powers
    return found


def _against(
    measured: tuple[Tensor, ...], estimates: Mapping[str, tuple[Tensor, ...]], band: Tensor, where: Tensor
) -> dict[str, ErrorPower]:
    if len(measured) == 1:
        single = SingleInBand(measured[0], band, where)
        return {name: single.against(made[0]) for name, made in estimates.items()}
    halves = HalvesInBand((measured[0], measured[1]), band, where)
    return {name: halves.against((made[0], made[1])) for name, made in estimates.items()}


def scored_cells(table: Tensor, shape_zyx: Sequence[int]) -> Iterator[tuple[Key, Tensor]]:
    """Shell, distance and mask of each cell of a table that holds enough coefficients."""
    weight = multiplicity(shape_zyx).expand(table.shape)
    for cell in table.unique().tolist():
        band = table == cell
        if cell >= 0 and float(weight[band].sum()) >= FEWEST:
            yield divmod(int(cell), CELLS_A_SHELL), band

"""Whether a recalibrated spread is that of the errors, on blocks that its factors were not fitted on.

Fitted on the one set of blocks and checked on the other. (Both ways round and taken together would say nothing: what is
too much in the one is too little in the other.) *Size*: the stated spread over the error found there, by shell, where
data were measured and of hidden tilts (for these it is that of the wedge, at the same distances to measured data).
*Shape*: what a raw half is off the restoration is error and noise together, so its variance at voxel v should be

    E (y_odd - m)^2 = s^2(v) + N - <m_odd, n_odd>,        <m_odd, n_odd> = <m_odd, y_odd> - <m_odd, y_even>,

s the stated spread, N the noise power of a half; m, the mean of both restored halves, knows half of the odd half's own
noise. Coverage of 50, 80, 90 and 95 % intervals of that variance speaks of the spread only as far as the spread is a
part of it (`spread_share`): at low SNR it is blind.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from cryoaae.metrics.calibration import coverage
from cryoaae.metrics.error_power import ErrorPower
from cryoaae.metrics.spread_factors import LEVEL, SpreadFactors
from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.restoration.found_errors import Errors, FoundErrors, measured_table
from cryoaae.restoration.held_out import DISTANCE_STEP, SHELL_EDGES, Key, scored_cells
from cryoaae.restoration.recalibration import Powers, Recalibration, fit_recalibration
from cryoaae.restoration.working import WorkingTomogram

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Coverage of shells in which the spread is less of the variance than this is not counted.
CARRIED = 0.2
NOTHING = ErrorPower(0.0, 0.0, 0.0)


class Spread(Protocol):
    """A spread about a restoration, whose power is in question."""

    def variance(self, response: Tensor) -> Tensor:
        """Variance of every voxel once it was filtered by (z, y, x // 2 + 1): (z, y, x) float64."""
        ...


@dataclass(frozen=True)
class DrawnSpread:
    """That of draws, as they were made: deviations (z, y, x)."""

    deviations: Sequence[Tensor]

    @cached_property
    def _spectra(self) -> list[Tensor]:
        return [rfft(deviation) for deviation in self.deviations]

    def variance(self, response: Tensor) -> Tensor:
        shape = self.deviations[0].shape
        total = torch.zeros(shape, dtype=torch.float64)
        for spectrum in self._spectra:
            total += irfft(spectrum * response, shape).double().square()
        return total / len(self.deviations)


@dataclass(frozen=True)
class StatedSpread:
    """One that is stated, without draws: power per coefficient (z, y, x // 2 + 1), relative power of places (z, y, x).

    Places are taken to be smooth beside what any band resolves.
    """

    power: Tensor
    places: Tensor

    def variance(self, response: Tensor) -> Tensor:
        weight = multiplicity(self.places.shape).double()
        total = float((response.double().square() * self.power.double() * weight).sum())
        return self.places.double() * (total / self.places.numel())


@dataclass(frozen=True)
class Sampled:
    """What is checked.

    Parameters
    ----------
    tomogram : WorkingTomogram
    estimates : pair of (z, y, x)
        The restored halves.
    drawn, placed : Spread
        As it was drawn, and in the places where it is to be calibrated.
    parts : pair of (z, y, x) bool
    """

    tomogram: WorkingTomogram
    estimates: Sequence[Tensor]
    drawn: Spread
    placed: Spread
    parts: tuple[Tensor, Tensor]


def check_recalibration(
    sampled: Sampled,
    found: FoundErrors,
    drawn: Sequence[Powers],
    powers: Sequence[Powers],
    *,
    generator: torch.Generator,
    wedge_within: float = LEVEL,
) -> dict[str, Any] | None:
    """Fit on the first part and check on the second; None where one of them holds too little.

    Parameters
    ----------
    sampled : Sampled
    found : FoundErrors
    drawn, powers : sequence of Powers
        Of the spread in each part, as it was drawn and in its places.
    generator : torch.Generator
        Of intervals.
    wedge_within : float
        As of `fit_recalibration`.
    """
    if not all(found.measured):
        return None
    tomogram = sampled.tomogram
    fitted = fit_recalibration(tomogram, found.part(0), powers[0], wedge_within=wedge_within)
    before, placed = drawn[1], powers[1]
    measured = _by_shell(
        _sizes(found.measured[1], before.spread_measured, placed.spread_measured, fitted.measured)
    )
    cells = _sizes(found.hidden[1], before.spread_wedge, placed.spread_wedge, fitted.wedge)
    hidden = _by_shell(cells)
    covered = _coverages(sampled, fitted)
    inverse = 1 / tomogram.voxel_size_angstrom

    def row(size: _Size, shell: int) -> dict[str, Any]:
        band = {"low_per_angstrom": SHELL_EDGES[shell], "high_per_angstrom": SHELL_EDGES[shell + 1]}
        return {**{end: freq * inverse for end, freq in band.items()}, **size.facts(generator)}

    rows = [{**row(size, shell), **covered[shell]} for shell, size in sorted(measured.items())]
    whole = {name: _whole(sizes) for name, sizes in (("measured", measured), ("hidden", hidden))}
    return {
        "measured": rows, "hidden": [row(size, shell) for shell, size in sorted(hidden.items())],
        "whole": {name: size.facts(generator) for name, size in whole.items()}, "coverage": _carried(rows),
        "hidden_cells": [
            {
                **row(size, shell), "distance_low_per_angstrom": column * DISTANCE_STEP * inverse,
                "distance_high_per_angstrom": (column + 1) * DISTANCE_STEP * inverse,
            }
            for (shell, column), size in sorted(cells.items())
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class _Size:
    """Power of the stated spread, before and after, and the error found over the same coefficients."""

    before: float = 0.0
    after: float = 0.0
    found: ErrorPower = NOTHING

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.before + other.before, self.after + other.after, self.found + other.found)

    def facts(self, generator: torch.Generator) -> dict[str, Any]:
        """Stated over found, root mean squares, and the interval of the latter of the two."""
        low, high = self.found.interval("error", generator=generator)
        interval = [_over(self.after, high), _over(self.after, low)]
        return {
            "before": _over(self.before, self.found.error), "after": _over(self.after, self.found.error),
            "interval": interval,
        }  # fmt: skip


def _over(power: float, error: float) -> float:
    return math.sqrt(power / error) if error > 0 else math.nan


def _sizes(
    cells: Errors, drawn: Mapping[Key, float], placed: Mapping[Key, float], factors: SpreadFactors
) -> dict[Key, _Size]:
    """Spread and error of a part by cell, by factors of another.

    Parameters
    ----------
    cells : errors of the part
    drawn, placed : power per coefficient of its spread
    factors : SpreadFactors
        Of what is in its places.
    """
    sizes = {}
    for key in cells.keys() & drawn.keys() & placed.keys():
        count = cells[key].coefficients
        after = float(factors.gain[key]) ** 2 * placed[key] + float(factors.added[key])
        sizes[key] = _Size(count * drawn[key], count * after, cells[key].powers)
    return sizes


def _by_shell(sizes: Mapping[Key, _Size]) -> dict[int, _Size]:
    shells: dict[int, _Size] = {}
    for (shell, _), size in sorted(sizes.items()):
        shells[shell] = shells.get(shell, _Size()) + size
    return shells


def _whole(sizes: Mapping[int, _Size]) -> _Size:
    return functools.reduce(_Size.__add__, sizes.values(), _Size())


def _carried(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Coverage over the shells in which the spread is a part of the variance that can be seen."""
    counted = [row for row in rows if row.get("spread_share", 0.0) >= CARRIED]
    if not counted:
        return None
    return {
        when: {level: sum(row[when][level] for row in counted) / len(counted) for level in counted[0][when]}
        for when in ("coverage_before", "coverage_after")
    }


def _coverages(sampled: Sampled, fitted: Recalibration) -> dict[int, dict[str, Any]]:
    """Coverage of the raw halves by shell, in the second part."""
    tomogram, shape, part = sampled.tomogram, sampled.tomogram.shape, sampled.parts[1]
    gain, added = fitted.fields(tomogram)
    halves, estimates = ([rfft(volume) for volume in made] for made in (tomogram.halves, sampled.estimates))
    weight, found = multiplicity(shape).double(), {}
    for (shell, _), band in scored_cells(measured_table(tomogram), shape):
        in_band = _Shell(*([irfft(s * band, shape)[part].double() for s in made] for made in (halves, estimates)))
        # Power per coefficient to variance per voxel: the band's share of all coefficients.
        more = float(added[band].double().mean() * (weight * band).sum()) / math.prod(shape)
        before, _ = in_band.coverage(sampled.drawn.variance(band)[part])
        after, share = in_band.coverage(sampled.placed.variance(band * gain)[part] + more)
        found[shell] = {"coverage_before": before, "coverage_after": after, "spread_share": share}
    return found


@dataclass(frozen=True)
class _Shell:
    """Halves and restored halves filtered to a shell, voxels of a part, (n,) float64 each."""

    halves: list[Tensor]
    estimates: list[Tensor]

    def coverage(self, spread: Tensor) -> tuple[dict[str, float], float]:
        """Coverage of both halves by level, and the share of the spread in the variance.

        Parameters
        ----------
        spread : (n,)
            Variance of the draws.
        """
        mean = (self.estimates[0] + self.estimates[1]) / 2
        noise = float((self.halves[0] - self.halves[1]).square().mean()) / 2
        residuals, variances = [], []
        for own, other, made in zip(self.halves, reversed(self.halves), self.estimates, strict=True):
            known = float((made * (own - other)).mean())  # of its own noise
            residuals.append(own - mean)
            variances.append(spread + max(0.0, noise - known))
        residual, variance = torch.cat(residuals), torch.cat(variances)
        levels = {f"{100 * level:g}": coverage(residual, variance.sqrt(), nominal=level) for level in LEVELS}
        return levels, float(spread.mean() / variance.mean())

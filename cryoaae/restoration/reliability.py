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
from typing import Any

import torch
from torch import Tensor

from cryoaae.metrics.calibration import coverage
from cryoaae.metrics.error_power import ErrorPower
from cryoaae.metrics.spread_factors import SpreadFactors
from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.restoration.found_errors import Errors, FoundErrors, measured_table
from cryoaae.restoration.held_out import SHELL_EDGES, Key, scored_cells
from cryoaae.restoration.recalibration import Powers, Recalibration, fit_recalibration
from cryoaae.restoration.working import WorkingTomogram

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Coverage of shells in which the spread is less of the variance than this is not counted.
CARRIED = 0.2
NOTHING = ErrorPower(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sampled:
    """What is checked.

    Parameters
    ----------
    tomogram : WorkingTomogram
    estimates : pair of (z, y, x)
        The restored halves.
    deviations : list of (z, y, x)
        Of draws, as they were made.
    parts : pair of (z, y, x) bool
    """

    tomogram: WorkingTomogram
    estimates: Sequence[Tensor]
    deviations: Sequence[Tensor]
    parts: tuple[Tensor, Tensor]


def check_recalibration(
    sampled: Sampled, found: FoundErrors, powers: Sequence[Powers], *, generator: torch.Generator
) -> dict[str, Any] | None:
    """Fit on the first part and check on the second; None where one of them holds too little.

    Parameters
    ----------
    sampled : Sampled
    found : FoundErrors
    powers : sequence of Powers
        Of the draws in each part.
    generator : torch.Generator
        Of intervals.
    """
    if not all(found.measured):
        return None
    tomogram = sampled.tomogram
    fitted = fit_recalibration(tomogram, found.part(0), powers[0])
    measured = _sizes(found.measured[1], powers[1].spread_measured, fitted.measured)
    hidden = _sizes(found.hidden[1], powers[1].spread_wedge, fitted.wedge)
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


def _sizes(cells: Errors, spread: Mapping[Key, float], factors: SpreadFactors) -> dict[int, _Size]:
    """Spread and error of a part by shell, by factors of another.

    Parameters
    ----------
    cells : errors of the part
    spread : power per coefficient of its spread
    factors : SpreadFactors
    """
    sizes: dict[int, _Size] = {}
    for key in cells.keys() & spread.keys():
        count, own = cells[key].coefficients, spread[key]
        after = float(factors.gain[key]) ** 2 * own + float(factors.added[key])
        sizes[key[0]] = sizes.get(key[0], _Size()) + _Size(count * own, count * after, cells[key].powers)
    return sizes


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
    spectra = [rfft(deviation) for deviation in sampled.deviations]
    halves, estimates = ([rfft(volume) for volume in made] for made in (tomogram.halves, sampled.estimates))
    weight, found = multiplicity(shape).double(), {}
    for (shell, _), band in scored_cells(measured_table(tomogram), shape):
        in_band = _Shell(*([irfft(s * band, shape)[part].double() for s in made] for made in (halves, estimates)))
        # Power per coefficient to variance per voxel: the band's share of all coefficients.
        more = float(added[band].double().mean() * (weight * band).sum()) / math.prod(shape)
        before, _ = in_band.coverage(_mean_square(spectra, band, shape)[part])
        after, share = in_band.coverage(_mean_square(spectra, band * gain, shape)[part] + more)
        found[shell] = {"coverage_before": before, "coverage_after": after, "spread_share": share}
    return found


def _mean_square(spectra: Sequence[Tensor], response: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Mean square of filtered volumes, voxel by voxel, (z, y, x) float64."""
    total = torch.zeros(shape, dtype=torch.float64)
    for spectrum in spectra:
        total += irfft(spectrum * response, shape).double().square()
    return total / len(spectra)


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

"""From what was recovered of hidden tilts to what may be expected in the tomogram's own wedge.

The correlation found is fitted by shell k and distance d to measured data,

    rho(k, d) = rho_k - beta (d - mean of d in shell k),        beta >= 0,

and read at the shells and distances of the wedge, with the power the restoration has there and the
power the structure has in measured directions (the law of structures does not know the beam).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.fourier import multiplicity, rfft
from cryoaae.restoration.held_out import (
    CELLS_A_SHELL,
    DISTANCE_STEP,
    FEWEST,
    GUARD,
    SHELL_EDGES,
    SHELLS,
    UNIT,
    Powers,
    cells,
    sums_by_shell,
)
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.working import WorkingTomogram

# Correlation at which a resolution is stated.
TRUSTED_CORRELATION = 0.5


@dataclass(frozen=True)
class Law:
    """Fitted correlation by shell and distance.

    Parameters
    ----------
    correlation, distance : (shells,)
        rho_k and the mean distance that it was found at, cycles per voxel; NaN in untested shells.
    fall : float
        beta, per cycle per voxel.
    nearest, reach : (shells,)
        Smallest and largest distance tested.
    """

    correlation: Tensor
    distance: Tensor
    fall: float
    nearest: Tensor
    reach: Tensor

    def at(self, shell: int, distance: float) -> tuple[float, bool]:
        """Correlation at a place of Fourier space, and whether that lies beyond what was tested."""
        tested = torch.nonzero(self.correlation.isfinite()).flatten()
        if not len(tested):
            return 0.0, True
        away = (tested - shell).abs()
        # Between two tested shells the worse one.
        like = min(tested[away == away.min()].tolist(), key=lambda k: float(self.correlation[k]))
        # Nearer to measured data than was tested it is taken to be no better.
        fallen = self.fall * (max(distance, float(self.nearest[like])) - float(self.distance[like]))
        value = min(max(float(self.correlation[like]) - fallen, 0.0), 1.0)
        return value, like != shell or distance > float(self.reach[like])


def fit_law(found: Powers) -> Law:
    """Fit the law to error powers by (shell, distance); cells weigh by the power in them."""
    nan = torch.full((SHELLS,), math.nan, dtype=torch.float64)
    correlation, distance, nearest, reach = nan.clone(), nan.clone(), nan.clone(), nan.clone()
    slopes, spreads = 0.0, 0.0
    for shell in range(SHELLS):
        row = [(d, p) for (s, d), p in sorted(found.items()) if s == shell]
        points = [(_middle(d), *_moments(p)) for d, p in row if _moments(p)[1] > 0]
        total = sum(norm for _, _, norm in points)
        if not points or total <= 0:
            continue
        mean = sum(common for _, common, _ in points) / total
        middle = sum(d * norm for d, _, norm in points) / total
        correlation[shell], distance[shell] = mean, middle
        nearest[shell], reach[shell] = points[0][0], points[-1][0] + DISTANCE_STEP / 2
        slopes += sum((d - middle) * (common - mean * norm) for d, common, norm in points)
        spreads += sum(norm * (d - middle) ** 2 for d, _, norm in points)
    fall = max(0.0, -slopes / spreads) if spreads > 0 else 0.0
    return Law(correlation, distance, fall, nearest, reach)


def _middle(distance_bin: int) -> float:
    return (distance_bin + 0.5) * DISTANCE_STEP


def _moments(powers: ErrorPower) -> tuple[float, float]:
    """What structure and estimate have in common, and the most they could: their correlation is the ratio."""
    both = powers.signal > 0 and powers.estimate > 0
    return powers.common, math.sqrt(powers.signal * powers.estimate) if both else 0.0


@dataclass(frozen=True)
class Forecast:
    """What may be expected in the wedge.

    Parameters
    ----------
    mean : float
        Correlation of what is filled in with the structure, mean over the shells: of all coefficients together
        it would be that of the few coarsest, which hold most of the power.
    shells : (shells,)
        By shell; NaN where the wedge has too few coefficients.
    extrapolated : (shells,)
        Share of the coefficients that lie beyond what was tested.
    extrapolated_share : float
        The same over all shells, weighted by the restoration's power.
    """

    mean: float
    shells: Tensor
    extrapolated: Tensor
    extrapolated_share: float


def forecast(tomogram: WorkingTomogram, restored: Tensor, law: Law, *, highest: float = SHELL_EDGES[-1]) -> Forecast:
    """Read a law at the places of the wedge, up to a frequency in cycles per working voxel."""
    weight = multiplicity(tomogram.shape).double()
    structure = _signal_by_shell(tomogram)
    power = rfft(restored).abs().square().double() * weight
    table = wedge_table(tomogram, highest=highest)
    signal, estimate, common, count, untested, untested_power = torch.zeros(6, SHELLS, dtype=torch.float64)
    for cell in (c for c in table.unique().tolist() if c >= 0):
        shell, column = divmod(int(cell), CELLS_A_SHELL)
        mask = table == cell
        n, m = float((weight * mask).sum()), float(power[mask].sum())
        s = n * max(0.0, float(structure[shell]))
        rho, beyond = law.at(shell, _middle(column))
        common[shell] += rho * math.sqrt(s * m)
        for row, amount in (
            (signal, s), (estimate, m), (count, n), (untested, n * beyond), (untested_power, m * beyond)
        ):  # fmt: skip
            row[shell] += amount
    if not law.correlation.isfinite().any():  # nothing could be hidden: nothing is known
        common.fill_(math.nan)
    filled = float(estimate.sum())
    shells = torch.where(count >= FEWEST, common / (signal * estimate).sqrt(), math.nan)
    return Forecast(
        float(shells.nanmean()), shells, untested / count, float(untested_power.sum()) / filled if filled > 0 else 1.0
    )


def wedge_table(tomogram: WorkingTomogram, *, highest: float = SHELL_EDGES[-1]) -> Tensor:
    """Cells of the tomogram's wedge by shell and distance, as far from what was measured as what was hidden."""
    wedge, shape = tomogram.wedge.solid(), tomogram.shape
    inside = wedge.depth(shape, object_zyx=tomogram.core_shape) >= GUARD
    table = cells(shape, wedge.depth(shape, object_zyx=UNIT), inside)
    # A shell counts whole or not at all.
    used = sum(edge <= highest + 1e-6 for edge in SHELL_EDGES[1:])
    return torch.where(table < used * CELLS_A_SHELL, table, -1)


def _signal_by_shell(tomogram: WorkingTomogram) -> Tensor:
    """Power of the structure per coefficient, from the halves where they were measured, (shells,)."""
    measured = regions(tomogram)["measured"]
    even, odd = (rfft(half) for half in tomogram.halves)
    weight = multiplicity(tomogram.shape)
    cross = sums_by_shell((even * odd.conj()).real.double() * weight, measured, tomogram.shape)
    count = sums_by_shell(weight.expand(measured.shape), measured, tomogram.shape)
    return torch.where(count > 0, cross / count, 0.0)


def trusted_frequency(curve: Sequence[float]) -> float | None:
    """Frequency, cycles per working voxel, at which a curve by shell first falls below one half."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(SHELL_EDGES)]
    known = [(k, c) for k, c in zip(middles, curve, strict=True) if math.isfinite(c)]
    if not known or known[0][1] < TRUSTED_CORRELATION:
        return None
    for (k0, c0), (k1, c1) in itertools.pairwise(known):
        if c1 < TRUSTED_CORRELATION:
            return k0 + (c0 - TRUSTED_CORRELATION) / (c0 - c1) * (k1 - k0)
    return known[-1][0]

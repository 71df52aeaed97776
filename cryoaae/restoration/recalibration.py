"""Recalibration of the spread: from errors found in a tomogram to what is done to its draws.

Where data were measured the error is that of the restored halves, shell by shell. In the wedge nothing was measured, so
the error is that which hidden tilts foretell, by shell k and distance d to measured data (`wedge_forecast`):

    E(k, d) = S_k - 2 rho(k, d) sqrt(S_k M(k, d)) + M(k, d)

S: power of the structure, from the halves in measured directions (the law of structures does not know the beam); M:
power of what the restoration put there; rho: its correlation with the structure, of hidden tilts. At the edge of the
wedge (`restoration.edge`) the same, by shell, of the edge of what was hidden. Deviations are then multiplied in Fourier
space,

    d'_k = F^-1 ( g F d_k + sqrt(a) F w_k ),        w_k white

with a gain g and, where there is too little spread to be scaled, an independent error of power a
(`metrics.spread_factors`), both smooth in frequency and distance. The restoration does not change; spread
and modes follow from the d'_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.metrics.spread_factors import LEVEL, SpreadFactors, fit_factors
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.restoration.edge import between_regions, edge_table, into_wedge
from cryoaae.restoration.foretold import COLUMNS, foretold, foretold_at_edge
from cryoaae.restoration.found_errors import FoundErrors, coefficients, measured_table
from cryoaae.restoration.held_out import DISTANCE_STEP, SHELL_EDGES, SHELLS, UNIT, Key, scored_cells
from cryoaae.restoration.wedge_forecast import wedge_table
from cryoaae.restoration.working import WorkingTomogram

FORMAT = "cryoaae spread calibration 4"
# By so much of its power the wedge's error is off because structures are not alike in all directions (decision 0017).
ALIKE_WITHIN = 0.3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recalibration:
    """What is done to the deviations of draws.

    Parameters
    ----------
    measured : SpreadFactors
        (shells, 1).
    edge : SpreadFactors
        (shells, 1), between the two.
    wedge : SpreadFactors
        (shells, distances).
    extrapolated : (shells, distances) bool
        Deeper in the wedge, or at other resolutions, than hidden tilts reached.
    """

    measured: SpreadFactors
    edge: SpreadFactors
    wedge: SpreadFactors
    extrapolated: NDArray[np.bool_]

    def following(self, first: Recalibration) -> Recalibration:
        """What comes of the first and then of this one, as one."""
        measured, edge, wedge = (
            SpreadFactors(
                gain=before.gain * own.gain, added=own.gain**2 * before.added + own.added, low=before.gain * own.low,
                high=before.gain * own.high, pooled=own.pooled,
            )
            for before, own in (
                (first.measured, self.measured), (first.edge, self.edge), (first.wedge, self.wedge)
            )
        )  # fmt: skip
        return Recalibration(measured, edge, wedge, self.extrapolated)

    def fields(self, tomogram: WorkingTomogram) -> tuple[Tensor, Tensor]:
        """Gain and added power of every coefficient, (z, y, x // 2 + 1) float32 each; regions go over evenly."""
        shape = tomogram.shape
        edges = np.array(SHELL_EDGES)
        shell = (radius(shape).double() - (edges[0] + edges[1]) / 2) / (edges[1] - edges[0])
        depth = tomogram.wedge.solid().depth(shape, object_zyx=UNIT)
        column = depth.nan_to_num(0, 0, 0).double() / DISTANCE_STEP - 0.5
        none, into = torch.zeros_like(column), into_wedge(tomogram)

        def mixed(seen: Array, edge: Array, missing: Array) -> Tensor:
            beside, within = (_between(values, shell, none) for values in (seen, edge))
            return between_regions((beside, within, _between(missing, shell, column)), into)

        parts = (self.measured, self.edge, self.wedge)
        gain = mixed(*(np.log(part.gain) for part in parts)).exp()
        added = mixed(*(part.added for part in parts))
        return gain.float(), added.float()

    def facts(self, tomogram: WorkingTomogram) -> dict[str, Any]:
        """As plain data, cell by cell of what there is."""
        inverse, wedge = 1 / tomogram.voxel_size_angstrom, coefficients(wedge_table(tomogram), tomogram.counted)
        seen, edge = (coefficients(of(tomogram), tomogram.counted) for of in (measured_table, edge_table))

        def band(shell: int) -> dict[str, float]:
            return {
                "low_per_angstrom": SHELL_EDGES[shell] * inverse, "high_per_angstrom": SHELL_EDGES[shell + 1] * inverse
            }  # fmt: skip

        def cell(factors: SpreadFactors, key: Key) -> dict[str, Any]:
            return {
                "gain": float(factors.gain[key]), "added_power": float(factors.added[key]),
                "interval": [float(factors.low[key]), float(factors.high[key])], "pooled": bool(factors.pooled[key]),
            }  # fmt: skip

        return {
            "measured": [{"shell": k, **band(k), **cell(self.measured, (k, d))} for k, d in sorted(seen)],
            "edge": [{"shell": k, **band(k), **cell(self.edge, (k, d))} for k, d in sorted(edge)],
            "wedge": [
                {
                    "shell": k, **band(k), "distance_low_per_angstrom": d * DISTANCE_STEP * inverse,
                    "distance_high_per_angstrom": (d + 1) * DISTANCE_STEP * inverse, **cell(self.wedge, (k, d)),
                    "extrapolated": bool(self.extrapolated[k, d]),
                }
                for k, d in sorted(wedge)
            ],
        }  # fmt: skip

    def shares(self, tomogram: WorkingTomogram, powers: Powers) -> dict[str, float | None]:
        """Shares of the calibrated spread's power: extrapolated and added in the wedge, added where measured."""

        def power(factors: SpreadFactors, own: dict[Key, float], table: Tensor) -> dict[Key, tuple[float, float]]:
            counts = coefficients(table, tomogram.counted)
            return {
                key: (counts[key] * float(factors.gain[key] ** 2 * value), counts[key] * float(factors.added[key]))
                for key, value in own.items()
            }

        wedge = power(self.wedge, powers.spread_wedge, wedge_table(tomogram))
        seen = power(self.measured, powers.spread_measured, measured_table(tomogram))
        beyond = sum(sum(wedge[key]) for key in wedge if self.extrapolated[key])
        whole, whole_seen = (sum(map(sum, parts.values())) for parts in (wedge, seen))
        return {
            "extrapolated": beyond / whole if whole > 0 else None,
            "added": sum(added for _, added in wedge.values()) / whole if whole > 0 else None,
            "added_measured": sum(added for _, added in seen.values()) / whole_seen if whole_seen > 0 else None,
        }


def _between(grid: Array, row: Tensor, column: Tensor) -> Tensor:
    """Values of a grid (rows, columns) at real positions, those of the nearest edge beyond it; float64."""
    values = torch.from_numpy(np.ascontiguousarray(grid))
    rows, columns = values.shape
    r, c = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    r0, c0 = r.long().clamp(max=max(rows - 2, 0)), c.long().clamp(max=max(columns - 2, 0))
    r1, c1 = (r0 + 1).clamp(max=rows - 1), (c0 + 1).clamp(max=columns - 1)
    along = torch.lerp(values[r0, c0], values[r0, c1], c - c0), torch.lerp(values[r1, c0], values[r1, c1], c - c0)
    return torch.lerp(*along, r - r0)


def recalibrated(deviation: Tensor, fields: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """A deviation (z, y, x) on the continued working grid, with the spread that was found.

    Parameters
    ----------
    deviation : (z, y, x)
    fields : pair of (z, y, x // 2 + 1)
        From `Recalibration.fields`.
    generator : torch.Generator
        Of the independent error.
    """
    gain, added = fields
    spectrum = rfft(deviation) * gain
    if bool((added > 0).any()):
        spectrum = spectrum + rfft(torch.randn(deviation.shape, generator=generator)) * added.sqrt()
    return irfft(spectrum, deviation.shape)


def fit_recalibration(
    tomogram: WorkingTomogram, found: FoundErrors, powers: Powers, *, wedge_within: float = LEVEL
) -> Recalibration:
    """Fit the factors to errors found in a tomogram, or a part of it.

    Parameters
    ----------
    tomogram : WorkingTomogram
    found : FoundErrors
    powers : Powers
        Of the draws and of the restoration, over the same voxels.
    wedge_within : float
        By how much the spread is believed to be off in the wedge; see `DrawSource`.

    Raises
    ------
    ValueError
        When nothing was found where data were measured.
    """
    measured = found.all_measured()
    error, doubt, spread = (np.full((SHELLS, 1), np.nan) for _ in range(3))
    for key, cell in measured.items():
        error[key], doubt[key] = cell.error, math.sqrt(cell.error_variance)
        spread[key] = powers.spread_measured.get(key, np.nan)
    seen = fit_factors(error, doubt, spread)
    wedge, wedge_doubt, extrapolated = foretold(measured, found.all_hidden(), powers.restored_wedge)
    # No wedge, or one too thin to hold a coefficient: as beside it.
    missing = _unseen(wedge, wedge_doubt, powers.spread_wedge, wedge_within) or _widened(seen)
    at_edge = foretold_at_edge(measured, found.all_border(), powers.restored_edge)
    edge = _unseen(*at_edge, powers.spread_edge, wedge_within) or _halfway(seen, missing)
    return Recalibration(seen, edge, missing, extrapolated)


def _unseen(error: Array, doubt: Array, spreads: dict[Key, float], within: float) -> SpreadFactors | None:
    """Factors where nothing was measured, from errors that are foretold; None if none is."""
    if not np.isfinite(error).any():
        return None
    spread = np.full(error.shape, np.nan)
    for key, value in spreads.items():
        spread[key] = value
    if within < LEVEL:  # beside a sampler that knows something itself, what a forecast takes for granted counts
        doubt = np.hypot(doubt, ALIKE_WITHIN * error)
    return fit_factors(error, doubt, spread, level=within)


def _halfway(seen: SpreadFactors, missing: SpreadFactors) -> SpreadFactors:
    """Between what was measured and the wedge where it begins: where no tilts could be hidden."""

    def middle(one: Array, other: Array) -> Array:
        made: Array = np.sqrt(one * other[:, :1])
        return made

    return SpreadFactors(
        middle(seen.gain, missing.gain), (seen.added + missing.added[:, :1]) / 2, middle(seen.low, missing.low),
        middle(seen.high, missing.high), np.ones(seen.gain.shape, dtype=bool),
    )  # fmt: skip


def _widened(seen: SpreadFactors) -> SpreadFactors:
    """Factors of the measured region at every distance."""
    gain, added, low, high = (np.repeat(v, COLUMNS, axis=1) for v in (seen.gain, seen.added, seen.low, seen.high))
    return SpreadFactors(gain, added, low, high, np.ones(gain.shape, dtype=bool))


@dataclass(frozen=True)
class Powers:
    """Power per coefficient by (shell, distance), over some voxels.

    Parameters
    ----------
    spread_measured, spread_edge, spread_wedge : dict
        Of the draws.
    restored_edge, restored_wedge : dict
        Of the restoration.
    """

    spread_measured: dict[Key, float]
    spread_edge: dict[Key, float]
    spread_wedge: dict[Key, float]
    restored_edge: dict[Key, float]
    restored_wedge: dict[Key, float]


def powers_of_draws(
    tomogram: WorkingTomogram, restored: Tensor, deviations: Sequence[Tensor], wheres: Sequence[Tensor]
) -> list[Powers]:
    """Powers of draws and restoration, (z, y, x) each on the continued grid, over sets of voxels (z, y, x) bool."""
    seen, edge, wedge = measured_table(tomogram), edge_table(tomogram), wedge_table(tomogram)
    found = (
        *(power_by_cell(table, deviations, wheres) for table in (seen, edge, wedge)),
        *(power_by_cell(table, [restored], wheres) for table in (edge, wedge)),
    )
    return [Powers(*powers) for powers in zip(*found, strict=True)]


def power_by_cell(table: Tensor, volumes: Sequence[Tensor], wheres: Sequence[Tensor]) -> list[dict[Key, float]]:
    """Mean power per coefficient of volumes by the cells of a table, over each set of voxels."""
    counts = [coefficients(table, where) for where in wheres]
    found: list[dict[Key, float]] = [dict.fromkeys(count, 0.0) for count in counts]
    bands = list(scored_cells(table, wheres[0].shape))
    for volume in volumes:
        spectrum = rfft(volume)
        for key, band in bands:
            squares = irfft(spectrum * band, volume.shape).double().square()
            for sums, count, where in zip(found, counts, wheres, strict=True):
                sums[key] += float(squares[where].sum()) / (count[key] * len(volumes))
    return found

"""How loud a restoration is beside the structure, without a truth, and where draws are centred for it.

Of a posterior's mean the truth has slope 1: draws about it are as loud as the structure. A restoration may be too loud,
or too quiet. Its slope g is told by the half that it was not made from, by shell k in each of three regions,

    g(k) = <y_odd, m_even> / <m_even, m_even>

where data were measured; at the edge of the wedge, and in it, of hidden tilts (`restoration.found_errors`). Draws are
spread about g m then, and by as much narrower as their centre is away:

    x_k = m + (g - 1) m + sqrt(1 - (1 - g)^2 M / E) d_k

M, E: powers of the restoration and of its error, so that the spread about m, which is shipped, keeps the power E. A
slope that is known badly is drawn towards 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.restoration.edge import between_regions, into_wedge
from cryoaae.restoration.found_errors import CellError, FoundErrors
from cryoaae.restoration.held_out import GUARD, MEASURED_DEPTH, SHELL_EDGES, SHELLS
from cryoaae.restoration.working import WorkingTomogram

REGIONS = ("measured", "border", "wedge")
# How far from 1 slopes are believed to lie before anything is found, a standard deviation.
WITHIN = 0.2
# No more than this share of the error's power is taken to be loudness: some spread is always left.
MOST_SHARE = 0.75
# Depths in Fourier voxels (`into_wedge`) between which each region holds.
KNOTS = (MEASURED_DEPTH - 0.5, MEASURED_DEPTH + 0.5, GUARD - 0.5, GUARD + 0.5)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Loudness:
    """Slopes of the structure on a restoration.

    Parameters
    ----------
    slope : (regions, shells)
        Factor that would make the restoration as loud as a posterior's mean; 1 where nothing is known.
    share : (regions, shells)
        Of the error's power that is loudness.
    """

    slope: Array
    share: Array

    @classmethod
    def of(cls, found: FoundErrors) -> Loudness:
        """From errors found in a tomogram."""
        slope, share = np.ones((len(REGIONS), SHELLS)), np.zeros((len(REGIONS), SHELLS))
        for row, cells in enumerate(_by_region(found)):
            for shell, cell in cells.items():
                slope[row, shell], share[row, shell] = _told(cell)
        return cls(slope, share)

    def gained(self, found: FoundErrors) -> dict[str, float | None]:
        """Power of the error about the centre over that about the restoration, by region, of errors found elsewhere."""
        ratios: dict[str, float | None] = {}
        for name, row, cells in zip(REGIONS, self.slope, _by_region(found), strict=True):
            before = after = 0.0
            for shell, cell in cells.items():
                powers, slope = cell.powers, float(row[shell])
                before += powers.error
                after += powers.signal - 2 * slope * powers.common + slope**2 * powers.estimate
            ratios[name] = after / before if before > 0 else None
        return ratios

    def fields(self, tomogram: WorkingTomogram) -> tuple[Tensor, Tensor]:
        """Slope, and what is kept of a deviation, of every coefficient: (z, y, x // 2 + 1) float32 each."""
        shape, middles = tomogram.shape, (np.array(SHELL_EDGES[1:]) + np.array(SHELL_EDGES[:-1])) / 2
        k = radius(shape).double().numpy()
        into = into_wedge(tomogram, KNOTS)

        def field(values: Array) -> Tensor:
            seen, edge, missing = (torch.from_numpy(np.interp(k, middles, row)) for row in values)
            return between_regions((seen, edge, missing), into)

        slope, kept = field(self.slope), (1 - field(self.share)).sqrt()
        slope[0, 0, 0] = 1.0  # the level is no structure
        return slope.float(), kept.float()

    def facts(self, voxel_size_angstrom: float) -> dict[str, Any]:
        """As plain data."""
        return {
            "per_angstrom": [edge / voxel_size_angstrom for edge in SHELL_EDGES],
            **{
                name: {"slope": slope.tolist(), "share": share.tolist()}
                for name, slope, share in zip(REGIONS, self.slope, self.share, strict=True)
            },
        }  # fmt: skip


def centred(deviation: Tensor, fields: tuple[Tensor, Tensor], estimate: Tensor) -> Tensor:
    """A deviation from an estimate, (z, y, x) each on the continued working grid, about its centre.

    Parameters
    ----------
    deviation, estimate : (z, y, x)
    fields : pair of (z, y, x // 2 + 1)
        From `Loudness.fields`.
    """
    slope, kept = fields
    return irfft(rfft(deviation) * kept + rfft(estimate) * (slope - 1), deviation.shape)


def _by_region(found: FoundErrors) -> list[dict[int, CellError]]:
    """Errors by shell alone, of each region."""
    regions: list[dict[int, CellError]] = []
    for errors in (found.all_measured(), found.all_border(), found.all_hidden()):
        shells: dict[int, CellError] = {}
        for (shell, _), cell in errors.items():
            shells[shell] = shells[shell] + cell if shell in shells else cell
        regions.append(shells)
    return regions


def _told(cell: CellError) -> tuple[float, float]:
    """Slope of a shell, and the share of its error that is loudness.

    What was hidden is not what the wedge hides: of n coefficients of the same law the slope varies by
    (S / M) (1 - rho^2) / n, beside what noise leaves open.
    """
    powers = cell.powers
    if min(powers.estimate, powers.signal, powers.error) <= 0:
        return 1.0, 0.0
    unlike = max(0.0, powers.signal / powers.estimate - powers.slope**2) / cell.coefficients
    doubt = unlike + powers.common_variance / powers.estimate**2
    most = math.sqrt(MOST_SHARE * powers.error / powers.estimate)
    away = (powers.slope - 1) * WITHIN**2 / (WITHIN**2 + doubt)
    away = math.copysign(min(abs(away), most), away)
    return 1 + away, away**2 * powers.estimate / powers.error


"""Where data were measured: parts kept out of fitting beside the rest, and against the raw other half.

Two scores by shell. Correlation with the structure, from crossed halves (`metrics.error_power`). And, with nothing
but raw data, the Fourier correlation of a restored half with the *other* raw half,

    <m_even, y_odd> / (|m_even| |y_odd|),

which noise keeps below a ceiling that no restoration can pass: that of the structure itself with a raw half, the
square root of the correlation of the raw halves (DESIGN 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower, HalvesInBand
from cryoaae.physics.fourier import rfft
from cryoaae.restoration.held_out import cells, scored_cells
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.working import WorkingTomogram


@dataclass(frozen=True)
class MeasuredScore:
    """What a restoration is worth in one shell of one part, where data were measured.

    Parameters
    ----------
    powers : ErrorPower
        Against the structure.
    against_other_half, ceiling : float
        Restored half against the other raw half, and the most that could be.
    """

    powers: ErrorPower
    against_other_half: float
    ceiling: float


def measured_scores(
    tomogram: WorkingTomogram, estimates: Sequence[Tensor], where: Tensor
) -> dict[int, MeasuredScore]:
    """Score the restored halves (z, y, x) by shell, over the voxels that count, (z, y, x) bool."""
    found: dict[int, MeasuredScore] = {}
    if not bool(where.any()):
        return found
    seen = regions(tomogram)["measured"]
    table = cells(tomogram.shape, torch.zeros(seen.shape), seen)
    even, odd, of_even, of_odd = (rfft(volume) for volume in (*tomogram.halves, *estimates))
    for (shell, _), band in scored_cells(table, tomogram.shape):
        halves = HalvesInBand((even, odd), band, where)
        first, second = halves.field(of_even), halves.field(of_odd)
        found[shell] = MeasuredScore(
            halves.against((of_even, of_odd)),
            (_correlation(first, halves.odd) + _correlation(second, halves.even)) / 2,
            math.sqrt(max(0.0, _correlation(halves.even, halves.odd))),
        )
    return found


def _correlation(one: Tensor, other: Tensor) -> float:
    a, b = one.double().flatten(), other.double().flatten()
    power = float(a.square().sum() * b.square().sum())
    return float(a @ b) / math.sqrt(power) if power > 0 else math.nan

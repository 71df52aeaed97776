"""The spread of draws brought to the places where errors are foretold, as far as the two halves confirm them.

Draws of the bootstrap vary where a restoration of a restoration varies, which hardly tells where the first one errs
(docs/benchmarks/uncertainty.md). What the restoration looks like tells more: its relative size s(r) of the error
(`nets.error_size`) was learned from simulations. Whether it holds here the tomogram says itself. With the halves y,
their restorations m_even and m_odd and the mean m of both, filtered alike to what was measured,

    E(r) = y_even y_odd - (y_even m_odd + y_odd m_even) + m^2        has the mean  (x - m)^2  at every place r

for what the halves have in common, x. The slope of E on s^2, in units of their means, is the share b of the foretold
unevenness that is there: 1 if the map is right, 0 if a constant is as good. So each deviation is multiplied by one
smooth field, the same for all draws,

    d'_k(r) = q(r) d_k(r),      q^2 = (1 + b (s^2 - 1)) / (G * mean_k d_k^2),      G: a Gaussian window

The mean over draws stays what it is, modes and draws follow, and the calibration of their power in Fourier space comes
after (`restoration.recalibration`). In the wedge nothing can be compared; there b is that of measured directions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.nets.error_size import smoothed
from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.restoration.found_errors import BLOCK, measured_table
from cryoaae.restoration.held_out import CELLS_A_SHELL, SHELLS, sums_by_shell
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.working import WorkingTomogram

# Few draws say little of the spread of one voxel: of that of a window they do. Working voxels.
WINDOW_SIGMA = 2.0
# Where draws do not vary at all there is nothing to be scaled: share of the mean power that is added everywhere.
FLOOR = 0.02
# What simulations say of b before the halves are asked.
BELIEVED, BELIEVED_WITHIN = 1.0, 0.5
# Places are checked in as many groups of equal size, from the least to the greatest spread.
GROUPS = 3
CONFIDENCE_Z = 1.959964


@dataclass(frozen=True)
class Confirmed:
    """How much of a foretold unevenness the halves confirm.

    Parameters
    ----------
    share : float
        b as found, on any part of the tomogram; noise may bring it below 0 or above 1.
    deviation : float
        Its standard deviation, from block to block.
    """

    share: float
    deviation: float

    @property
    def applied(self) -> float:
        """Share that is used, in [0, 1]: what was found and what was believed, each by its own doubt."""
        if not math.isfinite(self.share) or not math.isfinite(self.deviation):
            return BELIEVED
        own, prior = 1 / max(self.deviation, 1e-6) ** 2, 1 / BELIEVED_WITHIN**2
        return min(max((own * self.share + prior * BELIEVED) / (own + prior), 0.0), 1.0)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        reach = CONFIDENCE_Z * self.deviation
        return {"found": self.share, "interval": [self.share - reach, self.share + reach], "applied": self.applied}


def uneven(size: Tensor, share: float) -> Tensor:
    """Relative power of the error, 1 + b (s^2 - 1), of its foretold relative size s."""
    return 1 + share * (size.square() - 1)


def evened(deviations: Iterable[Tensor], where: Tensor) -> Tensor:
    """Field that makes the local spread of draws the same everywhere, (z, y, x), positive.

    Parameters
    ----------
    deviations : iterable of (z, y, x)
        Of the draws; one is looked at at a time.
    where : (z, y, x) bool
        Voxels that lie in the tomogram.
    """
    count, power = 0, torch.zeros(where.shape)
    for deviation in deviations:
        power += deviation.square()
        count += 1
    mean = power[where].mean()
    if not mean > 0:
        return torch.ones(where.shape)
    local = smoothed(power, WINDOW_SIGMA).clamp(min=0.0) + FLOOR * mean
    return (local / count).rsqrt()


class LocalError:
    """E(r) of the module, over what was measured.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves.
    estimates : pair of (z, y, x)
        The restored halves.
    """

    def __init__(self, tomogram: WorkingTomogram, estimates: Sequence[Tensor]) -> None:
        self.response = response_of(tomogram)
        even, odd, of_even, of_odd = (self.filtered(v) for v in (*tomogram.halves, *estimates))
        self.values = even * odd - (even * of_odd + odd * of_even) + ((of_even + of_odd) / 2).square()

    def filtered(self, volume: Tensor) -> Tensor:
        """A volume as it is compared, (z, y, x) float64."""
        return irfft(rfft(volume) * self.response, volume.shape).double()

    def confirms(self, size: Tensor, where: Tensor) -> Confirmed:
        """How much of the unevenness of a foretold size (z, y, x) is there, over the voxels that count."""
        power = size.double().square()
        sums = [_moments(power[b][where[b]], self.values[b][where[b]]) for b in blocks(where)]
        return Confirmed(*_jackknifed(torch.stack(sums), _slope))

    def groups(self, spread: Tensor, where: Tensor) -> list[dict[str, Any]]:
        """Stated over found power from the quietest to the loudest places, both relative to their means.

        Parameters
        ----------
        spread : (z, y, x)
            Variance of the draws, `filtered`.
        where : (z, y, x) bool
            Voxels that count, none of which anything was fitted on.
        """
        local = smoothed(spread.float(), WINDOW_SIGMA)
        ends = torch.quantile(some(local[where]), torch.linspace(0, 1, GROUPS + 1)[1:-1])
        group = torch.bucketize(local, ends)
        rows = []
        for index in range(GROUPS):
            sums = torch.stack([
                _group_sums(group[b] == index, spread[b], self.values[b], where[b]) for b in blocks(where)
            ])  # fmt: skip
            found, doubt = _jackknifed(sums, lambda total: total[1] / total[2] / (total[4] / total[5]))
            total = sums.sum(dim=0)
            stated = float(total[0] / total[2] / (total[3] / total[5]))
            reach = CONFIDENCE_Z * doubt
            rows.append({"stated": stated, "found": found, "interval": [found - reach, found + reach]})
        return rows


def response_of(tomogram: WorkingTomogram) -> Tensor:
    """Filter of what is compared, (z, y, x // 2 + 1): measured shells, by how far the halves agree in them."""
    measured, shape = regions(tomogram)["measured"], tomogram.shape
    even, odd = (rfft(half) for half in tomogram.halves)
    weight = multiplicity(shape)
    cross = sums_by_shell((even * odd.conj()).real.double() * weight, measured, shape)
    power = sums_by_shell((even.abs().square() + odd.abs().square()).double() / 2 * weight, measured, shape)
    agreement = torch.where(power > 0, cross / power, 0.0).clamp(min=0.0)
    table = measured_table(tomogram)
    shell = (table // CELLS_A_SHELL).clamp(0, SHELLS - 1)
    return torch.where(table >= 0, agreement.sqrt()[shell], 0.0).float()


def blocks(where: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of `BLOCK` voxels an axis that hold voxels that count."""
    starts = [range(0, n, BLOCK) for n in where.shape]
    for z, y, x in itertools.product(*starts):
        block = slice(z, z + BLOCK), slice(y, y + BLOCK), slice(x, x + BLOCK)
        if bool(where[block].any()):
            yield block


def some(values: Tensor, most: int = 1 << 20) -> Tensor:
    """At most so many of values (n,), evenly."""
    return values[:: max(1, math.ceil(len(values) / most))]


def _moments(power: Tensor, error: Tensor) -> Tensor:
    """Sums that a slope is made from."""
    return torch.stack([
        torch.tensor(float(len(power)), dtype=torch.float64), power.sum(), error.sum(), power.square().sum(),
        (power * error).sum(),
    ])  # fmt: skip


def _slope(sums: Tensor) -> Tensor:
    """Slope of the error on the foretold power, both in units of their means."""
    n, p, e, pp, pe = sums
    variance = pp / n - (p / n).square()
    flat = (variance <= 1e-12 * (p / n).square()) | (e <= 0)
    slope = (pe / n - p * e / n.square()) / variance * (p / e)
    return torch.where(flat, torch.nan, slope)


def _group_sums(inside: Tensor, spread: Tensor, error: Tensor, where: Tensor) -> Tensor:
    """Stated and found power and their number, in the group and in all."""
    mine = inside & where
    return torch.stack([
        spread[mine].sum(), error[mine].sum(), mine.sum().double(), spread[where].sum(), error[where].sum(),
        where.sum().double(),
    ])  # fmt: skip


def _jackknifed(sums: Tensor, statistic: Any) -> tuple[float, float]:
    """A statistic of sums (blocks, n) over all blocks, and its standard deviation from leaving out one at a time."""
    total, count = sums.sum(dim=0), len(sums)
    left = torch.stack([statistic(total - own) for own in sums])
    spread = math.sqrt((count - 1) / count * float((left - left.mean()).square().sum())) if count > 1 else math.nan
    return float(statistic(total)), spread

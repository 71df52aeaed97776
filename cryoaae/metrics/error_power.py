"""Error of an estimate from two noisy halves, without a truth and without a noise level.

With estimates m_even and m_odd, each made from one half, and m their mean,

    |x - m|^2 = E[ y_even y_odd - (y_even m_odd + y_odd m_even) + m^2 ]

for the noise of a half is independent of the other half and of what was made from it. No estimate is
multiplied by the half that it was made from, so the sum is unbiased where m has seen the data as well
as where it is blind to them. (Where it is blind this is E[(y_even - m)(y_odd - m)], DESIGN 5.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class ErrorPower:
    """Powers summed over voxels or coefficients, one entry a block.

    Parameters
    ----------
    signal : (blocks,) float64
        Of y_even y_odd: power of what the halves have in common.
    common : (blocks,) float64
        Of (y_even m_odd + y_odd m_even) / 2: what structure and estimate have in common.
    estimate : (blocks,) float64
        Of m^2.
    """

    signal: Tensor
    common: Tensor
    estimate: Tensor

    @classmethod
    def of(
        cls,
        halves: tuple[Tensor, Tensor],
        estimates: tuple[Tensor, Tensor],
        *,
        where: Tensor | None = None,
        blocks: int = 4,
    ) -> ErrorPower:
        """Sum over a regular grid of blocks of fields that were filtered to the same coefficients.

        Parameters
        ----------
        halves : pair of (z, y, x)
            Even and odd, as measured.
        estimates : pair of (z, y, x)
            What was made of the even half and of the odd half. Judged is their mean.
        where : (z, y, x) bool, optional
            Voxels that count.
        blocks : int
            Along each axis.
        """
        (even, odd), (of_even, of_odd) = ([t.double() for t in pair] for pair in (halves, estimates))
        parts = [even * odd, (even * of_odd + odd * of_even) / 2, ((of_even + of_odd) / 2).square()]
        if where is not None:
            parts = [part * where for part in parts]
        return cls(*(block_sums(part, blocks) for part in parts))

    def __add__(self, other: ErrorPower) -> ErrorPower:
        """Powers over more coefficients of the same blocks."""
        return ErrorPower(
            self.signal + other.signal, self.common + other.common, self.estimate + other.estimate
        )

    @property
    def error(self) -> float:
        """Estimate of the squared error; may fall below zero by its own uncertainty."""
        return float(_error(*self._totals()))

    @property
    def correlation(self) -> float:
        """Estimate of the correlation with the structure; NaN where the halves have nothing in common."""
        return float(_correlation(*self._totals()))

    @property
    def slope(self) -> float:
        """Factor by which the estimate should be multiplied: 1 for an honest mean, less for invention."""
        return float(_slope(*self._totals()))

    @property
    def recovered(self) -> float:
        """Share of the structure's power that the estimate explains, 1 - error / signal."""
        return float(_recovered(*self._totals()))

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.signal.sum(), self.common.sum(), self.estimate.sum()

    def interval(self, name: str, *, generator: torch.Generator) -> tuple[float, float]:
        """Bootstrap interval of a property over blocks, 95 %.

        Parameters
        ----------
        name : {"error", "correlation", "slope", "recovered"}
        generator : torch.Generator
            Draws the blocks.
        """
        n = len(self.signal)
        chosen = torch.randint(n, (RESAMPLES, n), generator=generator)
        values = PROPERTIES[name](*(part[chosen].sum(dim=1) for part in (self.signal, self.common, self.estimate)))
        values = values[values.isfinite()]
        if not len(values):
            return math.nan, math.nan
        tail = (1 - CONFIDENCE) / 2
        low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return low, high


def _error(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return signal - 2 * common + estimate


def _correlation(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    known = (signal > 0) & (estimate > 0)
    return torch.where(known, common / (signal * estimate).abs().sqrt(), torch.nan)


def _slope(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return torch.where(estimate > 0, common / estimate, torch.nan)


def _recovered(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return torch.where(signal > 0, 1 - _error(signal, common, estimate) / signal, torch.nan)


PROPERTIES = {"error": _error, "correlation": _correlation, "slope": _slope, "recovered": _recovered}


def block_sums(values: Tensor, blocks: int) -> Tensor:
    """Sums of values (z, y, x) over a grid of `blocks` along each axis, (blocks^3,) float64."""
    sums = values
    for axis, cuts in enumerate(block_cuts(values.shape, blocks)):
        parts = [part.sum(dim=axis, keepdim=True) for part in sums.tensor_split(cuts, dim=axis)]
        sums = torch.cat(parts, dim=axis)
    return sums.flatten()


def block_cuts(shape_zyx: Sequence[int], blocks: int) -> list[list[int]]:
    """Where each axis is cut so that blocks differ by at most a voxel."""
    return [[round(i * n / blocks) for i in range(1, blocks)] for n in shape_zyx]

"""Error of an estimate from two noisy halves, without a truth and without a noise level.

With estimates m_even and m_odd, each made from one half, and m their mean,

    |x - m|^2 = E[ y_even y_odd - (y_even m_odd + y_odd m_even) + m^2 ]

for the noise of a half is independent of the other half and of what was made from it. No estimate is
multiplied by the half that it was made from, so the sum is unbiased where m has seen the data as well
as where it is blind to them. (Where it is blind this is E[(y_even - m)(y_odd - m)], DESIGN 5.)

Sums go over a band P of Fourier space and a region W of voxels. What they miss of the truth of this
very place is linear in the noise of each half, given the other half:

    sum y_even y_odd - sum x^2 = <n_even, W y_odd> + <n_odd, W x>

and so on, so its variance is s^2 |P W y_odd|^2 + ..., with the noise power s^2 of the same place from
the half-difference. An estimate brings its own half's noise with it: what <n_even, W m_odd> and
<n_odd, W m_even> so have in common is at most s^2 |m_even - m_odd|^2 / 2, and just that for a linear filter.
(Neighbouring blocks of a narrow band share its waves, and of the error's spread between blocks most is
the structure's: a block bootstrap misses the truth, decision 0010.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, multiplicity, rfft

CONFIDENCE = 0.95
DRAWS = 2000

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ErrorPower:
    """Powers summed over a band and a region, and how uncertain the noise makes them.

    Parameters
    ----------
    signal : float
        Of y_even y_odd: power of what the halves have in common.
    common : float
        Of (y_even m_odd + y_odd m_even) / 2: what structure and estimate have in common.
    estimate : float
        Of m^2.
    signal_variance, common_variance, covariance : float
        Of `signal` and `common`, from the noise of the halves. Of `estimate` nothing is uncertain.
    freedom : float
        Independent noise coefficients that the variances were read from.
    """

    signal: float
    common: float
    estimate: float
    signal_variance: float = 0.0
    common_variance: float = 0.0
    covariance: float = 0.0
    freedom: float = math.inf

    def __add__(self, other: ErrorPower) -> ErrorPower:
        """Powers over both, whose noise is independent: other coefficients, or another place."""
        return self._with(other, 1.0, 1.0)

    def with_shared_noise(self, other: ErrorPower) -> ErrorPower:
        """Powers over both, which may rest on the same noise: no interval is too narrow."""
        mine, others = (math.sqrt(p.signal_variance + p.common_variance) for p in (self, other))
        if mine == 0 or others == 0:
            return self._with(other, 1.0, 1.0)
        # Cov(a + b) <= (1 + 1/r) Cov(a) + (1 + r) Cov(b) for every r; this one adds standard deviations.
        return self._with(other, 1 + others / mine, 1 + mine / others)

    def _with(self, other: ErrorPower, mine: float, others: float) -> ErrorPower:
        def variance(name: str) -> float:
            return mine * getattr(self, name) + others * getattr(other, name)

        total = variance("signal_variance") + variance("common_variance")
        parts = [
            (factor * (p.signal_variance + p.common_variance), p.freedom)
            for factor, p in ((mine, self), (others, other))
        ]
        spread = sum(v**2 / n for v, n in parts if v > 0)  # Welch and Satterthwaite
        return ErrorPower(
            self.signal + other.signal, self.common + other.common, self.estimate + other.estimate,
            variance("signal_variance"), variance("common_variance"), variance("covariance"),
            total**2 / spread if spread > 0 else math.inf,
        )  # fmt: skip

    @property
    def error(self) -> float:
        """Estimate of the squared error; may fall below zero by its own uncertainty."""
        return float(_error(*self._powers()))

    @property
    def correlation(self) -> float:
        """Estimate of the correlation with the structure; NaN where the halves have nothing in common."""
        return float(_correlation(*self._powers()))

    @property
    def slope(self) -> float:
        """Factor by which the estimate should be multiplied: 1 for an honest mean, less for invention."""
        return float(_slope(*self._powers()))

    @property
    def recovered(self) -> float:
        """Share of the structure's power that the estimate explains, 1 - error / signal."""
        return float(_recovered(*self._powers()))

    def _powers(self) -> tuple[Tensor, Tensor, Tensor]:
        signal, common, estimate = torch.tensor([self.signal, self.common, self.estimate], dtype=torch.float64)
        return signal, common, estimate

    def interval(self, name: str, *, generator: torch.Generator) -> tuple[float, float]:
        """Where the truth of this place lies with 95 % confidence, given the noise of the halves.

        NaN where there may as well be no structure at all, if the property is a share of it.

        Parameters
        ----------
        name : {"error", "correlation", "slope", "recovered"}
        generator : torch.Generator
        """
        first, second, third = torch.randn(3, DRAWS, generator=generator, dtype=torch.float64)
        # The noise power was itself read from so many coefficients; Wilson and Hilferty's chi square.
        n = self.freedom
        scale = 1.0 if math.isinf(n) else (1 - 2 / (9 * n) + third * math.sqrt(2 / (9 * n))).clamp(min=0.1) ** -1.5
        own = math.sqrt(self.signal_variance)
        along = self.covariance / own if own > 0 else 0.0
        across = math.sqrt(max(0.0, self.common_variance - along**2))
        signal = self.signal - scale * own * first
        common = self.common - scale * (along * first + across * second)
        estimate = torch.full_like(signal, self.estimate)
        values = PROPERTIES[name](signal, common, estimate)
        known = values.isfinite()
        if int(known.sum()) < DRAWS / 2:
            return math.nan, math.nan
        # A draw without structure stands for the least structure: left out it would make the others too certain.
        least = PROPERTIES[name](signal.clamp(min=torch.finfo(torch.float64).tiny), common, estimate)
        values = torch.where(known, values, least)
        ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
        low, high = torch.quantile(values, ends, interpolation="nearest").tolist()
        return low, high


def _error(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return signal - 2 * common + estimate


def _correlation(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    known = (signal > 0) & (estimate > 0)
    return torch.where(known, common / (signal * estimate).abs().sqrt(), torch.nan).clamp(-1, 1)


def _slope(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return torch.where(estimate > 0, common / estimate, torch.nan)


def _recovered(signal: Tensor, common: Tensor, estimate: Tensor) -> Tensor:
    return torch.where(signal > 0, 1 - _error(signal, common, estimate) / signal, torch.nan)


PROPERTIES = {"error": _error, "correlation": _correlation, "slope": _slope, "recovered": _recovered}


class _Band:
    """A band of Fourier space in a region of voxels.

    Parameters
    ----------
    band : (z, y, x // 2 + 1) bool
        Coefficients that count.
    where : (z, y, x) bool
        Voxels that count.
    """

    def __init__(self, band: Tensor, where: Tensor) -> None:
        self.band, self.where = band, where
        self.weight = multiplicity(where.shape)
        self.freedom = self._coefficients()

    def field(self, spectrum: Tensor) -> Tensor:
        """W P f, (z, y, x), of a spectrum (z, y, x // 2 + 1)."""
        return irfft(spectrum * self.band, self.where.shape) * self.where

    def _again(self, field: Tensor) -> Tensor:
        """P W P f, (z, y, x // 2 + 1)."""
        return rfft(field) * self.band

    def _dot(self, one: Tensor, other: Tensor) -> float:
        return float(((one * other.conj()).real.double() * self.weight).sum())

    def _noise(self, power: float) -> float:
        """Noise power a coefficient, of the summed power of noise."""
        return power / self.freedom if self.freedom > 0 else 0.0

    def _coefficients(self) -> float:
        """Independent coefficients of the band in the region, trace of (P W P)^2."""
        # Its kernel is w(u) p(u - v)^2 w(v), with p the point spread function of the band.
        shape = self.where.shape
        point = irfft(self.band.to(torch.complex64), shape) / math.sqrt(self.where.numel())
        window = self.where.float()
        around = irfft(rfft(point.square()) * rfft(window), shape) * math.sqrt(self.where.numel())
        return float((window * around).double().sum())


class HalvesInBand(_Band):
    """Two halves in a band of Fourier space and a region of voxels, to be compared with any estimate.

    Parameters
    ----------
    halves : pair of (z, y, x // 2 + 1) complex
        Spectra of the even and the odd half.
    band : (z, y, x // 2 + 1) bool
        Coefficients that count.
    where : (z, y, x) bool
        Voxels that count.
    """

    def __init__(self, halves: Pair, band: Tensor, where: Tensor) -> None:
        super().__init__(band, where)
        self.even, self.odd = (self.field(spectrum) for spectrum in halves)
        self.even_again, self.odd_again = self._again(self.even), self._again(self.odd)
        difference = self.even_again - self.odd_again
        self.noise = self._noise(self._dot(difference, difference) / 2)

    def against(self, estimates: Pair) -> ErrorPower:
        """Compare with estimates, of which each was made from one half.

        Parameters
        ----------
        estimates : pair of (z, y, x // 2 + 1) complex
            Spectra of what was made of the even and of the odd half. Judged is their mean.
        """
        of_even, of_odd = (self.field(spectrum) for spectrum in estimates)
        even, odd = self.even_again, self.odd_again
        first, second = self._again(of_even), self._again(of_odd)
        own = self._dot(even, first) + self._dot(odd, second)
        made = self._dot(first, first) + self._dot(second, second) - self._dot(first, second)
        structure = max(0.0, self._dot(even, odd))
        return ErrorPower(
            signal=_sum(self.even * self.odd),
            common=_sum(self.even * of_odd + self.odd * of_even) / 2,
            estimate=_sum(((of_even + of_odd) / 2).square()),
            signal_variance=self.noise * ((self._dot(even, even) + self._dot(odd, odd)) / 2 + structure),
            common_variance=self.noise * made / 2,
            covariance=self.noise * own / 2,
            freedom=self.freedom,
        )


class SingleInBand(_Band):
    """A single volume in a band and a region, to be compared with estimates that are blind to the band.

    Its noise cannot be told from its structure. What structure and estimate have in common is found all
    the same, and so is the slope; `signal` holds the noise as well, so the correlation and what is
    recovered (where above zero) are *at least*, and the error *at most*, what is said.

    Parameters
    ----------
    volume : (z, y, x // 2 + 1) complex
        Its spectrum.
    band, where
        As for `HalvesInBand`.
    """

    def __init__(self, volume: Tensor, band: Tensor, where: Tensor) -> None:
        super().__init__(band, where)
        self.measured = self.field(volume)
        again = self._again(self.measured)
        self.noise = self._noise(self._dot(again, again))  # all of it, at worst

    def against(self, estimate: Tensor) -> ErrorPower:
        """Compare with an estimate, by its spectrum (z, y, x // 2 + 1), that was made without the band."""
        made = self.field(estimate)
        again = self._again(made)
        return ErrorPower(
            signal=_sum(self.measured.square()),
            common=_sum(self.measured * made),
            estimate=_sum(made.square()),
            common_variance=self.noise * self._dot(again, again),
            freedom=self.freedom,
        )


def _sum(values: Tensor) -> float:
    return float(values.double().sum())

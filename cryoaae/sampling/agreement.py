"""How far draws are from a posterior that is known, with the error bars of the comparison itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Draws against the exact mean and covariance.

    Parameters
    ----------
    excess, excess_error : float
        Squared error of the draws' mean beyond the posterior mean's own, as a share of the posterior's trace, and
        its standard error. The draws' own scatter about their mean is taken off, so 0 is right for any number.
    std_ratio, std_error : (cells,) float64
        Standard deviation of the draws over the exact one in each cell, and its standard error.
    """

    excess: float
    excess_error: float
    std_ratio: Tensor
    std_error: Tensor

    @property
    def worst_std(self) -> float:
        """Largest deviation of a cell's ratio from one."""
        return float((self.std_ratio - 1).abs().max())


def agreement(draws: Tensor, mean: Tensor, variance: Tensor, cell: Tensor) -> Agreement:
    """Compare independent draws at several places with the exact posterior.

    Parameters
    ----------
    draws : (p, k, d)
        k independent draws at each of p places; of chains, only their last states are independent.
    mean : (p, d)
        Exact posterior means.
    variance : (d,)
        Exact posterior variances.
    cell : (d,) long
        Cell of each coordinate.
    """
    p, k, _ = draws.shape
    if p < 2 or k < 2:
        raise ValueError(f"{k} draw(s) at {p} place(s) have no error bar")
    draws, mean, variance = draws.double(), mean.double(), variance.double()
    spread = draws.var(dim=1)  # (p, d)
    excess = (draws.mean(dim=1) - mean).square().sum(dim=1) - spread.sum(dim=1) / k
    excess = excess / variance.sum()
    ratio, error = _std_ratio(_in_cells(spread, cell), _in_cells(variance[None], cell)[0])
    return Agreement(float(excess.mean()), float(excess.std()) / p**0.5, ratio, error)


@dataclass(frozen=True)
class ChainAgreement:
    """Chains against the exact mean and covariance at one place; errors come from the scatter between chains.

    Parameters
    ----------
    mean_z : (d,) float64
        Errors of the mean in units of their standard errors, along directions that the posterior makes independent.
    std_ratio, std_error : (cells,) float64
        As in `Agreement`; squares are taken about the exact mean, so no chain is too short to be unbiased.
    """

    mean_z: Tensor
    std_ratio: Tensor
    std_error: Tensor

    @property
    def std_z(self) -> Tensor:
        """Deviation of each cell's ratio from one in units of its standard error, (cells,)."""
        return (self.std_ratio - 1) / self.std_error

    @property
    def mean_square_z(self) -> float:
        """Mean square of `mean_z`: about 1 where means are right, whatever the correlation of draws in a chain."""
        return float(self.mean_z.square().mean())


def chain_agreement(chains: Tensor, mean: Tensor, covariance: Tensor, cell: Tensor) -> ChainAgreement:
    """Compare stationary chains (c, n, d) with the exact posterior mean (d,) and covariance (d, d)."""
    covariance = covariance.double()
    apart = chains.double() - mean.double()
    factor = torch.linalg.cholesky(covariance)
    of_chain = torch.linalg.solve_triangular(factor, apart.mean(dim=1).mT, upper=False).mT  # (c, d)
    mean_z = of_chain.mean(dim=0) / (of_chain.std(dim=0) / len(chains) ** 0.5)
    squares = _in_cells(apart.square().mean(dim=1), cell)
    return ChainAgreement(mean_z, *_std_ratio(squares, _in_cells(covariance.diagonal()[None], cell)[0]))


def _in_cells(values: Tensor, cell: Tensor) -> Tensor:
    """Means of values (p, d) over cells, (p, cells)."""
    sums = values.new_zeros(len(values), int(cell.max()) + 1).index_add_(1, cell, values)
    return sums / torch.bincount(cell)


def _std_ratio(variances: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Ratio of standard deviations and its error from independent estimates (p, cells) of variances."""
    relative = variances / exact
    ratio = relative.mean(dim=0).sqrt()
    return ratio, relative.std(dim=0) / len(relative) ** 0.5 / (2 * ratio)

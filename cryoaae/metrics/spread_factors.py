"""Factors that bring a stated spread to the errors that were found, smooth over cells of Fourier space.

    E_i ~ N(f_i^2 V_i, s_i^2),        log f_i smooth from shell to shell and with the distance to measured data

E_i is the error power found in a cell, which noise may bring below zero, s_i its uncertainty, V_i the power of the
spread. Cells are tied to each other by what is believed of neighbours: log f bends by about `BEND` from shell to shell
and changes by about `STEP` from distance to distance. A cell that is known well keeps its own factor; one that holds
few coefficients, or of which nothing was found, takes that of its neighbours. The most likely factors are found by
Gauss-Newton steps and their intervals from the curvature there.

A cell without spread cannot be scaled: no factor passes `MOST`. What is then missing is a variance to be *added*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

# Beliefs of neighbours, in natural logarithms; LEVEL is how far from 1 any factor may lie where nothing is known.
BEND, STEP, LEVEL = 0.25, 0.15, 2.0
MOST = 4.0
CONFIDENCE_Z = 1.959964
SURE, TINY = 0.02, 1e-30
# A cell whose own error power is less certain than this leans on its neighbours, and says so.
OWN = 0.5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpreadFactors:
    """What is to be done to the spread, by shell and distance to measured data, (shells, columns) each.

    Parameters
    ----------
    gain : (shells, columns)
        Factor of the deviations.
    added : (shells, columns)
        Power per coefficient of the independent error that is added, where no factor suffices.
    low, high : (shells, columns)
        Ends of the 95 % interval of the whole factor, added error and all.
    pooled : (shells, columns) bool
        Whether a cell's factor rests on its neighbours more than on itself.
    """

    gain: Array
    added: Array
    low: Array
    high: Array
    pooled: NDArray[np.bool_]

    def __post_init__(self) -> None:
        assert all(values.shape == self.gain.shape for values in (self.added, self.low, self.high, self.pooled))
        assert bool((self.gain > 0).all() and (self.added >= 0).all())


def fit_factors(error: Array, uncertainty: Array, spread: Array, *, level: float = LEVEL) -> SpreadFactors:
    """Find the factors of a grid of cells.

    Parameters
    ----------
    error : (shells, columns)
        Power of the error per coefficient; NaN where nothing was found.
    uncertainty : (shells, columns)
        Its standard deviation.
    spread : (shells, columns)
        Power of the spread per coefficient; NaN where there are no coefficients.
    level : float
        How far from 1 factors are believed to lie before anything is found, a standard deviation of the logarithm.

    Raises
    ------
    ValueError
        When nothing was found in any cell.
    """
    known = np.isfinite(error) & np.isfinite(uncertainty) & np.isfinite(spread)
    if not known.any():
        raise ValueError("no cell has both an error and a spread")
    found = error[known]
    # No power is believed to better than SURE, so that neighbours always have a little to say.
    deviation = np.hypot(uncertainty[known], SURE * np.abs(found)) + TINY
    # No factor passes MOST: beyond it the spread counts for what it would have to be.
    base = np.maximum(spread[known], np.maximum(found, deviation) / MOST**2)
    shells, columns = error.shape
    beliefs = _beliefs(shells, columns, level)
    which = np.flatnonzero(known)

    def residuals(log_factor: Array) -> Array:
        return np.concatenate([(base * np.exp(2 * log_factor[which]) - found) / deviation, beliefs @ log_factor])

    def slopes(log_factor: Array) -> Array:
        rows = np.zeros((len(which), error.size))
        rows[np.arange(len(which)), which] = 2 * base * np.exp(2 * log_factor[which]) / deviation
        return np.concatenate([rows, beliefs])

    guess = 0.5 * np.log(np.maximum(found, deviation) / base)
    start = np.full(error.size, guess.mean())
    start[which] = guess
    log_factor = least_squares(residuals, start, jac=slopes).x
    slope = slopes(log_factor)
    width = CONFIDENCE_Z * np.sqrt(np.diag(np.linalg.inv(slope.T @ slope)))
    return _split(log_factor, width, known, base, spread, pooled=_pooled(error, uncertainty, known))


def _split(
    log_factor: Array, width: Array, known: NDArray[np.bool_], base: Array, spread: Array, *, pooled: NDArray[np.bool_]
) -> SpreadFactors:
    """What a factor can do, and what must be added."""
    shape = known.shape
    whole = np.exp(log_factor).reshape(shape)
    target = base * whole[known] ** 2
    own = spread[known]
    gain, added = np.minimum(whole, MOST), np.zeros(shape)
    gain[known] = np.minimum(np.sqrt(target / np.maximum(own, target / MOST**2)), MOST)
    added[known] = np.maximum(0.0, target - gain[known] ** 2 * own)
    added[known] = np.where(added[known] < 1e-9 * target, 0.0, added[known])
    around = np.exp(width).reshape(shape)
    return SpreadFactors(gain, added, whole / around, whole * around, pooled)


def _pooled(error: Array, uncertainty: Array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        sure = uncertainty <= OWN * error
    return ~(known & sure)


def _beliefs(shells: int, columns: int, belief: float) -> Array:
    """Rows of the quadratic form that ties cells together, (rows, shells * columns)."""
    cells = np.arange(shells * columns).reshape(shells, columns)
    level = np.eye(cells.size)
    bend = level[cells[:-2]] - 2 * level[cells[1:-1]] + level[cells[2:]]
    step = level[cells[:, 1:]] - level[cells[:, :-1]]
    rows = (level / belief, bend / BEND, step / STEP)
    return np.concatenate([row.reshape(-1, cells.size) for row in rows])

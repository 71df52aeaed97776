"""Errors where nothing was measured, foretold from hidden tilts: in the wedge, and at its edge.

    E = S - 2 rho sqrt(S M) + M

S: power of the structure in measured directions; M: power of what the restoration put there; rho: its correlation with
the structure, found of hidden tilts by shell and distance to measured data (`wedge_forecast`), at the edge by shell.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoaae.restoration.found_errors import CellError, Errors
from cryoaae.restoration.held_out import DISTANCE_STEP, SHELL_EDGES, SHELLS, Key
from cryoaae.restoration.wedge_forecast import fit_law

# Distances to measured data that the wedge is divided into; frequencies of the working grid end at about 0.45.
COLUMNS = math.ceil(SHELL_EDGES[-1] / DISTANCE_STEP)
# Share of a correlation that is doubted where nothing was tested.
DOUBT = 0.5

Array = NDArray[np.float64]


def foretold(
    measured: Errors, hidden: Errors, restored: dict[Key, float]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Error power of the wedge and its deviation, (shells, distances), and what lies beyond what was tested.

    Parameters
    ----------
    measured, hidden : dict of (shell, distance) to CellError
        Errors found where data were measured, and of hidden tilts.
    restored : dict of (shell, distance) to float
        Power per coefficient of the restoration in the cells that are asked for.
    """
    law = fit_law({key: cell.powers for key, cell in hidden.items()})
    doubts = _doubts(hidden)
    error, deviation = np.full((2, SHELLS, COLUMNS), np.nan)
    extrapolated = np.ones((SHELLS, COLUMNS), dtype=bool)
    for (shell, column), made in restored.items():
        seen = measured.get((shell, 0))
        if seen is None:
            continue
        rho, beyond = law.at(shell, (column + 0.5) * DISTANCE_STEP)
        doubt = doubts.get(shell, 1.0) + (DOUBT * rho if beyond else 0.0)
        error[shell, column], deviation[shell, column] = _missed(seen, made, rho, doubt)
        extrapolated[shell, column] = beyond
    return error, deviation, extrapolated


def foretold_at_edge(measured: Errors, border: Errors, restored: dict[Key, float]) -> tuple[Array, Array]:
    """Error power at the edge of the wedge and its deviation, (shells, 1); NaN where nothing was hidden.

    Parameters
    ----------
    measured, border : dict of (shell, 0) to CellError
        Errors found where data were measured, and at the edge of hidden tilts.
    restored : dict of (shell, 0) to float
        Power per coefficient of the restoration in the cells that are asked for.
    """
    error, deviation = np.full((2, SHELLS, 1), np.nan)
    doubts = _doubts(border)
    for key, made in restored.items():
        seen, cell = measured.get(key), border.get(key)
        if seen is None or cell is None or key[0] not in doubts:
            continue
        powers = cell.powers
        rho = min(max(0.0, powers.common) / math.sqrt(powers.signal * powers.estimate), 1.0)
        error[key], deviation[key] = _missed(seen, made, rho, doubts[key[0]])
    return error, deviation


def _missed(seen: CellError, made: float, rho: float, doubt: float) -> tuple[float, float]:
    """Error power E (see the module) and its deviation, of what was made and correlates by rho, within its doubt."""
    structure = max(0.0, seen.signal)
    both = math.sqrt(structure * made)
    slope = 1 - rho * math.sqrt(made / structure) if structure > 0 else 1.0
    own = slope * math.sqrt(seen.powers.signal_variance) / seen.coefficients
    return structure - 2 * rho * both + made, math.hypot(own, 2 * both * doubt)


def _doubts(hidden: Errors) -> dict[int, float]:
    """Standard deviation of the correlation found, by shell."""
    sums: dict[int, tuple[float, float]] = {}
    for (shell, _), cell in hidden.items():
        most = math.sqrt(max(0.0, cell.powers.signal * cell.powers.estimate))
        variance, total = sums.get(shell, (0.0, 0.0))
        sums[shell] = variance + cell.powers.common_variance, total + most
    return {shell: min(1.0, math.sqrt(variance) / total) for shell, (variance, total) in sums.items() if total > 0}

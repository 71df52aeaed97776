"""The spread that a restoration's own errors call for, without draws, and whether it holds on blocks left out.

`sample` widens or narrows draws to the power of the errors that it finds and brings them to their places. What comes
of that does not depend on the draws: by shell and distance to measured data their power is the error's, place by
place it is what is foretold as far as the halves confirm it. So it can be stated, and checked, without drawing

    s^2(r; k, d) = u(r) g^2(k, d) S_k,      g: error over structure, root mean squares (`restoration.recalibration`)

with S_k the structure's power in measured directions and u the relative power of places (`restoration.placement`).
Factors g and the confirmed share of u come from one half of the blocks and are checked on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cryoaae.nets.error_size import ErrorSize
from cryoaae.restoration.edge import edge_table
from cryoaae.restoration.found_errors import Errors, FoundErrors, coefficients, measured_table
from cryoaae.restoration.held_out import SHELLS, Key, shell_of
from cryoaae.restoration.placement import LocalError, uneven
from cryoaae.restoration.recalibration import Powers, fit_recalibration, power_by_cell
from cryoaae.restoration.reliability import Sampled, StatedSpread, check_recalibration
from cryoaae.restoration.wedge_forecast import wedge_table
from cryoaae.restoration.working import WorkingTomogram

# A shell whose structure is lost in the noise is taken to have this share of the strongest shell's power.
LEAST_STRUCTURE = 1e-4


def check_stated_spread(
    tomogram: WorkingTomogram,
    estimates: Sequence[Tensor],
    found: FoundErrors,
    parts: tuple[Tensor, Tensor],
    *,
    generator: torch.Generator,
) -> dict[str, Any] | None:
    """State the spread of a restoration and check it; None where too little was measured.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves.
    estimates : pair of (z, y, x)
        The restored halves.
    found : FoundErrors
        In the two parts.
    parts : pair of (z, y, x) bool
    generator : torch.Generator
        Of intervals.

    Returns
    -------
    dict
        "measured" and "wedge": gain is the error over the structure, with its interval, by shell, and by shell and
        distance; "check": stated over found on the second part, coverage; "places": what the halves confirm of the
        foretold places, on the first part, and stated beside found power of places, on the second.
    """
    measured = found.all_measured()
    if not measured or not all(found.measured):
        return None
    restored = torch.stack(list(estimates)).mean(dim=0)
    size = ErrorSize.bundled()(restored, tomogram.counted)
    local = LocalError(tomogram, estimates)
    confirmed = local.confirms(size, parts[0])
    structure = _structure(measured)
    stated = StatedSpread(structure[shell_of(tomogram.shape).clamp(0, SHELLS - 1)], uneven(size, confirmed.applied))
    whole, *powers = _powers(tomogram, restored, structure, [tomogram.counted, *parts])
    fitted = fit_recalibration(tomogram, found, whole)
    sampled = Sampled(tomogram, estimates, stated, stated, parts)
    check = check_recalibration(sampled, found, powers, powers, generator=generator)
    groups = local.groups(stated.variance(local.response), parts[1])
    return {
        **fitted.facts(tomogram), "shares": fitted.shares(tomogram, whole), "check": check,
        "places": {**confirmed.facts(), "check": {"applied": confirmed.applied, "groups": groups}},
    }  # fmt: skip


def _structure(measured: Errors) -> Tensor:
    """Power of the structure per coefficient by shell, (SHELLS,) float64, positive."""
    power = torch.zeros(SHELLS, dtype=torch.float64)
    for (shell, _), cell in measured.items():
        power[shell] = cell.signal
    return power.clamp(min=LEAST_STRUCTURE * float(power.max()))


def _powers(tomogram: WorkingTomogram, restored: Tensor, structure: Tensor, wheres: Sequence[Tensor]) -> list[Powers]:
    """Powers of a spread as strong as the structure, over each set of voxels."""
    tables = [table(tomogram) for table in (measured_table, edge_table, wedge_table)]

    def alike(table: Tensor, where: Tensor) -> dict[Key, float]:
        return {key: float(structure[key[0]]) for key in coefficients(table, where)}

    made = zip(*(power_by_cell(table, [restored], wheres) for table in tables[1:]), strict=True)
    return [
        Powers(*(alike(table, where) for table in tables), *own) for where, own in zip(wheres, made, strict=True)
    ]

"""Errors of a restoration by shell and distance to measured data, found from its two halves, part by part.

Where data were measured the restored halves are held against the other raw half (`metrics.error_power`); in the wedge
nothing was measured, so measured tilts are hidden, as `validate` hides them, and what was made of them is
held against what they were (`restoration.held_out`, lenient: decision 0012). The tomogram is divided into two sets of
blocks, like the fields of a chessboard: what is fitted on one is checked on the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.fourier import multiplicity
from cryoaae.restoration.held_out import (
    HiddenTilts,
    Key,
    Powers,
    Turned,
    cells,
    half_noise,
    hidden_range,
    hide_tilts,
    pooled,
    score,
    scored_cells,
)
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.working import WorkingTomogram

# Turns that hide tilts, both ways: those of `validate` by default.
TURNS_DEG = (15.0, 30.0, 45.0)
# Passes of the network that all of it takes: the two halves, and two at every turn each way.
PASSES = 2 + 4 * len(TURNS_DEG)
# Least edge of a block, working voxels.
BLOCK = 16


@dataclass(frozen=True)
class CellError:
    """Error power of a cell, and how many coefficients of the cell the part holds."""

    powers: ErrorPower
    coefficients: float

    def __add__(self, other: CellError) -> CellError:
        return CellError(self.powers + other.powers, self.coefficients + other.coefficients)

    @property
    def error(self) -> float:
        """Per coefficient."""
        return self.powers.error / self.coefficients

    @property
    def signal(self) -> float:
        """Per coefficient."""
        return self.powers.signal / self.coefficients

    @property
    def error_variance(self) -> float:
        """Of `error`."""
        powers = self.powers
        total = powers.signal_variance + 4 * powers.common_variance - 4 * powers.covariance
        return max(0.0, total) / self.coefficients**2


Errors = dict[Key, CellError]
# Of one part: scores turn by turn, and how many coefficients each cell amounts to.
Found = list[tuple[Turned, dict[Key, float]]]


@dataclass(frozen=True)
class FoundErrors:
    """Errors by (shell, distance) in each of two parts of a tomogram.

    Parameters
    ----------
    measured : two dicts of (shell, 0) to CellError
        Where data were measured.
    hidden : two dicts of (shell, distance) to CellError
        Of hidden tilts.
    border : two dicts of (shell, 0) to CellError
        Of hidden tilts, where they are neither measured for sure nor far from what is.
    """

    measured: tuple[Errors, Errors]
    hidden: tuple[Errors, Errors]
    border: tuple[Errors, Errors]

    def part(self, index: int) -> FoundErrors:
        """One part alone, as if it were all."""
        return FoundErrors((self.measured[index], {}), (self.hidden[index], {}), (self.border[index], {}))

    def all_measured(self) -> Errors:
        return joined(*self.measured)

    def all_hidden(self) -> Errors:
        return joined(*self.hidden)

    def all_border(self) -> Errors:
        return joined(*self.border)

    def facts(self) -> dict[str, Any]:
        """As plain data; `from_facts` undoes it."""
        return {
            name: [[{"cell": list(key), **asdict(found)} for key, found in sorted(part.items())] for part in parts]
            for name, parts in (("measured", self.measured), ("hidden", self.hidden), ("border", self.border))
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> FoundErrors:
        """Build from what `facts` gave."""

        def errors(rows: Sequence[Mapping[str, Any]]) -> Errors:
            return {
                (row["cell"][0], row["cell"][1]): CellError(ErrorPower(**row["powers"]), row["coefficients"])
                for row in rows
            }

        (a, b), (c, d), (e, f) = (map(errors, facts[name]) for name in ("measured", "hidden", "border"))
        return cls((a, b), (c, d), (e, f))


def joined(one: Errors, other: Errors) -> Errors:
    """Errors of two parts together."""
    both = {key: one[key] + other[key] for key in one.keys() & other.keys()}
    return {key: (one | other | both)[key] for key in sorted(one | other)}


def chessboard(tomogram: WorkingTomogram) -> tuple[Tensor, Tensor]:
    """Two sets of blocks of the tomogram without its faces, (z, y, x) bool each."""
    parity = torch.zeros((1, 1, 1), dtype=torch.long)
    longest = max(range(3), key=lambda axis: tomogram.inside[axis].stop - tomogram.inside[axis].start)
    for axis, (n, part) in enumerate(zip(tomogram.shape, tomogram.inside, strict=True)):
        size = part.stop - part.start
        blocks = max(size // BLOCK // 2 * 2 if size >= 2 * BLOCK else 1, 2 if axis == longest else 1)
        index = ((torch.arange(n) - part.start) * blocks // size).clamp(0, blocks - 1)
        parity = parity + index.reshape([n if a == axis else 1 for a in range(3)])
    counted = tomogram.counted
    return counted & (parity % 2 == 0), counted & (parity % 2 == 1)


def measured_table(tomogram: WorkingTomogram) -> Tensor:
    """Cells of what was measured, by shell alone."""
    seen = regions(tomogram)["measured"]
    return cells(tomogram.shape, torch.zeros(seen.shape), seen)


def coefficients(table: Tensor, where: Tensor) -> dict[Key, float]:
    """Coefficients of each scored cell that a part of the voxels amounts to."""
    share = float(where.double().mean())
    weight = multiplicity(where.shape).double().expand(table.shape)
    return {key: share * float(weight[band].sum()) for key, band in scored_cells(table, where.shape)}


def find_errors(
    tomogram: WorkingTomogram,
    estimates: list[Tensor],
    parts: tuple[Tensor, Tensor],
    *,
    turns_deg: Sequence[float] = TURNS_DEG,
    generator: torch.Generator,
) -> FoundErrors:
    """Find the errors of a restoration in two parts of the tomogram.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves.
    estimates : list of (z, y, x)
        The restored halves.
    parts : pair of (z, y, x) bool
    turns_deg : sequence of float
        About the tilt axis, both ways.
    generator : torch.Generator
        Of the noise that is put where nothing was measured.
    """
    noise, hidden = half_noise(tomogram, generator=generator), HiddenErrors(tomogram, parts)
    for angle in itertools.chain.from_iterable((turn, -turn) for turn in turns_deg):
        made = hide_tilts(tomogram, angle, estimates, noise, generator, strict=False)
        if made is not None:
            hidden.add(angle, made)
    return hidden.beside_measured(estimates)


class HiddenErrors:
    """Errors of hidden tilts in two parts of a tomogram, turn by turn.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves.
    parts : pair of (z, y, x) bool
    """

    def __init__(self, tomogram: WorkingTomogram, parts: tuple[Tensor, Tensor]) -> None:
        self.tomogram, self.parts = tomogram, parts
        self.hidden: tuple[Found, Found] = ([], [])
        self.border: tuple[Found, Found] = ([], [])

    def add(self, angle_deg: float, made: HiddenTilts) -> None:
        """Take up what was made of the tomogram turned by an angle."""
        lenient = {"lenient": made.estimates["lenient"]}
        hidden_deg = hidden_range(self.tomogram.wedge.solid(), angle_deg)
        for table, parts in ((made.table, self.hidden), (made.border, self.border)):
            for found, part in zip(parts, self.parts, strict=True):
                where = made.turner.inside() & made.turner.mask(part)
                powers = score(made.halves, lenient, table, where)["lenient"]
                found.append((Turned(angle_deg, lenient=powers, hidden_deg=hidden_deg), coefficients(table, where)))

    def beside_measured(self, estimates: Sequence[Tensor]) -> FoundErrors:
        """All of them, with the errors where data were measured, of the restored halves (z, y, x)."""
        table = measured_table(self.tomogram)
        one, other = (_errors(self.tomogram.halves, estimates, table, part) for part in self.parts)
        (a, b), (c, d) = ([_together(found) for found in parts] for parts in (self.hidden, self.border))
        return FoundErrors((one, other), (a, b), (c, d))


def _errors(halves: Sequence[Tensor], estimates: Sequence[Tensor], table: Tensor, where: Tensor) -> Errors:
    counts = coefficients(table, where)
    powers: Powers = score(halves, {"made": estimates}, table, where)["made"]
    return {key: CellError(found, counts[key]) for key, found in powers.items() if counts[key] > 0}


def _together(found: Found) -> Errors:
    """Errors of all turns, by cell."""
    powers = pooled([turned for turned, _ in found], "lenient", lambda key: key)
    counts = {key: sum(part.get(key, 0.0) for _, part in found) for key in powers}
    return {key: CellError(powers[key], counts[key]) for key in powers if counts[key] > 0}

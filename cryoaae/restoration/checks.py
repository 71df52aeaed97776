"""The checks of a validation on one tomogram, from arrays to plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.found_errors import HiddenErrors, chessboard
from cryoaae.restoration.held_out import (
    DISTANCE_STEP,
    SHELL_EDGES,
    SHELLS,
    Powers,
    Turned,
    grouped,
    hidden_sectors,
    pooled,
    strip_powers,
)
from cryoaae.restoration.inspection import central_block, describe_volume
from cryoaae.restoration.kept_out import MeasuredScore, measured_scores
from cryoaae.restoration.null_tests import NullTest, noise_only, null_test, phase_randomised
from cryoaae.restoration.plain import plain
from cryoaae.restoration.stated_spread import check_stated_spread
from cryoaae.restoration.verdict import (
    Reason,
    judge_filling,
    judge_geometry,
    judge_halves,
    judge_measured,
    judge_model,
    judge_nulls,
    judge_single_filling,
    verdict,
)
from cryoaae.restoration.wedge_forecast import (
    TRUSTED_CORRELATION,
    Forecast,
    fit_law,
    forecast,
    trusted_frequency,
)
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

FORMAT = "cryoaae validation 1"
# The wedge is judged up to this frequency, as `evaluate` judges it; cycles per tomogram voxel.
HIGHEST = 0.3
# Shells with less of the structure than this say nothing about learning by heart.
WELL_MEASURED = 0.3
# The tilt geometry is estimated on at most so much of the tomogram's middle.
GEOMETRY_VOXELS = 160


@dataclass(frozen=True)
class Checked:
    """What is checked.

    Parameters
    ----------
    name, model : str
        Of the tomogram and of the model.
    volumes : list of Volume
        The whole halves, or the single volume.
    region : three slices
        Tomogram voxels that are checked.
    kept_out_boxes : list of [low, high]
        Boxes kept out of fitting, working voxels (z, y, x) of the whole tomogram.
    fitted_here : bool
        Whether the model was fitted on this tomogram.
    fitted_wedge : MissingWedge, optional
        What fitting was shown of a tomogram of which tilts were hidden from it.
    """

    name: str
    model: str
    volumes: list[Volume]
    region: tuple[slice, slice, slice]
    kept_out_boxes: list[Any]
    fitted_here: bool
    fitted_wedge: MissingWedge | None = None


class Checks:
    """The checks of one tomogram, from arrays to plain data."""

    def __init__(
        self, checked: Checked, tomogram: WorkingTomogram, turns_deg: Sequence[float], *, seed: int
    ) -> None:
        self.checked, self.tomogram, self.turns_deg = checked, tomogram, list(turns_deg)
        self.generator = torch.Generator().manual_seed(seed)
        self.voxel = tomogram.voxel_size_angstrom

    def run(self) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Do all of them; return the result and the volumes to be drawn, on the working grid."""
        tomogram = self.tomogram
        geometry = self.geometry()
        reasons = [judge_geometry(geometry), judge_model(fitted_here=self.checked.fitted_here)]
        found: dict[str, Any] = dict.fromkeys(
            ("held_out", "hidden_from_fitting", "measured", "null_tests", "calibration")
        )
        estimates = tomogram.restore_each(tomogram.halves)
        restored = torch.stack(estimates).mean(dim=0)
        found["null_tests"] = self.nulls(restored)
        if len(tomogram.halves) == 2:
            reasons.append(judge_halves(self.noise_share()))
            found["measured"], gap = self.measured(estimates)
            found["hidden_from_fitting"] = self.strip()
            errors = HiddenErrors(tomogram, chessboard(tomogram))
            found["held_out"], filling = self.held_out(restored, estimates, errors)
            found["calibration"] = self.calibration(estimates, errors)
            reasons += [filling, judge_nulls(found["null_tests"])]
            reasons += [reason for reason in (judge_measured(gap),) if reason is not None]
        else:
            said = "A single volume: its noise cannot be told from its structure, so less can be said."
            reasons.append(Reason("halves", "caution", said))
            found["held_out"], filling = self.held_out_of_single(estimates)
            reasons += [filling, judge_nulls(found["null_tests"])]
        result = {
            **self.header(),
            "verdict": verdict(reasons),
            "reasons": [asdict(reason) for reason in reasons],
            **found,
            "geometry": geometry,
        }
        return plain(result), self.panels(restored)

    @property
    def working_bin(self) -> int:
        return self.tomogram.plan.frame.working_bin

    def header(self) -> dict[str, Any]:
        from cryoaae import __version__

        checked = self.checked
        return {
            "format": FORMAT,
            "version": __version__,
            "name": checked.name,
            "model": checked.model,
            "shape_zyx": list(checked.volumes[0].shape),
            "voxel_size_angstrom": checked.volumes[0].voxel_size_angstrom,
            "working_voxel_angstrom": self.voxel,
            "wedge": self.tomogram.wedge.facts(),
            "region_zyx": [[s.start, s.stop] for s in checked.region],
        }

    def panels(self, restored: Tensor) -> list[tuple[str, Any]]:
        tomogram = self.tomogram
        before = torch.stack(tomogram.halves).mean(dim=0)
        measured = tomogram.wedge.solid().measured(restored)
        volumes = (
            ("Before", before), ("Restored", restored), ("Measured only", measured),
            ("Filled in only", restored - measured),
        )  # fmt: skip
        return [(title, volume[tomogram.core].numpy()) for title, volume in volumes]

    # -- the checks ------------------------------------------------------------------------------

    def geometry(self) -> dict[str, Any]:
        """The stated tilts against those that the spectrum of the whole tomogram shows."""
        volumes, wedge = self.checked.volumes, self.tomogram.wedge
        mean = np.mean([central_block(volume, GEOMETRY_VOXELS) for volume in volumes], axis=0)
        facts, seen, _ = describe_volume(Volume(mean, volumes[0].voxel_size_angstrom), wedge)
        return {
            "stated_range_deg": list(wedge.tilt_range_deg),
            "estimated_range_deg": None if seen is None else list(seen.tilt_range_deg),
            "estimated_axis_deg": None if seen is None else seen.tilt_axis_deg,
            "warnings": facts["warnings"],
        }

    def noise_share(self) -> float:
        """Power of the halves' difference over that of the halves."""
        even, odd = (half[self.tomogram.core].double() for half in self.tomogram.halves)
        return float((even - odd).square().mean() / (even.var() + odd.var()))

    def measured(self, estimates: list[Tensor]) -> tuple[dict[str, Any], float | None]:
        """Where data were measured: parts kept out of fitting beside the rest; and what the rest is better by."""
        boxes, elsewhere = self.masks()
        parts = {
            name: measured_scores(self.tomogram, estimates, where)
            for name, where in (("kept_out", boxes), ("fitted", elsewhere))
        }
        shells = [
            {**self.band(s), **{name: self.measured_facts(found.get(s)) for name, found in parts.items()}}
            for s in range(SHELLS)
        ]
        gaps = [
            self.gap(fitted.powers, parts["kept_out"][shell].powers)
            for shell, fitted in parts["fitted"].items()
            if shell in parts["kept_out"] and fitted.powers.correlation > WELL_MEASURED
        ]
        known = [gap for gap in gaps if math.isfinite(gap)]
        return {"shells": shells}, float(np.mean(known)) if known else None

    def gap(self, fitted: ErrorPower, kept_out: ErrorPower) -> float:
        """Correlation that is lost where fitting has not looked; 0 where noise alone could explain it."""
        low, _ = fitted.interval("correlation", generator=self.generator)
        _, high = kept_out.interval("correlation", generator=self.generator)
        return 0.0 if low <= high else fitted.correlation - kept_out.correlation

    def measured_facts(self, found: MeasuredScore | None) -> dict[str, Any] | None:
        if found is None:
            return None
        raw = {"against_other_half": found.against_other_half, "ceiling": found.ceiling}
        return {**(self.scored(found.powers) or {}), **raw}

    def masks(self) -> tuple[Tensor, Tensor]:
        """Voxels of boxes kept out of fitting and the others, faces of the checked part left out."""
        tomogram, bin_ = self.tomogram, self.working_bin
        inside = tomogram.counted
        boxes = torch.zeros_like(inside)
        offset = [c.start - s.start // bin_ for c, s in zip(tomogram.core, self.checked.region, strict=True)]
        for low, high in self.checked.kept_out_boxes:
            z, y, x = (slice(max(0, a + o), max(0, b + o)) for a, b, o in zip(low, high, offset, strict=True))
            boxes[z, y, x] = True
        return inside & boxes, inside & ~boxes

    def nulls(self, restored: Tensor) -> dict[str, Any]:
        """Power given for noise alone (where there are halves) and for a texture without structure."""
        texture = phase_randomised(self.tomogram, generator=self.generator)
        tests = {"noise_only": noise_only(self.tomogram), "phase_randomised": texture}
        return {
            name: self.null_facts(null_test(self.tomogram, halves, restored)) if halves else None
            for name, halves in tests.items()
        }

    def null_facts(self, test: NullTest) -> dict[str, Any]:
        shells = [
            {**self.band(i), **{name: float(values[i]) for name, values in test.shells.items()}}
            for i in range(SHELLS)
        ]
        return {**test.whole, "shells": shells}

    def turns(self, estimates: list[Tensor], errors: HiddenErrors | None = None) -> list[Turned]:
        """Hide measured tilts, restore, compare."""
        kept_out, _ = self.masks()
        return list(
            hidden_sectors(
                self.tomogram, self.turns_deg, estimates, kept_out=kept_out, generator=self.generator,
                also=None if errors is None else errors.add,
            )
        )  # fmt: skip

    def calibration(self, estimates: list[Tensor], errors: HiddenErrors) -> dict[str, Any] | None:
        """The spread that the errors found call for, fitted on some blocks and checked on others."""
        found = errors.beside_measured(estimates)
        return check_stated_spread(self.tomogram, estimates, found, errors.parts, generator=self.generator)

    def held_out(
        self, restored: Tensor, estimates: list[Tensor], errors: HiddenErrors
    ) -> tuple[dict[str, Any], Reason]:
        """What was made of hidden tilts, and what that says of the wedge."""
        turns = self.turns(estimates, errors)
        by_cell, whole = self.together(turns, ("strict", "lenient"))
        wedge, lenient = self.wedge(restored, by_cell), whole["lenient"]
        slope, recovered = (lenient.slope, lenient.recovered) if lenient else (math.nan, math.nan)
        facts = {**self.hidden_facts(turns, by_cell, whole), "wedge": wedge}
        return facts, judge_filling(wedge, slope, recovered)

    def held_out_of_single(self, estimates: list[Tensor]) -> tuple[dict[str, Any], Reason]:
        """The same of a single volume: a lower bound, and how loud the filling is; nothing of the wedge."""
        turns = self.turns(estimates)
        by_cell, whole = self.together(turns, ("strict",))
        facts = {**self.hidden_facts(turns, by_cell, whole), "wedge": None}
        return facts, judge_single_filling(facts["whole"]["strict"])

    def together(
        self, turns: list[Turned], kinds: Sequence[str]
    ) -> tuple[dict[str, Powers], dict[str, ErrorPower | None]]:
        """All turns together: by kind and cell, and by kind."""
        by_cell = {name: pooled(turns, name, lambda cell: cell) for name in kinds}
        return by_cell, {name: pooled(turns, name, lambda _: "whole").get("whole") for name in kinds}

    def hidden_facts(
        self, turns: list[Turned], by_cell: dict[str, Powers], whole: dict[str, ErrorPower | None]
    ) -> dict[str, Any]:
        """Scores of what was hidden: together, by place, by shell, by shell and distance to measured data."""
        by_shell = {name: pooled(turns, name, lambda cell: cell[0]) for name in by_cell}
        places = pooled(turns, "places", lambda place: place)
        return {
            "turns_deg": self.turns_deg,
            "trusted_correlation": TRUSTED_CORRELATION,
            "whole": {name: self.scored(powers) for name, powers in whole.items()},
            "places": {name: self.scored(places.get(name)) for name in ("kept_out", "fitted")},
            "shells": [
                {**self.band(s), **{name: self.scored(found.get(s)) for name, found in by_shell.items()}}
                for s in range(SHELLS)
            ],
            "cells": self.cell_facts(by_cell),
        }

    def cell_facts(self, found: dict[str, Powers]) -> list[dict[str, Any]]:
        """Scores by shell and distance to measured data."""
        first = next(iter(found.values()))
        return [
            {
                "shell": s,
                "distance_low_per_angstrom": d * DISTANCE_STEP / self.voxel,
                "distance_high_per_angstrom": (d + 1) * DISTANCE_STEP / self.voxel,
                **{name: self.scored(powers[(s, d)]) for name, powers in found.items()},
            }
            for s, d in sorted(first)
        ]

    def strip(self) -> dict[str, Any] | None:
        """What is made of tilts that fitting was never shown; None where it was shown all."""
        fitted = self.checked.fitted_wedge
        if fitted is None:
            return None
        powers = strip_powers(self.tomogram, fitted, self.tomogram.counted)
        by_shell = grouped(powers, lambda cell: cell[0])
        return {
            "fitted_range_deg": list(fitted.tilt_range_deg),
            "whole": self.scored(grouped(powers, lambda _: "whole").get("whole")),
            "shells": [
                {**self.band(s), "strip": self.scored(by_shell.get(s))} for s in range(SHELLS)
            ],
            "cells": self.cell_facts({"strip": powers}),
        }

    def wedge(self, restored: Tensor, found: dict[str, Powers]) -> dict[str, Any]:
        """What may be expected in the tomogram's own wedge."""
        highest = min(SHELL_EDGES[-1], HIGHEST * self.working_bin)
        read: dict[str, Forecast] = {
            name: forecast(self.tomogram, restored, fit_law(powers), highest=highest)
            for name, powers in found.items()
        }
        strict, expected = read["strict"], read["lenient"]  # decision 0012
        trusted = trusted_frequency(expected.shells.tolist())
        return {
            "correlation": {"strict": strict.mean, "expected": expected.mean},
            "extrapolated_share": strict.extrapolated_share,
            "curve": [
                {
                    **self.band(s),
                    "strict": float(strict.shells[s]),
                    "expected": float(expected.shells[s]),
                    "extrapolated_share": float(strict.extrapolated[s]),
                }
                for s in range(SHELLS)
            ],
            "resolution_angstrom": None if trusted is None else self.voxel / trusted,
        }

    # -- plain data ------------------------------------------------------------------------------

    def band(self, shell: int) -> dict[str, float]:
        return {
            "low_per_angstrom": SHELL_EDGES[shell] / self.voxel,
            "high_per_angstrom": SHELL_EDGES[shell + 1] / self.voxel,
        }

    def scored(self, powers: ErrorPower | None) -> dict[str, Any] | None:
        if powers is None:
            return None
        low, high = powers.interval("correlation", generator=self.generator)
        return {
            "correlation": powers.correlation, "interval": [low, high], "slope": powers.slope,
            "slope_interval": list(powers.interval("slope", generator=self.generator)),
            "recovered": powers.recovered, "error": powers.error, "signal": powers.signal,
        }  # fmt: skip

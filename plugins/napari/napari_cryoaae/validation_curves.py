"""The curves of a validation, as numbers ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One curve over spatial frequency in 1/angstrom; NaN where there is no number.

    `low` and `high` are the ends of its interval, where it has one.
    """

    name: str
    sfreq_per_angstrom: NDArray[np.float64]
    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Chart:
    """Curves that belong together."""

    title: str
    axis: str
    curves: tuple[Curve, ...]


def validation_charts(report: Json) -> list[Chart]:
    """What a report.json of `cryoaae validate` holds to be drawn; a single volume's holds nothing."""
    charts = []
    held_out = report.get("held_out")
    if held_out:
        shells = held_out["shells"]
        charts.append(
            Chart("Tilts that were hidden", "correlation", (_score("strict", shells), _score("lenient", shells)))
        )
        if held_out.get("wedge"):
            curve = held_out["wedge"]["curve"]
            kinds = ("strict", "expected")
            lines = tuple(Curve(kind, _centres(curve), _column(curve, kind)) for kind in kinds)
            charts.append(Chart("Expected in the missing wedge", "correlation", lines))
    if report.get("measured"):
        shells = report["measured"]["shells"]
        names = {"kept_out": "kept out of fitting", "fitted": "fitted"}
        lines = tuple(_score(key, shells, name) for key, name in names.items())
        charts.append(Chart("Where data were measured", "correlation", lines))
    if report.get("null_tests"):
        charts.append(Chart("Put out when there is nothing", "power over that of the data", _nulls(report)))
    return [chart for chart in charts if any(np.isfinite(c.values).any() for c in chart.curves)]


def validation_sentences(report: Json) -> list[str]:
    """The verdict, then its reasons, worst first."""
    order = {"ok": 2, "caution": 1}
    reasons = sorted(report["reasons"], key=lambda reason: order.get(reason["level"], 0))
    return [f"{report['name']}: {report['verdict']}", *(reason["sentence"] for reason in reasons)]


def spread_charts(report: Json) -> list[Chart]:
    """What a report.json of `cryoaae sample` holds to be drawn."""
    shells = report.get("shells") or []
    regions = (("measured", "where measured"), ("wedge", "in the wedge"))
    lines = tuple(Curve(name, _centres(shells), _column(shells, region)) for region, name in regions)
    charts = [Chart("Spread of the draws", "spread over restoration", lines)]
    check = (report.get("calibration") or {}).get("check")
    if check:
        names = (("measured", "where measured"), ("hidden", "in hidden tilts"))
        held = tuple(
            curve
            for key, name in names
            for curve in (
                _with_interval(name, check[key], check[key], "after"),
                Curve(f"{name}, before", _centres(check[key]), _column(check[key], "before")),
            )
        )
        charts.append(Chart("Spread against the error", "spread over error, on blocks not used", held))
    return [chart for chart in charts if any(np.isfinite(c.values).any() for c in chart.curves)]


def spread_sentences(report: Json, recalibration: str) -> list[str]:
    """What the draws are and how their spread was calibrated."""
    return [f"{report['name']}: {report['draws']} draws by {report['sampler']}", f"Recalibration: {recalibration}."]


def _nulls(report: Json) -> tuple[Curve, ...]:
    names = {"noise_only": "noise only", "phase_randomised": "random phases"}
    curves = []
    for key, name in names.items():
        null = report["null_tests"].get(key)
        if null:
            shells = null["shells"]
            for region in ("measured", "wedge"):
                curves.append(Curve(f"{name}, {region}", _centres(shells), _column(shells, region)))
    return tuple(curves)


def _score(key: str, shells: Sequence[Json], name: str = "") -> Curve:
    return _with_interval(name or key, shells, [shell.get(key) or {} for shell in shells], "correlation")


def _with_interval(name: str, shells: Sequence[Json], scores: Sequence[Json], key: str) -> Curve:
    """A number of each shell's score, with the score's interval."""
    intervals = [score.get("interval") or (None, None) for score in scores]
    low, high = (np.array([_float(pair[i]) for pair in intervals]) for i in (0, 1))
    return Curve(name, _centres(shells), _column(scores, key), low, high)


def _column(rows: Sequence[Json], key: str) -> NDArray[np.float64]:
    return np.array([_float(row.get(key)) for row in rows])


def _centres(shells: Sequence[Json]) -> NDArray[np.float64]:
    return (_column(shells, "low_per_angstrom") + _column(shells, "high_per_angstrom")) / 2


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)

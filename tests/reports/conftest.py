"""What `cryoaae validate` writes to report.json, simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Result = dict[str, Any]

EDGES = np.array([0.02, 0.07, 0.12, 0.17, 0.22, 0.27, 0.32, 0.37, 0.42]) / 20.0
SHELLS = [
    {"low_per_angstrom": float(a), "high_per_angstrom": float(b)} for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)
]


@pytest.fixture
def result() -> Callable[..., Result]:
    """Numbers of a validation with two halves; keywords replace parts."""
    return simulated_result


@pytest.fixture
def hidden_from_fitting() -> Result:
    """Scores of a strip of tilts, 45 to 60 degrees, that fitting was never shown."""
    shells = [{**shell, "strip": score(0.7 - 0.09 * i, 0.06)} for i, shell in enumerate(SHELLS)]
    cells = [
        {"shell": i, "distance_low_per_angstrom": 0.0, "distance_high_per_angstrom": 0.002, "strip": shell["strip"]}
        for i, shell in enumerate(shells)
    ]
    shells[-1]["strip"] = None
    return {"fitted_range_deg": [-60, 45], "whole": score(0.48, 0.05), "shells": shells, "cells": cells}


@pytest.fixture
def single_volume() -> Result:
    """Numbers of a validation of a single volume: no lenient scores, nothing of the wedge, no noise alone."""
    found = held_out()
    for scores in (found["whole"], *found["shells"], *found["cells"]):
        del scores["lenient"]
    geometry = {"stated_range_deg": [-60, 60], "estimated_range_deg": None, "estimated_axis_deg": None, "warnings": []}
    return simulated_result(
        held_out={**found, "wedge": None},
        measured=None,
        null_tests={"noise_only": None, "phase_randomised": null(0.03)},
        geometry=geometry,
        reasons=[],
    )


@pytest.fixture
def panels() -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    names = ("Before", "Restored", "Measured only", "Filled in only")
    return [(name, draw.normal(size=(24, 28, 32)).astype(np.float32)) for name in names]


def score(correlation: float, width: float = 0.08) -> Result:
    return {
        "correlation": correlation,
        "interval": [correlation - width, correlation + width],
        "slope": 0.95 - 0.5 * (1 - correlation) ** 2,
        "recovered": correlation**2 - 0.05,
        "error": 1 - correlation**2,
        "signal": 1.0,
    }


def held_out() -> Result:
    shells, cells, curve = [], [], []
    for i, shell in enumerate(SHELLS):
        strict, lenient = 0.75 - 0.1 * i, 0.9 - 0.08 * i
        shells.append({**shell, "strict": score(strict), "lenient": score(lenient, 0.05)})
        for j in range(min(2 + i, 6)):
            place = {"distance_low_per_angstrom": 0.002 * j, "distance_high_per_angstrom": 0.002 * (j + 1)}
            drop = 0.09 * j
            cells.append({"shell": i, **place, "strict": score(strict - drop), "lenient": score(lenient - drop)})
        point = {"strict": strict - 0.1, "expected": lenient - 0.1}
        curve.append({**shell, **point, "extrapolated_share": max(0.0, 0.12 * (i - 2))})
    shells[-1]["strict"] = None
    return {
        "turns_deg": [15, 30, 45],
        "whole": {"strict": score(0.55, 0.04), "lenient": score(0.72, 0.03)},
        "places": {"kept_out": score(0.51, 0.09), "fitted": score(0.56, 0.04)},
        "shells": shells,
        "cells": cells,
        "wedge": {
            "correlation": {"strict": 0.41, "expected": 0.52},
            "extrapolated_share": 0.21,
            "curve": curve,
            "resolution_angstrom": 121.4,
        },
        "trusted_correlation": 0.5,
    }


def measured() -> Result:
    shells = []
    for i, shell in enumerate(SHELLS):
        raw = {"ceiling": 0.93 - 0.1 * i}
        shells.append(
            {
                **shell,
                "kept_out": {**score(0.93 - 0.07 * i, 0.03), "against_other_half": 0.9 * raw["ceiling"], **raw},
                "fitted": {**score(0.95 - 0.06 * i, 0.02), "against_other_half": 0.96 * raw["ceiling"], **raw},
            }
        )
    shells[-1]["kept_out"] = None
    return {"shells": shells}


def null(level: float) -> Result:
    shells = [{**s, "measured": level * (1 + i), "wedge": 2 * level * (1 + i)} for i, s in enumerate(SHELLS)]
    return {"measured": 2 * level, "wedge": 4 * level, "shells": shells}


def calibration() -> Result:
    """A spread that holds where data were measured and is a quarter too large in hidden tilts."""

    def found(i: int, after: float) -> Result:
        return {**SHELLS[i], "before": 2.0, "after": after, "interval": [after * 0.9, after * 1.1]}

    deep = {"distance_low_per_angstrom": 0.002, "distance_high_per_angstrom": 0.004}
    levels = {"50": 0.52, "80": 0.81, "90": 0.91, "95": 0.96}
    covered = {"coverage_before": levels, "coverage_after": levels, "spread_share": 0.34}
    factor = {"gain": 0.4, "added_power": 0.0, "interval": [0.3, 0.5], "pooled": False}
    groups = [
        {"stated": s, "found": f, "interval": [f - 0.1, f + 0.1]} for s, f in ((0.5, 0.55), (0.9, 0.92), (1.6, 1.53))
    ]
    return {
        "measured": [{**SHELLS[0], **factor}],
        "edge": [{**SHELLS[1], **factor, "gain": 0.7}],
        "wedge": [{**SHELLS[1], **deep, **factor, "gain": 0.9, "extrapolated": True}],
        "shares": {"extrapolated": 0.4, "added": 0.0, "added_measured": 0.0},
        "check": {
            "measured": [{**found(0, 1.02), **covered}], "hidden": [found(1, 1.25)],
            "whole": {"measured": found(0, 1.02), "hidden": found(1, 1.25)},
            "coverage": {"coverage_before": levels, "coverage_after": levels},
            "hidden_cells": [{**found(1, 1.25), **deep}],
        },
        "places": {
            "found": 0.9, "interval": [0.8, 1.0], "applied": 0.9, "check": {"applied": 0.9, "groups": groups},
        },
    }  # fmt: skip


def simulated_result(**changes: Any) -> Result:
    full = {
        "format": "cryoaae validation 1",
        "version": "0.1.0",
        "name": "tomo",
        "model": "runs/tomo/model",
        "shape_zyx": [96, 112, 128],
        "voxel_size_angstrom": 10.0,
        "working_voxel_angstrom": 20.0,
        "wedge": {"tilt_range_deg": [-60, 60], "tilt_axis_deg": 0.0, "flipped": False},
        "region_zyx": [[0, 96], [0, 112], [0, 128]],
        "verdict": "caution",
        "reasons": [
            {"check": "geometry", "level": "ok", "sentence": "The stated tilts fit those found in the data."},
            {
                "check": "held-out tilts",
                "level": "caution",
                "sentence": "What is filled in agrees with hidden measurements down to 121 Å only, and a fifth of the "
                "missing wedge lies further from measured data than could be tested.",
            },
            {"check": "noise only", "level": "ok", "sentence": "Noise alone gives 2 % of the power."},
        ],
        "held_out": held_out(),
        "hidden_from_fitting": None,
        "measured": measured(),
        "calibration": calibration(),
        "null_tests": {"noise_only": null(0.01), "phase_randomised": null(0.03)},
        "geometry": {
            "stated_range_deg": [-60, 60],
            "estimated_range_deg": [-59, 61.04],
            "estimated_axis_deg": 0.0,
            "warnings": ["the upper end differs by 1°"],
        },
        "seconds": 63.0,
    }
    return {**full, **changes}

"""The numbers of a validation's report.json as arrays and as words, for its figures and its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.evaluation import number

Json = Mapping[str, Any]
INTERVAL = "95\u00a0% interval: what the noise leaves open"
NULL_NAMES = {"noise_only": "noise only", "phase_randomised": "random phases"}


def values(rows: Sequence[Json], *keys: str) -> NDArray[np.float64]:
    """Numbers at a path of keys, one a row; NaN where any part is missing."""
    found: list[Any] = list(rows)
    for key in keys:
        found = [None if value is None else value.get(key) for value in found]
    return np.array([math.nan if value is None else float(value) for value in found], dtype=np.float64)


def intervals(rows: Sequence[Json], kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the intervals of correlations, one a row; NaN where there is none."""
    pairs = [(row[kind] or {}).get("interval") or (None, None) for row in rows]
    low, high = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return low, high


def centres(rows: Sequence[Json], prefix: str = "") -> NDArray[np.float64]:
    """Middles of shells, or with the prefix ``distance_`` of distances, 1/angstrom."""
    return (values(rows, f"{prefix}low_per_angstrom") + values(rows, f"{prefix}high_per_angstrom")) / 2


def has_kept_out(shells: Sequence[Json]) -> bool:
    """Whether boxes kept out of fitting were scored at any resolution."""
    return bool(np.isfinite(values(shells, "kept_out", "correlation")).any())


def is_single(held_out: Json) -> bool:
    """Whether there was a single volume, of which only bounds are known."""
    return held_out["wedge"] is None


def is_open_ended(held_out: Json) -> bool:
    """Whether the expected correlation stays at a trusted one up to the finest shell that was tested."""
    expected = values(held_out["wedge"]["curve"], "expected")
    known = expected[np.isfinite(expected)]
    return bool(known.size and (known >= held_out["trusted_correlation"]).all())


def null_tests(result: Json) -> dict[str, Json]:
    """Null tests that were made, in the order of `NULL_NAMES`."""
    made = result["null_tests"] or {}
    return {name: made[name] for name in NULL_NAMES if made.get(name)}


def angstrom(value: float) -> str:
    """A resolution as people write it, without its unit."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def resolution_text(held_out: Json) -> str:
    """Resolution up to which what is filled in may be trusted; "" where it may not at any."""
    found = held_out["wedge"]["resolution_angstrom"]
    return "" if not found else f"{angstrom(found)} Å{' or better' if is_open_ended(held_out) else ''}"


def range_text(shell: Json) -> str:
    """Resolutions of a shell, coarse to fine."""
    low, high = shell["low_per_angstrom"], shell["high_per_angstrom"]
    fine = angstrom(1 / high)
    return f"{angstrom(1 / low)}–{fine} Å" if low > 0 else f"> {fine} Å"


def is_scored(score: Json | None) -> bool:
    """Whether a correlation was found."""
    return score is not None and score["correlation"] is not None


def score_text(score: Json | None) -> str:
    """A correlation with its interval."""
    if score is None or score["correlation"] is None:
        return "–"
    low, high = score["interval"]
    return f"{number(score['correlation'], 2)} [{number(low, 2)}, {number(high, 2)}]"


def degree(value: float) -> str:
    """An angle to a tenth of a degree."""
    return f"{round(value, 1) + 0.0:g}°".replace("-", "−")


def degrees(pair: Sequence[float]) -> str:
    """A range of angles."""
    return f"{degree(pair[0])} to {degree(pair[1])}"


def listed(words: Sequence[str]) -> str:
    """Words as people list them."""
    return " and ".join([part for part in (", ".join(words[:-1]), words[-1]) if part]) if words else ""

"""What scores say, in sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def verdict(result: Mapping[str, Any]) -> str:
    """Say in one sentence how good an evaluated restoration is."""
    rows, best = result.get("rows"), result["best_null_in_wedge"]
    if rows and best:
        beats = "better than" if result["beats_best_null_in_wedge"] else "NOT better than"
        return (
            f"In the missing wedge the restoration correlates {_wedge_fcc(rows[0]):.3f} with the truth: "
            f"{beats} the best method without a network, {best['fcc']:.3f} ({best['title']})."
        )
    if rows:
        return f"In the missing wedge the restoration correlates {_wedge_fcc(rows[0]):.3f} with the truth."
    return str(result["halves"]["sentences"][0])


def particle_sentence(rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> str:
    """Say how many particles were lost and invented; `facts` is what the counter fixed beforehand."""
    found = rows[0]["particles"]
    before = next((row["particles"] for row in rows if row["name"] == "zero_fill"), None)
    lost, invented = ("", "") if before is None else (f" (input {before[k]})" for k in ("lost", "invented"))
    return (
        f"Of {found['particles']} particles {found['lost']} are lost{lost}; {found['invented']} peaks{invented} stand "
        f"where the truth is empty, of which noise alone would make {facts['noise']['invented']}."
    )


def best_null(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Find the null that is best in the wedge, and what there is to say of the first row, the restoration."""
    restored = rows[0]
    seen = restored["regions"]["seen"]["bands"]
    excess = restored["regions"]["missing"]["bands"]["band"]["excess_power"]
    measured = (
        f"In the measured region the restoration correlates {seen['band']['fcc']:.3f} with the truth; "
        f"coarse detail there has a gain of {seen['low']['slope']:.2f}."
    )
    sentences = [measured]
    if _wedge_fcc(restored) > 0:
        sentences.append(
            f"In the wedge it holds {excess:.2f} times the power that agreement with the truth explains "
            "(1 is honest, far more is invention)."
        )
    nulls = [row for row in rows if row["kind"] == "null"]
    if not nulls:
        return {"sentences": sentences}
    best = max(nulls, key=_wedge_fcc)
    return {
        "sentences": sentences,
        "best_null_in_wedge": {"name": best["name"], "title": best["title"], "fcc": _wedge_fcc(best)},
        "beats_best_null_in_wedge": _wedge_fcc(restored) > _wedge_fcc(best),
    }


def _wedge_fcc(row: Mapping[str, Any]) -> float:
    value = float(row["regions"]["missing"]["bands"]["band"]["fcc"])
    return value if math.isfinite(value) else 0.0

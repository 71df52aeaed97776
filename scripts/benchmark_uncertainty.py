"""Whether the spread of draws is that of the errors, before and after it was calibrated.

    benchmark_uncertainty.py RUN_FOLDER [RUN_FOLDER ...] [--draws K]
    benchmark_uncertainty.py --table

Takes the simulated tomograms and fits that `benchmark_validation.py` leaves behind, draws deviations on the working
grid (kept in benchmark_runs/uncertainty, with the errors found: what stands is not made again), calibrates them from
the two halves and hidden tilts, as `sample` does, and compares the spread with the error of the restoration
against the truth, faces left out: by region and shell, voxel by voxel, and by rank. Rows are appended to
docs/benchmarks/uncertainty.json, the table docs/benchmarks/uncertainty.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, read_rows
from scipy.stats import spearmanr
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume
from cryoaae.io.weights import digest
from cryoaae.metrics.calibration import coverage, local_rms, mean_crps
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.restoration.draw_sources import Bootstrap, covering_axes
from cryoaae.restoration.draw_store import ERRORS, DrawStore
from cryoaae.restoration.found_errors import FoundErrors, chessboard, find_errors, measured_table
from cryoaae.restoration.held_out import SHELLS, Key, cells, scored_cells
from cryoaae.restoration.recalibration import Recalibration, fit_recalibration, powers_of_draws, recalibrated
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.wedge_forecast import wedge_table
from cryoaae.restoration.working import WorkingTomogram

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "uncertainty.json"
TABLE = ROWS.with_suffix(".md")
DRAWN = Path("benchmark_runs") / "uncertainty"
DRAWS, SEED, NOMINAL, WINDOW = 8, 0, 0.9, 5
REGIONS, STATES = ("measured", "wedge"), ("before", "after")
# Must: ratios of measured shells, of the wedge's bands that hidden tilts reach (a factor), and coverage.
MUST_MEASURED, MUST_WEDGE = 0.15, 1.5
MUST_COVERED = {"measured": (0.85, 0.95), "wedge": (0.80, 1.0)}


def drawn(folder: Path, tomogram: WorkingTomogram, count: int) -> tuple[DrawStore, list[Tensor]]:
    """Deviations on the continued working grid; those that stand are not made again."""
    made_from = {"run": folder.name, "model": digest(dict(tomogram.model.state_dict())), "seed": SEED}
    store = DrawStore(DRAWN / folder.name, made_from)
    store.open(tomogram.voxel_size_angstrom, overwrite=False)
    estimate = store.estimate(lambda: tomogram.restore(tomogram.halves))
    missing = [n for n in range(1, count + 1) if not store.path(n).exists()]
    source = Bootstrap(tomogram, estimate, seed=SEED, turns="any") if missing else None
    for number in missing:
        assert source is not None
        store.write(number, source.deviation(number))
        print(f"{folder.name}: draw {number}", flush=True)
    axes = covering_axes(tomogram.plan.frame)
    return store, [continued(torch.from_numpy(d.copy()), axes) for d in store.read_all(count)]


def calibrated(
    tomogram: WorkingTomogram, store: DrawStore, estimates: list[Tensor], deviations: list[Tensor]
) -> tuple[Recalibration, list[Tensor]]:
    """Factors from the halves alone, and the draws with them."""
    path, parts = store.folder / ERRORS, chessboard(tomogram)
    if not path.exists():
        made = find_errors(tomogram, estimates, parts, generator=torch.Generator().manual_seed(SEED))
        write_text(path, json.dumps(made.facts()) + "\n")
    found = FoundErrors.from_facts(json.loads(path.read_text()))
    (powers,) = powers_of_draws(tomogram, sum_of(estimates) / 2, deviations, [tomogram.counted])
    fitted = fit_recalibration(tomogram, found, powers)
    fields = fitted.fields(tomogram)
    generators = (torch.Generator().manual_seed(SEED + 1 + k) for k in range(len(deviations)))
    return fitted, [recalibrated(d, fields, g) for d, g in zip(deviations, generators, strict=True)]


def sum_of(volumes: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(volumes)).sum(dim=0)


class Compared:
    """The error, and deviations before and after, filtered to a band; voxels away from the faces."""

    def __init__(
        self, band: Tensor, where: Tensor, errors: dict[str, Tensor], deviations: dict[str, list[Tensor]]
    ) -> None:
        def inside(volume: Tensor) -> Tensor:
            return irfft(rfft(volume) * band, volume.shape)[where].double()

        self.errors = {name: inside(error) for name, error in errors.items()}
        self.draws = len(deviations["before"])
        self.spread = {
            state: sum_of(inside(d).square() for d in made).div(len(made)).sqrt() for state, made in deviations.items()
        }

    def facts(self) -> dict[str, Any]:
        """Predicted over actual rms, and coverage, in both states."""
        error = self.errors["truth"]
        return {
            state: {
                "ratio": rms(spread) / rms(error),
                "ratio_to_clean": rms(spread) / rms(self.errors["noiseless"]),
                "coverage": coverage(error, spread, nominal=NOMINAL, draws=self.draws),
            }
            for state, spread in self.spread.items()
        }


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def measure(folder: Path, count: int) -> dict[str, Any]:
    from benchmark_error_power import open_run

    tomogram, truth = open_run(folder, "truth")
    clean = tomogram.bring(open_volume(folder / "data" / "noiseless.mrc"))
    estimates = tomogram.restore_each(tomogram.halves)
    estimate = sum_of(estimates) / 2
    store, before = drawn(folder, tomogram, count)
    fitted, after = calibrated(tomogram, store, estimates, before)
    errors = {"truth": estimate - truth, "noiseless": estimate - clean}
    deviations = {"before": before, "after": after}

    def compared(band: Tensor) -> Compared:
        return Compared(band, tomogram.counted, errors, deviations)

    tables = {"measured": measured_table(tomogram), "wedge": wedge_table(tomogram)}
    row: dict[str, Any] = {"run": folder.name, "sampler": "bootstrap", "draws": count, "cells": [], "regions": {}}
    for region, table in tables.items():
        for key, band in scored_cells(table, tomogram.shape):
            row["cells"].append({
                "region": region, "shell": key[0], "distance": key[1], **marks(fitted, region, key),
                **compared(band).facts(),
            })  # fmt: skip
        row["regions"][region] = compared(table >= 0).facts()
    row["regions"]["border"] = compared(border(tables)).facts()
    return {**row, **whole(compared(everything(tables["measured"])), estimate, tomogram), "date": time.strftime("%F")}


def marks(fitted: Recalibration, region: str, key: Key) -> dict[str, Any]:
    """What is said of a factor."""
    factors = getattr(fitted, region)
    beyond = region == "wedge" and bool(fitted.extrapolated[key])
    return {
        "gain": float(factors.gain[key]), "added": float(factors.added[key]), "pooled": bool(factors.pooled[key]),
        "extrapolated": beyond,
    }  # fmt: skip


def everything(table: Tensor) -> Tensor:
    """All coefficients of the shells."""
    z, y, half = table.shape
    return cells((z, y, 2 * (half - 1)), torch.zeros(1), torch.ones(table.shape, dtype=torch.bool)) >= 0


def border(tables: dict[str, Tensor]) -> Tensor:
    """Between what was measured and the wedge: factors there are neither fitted nor tested."""
    return everything(tables["measured"]) & (tables["measured"] < 0) & (tables["wedge"] < 0)


def whole(compared: Compared, estimate: Tensor, tomogram: WorkingTomogram) -> dict[str, Any]:
    """All voxels: size, rank and score, beside two nulls that are given the right size."""
    error, where = compared.errors["truth"], tomogram.counted
    band = everything(measured_table(tomogram))
    contrast = local_rms(irfft(rfft(estimate) * band, tomogram.shape), WINDOW)[where].double()
    nulls = {"constant": torch.full_like(error, rms(error)), "local_rms": contrast * rms(error) / rms(contrast)}
    scores = {name: mean_crps(error, spread) for name, spread in (compared.spread | nulls).items()}
    size = error.abs()
    ranks = {state: float(spearmanr(spread, size).statistic) for state, spread in compared.spread.items()}
    return {
        "whole": compared.facts(), "crps": {name: score / rms(error) for name, score in scores.items()},
        "null_coverage": {name: coverage(error, spread, nominal=NOMINAL) for name, spread in nulls.items()},
        "spearman": {**ranks, "local_rms": float(spearmanr(contrast, size).statistic)},
    }  # fmt: skip


# -- the page ---------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """The page as Markdown, from committed rows alone."""
    lines = [
        "# The spread against the errors, before and after calibration",
        "",
        "Made by `scripts/benchmark_uncertainty.py` from `uncertainty.json`: draws of the bootstrap on simulated "
        "tomograms of 96^3 voxels, calibrated from the two halves and hidden tilts alone; errors against the truth. "
        "Ratio: rms of the spread over rms of the error, 1 is right, below 1 the spread is too small. Covered: voxels "
        f"whose error lies in the nominal {NOMINAL:.0%} interval (Student's, for so many draws). Border: between what "
        "was measured for sure and the wedge that is tested, two Fourier voxels in. `a → b`: before → after.",
        "",
        "| run | draws | measured: ratio | covered | wedge: ratio | covered | border: ratio | all: ratio | covered |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(run_line, rows),
        "",
        "## Which voxels",
        "",
        "Rank correlation of |error| with the spread and with the local rms of the restoration; continuous ranked "
        "probability score in units of the error's rms (less is better; a normal error of constant rms has 0.564), "
        "beside a constant spread and one that follows the local rms, which are both given the error's true size.",
        "",
        "| run | Spearman | local rms | CRPS | constant | local rms |",
        "|---|---|---|---|---|---|",
        *map(rank_line, rows),
        "",
        "## Ratio by shell",
        "",
        "Shells of the working grid, coarse to fine; of the wedge the median over distances.",
        "",
        "| run | region | " + " | ".join(str(shell + 1) for shell in range(SHELLS)) + " |",
        "|---|---|" + "---|" * SHELLS,
        *(shells_line(row, region, state) for row in rows for region in REGIONS for state in STATES),
    ]
    if rows:
        lines += ["", "## What must hold", "", *verdicts(rows)]
    return "\n".join(lines) + "\n"


def arrow(facts: dict[str, Any], name: str, form: str) -> str:
    return " → ".join(format(facts[state][name], form) for state in STATES)


def run_line(row: dict[str, Any]) -> str:
    parts = []
    for region in REGIONS:
        facts = row["regions"][region]
        parts += [arrow(facts, "ratio", ".2f"), arrow(facts, "coverage", ".0%")]
    parts += [arrow(row["regions"]["border"], "ratio", ".2f")]
    parts += [arrow(row["whole"], "ratio", ".2f"), arrow(row["whole"], "coverage", ".0%")]
    return f"| {row['run']} | {row['draws']} | {' | '.join(parts)} |"


def rank_line(row: dict[str, Any]) -> str:
    ranks, scores = row["spearman"], row["crps"]
    rank, score = (" → ".join(f"{values[state]:.3f}" for state in STATES) for values in (ranks, scores))
    return (
        f"| {row['run']} | {rank} | {ranks['local_rms']:.3f} | {score} | {scores['constant']:.3f} "
        f"| {scores['local_rms']:.3f} |"
    )


def shells_line(row: dict[str, Any], region: str, state: str) -> str:
    shown = []
    for shell in range(SHELLS):
        found = [c[state]["ratio"] for c in row["cells"] if c["region"] == region and c["shell"] == shell]
        shown.append(f"{statistics.median(found):.2f}" if found else "–")
    return f"| {row['run']} | {region}, {state} | {' | '.join(shown)} |"


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each must with how many cells or tomograms keep it, before and after."""
    every = [cell for row in rows for cell in row["cells"]]
    seen = [cell for cell in every if cell["region"] == "measured" and not cell["pooled"]]
    reached = [cell for cell in every if cell["region"] == "wedge" and not cell["extrapolated"]]

    def near(cell: dict[str, Any], state: str, name: str = "ratio") -> bool:
        return abs(cell[state][name] - 1) <= MUST_MEASURED

    def near_clean(cell: dict[str, Any], state: str) -> bool:
        return near(cell, state, "ratio_to_clean")

    def within(cell: dict[str, Any], state: str) -> bool:
        return abs(math.log(cell[state]["ratio"])) <= math.log(MUST_WEDGE)

    lines = [
        f"- Measured, shells whose error is known better than to a half: ratio within {MUST_MEASURED:.0%} in "
        f"{count(seen, near)}. Of the error against what the halves have in common, which is all that they can tell: "
        f"{count(seen, near_clean)}.",
        f"- Wedge, bands by shell and distance that hidden tilts reach: within a factor of {MUST_WEDGE:g} in "
        f"{count(reached, within)}.",
    ]
    for region, (low, high) in MUST_COVERED.items():
        shares = [{state: row["regions"][region][state]["coverage"] for state in STATES} for row in rows]
        kept = count(shares, lambda share, state, low=low, high=high: low <= share[state] <= high)
        lines.append(f"- {region.capitalize()}, coverage of {NOMINAL:.0%} from {low:.0%} to {high:.0%}: {kept}.")
    return lines


def count(items: Sequence[dict[str, Any]], good: Callable[..., bool]) -> str:
    """How many items keep a must, in words."""
    before, after = (sum(good(item, state) for item in items) for state in STATES)
    return f"{after} of {len(items)} (before: {before})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_FOLDER")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    for folder in () if options.table else options.runs:
        if (folder.name, options.draws) not in {(row["run"], row["draws"]) for row in read_rows(ROWS)}:
            row = measure(folder, options.draws)
            append(ROWS, row)
            print(folder.name, flush=True)
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

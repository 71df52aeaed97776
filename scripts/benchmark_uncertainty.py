"""Whether the bootstrap's spread is that of the errors, before any recalibration.

    benchmark_uncertainty.py RUN_FOLDER [RUN_FOLDER ...] [--draws K]
    benchmark_uncertainty.py --table

Takes the simulated tomograms and fits that `benchmark_validation.py` leaves behind, draws deviations on the working
grid (kept in benchmark_runs/uncertainty: what stands is not drawn again) and compares them with the error
of the restoration against the truth, faces left out: by region and shell, voxel by voxel, and by rank. Rows are
appended to docs/benchmarks/uncertainty.json, the table docs/benchmarks/uncertainty.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.weights import digest
from cryoaae.metrics.calibration import coverage, coverage_if_right, local_rms
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.restoration.draw_sources import Bootstrap, covering_axes
from cryoaae.restoration.draw_store import DrawStore
from cryoaae.restoration.held_out import SHELLS, cells, scored_cells
from cryoaae.restoration.null_tests import REGIONS, regions
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "uncertainty.json"
TABLE = ROWS.with_suffix(".md")
DRAWN = Path("benchmark_runs") / "uncertainty"
DRAWS, SEED, NOMINAL, WINDOW = 8, 0, 0.9, 5
MUST, GOAL = 0.25, 0.15


def drawn(folder: Path, tomogram: WorkingTomogram, count: int) -> tuple[Tensor, list[Tensor]]:
    """Estimate and deviations on the continued working grid; those that stand are not made again."""
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
    return estimate, [continued(torch.from_numpy(d.copy()), axes) for d in store.read_all(count)]


class Band:
    """Error and deviations filtered to a band, voxels away from the faces, (n,) float64 each."""

    def __init__(self, band: Tensor, where: Tensor, error: Tensor, deviations: Sequence[Tensor]) -> None:
        def inside(volume: Tensor) -> Tensor:
            return irfft(rfft(volume) * band, volume.shape)[where].double()

        self.error = inside(error)
        self.deviations = torch.stack([inside(d) for d in deviations])  # (k, n)

    @property
    def spread(self) -> Tensor:
        return self.deviations.square().mean(dim=0).sqrt()

    def ratios(self) -> dict[str, float]:
        """Predicted over actual rms, about the estimate and about the bootstrap's own mean."""
        actual = self.error.square().mean()
        signs = torch.tensor([1.0 if k % 2 == 0 else -1.0 for k in range(len(self.deviations))])
        about_mean = (self.deviations * signs[:, None]).var(dim=0).mean()
        return {
            "ratio": float((self.spread.square().mean() / actual).sqrt()),
            "ratio_without_bias": float((about_mean / actual).sqrt()),
            "coverage": coverage(self.error, self.spread, nominal=NOMINAL),
        }


def measure(folder: Path, count: int) -> dict[str, Any]:
    from benchmark_error_power import open_run

    tomogram, truth = open_run(folder, "truth")
    estimate, deviations = drawn(folder, tomogram, count)
    where, error = tomogram.counted, estimate - truth
    found: dict[str, Any] = {"cells": [], "regions": {}}
    tables = {name: cells(tomogram.shape, torch.zeros(1), mask) for name, mask in regions(tomogram).items()}
    for region, table in tables.items():
        for (shell, _), band in scored_cells(table, tomogram.shape):
            found["cells"].append({
                "region": region, "shell": shell, **Band(band, where, error, deviations).ratios(),
            })  # fmt: skip
        found["regions"][region] = Band(table >= 0, where, error, deviations).ratios()
    everything = cells(tomogram.shape, torch.zeros(1), torch.ones_like(tables[REGIONS[0]], dtype=torch.bool)) >= 0
    whole = Band(everything, where, error, deviations)
    contrast = local_rms(irfft(rfft(estimate) * everything, tomogram.shape), WINDOW)[where]
    size = whole.error.abs()
    return {
        "run": folder.name, "sampler": "bootstrap", "draws": count, **found, "whole": whole.ratios(),
        "spearman": float(spearmanr(whole.spread, size).statistic),
        "spearman_null": float(spearmanr(contrast, size).statistic),
        "date": time.strftime("%F"),
    }  # fmt: skip


def read_rows() -> list[dict[str, Any]]:
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    lines = [
        "# The bootstrap's spread against the errors, before any recalibration",
        "",
        "Made by `scripts/benchmark_uncertainty.py` from `uncertainty.json`. Ratio: rms of the spread over rms of the "
        "error against the truth, 1 is right, below 1 the spread is too small; in brackets the spread about the "
        "bootstrap's own mean, without its bias. Covered: share of voxels whose error lies in the nominal "
        f"{NOMINAL:.0%} interval; beside the number of draws what a right spread from so few would cover. Spearman: "
        "rank correlation of |error| with the spread, and with the local rms of the restoration (the null).",
        "",
        "| run | draws | measured: ratio | covered | wedge: ratio | covered | Spearman | null |",
        "|---|---|---|---|---|---|---|---|",
        *map(run_line, rows),
        "",
        "## Ratio by shell",
        "",
        "Shells of the working grid, coarse to fine.",
        "",
        "| run | region | " + " | ".join(str(shell + 1) for shell in range(SHELLS)) + " |",
        "|---|---|" + "---|" * SHELLS,
        *(shells_line(row, region) for row in rows for region in REGIONS),
    ]
    every = [cell["ratio"] for row in rows for cell in row["cells"]]
    if every:
        within = {limit: sum(abs(ratio - 1) <= limit for ratio in every) for limit in (MUST, GOAL)}
        lines += [
            "",
            f"{within[MUST]} of {len(every)} cells within {MUST:.0%} (must: all, after recalibration), {within[GOAL]} "
            f"within {GOAL:.0%}.",
        ]
    return "\n".join(lines) + "\n"


def run_line(row: dict[str, Any]) -> str:
    parts, right = [], coverage_if_right(row["draws"], nominal=NOMINAL)
    for region in REGIONS:
        facts = row["regions"][region]
        parts.append(f"{facts['ratio']:.2f} ({facts['ratio_without_bias']:.2f}) | {facts['coverage']:.0%}")
    draws, ranks = f"{row['draws']} ({right:.0%})", f"{row['spearman']:.2f} | {row['spearman_null']:.2f}"
    return f"| {row['run']} | {draws} | {' | '.join(parts)} | {ranks} |"


def shells_line(row: dict[str, Any], region: str) -> str:
    found = {cell["shell"]: cell["ratio"] for cell in row["cells"] if cell["region"] == region}
    curve = [found.get(shell, math.nan) for shell in range(SHELLS)]
    return f"| {row['run']} | {region} | " + " | ".join("–" if math.isnan(r) else f"{r:.2f}" for r in curve) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_FOLDER")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    for folder in () if options.table else options.runs:
        if (folder.name, options.draws) not in {(row["run"], row["draws"]) for row in read_rows()}:
            row = measure(folder, options.draws)
            write_text(ROWS, json.dumps([*read_rows(), row], indent=1) + "\n")
            print(folder.name, flush=True)
    write_text(TABLE, table(read_rows()))


if __name__ == "__main__":
    main()

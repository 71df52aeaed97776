"""How far fits that differ by their seed alone lie apart: CryoGEN-II against CryoGEN-I, the method's claim.

    benchmark_prior_spread.py [VARIANT ...] [--seeds 4] [--dry-run]
    benchmark_prior_spread.py --table

One simulated tomogram of 96^3 voxels, that of the screen's first seed in `benchmark_priors.py`, is fitted by each
variant with as many steps from seeds of its own, and restored. The spread of a variant is the variance over its runs,
over the power of their mean, in the wedge and where tilts measured. The ratio of two variants' spreads has a standard
error by leaving out one run of each after the other. Runs lie in benchmark_runs/prior_spread and are made once; rows
are appended to docs/benchmarks/prior_spread.json, the page prior_spread.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmark_priors import DATA, SCREEN
from benchmark_restoration import evaluated, legs, restored
from benchmark_rows import append, provenance, read_rows
from priors_proxy import tensor
from priors_table import PLAIN, VARIANTS
from restoration_conditions import FIRST_SEED, Data, Run, prepared
from restoration_table import scores_of
from torch import Tensor

from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.metrics.fsc import region_masks
from cryoaae.physics.fourier import multiplicity, rfft

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "prior_spread.json"
RUNS = Path("benchmark_runs") / "prior_spread"
FIRST, SECOND = "cryogen1", "cryogen2"
TRIED = (PLAIN, FIRST, SECOND)
SEEDS, STEPS = 4, 120
REGIONS = {"seen": "where measured", "missing": "in the wedge"}
SHOWN = {"cc": "cc", "seen": "seen", "wedge": "in wedge", "low": "lo", "mid": "mid"}
NORMAL_95 = 1.96


def output_of(variant: str, seed: int, data: Data) -> tuple[Path, float]:
    """The restoration of a run, made unless it stands, and the CPU-seconds of its fit."""
    folder = RUNS / variant / str(seed)
    settings = FitSettings(**{**VARIANTS[variant].settings, "seed": seed, "steps": STEPS, "minutes": None})
    (leg,) = legs(data, settings, [STEPS], folder)
    output = folder / "restored.mrc"
    if not output.exists():
        restored(data, leg.folder, output)
    return output, leg.cpu_seconds


def products(volumes: Sequence[Tensor], data: Data) -> dict[str, list[list[float]]]:
    """Inner products of volumes (z, y, x) without their means, by region: all that the spread needs."""
    shape = volumes[0].shape
    masks = region_masks(shape, data.wedge)
    spectra = torch.stack([rfft((v - v.mean()).double()) for v in volumes])
    found = {}
    for region in REGIONS:
        part = (spectra * (masks[region] * multiplicity(shape)).sqrt()).flatten(1)
        found[region] = (part @ part.conj().T).real.tolist()
    return found


def measured(variant: str, seeds: int, data: Data) -> dict[str, Any]:
    """The row of a variant."""
    made = [output_of(variant, seed, data) for seed in range(seeds)]
    found = [evaluated(data, output, baselines=False)["rows"][0] for output, _ in made]
    return {
        "variant": variant, "seeds": seeds, "steps": STEPS, "products": products([tensor(o) for o, _ in made], data),
        "scores": [scores_of(entry, units=1.0, curves=False) for entry in found],
        "cpu_seconds": [round(seconds) for _, seconds in made],
        "settings": asdict(FitSettings(**VARIANTS[variant].settings)), **provenance(),
    }  # fmt: skip


# -- the page ------------------------------------------------------------------------------------------


def spread(products_of_runs: Sequence[Sequence[float]]) -> float:
    """Variance over runs, over the power of their mean, of runs given by their inner products."""
    gram = torch.tensor(products_of_runs, dtype=torch.float64)
    n = len(gram)
    mean = gram.mean()
    return float((gram.diagonal().sum() - n * mean) / (n - 1) / mean)


def log_spread(products_of_runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Logarithm of the spread and its standard error, by the jackknife over runs (Efron 1982)."""
    gram = torch.tensor(products_of_runs, dtype=torch.float64)
    n, everyone = len(gram), torch.arange(len(gram))
    without = []
    for left in range(n):
        kept = everyone[everyone != left]
        without.append(math.log(spread(gram[kept][:, kept].tolist())))
    middle = statistics.fmean(without)
    return math.log(spread(products_of_runs)), math.sqrt((n - 1) / n * sum((x - middle) ** 2 for x in without))


def ratio(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Ratio of the standard deviations of two variants' runs, other over one, and its 95 % interval."""
    (a, a_error), (b, b_error) = log_spread(one), log_spread(other)
    half = NORMAL_95 * math.hypot(a_error, b_error) / 2
    middle = (b - a) / 2
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown; the last row of a variant counts."""
    last = {row["variant"]: row for row in rows}
    head = ["", "runs", "steps", *REGIONS.values(), *SHOWN.values(), "CPU-s of a fit"]
    lines = [
        "# How far runs lie apart", "",
        "Made by `scripts/benchmark_prior_spread.py` from `prior_spread.json`: fits of one tomogram of 96³ voxels that "
        "differ by their seed alone. Spread: standard deviation over runs, over the root mean square of their mean, in "
        "per cent. Scores: mean ± standard deviation over runs.", "",
        f"| {' | '.join(head)} |", "|" + "---|" * len(head), *map(_line, last.values()), "",
    ]  # fmt: skip
    if FIRST in last and SECOND in last:
        for region, words in REGIONS.items():
            found, low, high = ratio(*(last[name]["products"][region] for name in (FIRST, SECOND)))
            verdict = "steadier" if high < 1 else "less steady" if low > 1 else "no difference beyond the error"
            lines.append(f"- CryoGEN-II over CryoGEN-I, {words}: {found:.2f} ({low:.2f} to {high:.2f}); {verdict}.")
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    cells = [VARIANTS[row["variant"]].title, str(row["seeds"]), str(row["steps"])]
    cells += [f"{100 * math.sqrt(spread(row['products'][region])):.2f}" for region in REGIONS]
    for name in SHOWN:
        each = [scores[name] for scores in row["scores"]]
        cells.append(f"{statistics.fmean(each):.3f} ± {statistics.stdev(each):.4f}")
    cells.append(f"{statistics.fmean(row['cpu_seconds']):.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=TRIED, metavar="VARIANT", help=f"default: {' '.join(TRIED)}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--dry-run", action="store_true", help="print the plan")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(VARIANTS)}")
    stands = {row["variant"] for row in read_rows(ROWS)}
    for name in [] if options.table else options.variants:
        if options.dry_run:
            print(f"{name:<20}{'done' if name in stands else f'{options.seeds} fits of {STEPS} steps'}")
        elif name not in stands:
            row = measured(name, options.seeds, prepared(Run(SCREEN, "default", FIRST_SEED), DATA))
            append(ROWS, row)
            print(json.dumps(row["scores"]), flush=True)
    if not options.dry_run and read_rows(ROWS):
        write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

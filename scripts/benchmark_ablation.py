"""Leave parts of the method out, one at a time, to see what each brings and what it costs.

    benchmark_ablation.py [--seeds 1 2 3] [--steps 400]

Each seed is another simulated tomogram (96^3 voxels of 10 A) and another fit. Rows are appended to
docs/benchmarks/ablation.json; those that are there are not measured again, so an interrupted run
goes on. The table docs/benchmarks/ablation.md is made from the rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from benchmark_phantoms import honesty, nothing_from_nothing

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.tilts import read_tilts
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import ConsoleProgress

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "ablation.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "ablation"
# What differs from the defaults. Presence is learned after the fit, so leaving it out needs no fit of its own.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "presence=false": {},
    "refills=0": {"refills": 0},
    "axis_share": {"axis_share": 0.0 if FitSettings.axis_share else 0.5},
}
COLUMNS = {
    "cc": "cc", "wedge_fcc": "in wedge", "seen_fcc": "seen", "excess_power_wedge": "power over explained, wedge",
    "noise_wedge": "noise, wedge", "noise_seen": "noise, seen", "phases_wedge": "random phases, wedge",
}  # fmt: skip


def simulated(seed: int) -> Path:
    folder = RUNS / f"tomogram_{seed}"
    if not (folder / "meta.json").exists():
        cryoaae.simulate(folder, shape_zyx=(96, 96, 96), snr=0.5, seed=seed)
    return folder


def without_presence(run: Path) -> Path:
    """Copy of a run whose restorer takes structure for certain."""
    bare = run.with_name("presence=false")
    shutil.copytree(run, bare, dirs_exist_ok=True)
    model = cryoaae.Restorer.load(run)
    model.presence_known.fill_(False)
    model.save(bare / "model.safetensors")
    return bare


def measure(variant: str, seed: int, steps: int) -> dict[str, Any]:
    folder = simulated(seed)
    halves = {"even": folder / "even.mrc", "odd": folder / "odd.mrc"}
    run = RUNS / f"seed_{seed}" / variant
    if variant == "presence=false":
        run = without_presence(run.with_name("default"))
    else:
        settings = FitSettings(seed=seed, steps=steps, minutes=None, **VARIANTS[variant])
        tilts = folder / "tilts.tlt"
        cryoaae.fit([], run, **halves, tilts=tilts, settings=settings, overwrite=True, progress=ConsoleProgress())
    output = run / "restored.mrc"
    cryoaae.restore([], output, model=run, **halves, symmetries=True, halves=True, overwrite=True)
    wedge = MissingWedge.from_tilts(read_tilts(folder / "tilts.tlt"))
    scores = cryoaae.evaluate(output, wedge=wedge, truth=folder / "truth.mrc", **halves, output=run / "evaluation")
    rows = {row["name"]: row for row in scores["rows"]}
    regions = {name: row["regions"] for name, row in rows.items()}
    in_wedge = {name: region["missing"]["bands"]["band"]["fcc"] for name, region in regions.items()}
    best_null = max(value for name, value in in_wedge.items() if name not in ("restored", "oracle"))
    return {
        "variant": variant, "seed": seed, "steps": steps, "cc": rows["restored"]["cc"],
        "wedge_fcc": in_wedge["restored"],
        "seen_fcc": regions["restored"]["seen"]["bands"]["band"]["fcc"],
        "best_null_wedge_fcc": best_null,
        **honesty(scores["rows"]), **nothing_from_nothing(folder, run, wedge, seed),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Ablation", "",
        "Made by `scripts/benchmark_ablation.py` from `ablation.json`: simulated tomograms, mean and range over seeds. "
        "The last three columns are the power of what is restored from noise and from the phase-randomised tomogram, "
        "over that from the tomogram.", "",
        f"| | seeds | {' | '.join(COLUMNS.values())} |", "|---" * (2 + len(COLUMNS)) + "|",
    ]  # fmt: skip
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in own]
            cells.append(f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "")
        title = f"axis_share={VARIANTS[variant]['axis_share']}" if variant == "axis_share" else variant
        lines.append(f"| {title} | {len(own)} | {' | '.join(cells)} |")
    nulls = sorted({(row["seed"], round(row["best_null_wedge_fcc"], 3)) for row in rows})
    lines += ["", "Best null in the wedge: " + ", ".join(f"{value} (seed {seed})" for seed, value in nulls) + ".", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    for seed in options.seeds:
        for variant in VARIANTS:
            done = {(row["variant"], row["seed"], row["steps"]) for row in rows}
            if (variant, seed, options.steps) in done:
                continue
            rows.append(measure(variant, seed, options.steps))
            print(json.dumps(rows[-1]))
            ROWS.parent.mkdir(parents=True, exist_ok=True)
            write_text(ROWS, json.dumps(rows, indent=1) + "\n")
            write_text(TABLE, table(rows))


if __name__ == "__main__":
    main()

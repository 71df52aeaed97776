"""The 2-D family against published numbers, on MNIST.

    benchmark_aae.py --tier floor|goal [--data FOLDER] [--rows NAME ...] [--processes 2]
    benchmark_aae.py --table

Rows are appended to docs/benchmarks/aae.json and the table docs/benchmarks/aae.md is made from them.
The floor tier is one seed of small nets, all of it within 25 minutes of two cores; it ends with exit
code 1 if a number misses its floor. The goal tier is five seeds fitted side by side; its runs take
hours, lie in benchmark_runs/aae and go on where they were stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance, read_rows

from cryoaae.io.atomic import write_text
from cryoaae.io.images import load_images
from cryoaae.metrics.clustering import majority_error
from cryoaae.metrics.probes import kmeans_assign

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "aae.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "aae"
STACK = 5
BELOW_K_MEANS = 4.0  # points of error
AT_THE_FLOOR = 3.0  # standard deviations of an MMD between two clouds of one law
# What a row of the goal tier must have been fitted for on a CPU.
LEAST_CPU_SECONDS = 3600.0


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Parameters
    ----------
    title : str
    arguments : str
        Of `cryoaae aae`.
    goal : str or None
        Further arguments of the goal tier; None: it has none.
    shown : tuple of str
        Metrics in the table, the judged one first.
    floor : float or None
        What the first metric must reach in the floor tier.
    higher : bool
        Whether more is better.
    paper, public : str
        The published number and the best that public code has reached.
    goals : tuple of float
        What the mean over the seeds of the goal tier shall reach, the easier first.
    judged : str
        Metric that the goals are about; "": the first shown.
    chosen_of : int
        Fits of the floor tier side by side, of which the one counts that does best on images kept for choosing: which
        clusters are found is a matter of luck.
    cpu_seconds : float or None
        What fitting may take in the floor tier.
    """

    title: str
    arguments: str
    goal: str | None = None
    shown: tuple[str, ...] = ()
    floor: float | None = None
    higher: bool = False
    paper: str = ""
    public: str = ""
    cpu_seconds: float | None = None
    goals: tuple[float, ...] = ()
    judged: str = ""
    chosen_of: int = 1

    @property
    def goal_metric(self) -> str:
        return self.judged or self.shown[0]

    def reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.higher else value <= bound


ERROR, HELD_OUT = "test_error_percent", "validation_error_percent"
GENERATED = ("generated_accuracy_percent", "conditional_accuracy_percent", "two_sample_accuracy", "mmd2")
CONFIDENT = "confident_error_percent"  # the paper's protocol, so its numbers are held against this one
CHOSEN_BY = "validation_majority_error_percent"
CLUSTERS = ("majority_error_percent", CONFIDENT, "nmi", "ari", "clusters_used")
PLANE = ("holes_percent", "spill_percent", "two_sample_accuracy", "mmd2", "half_squared_error")
TABLE_ROWS = {
    "semisupervised-100": Row(
        "semi-supervised, 100 labels: test error %", "semisupervised",
        "--epochs 104", (ERROR, HELD_OUT, *GENERATED), 8.0,
        paper="1.90 ± 0.10", public="about 4.0", cpu_seconds=150, goals=(4.0, 1.90),
    ),
    "semisupervised-1000": Row(
        "semi-supervised, 1000 labels: test error %", "semisupervised --labels 1000",
        "--epochs 104", (ERROR, HELD_OUT, *GENERATED), 5.0,
        paper="1.60 ± 0.08", public="2.90", goals=(2.9, 1.60),
    ),
    "parzen": Row(
        "log-likelihood by Parzen window, nats", "aae --preset parzen", "--epochs 41",
        ("parzen_nats", "parzen_standard_error", "half_squared_error"), 300.0, higher=True,
        paper="340 ± 2", public="339.8 ± 1.9, 345 ± 1.9", goals=(340.0,),
    ),
    "clustering-16": Row(
        "16 clusters: error %, majority map", "clustering",
        "--epochs 130", CLUSTERS, 27.0,
        paper="9.55 ± 2.05 (confident map)", public="none", goals=(9.6,), judged=CONFIDENT, chosen_of=STACK,
    ),
    "clustering-30": Row(
        "30 clusters: error %, majority map", "clustering --clusters 30",
        "--epochs 130", CLUSTERS, None,
        paper="4.10 ± 1.13 (confident map)", public="none", goals=(4.1,), judged=CONFIDENT, chosen_of=STACK,
    ),
    "reduction-2": Row(
        "reduction to 2-D, 100 labels: test error %", "dimension-reduction", "--epochs 120",
        (ERROR, "knn_accuracy_percent", "heads_apart_percent"), 15.0, paper="6.08", public="about 15", goals=(6.1,),
    ),
    "reduction-2-1000": Row(
        "reduction to 2-D, 1000 labels: test error %", "dimension-reduction --labels 1000", None,
        (ERROR, "knn_accuracy_percent", "heads_apart_percent"), paper="4.20",
    ),
    "reduction-10": Row(
        "reduction to 10-D, 100 labels: test error %", "dimension-reduction --set prior.dim=10", None,
        (ERROR, "knn_accuracy_percent", "heads_apart_percent"), paper="3.90",
    ),
    "reduction-3-unsupervised": Row(
        "reduction to 3-D, no labels, 20 clusters: error %, majority map",
        "dimension-reduction --labels 0 --clusters 20 --set prior.dim=3", None,
        (CLUSTERS[0], "knn_accuracy_percent", "clusters_used"), paper="13.3 (2-D, confident map)",
        public="about 40 (2-D)",
    ),
    "labelled": Row(
        "prior told 10,000 labels: codes in their own component, %", "labelled", None,
        ("own_component_percent", *PLANE), 85.0, higher=True, paper="pictures", public="pictures",
    ),
    "supervised": Row(
        "supervised: label read from the style, %", "supervised", None,
        ("style_leak_percent", "conditional_accuracy_percent", "judge_accuracy_percent", "half_squared_error"), 30.0,
        paper="pictures", public="leaks",
    ),
    "aae-universal": Row(
        "universal approximator, 2-D Gaussian: holes in the prior, %", "aae --set encoder=universal", None, PLANE,
    ),
    "aae-gaussian-encoder": Row(
        "Gaussian encoder, 2-D Gaussian: holes in the prior, %", "aae --set encoder=gaussian", None, PLANE,
    ),
    "aae-gaussian": Row("AAE, 2-D Gaussian: holes in the prior, %", "aae", None, PLANE, paper="pictures"),
    "vae-gaussian": Row("VAE, 2-D Gaussian: holes in the prior, %", "vae", None, PLANE, paper="pictures"),
    "aae-mixture": Row("AAE, mixture: holes in the prior, %", "aae --latent mixture", None, PLANE, paper="pictures"),
    "vae-mixture": Row("VAE, mixture: holes in the prior, %", "vae --latent mixture", None, PLANE, paper="pictures"),
    "wae": Row("WAE-MMD, 2-D Gaussian: holes in the prior, %", "wae", None, PLANE),
    "sinkhorn": Row("Sinkhorn autoencoder, 2-D Gaussian: holes in the prior, %", "sinkhorn", None, PLANE),
    "evia": Row(
        "EVIA, 2-D Gaussian: MMD^2 of the posteriors' aggregate", "evia", None,
        ("mmd2", "mmd2_floor_sd", "mmd2_half_the_classes", "mmd2_half_the_classes_without_potential",
         "posterior_std_over_prior", "half_squared_error"),
    ),
}  # fmt: skip


GOAL_ROWS = {name: row for name, row in TABLE_ROWS.items() if row.goals}


def measure(name: str, tier: str, data: Path, device: str = "cpu") -> dict[str, Any]:
    """Fit and score one row in a process of its own, on one thread."""
    row = TABLE_ROWS[name]
    folder = RUNS / tier / name
    command = [sys.executable, "-m", "cryoaae", "aae", *row.arguments.split(), "--data", str(data), "-o", str(folder)]
    command += ["--threads", "1", "-q", "--device", device]
    if tier == "goal":
        command += [*(row.goal or "").split(), "--stack-seeds", str(STACK)]
    elif row.chosen_of > 1:
        command += ["--stack-seeds", str(row.chosen_of)]
    command += ["--resume"] if tier == "goal" and (folder / "run.json").exists() else ["--overwrite"]
    started = time.monotonic()
    subprocess.run(command, check=True)
    result = json.loads((folder / "result.json").read_text())
    return {
        "row": name, "tier": tier, "arguments": " ".join(command[4:]).replace(str(data), "MNIST"),
        "metrics": result["metrics"] if tier == "goal" else chosen(result), "each_seed": result["each_seed"],
        "seeds": result["seeds"], "failed_seeds": result["failed_seeds"], "curve": curve(folder),
        "cpu_seconds": result["cpu_seconds"], "wall_seconds": round(time.monotonic() - started, 1),
        **provenance(device),
    }  # fmt: skip


def chosen(result: dict[str, Any]) -> dict[str, float]:
    """Metrics of the fit that counts: the only one, or the best on images that are kept for choosing."""
    if len(result["each_seed"]) < 2:
        metrics: dict[str, float] = result["metrics"]
        return metrics
    return dict(min(result["each_seed"], key=lambda seed: seed[CHOSEN_BY]))


def curve(folder: Path) -> list[dict[str, float]]:
    """Readings of a run on images kept out of fitting: the mean over its seeds of each diagnostic."""
    with (folder / "metrics.csv").open(newline="") as file:
        readings = list(csv.DictReader(file))
    names = dict.fromkeys(key.rpartition("_seed")[0] for key in readings[0] if "_seed" in key)
    found = []
    for reading in readings:
        mean = {"step": float(reading["step"]), "cpu_seconds": float(reading["cpu_seconds"])}
        for name in names:
            each = [float(value) for key, value in reading.items() if key.rpartition("_seed")[0] == name]
            mean[name] = float(f"{statistics.fmean(each):.5g}")
        found.append(mean)
    return found


def baseline(clusters: int, data: Path) -> dict[str, Any]:
    """k-means on 50 principal components, mapped as the clusters are."""
    split = load_images(data)
    named, scored = split.validation, split.test
    _, assigned = kmeans_assign(split.train.pixels, torch.cat([named.pixels, scored.pixels]), clusters)
    n = len(named.labels)
    error = 100 * majority_error(assigned[n:], scored.labels, assigned[:n], named.labels)
    return {"row": f"kmeans-{clusters}", "tier": "floor", "metrics": {"majority_error_percent": error}}


def latest(rows: list[dict[str, Any]], tier: str) -> dict[str, dict[str, Any]]:
    """Return the last measurement of every row."""
    return {row["row"]: row for row in rows if row["tier"] == tier}


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Floors that the last measurements miss, in words."""
    found, missed = latest(rows, "floor"), []

    def need(name: str, metric: str, bound: float, *, at_least: bool = False) -> None:
        if name in found:
            value = found[name]["metrics"][metric]
            if (value < bound) if at_least else (value > bound):
                missed.append(f"{name}: {metric} is {value:.3g}, not {'≥' if at_least else '≤'} {bound:.3g}")

    for name, row in TABLE_ROWS.items():
        if row.floor is not None:
            need(name, row.shown[0], row.floor, at_least=row.higher)
        if row.cpu_seconds is not None and name in found and found[name]["cpu_seconds"] > row.cpu_seconds:
            missed.append(f"{name}: {found[name]['cpu_seconds']} CPU-seconds, more than {row.cpu_seconds:g}")
    need("supervised", "conditional_accuracy_percent", 90.0, at_least=True)
    if "kmeans-30" in found:
        error = "majority_error_percent"
        need("clustering-30", error, found["kmeans-30"]["metrics"][error] - BELOW_K_MEANS)
    if "evia" in found:
        noise = AT_THE_FLOOR * found["evia"]["metrics"]["mmd2_floor_sd"]
        need("evia", "mmd2", noise)
        need("evia", "mmd2_half_the_classes", noise)
        need("evia", "mmd2_half_the_classes_without_potential", noise, at_least=True)
    for law in ("gaussian", "mixture"):
        if f"vae-{law}" in found:
            need(f"aae-{law}", "holes_percent", found[f"vae-{law}"]["metrics"]["holes_percent"])
    return missed


def verdict(row: Row, measured: dict[str, Any]) -> str:
    """Which goals the mean over the seeds reaches, in words; and whether the run was long enough to say so."""
    mean = statistics.fmean(seed[row.goal_metric] for seed in measured["each_seed"])
    said = [f"{bound:g} {'reached' if row.reaches(mean, bound) else 'not reached'}" for bound in row.goals]
    if not measured["machine"].startswith("GPU") and measured["cpu_seconds"] < LEAST_CPU_SECONDS:
        said.append(f"only {measured['cpu_seconds'] / 60:.0f} CPU-minutes")
    return ", ".join(said)


def unreached(rows: list[dict[str, Any]]) -> list[str]:
    """Goals that the last measurements of the goal tier do not reach, or that have none."""
    found = latest(rows, "goal")
    said = {name: verdict(row, found[name]) if name in found else "not measured" for name, row in GOAL_ROWS.items()}
    return [f"{name}: {words}" for name, words in said.items() if "not " in words or "only " in words]


def unmeasured(rows: list[dict[str, Any]]) -> list[str]:
    """Rows that no measurement of the floor tier stands for."""
    return [f"{name}: not measured" for name in TABLE_ROWS if name not in latest(rows, "floor")]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the page of the benchmark."""
    lines = [
        "# The 2-D family on MNIST", "",
        "Made by `scripts/benchmark_aae.py` from `aae.json`. 50,000 images to fit on, 10,000 to choose settings by, "
        "10,000 to score once. Paper: Makhzani et al. 2016. No public code is known to have reached the paper's "
        "1.90 % at 100 labels, or its clustering errors.", "",
        "## Floor tier: seed 0, small nets, one thread each", "",
        "| | paper | best public code | ours | beside it | CPU-seconds of fitting |", "|---" * 6 + "|",
    ]  # fmt: skip
    found = latest(rows, "floor")
    for name, row in TABLE_ROWS.items():
        if name in found:
            lines.append(_line(row, found[name]))
    for clusters in (16, 30):
        if (k_means := found.get(f"kmeans-{clusters}")) is not None:
            error = k_means["metrics"]["majority_error_percent"]
            lines.append(f"| k-means, {clusters} clusters, on 50 principal components | | | {error:.1f} | | |")
    missed = failures(rows)
    lines += ["", "Floors missed: " + ("; ".join(missed) if missed else "none") + ".", ""]
    goals = latest(rows, "goal")
    lines += [f"## Goal tier: {STACK} seeds fitted side by side", ""]
    if goals:
        head = ["", "paper", "best public code", "ours, mean ± sd (range)", "goals", "epochs", "CPU-seconds"]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [_goal_line(row, goals[name]) for name, row in GOAL_ROWS.items() if name in goals]
        lines.append("")
    lines.append("Goals not reached: " + ("; ".join(unreached(rows)) or "none") + ".")
    return "\n".join([*lines, ""])


def _line(row: Row, measured: dict[str, Any]) -> str:
    metrics = measured["metrics"]
    first, *others = row.shown
    beside = ", ".join(f"{name.removesuffix('_percent').replace('_', ' ')} {metrics[name]:.3g}" for name in others)
    floor = "" if row.floor is None else f" (must {'≥' if row.higher else '≤'} {row.floor:g})"
    ours, seconds = f"**{metrics[first]:.3g}**{floor}", f"{measured['cpu_seconds']:.0f}"
    fits = len(measured.get("each_seed", [None]))
    title = row.title if fits == 1 else f"{row.title}, of {fits} fits the best on validation images"
    cells = [title, row.paper, row.public, ours, beside, seconds]
    return f"| {' | '.join(cells)} |"


def _goal_line(row: Row, measured: dict[str, Any]) -> str:
    each = [seed[row.goal_metric] for seed in measured["each_seed"]]
    ours = f"**{statistics.fmean(each):.3g} ± {statistics.stdev(each):.2g}** ({min(each):.3g} to {max(each):.3g})"
    words = measured["arguments"].split()
    epochs = words[len(words) - words[::-1].index("--epochs")] if "--epochs" in words else ""
    title = row.title if row.goal_metric == row.shown[0] else row.title.replace("majority map", "confident map")
    cells = [title, row.paper, row.public, ours, verdict(row, measured), epochs, f"{measured['cpu_seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=["floor", "goal"], default="floor")
    parser.add_argument("--data", type=Path, help="folder of IDX files; default: $CRYOAAE_DATA/mnist")
    parser.add_argument("--rows", nargs="+", choices=list(TABLE_ROWS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the fits, such as cuda:0 for the goal tier")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    rows = read_rows(ROWS)
    if not options.table:
        data = options.data or Path(os.environ.get("CRYOAAE_DATA", "")) / "mnist"
        load_images(data)  # or say what is wrong with it before any work
        named = options.rows or list(TABLE_ROWS if options.tier == "floor" else GOAL_ROWS)
        with ThreadPoolExecutor(options.processes) as pool:
            jobs = [pool.submit(measure, name, options.tier, data, options.device) for name in named]
            if options.tier == "floor":
                jobs += [pool.submit(baseline, k, data) for k in (16, 30) if f"clustering-{k}" in named]
            for job in as_completed(jobs):
                if (error := job.exception()) is not None:
                    print(f"a row failed, the others go on: {error}", file=sys.stderr, flush=True)
                    continue
                rows.append(job.result())
                print(json.dumps({k: rows[-1].get(k) for k in ("row", "cpu_seconds", "metrics")}), flush=True)
                append(ROWS, rows[-1])
    write_text(TABLE, table(rows))
    floor = options.tier == "floor"
    missed = failures(rows) + unmeasured(rows) if floor else unreached(rows)
    print("\n".join(missed) or f"every {options.tier} is reached")
    sys.exit(1 if floor and missed else 0)


if __name__ == "__main__":
    main()

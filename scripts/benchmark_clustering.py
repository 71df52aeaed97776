"""Clustering of subtomograms without labels or poses, against null rows.

    benchmark_clustering.py [--sets NAME ...] [--methods NAME ...] [--seeds 0 1 2] [--maps FOLDER] [--count 150]
    benchmark_clustering.py --table

Eight classes with two similar pairs, simulated from density maps ($CRYOAAE_DATA/maps_10A): random poses, shifts up to
2 voxels, box 32 at 13.5 A, tilts to +-60 degrees, CTF; SNR is the variance of the signal, wedge and CTF applied, over
the box against that of the noise. A method sees a store and the number of classes, nothing else; each fit runs in a
process of its own, on one thread. Rows are appended to docs/benchmarks/clustering.json, the table
docs/benchmarks/clustering.md is made from them, and no row is made twice. Stores lie in benchmark_runs/clustering.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.store import SubtomogramStore
from cryoaae.metrics.clustering import adjusted_rand_index, majority_error, normalised_mutual_information
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.align_stores import align_stores
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import particles_of_stores
from cryoaae.subtomograms.from_simulation import simulate_store
from cryoaae.subtomograms.multi_reference import align
from cryoaae.subtomograms.null_clusterings import (
    invariant_features,
    k_means,
    size_features,
    standardised,
    voxel_features,
)

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "clustering.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "clustering"
CLASSES = ("4v4r", "6qzp", "6utj", "3ipm", "1f4a", "6pxm", "1bxn", "3cf3")
# Two ribosomes and two proteasomes are alike: without the second of each pair six classes are distinct.
SIMILAR = {"6qzp": "4v4r", "3ipm": "6utj"}
FREQ_MAX = 0.25
CPU_MINUTES = 45.0


@dataclass(frozen=True)
class DataSet:
    """A simulated set.

    Parameters
    ----------
    title : str
    snr : float
    rare : str
        A class that makes up only 2 % of the particles; "": all are alike.
    """

    title: str
    snr: float
    rare: str = ""

    def counts(self, each: int) -> list[int]:
        others = each * (len(CLASSES) - 1)
        return [max(1, round(others * 0.02 / 0.98)) if name == self.rare else each for name in CLASSES]


SETS = {
    "snr0.1": DataSet("SNR 0.1", 0.1),
    "snr0.05": DataSet("SNR 0.05", 0.05),
    "rare": DataSet("SNR 0.1, one class at 2 %", 0.1, "1f4a"),
}


@dataclass(frozen=True)
class Method:
    """A way to cluster: a function of (store, clusters, seed) that gives clusters (n,)."""

    title: str
    cluster: Callable[[SubtomogramStore, int, int], Tensor]


def by_size(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(standardised(size_features(particles_of_stores([store], FREQ_MAX))), clusters, seed=seed)


def by_voxels(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(voxel_features(particles_of_stores([store], FREQ_MAX)), clusters, seed=seed)


def by_invariants(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(invariant_features(particles_of_stores([store], FREQ_MAX), FREQ_MAX), clusters, seed=seed)


def by_alignment(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    """As `cryoaae cluster --clusters K` does it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(AlignmentSettings(), clusters=clusters)
        found = align_stores([store], settings, Path(folder), seed=seed, progress=ConsoleProgress())
    return found.alignment.classes


def by_alignment_with_ctf(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    particles = particles_of_stores([store], FREQ_MAX, phases_flipped_ctf=True)
    generator = torch.Generator().manual_seed(seed)
    settings = AlignmentSettings(clusters=clusters)
    return align(particles, settings, generator=generator, progress=ConsoleProgress()).classes


METHODS = {
    "size": Method("size alone: radial mass profile, K-means", by_size),
    "voxels": Method("principal components of voxels, K-means", by_voxels),
    "invariants": Method("rotation-invariant spectra, K-means", by_invariants),
    "alignment": Method("multi-reference alignment", by_alignment),
    "alignment-ctf": Method("multi-reference alignment, told the CTF", by_alignment_with_ctf),
}


def made(name: str, seed: int, maps: Path, count: int) -> Path:
    """Simulate a set unless it stands already."""
    store = RUNS / f"{name}_count{count}_seed{seed}.h5"
    if not store.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        files = [next(iter(sorted(maps.glob(f"{one}.mrc*"))), maps / f"{one}.mrc") for one in CLASSES]
        simulate_store(
            store, maps=files, counts=SETS[name].counts(count), settings=ImagingSettings(snr=SETS[name].snr),
            seed=seed, resume=True, progress=ConsoleProgress(),
        )  # fmt: skip
    return store


def score(clusters: Tensor, store: SubtomogramStore) -> dict[str, Any]:
    """Agreement with the true classes, over all particles and over those of distinct classes."""
    names = sorted(set(store.facts.classes))
    labels = torch.tensor([names.index(one) for one in store.facts.classes])
    distinct = torch.tensor([one not in SIMILAR for one in store.facts.classes])
    return {
        "ari": adjusted_rand_index(clusters, labels),
        "ari_distinct": adjusted_rand_index(clusters[distinct], labels[distinct]),
        "nmi": normalised_mutual_information(clusters, labels),
        "purity": 1 - majority_error(clusters, labels, clusters, labels),
        "lost": [names[k] for k in lost_classes(clusters, labels)],
    }


def lost_classes(clusters: Tensor, labels: Tensor) -> list[int]:
    """Classes that are the largest in no cluster."""
    table = torch.zeros(int(clusters.max()) + 1, int(labels.max()) + 1)
    table.index_put_((clusters, labels), torch.ones(len(labels)), accumulate=True)
    largest = set(table[table.sum(dim=1) > 0].argmax(dim=1).tolist())
    return [k for k in range(table.shape[1]) if k not in largest]


def fit_here(method: str, store: Path, clusters: int, seed: int, output: Path) -> None:
    """Fit in this process, which is one of its own, and write the scores with the CPU-seconds it took."""
    torch.set_num_threads(1)
    with SubtomogramStore(store) as opened:
        found = score(METHODS[method].cluster(opened, clusters, seed), opened)
    used = resource.getrusage(resource.RUSAGE_SELF)
    memory_gb = used.ru_maxrss / 1e6
    write_text(output, json.dumps(found | {"cpu_seconds": used.ru_utime + used.ru_stime, "memory_gb": memory_gb}))


def measure(name: str, method: str, seed: int, maps: Path, count: int) -> dict[str, Any]:
    """Simulate and fit; return the row."""
    store = made(name, seed, maps, count)
    output = RUNS / f"{name}_{method}_seed{seed}.json"
    command = [sys.executable, __file__, "--fit", method, str(store), str(len(CLASSES)), str(seed), str(output)]
    started = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return {
        "set": name, "method": method, "seed": seed, "count": count, "clusters": len(CLASSES),
        **json.loads(output.read_text()), "wall_seconds": round(time.monotonic() - started, 1), **provenance(),
    }  # fmt: skip


def provenance() -> dict[str, Any]:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROWS.parent)
    return {
        "date": time.strftime("%F"), "commit": found.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPU",
    }  # fmt: skip


def read_rows() -> list[dict[str, Any]]:
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["set"], row["method"], row["seed"], row["count"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown, from committed rows alone: a line a method, the mean over its seeds."""
    lines = [
        "# Clustering of subtomograms",
        "",
        "Made by `scripts/benchmark_clustering.py` from `clustering.json`. Eight classes, of which two pairs are "
        "alike; random poses, shifts up to 2 voxels, box 32 at 13.5 Å, tilts to ±60°, CTF. Every method is told the "
        "number of classes. Distinct: adjusted Rand index without the second of each pair. Lost: classes that are the "
        "largest in no cluster. Minutes: CPU time of a fit, reading included.",
    ]
    parts = {(row["set"], row["count"]) for row in rows}
    for name, count in sorted(parts, key=lambda part: (list(SETS).index(part[0]), part[1])):
        lines += [
            "",
            f"## {SETS[name].title}, {count} a class",
            "",
            "| method | seeds | ARI | distinct | NMI | purity | lost | minutes | GB |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            own = [row for row in rows if (row["set"], row["count"], row["method"]) == (name, count, method)]
            lines += [line(method, own)] if own else []
    return "\n".join(lines) + "\n"


def line(method: str, rows: Sequence[dict[str, Any]]) -> str:
    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in rows)

    spread = f" ± {statistics.stdev(row['ari'] for row in rows):.3f}" if len(rows) > 1 else ""
    lost = statistics.fmean(len(row["lost"]) for row in rows)
    return (
        f"| {METHODS[method].title} | {len(rows)} | {mean('ari'):.3f}{spread} | {mean('ari_distinct'):.3f} "
        f"| {mean('nmi'):.3f} | {mean('purity'):.3f} | {lost:.1f} | {mean('cpu_seconds') / 60:.1f} "
        f"| {mean('memory_gb'):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=["snr0.1"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--count", type=int, default=150, help="particles a class")
    parser.add_argument("--maps", type=Path, help="folder with the density maps")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    parser.add_argument("--fit", nargs=5, metavar=("METHOD", "STORE", "CLUSTERS", "SEED", "OUTPUT"), help="one fit")
    options = parser.parse_args()
    if options.fit:
        method, store, clusters, seed, output = options.fit
        fit_here(method, Path(store), int(clusters), int(seed), Path(output))
        return
    if not options.table:
        if options.maps is None and "CRYOAAE_DATA" not in os.environ:
            parser.error("--maps FOLDER is needed where CRYOAAE_DATA is not set")
        maps = options.maps or Path(os.environ["CRYOAAE_DATA"]) / "maps_10A"
        for name in options.sets:
            for seed in options.seeds:
                run_missing(name, seed, options.methods, maps, options.count)
    write_text(TABLE, table(read_rows()))


def run_missing(name: str, seed: int, methods: Sequence[str], maps: Path, count: int) -> None:
    """Make and append the rows of a set that are not there."""
    for method in methods:
        if (name, method, seed, count) in {key(row) for row in read_rows()}:
            continue
        row = measure(name, method, seed, maps, count)
        write_text(ROWS, json.dumps([*read_rows(), row], indent=1) + "\n")
        minutes = row["cpu_seconds"] / 60
        late = f", over the {CPU_MINUTES:g} allowed" if minutes > CPU_MINUTES else ""
        print(f"{name} seed {seed}, {method}: ARI {row['ari']:.3f}, {minutes:.1f} CPU-minutes{late}", flush=True)


if __name__ == "__main__":
    main()

"""Clustering of subtomograms without labels or poses, against clusterings that search no pose.

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
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance, read_rows
from shared_data import shared
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
from cryoaae.subtomograms.labels import Labels
from cryoaae.subtomograms.learned_nulls import autoencoder_features, invariant_network_clusters
from cryoaae.subtomograms.multi_reference import align
from cryoaae.subtomograms.null_clusterings import (
    invariant_features,
    k_means,
    size_features,
    standardised,
    voxel_features,
)
from cryoaae.subtomograms.standard import Particles, measure_standard

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "clustering.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "clustering"
CLASSES = ("4v4r", "6qzp", "6utj", "3ipm", "1f4a", "6pxm", "1bxn", "3cf3")
# Two ribosomes and two proteasomes are alike: without the second of each pair six classes are distinct.
SIMILAR = {"6qzp": "4v4r", "3ipm": "6utj"}
FREQ_MAX = 0.25
CPU_MINUTES = 45.0
# Edge of the grid of the learned rows, as of the autoencoder of `cluster`, and labels a class of the labelled row.
NETWORK_BOX, LABELS = 24, 5
# What ours must be above the best row that searches no pose, and how far it may be below the alignment alone: ARI.
ABOVE, BELOW = 0.05, 0.02


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
    """A way to cluster: a function of (store, clusters, seed) that gives clusters (n,), -1 for what is not scored."""

    title: str
    cluster: Callable[[SubtomogramStore, int, int], Tensor]
    searches_poses: bool = False


def by_size(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(standardised(size_features(particles_of_stores([store], FREQ_MAX))), clusters, seed=seed)


def by_voxels(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(voxel_features(particles_of_stores([store], FREQ_MAX)), clusters, seed=seed)


def by_invariants(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return k_means(invariant_features(particles_of_stores([store], FREQ_MAX), FREQ_MAX), clusters, seed=seed)


def by_autoencoder(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    particles = Particles([store], measure_standard([store], NETWORK_BOX))
    return k_means(autoencoder_features(particles, seed), clusters, seed=seed)


def by_invariant_network(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    particles = Particles([store], measure_standard([store], NETWORK_BOX))
    return invariant_network_clusters(particles, clusters, seed)


def by_alignment(store: SubtomogramStore, clusters: int | None, seed: int, labels: Labels | None = None) -> Tensor:
    """As `cryoaae cluster --clusters K` does it; None: as `cryoaae cluster`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = AlignmentSettings(clusters=clusters)
        found = align_stores(
            [store], settings, Path(folder), seed=seed, labels=labels, progress=ConsoleProgress()
        )
    return found.alignment.classes


def with_number_found(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    return by_alignment(store, None, seed)


def with_labels(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    """As `cryoaae cluster --labels` does it; labelled particles are not scored."""
    labels = some_labels(store, LABELS, seed)
    found = by_alignment(store, clusters, seed, labels)
    return torch.where(labels.classes < 0, found, -1)


def some_labels(store: SubtomogramStore, each: int, seed: int) -> Labels:
    """The true class of `each` particles of every class, drawn at random, or of half where there are fewer."""
    names = sorted(set(store.facts.classes))
    true = torch.tensor([names.index(one) for one in store.facts.classes])
    order = torch.randperm(len(true), generator=torch.Generator().manual_seed(seed))
    classes = torch.full_like(true, -1)
    for k in range(len(names)):
        own = order[true[order] == k]
        classes[own[: min(each, len(own) // 2)]] = k
    return Labels(classes, tuple(names))


def by_alignment_alone(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    """Expectation-maximisation with as many references as classes: none too many, none merged."""
    particles = particles_of_stores([store], FREQ_MAX)
    generator, settings = torch.Generator().manual_seed(seed), AlignmentSettings(
        clusters=clusters, over=1.0, references=clusters
    )
    return align(particles, settings, generator=generator, progress=ConsoleProgress()).classes


def by_alignment_with_ctf(store: SubtomogramStore, clusters: int, seed: int) -> Tensor:
    particles = particles_of_stores([store], FREQ_MAX, phases_flipped_ctf=True)
    generator, settings = torch.Generator().manual_seed(seed), AlignmentSettings(clusters=clusters)
    return align(particles, settings, generator=generator, progress=ConsoleProgress()).classes


OURS, ALONE = "alignment", "alignment-alone"
METHODS = {
    "size": Method("size alone: radial mass profile, K-means", by_size),
    "voxels": Method("principal components of voxels, K-means", by_voxels),
    "invariants": Method("rotation-invariant spectra, K-means", by_invariants),
    "autoencoder": Method("plain autoencoder, K-means", by_autoencoder),
    "invariant-network": Method("invariant network and Gaussian mixture in turns, after DISCA", by_invariant_network),
    ALONE: Method("multi-reference alignment alone, 8 references", by_alignment_alone, searches_poses=True),
    OURS: Method("ours, `cluster --clusters 8`", by_alignment, searches_poses=True),
    "alignment-found": Method("ours, number of classes not told", with_number_found, searches_poses=True),
    "alignment-labels": Method(f"ours, {LABELS} labels a class", with_labels, searches_poses=True),
    "alignment-ctf": Method("ours, told the CTF", by_alignment_with_ctf, searches_poses=True),
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
    """Agreement with the true classes, over all particles that have a cluster and over those of distinct classes."""
    names = sorted(set(store.facts.classes))
    kept = clusters >= 0
    labels = torch.tensor([names.index(one) for one in store.facts.classes])[kept]
    distinct = torch.tensor([one not in SIMILAR for one in store.facts.classes])[kept]
    clusters = clusters[kept]
    return {
        "found": len(clusters.unique()),
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


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["set"], row["method"], row["seed"], row["count"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown, from committed rows alone: a line a method, the mean over its seeds."""
    lines = [
        "# Clustering of subtomograms",
        "",
        "Made by `scripts/benchmark_clustering.py` from `clustering.json`. Eight classes, of which two pairs are "
        "alike; random poses, shifts up to 2 voxels, box 32 at 13.5 Å, tilts to ±60°, CTF. Every method is told the "
        "number of classes, but where the row says so. Distinct: adjusted Rand index without the second of each pair. "
        "Lost: classes that are the largest in no cluster. Minutes: CPU time of a fit, reading included. Labelled "
        "particles are left out of the scores.",
    ]
    parts = {(row["set"], row["count"]) for row in rows}
    for name, count in sorted(parts, key=lambda part: (list(SETS).index(part[0]), part[1])):
        lines += [
            "",
            f"## {SETS[name].title}, {count} a class",
            "",
            "| method | seeds | clusters | ARI | distinct | NMI | purity | lost | minutes | GB |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        of_set = [row for row in rows if (row["set"], row["count"]) == (name, count)]
        for method in METHODS:
            own = [row for row in of_set if row["method"] == method]
            lines += [line(method, own)] if own else []
        lines += verdict(of_set)
    return "\n".join(lines) + "\n"


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Ours beside the best row that searches no pose, and beside the alignment alone, over the seeds that both have."""
    ari = {method: {row["seed"]: row["ari"] for row in rows if row["method"] == method} for method in METHODS}

    def ahead(other: str) -> tuple[float, str] | None:
        seeds = sorted(ari[OURS].keys() & ari[other].keys())
        said = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        return (statistics.fmean(ari[OURS][s] - ari[other][s] for s in seeds), said) if seeds else None

    said = []
    blind = {other: found for other, method in METHODS.items() if not method.searches_poses and (found := ahead(other))}
    if blind:
        best = min(blind, key=lambda other: blind[other][0])
        said.append(f"{blind[best][0]:+.3f} to {METHODS[best].title} ({blind[best][1]}; must: {ABOVE:+.2f})")
    if alone := ahead(ALONE):
        said.append(f"{alone[0]:+.3f} to the alignment alone ({alone[1]}; must: {-BELOW:+.2f})")
    return ["", f"ARI of ours, over the seeds of both: {', '.join(said)}."] if said else []


def line(method: str, rows: Sequence[dict[str, Any]]) -> str:
    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in rows)

    spread = f" ± {statistics.stdev(row['ari'] for row in rows):.3f}" if len(rows) > 1 else ""
    lost = statistics.fmean(len(row["lost"]) for row in rows)
    clusters = statistics.fmean(row.get("found", row["clusters"]) for row in rows)
    return (
        f"| {METHODS[method].title} | {len(rows)} | {clusters:.1f} | {mean('ari'):.3f}{spread} "
        f"| {mean('ari_distinct'):.3f} | {mean('nmi'):.3f} | {mean('purity'):.3f} | {lost:.1f} "
        f"| {mean('cpu_seconds') / 60:.1f} | {mean('memory_gb'):.1f} |"
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
        maps = shared(parser, "--maps", options.maps, "maps_10A")
        for name in options.sets:
            for seed in options.seeds:
                run_missing(name, seed, options.methods, maps, options.count)
    write_text(TABLE, table(read_rows(ROWS)))


def run_missing(name: str, seed: int, methods: Sequence[str], maps: Path, count: int) -> None:
    """Make and append the rows of a set that are not there."""
    for method in methods:
        if (name, method, seed, count) in {key(row) for row in read_rows(ROWS)}:
            continue
        row = measure(name, method, seed, maps, count)
        append(ROWS, row)
        minutes = row["cpu_seconds"] / 60
        late = f", over the {CPU_MINUTES:g} allowed" if minutes > CPU_MINUTES else ""
        print(f"{name} seed {seed}, {method}: ARI {row['ari']:.3f}, {minutes:.1f} CPU-minutes{late}", flush=True)


if __name__ == "__main__":
    main()

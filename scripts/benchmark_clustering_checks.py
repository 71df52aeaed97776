"""What a clustering must not know, and what its model must: pose, wedge, copies, generated volumes.

    benchmark_clustering_checks.py [--seeds 0] [--count 150] [--minutes 6] [--maps FOLDER]
    benchmark_clustering_checks.py --table

The eight classes of benchmark_clustering.py at SNR 0.1 are clustered by `cluster --by both --clusters 8`. Then

- linear and non-linear probes read the true pose and the direction of the wedge from the clusters of the alignment and
  from the class code that `embed` gives, of the particles fitted to and of another seed's, never seen. Several
  probes are looked at, so that the best of them lies above chance by chance: what counts is how far the best lies above
  its own mean on permuted labels, in standard deviations, held against the best of the same probes on each permutation.
  More than 2 standard deviations above the mean of those is a leak;
- particles are turned, put through another wedge and classified again (`clusters.json` has it);
- `generate` makes volumes of every cluster; each is given the class whose structure it correlates best with, in any
  pose. The structures are simulated apart, without a wedge or noise, and no fit has seen them;
- the correlation of generated volumes with their nearest particle, in any pose, is compared for particles that the
  model was fitted to and as many of another seed's set, which it never saw.

Rows are appended to docs/benchmarks/clustering_checks.json and the table is made from them; no row is made twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_clustering import CLASSES, RUNS, made
from benchmark_rows import append, provenance, read_rows
from shared_data import shared
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume
from cryoaae.io.store import SubtomogramStore
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.metrics.probes import Kind, probe_accuracy
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.band import BandedParticles, banded_particles, particles_of_stores
from cryoaae.subtomograms.cluster import cluster
from cryoaae.subtomograms.embed import embed
from cryoaae.subtomograms.from_simulation import simulate_store
from cryoaae.subtomograms.generate import generate
from cryoaae.subtomograms.pose_search import shift_grid
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.rotation_grid import rotation_grid
from cryoaae.subtomograms.settings import ClusterSettings

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "clustering_checks.json"
TABLE = ROWS.with_suffix(".md")
SET = "snr0.1"
# Generated volumes of each cluster, and those of them that are compared with so many particles.
GENERATED, COMPARED, NEAR = 8, 2, 80
# Structures a class, and the seed that they are made with.
TEMPLATES, OTHER_SEED = 2, 1000
PERMUTATIONS, TRAINED = 40, 0.6
# Poses that are compared, on the grid of the particles.
BOX, STEP_DEG, SHIFT_VOXELS, FREQ_MAX = 32, 20.0, 2.0, 0.2
MOST_ERRORS, LEAST_AGREEMENT, LEAST_RIGHT = 2.0, 0.9, 0.85


def best_correlations(particles: BandedParticles, volumes: Tensor, *, weigh: bool = True) -> Tensor:
    """Largest correlation (n, k) of n particles with k volumes in any pose, where a particle was measured.

    With `weigh`, coefficients count by one over the noise's power.
    """
    band, count = particles.band, len(particles.band)
    references = References(band, len(volumes), torch.ones(band.shell_count), torch.device("cpu"))
    for k, volume in enumerate(volumes):
        references.put(k, band.coefficients(volume[None])[0].to(torch.complex64))
    rotations = rotation_grid(STEP_DEG)
    turned = references.turned(references.turns(rotations, count))
    weight = 1 / particles.noise_power if weigh else torch.ones(count)
    back = band.shift_phases(shift_grid(SHIFT_VOXELS, 1.0)).conj()
    table = torch.view_as_real(turned).reshape(-1, 2 * count)
    power = turned.abs().square().reshape(-1, count) * weight
    norms = {g: (power @ support).sqrt().clamp(min=1e-12) for g, support in enumerate(particles.supports)}
    found = []
    for x, group in zip(particles.coefficients, particles.support_index.tolist(), strict=True):
        moved = torch.view_as_real(x * weight * back).reshape(len(back), 2 * count)
        cross = (moved @ table.T).amax(dim=0) / norms[group]
        found.append(cross.reshape(len(volumes), -1).amax(dim=1) / (x.abs().square() * weight).sum().sqrt())
    return torch.stack(found)


def whole(volumes: Tensor) -> BandedParticles:
    """Volumes (n, z, y, x) as particles that no wedge hides anything of."""
    every = torch.zeros(len(volumes), dtype=torch.long)
    return banded_particles([volumes], BOX, [MissingWedge((-90.0, 90.0))], every, FREQ_MAX)


def probed(codes: Tensor, rotations: Tensor, seed: int) -> dict[str, Any]:
    """Accuracy of probes for the pose and for the direction of the wedge, and the same on permuted labels.

    `largest` is the largest distance from chance among the probes, in standard deviations of permuted labels;
    `largest_null` and `largest_null_std` are its mean and standard deviation over the permutations.
    """
    axis = rotations[:, :, 0]
    targets = {
        "pose": (axis > 0).long() @ torch.tensor([4, 2, 1]),  # octant of the particle's own axis
        "wedge": rotations.transpose(1, 2)[:, :, 0].abs().argmax(dim=1),  # the particle's axis nearest to the beam
    }
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(codes), generator=generator)
    train, test = order.split([round(TRAINED * len(codes)), len(codes) - round(TRAINED * len(codes))])
    kinds: tuple[Kind, ...] = ("linear", "knn")

    def accuracies(rows: Tensor) -> list[float]:
        """Of every probe, with the labels of other rows; poses and wedges of a particle stay together."""
        return [
            probe_accuracy(codes[train], y[rows][train], codes[test], y[rows][test], seed=seed, kind=kind)
            for y in targets.values() for kind in kinds
        ]  # fmt: skip

    null = np.array([accuracies(torch.randperm(len(codes), generator=generator)) for _ in range(PERMUTATIONS)])
    found = np.array(accuracies(torch.arange(len(codes))))
    mean, std = null.mean(axis=0), null.std(axis=0, ddof=1).clip(min=1e-12)
    names = [f"{name}, {kind}" for name in targets for kind in kinds]
    best = ((null - mean) / std).max(axis=1)
    return {
        "largest": float(((found - mean) / std).max()),
        "largest_null": float(best.mean()), "largest_null_std": float(best.std(ddof=1)),
        "each": {
            name: {"accuracy": a, "null": m, "null_std": s}
            for name, a, m, s in zip(names, found.tolist(), mean.tolist(), std.tolist(), strict=True)
        },
    }  # fmt: skip


def templates(maps: Path) -> tuple[Tensor, list[int]]:
    """Structures (k, z, y, x) as imaged, without noise or wedge, and the class of each."""
    path = RUNS / "structures.h5"
    if not path.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        files = [next(iter(sorted(maps.glob(f"{one}.mrc*")))) for one in CLASSES]
        settings = ImagingSettings(snr=1e6, shift_voxels=0.0, tilt_range_deg=(-89.0, 89.0))
        simulate_store(path, maps=files, counts=[TEMPLATES], settings=settings, seed=OTHER_SEED, resume=True)
    with SubtomogramStore(path) as store:
        volumes = torch.stack([torch.from_numpy(store.volume(i)) for i in range(len(store))])
        return volumes, [CLASSES.index(name) for name in store.facts.classes]


def generated_check(run: Path, store: SubtomogramStore, held: SubtomogramStore, maps: Path) -> dict[str, Any]:
    """Generated volumes given a class by structures that no fit saw, and their nearest particles."""
    codes, found = np.load(run / "codes.npz"), json.loads((run / "clusters.json").read_text())
    asked, volumes = [], []
    for k, name in enumerate(found["names"]):
        own = [store.facts.classes[i] for i in np.flatnonzero(codes["cluster"] == k)]
        asked += GENERATED * [CLASSES.index(max(sorted(set(own)), key=own.count))]
        folder = run.parent / f"{run.name}_volumes" / name
        files = generate(run, folder, class_name=name, count=GENERATED, overwrite=True)
        volumes += [torch.from_numpy(open_volume(file).numpy().copy()) for file in files]
    made_volumes, (known, classes) = torch.stack(volumes), templates(maps)
    given = best_correlations(whole(made_volumes), known, weigh=False).argmax(dim=1)
    right = [classes[int(k)] == one for k, one in zip(given, asked, strict=True)]
    compared = torch.cat([made_volumes[k : k + COMPARED] for k in range(0, len(made_volumes), GENERATED)])
    nearest = {}
    for name, one in (("training", store), ("held_out", held)):
        particles = particles_of_stores([one], FREQ_MAX)
        rows = torch.arange(len(particles))[:: max(1, len(particles) // NEAR)][:NEAR]
        nearest[name] = best_correlations(particles.only(rows), compared).amax(dim=0)
    nearer = nearest["training"] - nearest["held_out"]
    return {
        "generated": len(right), "generated_right": float(np.mean(right)),
        "nearest_training": float(nearest["training"].mean()), "nearest_held_out": float(nearest["held_out"].mean()),
        "nearer": float(nearer.mean()), "nearer_error": float(nearer.std() / len(nearer) ** 0.5),
    }  # fmt: skip


def embedded(store: Path, run: Path) -> Tensor:
    """Class code (n, classes) that `embed` gives of a store; made once."""
    folder = run.parent / f"{run.name}_of_{store.stem}"
    if not (folder / "codes.npz").exists():
        embed(store, folder, model=run / "model.safetensors", device="cpu", threads=1, progress=ConsoleProgress())
    return torch.from_numpy(np.load(folder / "codes.npz")["class_probabilities"]).float()


def decided(codes: Tensor) -> Tensor:
    """The likeliest class alone, (n, classes)."""
    return torch.nn.functional.one_hot(codes.argmax(dim=1), codes.shape[1]).float()


def directions(store: SubtomogramStore) -> Tensor:
    """True rotations of the particles, (n, 3, 3)."""
    return torch.from_numpy(store.facts.rotations).float()


def class_ari(codes: Tensor, store: SubtomogramStore) -> float:
    """Agreement of the likeliest classes with the true ones."""
    return adjusted_rand_index(codes.argmax(dim=1), torch.tensor([CLASSES.index(one) for one in store.facts.classes]))


def measure(seed: int, count: int, minutes: float, maps: Path) -> dict[str, Any]:
    """Cluster, and check; a finished clustering is used again."""
    path, other = made(SET, seed, maps, count), made(SET, seed + 1, maps, count)
    run = RUNS / f"both_count{count}_seed{seed}_minutes{minutes:g}"
    if not (run / "report.html").exists():
        settings = ClusterSettings(minutes=minutes, seed=seed)
        cluster(path, run, by="both", clusters=len(CLASSES), settings=settings, resume=run.exists(), device="cpu",
                progress=ConsoleProgress())  # fmt: skip
    with SubtomogramStore(path) as store, SubtomogramStore(other) as held:
        aligned = torch.from_numpy(np.load(run / "codes.npz")["cluster_probabilities"]).float()
        seen, unseen = embedded(path, run), embedded(other, run)
        probes = {
            "cluster_probabilities": probed(aligned, directions(store), seed),
            "class_probabilities": probed(seen, directions(store), seed),
            "class": probed(decided(seen), directions(store), seed),
            "class_probabilities_never_seen": probed(unseen, directions(held), seed),
            "class_never_seen": probed(decided(unseen), directions(held), seed),
        }
        right = {"ari_seen": class_ari(seen, store), "ari_never_seen": class_ari(unseen, held)}
        generated = generated_check(run, store, held, maps)
    agreement = json.loads((run / "clusters.json").read_text())["pose_agreement"]
    return {
        "set": SET, "seed": seed, "count": count, "minutes": minutes, "probes": probes, "agreement": agreement,
        **right, **generated, **provenance(),
    }  # fmt: skip


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["seed"], row["count"], row["minutes"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    lines = [
        "# Clustering of subtomograms: pose, copies, generated volumes",
        "",
        "Made by `scripts/benchmark_clustering_checks.py` from `clustering_checks.json`, on clusterings by "
        "`cluster --by both --clusters 8` of the particles of `clustering.md` at SNR 0.1. Probes: how far the best of "
        "four probes of pose and wedge lies above its mean on permuted labels, in standard deviations, and in brackets "
        "the mean of the best of the same four on permuted labels + 2 of its standard deviations.",
        "",
        "| what | asked | " + " | ".join(_column(row) for row in rows) + " |",
        "|---|---|" + "---|" * len(rows),
    ]
    entries: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
        ("pose and wedge read from the clusters of the alignment", "up to what is in brackets",
         lambda row: _errors(row, "cluster_probabilities")),
        ("from the class code of the autoencoder", "up to what is in brackets",
         lambda row: _errors(row, "class_probabilities")),
        ("from its likeliest class", "up to what is in brackets", lambda row: _errors(row, "class")),
        ("from the class code of particles never seen", "up to what is in brackets",
         lambda row: _errors(row, "class_probabilities_never_seen")),
        ("from their likeliest class", "up to what is in brackets", lambda row: _errors(row, "class_never_seen")),
        ("ARI of the likeliest class, fitted to and never seen", "",
         lambda row: f"{row['ari_seen']:.3f}, {row['ari_never_seen']:.3f}" if "ari_seen" in row else ""),
        ("copies that keep their class", f"{100 * LEAST_AGREEMENT:.0f} %",
         lambda row: f"{100 * row['agreement']:.0f} %"),
        ("generated volumes of the class asked for", f"{100 * LEAST_RIGHT:.0f} %",
         lambda row: f"{100 * row['generated_right']:.0f} % of {row['generated']}"),
        ("correlation with the nearest particle fitted to", "", lambda row: f"{row['nearest_training']:.3f}"),
        ("with the nearest of as many never seen", "", lambda row: f"{row['nearest_held_out']:.3f}"),
        ("difference", "not above 0", lambda row: f"{row['nearer']:+.4f} ± {row['nearer_error']:.4f}"),
        ("minutes of the autoencoder's fit", "", lambda row: f"{row['minutes']:g}"),
    ]  # fmt: skip
    lines += [f"| {what} | {asked} | " + " | ".join(show(row) for row in rows) + " |" for what, asked, show in entries]
    return "\n".join(lines) + "\n"


def _column(row: dict[str, Any]) -> str:
    return f"seed {row['seed']}, {row['count']} a class, {row['minutes']:g} minutes"


def _errors(row: dict[str, Any], code: str) -> str:
    """The probe furthest above its null, in standard deviations, and what the furthest may be."""
    found = row["probes"].get(code)
    if found is None:
        return ""
    return f"{found['largest']:.1f} ({found['largest_null'] + MOST_ERRORS * found['largest_null_std']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--count", type=int, default=150, help="particles a class")
    parser.add_argument("--minutes", type=float, default=6.0, help="of the autoencoder's fit")
    parser.add_argument("--maps", type=Path, help="folder with the density maps")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        maps = shared(parser, "--maps", options.maps, "maps_10A")
        for seed in options.seeds:
            if (seed, options.count, options.minutes) in {key(row) for row in read_rows(ROWS)}:
                continue
            append(ROWS, measure(seed, options.count, options.minutes, maps))
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

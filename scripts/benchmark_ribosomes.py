"""Measured ribosomes, bacterial (70S) and eukaryotic (80S), assigned to references that were learned from simulations.

    benchmark_ribosomes.py [--draws 5] [--data FOLDER]
    benchmark_ribosomes.py --table

The references are those of `cluster --clusters 3` on simulated particles of 4v4r (70S), 6qzp (80S) and 6utj (a
proteasome), 50 each, box 32 at 12 A, SNR 0.1. As by `cluster --model` of that run, 40 ribosomes of EMPIAR-10499 and 6
of a cryoDRGN test set, both at 12 A, are given a class and a pose, each set by itself: its noise and its hand are its
own. Control: the same particles with their phases drawn anew; their spectra stay. If those fell apart, too, what is
told apart would be the microscope. The average of the 70S particles by the poses found is held against the shipped map,
turned and moved as fits best; so is that of the control, for an average of noise looks like what it was aligned to.

One row a run is appended to docs/benchmarks/ribosomes.json; the table docs/benchmarks/ribosomes.md is made from the
last. Stores and runs lie in benchmark_runs/ribosomes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from benchmark_rows import append, provenance, read_rows
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from shared_data import shared
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.euler import rotation_from_relion
from cryoaae.io.store import ParticleFacts, StoreWriter, SubtomogramStore, wedge_table
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.physics.resample import fourier_resample
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import ConsoleProgress, NullProgress
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.average import average
from cryoaae.subtomograms.cluster import cluster
from cryoaae.subtomograms.extract import extract
from cryoaae.subtomograms.from_simulation import simulate_store
from cryoaae.subtomograms.reference_model import ReferenceModel, assign_stores
from cryoaae.subtomograms.rotation_grid import rotation_grid
from cryoaae.subtomograms.standard import ParticlePoses, Particles, measure_standard

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "ribosomes.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "ribosomes"
CLASSES = ("4v4r", "6qzp", "6utj")
BOX, VOXEL = 32, 12.0
# Particles of the 80S set lie in boxes of 64 voxels of 15.68 A; on 84 voxels they are of 11.95 A.
FINER_BOX = 84
SHIPPED_STAR = "warptools_test_4-tomos_10-ptcls_box-32_angpix-12_optimisation_set.star"
# Radius within which maps are compared, voxels, and poses from which the comparison is polished.
RADIUS, POLISHED = 13, 3
PLAIN_AVERAGE, SEPARATED = 0.727, 0.1

Density = NDArray[np.float64]


def write_store(path: Path, volumes: Sequence[Density], wedges: Sequence[MissingWedge], name: str) -> None:
    """Write particles that come without a list: one tomogram each, nothing known of their poses."""
    rows = [f"0 0 0 {name}_{i:02d} 1" for i in range(len(volumes))]
    labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnTomoName", "rlnOpticsGroup")
    blocks = (("optics", ("rlnOpticsGroup", "rlnImagePixelSize"), [f"1 {VOXEL}"]), ("particles", labels, rows))
    star = "\n".join(
        "\n".join([f"data_{block}", "", "loop_", *(f"_{label}" for label in heads), *lines, ""])
        for block, heads, lines in blocks
    )
    distinct, index = wedge_table(wedges)
    count = len(volumes)
    facts = ParticleFacts(
        tuple(f"{name}_{i:02d}" for i in range(count)), (name,) * count, np.zeros((count, 3)),
        np.stack([np.eye(3)] * count), np.zeros(count, np.int64), np.arange(count), distinct, index,
    )  # fmt: skip
    about = {"box": BOX, "voxel_size_angstrom": VOXEL, "coordinates": "auto", "kind": "benchmark", "provenance": {}}
    with StoreWriter(path, facts, about, (f"{name}.star", star.encode()), resume=True) as store:
        for i in store.missing():
            store.write(i, volumes[i].astype(np.float32))
        store.finish()


def seventy(data: Path) -> Path:
    """70S: extracted from the 2-D stacks, as a user would."""
    path = RUNS / "70S.h5"
    if not path.exists():
        extract([], path, particles=data / "subtomograms_70S" / SHIPPED_STAR, box=BOX)
    return path


def eighty(data: Path) -> Path:
    """80S: from the volumes, which lie in the frame of their reference, each with its own turned wedge."""
    path, folder = RUNS / "80S.h5", data / "subtomograms_80S"
    if not path.exists():
        images = [line.split() for line in (folder / "sta_testing_bin8.star").read_text().splitlines() if "@" in line]
        names = list(dict.fromkeys(row[19] for row in images))
        angles = [np.array([row[13:16] for row in images if row[19] == name], dtype=float) for name in names]
        with h5py.File(folder / "subtomos_80S_box64.h5") as file:
            volumes = [at_common_voxel(volume) for volume in file["subtomo_particleframe"]]
        write_store(path, volumes, [wedge_of_views(one) for one in angles], "80S")
    return path


def at_common_voxel(volume: Density) -> Density:
    """The middle of a particle of the 80S set, at 12 A."""
    low = FINER_BOX // 2 - BOX // 2
    middle = slice(low, low + BOX)
    finer = fourier_resample(torch.from_numpy(np.asarray(volume)).float(), (FINER_BOX,) * 3)
    return np.asarray(finer.numpy()[middle, middle, middle], np.float64)


def wedge_of_views(rot_tilt_psi_deg: Density) -> MissingWedge:
    """The wedge, in the frame of a particle, of images seen along these angles: all views cross one axis."""
    beams = rotation_from_relion(rot_tilt_psi_deg)[:, 0, ::-1]  # x, y, z
    axis = np.linalg.svd(beams)[2][2]
    untilted = beams[0] - axis * (beams[0] @ axis)
    untilted /= np.linalg.norm(untilted)
    across = np.cross(axis, untilted)
    tilts = np.degrees(np.arctan2(beams @ across, beams @ untilted))
    turn = np.stack([across, axis, untilted], axis=1)[::-1, ::-1].copy()
    return MissingWedge.from_tilts(tilts.tolist()).rotated(torch.from_numpy(turn).float())


def phases_anew(path: Path, seed: int) -> Path:
    """The particles of a store with their phases drawn anew, and the power of every coefficient as it was."""
    made = RUNS / f"{path.stem}_phases{seed}.h5"
    if not made.exists():
        rng = np.random.default_rng(seed)
        with SubtomogramStore(path) as store:
            volumes = []
            for i in range(len(store)):
                power = np.abs(np.fft.rfftn(store.volume(i)))
                noise = np.fft.rfftn(rng.normal(size=(BOX,) * 3))
                scrambled = power * noise / np.abs(noise)
                volumes.append(np.fft.irfftn(scrambled, (BOX,) * 3, axes=(0, 1, 2)))
            wedges = [store.facts.wedges[int(k)] for k in store.facts.wedge_index]
        write_store(made, volumes, wedges, path.stem)
    return made


def references(data: Path) -> ReferenceModel:
    """References learned from simulated particles; `first` class is the 70S."""
    store, run = RUNS / "simulated.h5", RUNS / "simulated"
    if not store.exists():
        files = [next(iter(sorted((data / "maps_10A").glob(f"{one}.mrc*")))) for one in CLASSES]
        settings = ImagingSettings(
            box=BOX, voxel_size_angstrom=VOXEL, tilt_range_deg=(-55.0, 55.0), shift_voxels=1.0,
            defocus_range_um=(2.0, 4.0),
        )  # fmt: skip
        simulate_store(store, maps=files, counts=[50], settings=settings, resume=True, progress=ConsoleProgress())
    if not (run / "report.html").exists():
        cluster(store, run, clusters=len(CLASSES), resume=True, device="cpu", progress=ConsoleProgress())
    found, model = np.load(run / "codes.npz")["cluster"], ReferenceModel.load(run)
    with SubtomogramStore(store) as opened:
        own = [np.array(opened.facts.classes)[found == k].tolist() for k in range(len(CLASSES))]
    names = tuple(max(sorted(set(one)), key=one.count) for one in own)
    return ReferenceModel(
        model.grid, model.power, model.proportions, model.settings, model.box, model.voxel_size_angstrom, names
    )


def best_correlation(volume: Density, reference: Density) -> float:
    """Correlation of a volume with a reference within a ball, in the pose in which it is largest."""
    grid = np.indices(volume.shape) - BOX // 2
    inside = (grid**2).sum(axis=0) < RADIUS**2

    def turned(turn: NDArray[np.float64], shift: Density) -> Density:
        return affine_transform(reference, turn.T, offset=BOX // 2 - turn.T @ (BOX // 2 + shift), order=3)

    def correlation(turn: NDArray[np.float64], shift: Density) -> float:
        return float(np.corrcoef(volume[inside], turned(turn, shift)[inside])[0, 1])

    seen, still = np.fft.rfftn(volume * inside), np.zeros(3)
    scored = []
    for turn in rotation_grid(20.0).double().numpy():
        other = np.fft.rfftn(turned(turn, still) * inside)
        surface = np.fft.irfftn(seen * other.conj(), volume.shape, axes=(0, 1, 2))
        place = np.array(np.unravel_index(surface.argmax(), surface.shape))
        shift = np.where(place > BOX // 2, place - BOX, place).astype(float)
        scored.append((float(surface.max()), turn, shift))
    scored.sort(key=lambda one: -one[0])

    def polished(turn: NDArray[np.float64], shift: Density) -> float:
        found = minimize(
            lambda z: -correlation(turn @ Rotation.from_rotvec(z[:3]).as_matrix(), shift + z[3:]), np.zeros(6),
            method="Powell", options={"maxfev": 250, "xtol": 1e-2, "ftol": 1e-4},
        )  # fmt: skip
        return -float(found.fun)

    return max(polished(turn, shift) for _, turn, shift in scored[:POLISHED])


def averaged(store: SubtomogramStore, poses: ParticlePoses, rows: Sequence[int]) -> Density:
    standard = measure_standard([store], BOX)
    return average(Particles([store], standard, poses), rows).volume.astype(np.float64)


@dataclass(frozen=True)
class Assigned:
    """What is kept of particles that were assigned: an alignment holds hundreds of megabytes of turned references."""

    classes: Tensor
    poses: ParticlePoses
    explained: float
    mirrored: bool

    @classmethod
    def of(cls, path: Path, model: ReferenceModel) -> Assigned:
        with SubtomogramStore(path) as store:
            found = assign_stores([store], model, progress=NullProgress())
        return cls(found.alignment.classes, found.poses, found.alignment.explained, bool(found.mirrored))


def summed(found: Sequence[Assigned], names: Sequence[str]) -> dict[str, Any]:
    """Classes of the sets (70S, 80S), and how well they tell the sets apart."""
    true = torch.cat([torch.full((len(one.classes),), k) for k, one in enumerate(found)])
    table = [torch.bincount(one.classes, minlength=len(names)).tolist() for one in found]
    return {
        "ari": adjusted_rand_index(torch.cat([one.classes for one in found]), true),
        "classes": dict(zip(("70S", "80S"), table, strict=True)),
        "explained": [round(one.explained, 1) for one in found], "mirrored": [one.mirrored for one in found],
    }  # fmt: skip


def measure(data: Path, draws: int) -> dict[str, Any]:
    RUNS.mkdir(parents=True, exist_ok=True)
    model, paths = references(data), (seventy(data), eighty(data))
    with h5py.File(data / "subtomograms_70S" / "subtomos_70S_12A_box32.h5") as file:
        shipped = np.asarray(file["reference_shipped_zflipped"], np.float64)

    def correlation(path: Path, found: Assigned) -> float:
        with SubtomogramStore(path) as store:
            return best_correlation(averaged(store, found.poses, range(len(store))), shipped)

    real = [Assigned.of(path, model) for path in paths]
    controls = [[Assigned.of(phases_anew(path, seed), model) for path in paths] for seed in range(draws)]
    with SubtomogramStore(paths[0]) as store:
        listed = best_correlation(averaged(store, ParticlePoses.of_stores([store]), range(len(store))), shipped)
    return {
        "names": list(model.names), "real": summed(real, model.names),
        "control": [summed(one, model.names) for one in controls],
        "average": correlation(paths[0], real[0]), "average_listed": listed,
        "average_control": correlation(RUNS / "70S_phases0.h5", controls[0][0]), **provenance(),
    }  # fmt: skip


def table(row: dict[str, Any]) -> str:
    """The table as Markdown, from a committed row alone."""
    control = [one["ari"] for one in row["control"]]
    real, names = row["real"], ", ".join(row["names"])
    lines = [
        "# Measured ribosomes",
        "",
        "Made by `scripts/benchmark_ribosomes.py` from `ribosomes.json`: 40 bacterial (70S) and 6 eukaryotic (80S) "
        f"ribosomes assigned to references learned from simulations ({names}).",
        "",
        "| what | asked | found |",
        "|---|---|---|",
        f"| ARI of classes and sets | | {real['ari']:.2f} |",
        f"| classes ({names}) of the 70S | | {real['classes']['70S']} |",
        f"| of the 80S | | {real['classes']['80S']} |",
        f"| ARI of the same with random phases, mean of {len(control)} draws (largest) | below {SEPARATED} "
        f"| {np.mean(control):.2f} ({max(control):.2f}) |",
        f"| log-likelihood that explains a particle, 70S and 80S | | {real['explained']} |",
        f"| the same with random phases | | {row['control'][0]['explained']} |",
        f"| mirror images of the references fit better, 70S and 80S | | {real['mirrored']} |",
        f"| average of the 70S by the poses found, correlation with the shipped map | {PLAIN_AVERAGE} "
        f"| {row['average']:.3f} |",
        f"| by the poses of their list | | {row['average_listed']:.3f} |",
        f"| random phases, by the poses found: what the references put in | | {row['average_control']:.3f} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="of the phases of the control")
    parser.add_argument("--data", type=Path, help="folder with the shared data; default $CRYOAAE_DATA")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        append(ROWS, measure(shared(parser, "--data", options.data), options.draws))
    write_text(TABLE, table(read_rows(ROWS)[-1]))


if __name__ == "__main__":
    main()

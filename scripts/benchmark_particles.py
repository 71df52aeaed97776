"""Single particles restored by `cryoaae restore STORE.h5`, against what they are particles of.

    benchmark_particles.py [--sets 70S simulated] [--data FOLDER]
    benchmark_particles.py --table

70S: 40 measured bacterial ribosomes of EMPIAR-10499 (box 32 at 12 A), extracted from their 2-D stacks, against the
shipped map, turned as each particle lies. It is of the same data set, made of many more particles. Simulated: particles
of `benchmark_clustering.py` (SNR 0.1, box 32 at 13.5 A), against the density that was imaged. Both restored without a
fit. Volumes are compared inside the sphere that holds a particle: their correlation over coefficients that were
measured, over those that were not, and, free of any radial filter, the mean over shells up to 40 A of their Fourier
shell correlation where it was measured. Beside: the particles as they are, blurred, clipped and put back.

A row a set is appended to docs/benchmarks/particles.json; the table docs/benchmarks/particles.md is made from the last
of each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from benchmark_clustering import CLASSES, made
from benchmark_ribosomes import RUNS, seventy
from benchmark_rows import append, provenance, read_rows
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from shared_data import shared
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.store import StoreWriter, SubtomogramStore
from cryoaae.metrics.fsc import fsc_curve
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.patches.particle_spectra import sphere
from cryoaae.physics.fourier import multiplicity, rfft
from cryoaae.restoration.particles import restore_store
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.simulation.dataset import load_species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "particles.json"
TABLE = ROWS.with_suffix(".md")
# Simulated particles, evenly over the set.
SIMULATED, EACH = 40, 150
FINEST_ANGSTROM = 40.0
RESTORED = "restored"
SETS = {"70S": "40 measured 70S ribosomes", "simulated": f"{SIMULATED} simulated particles of eight classes, SNR 0.1"}

Density = NDArray[np.float64]
# A store, and what each of its particles is, (z, y, x).
Known = tuple[Path, Iterator[Density]]


def measured_ribosomes(data: Path) -> Known:
    """The 70S particles, and the shipped map as each of them lies."""
    path = seventy(data)
    with h5py.File(data / "subtomograms_70S" / "subtomos_70S_12A_box32.h5") as file:
        mirrored = np.asarray(file["reference_shipped_zflipped"], np.float64)
    # Mirrored about the middle between two voxels; the centre is a voxel.
    reference = np.roll(mirrored, 1, axis=0)
    centre = np.full(3, len(reference) // 2)
    with SubtomogramStore(path) as store:
        turns = store.facts.rotations
    lying = (affine_transform(reference, turn.T, offset=centre - turn.T @ centre, order=3) for turn in turns)
    return path, lying


def simulated_particles(data: Path) -> Known:
    """Some particles of the clustering benchmark, and their densities without wedge, CTF and noise."""
    whole, path = made("snr0.1", 0, data / "maps_10A", EACH), RUNS / "some_simulated.h5"
    with SubtomogramStore(whole) as store:
        rows = np.linspace(0, len(store) - 1, SIMULATED).round().astype(int)
        facts = store.facts.only(rows)
        with StoreWriter(path, facts, store.about, store.source_file(), resume=False) as some:
            for i, row in enumerate(rows):
                some.write(i, store.volume(int(row)))
            some.finish()
    files = [next(iter(sorted((data / "maps_10A").glob(f"{one}.mrc*")))) for one in CLASSES]
    settings = ImagingSettings(snr=0.1)
    species = load_species(files, (), settings.voxel_size_angstrom)
    simulator = SubtomogramSimulator(species, [EACH] * len(CLASSES), settings, seed=0)
    return path, (np.asarray(simulator.density(int(row)), np.float64) for row in rows)


def correlation(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Correlation of two volumes (z, y, x) over some coefficients (z, y, x // 2 + 1) bool, without the mean."""
    x, y = rfft(a), rfft(b)
    weight = where * multiplicity(tuple(a.shape))
    weight[0, 0, 0] = 0
    power = (weight * x.abs().square()).sum() * (weight * y.abs().square()).sum()
    return float((weight * (x * y.conj()).real).sum() / power.sqrt())


def measure(name: str, data: Path) -> dict[str, Any]:
    """Restore a set and compare."""
    RUNS.mkdir(parents=True, exist_ok=True)
    path, truths = {"70S": measured_ribosomes, "simulated": simulated_particles}[name](data)
    made_store = restore_store(path, RUNS / f"{path.stem}_restored.h5", options=None, symmetries=True,
                               overwrite=True, progress=ConsoleProgress())  # fmt: skip
    found: dict[str, list[list[float]]] = {}
    titles = {}
    with SubtomogramStore(path) as store, SubtomogramStore(made_store.path) as restored:
        box, shells = store.box, store.box // 2
        inside = sphere(box)
        finest = int(2 * shells * store.voxel_size_angstrom / FINEST_ANGSTROM)
        for i, truth in enumerate(truths):
            wedge = store.facts.wedges[int(store.facts.wedge_index[i])].solid()
            seen = wedge.support((box,) * 3)
            given = torch.from_numpy(store.volume(i))
            inputs = NullInput(given, wedge, density_sign=1.0)
            ways = {null.name: null.compute(inputs) for null in available_nulls(inputs)}
            titles |= {null.name: null.title for null in available_nulls(inputs)}
            wanted = _held(torch.from_numpy(truth).float(), inside)
            for way, volume in {**ways, RESTORED: torch.from_numpy(restored.volume(i))}.items():
                held = _held(volume, inside)
                shellwise = fsc_curve(held, wanted, shells, seen)[1:finest]
                found.setdefault(way, []).append(
                    [correlation(held, wanted, seen), float(shellwise.mean()), correlation(held, wanted, ~seen)]
                )
    return {
        "set": name, "particles": made_store.particles, "titles": titles,
        "scores": {way: np.mean(rows, axis=0).tolist() for way, rows in found.items()},
        "above_input": _above(found, "zero_fill"), "above_blur": _above(found, "gaussian"), **provenance(),
    }  # fmt: skip


def _held(volume: Tensor, inside: Tensor) -> Tensor:
    """A volume inside a soft sphere, its mean there taken off."""
    return (volume - (volume * inside).sum() / inside.sum()) * inside


def _above(found: dict[str, list[list[float]]], other: str) -> list[int]:
    """Particles of which the restored one scores above another way, for each score."""
    return (np.array(found[RESTORED]) > np.array(found[other])).sum(axis=0).tolist()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone: the last of each set."""
    lines = [
        "# Single particles",
        "",
        "Made by `scripts/benchmark_particles.py` from `particles.json`: `cryoaae restore STORE.h5`, no fit. "
        "Correlation with what is known of the particles, mean over particles, inside the sphere that holds them: over "
        f"measured coefficients; the mean of shells up to {FINEST_ANGSTROM:g} Å of them, which no radial filter "
        "changes; over coefficients that were not measured.",
    ]
    for row in {row["set"]: row for row in rows}.values():
        above = ", ".join(map(str, row["above_input"])), ", ".join(map(str, row["above_blur"]))
        lines += [
            "", f"## {SETS[row['set']]}", "", "| | measured | by shell | not measured |", "|---|---|---|---|",
            *(
                f"| {row['titles'].get(way, '**restored**')} | " + " | ".join(f"{score:.3f}" for score in scores) + " |"
                for way, scores in row["scores"].items()
            ),
            "",
            f"Of {row['particles']} particles {above[0]} score above the input, {above[1]} above the blur.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--data", type=Path, help="folder with the shared data; default $CRYOAAE_DATA")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        data = shared(parser, "--data", options.data)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        for name in options.sets:
            append(ROWS, measure(name, data))
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

"""Single particles restored by `cryoaae restore STORE.h5`, against what they are particles of.

    benchmark_particles.py [--sets 70S twins proteasomes simulated] [--model RUN] [--data FOLDER]
    benchmark_particles.py --table

70S: 40 measured bacterial ribosomes of EMPIAR-10499 (box 32 at 12 A), extracted from their 2-D stacks, against the
shipped map, turned as each particle lies. It is of the same data set, made of many more particles. Twins: that map as
each of them lies, in its wedge, with the spectra of signal and noise that the particles have and Gaussian noise: what
could be reached if nothing but noise lay around the particles. Proteasomes: the same of another map, 3ipm, which no
restorer was trained on, though on 6utj, its kin. Simulated: particles of `benchmark_clustering.py` (SNR
0.1, box 32 at 13.5 A), against the density that was imaged. Restored without a fit, and, where --model gives one, by a
restorer that `fit_particles.py` fitted for the 70S particles.

Volumes are compared inside a soft sphere, the one that holds every particle of a box and for the ribosomes one of their
own size, too: their correlation over coefficients that were measured; free of any radial filter, the mean over shells
up to 40 A of their Fourier shell correlation there; their correlation over coefficients that were not measured, of all
and in two bands; and all this again of what is left when the radial mean of either volume is taken off, for any ball of
the right size looks much like a ribosome. Beside: the particles as they are, blurred, clipped and put back; the radial
mean of all particles, the same for each; what was restored of another particle; and the best of all radial filters,
which is told the truth.

A row a set is appended to docs/benchmarks/particles.json; the table docs/benchmarks/particles.md is made from the last
of each.
"""

from __future__ import annotations

import argparse
import json
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
from scipy.ndimage import affine_transform, center_of_mass
from shared_data import shared
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.store import StoreWriter, SubtomogramStore
from cryoaae.metrics.fsc import fsc_curve
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.patches.particle_spectra import sphere
from cryoaae.patches.spectra import coloured_noise, interpolate
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum, soft_lowpass
from cryoaae.restoration.particle_density import ParticleDensity
from cryoaae.restoration.particles import restore_store
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.simulation.dataset import load_species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "particles.json"
TABLE = ROWS.with_suffix(".md")
# Simulated particles, evenly over the set.
SIMULATED, EACH = 40, 150
FINEST_ANGSTROM = 40.0
# Of coefficients that were not measured, apart from all of them.
BANDS_ANGSTROM = ((200.0, 75.0), (75.0, 40.0))
SCORES = ("measured", "by shell", "not measured", *(f"{low:g} to {high:g} Å" for low, high in BANDS_ANGSTROM))
RESTORED, FITTED, RADIAL, BALL, ANOTHER = "restored", "fitted", "radial", "ball", "another"
TITLES = {
    RESTORED: "**restored, no fit**", FITTED: "**restored, fitted on simulated particles**",
    RADIAL: "Best radial filter, told the truth", BALL: "Radial mean of all particles, the same for each",
    ANOTHER: "What was restored, fitted, of another particle",
}  # fmt: skip
SETS = {
    "70S": "40 measured 70S ribosomes",
    "twins": "Their twins: the shipped map in the same wedges, with the measured spectra and Gaussian noise",
    "proteasomes": "The same of 3ipm, a proteasome with activators: no restorer has seen it, but its kin 6utj",
    "simulated": f"{SIMULATED} simulated particles of eight classes, SNR 0.1",
}
# Diameter of the sphere of their own size, angstrom, and the voxels over which it fades.
OWN_ANGSTROM, OWN_FADE = {"70S": 240.0, "twins": 240.0, "proteasomes": 240.0}, 2.0
# An even line of maps_10A.
UNSEEN = "3ipm"
BOX, OWN, SHAPE, OWN_SHAPE = "box", "own", "shape", "own shape"
LEFT = "without the radial means"
WINDOWS = {
    BOX: "Inside the sphere that holds every particle of such a box", SHAPE: f"The same, {LEFT}",
    OWN: "Inside a sphere of 240 Å", OWN_SHAPE: f"The same, {LEFT}",
}  # fmt: skip

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


def twins(data: Path) -> Known:
    """The shipped map as the 70S particles lie, measured as they were, and that map."""
    source, lying = measured_ribosomes(data)
    return _measured_alike(source, list(lying), RUNS / "70S_twins.h5")


def proteasomes(data: Path) -> Known:
    """A map that no restorer was trained on as the 70S particles lie, measured as they were, and that map."""
    source = seventy(data)
    with SubtomogramStore(source) as store:
        turns, voxel, box = store.facts.rotations, store.voxel_size_angstrom, store.box
    path = data / "maps_10A" / f"{UNSEEN}.mrc.gz"
    density = load_species([path], (), voxel)[0].density
    middle = center_of_mass(density)
    lying = [
        affine_transform(density, turn.T, offset=middle - turn.T @ np.full(3, box // 2), output_shape=(box,) * 3)
        for turn in turns
    ]
    return _measured_alike(source, [np.asarray(one, np.float64) for one in lying], RUNS / "proteasomes.h5")


def _measured_alike(source: Path, truths: list[Density], path: Path) -> Known:
    """Densities measured in the wedges and with the spectra of a store, and they themselves."""
    generator = torch.Generator().manual_seed(0)
    with SubtomogramStore(source) as store:
        box, spectra = (store.box,) * 3, ParticleDensity(store).spectra
        index, weight, shells = shell_index(box, store.box // 2), multiplicity(box), store.box // 2
        supports = [wedge.support(box) for wedge in store.facts.wedges]
        numbers = store.facts.wedge_index.tolist()
        power, count = torch.zeros(2, shells, dtype=torch.float64)
        for truth, number in zip(truths, numbers, strict=True):
            seen = supports[number] * weight
            power += shell_sum(rfft(torch.from_numpy(truth)).abs() ** 2 * seen, index, shells)
            count += shell_sum(seen, index, shells)
        gain = interpolate((spectra.signal * count / power).sqrt(), (radius(box) * 2).double().clamp(max=1.0))
        with StoreWriter(path, store.facts, store.about, store.source_file(), resume=False) as made_store:
            for i, (truth, number) in enumerate(zip(truths, numbers, strict=True)):
                noise = rfft(coloured_noise(spectra.noise, box, generator))
                spectrum = (rfft(torch.from_numpy(truth)) * gain + noise) * supports[number]
                made_store.write(i, irfft(spectrum, box).float().numpy())
            made_store.finish()
    return path, iter(truths)


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


def measure(name: str, data: Path, model: Path | None) -> dict[str, Any]:
    """Restore a set and compare."""
    RUNS.mkdir(parents=True, exist_ok=True)
    sources = {
        "70S": measured_ribosomes, "twins": twins, "proteasomes": proteasomes, "simulated": simulated_particles,
    }  # fmt: skip
    path, known = sources[name](data)
    truths = [torch.from_numpy(truth).float() for truth in known]
    models = {RESTORED: None} | ({FITTED: model} if model is not None and name in OWN_ANGSTROM else {})
    made_stores = {
        way: restore_store(path, RUNS / f"{path.stem}_{way}.h5", model=which, options=None, symmetries=True,
                           overwrite=True, progress=ConsoleProgress())
        for way, which in models.items()
    }  # fmt: skip
    found: dict[str, dict[str, list[list[float]]]] = {}
    titles = dict(TITLES)
    with SubtomogramStore(path) as store:
        windows = _windows(name, store.box, store.voxel_size_angstrom)
        volumes = {way: SubtomogramStore(one.path) for way, one in made_stores.items()}
        wedges = [store.facts.wedges[int(number)].solid() for number in store.facts.wedge_index]
        particles = [torch.from_numpy(store.volume(i)) for i in range(len(store))]
        radial = _best_radial(particles, truths, windows[BOX])
        ball = _radial_mean(torch.stack(particles).mean(dim=0))
        for i, (truth, wedge) in enumerate(zip(truths, wedges, strict=True)):
            given = particles[i]
            inputs = NullInput(given, wedge, density_sign=1.0)
            ways = {null.name: null.compute(inputs) for null in available_nulls(inputs)}
            titles |= {null.name: null.title for null in available_nulls(inputs)}
            ways |= {RADIAL: irfft(rfft(given) * radial, given.shape), BALL: ball}
            ways |= {way: torch.from_numpy(one.volume(i)) for way, one in volumes.items()}
            if FITTED in volumes:
                ways[ANOTHER] = torch.from_numpy(volumes[FITTED].volume(_another(i, store.facts.wedge_index)))
            seen = wedge.support(tuple(given.shape))
            for window, inside in windows.items():
                for way, volume in ways.items():
                    shape = window in (SHAPE, OWN_SHAPE)
                    if shape and way == BALL:
                        continue
                    pair = [v - _radial_mean(v) if shape else v for v in (volume, truth)]
                    scores = _scores(*(_held(v, inside) for v in pair), seen, store.voxel_size_angstrom)
                    found.setdefault(window, {}).setdefault(way, []).append(scores)
    row = {
        "set": name, "particles": len(truths), "titles": titles,
        "scores": {window: {way: _mean_error(some) for way, some in ways.items()} for window, ways in found.items()},
        "gains": {window: _gains(ways, list(models)) for window, ways in found.items()}, **provenance(),
    }  # fmt: skip
    if FITTED in models and model is not None:
        row["fit"] = json.loads((model / "report.json").read_text())
    return row


def _windows(name: str, box: int, voxel_size_angstrom: float) -> dict[str, Tensor]:
    """Soft spheres (z, y, x) in which volumes are compared."""
    windows = {BOX: sphere(box), SHAPE: sphere(box)}
    if name in OWN_ANGSTROM:
        r = _radii(box)
        edge = OWN_ANGSTROM[name] / 2 / voxel_size_angstrom
        windows[OWN] = windows[OWN_SHAPE] = soft_lowpass(r, edge - OWN_FADE / 2, edge + OWN_FADE / 2)
    return windows


def _radii(box: int) -> Tensor:
    """Distance from voxel box // 2, (z, y, x)."""
    line = torch.arange(box, dtype=torch.float32) - box // 2
    return torch.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)


def _radial_mean(volume: Tensor) -> Tensor:
    """Mean of a volume (z, y, x) over directions, at every voxel."""
    shell = _radii(len(volume)).round().long()
    count = torch.bincount(shell.flatten())
    mean = torch.bincount(shell.flatten(), weights=volume.double().flatten()) / count.clamp(min=1)
    return mean[shell].float()


def _another(index: int, wedge_index: NDArray[np.int64]) -> int:
    """The next particle with the same wedge."""
    alike = np.flatnonzero(wedge_index == wedge_index[index])
    return int(alike[(np.searchsorted(alike, index) + 1) % len(alike)])


def _best_radial(given: Sequence[Tensor], truths: Sequence[Tensor], inside: Tensor) -> Tensor:
    """Radial filter (z, y, x // 2 + 1) of the least squared error over all particles."""
    box = (len(inside),) * 3
    shells = len(inside) // 2
    index, weight = shell_index(box, shells), multiplicity(box)
    cross, power = torch.zeros(2, shells, dtype=torch.float64)
    for one, truth in zip(given, truths, strict=True):
        a, b = rfft(_held(one, inside)), rfft(_held(truth, inside))
        cross += shell_sum((a * b.conj()).real * weight, index, shells)
        power += shell_sum(a.abs() ** 2 * weight, index, shells)
    return interpolate((cross / power).clamp(min=0.0), (radius(box) * 2).double().clamp(max=1.0))


def _scores(volume: Tensor, truth: Tensor, seen: Tensor, voxel_size_angstrom: float) -> list[float]:
    """`SCORES` of one particle."""
    shells = len(truth) // 2
    finest = int(2 * shells * voxel_size_angstrom / FINEST_ANGSTROM)
    shellwise = fsc_curve(volume, truth, shells, seen)[1:finest]
    k = radius(tuple(truth.shape)) / voxel_size_angstrom
    bands = (~seen & (k >= 1 / low) & (k < 1 / high) for low, high in BANDS_ANGSTROM)
    hidden = [correlation(volume, truth, where) for where in (~seen, *bands)]
    return [correlation(volume, truth, seen), float(shellwise.mean()), *hidden]


def _mean_error(rows: list[list[float]]) -> list[list[float]]:
    """Mean over particles of each score, and its standard error."""
    values = np.array(rows)
    return [values.mean(axis=0).tolist(), (values.std(axis=0, ddof=1) / np.sqrt(len(values))).tolist()]


def _gains(ways: dict[str, list[list[float]]], restored: list[str]) -> dict[str, dict[str, list[list[float]]]]:
    """By how much what was restored scores above each other way, particle by particle."""
    return {
        way: {
            other: _mean_error((np.array(ways[way]) - np.array(scores)).tolist())
            for other, scores in ways.items()
            if other not in (RESTORED, FITTED, RADIAL) and not (other == ANOTHER and way == RESTORED)
        }
        for way in restored
    }  # fmt: skip


def _held(volume: Tensor, inside: Tensor) -> Tensor:
    """A volume inside a soft sphere, its mean there taken off."""
    return (volume - (volume * inside).sum() / inside.sum()) * inside


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone: the last of each set."""
    lines = [
        "# Single particles",
        "",
        "Made by `scripts/benchmark_particles.py` from `particles.json`: `cryoaae restore STORE.h5`. "
        "Correlation with what is known of the particles, mean over particles: over measured coefficients; "
        f"the mean of shells up to {FINEST_ANGSTROM:g} Å of them, which no radial filter "
        "changes; over coefficients that were not measured, all and in two bands.",
    ]
    last = {row["set"]: row for row in rows}
    for row in (last[name] for name in SETS if name in last):
        lines += ["", f"## {SETS[row['set']]}"]
        for window, ways in row["scores"].items():
            heads = ["| | " + " | ".join(SCORES) + " |", "|---" * (1 + len(SCORES)) + "|"]
            lines += ["", f"{WINDOWS[window]}:", "", *heads]
            lines += [_line(row["titles"][way], *scores) for way, scores in ways.items()]
            # What was fitted, where something was.
            lines += ["", _gain_line(list(row["gains"][window])[-1], row, window)]
        if "fit" in row:
            fit = row["fit"]
            names = ", ".join(name.removesuffix(".mrc.gz") for name in fit["maps"])
            lines += [
                "",
                f"Fitted for {fit['steps']} steps in {fit['seconds'] / 60:.0f} minutes of a quarter of a core, "
                f"`scripts/fit_particles.py --diameter {fit['diameter_angstrom']:g}`, on procedural assemblies and "
                f"relatives of {names}.",
            ]
    return "\n".join(lines) + "\n"


def _line(title: str, means: list[float], errors: list[float]) -> str:
    """A line of the table; coefficients that were not measured with their standard error."""
    cells = [
        f"{mean:.3f}" + (f" ± {error:.3f}" if i >= SCORES.index("not measured") else "")
        for i, (mean, error) in enumerate(zip(means, errors, strict=True))
    ]
    return f"| {title} | " + " | ".join(cells) + " |"


def _gain_line(way: str, row: dict[str, Any], window: str) -> str:
    """By how much a way scores above the others, in words."""
    def said(scores: list[list[float]]) -> str:
        return ", ".join(f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(scores[0][:3], scores[1][:3], strict=True))

    title = row["titles"][way].strip("*")
    gains = "; ".join(f"{row['titles'][other]} {said(scores)}" for other, scores in row["gains"][window][way].items())
    return f"{title[0].upper()}{title[1:]}, paired (measured, by shell, not measured), above: {gains}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--model", type=Path, help="folder made by fit_particles.py for the 70S particles")
    parser.add_argument("--data", type=Path, help="folder with the shared data; default $CRYOAAE_DATA")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        data = shared(parser, "--data", options.data)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        for name in options.sets:
            append(ROWS, measure(name, data, options.model))
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

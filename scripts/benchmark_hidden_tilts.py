"""What is filled in against what was measured: tilts are taken away from tomograms that have no truth.

    benchmark_hidden_tilts.py [NAME ...] [--data FOLDER] [--again]
    benchmark_hidden_tilts.py --table

Single volumes of $CRYOAAE_DATA: two crops of SHREC 2021, which another simulator made. The outermost tilts at one end
are taken out of the whole volume; everything, fits too, is given the rest alone. What is put where they were is then
held against what they measured, by shell: the correlation over coefficients that are a Fourier voxel or more from what
was given. The noise of what was measured keeps it below 1, for all ways alike.

Ways: the training-free nulls, the restorer that comes along, the same fitted further on the volume for as many steps as
`benchmark_general.py` does, and a fit from scratch for about 12 minutes of two cores. Each way is a row of
docs/benchmarks/hidden_tilts.json; hidden_tilts.md is made from them. Runs lie in benchmark_runs/hidden_tilts.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_general import ADAPTING
from benchmark_rows import append, provenance, read_rows
from shared_data import shared
from torch import Tensor

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.io.weights import digest
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.models.general import GeneralRestorer
from cryoaae.physics.fourier import multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "hidden_tilts.json"
PAGE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "hidden_tilts"
DEVICE = "cpu"
HIDDEN_DEG = 20.0
# Coefficients nearer than this to what was given, in Fourier voxels, tell little that is new.
GUARD = 1.0
# Cycles per voxel. Below, the hidden sector is too narrow.
SHELLS = (0.07, 0.12, 0.17, 0.22, 0.27)
# Of a shell, to be scored; and power, over that of the measurement, of what counts as put there, not rounding.
FEWEST, NOTHING = 50, 1e-9
# As many as 12 minutes of two cores paid for, at .7 CPU-seconds a step; what they took is in the row.
SCRATCH_STEPS = 1900


@dataclass(frozen=True)
class Subject:
    """A tomogram to take tilts from."""

    title: str
    file: str
    tilt_range_deg: tuple[float, float]
    voxel_size_angstrom: float


SUBJECTS = {
    "shrec-aligned": Subject(
        "SHREC 2021, tilts well aligned", "shrec21_crops/triplet_perfect.mrc", (-60.0, 60.0), 10.0
    ),
    "shrec-misaligned": Subject(
        "SHREC 2021, alignment spoiled", "shrec21_crops/triplet_degraded.mrc", (-60.0, 60.0), 10.0
    ),
}
NULLS, NO_FIT, ADAPTED, SCRATCH = "nulls", "no fit", "adapted", "from scratch"
FITS = {
    NO_FIT: None, ADAPTED: ADAPTING,
    SCRATCH: FitSettings.from_spectrum(steps=SCRATCH_STEPS, minutes=None),
}  # fmt: skip
WAYS = (NULLS, *FITS)


def density(path: Path, voxel_size_angstrom: float) -> Tensor:
    """A volume in memory, (z, y, x) float32; headers of another simulator may lack the voxel size."""
    return torch.from_numpy(np.array(open_volume(path, voxel_size_angstrom=voxel_size_angstrom).numpy(), np.float32))


@dataclass(frozen=True)
class Hidden:
    """A tomogram, and the same without its outermost tilts.

    Parameters
    ----------
    whole : (z, y, x)
    wedge, shown : MissingWedge
        Of the whole, and of what is left.
    path : path
        File of what is left.
    """

    whole: Tensor
    wedge: MissingWedge
    shown: MissingWedge
    path: Path

    @classmethod
    def of(cls, subject: Subject, data: Path, folder: Path) -> Hidden:
        """Take the tilts away and write what is left."""
        whole = density(data / subject.file, subject.voxel_size_angstrom)
        wedge = MissingWedge(subject.tilt_range_deg).solid()
        low, high = subject.tilt_range_deg
        shown = wedge.narrowed((low, high - HIDDEN_DEG)).solid()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "shown.mrc"
        left = shown.measured(whole).numpy()
        write_volume(path, left, voxel_size_angstrom=subject.voxel_size_angstrom, overwrite=True)
        return cls(whole, wedge, shown, path)

    def scores(self, estimate: Tensor) -> dict[str, Any]:
        """Correlation with what was hidden by shell, None where nothing was put, their mean; coefficients."""
        shape, unit = self.whole.shape, tuple(self.whole.shape)
        scored = self.wedge.depth(shape, object_zyx=unit) < 0
        scored &= self.shown.depth(shape, object_zyx=unit) >= GUARD
        one, other, distance, weight = rfft(estimate), rfft(self.whole), radius(shape), multiplicity(shape)
        found: list[float | None] = []
        counts = []
        for low, high in pairwise(SHELLS):
            there = scored * (distance >= low) * (distance < high) * weight
            ours, theirs = ((there * f.abs().square()).double().sum() for f in (one, other))
            common = (there * (one * other.conj()).real).double().sum()
            counts.append(int(there.sum() / 2))
            told = counts[-1] >= FEWEST and ours > NOTHING * theirs
            found.append(round(float(common / (ours * theirs).sqrt()), 4) if told else None)
        told = [value for value in found if value is not None]
        return {"shells": found, "mean": round(float(np.mean(told)), 4) if told else None, "coefficients": counts}


def measure(name: str, way: str, hidden: Hidden, folder: Path) -> list[dict[str, Any]]:
    """Rows of one way; of the nulls one each."""
    about = {"subject": name, "hidden_deg": HIDDEN_DEG, **provenance(DEVICE)}
    voxel = SUBJECTS[name].voxel_size_angstrom
    if way == NULLS:
        inputs = NullInput(density(hidden.path, voxel), hidden.shown)
        return [
            {**about, "way": null.name, "title": null.title, **hidden.scores(null.compute(inputs))}
            for null in available_nulls(inputs)
        ]
    settings, given = FITS[way], {"inputs": [hidden.path], "tilt_range": hidden.shown.tilt_range_deg}
    started, model = time.process_time(), None
    if settings is not None:
        model = folder / way.replace(" ", "_")
        shutil.rmtree(model, ignore_errors=True)
        cryoaae.fit(**given, run_path=model, settings=settings, device=DEVICE)
    output = folder / f"{way.replace(' ', '_')}.mrc"
    cryoaae.restore(**given, output=output, model=model, device=DEVICE, symmetries=True, overwrite=True)
    estimate = density(output, voxel)
    seconds = round(time.process_time() - started)
    weights = digest(dict(GeneralRestorer.bundled().state_dict()))[:16]
    steps = 0 if settings is None else settings.steps
    cost = {"steps": steps, "weights": weights, "cpu_seconds": seconds}
    return [{**about, "way": way, **cost, **hidden.scores(estimate)}]


# -- the page ---------------------------------------------------------------------------------------------


def latest(rows: Sequence[Mapping[str, Any]], subject: str) -> list[Mapping[str, Any]]:
    """The last row of each way for a subject, nulls first."""
    found = {row["way"]: row for row in rows if row["subject"] == subject}
    return [*(row for way, row in found.items() if way not in FITS), *(found[way] for way in FITS if way in found)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown."""
    lines = [
        "# What is filled in against what was measured", "",
        "Made by `scripts/benchmark_hidden_tilts.py` from `hidden_tilts.json`. Single volumes without a truth, of "
        f"which {HIDDEN_DEG:g} degrees of tilts at the upper end were taken away before anything saw them. Columns: "
        "correlation of what was put there with what was measured there, by shell (cycles per voxel), and its mean; "
        "the noise of the measurement keeps it below 1. *Adapted* and *from scratch*: fitted on the same volume "
        "without those tilts. ± is what chance leaves of a correlation of nothing; – where a way puts nothing.", "",
    ]  # fmt: skip
    for name, subject in SUBJECTS.items():
        found = latest(rows, name)
        if not found:
            continue
        chances = [1 / math.sqrt(max(2 * count, 1)) for count in found[0]["coefficients"]]
        shells = [f"{a:.2f}–{b:.2f} (± {c:.3f})" for (a, b), c in zip(pairwise(SHELLS), chances, strict=True)]
        lines += [f"## {subject.title}", "", f"| | {' | '.join(shells)} | mean | steps | CPU-min |", "|---" * 8 + "|"]
        for row in found:
            title = f"**{row['way']}**" if row["way"] in FITS else row["title"]
            cells = ["–" if value is None else f"{value:.3f}" for value in (*row["shells"], row["mean"])]
            cost = [str(row["steps"] or ""), f"{row['cpu_seconds'] / 60:.1f}"] if row["way"] in FITS else ["", ""]
            lines.append(f"| {' | '.join([title, *cells, *cost])} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--data", type=Path, help="folder of the data; default: $CRYOAAE_DATA")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--again", action="store_true", help="measure again what stands")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"no subject is called {', '.join(sorted(unknown))}")
    for name in () if options.table else options.names or SUBJECTS:
        folder = RUNS / name
        hidden = Hidden.of(SUBJECTS[name], shared(parser, "--data", options.data), folder)
        standing = {row["way"] for row in latest(read_rows(ROWS), name)}
        for way in options.ways:
            if not options.again and (way in standing or (way == NULLS and standing - set(FITS))):
                continue
            for row in measure(name, way, hidden, folder):
                append(ROWS, row)
                print(f"{name}, {row['way']}: {row['shells']} mean {row['mean']}", flush=True)
    write_text(PAGE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

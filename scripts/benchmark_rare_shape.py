"""Whether a prior turns a rare shape into a commoner one: its correlation with the truth, paired with no prior.

    benchmark_rare_shape.py [VARIANT ...] [--dry-run]
    benchmark_rare_shape.py --trial
    benchmark_rare_shape.py --table

Twelve crowded phantoms of 128^3 voxels hold some 300 particles each: five kinds of proteins, and three copies of a
sixth, p97, one per cent, which is as large as the commoner ones. One network is fitted on all of them without a prior,
and one with each variant of `benchmark_priors`, from the general restorer, as many steps each; all phantoms are
restored. At every rare copy the restoration is correlated with the truth over the particle's ball, in the bands that a
wedge is filled in. What counts is the mean over copies of the difference to no prior, with the middle 95 % over
phantoms drawn with replacement: it may not reach down to -0.03.

Rows are appended to docs/benchmarks/rare_shape.json, the page rare_shape.md is made from them; runs lie in
benchmark_runs/rare_shape, and what stands there is not made again. --dry-run prints the plan. --trial goes the whole
way with two phantoms of 72^3 and a few steps, and keeps no row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_priors import VARIANTS
from benchmark_rows import append, provenance, read_rows
from priors_proxy import tensor
from priors_table import PLAIN
from restoration_conditions import VOXEL_ANGSTROM, data_folder
from torch import Tensor

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.metrics.fsc import BANDS, correlation
from cryoaae.metrics.particles import INSIDE_SHARE
from cryoaae.physics.fourier import irfft, radius, rfft, soft_lowpass
from cryoaae.simulation import dataset, specimen
from cryoaae.simulation.tilt_series import field_width, tilt_angles_deg

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "rare_shape.json"
RUNS = Path("benchmark_runs") / "rare_shape"
COMMON, RARE = ("1f4a", "1s3x", "3gl1", "3ipm", "8tux"), "3cf3"
FIRST_SEED = 780
TILTS, SNR = tilt_angles_deg((-60.0, 60.0), 3.0), 1.0
# p97 is a hexagon some 160 angstrom across.
RADIUS_ANGSTROM = 90.0
TRIED = ("cryogen1", "cryogen2")
MARGIN, RESAMPLES = 0.03, 2000


@dataclass(frozen=True)
class Size:
    """How much is simulated and fitted.

    Parameters
    ----------
    phantoms, edge : int
    particles, rare : int
        Asked for in each phantom; of the commoner kinds as many as find room.
    steps : int
        Of every fit.
    """

    phantoms: int = 12
    edge: int = 128
    particles: int = 300
    rare: int = 3
    steps: int = 400


TRIAL = Size(phantoms=2, edge=72, particles=25, rare=3, steps=4)


# -- phantoms ------------------------------------------------------------------------------------------


def made(folder: Path, number: int, size: Size) -> None:
    """Simulate a phantom with a fixed number of rare particles, unless it stands."""
    name = f"phantom{number:02d}"
    listed = folder / f"{name}.json"  # written last
    if listed.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(FIRST_SEED + number).spawn(2)]
    maps = {kind: data_folder() / "maps_10A" / f"{kind}.mrc.gz" for kind in (*COMMON, RARE)}
    *common, rare = dataset.load_species(list(maps.values()), (), VOXEL_ANGSTROM)
    shape = (size.edge,) * 3
    built = specimen.empty_specimen(shape, field_width(shape, TILTS))
    specimen.add_particles(built, streams[0], [rare], size.rare)
    specimen.add_particles(built, streams[0], common, size.particles - size.rare)
    specimen.fill_background(built, streams[0], VOXEL_ANGSTROM)
    volumes = dataset.image_specimen(built, streams[1], TILTS, SNR).volumes
    for part in ("even", "odd", "truth"):
        write_volume(
            folder / f"{name}_{part}.mrc", volumes[part], voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True
        )
    write_text(folder / f"{name}.tlt", "".join(f"{tilt:.2f}\n" for tilt in TILTS))
    particles = [{"class": p.name, "centre_zyx": list(map(int, p.centre_zyx))} for p in built.particles]
    write_text(listed, json.dumps(particles) + "\n")


def phantoms(folder: Path, size: Size) -> dict[str, Any]:
    """All phantoms, as keywords of `cryoaae.fit`."""
    for number in range(size.phantoms):
        made(folder, number, size)
    names = [f"phantom{number:02d}" for number in range(size.phantoms)]
    return {
        "even": [folder / f"{name}_even.mrc" for name in names],
        "odd": [folder / f"{name}_odd.mrc" for name in names], "tilts": [folder / f"{name}.tlt" for name in names],
    }  # fmt: skip


# -- what is measured ----------------------------------------------------------------------------------


def in_band(volume: Tensor) -> Tensor:
    """A volume (z, y, x) up to the end of the middle band: nothing finer of a wedge is filled."""
    stop = BANDS["mid"][1]
    low = soft_lowpass(radius(volume.shape), 0.9 * stop, 1.1 * stop)
    return irfft(rfft(volume - volume.mean()) * low, volume.shape)


def correlations_at(volume: Tensor, truth: Tensor, centres_zyx: Sequence[Sequence[int]], reach: int) -> list[float]:
    """Correlation of two volumes (z, y, x) over the ball about each centre, where half of it lies inside."""
    one, other = in_band(volume), in_band(truth)
    offsets = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 3)
    offsets = offsets[offsets.square().sum(dim=1) <= reach**2]
    found = []
    for centre in centres_zyx:
        at = torch.tensor(centre) + offsets
        at = at[((at >= 0) & (at < torch.tensor(truth.shape))).all(dim=1)]
        if len(at) >= INSIDE_SHARE * len(offsets):
            found.append(correlation(one[at.unbind(dim=1)], other[at.unbind(dim=1)]))
    return found


def measured(variant: str, folder: Path, size: Size) -> tuple[list[list[float]], float]:
    """Correlations of the rare copies of each phantom in a variant's restorations; CPU-seconds of the fit."""
    inputs, run = phantoms(folder / "data", size), folder / variant
    record = folder / f"{variant}.json"
    if not record.exists():
        settings = FitSettings(**{**VARIANTS[variant].settings, "steps": size.steps, "minutes": None})
        started = time.process_time()
        cryoaae.fit([], run_path=run, **inputs, settings=settings, device="cpu", overwrite=True)
        write_text(record, json.dumps({"cpu_seconds": round(time.process_time() - started)}) + "\n")
    restored = folder / f"{variant}_restored"
    cryoaae.restore([], output=restored, model=run, **inputs, symmetries=True, device="cpu")
    reach, each = round(RADIUS_ANGSTROM / VOXEL_ANGSTROM), []
    for number in range(size.phantoms):
        name = f"phantom{number:02d}"
        listed = json.loads((folder / "data" / f"{name}.json").read_text())
        centres = [p["centre_zyx"] for p in listed if p["class"] == RARE]
        truth = tensor(folder / "data" / f"{name}_truth.mrc")
        each.append(correlations_at(tensor(restored / f"{name}_restored.mrc"), truth, centres, reach))
    return each, float(json.loads(record.read_text())["cpu_seconds"])


def interval(differences: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mean over copies, phantoms drawn with replacement."""
    rng, groups = np.random.default_rng(seed), [np.asarray(group) for group in differences if len(group)]
    means = [
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]).mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired(variant: str, folder: Path, size: Size) -> dict[str, Any]:
    """The row of a variant."""
    plain, _ = measured(PLAIN, folder, size)
    own, seconds = measured(variant, folder, size)
    differences = [[b - a for a, b in zip(x, y, strict=True)] for x, y in zip(plain, own, strict=True)]
    flat = np.concatenate(differences)
    low, high = interval(differences)
    listed = [json.loads(path.read_text()) for path in sorted((folder / "data").glob("phantom*.json"))]
    particles = sum(map(len, listed))
    return {
        "variant": variant, "copies": len(flat), "particles": particles,
        "share": sum(p["class"] == RARE for own in listed for p in own) / particles,
        "none": float(np.mean(np.concatenate(plain))), "own": float(np.mean(np.concatenate(own))),
        "difference": float(flat.mean()), "low": low, "high": high, "lowest": float(flat.min()),
        "cpu_seconds": round(seconds), "size": asdict(size), **provenance(),
    }  # fmt: skip


# -- the page ------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown; the last row of a variant counts."""
    last = {row["variant"]: row for row in rows}
    lines = [
        "# A rare shape under a prior", "",
        "Made by `scripts/benchmark_rare_shape.py` from `rare_shape.json`: correlation of restored p97 with the truth, "
        "over its ball and up to the end of the middle band, where it is one particle in a hundred. One fit on all "
        "phantoms with the prior and one without, as many steps each.", "",
        "| | copies | of all | without | with | difference | 95 % | worst copy | CPU-s | at most 0.03 lower |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(name, row) for name, row in last.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(name: str, row: Mapping[str, Any]) -> str:
    verdict = "holds" if row["low"] >= -MARGIN else "does not hold"
    return (
        f"| {VARIANTS[name].title} | {row['copies']} | {row['share']:.1%} | {row['none']:.3f} | {row['own']:.3f} | "
        f"{row['difference']:+.3f} | {row['low']:+.3f} to {row['high']:+.3f} | {row['lowest']:+.3f} | "
        f"{row['cpu_seconds']} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=TRIED, metavar="VARIANT", help=f"default: {' '.join(TRIED)}")
    parser.add_argument("--dry-run", action="store_true", help="print the plan")
    parser.add_argument("--trial", action="store_true", help="the whole way in small; no row is kept")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    unknown = [name for name in options.variants if name not in VARIANTS or name == PLAIN]
    if unknown:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(name for name in VARIANTS if name != PLAIN)}")
    size, folder = (TRIAL, RUNS / "trial") if options.trial else (Size(), RUNS)
    stands = {row["variant"] for row in read_rows(ROWS)} if not options.trial else set()
    for name in [] if options.table else options.variants:
        if options.dry_run:
            print(f"{name:<20}{'done' if name in stands else 'to do'}, {size.phantoms} phantoms of {size.edge}^3")
        elif name not in stands:
            row = paired(name, folder, size)
            print(json.dumps(row), flush=True)
            if not options.trial:
                append(ROWS, row)
    if not options.trial and not options.dry_run and read_rows(ROWS):
        write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

"""What priors on structure and on codes give and cost, at a fixed budget of CPU-seconds, beside what they must beat.

    benchmark_priors.py --list
    benchmark_priors.py [NAME ...] [--again] [--confirm VARIANT ...]
    benchmark_priors.py --table

Screen: simulated tomograms of 96^3 voxels, 2 x 4 CPU-minutes, two seeds, every variant started as the default starts.
A name is condition/variant/seed as --list prints it, or its beginning. Each run is a process of its own, so that its
memory is its own; a row is appended to docs/benchmarks/priors.json when it is done, and the page priors.md is made from
the rows. Finished runs are not made again, unless --again says that the method has changed; one that was killed in its
fit starts that anew. Runs lie in benchmark_runs/priors. --confirm plans the default and the named variants on three
conditions and three seeds that the screen has not seen.

The default is also changed in two ways that need no prior: its power brought to the signal's shell by shell, and noise
added of the power that it lacks. Only what beats those counts as realism. How like structure an output looks is the
proxy of `priors_proxy`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_restoration import DEVICE, NEVER, evaluated, legs, nothing_from_nothing, nulls_of, restored, steps_of
from benchmark_rows import append, provenance, read_rows
from priors_proxy import (
    OneTomogram,
    amplitude_matched,
    opened,
    proxy_area,
    signal_power,
    tensor,
    truth_and_smear,
    with_matched_noise,
)
from priors_table import AMPLITUDE, NOISE, PLAIN, ROWS, VARIANTS, done, table
from restoration_conditions import CONDITIONS, FIRST_SEED, VOXEL_ANGSTROM, Data, Run, named, prepared
from restoration_table import scores_of

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.models.restorer import Restorer

RUNS, DATA = Path("benchmark_runs") / "priors", Path("benchmark_runs") / "restoration" / "data"
SCREEN, SCREEN_SEEDS = "small", 2
CONFIRMED, CONFIRM_SEEDS, FIRST_CONFIRM_SEED = ("full", "snr0.3", "defocus"), 3, 720
# Steps of the two short fits that the pace is read from: a memory of patches is full enough to act on before them.
PACE_STEPS = (20, 50)


def plan(confirm: Sequence[str] = ()) -> list[Run]:
    """The screen, seed by seed, then what is to be confirmed."""
    runs = [Run(SCREEN, name, FIRST_SEED + i) for i in range(SCREEN_SEEDS) for name in VARIANTS]
    chosen = dict.fromkeys([PLAIN, *confirm]) if confirm else {}
    seeds = range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + CONFIRM_SEEDS)
    return runs + [Run(condition, name, seed) for condition in CONFIRMED for name in chosen for seed in seeds]


def settings_of(run: Run, **changed: Any) -> FitSettings:
    return FitSettings(seed=run.seed, **{**VARIANTS[run.variant].settings, **changed})


# -- a run -------------------------------------------------------------------------------------------


def pace_of(run: Run, data: Data, folder: Path, rows: Path, *, new: bool) -> dict[str, Any]:
    """CPU-seconds of a step and of the rest, recorded on a machine like this one, or measured with two short fits."""
    machine = provenance()["machine"]
    known = [row for row in read_rows(rows) if row.get("pace") == run.pace and row["machine"] == machine]
    if new or not known:
        settings = settings_of(run, patience=NEVER)
        short, longer = (next(legs(data, settings, [steps], folder / "pace")) for steps in PACE_STEPS)
        restoring = restored(data, longer.folder, folder / "pace" / "restored.mrc")
        rate = (longer.cpu_seconds - short.cpu_seconds) / (longer.steps - short.steps)
        known = [{
            "pace": run.pace, "step_cpu_seconds": round(rate, 4),
            "fixed_cpu_seconds": round(short.cpu_seconds - short.steps * rate + restoring, 1), **provenance(),
        }]  # fmt: skip
        append(rows, known[0])
    return known[-1]


def measure(run: Run, data: Data, steps: int, folder: Path) -> dict[str, Any]:
    """Fit, restore, score; for the default also what it must be held against."""
    settings, plain = settings_of(run), run.variant == PLAIN
    (leg,) = legs(data, settings, [steps], folder)
    output = folder / "restored.mrc"
    restoring = restored(data, leg.folder, output)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    nothing = nothing_from_nothing(data, leg.folder, run.seed)
    found = evaluated(data, output, baselines=True)
    beside = nulls_of(found)
    tomogram = opened(data, Restorer.load(leg.folder).spec.working_bin)
    own = {"scores": scored(found["rows"][0], beside), "auc": proxy_area(tomogram, tensor(output), run.seed)}
    codes = leg.folder / "codes.json"
    row = {
        "condition": run.condition, "variant": run.variant, "seed": run.seed, "steps": leg.steps, **own,
        "nothing": nothing, "codes": json.loads(codes.read_text()) if codes.exists() else None,
        "cpu_seconds": round(leg.cpu_seconds + restoring), "memory_mib": round(memory), **beside, "data": data.facts,
        "settings": asdict(settings), "torch": torch.__version__, **provenance(),
    }  # fmt: skip
    if plain:
        row["beside"] = dict(held_against(data, output, folder, tomogram, beside, run.seed))
    return row


def scored(entry: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    return scores_of(entry, units=beside["units"], curves=True)


def held_against(
    data: Data, output: Path, folder: Path, tomogram: OneTomogram, beside: Mapping[str, Any], seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The default changed without a prior, and what truth and smear look like to the proxy."""
    made, (even, odd) = tensor(output), (tensor(path) for path in data.volumes.values())
    signal, generator = signal_power(even, odd, data.wedge), torch.Generator().manual_seed(seed)
    changed = {
        AMPLITUDE: amplitude_matched(made, signal), NOISE: with_matched_noise(made, signal, data.wedge, generator),
    }  # fmt: skip
    for name, volume in changed.items():
        path = folder / f"{name}.mrc"
        write_volume(path, volume.numpy(), voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
        found = cryoaae.evaluate(
            path, wedge=data.wedge, truth=data.truth, **data.volumes, particles=data.particles, baselines=False
        )
        yield name, {"scores": scored(found["rows"][0], beside), "auc": proxy_area(tomogram, volume, seed)}
    for name, volume in truth_and_smear(data).items():
        yield name, {"auc": proxy_area(tomogram, volume, seed)}


def make(run: Run, rows: Path, *, again: bool) -> None:
    """Make a run of the plan and append its row; in the process that this is."""
    folder = RUNS / run.name
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    data = prepared(replace(run, variant="default"), DATA)
    pace = pace_of(run, data, folder, rows, new=again)
    steps = steps_of(CONDITIONS[run.condition].minutes[0], pace)
    print(f"{run.name}: {steps} steps", flush=True)
    append(rows, measure(run, data, steps, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs, or beginnings of their names; default: all")
    parser.add_argument("--again", action="store_true", help="make finished runs again, and measure their pace again")
    parser.add_argument("--confirm", nargs="*", default=[], choices=[name for name in VARIANTS if name != PLAIN])
    parser.add_argument("--list", action="store_true", help="print the plan, and what is done")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    parser.add_argument("--here", action="store_true", help="make the one run that is named in this process")
    options = parser.parse_args()
    wanted = plan(options.confirm)
    wanted = named(wanted, options.names, parser)
    if options.list:
        for run in wanted:
            state = "done" if run.name in done(read_rows(ROWS)) else "to do"
            print(f"{run.name:<32}{state:<8}{VARIANTS[run.variant].title}; on {DEVICE}")
        return
    if options.here:
        make(wanted[0], ROWS, again=options.again)
        return
    for run in [] if options.table else wanted:
        if options.again or run.name not in done(read_rows(ROWS)):
            words = ["--again"] if options.again else []
            words += ["--confirm", *options.confirm] if options.confirm else []
            subprocess.run([sys.executable, __file__, run.name, "--here", *words], check=True)
            write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))
    write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

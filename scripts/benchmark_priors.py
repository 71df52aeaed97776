"""What priors on structure and on codes give and cost, at a fixed budget of CPU-seconds, beside what they must beat.

    benchmark_priors.py --dry-run
    benchmark_priors.py [NAME ...] [--again] [--confirm VARIANT ...]
    benchmark_priors.py small/cryogen1/700 --trial 1
    benchmark_priors.py --table

Screen: simulated tomograms of 96^3 voxels, 2 x 4 CPU-minutes, two seeds. Fits start from the general restorer, those
with codes, which it has not, from the spectrum. A name is condition/variant/seed as --dry-run prints it, or its
beginning. Each run is a process of its own, so that its memory is its own; a row is appended to
docs/benchmarks/priors.json when it is done, and the page priors.md is made from the rows. Finished runs are not made
again, unless --again says that the method has changed; one that was killed in its fit starts that anew. Runs lie in
benchmark_runs/priors. --confirm plans the default and the named variants on three conditions and three seeds that the
screen has not seen. --trial MINUTES goes the whole way with shorter fits, and keeps its rows and runs in
benchmark_runs/priors/trial alone.

The default is also changed in two ways that need no prior: its power brought to the signal's shell by shell, and noise
added of the power that it lacks. Only what beats those counts as realism. How like structure an output looks is told by
`priors_judge`, which is learned once a condition, before the first row.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_restoration import (
    CORES,
    DEVICE,
    NEVER,
    evaluated,
    legs,
    nothing_from_nothing,
    nulls_of,
    restored,
    steps_of,
)
from benchmark_rows import append, provenance, read_rows
from priors_judge import Judge, judge_of
from priors_proxy import changed, opened, tensor, truth_and_smear
from priors_table import AMPLITUDE, DESCENT, NOISE, PLAIN, ROWS, TRUTH, VARIANTS, done, of, table
from restoration_conditions import CONDITIONS, FIRST_SEED, VOXEL_ANGSTROM, Data, Run, named, prepared
from restoration_table import scores_of

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.restoration.energy import EnergyOptions

RUNS, DATA = Path("benchmark_runs") / "priors", Path("benchmark_runs") / "restoration" / "data"
SCREEN, SCREEN_SEEDS = "small", 2
CONFIRMED, CONFIRM_SEEDS, FIRST_CONFIRM_SEED = ("full", "snr0.3", "defocus"), 3, 720
# Steps of the two short fits that the pace is read from: a memory of patches is full enough to act on before them.
PACE_STEPS, TRIAL_STEPS = (20, 50), (2, 5)
# What the nulls of a tomogram are recorded as; the default's row has them for all.
BESIDE = ("nulls", "units", "input_signal_angstrom", "particles_noise")
# CPU-minutes beside a budget, for the plan: measuring a pace; null tests and scores, with nulls; the judge.
PACE_MINUTES, SCORING_MINUTES, JUDGE_MINUTES = 5, 2, 6


def plan(confirm: Sequence[str] = ()) -> list[Run]:
    """The screen, seed by seed, then what is to be confirmed."""
    runs = [Run(SCREEN, name, FIRST_SEED + i) for i in range(SCREEN_SEEDS) for name in VARIANTS]
    chosen = dict.fromkeys([PLAIN, *confirm]) if confirm else {}
    seeds = range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + CONFIRM_SEEDS)
    return runs + [Run(condition, name, seed) for condition in CONFIRMED for name in chosen for seed in seeds]


def settings_of(run: Run, **changed: Any) -> FitSettings:
    return FitSettings(seed=run.seed, **{**VARIANTS[run.variant].settings, **changed})


# -- a run -------------------------------------------------------------------------------------------


def pace_of(
    run: Run, data: Data, folder: Path, rows: Path, *, new: bool, marks: Sequence[int] = PACE_STEPS
) -> dict[str, Any]:
    """CPU-seconds of a step and of the rest, recorded on a machine like this one, or measured with two short fits."""
    machine = provenance()["machine"]
    known = [row for row in read_rows(rows) if row.get("pace") == run.pace and row["machine"] == machine]
    if new or not known:
        settings = settings_of(run, patience=NEVER)
        short, longer = (next(legs(data, settings, [steps], folder / "pace")) for steps in marks)
        restoring = output_of(run, data, longer.folder, folder / "pace" / "restored.mrc")
        rate = (longer.cpu_seconds - short.cpu_seconds) / (longer.steps - short.steps)
        known = [{
            "pace": run.pace, "step_cpu_seconds": round(rate, 4),
            "fixed_cpu_seconds": round(short.cpu_seconds - short.steps * rate + restoring, 1), **provenance(),
        }]  # fmt: skip
        append(rows, known[0])
    return known[-1]


def measure(run: Run, data: Data, steps: int, folder: Path, judge: Judge | None, rows: Path) -> dict[str, Any]:
    """Fit, restore, score; for the default also what it must be held against."""
    settings = settings_of(run)
    (leg,) = legs(data, settings, [steps], folder)
    output = folder / "restored.mrc"
    restoring = output_of(run, data, leg.folder, output)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Of a mode nobody knows without as many descents.
    nothing = None if run.variant == DESCENT else nothing_from_nothing(data, leg.folder, run.seed)
    entry, beside = scored_beside(run, data, output, rows)
    volumes, known = {run.variant: tensor(output)}, truth_and_smear(data)
    if run.variant == PLAIN:
        volumes |= changed(data, volumes[PLAIN], run.seed) | known
    areas = judge.areas(opened(data), known[TRUTH], volumes, run.seed) if judge else dict.fromkeys(volumes)
    codes = leg.folder / "codes.json"
    row = {
        "condition": run.condition, "variant": run.variant, "seed": run.seed, "steps": leg.steps,
        "scores": scored(entry, beside), "auc": areas[run.variant],
        "nothing": nothing, "codes": json.loads(codes.read_text()) if codes.exists() else None,
        "cpu_seconds": round(leg.cpu_seconds + restoring), "memory_mib": round(memory), **beside, "data": data.facts,
        "settings": asdict(settings), "torch": torch.__version__, **provenance(),
    }  # fmt: skip
    if run.variant == PLAIN:
        row["beside"] = {name: {"auc": area} for name, area in areas.items() if name != PLAIN}
        for name in (AMPLITUDE, NOISE):
            row["beside"][name]["scores"] = scored_changed(data, volumes[name], folder / f"{name}.mrc", beside)
        row["judge"] = judge.facts if judge else None
    return row


def output_of(run: Run, data: Data, weights: Path, output: Path) -> float:
    """Restore, and where the variant says so move the restoration to a mode; return the CPU-seconds."""
    seconds = restored(data, weights, output)
    if run.variant != DESCENT:
        return seconds
    started, mode = time.process_time(), output.with_name("mode.mrc")
    cryoaae.energy(
        output, output.with_name("energy.mrc"), model=weights, even=data.volumes["even"], odd=data.volumes["odd"],
        tilts=data.tilts, overwrite=True, options=EnergyOptions(descend=mode, seed=run.seed, device=DEVICE),
    )  # fmt: skip
    mode.replace(output)
    return seconds + time.process_time() - started


def scored_beside(run: Run, data: Data, output: Path, rows: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of a restoration, and what stands beside it: the nulls of a tomogram are the same for all its rows."""
    plain = [row for row in of(read_rows(rows), run.condition, PLAIN) if row["seed"] == run.seed]
    found = evaluated(data, output, baselines=not plain)
    beside = {name: plain[0][name] for name in BESIDE} if plain else nulls_of(found)
    return found["rows"][0], beside


def scored(entry: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    return scores_of(entry, units=beside["units"], curves=True)


def scored_changed(data: Data, volume: torch.Tensor, path: Path, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a changed default."""
    write_volume(path, volume.numpy(), voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
    found = cryoaae.evaluate(
        path, wedge=data.wedge, truth=data.truth, **data.volumes, particles=data.particles, baselines=False
    )
    return scored(found["rows"][0], beside)


def make(run: Run, rows: Path, folder: Path, *, minutes: float, again: bool, marks: Sequence[int]) -> None:
    """Make a run of the plan and append its row; in the process that this is."""
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    # What undoes the contrast transfer shows the judge another transfer than real patches have.
    judge = None if CONDITIONS[run.condition].defocus_um else judge_of(run.condition, RUNS)
    data = prepared(replace(run, variant="default"), DATA)
    steps = steps_of(minutes, pace_of(run, data, folder, rows, new=again, marks=marks))
    print(f"{run.name}: {steps} steps", flush=True)
    append(rows, measure(run, data, steps, folder, judge, rows))


def shown(wanted: Sequence[Run], rows: Path) -> Iterator[str]:
    """The plan, what of it is done, and what the rest takes."""
    left, known = 0.0, {row["pace"] for row in read_rows(rows) if "pace" in row}
    for run in wanted:
        stands = run.name in done(read_rows(rows))
        minutes = CORES * CONDITIONS[run.condition].minutes[0] + SCORING_MINUTES
        minutes += 0 if run.pace in known else PACE_MINUTES
        if not stands:
            left += minutes
            known.add(run.pace)
        state = "done" if stands else f"{minutes:.0f} CPU-minutes"
        yield f"{run.name:<32}{state:<18}{VARIANTS[run.variant].title}; on {DEVICE}"
    yield f"left: {left:.0f} CPU-minutes, and {JUDGE_MINUTES} for the judge of each condition that has none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs, or beginnings of their names; default: all")
    parser.add_argument("--again", action="store_true", help="make finished runs again, and measure their pace again")
    parser.add_argument("--confirm", nargs="*", default=[], choices=[name for name in VARIANTS if name != PLAIN])
    parser.add_argument("--dry-run", action="store_true", help="print the plan, what is done and what the rest takes")
    parser.add_argument("--trial", type=float, metavar="MINUTES", help="shorter fits; rows lie with the runs alone")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    parser.add_argument("--here", action="store_true", help="make the one run that is named in this process")
    options = parser.parse_args()
    runs, rows = (RUNS / "trial", RUNS / "trial" / "rows.json") if options.trial else (RUNS, ROWS)
    wanted = named(plan(options.confirm), options.names, parser)
    if options.dry_run:
        print(*shown(wanted, rows), sep="\n")
        return
    if options.here:
        run = wanted[0]
        minutes = options.trial or CONDITIONS[run.condition].minutes[0]
        marks = TRIAL_STEPS if options.trial else PACE_STEPS
        make(run, rows, runs / run.name, minutes=minutes, again=options.again, marks=marks)
        return
    words = ["--again"] if options.again else []
    words += ["--trial", str(options.trial)] if options.trial else []
    words += ["--confirm", *options.confirm] if options.confirm else []
    for run in [] if options.table else wanted:
        if options.again or run.name not in done(read_rows(rows)):
            subprocess.run([sys.executable, __file__, run.name, "--here", *words], check=True)
            write_text(rows.with_suffix(".md"), table(read_rows(rows)))
    if not options.trial:
        write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

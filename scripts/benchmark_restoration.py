"""Restoration quality per minute: every condition beside every null, at fixed budgets of CPU-seconds.

    benchmark_restoration.py --list
    benchmark_restoration.py [NAME ...] [--again] [--tune]
    benchmark_restoration.py --table

Without names all runs of the plan are made, those that tell most first; a name is condition/variant/seed as --list
prints it, or its beginning (full, full/unet). A row is appended to docs/benchmarks/restoration.json when a run is
done, and the page restoration.md with its figure is made from the rows. Finished runs are not made again, unless
--again says that the method has changed; the last row of a run counts. A run that was killed goes on behind its last
budget: runs lie in benchmark_runs/restoration. --tune takes the odd lines of maps_10A and other seeds, and keeps its
rows out of docs/: settings are chosen there, and reported on the even lines.

Budgets are CPU-seconds (minutes x 60 x 2 cores), for the time on the wall of a shared machine says nothing. They
become steps, so that a row can be made again bit for bit: CPU(steps) = fixed + rate x steps is measured once with two
short fits for each size, kind of input and variant, and recorded; fitting, refilling, telling structure from noise
and restoring all count. Each row also says what it really took, an earlier budget without telling structure from
noise. The whole schedule belongs to the last budget; what an earlier one would have given is the state of the same
run after so many of its steps. The method runs on CPUs here.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import append, provenance, read_rows
from restoration_conditions import (
    CONDITIONS,
    FIRST_SEED,
    FIRST_TUNING_SEED,
    VARIANTS,
    Data,
    Run,
    named,
    plan,
    prepared,
)
from restoration_table import GENERAL_ROWS, ROWS, UNDONE, figure, measured, scores_of, table

import cryoaae
from cryoaae.errors import InterruptedRunError
from cryoaae.fitting.pair_feed import BLOCK_MARGIN
from cryoaae.fitting.presence import learn_presence
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.checkpoint import load_latest
from cryoaae.io.project import open_tomogram
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.models.general import load_any
from cryoaae.patches.contrast import gain_on_grid
from cryoaae.patches.featureless import random_phases
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.contrast import undo_contrast
from cryoaae.restoration.fit import as_items
from cryoaae.restoration.general import settled
from cryoaae.restoration.scratch import Scratch
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.resources import bfloat16_pays

RUNS = Path("benchmark_runs") / "restoration"
CORES = 2
DEVICE = "cpu"
# Steps of the two short fits that the pace is read from; the warm-up of a fit is no slower than the rest. Both are
# evaluated as often as a long fit (`FitSettings.evaluations`), or what that costs would be counted with the steps.
PACE_STEPS = (20, 60)
NEVER = 10**6


class StopAfter(ConsoleProgress):
    """Asks a fit to stop, with a checkpoint, when it has made so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        super().advance(amount, **facts)
        if int(facts.get("step", 0)) >= self.steps:
            self.cancel()


@dataclass(frozen=True)
class Leg:
    """A stretch of a fit: where it lies, and what it took.

    Parameters
    ----------
    folder : path
        Run folder as the leg left it.
    steps : int
        Made so far, over all legs.
    cpu_seconds, wall_seconds : float
        Of this leg.
    """

    folder: Path
    steps: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def finished(self) -> bool:
        return (self.folder / "model.safetensors").exists()


def legs(data: Data, settings: FitSettings, marks: Sequence[int], folder: Path) -> Iterator[Leg]:
    """Fit, stopping at each number of steps in `marks`, the last of which is the whole fit.

    Each leg starts from a copy of the one before and is kept, so that one that was killed is made again whole
    and its CPU-seconds are known. A fit whose held-out loss is flat ends early, and its later legs are empty.
    """
    before: Leg | None = None
    for mark in marks:
        leg = _leg(data, replace(settings, steps=marks[-1], minutes=None), mark, folder, before)
        yield leg
        before = leg


def _leg(data: Data, settings: FitSettings, mark: int, folder: Path, before: Leg | None) -> Leg:
    run, record = folder / f"steps_{mark}", folder / f"steps_{mark}.json"
    if record.exists():
        return Leg(run, **json.loads(record.read_text()))
    if before is not None and before.finished:
        return Leg(before.folder, before.steps, 0.0, 0.0)
    shutil.rmtree(run, ignore_errors=True)
    if before is not None:
        shutil.copytree(before.folder, run, ignore=shutil.ignore_patterns("scratch"))
    last = mark == settings.steps
    progress = ConsoleProgress() if last else StopAfter(mark)
    cpu, wall = time.process_time(), time.monotonic()
    try:
        cryoaae.fit(
            **data.inputs(), run_path=run, settings=settings, resume=before is not None, device=DEVICE,
            progress=progress,
        )  # fmt: skip
    except InterruptedRunError:
        if not progress.cancelled():
            raise
    took = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.monotonic() - wall}
    steps = int(load_latest(run / "checkpoints")["step"])
    write_text(record, json.dumps({"steps": steps, **took}) + "\n")
    return Leg(run, steps, **took)


def weights_of(leg: Leg, data: Data, settings: FitSettings) -> Path:
    """Weights that the fit would have written had it ended with this leg."""
    if leg.finished:
        return leg.folder
    weights = leg.folder.with_name(f"{leg.folder.name}.safetensors")
    if not weights.exists():
        tomograms = [open_tomogram(item) for item in as_items(**data.inputs())]
        scratch = leg.folder.with_name(f"{leg.folder.name}_scratch")
        start = load_any(None) if settings.start == "general" else None
        session = prepare(tomograms, settings, device=torch.device(DEVICE), scratch=scratch, init=start)
        session.loop.load_state(load_latest(leg.folder / "checkpoints"))
        restorer = session.best()
        if settings.presence:
            learn_presence(restorer, session.feed.pool, margin=BLOCK_MARGIN, seed=settings.seed)
        restorer.save(weights)
        shutil.rmtree(scratch, ignore_errors=True)
    return weights


def restored(data: Data, weights: Path, output: Path) -> float:
    """Restore a run's data from file to file, as the command does; return the CPU-seconds."""
    cpu = time.process_time()
    cryoaae.restore(
        **data.inputs(), output=output, model=weights, symmetries=True, device=DEVICE, overwrite=True,
        contrast_transfer=data.transfer,
    )  # fmt: skip
    return time.process_time() - cpu


# -- budgets -----------------------------------------------------------------------------------------


def measured_pace(run: Run, data: Data, folder: Path) -> dict[str, Any]:
    """Measure what a step and the rest cost in CPU-seconds, with two short fits."""
    settings = settings_of(run, patience=NEVER)
    short, longer = (next(legs(data, settings, [steps], folder)) for steps in PACE_STEPS)
    restoring = restored(data, longer.folder, folder / "restored.mrc")
    rate = (longer.cpu_seconds - short.cpu_seconds) / (longer.steps - short.steps)
    return {
        "pace": run.pace, "step_cpu_seconds": round(rate, 4),
        "fixed_cpu_seconds": round(short.cpu_seconds - short.steps * rate + restoring, 1),
        "restore_cpu_seconds": round(restoring, 1),
        **provenance(),
    }  # fmt: skip


def steps_of(minutes: float, pace: dict[str, Any]) -> int:
    """Steps that a budget of minutes on `CORES` cores pays for."""
    left = minutes * 60 * CORES - pace["fixed_cpu_seconds"]
    steps = math.floor(left / pace["step_cpu_seconds"])
    if steps < 1:
        raise SystemExit(f"{pace['pace']}: {minutes:g} minutes do not pay for one step")
    return steps


def settings_of(run: Run, **changed: Any) -> FitSettings:
    """Of a run limited by steps, at the precision that a limit in minutes would take."""
    precision = "bfloat16" if bfloat16_pays(torch.device(DEVICE)) else "float32"
    return FitSettings(seed=run.seed, **{"precision": precision, **VARIANTS[run.variant].settings, **changed})


# -- rows --------------------------------------------------------------------------------------------


def measure(run: Run, data: Data, steps: Sequence[int], folder: Path) -> dict[str, Any]:
    """Fit, and score the restoration after each number of steps; the nulls beside the last one."""
    budgets, settings = CONDITIONS[run.condition].minutes, settings_of(run)
    checkpoints: dict[str, dict[str, Any]] = {}
    scored, cpu, wall = {}, 0.0, 0.0
    for minutes, leg in zip(budgets, legs(data, settings, steps, folder), strict=True):
        cpu, wall = cpu + leg.cpu_seconds, wall + leg.wall_seconds
        weights = weights_of(leg, data, settings)
        output = folder / f"restored_{minutes:g}min.mrc"
        restoring = restored(data, weights, output)
        found = evaluated(data, output, baselines=minutes == budgets[-1])
        scored[f"{minutes:g}"] = found["rows"][0]
        checkpoints[f"{minutes:g}"] = {
            "steps": leg.steps, "cpu_seconds": round(cpu + restoring), "wall_minutes": round(wall / 60, 1),
        }  # fmt: skip
    beside = nulls_of(found)
    for minutes, entry in scored.items():
        checkpoints[minutes]["scores"] = scores_of(entry, units=beside["units"], curves=True)
    row = {
        "condition": run.condition, "variant": run.variant, "seed": run.seed, "checkpoints": checkpoints, **beside,
        "data": data.facts, "settings": asdict(settings), "threads": torch.get_num_threads(),
        "torch": torch.__version__, **provenance(),
    }  # fmt: skip
    if run.variant == "default" and "single" not in data.volumes:
        row["nothing"] = nothing_from_nothing(data, weights, run.seed)
    return row


def nulls_of(found: dict[str, Any]) -> dict[str, Any]:
    """What stands beside a restoration: scores of nulls and oracle, units, reach of the input, particles in noise."""
    entries = {entry["name"]: entry for entry in found["rows"] if entry["kind"] != "restored"}
    of_input = entries["zero_fill"]["regions"]["seen"]
    units, signal = of_input["bands"]["low"]["slope"], of_input["resolution"]["0.143"]["angstrom"]
    return {
        "nulls": {n: scores_of(e, units=units, curves=n == "zero_fill") for n, e in entries.items()},
        "units": units, "input_signal_angstrom": None if signal is None else round(signal, 1),
        "particles_noise": found["particles"]["noise"],
    }  # fmt: skip


def evaluated(data: Data, output: Path, *, baselines: bool) -> dict[str, Any]:
    found = cryoaae.evaluate(
        output, wedge=data.wedge, truth=data.truth, **data.volumes, particles=data.particles, baselines=baselines,
        output=output.with_suffix("") if baselines else None,
    )  # fmt: skip
    if baselines and data.transfer is not None:
        found["rows"] += undone_nulls(data, data.transfer)
    return found


def undone_nulls(data: Data, transfer: ContrastTransfer) -> Iterator[dict[str, Any]]:
    """Every null with the contrast transfer undone as in the restoration: rows as of `cryoaae.evaluate`."""
    volumes = [cryoaae.open_volume(path) for path in data.volumes.values()]
    halves = [torch.from_numpy(volume.numpy().astype(np.float32)) for volume in volumes]
    even, odd = halves if len(halves) == 2 else (None, None)
    voxel = volumes[0].voxel_size_angstrom
    inputs = NullInput(sum(halves) / len(halves), data.wedge, even, odd)
    for null in available_nulls(inputs):
        undone = null.compute(inputs).numpy().copy()
        undo_contrast(undone, gain_on_grid(transfer, voxel), scratch=Scratch(None), check=lambda: None)
        found = cryoaae.evaluate(
            undone, wedge=data.wedge, truth=data.truth, particles=data.particles, baselines=False,
            voxel_size_angstrom=voxel,
        )  # fmt: skip
        yield found["rows"][0] | {"kind": "null", "name": null.name + UNDONE}


# -- nothing from nothing ----------------------------------------------------------------------------


def powers(volume: torch.Tensor, wedge: MissingWedge) -> dict[str, float]:
    """Power of a volume deep in the wedge and in the measured band."""
    spectrum = rfft(volume - volume.mean()).abs() ** 2 * multiplicity(volume.shape)
    band = (radius(volume.shape) > 0.01) & (radius(volume.shape) < 0.3)
    depth = wedge.solid().depth(volume.shape)
    return {"wedge": float(spectrum[(depth >= 3) & band].sum()), "seen": float(spectrum[(depth <= -1) & band].sum())}


def nothing_from_nothing(data: Data, weights: Path | None, seed: int) -> dict[str, float]:
    """Restore pure noise of the data's spectrum and the phase-randomised data; powers against the data's.

    A general restorer (`weights` None) is told the data's own spectrum and tilts, as a fitted one knows them.
    """
    generator = torch.Generator().manual_seed(seed)
    volumes = [cryoaae.open_volume(path) for path in data.volumes.values()]
    even, odd = (torch.from_numpy(np.array(volume.numpy())) for volume in volumes)
    model = settled(load_any(weights), volumes, data.wedge, of_mean=False)

    def restored_powers(*halves: torch.Tensor) -> dict[str, float]:
        out = cryoaae.restore_array(
            *(half.numpy() for half in halves), model, data.wedge,
            voxel_size_angstrom=volumes[0].voxel_size_angstrom, symmetries=True, device=DEVICE,
        )  # fmt: skip
        return powers(torch.from_numpy(out), data.wedge)

    def randomised(volume: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        return irfft(rfft(volume - volume.mean()) * phases, volume.shape)

    noise = (even - odd) / 2**0.5
    shared, *own = (random_phases(even.shape, generator) for _ in range(3))
    base = restored_powers(even, odd)
    empty = restored_powers(*(randomised(noise, phases) for phases in own))
    shuffled = restored_powers(randomised(even, shared), randomised(odd, shared))
    ratios = {
        "noise_wedge": empty["wedge"] / base["wedge"], "noise_seen": empty["seen"] / base["seen"],
        "phases_wedge": shuffled["wedge"] / base["wedge"],
    }  # fmt: skip
    return {name: round(ratio, 5) for name, ratio in ratios.items()}


# -- which runs stand --------------------------------------------------------------------------------


def done(rows: list[dict[str, Any]]) -> set[str]:
    return {Run(*key).name for key in measured(rows)}


def pace_of(run: Run, data: Data, rows: Path, folder: Path, *, new: bool) -> dict[str, Any]:
    """The pace recorded on a machine like this one, or a new measurement."""
    machine = provenance()["machine"]
    known = [row for row in read_rows(rows) if row.get("pace") == run.pace and row["machine"] == machine]
    if new or not known:
        known = [measured_pace(run, data, folder / "pace")]
        append(rows, known[0])
    return known[-1]


def make(run: Run, rows: Path, runs: Path, *, odd_lines: bool, new_pace: bool) -> None:
    """Make a run of the plan and append its row."""
    folder = runs / run.name
    data = prepared(run, runs / "data", odd_lines=odd_lines)
    pace = pace_of(run, data, rows, folder, new=new_pace)
    steps = [steps_of(minutes, pace) for minutes in CONDITIONS[run.condition].minutes]
    print(f"{run.name}: {' and '.join(map(str, steps))} steps", flush=True)
    append(rows, measure(run, data, steps, folder))


def write_pages(rows: list[dict[str, Any]]) -> None:
    write_text(ROWS.with_suffix(".md"), table(rows, read_rows(GENERAL_ROWS)))
    if measured(rows):
        write_bytes(ROWS.with_suffix(".png"), figure(rows))


def expected_minutes(run: Run) -> float:
    """On two idle cores: the budget, the earlier checkpoint, the nulls and three restorations of nothing."""
    return 1.2 * CONDITIONS[run.condition].minutes[-1] + 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs, or beginnings of their names; default: all")
    parser.add_argument("--again", action="store_true", help="make finished runs again, and measure their pace again")
    parser.add_argument("--tune", action="store_true", help="on the odd lines, with rows outside docs/")
    parser.add_argument("--list", action="store_true", help="print the plan, and what is done")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    runs = RUNS / "tuning" if options.tune else RUNS
    rows = runs / "rows.json" if options.tune else ROWS
    wanted = plan(FIRST_SEED)
    if options.tune:  # phantoms are reported on alone
        wanted = [run for run in plan(FIRST_TUNING_SEED) if not CONDITIONS[run.condition].phantom]
    wanted = named(wanted, options.names, parser)
    if options.list:
        for run in wanted:
            state = "done" if run.name in done(read_rows(rows)) else f"about {expected_minutes(run):.0f} minutes"
            print(f"{run.name:<24}{state:<20}{CONDITIONS[run.condition].title}; {VARIANTS[run.variant].title}")
        return
    paced: set[str] = set()
    for run in [] if options.table else wanted:
        if options.again:
            shutil.rmtree(runs / run.name, ignore_errors=True)
        elif run.name in done(read_rows(rows)):
            continue
        make(run, rows, runs, odd_lines=options.tune, new_pace=options.again and run.pace not in paced)
        paced.add(run.pace)
    if not options.tune:
        write_pages(read_rows(rows))


if __name__ == "__main__":
    main()

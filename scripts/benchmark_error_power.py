"""Whether the error found from two halves is the true one, within its interval.

    benchmark_error_power.py RUN_FOLDER [RUN_FOLDER ...]
    benchmark_error_power.py --table

Takes the simulated tomograms and fits that `benchmark_validation.py` leaves behind. In each the halves are
restored as they are, and with sectors of tilts hidden at several angles; the error power by shell and region is
estimated from the halves alone and compared with that against the noise-free reconstruction. Rows are appended to
docs/benchmarks/error_power.json, the table docs/benchmarks/error_power.md is made from them.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, read_rows
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume
from cryoaae.io.project import open_tomogram, resolve_inputs
from cryoaae.models.general import load_any
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.general import settled
from cryoaae.restoration.held_out import cells, score
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.working import WorkingTomogram

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "error_power.json"
TABLE = ROWS.with_suffix(".md")
COVERED = 0.9
# Middles of the hidden sectors and their half width, degrees; what is scored keeps away from what is left.
SECTORS_DEG, HALF_WIDTH_DEG, GUARD = (-35.0, 0.0, 20.0), 12.0, -2.0
PROPERTIES = ("error", "correlation")


def open_run(folder: Path, reference: str = "noiseless") -> tuple[WorkingTomogram, Tensor]:
    """Tomogram on the working grid, and what its halves have in common (or "truth", without a wedge).

    A folder that holds no fit is restored by the general restorer.
    """
    data = folder / "data"
    item = resolve_inputs([], even=data / "even.mrc", odd=data / "odd.mrc", tilts=data / "tilts.tlt")[0]
    opened = open_tomogram(item)
    volumes, run = list(opened.volumes), folder / "run"
    model = settled(load_any(run if run.exists() else None), volumes, opened.wedge, of_mean=False)
    tomogram = WorkingTomogram.of(volumes, opened.wedge, model, options=RestoreOptions())
    return tomogram, tomogram.bring(open_volume(data / f"{reference}.mrc"))


def tested(tomogram: WorkingTomogram) -> Iterator[tuple[str, Tensor, Sequence[Tensor]]]:
    """Region, table of its shells, and restored halves."""
    shape, core = tomogram.shape, tomogram.core_shape
    seen, nowhere = regions(tomogram)["measured"], torch.zeros(1)
    yield "measured", cells(shape, nowhere.expand(seen.shape), seen), tomogram.restore_each(tomogram.halves)
    for middle in SECTORS_DEG:
        ends = (middle - HALF_WIDTH_DEG, middle + HALF_WIDTH_DEG)
        sector = replace(tomogram.wedge.solid(), tilt_range_deg=ends)
        estimates = tomogram.restore_each(tomogram.without(sector.support(shape, object_zyx=core)))
        scored = seen & (sector.depth(shape, object_zyx=core) < GUARD)
        yield f"hidden at {middle:g} degrees", cells(shape, nowhere.expand(seen.shape), scored), estimates


def measure(folder: Path) -> dict[str, Any]:
    tomogram, truth = open_run(folder)
    inside = tomogram.counted
    generator = torch.Generator().manual_seed(0)
    rows = []
    for region, table, estimates in tested(tomogram):
        found = score(tomogram.halves, {"made": estimates}, table, inside)["made"]
        true = score((truth, truth), {"made": estimates}, table, inside)["made"]
        for cell, powers in found.items():
            row: dict[str, Any] = {"region": region, "shell": cell[0], "freedom": round(powers.freedom, 1)}
            for name in PROPERTIES:
                low, high = powers.interval(name, generator=generator)
                values = (getattr(powers, name), getattr(true[cell], name))
                row[name] = {"found": values[0], "true": values[1], "low": low, "high": high}
            rows.append(row)
    return {"run": folder.name, "cells": rows, "date": time.strftime("%F")}


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for cell in (cell for row in rows for cell in row["cells"]):
        for region in (cell["region"], "all"):
            counts[region][0] += 1
            for i, name in enumerate(PROPERTIES, start=1):
                counts[region][i] += inside(cell[name])
    lines = [
        "# The error found from two halves, against the truth",
        "",
        f"Made by `scripts/benchmark_error_power.py` from `error_power.json`: {len(rows)} simulated tomograms, cells "
        "by shell and region, share of them in which the truth lies in the stated 95 % interval.",
        "",
        "| region | cells | error power | correlation |",
        "|---|---|---|---|",
        *(f"| {region} | {n} | {e / n:.0%} | {c / n:.0%} |" for region, (n, e, c) in counts.items() if region != "all"),
    ]
    n, e, c = counts["all"]
    if n:
        lines += [f"| **all** (must {COVERED:.0%}) | {n} | {e / n:.0%} | {c / n:.0%} |"]
    return "\n".join(lines) + "\n"


def inside(value: dict[str, float]) -> bool:
    return value["low"] <= value["true"] <= value["high"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_FOLDER")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    for folder in () if options.table else options.runs:
        if folder.name not in {row["run"] for row in read_rows(ROWS)}:
            append(ROWS, measure(folder))
            print(folder.name, flush=True)
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

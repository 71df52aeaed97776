"""Whether `validate` predicts, and sees what was spoiled.

    benchmark_validation.py [--settings N ...] [--spoiled NAME ...] [--maps GLOB]
    benchmark_validation.py --table

Sixteen settings, four noise levels, two tilt ranges and two fit times on simulated tomograms of 96^3 voxels: the
correlation and the resolution that `validate` expects in the wedge against the true ones. Every setting has a
specimen and a seed of its own, and structures that `validate` was not designed on: the even lines of a folder of
density maps ($CRYOAAE_DATA/maps_10A, sorted by name), or those that --maps names. Six runs are spoiled on
purpose; ten of the settings are good ones. Rows are appended to docs/benchmarks/validation.json, the table
docs/benchmarks/validation.md is made from them, and neither a row nor a finished fit is made again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance, read_rows
from scipy.stats import spearmanr

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.metrics.error_power import HalvesInBand
from cryoaae.physics.fourier import rfft
from cryoaae.restoration.checks import HIGHEST
from cryoaae.restoration.held_out import CELLS_A_SHELL, SHELLS, scored_cells
from cryoaae.restoration.wedge_forecast import trusted_frequency, wedge_table

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "validation.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "validation"
SNRS, RANGES_DEG, STEPS = (0.3, 0.6, 1.2, 2.4), (60, 45), (150, 300)
FIRST_SEED = 500
SPEARMAN, MEAN_ERROR, RESOLUTION_TOLERANCE, RESOLUTIONS_RIGHT = 0.85, 0.06, 0.2, 0.75
FLAGGED, FALSE_ALARMS = 5, 1


@dataclass(frozen=True)
class Setting:
    """A simulated tomogram and how long is fitted on it."""

    number: int
    snr: float
    range_deg: int
    steps: int

    @property
    def folder(self) -> Path:
        return RUNS / f"snr{self.snr:g}_range{self.range_deg}_steps{self.steps}"


SETTINGS = [Setting(i, *values) for i, values in enumerate(product(SNRS, RANGES_DEG, STEPS))]
# Chosen before anything was measured: the longer fits, and the shorter ones of good data.
GOOD = [s.number for s in SETTINGS if s.steps == STEPS[1] or (s.snr >= 1.2 and s.range_deg == 60)]
BASE = next(s for s in SETTINGS if (s.snr, s.range_deg, s.steps) == (1.2, 60, 150))


@dataclass(frozen=True)
class Spoiled:
    """A run that was spoiled on purpose, on the data of a good setting unless it simulates its own.

    Parameters
    ----------
    what : str
    fit : sequence of str
        Options of `fit`, in place of the true tilts.
    steps : int
    simulate : sequence of str
        Options of `simulate` for data of its own.
    of_other : bool
        Its own data are only fitted on; validated is the good setting's tomogram.
    copied : bool
        The odd half is the even half, written with fewer bits.
    """

    what: str
    fit: Sequence[str] = ()
    steps: int = 150
    simulate: Sequence[str] = ()
    of_other: bool = False
    copied: bool = False


SPOILED = {
    "wedge": Spoiled("wedge wrong by 20 degrees", ("--tilt-range", "-40", "80")),
    "axis": Spoiled("wrong tilt axis", ("--tilt-range", "-60", "60", "--tilt-axis", "x")),
    "stopped": Spoiled("stopped at 5 % of 300 steps", steps=15),
    "other": Spoiled("fitted on other structures", simulate=("--seed", "521"), of_other=True),
    "copied": Spoiled("one half copied onto the other", copied=True),
    "flipped": Spoiled("sign flipped, -40 to 60 degrees", ("--flip-tilts",), simulate=("--seed", "520")),
}


def command(*words: Any) -> float:
    """Run a command of cryoaae; return its wall seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cryoaae", *map(str, words), "-q"], check=True)
    return time.monotonic() - started


def simulate(data: Path, snr: float, tilt_range: tuple[int, int], *options: Any) -> None:
    """Simulate a tomogram unless it stands already."""
    if not (data / "meta.json").exists():
        command(
            "simulate", "-o", data, "--shape", 96, 96, 96, "--snr", snr, "--tilt-range", *tilt_range, "--overwrite",
            *options,
        )  # fmt: skip


def fit(run: Path, halves: Sequence[Any], steps: int) -> None:
    """Fit unless the run stands already."""
    if not (run / "model.safetensors").exists():
        command("fit", *halves, "-o", run, "--steps", steps, "--set", "start=spectrum", "--overwrite")


def halves_of(data: Path) -> list[Any]:
    return ["--even", data / "even.mrc", "--odd", data / "odd.mrc"]


def prepared(setting: Setting, maps: str | None) -> list[Any]:
    """Simulate and fit a setting; return its inputs as options."""
    data = setting.folder / "data"
    chosen = ["--maps", maps] if maps else []
    tilt_range = (-setting.range_deg, setting.range_deg)
    simulate(data, setting.snr, tilt_range, "--seed", FIRST_SEED + setting.number, *chosen)
    inputs = [*halves_of(data), "--tilts", data / "tilts.tlt"]
    fit(setting.folder / "run", inputs, setting.steps)
    return inputs


def validated(folder: Path, inputs: Sequence[Any], run: Path) -> tuple[dict[str, Any], float]:
    """Validate; return the report and the seconds."""
    seconds = command("validate", *inputs, "--model", run, "-o", folder / "validation", "--overwrite")
    return json.loads((folder / "validation" / "report.json").read_text()), seconds


def measure(setting: Setting, maps: str | None) -> dict[str, Any]:
    """Simulate, fit, restore, evaluate against the truth, validate without it."""
    folder, data = setting.folder, setting.folder / "data"
    inputs = prepared(setting, maps)
    run = folder / "run"
    command("restore", *inputs, "--model", run, "-o", folder / "restored.mrc", "--halves", "--overwrite")
    command("evaluate", folder / "restored.mrc", "--truth", data / "truth.mrc", *inputs, "-o", folder / "evaluation")
    said, seconds = validated(folder, inputs, run)
    evaluated = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    nulls = {
        row["name"]: row["regions"]["missing"]["bands"]["band"]["fcc"]
        for row in evaluated["rows"] if row["kind"] == "null"
    }  # fmt: skip
    wedge = said["held_out"]["wedge"]
    return {
        "setting": setting.number, "snr": setting.snr, "range_deg": setting.range_deg, "steps": setting.steps,
        "seed": FIRST_SEED + setting.number, "maps": bool(maps),
        **true_in_wedge(folder),
        "evaluate": evaluated["rows"][0]["regions"]["missing"]["bands"]["band"]["fcc"], "nulls": nulls,
        **wedge["correlation"], "resolution_angstrom": wedge["resolution_angstrom"],
        "extrapolated_share": wedge["extrapolated_share"], **judged(said), "validate_seconds": round(seconds),
        **provenance(),
    }  # fmt: skip


def true_in_wedge(folder: Path) -> dict[str, Any]:
    """Correlation with the truth over the coefficients that `validate` speaks of, and its resolution.

    Of the restoration on the working grid, as `validate` makes it, mean over shells ("true"), and of the written
    file ("true_of_file"), which is continued beyond its faces anew, so that measured power leaks into the wedge.
    """
    from benchmark_error_power import open_run

    tomogram, truth = open_run(folder, "truth")
    inside = tomogram.counted
    table = wedge_table(tomogram, highest=HIGHEST * tomogram.plan.frame.working_bin)
    by_shell = torch.where(table >= 0, table // CELLS_A_SHELL * CELLS_A_SHELL, -1)

    def curve(volume: torch.Tensor) -> list[float]:
        found = [math.nan] * SHELLS
        for (shell, _), band in scored_cells(by_shell, tomogram.shape):
            against = HalvesInBand((rfft(truth),) * 2, band, inside).against((rfft(volume),) * 2)
            found[shell] = against.correlation
        return found

    def mean(values: list[float]) -> float:
        return statistics.fmean(v for v in values if math.isfinite(v))

    made = curve(tomogram.restore(tomogram.halves))
    written = curve(tomogram.bring(open_volume(folder / "restored.mrc")))
    frequency = trusted_frequency(made)
    return {
        "true": mean(made), "true_of_file": mean(written),
        "true_curve": [round(v, 4) if math.isfinite(v) else None for v in made],
        "true_resolution_angstrom": None if frequency is None else tomogram.voxel_size_angstrom / frequency,
    }  # fmt: skip


def spoil(name: str, maps: str | None) -> dict[str, Any]:
    """Make a spoiled run and validate it."""
    case, folder = SPOILED[name], RUNS / f"spoiled_{name}"
    given = [*prepared(BASE, maps)]
    data = folder / "data"
    if case.simulate:
        tilt_range = (-BASE.range_deg, BASE.range_deg) if case.of_other else (-40, 60)
        chosen = ["--maps", maps] if maps and not case.of_other else []
        simulate(data, BASE.snr, tilt_range, *case.simulate, *chosen)
        own = [*halves_of(data), "--tilts", data / "tilts.tlt"]
    elif case.copied:
        own = [*halves_of(data), *given[4:]]
        data.mkdir(parents=True, exist_ok=True)
        even = open_volume(given[1])
        write_volume(data / "even.mrc", even.numpy(), voxel_size_angstrom=even.voxel_size_angstrom, overwrite=True)
        write_volume(
            data / "odd.mrc", even.numpy(), voxel_size_angstrom=even.voxel_size_angstrom, dtype="float16",
            overwrite=True,
        )  # fmt: skip
    else:
        own = given
    wrong = {"--tilt-range", "--tilt-axis"} & set(case.fit)
    fitted_with = [*(own[:4] if wrong else own), *case.fit]
    fit(folder / "run", fitted_with, case.steps)
    # Validated as it was fitted: whoever has the tilts wrong has them wrong twice.
    said, seconds = validated(folder, given if case.of_other else fitted_with, folder / "run")
    return {"spoiled": name, **judged(said), "validate_seconds": round(seconds), **provenance()}


def judged(said: dict[str, Any]) -> dict[str, Any]:
    """The verdict, and what it rests on."""
    null_tests = {
        name: {region: facts[region] for region in ("measured", "wedge")}
        for name, facts in (said["null_tests"] or {}).items()
    }
    whole = said["held_out"]["whole"]["lenient"] or {}
    return {
        "verdict": said["verdict"], "levels": {reason["check"]: reason["level"] for reason in said["reasons"]},
        "null_tests": null_tests, "slope": whole.get("slope"), "recovered": whole.get("recovered"),
    }  # fmt: skip


def even_lines(folder: Path) -> str:
    """Copy nothing: a folder of links to the even lines of a folder of maps, as a glob."""
    links = RUNS / "maps"
    links.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.mrc*"))[1::2]:
        link = links / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return str(links / "*.mrc*")


def resolution_agrees(row: dict[str, Any]) -> bool:
    """Whether stated and true resolution lie within 20 %, or neither is reached anywhere."""
    true, stated = row["true_resolution_angstrom"], row["resolution_angstrom"]
    if true is None or stated is None:
        return true is stated
    return abs(stated / true - 1) <= RESOLUTION_TOLERANCE


def table(rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown, from committed rows alone."""
    settings = sorted((row for row in rows if "setting" in row), key=lambda row: row["setting"])
    spoiled = [row for row in rows if "spoiled" in row]
    lines = [
        "# What `validate` expects in the wedge, against the truth",
        "",
        "Made by `scripts/benchmark_validation.py` from `validation.json`. True: correlation of the restoration with "
        "the truth over the same coefficients that `validate` speaks of, in the wedge and at least 2 Fourier voxels "
        "from its edge, faces left out, mean over shells. File: the same of the written file, continued beyond its "
        "faces anew. Evaluate and clip: in-wedge figure of `evaluate`, all coefficients together, of the restoration "
        "and of the better clip-and-put-back null. Resolution: where the correlation first falls below 0.5.",
        "",
        "| SNR | tilts | steps | true | file | strict | expected | evaluate | clip | true Å | stated Å | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *map(setting_line, settings),
    ]
    if len(settings) >= 3:
        lines += ["", summary(settings)]
    lines += ["", "## Good and spoiled runs", "", "| run | verdict | because of |", "|---|---|---|"]
    good = [row for row in settings if row["setting"] in GOOD]
    lines += [verdict_line(f"good: {row['snr']:g}, ±{row['range_deg']}°, {row['steps']} steps", row) for row in good]
    lines += [verdict_line(f"spoiled: {SPOILED[row['spoiled']].what}", row) for row in spoiled]
    flagged, alarms = (sum(row["verdict"] != "trusted" for row in part) for part in (spoiled, good))
    lines += [
        "",
        f"{flagged} of {len(spoiled)} spoiled runs are flagged (must {FLAGGED} of 6), {alarms} of {len(good)} good "
        f"ones (must at most {FALSE_ALARMS} of 10).",
    ]
    return "\n".join(lines) + "\n"


def setting_line(row: dict[str, Any]) -> str:
    reached, stated = (
        "none" if row[name] is None else f"{row[name]:.0f}"
        for name in ("true_resolution_angstrom", "resolution_angstrom")
    )
    clip = max(value for name, value in row["nulls"].items() if name.startswith("clip"))
    return (
        f"| {row['snr']:g} | ±{row['range_deg']}° | {row['steps']} | {row['true']:.3f} "
        f"| {row['true_of_file']:.3f} | {row['strict']:.3f} "
        f"| {row['expected']:.3f} | {row['evaluate']:.3f} | {clip:.3f} | {reached} | {stated} "
        f"| {row['verdict']} |"
    )


def summary(settings: list[dict[str, Any]]) -> str:
    errors = [abs(row["expected"] - row["true"]) for row in settings]
    rank = float(spearmanr([r["expected"] for r in settings], [r["true"] for r in settings]).statistic)
    right = sum(map(resolution_agrees, settings))
    return (
        f"{len(settings)} of {len(SETTINGS)} settings. Spearman {rank:.2f} (must {SPEARMAN}), mean absolute error "
        f"{statistics.fmean(errors):.3f} (must {MEAN_ERROR}), resolution within 20 % in {right} of {len(settings)} "
        f"(must {RESOLUTIONS_RIGHT:.0%})."
    )


def verdict_line(name: str, row: dict[str, Any]) -> str:
    because = [f"{check} ({level})" for check, level in row["levels"].items() if level != "ok"]
    return f"| {name} | {row['verdict']} | {', '.join(because) or '–'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, nargs="*", help="numbers, 0 to 15; default: all")
    parser.add_argument("--spoiled", nargs="*", choices=SPOILED, help="names; default: all")
    parser.add_argument("--maps", help="quoted glob of density maps")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        maps = options.maps
        if maps is None and "CRYOAAE_DATA" in os.environ:
            maps = even_lines(Path(os.environ["CRYOAAE_DATA"]) / "maps_10A")
        done = {row.get("setting", row.get("spoiled")) for row in read_rows(ROWS)}
        for number in range(len(SETTINGS)) if options.settings is None else options.settings:
            if number not in done:
                append(ROWS, row := measure(SETTINGS[number], maps))
                print(f"setting {number}: expected {row['expected']:.3f}, true {row['true']:.3f}", flush=True)
        for name in SPOILED if options.spoiled is None else options.spoiled:
            if name not in done:
                append(ROWS, row := spoil(name, maps))
                print(f"{SPOILED[name].what}: {row['verdict']}", flush=True)
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

"""Does `validate` predict? Its expected score in the wedge against the true one, over 16 settings.

    benchmark_validation.py [--settings N ...] [--maps GLOB]
    benchmark_validation.py --table

Four noise levels, two tilt ranges and two fit times on simulated tomograms of 96^3 voxels. Every setting has a
specimen and a seed of its own, and structures that `validate` was not designed on: the even lines of a
folder of density maps ($CRYOAAE_DATA/maps_10A, sorted by name), or those that --maps names. Rows are
appended to docs/benchmarks/validation.json, the table docs/benchmarks/validation.md is made from them, and what is
there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from cryoaae.io.atomic import write_text

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "validation.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "validation"
SNRS, RANGES_DEG, STEPS = (0.3, 0.6, 1.2, 2.4), (60, 45), (150, 450)
FIRST_SEED = 500
SPEARMAN, MEAN_ERROR, RESOLUTION_TOLERANCE, RESOLUTIONS_RIGHT = 0.85, 0.06, 0.2, 0.75


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


def command(*words: Any) -> float:
    """Run a command of cryoaae; return its wall seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cryoaae", *map(str, words), "-q"], check=True)
    return time.monotonic() - started


def measure(setting: Setting, maps: str | None) -> dict[str, Any]:
    """Simulate, fit, restore, evaluate against the truth, validate without it."""
    folder, data = setting.folder, setting.folder / "data"
    halves = ["--even", data / "even.mrc", "--odd", data / "odd.mrc", "--tilts", data / "tilts.tlt"]
    chosen = ["--maps", maps] if maps else []
    command(
        "simulate", "-o", data, "--shape", 96, 96, 96, "--snr", setting.snr, "--tilt-range", -setting.range_deg,
        setting.range_deg, "--seed", FIRST_SEED + setting.number, "--overwrite", *chosen,
    )  # fmt: skip
    fit = command("fit", *halves, "-o", folder / "run", "--steps", setting.steps, "--overwrite")
    command("restore", *halves, "--model", folder / "run", "-o", folder / "restored.mrc", "--halves", "--overwrite")
    command("evaluate", folder / "restored.mrc", "--truth", data / "truth.mrc", *halves, "-o", folder / "evaluation")
    validate = command("validate", *halves, "--model", folder / "run", "-o", folder / "validation", "--overwrite")
    evaluated = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    said = json.loads((folder / "validation" / "report.json").read_text())
    truth = evaluated["rows"][0]["regions"]["missing"]
    nulls = {
        row["name"]: row["regions"]["missing"]["bands"]["band"]["fcc"]
        for row in evaluated["rows"] if row["kind"] == "null"
    }  # fmt: skip
    return {
        "setting": setting.number, "snr": setting.snr, "range_deg": setting.range_deg, "steps": setting.steps,
        "seed": FIRST_SEED + setting.number, "maps": bool(maps),
        "true": truth["bands"]["band"]["fcc"], "true_resolution": truth["resolution"]["0.5"],
        "nulls": nulls, **said["held_out"]["wedge"]["correlation"],
        "resolution_angstrom": said["held_out"]["wedge"]["resolution_angstrom"],
        "extrapolated_share": said["held_out"]["wedge"]["extrapolated_share"], "verdict": said["verdict"],
        "levels": {reason["check"]: reason["level"] for reason in said["reasons"]},
        "fit_seconds": round(fit), "validate_seconds": round(validate), "date": time.strftime("%F"),
        "commit": _commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPU",
    }  # fmt: skip


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROWS.parent)
    return found.stdout.strip() or "unknown"


def even_lines(folder: Path) -> str:
    """Copy nothing: a folder of links to the even lines of a folder of maps, as a glob."""
    links = RUNS / "maps"
    links.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.mrc*"))[1::2]:
        link = links / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return str(links / "*.mrc*")


def read_rows() -> list[dict[str, Any]]:
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def resolution_agrees(row: dict[str, Any]) -> bool:
    """Whether stated and true resolution lie within 20 %, or neither is reached anywhere."""
    true, stated = row["true_resolution"], row["resolution_angstrom"]
    if true["bound"] == "worse than" or stated is None:
        return true["bound"] == "worse than" and stated is None
    return abs(stated / true["angstrom"] - 1) <= RESOLUTION_TOLERANCE


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    lines = [
        "# What `validate` expects in the wedge, against the truth",
        "",
        "Made by `scripts/benchmark_validation.py` from `validation.json`. Correlation in the wedge, 0.01 to 0.3 "
        "cycles a voxel; clip: the better clip-and-put-back null; resolution where the correlation falls below 0.5.",
        "",
        "| SNR | tilts | steps | clip | true | strict | expected | lenient | true resolution, Å | stated | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        true = row["true_resolution"]
        bound = {"worse than": "none", "better than": f"< {true['angstrom']:.0f}"}
        reached = bound.get(true["bound"], f"{true['angstrom']:.0f}")
        stated = "none" if row["resolution_angstrom"] is None else f"{row['resolution_angstrom']:.0f}"
        clip = max(value for name, value in row["nulls"].items() if name.startswith("clip"))
        lines.append(
            f"| {row['snr']:g} | ±{row['range_deg']}° | {row['steps']} | {clip:.3f} | {row['true']:.3f} "
            f"| {row['strict']:.3f} | {row['expected']:.3f} | {row['lenient']:.3f} | {reached} | {stated} "
            f"| {row['verdict']} |"
        )
    if len(rows) >= 3:
        errors = [abs(row["expected"] - row["true"]) for row in rows]
        rank = float(spearmanr([r["expected"] for r in rows], [r["true"] for r in rows]).statistic)
        right = sum(map(resolution_agrees, rows))
        lines += [
            "",
            f"{len(rows)} of {len(SETTINGS)} settings. Spearman {rank:.2f} (must {SPEARMAN}), mean absolute error "
            f"{statistics.fmean(errors):.3f} (must {MEAN_ERROR}), resolution within 20 % in {right} of {len(rows)} "
            f"(must {RESOLUTIONS_RIGHT:.0%}).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, nargs="*", help="numbers, 0 to 15; default: all")
    parser.add_argument("--maps", help="quoted glob of density maps")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        maps = options.maps
        if maps is None and "CRYOAAE_DATA" in os.environ:
            maps = even_lines(Path(os.environ["CRYOAAE_DATA"]) / "maps_10A")
        done = {row["setting"] for row in read_rows()}
        wanted = range(len(SETTINGS)) if options.settings is None else options.settings
        for number in wanted:
            if number not in done:
                row = measure(SETTINGS[number], maps)
                write_text(ROWS, json.dumps([*read_rows(), row], indent=1) + "\n")
                print(f"setting {number}: expected {row['expected']:.3f}, true {row['true']:.3f}", flush=True)
    write_text(TABLE, table(read_rows()))


if __name__ == "__main__":
    main()

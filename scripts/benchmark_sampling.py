"""What draws cost: CPU time beside a restoration of the same tomogram, and memory by their number.

    benchmark_sampling.py DATA_FOLDER [--samplers learned bootstrap]
    benchmark_sampling.py --table

Restores the halves of a simulated tomogram with the general restorer, without averaging over half turns, and samples
it, each in a process of its own and from nothing, with few draws and more, and once calibrated. What a draw of a slab
costs is counted in working voxels that the network sees. Rows are appended to docs/benchmarks/sampling.json, the page
sampling.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark_rows import append, provenance, read_rows
from benchmark_streaming import Sampler

from cryoaae.io.atomic import write_text

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "sampling.json"
TABLE = ROWS.with_suffix(".md")
# Sampler, turns, draws, and whether they are calibrated.
STEPS = (
    ("learned", "any", 2, False), ("learned", "any", 16, False), ("learned", "any", 16, True),
    ("bootstrap", "any", 2, False), ("bootstrap", "any", 4, False), ("bootstrap", "quarter", 2, False),
    ("bootstrap", "quarter", 16, False), ("bootstrap", "quarter", 16, True),
)  # fmt: skip
# Voxels (z, y, x) of 10 angstrom: a cube, and slabs as they are recorded.
SHAPES = ((96, 96, 96), (128, 464, 480), (200, 620, 640))
# 16 draws should cost no more than so many restorations (issue: for a learned sampler, one pass a draw).
MOST_RESTORATIONS, OF_DRAWS = 6, 16


def child(step: str, data: Path, folder: Path, draws: int, source: str, turns: str) -> dict[str, Any]:
    """Do one step in this process; CPU-seconds and highest memory of its own."""
    import cryoaae

    inputs: dict[str, Any] = {"even": data / "even.mrc", "odd": data / "odd.mrc", "tilts": data / "tilts.tlt"}
    common: dict[str, Any] = {"symmetries": False, "device": "cpu"}
    sampler = Sampler()
    sampler.start()
    started = time.process_time()
    if step == "restore":
        cryoaae.restore(**inputs, output=folder / "restored.mrc", **common)
    else:
        cryoaae.sample(
            **inputs, output=folder / step, draws=draws, sampler=source, turns=turns, modes=0, keep_draws=False,
            calibrate=step == "calibrated", **common,
        )  # fmt: skip
    took = time.process_time() - started
    sampler.running = False
    return {"cpu_seconds": round(took, 1), "rss_anon_gb": round(sampler.highest / 1e9, 3)}


def measure(data: Path, samplers: Sequence[str]) -> dict[str, Any]:
    """Each step in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:

        def step(name: str, draws: int, *which: str) -> dict[str, Any]:
            folder = Path(scratch) / "_".join([name, str(draws), *which])
            folder.mkdir()
            words = ["--child", name, str(data), str(folder), str(draws), *which]
            done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        rows = [
            {"sampler": source, "draws": count, "turns": turns, "calibrated": calibrated}
            | step("calibrated" if calibrated else "drawn", count, source, turns)
            for source, turns, count, calibrated in STEPS if source in samplers
        ]
        return {
            "data": data.parent.name, "restore": step("restore", 0, "learned", "any"), "samples": rows,
            "voxels": voxels(data), **provenance(),
        }  # fmt: skip


def voxels(data: Path) -> list[dict[str, Any]]:
    """Working voxels of all boxes of a draw over those of a restoration, by the shape of the tomogram."""
    import torch
    from benchmark_error_power import open_run

    from cryoaae.patches.normalise import Normalisation
    from cryoaae.restoration.draw_sources import Bootstrap
    from cryoaae.restoration.engine import RestoreOptions, plan_restoration
    from cryoaae.restoration.working import WorkingTomogram

    own, _ = open_run(data.parent)
    rows = []
    for shape in SHAPES:
        plan = plan_restoration(shape, own.model, RestoreOptions())
        blank = WorkingTomogram([torch.zeros(1)], own.wedge, own.model, plan, Normalisation(0, 1), 20.0)
        whole = math.prod(plan.frame.working_zyx)
        found = {turns: sum(sum(Bootstrap.work(blank, n, seed=0, turns=turns)) for n in (1, 2)) / 2 / whole
                 for turns in ("any", "quarter")}  # fmt: skip
        rows.append({"shape_zyx": list(shape), **found})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown, of the last row of each step; restorations are those of the same row."""
    lines = [
        "# What draws cost", "",
        "Made by `scripts/benchmark_sampling.py` from `sampling.json`: CPU time of `sample` over that of `restore` on "
        "the same tomogram with the general restorer, both without averaging over half turns, each in a process of its "
        "own; the highest anonymous memory. Calibrated: errors found, factors fitted, checked and applied as well.", "",
    ]  # fmt: skip
    if not rows:
        return "\n".join(lines)
    row, samples = rows[-1], latest(rows)
    base = row["restore"]["cpu_seconds"]
    lines += [
        f"{row['data']}, {row['machine']}: `restore` took {base:.1f} CPU-seconds and "
        f"{row['restore']['rss_anon_gb']:.2f} GB.", "",
        "| sampler | turns | draws | calibrated | CPU-seconds | restorations | memory, GB |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {s['sampler']} | {s['turns']} | {s['draws']} | {'yes' if s['calibrated'] else 'no'} "
            f"| {s['cpu_seconds']:.1f} | {s['cpu_seconds'] / s['base']:.1f} | {s['rss_anon_gb']:.2f} |"
            for s in samples
        ), "",
        "Working voxels that the network sees for one draw of the bootstrap, over those of one restoration (mean of "
        "two draws):", "",
        "| tomogram (z, y, x) | turns any | quarter |", "|---|---|---|",
        *(
            f"| {' x '.join(map(str, v['shape_zyx']))} | {v['any']:.1f} | {v['quarter']:.1f} |" for v in row["voxels"]
        ), "", "## What must hold", "", *verdicts(samples),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def latest(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last measurement of each step, with what a restoration took then; older rows are the bootstrap's."""
    found = {}
    for row in rows:
        for s in row["samples"]:
            one = {"sampler": "bootstrap", **s, "base": row["restore"]["cpu_seconds"]}
            found[one["sampler"], one["turns"], one["draws"], one["calibrated"]] = one
    return sorted(found.values(), key=lambda s: s["sampler"] != "learned")


def verdicts(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cost of draws by sampler and kind of turn, and memory by their number."""
    lines = []
    for source, turns in dict.fromkeys((s["sampler"], s["turns"]) for s in samples):
        mine = [s for s in samples if (s["sampler"], s["turns"]) == (source, turns) and not s["calibrated"]]
        named = source if source == "learned" else f"{source}, turns {turns}"
        few, many = mine[0], mine[-1]
        each = (many["cpu_seconds"] - few["cpu_seconds"]) / (many["draws"] - few["draws"]) / few["base"]
        cost, kept = OF_DRAWS * each, "holds" if OF_DRAWS * each <= MOST_RESTORATIONS else "does not hold"
        lines += [
            f"- {OF_DRAWS} draws, {named}: {cost:.1f} restorations; at most {MOST_RESTORATIONS}: {kept}.",
            f"- Memory from {few['draws']} to {many['draws']} draws, {named}: {few['rss_anon_gb']:.2f} to "
            f"{many['rss_anon_gb']:.2f} GB.",
        ]
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        step, data, folder, draws, source, turns = sys.argv[2:]
        print(json.dumps(child(step, Path(data), Path(folder), int(draws), source, turns)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA_FOLDER")
    parser.add_argument("--samplers", nargs="+", default=["learned", "bootstrap"], help="whose steps to measure")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    if not options.table:
        append(ROWS, measure(options.data, options.samplers))
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

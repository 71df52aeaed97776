"""The restorer that comes along: without a fit and adapted, beside every null and a fit from scratch.

    benchmark_general.py [NAME ...] [--again [--keep-fits]] [--no-fit-only]
    benchmark_general.py --table

Names are conditions of benchmark_restoration.py with a seed, "A/0", "full/700", or their beginnings; without any all
are made. Structures of the simulations are of the even lines of maps_10A, which training has not seen; phantoms A and
C hold some that it has. Adapting takes a fixed number of steps, so that a row can be made again, about what three
minutes of two cores pay for; the CPU-seconds are in the row; --no-fit-only leaves it out. --keep-fits restores with
fits that stand already, and counts the CPU-seconds that they took then. The fit from scratch is that of
benchmark_restoration.py, 12 minutes, where its row stands. Rows are appended to docs/benchmarks/general.json;
general.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmark_restoration import DEVICE, evaluated, nothing_from_nothing, nulls_of
from benchmark_rows import append, provenance, read_rows
from restoration_conditions import CONDITIONS, Data, Run, prepared
from restoration_table import ROWS as RESTORATION_ROWS
from restoration_table import SHOWN, best, final, header, line, measured, null_title, nulls, number, of, scores_of

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.weights import digest
from cryoaae.models.general import GeneralRestorer

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "general.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "general"
# Data are shared with benchmark_restoration.py.
DATA = Path("benchmark_runs") / "restoration" / "data"
PLAN = [
    Run("A", "general", 0), Run("C", "general", 0), Run("full", "general", 700), Run("defocus", "general", 700),
    Run("snr0.3", "general", 700), Run("range50", "general", 700), Run("asymmetric", "general", 700),
    Run("single", "general", 700), Run("full", "general", 701), Run("full", "general", 702),
]  # fmt: skip
# Of 3 minutes of two cores, with the half precision that a limit in minutes takes by itself where that is faster: at
# .3 CPU-seconds a step, measured on such a processor, four of the six CPU-minutes. Two cores do not halve a step.
ADAPTING = FitSettings(minutes=None, steps=800, precision="bfloat16")
COLUMNS = {"cc": "cc", "seen": "seen", "wedge": "in wedge", "low": "lo", "mid": "mid"}
JUDGED = tuple(COLUMNS)


def name_of(run: Run) -> str:
    return f"{run.condition}/{run.seed}"


def measure(
    run: Run, data: Data, folder: Path, *, adapt: bool, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Restore without a fit, adapt, restore again; scores of both and of the nulls.

    With the row of `before` its fit is not made again, if it stands.
    """
    general = GeneralRestorer.bundled()
    settings = replace(ADAPTING, seed=run.seed)
    models: dict[str, Path | None] = {"general": None}
    if adapt:
        models["adapted"] = folder / "adapted"
    entries, seconds, found = {}, {}, {}
    for name, model in models.items():
        started, of_fit = time.process_time(), 0.0
        if model is not None and before is not None and stands(model, settings, before):
            of_fit = before["cpu_seconds"][name] - before["cpu_seconds"]["general"]
        elif model is not None:
            shutil.rmtree(model, ignore_errors=True)
            cryoaae.fit(**data.inputs(), run_path=model, settings=settings, device=DEVICE)
        output = restored(data, model, folder / f"{name}.mrc")
        seconds[name] = round(time.process_time() - started + of_fit)
        scored = evaluated(data, output, baselines=name == "general")
        entries[name], found = scored["rows"][0], found or scored
    beside = nulls_of(found)
    row = {
        "condition": run.condition, "seed": run.seed, "weights": digest(dict(general.state_dict()))[:16],
        "training": general.spec.training, **beside,
        "scores": {name: scores_of(entry, units=beside["units"], curves=True) for name, entry in entries.items()},
        "cpu_seconds": seconds, "settings": asdict(settings) if adapt else None, "data": data.facts, **provenance(),
    }  # fmt: skip
    if "single" not in data.volumes:
        row["nothing"] = {name: nothing_from_nothing(data, model, run.seed) for name, model in models.items()}
    return row


def stands(fitted: Path, settings: FitSettings, before: Mapping[str, Any]) -> bool:
    """Whether the fit that a row is of is there, and the one that is wanted."""
    return (fitted / "model.safetensors").exists() and before["settings"] == json.loads(json.dumps(asdict(settings)))


def restored(data: Data, model: Path | None, output: Path) -> Path:
    """Restore a run's data from file to file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    cryoaae.restore(
        **data.inputs(), output=output, model=model, symmetries=True, device=DEVICE, overwrite=True,
        contrast_transfer=data.transfer,
    )  # fmt: skip
    return output


# -- the page ------------------------------------------------------------------------------------------


def latest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The last row of each data set, in the order of the plan."""
    found = {f"{row['condition']}/{row['seed']}": row for row in rows}
    return {name: found[name] for name in map(name_of, PLAN) if name in found}


def from_scratch(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Scores of a 12-minute fit from scratch on the same data, if they stand."""
    same = [r for r in of(rows, row["condition"], "scratch") if r["seed"] == row["seed"]] if measured(rows) else []
    return final(same[-1]) if same else None


def table(rows: Sequence[Mapping[str, Any]], restoration: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown."""
    found = latest(rows)
    lines = [
        "# The restorer that comes along", "",
        f"Made by `scripts/benchmark_general.py` from `general.json`: {len(found)} of {len(PLAN)} data sets. Columns "
        "as in `restoration.md`. *No fit*: `cryoaae restore` without a model. *Adapted*: "
        f"{ADAPTING.steps} steps of fitting further, about `--adapt 3` on two cores. *From scratch*: `cryoaae fit` for "
        "12 minutes of two cores, where `restoration.json` has it. Phantoms A and C hold structures that training has "
        "seen; the others are of the even lines of the maps, which it has not. A GPU was not measured.", "",
    ]  # fmt: skip
    if found:
        lines += [f"Weights {described(rows[-1])}, unless a section says otherwise.", ""]
        lines += at_a_glance(found, "general", "No fit, in brackets the best null of each column")
        lines += at_a_glance(found, "adapted", "Adapted, in brackets no fit")
    for row in found.values():
        lines += section(row, from_scratch(row, restoration), newest=rows[-1]["weights"])
    return "\n".join(lines).rstrip() + "\n"


def at_a_glance(rows: Mapping[str, Mapping[str, Any]], name: str, title: str) -> list[str]:
    """One line for each data set; what is better than the restoration is bold."""
    lines = [f"## {title}", "", f"| | {' | '.join(SHOWN.values())} | CPU-min |", "|---" * (len(SHOWN) + 2) + "|"]
    for row in rows.values():
        if name not in row["scores"]:
            continue
        ours = row["scores"][name]
        beside = best(nulls(row)) if name == "general" else row["scores"]["general"]
        cells = []
        for key in SHOWN:
            other = number(beside[key])
            cells.append(f"{number(ours[key])} ({f'**{other}**' if beside[key] > ours[key] else other})")
        about = f"{CONDITIONS[row['condition']].title}, seed {row['seed']}"
        lines.append(f"| {about} | {' | '.join(cells)} | {row['cpu_seconds'][name] / 60:.1f} |")
    return [*lines, ""]


def described(row: Mapping[str, Any]) -> str:
    """Weights of a row, and how they came about."""
    parts = [row["training"]]
    while parts[0].get("before"):
        parts.insert(0, parts[0]["before"])
    made = " and then ".join(
        f"{part['steps']} steps on {part['scenes']} scenes, {part['minutes']:.0f} minutes on {part['machine']}"
        for part in parts
    )
    return f"`{row['weights']}`: {made}"


def section(row: Mapping[str, Any], scratch: Mapping[str, Any] | None, *, newest: str) -> list[str]:
    lines = [f"## {CONDITIONS[row['condition']].title}, seed {row['seed']}", ""]
    if row["weights"] != newest:
        lines += [f"Earlier weights, {described(row)}.", ""]
    lines += header("CPU-min")
    lines += [line(null_title(name), [scores], "") for name, scores in row["nulls"].items()]
    titles = {"general": "no fit", "adapted": "adapted"}
    for name, title in ((name, f"**{title}**") for name, title in titles.items() if name in row["scores"]):
        lines.append(line(title, [row["scores"][name]], f"{row['cpu_seconds'][name] / 60:.1f}"))
    if scratch is not None:
        lines.append(line("from scratch, 12 min", [scratch], "24"))
        for name, title in ((name, title.capitalize()) for name, title in titles.items() if name in row["scores"]):
            gaps = {key: row["scores"][name][key] - scratch[key] for key in JUDGED}
            short = ", ".join(f"{COLUMNS[key]} by {-gap:.4f}" for key, gap in gaps.items() if gap < 0)
            lines += ["", f"{title} against from scratch: {f'short in {short}' if short else 'better in all'}."]
    nothing = row.get("nothing", {})
    for name, shares in nothing.items():
        noise, seen, phases = (100 * shares[key] for key in ("noise_wedge", "noise_seen", "phases_wedge"))
        lines += [
            "", f"{name}: noise of that spectrum comes back with {noise:.2f} % of the power in the wedge and "
            f"{seen:.2f} % where measured, random phases with {phases:.1f} % in the wedge.",
        ]  # fmt: skip
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure again what stands")
    parser.add_argument("--keep-fits", action="store_true", help="restore again with the fits that stand")
    parser.add_argument("--no-fit-only", action="store_true", help="do not adapt")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    wanted = [r for r in PLAN if not options.names or any(name_of(r).startswith(name) for name in options.names)]
    weights = digest(dict(GeneralRestorer.bundled().state_dict()))[:16]
    for run in [] if options.table else wanted:
        standing = latest(read_rows(ROWS)).get(name_of(run))
        if standing is not None and standing["weights"] == weights and not options.again:
            continue
        row = measure(
            run, prepared(run, DATA), RUNS / name_of(run).replace("/", "_"), adapt=not options.no_fit_only,
            before=standing if options.keep_fits else None,
        )  # fmt: skip
        append(ROWS, row)
        print(f"{name_of(run)}: {json.dumps({k: {j: v[j] for j in JUDGED} for k, v in row['scores'].items()})}")
    write_text(TABLE, table(read_rows(ROWS), read_rows(RESTORATION_ROWS)))


if __name__ == "__main__":
    main()

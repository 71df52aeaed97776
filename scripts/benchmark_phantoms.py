"""Fit and restore phantoms, score them beside every baseline, and test that nothing comes from nothing.

    benchmark_phantoms.py PHANTOM_DIR [--seed 0] [--minutes 11] [--note TEXT] [--run RUN]

PHANTOM_DIR holds even.mrc, odd.mrc, truth.mrc and tilts.tlt. A row is appended to
docs/benchmarks/phantoms.json; --run takes a finished run instead of fitting. Then

    benchmark_phantoms.py --table

writes docs/benchmarks/phantoms.md from the rows.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.tilts import read_tilts
from cryoaae.patches.featureless import random_phases
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.provenance import versions

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "phantoms.json"
TABLE = ROWS.with_suffix(".md")


def powers(volume: torch.Tensor, wedge: MissingWedge) -> dict[str, float]:
    """Power of a volume deep in the wedge and in the measured band."""
    spectrum = rfft(volume - volume.mean()).abs() ** 2 * multiplicity(volume.shape)
    band = (radius(volume.shape) > 0.01) & (radius(volume.shape) < 0.3)
    depth = wedge.solid().depth(volume.shape)
    return {"wedge": float(spectrum[(depth >= 3) & band].sum()), "seen": float(spectrum[(depth <= -1) & band].sum())}


def nothing_from_nothing(folder: Path, run: Path, wedge: MissingWedge, seed: int) -> dict[str, float]:
    """Restore pure noise of the phantom's spectrum and the phase-randomised phantom; powers against the phantom's."""
    generator = torch.Generator().manual_seed(seed)
    volumes = [cryoaae.open_volume(folder / f"{half}.mrc") for half in ("even", "odd")]
    even, odd = (torch.from_numpy(v.numpy()) for v in volumes)
    model = cryoaae.Restorer.load(run)

    def restored(first: torch.Tensor, second: torch.Tensor) -> dict[str, float]:
        arrays = [np.asarray(first), np.asarray(second)]
        out = cryoaae.restore_array(
            *arrays, model, wedge, voxel_size_angstrom=volumes[0].voxel_size_angstrom, symmetries=True
        )
        return powers(torch.from_numpy(out), wedge)

    def randomised(volume: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        return irfft(rfft(volume - volume.mean()) * phases, volume.shape)

    noise = (even - odd) / 2**0.5
    shared = random_phases(even.shape, generator)
    own = [random_phases(even.shape, generator) for _ in range(2)]
    base = restored(even, odd)
    empty = restored(*(randomised(noise, p) for p in own))
    shuffled = restored(randomised(even, shared), randomised(odd, shared))
    return {
        "noise_wedge": empty["wedge"] / base["wedge"],
        "noise_seen": empty["seen"] / base["seen"],
        "phases_wedge": shuffled["wedge"] / base["wedge"],
    }


def measure(folder: Path, seed: int, minutes: float, note: str, run: Path | None) -> dict[str, Any]:
    wedge = MissingWedge.from_tilts(read_tilts(folder / "tilts.tlt"))
    halves = {"even": folder / "even.mrc", "odd": folder / "odd.mrc", "tilts": folder / "tilts.tlt"}
    if run is None:
        run = Path("benchmark_runs") / f"{folder.name}_{seed}"
        settings = FitSettings(minutes=minutes, seed=seed)
        cryoaae.fit([], run, **halves, settings=settings, overwrite=True, progress=ConsoleProgress())
    output = run / "restored.mrc"
    result = cryoaae.restore([], output, model=run, **halves, symmetries=True, halves=True, overwrite=True)[0]
    raw = {half: halves[half] for half in ("even", "odd")}
    scores = cryoaae.evaluate(output, wedge=wedge, truth=folder / "truth.mrc", **raw, output=run / "evaluation")
    record = json.loads((run / "run.json").read_text())
    started, finished = (datetime.fromisoformat(record[key]) for key in ("started", "finished"))
    settings_used = yaml.safe_load((run / "config.yaml").read_text())
    steps = (run / "metrics.csv").read_text().splitlines()[-1].split(",")[0]
    return {
        "phantom": folder.name, "seed": settings_used["seed"], "minutes": settings_used["minutes"], "note": note,
        "seconds": round((finished - started).total_seconds() + result.seconds), "steps": int(steps),
        "restore_seconds": round(result.seconds, 1), "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "versions": versions(), "started": record["started"], "settings": settings_used, "rows": scores["rows"],
        "honesty": honesty(scores["rows"]), "nothing": nothing_from_nothing(folder, run, wedge, seed),
    }  # fmt: skip


def honesty(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Contrast and power of the restoration in the truth's units.

    A phantom's truth may have units of its own; the gain of the input on it (low band, measured
    region, where there is hardly any noise) converts.
    """
    by_kind = {row["name"]: row["regions"] for row in rows}
    units = by_kind["zero_fill"]["seen"]["bands"]["low"]["slope"]
    restored = by_kind["restored"]
    return {
        "units": units,
        "slope_low_seen": restored["seen"]["bands"]["low"]["slope"] / units,
        "excess_power_wedge": restored["missing"]["bands"]["band"]["excess_power"] / units**2,
        "excess_power_wedge_clip": by_kind["clip_input"]["missing"]["bands"]["band"]["excess_power"] / units**2,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Phantoms", "",
        "Made by `scripts/benchmark_phantoms.py --table` from `phantoms.json`, which keeps older measurements too: "
        "here is the last one of each phantom and seed.", "",
    ]  # fmt: skip
    latest = {(row["phantom"], row["seed"]): row for row in rows}
    for row in latest.values():
        nothing = row["nothing"]
        lines += [
            f"## {row['phantom']}, seed {row['seed']}: {row.get('steps', '?')} steps, fit and restoration "
            f"{row['seconds']} s on {row['threads']} threads",
            "", row["note"],
            "", "| | cc | in wedge | lo | mid | seen | power over explained, wedge |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for entry in row["rows"]:
            missing, seen = (entry["regions"][name]["bands"] for name in ("missing", "seen"))
            values = [
                entry["cc"], *(missing[band]["fcc"] for band in ("band", "low", "mid")),
                seen["band"]["fcc"], missing["band"]["excess_power"],
            ]  # fmt: skip
            cells = " | ".join("" if v is None else f"{v:.3f}" for v in values)
            lines.append(f"| {entry['title']} | {cells} |")
        lines += [
            "",
            f"Pure noise of the same spectrum: {100 * nothing['noise_wedge']:.2f} % of the power in the wedge, "
            f"{100 * nothing['noise_seen']:.1f} % in the measured band. Phases randomised: "
            f"{100 * nothing['phases_wedge']:.1f} % in the wedge. In the truth's units: slope "
            f"{row['honesty']['slope_low_seen']:.2f} (low band, measured), power in the wedge over what agreement "
            f"explains {row['honesty']['excess_power_wedge']:.2f} (clip: "
            f"{row['honesty']['excess_power_wedge_clip']:.1f}).",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--note", default="")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    if options.folder is not None:
        rows.append(measure(options.folder, options.seed, options.minutes, options.note, options.run))
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        write_text(ROWS, json.dumps(rows, indent=1) + "\n")
        print(json.dumps(rows[-1]["nothing"] | rows[-1]["honesty"]))
    if options.table:
        write_text(TABLE, table(rows))


if __name__ == "__main__":
    main()

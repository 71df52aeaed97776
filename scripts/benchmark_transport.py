"""Whether a transport divergence at the size of a fit's memory tells a smear from two halves of the real cloud.

    benchmark_transport.py [--features NAME ...] [--divergences NAME ...] [--banks N ...]
    benchmark_transport.py --table

Ten crowded phantoms of 96^3 voxels with a signed background are simulated once, and 300 real patches and 100 turned
blocks of each are drawn, as `benchmark_proxy.py` does; a patch counts in its four half turns, as in a fit. Kept in
benchmark_runs/transport. A row is one feature map, one divergence and one size of memory:

    floor      D(half of the real cloud, the other half)
    apart      the same of two clouds of real patches from different phantoms: what tomograms differ by
    truth      D(truth put through the microscope again, real); the noise-free reconstruction from -90 to 90 degrees
    smeared    D(noise-free tomogram with its wedge, power-matched, again, real)

`error` is the standard error of smeared - floor: the jackknife over phantoms. Rows are appended to
docs/benchmarks/transport.json unless --dry-run; the table docs/benchmarks/transport.md is made from them. One that
stands is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_proxy import (
    BLOCK,
    FIRST_SEED,
    PATCH,
    PHANTOMS,
    SMEARED,
    TRUTH,
    draw_bank,
    make_phantom,
    open_phantom,
    seen_again,
    volumes_of,
)
from benchmark_rows import append, provenance, read_rows
from torch import Tensor

from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.io.atomic import write_text
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.matching.memory import Whitening
from cryoaae.matching.patch_features import PATCH_FEATURES
from cryoaae.matching.structure import Microscope, settled

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "transport.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "transport"
EDGE, REAL, BLOCKS = 96, 300, 100
TURNS = ((), (-3, -1), (-3, -2), (-2, -1))
REPEATS, CHUNK = 5, 50
LEAST_ERRORS = 5.0


@dataclass(frozen=True)
class Clouds:
    """Features of one phantom's patches, one row a patch and a half turn."""

    real: Tensor
    truth: Tensor
    smeared: Tensor


# -- patches -------------------------------------------------------------------------------------------


def patches_of(number: int) -> dict[str, Tensor]:
    """Real patches, and both structures seen again with noise, of one phantom; made once."""
    file = RUNS / f"phantom_{number:02d}.safetensors"
    if file.exists():
        return load_weights(file)[0]
    folder = RUNS / "phantoms" / f"phantom_{number:02d}"
    if not (folder / "tilts.tlt").exists():
        make_phantom(folder, FIRST_SEED + number, EDGE, [])
    phantom = open_phantom(folder)
    bank = draw_bank([phantom.source], BLOCKS, REAL, seed=number)
    microscope = Microscope([phantom.source.wedge], patch=PATCH, block=BLOCK)
    noise = settled(bank.draw.noise)
    found = {
        row: seen_again(bank, [volumes_of(row, {})(phantom)], microscope) + noise for row in (TRUTH, SMEARED)
    }
    save_weights(file, {"real": bank.real, **found}, {"edge": EDGE, "seed": number})
    return {"real": bank.real, **found}


@torch.no_grad()
def features_of(name: str) -> list[Clouds]:
    """Features of all phantoms' patches."""
    features = PATCH_FEATURES.make(name, PATCH)
    orders = torch.stack([features.turned(axes) for axes in TURNS])

    def found(patches: Tensor) -> Tensor:
        return torch.cat([features(part)[:, orders].flatten(0, 1) for part in patches.split(CHUNK)])

    each = map(patches_of, range(PHANTOMS))
    return [Clouds(*(found(patches[row]) for row in ("real", TRUTH, SMEARED))) for patches in each]


# -- divergences ---------------------------------------------------------------------------------------


def drawn(clouds: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """So many points of several clouds, each once at most."""
    whole = torch.cat(list(clouds))
    if len(whole) < count:
        raise ValueError(f"{len(whole)} points where {count} are wanted")
    return whole[torch.randperm(len(whole), generator=generator)[:count]]


@torch.no_grad()
def divergences(
    phantoms: Sequence[Clouds], name: str, bank: int, *, seed: int, repeats: int = 1
) -> dict[str, float]:
    """All four divergences at memories of `bank` points, means over so many draws."""
    generator = torch.Generator().manual_seed(seed)
    frame = Whitening(phantoms[0].real.shape[1])
    frame.measure(torch.cat([clouds.real for clouds in phantoms]))
    real, truth, smeared = ([frame(getattr(c, row)) for c in phantoms] for row in ("real", TRUTH, SMEARED))
    witness = WITNESSES.make(name, frame.mean.numel(), bank)
    sums = dict.fromkeys(("floor", "apart", TRUTH, SMEARED), 0.0)
    for _ in range(repeats):
        one, other = drawn(real, 2 * bank, generator).split(bank)
        order = torch.randperm(len(phantoms), generator=generator).tolist()
        sides = [[real[i] for i in order[start::2]] for start in range(2)]
        size = min(bank, *(sum(map(len, side)) for side in sides))
        pairs = {
            "floor": (one, other),
            "apart": tuple(drawn(side, size, generator) for side in sides),
            TRUTH: (drawn(truth, bank, generator), one),
            SMEARED: (drawn(smeared, bank, generator), one),
        }
        for row, (x, y) in pairs.items():
            sums[row] += float(witness.between(x, y, generator=torch.Generator().manual_seed(0))) / repeats
    return sums


def measure(features: str, divergence: str, bank: int, phantoms: Sequence[Clouds]) -> dict[str, Any]:
    """One row."""
    started = time.process_time()
    whole = divergences(phantoms, divergence, bank, seed=0, repeats=REPEATS)
    without = [
        divergences([*phantoms[:i], *phantoms[i + 1 :]], divergence, bank, seed=1 + i) for i in range(len(phantoms))
    ]
    error = {row: jackknife([found[row] - found["floor"] for found in without]) for row in (TRUTH, SMEARED)}
    excess = {row: whole[row] - whole["floor"] for row in (TRUTH, SMEARED)}
    return {
        "features": features, "divergence": divergence, "bank": bank, **whole, "error": error[SMEARED],
        "truth_error": error[TRUTH], "errors_apart": excess[SMEARED] / error[SMEARED],
        "over_truth": excess[SMEARED] / max(excess[TRUTH], 1e-12), "phantoms": len(phantoms), "edge": EDGE,
        "cpu_seconds": round(time.process_time() - started), **provenance(),
    }  # fmt: skip


def jackknife(values: Sequence[float]) -> float:
    """Standard error of a figure, from its values with one part left out each."""
    mean = sum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))


# -- rows and table ------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    held = sum(row["errors_apart"] > LEAST_ERRORS for row in rows)
    lines = [
        "# Transport of patch features: is a smear seen at the size of the memory?",
        "",
        f"Made by `scripts/benchmark_transport.py` from `transport.json`: {PHANTOMS} crowded phantoms of {EDGE}^3 "
        f"voxels with a signed background, {REAL} real patches and {BLOCKS} turned blocks of each, a patch counted in "
        "four half turns. Divergences of whitened features: between two halves of the real cloud (floor), between real "
        "patches of different phantoms (apart), and from the truth or the power-matched smear, turned and measured "
        "again, to real patches. The error of smeared - floor is the jackknife over phantoms. Last column: the smear's "
        "excess over the floor over the truth's, which a fair proxy and many phantoms make large.",
        "",
        "| features | divergence | memory | floor | apart | truth | smeared | error | errors apart "
        "| smear over truth |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
        f"Smeared lies more than {LEAST_ERRORS:g} standard errors above the floor in {held} of {len(rows)} rows.",
    ]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    figures = " | ".join(f"{row[name]:.3g}" for name in ("floor", "apart", TRUTH, SMEARED, "error"))
    return (
        f"| {row['features']} | {row['divergence']} | {row['bank']} | {figures} | {row['errors_apart']:.1f} "
        f"| {row['over_truth']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="*", default=list(PATCH_FEATURES), choices=list(PATCH_FEATURES))
    parser.add_argument("--divergences", nargs="*", default=list(WITNESSES), choices=list(WITNESSES))
    parser.add_argument("--banks", nargs="*", type=int, default=[512, 2048])
    parser.add_argument("--dry-run", action="store_true", help="print rows, keep none")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    done = {(row["features"], row["divergence"], row["bank"]) for row in read_rows(ROWS)}
    for features in () if options.table else options.features:
        wanted = [(name, bank) for name in options.divergences for bank in options.banks]
        wanted = [key for key in wanted if options.dry_run or (features, *key) not in done]
        phantoms = features_of(features) if wanted else []
        for key in wanted:
            row = measure(features, *key, phantoms)
            print(json.dumps(row), flush=True)
            if not options.dry_run:
                append(ROWS, row)
    if not options.dry_run:
        write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

"""The page of docs/benchmarks/speed.md, from the rows of speed.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# The volume that is asked for, how soon on how many cores, and how soon on a GPU.
WANTED_ZYX, CORES, MINUTES, GPU_SECONDS = (300, 928, 960), 2, 20.0, 10.0
SCORES = ("cc", "seen", "wedge", "low", "mid")
FIRST_SECONDS, NETWORK_SHARE, FIT_SHARE = 10.0, 0.5, 0.85


def latest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each name on each device, in the order of the book."""
    found = {(row["name"], row["device"], row["threads"], row.get("note", "")): row for row in rows}
    return list(found.values())


def table(rows: Sequence[Row]) -> str:
    """The page as Markdown."""
    last = latest(rows)
    lines = [
        "# How fast restoring and fitting are", "",
        "Made by `scripts/benchmark_speed.py` from `speed.json`; the network is the U-Net of the restorer that comes "
        "along. Rates are per second of the processor that the program itself took, of one core on a CPU: what others "
        "on the machine take does not count, though the caches that they fill do.", "",
    ]  # fmt: skip
    lines += machine_section([row for row in last if row["name"] == "machine"])
    peaks = {(r["device"], r["threads"]): r["float32_gflop_per_s"] for r in last if r["name"] == "machine"}
    lines += layers_section([row for row in last if row["name"].startswith("layers")], peaks)
    lines += restore_section([row for row in last if row["name"].startswith("restore")])
    lines += fit_section([row for row in last if row["name"].startswith("fit,")])
    lines += lower_section([row for row in last if row["name"].startswith("bfloat16")])
    lines += judged(last)
    return "\n".join(lines).rstrip() + "\n"


def where(row: Row) -> str:
    """Machine and date of a row."""
    note = f"; {row['note']}" if row.get("note") else ""
    return f"{row['machine']}, {row['threads']} thread(s), torch {row['torch']}, {row['date']}{note}"


def machine_section(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## The machine", "", "| | convolution, float32 | bfloat16 | copying |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {where(row)} | {row['float32_gflop_per_s']:.0f} GFLOP/s | {row['bfloat16_gflop_per_s']:.0f} GFLOP/s | "
            f"{row['copy_gb_per_s']:.1f} GB/s |"
        )
    return [*lines, ""]


def layers_section(rows: Sequence[Row], peaks: Mapping[Any, float]) -> list[str]:
    """The network alone, by tile, batch, precision, order of memory and compiler."""
    if not rows:
        return []
    lines = [
        "## The layers alone", "",
        f"On random densities: {rows[0]['operations_per_voxel'] / 1e3:.1f} thousand operations a voxel.", "",
        "| tile, batch | million voxels/s | GFLOP/s | of the convolution's peak |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        share = row["gflop_per_s"] / peaks[row["device"], row["threads"]]
        name = row["name"].removeprefix("layers ")
        lines.append(f"| {name} | {row['voxels_per_s'] / 1e6:.2f} | {row['gflop_per_s']:.0f} | {share:.0%} |")
    return [*lines, ""]


def restore_section(rows: Sequence[Row]) -> list[str]:
    """From file to file; linear in the volume, and flat in memory."""
    if not rows:
        return []
    lines = [
        "## Restoring, from file to file", "",
        "Two halves of 10 Å voxels, restored as their mean in four half turns. *In the network*: share of the time, "
        "after the tomogram was measured. *Of the layers alone*: what the U-Net would need for the tiles on random "
        "densities, over all that was needed. *Read*: voxels that tiles see over those of the grid.", "",
        "| z x y x x | tiles | core-s | thousand voxels/s | in the network | of the layers alone | read | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        shape = row["name"].removeprefix("restore ") + (f" ({row['note']})" if row.get("note") else "")
        lines.append(
            f"| {shape} | {row['tiles']} of {' x '.join(map(str, row['tile_zyx']))} | {row['cpu_seconds']:.0f} | "
            f"{row['voxels_per_s'] / 1e3:.0f} | {row['share_in_network']:.0%} | {row['share_of_layers_alone']:.0%} | "
            f"{row['read_over_grid']:.2f} | {row['rss_anon_gb']:.2f} GB |"
        )
    return [*lines, ""]


def fit_section(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Fitting", "",
        "Steps of the default fit: patches, turned blocks renewed every few steps, loss and optimiser, beside the "
        "U-Net forward and back on random patches of the same size and number.", "",
        "| patches a step | patches/s | alone | share |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        lower = ", bfloat16" if row.get("precision") == "bfloat16" else ""
        name = f"{row['batch']} of {row['patch']}^3{lower}" + (f" ({row['note']})" if row.get("note") else "")
        lines.append(
            f"| {name} | {row['patches_per_s']:.2f} | {row['alone_patches_per_s']:.2f} | "
            f"{row['share_of_layers_alone']:.0%} |"
        )
    return [*lines, ""]


def lower_section(rows: Sequence[Row]) -> list[str]:
    """What layers at half precision cost in quality, and save."""
    if not rows:
        return []
    lines = [
        "## Layers at bfloat16", "",
        "`cryoaae restore --precision bfloat16`, no fit, and `cryoaae fit --precision bfloat16` of so many steps, "
        "restored in float32, beside float32 (scores as in `restoration.md`). *Apart*: rms of the difference over the "
        "restoration's deviation.", "",
        "| phantom | precision | cc | seen | in wedge | lo | mid | core-s | apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        for precision in ("float32", "bfloat16"):
            found = row[precision]
            scores = " | ".join(f"{found[key]:.4f}" for key in SCORES)
            apart = f"{row['apart']:.2%}" if precision == "bfloat16" else ""
            name = f"{row['phantom']}, {row['steps']} steps" if row.get("steps") else row["phantom"]
            lines.append(f"| {name} | {precision} | {scores} | {found['cpu_seconds']:.1f} | {apart} |")
    return [*lines, ""]


def judged(rows: Sequence[Row]) -> list[str]:
    """Goals, and what was measured or follows from it."""
    plain = [row for row in rows if row["device"] == "cpu" and not row.get("note")]
    restored = [row for row in plain if row["name"].startswith("restore") and "bfloat16" not in row["name"]]
    lines = ["## Goals", ""]
    if restored:
        row = max(restored, key=lambda row: math.prod(row["shape_zyx"]))
        scale = math.prod(WANTED_ZYX) / math.prod(row["shape_zyx"])
        minutes = scale * row["cpu_seconds"] / CORES / 60
        size = " x ".join(map(str, row["shape_zyx"]))
        how = "measured" if scale == 1 else f"{size} times {scale:.1f}"
        operations = scale * row["operations"]
        lines += [
            f"- {' x '.join(map(str, WANTED_ZYX))} with both halves in under {MINUTES:g} minutes on {CORES} cores: "
            f"**{minutes:.0f} minutes**, {how}, if {CORES} cores are twice as fast as one; "
            f"{'reached' if minutes < MINUTES else 'not reached'}.",
            f"- The same in under {GPU_SECONDS:g} s on an H200-class GPU: **not measured**; "
            f"{operations / 1e12:.0f} TFLOP are counted in the U-Net, so that it has to run at "
            f"{operations / GPU_SECONDS / 1e12:.1f} TFLOP/s, {operations / GPU_SECONDS / 67e12:.0%} of the 67 that the "
            "maker states for float32, with nothing else taking time.",
            f"- Restoring at least {NETWORK_SHARE:.0%} of the time in the network: {row['share_in_network']:.0%} of "
            f"the largest; {'reached' if row['share_in_network'] >= NETWORK_SHARE else 'not reached'}.",
        ]  # fmt: skip
    fits = [row for row in plain if row["name"] == "fit, batch 2"]
    if fits:
        share = fits[-1]["share_of_layers_alone"]
        lines.append(
            f"- Fitting at least {FIT_SHARE:.0%}: {share:.0%}; {'reached' if share >= FIT_SHARE else 'not reached'}."
        )
    for row in (row for row in plain if row["name"] == "first tile"):
        loaded = ", ".join(row["loaded"]) or "neither MONAI nor fabric"
        lines.append(
            f"- First tile within {FIRST_SECONDS:g} s of a warm start, {' x '.join(map(str, row['shape_zyx']))}: "
            f"{row['cpu_seconds']:.1f} s of a core ({row['seconds']:.1f} s on the wall of a busy machine), {loaded} "
            f"loaded; {'reached' if row['seconds'] < FIRST_SECONDS else 'not reached on that wall'}."
        )
    return lines

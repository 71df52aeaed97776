"""How much faster seeds are fitted side by side than one after the other.

    benchmark_stacking.py [--variant semisupervised] [--seeds 8] [--units 400] [--rounds 5] [--threads 2]
    benchmark_stacking.py --command [--data digits|FOLDER] [--epochs N] ...

The first times steps of both in turns in one process, on random images of MNIST's size. The second times
the whole command, images to figures: one seed, and all of them side by side. A ratio is that of `seeds`
single runs to the stacked one; rows are appended to docs/benchmarks/stacking.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance

from cryoaae.autoencoding.family import FamilyRun
from cryoaae.config import load_aae_config
from cryoaae.io.images import Images, ImageSplit
from cryoaae.runs.resources import keep_freed_memory

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "stacking.json"
STEPS = 40


def images(count: int) -> ImageSplit:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 784, generator=generator)
    part = Images(pixels, torch.arange(count) % 10, (1, 28, 28))
    return ImageSplit(part, part, part)


def seconds_a_step(run: FamilyRun, steps: int) -> float:
    """Wall seconds of a step, after a few to warm up."""
    for _ in range(3):
        run.loop.step()
    started = time.perf_counter()
    for _ in range(steps):
        run.loop.step()
    return (time.perf_counter() - started) / steps


def time_steps(options: argparse.Namespace) -> list[dict[str, float]]:
    """Wall seconds of a step alone and of a stacked one, a pair a round."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    settings = load_aae_config(
        options.variant, overrides=[f"hidden=[{options.units},{options.units}]", "warm_up_steps=0"]
    )
    data = images(5000)
    rounds = []
    for _ in range(options.rounds):
        one = seconds_a_step(FamilyRun(data, settings), STEPS)
        stacked = seconds_a_step(FamilyRun(data, settings, options.seeds), STEPS // 4)
        rounds.append({"one_seconds": one, "stacked_seconds": stacked})
    return rounds


def time_commands(options: argparse.Namespace) -> list[dict[str, float]]:
    """Wall seconds of the command with one seed and with all of them."""
    command = [
        sys.executable, "-m", "cryoaae", "aae", options.variant, "--data", options.data, "-q", "--overwrite",
        "--threads", str(options.threads), "--set", f"hidden=[{options.units},{options.units}]",
    ]  # fmt: skip
    if options.epochs:
        command += ["--epochs", str(options.epochs)]

    def seconds(*more: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            subprocess.run([*command, "-o", str(Path(folder) / "run"), *more], check=True)
            return time.perf_counter() - started

    return [
        {"one_seconds": seconds(), "stacked_seconds": seconds("--stack-seeds", str(options.seeds))}
        for _ in range(options.rounds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--variant", default="semisupervised")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rounds = time_commands(options) if options.command else time_steps(options)
    ratios = [options.seeds * r["one_seconds"] / r["stacked_seconds"] for r in rounds]
    what = "whole commands" if options.command else "steps"
    print(f"{options.seeds} seeds, {what}: {', '.join(f'{r:.2f}' for r in ratios)} times as fast side by side")
    row: dict[str, Any] = {
        "what": what, "variant": options.variant,
        "data": (Path(options.data).name if options.command else "random, MNIST's size"), "epochs": options.epochs,
        "seeds": options.seeds, "units": options.units, "threads": options.threads,
        "ratios": ratios, "median_ratio": statistics.median(ratios), "rounds": rounds, "torch": torch.__version__,
        **provenance(),
    }  # fmt: skip
    append(ROWS, row)


if __name__ == "__main__":
    main()

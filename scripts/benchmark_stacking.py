"""How much faster seeds are fitted side by side than one after the other.

    benchmark_stacking.py [--seeds 8] [--units 400] [--steps 60] [--rounds 3] [--threads 2]

Times both in turns in one process, on random images of MNIST's size, and appends the ratio to
docs/benchmarks/stacking.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from cryoaae.autoencoding.run import FamilyRun
from cryoaae.config import load_aae_config
from cryoaae.io.atomic import write_text
from cryoaae.io.images import Images, ImageSplit

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "stacking.json"


def images(count: int) -> ImageSplit:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 784, generator=generator)
    part = Images(pixels, torch.arange(count) % 10, (1, 28, 28))
    return ImageSplit(part, part, part)


def seconds(run: FamilyRun, steps: int) -> float:
    """Wall seconds of some steps, after a few to warm up."""
    for _ in range(3):
        run.loop.step()
    started = time.perf_counter()
    for _ in range(steps):
        run.loop.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = load_aae_config(
        "semisupervised", overrides=[f"hidden=[{options.units},{options.units}]", "warm_up_steps=0"]
    )
    data = images(5000)
    ratios, walls = [], []
    for _ in range(options.rounds):
        one = seconds(FamilyRun(data, settings), options.steps)
        stacked = seconds(FamilyRun(data, settings, options.seeds), max(1, options.steps // options.seeds))
        per_step = stacked / max(1, options.steps // options.seeds)
        ratios.append(options.seeds * one / options.steps / per_step)
        walls.append({"one_ms": 1e3 * one / options.steps, "stacked_ms": 1e3 * per_step})
        print(f"{options.seeds} separate steps over one stacked step: {ratios[-1]:.2f}", flush=True)
    row: dict[str, Any] = {
        "seeds": options.seeds, "units": options.units, "threads": options.threads, "ratios": ratios,
        "median_ratio": statistics.median(ratios), "walls": walls, "torch": torch.__version__,
        "machine": f"{platform.machine()}, CPU", "date": time.strftime("%F"),
    }  # fmt: skip
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    write_text(ROWS, json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()

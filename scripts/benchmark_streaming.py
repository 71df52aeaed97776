"""Measure how much anonymous memory restoring takes, and how fast it is, with a thin network.

Writes noise of the wanted size to a scratch folder, restores it file to file, and appends a row to
docs/benchmarks/streaming.json. Example: `python scripts/benchmark_streaming.py 256 512 512`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from benchmark_rows import append, provenance

from cryoaae.io.mrc import create_volume
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.restoration.restore import restore

RECORDS = Path(__file__).parents[1] / "docs" / "benchmarks" / "streaming.json"
VOXEL = 10.0


class Sampler(threading.Thread):
    """Keeps the highest RssAnon of this process, in bytes."""

    def __init__(self, interval: float = 0.02) -> None:
        super().__init__(daemon=True)
        self.interval, self.highest, self.running = interval, 0, True

    def run(self) -> None:
        while self.running:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.highest = max(self.highest, 1024 * int(line.split()[1]))
            time.sleep(self.interval)


def make_noise(path: Path, shape: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    with create_volume(path, shape, voxel_size_angstrom=VOXEL) as data:
        for z in range(shape[0]):
            data[z] = rng.normal(size=shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", type=int, nargs=3, metavar=("Z", "Y", "X"))
    parser.add_argument("--bin", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--single", action="store_true", help="one volume instead of two halves")
    parser.add_argument("--defocus", type=float, metavar="UM", help="undo the contrast transfer as well")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="for the volumes; default: a temporary one")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    network = {"widths": chosen.widths, "convolutions": 1}
    model = Restorer(RestorerSpec(chosen.bin, VOXEL, network)).eval()
    torch.nn.init.normal_(model.network.last.weight, std=0.1)
    model.know_presence()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        files = [folder / "t_EVN.mrc", folder / "t_ODD.mrc"][: 1 if chosen.single else 2]
        for seed, file in enumerate(files):
            make_noise(file, tuple(chosen.shape), seed)
        sampler = Sampler()
        sampler.start()
        sources = {"inputs": files} if chosen.single else {"even": files[0], "odd": files[1]}
        result = restore(
            output=folder / "out.mrc",
            model=model,
            threads=chosen.threads,
            device="cpu",
            tilt_range=(-60, 60),
            contrast_transfer=ContrastTransfer((chosen.defocus,)) if chosen.defocus else None,
            **sources,
        )[0]
        sampler.running = False
        sampler.join()
    row = {
        "shape_zyx": chosen.shape,
        "volumes": len(files),
        "working_bin": chosen.bin,
        "network": network,
        **({"defocus_um": chosen.defocus} if chosen.defocus else {}),
        "tile_working_zyx": list(result.tile),
        "rss_anon_gb": round(sampler.highest / 1e9, 3),
        "seconds": round(result.seconds, 1),
        "voxels_per_second": round(result.voxels_per_second),
        "share_outside_network": round(1 - result.network_share, 3),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **provenance(),
    }
    append(RECORDS, row)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()

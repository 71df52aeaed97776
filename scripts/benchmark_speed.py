"""How fast restoring and fitting are, as a share of what the network's layers reach alone on the same machine.

    benchmark_speed.py [NAME ...] [--again] [--threads N]
    benchmark_speed.py --table

Without names all rows are made that are not there yet; a name is one of --list, or its beginning (layers, restore).
Rows are appended to docs/benchmarks/speed.json, and the page speed.md is made from them.

First the machine: what a plain convolution of 64 channels reaches, and how fast memory is copied. Then the layers: the
U-Net of the restorer that comes along, on random densities, by tile, batch, precision and order of memory, and nothing
else. Then `restore` from file to file and the steps of a fit, beside the same layers on random densities of the same
tiles and batches; and phantoms of $CRYOAAE_DATA restored with layers at bfloat16 and at float32, against the truth.
Everything in a process of its own, so that its memory is its own. Rates are per second of the
processor that the process itself took: on a machine that others use, the clock on the wall says how busy they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import append, provenance, read_rows
from benchmark_streaming import Sampler
from numpy.typing import NDArray
from restoration_conditions import Run, prepared
from restoration_table import scores_of
from speed_table import SCORES, table
from torch.utils.flop_counter import FlopCounterMode

import cryoaae
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import create_volume, open_volume
from cryoaae.io.project import open_tomogram, resolve_inputs
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.unet import UNet
from cryoaae.physics.resample import band_limit
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "speed.json"
PAGE = ROWS.with_suffix(".md")
FIRST_TILE = Path(__file__).with_name("first_tile.py")
VOXEL_ANGSTROM, PERIOD, TILT_RANGE = 10.0, 96, (-60.0, 60.0)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Edge and channels of the plain convolution, and numbers that are copied: far more than caches hold.
EDGE, CHANNELS, COPIED = 48, 64, 1 << 27
FIT_STEPS = 40

LAYERS = {
    f"layers {tile}^3, batch {batch}{words}": {"tile": tile, "batch": batch, **facts}
    for tile, batch, words, facts in (
        (48, 1, "", {}), (48, 2, "", {}), (48, 4, "", {}), (96, 1, "", {}), (96, 2, "", {}), (144, 1, "", {}),
        (96, 2, ", bfloat16", {"dtype": "bfloat16"}), (96, 2, ", channels first", {"last": False}),
        (96, 2, ", compiled", {"compiled": True}),
    )
}  # fmt: skip
RESTORED = {
    "restore 75 x 464 x 480": (75, 464, 480), "restore 150 x 464 x 480": (150, 464, 480),
    "restore 75 x 928 x 960": (75, 928, 960), "restore 75 x 928 x 960, bfloat16": (75, 928, 960),
    "restore 300 x 928 x 960": (300, 928, 960),
}  # fmt: skip
FITS = {
    "fit, batch 1": (1, "float32"), "fit, batch 2": (2, "float32"), "fit, batch 2, bfloat16": (2, "bfloat16"),
    "fit, batch 4": (4, "float32"),
}  # fmt: skip
# Steps of fitting further before the phantom is restored, in float32; 0: the layers of restoring are what is compared.
LOWER = {f"bfloat16, phantom {name}{', fitted' * (steps > 0)}": (name, steps) for steps in (0, 240) for name in "AC"}
NAMES = ["machine", *LAYERS, *RESTORED, *FITS, "first tile", *LOWER]


def seconds_of(work: Callable[[], Any], *, least: float = 2.0, device: str = "cpu") -> float:
    """Seconds of the processor that a piece of work takes, the mean of as many as take `least` seconds together."""
    work()
    used, count = 0.0, 0
    while used < least:
        started = clock(device)
        work()
        used, count = used + clock(device) - started, count + 1
    return used / count


def clock(device: str) -> float:
    """Seconds of the processor so far; of a GPU, when all is done that it was asked for."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


# -- the machine, and the layers alone ------------------------------------------------------------------


def the_machine(device: str) -> dict[str, Any]:
    """Peak of a plain convolution and of copying."""
    found: dict[str, Any] = {}
    for name, dtype in TYPES.items():
        layer = torch.nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1, bias=False, device=device, dtype=dtype)
        layer = layer.to(memory_format=torch.channels_last_3d)
        x = torch.randn(2, CHANNELS, EDGE, EDGE, EDGE, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            seconds = seconds_of(lambda layer=layer, x=x: layer(x), device=device)
        found[f"{name}_gflop_per_s"] = 2 * 54 * CHANNELS**2 * EDGE**3 / seconds / 1e9
    a = torch.ones(COPIED, device=device)
    b = torch.empty_like(a)
    found["copy_gb_per_s"] = 2 * a.nbytes / seconds_of(lambda: b.copy_(a), device=device) / 1e9
    return found


def network_of(general: GeneralRestorer) -> tuple[UNet, torch.Tensor]:
    """The U-Net that comes along and something to tell it."""
    return general.network, torch.zeros(1, general.network.conditions)


def operations_per_voxel(network: UNet, told: torch.Tensor) -> float:
    """Counted floating-point operations of one voxel; a product and a sum are two."""
    edge = 4 * network.multiple
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, edge, edge, edge), told.cpu())
    return counter.get_total_flops() / edge**3


def the_layers(
    device: str, *, tile: int, batch: int, dtype: str = "float32", last: bool = True, compiled: bool = False
) -> dict[str, Any]:
    """The network on random densities and nothing else."""
    network, told = network_of(GeneralRestorer.bundled())
    operations = operations_per_voxel(network, told)
    network = network.to(device, TYPES[dtype])
    if not last:
        network = network.to(memory_format=torch.contiguous_format)
    told, x = told.to(device, TYPES[dtype]), torch.randn(batch, 2, *(tile,) * 3, device=device, dtype=TYPES[dtype])
    function: Callable[..., Any] = network
    if compiled:
        function = torch.compile(network)
    with torch.inference_mode():
        rate = batch * tile**3 / seconds_of(lambda: function(x, told.expand(batch, -1)), device=device)
    return {"voxels_per_s": rate, "gflop_per_s": rate * operations / 1e9, "operations_per_voxel": operations}


# -- restoring and fitting ------------------------------------------------------------------------------


def write_halves(folder: Path, shape: tuple[int, int, int]) -> list[Path]:
    """Two halves: the same blobs again and again, and white noise."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    field = band_limit(torch.randn(PERIOD, PERIOD, PERIOD, generator=generator), 0.15, 0.25)
    blobs = (6 * (field / field.std() - 1.2).clamp(min=0)).numpy()
    times = [-(-n // PERIOD) for n in shape[1:]]
    paths = [folder / f"t_{half}.mrc" for half in ("EVN", "ODD")]
    for path in paths:
        with create_volume(path, shape, voxel_size_angstrom=VOXEL_ANGSTROM) as data:
            for z in range(shape[0]):
                plane = np.tile(blobs[z % PERIOD], times)[: shape[1], : shape[2]]
                data[z] = plane + rng.standard_normal(shape[1:], dtype=np.float32)
    return paths


def restoring(device: str, shape: tuple[int, int, int], precision: str) -> dict[str, Any]:
    """`restore` from file to file, as the command does it, beside its network on its own tiles."""
    from cryoaae.restoration import engine
    from cryoaae.restoration.restore import restore

    plans: list[engine.Plan] = []
    plan_restoration = engine.plan_restoration

    def planned(*arguments: Any) -> engine.Plan:
        plans.append(plan_restoration(*arguments))
        return plans[-1]

    sys.modules["cryoaae.restoration.restore"].plan_restoration = planned  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=os.environ.get("CRYOAAE_SPEED_FOLDER")) as name:
        even, odd = write_halves(Path(name), shape)
        sampler = Sampler()
        sampler.start()
        before, started = time.process_time(), time.perf_counter()
        (result,) = restore(
            [], Path(name) / "out.mrc", even=even, odd=odd, tilt_range=TILT_RANGE, symmetries=True, device=device,
            threads=torch.get_num_threads(), precision=precision,
        )  # fmt: skip
        cpu, wall = time.process_time() - before, time.perf_counter() - started
        sampler.running = False
        sampler.join()
    (plan,) = plans
    tiles, turns = plan.grid.tiles(plan.tile), 4
    read = sum(math.prod(tile.read_shape) for tile in tiles)
    network, told = network_of(GeneralRestorer.bundled())
    edge = tuple(min(n, 128) for n in tiles[0].read_shape)
    x = torch.randn(2, 2, *edge, device=device)
    lower = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.inference_mode(), lower:
        alone = 2 * math.prod(edge) / seconds_of(lambda: network.to(device)(x, told.to(device)), device=device)
    return {
        "shape_zyx": list(shape), "precision": precision, "halves": 2, "turns": turns,
        "working_zyx": list(plan.frame.working_zyx),
        "working_bin": plan.frame.working_bin, "tile_zyx": list(plan.tile), "tiles": len(tiles), "batch": plan.batch,
        "cpu_seconds": cpu, "wall_seconds": wall, "voxels_per_s": math.prod(shape) / (cpu if device == "cpu" else wall),
        "share_in_network": result.network_share, "alone_voxels_per_s": alone,
        "share_of_layers_alone": turns * read / alone / (cpu if device == "cpu" else wall),
        "read_over_grid": read / math.prod(plan.frame.working_zyx), "rss_anon_gb": sampler.highest / 1e9,
        "operations": turns * read * operations_per_voxel(network.cpu(), told),
    }  # fmt: skip


def fitting(device: str, batch: int, precision: str) -> dict[str, Any]:
    """Steps of a fit as it is made, beside the same network on random patches, forward and back."""
    with tempfile.TemporaryDirectory() as name:
        even, odd = write_halves(Path(name), (96, 192, 192))
        tomograms = [open_tomogram(item) for item in resolve_inputs([], even=[even], odd=[odd], tilt_range=TILT_RANGE)]
        settings = FitSettings.from_spectrum(steps=4 * FIT_STEPS, batch_size=batch, refills=0, precision=precision)
        loop = prepare(
            tomograms, settings, device=choose_device(device), scratch=Path(name) / "scratch", init=None
        ).loop  # fmt: skip
        loop.step()  # makes the pool
        started = clock(device)
        for _ in range(FIT_STEPS):
            loop.step()
        taken = (clock(device) - started) / FIT_STEPS
    network, n = loop.model.restorer.network, settings.patch_size
    x = torch.randn(batch, 2, n, n, n, device=device)

    def forward_and_back() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            made = network(x)
        made.float().square().sum().backward()

    alone = seconds_of(forward_and_back, device=device)
    return {
        "patch": n, "batch": batch, "precision": precision, "renew_every": settings.renew_every,
        "patches_per_s": batch / taken,
        "alone_patches_per_s": batch / alone, "share_of_layers_alone": alone / taken,
    }  # fmt: skip


def first_tile(device: str) -> dict[str, Any]:
    """From the start of the process to the first tile of `cryoaae restore`, the second time."""
    with tempfile.TemporaryDirectory() as name:
        even, odd = write_halves(Path(name), (94, 206, 208))
        words = ["restore", "--even", even, "--odd", odd, "--tilt-range", *TILT_RANGE, "-o", Path(name) / "out.mrc"]
        words += ["--device", device, "--overwrite", "-q"]
        found = [json.loads(_child(FIRST_TILE, *map(str, words))) for _ in range(2)][-1]
    return {"shape_zyx": [94, 206, 208], **found}


def lower_precision(device: str, phantom: str, steps: int) -> dict[str, Any]:
    """A phantom restored at both precisions of the layers, or fitted on at both: scores against the truth, and cost."""
    from cryoaae.restoration.restore import restore

    data = prepared(Run(phantom, "default", 0), Path())
    transfer = {} if data.transfer is None else {"contrast_transfer": data.transfer}
    shared = {"device": device, "threads": torch.get_num_threads()}
    found: dict[str, Any] = {}
    made: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as name:
        # The first pass of a process is slower.
        for precision in TYPES if steps else ("bfloat16", *TYPES):
            path, before = Path(name) / f"{precision}.mrc", time.process_time()
            if steps:
                settings = FitSettings(steps=steps, minutes=None, precision=precision)
                run = cryoaae.fit(**data.inputs(), run_path=path.with_suffix(""), settings=settings, **shared)
                how: dict[str, Any] = {"model": run}
            else:
                how = {"precision": precision}
            restore(**data.inputs(), output=path, symmetries=True, overwrite=True, **how, **shared, **transfer)
            cpu, made[precision] = time.process_time() - before, open_volume(path).numpy()
            scored = cryoaae.evaluate(path, wedge=data.wedge, truth=data.truth, baselines=False, **data.volumes)
            scores = scores_of(scored["rows"][0], units=1.0, curves=False)
            found[precision] = {"cpu_seconds": cpu, **{key: scores[key] for key in SCORES}}
    whole, lower = made["float32"], made["bfloat16"]
    return {"phantom": phantom, "steps": steps, **found, "apart": float(np.std(lower - whole) / np.std(whole))}


# -- rows -----------------------------------------------------------------------------------------------


def measure(name: str, device: str) -> dict[str, Any]:
    """The facts of one row."""
    keep_freed_memory()
    if name == "machine":
        return the_machine(device)
    if name in LAYERS:
        return the_layers(device, **LAYERS[name])
    if name in RESTORED:
        return restoring(device, RESTORED[name], "bfloat16" if name.endswith("bfloat16") else "float32")
    if name in LOWER:
        return lower_precision(device, *LOWER[name])
    return fitting(device, *FITS[name]) if name in FITS else first_tile(device)


def _child(script: Path, *words: str) -> str:
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a row, or the beginning of some; default: all")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="kept with the rows")
    parser.add_argument("--list", action="store_true", help="only say what rows there are")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_threads(options.threads)
    if options.child:
        print(json.dumps(measure(options.child, options.device)))
        return
    wanted = [name for name in NAMES if not options.names or any(name.startswith(start) for start in options.names)]
    if options.list:
        print("\n".join(wanted))
        return
    shared = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
    for name in () if options.table else wanted:
        there = {row["name"] for row in read_rows(ROWS) if {**row, **shared} == row}
        if name in there and not options.again:
            continue
        words = ["--child", name, "--device", options.device, "--threads", str(options.threads)]
        try:
            found = json.loads(_child(Path(__file__), *words))
        except subprocess.CalledProcessError as error:
            print(f"{name}: failed ({error})", file=sys.stderr, flush=True)
            continue
        note = {"note": options.note} if options.note else {}
        append(ROWS, {"name": name, **found, **shared, **note, **provenance(options.device)})
        print(name, json.dumps(found), flush=True)
    write_text(PAGE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()

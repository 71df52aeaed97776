"""Make the plugin's sample data: simulate, fit, restore, sample, validate, extract and cluster at the smallest size.

    python scripts/make_sample.py --work FOLDER      writes plugins/napari/napari_cryoaae/sample; 7 minutes on one core

Nothing is made up: all files are what the library's own functions wrote. What is stored more briefly than they would:
densities as whole numbers (the halves before anything is made of them, so that their digests hold), spread and modes
as float16, as are the weights of the model of particles, the store compressed, JSON without spaces and with six
digits, and paths without the folder that they were made in.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
from numpy.typing import NDArray

NAME = "TS_01"
SHAPE_ZYX, VOXEL_ANGSTROM, PARTICLES, SNR = (20, 48, 48), 16.0, 44, 2.0
# Two macromolecules that can be told apart at this sampling: name, mass in kilodalton, seed of their shape.
SPECIES = (("large", 1000.0, 5), ("small", 180.0, 11))
FIT_STEPS, CLUSTER_STEPS, DRAWS, MODES, BOX = 300, 900, 4, 2, 12
FIT = [
    "patch_size=16", "block_size=36", "blocks=4", "widths=[6,12]", "working_bin=1", "batch_size=2",
    "evaluations=6", "preview_every_seconds=10000",
]  # fmt: skip
CRITIC = {"name": "adversarial", "hidden": [16, 16]}
CLUSTER: dict[str, Any] = {
    "working_box": BOX, "widths": (8, 16), "units": 16, "classes": 6, "style_dim": 4, "batch_size": 24, "minutes": None,
    "evaluations": 4, "divergence": CRITIC | {"input_noise": 0.1}, "class_divergence": CRITIC | {"input_noise": 1.0},
}  # fmt: skip
MOST_BYTES = 1_000_000
# The greatest density of the halves, as a whole number of a byte; rarer ones are cut off.
BYTE, RAREST_PERCENT = 127, 99.99


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).parent.parent / "plugins" / "napari" / "napari_cryoaae" / "sample"
    arguments.add_argument("-o", "--output", type=Path, default=here)
    arguments.add_argument("--work", type=Path, required=True, help="folder for what is made on the way")
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    work = chosen.work.resolve()
    make_tomogram(work, chosen.seed)
    cluster_it(work, chosen.seed)
    restore_it(work)
    collect(work, chosen.output)
    sizes = {path: path.stat().st_size for path in sorted(chosen.output.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        print(f"{size:9d}  {path.relative_to(chosen.output)}")
    print(f"{sum(sizes.values()):9d}  bytes in all")
    if sum(sizes.values()) > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES} bytes")


# -- making ---------------------------------------------------------------------------------------


def make_tomogram(work: Path, seed: int) -> None:
    """Simulate two kinds of particles; keep the halves as whole numbers, the list with its tomogram and pixel size."""
    import cryoaae
    from cryoaae.simulation.assemblies import random_assembly

    maps = work / "maps"
    maps.mkdir(parents=True, exist_ok=True)
    for name, mass, shape in SPECIES:
        density = random_assembly(np.random.default_rng(shape), name, mass).density(VOXEL_ANGSTROM)
        cryoaae.write_volume(maps / f"{name}.mrc", density, voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
    data = cryoaae.simulate(
        work / "data", maps=[maps / f"{name}.mrc" for name, *_ in SPECIES], shape_zyx=SHAPE_ZYX,
        voxel_size_angstrom=VOXEL_ANGSTROM, snr=SNR, count=PARTICLES, membranes=0, filaments=0, seed=seed,
    )  # fmt: skip
    halves = [cryoaae.open_volume(data / f"{half}.mrc").numpy() for half in ("even", "odd")]
    unit = float(np.percentile(np.abs(halves), RAREST_PERCENT)) / BYTE
    for half, values in zip(("EVN", "ODD"), halves, strict=True):
        write_stored(work / f"{NAME}_{half}.mrc", values / unit, np.int8)
    mean = (stored(work / f"{NAME}_EVN.mrc").astype(np.float32) + stored(work / f"{NAME}_ODD.mrc")) / 2
    cryoaae.write_volume(work / f"{NAME}.mrc", mean, voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
    shutil.copy(data / "tilts.tlt", work / f"{NAME}.tlt")
    write_list(data / "particles.star", work / f"{NAME}.star")


def write_list(simulated: Path, target: Path) -> None:
    """The particle list as RELION 4 has it, which says of what tomogram and in what pixels it is."""
    import starfile

    table = starfile.read(simulated)
    starfile.write(table.assign(rlnTomoName=NAME, rlnTomoTiltSeriesPixelSize=VOXEL_ANGSTROM), target, overwrite=True)


def restore_it(work: Path) -> None:
    """Fit, restore, sample and validate, on the halves as they are stored."""
    import cryoaae
    from cryoaae.config import load_fit_config

    halves: dict[str, Any] = {"even": work / f"{NAME}_EVN.mrc", "odd": work / f"{NAME}_ODD.mrc"}
    settings = load_fit_config(overrides=FIT, steps=FIT_STEPS)
    common: dict[str, Any] = {"device": "cpu", "overwrite": True}
    run = cryoaae.fit([], work / "run", **halves, tilts=work / f"{NAME}.tlt", settings=settings, **common)
    cryoaae.restore(output=work / f"{NAME}_restored.mrc", **halves, model=run, **common)
    cryoaae.sample(output=work / "draws", **halves, model=run, draws=DRAWS, modes=MODES, **common)
    cryoaae.validate(output=work / "validation", **halves, model=run, **common)


def cluster_it(work: Path, seed: int) -> None:
    """Cut the particles out of the mean of the halves and cluster them."""
    import cryoaae
    from cryoaae.subtomograms.settings import ClusterSettings

    store = work / "particles.h5"
    cryoaae.extract(
        [work / f"{NAME}.mrc"], store, box=BOX, particles=work / f"{NAME}.star", tilts=work / f"{NAME}.tlt",
        border="pad", overwrite=True,
    )  # fmt: skip
    settings = ClusterSettings(**CLUSTER, steps=CLUSTER_STEPS, seed=seed)
    cryoaae.cluster(
        store, work / "clusters", by="autoencoder", clusters=2, settings=settings, device="cpu", overwrite=True
    )


# -- storing --------------------------------------------------------------------------------------


def collect(work: Path, sample: Path) -> None:
    """Bring what the panels show into the sample's folder, in place of what is there."""
    shutil.rmtree(sample, ignore_errors=True)
    whole, half = _as(np.int8), _as(np.float16)
    kept: dict[str, Callable[[Path, Path, Path], None]] = {
        f"{NAME}_EVN.mrc": copied, f"{NAME}_ODD.mrc": copied, f"{NAME}.tlt": copied, f"{NAME}.star": copied,
        f"{NAME}_restored.mrc": whole, f"{NAME}_restored.json": text,
        "run/run.json": text, "run/config.yaml": text, "run/model.safetensors": copied,
        "draws/mean.mrc": whole, "draws/mean.json": text, "draws/std.mrc": half, "draws/report.json": text,
        **{f"draws/draw_{n:03d}.mrc": whole for n in range(1, DRAWS + 1)},
        **{f"draws/mode_{n:02d}.mrc": half for n in range(1, MODES + 1)},
        "validation/report.json": text,
        "particles.h5": packed,
        "clusters/run.json": text, "clusters/config.yaml": text, "clusters/model.safetensors": halved,
        "clusters/codes.npz": zipped, "clusters/clusters.json": text, "clusters/particles/particles.star": copied,
        **{f"clusters/classes/{path.name}": half for path in sorted((work / "clusters" / "classes").iterdir())},
    }  # fmt: skip
    for name, bring in kept.items():
        (sample / name).parent.mkdir(parents=True, exist_ok=True)
        bring(work / name, sample / name, work)


def stored(path: Path) -> NDArray[Any]:
    """Voxels (z, y, x) of a file as they lie."""
    with mrcfile.open(path) as file:
        return np.array(file.data)


def write_stored(path: Path, values: NDArray[Any], dtype: type[np.generic], labels: NDArray[Any] | None = None) -> None:
    """Write voxels (z, y, x) in a small type, with the labels of the file that they come from."""
    if issubclass(dtype, np.integer):
        values = np.clip(np.rint(values), -BYTE, BYTE)
    with mrcfile.new(path, values.astype(dtype), overwrite=True) as file:
        file.voxel_size = VOXEL_ANGSTROM
        if labels is not None:
            file.header.label, file.header.nlabl = labels, np.count_nonzero(labels)


def copied(source: Path, target: Path, work: Path) -> None:
    """Bring a file as it is."""
    shutil.copyfile(source, target)


def text(source: Path, target: Path, work: Path) -> None:
    """Bring JSON or YAML, without spaces, in six digits and without the folder it was made in."""
    content = source.read_text()
    if source.suffix == ".json":
        read = json.loads(content, parse_float=lambda number: float(f"{float(number):.6g}"))
        content = json.dumps(read, separators=(",", ":")) + "\n"
    target.write_text(content.replace(f"{work}/", ""))


def _as(dtype: type[np.generic]) -> Callable[[Path, Path, Path], None]:
    def bring(source: Path, target: Path, work: Path) -> None:
        with mrcfile.open(source) as file:
            write_stored(target, np.array(file.data), dtype, file.header.label.copy())

    return bring


def halved(source: Path, target: Path, work: Path) -> None:
    """Bring weights as float16."""
    from cryoaae.io.weights import load_weights, save_weights

    tensors, facts = load_weights(source)
    del facts["digest"]  # of the weights as they were
    save_weights(target, {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, facts)


def zipped(source: Path, target: Path, work: Path) -> None:
    """Bring named arrays, compressed."""
    with np.load(source) as arrays:
        np.savez_compressed(target, **arrays)


def packed(source: Path, target: Path, work: Path) -> None:
    """Bring a store, its particles compressed: their checksums are of the voxels, and hold."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for name in old:
            if name == "subtomograms":
                voxels = old[name]
                new.create_dataset(name, data=voxels[:], chunks=voxels.chunks, compression="gzip", shuffle=True)
            else:
                old.copy(name, new)
        # Written once: what is replaced would stay in the file.
        new.attrs.update({**old.attrs, "about": old.attrs["about"].replace(f"{work}/", "")})


if __name__ == "__main__":
    main()

"""`cryoaae simulate`."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError


def command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    maps: Annotated[list[str] | None, typer.Option("--maps", help="Density maps (MRC), quoted glob.")] = None,
    atoms: Annotated[list[str] | None, typer.Option("--atoms", help="Atomic models (PDB, mmCIF), quoted glob.")] = None,
    shape: Annotated[tuple[int, int, int], typer.Option("--shape", help="Voxels.", metavar="Z Y X")] = (96, 96, 96),
    voxel_size: Annotated[float, typer.Option("--voxel-size", help="Angstrom.")] = 10.0,
    tilt_range: Annotated[
        tuple[float, float], typer.Option("--tilt-range", help="Degrees.", metavar="LO HI")
    ] = (-60.0, 60.0),
    tilt_step: Annotated[float, typer.Option("--tilt-step", help="Degrees.")] = 3.0,
    snr: Annotated[float, typer.Option("--snr", help="Signal-to-noise ratio of a projection of a half.")] = 1.0,
    defocus: Annotated[float, typer.Option("--defocus", help="Underfocus in micrometres; 0: no CTF.")] = 0.0,
    count: Annotated[int | None, typer.Option("--count", help="Particles; default: as crowded as cytosol.")] = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    threads: o.Threads = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Simulate a crowded tomogram with its truth: projections, noise, weighted back-projection."""
    from cryoaae.io.atomic import make_folder
    from cryoaae.io.tilts import check_tilt_range
    from cryoaae.runs.resources import set_threads
    from cryoaae.simulation.dataset import simulate

    check_tilt_range(*tilt_range)
    if (output / "meta.json").exists() and not overwrite:
        raise InputError(output, "already holds a simulation", "use --overwrite or another folder")
    map_files, atom_files = _files("--maps", maps), _files("--atoms", atoms)
    if dry_run:
        size, files = " x ".join(map(str, shape)), len(map_files) + len(atom_files)
        line = f"would simulate {size} voxels of {voxel_size:g} A from {files} files in {output}"
        o.would({"output": output, "shape_zyx": shape, "maps": map_files, "atoms": atom_files}, [line], as_json=as_json)
        return
    make_folder(output)
    set_threads(threads)
    with o.told(quiet=quiet, verbose=verbose) as progress:
        folder = simulate(
            output, maps=map_files, atoms=atom_files, shape_zyx=shape,
            voxel_size_angstrom=voxel_size, tilt_range_deg=tilt_range, tilt_step_deg=tilt_step, snr=snr,
            defocus_um=defocus, count=count, seed=seed, progress=progress,
        )  # fmt: skip
        progress.message(f"wrote {folder}: even.mrc odd.mrc truth.mrc tilts.tlt and more")
    o.show({"output": folder}, as_json=as_json)


def _files(option: str, patterns: list[str] | None) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns or ():
        names = sorted(glob(pattern))  # noqa: PTH207  patterns may be absolute
        if not names:
            raise InputError(option, f"no file matches '{pattern}'", "check the pattern, and quote it")
        found += [Path(name) for name in names]
    return found

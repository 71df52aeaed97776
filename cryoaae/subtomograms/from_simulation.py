"""Simulated particles as a store that every command reads: true class, pose, shift and defocus go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cryoaae.errors import InterruptedRunError
from cryoaae.io.atomic import check_output
from cryoaae.io.euler import relion_from_rotation
from cryoaae.io.store import PROVENANCE, SIMULATION, ParticleFacts, StoreWriter
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.provenance import versions
from cryoaae.simulation.dataset import load_species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator
from cryoaae.simulation.tilt_series import AMPLITUDE_CONTRAST, SPHERICAL_ABERRATION_MM, VOLTAGE_KILOVOLT

COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
COLUMNS = (
    *COORDINATES, "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnAngleRot", "rlnAngleTilt",
    "rlnAnglePsi", "rlnDefocusU", "rlnDefocusV", "rlnClassName", "rlnOpticsGroup",
)  # fmt: skip
OPTICS = ("rlnOpticsGroup", "rlnImagePixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


def simulate_store(
    output: Path | str,
    *,
    maps: Sequence[Path | str] = (),
    atoms: Sequence[Path | str] = (),
    counts: Sequence[int] = (150,),
    settings: ImagingSettings | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate subtomograms of named maps and models into a store.

    Parameters
    ----------
    output : path
        The store, STORE.h5.
    maps, atoms : sequence of paths
        Density maps (MRC, also gzipped) and atomic models (PDB, mmCIF); each is a class named after its file.
    counts : sequence of int
        Particles of each class, or one number for all.
    settings : ImagingSettings, optional
    seed : int
        Same seed, same subtomograms.
    resume : bool
        Go on with an interrupted simulation of the same.
    overwrite : bool
    progress : Progress, optional

    Returns
    -------
    Path
        The store. Its particle list holds the true shift (minus the origin) and the defocus of each particle; its
        rotations and classes are the true ones.

    Raises
    ------
    InputError
        When an option or a file cannot be used, or a particle does not fit the box.
    InterruptedRunError
        When stopped; what was done is kept for `resume`.
    """
    output, settings, progress = Path(output), settings or ImagingSettings(), progress or NullProgress()
    check_output(output, [*maps, *atoms], overwrite=overwrite)
    species = load_species(maps, atoms, settings.voxel_size_angstrom)
    each = list(counts) * len(species) if len(counts) == 1 else list(counts)
    simulator = SubtomogramSimulator(species, each, settings, seed=seed)
    about: dict[str, Any] = {
        **asdict(settings), "seed": seed, "counts": {}, "kind": SIMULATION, "density": "bright",
        "coordinates": "auto", "classes": {one.name: count for one, count in zip(species, each, strict=True)},
        PROVENANCE: {"paths": [str(path) for path in (*maps, *atoms)], "versions": versions()},
    }  # fmt: skip
    content = ("particles.star", particle_list(simulator).encode())
    with StoreWriter(output, _facts(simulator), about, content, resume=resume) as store:
        missing = store.missing()
        progress.start("simulating", len(missing), "particles")
        try:
            for index in missing:
                progress.check()
                store.write(index, simulator[index])
                progress.advance(1)
        except InterruptedRunError as error:
            raise InterruptedRunError("stopped; go on with --resume", error.exit_code - 128) from error
        finally:
            progress.finish()
        store.finish()
    return output


def _facts(simulator: SubtomogramSimulator) -> ParticleFacts:
    count = len(simulator)
    centre = simulator.settings.box // 2
    return ParticleFacts(
        ("simulated",) * count,
        tuple(true.name for true in simulator.truth),
        np.array([centre + true.shift_zyx for true in simulator.truth]),
        np.array([true.rotation.as_matrix()[::-1, ::-1] for true in simulator.truth]),
        np.arange(count, dtype=np.int64) % 2 + 1,
        np.arange(count, dtype=np.int64),
        (MissingWedge.from_tilts(simulator.tilts_deg),),
        np.zeros(count, dtype=np.int64),
    )


def particle_list(simulator: SubtomogramSimulator) -> str:
    """The particles as RELION STAR text: each in the middle of a box of its own, moved by its shift."""
    voxel, centre = simulator.settings.voxel_size_angstrom, simulator.settings.box // 2
    optics = (1, voxel, VOLTAGE_KILOVOLT, SPHERICAL_ABERRATION_MM, AMPLITUDE_CONTRAST)
    rows = []
    for true in simulator.truth:
        origin_xyz = -true.shift_zyx[::-1] * voxel
        angles = relion_from_rotation(true.rotation.as_matrix()[None, ::-1, ::-1])[0]
        defocus = 1e4 * true.defocus_um
        numbers = (*(centre,) * 3, *origin_xyz, *angles, defocus, defocus)
        rows.append(" ".join([*(f"{number:.4f}" for number in numbers), true.name, "1"]))
    return _block("optics", OPTICS, [" ".join(map(str, optics))]) + _block("particles", COLUMNS, rows)


def _block(name: str, labels: Sequence[str], rows: Sequence[str]) -> str:
    heads = [f"_{label} #{i + 1}" for i, label in enumerate(labels)]
    return "\n".join(["", f"data_{name}", "", "loop_", *heads, *rows]) + "\n\n"

"""Make a simulated tomogram with known truth and write it to a folder.

The only module of the simulation that touches the disk.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.simulation import specimen as phantoms
from cryoaae.simulation.assemblies import random_assembly
from cryoaae.simulation.maps import assembly_from_structure, density_from_map
from cryoaae.simulation.reconstruction import BackProjector, angular_weights_rad
from cryoaae.simulation.specimen import Particle, Species, Specimen
from cryoaae.simulation.tilt_series import (
    apply_ctf,
    detector_width,
    draw_noise,
    field_width,
    phase_flipped_ctf,
    project,
    tilt_angles_deg,
)

if TYPE_CHECKING:
    import gemmi

Density = NDArray[np.float32]

PROCEDURAL_SPECIES = 12
MEMBRANES, FILAMENTS, GOLD_BEADS = 2, 2, 0
MINIMUM_SIZE = 16


class SimulationProgress(Protocol):
    """What the simulation tells its caller; `cryoaae.runs.progress.Progress` fits."""

    def start(self, task: str, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float = 1, **facts: Any) -> None: ...

    def finish(self) -> None: ...

    def cancelled(self) -> bool: ...


@dataclass(frozen=True)
class Tomogram:
    """A simulated tomogram in memory.

    Parameters
    ----------
    volumes : dict
        ``even odd full noiseless truth truth_structure truth_background``, each (z, y, x) float32.
    particles : list of Particle
        Those with their centre in the volume.
    objects : dict
        Number of membranes, filaments and beads in the volume.
    noise_std, signal_std : float
        Standard deviations over the projections of one half.
    """

    volumes: dict[str, NDArray[np.float32]]
    particles: list[Particle]
    objects: dict[str, int]
    noise_std: float
    signal_std: float


def simulate(
    output: Path | str,
    *,
    maps: Sequence[Path | str] = (),
    atoms: Sequence[Path | str] = (),
    shape_zyx: tuple[int, int, int] = (96, 96, 96),
    voxel_size_angstrom: float = 10.0,
    tilt_range_deg: tuple[float, float] = (-60.0, 60.0),
    tilt_step_deg: float = 3.0,
    snr: float = 1.0,
    defocus_um: float = 0.0,
    count: int | None = None,
    seed: int = 0,
    membranes: int = MEMBRANES,
    filaments: int = FILAMENTS,
    gold_beads: int = GOLD_BEADS,
    progress: SimulationProgress | None = None,
) -> Path:
    """Simulate a crowded tomogram and write it with its truth.

    Parameters
    ----------
    output : path
        Folder to write; made if need be. Files of an earlier simulation are replaced.
    maps, atoms : sequence of paths
        Density maps (MRC, also gzipped) and atomic models (PDB, mmCIF) to place. Without any,
        procedural macromolecules are made.
    shape_zyx, voxel_size_angstrom
        Size of the tomogram.
    tilt_range_deg, tilt_step_deg
        Tilt angles; the projection at tilt t measures the plane of the tilt axis y and of
        (kx, kz) = (cos t, -sin t).
    snr : float
        Variance of the noise-free projections over the variance of the noise, in each half.
    defocus_um : float
        Underfocus of a phase-flipped contrast transfer; 0 for none. The truth stays without it.
    count : int, optional
        Particles in the volume; default: to the crowding of cytosol.
    seed : int
        Same seed, same files. The specimen does not depend on tilts' noise or SNR.
    membranes, filaments, gold_beads : int
        Objects centred in the volume, where there is room.
    progress : SimulationProgress, optional
        Told of each step; asked whether to stop.

    Returns
    -------
    Path
        The folder, holding even odd full noiseless truth truth_structure truth_background .mrc,
        tilts.tlt, particles.star and meta.json.

    Raises
    ------
    InputError
        When an option or a file of a particle cannot be used.
    """
    folder = Path(output)
    _check(shape_zyx, voxel_size_angstrom, tilt_range_deg, tilt_step_deg, snr, defocus_um, count)
    tilts = tilt_angles_deg(tilt_range_deg, tilt_step_deg)
    if len(tilts) < 2:
        raise InputError("--tilt-step", f"{tilt_step_deg} leaves one tilt only", "use a smaller step")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    species = load_species(maps, atoms, voxel_size_angstrom) or procedural_species(
        streams[0], voxel_size_angstrom
    )
    _step(progress, "simulating", len(tilts) + 4)
    objects = {"membranes": membranes, "filaments": filaments, "gold_beads": gold_beads}
    built = build_specimen(streams[1], species, shape_zyx, voxel_size_angstrom, tilts, count, objects)
    _advance(progress, 3)
    tomogram = image_specimen(built, streams[2], tilts, snr, defocus_um, voxel_size_angstrom, progress)
    meta: dict[str, Any] = {
        "shape_zyx": list(shape_zyx),
        "voxel_size_angstrom": voxel_size_angstrom,
        "tilt_range_deg": [float(t) for t in tilt_range_deg],
        "tilt_step_deg": tilt_step_deg,
        "tilt_axis_deg": 0.0,
        "snr": snr,
        "defocus_um": defocus_um,
        "count": count,
        "seed": seed,
        "maps": [str(p) for p in maps],
        "atoms": [str(p) for p in atoms],
        "requested": objects,
    }
    _write(folder, tomogram, tilts, meta, species)
    _advance(progress, 1)
    if progress is not None:
        progress.finish()
    return folder


def build_specimen(
    rng: np.random.Generator,
    species: Sequence[Species],
    shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    tilts_deg: Sequence[float],
    count: int | None = None,
    objects: dict[str, int] | None = None,
) -> Specimen:
    """Build the specimen the beam crosses: large objects first, particles between, background."""
    wanted = objects or {}
    built = phantoms.empty_specimen(shape_zyx, field_width(shape_zyx, tilts_deg))
    phantoms.add_membranes(built, rng, wanted.get("membranes", 0), voxel_size_angstrom)
    phantoms.add_filaments(built, rng, wanted.get("filaments", 0), voxel_size_angstrom)
    phantoms.add_gold(built, rng, wanted.get("gold_beads", 0), voxel_size_angstrom)
    phantoms.add_particles(built, rng, species, count)
    phantoms.fill_background(built, rng, voxel_size_angstrom)
    return built


def image_specimen(
    built: Specimen,
    rng: np.random.Generator,
    tilts_deg: Sequence[float],
    snr: float,
    defocus_um: float = 0.0,
    voxel_size_angstrom: float = 10.0,
    progress: SimulationProgress | None = None,
) -> Tomogram:
    """Project a specimen, add noise twice and reconstruct: truth in the reconstruction's units.

    Back-projection is linear, so signal and noise are reconstructed apart and added.
    """
    structure, background = built.cut(built.structure), built.cut(built.background)
    shape = structure.shape
    images = list(_images(built, tilts_deg, detector_width(shape), defocus_um, voxel_size_angstrom, progress))
    # What an image is compared with is its noise, not its mean, which the slab's thickness sets.
    signal_std = float(np.sqrt(np.mean([float(i.double().var()) for i in images])))
    noise_std = signal_std / float(np.sqrt(snr))
    signal, even, odd = (BackProjector(shape, images[0].shape[0]) for _ in range(3))
    for image, tilt, weight in zip(images, tilts_deg, angular_weights_rad(tilts_deg), strict=True):
        # Faces of the detector would act as edges 10 times a particle's contrast.
        signal.add(image - image.mean(), tilt, weight)
        for half in (even, odd):
            half.add(draw_noise(rng, image.shape, noise_std), tilt, weight)
    noiseless = signal.volume()
    volumes = {
        "noiseless": noiseless,
        "even": noiseless + even.volume(),
        "odd": noiseless + odd.volume(),
    }
    volumes["full"] = (volumes["even"] + volumes["odd"]) / 2
    arrays = {name: volume.numpy() for name, volume in volumes.items()}
    arrays |= {"truth_structure": structure, "truth_background": background, "truth": structure + background}
    return Tomogram(arrays, built.particles, built.objects, noise_std, signal_std)


def _images(
    built: Specimen,
    tilts_deg: Sequence[float],
    width: int,
    defocus_um: float,
    voxel_size_angstrom: float,
    progress: SimulationProgress | None,
) -> Iterator[torch.Tensor]:
    """Noise-free images (u, y), one per tilt."""
    transfer: torch.Tensor | None = None
    for image in project(torch.from_numpy(built.structure + built.background), tilts_deg, width):
        if defocus_um > 0:
            if transfer is None:
                transfer = phase_flipped_ctf(image.shape, voxel_size_angstrom, defocus_um)
            image = apply_ctf(image, transfer)
        _advance(progress, 1)
        yield image


def procedural_species(rng: np.random.Generator, voxel_size_angstrom: float) -> list[Species]:
    """Draw a set of procedural macromolecules, evenly spread over the range of masses."""
    species = []
    low, high = np.log(np.array([110.0, 2900.0]))
    for i in range(PROCEDURAL_SPECIES):
        mass = float(np.exp(low + (high - low) * (i + rng.uniform()) / PROCEDURAL_SPECIES))
        assembly = random_assembly(rng, "assembly", mass)
        name = f"assembly{i + 1:02d}_{assembly.symmetry}_{mass:.0f}kDa"
        species.append(Species(name, assembly.density(voxel_size_angstrom)))
    return species


def load_species(
    maps: Sequence[Path | str],
    atoms: Sequence[Path | str],
    voxel_size_angstrom: float,
    *,
    change: Callable[[Density], Density] | None = None,
) -> list[Species]:
    """Read density maps and atomic models as classes named after their files; `change` is done to each map first."""
    species = []
    for path in map(Path, maps):
        volume = open_volume(path)
        data = volume.numpy() if change is None else change(volume.numpy())
        try:
            density = density_from_map(data, volume.voxel_size_angstrom, voxel_size_angstrom)
        except ValueError as error:
            raise InputError(path, str(error), "give a map with the molecule bright") from error
        species.append(Species(_class_name(path), density))
    for path in map(Path, atoms):
        assembly = assembly_from_structure(_read_structure(path), _class_name(path))
        species.append(Species(assembly.name, assembly.density(voxel_size_angstrom)))
    return species


def _class_name(path: Path) -> str:
    """File name without its endings, safe in a STAR file."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0].replace(" ", "_")


def _read_structure(path: Path) -> gemmi.Structure:
    """Read a PDB or mmCIF file, also gzipped."""
    import gemmi

    if not path.is_file():
        raise InputError(path, "no such file", "give a PDB or mmCIF file")
    try:
        return gemmi.read_structure(str(path))
    except (RuntimeError, ValueError) as error:
        problem = f"not a readable atomic model ({error})"
        raise InputError(path, problem, "give a PDB or mmCIF file") from error


def _check(
    shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    tilt_range_deg: tuple[float, float],
    tilt_step_deg: float,
    snr: float,
    defocus_um: float,
    count: int | None,
) -> None:
    """Refuse options that make no tomogram."""
    low, high = tilt_range_deg
    above = "give a number above 0"
    rules = [
        ("--shape", min(shape_zyx) >= MINIMUM_SIZE, shape_zyx, f"use {MINIMUM_SIZE} voxels or more each way"),
        ("--voxel-size", 0 < voxel_size_angstrom < 1000, voxel_size_angstrom, "give angstrom above 0"),
        ("--tilt-range", -90 < low < high < 90, tilt_range_deg, "give low and high within -90 to 90"),
        ("--tilt-step", tilt_step_deg > 0, tilt_step_deg, above),
        ("--snr", 0 < snr < float("inf"), snr, above),
        ("--defocus", 0 <= defocus_um < 100, defocus_um, "give micrometres of underfocus, 0 for none"),
        ("--count", count is None or count >= 0, count, "give 0 or more"),
    ]
    for option, good, value, remedy in rules:
        if not good:
            raise InputError(option, f"{value} makes no tomogram", remedy)


def _step(progress: SimulationProgress | None, task: str, total: float) -> None:
    if progress is not None:
        progress.start(task, total, "steps")


def _advance(progress: SimulationProgress | None, amount: float) -> None:
    if progress is not None:
        progress.advance(amount)
        if progress.cancelled():
            raise InterruptedRunError("simulation stopped; run it again to start over")


def _version() -> str:
    try:
        return importlib.metadata.version("cryoaae")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _write(
    folder: Path, tomogram: Tomogram, tilts: Sequence[float], meta: dict[str, Any], species: Sequence[Species]
) -> None:
    """Write all files; meta.json last, so that its presence says the folder is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    voxel = float(meta["voxel_size_angstrom"])
    (folder / "meta.json").unlink(missing_ok=True)
    for name, volume in tomogram.volumes.items():
        label = f"cryoaae {_version()} simulated {name} seed {meta['seed']}"
        write_volume(
            folder / f"{name}.mrc", volume, like=None, voxel_size_angstrom=voxel, label=label, overwrite=True
        )
    write_text(folder / "tilts.tlt", "".join(f"{t:.2f}\n" for t in tilts))
    write_text(folder / "particles.star", particles_star(tomogram.particles))
    everything = meta | {
        "version": _version(),
        "tilts_deg": list(tilts),
        "classes": [s.name for s in species],
        "particles": len(tomogram.particles),
        "objects": tomogram.objects,
        "signal_std": tomogram.signal_std,
        "noise_std": tomogram.noise_std,
    }
    write_text(folder / "meta.json", json.dumps(everything, indent=2) + "\n")


def particles_star(particles: Sequence[Particle]) -> str:
    """Particle list as RELION STAR text: coordinates in voxels from 0, class names, ZYZ angles."""
    columns = ("CoordinateX", "CoordinateY", "CoordinateZ", "AngleRot", "AngleTilt", "AnglePsi", "ClassName")
    lines = ["", "data_particles", "", "loop_", *(f"_rln{c} #{i + 1}" for i, c in enumerate(columns))]
    for p in particles:
        z, y, x = p.centre_zyx
        rot, tilt, psi = p.angles_zyz_deg
        lines.append(f"{x:.3f} {y:.3f} {z:.3f} {rot:.4f} {tilt:.4f} {psi:.4f} {p.name}")
    return "\n".join(lines) + "\n\n"

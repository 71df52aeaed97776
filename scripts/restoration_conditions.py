"""What `benchmark_restoration.py` fits on: conditions, variants of the method, their order and their data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import cryoaae
from cryoaae.fitting.settings import FROM_SPECTRUM
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.io.tilts import read_tilts
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.dataset import (
    FILAMENTS,
    MEMBRANES,
    build_specimen,
    image_specimen,
    load_species,
    procedural_species,
)

VOXEL_ANGSTROM = 10.0
FIRST_SEED, FIRST_TUNING_SEED = 700, 900


@dataclass(frozen=True)
class Condition:
    """A kind of data, and how long is fitted on it.

    Parameters
    ----------
    title : str
    edge : int
        Of the cube, in voxels.
    minutes : tuple of float
        Of a machine of `CORES` cores; the run is scored at each, and ends with the last.
    simulate : mapping
        Keywords of `cryoaae.simulate`.
    phantom : str
        Folder of $CRYOAAE_DATA/phantoms instead of a simulation.
    tilt_halves : bool
        Every second tilt in one half, the others in the other.
    single : bool
        The mean of the halves is fitted on alone.
    defocus_um : float
        Of the contrast transfer that restoring undoes, phases flipped; 0: none.
    """

    title: str
    edge: int = 128
    minutes: tuple[float, ...] = (4.0, 12.0)
    simulate: Mapping[str, Any] = field(default_factory=dict)
    phantom: str = ""
    tilt_halves: bool = False
    single: bool = False
    defocus_um: float = 0.0

    @property
    def transfer(self) -> ContrastTransfer | None:
        return ContrastTransfer((self.defocus_um,)) if self.defocus_um else None


CONDITIONS = {
    "A": Condition("Phantom A: ±60°, SNR 1.0", phantom="A"),
    "full": Condition("±60°, SNR 1.0"),
    "C": Condition("Phantom C: −54° to 60°, defocus 4 µm", phantom="C", defocus_um=4.0),
    "A-single": Condition("Phantom A, one volume (mean of the halves)", phantom="A", single=True),
    "snr0.3": Condition("SNR 0.3", simulate={"snr": 0.3}),
    "range50": Condition("±50°", simulate={"tilt_range_deg": (-50.0, 50.0)}),
    "asymmetric": Condition("−40° to 60°", simulate={"tilt_range_deg": (-40.0, 60.0)}),
    "defocus": Condition("Defocus 4 µm", simulate={"defocus_um": 4.0}, defocus_um=4.0),
    "tilt-halves": Condition("Halves by tilts", tilt_halves=True),
    "single": Condition("One volume (mean of the halves)", single=True),
    "small": Condition("Ablation: 96³, ±60°, SNR 1.0", edge=96, minutes=(4.0,)),
}


@dataclass(frozen=True)
class Variant:
    """The method with some settings changed."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    # Starts from the general restorer, which has seen structures of A and C.
    "default": Variant("Default"),
    "scratch": Variant("Started from the spectrum", FROM_SPECTRUM),
    # Linear start, whitened loss and averaged weights are of the restorer itself and stay.
    "unet": Variant(
        "Plain U-Net, 16 channels, from scratch on the tomogram's own grid",
        {
            **FROM_SPECTRUM, "working_bin": 1, "widths": (16, 32, 64), "refills": 0, "presence": False,
            "hidden_weight": 1.0,
        },
    ),
    "kept-all": Variant("All of the change kept", {"kept_change": 1.0}),
    "held": Variant("Where measured, half held to what it started from", {"measured_weight": 0.5}),
    "no-presence": Variant("Structure taken for certain", {"presence": False}),
    "no-refills": Variant("Own wedge never refilled", {"refills": 0}),
    "even-weights": Variant("What the second wedge hides weighs no more", {"hidden_weight": 1.0}),
    "own-grid": Variant("No binning", {"working_bin": 1}),
    "about-axis": Variant("Half of the blocks turned about the tilt axis alone", {"axis_share": 0.5}),
}
ABLATED = [name for name in VARIANTS if name != "unet"]


@dataclass(frozen=True)
class Run:
    """One fit of the plan."""

    condition: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.condition}/{self.variant}/{self.seed}"

    @property
    def pace(self) -> str:
        """Runs that take as long a step: same size, same kind of input, same variant."""
        condition = CONDITIONS[self.condition]
        return f"{condition.edge}^3, {'one volume' if condition.single else 'halves'}, {self.variant}"


def plan(first_seed: int = FIRST_SEED) -> list[Run]:
    """All runs, those that tell most first; phantoms, whose data are fixed, count seeds of the fit from 0."""
    runs = [Run("A", "default", 0), Run("full", "default", first_seed), Run("C", "default", 0)]
    runs += [Run("A", "scratch", 0), Run("full", "scratch", first_seed), Run("C", "scratch", 0)]
    runs += [
        Run(name, "default", 0 if condition.phantom else first_seed)
        for name, condition in CONDITIONS.items()
        if name not in ("A", "full", "C", "small")
    ]
    runs += [Run("full", "default", first_seed + i) for i in (1, 2)]
    runs += [Run("full", "unet", first_seed + i) for i in (0, 1, 2)]
    return runs + [Run("small", variant, first_seed + i) for i in (0, 1) for variant in ABLATED]


def named(runs: Sequence[Any], names: Sequence[str], parser: argparse.ArgumentParser) -> list[Any]:
    """Runs whose names begin with one of these, a whole part at a time; all without names; an error if none does."""
    if not names:
        return list(runs)
    found = [run for run in runs if any(f"{run.name}/".startswith(f"{name.rstrip('/')}/") for name in names)]
    if not found:
        parser.error(f"no run is called {' or '.join(names)}; --list names them")
    return found


@dataclass(frozen=True)
class Data:
    """Files of a run, and what they were made from.

    Parameters
    ----------
    volumes : dict
        "even" and "odd", or "single".
    truth, tilts, particles : path
    facts : dict
        For the row.
    transfer : ContrastTransfer, optional
        To be undone, in the nulls as well.
    """

    volumes: dict[str, Path]
    truth: Path
    tilts: Path
    particles: Path
    facts: dict[str, Any]
    transfer: ContrastTransfer | None = None

    @property
    def wedge(self) -> MissingWedge:
        return MissingWedge.from_tilts(read_tilts(self.tilts))

    def inputs(self) -> dict[str, Any]:
        """Keywords of `cryoaae.fit` and `cryoaae.restore`."""
        if "single" in self.volumes:
            return {"inputs": [self.volumes["single"]], "tilts": self.tilts}
        return {"inputs": [], **self.volumes, "tilts": self.tilts}


def prepared(run: Run, folder: Path, *, odd_lines: bool = False) -> Data:
    """Simulate or find the data of a run; what stands in `folder` already is not made again."""
    condition = CONDITIONS[run.condition]
    if condition.phantom:
        source = data_folder() / "phantoms" / condition.phantom
        particles, facts = source / "particles.csv", {"phantom": condition.phantom}
    else:
        maps = density_maps(odd_lines)
        source = folder / f"{_data_name(condition)}_{run.seed}"
        simulated(condition, source, run.seed, maps)
        particles, facts = source / "particles.star", {"maps": [path.name for path in maps]}
    volumes = {half: source / f"{half}.mrc" for half in ("even", "odd")}
    if condition.single:
        mean = folder / f"{run.condition}_{run.seed}_mean.mrc"
        volumes = {"single": _mean_of(volumes, mean)}
    return Data(volumes, source / "truth.mrc", source / "tilts.tlt", particles, facts, condition.transfer)


def _data_name(condition: Condition) -> str:
    """Folder of a simulation: that of the halves serves for their mean too."""
    same = (condition.edge, dict(condition.simulate), condition.tilt_halves, "")
    return next(
        name for name, c in CONDITIONS.items() if (c.edge, dict(c.simulate), c.tilt_halves, c.phantom) == same
    )  # fmt: skip


def data_folder() -> Path:
    """The folder that CRYOAAE_DATA names."""
    if "CRYOAAE_DATA" not in os.environ:
        raise SystemExit("set CRYOAAE_DATA to the folder that holds phantoms/ and maps_10A/")
    return Path(os.environ["CRYOAAE_DATA"])


def density_maps(odd_lines: bool) -> list[Path]:
    """Even lines of maps_10A, sorted by name, to report on; odd ones to tune on; none without the data."""
    if "CRYOAAE_DATA" not in os.environ:
        return []
    return sorted((data_folder() / "maps_10A").glob("*.mrc*"))[0 if odd_lines else 1 :: 2]


def simulated(condition: Condition, folder: Path, seed: int, maps: list[Path]) -> None:
    """Simulate a condition unless it stands already."""
    done = folder / "prepared.txt"  # written last
    if done.exists():
        return
    shape = (condition.edge,) * 3
    cryoaae.simulate(
        folder, maps=maps, shape_zyx=shape, voxel_size_angstrom=VOXEL_ANGSTROM, seed=seed, **condition.simulate
    )
    if condition.tilt_halves:
        halves_by_tilts(folder, shape, seed, maps)
    write_text(done, f"{condition.title}\n")


def halves_by_tilts(
    folder: Path, shape_zyx: tuple[int, int, int], seed: int, maps: list[Path], count: int | None = None
) -> None:
    """Replace the halves of a simulation: each is reconstructed from every second tilt of the same specimen."""
    # The streams of `cryoaae.simulate`: species, specimen, noise.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    tilts = read_tilts(folder / "tilts.tlt")
    species = load_species(maps, (), VOXEL_ANGSTROM) or procedural_species(streams[0], VOXEL_ANGSTROM)
    objects = {"membranes": MEMBRANES, "filaments": FILAMENTS}
    built = build_specimen(streams[1], species, shape_zyx, VOXEL_ANGSTROM, tilts, count, objects)
    for half, own in {"even": tilts[::2], "odd": tilts[1::2]}.items():
        volume = image_specimen(built, streams[2], own, snr=1.0).volumes["even"]
        write_volume(folder / f"{half}.mrc", volume, voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)


def _mean_of(halves: Mapping[str, Path], target: Path) -> Path:
    if not target.exists():
        volumes = [cryoaae.open_volume(path) for path in halves.values()]
        mean = np.mean([volume.numpy() for volume in volumes], axis=0, dtype=np.float32)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_volume(target, mean, voxel_size_angstrom=volumes[0].voxel_size_angstrom)
    return target

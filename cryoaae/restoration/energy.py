"""Map, from file to file, where a restoration looks unlike anything that was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import check_output
from cryoaae.io.mrc import create_volume, open_volume
from cryoaae.io.project import Tomogram, open_tomogram
from cryoaae.matching.code_distance import CodeDistance
from cryoaae.matching.frozen import load_energy
from cryoaae.matching.reference import ReferenceReferee
from cryoaae.matching.structure import Clouds, Microscope, require_halves
from cryoaae.models.restorer import Restorer
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import IN_MEMORY_BYTES, prepare_source, source_bytes
from cryoaae.restoration.energy_descent import Place, descended
from cryoaae.restoration.energy_map import EnergyMap, energy_map
from cryoaae.restoration.engine import FACE_PAD
from cryoaae.restoration.fitted_on import check_voxel_size, resolve_with_model
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Frame, from_working, to_working
from cryoaae.restoration.working import normalisation_of
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, set_threads
from cryoaae.volume import Volume


@dataclass(frozen=True)
class EnergyOptions:
    """How to map energies.

    Parameters
    ----------
    turns : int
        Turns at each place, each with noise of its own; the map's error falls as one over their root.
    step : int or None
        Largest distance of places in working voxels; None: a third of a patch.
    seed : int
    device : str
        ``auto``, ``cpu`` or ``cuda[:i]``.
    allow_scale : bool
        Accept a voxel size that differs from the one the model was fitted on.
    by : {"prior", "code", "reference"}, optional
        What says how unusual a patch is: the prior on structure of the fit, the distance of its codes from those
        of real patches, or its prior of its own. Default: the last to descend, else the first, where there is one.
    descend : path, optional
        Where to write the restoration moved to a mode of data, reference and prior of its own (`descended`).
    steps : int
        Of the descent, at most.
    weight : float
        Of what the prior of its own adds to data and reference in the descent; 1: every voxel counts once.
    """

    turns: int = 8
    step: int | None = None
    seed: int = 0
    device: str = "auto"
    allow_scale: bool = False
    by: str | None = None
    descend: Path | None = None
    steps: int = 30
    weight: float = 1.0

    @property
    def reader(self) -> str | None:
        """What is asked for an energy, see `by`."""
        return "reference" if self.by is None and self.descend is not None else self.by

    def __post_init__(self) -> None:
        if self.descend is not None and self.reader != "reference":
            raise InputError("--descend", f"is down a prior of its own, not by {self.by}", "leave --by out")
        for name, value in (("--turns", self.turns), ("--step", self.step), ("--steps", self.steps)):
            if value is not None and value < 1:
                raise InputError(name, f"{value} is too few", "give 1 or more")
        if not 0 <= self.weight < float("inf"):
            raise InputError("--weight", f"{self.weight} is no weight", "give 0 or more")


@dataclass(frozen=True)
class _Work:
    """All that a map is made from, checked."""

    tomogram: Tomogram
    restored: Volume
    restorer: Restorer
    matcher: Any
    spec: dict[str, Any]


def energy(
    restored: Path | str,
    output: Path | str,
    *,
    model: Path | str,
    even: Sequence[Path | str] | Path | str = (),
    odd: Sequence[Path | str] | Path | str = (),
    tilts: Sequence[Path | str] | Path | str | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: str | float = "y",
    flip_tilts: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    options: EnergyOptions | None = None,
    opening: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Map where a restoration looks unlike anything measured; keep the header of the restoration.

    Parameters
    ----------
    restored : path
        The restoration (MRC), in the units of the halves.
    output : path
        The map (MRC): energy less the mean energy of real patches. Of an adversarial prior in nats, minus the log
        density ratio; of transport in squared units of whitened features, the first variation of the divergence; of
        codes their squared distance from those of real patches, by the variance along each axis; of a prior of its own
        in nats, as of an adversarial one.
    model : path
        Run folder of a fit with a prior on structure, or of one with codes.
    even, odd : paths
        The halves that it was made from: the noise is theirs.
    tilts, tilt_range, tilt_axis, flip_tilts
        As on the command line; default: as the model knows them.
    threads : int, optional
    overwrite : bool
    progress : Progress, optional
        Told of the progress, asked whether to stop.
    options : EnergyOptions, optional
    opening : dict, optional
        Further keywords of `io.project.open_tomogram`.

    Returns
    -------
    dict
        "path", "prior" (its kind, or "code"), "mean", "highest", "lowest" of the map, "real_sd" of a single real
        patch, "unusual": share of patches above all but 1 % of real ones; after a descent also "descent"
        (`energy_descent.descended`).

    Raises
    ------
    InputError
        If the model was fitted without a prior, a file cannot be read, or shapes or voxel sizes disagree.
    InterruptedRunError
        When `progress` says so; nothing is written.
    """
    chosen, told = options or EnergyOptions(), progress or NullProgress()
    set_threads(threads)
    geometry = {
        "even": even, "odd": odd, "tilts": tilts, "tilt_range": tilt_range, "tilt_axis": tilt_axis,
        "flip_tilts": flip_tilts,
    }  # fmt: skip
    output = Path(output)
    work = _checked(Path(restored), output, Path(model), geometry, chosen, opening or {}, overwrite=overwrite)
    volumes, shape = list(work.tomogram.volumes), work.restored.shape
    frame = Frame.plan(shape, working_bin=work.restorer.spec.working_bin, multiple=1, pad=FACE_PAD)

    def check() -> None:
        if told.cancelled():
            raise InterruptedRunError("mapping energies was stopped; nothing was written")

    def advance(share: float) -> None:
        check()
        told.advance(share)

    with tempfile.TemporaryDirectory(prefix=".energy_", dir=output.resolve().parent) as folder:
        scratch, normalisation = Scratch(Path(folder)), normalisation_of(volumes, work.restorer)
        clouds = _clouds(work, normalisation, Path(folder), chosen)
        microscope = Microscope(
            [work.tomogram.wedge], patch=clouds.patch, block=clouds.block, device=clouds.device
        )
        core = tuple(
            slice(axis.before // frame.working_bin, axis.before // frame.working_bin + size)
            for axis, size in zip(frame.axes, clouds.sources[0].working_shape_zyx, strict=True)
        )
        whole = to_working(work.restored, frame, normalisation, scratch=scratch, check=check)
        told.start("measuring energies", 1.0, "")
        found = energy_map(
            torch.from_numpy(whole[core].copy()), clouds, microscope, work.matcher.to(clouds.device).energies,
            turns=chosen.turns, step=_step(chosen, work.spec), advance=advance,
        )  # fmt: skip
        told.finish()
        label = f"energy, {_reader(work.spec)}"
        with create_volume(output, shape, like=work.restored, label=label, overwrite=overwrite) as out:
            grid = found.on_grid(core, frame.working_zyx)
            from_working(grid, out, frame, Normalisation(0.0, 1.0), scratch=scratch, check=check)
        result = _summary(found, output, work.spec)
        if chosen.descend is not None:
            halves = [to_working(volume, frame, normalisation, scratch=scratch, check=check) for volume in volumes]
            place = Place(frame, core, normalisation, scratch, check)
            told.start("descending", 1.0, "")
            result["descent"] = descended(
                work.tomogram, work.restored, whole, halves, work.matcher, clouds, microscope, place, chosen.descend,
                turns=chosen.turns, steps=chosen.steps, weight=chosen.weight, advance=advance, overwrite=overwrite,
            )  # fmt: skip
            told.finish()
    return result


def plan_energy(
    restored: Path | str,
    output: Path | str,
    *,
    model: Path | str,
    overwrite: bool = False,
    options: EnergyOptions | None = None,
    opening: dict[str, Any] | None = None,
    **geometry: Any,
) -> list[str]:
    """Check everything `energy` would, and say what it would do; writes nothing.

    Parameters
    ----------
    restored, output, model, overwrite, options, opening
        As for `energy`.
    **geometry
        ``even``, ``odd``, ``tilts``, ``tilt_range``, ``tilt_axis``, ``flip_tilts`` of `energy`.

    Raises
    ------
    InputError
    """
    chosen = options or EnergyOptions()
    work = _checked(Path(restored), Path(output), Path(model), geometry, chosen, opening or {}, overwrite=overwrite)
    step = _step(chosen, work.spec)
    lines = [
        f"would map the energy of {restored} by {_reader(work.spec)} of {model}: {chosen.turns} turns at "
        f"places {step} working voxels apart -> {output}"
    ]
    if chosen.descend is not None:
        lines.append(f"would move it to a mode, in {chosen.steps} steps at most -> {chosen.descend}")
    return lines


def _reader(spec: dict[str, Any]) -> str:
    words = {CodeDistance.kind: "the codes", ReferenceReferee.kind: "the prior of its own"}
    return words.get(spec["kind"], f"the {spec['kind']} prior")


def _step(options: EnergyOptions, spec: dict[str, Any]) -> int:
    return options.step or max(1, int(spec["patch"]) // 3)


def _checked(
    restored: Path,
    output: Path,
    run: Path,
    geometry: dict[str, Any],
    options: EnergyOptions,
    opening: dict[str, Any],
    *,
    overwrite: bool,
) -> _Work:
    """Open everything and refuse what cannot be mapped, before any work."""
    matcher, spec = load_energy(run, options.reader)
    restorer = Restorer.load(run)
    if spec["kind"] == CodeDistance.kind:
        matcher.look_through(restorer.to(choose_device(options.device)).codes)
    items = resolve_with_model((), restorer, geometry, opening)
    if len(items) > 1:
        raise InputError(restored, f"one restoration for {len(items)} tomograms", "give the halves of one")
    taken = [restored, *items[0].paths]
    check_output(output, taken, overwrite=overwrite)
    if options.descend is not None:
        check_output(options.descend, [output, *taken], overwrite=overwrite)
    volume = open_volume(restored, **opening)
    tomogram = open_tomogram(items[0], **opening)
    require_halves(tomogram.name, tomogram.single is None)
    like = tomogram.volumes[0]
    check_voxel_size(like.voxel_size_angstrom, restorer, tomogram.name, allow_scale=options.allow_scale)
    if volume.shape != like.shape:
        problem = f"shape {volume.shape} (z, y, x), but the halves have {like.shape}"
        raise InputError(restored, problem, "give the restoration of these halves")
    return _Work(tomogram, volume, restorer, matcher, spec)


def _clouds(work: _Work, normalisation: Normalisation, folder: Path, options: EnergyOptions) -> Clouds:
    """The tomogram's halves as the prior draws from them."""
    volumes, working_bin = list(work.tomogram.volumes), work.restorer.spec.working_bin
    large = source_bytes(volumes[0].shape, len(volumes), working_bin) > IN_MEMORY_BYTES
    source = prepare_source(
        work.tomogram.name, volumes, work.tomogram.wedge, normalisation, working_bin=working_bin,
        held_out=torch.zeros(0, 2, 3), noise=torch.ones(1), scratch=folder if large else None,
    )  # fmt: skip
    return Clouds(
        [source], patch=int(work.spec["patch"]), block=int(work.spec["block"]),
        generator=torch.Generator().manual_seed(options.seed), device=choose_device(options.device),
    )  # fmt: skip


def _summary(found: EnergyMap, output: Path, spec: dict[str, Any]) -> dict[str, Any]:
    values = found.values
    return {
        "path": output, "prior": spec["kind"], "mean": float(values.mean()), "lowest": float(values.min()),
        "highest": float(values.max()), "real_sd": found.real_sd, "unusual": found.unusual,
    }  # fmt: skip

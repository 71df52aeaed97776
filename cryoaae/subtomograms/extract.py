"""Extraction: a particle list and what it was picked in become one store of subtomograms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import check_output
from cryoaae.io.particle_files import read_particles, write_particles
from cryoaae.io.particles import Particles
from cryoaae.io.project import TomogramInput, open_tomogram, resolve_inputs
from cryoaae.io.star import read_star
from cryoaae.io.store import PROVENANCE, StoreWriter, SubtomogramStore, other_facts, partial_path
from cryoaae.io.tilt_series_star import TiltSeries, has_tilt_series, read_tilt_series, tilt_series_file
from cryoaae.io.tilts import check_tilt_range, parse_tilt_axis, read_tilts
from cryoaae.io.tomogram_files import PathLike, listed
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.provenance import file_facts, versions
from cryoaae.subtomograms.from_files import file_source
from cryoaae.subtomograms.from_stacks import NOISE_TO_SIGNAL, stack_source
from cryoaae.subtomograms.from_tomograms import BORDERS, tomogram_source
from cryoaae.subtomograms.picking import pick_particles
from cryoaae.subtomograms.source import Source

DENSITIES = ("bright", "dark")
MINIMUM_BOX = 8
SCORE = "rlnAutopickFigureOfMerit"


@dataclass(frozen=True)
class PickOptions:
    """How particles are proposed in a restored tomogram; see `subtomograms.picking`."""

    diameter_angstrom: float
    distance_angstrom: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Geometry:
    """Tilts as the user states them; where nothing is stated, a tomogram STAR file must say."""

    tilts: Iterable[PathLike] | PathLike | None = None
    tilt_range: tuple[float, float] | None = None
    tilt_axis: float | str = "y"
    flip_tilts: bool = False

    @property
    def stated(self) -> bool:
        return self.tilt_range is not None or bool(self.tilts)


@dataclass(frozen=True)
class ExtractOptions:
    """How particles are cut.

    Parameters
    ----------
    box : int
        Edge in voxels.
    border : "skip", "pad" or "refuse"
        What becomes of boxes that reach out of their tomogram.
    density : "bright" or "dark"
        Of particles in the input; dark ones change sign, so that a store is always bright.
    coordinates : str or float
        As `io.particle_files.read_particles`.
    voxel_size_angstrom : float, optional
        Overrules the files'.
    noise_to_signal : float
        Wiener term of the reconstruction from tilt images.
    """

    box: int
    border: str = "skip"
    density: str = "bright"
    coordinates: str | float = "auto"
    voxel_size_angstrom: float | None = None
    noise_to_signal: float = NOISE_TO_SIGNAL

    def __post_init__(self) -> None:
        rules = [
            ("--box", self.box >= MINIMUM_BOX, self.box, f"use {MINIMUM_BOX} voxels or more"),
            ("--border", self.border in BORDERS, self.border, f"give {', '.join(BORDERS)}"),
            ("--density", self.density in DENSITIES, self.density, f"give {' or '.join(DENSITIES)}"),
            ("noise_to_signal", self.noise_to_signal > 0, self.noise_to_signal, "give a number above 0"),
        ]
        for option, good, value, remedy in rules:
            if not good:
                raise InputError(option, f"'{value}' cannot be used", remedy)


@dataclass(frozen=True)
class ExtractResult:
    """A store that was made, or found made from the same before.

    `counts` says how many particles of the list were left out (or padded), by reason.
    """

    path: Path
    particles: int
    box: int
    voxel_size_angstrom: float
    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    picks: Path | None = None
    skipped: bool = False


def extract(
    inputs: Iterable[PathLike] | PathLike,
    output: PathLike,
    *,
    box: int,
    particles: PathLike | None = None,
    pick: PickOptions | None = None,
    tilts: Iterable[PathLike] | PathLike | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: float | str = "y",
    flip_tilts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> ExtractResult:
    """Extract subtomograms into a store.

    Parameters
    ----------
    inputs : paths
        Tomograms (MRC files, folders, a tomogram STAR), or the tomogram STAR of 2-D stacks; none where the
        particle list names 3-D subtomogram files, or is an optimisation set.
    output : path
        The store, STORE.h5.
    box : int
        Edge in voxels.
    particles : path, optional
        STAR (RELION 3 to 5, Warp), Dynamo table or CSV; or else
    pick : PickOptions, optional
        proposals in the one, restored, tomogram given; they are also written as OUTPUT_picks.star.
    tilts, tilt_range, tilt_axis, flip_tilts
        As for `fit`; not needed where a tomogram STAR states the projections.
    resume : bool
        Go on with an interrupted extraction; a finished store of the same inputs is kept.
    overwrite : bool
        Replace an existing or interrupted store.
    dry_run : bool
        Check everything and count; write nothing.
    progress : Progress, optional
    **options
        Of `ExtractOptions`.

    Raises
    ------
    InputError
        For inputs that do not fit each other.
    InterruptedRunError
        When stopped; what was done is kept for `resume`.
    """
    output, given = Path(output), listed(inputs)
    chosen = ExtractOptions(box=box, **options)
    geometry = Geometry(tilts, tilt_range, tilt_axis, flip_tilts)
    if (particles is None) == (pick is None):
        raise InputError("--particles", "or --pick: one of them is needed", "give a particle list, or --pick")
    if pick is not None and chosen.coordinates != "auto":
        raise InputError("--coordinates", "is of --particles; proposals are in voxels", "leave it out")
    check_store_output(output, [*given, *([particles] if particles else [])], resume=resume, overwrite=overwrite)
    picks: Path | None = None
    if pick is not None:
        read, scores = propose(given, pick, geometry, chosen)
        if not dry_run:
            particles = picks = output.with_name(f"{output.stem}_picks.star")
            write_particles(picks, read, columns={SCORE: [f"{s:.3f}" for s in scores]}, overwrite=True)
    if particles is not None:
        read = read_particles(particles, coordinates=chosen.coordinates)
    source = find_source(given, read, Path(particles or ""), geometry, chosen)
    result = ExtractResult(
        output, len(source.facts), box, source.voxel_size_angstrom, source.kind, source.counts, picks
    )
    if dry_run:
        return result
    about = _about(source, read, chosen)
    if output.exists() and not overwrite and not partial_path(output).exists():
        if other_facts(SubtomogramStore(output).about, about):
            raise InputError(output, "was made from other inputs or settings", "give --overwrite or another name")
        return replace(result, skipped=True)
    _write(output, source, about, read.source, chosen, resume, progress or NullProgress())
    return result


def check_store_output(output: Path, inputs: list[PathLike], *, resume: bool, overwrite: bool) -> None:
    """Refuse a store that could not, or should not, be written; call before any work."""
    check_output(output, [i for i in inputs if Path(i).is_file()], overwrite=overwrite or resume)
    if partial_path(output).exists() and not (resume or overwrite):
        raise InputError(
            partial_path(output), "an extraction was interrupted", "--resume goes on, --overwrite starts again"
        )


def propose(
    inputs: list[PathLike], pick: PickOptions, geometry: Geometry, options: ExtractOptions
) -> tuple[Particles, Any]:
    """Particles proposed in the one tomogram given, and their scores."""
    items = _tomogram_items(inputs, geometry)
    if len(items) != 1 or items[0].single is None:
        raise InputError("--pick", "works on one restored tomogram", "give a single volume")
    volume = open_tomogram(items[0], voxel_size_angstrom=options.voxel_size_angstrom).volumes[0]
    return pick_particles(
        volume, pick.diameter_angstrom, dark=options.density == "dark", distance_angstrom=pick.distance_angstrom,
        border=options.box // 2, count=pick.count, name=items[0].name,
    )  # fmt: skip


def find_source(
    inputs: list[PathLike], particles: Particles, particle_file: Path, geometry: Geometry, options: ExtractOptions
) -> Source:
    """Tell from the inputs and the list what the particles are cut from; nothing is cut yet.

    Raises
    ------
    InputError
        When something is missing for it.
    """
    stars = [Path(entry) for entry in inputs if Path(entry).suffix.lower() == ".star"]
    if particles.frames_2d and len(stars) == len(inputs):
        if not stars and particle_file != particles.source:
            stars = [particle_file]  # an optimisation set names the tomograms, too
        if len(stars) != 1:
            raise InputError(
                particles.source, "its images are 2-D stacks", "give the tomogram STAR with their projections, or "
                "the tomograms to cut from",
            )  # fmt: skip
        file = tilt_series_file(stars[0])
        return stack_source(
            particles, read_tilt_series(file), (file,), options.box, noise_to_signal=options.noise_to_signal
        )
    if inputs:
        return tomogram_source(
            _tomogram_items(inputs, geometry), particles, options.box, border=options.border,
            voxel_size_angstrom=options.voxel_size_angstrom,
        )  # fmt: skip
    if not any(particles.images):
        raise InputError("inputs", "no tomogram given, and the list names no images", "give the tomograms")
    return file_source(particles, options.box, _one_wedge(geometry), voxel_size_angstrom=options.voxel_size_angstrom)


def _tomogram_items(inputs: list[PathLike], geometry: Geometry) -> list[TomogramInput]:
    """Tomograms with their wedges: as stated, or from the projections in a tomogram STAR."""
    if geometry.stated:
        return resolve_inputs(inputs, **asdict(geometry))
    series: dict[str, TiltSeries] = {}
    for path in (Path(entry) for entry in inputs if Path(entry).suffix.lower() == ".star"):
        if has_tilt_series(read_star(path)):
            series |= read_tilt_series(path)
    if not series:
        return resolve_inputs(inputs)  # which asks for the tilts
    items = resolve_inputs(inputs, default_wedge=MissingWedge())
    unknown = [item.name for item in items if item.name not in series]
    if unknown:
        raise InputError("--tilts", f"the tilts of {unknown[0]} are not known", "give --tilts FILE or --tilt-range")
    return [replace(item, wedge=series[item.name].wedge(np.arange(len(series[item.name].scale)))) for item in items]


def _one_wedge(geometry: Geometry) -> MissingWedge:
    """The one wedge of subtomogram files."""
    axis = parse_tilt_axis(geometry.tilt_axis)
    if geometry.tilt_range is not None and not geometry.tilts:
        check_tilt_range(*geometry.tilt_range)
        return MissingWedge(geometry.tilt_range, None, axis, geometry.flip_tilts)
    files = listed(geometry.tilts or ())
    if len(files) != 1 or geometry.tilt_range is not None:
        raise InputError("--tilts", "the wedge of the subtomograms is not known", "give one --tilts or --tilt-range")
    return MissingWedge.from_tilts(read_tilts(files[0]), tilt_axis_deg=axis, flipped=geometry.flip_tilts)


def _about(source: Source, particles: Particles, options: ExtractOptions) -> dict[str, Any]:
    """What a store says of itself; but for the provenance, two of the same are the same store."""
    facts = [file_facts(path) for path in (particles.source, *source.files)]
    return {
        **asdict(options),
        "voxel_size_angstrom": source.voxel_size_angstrom,
        "density": "bright",
        "density_of_input": options.density,
        "kind": source.kind,
        "counts": source.counts,
        "inputs": [{key: fact[key] for key in ("bytes", "sha256")} for fact in facts],
        PROVENANCE: {"paths": [fact["path"] for fact in facts], "versions": versions()},
    }


def _write(
    output: Path,
    source: Source,
    about: dict[str, Any],
    particle_file: Path,
    options: ExtractOptions,
    resume: bool,
    progress: Progress,
) -> None:
    sign = np.float32(-1 if options.density == "dark" else 1)
    content = (particle_file.name, particle_file.read_bytes())
    with StoreWriter(output, source.facts, about, content, resume=resume) as store:
        missing = store.missing()
        progress.start("extracting", len(missing), "particles")
        try:
            for index in missing:
                progress.check()
                store.write(index, sign * source.cut(index))
                progress.advance(1)
        except InterruptedRunError as error:
            done = len(source.facts) - len(store.missing())
            said = f"stopped after {done} of {len(source.facts)} particles; go on with --resume"
            raise InterruptedRunError(said, error.exit_code - 128) from error
        finally:
            progress.finish()
        store.finish()

"""Clusters the particles of stores, by alignment, by the volumetric autoencoder or by both, and writes what was found.

Nothing is told of shapes or poses. By alignment, classes and poses are found at once (`multi_reference`). Without it
the autoencoder's class is made blind to the pose. By both, the autoencoder is told what the alignment found. A fitted
model only embeds and clusters. What is written is listed in `docs/formats.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from cryoaae.errors import InputError
from cryoaae.io.store import SubtomogramStore
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads
from cryoaae.subtomograms.align_stores import AlignedStores, align_stores, expected_cost, seen_again
from cryoaae.subtomograms.average import class_averages
from cryoaae.subtomograms.cluster_files import write_clustering
from cryoaae.subtomograms.clustering import aligned_clustering, clustered
from cryoaae.subtomograms.embed import embed_particles
from cryoaae.subtomograms.fit import VolumetricFit
from cryoaae.subtomograms.labels import Labels, certain_labels, read_labels
from cryoaae.subtomograms.model_files import FittedModel, check_apart
from cryoaae.subtomograms.reference_model import ReferenceModel, assign_stores, holds_only_references
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Particles, matching_standard, measure_standard, open_stores

PathLike = str | Path
ALIGNMENT, AUTOENCODER, BOTH = WAYS = ("alignment", "autoencoder", "both")
# Edge of the autoencoder's working grid unless another is asked for.
WORKING_BOX = 24


@dataclass(frozen=True)
class Request:
    """What `cluster` was asked for, checked."""

    stores: list[PathLike]
    folder: Path
    by: str
    clusters: int | None
    settings: ClusterSettings | None
    labels: tuple[PathLike, ...]
    model: Path | None

    def config(self) -> dict[str, Any]:
        """What ``config.yaml`` of the run holds."""
        asked = {
            "stores": [str(path) for path in self.stores], "labelled": [str(path) for path in self.labels],
            "by": self.by, "clusters": self.clusters, "model": self.model and str(self.model),
        }  # fmt: skip
        return asked if self.settings is None else {**self.settings.model_dump(mode="json"), **asked}

    def files(self) -> list[Path]:
        """Files that decide the result."""
        return [Path(p) for p in (*self.stores, *self.labels)]


@dataclass(frozen=True)
class _Work:
    """What a run works with."""

    stores: list[SubtomogramStore]
    device: torch.device
    progress: Progress
    resume: bool


def cluster(
    stores: PathLike | Sequence[PathLike],
    run: PathLike,
    *,
    by: str | None = None,
    clusters: int | None = None,
    labels: PathLike | Sequence[PathLike] = (),
    model: PathLike | None = None,
    settings: ClusterSettings | None = None,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Cluster subtomograms without templates and poses, and write a run folder.

    Parameters
    ----------
    stores : path or sequence of path
        Stores of `extract`, of one box and voxel size.
    run : path
        Folder to make.
    by : "alignment", "autoencoder" or "both", optional
        None: by alignment, or by the autoencoder of a model that has one.
    clusters : int, optional
        How many; None: found. By alignment, as many as particles tell apart that were averaged into neither; by the
        autoencoder, the most on which different poses of a particle agree.
    labels : path or sequence of path
        Particle lists with the classes of some particles, one for each store: semi-supervised.
    model : path, optional
        A run folder, and nothing is fitted: its autoencoder embeds the particles; of an alignment alone, or with `by`
        "alignment", they are assigned to its references.
    settings : ClusterSettings, optional
        Of alignment and fit.
    resume : bool
        Go on with an interrupted run.
    dry_run : bool
        Check everything and write nothing.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    InputError, FittingDivergedError, InterruptedRunError, ResourceError
    """
    progress = progress or NullProgress()
    set_threads(threads)
    keep_freed_memory()
    chosen = choose_device(device)
    opened = open_stores(_paths(stores))
    known = read_labels(_paths(labels), opened) if _paths(labels) else Labels.none(sum(map(len, opened)))
    way = _way(by, model)
    request = Request(
        _paths(stores), Path(run), way, clusters, _settings(settings, way, clusters, known, opened[0].box, model),
        tuple(_paths(labels)), None if model is None else Path(model),
    )  # fmt: skip
    _check(request, sum(map(len, opened)), known)
    work = _Work(opened, chosen, progress, resume)
    # What may be refused is refused before anything is written.
    references = _references(request, work) if way == ALIGNMENT else None
    prepared = None if way in (ALIGNMENT, BOTH) else _prepared(request, work, known)
    checked: dict[str, Any] = {"inputs": request.files(), "overwrite": overwrite, "resume": resume}
    if dry_run:
        RunFolder.check(request.folder, request.config(), **checked)
        return request.folder
    with RunFolder.create(request.folder, "cluster", request.config(), **checked):
        if way == ALIGNMENT:
            _by_alignment(request, work, known, references)
        elif way == BOTH:
            _by_both(request, work, known)
        else:
            assert prepared is not None
            _by_autoencoder(request, work, *prepared)
    return request.folder


def plan(
    stores: PathLike | Sequence[PathLike],
    *,
    by: str | None = None,
    clusters: int | None = None,
    model: PathLike | None = None,
    settings: ClusterSettings | None = None,
) -> dict[str, Any]:
    """What `cluster` would do and take: `by`, `particles`, `minutes`, and for an alignment `memory_gb`.

    Raises
    ------
    InputError
    """
    opened, settings = open_stores(_paths(stores)), settings or ClusterSettings()
    way = _way(by, model)
    found: dict[str, Any] = {"by": way, "particles": sum(map(len, opened))}
    if model is not None:
        return found
    minutes = 0.0 if way == ALIGNMENT else settings.minutes if settings.steps is None else None
    if way != AUTOENCODER:
        cost = expected_cost(opened, replace(settings.alignment, clusters=clusters))
        found["memory_gb"] = round(cost.memory_gb, 1)
        minutes = None if minutes is None else minutes + cost.minutes
    return found if minutes is None else {**found, "minutes": max(round(minutes, 1), 0.1)}


def _paths(given: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [given] if isinstance(given, str | Path) else list(given)


def _way(by: str | None, model: PathLike | None) -> str:
    """Alignment, autoencoder or both."""
    if by is None:
        return ALIGNMENT if model is None or holds_only_references(model) else AUTOENCODER
    if by not in WAYS:
        raise InputError("--by", f"'{by}' is not known", f"give {', '.join(WAYS)}")
    if model is not None and by == BOTH:
        raise InputError("--by", "both is for fitting, and --model is fitted", "give one way, or leave it out")
    return by


def _settings(
    settings: ClusterSettings | None, way: str, clusters: int | None, known: Labels, box: int, model: PathLike | None
) -> ClusterSettings | None:
    """Settings with what the data decide; None where nothing is fitted."""
    if model is not None:
        return None
    settings = settings or ClusterSettings()
    classes = max(settings.classes, clusters or 0)
    if known.names:  # every label has a class, and no more are sought than asked for
        classes = max(len(known.names), clusters or 0, 2)
    wanted = max(len(known.names), clusters or 0) if known.names else clusters
    aligned = replace(settings.alignment, clusters=wanted, working_box=settings.alignment.grid(box))
    working_box = min(settings.working_box or WORKING_BOX, box - box % 2)
    changed = {"classes": classes, "working_box": working_box, "alignment": asdict(aligned)}
    if way == BOTH:
        changed["frame"] = "reference"
    try:
        return ClusterSettings(**{**settings.model_dump(), **changed})
    except ValidationError as error:  # right by themselves, they need not fit the boxes of the stores
        raise InputError("settings", str(error.errors()[0]["msg"]), f"the boxes have {box} voxels") from error


def _check(request: Request, count: int, known: Labels) -> None:
    """Refuse what could only fail later.

    Raises
    ------
    InputError
    """
    if request.clusters is not None and not 2 <= request.clusters < count:
        raise InputError("--clusters", f"{request.clusters} clusters of {count} particles", "give 2 or more, or auto")
    if request.by in (ALIGNMENT, BOTH) and request.settings is not None:
        wanted = request.settings.alignment.first_references(count)
        if wanted > count:
            raise InputError("--clusters", f"{count} particles for {wanted} references at first", "ask for fewer")
    if count < 4:
        raise InputError(request.stores[0], f"{count} particles are too few to cluster", "extract more")
    if known.names and request.clusters is not None and request.clusters < len(known.names):
        remedy = "labelled classes are not joined: give as many, or auto"
        raise InputError("--clusters", f"{request.clusters} clusters of {len(known.names)} labels", remedy)
    if request.model is not None:
        check_apart(request.folder, request.model)
        if request.labels:
            raise InputError("--labels", "are of no use to a model that is fitted", "leave out --model or --labels")
        if request.by == ALIGNMENT and request.clusters is not None:
            raise InputError("--clusters", "is for fitting, and --model has its classes", "leave it out")
    names = [Path(store).stem for store in request.stores]
    if len(set(names)) < len(names):
        raise InputError(request.stores[0], "two stores of one name", "rename one: outputs are named after them")


def _prepared(
    request: Request, work: _Work, known: Labels
) -> tuple[VolumetricFit | None, FittedModel | None, Particles]:
    """A fit ready to run, or a fitted model, and the particles as it sees them."""
    if request.settings is None:
        assert request.model is not None
        fitted = FittedModel.load(request.model, work.device)
        return None, fitted, Particles(work.stores, matching_standard(work.stores, fitted.standard))
    assert request.settings.working_box is not None
    particles = Particles(work.stores, measure_standard(work.stores, request.settings.working_box))
    if request.settings.frame == "reference" and not particles.posed:
        raise InputError("frame reference", "the stores have no poses", "use frame=particle")
    return VolumetricFit(particles, request.settings, known, work.device), None, particles


def _references(request: Request, work: _Work) -> ReferenceModel | None:
    """References that particles are assigned to; None where they are aligned anew."""
    if request.model is None:
        return None
    references = ReferenceModel.load(request.model)
    references.check(work.stores)
    return references


# -- the three ways -----------------------------------------------------------------------------------


def _by_autoencoder(
    request: Request, work: _Work, fitting: VolumetricFit | None, fitted: FittedModel | None, particles: Particles
) -> None:
    if fitting is not None:
        fitted = fitting.run(request.folder, work.progress, resume=work.resume)
    assert fitted is not None
    fitted.save(request.folder)
    embedding = embed_particles(fitted, particles, device=work.device, progress=work.progress)
    clustering = clustered(embedding, request.clusters, fitted.class_names)
    write_clustering(request.folder, particles, clustering, embedding.columns, work.progress, fitted)


def _aligned(request: Request, work: _Work, known: Labels) -> AlignedStores:
    """Align, and save the references as a model."""
    assert request.settings is not None
    settings = request.settings.alignment
    aligned = align_stores(
        work.stores, settings, request.folder, seed=request.settings.seed, progress=work.progress,
        resume=work.resume, checkpoint_every_seconds=request.settings.checkpoint_every_seconds, labels=known,
        device=work.device,
    )  # fmt: skip
    ReferenceModel.of(aligned, settings, work.stores).save(request.folder)
    return aligned


def _by_alignment(request: Request, work: _Work, known: Labels, references: ReferenceModel | None) -> None:
    if references is None:
        aligned = _aligned(request, work, known)
    else:
        aligned = assign_stores(work.stores, references, progress=work.progress, device=work.device)
        ReferenceModel.of(aligned, references.settings, work.stores).save(request.folder)
    particles = aligned.particles(work.stores)
    clustering = aligned_clustering(aligned, aligned.features, seen_again(aligned, particles, work.progress))
    write_clustering(request.folder, particles, clustering, aligned.columns, work.progress)


def _by_both(request: Request, work: _Work, known: Labels) -> None:
    """The autoencoder learns the classes that were found as labels, and makes particles in the frames found.

    Its decoder begins at the averages of the classes, so its style holds neither pose nor class. The clusters stay
    those of the alignment.
    """
    aligned = _aligned(request, work, known)
    assert request.settings is not None
    assert request.settings.working_box is not None
    standard = measure_standard(work.stores, request.settings.working_box)
    particles = Particles(work.stores, standard, aligned.poses)
    found = certain_labels(aligned.alignment.probabilities, aligned.class_names)
    settings = request.settings.model_copy(update={"classes": max(2, len(found.names))})
    work.progress.start("averaging", None, "")
    averages = class_averages(particles, found.classes, settings.classes)
    fitted = VolumetricFit(particles, settings, found, work.device, averages).run(
        request.folder, work.progress, resume=work.resume
    )
    fitted.save(request.folder)
    embedding = embed_particles(fitted, particles, device=work.device, progress=work.progress)
    views = seen_again(aligned, particles, work.progress)
    clustering = aligned_clustering(aligned, embedding.features, views, classes=settings.classes)
    write_clustering(request.folder, particles, clustering, embedding.columns, work.progress, fitted)

"""Clusters the particles of stores: fits the volumetric autoencoder (or takes a fitted one), embeds, clusters, writes.

Nothing is told of shapes or poses. What is written is listed in `docs/formats.md`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.io.particle_files import write_particles
from cryoaae.io.store import SubtomogramStore
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads
from cryoaae.subtomograms.average import Average, average
from cryoaae.subtomograms.embed import CODES, Embedding, embed_particles, write_codes
from cryoaae.subtomograms.fit import VolumetricFit
from cryoaae.subtomograms.labels import Labels, read_labels
from cryoaae.subtomograms.model_files import FittedModel, check_apart
from cryoaae.subtomograms.page import ClusterPage, write_page
from cryoaae.subtomograms.partition import Comparison, Level, choose_level, compare, levels
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Particles, matching_standard, measure_standard, open_stores

PathLike = str | Path
# Columns of the STAR files beside rlnClassNumber; RELION leaves labels it does not know alone.
PROBABILITY, OUTLIER = "cryoaaeClassProbability", "cryoaaeOutlierScore"
# The curves go up to so many clusters.
MOST_CLUSTERS = 12
# Edge of the working grid unless another is asked for.
WORKING_BOX = 24
RESULT = "clusters.json"


@dataclass(frozen=True)
class Clustering:
    """Clusters of n particles.

    Parameters
    ----------
    assigned : (n,) int64
        Cluster of each particle, 0 the largest.
    probabilities : (n, clusters)
    level : Level
        Which classes of the model make up which cluster, and how well poses agree on it.
    curve : list of Level
        The same for every other number of clusters.
    names : tuple of str
        One a cluster: the label where it is a labelled class, else its number from 1.
    comparison : Comparison
    """

    assigned: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    level: Level
    curve: list[Level]
    names: tuple[str, ...]
    comparison: Comparison

    @property
    def sizes(self) -> list[int]:
        """Particles in each cluster."""
        return np.bincount(self.assigned, minlength=len(self.names)).tolist()


@dataclass(frozen=True)
class Request:
    """What `cluster` was asked for, checked."""

    stores: list[PathLike]
    folder: Path
    clusters: int | None
    settings: ClusterSettings | None
    labels: tuple[PathLike, ...]
    model: Path | None

    def config(self) -> dict[str, Any]:
        """What ``config.yaml`` of the run holds."""
        asked = {
            "stores": [str(path) for path in self.stores], "labelled": [str(path) for path in self.labels],
            "clusters": self.clusters, "model": self.model and str(self.model),
        }  # fmt: skip
        return asked if self.settings is None else {**self.settings.model_dump(mode="json"), **asked}

    def files(self) -> list[Path]:
        """Files that decide the result."""
        return [Path(p) for p in (*self.stores, *self.labels)]


def cluster(
    stores: PathLike | Sequence[PathLike],
    run: PathLike,
    *,
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
    clusters : int, optional
        How many; None: the most on which different poses of a particle agree.
    labels : path or sequence of path
        Particle lists with the classes of some particles, one for each store: semi-supervised.
    model : path, optional
        A run folder: its model embeds the particles, and nothing is fitted.
    settings : ClusterSettings, optional
        Of the fit.
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
    InputError, FittingDivergedError, InterruptedRunError
    """
    progress = progress or NullProgress()
    set_threads(threads)
    keep_freed_memory()
    chosen = choose_device(device)
    opened = open_stores(_paths(stores))
    known = read_labels(_paths(labels), opened) if _paths(labels) else Labels.none(sum(map(len, opened)))
    request = Request(
        _paths(stores), Path(run), clusters, _settings(settings, clusters, known, opened[0].box, model),
        tuple(_paths(labels)), None if model is None else Path(model),
    )  # fmt: skip
    _check(request, sum(map(len, opened)), known)
    fitting, fitted, particles = _prepared(request, opened, known, chosen)
    checked: dict[str, Any] = {"inputs": request.files(), "overwrite": overwrite, "resume": resume}
    if dry_run:
        RunFolder.check(request.folder, request.config(), **checked)
        return request.folder
    with RunFolder.create(request.folder, "cluster", request.config(), **checked):
        if fitting is not None:
            fitted = fitting.run(request.folder, progress, resume=resume)
        assert fitted is not None
        fitted.save(request.folder)
        embedding = embed_particles(fitted, particles, device=chosen, progress=progress)
        clustering = clustered(embedding, clusters, fitted.class_names)
        _write(request.folder, fitted, particles, embedding, clustering)
    return request.folder


def _paths(given: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [given] if isinstance(given, str | Path) else list(given)


def _settings(
    settings: ClusterSettings | None, clusters: int | None, known: Labels, box: int, model: PathLike | None
) -> ClusterSettings | None:
    """Settings of the fit with what the data decide; None where nothing is fitted."""
    if model is not None:
        return None
    settings = settings or ClusterSettings()
    classes = max(settings.classes, clusters or 0)
    if known.names:  # every label has a class, and no more are sought than asked for
        classes = max(len(known.names), clusters or 0, 2)
    working_box = min(settings.working_box or WORKING_BOX, box - box % 2)
    try:
        return ClusterSettings(**{**settings.model_dump(), "classes": classes, "working_box": working_box})
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
    if count < 4:
        raise InputError(request.stores[0], f"{count} particles are too few to cluster", "extract more")
    if known.names and request.clusters is not None and request.clusters < len(known.names):
        remedy = "labelled classes are not joined: give as many, or auto"
        raise InputError("--clusters", f"{request.clusters} clusters of {len(known.names)} labels", remedy)
    if request.model is not None:
        check_apart(request.folder, request.model)
        if request.labels:
            raise InputError("--labels", "are of no use to a model that is fitted", "leave out --model or --labels")
    names = [Path(store).stem for store in request.stores]
    if len(set(names)) < len(names):
        raise InputError(request.stores[0], "two stores of one name", "rename one: outputs are named after them")


def _prepared(
    request: Request, stores: list[SubtomogramStore], known: Labels, device: torch.device
) -> tuple[VolumetricFit | None, FittedModel | None, Particles]:
    """A fit ready to run, or a fitted model, and the particles as it sees them."""
    if request.settings is None:
        assert request.model is not None
        fitted = FittedModel.load(request.model, device)
        return None, fitted, Particles(stores, matching_standard(stores, fitted.standard))
    assert request.settings.working_box is not None
    particles = Particles(stores, measure_standard(stores, request.settings.working_box))
    if request.settings.frame == "reference" and not particles.posed:
        raise InputError("frame reference", "the stores have no poses", "use frame=particle")
    return VolumetricFit(particles, request.settings, known, device), None, particles


def clustered(embedding: Embedding, clusters: int | None, class_names: tuple[str, ...] = ()) -> Clustering:
    """Clusters of embedded particles.

    Parameters
    ----------
    embedding : Embedding
    clusters : int, optional
        How many; None: chosen. Labelled classes are never joined.
    class_names : tuple of str
        Of the first classes, where they were labelled.

    Raises
    ------
    InputError
        When the particles use fewer classes than clusters are asked for.
    """
    curve = levels(embedding.views)
    try:
        level = curve[0] if class_names else choose_level(curve, clusters)
    except ValueError as error:
        remedy = "ask for fewer (with --model of this run nothing is fitted again), or fit with more classes"
        raise InputError("--clusters", str(error), remedy) from error
    probabilities = level.probabilities(embedding.probabilities)
    assigned = probabilities.argmax(dim=-1)
    shares = embedding.probabilities.mean(dim=0).numpy()
    names = tuple(_name(level, k, class_names, shares) for k in range(level.clusters))
    comparison = compare(embedding.features, level.clusters, min(MOST_CLUSTERS, len(assigned) - 1))
    return Clustering(assigned.numpy(), probabilities.numpy(), level, curve, names, comparison)


def _name(level: Level, number: int, class_names: tuple[str, ...], shares: NDArray[np.float32]) -> str:
    """A cluster's label, or its number from 1, which beside labels is said to be none."""
    # Classes that no particle is of may count with it, so its own is the likeliest.
    own = int(np.where(level.cluster_of_class == number, shares, -1.0).argmax())
    if own < len(class_names):
        return class_names[own]
    return f"unlabelled {number + 1}" if class_names else str(number + 1)


# -- writing --------------------------------------------------------------------------------------


def _write(
    folder: Path, fitted: FittedModel, particles: Particles, embedding: Embedding, clustering: Clustering
) -> None:
    comparison = clustering.comparison
    methods = {name.lower().replace(" ", "_").replace("-", ""): found for name, found in comparison.assigned.items()}
    write_codes(
        folder / CODES, embedding, particles,
        cluster=clustering.assigned, cluster_probabilities=clustering.probabilities,
        plane=comparison.plane, outlier_score=comparison.outlier_score, **methods,
    )  # fmt: skip
    averages = _averages(particles, clustering)
    (folder / "classes").mkdir(exist_ok=True)
    for stale in (folder / "classes").glob("average_*.mrc"):  # of a run that was resumed with more steps
        stale.unlink()
    for number, found in averages.items():
        write_volume(
            folder / "classes" / f"average_{number + 1:02d}.mrc", found.volume,
            voxel_size_angstrom=particles.standard.working_voxel_angstrom, overwrite=True,
        )  # fmt: skip
    _write_stars(folder / "particles", particles, clustering)
    write_text(folder / RESULT, json.dumps(summary(clustering, averages), indent=2) + "\n")
    write_page(folder / "report.html", ClusterPage(fitted, particles, embedding, clustering, averages))


def _averages(particles: Particles, clustering: Clustering) -> dict[int, Average]:
    """Averages of the clusters by the poses of the stores; none where the stores have no poses."""
    if not particles.posed:
        return {}
    members = [np.flatnonzero(clustering.assigned == k) for k in range(len(clustering.names))]
    return {k: average(particles, (int(i) for i in found)) for k, found in enumerate(members) if len(found)}


def _write_stars(folder: Path, particles: Particles, clustering: Clustering) -> None:
    """One STAR file for each store: its particle list with class, probability and outlier score."""
    folder.mkdir(exist_ok=True)
    best = clustering.probabilities.max(axis=1)
    start = 0
    for store in particles.stores:
        own = slice(start, start + len(store))
        columns = {
            "rlnClassNumber": (clustering.assigned[own] + 1).tolist(),
            PROBABILITY: [f"{p:.4f}" for p in best[own]],
            OUTLIER: [f"{score:.4f}" for score in clustering.comparison.outlier_score[own]],
        }
        listed = store.particles()
        write_particles(
            folder / f"{store.path.stem}.star", listed, rows=store.facts.rows, columns=columns, overwrite=True
        )
        start += len(store)


def summary(clustering: Clustering, averages: dict[int, Average]) -> dict[str, Any]:
    """What ``clusters.json`` holds."""
    level = clustering.level
    return {
        "clusters": level.clusters,
        "names": list(clustering.names),
        "sizes": clustering.sizes,
        "class_to_cluster": level.cluster_of_class.tolist(),
        "pose_agreement": level.agreement,
        "pose_agreement_kappa": level.kappa,
        "curve": [{"clusters": f.clusters, "agreement": f.agreement, "kappa": f.kappa} for f in clustering.curve],
        "feature_curve": [{"clusters": k, **scores} for k, scores in clustering.comparison.curve.items()],
        "averages": {str(k + 1): {"particles": a.particles, "fsc": _plain(a.fsc)} for k, a in averages.items()},
    }


def _plain(curve: NDArray[np.float64]) -> list[float | None]:
    """A curve for JSON, which has no NaN."""
    return [None if not np.isfinite(value) else round(float(value), 4) for value in curve]

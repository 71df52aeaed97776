"""The files of a clustering: codes, class averages, particle lists, a summary and the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import write_volume
from cryoaae.io.particle_files import write_particles
from cryoaae.io.particle_poses import pose_columns
from cryoaae.io.store import SIMULATION
from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.average import Average, average
from cryoaae.subtomograms.clustering import Clustering
from cryoaae.subtomograms.embed import CODES, write_codes
from cryoaae.subtomograms.model_files import FittedModel
from cryoaae.subtomograms.page import ClusterPage, write_page
from cryoaae.subtomograms.standard import Particles

# Columns of the STAR files beside rlnClassNumber; RELION leaves labels it does not know alone.
PROBABILITY, OUTLIER = "cryoaaeClassProbability", "cryoaaeOutlierScore"
RESULT = "clusters.json"


def write_clustering(
    folder: Path,
    particles: Particles,
    clustering: Clustering,
    codes: Mapping[str, NDArray[np.generic]],
    progress: Progress,
    fitted: FittedModel | None = None,
) -> None:
    """Write everything into a run folder.

    Parameters
    ----------
    folder : Path
    particles : Particles
        With the poses to be used, where there are any; found ones are written, too.
    clustering : Clustering
    codes : mapping
        Columns of ``codes.npz``, n rows each.
    progress : Progress
    fitted : FittedModel, optional
        The autoencoder, where there is one.

    Raises
    ------
    InterruptedRunError
    """
    comparison = clustering.comparison
    methods = {name.lower().replace(" ", "_").replace("-", ""): found for name, found in comparison.assigned.items()}
    write_codes(
        folder / CODES, particles, **codes,
        cluster=clustering.assigned, cluster_probabilities=clustering.probabilities,
        plane=comparison.plane, outlier_score=comparison.outlier_score, **methods,
    )  # fmt: skip
    averages = _averages(particles, clustering, progress)
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
    write_page(folder / "report.html", ClusterPage(particles, clustering, averages, fitted))


def _averages(particles: Particles, clustering: Clustering, progress: Progress) -> dict[int, Average]:
    """Averages of the clusters by found poses, or else those of the stores; none where there are none."""
    if not particles.posed:
        return {}
    members = [np.flatnonzero(clustering.assigned == k) for k in range(len(clustering.names))]
    progress.start("averaging", float(len(particles)), "particle")
    try:
        return {k: average(particles, _told(own, progress)) for k, own in enumerate(members) if len(own)}
    finally:
        progress.finish()


def _told(members: NDArray[np.int64], progress: Progress) -> Iterator[int]:
    for i in members:
        progress.check()
        yield int(i)
        progress.advance()


def _write_stars(folder: Path, particles: Particles, clustering: Clustering) -> None:
    """One STAR file for each store: its particle list with class, probability and outlier score."""
    folder.mkdir(exist_ok=True)
    best = clustering.probabilities.max(axis=1)
    start = 0
    for store in particles.stores:
        own = slice(start, start + len(store))
        columns: dict[str, Sequence[object]] = {
            "rlnClassNumber": (clustering.assigned[own] + 1).tolist(),
            PROBABILITY: [f"{p:.4f}" for p in best[own]],
            OUTLIER: [f"{score:.4f}" for score in clustering.comparison.outlier_score[own]],
        }
        listed = store.particles()
        if particles.found:
            columns |= pose_columns(
                listed, store.facts.rows, particles.poses.rotations[own].double().numpy(),
                particles.poses.shifts_zyx[own].double().numpy(), store.voxel_size_angstrom,
                boxes_at_origin=store.about.get("kind") != SIMULATION,
            )  # fmt: skip
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
        "merge_shares": [round(share, 4) for share in clustering.merge_shares],
        "explained": None if clustering.explained is None else round(clustering.explained, 1),
        "mirrored": clustering.mirrored,
        "curve": [{"clusters": f.clusters, "agreement": f.agreement, "kappa": f.kappa} for f in clustering.curve],
        "feature_curve": [{"clusters": k, **scores} for k, scores in clustering.comparison.curve.items()],
        "averages": {str(k + 1): {"particles": a.particles, "fsc": _plain(a.fsc)} for k, a in averages.items()},
    }


def _plain(curve: NDArray[np.float64]) -> list[float | None]:
    """A curve for JSON, which has no NaN."""
    return [None if not np.isfinite(value) else round(float(value), 4) for value in curve]

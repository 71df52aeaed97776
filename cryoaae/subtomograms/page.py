"""The report of a clustering: what was found, how far to trust it, and what the clusters look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.io.atomic import write_text
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.patches.particle_spectra import sphere
from cryoaae.physics.fourier import irfft
from cryoaae.reports.clustering_figures import (
    ClusterGallery,
    agreement_figure,
    fsc_figure,
    gallery_figure,
    map_figure,
    merging_figure,
)
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.style import png
from cryoaae.subtomograms.average import Average
from cryoaae.subtomograms.clustering import Clustering
from cryoaae.subtomograms.copies import in_reference_frame
from cryoaae.subtomograms.generate import decoded
from cryoaae.subtomograms.merging import APART
from cryoaae.subtomograms.model_files import FittedModel
from cryoaae.subtomograms.partition import AGREEMENT
from cryoaae.subtomograms.standard import Particles

# Particles shown of each cluster, the most certain ones.
SHOWN = 6
# Log-likelihood of a held-out particle below which poses are not believed; see docs/decisions/0018.
EXPLAINED = 50.0
# Local outlier factor above which a particle is counted as an outlier.
OUTLYING = 1.5


@dataclass(frozen=True)
class ClusterPage:
    """What the page is made of; an alignment alone has no fitted model."""

    particles: Particles
    clustering: Clustering
    averages: Mapping[int, Average]
    fitted: FittedModel | None = None

    @property
    def aligned(self) -> bool:
        """Whether classes and poses were found by alignment."""
        return self.particles.found


def write_page(path: Path, page: ClusterPage) -> None:
    """Write the report as one HTML file."""
    write_text(path, _report(page).render())


def _report(page: ClusterPage) -> Report:
    clustering, count = page.clustering, len(page.particles)
    resolved = (_resolution(page),) if page.averages else ()
    return Report(
        title=f"{len(clustering.names)} clusters of {count:,} subtomograms",
        subtitle=", ".join(store.path.name for store in page.particles.stores),
        verdict=_verdict(page),
        sections=(_clusters(page), *resolved, _map(page), _number(page), _others(page)),
        footer=f"Weights {page.fitted.digest[:12]}" if page.fitted is not None and page.fitted.digest else "",
    )


def _verdict(page: ClusterPage) -> Verdict:
    level, explained = page.clustering.level, page.clustering.explained
    if explained is not None and explained < EXPLAINED:
        return Verdict(
            f"References made of other particles explain a particle by a log-likelihood of {explained:.0f}. Below "
            f"{EXPLAINED:g} poses, and classes, may be found in noise: do not trust them. More particles may help.",
            "bad",
        )  # fmt: skip
    if level.clusters == 1:
        return Verdict("All particles fall into one class: nothing was told apart.", "bad")
    said = (
        f"Seen in another pose, {100 * level.agreement:.0f} % of the particles stay in their cluster "
        f"(kappa {level.kappa:.2f}; chance is 0)."
    )
    if level.kappa >= AGREEMENT:
        return Verdict(said, "good")
    return Verdict(f"{said} Below {AGREEMENT:g} the clusters depend on the pose: do not trust them as they are.", "bad")


def _clusters(page: ClusterPage) -> ReportSection:
    clustering = page.clustering
    certain = clustering.probabilities.max(axis=1)
    rows = []
    for k, (name, size) in enumerate(zip(clustering.names, clustering.sizes, strict=True)):
        own = clustering.assigned == k
        sure = f"{certain[own].mean():.2f}" if own.any() else "-"
        outlying = f"{int((clustering.comparison.outlier_score[own] > OUTLYING).sum())}"
        rows.append(ReportRow((name, f"{size:,}", f"{100 * size / len(own):.1f}", sure, outlying)))
    header = ("cluster", "particles", "%", "mean probability", "outliers")
    table = ReportTable(header, rows, f"Outliers: local outlier factor above {OUTLYING:g}.")
    averaged = ["the average by the poses found" if page.aligned else "the average by the given poses"]
    shown = averaged if page.averages else []
    shown += ["what the decoder makes of the class alone"] if page.fitted is not None else []
    turned = ", turned into the frame of the average" if page.aligned else ""
    caption = (
        f"Central slices (xy, then xz) of each cluster: {', '.join(shown)}, and its most certain particles, "
        f"filtered{turned}."
    )
    figure = ReportFigure(png(gallery_figure(_gallery(page))), caption, "slices of clusters")
    return ReportSection("Clusters", figures=(figure,), tables=(table,))


def _gallery(page: ClusterPage) -> list[ClusterGallery]:
    found = []
    for k, name in enumerate(page.clustering.names):
        volumes: list[NDArray[np.float32]] = []
        if page.averages:
            average = page.averages.get(k)
            volumes.append(np.zeros((page.particles.box,) * 3, np.float32) if average is None else average.volume)
        if page.fitted is not None:
            volumes.append(decoded(page.fitted, page.clustering.level.cluster_of_class == k))
        volumes.extend(_most_certain(page, k))
        found.append(ClusterGallery(name, volumes))
    return found


def _most_certain(page: ClusterPage, cluster: int) -> list[NDArray[np.float32]]:
    """The particles that are most surely of a cluster, filtered; in the frame of their average where that was found."""
    order = np.argsort(-page.clustering.probabilities[:, cluster], kind="stable")
    chosen = [int(i) for i in order if page.clustering.assigned[i] == cluster][:SHOWN]
    particles, shape = page.particles, (page.particles.box,) * 3
    seen = [in_reference_frame(particles, i).spectrum if page.aligned else particles.spectrum(i) for i in chosen]
    kept, inside = particles.standard.filter(), sphere(particles.box)
    return [(irfft(spectrum * kept, shape) * inside).numpy() for spectrum in seen]


def _resolution(page: ClusterPage) -> ReportSection:
    curves = {k: average.fsc for k, average in page.averages.items()}
    figure = fsc_figure(curves, page.clustering.names, page.particles.standard.working_voxel_angstrom)
    sentences = ["Fourier shell correlation of the averages of two halves of each cluster."]
    if page.aligned:
        sentences.append(
            "Both halves were aligned to one reference, so up to the end of the alignment's band noise agrees, too: "
            "the curves are upper bounds. For a resolution to publish, refine the halves independently in RELION."
        )
    if page.clustering.mirrored is not None:
        sentences.append("An average of noise looks like the reference that the noise was aligned to.")
    caption = "Horizontal: 0.143 and 0.5."
    return ReportSection("Averages", tuple(sentences), (ReportFigure(png(figure), caption, "FSC of averages"),))


def _map(page: ClusterPage) -> ReportSection:
    figure = map_figure(page.clustering.comparison.plane, page.clustering.assigned, page.clustering.names)
    features = "the encoder's features, mean over poses"
    if page.fitted is None:
        features = "the log-likelihoods of the particles under the classes, each in its likeliest poses"
    caption = f"First two principal components of {features}."
    return ReportSection("Map", figures=(ReportFigure(png(figure), caption, "particles in the plane"),))


def _number(page: ClusterPage) -> ReportSection:
    clustering = page.clustering
    if page.aligned:
        return _merging(clustering)
    figure = agreement_figure(
        {level.clusters: level.kappa for level in clustering.curve if level.clusters > 1},
        clustering.comparison.curve, clustering.level.clusters, AGREEMENT,
    )  # fmt: skip
    sentences = (
        "Classes that poses of one particle mix up are joined step by step. Offered is the largest number of clusters "
        f"on which poses agree with a kappa of {AGREEMENT:g} or more; without any, the number they agree on best.",
    )
    caption = "Agreement of poses; silhouette of k-means and BIC of a Gaussian mixture on the features, for comparison."
    return ReportSection("How many clusters?", sentences, (ReportFigure(png(figure), caption, "curves"),))


def _merging(clustering: Clustering) -> ReportSection:
    title = "How many clusters?"
    if clustering.mirrored is not None:
        hand = "their mirror images, which fit better than they" if clustering.mirrored else "them as they are"
        said = (
            "Particles were assigned to the references of another run, which stay as they are. Every class of theirs "
            f"is here, also where it is empty. All particles went to {hand}."
        )
        return ReportSection(title, (said,))
    if not clustering.merge_shares:
        return ReportSection(title, ("Of all references only one was left before any merge.",))
    sentences = (
        "References that are one structure are merged, the nearest pair first. What a merge loses is judged on "
        "particles that were averaged into neither. Copies of one structure lose a tenth at most; up to "
        f"{APART:g} two references count as one, unless a number of clusters is asked for. A leap is where what "
        "differs was joined.",
    )
    figure = merging_figure(clustering.merge_shares, len(clustering.names), APART)
    caption = "Share of what two references explain of their particles that is lost by one for both."
    return ReportSection(title, sentences, (ReportFigure(png(figure), caption, "losses"),))


def _others(page: ClusterPage) -> ReportSection:
    own = torch.from_numpy(page.clustering.assigned)
    rows = []
    for name, found in page.clustering.comparison.assigned.items():
        kinds = len(np.unique(found[found >= 0]))
        ari = adjusted_rand_index(torch.from_numpy(found), own)
        rows.append(ReportRow((name, str(kinds), f"{100 * float((found < 0).mean()):.0f}", f"{ari:.2f}")))
    header = ("clustering of the features", "clusters", "left out, %", "ARI with the clusters above")
    return ReportSection("Other clusterings of the same code", tables=(ReportTable(header, rows),))

"""The report of a clustering: what was found, how far to trust it, and what the clusters look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.io.atomic import write_text
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.reports.clustering_figures import ClusterGallery, agreement_figure, gallery_figure, map_figure
from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.style import png
from cryoaae.subtomograms.average import Average
from cryoaae.subtomograms.embed import Embedding
from cryoaae.subtomograms.generate import decoded
from cryoaae.subtomograms.model_files import FittedModel
from cryoaae.subtomograms.partition import AGREEMENT
from cryoaae.subtomograms.standard import Particles

if TYPE_CHECKING:
    from cryoaae.subtomograms.cluster import Clustering

# Particles shown of each cluster, the most certain ones.
SHOWN = 6
# Local outlier factor above which a particle is counted as an outlier.
OUTLYING = 1.5


@dataclass(frozen=True)
class ClusterPage:
    """What the page is made of."""

    fitted: FittedModel
    particles: Particles
    embedding: Embedding
    clustering: Clustering
    averages: Mapping[int, Average]


def write_page(path: Path, page: ClusterPage) -> None:
    """Write the report as one HTML file."""
    write_text(path, _report(page).render())


def _report(page: ClusterPage) -> Report:
    clustering, count = page.clustering, len(page.particles)
    return Report(
        title=f"{len(clustering.names)} clusters of {count:,} subtomograms",
        subtitle=", ".join(store.path.name for store in page.particles.stores),
        verdict=_verdict(page),
        sections=(_clusters(page), _map(page), _number(page), _others(page)),
        footer=f"Weights {page.fitted.digest[:12]}" if page.fitted.digest else "",
    )


def _verdict(page: ClusterPage) -> Verdict:
    level = page.clustering.level
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
    averaged = "the average by the given poses, " if page.averages else ""
    caption = (
        f"Central slices (xy, then xz) of each cluster: {averaged}what the decoder makes of the class alone, and its "
        f"most certain particles, filtered as the network sees them."
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
        volumes.append(decoded(page.fitted, page.clustering.level.cluster_of_class == k))
        volumes.extend(_most_certain(page, k))
        found.append(ClusterGallery(name, volumes))
    return found


def _most_certain(page: ClusterPage, cluster: int) -> list[NDArray[np.float32]]:
    """The particles that are most surely of a cluster, filtered."""
    order = np.argsort(-page.clustering.probabilities[:, cluster], kind="stable")
    chosen = [int(i) for i in order if page.clustering.assigned[i] == cluster][:SHOWN]
    if not chosen:
        return []
    spectra = torch.stack([page.particles.spectrum(i) for i in chosen])
    model = page.fitted.model
    return list(model.inputs(spectra.to(model.inside.device))[:, 0].cpu().numpy())


def _map(page: ClusterPage) -> ReportSection:
    figure = map_figure(page.clustering.comparison.plane, page.clustering.assigned, page.clustering.names)
    caption = "First two principal components of the encoder's features, mean over poses."
    return ReportSection("Map", figures=(ReportFigure(png(figure), caption, "particles in the plane"),))


def _number(page: ClusterPage) -> ReportSection:
    clustering = page.clustering
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


def _others(page: ClusterPage) -> ReportSection:
    own = torch.from_numpy(page.clustering.assigned)
    rows = []
    for name, found in page.clustering.comparison.assigned.items():
        kinds = len(np.unique(found[found >= 0]))
        ari = adjusted_rand_index(torch.from_numpy(found), own)
        rows.append(ReportRow((name, str(kinds), f"{100 * float((found < 0).mean()):.0f}", f"{ari:.2f}")))
    header = ("clustering of the features", "clusters", "left out, %", "ARI with the clusters above")
    return ReportSection("Other clusterings of the same code", tables=(ReportTable(header, rows),))

"""Figures of a clustering of subtomograms: a gallery of slices, the map of codes, curves for the number of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.image_grid import image_grid
from cryoaae.reports.latent_figures import latent_scatter
from cryoaae.reports.style import COLOURS, FAINT, INK, contrast_limits, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ClusterGallery:
    """Volumes (z, y, x) that show a cluster, each drawn in its own contrast."""

    name: str
    volumes: Sequence[NDArray[Any]]


def gallery_figure(clusters: Sequence[ClusterGallery]) -> Figure:
    """Central slices of volumes: a row a cluster, xy and xz of each volume side by side."""
    columns = 2 * max(len(c.volumes) for c in clusters)
    edge = len(clusters[0].volumes[0])
    grid = np.full((len(clusters), columns, edge, edge), np.nan)
    for row, cluster in enumerate(clusters):
        for i, volume in enumerate(cluster.volumes):
            low, high = contrast_limits([volume])
            scaled = (np.asarray(volume, np.float64) - low) / (high - low)
            grid[row, 2 * i], grid[row, 2 * i + 1] = scaled[edge // 2], scaled[:, edge // 2]
    return image_grid(grid, row_titles=[cluster.name for cluster in clusters])


def map_figure(plane: NDArray[np.float64], assigned: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Particles (n, 2) coloured by cluster."""
    return latent_scatter(plane, assigned, class_names=names)


def agreement_figure(
    kappa: Mapping[int, float], feature_curve: Mapping[int, Mapping[str, float]], chosen: int, trusted: float
) -> Figure:
    """Curves over the number of clusters: agreement of poses, silhouette, BIC.

    Parameters
    ----------
    kappa : mapping
        Number of clusters to agreement of poses, corrected for chance.
    feature_curve : mapping
        Number of clusters to {"silhouette", "bic"}.
    chosen : int
        Marked.
    trusted : float
        Agreement above which a number is believed, drawn as a line.
    """
    figure = new_figure(9.0, 3.2)
    panels = figure.subplots(1, 3)
    curves = [
        ("agreement of poses (kappa)", dict(kappa)),
        ("silhouette", {k: scores["silhouette"] for k, scores in feature_curve.items()}),
        ("BIC", {k: scores["bic"] for k, scores in feature_curve.items()}),
    ]
    for axes, (title, curve), colour in zip(panels, curves, COLOURS, strict=False):
        plain_axes(axes)
        numbers = sorted(curve)
        axes.plot(numbers, [curve[k] for k in numbers], color=colour, marker="o", markersize=4, linewidth=1.6)
        axes.axvline(chosen, color=FAINT, linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=10, color=INK)
        axes.set_xlabel("clusters", fontsize=9, color=INK)
    panels[0].axhline(trusted, color=FAINT, linewidth=1)
    return figure

"""Figures of a clustering of subtomograms: a gallery of slices, the map of codes, curves for the number of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.image_grid import image_grid
from cryoaae.reports.latent_figures import latent_scatter
from cryoaae.reports.latent_marks import class_colour
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


def merging_figure(shares: Sequence[float], chosen: int, one: float) -> Figure:
    """What each merge loses, against the number of clusters that it starts from, down to two.

    Parameters
    ----------
    shares : sequence of float
    chosen : int
        Clusters, marked.
    one : float
        Up to this share two references are one, drawn as a line.
    """
    figure = new_figure(6.0, 3.2)
    axes = figure.subplots()
    plain_axes(axes)
    axes.plot(range(len(shares) + 1, 1, -1), shares, color=COLOURS[0], marker="o", markersize=4, linewidth=1.6)
    axes.axvline(chosen + 0.5, color=FAINT, linewidth=1, linestyle="--")
    axes.axhline(one, color=FAINT, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("clusters before the merge", fontsize=9, color=INK)
    axes.set_title("share lost by the merge", fontsize=10, color=INK)
    return figure


def fsc_figure(
    curves: Mapping[int, NDArray[np.float64]], names: Sequence[str], voxel_size_angstrom: float
) -> Figure:
    """Fourier shell correlations (shells up to Nyquist) of clusters over the spatial frequency, coloured as the map."""
    figure = new_figure(6.0, 3.2)
    axes = figure.subplots()
    plain_axes(axes)
    for number, curve in curves.items():
        shells = np.arange(len(curve)) / (2 * len(curve) * voxel_size_angstrom)
        axes.plot(shells[1:], curve[1:], color=class_colour(number), linewidth=1.6, label=names[number])
    for level in (0.143, 0.5):
        axes.axhline(level, color=FAINT, linewidth=1)
    axes.set_ylim(-0.15, 1.02)
    axes.set_xlabel("spatial frequency, 1 / angstrom", fontsize=9, color=INK)
    axes.set_title("FSC of two halves", fontsize=10, color=INK)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure

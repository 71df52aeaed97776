"""Figures of codes in a plane; arrays in, matplotlib figures out.

A field over the plane, (g, g), has the extent [-extent, extent] on both axes, row 0 lowest, and its
values belong to the middles of its cells: `plane_codes` gives those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoaae.reports.latent_marks import CLASS_MARKERS, class_colour, class_marker, class_name
from cryoaae.reports.style import INK, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PRIOR_GREY = "#ccd4da"
RATIO_LIMIT = 2.0


def plane_codes(side: int, extent: float) -> NDArray[np.float64]:
    """Codes at the middles of the cells of a (side, side) field over the plane, (side^2, 2), row 0 lowest."""
    middles = extent * (2 * (np.arange(side) + 0.5) / side - 1)
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def manifold_codes(side: int, std: float) -> NDArray[np.float64]:
    """Codes whose decoded images show a 2-D Gaussian prior by equal shares of its mass.

    Parameters
    ----------
    side : int
        Images along each axis.
    std : float
        Standard deviation of the prior.

    Returns
    -------
    (side^2, 2)
        ``std * Phi^-1((i + 1/2) / side)`` on each axis (Kingma & Welling 2014, figure 4). Reshaped to
        (side, side) the images lie as the codes do in a scatter plot: the first row has the highest y.
    """
    from scipy.stats import norm

    quantiles = std * norm.ppf((np.arange(side) + 0.5) / side)
    y, x = np.meshgrid(quantiles[::-1], quantiles, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def latent_scatter(
    codes: ArrayLike,
    labels: ArrayLike,
    held_out_codes: ArrayLike | None = None,
    held_out_labels: ArrayLike | None = None,
    prior_draws: ArrayLike | None = None,
    outside: ArrayLike | None = None,
    heads: ArrayLike | None = None,
    *,
    class_names: Sequence[str] = (),
) -> Figure:
    """Codes coloured by class over draws of the prior; codes that were kept out get a panel of their own.

    Parameters
    ----------
    codes : (n, 2)
        Codes; one with NaN is not drawn.
    labels : (n,) int
        Classes; -1: unlabelled.
    held_out_codes, held_out_labels : (m, 2), (m,) int, optional
        Codes of data that were not fitted.
    prior_draws : (p, 2), optional
        Draws of the prior: faint, behind.
    outside : (m,) bool, optional
        Held-out codes where the prior has next to no mass: drawn as crosses.
    heads : (k, 2), optional
        Cluster heads, drawn as numbered stars.
    class_names : sequence of str
        Name of class 0, 1, ...; numbers where it ends.
    """
    clouds: list[tuple[str, NDArray[np.float64], NDArray[np.int64], ArrayLike | None]]
    clouds = [("codes", *_cloud(codes, labels), None)]
    if held_out_codes is not None and held_out_labels is not None:
        clouds.append(("held-out codes", *_cloud(held_out_codes, held_out_labels), outside))
    elif held_out_codes is not None or held_out_labels is not None or outside is not None:
        raise ValueError("held-out codes need labels, and `outside` speaks of held-out codes")
    behind = np.empty((0, 2)) if prior_draws is None else _plane(prior_draws)
    stars = np.empty((0, 2)) if heads is None else _plane(heads)
    low, high = _square(np.concatenate([behind, stars, *(points for _, points, _, _ in clouds)]))
    figure = new_figure(5.1 * len(clouds) + 1.2, 5.1)
    panels = figure.subplots(1, len(clouds), squeeze=False)[0]
    crossed = 0
    for axes, (title, points, classes, away) in zip(panels, clouds, strict=True):
        _plane_axes(axes, low, high)
        axes.set_title(f"{len(points):,} {title}", fontsize=11, color=INK, fontweight="bold")
        axes.scatter(behind[:, 0], behind[:, 1], s=5, color=PRIOR_GREY, linewidths=0, zorder=1, label="prior")
        crosses = np.zeros(len(points), bool) if away is None else np.asarray(away, bool)
        if crosses.shape != (len(points),):
            raise ValueError(f"`outside` has shape {crosses.shape} for {len(points)} held-out codes")
        _scatter_classes(axes, points, classes, crosses)
        _name_classes(axes, points, classes, class_names, 0.07 * (high - low))
        _draw_heads(axes, stars)
        crossed += int(crosses.sum())
    present = np.unique(np.concatenate([classes for _, _, classes, _ in clouds]))
    handles = _legend_handles(present.tolist(), class_names, len(behind) > 0, crossed, len(stars))
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    return figure


def _plane(codes: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(codes, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"codes of shape {points.shape} do not lie in a plane: (n, 2) is needed")
    return points


def _cloud(codes: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    points, classes = _plane(codes), np.asarray(labels, dtype=np.int64)
    if classes.shape != (len(points),):
        raise ValueError(f"labels of shape {classes.shape} for {len(points)} codes")
    return points, classes


def _square(points: NDArray[np.float64]) -> tuple[float, float]:
    """Limits, the same for both axes and all panels, that leave no point out."""
    known = points[np.isfinite(points).all(axis=1)]
    low, high = (float(known.min()), float(known.max())) if known.size else (-1.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _plane_axes(axes: Axes, low: float, high: float) -> None:
    plain_axes(axes)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")


def _scatter_classes(
    axes: Axes, points: NDArray[np.float64], classes: NDArray[np.int64], crosses: NDArray[np.bool_]
) -> None:
    # In the order of the data: one class after the other would show the last one on top of the rest.
    colours = np.array([class_colour(int(c)) for c in classes])
    markers = np.array([class_marker(int(c)) for c in classes])
    known = np.isfinite(points).all(axis=1)
    size = float(np.clip(12000 / max(len(points), 1), 3, 14))
    for marker in (".", *CLASS_MARKERS):
        dots = known & ~crosses & (markers == marker)
        if dots.any():
            x, y = points[dots].T
            axes.scatter(x, y, s=size, c=colours[dots], marker=marker, linewidths=0, alpha=0.8, zorder=3)
    away = known & crosses
    if away.any():
        x, y = points[away].T
        axes.scatter(x, y, s=34, c=colours[away], marker="x", linewidths=1.6, zorder=4, label="outside")


def _name_classes(
    axes: Axes, points: NDArray[np.float64], classes: NDArray[np.int64], class_names: Sequence[str], apart: float
) -> None:
    """Write the names of classes over their medians, but for those that lie on each other."""
    from matplotlib.patheffects import withStroke

    known = np.isfinite(points).all(axis=1)
    labels = np.unique(classes[known & (classes >= 0)]).tolist()
    middles = {label: np.median(points[known & (classes == label)], axis=0) for label in labels}
    bold: dict[str, Any] = {"color": INK, "fontsize": 10, "fontweight": "bold", "ha": "center", "va": "center"}
    for label, (x, y) in middles.items():
        if all(math.hypot(x - u, y - v) > apart for other, (u, v) in middles.items() if other != label):
            halo = [withStroke(linewidth=3, foreground="white")]
            axes.text(x, y, class_name(label, class_names), path_effects=halo, zorder=6, **bold)


def _draw_heads(axes: Axes, heads: NDArray[np.float64]) -> None:
    if not len(heads):
        return
    x, y = heads.T
    axes.scatter(x, y, s=230, marker="*", color="white", edgecolors="black", linewidths=1.1, zorder=7, label="heads")
    for i, (u, v) in enumerate(heads.tolist()):
        axes.text(u, v, str(i), ha="center", va="center_baseline", fontsize=7, color="black", zorder=8)


def _legend_handles(
    labels: Sequence[int], class_names: Sequence[str], prior: bool, crossed: int, heads: int
) -> list[Line2D]:
    from matplotlib.lines import Line2D

    def handle(marker: str, colour: str, name: str, **more: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=colour, label=name, **more)

    handles = []
    for label in labels:
        handles.append(handle(class_marker(label), class_colour(label), class_name(label, class_names)))
    if prior:
        handles.append(handle("o", PRIOR_GREY, "draws of the prior", markersize=3.5))
    if crossed:
        handles.append(handle("x", INK, f"outside of the prior: {crossed:,}", markeredgewidth=1.6))
    if heads:
        handles.append(handle("*", "white", "cluster heads", markeredgecolor="black", markersize=10))
    return handles


def density_ratio_figure(log_ratio: ArrayLike, extent: float, codes: ArrayLike) -> Figure:
    """Map of log q/p over the plane of codes: where codes are too many (red) and too few (blue).

    Parameters
    ----------
    log_ratio : (g, g)
        Natural logarithm of the density of codes over that of the prior, such as a discriminator's
        logit; row 0 lowest (`plane_codes`). NaN stays white.
    extent : float
        The plane is [-extent, extent] on both axes.
    codes : (n, 2)
        Codes, faint.
    """
    ratio, points = np.asarray(log_ratio, dtype=np.float64), _plane(codes)
    if ratio.ndim != 2 or ratio.shape[0] != ratio.shape[1]:
        raise ValueError(f"a field of shape {ratio.shape} over a square plane")
    if not extent > 0:
        raise ValueError(f"a plane of extent {extent}")
    figure = new_figure(6.3, 5.0)
    axes = figure.subplots()
    _plane_axes(axes, -extent, extent)
    axes.grid(False)
    box = (-extent, extent, -extent, extent)
    clipped = np.clip(ratio, -RATIO_LIMIT, RATIO_LIMIT)
    image = axes.imshow(clipped, cmap=_pale_diverging(), origin="lower", extent=box, interpolation="bilinear")
    image.set_clim(-RATIO_LIMIT, RATIO_LIMIT)
    if np.nanmin(ratio, initial=0.0) < 0 < np.nanmax(ratio, initial=0.0):
        middles = plane_codes(len(ratio), extent)[: len(ratio), 0]
        axes.contour(middles, middles, clipped, levels=[0.0], colors=INK, linewidths=1.2)
    x, y = points[np.isfinite(points).all(axis=1)].T
    axes.scatter(x, y, s=4, color=INK, alpha=0.25, linewidths=0)
    bar = figure.colorbar(image, ax=axes, extend="both", ticks=[-2, -1, 0, 1, 2])
    bar.set_label("log q/p      fewer codes than the prior asks  ←  →  more", fontsize=9, color=INK)
    return figure


def _pale_diverging() -> Colormap:
    """Blue over white to red without the dark ends, on which codes could not be seen."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["RdBu_r"](np.linspace(0.14, 0.86, 256)))

"""The look of every figure: colours, fonts, units, scale bars, contrast.

matplotlib is imported inside functions, and its object-oriented interface alone is used: no window,
no global state, safe in threads.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, readable for the colour-blind.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#000000")
INK, FAINT = "#1b2733", "#8794a1"
CONTRAST_PERCENT = (0.5, 99.5)
DPI = 130


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure on the Agg canvas, laid out without overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG; pixels depend on the data alone (no date inside)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def plain_axes(axes: Axes) -> None:
    """Leave the axes a curve needs: two spines, light grid, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.grid(True, color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, color=FAINT)


def contrast_limits(images: Iterable[NDArray[Any]]) -> tuple[float, float]:
    """Grey levels that leave half a percent out at each end, shared by all images."""
    values = np.concatenate([np.asarray(image, np.float64).ravel() for image in images])
    low, high = np.percentile(values, CONTRAST_PERCENT)
    return (float(low), float(high)) if high > low else (float(low) - 1.0, float(low) + 1.0)


def bar_length_angstrom(width_angstrom: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) of about a quarter of the image's width."""
    target = width_angstrom / 4
    scale = 10.0 ** math.floor(math.log10(target))
    return max(step * scale for step in (1, 2, 5) if step * scale <= target)


def scale_bar(axes: Axes, shape_rows_columns: tuple[int, int], voxel_size_angstrom: float) -> None:
    """Draw a scale bar with its length in nanometres in the lower left corner of an image."""
    from matplotlib import patheffects

    rows, columns = shape_rows_columns
    length = bar_length_angstrom(columns * voxel_size_angstrom)
    x0, y0 = 0.05 * columns, 0.07 * min(rows, columns)
    x1 = x0 + length / voxel_size_angstrom
    outline = [patheffects.withStroke(linewidth=4.5, foreground="black")]
    axes.plot([x0, x1], [y0, y0], color="white", linewidth=3, solid_capstyle="butt", path_effects=outline)
    axes.text(
        x0,
        y0 + 0.02 * columns,
        f"{length / 10:g} nm",
        color="white",
        fontsize=8.5,
        fontweight="bold",
        ha="left",
        va="bottom",
        path_effects=[patheffects.withStroke(linewidth=2.5, foreground="black")],
    )

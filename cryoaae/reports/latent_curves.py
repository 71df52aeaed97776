"""What was measured while a model was trained, as small multiples; how such a curve is read and scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.style import COLOURS, INK, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What a line of reference stands for, by a word of the curve's title.
REFERENCE_MEANINGS = {"accuracy": "chance", "mmd": "same law", "divergence": "same law", "distance": "same law"}
# A curve that starts so many times above its reference is drawn on a logarithmic axis down to it.
LOGARITHMIC_FROM = 50.0


def reference_meaning(title: str) -> str:
    """What the line of reference of a curve stands for."""
    return next((m for word, m in REFERENCE_MEANINGS.items() if word in title.lower()), "reference")


def is_share(title: str) -> bool:
    """Whether a curve is written in percent."""
    return any(word in title.lower() for word in ("accuracy", "error of"))


def linear_below(values: NDArray[np.float64], reference: float | None) -> float | None:
    """Where the axis of a curve turns from logarithmic to linear; None for an axis linear all along.

    An unbiased MMD falls by orders of magnitude and then scatters about zero, on both sides.
    """
    if reference is None or not 0 < reference < math.inf:
        return None
    known = values[np.isfinite(values)]
    if not known.size or known.max() <= LOGARITHMIC_FROM * reference:
        return None
    return float(10.0 ** math.ceil(math.log10(reference)))


def training_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Small multiples of what was measured while a model was trained.

    Parameters
    ----------
    curves : mapping of title to (steps, values)
        Such as "discriminator accuracy", "unbiased MMD", "held-out reconstruction" and "estimated JSD
        (lower bound)"; NaN where nothing was measured.
    references : mapping of title to float, optional
        Value that the curve would have at best: 0.5 for the accuracy, the floor between two samples of
        one law for the MMD. One without a curve is not drawn, so runs of different kinds can share them.
    """
    references = references or {}
    columns = 2 if len(curves) in (2, 4) else max(1, min(3, len(curves)))
    rows = max(1, math.ceil(len(curves) / columns))
    figure = new_figure(3.7 * columns + 0.2, 2.6 * rows + 0.1)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes, (title, (steps, values)) in zip(panels, curves.items(), strict=False):
        _draw_curve(axes, title, steps, values, references.get(title))
    return figure


def _draw_curve(
    axes: Axes, title: str, steps: Sequence[float], values: Sequence[float], reference: float | None
) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    plain_axes(axes)
    axes.plot(x, y, color=COLOURS[0], linewidth=1.6)
    bend = linear_below(y, reference)
    if bend is not None:
        axes.set_yscale("symlog", linthresh=bend, linscale=0.7)
    elif is_share(title):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if reference is not None and math.isfinite(reference):
        value = f"{100 * reference:g} %" if is_share(title) else f"{reference:.2g}"
        meaning = f"{reference_meaning(title)}: {value}"
        axes.axhline(reference, color=COLOURS[5], linewidth=1.2, linestyle=(0, (4, 3)), label=meaning)
        axes.legend(fontsize=8, loc="upper right", framealpha=0.85, edgecolor="none")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(title, fontsize=10, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel("step", fontsize=9, color=INK)

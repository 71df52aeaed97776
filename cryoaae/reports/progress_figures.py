"""Figures drawn while a restorer is fitted: the loss and a preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.figures import slices_figure
from cryoaae.reports.style import COLOURS, INK, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING_SHARE = 0.02


def loss_figure(
    steps: Sequence[float], losses: Mapping[str, Sequence[float]], *, unit: str = "loss"
) -> Figure:
    """Loss against step: every value faint, a running mean strong.

    Parameters
    ----------
    steps : sequence of float
        Step of each value.
    losses : mapping of title to values
        Such as "fitting" and "held out"; NaN where a loss was not measured at a step.
    unit : str
        Label of the vertical axis.
    """
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    plain_axes(axes)
    drawn = []
    for (title, values), colour in zip(losses.items(), COLOURS, strict=False):
        y = np.asarray(values, dtype=float)
        known = np.isfinite(y)
        x, y = np.asarray(steps, dtype=float)[known], y[known]
        if y.size == 0:
            continue
        width = max(1, int(y.size * SMOOTHING_SHARE))
        smooth = np.convolve(y, np.ones(width) / width, mode="valid")
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(x[width - 1 :], smooth, color=colour, linewidth=2, label=title)
        drawn.append(y)
    if drawn:
        # The first steps are far above the rest; what matters happens below them.
        late = np.concatenate([y[y.size // 20 :] for y in drawn])
        low, high = float(late.min()), float(np.percentile(late, 99))
        margin = 0.08 * max(high - low, 1e-12)
        axes.set_ylim(low - margin, high + margin)
        axes.legend(fontsize=9, frameon=False)
    axes.set_xlabel("step", fontsize=10, color=INK)
    axes.set_ylabel(unit, fontsize=10, color=INK)
    return figure


def preview_figure(
    before: NDArray[Any], after: NDArray[Any], voxel_size_angstrom: float, *, note: str = ""
) -> Figure:
    """Central slices of a block (z, y, x) before and after restoring, for `previews/` of a run."""
    figure = slices_figure([("before", before), ("after", after)], voxel_size_angstrom)
    if note:
        figure.suptitle(note, fontsize=10, color=INK)
    return figure

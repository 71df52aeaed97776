"""Small images in rows and columns: styles by contents, a manifold, clusters and their members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cryoaae.reports.style import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(images: ArrayLike, row_titles: Sequence[str] = (), column_titles: Sequence[str] = ()) -> Figure:
    """Images in rows and columns with thin gaps: styles by contents, a manifold, clusters and their members.

    Parameters
    ----------
    images : (rows, columns, h, w) or (rows, columns, h, w, 3)
        Values from 0 to 1; what lies beyond is clipped. An image that is NaN leaves its place empty.
    row_titles, column_titles : sequence of str
        One a row, one a column, or none at all.

    Raises
    ------
    ValueError
        If the images are no grid, or titles are too few or too many.
    """
    grid = np.asarray(images, dtype=np.float64)
    if grid.ndim not in (4, 5) or grid.shape[4:] not in ((), (3,)) or 0 in grid.shape:
        raise ValueError(f"images of shape {grid.shape} are no grid: (rows, columns, h, w) or (..., 3) is needed")
    rows, columns, height, width = grid.shape[:4]
    if len(row_titles) not in (0, rows) or len(column_titles) not in (0, columns):
        raise ValueError(f"{len(row_titles)} and {len(column_titles)} titles for {rows} rows and {columns} columns")
    gap = max(1, round(0.05 * min(height, width)))
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, *grid.shape[4:]))
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = np.nan_to_num(grid[row, column], nan=1.0).clip(0, 1)
    wide = float(np.clip(0.6 * columns, 2.4, 11.0))
    beside = 0.085 * max(map(len, row_titles), default=0)
    above = 0.3 if column_titles else 0.1
    figure = new_figure(wide + beside + 0.1, wide * sheet.shape[0] / sheet.shape[1] + above)
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    across = np.arange(columns) * (width + gap) + (width - 1) / 2
    down = np.arange(rows) * (height + gap) + (height - 1) / 2
    axes.set_xticks(across if column_titles else [], list(column_titles))
    axes.set_yticks(down if row_titles else [], list(row_titles))
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, labelsize=9, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure

"""Particles coloured by what is known of them: a colour a category, or a scale of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.latent_marks import CLASS_COLOURS
from napari_cryoaae.particle_groups import ParticleGroups

# Whole numbers of no more values than this are taken for categories; text with more is no colouring at all.
MOST_NUMBERS, MOST_TEXTS = 24, 200
NOTHING_RGB = (110, 118, 127)
SCALE, STEPS, LEGEND_STEPS = "viridis", 256, 7
# Its lower end cannot be seen on a dark ground.
SCALE_FROM = 0.25
# Of the numbers, left out at each end of the scale.
SCALE_PERCENT = (1, 99)
UNKNOWN = "none"


@dataclass(frozen=True)
class Colouring:
    """Colours of n particles.

    Parameters
    ----------
    rgb : (n, 3) uint8
    categories : tuple of (str, (r, g, b), int)
        Name, colour and number of particles, where the values are categories.
    category : (n,) int64, optional
        Of each particle.
    limits : (low, high), optional
        Ends of the scale, where the values are numbers.
    """

    rgb: NDArray[np.uint8]
    categories: tuple[tuple[str, tuple[int, int, int], int], ...] = ()
    category: NDArray[np.int64] | None = None
    limits: tuple[float, float] | None = None

    def legend(self) -> list[tuple[str, tuple[int, int, int], int | None]]:
        """Text, colour and number of particles of each entry; of a scale some steps, which have no number."""
        if self.limits is None:
            return [*self.categories]
        values = np.linspace(*self.limits, LEGEND_STEPS)
        colours = _scale_rgb()[np.linspace(0, STEPS - 1, LEGEND_STEPS).round().astype(int)]
        return [(f"{v:.3g}", (int(r), int(g), int(b)), None) for v, (r, g, b) in zip(values, colours, strict=True)]


def can_colour(values: NDArray[np.generic]) -> bool:
    """Whether values tell particles apart: not one for all, nor a text for nearly each of them."""
    if np.issubdtype(values.dtype, np.number):
        return len(np.unique(values[np.isfinite(values)])) > 1
    return 1 < len(set(values.tolist())) <= MOST_TEXTS


def colour_groups(groups: ParticleGroups) -> Colouring:
    """Colour particles by their class."""
    return _by_category(list(groups.names), groups.assigned)


def colour_values(values: NDArray[np.generic]) -> Colouring:
    """Colour particles by a column: texts and few whole numbers as categories, other numbers on a scale."""
    if not np.issubdtype(values.dtype, np.number):
        names, category = np.unique(np.array([str(v) or UNKNOWN for v in values]), return_inverse=True)
        return _by_category(names.tolist(), category)
    distinct = np.unique(values)
    if np.issubdtype(values.dtype, np.integer) and len(distinct) <= MOST_NUMBERS:
        names = [UNKNOWN if v < 0 else str(v) for v in distinct]
        return _by_category(names, np.searchsorted(distinct, values))
    return _on_scale(values.astype(np.float64))


def _by_category(names: list[str], category: NDArray[np.int64]) -> Colouring:
    ranked = [name for name in names if name != UNKNOWN]
    colours = {name: _rgb(CLASS_COLOURS[i % len(CLASS_COLOURS)]) for i, name in enumerate(ranked)}
    palette = [colours.get(name, NOTHING_RGB) for name in names]
    counts = np.bincount(category, minlength=len(names)).tolist()
    entries = tuple(zip(names, palette, counts, strict=True))
    return Colouring(np.array(palette, np.uint8)[category], entries, category)


def _on_scale(values: NDArray[np.float64]) -> Colouring:
    known = np.isfinite(values)
    low, high = (float(v) for v in np.percentile(values[known], SCALE_PERCENT)) if known.any() else (0.0, 1.0)
    high = high if high > low else low + 1.0
    step = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1) * (STEPS - 1)
    rgb = np.where(known[:, None], _scale_rgb()[step.round().astype(int)], np.array(NOTHING_RGB, np.uint8))
    return Colouring(rgb.astype(np.uint8), limits=(low, high))


def _scale_rgb() -> NDArray[np.uint8]:
    import matplotlib as mpl

    return np.asarray(mpl.colormaps[SCALE](np.linspace(SCALE_FROM, 1, STEPS), bytes=True)[:, :3], np.uint8)


def _rgb(colour: str) -> tuple[int, int, int]:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return r, g, b

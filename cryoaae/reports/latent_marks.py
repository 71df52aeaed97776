"""Colour, shape and name of a class, the same in every figure of codes."""

from __future__ import annotations

from collections.abc import Sequence

from cryoaae.reports.style import INK

# Ten colours of even lightness, found by search to stay apart for the colour-blind (Petroff 2021, arXiv 2107.02270).
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
# Beyond ten classes the colours come again in another shape.
CLASS_MARKERS = ("o", "s", "^", "D")


def class_name(label: int, class_names: Sequence[str] = ()) -> str:
    """Name of a class for legends: its own, else its number; below 0 is "unlabelled"."""
    if label < 0:
        return "unlabelled"
    return class_names[label] if 0 <= label < len(class_names) else str(label)


def class_colour(label: int) -> str:
    """Colour of a class; it depends on the label alone, so it is the same in every figure."""
    return INK if label < 0 else CLASS_COLOURS[label % len(CLASS_COLOURS)]


def class_marker(label: int) -> str:
    """Marker of a class: a shape for each ten of them, a small dot for "unlabelled"."""
    return "." if label < 0 else CLASS_MARKERS[label // len(CLASS_COLOURS) % len(CLASS_MARKERS)]

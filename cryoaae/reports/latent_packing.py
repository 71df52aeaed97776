"""Arrays as text inside a page: little-endian integers in base64, a fifth of what they are as JSON."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A coordinate z is stored as round(SCALE * z / extent); two values are kept for what has no place in the plane.
SCALE, BEYOND, MISSING = 32000, 32767, -32768
# A probability is stored as round(EVEN (1 + c)) with c |c| = 2 p - 1: finest about 1/2, where the line is drawn.
EVEN, HOLE = 127, 255
# Finer fields, longer curves and more grey levels add to the file and not to what is seen.
FIELD_SIDE, CURVE_POINTS, GREY_LEVELS = 48, 400, 16


def packed(array: NDArray[Any]) -> str:
    """Bytes of an array as base64, little-endian."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def quantised(codes: NDArray[Any], extent: float) -> NDArray[np.int16]:
    """Codes (..., 2) as integers: SCALE at the edge, BEYOND past it, MISSING for both if either is NaN."""
    z = np.asarray(codes, dtype=np.float64) / extent
    missing = np.isnan(z).any(axis=-1, keepdims=True)
    inside = np.rint(SCALE * np.clip(np.nan_to_num(z), -1, 1))
    return np.where(missing, MISSING, np.where(np.abs(z) > 1, np.sign(z) * BEYOND, inside)).astype(np.int16)


def packed_fields(fields: Sequence[NDArray[Any]]) -> str:
    """Probabilities over the plane, (g, g) each with NaN for holes, as one text of bytes."""
    if not fields:
        return ""
    side = min([FIELD_SIDE, *(len(f) for f in fields)])
    values = np.stack([_resampled(np.asarray(f, dtype=np.float64), side) for f in fields])
    leaning = 2 * np.clip(np.nan_to_num(values), 0, 1) - 1
    levels = np.rint(EVEN * (1 + np.sign(leaning) * np.sqrt(np.abs(leaning))))
    return packed(np.where(np.isnan(values), HOLE, levels).astype(np.uint8))


def _resampled(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A field on fewer cells of the same plane, linear between the middles."""
    if len(values) == side:
        return values
    from scipy.ndimage import map_coordinates

    at = (np.arange(side) + 0.5) * len(values) / side - 0.5
    return np.asarray(map_coordinates(values, np.meshgrid(at, at, indexing="ij"), order=1, mode="nearest"))


def thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of neighbouring points, (2, at most CURVE_POINTS)."""
    n = points.shape[1]
    if n <= CURVE_POINTS:
        return points
    starts = np.linspace(0, n, CURVE_POINTS, endpoint=False).astype(np.int64)
    counts = np.diff(np.append(starts, n))
    return np.asarray(np.add.reduceat(points, starts, axis=1) / counts)


def sprite(thumbnails: NDArray[Any]) -> dict[str, Any]:
    """All images (n, h, w) as one PNG, a few grey levels deep, in rows of equal length."""
    from PIL import Image

    n, height, width = thumbnails.shape
    columns = max(1, math.ceil(math.sqrt(n)))
    rows = max(1, math.ceil(n / columns))
    levels = np.rint((GREY_LEVELS - 1) * np.clip(np.nan_to_num(thumbnails), 0, 1)).astype(np.uint8)
    sheet = np.zeros((rows * columns, height, width), dtype=np.uint8)
    sheet[:n] = levels
    tiled = sheet.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    image = Image.fromarray(tiled, mode="P")
    image.putpalette([grey for level in range(GREY_LEVELS) for grey in [255 * level // (GREY_LEVELS - 1)] * 3])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", bits=4, optimize=True)
    png = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"png": png, "columns": columns, "width": width, "height": height}

"""A preview: the part of a tomogram that the viewer shows, restored by the library in seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge, facts_of
from napari_cryoaae.restore_request import RestoreRequest, weights_of
from napari_cryoaae.run_folder import WEIGHTS

if TYPE_CHECKING:
    from cryoaae.runs.progress import Progress

# Most voxels of a preview along the axes on the screen, and fewest across them.
EDGE, DEPTH = 192, 16

NOT_UNDONE = "; contrast transfer left as it is, to be undone in the whole"

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Preview:
    """A restored part of a tomogram.

    Parameters
    ----------
    data : (z, y, x) float32
    box : (slice, slice, slice)
        Where it lies, in voxels.
    made_with : Path, optional
        Run folder of the model, or the weights of a general one.
    wedge : StatedWedge
        That it was restored for.
    digest : str
        Of the weights.
    seconds : float
        That it took.
    lacks : str
        What the whole restoration would have beyond it.
    """

    data: NDArray[np.float32]
    box: Box
    made_with: Path | None
    wedge: StatedWedge
    digest: str
    seconds: float
    lacks: str = ""


def visible_box(viewer: Any, layer: Any, thickness: int) -> Box:
    """What the viewer shows of a layer, in its voxels: at most `EDGE` across, around the cursor if that is in sight.

    Across the screen it is a slab of `thickness`, or `DEPTH`, around the cursor.
    """
    place = [float(i) for i in layer.world_to_data(viewer.dims.point)[-3:]]
    on_screen = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed][-2:]
    corners = layer.corner_pixels[:, -3:]
    box = []
    for axis, size in enumerate(layer.data.shape):
        if axis not in on_screen:
            box.append(_span(place[axis], max(DEPTH, thickness), size))
            continue
        low, high = float(corners[0, axis]), float(corners[1, axis]) + 1  # the last voxel is still seen
        if high <= low + 1:  # no canvas says what it shows
            low, high = 0.0, float(size)
        width = min(high - low, EDGE)
        middle = place[axis] if low <= place[axis] <= high else (low + high) / 2
        box.append(_span(min(max(middle, low + width / 2), high - width / 2), width, size))
    z, y, x = box
    return z, y, x


def _span(middle: float, width: float, size: int) -> slice:
    """So many voxels around a place, moved inside an axis."""
    count = min(max(1, round(width)), size)
    start = min(max(round(middle - count / 2), 0), size - count)
    return slice(start, start + count)


class Previewer:
    """Makes previews; what a model and its tomogram have in common is measured for the first of them."""

    def __init__(self) -> None:
        self._ready: tuple[Any, tuple[Any, ...]] | None = None

    def make(self, request: RestoreRequest, box: Sequence[slice], progress: Progress) -> Preview:
        """Restore a box of what a request names; nothing is written.

        Raises
        ------
        InputError, InterruptedRunError
        """
        from cryoaae.restoration.part import restore_part

        started = time.perf_counter()
        restorer, volumes, wedge, normalisation, digest = self._opened(request, progress)
        plain = replace(request.options(), contrast_transfer=None)  # which is undone in the whole alone
        data = restore_part(
            volumes, box, restorer, wedge, options=plain, normalisation=normalisation, progress=progress
        )
        z, y, x = (slice(*s.indices(n)[:2]) for s, n in zip(box, volumes[0].shape, strict=True))
        lacks = "" if request.defocus_um is None else NOT_UNDONE
        stated, took = StatedWedge.of(wedge.facts()), time.perf_counter() - started
        return Preview(data, (z, y, x), weights_of(request.model), stated, digest, took, lacks)

    def _opened(self, request: RestoreRequest, progress: Progress) -> tuple[Any, ...]:
        key = (request.model, request.first, request.odd, request.wedge, *request.opening.values())
        weights = request.model / WEIGHTS if request.model.is_dir() else request.model
        files = (path for path in (weights, request.first, request.odd) if path is not None and path.exists())
        stamps = [path.stat().st_mtime_ns for path in files]
        if self._ready is None or self._ready[0] != (key, stamps):
            progress.start("opening", None, "")
            self._ready = ((key, stamps), _open(request, progress))
        return self._ready[1]


def preview_layer(preview: Preview, like: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """A preview as a layer that lies where it belongs, marked as what it is."""
    known = facts_of(like)
    start = tuple(s.start for s in preview.box)
    corner = like.data_to_world(start)[-3:]
    size = " x ".join(map(str, preview.data.shape))
    facts = LayerFacts(
        Role.PREVIEW, known.tomogram, None, known.voxel_size_angstrom, preview.wedge, preview.made_with,
        offset_zyx=start,
        made=f"preview of {size} voxels at {start} (z, y, x), model {preview.digest[:16]}{preview.lacks}",
    )  # fmt: skip
    look = {
        "name": f"{known.tomogram} preview", "scale": like.scale[-3:], "units": like.units[-3:],
        "translate": corner, "axis_labels": like.axis_labels[-3:], "colormap": "gray", "metadata": {KEY: facts},
    }  # fmt: skip
    return preview.data, look


def _open(request: RestoreRequest, progress: Progress) -> tuple[Any, ...]:
    """Model, volumes, wedge, normalisation of the whole, and the model's digest."""
    from cryoaae.io.project import open_tomogram
    from cryoaae.io.weights import digest
    from cryoaae.models.general import load_any
    from cryoaae.restoration.fitted_on import check_voxel_size, resolve_with_model
    from cryoaae.restoration.general import seen_by, settled
    from cryoaae.restoration.working import normalisation_of

    opening = request.opening
    restorer = load_any(request.model)
    what = request.inputs()
    (item,) = resolve_with_model(what.pop("inputs", ()), restorer, what, opening)
    progress.check()
    opened = open_tomogram(item, **opening).volumes
    progress.check()
    progress.start("measuring the density", None, "")
    name = digest(dict(restorer.state_dict()))
    restorer = settled(restorer, opened, item.wedge)  # a general one measures the tomogram
    check_voxel_size(opened[0].voxel_size_angstrom, restorer, item.name)
    volumes = seen_by(restorer, opened)
    return restorer, volumes, item.wedge, normalisation_of(volumes, restorer), name


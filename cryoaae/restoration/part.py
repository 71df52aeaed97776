"""A part of a tomogram, restored as it will be in the whole: a look at seconds' cost before hours are spent.

The part is cut with what the network sees around it, in step with the whole's working grid, and brought to the
whole's loudness. So it differs from the whole restoration only by what lies further away than `CONTEXT`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.models.restorer import Restorer
from cryoaae.patches.normalise import Normalisation
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.detail import add_detail, detail_kernel
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import from_working
from cryoaae.restoration.working import WorkingTomogram, normalisation_of
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.volume import Volume

# Working voxels around the part that the network is shown. It looks further (39 of them), but hardly heeds it: on a
# simulated tomogram the difference to the whole was 6.4, 1.7 and 1.4 % of the density with 4, 8 and 12.
CONTEXT = 12


def restore_part(
    volumes: Sequence[Volume],
    part: Sequence[slice],
    model: Restorer,
    wedge: MissingWedge,
    *,
    options: RestoreOptions | None = None,
    normalisation: Normalisation | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Restore a box of a tomogram; measured data are not put back, and no halves kept.

    Parameters
    ----------
    volumes : two halves, or a single volume
        Of the whole tomogram; only the box and what lies around it is read, if `normalisation` is given.
    part : three slices (z, y, x)
        In voxels.
    model : Restorer
    wedge : MissingWedge
        For the half turns alone.
    options : RestoreOptions, optional
    normalisation : Normalisation, optional
        Of the whole, from `normalisation_of`; default: measured now.
    progress : Progress, optional

    Returns
    -------
    (z, y, x) float32
        The box, in the units of the input.

    Raises
    ------
    InputError
        When the box is empty, or contrast transfer is to be undone: that takes the whole.
    InterruptedRunError
        When `progress` says so.
    """
    told, chosen = progress or NullProgress(), options or RestoreOptions()
    if chosen.contrast_transfer is not None:
        raise InputError("part", "contrast transfer is undone in the whole only", "leave it out for a part")
    shape, bin_ = volumes[0].shape, int(model.spec.working_bin)
    inner = [slice(*s.indices(n)[:2]) for s, n in zip(part, shape, strict=True)]
    if any(s.start >= s.stop for s in inner):
        raise InputError("part", f"no voxel of a tomogram of {shape}", "choose a place inside it")
    outer = [_with_context(s, n, bin_) for s, n in zip(inner, shape, strict=True)]
    cut = [volume.cut(*outer) for volume in volumes]

    def advance(voxels: float) -> None:
        told.check()
        told.advance(voxels)

    told.start("measuring the density", None, "")
    loudness = normalisation or normalisation_of(volumes, model)
    told.check()
    tomogram = WorkingTomogram.of(
        cut, wedge, model, options=chosen, normalisation=loudness, advance=advance
    )
    told.start("restoring a part", float(len(cut) * math.prod(tomogram.shape)), "voxels")
    estimate = tomogram.restore(tomogram.halves).numpy()
    out = np.empty(cut[0].shape, np.float32)
    from_working(estimate, out, tomogram.plan.frame, loudness, scratch=Scratch(None), check=told.check)
    kernel = detail_kernel(model.fine, bin_)
    if kernel is not None:
        add_detail(out, [], cut, kernel, check=told.check)
    told.finish()
    return out[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))]


def _with_context(inner: slice, size: int, working_bin: int) -> slice:
    """What is cut for a part: more on each side, from a voxel where a working voxel of the whole begins."""
    reach = CONTEXT * working_bin
    return slice(max(0, inner.start - reach) // working_bin * working_bin, min(size, inner.stop + reach))

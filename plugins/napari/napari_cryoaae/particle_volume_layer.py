"""A volume made of particles as a layer: in a row of its kind below everything else, centred on the slice in view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_cryoaae.contrast import sampled_limits
from napari_cryoaae.facts import KEY, LayerFacts, Role, facts_of
from napari_cryoaae.latent_volumes import ParticleVolume
from napari_cryoaae.particles import AXES

# Between two volumes, as a share of the depth of the new one.
GAP = 0.25


def add_particle_volume(viewer: Any, made: ParticleVolume, name: str, run: Path | None) -> Any:
    """Add the layer, in place of one of the same name, and zoom out so that it is seen; return it."""
    for layer in [layer for layer in viewer.layers if layer.name == name and _is_made(layer)]:
        viewer.layers.remove(layer)
    voxel = made.voxel_size_angstrom
    how = name + (f"; {made.remark}" if made.remark else "")
    facts = LayerFacts(Role.SUBTOMOGRAMS, name, made.source, voxel_size_angstrom=voxel, run=run, made=how)
    layer = viewer.add_image(
        made.data, name=name, scale=(voxel,) * 3, translate=_place(viewer, voxel * len(made.data)),
        units=("angstrom",) * 3, axis_labels=AXES, colormap="gray", contrast_limits=sampled_limits(made.data),
        metadata={KEY: facts},
    )  # fmt: skip
    viewer.reset_view()
    return layer


def _place(viewer: Any, depth: float) -> tuple[float, float, float]:
    """Where the first voxel goes, in world units."""
    layers = [layer for layer in viewer.layers if layer.ndim == 3]
    if not layers:
        return 0.0, 0.0, 0.0
    row = [_ends(layer) for layer in layers if _is_made(layer)]
    above = [_ends(layer) for layer in layers if not _is_made(layer)] or row
    left = min(low[2] for low, _ in above) if not row else max(high[2] for _, high in row) + GAP * depth
    below = min(low[1] for low, _ in row) if row else max(high[1] for _, high in above) + GAP * depth
    return float(viewer.dims.point[-3]) - depth / 2, float(below), float(left)


def _ends(layer: Any) -> tuple[Any, Any]:
    low, high = np.asarray(layer.extent.world)
    return low, high


def _is_made(layer: Any) -> bool:
    return facts_of(layer).role is Role.SUBTOMOGRAMS

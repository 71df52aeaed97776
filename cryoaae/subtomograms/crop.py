"""Cutting one particle out of a volume so that its centre lies exactly in voxel n // 2 of the box.

The nearest whole voxel is cut out with a margin, faded over the margin, and moved by the remaining fraction in
Fourier space (`physics.shift`): the noise keeps its spectrum, which cubic interpolation would low-pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.physics.shift import fourier_shift
from cryoaae.volume import Volume

# Room for the tails of the shift's kernel: for content below 0.42 cycles a voxel the box is that of the whole
# tomogram moved, to 2 %. (At Nyquist the tails go on, but there a shift has no one meaning.)
MARGIN = 8
# A fraction of a voxel below this moves nothing that could be seen.
STILL = 1e-3


def box_start(centre_zyx: NDArray[np.float64], box: int) -> NDArray[np.int64]:
    """First voxel (z, y, x) of the box whose voxel n // 2 is nearest to the centre."""
    return np.floor(np.asarray(centre_zyx) + 0.5).astype(np.int64) - box // 2


def box_fits(centre_zyx: NDArray[np.float64], box: int, shape_zyx: Sequence[int]) -> bool:
    """Whether the whole box lies in a volume."""
    start = box_start(centre_zyx, box)
    return bool((start >= 0).all() and (start + box <= np.array(shape_zyx)).all())


def cut_box(
    volumes: Sequence[Volume], centre_zyx: NDArray[np.float64], box: int, outside: float
) -> NDArray[np.float32]:
    """Cut a box (z, y, x) around a point, as the mean of volumes of one shape.

    Parameters
    ----------
    volumes : sequence of Volume
        One, or two halves.
    centre_zyx : (3,)
        In voxels; comes to lie in voxel ``box // 2``.
    box : int
        Edge in voxels.
    outside : float
        Density where there is no volume.
    """
    start = box_start(centre_zyx, box)
    fraction = np.asarray(centre_zyx) - (start + box // 2)
    if np.abs(fraction).max() < STILL:
        return _padded_block(volumes, start, box, outside)
    wide = torch.from_numpy(_padded_block(volumes, start - MARGIN, box + 2 * MARGIN, outside))
    level = wide.mean()
    moved = fourier_shift((wide - level) * _fade(box), torch.from_numpy(-fraction)) + level
    inside = slice(MARGIN, MARGIN + box)
    return np.ascontiguousarray(moved[inside, inside, inside].numpy())


def _padded_block(
    volumes: Sequence[Volume], start: NDArray[np.int64], size: int, outside: float
) -> NDArray[np.float32]:
    """Mean block that may reach out of the volumes."""
    shape = np.array(volumes[0].shape)
    low, high = np.clip(start, 0, shape), np.clip(start + size, 0, shape)
    block = np.full((size,) * 3, outside, dtype=np.float32)
    if (high > low).all():
        source = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        target = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
        block[target] = np.mean([volume.block(*source) for volume in volumes], axis=0, dtype=np.float32)
    return block


def _fade(box: int) -> torch.Tensor:
    """Window that is 1 in the box and one voxel around it, and falls to 0 over the rest of the margin."""
    edge = torch.arange(1, MARGIN, dtype=torch.float32) / MARGIN
    rise = 0.5 - 0.5 * torch.cos(torch.pi * edge)
    line = torch.cat([rise, torch.ones(box + 2), rise.flip(0)])
    return line[:, None, None] * line[None, :, None] * line[None, None, :]

"""Put the measured Fourier coefficients back, exactly, on the whole tomogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

# Spectra, frequencies in float64 and masks of the wedge, for one voxel.
BYTES_PER_VOXEL = 64


def keep_measured_bytes(shape_zyx: Sequence[int]) -> int:
    """Memory that `keep_measured` needs, in bytes."""
    return BYTES_PER_VOXEL * math.prod(shape_zyx)


def keep_measured(
    measured: NDArray[np.float32],
    estimate: NDArray[Any],
    wedge: MissingWedge,
    gain: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Measured coefficients of one volume (z, y, x), all others of the estimate.

    With a list of tilts the coefficients between the slabs count as missing and stay the network's.
    One Fourier transform of the whole volume, without padding, so that the merge is exact.

    Parameters
    ----------
    gain : callable, optional
        Of frequencies in cycles per voxel: what the estimate was multiplied with last, and the measured coefficients
        have to be as well if both are to show one contrast.
    """
    # An offset of thousands would cost the spectrum its digits; the origin is measured anyway.
    offset = np.float64(measured.mean(dtype=np.float64))
    own, other = (torch.from_numpy((a - offset).astype(np.float32)) for a in (measured, estimate))
    if gain is not None:
        own = irfft(rfft(own) * gain(radius(own.shape)), own.shape)
    merged: NDArray[np.float64] = wedge.merge(own, other).numpy() + offset
    return merged.astype(np.float32)


def keep_measured_in_place(
    target: NDArray[Any],
    volumes: Sequence[Volume],
    wedge: MissingWedge,
    gain: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Put the measured coefficients of the mean of some volumes into an output (z, y, x); `gain` as above."""
    mean = volumes[0].block(slice(None), slice(None), slice(None))
    for volume in volumes[1:]:
        mean += volume.data
    mean /= len(volumes)
    target[...] = keep_measured(mean, target, wedge, gain).astype(target.dtype)

"""Measured detail finer than the working grid: passed by a Wiener filter, never filled.

The network works where wedges can be filled. What the halves share beyond its band is real all the
same, so it is added from the input, shrunk by S / (S + N) as noise demands. The filter is radial
and compact, so tiles agree exactly, and it is blind to the band that the network restored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.patches.spectra import interpolate, kernel_response, radial_kernel
from cryoaae.patches.tiling import fast_size, read_reflected
from cryoaae.physics.fourier import soft_lowpass
from cryoaae.physics.resample import BAND_START, BAND_STOP
from cryoaae.volume import Volume

REACH, TILE = 16, 224
SHELLS = 128
# A filter that lets less than this through is not worth a pass over the tomogram.
NEGLIGIBLE = 0.02


def detail_kernel(
    fine: Tensor, working_bin: int, gain: Callable[[Tensor], Tensor] | None = None
) -> Tensor | None:
    """Kernel (k, k, k) of the Wiener filter `fine` beyond the working grid's band; None if negligible.

    Parameters
    ----------
    fine : (shells,)
        Wiener filter per shell up to Nyquist of the tomogram's grid.
    working_bin : int
        Tomogram voxels per working voxel.
    gain : callable, optional
        Of frequencies in cycles per voxel: what the detail is multiplied with besides.
    """
    freq = (torch.arange(SHELLS, dtype=torch.float64) + 0.5) / SHELLS * 0.5
    beyond = 1.0 - soft_lowpass(freq * working_bin, BAND_START, BAND_STOP)
    response = interpolate(fine.double().cpu(), freq * 2) * beyond
    if gain is not None:
        response = response * gain(freq)
    if working_bin == 1 or float(response.abs().max()) < NEGLIGIBLE:
        return None
    return radial_kernel(response, reach=REACH)


def add_detail(
    mean: NDArray[Any],
    halves: Sequence[NDArray[Any]],
    volumes: Sequence[Volume],
    kernel: Tensor,
    *,
    check: Callable[[], None],
) -> None:
    """Add the filtered detail of the inputs to their mean estimate and, where kept, to each half's."""
    sizes = [min(n, TILE) for n in mean.shape]
    # All blocks have one size, one that transforms well; a block's outer voxels, which see it wrap around, are cut off.
    box = [fast_size(n + 2 * REACH) for n in sizes]
    response = kernel_response(kernel, box)
    for corner in itertools.product(*(range(0, n, size) for n, size in zip(mean.shape, sizes, strict=True))):
        check()
        counts = [min(size, n - a) for a, n, size in zip(corner, mean.shape, sizes, strict=True)]
        core = tuple(slice(a, a + count) for a, count in zip(corner, counts, strict=True))
        inner = tuple(slice(REACH, REACH + count) for count in counts)
        around = [(a - REACH, a - REACH + n) for a, n in zip(corner, box, strict=True)]
        for index, volume in enumerate(volumes):
            block = read_reflected(volume, around)
            spectrum = torch.fft.rfftn(torch.from_numpy((block - block.mean()).astype(np.float32)))
            detail = torch.fft.irfftn(spectrum.mul_(response), s=box)[inner].numpy()
            mean[core] += (detail / len(volumes)).astype(mean.dtype)
            if halves:
                halves[index][core] += detail.astype(mean.dtype)

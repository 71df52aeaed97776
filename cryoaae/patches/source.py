"""Tomograms prepared for fitting: normalised, band-limited, ready to be sampled at any rotation.

The source grid is twice as fine as the working grid and prefiltered for cubic-spline sampling, so
that a rotated patch costs one interpolation. It lives in memory when all that is fitted together is small, else in
scratch files that are mapped and can be rebuilt at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.places import Places
from cryoaae.patches.tiling import read_reflected
from cryoaae.physics.fourier import irfft, radius, rfft, soft_lowpass
from cryoaae.physics.resample import BAND_START, BAND_STOP, fourier_resample
from cryoaae.physics.rotation import OVERSAMPLING, spline_prefilter
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

# Sources of all tomograms that are fitted together, filled ones among them.
IN_MEMORY_BYTES = 4 << 30
# Boxes kept out of fitting lie so far within what patches are taken from.
HELD_OUT_SHARE = 0.5
TILE, HALO = 96, 16  # source tiles and their margin, in working voxels


@dataclass(frozen=True)
class TomogramSource:
    """One tomogram on the source grid.

    Parameters
    ----------
    density : (c, z, y, x)
        Channels: even and odd half, or the single volume; normalised, band-limited, prefiltered.
    wedge : MissingWedge
        Its wedge in the laboratory frame.
    working_shape_zyx : tuple of int
        Size on the working grid.
    held_out : (n, 2, 3)
        Boxes kept out of fitting: first and last working voxel + 1, (z, y, x).
    noise : (shells,)
        Noise power of one channel on the working grid, per shell up to Nyquist.
    scratch : Path, optional
        Folder of its arrays, if they are not kept in memory.
    places : Places, optional
        Where patches are taken from; None: everywhere alike.
    """

    name: str
    density: Tensor
    wedge: MissingWedge
    working_shape_zyx: tuple[int, int, int]
    held_out: Tensor
    noise: Tensor
    scratch: Path | None = None
    places: Places | None = None

    @property
    def volume(self) -> float:
        """Working voxels that patches are taken from."""
        return float(math.prod(self.working_shape_zyx)) if self.places is None else self.places.volume

    @property
    def has_halves(self) -> bool:
        return self.density.shape[0] == 2


def _padded(size: int, factor: int) -> int:
    return math.ceil(size / factor) * factor


def _tiles(size: int, tile: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Core and read interval of each tile along an axis: (start, stop, read start, read stop)."""
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        yield start, stop, start - halo, stop + halo


def to_source_grid(block: Tensor, working_bin: int) -> Tensor:
    """Bring a block of tomogram voxels (z, y, x) to the source grid: band-limited and prefiltered."""
    shape = tuple(n // working_bin * OVERSAMPLING for n in block.shape)
    fine = fourier_resample(block, shape)
    k = radius(shape, device=block.device)
    window = soft_lowpass(k, BAND_START / OVERSAMPLING, BAND_STOP / OVERSAMPLING)
    # Beyond the band the prefilter is never seen; it must not blow up there.
    prefilter = spline_prefilter(shape, device=block.device)
    factor = torch.where(window > 0, window * prefilter, torch.zeros((), device=block.device))
    return irfft(rfft(fine) * factor, shape)


def source_bytes(shape_zyx: tuple[int, int, int], channels: int, working_bin: int) -> int:
    """Size of the source of a tomogram of so many voxels."""
    return 4 * channels * math.prod(_padded(n, working_bin) // working_bin * OVERSAMPLING for n in shape_zyx)


def prepare_source(
    name: str,
    volumes: list[Volume],
    wedge: MissingWedge,
    normalisation: Normalisation,
    *,
    working_bin: int,
    held_out: Tensor,
    noise: Tensor,
    scratch: Path | None = None,
) -> TomogramSource:
    """Bring the halves (or the single volume) of a tomogram to the source grid, tile by tile.

    Parameters
    ----------
    volumes : list of Volume
        Two halves or one volume, all of one shape.
    normalisation : Normalisation
        Mean and scale taken off the density; shared by the halves.
    working_bin : int
        Tomogram voxels per working voxel.
    held_out : (n, 2, 3)
        Boxes kept out of fitting, in working voxels.
    noise : (shells,)
        Noise power on the working grid, kept with the source.
    scratch : Path, optional
        Folder for a memory-mapped scratch file; None: in memory.
    """
    shape = volumes[0].shape
    z_size, y_size, x_size = (_padded(n, working_bin) // working_bin for n in shape)
    working = (z_size, y_size, x_size)
    fine = tuple(n * OVERSAMPLING for n in working)
    density = allocate((len(volumes), *fine), name, scratch)
    for channel, volume in enumerate(volumes):
        for z in _tiles(working[0], TILE, HALO):
            for y in _tiles(working[1], TILE, HALO):
                for x in _tiles(working[2], TILE, HALO):
                    read = [(t[2] * working_bin, t[3] * working_bin) for t in (z, y, x)]
                    block = normalisation.apply(read_reflected(volume, read))
                    tile = to_source_grid(torch.from_numpy(block), working_bin)
                    edge = HALO * OVERSAMPLING
                    core = tile[edge:-edge, edge:-edge, edge:-edge]
                    dz, dy, dx = (slice(t[0] * OVERSAMPLING, t[1] * OVERSAMPLING) for t in (z, y, x))
                    density[channel, dz, dy, dx] = core
    return TomogramSource(name, density, wedge, working, held_out, noise, scratch)


def allocate(shape: tuple[int, ...], name: str, scratch: Path | None) -> Tensor:
    """Uninitialised float32 array, in memory or a mapped file in `scratch`."""
    if scratch is None:
        return torch.empty(shape)
    scratch.mkdir(parents=True, exist_ok=True)
    mapped = np.lib.format.open_memmap(scratch / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
    return torch.from_numpy(mapped)


def choose_held_out(
    working_shape_zyx: tuple[int, int, int],
    fraction: float,
    *,
    generator: torch.Generator,
    edge: int = 32,
    places: Places | None = None,
) -> Tensor:
    """Draw boxes to keep out of fitting, (n, 2, 3) in working voxels.

    Boxes of about `edge` voxels (smaller where the tomogram is thin), as many as make up `fraction`
    of the volume, on a grid so that they do not overlap; at least one. With `places`, those that lie there.
    """
    if fraction <= 0:
        return torch.zeros(0, 2, 3)
    volume = math.prod(working_shape_zyx)
    side = min(edge, max(8, round((fraction * volume) ** (1 / 3))))
    sizes = [min(side, n) for n in working_shape_zyx]
    cells = [n // s for n, s in zip(working_shape_zyx, sizes, strict=True)]
    wanted = max(1, round(fraction * volume / math.prod(sizes)))
    order = torch.randperm(math.prod(cells), generator=generator)
    boxes = []
    for cell in order.tolist():
        index = np.unravel_index(cell, cells)
        slack = [n - c * s for n, c, s in zip(working_shape_zyx, cells, sizes, strict=True)]
        low = [int(i) * s + k // 2 for i, s, k in zip(index, sizes, slack, strict=True)]
        boxes.append([low, [a + s for a, s in zip(low, sizes, strict=True)]])
    found = torch.tensor(boxes, dtype=torch.float32)
    if places is None:
        return found[:wanted]
    shares = torch.tensor([places.share(box) for box in found])
    wanted = max(1, round(wanted * places.volume / volume))
    return found[torch.argsort((shares < HELD_OUT_SHARE).float(), stable=True)[:wanted]]

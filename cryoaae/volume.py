"""A 3-D density map with the facts a restoration must not lose."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Volume:
    """A density map on a regular grid.

    Parameters
    ----------
    data : array (z, y, x)
        Densities. May be a read-only memory map of any real dtype: read blocks with `block`,
        the whole with `numpy`; both give native float32.
    voxel_size_angstrom : float
        Edge of the cubic voxel.
    origin_angstrom_xyz : tuple of float
        Position of voxel (0, 0, 0), as the file states it.
    source : Path, optional
        The file it came from.
    header : mapping
        What a writer must copy to stay true to the source (nstart, labels, extended header, ...).
    """

    data: NDArray[Any]
    voxel_size_angstrom: float
    origin_angstrom_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: Path | None = None
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.data.shape
        return int(z), int(y), int(x)

    @property
    def name(self) -> str:
        return self.source.stem if self.source else "array"

    def digest(self) -> str:
        """Checksum of the densities as stored, read plane by plane: the same data, wherever the file lies."""
        crc = 0
        for plane in self.data:
            crc = zlib.crc32(np.ascontiguousarray(plane).tobytes(), crc)
        return f"{crc:08x}"

    def block(self, *slices_zyx: slice) -> NDArray[np.float32]:
        """Return a copy of a block, (z, y, x) float32, without reading the rest."""
        return np.array(self.data[slices_zyx], dtype=np.float32)

    def numpy(self) -> NDArray[np.float32]:
        """Return the whole volume as (z, y, x) float32."""
        return np.asarray(self.data, dtype=np.float32)

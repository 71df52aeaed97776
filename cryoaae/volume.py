"""A 3-D density map with the facts a restoration must not lose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

# What may be said of a tomogram: structures are brighter or darker than what surrounds them, or the data shall tell.
DENSITY_SIGN = {"auto": 0, "bright": 1, "dark": -1}


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
    contrast : int
        1 if its structures are said to be bright, -1 if dark; 0: nobody said.
    """

    data: NDArray[Any]
    voxel_size_angstrom: float
    origin_angstrom_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: Path | None = None
    header: dict[str, Any] = field(default_factory=dict)
    contrast: int = 0

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

    def cut(self, *slices_zyx: slice) -> Volume:
        """Return a part as a volume of its own, with what was said of the whole."""
        return replace(self, data=self.block(*slices_zyx), header={})

    def numpy(self) -> NDArray[np.float32]:
        """Return the whole volume as (z, y, x) float32."""
        return np.asarray(self.data, dtype=np.float32)


class _Mean:
    """Mean of arrays of one shape, made where it is read: nothing is read before, or kept."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = tuple(parts)
        self.shape, self.ndim, self.dtype = parts[0].shape, parts[0].ndim, np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        total: NDArray[np.float64] = sum(np.asarray(part[key], dtype=np.float64) for part in self.parts)  # type: ignore[assignment]
        return (total / len(self.parts)).astype(np.float32)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype)


def mean_volume(volumes: Sequence[Volume]) -> Volume:
    """Mean of volumes (z, y, x) of one grid, with the facts of the first; read as it is used."""
    return replace(volumes[0], data=cast("NDArray[Any]", _Mean([volume.data for volume in volumes])))

"""Volumes shown one after the other: as a film in the viewer, and as a series of MRC files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume, write_volume

if TYPE_CHECKING:
    from cryoaae.runs.progress import Progress


@dataclass(frozen=True)
class Film:
    """Frames of a film.

    Parameters
    ----------
    title : str
    labels : tuple of str
        What each frame shows.
    frame : callable
        Gives the volume (z, y, x) of a frame, from 0; it may be read only where it is looked at.
    voxel_size_angstrom : float, optional
    like : Path, optional
        File whose header a series of MRC files keeps.
    """

    title: str
    labels: tuple[str, ...]
    frame: Callable[[int], Any]
    voxel_size_angstrom: float | None = None
    like: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)


class WeightedVolume:
    """A weighted sum of arrays (z, y, x) of one shape, computed where it is looked at: no whole tomogram is added up.

    Parameters
    ----------
    parts : (weight, array) pairs
    """

    ndim, dtype = 3, np.dtype(np.float32)

    def __init__(self, *parts: tuple[float, NDArray[Any]]) -> None:
        self.parts = parts
        self.shape: tuple[int, ...] = parts[0][1].shape

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        pieces = (np.float32(weight) * np.asarray(data[key], np.float32) for weight, data in self.parts)
        return np.asarray(sum(pieces), np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=False)


def series_paths(target: Path, count: int) -> list[Path]:
    """Files of a series: X.mrc gives X_001.mrc, X_002.mrc, ...

    Raises
    ------
    InputError
        When one of them exists: nobody was asked whether to replace it.
    """
    suffix = target.suffix or ".mrc"
    paths = [target.with_name(f"{target.stem}_{number:03d}{suffix}") for number in range(1, count + 1)]
    for path in paths:
        if path.exists():
            raise InputError(path, "exists already", "give another name")
    return paths


def write_series(film: Film, target: Path, progress: Progress) -> list[Path]:
    """Write every frame as an MRC file; return the files.

    Raises
    ------
    InputError
    """
    paths = series_paths(target, len(film))
    like = None if film.like is None else open_volume(film.like, lenient=True, allow_constant=True)
    progress.start("writing", float(len(film)), "volume")
    for index, path in enumerate(paths):
        write_volume(
            path, np.asarray(film.frame(index), np.float32), like=like, voxel_size_angstrom=film.voxel_size_angstrom,
            label=f"{film.title}, {film.labels[index]}",
        )  # fmt: skip
        progress.advance()
        progress.check()
    progress.finish()
    return paths

"""Scratch arrays that leave nothing behind: in memory when small, else in an unnamed file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

IN_MEMORY_BYTES = 16 << 20


class Scratch:
    """Makes zero-filled arrays in a folder.

    The files have no name, so the system frees them when the process ends, killed or not.

    Parameters
    ----------
    folder : Path, optional
        Where large arrays lie. None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def array(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return a zero-filled array."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size <= IN_MEMORY_BYTES:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.truncate(size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=tuple(shape))

"""Draws as they stand on disk, and what is made from them a few planes at a time.

A draw is kept as its deviation d_k from the estimate, on the working grid, in an MRC file that is whole or not there.
Spread and modes are made from the files, so memory does not grow with the number of draws K, and a run that was
stopped ends with the same bits as one that was not:

    spread^2 = sum_k d_k^2 / K,      G = D^T D / K = V diag(l) V^T,      m_j = D v_j / sqrt(K)

with D the draws as columns. The modes m_j are orthogonal, |m_j|^2 = l_j, and the squares of all K add up to spread^2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume

FORMAT = "cryoaae draws 2"
RECORD = "draws.json"
# Within the folder: errors found in the tomogram, the draws once their spread was brought to them, and what the sampler
# said of how it fared.
ERRORS, CALIBRATED, FARED = "errors.json", "calibrated", "sampler.json"
# Planes of a draw, and numbers of all draws together, that are held at once.
PLANES, VALUES = 8, 1 << 21

Draws = Sequence[NDArray[Any]]


class DrawStore:
    """Folder with the estimate and the deviations of draws, in the network's units.

    Parameters
    ----------
    folder : Path
    made_from : dict
        All that decides what a draw is, besides its number; plain data.
    """

    def __init__(self, folder: Path, made_from: dict[str, Any]) -> None:
        self.folder = folder
        self.voxel_size_angstrom = 1.0
        self.record: dict[str, Any] = {"format": FORMAT, "made_from": made_from}

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder with draws of something else, or that is none.

        Raises
        ------
        InputError
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(self.folder, "is a file", "give another output")
        if not overwrite and self.folder.exists() and any(self.folder.iterdir()) and not self.ours():
            raise InputError(
                self.folder, "holds draws of other data, another model or other options",
                "give another output, or --overwrite",
            )  # fmt: skip

    def open(self, voxel_size_angstrom: float, *, overwrite: bool) -> None:
        """Make the folder, for volumes of a working grid; with `overwrite` what stands is removed."""
        self.voxel_size_angstrom = voxel_size_angstrom
        self.check(overwrite=overwrite)
        if overwrite:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RECORD, json.dumps(self.record, indent=1) + "\n")

    def remove(self) -> None:
        """Remove what a store writes, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        self.recalibrated("").remove()
        ours = (self.folder / name for name in ("estimate.mrc", ERRORS, FARED, RECORD))
        for path in [*self.folder.glob("draw_[0-9][0-9][0-9].mrc"), *ours]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def ours(self) -> bool:
        """Whether draws made from the same stand, or were begun."""
        try:
            return bool(json.loads((self.folder / RECORD).read_text()) == self.record)
        except (OSError, ValueError):
            return False

    def recalibrated(self, calibration: str) -> DrawStore:
        """Store of the same draws once they were calibrated, by the digest of how."""
        return DrawStore(self.folder / CALIBRATED, {**self.record["made_from"], "calibration": calibration})

    def estimate(self, make: Callable[[], Tensor]) -> Tensor:
        """The estimate, (z, y, x) on the continued working grid: made once."""
        path = self.folder / "estimate.mrc"
        if not path.exists():
            self._write(path, make())
        return torch.from_numpy(self._read(path).copy())

    def path(self, number: int) -> Path:
        return self.folder / f"draw_{number:03d}.mrc"

    def write(self, number: int, deviation: Tensor) -> None:
        self._write(self.path(number), deviation)

    def read(self, number: int) -> NDArray[Any]:
        """A draw, mapped from its file."""
        return self._read(self.path(number))

    def read_all(self, count: int) -> list[NDArray[Any]]:
        """Draws 1 to `count`."""
        return [self.read(number) for number in range(1, count + 1)]

    def _write(self, path: Path, volume: Tensor) -> None:
        voxel = self.voxel_size_angstrom
        write_volume(path, volume.numpy(), voxel_size_angstrom=voxel, label="working grid", overwrite=True)

    def _read(self, path: Path) -> NDArray[Any]:
        return open_volume(path, allow_constant=True).data


def _planes(draws: Draws) -> range:
    return range(0, draws[0].shape[0], PLANES)


def root_mean_square(draws: Draws) -> NDArray[np.float32]:
    """Spread of the draws about the estimate, (z, y, x)."""
    out = np.empty(draws[0].shape, np.float32)
    for z in _planes(draws):
        squares = sum(np.square(draw[z : z + PLANES], dtype=np.float64) for draw in draws)
        out[z : z + PLANES] = np.sqrt(squares / len(draws))
    return out


def weighted_sum(draws: Draws, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sum of the draws with weights (k,), (z, y, x)."""
    out = np.empty(draws[0].shape, np.float32)
    for z in _planes(draws):
        parts = zip(weights, draws, strict=True)
        out[z : z + PLANES] = sum(weight * draw[z : z + PLANES].astype(np.float64) for weight, draw in parts)
    return out


def principal_modes(draws: Draws) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All modes, the strongest first.

    Returns
    -------
    shares : (k,)
        Of the draws' variance.
    weights : (k, k)
        Row j makes mode j by `weighted_sum`: one standard deviation along it.
    """
    count, columns = len(draws), [draw.reshape(-1) for draw in draws]
    gram, step = np.zeros((count, count)), max(1, VALUES // count)
    for start in range(0, columns[0].size, step):
        stack = np.stack([column[start : start + step] for column in columns]).astype(np.float64)
        gram += stack @ stack.T
    values, vectors = np.linalg.eigh(gram / count)
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
    # Either sign is the mode: that in which its greatest weight is positive.
    greatest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[greatest, np.arange(count)])
    total = values.sum()
    return values / total if total > 0 else values, vectors.T / np.sqrt(count)

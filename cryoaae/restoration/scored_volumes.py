"""What is scored together: a restoration, its truth and its inputs, read as tensors of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.volume import Volume

Source = Path | str | Volume | NDArray[Any]
Block = tuple[slice, slice, slice]
VOXEL_TOLERANCE = 0.1
# Files of a simulated data set that stand beside its truth.mrc.
BESIDE_TRUTH = {
    "structure": "truth_structure.mrc",
    "background": "truth_background.mrc",
    "oracle": "noiseless.mrc",
}


@dataclass
class ScoredVolumes:
    """Everything read, as (z, y, x) float32 tensors of one shape."""

    restored: Tensor
    voxel_size_angstrom: float
    name: str
    others: dict[str, Tensor] = field(default_factory=dict)

    def get(self, key: str) -> Tensor | None:
        return self.others.get(key)

    @property
    def before(self) -> Tensor | None:
        """The input: mean of the halves, or the single tomogram."""
        even, odd = self.get("even"), self.get("odd")
        if even is not None and odd is not None:
            return (even + odd) / 2
        return self.get("single")


def read_scored(
    restored: Source,
    sources: Mapping[str, Source | None],
    halves: tuple[Source, Source] | None = None,
    *,
    voxel_size_angstrom: float | None = None,
    block_zyx: Block | None = None,
) -> ScoredVolumes:
    """Read a restoration and all that it is scored against.

    Parameters
    ----------
    restored : path, Volume or array (z, y, x)
    sources : mapping
        By name: truth, even, odd, single, structure, background, oracle. Parts of a truth that are None are
        looked for beside a file truth.mrc.
    halves : pair, optional
        Restored halves; None: X_even.mrc and X_odd.mrc beside a file X.mrc, if they are there.
    voxel_size_angstrom : float, optional
        Overrides what the files say.
    block_zyx : three slices, optional
        Part to read.

    Raises
    ------
    InputError
        A file cannot be read, shapes or voxel sizes disagree, values are not finite, or there is nothing
        to compare with.
    """
    sources = {**sources, **{k: v for k, v in _beside_truth(sources["truth"]).items() if sources[k] is None}}
    pair = halves if halves is not None else _beside_restored(restored)
    if pair is not None:
        sources |= {"restored_even": pair[0], "restored_odd": pair[1]}
    first = as_volume(restored, voxel_size_angstrom)
    name = "restored" if isinstance(restored, np.ndarray) else first.name
    read: dict[str, Tensor] = {}
    for key, source in sources.items():
        if source is None:
            continue
        volume = as_volume(source, voxel_size_angstrom)
        label = volume.source or key
        if volume.shape != first.shape:
            raise InputError(label, f"shape {volume.shape} (z, y, x), but {name} has {first.shape}")
        is_file = volume.source is not None and first.source is not None
        ratio = volume.voxel_size_angstrom / first.voxel_size_angstrom
        if is_file and abs(ratio - 1) > VOXEL_TOLERANCE:
            problem = (
                f"voxel {volume.voxel_size_angstrom:g} A, but {name} has {first.voxel_size_angstrom:g} A"
            )
            raise InputError(label, problem, "give the right one with --voxel-size")
        read[key] = _tensor(volume, block_zyx)
    volumes = ScoredVolumes(_tensor(first, block_zyx), first.voxel_size_angstrom, name, read)
    _check_purpose(volumes)
    return volumes


def as_volume(source: Source, voxel_size_angstrom: float | None) -> Volume:
    """Open a file; an array becomes a volume, of 1 angstrom unless told."""
    if isinstance(source, Volume):
        return source
    if isinstance(source, (str, Path)):
        return open_volume(source, voxel_size_angstrom=voxel_size_angstrom)
    return Volume(np.asarray(source), voxel_size_angstrom or 1.0)


def _beside_truth(truth: Source | None) -> dict[str, Source]:
    if not isinstance(truth, (str, Path)) or Path(truth).name != "truth.mrc":
        return {}
    found = {key: Path(truth).parent / name for key, name in BESIDE_TRUTH.items()}
    return {key: path for key, path in found.items() if path.exists()}


def _beside_restored(restored: Source) -> tuple[Source, Source] | None:
    if not isinstance(restored, (str, Path)):
        return None
    path = Path(restored)
    pair = [path.with_name(f"{path.stem}_{half}{path.suffix}") for half in ("even", "odd")]
    return (pair[0], pair[1]) if all(p.exists() for p in pair) else None


def _tensor(volume: Volume, block: Block | None) -> Tensor:
    return torch.from_numpy(volume.block(*(block or (slice(None),) * 3)))


def _check_purpose(volumes: ScoredVolumes) -> None:
    has_halves = {"even", "odd", "restored_even", "restored_odd"} <= volumes.others.keys()
    if "truth" not in volumes.others and not has_halves:
        raise InputError(
            volumes.name,
            "nothing to compare with",
            "give --truth, or --even and --odd with restored halves beside it (restore --halves)",
        )
    for key, tensor in [("restored", volumes.restored), *volumes.others.items()]:
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(volumes.name, f"the {key} volume holds values that are not finite")

"""A run folder of volumes that a model generates, one file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.io.mrc import write_volume
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress

VOLUMES = "volumes"


def write_series(
    folder: Path,
    config: dict[str, Any],
    names: Sequence[str],
    make: Callable[[int], NDArray[np.float32]],
    *,
    voxel_size_angstrom: float,
    unit: str = "volume",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write generated volumes as FOLDER/volumes/NAME.mrc.

    Parameters
    ----------
    folder : Path
        Run folder to make.
    config : dict
        What was asked for, as the folder records it.
    names : sequence of str
        Of the files, without ending.
    make : callable
        Volume (z, y, x) of an index into `names`; called in order.
    voxel_size_angstrom : float
    unit : str
        What progress counts.
    dry_run : bool
        Check only that the folder may be made.

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    InputError
        If the folder holds another run.
    """
    paths = [folder / VOLUMES / f"{name}.mrc" for name in names]
    if dry_run:
        RunFolder.check(folder, config, overwrite=overwrite)
        return paths
    progress = progress or NullProgress()
    with RunFolder.create(folder, "generate", config, overwrite=overwrite):
        (folder / VOLUMES).mkdir(exist_ok=True)
        progress.start("generating", float(len(paths)), unit)
        for index, path in enumerate(paths):
            write_volume(path, make(index), voxel_size_angstrom=voxel_size_angstrom, overwrite=True)
            progress.advance()
            progress.check()
        progress.finish()
    return paths

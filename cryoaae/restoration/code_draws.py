"""Patches that a volumetric autoencoder makes of nothing but its prior.

    x = A(z),    z ~ N(0, 1)

Densities are on the working grid, in units of the standard deviation of the tomogram that was fitted. No noise is
added and no wedge is cut. They look like structure as far as the codes follow their prior and the decoder knows it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights
from cryoaae.models.restorer import AUTOENCODER, FORMAT, Restorer
from cryoaae.priors.gaussian import Gaussian
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import choose_device, set_threads
from cryoaae.runs.volume_series import write_series

WEIGHTS = "model.safetensors"


def is_restorer(run: Path) -> bool:
    """Whether a run folder holds a restorer."""
    file = run / WEIGHTS
    return file.is_file() and load_weights(file)[1].get("format") == FORMAT


@torch.no_grad()
def generate_patches(
    run: Path | str,
    output: Path | str,
    *,
    count: int = 16,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write patches decoded from draws of the prior, as a series of MRC files.

    Parameters
    ----------
    run : path
        Run folder of `cryoaae fit` with an autoencoder and a latent prior.
    output : path
        Folder to make.
    count : int
        Patches to write.
    seed : int

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    InputError
        If the run is of something else.
    """
    run, folder = Path(run), Path(output)
    set_threads(threads)
    if count < 1:
        raise InputError("--count", f"{count} patches", "give 1 or more")
    restorer = Restorer.load(run).to(choose_device(device))
    if restorer.spec.network.get("kind") != AUTOENCODER:
        problem = "restores by a U-Net, beside whose skips a code alone makes nothing"
        raise InputError(run, problem, "give a run of `cryoaae fit --preset volumetric`, or of `cryoaae cluster`")
    codes = Gaussian(restorer.code_dim).sample(count, generator=torch.Generator().manual_seed(seed))

    def patch(index: int) -> NDArray[np.float32]:
        code = codes[index : index + 1].to(restorer.wiener.device)
        return np.asarray(restorer.network.decoded(code)[0].cpu().numpy(), np.float32)

    return write_series(
        folder, {"run": str(run), "count": count, "seed": seed}, [f"patch_{i + 1:03d}" for i in range(count)], patch,
        voxel_size_angstrom=restorer.spec.working_bin * restorer.spec.voxel_size_angstrom, unit="patch",
        overwrite=overwrite, dry_run=dry_run, progress=progress,
    )  # fmt: skip

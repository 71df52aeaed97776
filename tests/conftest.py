"""Shared by all tests: tiny tomograms, and settings small enough for them."""

from __future__ import annotations

import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge

# Small enough for a test, large enough to learn something.
TINY = [
    "start=spectrum", "patch_size=16", "block_size=36", "blocks=2", "widths=[4,8]", "working_bin=1", "batch_size=1",
    "warm_up_steps=2", "evaluations=4", "checkpoint_every_seconds=0", "preview_every_seconds=1000",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, visibly, what needs data or a device that is not here."""
    missing = {
        "data": None if os.environ.get("CRYOAAE_DATA") else "CRYOAAE_DATA names no folder of public data",
        "gpu": None if torch.cuda.is_available() else "no GPU here",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def write_mrc(path: Path, data: np.ndarray, voxel_size_angstrom: float = 10.0) -> Path:
    with mrcfile.new(path, data.astype(np.float32), overwrite=True) as file:
        file.voxel_size = voxel_size_angstrom
        file.set_volume()
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with t_EVN.mrc, t_ODD.mrc and t.tlt: blobs through a wedge, offset 100, 44 x 48 x 46 voxels."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = torch.Generator().manual_seed(0)
    shape = (44, 48, 46)
    field = band_limit(torch.randn(shape, generator=generator), 0.08, 0.12)
    signal = (field / field.std() - 1.2).clamp(min=0) * 6
    for half in ("EVN", "ODD"):
        noisy = MissingWedge((-60.0, 60.0)).measured(signal + torch.randn(shape, generator=generator))
        write_mrc(folder / f"t_{half}.mrc", noisy.numpy() * 3 + 100)
    (folder / "t.tlt").write_text("".join(f"{t}.0\n" for t in range(-60, 61, 3)))
    return folder


@pytest.fixture(scope="session")
def tiny_settings() -> list[str]:
    """Options of `cryoaae fit` for a tiny tomogram."""
    return [word for setting in TINY for word in ("--set", setting)]

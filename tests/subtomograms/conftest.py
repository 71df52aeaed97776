"""Stores of made particles: two shapes at random poses through a wedge, with noise of the tests' own making."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoaae.io.store import ParticleFacts, StoreWriter, wedge_table
from cryoaae.physics.wedge import MissingWedge

VOXEL = 12.0


def blobs(shape: int, box: int, turn: np.ndarray) -> np.ndarray:
    """A ball (0) or a bent rod (1) of Gaussian blobs, turned by a matrix on (z, y, x), drawn where it is."""
    ball = np.zeros((1, 3))
    rod = np.array([[z, 0.0, 0.15 * abs(z)] for z in np.linspace(-0.3, 0.3, 7)]) * box
    points = (ball if shape == 0 else rod) @ turn.T + box // 2
    width = 0.14 * box if shape == 0 else 0.07 * box
    grid = np.stack(np.indices((box,) * 3), axis=-1)
    return sum(np.exp(-((grid - p) ** 2).sum(axis=-1) / 2 / width**2) for p in points)


def write_store(
    path: Path,
    volumes: Sequence[np.ndarray],
    *,
    classes: Sequence[str],
    turns: np.ndarray,
    wedges: Sequence[MissingWedge],
    half_sets: Sequence[int] | None = None,
) -> Path:
    """A store as `extract` writes it; its particle list has a column that nobody knows."""
    n = len(volumes)
    labels = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnTomoName", "rlnOpticsGroup", "myColumn"]
    rows = [f"{10 * i}.5 20.0 30.0 TS_01 1 kept{i}" for i in range(n)]
    optics = ["data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnImagePixelSize #2", f"1 {VOXEL}", "", ""]
    head = ["data_particles", "", "loop_", *(f"_{label} #{i + 1}" for i, label in enumerate(labels))]
    star = "\n".join([*optics, *head, *rows]) + "\n"
    distinct, index = wedge_table(wedges)
    half = np.zeros(n, np.int64) if half_sets is None else np.asarray(half_sets)
    facts = ParticleFacts(
        ("TS_01",) * n, tuple(classes), np.zeros((n, 3)), turns, half, np.arange(n), distinct, index
    )
    about = {"box": len(volumes[0]), "voxel_size_angstrom": VOXEL, "coordinates": "auto", "provenance": {}}
    with StoreWriter(path, facts, about, ("p.star", star.encode()), resume=False) as writer:
        for i, volume in enumerate(volumes):
            writer.write(i, volume.astype(np.float32))
        writer.finish()
    return path


def make_store(path: Path, each: int, *, box: int = 16, noise: float = 1.0, seed: int = 0) -> Path:
    """`each` balls and rods in turn, SNR 1 / noise^2 over the box, through a wedge of +-60 degrees."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(2 * each, rng=rng).as_matrix()
    wedge, volumes = MissingWedge((-60.0, 60.0)), []
    for i in range(2 * each):
        signal = blobs(i % 2, box, turns[i])
        grains = noise * rng.normal(size=signal.shape)
        volumes.append(wedge.measured(torch.from_numpy(signal / signal.std() + grains).float()).numpy() + 3.0)
    classes = [("ball", "rod")[i % 2] for i in range(2 * each)]
    return write_store(path, volumes, classes=classes, turns=turns, wedges=[wedge] * (2 * each))


@pytest.fixture(scope="session")
def store_maker():
    """`make_store`, for tests that want a store of their own."""
    return make_store


@pytest.fixture(scope="session")
def store_writer():
    """`write_store`, for tests that want volumes of their own."""
    return write_store


@pytest.fixture(scope="session")
def shapes_store(tmp_path_factory) -> Path:
    """48 balls and 48 rods, box 16, SNR 1."""
    return make_store(tmp_path_factory.mktemp("stores") / "shapes.h5", 48)


# Small enough for a test: two widths, few steps. Of six seeds all find the two shapes (ARI 0.96 or 1).
TINY = {
    "widths": (8, 16), "units": 48, "classes": 4, "style_dim": 4, "batch_size": 16, "steps": 60, "minutes": None,
    "warm_up_steps": 5, "evaluations": 3, "learning_rate": 2e-3, "checkpoint_every_seconds": 60.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> dict[str, object]:
    """Settings of a fit that takes seconds."""
    return TINY


@pytest.fixture(scope="session")
def shapes_run(tmp_path_factory, shapes_store) -> Path:
    """A run folder of `cluster` by the autoencoder on the balls and rods, without labels."""
    from cryoaae.subtomograms.cluster import cluster
    from cryoaae.subtomograms.settings import ClusterSettings

    folder, settings = tmp_path_factory.mktemp("runs") / "run", ClusterSettings(**TINY)
    return cluster(shapes_store, folder, by="autoencoder", clusters=2, settings=settings)

"""The clustering benchmark: every method of its registry, its scores, its rows and its table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cryoaae.io.mrc import write_volume
from cryoaae.io.store import SubtomogramStore
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.from_simulation import simulate_store

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_clustering.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_clustering", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_clustering"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BENCHMARK = script()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SubtomogramStore:
    """A ball and a rod: what any method must tell apart, but for one that sees particles only as they lie."""
    folder, (z, y, x) = tmp_path_factory.mktemp("maps"), np.indices((19, 19, 19)) - 9
    shapes = {"ball": z**2 + y**2 + x**2, "rod": (z / 4) ** 2 + y**2 + x**2}
    for name, distance2 in shapes.items():
        density = np.exp(-distance2 / (8 if name == "ball" else 3)).astype(np.float32)
        write_volume(folder / f"{name}.mrc", density, voxel_size_angstrom=12.0)
    settings = ImagingSettings(
        box=24, voxel_size_angstrom=12.0, tilt_step_deg=8.0, snr=0.5, shift_voxels=1.0, defocus_range_um=(3.0, 4.0)
    )
    paths = [folder / f"{name}.mrc" for name in shapes]
    return SubtomogramStore(simulate_store(folder / "s.h5", maps=paths, counts=[10], settings=settings, seed=0))


@pytest.mark.parametrize("name", BENCHMARK.METHODS)
def test_every_method_clusters_the_particles_of_a_store(name: str, store: SubtomogramStore) -> None:
    clusters = BENCHMARK.METHODS[name].cluster(store, 2, 1)
    assert clusters.shape == (20,)
    assert clusters.dtype == torch.int64
    assert set(clusters.tolist()) <= {0, 1}
    found = BENCHMARK.score(clusters, store)
    assert found["purity"] >= (0.5 if name == "voxels" else 0.9)


def test_lost_classes_are_the_largest_in_no_cluster() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert BENCHMARK.lost_classes(torch.tensor([0, 0, 0, 1, 1, 1]), labels) == [2]
    assert BENCHMARK.lost_classes(labels, labels) == []
    assert BENCHMARK.lost_classes(torch.tensor([4, 4, 4, 4, 4, 4]), labels) == [1, 2]


def test_the_rare_class_makes_up_two_per_cent() -> None:
    counts = BENCHMARK.SETS["rare"].counts(150)
    assert min(counts) / sum(counts) == pytest.approx(0.02, abs=0.001)
    assert BENCHMARK.SETS["snr0.1"].counts(150) == [150] * 8


def row(method: str, seed: int, ari: float) -> dict[str, object]:
    return {
        "set": "snr0.1", "method": method, "seed": seed, "count": 150, "ari": ari, "ari_distinct": ari, "nmi": 0.5,
        "purity": 0.5, "lost": ["1f4a"], "cpu_seconds": 90.0, "memory_gb": 1.0,
    }  # fmt: skip


def test_rows_are_appended_once_and_the_table_is_made_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BENCHMARK, "ROWS", tmp_path / "clustering.json")
    asked = []

    def measure(name: str, method: str, seed: int, maps: Path, count: int) -> dict[str, object]:
        asked.append(method)
        return row(method, seed, 0.25)

    monkeypatch.setattr(BENCHMARK, "measure", measure)
    for _ in range(2):
        BENCHMARK.run_missing("snr0.1", 0, ["size", "voxels"], tmp_path, 150)
    assert asked == ["size", "voxels"]
    rows = json.loads((tmp_path / "clustering.json").read_text())
    text = BENCHMARK.table([*rows, row("size", 1, 0.35)])
    assert "K-means | 2 | 0.300 ± 0.071 | 0.300 | 0.500 | 0.500 | 1.0 | 1.5 | 1.0 |" in text
    assert "## SNR 0.1, 150 a class" in text


def test_the_committed_table_is_that_of_the_committed_rows() -> None:
    if not BENCHMARK.ROWS.exists():
        pytest.skip("no rows of the full benchmark yet")
    assert BENCHMARK.TABLE.read_text() == BENCHMARK.table(BENCHMARK.read_rows())

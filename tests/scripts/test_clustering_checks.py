"""What the checks of the clustering measure: probes, correlations in any pose, and the table."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoaae.io.store import SubtomogramStore
from cryoaae.physics.wedge import MissingWedge

CHECKS, RIBOSOMES, PARTICLES = (
    importlib.import_module(f"benchmark_{name}") for name in ("clustering_checks", "ribosomes", "particles")
)


def spots(turn: np.ndarray, shift: tuple[float, ...] = (0.0, 0.0, 0.0), *, mirrored: bool = False) -> torch.Tensor:
    """Five spots without a symmetry, in the box of the checks."""
    places = np.array([[0, 0, 8.0], [0, 6, -3], [5, -4, -2], [-8, 0, 1], [3, 3, 3]]) * ([-1, 1, 1] if mirrored else 1)
    grid = np.stack(np.indices((CHECKS.BOX,) * 3), axis=-1) - CHECKS.BOX // 2
    return torch.from_numpy(
        sum(np.exp(-((grid - turn @ p - shift) ** 2).sum(axis=-1) / 8) for p in places)
    ).float()  # fmt: skip


def test_a_volume_is_found_in_any_pose_and_its_mirror_image_is_not() -> None:
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    seen = torch.stack([spots(np.eye(3)), spots(turn, (1.0, -1.0, 0.0))])
    hands = torch.stack([spots(np.eye(3)), spots(np.eye(3), mirrored=True)])
    found = CHECKS.best_correlations(CHECKS.whole(seen), hands)
    assert found[:, 0].min() > 0.85
    assert found[:, 1].max() < found[:, 0].min() - 0.05


def test_a_code_that_holds_the_pose_is_found_out_and_a_class_is_not() -> None:
    rotations = torch.from_numpy(Rotation.random(300, rng=np.random.default_rng(0)).as_matrix()).float()
    held = CHECKS.probed(rotations.flatten(1), rotations, 0)
    classes = torch.nn.functional.one_hot(torch.arange(300) % 4).float()
    free = CHECKS.probed(classes, rotations, 0)

    def errors(probe: dict[str, float]) -> float:
        return (probe["accuracy"] - probe["null"]) / probe["null_std"]

    assert errors(held["each"]["pose, linear"]) > 10
    assert errors(held["each"]["wedge, knn"]) > 5
    assert held["largest"] > held["largest_null"] + 5 * held["largest_null_std"]
    assert free["largest"] < free["largest_null"] + CHECKS.MOST_ERRORS * free["largest_null_std"]
    # The best of four probes lies above its own chance by chance.
    assert free["largest_null"] > 0.5


@pytest.mark.parametrize("module", [CHECKS, RIBOSOMES, PARTICLES], ids=lambda module: module.__name__)
def test_the_committed_table_is_that_of_the_committed_rows(module: ModuleType) -> None:
    if not module.ROWS.exists():
        pytest.skip("no rows yet")
    rows = module.read_rows(module.ROWS)
    assert module.TABLE.read_text() == module.table(rows[-1] if module is RIBOSOMES else rows)


def test_the_wedge_of_views_is_that_of_the_turned_tilt_series() -> None:
    from cryoaae.io.euler import relion_from_rotation

    turn, tilts = Rotation.random(rng=np.random.default_rng(4)).as_matrix(), np.arange(-54.0, 57.0, 6.0)
    # A view at tilt t looks along (sin t, 0, cos t) in x, y, z of the tomogram.
    views = [Rotation.from_euler("y", tilt, degrees=True).as_matrix()[::-1, ::-1] for tilt in tilts]
    angles = relion_from_rotation(np.stack([(turn @ view).T for view in views]))
    # The order of a dose-symmetric series: the first image is the one without a tilt.
    order = np.argsort(np.abs(tilts), kind="stable")
    found = RIBOSOMES.wedge_of_views(angles[order]).support((24,) * 3)
    expected = MissingWedge.from_tilts(tilts.tolist()).rotated(torch.from_numpy(turn).float()).support((24,) * 3)
    assert float((found == expected).double().mean()) > 0.98


def test_phases_drawn_anew_leave_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RIBOSOMES, "RUNS", tmp_path)
    volume, wedge = np.random.default_rng(7).normal(size=(RIBOSOMES.BOX,) * 3), MissingWedge((-60.0, 60.0))
    RIBOSOMES.write_store(tmp_path / "a.h5", [volume, volume + 1], [wedge] * 2, "a")
    with SubtomogramStore(RIBOSOMES.phases_anew(tmp_path / "a.h5", 0)) as store:
        assert np.abs(np.fft.rfftn(store.volume(0))) == pytest.approx(np.abs(np.fft.rfftn(volume)), rel=1e-3, abs=1e-2)
        assert abs(np.corrcoef(store.volume(0).ravel(), volume.ravel())[0, 1]) < 0.1
        assert store.facts.wedges[0] == wedge

"""Scenes: simulated tomograms in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.scenes import TILT_END_DEG, VOXEL_ANGSTROM, Scene, draw_scene, draw_tilts


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(np.random.default_rng(3), [], 48)


def correlation(a: np.ndarray, b: np.ndarray, mask: torch.Tensor) -> float:
    x, y = (rfft(torch.from_numpy(v - v.mean()))[mask] for v in (a, b))
    return float((x * y.conj()).real.sum() / (x.abs().square().sum() * y.abs().square().sum()).sqrt())


def test_signal_is_the_truth_where_the_tilts_measured_it_and_little_else(scene: Scene) -> None:
    box = scene.truth.shape
    low = (radius(box) > 0.03) & (radius(box) < 0.15)
    wedge = MissingWedge(scene.tilt_range_deg)
    seen, missing = wedge.support(box, margin=1.0) & low, (wedge.depth(box) > 2) & low
    assert correlation(scene.signal, scene.truth, seen) > 0.85
    power = rfft(torch.from_numpy(scene.signal)).abs().square()
    assert float(power[missing].mean()) < 0.05 * float(power[seen].mean())


def test_noises_are_of_one_loudness_and_of_their_own(scene: Scene) -> None:
    everything = torch.ones_like(radius(scene.truth.shape), dtype=torch.bool)
    assert np.isclose(scene.even.std(), scene.odd.std(), rtol=0.1)
    for a, b in (("even", "odd"), ("even", "signal"), ("odd", "truth")):
        assert abs(correlation(getattr(scene, a), getattr(scene, b), everything)) < 0.1, (a, b)


def test_tilts_are_within_what_is_promised() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        (low, high), step = draw_tilts(rng)
        for end in (-low, high):
            assert TILT_END_DEG[0] - step / 2 <= end <= TILT_END_DEG[1] + step / 2
        assert low / step == round(low / step)


def test_a_file_gives_the_scene_back(scene: Scene, tmp_path: Path) -> None:
    scene.save(tmp_path / "s.npz")
    found = Scene.load(tmp_path / "s.npz")
    assert np.allclose(found.truth, scene.truth, atol=2e-3 * np.abs(scene.truth).max())
    assert VOXEL_ANGSTROM[0] <= found.voxel_size_angstrom == scene.voxel_size_angstrom <= VOXEL_ANGSTROM[1]
    assert (found.tilt_range_deg, found.tilt_step_deg) == (scene.tilt_range_deg, scene.tilt_step_deg)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"no scene"])
def test_a_damaged_file_is_named(scene: Scene, tmp_path: Path, damage: object) -> None:
    path = tmp_path / "s.npz"
    scene.save(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(InputError, match=r"s\.npz"):
        Scene.load(path)

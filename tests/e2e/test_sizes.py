"""Row 46: tomograms smaller than a patch, odd, flat, no multiple of anything."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoaae.cli import run

SIZES = [(9, 12, 10), (7, 64, 50), (17, 31, 53), (41, 16, 23)]


@pytest.fixture(scope="module")
def model(tiny: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes") / "run"
    halves = ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc"), "--tilts", str(tiny / "t.tlt")]
    assert run(["fit", *halves, "-o", str(folder), "--steps", "3", *tiny_settings, "-q"]) == 0
    return folder


def write_halves(folder: Path, shape: tuple[int, int, int]) -> tuple[list[str], np.ndarray]:
    """Write two halves of blobs in noise; return their options and their mean."""
    draw = np.random.default_rng(3)
    signal = gaussian_filter(draw.normal(size=shape), 1.5)
    signal *= 2 / signal.std()
    halves, words = [], []
    for option, name in (("--even", "s_EVN.mrc"), ("--odd", "s_ODD.mrc")):
        halves.append(((signal + draw.normal(size=shape)) * 3 + 100).astype(np.float32))
        with mrcfile.new(folder / name, halves[-1]) as file:
            file.voxel_size = 10.0
        words += [option, str(folder / name)]
    return [*words, "--tilt-range", "-60", "60"], (halves[0] + halves[1]) / 2


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("extra", [[], ["--keep-measured"]], ids=["", "keep"])
def test_restored_at_the_size_and_in_the_units_of_the_input(shape, extra, model, tmp_path) -> None:
    options, mean = write_halves(tmp_path, shape)
    out = tmp_path / "out.mrc"
    assert run(["restore", *options, "--model", str(model), "-o", str(out), "-q", *extra]) == 0
    with mrcfile.open(out) as file:
        restored = file.data.astype(np.float64)
    assert restored.shape == shape
    assert abs(restored.mean() - mean.mean()) < 0.1 * mean.std()
    # A shift by one voxel, or a face that is not there, would cost more than the noise does.
    assert np.corrcoef(restored.ravel(), mean.ravel())[0, 1] > 0.8
    for face in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]):
        assert np.corrcoef(restored[face].ravel(), mean[face].ravel())[0, 1] > 0.5


@pytest.mark.parametrize("shape", SIZES[:3], ids=str)
def test_fitted_on_a_tomogram_smaller_than_a_block(shape, tiny_settings, tmp_path) -> None:
    options, _ = write_halves(tmp_path, shape)
    folder = tmp_path / "run"
    assert run(["fit", *options, "-o", str(folder), "--steps", "2", *tiny_settings, "-q"]) == 0
    assert run(["restore", *options, "--model", str(folder), "-o", str(tmp_path / "out.mrc"), "-q"]) == 0
